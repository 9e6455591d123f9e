"""Running statistics, and how a training step carries them through a model without hidden state."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thalweg.errors import UserError, kind_of
from thalweg.types import Key, PyTree, Untrained

AnyModel = TypeVar("AnyModel")


class RunningStatistics(Untrained):
    """Mean and variance of each feature, averaged over the batches seen; no optimizer touches them.

    Args:
        size: number of features.
        dtype: of mean and variance.

    >>> RunningStatistics(2).variance
    Array([1., 1.], dtype=float32)
    """

    mean: jax.Array  # (size,)
    variance: jax.Array  # (size,), unbiased
    count: jax.Array  # (), int32: batches seen

    def __init__(self, size: int, *, dtype: DTypeLike = jnp.float32):
        self.mean = jnp.zeros(size, dtype)
        self.variance = jnp.ones(size, dtype)
        self.count = jnp.zeros((), jnp.int32)

    def update(self, mean: jax.Array, variance: jax.Array, *, momentum: float) -> "RunningStatistics":
        """The statistics after one more batch.

        The weight of the new batch is max(1 - momentum, 1/(count + 1)): a plain average until 1/(1 - momentum) batches
        are in, then an exponential one. So the starting values leave no trace, which PyTorch's do.

        Args:
            mean, variance: of the batch, each (size,); no gradient flows through the result.
            momentum: weight that the past keeps, in [0, 1] (PyTorch's `momentum` is one minus this).
        """
        dtype = self.mean.dtype
        weight = jnp.maximum(1 - momentum, 1 / (self.count + 1).astype(dtype))

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            return old + weight * (jax.lax.stop_gradient(new).astype(dtype) - old)

        new = (average(self.mean, mean), average(self.variance, variance), self.count + 1)
        return eqx.tree_at(lambda s: (s.mean, s.variance, s.count), self, new)


class FixedStatistics(Untrained):
    """Mean and variance of each feature that training uses, too, in place of the batch's, and never moves.

    Made of a layer's `RunningStatistics` by `frozen_statistics`.

    Args:
        statistics: what they were.

    >>> FixedStatistics(RunningStatistics(2)).mean
    Array([0., 0.], dtype=float32)
    """

    mean: jax.Array  # (size,)
    variance: jax.Array  # (size,), unbiased
    count: jax.Array  # (), int32: batches that had been seen

    def __init__(self, statistics: RunningStatistics):
        self.mean, self.variance, self.count = statistics.mean, statistics.variance, statistics.count


def frozen_statistics(model: AnyModel, select: Callable[[AnyModel], Any] | None = None) -> AnyModel:
    """The model with its batch normalization fixed: training normalizes by the running statistics as they are.

    For fine-tuning on few examples, whose batches would give poor statistics. Examples no longer depend on each other
    there, so a term on a model that is fixed throughout is no longer coupled. Weights and biases of the layers are
    trained or not as the phase's `where` says.

    Args:
        model: any pytree.
        select: model -> a node of it, or a sequence of nodes, to be fixed; None: all.
    Raises:
        UserError: no running statistics are there, or not the part that is selected.

    >>> has_running_statistics(frozen_statistics({"norm": RunningStatistics(2)}))
    False
    """
    return _replaced(model, select, RunningStatistics, FixedStatistics)


def moving_statistics(model: AnyModel, select: Callable[[AnyModel], Any] | None = None) -> AnyModel:
    """The inverse of `frozen_statistics`: training normalizes by the batch again, and moves the statistics.

    Args:
        model, select: as `frozen_statistics`.
    Raises:
        UserError: no fixed statistics are there, or not the part that is selected.

    >>> frozen = frozen_statistics({"norm": RunningStatistics(2)})
    >>> has_running_statistics(moving_statistics(frozen))
    True
    """

    def moving(fixed: FixedStatistics) -> RunningStatistics:
        fresh = RunningStatistics(1)
        values = (fixed.mean, fixed.variance, fixed.count)
        return eqx.tree_at(lambda s: (s.mean, s.variance, s.count), fresh, values)

    return _replaced(model, select, FixedStatistics, moving)


def _replaced(model: AnyModel, select: Callable[[AnyModel], Any] | None, kind: type, new: Callable[[Any], Any]) -> Any:
    is_one = lambda node: isinstance(node, kind)
    replace = lambda tree: jax.tree.map(lambda node: new(node) if is_one(node) else node, tree, is_leaf=is_one)
    chosen = model if select is None else _selected(model, select)
    if not any(map(is_one, jax.tree.leaves(chosen, is_leaf=is_one))):
        where = type(model).__name__ if select is None else "what is selected"
        raise UserError(f"there are no {kind.__name__} to replace", where=where)
    return replace(model) if select is None else eqx.tree_at(select, model, replace(chosen))


def _selected(model: AnyModel, select: Callable[[AnyModel], Any]) -> Any:
    if not callable(select):
        raise UserError(
            f"what is selected is said by a function of the model, not {kind_of(select)}",
            where="select=…",
            remedy="lambda m: m.body, for instance.",
        )
    try:
        return select(model)
    except (AttributeError, LookupError, TypeError) as error:
        raise UserError(f"the model has no part that is selected: {error}", where="select=…") from error


def has_running_statistics(model: PyTree) -> bool:
    """Whether any layer of the model carries running statistics, so that its examples depend on each other in training.

    >>> has_running_statistics([RunningStatistics(3)]), has_running_statistics([jnp.ones(3)])
    (True, False)
    """
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, RunningStatistics))
    return any(isinstance(node, RunningStatistics) for node in nodes)


def training_call(model: AnyModel, x: PyTree, *, key: Key | None, axis_name: Hashable) -> tuple[PyTree, AnyModel]:
    """One example through a model as in training: the output, and the model with updated running statistics.

    To be called under `jax.vmap(..., axis_name=axis_name, out_axes=(0, None))`: batch statistics are means over that
    axis, hence over the whole batch, sharded or not. A model that has a method `training_call` of this signature is
    called by it; any other is called as `model(x, key=key)` and comes back unchanged.

    Args:
        model: a model for one example.
        x: the example.
        key: for dropout; None switches dropout off.
        axis_name: the mapped axis, or a tuple of them: under `jax.shard_map` both the mapped and the sharded one. (JAX
            0.10 can reduce over a mapped axis inside `shard_map` only with `check_vma=False`.)
    Raises:
        UserError: the model has running statistics below a class without a `training_call`, where they would be
            neither used nor updated.

    >>> y, same = training_call(eqx.nn.Identity(), jnp.ones(3), key=None, axis_name="batch")
    >>> y
    Array([1., 1., 1.], dtype=float32)
    """
    method: Callable[..., tuple[PyTree, Any]] | None = getattr(model, "training_call", None)
    if method is not None:
        return method(x, key=key, axis_name=axis_name)
    if has_running_statistics(model):
        name = type(model).__name__
        raise UserError(
            f"{name} holds running statistics, but has no method training_call to update them",
            where=name,
            remedy="Build it of nn.Sequential and nn.Residual, or give it "
            "training_call(x, *, key, axis_name) -> (y, self with its children's updated copies).",
        )
    if not callable(model):
        raise UserError(f"a model that cannot be called: {type(model).__name__}")
    return model(x, key=key), model

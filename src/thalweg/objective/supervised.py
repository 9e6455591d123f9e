"""Data terms: a model's output against a target."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.losses import AbstractLoss
from thalweg.losses.loss import on_host
from thalweg.nn import has_running_statistics, training_call
from thalweg.objective.partition import running_statistics
from thalweg.objective.precision import cast
from thalweg.objective.sources import AbstractSource, Examples, Rows
from thalweg.objective.term import AbstractTerm, map_examples, weighted_mean
from thalweg.types import Finding, Key, PyTree, Scalar

AXIS = "batch"

SPREAD_EXAMPLES = 256
"""Examples enough to see whether a model answers them all alike."""


class AbstractSupervised(AbstractTerm):
    """What is common to terms on pairs (x, y) of examples.

    Attributes:
        source: of pairs.
        loss_function: of one example, or of a whole batch.
        weight: the term's weight.
    """

    source: eqx.AbstractVar[AbstractSource]
    loss_function: eqx.AbstractVar[Callable[[PyTree, PyTree], Scalar]]
    weight: eqx.AbstractVar[float | jax.Array]

    def inputs(self, values: PyTree) -> PyTree:
        return values[0]

    def outputs(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[PyTree, PyTree]:
        """The outputs of a whole batch (B, …), and the model's running statistics after it (None: unchanged)."""
        if key is None or not has_running_statistics(model):
            return map_examples(lambda example, k: model(example[0], key=k), examples, key), None

        def one(example: PyTree, k: Key) -> tuple[PyTree, PyTree]:
            output, after = training_call(model, example[0], key=k, axis_name=AXIS)
            return output, running_statistics(after)

        keys = jax.random.split(key, examples.size)
        return jax.vmap(one, axis_name=AXIS, out_axes=(0, None))(examples.values, keys)

    def findings(self, model: PyTree, seen: Examples | None, name: str) -> tuple[Finding, ...]:
        """What the model itself has to say of its answers, such as a solver that gave up."""
        examples = self.source.few(SPREAD_EXAMPLES)
        if examples is None or not callable(getattr(model, "findings", None)):
            return ()
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
        x, _ = cast(examples.values, dtypes[0]) if dtypes else examples.values
        return tuple(model.findings(x))

    def spread(self, model: PyTree) -> float | None:
        examples = self.source.few(SPREAD_EXAMPLES)
        if examples is None or examples.size < 2:
            return None
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
        x, y = cast(examples.values, dtypes[0]) if dtypes else examples.values
        if not all(_differs(tree) for tree in (x, y)):  # like inputs have like outputs, and there is no fault in it
            return None
        outputs = jax.tree.leaves(_outputs(model, x))
        relative = [np.std(leaf, axis=0).max() / max(np.abs(leaf).max(), 1e-30) for leaf in map(np.asarray, outputs)]
        return float(max(relative))


class Supervised(AbstractSupervised):
    """Mean loss of `model(x)` against `y`.

    Args:
        x: inputs, a pytree of arrays with one leading axis of n examples; or a source of pairs (x, y).
        y: targets, n rows; None if `x` is a source.
        loss: (output, target) -> scalar for one example (see `thalweg.losses`). If it also has a `residual`, the term
            is a least-squares term and Gauss-Newton methods take it. One of thalweg's own first looks through `y`, and
            refuses what it cannot take (a negative count, NaN), naming the row.
        weight: the term's weight.
        weights: one weight an example, shape (n,), for sample and class weights.
        batch_size: examples a step; None for all.

    >>> import jax.numpy as jnp
    >>> from thalweg.losses import squared_error
    >>> Supervised(jnp.ones((4, 2)), jnp.zeros((4, 1)), loss=squared_error).source.population
    4
    """

    source: AbstractSource
    loss_function: Callable[[PyTree, PyTree], Scalar]
    weight: float | jax.Array

    def __init__(
        self,
        x: PyTree,
        y: PyTree = None,
        *,
        loss: Callable[[PyTree, PyTree], Scalar],
        weight: float | jax.Array = 1.0,
        weights: Any = None,
        batch_size: int | None = None,
    ):
        self.source = _pairs(x, y, loss, "Supervised(source, …)", weights=weights, batch_size=batch_size)
        self.loss_function = loss
        self.weight = weight

    def provides(self, part: str) -> bool:
        if part == "residual":
            return hasattr(self.loss_function, "residual")
        return part in ("output", "loss_of_output")

    def check_model(self, model: PyTree) -> None:
        """Let the loss look at all targets once more, now that the shape of the model's output is known."""
        loss, held, one = self.loss_function, self.source.held, self.source.few(1)
        if not isinstance(loss, AbstractLoss) or one is None or not (isinstance(held, tuple) and len(held) == 2):
            return
        if type(loss).check_outputs is AbstractLoss.check_outputs:  # pyright: ignore[reportFunctionMemberAccess]
            return
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
        one = cast(one, dtypes[0]) if dtypes else one
        # with a key, for a model may have no answer without
        output, _ = eqx.filter_eval_shape(self.outputs, model, one, jax.random.key(0))
        loss.check_outputs(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), output), held[1])

    def is_coupled(self, model: PyTree) -> bool:
        return has_running_statistics(model)

    def output(self, model: PyTree, example: PyTree, key: Key | None) -> PyTree:
        return model(example[0], key=key)

    def loss_of_output(self, output: PyTree, example: PyTree) -> Scalar:
        return self.loss_function(output, example[1])

    def residual(self, model: PyTree, example: PyTree, key: Key | None) -> jax.Array:
        residual: Callable[[PyTree, PyTree], jax.Array] = self.loss_function.residual  # pyright: ignore[reportFunctionMemberAccess]
        return residual(self.output(model, example, key), example[1])

    def batch_loss(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[Scalar, PyTree]:
        outputs, state = self.outputs(model, examples, key)
        return weighted_mean(jax.vmap(self.loss_of_output)(outputs, examples.values), examples.weights), state


class SupervisedBatch(AbstractSupervised):
    """A loss of all outputs of a batch at once against all its targets: ratios of sums, ranks, risk sets.

    It couples the examples, so no cost of one of them exists, and a batch is more than the mean of its parts: take
    batches that are large enough for what the loss compares, or all examples.

    Args:
        x, y, weight, batch_size: as `Supervised`.
        loss: (outputs, targets) -> scalar, each with the leading axis of the batch. `SoftIoU` and `Dice` then take
            their sums over the whole batch.
    Raises:
        UserError: as `Supervised`; weights of single examples, which a loss of the whole cannot use.

    >>> from thalweg.losses import soft_iou
    >>> SupervisedBatch(jnp.ones((4, 8, 8, 1)), jnp.zeros((4, 8, 8)), loss=soft_iou, batch_size=2).source.population
    4
    """

    source: AbstractSource
    loss_function: Callable[[PyTree, PyTree], Scalar]
    weight: float | jax.Array

    def __init__(
        self,
        x: PyTree,
        y: PyTree = None,
        *,
        loss: Callable[[PyTree, PyTree], Scalar],
        weight: float | jax.Array = 1.0,
        batch_size: int | None = None,
    ):
        self.source = _pairs(x, y, loss, "SupervisedBatch(source, …)", batch_size=batch_size)
        first = self.source.few(1)
        if first is not None and first.weights is not None:
            raise UserError("weights of examples have no meaning in a loss of the whole batch", where="SupervisedBatch")
        self.loss_function = loss
        self.weight = weight

    def batch_loss(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[Scalar, PyTree]:
        outputs, state = self.outputs(model, examples, key)
        return self.loss_function(outputs, examples.values[1]), state


def _pairs(
    x: PyTree,
    y: PyTree,
    loss: Callable[[PyTree, PyTree], Scalar],
    where: str,
    *,
    weights: Any = None,
    batch_size: int | None = None,
) -> AbstractSource:
    """The source of pairs (x, y), or the given one, its inputs and targets looked through."""
    if isinstance(x, AbstractSource):
        if not (y is None and weights is None and batch_size is None):
            raise UserError("targets, weights and batch size belong to the source", where=where)
    elif y is None:
        raise UserError("a supervised term needs targets", remedy="Pass `y`, or a source of pairs (x, y).")
    if y is not None and len(x_rows := _rows(x)) and len(y_rows := _rows(y)) and x_rows[0] != y_rows[0]:
        raise UserError(f"{x_rows[0]} inputs but {y_rows[0]} targets", remedy="Each input needs one target.")
    _refuse_inputs(x.held if isinstance(x, Rows) else x if y is not None else None)
    held = x.held if isinstance(x, AbstractSource) else (x, y)
    if isinstance(loss, AbstractLoss) and isinstance(held, tuple) and len(held) == 2:
        loss.check_targets(held[1])
    return x if y is None else Rows((x, y), weights=weights, batch_size=batch_size)


def _differs(tree: PyTree) -> bool:
    """Whether any example differs from the first."""
    return any(np.any(np.asarray(leaf) != np.asarray(leaf[:1])) for leaf in jax.tree.leaves(tree))


@eqx.filter_jit
def _outputs(model: PyTree, x: PyTree) -> PyTree:
    return jax.vmap(lambda one: model(one, key=None))(x)


def _refuse_inputs(values: PyTree) -> None:
    """Refuse inputs that are not finite, where this process holds them."""
    inputs = values[0] if isinstance(values, tuple) and len(values) == 2 else values
    for leaf in jax.tree.leaves(inputs):
        found = on_host(leaf)
        if found is None or not np.issubdtype(found.dtype, np.floating):
            continue
        bad = np.argwhere(~np.isfinite(found))
        if len(bad):
            row, *rest = map(int, bad[0])
            raise UserError(
                f"an input is {found[tuple(bad[0])]}",
                where=f"row {row}, component {tuple(rest)}" if rest else f"row {row}",
                remedy="Rows are counted from 0. Mend it, or leave the row out.",
            )


def _rows(values: PyTree) -> list[int]:
    return [int(jnp.shape(leaf)[0]) for leaf in jax.tree.leaves(values) if jnp.ndim(leaf)]

"""Penalties on the size of a model's parameters, as terms beside those of the data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from thalweg.errors import UserError
from thalweg.objective.partition import trainable
from thalweg.objective.sources import AbstractSource, Examples, NoExamples
from thalweg.objective.term import AbstractTerm
from thalweg.types import Key, PyTree, Scalar, Where


def kernels(model: PyTree) -> PyTree:
    """The filter of the weights that inputs are multiplied by: trainable arrays of two or more axes.

    So neither biases nor the scales of normalization, which only shift and stretch: penalized, they cost accuracy and
    save no complexity. Keras (`kernel_regularizer`) and fastai (`wd_bn_bias=False`) leave them out too; PyTorch's
    `weight_decay` and `AdamW` take all, as `where=trainable` does.

    >>> from thalweg.nn import Linear
    >>> marks = kernels(Linear(2, 1, key=jax.random.key(0)))
    >>> marks.weight, marks.bias
    (True, False)
    """
    return jax.tree.map(lambda leaf, can: bool(can) and leaf.ndim >= 2, model, trainable(model))


class AbstractPenalty(AbstractTerm):
    """A cost of the parameters alone: λ times a sum over the selected trainable ones; no example is drawn.

    Running statistics and `Untrained` constants never count, whatever is selected. Parameters that a phase holds
    (`Phase(where=…)`) add a constant: they have no gradient.
    """

    source: AbstractSource
    weight: float | jax.Array
    where: Where

    def __init__(self, weight: float | jax.Array, *, where: Where = kernels):
        check_weight(self, weight)
        if not callable(where):
            raise UserError(
                f"a filter is a function of the model, not {type(where).__name__}",
                where=f"{type(self).__name__}(where=…)",
                remedy="Use kernels, trainable, only(…) or frozen(…).",
            )
        self.source, self.weight, self.where = NoExamples(), weight, where

    def cost(self, array: jax.Array) -> Scalar:
        """The cost of one array, before λ."""
        raise NotImplementedError

    def batch_loss(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[Scalar, PyTree]:
        costs = [self.cost(array) for array in _selected(model, self.where, type(self).__name__)]
        return sum(costs[1:], start=costs[0]), None


class L1(AbstractPenalty):
    """λ·Σ|θ|, whose subgradient is λ·sign(θ), 0 at 0 (the lasso; Tibshirani, 1996).

    A first-order optimizer steps about zero and rarely onto it: small parameters become small, not exactly 0.

    Args:
        weight: λ, not below 0.
        where: model -> filter of the parameters that count, as `Phase(where=…)` takes it: `kernels` (the default: no
            biases), `trainable` (all), `only(…)`, `frozen(…)`.
    Raises:
        UserError: a weight below 0 or not finite; within an objective, a filter that selects nothing that is trained,
            or is not of the model's structure.

    >>> import equinox as eqx
    >>> from thalweg.nn import Linear
    >>> model = eqx.tree_at(lambda m: m.weight, Linear(2, 1, key=jax.random.key(0)), jnp.array([[3.0], [-4.0]]))
    >>> float(L1(0.1).batch_loss(model, Examples(None), None)[0])
    7.0
    """

    def __init__(self, weight: float | jax.Array, *, where: Where = kernels):
        super().__init__(weight, where=where)

    def cost(self, array: jax.Array) -> Scalar:
        # |θ| with 0 as its subgradient at 0, where JAX's own is 1: what is exactly 0 stays there
        return jnp.sum(array * jax.lax.stop_gradient(jnp.sign(array)))


class L2(AbstractPenalty):
    """½λ·‖θ‖², whose gradient is λθ (ridge regression; Hoerl and Kennard, 1970).

    The ½ stands here alone: thalweg's data terms are plain squares, but a penalty of "weight decay λ" is one whose
    gradient is λθ, as in PyTorch's `weight_decay`. (Keras writes λ‖θ‖²: half its λ.) Beside a mean squared error of n
    examples it is scikit-learn's `Ridge(alpha=n·λ/2)`.

    Under plain gradient descent it is decoupled weight decay, θ ← (1 - ηλ)θ - ηg. Under Adam it is not: there λθ is
    divided by the gradient's own scale, so parameters with large gradients hardly shrink (Loshchilov and Hutter, 2019);
    `AdamW(…, decay=λ)` decouples it.

    Args:
        weight: λ, not below 0.
        where: model -> filter of the parameters that count, as `Phase(where=…)` takes it: `kernels` (the default: no
            biases), `trainable` (all), `only(…)`, `frozen(…)`.
    Raises:
        UserError: a weight below 0 or not finite; within an objective, a filter that selects nothing that is trained,
            or is not of the model's structure.

    >>> import equinox as eqx
    >>> from thalweg.nn import Linear
    >>> model = eqx.tree_at(lambda m: m.weight, Linear(2, 1, key=jax.random.key(0)), jnp.array([[3.0], [-4.0]]))
    >>> float(L2(0.1).batch_loss(model, Examples(None), None)[0])
    12.5
    """

    def __init__(self, weight: float | jax.Array, *, where: Where = kernels):
        super().__init__(weight, where=where)

    def cost(self, array: jax.Array) -> Scalar:
        return jnp.sum(array * array) / 2


def _selected(model: PyTree, where: Where, name: str) -> list[jax.Array]:
    """The arrays that count."""
    marks, possible = where(model), trainable(model)
    if jax.tree.structure(marks) != jax.tree.structure(possible):
        raise UserError(
            "where(model) is not of the model's structure",
            where=f"{name}(where=…)",
            remedy="Use only(…) or frozen(…), or change the leaves of trainable(model).",
        )
    leaves = (jax.tree.leaves(tree) for tree in (model, marks, possible))
    arrays = [leaf for leaf, mark, can in zip(*leaves, strict=True) if mark and can]
    if not arrays:
        raise UserError(
            "no trainable parameter is selected, so there is nothing to penalize",
            where=f"{name}(where=…)",
            remedy="where=trainable takes all of them, arrays of one axis included.",
        )
    return arrays


def check_weight(penalty: AbstractTerm, weight: Any) -> None:
    """Refuse a penalty's weight that is no finite number from 0 up, by the penalty's name."""
    if not isinstance(weight, Tracer) and not is_size(weight):
        raise UserError(
            f"a penalty's weight must be one finite number not below 0, not {weight!r}",
            where=f"{type(penalty).__name__}(weight=…)",
            remedy="Common ones lie between 1e-6 and 1e-2; 0 switches it off.",
        )


def is_size(value: Any) -> bool:
    """Whether it is one finite number, not below 0."""
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
    return is_number and np.ndim(value) == 0 and bool(np.isfinite(value) & (value >= 0))

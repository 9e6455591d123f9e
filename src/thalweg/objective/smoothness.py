"""Penalties on how fast a model's answers change with its inputs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.regularizers import check_weight, is_size
from thalweg.objective.sources import AbstractSource, NoExamples, Rows
from thalweg.objective.structure import length
from thalweg.objective.term import AbstractTerm
from thalweg.types import Key, PyTree, Scalar


class JacobianNorm(AbstractTerm):
    """λ times the mean over examples of ‖∂model/∂x‖²_F (Drucker and Le Cun, 1992).

    Exact by one backward pass for each output; or by `probes` random directions v of unit length, √k·vᵀJ for k outputs,
    whose mean square is the same (Hoffman, Roberts and Yaida, 2019). It is a least-squares term: Gauss-Newton methods
    take it. Dropout is on as in training; batch normalization answers by its running statistics.

    Args:
        x: inputs (n, …), as the model takes one of them, or a source of such.
        weight: λ, not below 0.
        probes: directions drawn for each example and step; None computes the whole Jacobian. In inference all of it is.
        batch_size: examples a step; None for all.
    Raises:
        UserError: a weight below 0 or not finite, probes below 1, a batch size beside a source, a source without
            examples; within an objective, inputs that are no floating-point numbers, or pairs of inputs and targets
            (for a model of one input).

    >>> from thalweg.nn import Linear
    >>> model, inputs = Linear(3, 2, key=jax.random.key(0)), jnp.ones((5, 3))
    >>> cost, _ = JacobianNorm(inputs, 1.0).mean_cost(model, Rows(inputs).few(5), None)
    >>> bool(jnp.isclose(cost, jnp.sum(model.weight**2)))  # of a linear model it is ‖W‖²
    True
    """

    source: AbstractSource
    weight: float | jax.Array
    probes: int | None = eqx.field(static=True)

    def __init__(
        self, x: PyTree, weight: float | jax.Array, *, probes: int | None = None, batch_size: int | None = None
    ):
        check_weight(self, weight)
        if probes is not None and (isinstance(probes, bool) or not isinstance(probes, int) or probes < 1):
            raise UserError(
                f"{probes!r} probes", where="JacobianNorm(probes=…)", remedy="A whole number from 1 up, or None: exact."
            )
        if isinstance(x, AbstractSource) and batch_size is not None:
            raise UserError("the batch size belongs to the source", where="JacobianNorm(source, …)")
        self.source = _with_examples(x if isinstance(x, AbstractSource) else Rows(x, batch_size=batch_size), self)
        self.weight, self.probes = weight, probes

    def inputs(self, values: PyTree) -> PyTree:
        return values

    def residual(self, model: PyTree, example: PyTree, key: Key | None) -> jax.Array:
        _check_floating(example, self)
        if key is None:
            return jacobian(_asked(model, None), example).ravel()
        model_key, probe_key = jax.random.split(key)
        y, pull = _vjp(_asked(model, model_key), example)
        if self.probes is None:
            return jax.vmap(pull)(jnp.eye(y.size, dtype=y.dtype)).ravel()
        drawn = jax.random.normal(probe_key, (self.probes, y.size), y.dtype)
        directions = drawn / jnp.linalg.norm(drawn, axis=1, keepdims=True)
        return jax.vmap(pull)(directions).ravel() * (y.size / self.probes) ** 0.5


class TotalVariation(AbstractTerm):
    """λ times the mean over points of √(|∇u|² + s²) − s: edges of u are allowed, wiggles are not.

    Times the domain's volume that is the total variation ∫|∇u| (Rudin, Osher and Fatemi, 1992), smoothed: where |∇u| is
    far below s it is |∇u|²/2s. For a field that is believed to have few values with sharp edges between, such as a
    conductivity that is to be recovered. Of several outputs |∇u| is the Frobenius norm (Bresson and Chan, 2008).

    Args:
        points: a source of points, or an array (n, d) of fixed ones.
        weight: λ, not below 0.
        field: (model, point) -> the field there, shape () or (k,); None is the model itself.
        smoothing: s, in units of u per length; 0 smooths nothing, and the subgradient is 0 where ∇u is.
    Raises:
        UserError: a weight or smoothing below 0 or not finite, a field that is no function, a source without points;
            within an objective, points that are no floating-point numbers.

    >>> steep = TotalVariation(jnp.linspace(0.0, 1.0, 5)[:, None], 1.0, field=lambda u, x: u(x[0]), smoothing=0.0)
    >>> float(steep.loss(lambda t: 3 * t, jnp.array([0.5]), None))
    3.0
    """

    source: AbstractSource
    weight: float | jax.Array
    field: Callable[[PyTree, PyTree], jax.Array]
    smoothing: float = eqx.field(static=True)

    def __init__(
        self,
        points: PyTree,
        weight: float | jax.Array,
        *,
        field: Callable[[PyTree, PyTree], jax.Array] | None = None,
        smoothing: float = 1e-3,
    ):
        check_weight(self, weight)
        if not is_size(smoothing):
            raise UserError(
                f"the smoothing must be one finite number not below 0, not {smoothing!r}",
                where="TotalVariation(smoothing=…)",
                remedy="A small share of the slopes that count as edges.",
            )
        if not (field is None or callable(field)):
            raise UserError(
                f"a field is a function of the model and a point, not {type(field).__name__}",
                where="TotalVariation(field=…)",
                remedy="Such as field=lambda model, x: model.conductivity(x).",
            )
        self.source = _with_examples(points if isinstance(points, AbstractSource) else Rows(points), self)
        self.weight, self.field, self.smoothing = weight, field or _itself, float(smoothing)

    def loss(self, model: PyTree, example: PyTree, key: Key | None) -> Scalar:
        _check_floating(example, self)
        return length(jacobian(lambda x: self.field(model, x), example), (0, 1), self.smoothing)


def jacobian(function: Callable[[Any], PyTree], x: PyTree) -> jax.Array:
    """All outputs by all inputs, (k, d), by one backward pass for each output.

    >>> jacobian(lambda x: x[0] * x, jnp.array([1.0, 2.0])).tolist()
    [[2.0, 0.0], [2.0, 1.0]]
    """
    y, pull = _vjp(function, x)
    return jax.vmap(pull)(jnp.eye(y.size, dtype=y.dtype))


def _vjp(function: Callable[[Any], PyTree], x: PyTree) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """The outputs (k,), and the map from (k,) to vᵀJ, (d,), both flat."""
    flat, unravel = ravel_pytree(x)
    y, pull = jax.vjp(lambda one: ravel_pytree(function(unravel(one)))[0], flat)
    return y, lambda direction: pull(direction)[0]


def _with_examples(source: AbstractSource, term: AbstractTerm) -> AbstractSource:
    if isinstance(source, NoExamples):
        raise UserError(
            "without examples there is no place at which to ask for slopes",
            where=type(term).__name__,
            remedy="Give inputs or points: an array, Rows(…), or a source that draws them.",
        )
    return source


def _check_floating(example: PyTree, term: AbstractTerm) -> None:
    """Refuse inputs that cannot be moved a little."""
    leaves = jax.tree.leaves(example)
    if odd := [leaf.dtype for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)]:
        raise UserError(
            f"an input of {odd[0]} has no slopes",
            where=type(term).__name__,
            remedy="Pass floating-point numbers: x.astype(np.float32), for instance.",
        )


def _asked(model: PyTree, key: Key | None) -> Callable[[PyTree], PyTree]:
    def ask(x: PyTree) -> PyTree:
        try:
            return model(x, key=key)
        except (TypeError, AttributeError) as error:
            if not isinstance(x, tuple):
                raise
            raise UserError(
                f"the model does not take {len(x)} arrays for an input: {error}",
                where="JacobianNorm",
                remedy="Give the inputs alone, without targets: JacobianNorm(x, …).",
            ) from error

    return ask


def _itself(model: PyTree, x: PyTree) -> jax.Array:
    return model(x)

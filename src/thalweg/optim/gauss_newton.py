"""The linear model of the residuals that Levenberg-Marquardt and the natural gradient share, and its equations."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.linalg import conjugate_gradients
from thalweg.objective.problem import Problem
from thalweg.optim.optimizer import value_and_gradient
from thalweg.types import Params, Scalar

LARGEST_DENSE = 5_000
"""Rows of a matrix beyond which it is not factorized but multiplied with: 200 MB in float64."""

FORCING = 1e-2
"""Residual, relative to Jᵀr, to which conjugate gradients solve: a step need not be better than the linear model."""


class LinearModel(eqx.Module):
    """‖r + Jδ‖² around the params, for m residuals and n params.

    Attributes:
        total: ‖r‖².
        parts: mean cost of each term.
        slope: Jᵀr, (n,).
        gram: JᵀJ (n, n), or JJᵀ (m, m) if that is smaller; None if neither is formed.
        jacobian: J (m, n), where the smaller side is JJᵀ; else None.
        residuals: r (m,), likewise.
    """

    total: Scalar
    parts: dict[str, Scalar]
    slope: jax.Array
    gram: jax.Array | None
    jacobian: jax.Array | None
    residuals: jax.Array | None

    @property
    def scale(self) -> Scalar:
        """A lower bound of the largest eigenvalue of JᵀJ, of the same order: the largest diagonal element."""
        assert self.gram is not None, "without a matrix there are only products"
        return jnp.max(jnp.diagonal(self.gram))

    def solve(self, damping: Scalar, past: jax.Array | None = None) -> jax.Array:
        """The δ (n,) with (JᵀJ + μI)δ = Jᵀ(r − Jφ), where a matrix is formed; φ is `past` (n,), or 0."""
        assert self.gram is not None, "without a matrix there are only products"
        if self.jacobian is None or self.residuals is None:
            right = self.slope if past is None else self.slope - self.gram @ past
        else:
            right = self.residuals if past is None else self.residuals - self.jacobian @ past
        damped = self.gram + damping * jnp.eye(right.size, dtype=right.dtype)
        found = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), right)
        # (JᵀJ + μI)⁻¹Jᵀ = Jᵀ(JJᵀ + μI)⁻¹
        return found if self.jacobian is None else self.jacobian.T @ found


def sizes(problem: Problem, params: Params) -> tuple[int, int]:
    """Number of residuals and of params."""
    m = jax.eval_shape(problem.residuals, params).size
    return m, sum(leaf.size for leaf in jax.tree.leaves(params))


def fits(problem: Problem, params: Params, memory: float) -> bool:
    """Whether a matrix of the smaller side can be formed, and is not too large to be factorized."""
    m, n = sizes(problem, params)
    each = ravel_pytree(params)[0].dtype.itemsize
    if is_wide(m, n, each, memory):
        return m <= LARGEST_DENSE
    return n <= LARGEST_DENSE and n * n * each <= memory


def is_wide(m: int, n: int, each: int, memory: float) -> bool:
    """Whether JJᵀ is formed: it is the smaller one, and the Jacobian that it needs fits."""
    return m < n and m * n * each <= memory


def linear_model(problem: Problem, params: Params, memory: float = math.inf, *, wide: bool) -> LinearModel:
    """The model at the params, by JJᵀ if `wide`, else by JᵀJ, summed over chunks of the Jacobian of so many bytes."""
    if wide:
        residuals, jacobian, parts = problem.linearize(params)
        slope = jacobian.T @ residuals
        return LinearModel(residuals @ residuals, parts, slope, jacobian @ jacobian.T, jacobian, residuals)
    found = problem.normal_equations(params, memory)
    return LinearModel(found.total, found.parts, found.slope, found.gram, None, None)


def free_model(problem: Problem, params: Params) -> LinearModel:
    """The model of which no matrix is formed."""
    total, evaluation, gradient = value_and_gradient(problem, params)
    return LinearModel(total, evaluation.parts, ravel_pytree(gradient)[0] / 2, None, None, None)


def gram_product(problem: Problem, params: Params) -> Callable[[jax.Array], jax.Array]:
    """V -> JᵀJ·v for the stacked residuals at the params, one forward and one backward pass a product."""
    flat, unravel = ravel_pytree(params)
    forward = jax.linearize(lambda p: problem.residuals(unravel(p)), flat)[1]
    backward = jax.linear_transpose(forward, flat)
    return lambda v: backward(forward(v))[0]


def solve_free(problem: Problem, params: Params, slope: jax.Array, damping: Scalar, iterations: int) -> jax.Array:
    """As `LinearModel.solve`, by conjugate gradients on products with J and Jᵀ."""
    product = gram_product(problem, params)
    operator = lambda v: product(v) + damping * v
    return conjugate_gradients(operator, slope, rtol=FORCING, iterations=iterations).value


def checked_memory(memory: float, where: str) -> float:
    """A number of bytes, above 0.

    Raises:
        UserError: it is none.
    """
    if isinstance(memory, bool) or not (isinstance(memory, int | float) and memory > 0):
        raise UserError(f"memory is a number of bytes above 0, not {memory!r}", where=where, remedy="2**30 is 1 GiB.")
    return float(memory)

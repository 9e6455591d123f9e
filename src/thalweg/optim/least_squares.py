"""Levenberg-Marquardt: on mapped one-example Jacobians, or on products with them where those are too large."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.linalg import conjugate_gradients
from thalweg.objective.problem import Problem
from thalweg.optim.optimizer import STRAIGHT, AbstractOptimizer, Ended, StepInfo, select, value_and_gradient
from thalweg.types import Key, Params, Scalar

LARGEST_DENSE = 5_000
"""Parameters beyond which JᵀJ (200 MB in float64) is not formed but multiplied with."""

FORCING = 1e-2
"""Residual, relative to Jᵀr, to which conjugate gradients solve: a step need not be better than the linear model."""


class LMState(eqx.Module):
    """The local model at the present params: total, JᵀJ (n, n) or None, Jᵀr (n,), damping and its growth factor.

    Of the steps tried from here: the last one's gain, and how many in a row had the same negative one.
    """

    total: Scalar
    parts: dict[str, Scalar]
    gram: jax.Array | None
    slope: jax.Array
    damping: Scalar
    growth: Scalar
    gain: Scalar
    alike: jax.Array
    ended: jax.Array


class LevenbergMarquardt(AbstractOptimizer):
    """Levenberg-Marquardt with gain-ratio damping (Nielsen, 1999; Madsen, Nielsen and Tingleff, 2004, algorithm 3.16).

    A step solves (JᵀJ + μI)δ = Jᵀr, linearizes at θ − δ, and moves there if the total fell. Needs float64, since
    JᵀJ squares the condition number of J.

    Dense, the equations are factorized. Matrix-free, they are solved by conjugate gradients on products with J and Jᵀ
    (Nocedal and Wright, 2006, section 10.3): a step then costs up to `iterations` + 1 gradients and as many forward
    derivatives, and memory for a few vectors.

    Args:
        damping: first μ relative to the largest diagonal element of JᵀJ (matrix-free: to its curvature along Jᵀr).
        dense: whether JᵀJ is formed; None: up to 5,000 params.
        iterations: of conjugate gradients a step, at most.
    Raises:
        UserError: when a phase begins: params that are not float64, or too many for `dense=True`; a term without a
            residual, or whose cost couples the examples of a batch.

    >>> optimizer = LevenbergMarquardt()
    """

    damping: float = eqx.field(static=True)
    dense: bool | None = eqx.field(static=True)
    iterations: int = eqx.field(static=True)

    def __init__(self, *, damping: float = 1e-3, dense: bool | None = None, iterations: int = 50):
        if not (isinstance(damping, int | float) and 0 < damping < float("inf")):
            raise UserError(f"the damping must be a number above 0, not {damping!r}")
        if isinstance(iterations, bool) or not (isinstance(iterations, int) and iterations >= 1):
            raise UserError(f"conjugate gradients need at least 1 iteration, not {iterations!r}")
        if not (dense is None or isinstance(dense, bool)):
            raise UserError(f"dense is True, False, or None for a choice by size, not {dense!r}")
        self.damping, self.dense, self.iterations = damping, dense, iterations

    def init(self, problem: Problem, params: Params, key: Key) -> LMState:
        flat = ravel_pytree(params)[0]
        if flat.dtype != jnp.float64:
            raise UserError(
                f"Levenberg-Marquardt works in float64, but the parameters are {flat.dtype}",
                remedy="Pass precision=jnp.float64 to fit, or to this phase.",
            )
        if self.dense and flat.size > LARGEST_DENSE:
            raise UserError(
                f"dense Levenberg-Marquardt takes at most {LARGEST_DENSE} parameters, not {flat.size}",
                remedy="LevenbergMarquardt() multiplies with the matrix instead; or train fewer (Phase(where=…)).",
            )
        state = self._linearize(problem, params)
        if state.gram is None:
            unit = state.slope / jnp.maximum(jnp.linalg.norm(state.slope), jnp.finfo(flat.dtype).tiny)
            scale = jnp.vdot(unit, _gram_product(problem, params)(unit))
        else:
            scale = jnp.max(jnp.diagonal(state.gram))
        damping = self.damping * jnp.maximum(scale, jnp.finfo(flat.dtype).tiny)
        return eqx.tree_at(lambda s: s.damping, state, damping)

    def redraw(self, problem: Problem, params: Params, state: LMState) -> LMState:
        fresh = self._linearize(problem, params)
        return eqx.tree_at(lambda s: s.damping, fresh, state.damping)

    def step(self, problem: Problem, params: Params, state: LMState, key: Key) -> tuple[Params, LMState, StepInfo]:
        flat, unravel = ravel_pytree(params)
        delta = self._solve(problem, params, state)
        trial = unravel(flat - delta)
        there = self._linearize(problem, trial)

        # Decrease of ‖r‖² by the linear model; of an inexact δ too, whose residual conjugate gradients make orthogonal
        # to it.
        promised = jnp.vdot(delta, state.slope + state.damping * delta)
        gain = (state.total - there.total) / promised
        going = state.ended == int(Ended.GOING)
        accepted = going & jnp.isfinite(there.total) & (gain > 0)

        eased = state.damping * jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
        arrived = eqx.tree_at(lambda s: s.damping, there, eased)
        # An unusable step shorter than the params' rounding: nothing can be resolved any more. But a total that rose in
        # proportion to ever shorter steps, or is not finite right beside the params, was not brought here by rounding.
        alike = (gain < 0) & (jnp.abs(gain - state.gain) < -0.2 * gain)
        alike = jnp.where((state.alike >= STRAIGHT), state.alike, jnp.where(alike, state.alike + 1, 0))
        wrong = (alike >= STRAIGHT) | ~jnp.isfinite(there.total)
        short = jnp.linalg.norm(delta) <= jnp.finfo(flat.dtype).eps * (1 + jnp.linalg.norm(flat))
        spent = short | ~jnp.isfinite(state.damping)
        ended = jnp.where(spent, jnp.where(wrong, jnp.int32(Ended.FAILED), jnp.int32(Ended.CONVERGED)), state.ended)
        stayed = eqx.tree_at(
            lambda s: (s.damping, s.growth, s.gain, s.alike, s.ended),
            state,
            (state.damping * state.growth, 2 * state.growth, gain, alike, ended),
        )
        after = select(accepted, arrived, select(going, stayed, state))
        figures = {"gradient_norm": 2 * jnp.linalg.norm(after.slope), "damping": after.damping, "gain_ratio": gain}
        info = StepInfo(after.total, after.parts, accepted, None, after.ended, figures)  # no term here is coupled
        return select(accepted, trial, params), after, info

    def _solve(self, problem: Problem, params: Params, state: LMState) -> jax.Array:
        if state.gram is not None:
            damped = state.gram + state.damping * jnp.eye(state.slope.size, dtype=state.slope.dtype)
            return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), state.slope)
        product = _gram_product(problem, params)
        operator = lambda v: product(v) + state.damping * v
        return conjugate_gradients(operator, state.slope, rtol=FORCING, iterations=self.iterations).value

    def _linearize(self, problem: Problem, params: Params) -> LMState:
        if self._is_dense(params):
            residuals, jacobian, parts = problem.linearize(params)
            total, slope, gram = residuals @ residuals, jacobian.T @ residuals, jacobian.T @ jacobian
        else:
            total, evaluation, gradient = value_and_gradient(problem, params)
            parts, slope, gram = evaluation.parts, ravel_pytree(gradient)[0] / 2, None
        converged = jnp.max(jnp.abs(slope)) <= jnp.finfo(slope.dtype).tiny
        ended = jnp.where(converged, jnp.int32(Ended.CONVERGED), jnp.int32(Ended.GOING))
        one, none = jnp.ones((), slope.dtype), jnp.zeros((), jnp.int32)
        return LMState(total, parts, gram, slope, one, 2 * one, 0 * one, none, ended)

    def _is_dense(self, params: Params) -> bool:
        few = sum(leaf.size for leaf in jax.tree.leaves(params)) <= LARGEST_DENSE
        return few if self.dense is None else self.dense


def _gram_product(problem: Problem, params: Params) -> Callable[[jax.Array], jax.Array]:
    """V -> JᵀJ·v for the stacked residuals at the params, one forward and one backward pass a product."""
    flat, unravel = ravel_pytree(params)
    forward = jax.linearize(lambda p: problem.residuals(unravel(p)), flat)[1]
    backward = jax.linear_transpose(forward, flat)
    return lambda v: backward(forward(v))[0]

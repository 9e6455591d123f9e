"""Levenberg-Marquardt on mapped one-example Jacobians, one evaluation a step."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.problem import Problem
from thalweg.optim.optimizer import STRAIGHT, AbstractOptimizer, Ended, StepInfo, select
from thalweg.types import Key, Params, Scalar

LARGEST_DENSE = 5_000
"""Parameters beyond which a dense Gram matrix (200 MB in float64) and its factorization are refused."""


class LMState(eqx.Module):
    """The local model at the present params: total, JᵀJ (n, n), Jᵀr (n,), damping and its growth factor.

    Of the steps tried from here: the last one's gain, and how many in a row had the same negative one.
    """

    total: Scalar
    parts: dict[str, Scalar]
    gram: jax.Array
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

    Args:
        damping: first μ relative to the largest diagonal element of JᵀJ.

    >>> optimizer = LevenbergMarquardt()
    """

    damping: float = eqx.field(static=True)

    def __init__(self, *, damping: float = 1e-3):
        if not 0 < damping < float("inf"):
            raise UserError(f"the damping must be a number above 0, not {damping!r}")
        self.damping = damping

    def init(self, problem: Problem, params: Params, key: Key) -> LMState:
        flat = ravel_pytree(params)[0]
        if flat.dtype != jnp.float64:
            raise UserError(
                f"Levenberg-Marquardt works in float64, but the parameters are {flat.dtype}",
                remedy="Pass precision=jnp.float64 to fit, or to this phase.",
            )
        if flat.size > LARGEST_DENSE:
            raise UserError(
                f"dense Levenberg-Marquardt takes at most {LARGEST_DENSE} parameters, not {flat.size}",
                remedy="Train fewer at a time (Phase(where=…)), or use L-BFGS.",
            )
        state = self._linearize(problem, params)
        damping = self.damping * jnp.maximum(jnp.max(jnp.diagonal(state.gram)), jnp.finfo(flat.dtype).tiny)
        return eqx.tree_at(lambda s: s.damping, state, damping)

    def redraw(self, problem: Problem, params: Params, state: LMState) -> LMState:
        fresh = self._linearize(problem, params)
        return eqx.tree_at(lambda s: s.damping, fresh, state.damping)

    def step(self, problem: Problem, params: Params, state: LMState, key: Key) -> tuple[Params, LMState, StepInfo]:
        flat, unravel = ravel_pytree(params)
        damped = state.gram + state.damping * jnp.eye(flat.size, dtype=flat.dtype)
        delta = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), state.slope)
        trial = unravel(flat - delta)
        there = self._linearize(problem, trial)

        promised = jnp.vdot(delta, state.slope + state.damping * delta)  # decrease of ‖r‖² by the linear model
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

    def _linearize(self, problem: Problem, params: Params) -> LMState:
        residuals, jacobian, parts = problem.linearize(params)
        slope = jacobian.T @ residuals
        converged = jnp.max(jnp.abs(slope)) <= jnp.finfo(slope.dtype).tiny
        ended = jnp.where(converged, jnp.int32(Ended.CONVERGED), jnp.int32(Ended.GOING))
        one, none = jnp.ones((), slope.dtype), jnp.zeros((), jnp.int32)
        return LMState(residuals @ residuals, parts, jacobian.T @ jacobian, slope, one, 2 * one, 0 * one, none, ended)

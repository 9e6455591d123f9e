"""Levenberg-Marquardt: on mapped one-example Jacobians, or on products with them where those are too large."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.problem import Problem
from thalweg.optim.gauss_newton import (
    LARGEST_DENSE,
    LinearModel,
    checked_memory,
    fits,
    free_model,
    gram_product,
    is_wide,
    linear_model,
    sizes,
    solve_free,
)
from thalweg.optim.optimizer import STRAIGHT, AbstractOptimizer, Ended, StepInfo, select
from thalweg.types import Key, Params, Scalar

FASTEST = 64.0
"""Growth of the damping at which it stops to double: also from next to none there are ten ever shorter steps to look at
before they vanish in the params' rounding."""


class LMState(eqx.Module):
    """The linear model at the present params, damping and its growth factor.

    Of the steps tried from here: the last one's gain and promise, and how many in a row had the same negative gain.
    """

    local: LinearModel
    damping: Scalar
    growth: Scalar
    gain: Scalar
    promised: Scalar
    alike: jax.Array
    ended: jax.Array


class LevenbergMarquardt(AbstractOptimizer):
    """Levenberg-Marquardt with gain-ratio damping (Nielsen, 1999; Madsen, Nielsen and Tingleff, 2004, algorithm 3.16).

    A step solves (JᵀJ + μI)δ = Jᵀr, linearizes at θ − δ, and moves there if the total fell. Needs float64, since
    JᵀJ squares the condition number of J. The growth of μ over steps that are refused doubles up to 64 only, where
    theirs has no bound.

    Dense, the equations are factorized: of m residuals and n params the smaller side, JJᵀ or JᵀJ. Where the Jacobian
    would take more than `memory`, JᵀJ is summed over chunks of examples. Matrix-free, they are solved by conjugate
    gradients on products with J and Jᵀ (Nocedal and Wright, 2006, section 10.3): a step then costs up to `iterations`
    + 1 gradients and as many forward derivatives, and memory for a few vectors.

    Args:
        damping: first μ relative to the largest diagonal element of JᵀJ (matrix-free: to its curvature along Jᵀr).
        dense: whether a matrix is formed; None: where its smaller side is at most 5,000 and it fits.
        iterations: of conjugate gradients a step, at most.
        memory: bytes that the Jacobian may take; of each member, where several are walked at once.
    Raises:
        UserError: when a phase begins: params that are not float64, or a matrix too large for `dense=True`; a term
            without a residual, or whose cost couples the examples of a batch.

    >>> optimizer = LevenbergMarquardt()
    """

    damping: float = eqx.field(static=True)
    dense: bool | None = eqx.field(static=True)
    iterations: int = eqx.field(static=True)
    memory: float = eqx.field(static=True)

    def __init__(
        self, *, damping: float = 1e-3, dense: bool | None = None, iterations: int = 50, memory: float = 2**30
    ):
        if not (isinstance(damping, int | float) and 0 < damping < float("inf")):
            raise UserError(f"the damping must be a number above 0, not {damping!r}")
        if isinstance(iterations, bool) or not (isinstance(iterations, int) and iterations >= 1):
            raise UserError(f"conjugate gradients need at least 1 iteration, not {iterations!r}")
        if not (dense is None or isinstance(dense, bool)):
            raise UserError(f"dense is True, False, or None for a choice by size, not {dense!r}")
        self.damping, self.dense, self.iterations = damping, dense, iterations
        self.memory = checked_memory(memory, "LevenbergMarquardt")

    def init(self, problem: Problem, params: Params, key: Key) -> LMState:
        flat = ravel_pytree(params)[0]
        if flat.dtype != jnp.float64:
            raise UserError(
                f"Levenberg-Marquardt works in float64, but the parameters are {flat.dtype}",
                remedy="Pass precision=jnp.float64 to fit, or to this phase.",
            )
        m, n = sizes(problem, params)
        fit = fits(problem, params, self.memory)
        if self.dense and not fit:
            raise UserError(
                f"dense Levenberg-Marquardt takes at most {LARGEST_DENSE} parameters or residuals, not {n} and {m}, "
                f"and a matrix within memory={self.memory:g} bytes",
                remedy="LevenbergMarquardt() multiplies with the matrix instead; or train fewer (Phase(where=…)).",
            )
        free = not (fit if self.dense is None else self.dense)
        state = self._linearize(problem, params, free, is_wide(m, n, flat.dtype.itemsize, self.memory))
        if state.local.gram is None:
            slope = state.local.slope
            unit = slope / jnp.maximum(jnp.linalg.norm(slope), jnp.finfo(flat.dtype).tiny)
            scale = jnp.vdot(unit, gram_product(problem, params)(unit))
        else:
            scale = state.local.scale  # of JJᵀ, too: both have the same eigenvalues
        damping = self.damping * jnp.maximum(scale, jnp.finfo(flat.dtype).tiny)
        return eqx.tree_at(lambda s: s.damping, state, damping)

    def redraw(self, problem: Problem, params: Params, state: LMState) -> LMState:
        fresh = self._again(problem, params, state)
        return eqx.tree_at(lambda s: s.damping, fresh, state.damping)

    def step(self, problem: Problem, params: Params, state: LMState, key: Key) -> tuple[Params, LMState, StepInfo]:
        flat, unravel = ravel_pytree(params)
        delta = self._solve(problem, params, state)
        trial = unravel(flat - delta)
        there = self._again(problem, trial, state)

        # Decrease of ‖r‖² by the linear model; of an inexact δ too, whose residual conjugate gradients make orthogonal
        # to it.
        promised = jnp.vdot(delta, state.local.slope + state.damping * delta)
        gain = (state.local.total - there.local.total) / promised
        going = state.ended == int(Ended.GOING)
        accepted = going & jnp.isfinite(there.local.total) & (gain > 0)

        eased = state.damping * jnp.maximum(1 / 3, 1 - (2 * gain - 1) ** 3)
        arrived = eqx.tree_at(lambda s: s.damping, there, eased)
        # An unusable step shorter than the params' rounding: nothing can be resolved any more. But a total that rose in
        # proportion to ever shorter steps, or is not finite right beside the params, was not brought here by rounding.
        alike = (gain < 0) & (jnp.abs(gain - state.gain) < -0.2 * gain)
        # Steps about the same have the same rise whatever it is: while the damping is small they are not shorter.
        alike = alike & (promised <= 0.6 * state.promised)
        alike = jnp.where((state.alike >= STRAIGHT), state.alike, jnp.where(alike, state.alike + 1, 0))
        wrong = (alike >= STRAIGHT) | ~jnp.isfinite(there.local.total)
        short = jnp.linalg.norm(delta) <= jnp.finfo(flat.dtype).eps * (1 + jnp.linalg.norm(flat))
        spent = short | ~jnp.isfinite(state.damping)
        ended = jnp.where(spent, jnp.where(wrong, jnp.int32(Ended.FAILED), jnp.int32(Ended.CONVERGED)), state.ended)
        stayed = eqx.tree_at(
            lambda s: (s.damping, s.growth, s.gain, s.promised, s.alike, s.ended),
            state,
            (state.damping * state.growth, jnp.minimum(2 * state.growth, FASTEST), gain, promised, alike, ended),
        )
        after = select(accepted, arrived, select(going, stayed, state))
        figures = {
            "gradient_norm": 2 * jnp.linalg.norm(after.local.slope),
            "damping": after.damping,
            "gain_ratio": gain,
        }
        info = StepInfo(
            after.local.total, after.local.parts, accepted, None, after.ended, figures
        )  # no term here is coupled
        return select(accepted, trial, params), after, info

    def _solve(self, problem: Problem, params: Params, state: LMState) -> jax.Array:
        if state.local.gram is not None:
            return state.local.solve(state.damping)
        return solve_free(problem, params, state.local.slope, state.damping, self.iterations)

    def _again(self, problem: Problem, params: Params, like: LMState) -> LMState:
        """The state at other params, of the same kind."""
        return self._linearize(problem, params, like.local.gram is None, like.local.jacobian is not None)

    def _linearize(self, problem: Problem, params: Params, free: bool, wide: bool) -> LMState:
        local = free_model(problem, params) if free else linear_model(problem, params, self.memory, wide=wide)
        converged = jnp.max(jnp.abs(local.slope)) <= jnp.finfo(local.slope.dtype).tiny
        ended = jnp.where(converged, jnp.int32(Ended.CONVERGED), jnp.int32(Ended.GOING))
        one, none = jnp.ones((), local.slope.dtype), jnp.zeros((), jnp.int32)
        return LMState(local, one, 2 * one, 0 * one, jnp.inf * one, none, ended)

"""The natural gradient of least squares, with momentum and a line search over halved lengths."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.problem import Problem
from thalweg.optim.gauss_newton import LARGEST_DENSE, LinearModel, checked_memory, fits, is_wide, linear_model, sizes
from thalweg.optim.optimizer import STRAIGHT, AbstractOptimizer, Ended, StepInfo, select
from thalweg.types import Key, Params


class NaturalState(eqx.Module):
    """The linear model at the present params, and the last direction (n,).

    Attributes:
        local: the model.
        last: the direction that was last walked along, (n,); zeros where the next one stands alone.
        shift: how many halvings are known to be too few, so that the next search begins beyond them.
        wrong: whether in a search from here the total rose in a straight line where its slope promises a fall, or was
            nowhere finite.
        ended: an `Ended`.
    """

    local: LinearModel
    last: jax.Array
    shift: jax.Array
    wrong: jax.Array
    ended: jax.Array


class NaturalGradient(AbstractOptimizer):
    """Energy natural gradient (Müller and Zeinhofer, 2023): along (JᵀJ + ridge)⁻¹Jᵀr, as far as the total falls most.

    J is the Jacobian of the operators' residuals, so that the walk is the one in the space of solutions that the
    energy measures, as far as the network can follow. The direction keeps a share of the last one, corrected for what
    it does to the residuals (Goldshlager, Abrahamsen and Lin, 2024; Guzmán-Cordero et al., 2025):
    d ← φ + (JᵀJ + ridge)⁻¹Jᵀ(r − Jφ), φ = momentum · d.

    Of the lengths 1, 1/2, 1/4, …, all evaluated at once, the best is taken. One step makes one linearization and
    `lengths` evaluations of the total, without their gradients.

    Args:
        ridge: relative to the largest diagonal element of JᵀJ. Where the points do not determine the network a
            smaller one leaves more to the line search.
        momentum: share of the last direction, below 1.
        lengths: tried in a step, each half of the one before.
        memory: as `LevenbergMarquardt`.
    Raises:
        UserError: a number out of its range; when a phase begins: params that are not float64, or too many; a term
            without a residual, or whose cost couples the examples of a batch.

    >>> optimizer = NaturalGradient()
    """

    ridge: float = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    lengths: int = eqx.field(static=True)
    memory: float = eqx.field(static=True)

    def __init__(self, *, ridge: float = 1e-12, momentum: float = 0.6, lengths: int = 16, memory: float = 2**30):
        if not (isinstance(ridge, int | float) and 0 < ridge < float("inf")):
            raise UserError(f"the ridge must be a number above 0, not {ridge!r}", where="NaturalGradient")
        if not (isinstance(momentum, int | float) and 0 <= momentum < 1):
            raise UserError(f"momentum must be at least 0 and below 1, not {momentum!r}", where="NaturalGradient")
        if isinstance(lengths, bool) or not (isinstance(lengths, int) and lengths >= 1):
            raise UserError(f"the line search needs at least 1 length, not {lengths!r}", where="NaturalGradient")
        self.ridge, self.momentum, self.lengths = float(ridge), float(momentum), lengths
        self.memory = checked_memory(memory, "NaturalGradient")

    def init(self, problem: Problem, params: Params, key: Key) -> NaturalState:
        flat = ravel_pytree(params)[0]
        if flat.dtype != jnp.float64:
            raise UserError(
                f"the natural gradient works in float64, but the parameters are {flat.dtype}",
                remedy="Pass precision=jnp.float64 to fit, or to this phase.",
            )
        m, n = sizes(problem, params)
        if not fits(problem, params, self.memory):
            raise UserError(
                f"the natural gradient takes at most {LARGEST_DENSE} parameters or residuals, not {n} and {m}, and a "
                f"matrix within memory={self.memory:g} bytes",
                remedy="LevenbergMarquardt() multiplies with the matrix instead; or train fewer (Phase(where=…)).",
            )
        return self._at(problem, params, is_wide(m, n, flat.dtype.itemsize, self.memory))

    def redraw(self, problem: Problem, params: Params, state: NaturalState) -> NaturalState:
        fresh = self._at(problem, params, state.local.jacobian is not None)
        return eqx.tree_at(lambda s: s.last, fresh, state.last)  # a direction, not a curvature: it outlives a batch

    def step(
        self, problem: Problem, params: Params, state: NaturalState, key: Key
    ) -> tuple[Params, NaturalState, StepInfo]:
        flat, unravel = ravel_pytree(params)
        going = state.ended == int(Ended.GOING)
        kept = self.momentum * state.last
        direction = kept + state.local.solve(self.ridge * state.local.scale, kept)
        halvings = state.shift + jnp.arange(self.lengths, dtype=jnp.int32)
        lengths = 0.5 ** halvings.astype(flat.dtype)
        heights = jax.vmap(lambda t: problem.evaluate(unravel(flat - t * direction))[0])(lengths)
        heights = jnp.where(jnp.isfinite(heights), heights, jnp.inf)
        best = jnp.argmin(heights)
        lower = going & (heights[best] < state.local.total)
        trial = jnp.where(lower, flat - lengths[best] * direction, flat)
        there = self._at(problem, unravel(trial), state.local.jacobian is not None)
        # the sum that is linearized may differ in rounding from the one that was searched
        accepted = lower & (there.local.total < state.local.total)
        arrived = eqx.tree_at(lambda s: s.last, there, direction)

        # Nothing lower: once more without the last direction, and then ever shorter, until the params' rounding.
        alone = ~jnp.any(state.last != 0)
        shortest = lengths[-1] * jnp.linalg.norm(direction)
        spent = alone & (shortest <= jnp.finfo(flat.dtype).eps * (1 + jnp.linalg.norm(flat)))
        # Ever shorter steps that all rise in proportion: the slope is wrong. Rounding has no such regularity.
        rise = (heights - state.local.total)[-STRAIGHT:] / lengths[-STRAIGHT:]
        straight = alone & (rise[-1] > 0) & jnp.all(jnp.abs(rise - rise[-1]) < 0.2 * rise[-1]) & (rise.size > 1)
        wrong = state.wrong | straight | (alone & ~jnp.any(jnp.isfinite(heights)))
        end = jnp.where(wrong, jnp.int32(Ended.FAILED), jnp.int32(Ended.CONVERGED))
        stayed = NaturalState(
            state.local,
            0 * state.last,
            jnp.where(alone, state.shift + self.lengths, state.shift),
            wrong,
            jnp.where(spent, end, state.ended),
        )
        after = select(accepted, arrived, select(going, stayed, state))
        figures = {"gradient_norm": 2 * jnp.linalg.norm(after.local.slope), "length": lengths[best]}
        # no term here is coupled, so that there are no running statistics
        info = StepInfo(after.local.total, after.local.parts, accepted, None, after.ended, figures)
        return unravel(jnp.where(accepted, trial, flat)), after, info

    def _at(self, problem: Problem, params: Params, wide: bool) -> NaturalState:
        local = linear_model(problem, params, self.memory, wide=wide)
        still = jnp.max(jnp.abs(local.slope)) <= jnp.finfo(local.slope.dtype).tiny
        ended = jnp.where(still, jnp.int32(Ended.CONVERGED), jnp.int32(Ended.GOING))
        return NaturalState(local, jnp.zeros_like(local.slope), jnp.zeros((), jnp.int32), jnp.zeros((), bool), ended)

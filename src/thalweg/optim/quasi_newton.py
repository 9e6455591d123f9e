"""L-BFGS and BFGS with one evaluation a step: the line search's bracket is part of the state."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.problem import Problem
from thalweg.optim.curvature import (
    AbstractCurvature,
    InverseHessian,
    RecentPairs,
    SelfScaledInverseHessian,
    is_positive,
)
from thalweg.optim.optimizer import STRAIGHT, AbstractOptimizer, Ended, StepInfo, select, value_and_gradient
from thalweg.types import Key, Params, Scalar

SUFFICIENT, CURVATURE = 1e-4, 0.9
"""Wolfe constants c₁ and c₂ of Nocedal and Wright (2006), section 3.1, for quasi-Newton directions."""


ROUNDING = 0.6
"""Relative change of the cost that may be rounding, as a power of the precision: 4e-10 in float64, 7e-5 in float32.

A cost that is a mean of squares of small differences is known far worse than to one unit: an error ε in answers of
order 1 changes squares of 1e-3 by 2ε/1e-3. Hager and Zhang (2005) take 1e-6."""


class Search(eqx.Module):
    """A line search under way along `direction` from the present params.

    Attributes:
        direction: (n,).
        slope: directional derivative at the present params.
        step: length to try next.
        low: largest length known to be too short, with the cost and slope there.
        high: smallest length known to be too long; inf while none is.
        rise: (cost there − cost here) / length at `high`.
        alike: how many lengths that were too long in a row had the same rise.
        trials: evaluations spent in this search.
    """

    direction: jax.Array
    slope: Scalar
    step: Scalar
    low: Scalar
    low_value: Scalar
    low_slope: Scalar
    high: Scalar
    rise: Scalar
    alike: jax.Array
    trials: jax.Array


class QuasiNewtonState(eqx.Module):
    """Everything at the present params, the history, and the search."""

    value: Scalar
    gradient: jax.Array
    parts: dict[str, Scalar]
    history: AbstractCurvature
    search: Search
    restarts: jax.Array
    ended: jax.Array


class AbstractQuasiNewton(AbstractOptimizer):
    """A quasi-Newton method, one evaluation a step.

    Each step evaluates one trial point. If it meets the weak Wolfe conditions (or Hager and Zhang's approximate ones,
    2005, where the decrease drowns in rounding), the params move there; if not, the bracket narrows (Lewis and Overton,
    2013, with cubic interpolation) and the params stay. The last trial of a search need only decrease the cost. A
    search that finds nothing is begun once more along the steepest descent with the curvature forgotten; then the
    optimizer has ended.

    Attributes:
        trials: evaluations allowed to one search, at least 2.
    """

    trials: eqx.AbstractVar[int]

    def curvature(self, like: jax.Array) -> AbstractCurvature:
        """The estimate before the first pair, for params (n,) like these."""
        raise NotImplementedError

    def init(self, problem: Problem, params: Params, key: Key) -> QuasiNewtonState:
        total, evaluation, gradient = value_and_gradient(problem, params)
        g = ravel_pytree(gradient)[0]
        zero = jnp.zeros((), jnp.int32)
        return QuasiNewtonState(total, g, evaluation.parts, self.curvature(g), _steepest(total, g), zero, zero)

    def redraw(self, problem: Problem, params: Params, state: QuasiNewtonState) -> QuasiNewtonState:
        total, evaluation, gradient = value_and_gradient(problem, params)
        g = ravel_pytree(gradient)[0]
        search = _begin(total, g, state.history)
        zero = jnp.zeros((), jnp.int32)
        return QuasiNewtonState(total, g, evaluation.parts, state.history, search, zero, zero)

    def step(
        self, problem: Problem, params: Params, state: QuasiNewtonState, key: Key
    ) -> tuple[Params, QuasiNewtonState, StepInfo]:
        flat, unravel = ravel_pytree(params)
        search = state.search
        trial = flat + search.step * search.direction
        value, evaluation, gradient = value_and_gradient(problem, unravel(trial))
        g = ravel_pytree(gradient)[0]
        slope = jnp.vdot(g, search.direction)

        finite = jnp.isfinite(value) & jnp.isfinite(slope)
        decreased = finite & (value <= state.value + SUFFICIENT * search.step * search.slope)
        rounding = jnp.finfo(flat.dtype).eps ** ROUNDING * jnp.abs(state.value)
        flat_enough = finite & (value <= state.value + rounding) & (slope <= (2 * SUFFICIENT - 1) * search.slope)
        curved = slope >= CURVATURE * search.slope
        going = state.ended == int(Ended.GOING)
        last = search.trials + 1 >= self.trials  # of a cost that falls in a straight line, any decrease is good
        accepted = going & ((curved & (decreased | flat_enough)) | (last & decreased & (value < state.value)))

        # The direction is −Hg, so that s·B·s = −(step)²·direction·g, without a matrix B. Where −Hg did not descend it
        # is −g, and this takes B for the identity.
        bent = -search.step * search.step * search.slope
        moved_history = _remember(state.history, search.step * search.direction, g - state.gradient, bent)
        arrived = QuasiNewtonState(
            value,
            g,
            evaluation.parts,
            moved_history,
            _begin(value, g, moved_history),
            jnp.zeros_like(state.restarts),
            _ended_at(value, g, flat),
        )
        searching = self._narrow(state, flat, value, slope, decreased, finite)
        after = select(accepted, arrived, select(going, searching, state))
        info = StepInfo(
            after.value,
            after.parts,
            accepted,
            evaluation.model_state,
            after.ended,
            {"gradient_norm": jnp.linalg.norm(after.gradient), "step_length": search.step},
        )
        return unravel(jnp.where(accepted, trial, flat)), after, info

    def _narrow(
        self, state: QuasiNewtonState, flat: jax.Array, value: Scalar, slope: Scalar, decreased: Scalar, finite: Scalar
    ) -> QuasiNewtonState:
        """The state after a trial that was not accepted: too long if the cost did not decrease, else too short."""
        search = state.search
        too_long = ~decreased
        cubic = _cubic_minimum(search.low, search.low_value, search.low_slope, search.step, value, slope)
        low = jnp.where(too_long, search.low, search.step)
        high = jnp.where(too_long, search.step, search.high)
        bracketed = jnp.isfinite(high)
        width = jnp.where(bracketed, high - low, jnp.zeros_like(low))
        middle = low + width / 2
        usable = finite & jnp.isfinite(cubic) & (cubic > low + 0.1 * width) & (cubic < high - 0.1 * width)
        # after three trials bisect, so that the bracket's width is sure to fall
        inside = jnp.where(usable & (search.trials < 3), cubic, middle)
        further = jnp.clip(jnp.where(jnp.isfinite(cubic), cubic, 2 * low), 2 * low, 10 * low)
        rise = (value - state.value) / search.step
        # In a straight line uphill while the gradient there still says downhill, or at a kink, whose gradient is large:
        # where it is small and says another thing at each place it is rounding.
        insists = jnp.abs(slope - search.slope) <= 0.2 * jnp.abs(search.slope)
        size = jnp.linalg.norm(state.gradient) * (1 + jnp.linalg.norm(flat))
        large = size > jnp.finfo(slope.dtype).eps ** 0.25 * (1 + jnp.abs(state.value))
        alike = (rise > 0) & (jnp.abs(rise - search.rise) < 0.2 * rise) & (insists | large)
        # lengths about the same have the same rise whatever it is: what counts is that ever shorter ones have it
        alike = alike & (search.step <= 0.6 * search.high)
        narrowed = Search(
            search.direction,
            search.slope,
            jnp.where(bracketed, inside, further),
            low,
            jnp.where(too_long, search.low_value, value),
            jnp.where(too_long, search.low_slope, slope),
            high,
            jnp.where(too_long, rise, search.rise),
            # once it is clear it stays clear, whatever rounding makes of ever shorter lengths
            jnp.where((search.alike >= STRAIGHT) | ~too_long, search.alike, jnp.where(alike, search.alike + 1, 0)),
            search.trials + 1,
        )
        spent = narrowed.trials >= self.trials
        again = QuasiNewtonState(
            state.value,
            state.gradient,
            state.parts,
            state.history.forgotten(),
            _steepest(state.value, state.gradient),
            state.restarts + 1,
            state.ended,
        )
        # No decrease along the steepest descent either. A cost that rises in a straight line where the slope says that
        # it falls has a wrong slope or a kink; rounding has no such regularity.
        wrong = (narrowed.alike >= STRAIGHT) | ~finite
        ended = jnp.where(wrong, jnp.int32(Ended.FAILED), jnp.int32(Ended.CONVERGED))
        final = eqx.tree_at(lambda s: s.ended, state, ended)
        keep = eqx.tree_at(lambda s: s.search, state, narrowed)
        return select(spent, select(state.restarts > 0, final, again), keep)


class LBFGS(AbstractQuasiNewton):
    """Limited-memory BFGS (Liu and Nocedal, 1989), one evaluation a step.

    Args:
        memory: curvature pairs kept.
        trials: evaluations allowed to one line search.

    >>> optimizer = LBFGS(memory=10)
    """

    memory: int = eqx.field(static=True)
    trials: int = eqx.field(static=True)

    def __init__(self, *, memory: int = 10, trials: int = 20):
        if not (isinstance(memory, int) and isinstance(trials, int) and memory >= 1 and trials >= 2):
            raise UserError(f"L-BFGS needs memory ≥ 1 and trials ≥ 2, not {memory!r} and {trials!r}")
        self.memory, self.trials = memory, trials

    def curvature(self, like: jax.Array) -> RecentPairs:
        pairs = jnp.zeros((self.memory, like.size), like.dtype)
        return RecentPairs(pairs, pairs, jnp.zeros((), jnp.int32))


class AbstractDense(AbstractQuasiNewton):
    """A quasi-Newton method that keeps a whole matrix of n × n numbers.

    Raises:
        UserError: when a phase begins with more than `LARGEST` params.
    """

    LARGEST: ClassVar[int] = 5_000

    def matrix(self, like: jax.Array) -> jax.Array:
        """The identity, (n, n)."""
        if like.size > self.LARGEST:
            name = type(self).__name__
            raise UserError(
                f"{name} keeps a matrix of {like.size:,} × {like.size:,} numbers for as many params",
                remedy=f"LBFGS() keeps a few vectors instead; {name} is for at most {self.LARGEST:,} params.",
            )
        return jnp.eye(like.size, dtype=like.dtype)


class BFGS(AbstractDense):
    """BFGS with the whole inverse Hessian (Nocedal and Wright, 2006, algorithm 6.1), one evaluation a step.

    Fewer evaluations than `LBFGS` where curvatures are very different, for n² numbers of memory and n² work a step.

    Args:
        trials: evaluations allowed to one line search.

    >>> optimizer = BFGS()
    """

    trials: int = eqx.field(static=True)

    def __init__(self, *, trials: int = 20):
        self.trials = _checked_trials(trials)

    def curvature(self, like: jax.Array) -> InverseHessian:
        return InverseHessian(self.matrix(like), jnp.zeros((), jnp.int32))


class SelfScaledBroyden(AbstractDense):
    """BFGS's family with factors that set wrong curvatures right at once, one evaluation a step.

    For the equations of physics, whose curvatures differ by many powers of ten, in float64 (Urbán, Stefanou and Pons,
    2025; the updates are Al-Baali's, 1998). Points that are drawn anew every few hundred steps (`redraw`) keep the
    matrix; fewer would let it learn noise.

    Args:
        trials: evaluations allowed to one line search.

    >>> optimizer = SelfScaledBroyden()
    """

    trials: int = eqx.field(static=True)

    def __init__(self, *, trials: int = 20):
        self.trials = _checked_trials(trials)

    def curvature(self, like: jax.Array) -> SelfScaledInverseHessian:
        return SelfScaledInverseHessian(self.matrix(like), jnp.zeros((), jnp.int32))


def _checked_trials(trials: int) -> int:
    if isinstance(trials, bool) or not (isinstance(trials, int) and trials >= 2):
        raise UserError(f"a line search needs trials ≥ 2, not {trials!r}")
    return trials


def _ended_at(value: Scalar, g: jax.Array, flat: jax.Array) -> jax.Array:
    """Converged when even a step as long as the params could not change the cost by a rounding unit."""
    eps = jnp.finfo(g.dtype).eps
    reach = jnp.linalg.norm(g) * (1 + jnp.linalg.norm(flat))
    return jnp.where(reach <= eps * eps * (1 + jnp.abs(value)), jnp.int32(Ended.CONVERGED), jnp.int32(Ended.GOING))


def _search(value: Scalar, g: jax.Array, direction: jax.Array, step: Scalar) -> Search:
    slope, zero, none = jnp.vdot(g, direction), jnp.zeros((), g.dtype), jnp.zeros((), jnp.int32)
    return Search(direction, slope, step, zero, value, slope, jnp.full((), jnp.inf, g.dtype), zero, none, none)


def _steepest(value: Scalar, g: jax.Array) -> Search:
    """First search: along −g, a first length of at most one unit."""
    norm = jnp.linalg.norm(g)
    return _search(value, g, -g, 1 / jnp.maximum(norm, 1))


def _begin(value: Scalar, g: jax.Array, history: AbstractCurvature) -> Search:
    """Search along the quasi-Newton direction; along −g while there is no pair or if it does not descend."""
    direction = -history.product(g)
    descends = (history.count > 0) & (jnp.vdot(g, direction) < 0)
    return select(descends, _search(value, g, direction, jnp.ones((), g.dtype)), _steepest(value, g))


def _remember(history: AbstractCurvature, s: jax.Array, y: jax.Array, bent: Scalar) -> AbstractCurvature:
    """The history with one more pair, if its curvature is clearly positive."""
    return select(is_positive(s, y), history.take(s, y, bent), history)


def _cubic_minimum(a: Scalar, fa: Scalar, da: Scalar, b: Scalar, fb: Scalar, db: Scalar) -> Scalar:
    """Minimizer of the cubic through two values and slopes (Nocedal and Wright, 2006, equation 3.59); NaN if none."""
    d1 = da + db - 3 * (fa - fb) / (a - b)
    root = jnp.sqrt(jnp.maximum(d1 * d1 - da * db, 0) * jnp.sign(b - a) ** 2) * jnp.sign(b - a)
    minimum = b - (b - a) * (db + root - d1) / (db - da + 2 * root)
    return jnp.where(d1 * d1 >= da * db, minimum, jnp.full_like(a, jnp.nan))

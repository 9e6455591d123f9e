"""The proximal point: gradient flow by backward Euler, each implicit equation solved without a matrix."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.linalg import Loop, Solved, conjugate_gradients
from thalweg.objective.problem import Evaluation, Problem
from thalweg.optim.optimizer import STRAIGHT, AbstractOptimizer, Ended, StepInfo, select
from thalweg.types import Key, Params, Scalar

FORCING = 1e-2
"""Residual, relative to its right-hand side, to which conjugate gradients solve one Newton equation."""

SUFFICIENT = 1e-4
"""Share of the decrease promised by the slope that a Newton step must bring (Armijo, 1966)."""

ROUNDING = 0.8
"""Relative change of the cost that may be rounding, as a power of the precision: 3e-13 in float64, 3e-6 in float32."""

HALVINGS = 30
"""Of a Newton step, after which no shorter one is tried."""


class ProximalState(eqx.Module):
    """Where the walk stands, and how far the implicit equation from there is solved.

    Attributes:
        total, parts, gradient_norm, time: at the params, that is at the last equation solved.
        gap: the part of the last step by which its equation is not solved.
        place: (n,), the present guess θ' at the next params.
        height: L(θ') + ‖θ' − θ‖²/(2η), whose slope at θ' the equation sets to 0.
        slope: that slope, (n,).
        direction: Newton's from `place`, (n,).
        length: share of the direction to try next.
        halvings: of this direction so far.
        rise: of the height by length at the last trial; `alike` counts how many in a row had the same positive one.
        products: with the Hessian since the phase began.
        ended: an `Ended`.
    """

    total: Scalar
    parts: dict[str, Scalar]
    gradient_norm: Scalar
    time: Scalar
    gap: Scalar
    place: jax.Array
    height: Scalar
    slope: jax.Array
    direction: jax.Array
    length: Scalar
    halvings: jax.Array
    rise: Scalar
    alike: jax.Array
    products: jax.Array
    ended: jax.Array


class ProximalPoint(AbstractOptimizer):
    """Proximal point method (Martinet, 1970; Rockafellar, 1976): gradient flow by backward Euler.

    The params move from θ to the θ' with θ' = θ − η∇L(θ'), where L(θ') + ‖θ' − θ‖²/(2η) is least if L is convex, or
    if its curvatures are above −1/η. No η is too large for stability: where L is convex the step never overshoots.

    The equation is solved by Newton's method with conjugate gradients on products with the Hessian, no matrix formed
    (Nocedal and Wright, 2006, section 7.1). One Newton step is one optimizer step, so that each makes one gradient and
    at most `iterations` products however hard the equation is; the guess is carried in the state, and the params stay
    until ‖θ' − θ + η∇L(θ')‖ ≤ tolerance · ‖θ' − θ‖ (Rockafellar's criterion B). Where L is convex the step is then
    known to that relative error. Beyond −1/η the equation may have several solutions, of which one is found.

    Args:
        step: η, flow time of one step, above 0.
        tolerance: relative to the step's length, below 1. Below about η·λ·(precision), λ the largest curvature,
            rounding forbids it, and the optimizer ends there.
        iterations: of conjugate gradients for each Newton step, at most.
        loop: how they are written down; UNROLLED for convolutions on a CPU.
    Raises:
        UserError: a number out of its range.

    >>> optimizer = ProximalPoint(10.0)
    """

    step_time: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    iterations: int = eqx.field(static=True)
    loop: Loop = eqx.field(static=True)

    def __init__(self, step: float, *, tolerance: float = 1e-3, iterations: int = 50, loop: Loop = Loop.COMPILED):
        self.step_time = checked_time(step, "ProximalPoint")
        if not (isinstance(tolerance, int | float) and 0 < tolerance < 1):
            raise UserError(f"the tolerance must be above 0 and below 1, not {tolerance!r}", where="ProximalPoint")
        if isinstance(iterations, bool) or not (isinstance(iterations, int) and iterations >= 1):
            raise UserError(f"conjugate gradients need at least 1 iteration, not {iterations!r}", where="ProximalPoint")
        if not isinstance(loop, Loop):
            raise UserError(f"loop is Loop.COMPILED or Loop.UNROLLED, not {loop!r}", where="ProximalPoint")
        self.tolerance, self.iterations, self.loop = float(tolerance), iterations, loop

    def init(self, problem: Problem, params: Params, key: Key) -> ProximalState:
        flat = ravel_pytree(params)[0]
        return self._begin(problem, params, jnp.zeros((), flat.dtype), jnp.zeros((), jnp.int32))

    def redraw(self, problem: Problem, params: Params, state: ProximalState) -> ProximalState:
        return self._begin(problem, params, state.time, state.products)

    def step(
        self, problem: Problem, params: Params, state: ProximalState, key: Key
    ) -> tuple[Params, ProximalState, StepInfo]:
        flat, unravel = ravel_pytree(params)
        trial = state.place + state.length * state.direction
        total, evaluation, gradient, curve = _linearized(problem, unravel, trial)
        moved = trial - flat
        slope = gradient + moved / self.step_time
        height = total + jnp.vdot(moved, moved) / (2 * self.step_time)

        finite = jnp.isfinite(height) & jnp.all(jnp.isfinite(slope))
        promised = jnp.vdot(state.slope, state.direction)  # below 0
        lower = height <= state.height + SUFFICIENT * state.length * promised
        # Where the decrease drowns in the height's rounding the slope still tells.
        noise = jnp.finfo(flat.dtype).eps ** ROUNDING * (jnp.abs(state.height) + jnp.abs(total))
        flatter = (height <= state.height + noise) & (jnp.linalg.norm(slope) < jnp.linalg.norm(state.slope))
        going = state.ended == int(Ended.GOING)
        better = going & finite & (lower | flatter)
        size = jnp.linalg.norm(moved)
        solved = better & (self.step_time * jnp.linalg.norm(slope) <= self.tolerance * size)

        # From the place solved the next equation begins, whose first guess is that place itself.
        uphill = jnp.where(solved, gradient, slope)
        # A trial that is not taken needs no new direction: of a zero right-hand side conjugate gradients make nothing.
        direction, products = self._newton(curve, jnp.where(better, uphill, 0))
        one, none = jnp.ones((), flat.dtype), jnp.zeros((), jnp.int32)
        gap = self.step_time * jnp.linalg.norm(slope) / jnp.where(size > 0, size, 1)
        done = jnp.where(_is_still(gradient, total, trial), jnp.int32(Ended.CONVERGED), state.ended)
        counted = state.products + products
        onward = ProximalState(
            state.total, state.parts, state.gradient_norm, state.time, state.gap,
            trial, height, slope, direction, one, none, 0 * one, none, counted, state.ended,
        )  # fmt: skip
        arrived = ProximalState(
            total, evaluation.parts, jnp.linalg.norm(gradient), state.time + self.step_time, gap,
            trial, total, gradient, direction, one, none, 0 * one, none, counted, done,
        )  # fmt: skip
        shorter = self._shorter(state, flat, height, finite)
        after = select(solved, arrived, select(better, onward, select(going, shorter, state)))
        figures = {
            "time": after.time,
            "gap": after.gap,
            "gradient_norm": after.gradient_norm,
            "products": after.products.astype(flat.dtype),
        }
        info = StepInfo(after.total, after.parts, solved, evaluation.model_state, after.ended, figures)
        return unravel(jnp.where(solved, trial, flat)), after, info

    def _begin(self, problem: Problem, params: Params, time: Scalar, products: jax.Array) -> ProximalState:
        flat, unravel = ravel_pytree(params)
        total, evaluation, gradient, curve = _linearized(problem, unravel, flat)
        one, none = jnp.ones((), flat.dtype), jnp.zeros((), jnp.int32)
        direction, count = self._newton(curve, gradient)
        ended = jnp.where(_is_still(gradient, total, flat), jnp.int32(Ended.CONVERGED), jnp.int32(Ended.GOING))
        return ProximalState(
            total, evaluation.parts, jnp.linalg.norm(gradient), time, 0 * one,
            flat, total, gradient, direction, one, none, 0 * one, none, products + count, ended,
        )  # fmt: skip

    def _newton(self, curve: Any, uphill: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The d with (H + I/η)d = −uphill, about, that descends; and the products it took."""
        found = conjugate_gradients(
            lambda v: curve(v) + v / self.step_time,
            -uphill,
            rtol=FORCING,
            iterations=self.iterations,
            loop=self.loop,
        )
        # Of negative curvature the iteration stops before it; at once, it has only the steepest descent to offer.
        bent = (found.result == int(Solved.NOT_POSITIVE)) & ~jnp.any(found.value != 0)
        usable = jnp.all(jnp.isfinite(found.value)) & ~bent
        return jnp.where(usable, found.value, -self.step_time * uphill), found.iterations + 1

    def _shorter(self, state: ProximalState, flat: jax.Array, height: Scalar, finite: Scalar) -> ProximalState:
        """Half the length after a trial that was no better, or the end."""
        rise = (height - state.height) / state.length
        alike = (rise > 0) & (jnp.abs(rise - state.rise) < 0.2 * rise)
        alike = jnp.where(state.alike >= STRAIGHT, state.alike, jnp.where(alike, state.alike + 1, 0))
        step = state.length * jnp.linalg.norm(state.direction)
        spent = (state.halvings + 1 >= HALVINGS) | (step <= jnp.finfo(flat.dtype).eps * jnp.linalg.norm(state.place))
        # Ever shorter steps that all rise in a straight line where the slope promises a fall: the slope is wrong.
        wrong = (alike >= STRAIGHT) | ~finite
        end = jnp.where(wrong, jnp.int32(Ended.FAILED), jnp.int32(Ended.CONVERGED))
        return eqx.tree_at(
            lambda s: (s.length, s.halvings, s.rise, s.alike, s.ended),
            state,
            (state.length / 2, state.halvings + 1, rise, alike, jnp.where(spent, end, state.ended)),
        )


def checked_time(step: float, where: str) -> float:
    """A step in flow time, above 0.

    Raises:
        UserError: it is none.
    """
    if isinstance(step, bool) or not (isinstance(step, int | float) and 0 < step < float("inf")):
        raise UserError(f"a step in flow time must be a number above 0, not {step!r}", where=where)
    return float(step)


def _linearized(problem: Problem, unravel: Any, flat: jax.Array) -> tuple[Scalar, Evaluation, jax.Array, Any]:
    """Total, evaluation, gradient (n,), and v -> H·v, from one pass over the cost."""

    def gradient(x: jax.Array) -> Any:
        (total, evaluation), slope = jax.value_and_grad(lambda p: problem.evaluate(unravel(p)), has_aux=True)(x)
        return slope, (total, evaluation)

    slope, curve, (total, evaluation) = jax.linearize(gradient, flat, has_aux=True)
    return total, evaluation, slope, curve


def _is_still(gradient: jax.Array, total: Scalar, flat: jax.Array) -> Scalar:
    """Whether even a step as long as the params could not change the cost by a rounding unit."""
    eps = jnp.finfo(gradient.dtype).eps
    return jnp.linalg.norm(gradient) * (1 + jnp.linalg.norm(flat)) <= eps * eps * (1 + jnp.abs(total))

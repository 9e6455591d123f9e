"""Gradient flow dθ/dt = −∇L(θ): by explicit Euler, which is gradient descent, and by adaptive Runge-Kutta methods."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError, kind_of
from thalweg.nn.solvers import AbstractSolver, Tsit5
from thalweg.objective.problem import Evaluation, Problem
from thalweg.optim.implicit import checked_time
from thalweg.optim.optimizer import AbstractOptimizer, Ended, StepInfo, going, select, value_and_gradient
from thalweg.types import Key, Params, Scalar

LARGEST_IMPLICIT = 2_000
"""Parameters beyond which an implicit solver's dense Hessian is refused: 32 MB in float64, and n³ work a step."""


class ExplicitEuler(AbstractOptimizer):
    """Gradient flow by explicit Euler: θ ← θ − η∇L(θ), which is gradient descent, with its flow time on the record.

    Stable where η is below 2/λ, λ the largest curvature, however slow the flow has become.

    Args:
        step: η, flow time of one step, above 0.
    Raises:
        UserError: a step that is not above 0.

    >>> optimizer = ExplicitEuler(0.01)
    """

    step_time: float = eqx.field(static=True)

    def __init__(self, step: float):
        self.step_time = checked_time(step, "ExplicitEuler")

    def init(self, problem: Problem, params: Params, key: Key) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def step(self, problem: Problem, params: Params, state: jax.Array, key: Key) -> tuple[Params, jax.Array, StepInfo]:
        total, evaluation, gradient = value_and_gradient(problem, params)
        after = jax.tree.map(lambda p, g: p - self.step_time * g, params, gradient)
        flat = ravel_pytree(gradient)[0]
        # of the place that was evaluated, as the total is
        time = self.step_time * state.astype(flat.dtype)
        figures = {"time": time, "gradient_norm": jnp.linalg.norm(flat)}
        return after, state + 1, StepInfo(total, evaluation.parts, True, evaluation.model_state, going(), figures)


class FlowState(eqx.Module):
    """Where the flow stands.

    Attributes:
        total, parts, gradient (n,): at the params.
        time: flow time since the phase began.
        step: flow time to try next.
        control: what the step size's controller remembers.
        ended: an `Ended`.
    """

    total: Scalar
    parts: dict[str, Scalar]
    gradient: jax.Array
    time: Scalar
    step: Scalar
    control: Any
    ended: jax.Array


class GradientFlow(AbstractOptimizer):
    """Gradient flow dθ/dt = −∇L(θ) followed to a tolerance by an adaptive Runge-Kutta method of Diffrax (Kidger, 2021).

    One step tries one step of the method, whose own error estimate takes or shortens it; the step size is carried
    between steps. `Tsit5` and `Dopri5` make six gradients a step; near a minimum stability holds their step near
    3.3/λ, λ the largest curvature. `Kvaerno5` takes far longer ones there, for six dense Hessians a step.

    For whom the path matters and not only its end. Where only the end matters other optimizers are far cheaper.

    Args:
        solver: an `nn.solvers` object.
        rtol, atol: tolerated error of a step, relative to each param and in its units, above 0.
        first: flow time to try first; None: a hundredth of the time in which the params would change by themselves.
    Raises:
        UserError: a number out of its range; when a phase begins, too many params for an implicit solver.

    >>> optimizer = GradientFlow(rtol=1e-6, atol=1e-8)
    """

    solver: AbstractSolver
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    first: float | None = eqx.field(static=True)

    def __init__(
        self,
        solver: AbstractSolver | None = None,
        *,
        rtol: float = 1e-3,
        atol: float = 1e-5,
        first: float | None = None,
    ):
        solver = Tsit5() if solver is None else solver
        if not isinstance(solver, AbstractSolver):
            raise UserError(
                f"a solver is needed, not {kind_of(solver)}", where="GradientFlow", remedy="nn.Tsit5(), for instance."
            )
        if not (0 < rtol < 1 and 0 < atol < float("inf")):
            raise UserError(f"tolerances rtol={rtol}, atol={atol}", where="GradientFlow", remedy="Small, and above 0.")
        self.solver, self.rtol, self.atol = solver, float(rtol), float(atol)
        self.first = None if first is None else checked_time(first, "GradientFlow")

    def init(self, problem: Problem, params: Params, key: Key) -> FlowState:
        flat = ravel_pytree(params)[0]
        if not self.solver.explicit and flat.size > LARGEST_IMPLICIT:
            name = type(self.solver).__name__
            raise UserError(
                f"{name} factorizes a Hessian of {flat.size:,} × {flat.size:,} numbers",
                where="GradientFlow",
                remedy=f"At most {LARGEST_IMPLICIT:,} params; ProximalPoint() forms no matrix.",
            )
        total, evaluation, gradient = value_and_gradient(problem, params)
        g = ravel_pytree(gradient)[0]
        if self.first is not None:
            step = jnp.asarray(self.first, flat.dtype)
        else:  # Hairer, Nørsett and Wanner (1993), II.4, their first guess
            scale = self.atol + self.rtol * jnp.abs(flat)
            size, speed = jnp.linalg.norm(flat / scale), jnp.linalg.norm(g / scale)
            bare = (size < 1e-5) | (speed < 1e-5)
            step = jnp.where(bare, 1e-6, 0.01 * size / jnp.where(bare, 1, speed)).astype(flat.dtype)
        one = jnp.ones((), flat.dtype)
        # As PIDController.init: no errors before the first, and no smallest step to be at.
        control = (one, one, jnp.zeros((), bool))
        return FlowState(total, evaluation.parts, g, 0 * one, step, control, _ended(g, total, flat))

    def redraw(self, problem: Problem, params: Params, state: FlowState) -> FlowState:
        total, evaluation, gradient = value_and_gradient(problem, params)
        g = ravel_pytree(gradient)[0]
        ended = _ended(g, total, ravel_pytree(params)[0])
        return FlowState(total, evaluation.parts, g, state.time, state.step, state.control, ended)

    def step(self, problem: Problem, params: Params, state: FlowState, key: Key) -> tuple[Params, FlowState, StepInfo]:
        import diffrax

        flat, unravel = ravel_pytree(params)

        def slope(place: jax.Array) -> tuple[Scalar, Evaluation, jax.Array]:
            total, evaluation, gradient = value_and_gradient(problem, unravel(place))
            return total, evaluation, ravel_pytree(gradient)[0]

        method = self.solver.build()
        if self.solver.explicit:
            place, error, (total, evaluation, gradient) = explicit_step(method, slope, flat, state.gradient, state.step)
        else:
            place, error = implicit_step(method, lambda x: -slope(x)[2], flat, state.step, self.rtol, self.atol)
            total, evaluation, gradient = slope(place)
        finite = jnp.isfinite(total) & jnp.all(jnp.isfinite(gradient))
        error = jnp.where(jnp.isfinite(error) & finite, error, jnp.inf)

        controller = diffrax.PIDController(rtol=self.rtol, atol=self.atol)
        order = (method.order(None) or 0) + 1  # of one step's error
        with jax.numpy_dtype_promotion("standard"):
            kept, begin, end, _, control, _ = controller.adapt_step_size(
                jnp.zeros_like(state.step), state.step, flat, place, None, error, order, state.control
            )
        as_before = lambda new, old: jnp.asarray(new, old.dtype)
        control = jax.tree.map(as_before, control, state.control)
        moving = state.ended == int(Ended.GOING)
        accepted = moving & kept & finite
        # A step too short to move anything: the flow cannot be followed through a place without a slope.
        stuck = state.step * jnp.linalg.norm(state.gradient) <= jnp.finfo(flat.dtype).eps * jnp.linalg.norm(flat)
        step = as_before(end - begin, state.step)
        arrived = FlowState(
            total, evaluation.parts, gradient, state.time + state.step, step, control, _ended(gradient, total, place)
        )
        stayed = eqx.tree_at(
            lambda s: (s.step, s.control, s.ended),
            state,
            (step, control, jnp.where(stuck, jnp.int32(Ended.FAILED), state.ended)),
        )
        after = select(accepted, arrived, select(moving, stayed, state))
        figures = {"time": after.time, "step": after.step, "gradient_norm": jnp.linalg.norm(after.gradient)}
        info = StepInfo(after.total, after.parts, accepted, evaluation.model_state, after.ended, figures)
        return unravel(jnp.where(accepted, place, flat)), after, info


def explicit_step(
    method: Any, slope: Any, start: jax.Array, gradient: jax.Array, step: Scalar
) -> tuple[jax.Array, jax.Array, Any]:
    """One step of an explicit method whose last stage is the next step's first, by its Butcher tableau.

    Written out, since a gradient with convolutions must not stand in a loop, as it does in Diffrax's own step.

    Args:
        method: Diffrax's, of which the coefficients are taken.
        slope: place (n,) -> (total, evaluation, gradient (n,)).
        start, gradient: the place and the gradient there, (n,).
        step: flow time.
    Returns:
        the next place (n,), the estimate of its error (n,), and the slope there.
    """
    tableau, stages = method.tableau, [gradient]
    assert tableau.fsal, "explicit solvers here evaluate the next place as their last stage"
    weigh = lambda weights: sum(float(w) * one for w, one in zip(weights, stages, strict=True) if w)
    place, found = start, None
    for row in tableau.a_lower:
        place = start - step * weigh(row)
        found = slope(place)
        stages.append(found[2])
    return place, step * weigh(tableau.b_error), found


def implicit_step(
    method: Any, field: Any, start: jax.Array, step: Scalar, rtol: float, atol: float
) -> tuple[jax.Array, jax.Array]:
    """One step of an implicit method of Diffrax: the next place (n,) and the estimate of its error, ∞ if unsolved.

    Args:
        method: Diffrax's.
        field: place (n,) -> its velocity (n,).
        start: the place, (n,).
        step: flow time.
        rtol, atol: to which each stage's equation is solved.
    """
    import diffrax
    import optimistix

    # One Hessian a stage. With Diffrax's default, one a step, half of all steps were rejected unsolved and the others
    # ten times as short (measured on Rosenbrock's valley).
    method = eqx.tree_at(lambda m: m.root_finder, method, optimistix.Chord(rtol=rtol, atol=atol))
    term, zero = diffrax.ODETerm(lambda t, y, args: field(y)), jnp.zeros_like(step)
    with jax.numpy_dtype_promotion("standard"):
        memory = method.init(term, zero, step, start, None)
        place, error, _, _, _ = method.step(term, zero, step, start, None, memory, made_jump=False)
    return place, error


def _ended(gradient: jax.Array, total: Scalar, flat: jax.Array) -> jax.Array:
    """Converged when even a step as long as the params could not change the cost by a rounding unit."""
    eps = jnp.finfo(gradient.dtype).eps
    still = jnp.linalg.norm(gradient) * (1 + jnp.linalg.norm(flat)) <= eps * eps * (1 + jnp.abs(total))
    return jnp.where(still, jnp.int32(Ended.CONVERGED), jnp.int32(Ended.GOING))

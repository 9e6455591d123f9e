"""Which Runge-Kutta method integrates an ordinary differential equation, and how one differentiates through it.

Small descriptions that a model file can name; Diffrax (Kidger, 2021), which does the work, is loaded at the first call.
"""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.types import PyTree

if TYPE_CHECKING:
    import diffrax


class AbstractSolver(eqx.Module):
    """A Runge-Kutta method with an estimate of its own error.

    Attributes:
        explicit: whether a step needs no equations to be solved; then the fastest decay limits the step.
    """

    explicit: ClassVar[bool]

    @abc.abstractmethod
    def build(self) -> "diffrax.AbstractSolver":
        """Diffrax's solver of that name."""


class Tsit5(AbstractSolver):
    """Tsitouras (2011), order 5(4), six evaluations a step: for smooth fields that are not stiff.

    >>> Tsit5().explicit
    True
    """

    explicit: ClassVar[bool] = True

    def build(self) -> "diffrax.AbstractSolver":
        import diffrax

        return diffrax.Tsit5()


class Dopri5(AbstractSolver):
    """Dormand and Prince (1980), order 5(4), six evaluations a step; elsewhere dopri5, RK45 or ode45."""

    explicit: ClassVar[bool] = True

    def build(self) -> "diffrax.AbstractSolver":
        import diffrax

        return diffrax.Dopri5()


class Kvaerno5(AbstractSolver):
    """Kværnø (2004), order 5(4), implicit and L-stable, seven stages: for stiff fields.

    A step factorizes the field's Jacobian: it costs more than an explicit one, and may be thousands of times as long.
    """

    explicit: ClassVar[bool] = False

    def build(self) -> "diffrax.AbstractSolver":
        import diffrax

        return diffrax.Kvaerno5()


class Integrator(Protocol):
    """What an adjoint sees of a model: `given` is all that can be differentiated in, (field, y, times, drive)."""

    solver: AbstractSolver

    def integrate(self, given: PyTree) -> tuple[jax.Array, "Course"]:
        """States (T, d), and what has no gradient."""
        ...

    def slope(self, given: PyTree) -> Callable[[Any, jax.Array], jax.Array]:
        """The field with its input filled in: time and state (d,) to (d,)."""
        ...


class Course(eqx.Module):
    """How a solver went.

    Attributes:
        reached, stopped, steps, rejected: as of `Solution`.
        path: times (n + 1,) and states (n + 1, d) between which it stepped, filled up; None if nobody asked for them.
    """

    reached: jax.Array
    stopped: jax.Array
    steps: jax.Array
    rejected: jax.Array
    path: tuple[jax.Array, jax.Array] | None


class AbstractAdjoint(eqx.Module):
    """How the gradient comes back through the solver's steps.

    Attributes:
        stores: whether it needs the `Course.path`.
    """

    stores: ClassVar[bool] = False

    @abc.abstractmethod
    def build(self) -> "diffrax.AbstractAdjoint":
        """Diffrax's adjoint of that name."""

    def differentiable(self, model: Integrator, given: PyTree) -> tuple[jax.Array, Course]:
        """`model.integrate(given)`; here as JAX differentiates it."""
        return model.integrate(given)


class CheckpointedAdjoint(AbstractAdjoint):
    """Differentiates the steps that were made, storing some and computing the others again (Stumm and Walther, 2010).

    The exact gradient of what was computed, in reverse mode only.

    Args:
        checkpoints: states that are stored; None: about √(2 · max_steps), with which no step is computed more than
            a few times.
    Raises:
        UserError: fewer than 1.
    """

    checkpoints: int | None = eqx.field(static=True)

    def __init__(self, checkpoints: int | None = None):
        if checkpoints is not None and checkpoints < 1:
            raise UserError(f"{checkpoints} checkpoints", where="CheckpointedAdjoint", remedy="At least 1, or None.")
        self.checkpoints = checkpoints

    def build(self) -> "diffrax.AbstractAdjoint":
        import diffrax

        return diffrax.RecursiveCheckpointAdjoint(self.checkpoints)


class DirectAdjoint(AbstractAdjoint):
    """Differentiates the steps by whatever mode is asked for: slower in reverse, and the only one for `jax.jvp`.

    Matrix-free Levenberg-Marquardt needs it.
    """

    def build(self) -> "diffrax.AbstractAdjoint":
        import diffrax

        return diffrax.DirectAdjoint()


class ForwardSensitivities(AbstractAdjoint):
    """Carries the state's derivatives along with the state, as CVODES does (Hindmarsh et al., 2005): for small models.

    The exact gradient of what was computed, by forward mode inside and for `jax.grad` outside. Its cost grows with
    the number of parameters and hardly with that of measurements: Levenberg-Marquardt, which wants the derivative of
    every measured value, gets all of them from one solution. With 130 parameters and 120 values a trajectory that took
    half the time of `CheckpointedAdjoint` and a quarter of its compiling (measured).
    """

    def build(self) -> "diffrax.AbstractAdjoint":
        import diffrax

        return diffrax.ForwardMode()

    def differentiable(self, model: Integrator, given: PyTree) -> tuple[jax.Array, Course]:
        moving, rest = eqx.partition(given, eqx.is_inexact_array)
        return _by_sensitivities(moving, rest, model)


@eqx.filter_custom_vjp
def _by_sensitivities(moving: PyTree, rest: PyTree, model: Integrator) -> Any:
    return model.integrate(eqx.combine(moving, rest))


@_by_sensitivities.def_fwd
def _sensitivities(perturbed: PyTree, moving: PyTree, rest: PyTree, model: Integrator) -> Any:
    """The solution, and the Jacobian (states.shape + (n,)) in the numbers that are differentiated in, and in no others.

    `perturbed` says which leaves these are.
    """
    asked, other = eqx.partition(moving, perturbed)
    flat, unravel = ravel_pytree(asked)

    def states(flat: jax.Array) -> tuple[jax.Array, Any]:
        found = model.integrate(eqx.combine(unravel(flat), other, rest))
        return found[0], found

    jacobian, found = jax.jacfwd(states, has_aux=True)(flat)
    return found, jacobian


@_by_sensitivities.def_bwd
def _pulled_back(
    jacobian: jax.Array, cotangent: Any, perturbed: PyTree, moving: PyTree, rest: PyTree, model: Integrator
) -> PyTree:
    asked = eqx.filter(moving, perturbed)
    slope = cotangent[0]
    if slope is None:  # nothing depends on the states
        return jax.tree.map(jnp.zeros_like, asked)
    return ravel_pytree(asked)[1](jnp.tensordot(slope, jacobian, axes=slope.ndim))


class DiscreteAdjoint(AbstractAdjoint):
    """Goes back step by step through the Runge-Kutta formulas, from states that were stored (Hager, 2000).

    The exact gradient of what was computed, as of `CheckpointedAdjoint`, in reverse mode only; compiled in half the
    time and a fifth faster on small networks (measured), for the memory of `max_steps` states. Explicit solvers only.
    Gradients in the times are refused.
    """

    stores: ClassVar[bool] = True

    def build(self) -> "diffrax.AbstractAdjoint":
        import diffrax

        return diffrax.ForwardMode()  # forwards it is a plain loop

    def differentiable(self, model: Integrator, given: PyTree) -> tuple[jax.Array, Course]:
        if not model.solver.explicit:
            name = type(model.solver).__name__
            raise UserError(f"{name} is implicit", where="DiscreteAdjoint", remedy="Take CheckpointedAdjoint().")
        moving, rest = eqx.partition(given, eqx.is_inexact_array)
        return _by_steps(moving, rest, model)


@eqx.filter_custom_vjp
def _by_steps(moving: PyTree, rest: PyTree, model: Integrator) -> Any:
    return model.integrate(eqx.combine(moving, rest))


@_by_steps.def_fwd
def _stepped(perturbed: PyTree, moving: PyTree, rest: PyTree, model: Integrator) -> Any:
    if any(jax.tree.leaves(perturbed[2])):
        raise UserError("a gradient in the times", where="DiscreteAdjoint", remedy="Take CheckpointedAdjoint().")
    found = model.integrate(eqx.combine(moving, rest))
    return found, found[1]


@_by_steps.def_bwd
def _stepped_back(
    course: Course, cotangent: Any, perturbed: PyTree, moving: PyTree, rest: PyTree, model: Integrator
) -> PyTree:
    asked, other = eqx.partition(moving, perturbed)
    slope = cotangent[0]
    if slope is None:
        return jax.tree.map(jnp.zeros_like, asked)
    times, (when, states) = moving[2], course.path or (None, None)
    assert when is not None
    assert states is not None
    steps: Any = model.solver.build()
    tableau, interpolation = steps.tableau, steps.interpolation_cls

    def step(asked: PyTree, y: jax.Array, t0: jax.Array, t1: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The state after the step, and the states (T, d) at all times as if they lay within it."""
        field, h = model.slope(eqx.combine(asked, other, rest)), t1 - t0
        weigh = lambda weights, stages: sum(float(w) * k for w, k in zip(weights, stages, strict=False) if w)
        stages = [h * field(t0, y)]
        for row, c in zip(tableau.a_lower, tableau.c, strict=True):
            stages.append(h * field(t0 + c * h, y + weigh(row, stages)))
        after = y + weigh(tableau.b_sol, stages)
        between = interpolation(t0=t0, t1=t1, y0=y, y1=after, k=jnp.stack(stages))
        return after, jax.vmap(between.evaluate)(jnp.clip(times, t0, t1))

    def back(i: jax.Array, carry: tuple[jax.Array, PyTree]) -> tuple[jax.Array, PyTree]:
        later, total = carry
        j = course.steps - 1 - i
        # Where an input jumps, a step ends one number before and the next begins one after: Diffrax keeps the latter.
        begin, end = when[j], jnp.nextafter(jnp.nextafter(when[j + 1], -jnp.inf), -jnp.inf)
        within = course.reached & (times > begin) & (times <= when[j + 1])
        _, pull = jax.vjp(lambda asked, y: step(asked, y, begin, end), asked, states[j])
        more, earlier = pull((later, jnp.where(within[:, None], slope, 0)))
        return earlier, jax.tree.map(jnp.add, total, more)

    held = jnp.where(course.reached[:, None], 0, slope).sum(axis=0)  # later ones are the last state that was reached
    first = jnp.where((times <= when[0])[:, None], slope, 0).sum(axis=0)
    start = held, jax.tree.map(jnp.zeros_like, asked)
    earlier, total = jax.lax.fori_loop(0, course.steps, back, start)
    field, y, none, drive = total
    return field, None if y is None else earlier + first, none, drive


class BacksolveAdjoint(AbstractAdjoint):
    """Integrates the continuous adjoint equation backwards (Pontryagin, 1962; Chen et al., 2018): constant memory.

    The gradient of the exact solution up to the solver's error, which the tolerances set; wrong where going back in
    time is unstable, as in every field that dissipates fast.
    """

    def build(self) -> "diffrax.AbstractAdjoint":
        import diffrax

        return diffrax.BacksolveAdjoint()

"""Neural ordinary differential equations: learned, partly known, second-order and driven systems (Chen et al., 2018).

A field is anything that is called as `field(t, y, u)`: time (), state (d,), input (k,) or None, to dy/dt (d,). A known
law is a function or a module with constants of its own, trained like all else; networks become fields here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.nn.solvers import AbstractAdjoint, AbstractSolver, CheckpointedAdjoint, Course, Tsit5
from thalweg.nn.trajectories import AbstractInput, Trajectory
from thalweg.types import Finding, Key, Model, Scalar

Field = Callable[[jax.Array, jax.Array, jax.Array | None], jax.Array]
Given = tuple[Field, jax.Array, jax.Array, AbstractInput | None]
"""All that a solution can be differentiated in: field, initial state, times, input."""

STIFF = 2.0
"""Mean step times fastest decay from which stability, not accuracy, sets an explicit solver's step.

Explicit methods of order 5 are stable up to about 3.3 (Hairer and Wanner, 1996, section IV.2); a step that the
tolerances set stays well below.
"""


class NeuralField(eqx.Module):
    """A network as a field: of the state, followed by the input where there is one, and by the time if it is asked for.

    Args:
        network: (d,), (d + k,) or one more, to (d,).
        time: whether the network sees the time; without, the law is the same at all times.

    >>> from thalweg.nn.mlp import MLP
    >>> field = NeuralField(MLP(3, 2, width=8, depth=1, key=jax.random.key(0)))
    >>> field(jnp.array(0.0), jnp.ones(2), jnp.ones(1)).shape
    (2,)
    """

    network: Model
    time: bool = eqx.field(static=True)

    def __init__(self, network: Model, *, time: bool = False):
        self.network, self.time = network, time

    def __call__(self, t: jax.Array, y: jax.Array, u: jax.Array | None) -> jax.Array:
        """Time (), state (d,), input (k,) or None, to (d,)."""
        seen = [y] if u is None else [y, u]
        return self.network(jnp.concatenate([*seen, t[None]] if self.time else seen))


class HybridField(eqx.Module):
    """A known mechanism plus what a network must add to it (Rackauckas et al., 2020).

    Args:
        mechanism: the known part, a field.
        correction: the learned part, a field.
    Raises:
        UserError: at the call, the two give different shapes.
    """

    mechanism: Field
    correction: Field

    def __call__(self, t: jax.Array, y: jax.Array, u: jax.Array | None) -> jax.Array:
        """Time (), state (d,), input (k,) or None, to (d,)."""
        known, learned = self.mechanism(t, y, u), self.correction(t, y, u)
        if jnp.shape(known) != jnp.shape(learned):
            raise UserError(
                f"a mechanism of shape {jnp.shape(known)} and a correction of shape {jnp.shape(learned)}",
                where="HybridField",
                remedy="Both are the derivative of the whole state.",
            )
        return known + learned


class SecondOrderField(eqx.Module):
    """Positions that accelerate: the state is (positions, velocities), d/dt of it (velocities, acceleration).

    Args:
        acceleration: a field (t, state (2d,), u) -> (d,).
    Raises:
        UserError: at the call, a state of odd size.

    >>> oscillator = SecondOrderField(lambda t, y, u: -y[:1])
    >>> oscillator(jnp.array(0.0), jnp.array([1.0, 0.5]), None)
    Array([ 0.5, -1. ], dtype=float32)
    """

    acceleration: Field

    def __call__(self, t: jax.Array, y: jax.Array, u: jax.Array | None) -> jax.Array:
        """Time (), state (2d,), input (k,) or None, to (2d,)."""
        if y.size % 2:
            raise UserError(f"a state of {y.size} components", where="SecondOrderField", remedy="As many velocities.")
        return jnp.concatenate([y[y.size // 2 :], self.acceleration(t, y, u)])


class InitialStates(eqx.Module):
    """Unknown initial states, trained with the rest: the number of a trajectory to its state.

    Args:
        guess: where training starts, shape (n, d), finite.
    Raises:
        UserError: another shape, or a value that is not finite; at the call, a number out of range.

    >>> InitialStates(jnp.array([[1.0, 2.0], [3.0, 4.0]]))(1)
    Array([3., 4.], dtype=float32)
    """

    states: jax.Array

    def __init__(self, guess: Any):
        states = jnp.asarray(guess)
        if states.ndim != 2 or not jnp.issubdtype(states.dtype, jnp.floating) or not bool(jnp.isfinite(states).all()):
            what = f"initial states of shape {states.shape} and type {states.dtype}"
            raise UserError(what, where="InitialStates", remedy="Finite real numbers, (trajectories, components).")
        self.states = states

    def __call__(self, number: Any) -> jax.Array:
        """A whole number () to (d,)."""
        number = jnp.asarray(number)
        if number.shape != () or not jnp.issubdtype(number.dtype, jnp.integer):
            raise UserError(
                f"a trajectory's number of shape {number.shape} and type {number.dtype}",
                where="InitialStates",
                remedy="With unknown initial states, Trajectory(number, times) names one of them.",
            )
        return self.states.at[number].get(mode="fill", fill_value=jnp.nan)  # never that of a neighbour


class Solution(eqx.Module):
    """One trajectory and how the solver fared.

    Attributes:
        states: at the times asked for, shape (T, d); from where the solver stopped, the last state it reached, or NaN
            where the field is not finite there.
        reached: which times it reached, shape (T,).
        stopped: the time at which it stopped, (); the last one if all went well.
        steps, rejected: steps accepted, and steps made again with a smaller size, ().
    """

    states: jax.Array
    reached: jax.Array
    stopped: Scalar
    steps: jax.Array
    rejected: jax.Array


class NeuralODE(eqx.Module):
    """The trajectory of dy/dt = field(t, y, u(t)) at irregular times, differentiable in all that it is made of.

    Args:
        field: a field; see the top of this module.
        initial: turns `Trajectory.initial` into the state at the first time; None: it is the state.
        solver: the Runge-Kutta method.
        rtol, atol: tolerated error of a step, relative to the state and in its units, > 0.
        max_steps: at which a trajectory is given up: later states are the last one reached, and `findings` says so.
        adjoint: how gradients are taken.
    Raises:
        UserError: tolerances or a limit that are not positive; at the call, a state that is no vector of floating-point
            numbers, or a field whose value is not of its shape.

    >>> decay = NeuralODE(lambda t, y, u: -y, rtol=1e-6, atol=1e-8)
    >>> decay(Trajectory([1.0], [0.0, 1.0, 2.0]))[2, 0]  # e⁻²
    Array(0.1353..., dtype=float32)
    """

    field: Field
    initial: Callable[[Any], jax.Array] | None
    solver: AbstractSolver
    adjoint: AbstractAdjoint
    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        field: Field,
        *,
        initial: Callable[[Any], jax.Array] | None = None,
        solver: AbstractSolver | None = None,
        rtol: float = 1e-4,
        atol: float = 1e-6,
        max_steps: int = 4_096,
        adjoint: AbstractAdjoint | None = None,
    ):
        if not (0 < rtol < 1 and 0 < atol < float("inf")):
            raise UserError(f"tolerances rtol={rtol}, atol={atol}", where="NeuralODE", remedy="Small, and above 0.")
        if max_steps < 1:
            raise UserError(f"a limit of {max_steps} steps", where="NeuralODE", remedy="Thousands are usual.")
        self.field, self.initial = field, initial
        self.solver = Tsit5() if solver is None else solver
        self.adjoint = CheckpointedAdjoint() if adjoint is None else adjoint
        self.rtol, self.atol, self.max_steps = float(rtol), float(atol), int(max_steps)

    def __call__(self, x: Trajectory | tuple[Any, ...], *, key: Key | None = None) -> jax.Array:
        """One trajectory, or a tuple (initial, times[, drive]), to its states (T, d)."""
        return self.solve(x).states

    def solve(self, x: Trajectory | tuple[Any, ...]) -> Solution:
        """The same, with how the solver fared."""
        # What is differentiated in is handed over; what is left of the model holds settings only.
        bare = eqx.tree_at(lambda m: (m.field, m.initial), self, (None, None), is_leaf=lambda leaf: leaf is None)
        states, course = self.adjoint.differentiable(bare, (self.field, *self._start(x)))
        return Solution(states, course.reached, course.stopped, course.steps, course.rejected)

    def slope(self, given: Given) -> Callable[[Any, jax.Array], jax.Array]:
        """Field, initial state, times and input to the field alone with its input filled in."""
        driven = _Driven(given[0], given[3])
        return lambda t, y: driven(t, y, None)

    def integrate(self, given: Given) -> tuple[jax.Array, Course]:
        """Field, initial state, times and input to the states (T, d), and to how the solver went."""
        import diffrax

        field, y, times, drive = given
        driven = _Driven(field, drive)
        controller = diffrax.PIDController(rtol=self.rtol, atol=self.atol)
        if drive is not None and drive.jumps is not None:
            controller = diffrax.ClipStepSizeController(controller, jump_ts=drive.jumps)
        asked: Any = diffrax.SubSaveAt(ts=times, t1=True)  # t1: where it stopped, behind the times that it reached
        if self.adjoint.stores:
            asked = [asked, diffrax.SubSaveAt(t0=True, steps=True)]
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(driven),
            self.solver.build(),
            times[0],
            times[-1],
            dt0=None,
            y0=y,
            saveat=diffrax.SaveAt(subs=asked),
            stepsize_controller=controller,
            adjoint=self.adjoint.build(),
            max_steps=self.max_steps,
            throw=False,
        )
        assert found.ts is not None
        assert found.ys is not None
        at, saved, path = found.ts, found.ys, None
        if self.adjoint.stores:
            (at, saved), path = zip(at, saved, strict=True)
        last = jnp.sum(jnp.isfinite(at)) - 1  # rows that were never written hold ∞
        reached = jnp.arange(times.size) < last
        # Held where the solver gave up; but a field that has no value there (NaN weights) must not look like rest.
        slope = jax.lax.stop_gradient(driven(at[last], saved[last], None))
        held = jnp.where(jnp.isfinite(slope).all(), saved[last], jnp.nan)
        states = jnp.where(reached[:, None], saved[:-1], held)
        steps, rejected = found.stats["num_accepted_steps"], found.stats["num_rejected_steps"]
        return states, Course(reached, jax.lax.stop_gradient(at[last]), steps, rejected, path)

    def findings(self, x: Trajectory | tuple[Any, ...]) -> tuple[Finding, ...]:
        """What a verdict should say of the solver on these trajectories, one or many: see `solver_report`."""
        return solver_report(self, x).findings

    def _start(self, x: Trajectory | tuple[Any, ...]) -> tuple[jax.Array, jax.Array, AbstractInput | None]:
        """Initial state, times and input, all of the state's dtype."""
        x = Trajectory(*x) if isinstance(x, tuple) else x
        y = jnp.asarray(x.initial) if self.initial is None else self.initial(x.initial)
        if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.floating) or jnp.ndim(x.times) != 1:
            raise UserError(
                f"an initial state of shape {y.shape} and type {y.dtype} at times of shape {jnp.shape(x.times)}",
                where="NeuralODE",
                remedy="A vector of real numbers, times (T,). Map it over trajectories: jax.vmap(model)(x).",
            )
        drive = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(y.dtype), x.drive)
        return y, jnp.asarray(x.times).astype(y.dtype), drive


class _Driven(eqx.Module):
    """The field with its input filled in, as Diffrax calls it."""

    field: Field
    drive: AbstractInput | None

    def __call__(self, t: Any, y: jax.Array, args: None) -> jax.Array:
        slope = self.field(jnp.asarray(t, y.dtype), y, None if self.drive is None else self.drive(t))
        if slope.shape != y.shape or slope.dtype != y.dtype:
            raise UserError(
                f"the field of a state {y.shape} in {y.dtype} is {slope.shape} in {slope.dtype}",
                where="NeuralODE",
                remedy="A field gives the time derivative of each component of the state.",
            )
        return slope


# ------------------------------------------------------------------------------------------------------------- findings
@dataclass(frozen=True, eq=False)
class SolverReport:
    """How the solver fared on n trajectories.

    Attributes:
        steps, rejected: of each trajectory, shape (n,).
        finished: whether it reached the last time, (n,).
        stopped: where it stopped, (n,).
        stiffness: mean step times the fastest decay rate −Re λ of the field's Jacobian at the states that were reached,
            (n,); from 2 on, an explicit solver's step is set by stability. NaN where no step was made.
        findings: `step-limit`, `stiff-field`.
    """

    steps: np.ndarray
    rejected: np.ndarray
    finished: np.ndarray
    stopped: np.ndarray
    stiffness: np.ndarray
    findings: tuple[Finding, ...]


def solver_report(model: NeuralODE, x: Trajectory | tuple[Any, ...]) -> SolverReport:
    """Solve one trajectory, or n with a leading axis, and look at steps, failures and stiffness.

    Args:
        model: of one trajectory.
        x: what it is called with; leading axis n for several.

    >>> report = solver_report(NeuralODE(lambda t, y, u: -1e6 * y, max_steps=100), Trajectory([1.0], [0.0, 1.0]))
    >>> [finding.name for finding in report.findings]
    ['step-limit', 'stiff-field']
    """
    given = Trajectory(*x) if isinstance(x, tuple) else x
    one = jnp.ndim(given.times) == 1
    many = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None] if one else jnp.asarray(leaf), given)
    solved, jacobians = _looked_at(model, many)
    begin, end = np.asarray(many.times, np.float64)[:, [0, -1]].T
    steps, stopped, reached = np.asarray(solved.steps), np.asarray(solved.stopped, np.float64), np.array(solved.reached)
    reached[:, 0] = True  # the first time needs no step
    slopes = np.asarray(jacobians, np.float64)
    usable = reached & np.isfinite(slopes).all(axis=(2, 3))
    rates = -np.linalg.eigvals(np.where(usable[..., None, None], slopes, 0)).real.min(axis=2)
    fastest = np.where(usable, rates, 0).max(axis=1)
    stiffness = fastest * (stopped - begin) / np.where(steps > 0, steps, np.nan)
    finished = np.asarray(solved.reached)[:, -1]
    findings = []
    stiff = model.solver.explicit & (stiffness >= STIFF)
    if not finished.all():
        first = int(np.argmin(finished))
        findings.append(
            Finding(
                "step-limit",
                f"{np.sum(~finished)} of {len(finished)} trajectories ran into the limit of {model.max_steps:,} steps: "
                f"trajectory {first} at t = {stopped[first]:.4g} on the way to {end[first]:.4g}",
                "Its later states are held at the last one reached, so costs and gradients there mean nothing. "
                "Raise max_steps, loosen the tolerances, take Kvaerno5() for a stiff field, or keep the field tame: "
                "smaller initial weights, a lower learning rate.",
            )
        )
    if stiff.any():
        worst = int(np.nanargmax(stiffness))
        findings.append(
            Finding(
                "stiff-field",
                f"the mean step of {type(model.solver).__name__} times the fastest decay is {stiffness[worst]:.2g} on "
                f"trajectory {worst} ({steps[worst]:,} steps): stability sets the step, not accuracy",
                "Take solver=Kvaerno5(), or bound the rates that the network can learn.",
            )
        )
    return SolverReport(steps, np.asarray(solved.rejected), finished, stopped, stiffness, tuple(findings))


@eqx.filter_jit
def _looked_at(model: NeuralODE, x: Trajectory) -> tuple[Solution, jax.Array]:
    """Solutions, leading axis n, and the field's Jacobians at their states, (n, T, d, d)."""

    def one(x: Trajectory) -> tuple[Solution, jax.Array]:
        solved = model.solve(x)
        _, times, drive = model._start(x)
        driven = _Driven(model.field, drive)
        slope = lambda t, state: jax.jacfwd(lambda z: driven(t, z, None))(state)
        return solved, jax.vmap(slope)(times, solved.states)

    return jax.vmap(one)(x)

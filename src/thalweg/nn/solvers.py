"""Which Runge-Kutta method integrates an ordinary differential equation, and how one differentiates through it.

Small descriptions that a model file can name; Diffrax (Kidger, 2021), which does the work, is loaded at the first call.
"""

import abc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

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


class AbstractAdjoint(eqx.Module):
    """How the gradient comes back through the solver's steps."""

    @abc.abstractmethod
    def build(self) -> "diffrax.AbstractAdjoint":
        """Diffrax's adjoint of that name."""

    def differentiable(self, solve: Callable[[PyTree], tuple[jax.Array, PyTree]], given: PyTree) -> Any:
        """`solve(given)`, which is (states, what has no gradient); here as JAX differentiates it."""
        return solve(given)


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

    def differentiable(self, solve: Callable[[PyTree], tuple[jax.Array, PyTree]], given: PyTree) -> Any:
        moving, rest = eqx.partition(given, eqx.is_inexact_array)
        return _by_sensitivities(moving, rest, solve)


@eqx.filter_custom_vjp
def _by_sensitivities(moving: PyTree, rest: PyTree, solve: Callable[[PyTree], tuple[jax.Array, PyTree]]) -> Any:
    return solve(eqx.combine(moving, rest))


@_by_sensitivities.def_fwd
def _sensitivities(perturbed: PyTree, moving: PyTree, rest: PyTree, solve: Callable[[PyTree], Any]) -> Any:
    """The solution, and the Jacobian (states.shape + (n,)) in the numbers that are differentiated in, and in no others.

    `perturbed` says which leaves these are.
    """
    asked, other = eqx.partition(moving, perturbed)
    flat, unravel = ravel_pytree(asked)

    def states(flat: jax.Array) -> tuple[jax.Array, Any]:
        found = solve(eqx.combine(unravel(flat), other, rest))
        return found[0], found

    jacobian, found = jax.jacfwd(states, has_aux=True)(flat)
    return found, jacobian


@_by_sensitivities.def_bwd
def _pulled_back(
    jacobian: jax.Array, cotangent: Any, perturbed: PyTree, moving: PyTree, rest: PyTree, solve: Callable[[PyTree], Any]
) -> PyTree:
    asked = eqx.filter(moving, perturbed)
    slope = cotangent[0]
    if slope is None:  # nothing depends on the states
        return jax.tree.map(jnp.zeros_like, asked)
    return ravel_pytree(asked)[1](jnp.tensordot(slope, jacobian, axes=slope.ndim))


class BacksolveAdjoint(AbstractAdjoint):
    """Integrates the continuous adjoint equation backwards (Pontryagin, 1962; Chen et al., 2018): constant memory.

    The gradient of the exact solution up to the solver's error, which the tolerances set; wrong where going back in
    time is unstable, as in every field that dissipates fast.
    """

    def build(self) -> "diffrax.AbstractAdjoint":
        import diffrax

        return diffrax.BacksolveAdjoint()

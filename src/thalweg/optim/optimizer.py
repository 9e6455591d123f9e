"""The third abstraction: an optimizer, one pure step on a Problem."""

import enum
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError, kind_of
from thalweg.objective.objective import Objective
from thalweg.objective.problem import Evaluation, Problem
from thalweg.types import Finding, Key, Params, PyTree, Scalar


class Ended(enum.IntEnum):
    """Whether an optimizer can go on, carried as an int32 array so that each member of a batch of runs has its own."""

    GOING = 0
    CONVERGED = 1
    """No further decrease can be resolved in this precision."""
    FAILED = 2
    """The search found no decrease where the slope promises one: the cost or its gradient is wrong or not smooth."""


STRAIGHT = 4
"""Ever shorter steps in a row with the same rise after which a cost that should fall is known to rise in a straight
line: its derivative is wrong, or the place a kink."""


class StepInfo(eqx.Module):
    """What one step did.

    Attributes:
        total: objective at the params that the step evaluated last and kept, shape ().
        parts: mean cost by term, there.
        accepted: whether the params moved to an evaluated point; model_state is committed only then.
        model_state: running statistics after the batch, or None.
        ended: an `Ended`, int32, shape ().
        figures: anything worth recording, scalars.
    """

    total: Scalar
    parts: dict[str, Scalar]
    accepted: bool | Scalar
    model_state: PyTree
    ended: Scalar
    figures: dict[str, Scalar]


class AbstractOptimizer(eqx.Module):
    """One pure step on a Problem; whatever happens between steps is in the state.

    A step makes a fixed number of evaluations, normally one. Line search and accept/reject are state carried from step
    to step and selected by `where`: never a loop or `cond` around a gradient, which XLA's CPU convolutions punish
    twenty-fold. So a step also runs inside a scan, under `vmap`, and on many devices.
    """

    def init(self, problem: Problem, params: Params, key: Key) -> PyTree:
        """The state before the first step; may evaluate the problem."""
        raise NotImplementedError

    def step(self, problem: Problem, params: Params, state: PyTree, key: Key) -> tuple[Params, PyTree, StepInfo]:
        """One step."""
        raise NotImplementedError

    def redraw(self, problem: Problem, params: Params, state: PyTree) -> PyTree:
        """The state for a new batch at the same params: evaluate again, never mix curvature pairs of two batches."""
        return state

    def eval_params(self, params: Params, state: PyTree) -> Params:
        """The params to judge and to keep; they differ from the walking ones when an optimizer averages."""
        return params

    def check_steps(self, steps: int) -> None:
        """Refuse a phase of this many steps if it cannot be meant, such as one shorter than the rate's schedule.

        Raises:
            UserError: what does not fit.
        """

    def check_objective(self, objective: Objective) -> None:
        """Refuse a landscape that cannot be walked so; asked before anything is compiled, when a phase begins.

        Raises:
            UserError: what does not fit.
        """

    def landscape(self, problem: Problem, state: PyTree) -> Problem:
        """What the steps lower now: the problem itself, unless an optimizer deforms it on the way."""
        return problem

    @property
    def descends(self) -> bool:
        """Whether the objective is meant to fall, so that a verdict may rest on it. In a game it is not."""
        return True

    @property
    def steady(self) -> bool:
        """Whether it needs the same batch for its whole phase, so that one drawn anew is refused."""
        return False

    def unfinished(self, figures: Mapping[str, float]) -> Finding | None:
        """What a phase that ended with these figures of its last step has left undone; None if nothing."""
        return None


def checked_optimizer(optimizer: Any, where: str) -> AbstractOptimizer:
    """An optimizer as given.

    Raises:
        UserError: it is none, for instance a class that was not called.
    """
    if isinstance(optimizer, AbstractOptimizer):
        return optimizer
    raise UserError(
        f"an optimizer is needed, not {kind_of(optimizer)}",
        where=where,
        remedy="Adam(1e-3), for instance; wrap an Optax transform: FirstOrder(optax.…).",
    )


def going() -> Scalar:
    """`Ended.GOING` as an array."""
    return jnp.asarray(int(Ended.GOING), jnp.int32)


def value_and_gradient(problem: Problem, params: Params) -> tuple[Scalar, Evaluation, Params]:
    """Total, evaluation and gradient at `params`, from one forward and one backward pass."""
    (total, evaluation), gradient = jax.value_and_grad(problem.evaluate, has_aux=True)(params)
    return total, evaluation, gradient


def select(condition: Any, yes: PyTree, no: PyTree) -> PyTree:
    """`where(condition, yes, no)` leaf by leaf, for pytrees of one structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)

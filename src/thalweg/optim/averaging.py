"""Weight averaging, around any optimizer."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.objective.objective import Objective
from thalweg.objective.problem import Problem
from thalweg.optim.optimizer import AbstractOptimizer, StepInfo, checked_optimizer
from thalweg.types import Finding, Key, Params, PyTree


class Averaged(AbstractOptimizer):
    """Any optimizer, judged and kept at an exponential average of its params (Polyak and Juditsky, 1992).

    Args:
        optimizer: what walks.
        decay: memory of the average, below 1; a ramp min(decay, (1 + t)/(10 + t)) lets it forget the start.

    >>> from thalweg.optim.first_order import Adam
    >>> optimizer = Averaged(Adam(1e-3), decay=0.999)
    """

    optimizer: AbstractOptimizer
    decay: float = eqx.field(static=True)

    def __init__(self, optimizer: AbstractOptimizer, *, decay: float = 0.999):
        checked_optimizer(optimizer, "Averaged")
        if not (isinstance(decay, int | float) and 0 <= decay < 1):
            raise UserError(f"the average's decay must be at least 0 and below 1, not {decay!r}")
        self.optimizer, self.decay = optimizer, decay

    def init(self, problem: Problem, params: Params, key: Key) -> PyTree:
        return self.optimizer.init(problem, params, key), params, jnp.zeros((), jnp.int32)

    def step(self, problem: Problem, params: Params, state: PyTree, key: Key) -> tuple[Params, PyTree, StepInfo]:
        inner, average, count = state
        params, inner, info = self.optimizer.step(problem, params, inner, key)
        t = count.astype(jnp.float32)
        memory = jnp.minimum(jnp.float32(self.decay), (1 + t) / (10 + t))
        moved = jax.tree.map(lambda a, p: a + (1 - memory.astype(a.dtype)) * (p - a), average, params)
        return params, (inner, moved, count + 1), info

    def redraw(self, problem: Problem, params: Params, state: PyTree) -> PyTree:
        return self.optimizer.redraw(problem, params, state[0]), *state[1:]

    def check_steps(self, steps: int) -> None:
        self.optimizer.check_steps(steps)

    def check_objective(self, objective: Objective) -> None:
        self.optimizer.check_objective(objective)

    def landscape(self, problem: Problem, state: PyTree) -> Problem:
        return self.optimizer.landscape(problem, state[0])

    @property
    def descends(self) -> bool:
        return self.optimizer.descends

    @property
    def steady(self) -> bool:
        return self.optimizer.steady

    def unfinished(self, figures: Mapping[str, float]) -> Finding | None:
        return self.optimizer.unfinished(figures)

    def eval_params(self, params: Params, state: PyTree) -> Params:
        return state[1]

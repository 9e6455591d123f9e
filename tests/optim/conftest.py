"""Named problems of one vector, and a walk over them without the loop."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.objective import AbstractTerm, NoExamples, Objective, Problem, Residual, split
from thalweg.optim import AbstractOptimizer


class Vector(eqx.Module):
    """A model that is its parameters."""

    x: jax.Array


class Landscape(AbstractTerm):
    """A cost of the parameters alone."""

    cost: Callable[[jax.Array], jax.Array]
    source: NoExamples = NoExamples()
    weight: float = 1.0

    def batch_loss(self, model, examples, key):
        return self.cost(model.x), None


def bound(objective: Objective, start: jax.Array) -> tuple[Problem, Vector]:
    """The problem that an optimizer sees at `start`, and its params there."""
    parts = split(Vector(start))
    static = eqx.combine(parts.model_state, parts.frozen, parts.static)
    state = objective.init(jax.random.key(0))
    return objective.bind(static, objective.draw(state, jnp.int32(0)), state, jax.random.key(0)), parts.params


def walk(optimizer: AbstractOptimizer, objective: Objective, start: Any, steps: int, dtype: Any = np.float64) -> Any:
    """`steps` steps in one program.

    Returns:
        (x before each step and after the last (steps + 1, n), states before each step, infos), stacked NumPy arrays.
    """

    def run(x: jax.Array) -> Any:
        problem, params = bound(objective.astype(dtype), x)
        key = jax.random.key(1)

        def step(carry: Any, _: None) -> Any:
            after, memory, info = optimizer.step(problem, *carry, key)
            return (after, memory), (carry[0].x, carry[1], info)

        last, path = jax.lax.scan(step, (params, optimizer.init(problem, params, key)), None, length=steps)
        return last[0].x, path

    with jax.enable_x64(np.dtype(dtype) == np.float64):
        last, (x, states, infos) = jax.jit(run)(jnp.asarray(np.asarray(start, dtype)))
        arrays = jax.tree.map(np.asarray, (jnp.concatenate([x, last[None]]), states, infos))
    return arrays


def of_cost(cost: Callable[[jax.Array], jax.Array]) -> Objective:
    """The objective that is a cost of the parameters."""
    return Objective(cost=Landscape(cost))


def of_residual(residual: Callable[[jax.Array, jax.Array], jax.Array], points: Any = ((0.0,),)) -> Objective:
    """The objective that is the mean square of a residual of parameters and point."""
    return Objective(residual=Residual(lambda model, point: residual(model.x, point), np.asarray(points, np.float64)))


@pytest.fixture(name="walk")
def _walk():
    return walk


@pytest.fixture(name="of_cost")
def _of_cost():
    return of_cost


@pytest.fixture(name="of_residual")
def _of_residual():
    return of_residual


@pytest.fixture(name="bound")
def _bound():
    return bound

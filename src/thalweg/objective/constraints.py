"""Constraints on averages, by an augmented Lagrangian whose multipliers move only on measured inner convergence.

Moving multipliers on a fixed cadence leaves the constraint violated by 1e-2 (measured); the rule here is algorithm
17.4 of Nocedal and Wright, Numerical Optimization (2006): multipliers move when the inner problem has converged and
feasibility is good enough for the present penalty; if it is not, the penalty grows instead.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.objective.sources import AbstractSource, Examples
from thalweg.objective.term import AbstractTerm, Slope, map_examples
from thalweg.types import Key, PyTree, Scalar


class MultiplierState(eqx.Module):
    """Multipliers (like the bound), penalty, and the two tolerances of the inner problem, shapes ()."""

    multiplier: jax.Array
    penalty: jax.Array
    feasible_below: jax.Array
    converged_below: jax.Array


class AbstractConstraint(AbstractTerm):
    """A bound on the average over examples of a quantity that the model computes.

    Attributes:
        quantity: (model, example) -> an array of the bound's shape.
        bound: the value that the average is held to.
        state: None until bound by the objective.
    """

    quantity: Callable[[PyTree, PyTree], jax.Array]
    bound: Any
    source: AbstractSource
    weight: float | jax.Array
    state: MultiplierState | None
    first_penalty: float = eqx.field(static=True)

    def __init__(
        self,
        quantity: Callable[[PyTree, PyTree], jax.Array],
        bound: Any,
        source: AbstractSource,
        *,
        penalty: float = 10.0,
    ):
        self.quantity, self.source, self.weight, self.state = quantity, source, 1.0, None
        self.bound = bound if isinstance(bound, jax.Array) else np.asarray(bound, np.float64)
        if not bool(np.isfinite(self.bound).all()):
            raise UserError("a constraint's bound must be finite")
        if not penalty > 1:
            raise UserError(f"a constraint's first penalty must be above 1, not {penalty}")
        self.first_penalty = float(penalty)

    def init(self, key: Key) -> MultiplierState:
        zero = jnp.zeros_like(jnp.asarray(self.bound))
        penalty = jnp.asarray(self.first_penalty, zero.dtype)
        return MultiplierState(zero, penalty, penalty**-0.1, 1 / penalty)

    def bind(self, state: MultiplierState) -> "AbstractConstraint":
        return eqx.tree_at(lambda term: term.state, self, state, is_leaf=lambda leaf: leaf is None)

    def violation(self, model: PyTree, examples: Examples) -> jax.Array:
        """Average minus bound, shape of the bound."""
        values = map_examples(lambda example, _: self.quantity(model, example), examples, None)
        if values.shape[1:] != self.bound.shape:
            raise UserError(f"the quantity has shape {values.shape[1:]}, its bound {self.bound.shape}")
        weights = jnp.ones(examples.size, values.dtype) if examples.weights is None else examples.weights
        return jnp.tensordot(weights, values, axes=1) / examples.size - jnp.asarray(self.bound, values.dtype)

    def next_multiplier(self, violation: jax.Array, state: MultiplierState) -> jax.Array:
        """First-order update of the multiplier."""
        raise NotImplementedError

    def infeasibility(self, violation: jax.Array, state: MultiplierState) -> Scalar:
        """Largest violation that counts, shape ()."""
        raise NotImplementedError

    def refresh(self, state: MultiplierState, slope: Slope) -> tuple[MultiplierState, dict[str, Any]]:
        violation = self.violation(slope.model, slope.examples).astype(state.multiplier.dtype)
        amount = self.infeasibility(violation, state)
        converged = slope.gradient_norm <= state.converged_below.astype(slope.gradient_norm.dtype)
        feasible = amount <= state.feasible_below
        move, grow = converged & feasible, converged & ~feasible
        eps = jnp.finfo(state.penalty.dtype).eps
        penalty = jnp.where(grow, jnp.minimum(10 * state.penalty, 1 / eps), state.penalty)
        feasible_below = jnp.where(
            move, state.feasible_below * penalty**-0.9, jnp.where(grow, penalty**-0.1, state.feasible_below)
        )
        converged_below = jnp.where(
            move, state.converged_below / penalty, jnp.where(grow, 1 / penalty, state.converged_below)
        )
        # below rounding no tolerance can be met, and the penalty would grow without end
        rounding = 10 * eps * (1 + jnp.max(jnp.abs(jnp.asarray(self.bound, state.penalty.dtype))))
        after = MultiplierState(
            jnp.where(move, self.next_multiplier(violation, state), state.multiplier),
            penalty,
            jnp.maximum(feasible_below, rounding),
            jnp.maximum(converged_below, eps),
        )
        figures = {
            "violation": amount,
            "feasible_below": state.feasible_below,
            "gradient_norm": slope.gradient_norm,
            "converged_below": state.converged_below,
            "moved": move,
            "penalty": penalty,
            "multiplier": after.multiplier,
        }
        return after, figures

    def _state(self) -> MultiplierState:
        if self.state is None:
            raise UserError(
                "a constraint is evaluated only inside an objective", remedy="Use Objective(name=Equal(…))."
            )
        return self.state


class Equal(AbstractConstraint):
    """Average of `quantity` = `bound`: the term λ·c + (ρ/2)‖c‖² of the violation c.

    Args:
        quantity: (model, example) -> an array of the bound's shape.
        bound: the value.
        source: the examples that are averaged over.
        penalty: first ρ, above 1.
    """

    def batch_loss(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[Scalar, PyTree]:
        state, c = self._state(), self.violation(model, examples)
        return jnp.sum(state.multiplier.astype(c.dtype) * c + state.penalty.astype(c.dtype) / 2 * c * c), None

    def next_multiplier(self, violation: jax.Array, state: MultiplierState) -> jax.Array:
        return state.multiplier + state.penalty * violation

    def infeasibility(self, violation: jax.Array, state: MultiplierState) -> Scalar:
        return jnp.max(jnp.abs(violation))


class AtMost(AbstractConstraint):
    """Average of `quantity` ≤ `bound`: the term (max(0, λ + ρc)² − λ²)/2ρ of the violation c.

    Args:
        quantity: (model, example) -> an array of the bound's shape.
        bound: the largest value allowed.
        source: the examples that are averaged over.
        penalty: first ρ, above 1.
    """

    def batch_loss(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[Scalar, PyTree]:
        state, c = self._state(), self.violation(model, examples)
        multiplier, penalty = state.multiplier.astype(c.dtype), state.penalty.astype(c.dtype)
        pushed = jnp.maximum(0, multiplier + penalty * c)
        return jnp.sum((pushed**2 - multiplier**2) / (2 * penalty)), None

    def next_multiplier(self, violation: jax.Array, state: MultiplierState) -> jax.Array:
        return jnp.maximum(0, state.multiplier + state.penalty * violation)

    def infeasibility(self, violation: jax.Array, state: MultiplierState) -> Scalar:
        # complementary slackness counts too: a slack constraint must have a zero multiplier
        return jnp.max(jnp.abs(jnp.maximum(violation, -state.multiplier / state.penalty)))

"""Constraints by an augmented Lagrangian whose multipliers move only on measured inner convergence.

Moving multipliers on a fixed cadence leaves the constraint violated by 1e-2 (measured); the rule here is algorithm
17.4 of Nocedal and Wright, Numerical Optimization (2006): multipliers move when the inner problem has converged and
feasibility is good enough for the present penalty; if it is not, the penalty grows instead.

A violation counts by the quantity's own size, a penalty and a slope by the size that the rest of the objective has at
the start. So pascals and metres, large losses and small ones converge alike. Only the params keep their unit: the slope
is that of one unit of them, as weights of a network have, so params of another size want another `tolerance`.
"""

import enum
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.partition import trainable
from thalweg.objective.sources import AbstractSource, Examples
from thalweg.objective.term import AbstractTerm, Slope, map_examples
from thalweg.types import Key, PyTree, Scalar


class Kind(enum.Enum):
    """What a constraint asks of its quantity."""

    EQUAL = "equal"
    AT_MOST = "at most"
    AT_LEAST = "at least"


class MultiplierState(eqx.Module):
    """What moves with a constraint; all but the two sizes is without dimension.

    Attributes:
        multiplier: like the violation; in the constraint's own units it is `size / scale` times this.
        penalty: ρ, shape ().
        feasible_below, converged_below: the two tolerances of the inner problem, shapes ().
        former: multiplier and penalty before the last refresh: after it the walk may have made no step.
        scale: what a violation is counted by, like the bound.
        size: of the rest of the objective at the start, shape ().
    """

    multiplier: jax.Array
    penalty: jax.Array
    feasible_below: jax.Array
    converged_below: jax.Array
    former: tuple[jax.Array, jax.Array]
    scale: jax.Array
    size: jax.Array


class AbstractConstraint(AbstractTerm):
    """A bound on a quantity that the model computes: on its average over examples, or at every one of them.

    Attributes:
        quantity: (model, example) -> an array of the bound's shape; the example is None with `NoExamples()`.
        bound: the value that is held to.
        everywhere: at each example, with one multiplier each.
        scale: what a violation is counted by; None: the larger of |bound| and the quantity's root mean square at the
            start.
        state: None until bound by the objective.
    """

    kind: ClassVar[Kind]
    quantity: Callable[[PyTree, PyTree], jax.Array]
    bound: Any
    source: AbstractSource
    weight: float | jax.Array
    scale: Any
    state: MultiplierState | None
    everywhere: bool = eqx.field(static=True)
    first_penalty: float = eqx.field(static=True)
    first_multiplier: float = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    def __init__(
        self,
        quantity: Callable[[PyTree, PyTree], jax.Array],
        bound: Any,
        source: AbstractSource,
        *,
        everywhere: bool = False,
        scale: Any = None,
        penalty: float = 10.0,
        multiplier: float = 0.0,
        tolerance: float = 1e-4,
    ):
        self.quantity, self.source, self.weight, self.state = quantity, source, 1.0, None
        if not callable(quantity):
            raise UserError(f"a constraint's quantity is a function of (model, example), not {type(quantity).__name__}")
        if not isinstance(source, AbstractSource):
            what = f"a constraint needs a source of examples, not {type(source).__name__}"
            raise UserError(what, remedy="Rows(x), or NoExamples() for a quantity of the model alone.")
        self.bound = _numbers(bound, "bound")
        if self.bound.size == 0:
            raise UserError(f"a constraint's bound has no number: its shape is {self.bound.shape}")
        if not bool(np.isfinite(self.bound).all()):
            raise UserError("a constraint's bound must be finite")
        self.scale = None if scale is None else _numbers(scale, "scale")
        if self.scale is not None:
            if not bool((np.isfinite(self.scale) & (np.asarray(self.scale) > 0)).all()):
                raise UserError("a constraint's scale must be finite and above 0")
            if self.scale.shape not in ((), self.bound.shape):
                raise UserError(f"a scale of shape {self.scale.shape} for a bound of shape {self.bound.shape}")
        if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not 1 < penalty < np.inf:
            raise UserError(f"a constraint's first penalty must be above 1 and finite, not {penalty!r}")
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not np.isfinite(multiplier):
            raise UserError(f"a constraint's first multiplier must be a finite number, not {multiplier!r}")
        if multiplier < 0 and self.kind is not Kind.EQUAL:
            raise UserError(f"the multiplier of a bound is not below 0, as {multiplier} is")
        if not isinstance(tolerance, int | float) or not 0 <= tolerance < 1:
            raise UserError(f"a constraint's tolerance must lie in [0, 1), not {tolerance!r}")
        if not isinstance(everywhere, bool):
            raise UserError(f"everywhere is True or False, not {everywhere!r}")
        self.everywhere, self.first_penalty = everywhere, float(penalty)
        self.first_multiplier, self.tolerance = float(multiplier), float(tolerance)
        self._check_source()

    def _check_source(self) -> None:
        name, moves = type(self.source).__name__, type(self.source).refresh is not AbstractSource.refresh
        if self.source.needs_refresh:
            raise UserError(
                f"{name} chooses points by a cost of each, and a constraint has none",
                remedy="Draw the points evenly: HeldPoints(…), FreshPoints(…), or Rows(points).",
            )
        if not self.everywhere:
            return
        if self.source.population == 0:
            raise UserError("everywhere=True needs examples to hold at, and there are none", remedy="Rows(points).")
        weights = getattr(self.source, "weights", None)
        if weights is not None and not np.asarray(weights).all():
            raise UserError(
                "a constraint everywhere holds at rows of weight 0 too, and no force would move the model there",
                remedy="Leave those rows out, or give them a weight above 0.",
            )
        if self.source.varies or self.source.on_host or moves:
            what = "draws minibatches" if getattr(self.source, "batch_size", None) else "draws its points anew"
            raise UserError(
                f"a constraint everywhere has one multiplier for each example, and {name} {what}",
                remedy="Hold all of them: Rows(examples) without batch_size; points of a domain are drawn once, "
                "Rows(sampler(key, n)).",
            )

    def init(self, key: Key) -> MultiplierState:
        bound = jnp.asarray(self.bound)
        shape = (self.source.population, *bound.shape) if self.everywhere else bound.shape
        if self.first_penalty > (end := 1 / float(jnp.finfo(bound.dtype).eps)):
            raise UserError(
                f"a first penalty of {self.first_penalty:g} is too large for {bound.dtype}, which ends at {end:.1g}",
                remedy="Penalties are in units of the rest of the objective: leave it at 10, or use float64.",
            )
        penalty = jnp.asarray(self.first_penalty, bound.dtype)
        scale = jnp.where(bound == 0, 1, jnp.abs(bound)) if self.scale is None else jnp.asarray(self.scale)
        multiplier = jnp.broadcast_to(self.first_multiplier * scale, shape).astype(bound.dtype)
        return MultiplierState(
            multiplier,
            penalty,
            penalty**-0.1,
            1 / penalty,
            (multiplier, penalty),
            jnp.broadcast_to(scale, bound.shape).astype(bound.dtype),
            jnp.ones((), bound.dtype),
        )

    def sized(self, state: MultiplierState, model: PyTree, examples: Examples, rest: Scalar) -> MultiplierState:
        scale = state.scale
        if self.scale is None:
            seen, beside = (
                jnp.sqrt(jnp.mean(jnp.square(self.values(at, examples)), axis=0)).astype(scale.dtype)
                for at in (model, _beside(model))
            )
            seen = jnp.maximum(seen, jnp.abs(jnp.asarray(self.bound, seen.dtype)))
            # a start that happens to meet a bound of 0 does not say how large the quantity is
            seen = jnp.where(jnp.isfinite(beside) & (seen < ACCIDENT * beside), beside, seen)
            scale = jnp.where(jnp.isfinite(seen) & (seen > 0), seen, scale)
        rest = rest.astype(state.size.dtype)
        size = jnp.where(rest > 0, rest, 1)
        multiplier = jnp.broadcast_to(self.first_multiplier * scale / size, state.multiplier.shape)
        former = (multiplier, state.penalty)
        return eqx.tree_at(
            lambda s: (s.multiplier, s.former, s.scale, s.size), state, (multiplier, former, scale, size)
        )

    def bind(self, state: MultiplierState) -> "AbstractConstraint":
        return eqx.tree_at(lambda term: term.state, self, state, is_leaf=lambda leaf: leaf is None)

    def values(self, model: PyTree, examples: Examples) -> jax.Array:
        """The quantity at each example, shape (n, *bound.shape)."""
        if examples.size == 0:
            values = self._value(model, None)[None]
        else:
            values = map_examples(lambda example, _: self._value(model, example), examples, None)
        if values.shape[1:] != self.bound.shape:
            raise UserError(f"the quantity has shape {values.shape[1:]}, its bound {self.bound.shape}")
        return values

    def _value(self, model: PyTree, example: PyTree) -> jax.Array:
        value = self.quantity(model, example)
        if isinstance(value, bool | np.bool_ | int) or not eqx.is_array_like(value):
            raise UserError(f"a constraint's quantity returns one array of real numbers, not {type(value).__name__}")
        value = jnp.asarray(value)
        if not jnp.issubdtype(value.dtype, jnp.floating):
            what = f"a constraint's quantity returns real numbers that have a slope, not {value.dtype}"
            raise UserError(what, remedy="Bound something smooth: a mean of probabilities instead of a count.")
        return value

    def violation(self, model: PyTree, examples: Examples) -> jax.Array:
        """What is to be 0 or below 0, in the constraint's units: of the average, shape of the bound, or (n, *that)."""
        values = self.values(model, examples)
        held = values if self.everywhere else self.average(values, examples)
        over = held - jnp.asarray(self.bound, values.dtype)
        return -over if self.kind is Kind.AT_LEAST else over

    def average(self, values: jax.Array, examples: Examples) -> jax.Array:
        """Weighted mean over the examples."""
        if examples.weights is None:
            return jnp.mean(values, axis=0)
        return jnp.tensordot(examples.weights.astype(values.dtype), values, axes=1) / examples.size

    def batch_loss(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[Scalar, PyTree]:
        state = self.present()
        c = self.violation(model, examples)
        each = self.penalized(
            c / state.scale.astype(c.dtype), state.multiplier.astype(c.dtype), state.penalty.astype(c.dtype)
        )
        return state.size.astype(c.dtype) * jnp.sum(self.average(each, examples) if self.everywhere else each), None

    def penalized(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> jax.Array:
        """The term's cost of each relative violation: λ·c + (ρ/2)c², or what it is for an inequality."""
        raise NotImplementedError

    def next_multiplier(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> jax.Array:
        """First-order update of the multiplier, of a relative violation."""
        raise NotImplementedError

    def excess(self, violation: jax.Array) -> jax.Array:
        """The part of a violation that breaks the constraint."""
        raise NotImplementedError

    def infeasibility(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> Scalar:
        """Largest relative violation that counts, shape ()."""
        raise NotImplementedError

    def refresh(self, state: MultiplierState, slope: Slope) -> tuple[MultiplierState, dict[str, Any]]:
        before, penalty = state.multiplier, state.penalty
        violation = (self.violation(slope.model, slope.examples) / state.scale).astype(before.dtype)
        amount = self.infeasibility(violation, before, penalty)
        steepness = slope.gradient_norm.astype(before.dtype) / state.size
        converged = steepness <= state.converged_below
        feasible = amount <= state.feasible_below
        move, grow = converged & feasible, converged & ~feasible
        eps = jnp.finfo(penalty.dtype).eps
        penalty = jnp.where(grow, jnp.minimum(10 * penalty, 1 / eps), penalty)
        feasible_below = jnp.where(
            move, state.feasible_below * penalty**-0.9, jnp.where(grow, penalty**-0.1, state.feasible_below)
        )
        converged_below = jnp.where(
            move, state.converged_below / penalty, jnp.where(grow, 1 / penalty, state.converged_below)
        )
        # below rounding no tolerance can be met, and the penalty would grow without end
        rounding = 10 * eps * (1 + jnp.max(jnp.abs(jnp.asarray(self.bound, penalty.dtype)) / state.scale))
        after = MultiplierState(
            jnp.where(move, self.next_multiplier(violation, before, state.penalty), before),
            penalty,
            jnp.maximum(jnp.maximum(feasible_below, rounding), self.tolerance),
            jnp.maximum(jnp.maximum(converged_below, eps), self.tolerance),
            (before, state.penalty),
            state.scale,
            state.size,
        )
        multiplier = after.multiplier * state.size / state.scale
        figures = {
            "violation": amount,
            "feasible_below": state.feasible_below,
            "gradient_norm": steepness,
            "converged_below": state.converged_below,
            "moved": move,
            "penalty": penalty,
            "multiplier": self.average(multiplier, slope.examples) if self.everywhere else multiplier,
        }
        return after, figures

    def present(self) -> MultiplierState:
        """The state that it is bound to."""
        if self.state is None:
            raise UserError(
                "a constraint is evaluated only inside an objective", remedy="Use Objective(name=Equal(…))."
            )
        return self.state


class Equal(AbstractConstraint):
    """`quantity` = `bound`, by the term λ·c + (ρ/2)‖c‖² of the violation c.

    Args:
        quantity: (model, example) -> an array of the bound's shape.
        bound: the value.
        source: the examples that are averaged over, or at which it holds.
        everywhere: at each example instead of on average; they must stay the same.
        scale: what a violation is counted by; None: the larger of |bound| and the quantity's root mean square at the
            start.
        penalty: first ρ, above 1, in units of the rest of the objective at the start.
        multiplier: first λ, in units of the objective over the constraint's: 0, or what an earlier fit has found.
        tolerance: to which the inner problem has to converge at most (its violation is without dimension, its slope
            by unit of the params): what lies below moves multipliers further at each refresh. 0: to rounding.
    """

    kind = Kind.EQUAL
    __init__ = AbstractConstraint.__init__  # for type checkers, which would make one of the fields

    def penalized(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> jax.Array:
        return multiplier * violation + penalty / 2 * violation * violation

    def next_multiplier(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> jax.Array:
        return multiplier + penalty * violation

    def excess(self, violation: jax.Array) -> jax.Array:
        return violation

    def infeasibility(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> Scalar:
        return jnp.max(jnp.abs(violation))


class AtMost(AbstractConstraint):
    """`quantity` ≤ `bound`, by the term (max(0, λ + ρc)² − λ²)/2ρ of the violation c.

    Args:
        quantity: (model, example) -> an array of the bound's shape.
        bound: the largest value allowed.
        source: the examples that are averaged over, or at which it holds.
        everywhere, scale, penalty, multiplier, tolerance: as `Equal`.
    """

    kind = Kind.AT_MOST
    __init__ = AbstractConstraint.__init__  # for type checkers, which would make one of the fields

    def penalized(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> jax.Array:
        pushed = jnp.maximum(0, multiplier + penalty * violation)
        return (pushed**2 - multiplier**2) / (2 * penalty)

    def next_multiplier(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> jax.Array:
        return jnp.maximum(0, multiplier + penalty * violation)

    def excess(self, violation: jax.Array) -> jax.Array:
        return jnp.maximum(0, violation)

    def infeasibility(self, violation: jax.Array, multiplier: jax.Array, penalty: jax.Array) -> Scalar:
        # complementary slackness counts too: a slack constraint must have a zero multiplier
        return jnp.max(jnp.abs(jnp.maximum(violation, -multiplier / penalty)))


class AtLeast(AtMost):
    """`quantity` ≥ `bound`: `AtMost` of the negatives.

    Args:
        quantity: (model, example) -> an array of the bound's shape.
        bound: the smallest value allowed.
        source: the examples that are averaged over, or at which it holds.
        everywhere, scale, penalty, multiplier, tolerance: as `Equal`.

    >>> from thalweg.objective import Rows
    >>> points = Rows(np.linspace(0, 1, 50)[:, None])
    >>> slope = lambda model, x: jax.grad(lambda z: model(z)[0])(x)[0]
    >>> rises = AtLeast(slope, 0.0, points, everywhere=True)
    """

    kind = Kind.AT_LEAST
    __init__ = AbstractConstraint.__init__  # for type checkers, which would make one of the fields


ACCIDENT = 1e-3
"""A quantity so much smaller at the start than beside it is small by accident."""


def _beside(model: PyTree) -> PyTree:
    """The model with all that can be trained a tenth off."""
    moved, kept = eqx.partition(model, trainable(model))
    flat, unravel = ravel_pytree(moved)
    noise = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)
    return eqx.combine(unravel(flat + (1 + jnp.abs(flat)) / 10 * noise), kept)


def _numbers(value: Any, what: str) -> Any:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
        return value
    try:
        if jnp.issubdtype(getattr(value, "dtype", float), jnp.complexfloating):
            raise TypeError
        return np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"a constraint's {what} is a number or an array of them, not {value!r:.60}") from error

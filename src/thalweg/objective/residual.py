"""Equation terms: a residual that should vanish at every point of a domain."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError, kind_of
from thalweg.objective.causality import Causality
from thalweg.objective.precision import cast
from thalweg.objective.sources import AbstractSource, Examples, Rows
from thalweg.objective.term import AbstractTerm, Slope, example_costs, written
from thalweg.physics.jointly import jointly
from thalweg.types import Finding, Key, PyTree

OVERFITTED = 10.0
"""Mean square at points never trained on, over that at the walk's own, from which points count as overfitted. On fresh
or sufficient points it is 1 to 4; 2,540 fixed random ones for Burgers' equation had 1e7 (jinns 1.10, measured)."""


class Residual(AbstractTerm):
    """Mean of ‖r(u, x)‖² over points x, for an equation r = 0 written for one point.

    Derivatives that the equation asks of `u` itself at its point (`derivative`, `laplacian`, …) are computed together,
    in one pass: see `thalweg.physics.jointly`.

    Args:
        equation: (model, point) -> residual, shape () or (k,).
        points: a source of points, or an array (n, d) of fixed ones.
        weight: the term's weight.
        held_out: points that are never trained on, for the finding `points-overfitted`; None takes new ones of the
            sampler where `points` has one.
        causal: whether late times wait for early ones: see `Causality`.
    Raises:
        UserError: `causal` is no `Causality`.

    >>> import jax, jax.numpy as jnp
    >>> oscillator = Residual(lambda u, t: jax.grad(jax.grad(u))(t) + u(t), jnp.linspace(0.0, 1.0, 5))
    >>> float(oscillator.example_cost(jnp.sin, jnp.float32(0.3), None)) < 1e-12
    True
    """

    equation: Callable[[PyTree, PyTree], jax.Array]
    source: AbstractSource
    weight: float | jax.Array
    held_out: AbstractSource | None
    causal: Causality | None
    state: jax.Array | None

    def __init__(
        self,
        equation: Callable[[PyTree, PyTree], jax.Array],
        points: PyTree,
        weight: float | jax.Array = 1.0,
        *,
        held_out: PyTree = None,
        causal: Causality | None = None,
    ):
        if causal is not None and not isinstance(causal, Causality):
            raise UserError(f"causal is a Causality or None, not {type(causal).__name__}", where="Residual")
        self.equation, self.weight, self.causal, self.state = equation, weight, causal, None
        self.source = points if isinstance(points, AbstractSource) else Rows(points)
        self.held_out = held_out if held_out is None or isinstance(held_out, AbstractSource) else Rows(held_out)
        if self.held_out is not None and _shapes(self.held_out) != _shapes(self.source):
            what = f"held-out points of shapes {_shapes(self.held_out)} beside points of {_shapes(self.source)}"
            raise UserError(what, where="Residual", remedy="held_out has points as `points` has them, others.")

    def init(self, key: Key) -> PyTree:
        return None if self.causal is None else self.causal.first_weights()

    def bind(self, state: PyTree) -> "Residual":
        return eqx.tree_at(lambda term: term.state, self, state, is_leaf=lambda leaf: leaf is None)

    def residual(self, model: PyTree, example: PyTree, key: Key | None) -> jax.Array:
        found = _checked(jointly(self.equation, model, example))
        if self.causal is None or self.state is None:
            return found
        return found * jnp.sqrt(self.causal.weight(self.state, example)).astype(found.dtype)

    @property
    def needs_refresh(self) -> bool:
        return self.causal is not None or self.source.needs_refresh

    def refresh(self, state: PyTree, slope: Slope) -> tuple[PyTree, dict[str, Any]]:
        if self.causal is None:
            return state, {}
        costs = example_costs(self, slope.model, slope.examples.values)
        weights = self.causal.next_weights(slope.examples.values, costs)
        return weights.astype(state.dtype), {"causal weight at the end": weights[-1]}

    def findings(self, model: PyTree, seen: Examples | None, name: str) -> tuple[Finding, ...]:
        """`points-overfitted`, where the residual is far larger between the points that the walk worked on."""
        key = jax.random.key(1_000_003)  # any that no run uses: these points are for looking at only
        fresh = self.source.unseen(key) if self.held_out is None else self.held_out.few(2**31 - 1)
        if seen is None or fresh is None or not (dtypes := [leaf.dtype for leaf in _floating(model)]):
            return ()
        ours, others = (example_costs(self, model, cast(e.values, dtypes[0])) for e in (seen, fresh))
        here, there = float(jnp.mean(ours)), float(jnp.mean(others))
        if there <= OVERFITTED * here or not np.isfinite(here):  # held-out costs that are not finite are worth a word
            return ()
        worst = int(jnp.argmax(others))
        at = written(jax.tree.map(lambda leaf: leaf[worst], fresh.values))
        return (
            Finding(
                "points-overfitted",
                f"term '{name}': mean square {here:.2g} at the {len(ours)} points trained on, "
                f"{there:.2g} at {len(others)} others, worst at {at}",
                "Train on fresh points (FreshPoints with redraw=…), on points where the residual is large "
                "(AdaptivePoints), or on more of them.",
            ),
        )


def _shapes(source: AbstractSource) -> list[tuple[int, ...]] | None:
    """Shapes of one example's arrays; None from a source that does not say."""
    examples = source.few(1) or jax.eval_shape(source.unseen, jax.random.key(0))
    return None if examples is None else [leaf.shape[1:] for leaf in jax.tree.leaves(examples.values)]


def _floating(model: PyTree) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]


def _checked(found: Any) -> jax.Array:
    """A residual as an array of at least one axis; of a matrix each number counts.

    Raises:
        UserError: it has no real numbers.
    """
    if isinstance(found, jax.Array | np.ndarray | float | int):
        found = jnp.atleast_1d(jnp.asarray(found))
        if found.size and jnp.issubdtype(found.dtype, jnp.floating):
            return found
        what = f"a residual of type {found.dtype} and shape {found.shape}"
    else:
        what = f"a residual that is {kind_of(found)}"
    raise UserError(
        f"{what}, but at one point it is a real number or an array of them",
        remedy="The equation sees one point and returns shape () or (k,); jnp.stack joins several.",
    )

"""Conditions that contradict each other: what one asks of the weights the other forbids, and it is not met."""

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.objective.objective import Objective, ObjectiveState
from thalweg.objective.partition import split
from thalweg.objective.precision import cast
from thalweg.objective.sources import Examples
from thalweg.objective.term import AbstractTerm, written
from thalweg.types import Finding, PyTree, Where

BALANCED = 0.1
"""Size of the whole gradient, relative to the largest of the terms', up to which the walk has arrived: it only rests
because they pull against each other."""

OPPOSED = -0.7
"""Cosine of two terms' gradients from which they pull against each other; two terms alone, at odds, have -1."""

COHERENT = 0.5
"""Size of a term's mean gradient, relative to the root mean square of its examples', from which these pull together.
Where noise keeps n residuals from 0 it is about n^(-1/2), and no contradiction."""

UNMET = 0.1
"""Size of a term's residuals r, relative to how much they would change if all weights θ doubled, to first order and
along themselves, from which it is not met: Σ‖r‖² / |Σ rᵀJθ|. What a model misses in its last digits is far below."""


@dataclass(frozen=True)
class Pull:
    """How a term with residuals pulls at the weights.

    Attributes:
        gradient: of its weighted mean cost, (n,).
        coherence: as `COHERENT` has it.
        unmet: as `UNMET` has it.
        size: root mean square of its residuals.
        worst: the example where they are largest.
    """

    gradient: np.ndarray
    coherence: float
    unmet: float
    size: float
    worst: PyTree


def disagreeing(model: PyTree, objective: Objective, state: ObjectiveState, index: int, where: Where) -> list[Finding]:
    """`terms-disagree`, of the two terms that pull against each other most, if one of them is not met.

    Only where all terms have residuals on the device, and the walk has arrived on a batch that stays. One term may be
    met: a large weight decides for it. A contradiction within one term is not seen, for its gradients cancel in itself;
    nor is one that is small beside the values themselves.

    Args:
        model: where the walk ended.
        objective, state, index: what was walked on, where it ended, and the number of the last batch.
        where: what was trained.
    """
    terms = objective.terms
    plain = all(t.provides("residual") and not t.is_coupled(model) and not t.source.on_host for t in terms.values())
    if len(terms) < 2 or not plain:
        return []
    parts = split(model, where)
    static = eqx.combine(parts.model_state, parts.frozen, parts.static)
    pulls = {}
    for name, term in terms.items():
        examples = term.source.draw(state.sources[name], jnp.int32(max(index, 0)))
        pulls[name] = _pull(term.bind(state.terms[name]), parts.params, static, examples, state.weights[name])
    sizes = {name: float(np.linalg.norm(pull.gradient)) for name, pull in pulls.items()}
    whole = float(np.linalg.norm(sum(pull.gradient for pull in pulls.values())))
    if not 0 < max(sizes.values()) < np.inf or whole > BALANCED * max(sizes.values()):
        return []
    together = [name for name, pull in pulls.items() if pull.coherence >= COHERENT and sizes[name] > 0]
    cosine = lambda a, b: float(pulls[a].gradient @ pulls[b].gradient / (sizes[a] * sizes[b]))
    pairs = [pair for pair in combinations(together, 2) if max(pulls[name].unmet for name in pair) >= UNMET]
    if not pairs or cosine(*(pair := min(pairs, key=lambda pair: cosine(*pair)))) > OPPOSED:
        return []
    told = "; ".join(
        f"'{name}' has a root mean square of {pulls[name].size:.2g}, worst at {written(pulls[name].worst)}"
        for name in pair
    )
    return [
        Finding(
            "terms-disagree",
            f"the walk rests where terms '{pair[0]}' and '{pair[1]}' pull against each other (cosine of their "
            f"gradients {cosine(*pair):.2f}), and not both are met: {told}",
            "Where both speak of the same place, they may contradict each other: look at their values there. If they "
            "do not, the model cannot meet both: give it more units, or a form that has one of them built in.",
        )
    ]


def _pull(term: AbstractTerm, params: PyTree, static: PyTree, examples: Examples, weight: jax.Array) -> Pull:
    dtype = ravel_pytree(params)[0].dtype
    values = cast(examples.values, dtype)
    shares = np.ones(examples.size) if examples.weights is None else np.asarray(examples.weights, float)
    squares, gradients, mean = (
        np.asarray(one, float) for one in _examined(term, params, static, values, jnp.asarray(shares, dtype))
    )
    worst = int(np.argmax(shares * squares))
    square, change = float(np.mean(shares * squares)), abs(float(mean @ np.asarray(ravel_pytree(params)[0], float)))
    return Pull(
        2 * float(weight) * mean,
        float(np.linalg.norm(mean) / (np.sqrt(np.mean(shares * gradients)) or np.inf)),
        square / change if change else np.inf,
        float(np.sqrt(square)),
        jax.tree.map(lambda leaf: leaf[worst], values),
    )


@eqx.filter_jit
def _examined(
    term: AbstractTerm, params: PyTree, static: PyTree, values: PyTree, shares: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """By example ‖r‖² and ‖Jᵀr‖², shape (m,); and the mean of Jᵀr, (n,). By reverse mode, as a gradient is made."""
    flat, unravel = ravel_pytree(params)

    def one(so_far: jax.Array, given: tuple[PyTree, jax.Array]) -> tuple[jax.Array, Any]:
        example, share = given
        residual = lambda p: jnp.ravel(term.residual(eqx.combine(unravel(p), static), example, None))
        found, back = jax.vjp(residual, flat)
        (slope,) = back(found)
        return so_far + share * slope, (jnp.sum(found**2), jnp.sum(slope**2))

    total, (squares, gradients) = jax.lax.scan(one, jnp.zeros_like(flat), (values, shares))
    return squares, gradients, total / shares.size

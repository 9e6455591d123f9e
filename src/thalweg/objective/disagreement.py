"""Conditions that contradict each other: neither is met, and what one asks of the weights the other forbids."""

from collections.abc import Mapping
from itertools import combinations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.objective.objective import Objective, ObjectiveState
from thalweg.objective.partition import split
from thalweg.objective.precision import cast
from thalweg.objective.term import example_costs
from thalweg.types import Finding, PyTree, Where

UNMET = 0.05
"""Share of its first mean square from which an arrived walk has not met a condition: 22 % of the residuals' size."""

OPPOSED = -0.7
"""Cosine of two terms' gradients from which they pull against each other. Of two terms that alone are at odds it is -1
where the walk has arrived."""


def disagreeing(
    model: PyTree,
    objective: Objective,
    state: ObjectiveState,
    index: int,
    where: Where,
    first: Mapping[str, float],
    last: Mapping[str, float],
) -> list[Finding]:
    """`terms-disagree`, of the two terms with residuals that pull against each other most and that are both not met.

    Args:
        model: where the walk arrived.
        objective, state, index: what was walked on, where it ended, and the number of the last batch.
        where: what was trained.
        first, last: by term, mean cost at the start and at the end.
    """
    names = [
        name
        for name, term in objective.terms.items()
        if term.provides("residual") and not term.is_coupled(model) and not term.source.on_host
        and last[name] >= UNMET * first[name] > 0
    ]  # fmt: skip
    if len(names) < 2:
        return []
    parts = split(model, where)
    static = eqx.combine(parts.model_state, parts.frozen, parts.static)
    # only these: other terms may have no batch that can be drawn here
    few = eqx.tree_at(lambda o: o.terms, objective, {name: objective.terms[name] for name in names})
    kept = ObjectiveState(*({name: one[name] for name in names} for one in (state.sources, state.terms, state.weights)))
    problem = few.bind(static, few.draw(kept, jnp.int32(max(index, 0))), kept, None)
    slopes = {name: np.asarray(slope, float) for name, slope in _slopes(problem, parts.params).items()}
    cosine = lambda pair: slopes[pair[0]] @ slopes[pair[1]] / (_size(slopes[pair[0]]) * _size(slopes[pair[1]]))
    pair = min(combinations(names, 2), key=cosine)
    if not cosine(pair) <= OPPOSED:
        return []
    one, other = (_told(objective, state, model, name, index) for name in pair)
    return [
        Finding(
            "terms-disagree",
            f"the walk has arrived, and neither term '{pair[0]}' nor '{pair[1]}' is met: {one}; {other}; their "
            f"gradients pull against each other (cosine {cosine(pair):.2f})",
            "Where both speak of the same place, they may contradict each other: look at their values there. If they "
            "do not, the model cannot meet both: give it more units, or a form that has one of them built in.",
        )
    ]


def _size(slope: np.ndarray) -> float:
    return float(np.linalg.norm(slope)) or np.inf


def _told(objective: Objective, state: ObjectiveState, model: PyTree, name: str, index: int) -> str:
    """Root mean square, and the worst place, in words."""
    term = objective.terms[name]
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))]
    values = cast(term.source.draw(state.sources[name], jnp.int32(max(index, 0))).values, dtypes[0])
    squares = np.asarray(example_costs(term.bind(state.terms[name]), model, values))
    at = [np.array2string(np.asarray(leaf[squares.argmax()]), precision=4) for leaf in jax.tree.leaves(values)]
    return f"root mean square {np.sqrt(squares.mean()):.2g}, worst at {', '.join(at)}"


@eqx.filter_jit
def _slopes(problem: PyTree, params: PyTree) -> dict[str, jax.Array]:
    return {name: ravel_pytree(slope)[0] for name, slope in problem.part_gradients(params).items()}

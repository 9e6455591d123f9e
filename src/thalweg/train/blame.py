"""Which example it was, where a cost is not finite."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.objective import Objective, ObjectiveState, cast, example_costs, written
from thalweg.types import PyTree


def bad_example(objective: Objective, state: ObjectiveState, model: PyTree, index: int) -> str:
    """The first example of a batch whose cost at `model` is not finite, in words; empty if there is none.

    Args:
        objective: whose terms are asked, those whose cost is a sum over examples on the device.
        state: its state.
        model: in inference mode.
        index: number of the batch.
    """
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))]
    for name, plain in objective.terms.items():
        if plain.source.on_host or plain.is_coupled(model):
            continue
        term, examples = plain.bind(state.terms[name]), plain.source.draw(state.sources[name], jnp.int32(index))
        values = cast(examples.values, dtypes[0]) if dtypes else examples.values
        costs = np.asarray(example_costs(term, model, values))
        bad = np.flatnonzero(~np.isfinite(costs))
        if len(bad):
            where = written(jax.tree.map(lambda leaf, i=bad[0]: leaf[i], values))
            many = f"{len(bad)} of {len(costs)} examples of term '{name}' have no finite cost"
            return f"{many}, the first is number {bad[0]} at {where}"
    return ""

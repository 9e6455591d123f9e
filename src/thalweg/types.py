"""Names for the kinds of value that cross between rooms, a finding, and the marker a model may carry."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
from jaxtyping import Array, PRNGKeyArray, Shaped

PyTree = Any
"""Any nesting of containers and modules whose leaves are arrays or static values."""

Params = PyTree
"""The trainable part of a model: the model itself with every other leaf replaced by None."""

Key = PRNGKeyArray
Scalar = Shaped[Array, ""]
Model = Callable[..., PyTree]
Where = Callable[[PyTree], PyTree]
"""Model -> pytree of booleans of the same structure (a filter): what a phase trains."""


class Untrained(eqx.Module):
    """Base of modules whose arrays training never touches: normalization constants, running statistics.

    `trainable` leaves out every leaf below such a node, so no optimizer sees it or keeps memory for it.
    """


@dataclass(frozen=True)
class Finding:
    """Something that a user should know about a run.

    Attributes:
        name: a fixed word, such as `overfitting`.
        evidence: what was measured, with figures.
        remedy: what to try.
    """

    name: str
    evidence: str
    remedy: str

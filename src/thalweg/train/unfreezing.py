"""Fine-tuning as a program: the head first, then one group of layers after the other joins in."""

from collections.abc import Callable, Sequence
from typing import Any

from thalweg.errors import UserError
from thalweg.objective import only
from thalweg.optim import AbstractOptimizer
from thalweg.optim.layer_rates import checked_groups
from thalweg.train.program import Phase
from thalweg.types import PyTree


def gradual_unfreezing(
    optimizer: AbstractOptimizer, steps: int, groups: Sequence[Callable[[PyTree], Any]], **settings: Any
) -> list[Phase]:
    """A phase for each group of layers: the first trains the last group, each later one another in front of it.

    So new layers settle before they send gradients into those learned elsewhere (Howard and Ruder, 2018). What no
    group names is never trained, and no phase keeps memory for what it does not train.

    Args:
        optimizer: of every phase; each begins with it afresh. `discriminative_rates` gives early layers smaller rates.
        steps: of each phase.
        groups: parts of the model (model -> a node or a sequence of nodes), from the first layers to the head.
        **settings: of `Phase`, such as `until=Plateau()`.
    Raises:
        UserError: no groups, what is none, or a filter beside them; at the start of a phase, a group that the model
            lacks; or as `Phase`.

    >>> from thalweg.optim import Adam
    >>> program = gradual_unfreezing(Adam(1e-3), 50, [lambda m: m.layers[0], lambda m: m.layers[1]])
    >>> [phase.steps for phase in program]
    [50, 50]
    """
    checked_groups(groups, "gradual_unfreezing")
    if "where" in settings:
        raise UserError(
            "each phase trains what the groups say, so it can have no other filter",
            where="gradual_unfreezing(where=…)",
            remedy="Leave `where` out; what no group names is never trained.",
        )
    if not groups:
        raise UserError("there are no groups of layers to unfreeze", where="gradual_unfreezing")
    later = [groups[place:] for place in range(len(groups) - 1, -1, -1)]
    return [Phase(optimizer, steps, where=only(_nodes(some)), **settings) for some in later]


def _nodes(groups: Sequence[Callable[[PyTree], Any]]) -> Callable[[PyTree], list[Any]]:
    def select(model: PyTree) -> list[Any]:
        found: list[Any] = []
        for group in groups:
            try:
                part = group(model)
            except (AttributeError, LookupError, TypeError) as error:
                what = f"the model has no part that one of the groups is for: {error}"
                raise UserError(what, where="gradual_unfreezing") from error
            found.extend(part if isinstance(part, tuple | list) else [part])
        return found

    return select

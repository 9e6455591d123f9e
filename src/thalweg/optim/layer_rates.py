"""A learning rate of its own for each part of a model, around any first-order optimizer."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from thalweg.errors import UserError, kind_of
from thalweg.optim.first_order import AbstractFirstOrder
from thalweg.optim.schedules import Rate
from thalweg.types import Params, PyTree

Part = tuple[Callable[[PyTree], Any], float]
"""What a model's part is (model -> a node of it, or a sequence of nodes), and the factor of its rate."""


class LayerRates(AbstractFirstOrder):
    """A first-order optimizer whose step is multiplied by a factor for each part of the model.

    Leaf by leaf the rate is η·factor; momentum, moments and weight decay are the inner optimizer's. A part that a
    phase does not train is passed over, so one optimizer serves all phases of a gradual unfreezing.

    Args:
        optimizer: what steps.
        parts: (select, factor) pairs, factors finite and above 0; of two that select a leaf the later counts, and a
            leaf that none selects keeps the factor 1.
    Raises:
        UserError: an optimizer that is none of first order (a curvature's step has no rates by layer), no pair, a
            factor out of range; at the start of a phase, a part that the model lacks.

    >>> from thalweg.optim.first_order import Adam
    >>> optimizer = LayerRates(Adam(1e-3), [(lambda m: m.layers[0], 0.1), (lambda m: m.layers[1], 0.3)])
    """

    optimizer: AbstractFirstOrder
    parts: tuple[Part, ...] = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(self, optimizer: AbstractFirstOrder, parts: Sequence[Part]):
        if not isinstance(optimizer, AbstractFirstOrder):
            raise UserError(
                f"rates by layer need a first-order optimizer, not {kind_of(optimizer)}",
                where="LayerRates",
                remedy="Adam(1e-3), for instance.",
            )
        checked_sequence(parts, "LayerRates", "Pairs such as (lambda m: m.head, 1.0).")
        for part in parts:
            select, factor = part if isinstance(part, tuple | list) and len(part) == 2 else (None, part)
            if not (callable(select) and isinstance(factor, int | float) and 0 < factor < math.inf):
                raise UserError(
                    f"a part is a function of the model and its factor, a finite number above 0, not {part!r}",
                    where="LayerRates",
                    remedy="Pairs such as (lambda m: m.head, 1.0). To keep a part as it is: Phase(where=frozen(…)).",
                )
        self.optimizer, self.parts = optimizer, tuple((select, float(factor)) for select, factor in parts)
        self.rate, self.clip = optimizer.rate, optimizer.clip

    def rule(self) -> optax.GradientTransformation:
        scale = optax.GradientTransformation(lambda params: optax.EmptyState(), partial(_scaled, self.parts))
        return optax.chain(self.optimizer.rule(), scale)


def discriminative_rates(
    optimizer: AbstractFirstOrder, groups: Sequence[Callable[[PyTree], Any]], *, ratio: float = 2.6
) -> LayerRates:
    """The last group learns at the full rate, each one before it at 1/ratio of the next (Howard and Ruder, 2018).

    Args:
        optimizer: of first order.
        groups: parts of the model (model -> a node or nodes), from the first layers to the head.
        ratio: at least 1; 2.6 is the authors'.
    Raises:
        UserError: no groups, or what is none; a ratio below 1.

    >>> from thalweg.optim.first_order import SGD
    >>> rates = discriminative_rates(SGD(0.1), [lambda m: m.layers[0], lambda m: m.layers[1]], ratio=4.0)
    >>> [factor for _, factor in rates.parts]
    [0.25, 1.0]
    """
    checked_groups(groups, "discriminative_rates")
    if not groups or not (isinstance(ratio, int | float) and 1 <= ratio < math.inf):
        raise UserError(f"{len(groups)} groups of layers with the ratio {ratio!r}", remedy="At least one, and 1.")
    return LayerRates(optimizer, [(group, ratio ** (i + 1 - len(groups))) for i, group in enumerate(groups)])


def checked_sequence(values: Any, where: str, remedy: str) -> None:
    """Refuse what is no list or tuple."""
    if not isinstance(values, tuple | list):
        raise UserError(f"a list is needed, not {kind_of(values)}", where=where, remedy=remedy)


def checked_groups(groups: Any, where: str) -> None:
    """Refuse what is no list of functions of the model."""
    remedy = "A list of functions, such as [lambda m: m.body, lambda m: m.head]."
    checked_sequence(groups, where, remedy)
    for group in groups:
        if not callable(group):
            raise UserError(f"a group of layers is a function of the model, not {group!r}", where=where, remedy=remedy)


def _scaled(parts: tuple[Part, ...], updates: Params, state: PyTree, params: Params | None = None) -> Any:
    # leaves are selected by their numbers, so that parts which a phase leaves out (None) cost nothing
    nothing = lambda leaf: leaf is None
    leaves, structure = jax.tree.flatten(updates, is_leaf=nothing)
    numbers = jax.tree.unflatten(structure, range(len(leaves)))
    factors = [1.0] * len(leaves)
    for select, factor in parts:
        try:
            chosen = jax.tree.leaves(select(numbers))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            what = f"the model has no part that one of the factors is for: {error}"
            raise UserError(what, where="LayerRates") from error
        for number in chosen:
            factors[number] = factor
    scaled = [
        leaf if leaf is None or factor == 1.0 else leaf * jnp.asarray(factor, leaf.dtype)
        for leaf, factor in zip(leaves, factors, strict=True)
    ]
    return jax.tree.unflatten(structure, scaled), state

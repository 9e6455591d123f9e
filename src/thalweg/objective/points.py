"""Points of a domain that are drawn, not given: held, fresh for every batch, or where the cost is largest."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.objective.order import LARGEST_SIZE
from thalweg.objective.sources import AbstractSource, Examples
from thalweg.types import Key, PyTree


class AbstractPoints(AbstractSource):
    """Points that a sampler draws; unless a source says otherwise, held until a refresh.

    Attributes:
        sampler: (key, n) -> a pytree of arrays with leading axis n.
        size: number of points.
    """

    sampler: eqx.AbstractVar[Callable[[Key, int], PyTree]]
    size: eqx.AbstractVar[int]

    @property
    def population(self) -> int:
        return self.size

    @property
    def varies(self) -> bool:
        return False

    def init(self, key: Key) -> PyTree:
        return _drawn(self.sampler, key, self.size)

    def draw(self, state: PyTree, index: jax.Array) -> Examples:
        return Examples(state)

    def unseen(self, key: Key) -> Examples:
        return Examples(_drawn(self.sampler, key, self.size))


class HeldPoints(AbstractPoints):
    """Points drawn by a sampler, held between refreshes: deterministic for an optimizer that needs it.

    Args:
        sampler: (key, n) -> a pytree of arrays with leading axis n.
        size: number of points.
    """

    sampler: Callable[[Key, int], PyTree]
    size: int = eqx.field(static=True)

    def __check_init__(self):
        _check_sampler(self.sampler, self.size)

    def refresh(self, state: PyTree, key: Key, cost: Callable[[PyTree], jax.Array]) -> PyTree:
        return _drawn(self.sampler, key, self.size)


class FreshPoints(AbstractPoints):
    """Points drawn afresh for every batch.

    Args:
        sampler: (key, n) -> a pytree of arrays with leading axis n.
        size: number of points a draw.
    """

    sampler: Callable[[Key, int], PyTree]
    size: int = eqx.field(static=True)

    def __check_init__(self):
        _check_sampler(self.sampler, self.size)

    @property
    def varies(self) -> bool:
        return True

    def init(self, key: Key) -> PyTree:
        return key

    def draw(self, state: PyTree, index: jax.Array) -> Examples:
        return Examples(_drawn(self.sampler, jax.random.fold_in(state, index), self.size))


class AdaptivePoints(AbstractPoints):
    """Points held between refreshes, then drawn again where the cost is large: residual-based adaptive distribution.

    Of `candidates` points that the sampler draws, `size` are taken without replacement with probabilities proportional
    to |r|^power / mean |r|^power + floor, where |r|² is the term's cost there (Wu, Zhu, Tan, Kartha and Lu, 2023,
    equation 2). The objective says how often: `Objective(refresh_every=…)`.

    Args:
        sampler: (key, n) -> a pytree of arrays with leading axis n.
        size: number of points.
        candidates: number of points to choose from; None is four for each.
        power: how sharply large costs are preferred; 0 prefers none.
        floor: what every point has besides; ∞ would make all alike.
    Raises:
        UserError: a size that is no whole number, fewer candidates than points, a power or floor below 0.

    >>> source = AdaptivePoints(lambda key, n: jax.random.uniform(key, (n, 1)), 50, candidates=1_000, floor=0.1)
    >>> cost = lambda x: jnp.where(x[:, 0] > 0.9, 1e6, 0.0)  # all of it in the last tenth
    >>> points = source.refresh(None, jax.random.key(0), cost)
    >>> points.shape, bool(jnp.mean(points > 0.9) > 0.8)
    ((50, 1), True)
    """

    sampler: Callable[[Key, int], PyTree]
    size: int = eqx.field(static=True)
    candidates: int = eqx.field(static=True)
    power: float = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def __init__(
        self,
        sampler: Callable[[Key, int], PyTree],
        size: int,
        *,
        candidates: int | None = None,
        power: float = 1.0,
        floor: float = 1.0,
    ):
        _check_sampler(sampler, size)
        _check_sampler(sampler, 4 * size if candidates is None else candidates)
        self.sampler, self.size = sampler, size
        self.candidates = 4 * size if candidates is None else candidates
        if self.candidates < size:
            raise UserError(f"{size} points cannot be chosen from {self.candidates}", remedy="candidates ≥ size.")
        if not (0 <= power < np.inf and 0 <= floor < np.inf):
            raise UserError(
                f"a power of {power} and a floor of {floor}", where="AdaptivePoints", remedy="Both are ≥ 0."
            )
        self.power, self.floor = float(power), float(floor)

    @property
    def needs_refresh(self) -> bool:
        return True

    def refresh(self, state: PyTree, key: Key, cost: Callable[[PyTree], jax.Array]) -> PyTree:
        draw_key, choice_key = jax.random.split(key)
        points = _drawn(self.sampler, draw_key, self.candidates)
        if state is not None:  # of the type that the run works in
            points = jax.tree.map(lambda new, old: new.astype(old.dtype), points, state)
        size = cost(points) ** (self.power / 2)
        size = jnp.where(jnp.isfinite(size), size, 0)  # a point without a cost is not what to look at
        tiny = jnp.finfo(size.dtype).tiny
        chance = size / jnp.maximum(jnp.mean(size), tiny) + self.floor
        # The largest of log p plus Gumbel noise are a draw without replacement (Kool, van Hoof and Welling, 2019).
        score = jnp.log(jnp.maximum(chance, tiny)) + jax.random.gumbel(choice_key, (self.candidates,), size.dtype)
        chosen = jax.lax.top_k(score, self.size)[1]
        return jax.tree.map(lambda leaf: leaf[chosen], points)


def _check_sampler(sampler: Any, size: Any) -> None:
    if not callable(sampler):
        raise UserError(f"a sampler is a function of (key, n), not {type(sampler).__name__}")
    if isinstance(size, bool) or not (isinstance(size, int | np.integer) and 1 <= size <= LARGEST_SIZE):
        raise UserError(f"points to draw: a whole number from 1 to 2**31 - 1, not {size!r}")


def _drawn(sampler: Callable[[Key, int], PyTree], key: Key, size: int) -> PyTree:
    """So many points, seen to be so many."""
    points = sampler(key, size)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(points)]
    if not shapes or any(shape[:1] != (size,) for shape in shapes):
        raise UserError(
            f"the sampler was asked for {size} points and gave arrays of shapes {shapes}",
            remedy=f"Each array needs a leading axis of {size}: one row a point.",
        )
    return points

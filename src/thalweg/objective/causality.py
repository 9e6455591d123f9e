"""Weights that let an evolution equation be learned forwards in time."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.types import PyTree, Scalar


class Causality(eqx.Module):
    """Late times count only when early ones are solved (Wang, Sankaran and Perdikaris, 2024, equation 3.3).

    Time is cut into chunks. The residual in chunk i is weighted by wᵢ = exp(-tolerance · Σ_{j<i} Lⱼ), Lⱼ the mean
    square residual in chunk j, both as they stood at the objective's last refresh: `Objective(refresh_every=…)`. Held
    in between, the weights leave a sum of squares, which every optimizer takes. Until the first refresh all are 1.

    Args:
        time: point -> its time, shape ().
        start, end: of the time interval.
        chunks: how many parts it is cut into.
        tolerance: ε; at a mean square residual of 1/ε in the past the future counts a third.
    Raises:
        UserError: times that do not rise, fewer than two chunks, a tolerance that is not above 0.

    >>> causality = Causality(lambda x: x[1], 0.0, 1.0, chunks=2, tolerance=1.0)
    >>> points = jnp.array([[0.0, 0.1], [0.0, 0.9]])
    >>> causality.next_weights(points, jnp.array([2.0, 0.5])).round(3)  # 1 and exp(-2)
    Array([1.   , 0.135], dtype=float32)
    """

    time: Callable[[PyTree], Scalar]
    start: float = eqx.field(static=True)
    end: float = eqx.field(static=True)
    chunks: int = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)

    def __init__(
        self, time: Callable[[PyTree], Scalar], start: float, end: float, *, chunks: int = 16, tolerance: float = 1.0
    ):
        if not (callable(time) and start < end and float("-inf") < start and end < float("inf")):
            raise UserError(
                f"times from {start} to {end}", where="Causality", remedy="time is a function, start < end."
            )
        if isinstance(chunks, bool) or not (isinstance(chunks, int) and chunks >= 2):
            raise UserError(f"{chunks!r} chunks of time", where="Causality", remedy="A whole number, at least 2.")
        if not 0 < tolerance < float("inf"):
            raise UserError(f"a tolerance of {tolerance!r}", where="Causality", remedy="A finite number above 0.")
        self.time, self.start, self.end = time, float(start), float(end)
        self.chunks, self.tolerance = chunks, float(tolerance)

    def first_weights(self) -> jax.Array:
        """Ones, shape (chunks,)."""
        return jnp.ones(self.chunks)

    def weight(self, weights: jax.Array, point: PyTree) -> Scalar:
        """The weight at one point."""
        return jax.lax.stop_gradient(weights)[self._chunk(point)]

    def next_weights(self, points: PyTree, costs: jax.Array) -> jax.Array:
        """Weights (chunks,) from the costs (n,) at points (n, …). A chunk without points counts as solved."""
        chunk = jax.vmap(self._chunk)(points)
        sums = jnp.zeros(self.chunks, costs.dtype).at[chunk].add(costs)
        counts = jnp.zeros(self.chunks, costs.dtype).at[chunk].add(1)
        means = sums / jnp.maximum(counts, 1)
        before = jnp.concatenate([jnp.zeros(1, costs.dtype), jnp.cumsum(means)[:-1]])
        return jnp.exp(-self.tolerance * before)

    def _chunk(self, point: PyTree) -> jax.Array:
        share = (self.time(point) - self.start) / (self.end - self.start)
        return jnp.clip(jnp.floor(share * self.chunks), 0, self.chunks - 1).astype(jnp.int32)

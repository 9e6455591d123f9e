"""Points of the unit interval, square or cube, which a domain maps to its own; and the choice of those that fit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.types import Key, PyTree


def uniform(key: Key, n: int, dimension: int, dtype: Any) -> jax.Array:
    """Independent uniform points, shape (n, dimension)."""
    return jax.random.uniform(key, (n, dimension), dtype)


def equidistant(key: Key, n: int, dtype: Any) -> jax.Array:
    """Points of the unit interval at a distance of 1/n, from a random start, shape (n,)."""
    return (jnp.asarray(np.arange(n), dtype) + jax.random.uniform(key, (), dtype)) / n


def golden(key: Key, n: int, dtype: Any) -> jax.Array:
    """Multiples of the golden ratio from a random start, modulo 1, shape (n,).

    Even in whatever order they are paired with the points of another sequence (Kronecker's sequence, 1884).
    """
    steps = np.arange(n) * ((np.sqrt(5) - 1) / 2) % 1
    return (jnp.asarray(steps, dtype) + jax.random.uniform(key, (), dtype)) % 1


def sobol(key: Key, n: int, dimension: int, dtype: Any) -> jax.Array:
    """The first n points of Sobol's sequence (1967), moved together by a random step round the edges.

    Each of them by itself is uniform (Cranley and Patterson, 1976), and together they keep their distance.

    Returns:
        shape (n, dimension).
    """
    from scipy.stats import qmc  # loads slowly, and only here

    points = qmc.Sobol(dimension, scramble=False).random_base2(max(n - 1, 0).bit_length())[:n]
    return (jnp.asarray(points, dtype) + jax.random.uniform(key, (dimension,), dtype)) % 1


def candidates_needed(n: int, share: float) -> int:
    """How many candidates leave n, if each is accepted with this probability.

    Fewer than n are left with a probability below 1e-9: the binomial's mean lies six standard deviations above n.
    """
    return int(np.ceil((n + 6 * np.sqrt(n) + 40) / share))


def first_accepted(candidates: PyTree, accepted: jax.Array, n: int) -> PyTree:
    """The first n accepted candidates; again from the first where there are fewer, NaN where there are none.

    Args:
        candidates: arrays with a leading axis m.
        accepted: (m,), boolean.
    """
    return _chosen(candidates, accepted, lambda count: jnp.arange(n, dtype=count.dtype) % jnp.maximum(count, 1))


def evenly_accepted(candidates: PyTree, accepted: jax.Array, n: int) -> PyTree:
    """So many of the accepted candidates, at even steps along them; the same arguments as `first_accepted`."""
    halves = np.arange(n) + 0.5
    even = lambda count: (jnp.asarray(halves, float) * (count.astype(float) / max(n, 1))).astype(count.dtype)
    return _chosen(candidates, accepted, lambda count: jnp.minimum(even(count), count - 1))


def _chosen(candidates: PyTree, accepted: jax.Array, which: Any) -> PyTree:
    upto = jnp.cumsum(accepted)
    rows = jnp.searchsorted(upto, which(upto[-1]) + 1)  # the k-th accepted one is the first with k before or at it
    none = upto[-1] == 0
    take = lambda leaf: jnp.where(none, jnp.nan, jnp.take(leaf, rows, axis=0, mode="clip"))
    return jax.tree.map(take, candidates)

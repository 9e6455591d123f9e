"""Points of the unit interval, square or cube, which a domain maps to its own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.types import Key


def uniform(key: Key, n: int, dimension: int, dtype: Any) -> jax.Array:
    """Independent uniform points, shape (n, dimension)."""
    return jax.random.uniform(key, (n, dimension), dtype)


def equidistant(key: Key, n: int, dtype: Any) -> jax.Array:
    """Points of the unit interval at a distance of 1/n, from a random start, shape (n,)."""
    return (jnp.asarray(np.arange(n), dtype) + jax.random.uniform(key, (), dtype)) / n


def sobol(key: Key, n: int, dimension: int, dtype: Any) -> jax.Array:
    """The first n points of Sobol's sequence (1967), moved together by a random step round the edges.

    Each of them by itself is uniform (Cranley and Patterson, 1976), and together they keep their distance.

    Returns:
        shape (n, dimension).
    """
    from scipy.stats import qmc  # loads slowly, and only here

    points = qmc.Sobol(dimension, scramble=False).random_base2(max(n - 1, 0).bit_length())[:n]
    return (jnp.asarray(points, dtype) + jax.random.uniform(key, (dimension,), dtype)) % 1

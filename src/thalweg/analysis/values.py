"""A trained field at many points."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def at_points(function: Callable[[Any], Any], points: Any) -> np.ndarray:
    """What a function of one point, such as a trained network, has at many points, computed in 64 bits.

    Args:
        function: (d,) -> an array; a model of 32 bits keeps its weights and is evaluated with them.
        points: (n, d), or any pytree of arrays with that leading axis, as the function takes one of them.
    Returns:
        (n, …), on the host.

    >>> at_points(lambda x: x[0] * x[1], np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [2.0, 12.0]
    """
    with jax.enable_x64(True):
        return np.asarray(_mapped(function, jax.tree.map(jnp.asarray, points)))


@eqx.filter_jit
def _mapped(function: Callable[[Any], Any], points: Any) -> jax.Array:
    return jax.vmap(function)(points)

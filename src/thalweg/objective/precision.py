"""One floating-point type for everything that meets in a step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.types import PyTree


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Every floating-point array of a pytree in one dtype and on the device; all other leaves as they are.

    Args:
        tree: any pytree; NumPy arrays in it, integers included, become JAX arrays.
        dtype: a floating-point type; float64 needs `jax.enable_x64`.
    """

    def one(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            # NumPy converts: JAX would first round to 32 bits where 64 are switched off
            return jnp.asarray(leaf.astype(dtype) if _is_floating(leaf) else leaf)
        return leaf.astype(dtype) if isinstance(leaf, jax.Array) and _is_floating(leaf) else leaf

    return jax.tree.map(one, tree)


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)

"""The network of the spreadsheet product: normalization inside, a linear path beside a deep one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.nn import MLP, Linear, Standardize
from thalweg.tables.units import FARTHEST, column_units
from thalweg.types import Key

SMOOTH_CLIP = 3.0
"""Standard deviations at which an input begins to be bent, so that one outlier cannot rule a row."""


class TableNetwork(eqx.Module):
    """A row of encoded features to an output: linear path plus multilayer perceptron on standardized, bent inputs.

    The linear path makes a linear law easy, which on small tables is often the best there is; the perceptron's last
    layer starts at zero and adds what is not linear (wide and deep, Cheng et al., 2016). Inputs are bent as
    x/√(1 + (x/3)²) (Holzmüller et al., 2024).
    """

    standardize: Standardize
    linear: Linear
    deep: MLP

    def __init__(
        self, features: np.ndarray, outputs: int, *, width: int, depth: int, dropout: float, key: Key, dtype: jnp.dtype
    ):
        linear_key, deep_key = jax.random.split(key)
        self.standardize = Standardize(*column_units(features), dtype=dtype)
        size = features.shape[1]
        self.linear = Linear(size, outputs, key=linear_key, init=jax.nn.initializers.zeros, dtype=dtype)
        deep = MLP(size, outputs, width=width, depth=depth, dropout=dropout, key=deep_key, dtype=dtype)
        last = deep.layers[-1]
        assert isinstance(last, Linear)
        still = eqx.tree_at(lambda layer: layer.weight, last, jnp.zeros_like(last.weight))
        self.deep = eqx.tree_at(lambda mlp: mlp.layers, deep, (*deep.layers[:-1], still))

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """x: (features,) encoded -> (outputs,)."""
        z = jnp.clip(self.standardize(x), -FARTHEST, FARTHEST)
        z = z / jnp.sqrt(1 + jnp.square(z / SMOOTH_CLIP))
        return self.linear(z) + self.deep(z, key=key)

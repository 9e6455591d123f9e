"""The network of the spreadsheet product: normalization inside, a linear path beside a deep one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.nn import LAYERS, MLP, Linear, Standardize
from thalweg.types import Key

SMOOTH_CLIP = 3.0
"""Standard deviations at which an input begins to be bent, so that one outlier cannot rule a row."""

SCALE_LIMIT = 7.0
"""Bound on the log of the predicted scale in units of the target's own: e^±7 is a thousand-fold either way."""


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
        scale = features.std(0)
        constant = scale <= 1e-12 * np.maximum(1, np.abs(features).max(0))
        self.standardize = Standardize(features.mean(0), np.where(constant, 1.0, scale), dtype=dtype)
        size = features.shape[1]
        self.linear = Linear(size, outputs, key=linear_key, init=jax.nn.initializers.zeros, dtype=dtype)
        deep = MLP(size, outputs, width=width, depth=depth, dropout=dropout, key=deep_key, dtype=dtype)
        last = deep.layers[-1]
        assert isinstance(last, Linear)
        still = eqx.tree_at(lambda layer: layer.weight, last, jnp.zeros_like(last.weight))
        self.deep = eqx.tree_at(lambda mlp: mlp.layers, deep, (*deep.layers[:-1], still))

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """x: (features,) encoded -> (outputs,)."""
        z = self.standardize(x)
        z = z / jnp.sqrt(1 + jnp.square(z / SMOOTH_CLIP))
        return self.linear(z) + self.deep(z, key=key)


class NumberModel(eqx.Module):
    """A heteroscedastic Gaussian of a numeric target, in the target's own units.

    Args:
        features: encoded training rows (n, d), for the normalization.
        target: training targets (n,), likewise.
        width, depth, dropout: of the perceptron.
        key: for the initial weights.
        dtype: of the parameters.
    """

    network: TableNetwork
    target: Standardize

    def __init__(
        self, features: np.ndarray, target: np.ndarray, *, width: int, depth: int, dropout: float, key: Key, dtype
    ):
        self.network = TableNetwork(features, 2, width=width, depth=depth, dropout=dropout, key=key, dtype=dtype)
        self.target = Standardize(np.mean(target), np.std(target), dtype=dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> tuple[jax.Array, jax.Array]:
        """x: (features,) -> (mean, log of the standard deviation), both ()."""
        mean, raw = self.network(x, key=key)
        bounded = SCALE_LIMIT * jnp.tanh(raw / SCALE_LIMIT)
        return self.target.inverse(mean), bounded + jnp.log(self.target.scale)


class ClassModel(eqx.Module):
    """Logits of the classes.

    Args:
        features: encoded training rows (n, d), for the normalization.
        classes: number of classes.
        width, depth, dropout, key, dtype: as `NumberModel`.
    """

    network: TableNetwork

    def __init__(self, features: np.ndarray, classes: int, *, width: int, depth: int, dropout: float, key: Key, dtype):
        self.network = TableNetwork(features, classes, width=width, depth=depth, dropout=dropout, key=key, dtype=dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """x: (features,) -> logits (k,)."""
        return self.network(x, key=key)


class Ensemble(eqx.Module):
    """The members, as one thing to save."""

    members: tuple[NumberModel | ClassModel, ...]


OWN = (TableNetwork, NumberModel, ClassModel, Ensemble)
CLASSES = {**LAYERS, **{one.__name__: one for one in OWN}}
"""What a model file of this product may be built of."""

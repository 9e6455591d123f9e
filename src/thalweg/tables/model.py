"""Networks for classes, ensembles of networks, and what a saved one may be built of."""

import equinox as eqx
import jax
import numpy as np

from thalweg.nn import LAYERS
from thalweg.tables.network import TableNetwork
from thalweg.tables.numbers import MODELS, AbstractNumberModel
from thalweg.types import Key


class ClassModel(eqx.Module):
    """Logits of the classes.

    Args:
        features: encoded training rows (n, d), for the normalization.
        classes: number of classes.
        width, depth, dropout, key, dtype: as `AbstractNumberModel`.
    """

    network: TableNetwork

    def __init__(self, features: np.ndarray, classes: int, *, width: int, depth: int, dropout: float, key: Key, dtype):
        self.network = TableNetwork(features, classes, width=width, depth=depth, dropout=dropout, key=key, dtype=dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """x: (features,) -> logits (k,)."""
        return self.network(x, key=key)


class Ensemble(eqx.Module):
    """The members, as one thing to save."""

    members: tuple[AbstractNumberModel | ClassModel, ...]


OWN = (TableNetwork, *MODELS.values(), ClassModel, Ensemble)
CLASSES = {**LAYERS, **{one.__name__: one for one in OWN}}
"""What a model file of this product may be built of."""

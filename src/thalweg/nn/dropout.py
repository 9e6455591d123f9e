"""Dropout."""

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.types import Key


class Dropout(eqx.Module):
    """Inverted dropout: each component is zeroed with probability `rate`, the others divided by 1 - rate.

    So its mean is the input, and without a key (inference) it is the identity (Srivastava et al., 2014).

    Args:
        rate: probability of zeroing, in [0, 1).
    Raises:
        UserError: the rate lies outside [0, 1).

    >>> layer = Dropout(0.5)
    >>> layer(jax.numpy.ones(4))
    Array([1., 1., 1., 1.], dtype=float32)
    >>> sorted(set(layer(jax.numpy.ones(100), key=jax.random.key(0)).tolist()))
    [0.0, 2.0]
    """

    rate: float = eqx.field(static=True)

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise UserError(
                f"dropout rate {rate} lies outside [0, 1)", remedy="0.1 to 0.5 are usual; 0 switches it off."
            )
        self.rate = float(rate)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """Any shape to the same shape."""
        if key is None or self.rate == 0:
            return x
        keep = 1 - self.rate
        return jnp.where(jax.random.bernoulli(key, keep, x.shape), x / keep, jnp.zeros_like(x))

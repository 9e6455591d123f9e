"""Activation functions: those that a saved model may name, and the layers that apply one."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.types import Key

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "relu": jax.nn.relu,
        "relu6": jax.nn.relu6,
        "leaky_relu": jax.nn.leaky_relu,  # slope 0.01; `LeakyReLU` has any other
        "tanh": jnp.tanh,
        "gelu": jax.nn.gelu,  # the tanh approximation, JAX's default
        "silu": jax.nn.silu,
        "selu": jax.nn.selu,
        "sigmoid": jax.nn.sigmoid,
        "softplus": jax.nn.softplus,
        "identity": jax.nn.identity,
        "sin": jnp.sin,
    }
)
"""The functions that a model file may name. Nothing else is ever looked up, so a file can run no code."""


def name_of(function: Callable) -> str | None:
    """The name under which a model file knows this function, or None.

    >>> name_of(jax.nn.relu), name_of(jnp.cos)
    ('relu', None)
    """
    return next((name for name, known in ACTIVATIONS.items() if known is function), None)


class Activation(eqx.Module):
    """A function of one value, applied to every component; a layer made of a plain function.

    Args:
        function: array -> array of the same shape. A model with a function outside `ACTIVATIONS` trains and predicts,
            but its file holds tensors only.

    >>> Activation(jax.nn.relu)(jnp.array([-1.0, 2.0]))
    Array([0., 2.], dtype=float32)
    """

    function: Callable[[jax.Array], jax.Array] = eqx.field(static=True)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """Any shape to the same shape."""
        return self.function(x)


class LeakyReLU(eqx.Module):
    """x where x ≥ 0, slope·x elsewhere (Maas, Hannun and Ng, 2013).

    Args:
        slope: on the negative side, in [0, 1).
    Raises:
        UserError: the slope lies outside [0, 1).

    >>> LeakyReLU(0.2)(jnp.array([-1.0, 2.0]))
    Array([-0.2,  2. ], dtype=float32)
    """

    slope: float = eqx.field(static=True)

    def __init__(self, slope: float):
        if not 0 <= slope < 1:
            raise UserError(f"slope {slope} of LeakyReLU lies outside [0, 1)", remedy="0.01 and 0.2 are usual.")
        self.slope = float(slope)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """Any shape to the same shape."""
        return jax.nn.leaky_relu(x, self.slope)

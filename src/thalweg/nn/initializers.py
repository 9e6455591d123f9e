"""Initial weights: the named distributions, and the one that suits an activation.

An initializer is `(key, shape, dtype) -> array`. Shapes are (..., in, out): the last two axes are the features going in
and out, the ones before them the receptive field of a convolution. Fan-in is receptive field × in.
"""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thalweg.errors import UserError
from thalweg.nn.activations import Activation, LeakyReLU
from thalweg.types import Key

Initializer = Callable[[Key, Sequence[int], DTypeLike], jax.Array]

# Normal ones are truncated at two standard deviations and rescaled to the stated variance.
lecun_normal: Initializer = jax.nn.initializers.lecun_normal()
"""Variance 1/fan_in (LeCun, Bottou, Orr and Müller, 1998)."""
lecun_uniform: Initializer = jax.nn.initializers.lecun_uniform()
"""Variance 1/fan_in, uniform."""
glorot_normal: Initializer = jax.nn.initializers.glorot_normal()
"""Variance 2/(fan_in + fan_out) (Glorot and Bengio, 2010)."""
glorot_uniform: Initializer = jax.nn.initializers.glorot_uniform()
"""Variance 2/(fan_in + fan_out), uniform."""
he_normal: Initializer = jax.nn.initializers.he_normal()
"""Variance 2/fan_in (He, Zhang, Ren and Sun, 2015)."""
he_uniform: Initializer = jax.nn.initializers.he_uniform()
"""Variance 2/fan_in, uniform."""
orthogonal: Initializer = jax.nn.initializers.orthogonal()
"""Orthonormal columns, or rows where those are fewer (Saxe, McClelland and Ganguli, 2014)."""

# gain² = fan_in × the variance of a weight, before each activation, for biases of zero.
_SQUARED_GAIN: dict[Callable, float] = {
    jax.nn.relu: 2.0,  # keeps E[x²] exactly (He et al., 2015)
    jax.nn.relu6: 2.0,  # as ReLU, where few signals reach 6
    jax.nn.leaky_relu: 2.0 / (1 + 0.01**2),  # the same with slope 0.01
    jnp.tanh: 1.0,  # the edge of chaos (Schoenholz et al., 2017); 5/3, PyTorch's gain, lies in the chaotic phase
    # GELU and SiLU: critical at 1.98 and 1.99 (Roberts, Yaida and Hanin, 2022, section 5.3), so He's 2.
    jax.nn.gelu: 2.0,
    jax.nn.silu: 2.0,
    jax.nn.selu: 1.0,  # the fixed point that SELU was made for (Klambauer et al., 2017)
    # Sigmoid and softplus have no critical point (Roberts et al.): 1 at least keeps the pre-activations in range.
    jax.nn.sigmoid: 1.0,
    jax.nn.softplus: 1.0,
    jax.nn.identity: 1.0,
    jnp.sin: 2.0,  # SIREN with frequency 1 (Sitzmann et al., 2020)
}


def gain(activation: Callable) -> float:
    """The factor g for which weights of variance g²/fan_in keep signals neither vanishing nor exploding.

    Args:
        activation: a function of `ACTIVATIONS`, an `Activation` of one, or a `LeakyReLU`.
    Raises:
        UserError: no gain is known for this function.

    >>> round(gain(jax.nn.relu) ** 2, 12), gain(jnp.tanh)
    (2.0, 1.0)
    """
    if isinstance(activation, LeakyReLU):
        return math.sqrt(2 / (1 + activation.slope**2))
    function = activation.function if isinstance(activation, Activation) else activation
    # A module compares by its arrays, and is no key of a dictionary.
    if isinstance(function, eqx.Module) or function not in _SQUARED_GAIN:
        raise UserError(
            f"no initial weights are known for the activation {function!r}",
            remedy="Choose them yourself, such as init=thalweg.nn.lecun_normal.",
        )
    return math.sqrt(_SQUARED_GAIN[function])


def for_activation(activation: Callable, *, dropout: float = 0.0) -> Initializer:
    """The initializer for weights whose product goes into `activation`: truncated normal, variance p·gain²/fan_in.

    p = 1 - dropout is the probability with which each input is kept. Inverted dropout divides what it keeps by p, so
    it raises the mean square of the inputs by 1/p; for ReLU the variance 2p/fan_in keeps it over any depth in training
    (Hendrycks and Gimpel, 2016), where He's 2/fan_in multiplies it by p^-L over L layers. No weights serve both modes:
    with dropout off these ones shrink it by p^L, which `signal_report` finds.

    Args:
        activation: as `gain` takes it.
        dropout: rate of the dropout that the inputs have been through, in [0, 1).
    Raises:
        UserError: no gain is known for this function, or the rate lies outside [0, 1).

    >>> weight = for_activation(jax.nn.relu)(jax.random.key(0), (200, 300), jnp.float32)
    >>> bool(abs(weight.var() * 200 - 2) < 0.05)
    True
    """
    return scaled(gain(activation), dropout=dropout)


def scaled(gain: float, *, dropout: float = 0.0) -> Initializer:
    """Truncated normal of variance (1 - dropout)·gain²/fan_in.

    Raises:
        UserError: the rate of the dropout before the weights lies outside [0, 1).

    >>> scaled(2.0)(jax.random.key(0), (4, 3), jnp.float32).shape
    (4, 3)
    """
    if not 0 <= dropout < 1:
        raise UserError(
            f"dropout rate {dropout} lies outside [0, 1)", where="initial weights", remedy="0 stands for none."
        )
    return jax.nn.initializers.variance_scaling((1 - dropout) * gain**2, "fan_in", "truncated_normal")

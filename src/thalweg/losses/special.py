"""Functions that the densities need to full precision, in float32 and far out in the tails."""

import math

import jax
import jax.numpy as jnp

LARGEST_LOG = 60.0
"""Logarithm of a number so large that what is asked of it here equals its limit to rounding, yet a float32."""

_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_SHIFT = 8
_TAIL = 5.0
_LEVELS = 24

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def stirling_error(log_z: jax.Array) -> jax.Array:
    """Log Γ(z) - [(z - ½) log z - z + ½ log 2π]: what Stirling's formula leaves out, for z > 0.

    Densities of counts are differences of log Γ that cancel almost wholly: at counts of 1e6 a float32 keeps no digit of
    them. Written with this small and smooth remainder instead, all the large parts cancel on paper (Loader, 2000).

    Args:
        log_z: natural logarithm of z, any shape; z itself may over- or underflow.
    Returns:
        the same shape; absolute error some 1e-15 in float64.

    >>> stirling_error(jnp.zeros(2))  # z = 1: 1 - ½ log 2π
    Array([0.081061..., 0.081061...], dtype=float32)
    """
    log_z = jnp.minimum(log_z, LARGEST_LOG)
    z = jnp.exp(log_z)
    # One step from z to z + 1, eight times, and then the asymptotic series. (The first logarithm is log(1 + 1/z).)
    steps = (z + 0.5) * jax.nn.softplus(-log_z) - 1
    for k in range(1, _SHIFT):
        steps += (z + (k + 0.5)) * jnp.log1p(1 / (z + k)) - 1
    inverse = 1 / (z + _SHIFT)
    square = inverse * inverse
    series = jnp.zeros_like(z)
    for coefficient in reversed(_SERIES):
        series = series * square + coefficient
    return steps + series * inverse


@jax.custom_jvp
def log_survival(z: jax.Array) -> jax.Array:
    """Log of the probability that a standard normal exceeds z; any shape.

    `jax.scipy.special.log_ndtr(-z)` has the same values, but in the tail its gradient is lost to cancellation: at
    z = 2e4 in float32 it is 400 times too large.

    >>> log_survival(jnp.zeros(2))
    Array([-0.6931472, -0.6931472], dtype=float32)
    """
    half = lambda x: 0.5 * jax.lax.erfc(x * math.sqrt(0.5))
    below = jnp.log1p(-half(-jnp.minimum(z, 0)))
    middle = jnp.log(half(jnp.clip(z, 0, _TAIL)))
    above = -0.5 * z * z - HALF_LOG_TWO_PI - jnp.log(jnp.maximum(z, _TAIL) + _tail_gap(z))
    return jnp.where(z < 0, below, jnp.where(z < _TAIL, middle, above))


@jax.custom_jvp
def normal_hazard(z: jax.Array) -> jax.Array:
    """Density over survival of a standard normal, φ(z)/(1 - Φ(z)); any shape. (The inverse of Mills' ratio.)"""
    middle = jnp.exp(-0.5 * z * z - HALF_LOG_TWO_PI - log_survival(jnp.minimum(z, _TAIL)))
    return jnp.where(z < _TAIL, middle, z + _tail_gap(z))


def _tail_gap(z: jax.Array) -> jax.Array:
    """How much the hazard exceeds z: Laplace's continued fraction 1/(z + 2/(z + 3/(z + …))), for z ≥ 5 (else of 5)."""
    z = jnp.maximum(z, _TAIL)
    denominator = z
    for k in range(_LEVELS, 1, -1):
        denominator = z + k / denominator
    return 1 / denominator


def _hazard_slope(tangent: jax.Array, hazard: jax.Array, z: jax.Array) -> jax.Array:
    gap = jnp.where(z < _TAIL, hazard - z, _tail_gap(z))
    return hazard * gap * tangent


log_survival.defjvps(lambda tangent, _, z: -normal_hazard(z) * tangent)
normal_hazard.defjvps(_hazard_slope)

"""Losses for real-valued targets."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.losses.loss import AbstractLeastSquares, AbstractLoss, check_shapes


class SquaredError(AbstractLeastSquares):
    """Σ (output - target)² over the components: no mean, no ½; units of the target squared.

    Raises:
        UserError: at the call, output and target differ in shape.

    >>> squared_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]))
    Array(5., dtype=float32)
    >>> squared_error.residual(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]))
    Array([ 1., -2.], dtype=float32)
    """

    def residual(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Two arrays of the same shape to their difference as a vector."""
        check_shapes(self, output, target.shape, target)
        return jnp.ravel(output - target)


class GaussianNLL(AbstractLoss):
    """-log N(target; mean, exp(log_scale)²), summed over the components, with its constant.

    The output of the model is the pair (mean, log_scale), both of the target's shape: mean in the units of the target,
    log_scale the natural logarithm of the standard deviation in those units.

    Args:
        beta: in [0, 1]. Each component is weighted by its variance to this power, without gradient through the weight:
            the β-NLL of Seitzer et al. (2022), whose gradient for the mean is less weak where the variance is large.
            0 is the exact negative log density; anything else is none, and trains only.
    Raises:
        UserError: beta lies outside [0, 1]; at the call, the output is no pair, or a shape differs from the target's.

    >>> gaussian_nll((jnp.array(1.0), jnp.array(0.0)), jnp.array(1.0))  # log √(2π)
    Array(0.9189385, dtype=float32)
    """

    beta: float = eqx.field(static=True)

    def __init__(self, beta: float = 0.0):
        if not 0 <= beta <= 1:
            raise UserError(f"beta {beta} of GaussianNLL lies outside [0, 1]", remedy="0.5 is the authors' choice.")
        self.beta = float(beta)

    def __call__(self, output: tuple[jax.Array, jax.Array], target: jax.Array) -> jax.Array:
        """((mean, log_scale), target), all of one shape, to a scalar."""
        if not (isinstance(output, tuple) and len(output) == 2):
            raise UserError(f"an output {type(output).__name__} in place of (mean, log_scale)", where="GaussianNLL")
        mean, log_scale = output
        check_shapes(self, mean, target.shape, target)
        check_shapes(self, log_scale, target.shape, target)
        deviation = (target - mean) * jnp.exp(-log_scale)
        each = 0.5 * jnp.square(deviation) + log_scale + 0.5 * math.log(2 * math.pi)
        if self.beta != 0:
            each = each * jax.lax.stop_gradient(jnp.exp(2 * self.beta * log_scale))
        return jnp.sum(each)


squared_error = SquaredError()
gaussian_nll = GaussianNLL()

"""Losses for real-valued targets whose errors have light tails, and for positive ones and proportions."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.losses.loss import AbstractLeastSquares, AbstractLoss, check_shapes, refuse_rows, standardized, unpack
from thalweg.losses.special import HALF_LOG_TWO_PI


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
        check_shapes(self, output, target)
        return jnp.ravel(output - target)


class FixedGaussianNLL(AbstractLoss):
    """-log N(target; output, scale²), summed over the components, with its constant: the noise is known.

    Least squares up to a factor and a constant; for Levenberg-Marquardt take `squared_error` with weight 1/(2 scale²).

    Args:
        scale: standard deviation of the noise, > 0, in the units of the target.
    Raises:
        UserError: the scale is not positive; at the call, output and target differ in shape.

    >>> FixedGaussianNLL(1.0)(jnp.array(2.0), jnp.array(0.0))  # log √(2π) + 2
    Array(2.9189386, dtype=float32)
    """

    scale: float = eqx.field(static=True)

    def __init__(self, scale: float):
        self.scale = positive_scale(scale, "FixedGaussianNLL")

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Two arrays of the same shape to a scalar."""
        check_shapes(self, output, target)
        constant = math.log(self.scale) + HALF_LOG_TWO_PI
        return jnp.sum(0.5 * jnp.square((target - output) / self.scale) + constant)


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
        mean, log_scale = unpack(self, output, ("mean", "log_scale"), target)
        each = _gaussian(mean, log_scale, target)
        if self.beta != 0:
            each = each * jax.lax.stop_gradient(jnp.exp(2 * self.beta * log_scale))
        return jnp.sum(each)


class LogNormalNLL(AbstractLoss):
    """-log density of a target > 0 whose logarithm is Gaussian, summed over the components, with its constant.

    The output of the model is the pair (log_median, log_scale), both of the target's shape: the mean of log target,
    which is the logarithm of its median, and the natural logarithm of the standard deviation of log target (no units).
    Mean of the target: exp(log_median + scale²/2). A target that is not positive costs NaN; `check_targets` names it.

    Raises:
        UserError: at the call, the output is no pair, or a shape differs from the target's.

    >>> log_normal_nll((jnp.array(0.0), jnp.array(0.0)), jnp.array(1.0))  # log √(2π)
    Array(0.9189385, dtype=float32)
    """

    def __call__(self, output: tuple[jax.Array, jax.Array], target: jax.Array) -> jax.Array:
        """((log_median, log_scale), target), all of one shape, to a scalar."""
        log_median, log_scale = unpack(self, output, ("log_median", "log_scale"), target)
        target = target.astype(log_scale.dtype)
        log_target = jnp.log(jnp.where(target > 0, target, jnp.nan))
        return jnp.sum(_gaussian(log_median, log_scale, log_target) + log_target)

    def check_targets(self, targets: object) -> None:
        """Refuse targets that are not finite and positive."""
        refuse_rows(self, targets, "a finite number > 0", lambda values: ~(np.isfinite(values) & (values > 0)))


class LogitNormalNLL(AbstractLoss):
    """-log density of a proportion in (0, 1) whose logit is Gaussian, summed over the components, with its constant.

    The output of the model is the pair (logit_median, log_scale), both of the target's shape: the mean of
    log(y/(1 - y)) and the natural logarithm of its standard deviation (no units); Aitchison and Shen (1980). A target
    outside (0, 1) costs NaN; exact zeros and ones have no such density: `check_targets` names them.

    Raises:
        UserError: at the call, the output is no pair, or a shape differs from the target's.

    >>> logit_normal_nll((jnp.array(0.0), jnp.array(0.0)), jnp.array(0.5))  # log √(2π) - log 4
    Array(-0.467..., dtype=float32)
    """

    def __call__(self, output: tuple[jax.Array, jax.Array], target: jax.Array) -> jax.Array:
        """((logit_median, log_scale), target), all of one shape, to a scalar."""
        logit_median, log_scale = unpack(self, output, ("logit_median", "log_scale"), target)
        target = target.astype(log_scale.dtype)
        target = jnp.where((target > 0) & (target < 1), target, jnp.nan)
        log_target, log_rest = jnp.log(target), jnp.log1p(-target)
        return jnp.sum(_gaussian(logit_median, log_scale, log_target - log_rest) + log_target + log_rest)

    def check_targets(self, targets: object) -> None:
        """Refuse targets that do not lie strictly between 0 and 1."""
        refuse_rows(self, targets, "a proportion between 0 and 1, both excluded", lambda v: ~((v > 0) & (v < 1)))


def positive_scale(scale: float, name: str) -> float:
    """A scale that is finite and > 0; UserError otherwise."""
    if not (math.isfinite(scale) and scale > 0):
        raise UserError(f"scale {scale} of {name} is not positive", remedy="Give a standard deviation > 0.")
    return float(scale)


def _gaussian(mean: jax.Array, log_scale: jax.Array, value: jax.Array) -> jax.Array:
    return 0.5 * jnp.square(standardized(value - mean, log_scale)) + log_scale + HALF_LOG_TWO_PI


squared_error = SquaredError()
gaussian_nll = GaussianNLL()
log_normal_nll = LogNormalNLL()
logit_normal_nll = LogitNormalNLL()

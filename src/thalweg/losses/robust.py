"""Losses for real-valued targets with outliers, and for quantiles."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.losses.loss import AbstractLoss, absolute, check_shapes, largest_log, standardized, unpack
from thalweg.losses.regression import positive_scale
from thalweg.losses.special import HALF_LOG_TWO_PI, LARGEST_LOG, stirling_error


class AbsoluteError(AbstractLoss):
    """Σ |output - target| over the components, in the units of the target; at equality the gradient is 0.

    The output that costs least in the mean is the median. `FixedLaplaceNLL` is the likelihood with the same minimum.

    Raises:
        UserError: at the call, output and target differ in shape.

    >>> absolute_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]))
    Array(3., dtype=float32)
    """

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Two arrays of the same shape to a scalar."""
        check_shapes(self, output, target)
        return jnp.sum(absolute(output - target))


class Huber(AbstractLoss):
    """Σ of ½ r² where |r| ≤ delta, of delta (|r| - ½ delta) beyond; r = output - target (Huber, 1964).

    With its customary ½, as in SciPy and PyTorch. It is no density.

    Args:
        delta: where the square becomes straight, > 0, in the units of the target.
    Raises:
        UserError: delta is not positive; at the call, output and target differ in shape.

    >>> Huber(1.0)(jnp.array([0.5, 3.0]), jnp.zeros(2))  # 0.125 + 2.5
    Array(2.625, dtype=float32)
    """

    delta: float = eqx.field(static=True)

    def __init__(self, delta: float):
        if not (math.isfinite(delta) and delta > 0):
            raise UserError(f"delta {delta} of Huber is not positive", remedy="1.345 standard deviations is usual.")
        self.delta = float(delta)

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Two arrays of the same shape to a scalar."""
        check_shapes(self, output, target)
        size = jnp.abs(output - target)
        near = jnp.minimum(size, self.delta)  # so that no square overflows
        return jnp.sum(near * (size - 0.5 * near))


class Quantile(AbstractLoss):
    """Pinball loss Σ max(q r, (q - 1) r), r = target - output: least for the quantile q (Koenker and Bassett, 1978).

    Args:
        levels: q in (0, 1). With one number the output has the target's shape; with several, (*target's, levels), and
            the losses of the levels are added. Nothing keeps the quantiles in order.
    Raises:
        UserError: no level, or one outside (0, 1); at the call, an output whose shape does not fit the target.

    >>> Quantile(0.9)(jnp.array(0.0), jnp.array(2.0)), Quantile((0.1, 0.9))(jnp.zeros(2), jnp.array(2.0))
    (Array(1.8, dtype=float32), Array(2., dtype=float32))
    """

    levels: float | tuple[float, ...] = eqx.field(static=True)

    def __init__(self, levels: float | Sequence[float]):
        several = tuple(float(level) for level in levels) if isinstance(levels, Sequence) else (float(levels),)
        if not several or not all(0 < level < 1 for level in several):
            raise UserError(f"levels {levels} of Quantile do not lie in (0, 1)", remedy="0.5 is the median.")
        self.levels = several if isinstance(levels, Sequence) else several[0]

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Quantiles (*target's, levels), or of the target's shape for a single level, and target, to a scalar."""
        if isinstance(self.levels, tuple):
            check_shapes(self, output, target, len(self.levels))
            target = target[..., None]
        else:
            check_shapes(self, output, target)
        above = target - output
        level = jnp.asarray(self.levels, above.dtype)
        return jnp.sum(jnp.where(above >= 0, level * above, (level - 1) * above))


class FixedLaplaceNLL(AbstractLoss):
    """-log of Laplace's density exp(-|target - output|/scale)/(2 scale), summed over the components: a known scale.

    Args:
        scale: mean absolute deviation, > 0, in the units of the target; the standard deviation is √2 times as large.
    Raises:
        UserError: the scale is not positive; at the call, output and target differ in shape.

    >>> FixedLaplaceNLL(1.0)(jnp.array(2.0), jnp.array(0.0))  # log 2 + 2
    Array(2.6931472, dtype=float32)
    """

    scale: float = eqx.field(static=True)

    def __init__(self, scale: float):
        self.scale = positive_scale(scale, "FixedLaplaceNLL")

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Two arrays of the same shape to a scalar."""
        check_shapes(self, output, target)
        return jnp.sum(absolute(target - output) / self.scale + math.log(2 * self.scale))


class LaplaceNLL(AbstractLoss):
    """-log of Laplace's density about a location with a learned scale, summed over the components.

    The output of the model is the pair (location, log_scale), both of the target's shape: the median in the units of
    the target, and the natural logarithm of the mean absolute deviation.

    Raises:
        UserError: at the call, the output is no pair, or a shape differs from the target's.

    >>> laplace_nll((jnp.array(2.0), jnp.array(0.0)), jnp.array(0.0))  # log 2 + 2
    Array(2.6931472, dtype=float32)
    """

    def __call__(self, output: tuple[jax.Array, jax.Array], target: jax.Array) -> jax.Array:
        """((location, log_scale), target), all of one shape, to a scalar."""
        location, log_scale = unpack(self, output, ("location", "log_scale"), target)
        return jnp.sum(absolute(standardized(target - location, log_scale)) + log_scale + math.log(2))


class StudentTNLL(AbstractLoss):
    """-log of Student's t density with a location and scale, summed over the components, with its constant.

    The output of the model is (location, log_scale) if the degrees of freedom are given, else (location, log_scale,
    log_df), each of the target's shape: location in the units of the target, log_scale the natural logarithm of the
    scale in those units (for df > 2 the standard deviation is √(df/(df - 2)) times the scale). Its pull on the
    location falls again for far targets, so outliers hardly count. For df → ∞ it is the Gaussian, without loss of
    digits.

    Args:
        df: degrees of freedom, > 0; None if the model says them.
    Raises:
        UserError: df is not positive; at the call, the output is no such tuple, or a shape differs from the target's.

    >>> StudentTNLL(1.0)((jnp.array(0.0), jnp.array(0.0)), jnp.array(1.0))  # Cauchy: log 2π
    Array(1.8378..., dtype=float32)
    """

    df: float | None = eqx.field(static=True)

    def __init__(self, df: float | None = None):
        if df is not None and not df > 0:
            raise UserError(f"df {df} of StudentTNLL is not positive", remedy="4 suits moderately heavy tails.")
        self.df = None if df is None else float(df)

    def __call__(self, output: tuple[jax.Array, ...], target: jax.Array) -> jax.Array:
        """((location, log_scale[, log_df]), target), all of one shape, to a scalar."""
        names = ("location", "log_scale", "log_df")
        location, log_scale, *rest = unpack(self, output, names if self.df is None else names[:2], target)
        log_df = jnp.full_like(log_scale, math.log(self.df)) if self.df is not None else rest[0]
        log_df = jnp.minimum(log_df, LARGEST_LOG)
        half = 0.5 * jnp.exp(log_df)
        log_half = log_df - math.log(2)
        # Γ(h + ½)/(Γ(h) √h), by Stirling's formula and what it leaves out; → 1 for h → ∞.
        gammas = half * jax.nn.softplus(-log_df) - 0.5
        gammas += stirling_error(jnp.logaddexp(log_half, jnp.full_like(log_half, -math.log(2))))
        gammas -= stirling_error(log_half)
        tails = (half + 0.5) * _log1p_square(target - location, log_scale + 0.5 * log_df)
        return jnp.sum(log_scale + HALF_LOG_TWO_PI - gammas + tails)


def _log1p_square(deviation: jax.Array, log_scale: jax.Array) -> jax.Array:
    """log(1 + (deviation/scale)²), whose square may overflow; with a finite gradient everywhere."""
    size = jnp.abs(deviation)
    log_ratio = jnp.log(jnp.where(size > 0, size, 1)) - log_scale
    is_far = (size > 0) & (log_ratio > 0)
    far = jax.nn.softplus(2 * jnp.where(is_far, log_ratio, 0))
    inverse = jnp.exp(jnp.minimum(-log_scale, largest_log(log_scale.dtype)))
    near = jnp.log1p(jnp.square(jnp.where(is_far, 0, deviation) * inverse))
    return jnp.where(is_far, far, near)


absolute_error = AbsoluteError()
laplace_nll = LaplaceNLL()
student_t_nll = StudentTNLL()

"""Losses for counts 0, 1, 2, …

Both are written around log(rate/count), after Loader (2000), "Fast and accurate computation of binomial probabilities":
the textbook's differences of log Γ cancel, and in float32 leave no digit at counts of a million.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.losses.loss import AbstractLoss, check_shapes, refuse_rows, unpack
from thalweg.losses.special import HALF_LOG_TWO_PI, LARGEST_LOG, stirling_error


class _AbstractCountLoss(AbstractLoss):
    def check_targets(self, targets: Any) -> None:
        """Refuse targets that are no whole numbers ≥ 0."""
        wrong = lambda values: ~(np.isfinite(values) & (values >= 0) & (values == np.round(values)))
        refuse_rows(self, targets, "a count (0, 1, 2, …)", wrong)


class PoissonNLL(_AbstractCountLoss):
    """-log of the Poisson probability of a count, summed over the components, with its constant.

    The output of the model is log_rate, the natural logarithm of the expected count (add the log of an exposure to it),
    of the target's shape. Targets may be integers or whole floating-point numbers; a negative or broken one costs NaN,
    and `check_targets` names it. Where the rate itself is more than the type can hold, so is the loss.

    Raises:
        UserError: at the call, output and target differ in shape.

    >>> poisson_nll(jnp.log(3.0), jnp.array(2))  # 3 - 2 log 3 + log 2!
    Array(1.4959..., dtype=float32)
    """

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """log_rate and count of one shape, to a scalar."""
        check_shapes(self, output, target)
        count, log_count, is_some = _parts(target, output.dtype)
        excess = jnp.where(is_some, output - log_count, 0)
        some = count * (jnp.expm1(excess) - excess) + _constant(log_count)
        none = jnp.exp(jnp.where(is_some, 0, output))
        return jnp.sum(jnp.where(is_some, some, none))


class NegativeBinomialNLL(_AbstractCountLoss):
    """-log of the negative binomial probability of a count, summed over the components, with its constant.

    The output of the model is the pair (log_mean, log_dispersion), both of the target's shape, natural logarithms of
    the expected count μ and of α in variance = μ + α μ² (the form NB2 of Cameron and Trivedi, 2013). SciPy's n is
    1/α and its p 1/(1 + α μ). For α → 0 it is the Poisson distribution, without loss of digits. A negative or
    broken target costs NaN; `check_targets` names it.

    Raises:
        UserError: at the call, the output is no pair, or a shape differs from the target's.

    >>> negative_binomial_nll((jnp.log(3.0), jnp.array(0.0)), jnp.array(2))  # geometric: -log(¼ (¾)²)
    Array(1.9616..., dtype=float32)
    """

    def __call__(self, output: tuple[jax.Array, jax.Array], target: jax.Array) -> jax.Array:
        """((log_mean, log_dispersion), count), all of one shape, to a scalar."""
        log_mean, log_dispersion = unpack(self, output, ("log_mean", "log_dispersion"), target)
        count, log_count, is_some = _parts(target, log_mean.dtype)
        log_dispersion = jnp.maximum(log_dispersion, -LARGEST_LOG)  # Poisson's to rounding from here on
        log_size = -log_dispersion
        none = _zero(jnp.where(is_some, 0, log_mean), log_dispersion)
        excess = jnp.where(is_some, log_mean - log_count, 0)
        log_odds = log_dispersion + log_count
        # Of αy/(1 + αy), the share of dispersion in the variance at μ = y, and of the rest, which is Poisson's.
        log_share, log_rest = -jax.nn.softplus(-log_odds), -jax.nn.softplus(log_odds)
        some = jnp.exp(log_size) * _log_mix(log_rest, log_share, excess)
        some += count * _log_mix(log_share, log_rest, -excess)
        some += _constant(log_count) - 0.5 * log_rest
        some += stirling_error(log_size) - stirling_error(jnp.logaddexp(log_size, log_count))
        return jnp.sum(jnp.where(is_some, some, none))


def _log_mix(log_one: jax.Array, log_other: jax.Array, x: jax.Array) -> jax.Array:
    """log(p + (1 - p) exp(x)) with p + (1 - p) = 1 given as logarithms: 0 at x = 0, and exact nearby."""
    is_near = jnp.abs(x) < 1
    near = jnp.log1p(jnp.exp(log_other) * jnp.expm1(jnp.where(is_near, x, 0)))
    return jnp.where(is_near, near, jnp.logaddexp(log_one, log_other + x))


def _zero(log_mean: jax.Array, log_dispersion: jax.Array) -> jax.Array:
    """log(1 + α μ)/α, the cost of a count of 0, where α may be all but 0 or μ more than the type can hold."""
    log_product = log_dispersion + log_mean
    is_large = log_product > 0
    large = jnp.exp(-log_dispersion) * jax.nn.softplus(jnp.where(is_large, log_product, 0))
    small = jnp.clip(log_product, -0.75 * LARGEST_LOG, 0)
    ratio = jax.nn.softplus(small) * jnp.exp(-small)  # log(1 + x)/x
    return jnp.where(is_large, large, jnp.exp(jnp.where(is_large, 0, log_mean)) * ratio)


def _parts(target: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The count (NaN for what is none), its logarithm (0 for a count of 0), and where it is not 0."""
    count = target.astype(dtype)
    count = jnp.where((count >= 0) & (count == jnp.round(count)), count, jnp.nan)
    is_some = count != 0
    return count, jnp.log(jnp.where(is_some, count, 1)), is_some


def _constant(log_count: jax.Array) -> jax.Array:
    """Log y! - (y log y - y), for y > 0."""
    return stirling_error(log_count) + HALF_LOG_TWO_PI + 0.5 * log_count


poisson_nll = PoissonNLL()
negative_binomial_nll = NegativeBinomialNLL()

"""Networks for a numeric target, one for each family of distributions, in the target's own units."""

import abc
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from thalweg.losses import (
    AbstractLoss,
    gaussian_nll,
    log_normal_nll,
    logit_normal_nll,
    negative_binomial_nll,
    poisson_nll,
    student_t_nll,
)
from thalweg.nn import Standardize
from thalweg.tables.family import Family
from thalweg.tables.network import TableNetwork
from thalweg.types import Key

SCALE_LIMIT = 7.0
"""Bound on the log of the predicted scale in units of the target's own: e^±7 is a thousand-fold either way."""

UPPER_LIMIT = 1.0
"""Upper bound of the same where the mean grows with exp(scale²/2): one wild row must not rule a column of means."""

SMALLEST_DF = 2.1
"""Degrees of freedom of Student's t stay above, so that there is a standard deviation."""

NODES = 64
"""Of the quadrature of a logit-normal's moments."""


class Distribution(Protocol):
    """Distributions of n rows, as SciPy's frozen ones."""

    def mean(self) -> np.ndarray:
        """Shape (n,)."""
        ...

    def std(self) -> np.ndarray:
        """Shape (n,)."""
        ...

    def cdf(self, x: Any, /) -> np.ndarray:
        """P(Y ≤ x) of each row, x and result of shape (n,)."""
        ...

    def ppf(self, q: float, /) -> np.ndarray:
        """Each row's quantile, shape (n,)."""
        ...


class AbstractNumberModel(eqx.Module):
    """A network whose output is the parameters of a distribution of the target, as `loss` takes them.

    Args:
        features: encoded training rows (n, d), for the normalization.
        target: training targets (n,), likewise.
        width, depth, dropout: of the perceptron.
        key: for the initial weights.
        dtype: of the parameters.
    """

    network: eqx.AbstractVar[TableNetwork]
    loss: ClassVar[AbstractLoss]
    is_discrete: ClassVar[bool] = False

    @abc.abstractmethod
    def __init__(self, features: np.ndarray, target: np.ndarray, *, key: Key, dtype: Any, **shape: Any): ...

    @abc.abstractmethod
    def __call__(self, x: jax.Array, *, key: Key | None = None) -> Any:
        """x: (features,) -> what `loss` takes, arrays of shape ()."""

    @staticmethod
    @abc.abstractmethod
    def distribution(*output: np.ndarray) -> Distribution:
        """The distributions of n rows from what `__call__` gave for each, arrays of shape (n,)."""


class NumberModel(AbstractNumberModel):
    """A heteroscedastic Gaussian; see `AbstractNumberModel`."""

    network: TableNetwork
    target: Standardize
    loss: ClassVar[AbstractLoss] = gaussian_nll

    def __init__(self, features: np.ndarray, target: np.ndarray, *, key: Key, dtype: Any, **shape: Any):
        self.network = TableNetwork(features, 2, key=key, dtype=dtype, **shape)
        self.target = Standardize(np.mean(target), np.std(target), dtype=dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> tuple[jax.Array, jax.Array]:
        """x: (features,) -> (mean, log of the standard deviation), both ()."""
        mean, raw = self.network(x, key=key)
        return self.target.inverse(mean), _bounded(raw) + jnp.log(self.target.scale)

    @staticmethod
    def distribution(*output: np.ndarray) -> Distribution:
        """From (mean, log_scale)."""
        mean, log_scale = output
        return scipy.stats.norm(mean, np.exp(log_scale))


class StudentTModel(AbstractNumberModel):
    """Student's t with a location and scale for each row and one learned number of degrees of freedom, above 2.1.

    The units of location and scale are the target's median and median absolute deviation, which no outlier moves.
    """

    network: TableNetwork
    target: Standardize
    tails: jax.Array
    loss: ClassVar[AbstractLoss] = student_t_nll

    def __init__(self, features: np.ndarray, target: np.ndarray, *, key: Key, dtype: Any, **shape: Any):
        self.network = TableNetwork(features, 2, key=key, dtype=dtype, **shape)
        center = np.median(target)
        spread = 1.4826 * np.median(np.abs(target - center))  # of a Gaussian, the standard deviation
        self.target = Standardize(center, spread if spread > 0 else np.std(target), dtype=dtype)
        self.tails = jnp.asarray(math.log(6 - SMALLEST_DF), dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x: (features,) -> (location, log_scale, log_df), each ()."""
        location, raw = self.network(x, key=key)
        log_df = jnp.log(SMALLEST_DF + jnp.exp(self.tails))
        return self.target.inverse(location), _bounded(raw) + jnp.log(self.target.scale), log_df

    @staticmethod
    def distribution(*output: np.ndarray) -> Distribution:
        """From (location, log_scale, log_df)."""
        location, log_scale, log_df = output
        return scipy.stats.t(np.exp(log_df), location, np.exp(log_scale))


class LogNormalModel(AbstractNumberModel):
    """A target > 0 whose logarithm is a heteroscedastic Gaussian; see `AbstractNumberModel`."""

    network: TableNetwork
    target: Standardize
    loss: ClassVar[AbstractLoss] = log_normal_nll

    def __init__(self, features: np.ndarray, target: np.ndarray, *, key: Key, dtype: Any, **shape: Any):
        self.network = TableNetwork(features, 2, key=key, dtype=dtype, **shape)
        self.target = Standardize(np.mean(np.log(target)), np.std(np.log(target)), dtype=dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> tuple[jax.Array, jax.Array]:
        """x: (features,) -> (log_median, log_scale), both ()."""
        log_median, raw = self.network(x, key=key)
        return self.target.inverse(log_median), _bounded(raw, UPPER_LIMIT) + jnp.log(self.target.scale)

    @staticmethod
    def distribution(*output: np.ndarray) -> Distribution:
        """From (log_median, log_scale)."""
        log_median, log_scale = output
        return scipy.stats.lognorm(np.exp(log_scale), scale=np.exp(log_median))


class LogitNormalModel(AbstractNumberModel):
    """A target in (0, 1) whose logit is a heteroscedastic Gaussian; see `AbstractNumberModel`."""

    network: TableNetwork
    target: Standardize
    loss: ClassVar[AbstractLoss] = logit_normal_nll

    def __init__(self, features: np.ndarray, target: np.ndarray, *, key: Key, dtype: Any, **shape: Any):
        self.network = TableNetwork(features, 2, key=key, dtype=dtype, **shape)
        logit = scipy.special.logit(target)
        self.target = Standardize(np.mean(logit), np.std(logit), dtype=dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> tuple[jax.Array, jax.Array]:
        """x: (features,) -> (logit_median, log_scale), both ()."""
        logit_median, raw = self.network(x, key=key)
        return self.target.inverse(logit_median), _bounded(raw, UPPER_LIMIT) + jnp.log(self.target.scale)

    @staticmethod
    def distribution(*output: np.ndarray) -> Distribution:
        """From (logit_median, log_scale)."""
        return LogitNormal(*output)


class LogitNormal:
    """Distributions of n proportions whose logits are Gaussian.

    Args:
        logit_median, log_scale: of the logit, shape (n,).
    """

    def __init__(self, logit_median: np.ndarray, log_scale: np.ndarray):
        self._logit = scipy.stats.norm(logit_median, np.exp(log_scale))
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)  # there is no closed form of the moments
        values = scipy.special.expit(np.asarray(logit_median)[..., None] + np.exp(log_scale)[..., None] * nodes)
        weights = weights / weights.sum()
        self._mean = values @ weights
        self._std = np.sqrt((values - self._mean[..., None]) ** 2 @ weights)

    def mean(self) -> np.ndarray:
        """Shape (n,)."""
        return self._mean

    def std(self) -> np.ndarray:
        """Shape (n,)."""
        return self._std

    def cdf(self, x: Any, /) -> np.ndarray:
        """P(Y ≤ x), shape (n,)."""
        with np.errstate(divide="ignore"):
            return self._logit.cdf(scipy.special.logit(np.clip(x, 0, 1)))

    def ppf(self, q: float, /) -> np.ndarray:
        """The quantile, shape (n,)."""
        return scipy.special.expit(self._logit.ppf(q))


class PoissonModel(AbstractNumberModel):
    """Counts whose variance is their mean; see `AbstractNumberModel`."""

    network: TableNetwork
    target: Standardize
    loss: ClassVar[AbstractLoss] = poisson_nll
    is_discrete: ClassVar[bool] = True

    def __init__(self, features: np.ndarray, target: np.ndarray, *, key: Key, dtype: Any, **shape: Any):
        self.network = TableNetwork(features, 1, key=key, dtype=dtype, **shape)
        self.target = _log_units(target, dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """x: (features,) -> log_rate, shape ()."""
        (log_rate,) = self.network(x, key=key)
        return self.target.inverse(log_rate)

    @staticmethod
    def distribution(*output: np.ndarray) -> Distribution:
        """From log_rate."""
        return scipy.stats.poisson(np.exp(output[0]))


class NegativeBinomialModel(AbstractNumberModel):
    """Counts whose variance exceeds their mean by a dispersion of each row's own; see `AbstractNumberModel`."""

    network: TableNetwork
    target: Standardize
    dispersion: Standardize
    loss: ClassVar[AbstractLoss] = negative_binomial_nll
    is_discrete: ClassVar[bool] = True

    def __init__(self, features: np.ndarray, target: np.ndarray, *, key: Key, dtype: Any, **shape: Any):
        self.network = TableNetwork(features, 2, key=key, dtype=dtype, **shape)
        self.target = _log_units(target, dtype)
        excess = (np.var(target) - np.mean(target)) / np.mean(target) ** 2
        self.dispersion = Standardize(np.log(max(float(excess), 1e-3)), 1.0, dtype=dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> tuple[jax.Array, jax.Array]:
        """x: (features,) -> (log_mean, log_dispersion), both ()."""
        log_mean, raw = self.network(x, key=key)
        return self.target.inverse(log_mean), self.dispersion.inverse(_bounded(raw, UPPER_LIMIT))

    @staticmethod
    def distribution(*output: np.ndarray) -> Distribution:
        """From (log_mean, log_dispersion)."""
        log_mean, log_dispersion = output
        return scipy.stats.nbinom(np.exp(-log_dispersion), scipy.special.expit(-log_dispersion - log_mean))


def _bounded(raw: jax.Array, upper: float = SCALE_LIMIT) -> jax.Array:
    """Smoothly into (-SCALE_LIMIT, upper), with slope 1 at 0."""
    below = SCALE_LIMIT * jnp.tanh(jnp.minimum(raw, 0) / SCALE_LIMIT)
    return below + upper * jnp.tanh(jnp.maximum(raw, 0) / upper)


def _log_units(target: np.ndarray, dtype: Any) -> Standardize:
    """Of the logarithm of expected counts."""
    return Standardize(np.log(np.mean(target)), np.std(np.log(target + 0.5)), dtype=dtype)


MODELS: Mapping[Family, type[AbstractNumberModel]] = MappingProxyType(
    {
        Family.GAUSSIAN: NumberModel,
        Family.STUDENT_T: StudentTModel,
        Family.LOG_NORMAL: LogNormalModel,
        Family.LOGIT_NORMAL: LogitNormalModel,
        Family.POISSON: PoissonModel,
        Family.NEGATIVE_BINOMIAL: NegativeBinomialModel,
    }
)
"""The network for each family."""

"""The stationary bootstrap against its closed forms, and what its intervals cover."""

import numpy as np
import pytest
from scipy.stats import norm

from thalweg.analysis import block_length, stationary_indices
from thalweg.errors import UserError


def autoregressive(phi: float, n: int, count: int, seed: int) -> np.ndarray:
    """Series (count, n) of x_t = phi x_{t-1} + noise, from their stationary distribution."""
    noise = np.random.default_rng(seed).normal(size=(count, n))
    noise[:, 0] /= np.sqrt(1 - phi**2)
    for t in range(1, n):
        noise[:, t] += phi * noise[:, t - 1]
    return noise


def test_blocks_are_geometric_and_places_uniform() -> None:
    n, block = 50, 5.0
    drawn = stationary_indices(n, block, 4_000, np.random.default_rng(0))
    assert drawn.shape == (4_000, n)
    goes_on = (drawn[:, 1:] - drawn[:, :-1]) % n == 1
    # With 1 - 1/5, and anew by chance onto the next place with 1/5 · 1/50; 4.5 standard deviations of 196,000
    expected = 0.8 + 0.2 / n
    assert abs(goes_on.mean() - expected) < 4.5 * np.sqrt(expected * (1 - expected) / goes_on.size)
    # Two in a row go on as if each were drawn alone: geometric lengths.
    both = (goes_on[:, 1:] & goes_on[:, :-1]).mean()
    assert abs(both - expected**2) < 4.5 * np.sqrt(expected**2 * 3 / goes_on.size)
    shares = np.bincount(drawn.ravel(), minlength=n) / drawn.size
    # Each of 50 places in blocks of 5: 4,000 · 50/(2 · 5 - 1) as if independent draws.
    assert np.abs(shares - 1 / n).max() < 4.5 * np.sqrt(1 / n * 9 / drawn.size)


@pytest.mark.parametrize("block", [1.0, 4.0, 12.0])
def test_the_variance_of_the_mean_is_politis_and_romanos(block: float) -> None:
    """Their lemma 1: C(0) + 2 Σ (1 - k/n)(1 - p)^k C(k) of the circular autocovariances, over n."""
    (series,) = autoregressive(0.6, 80, 1, seed=1)
    n, p = len(series), 1 / block
    centred = series - series.mean()
    circular = np.array([centred @ np.roll(centred, k) for k in range(n)]) / n
    k = np.arange(1, n)
    expected = (circular[0] + 2 * np.sum((1 - k / n) * (1 - p) ** k * circular[1:])) / n
    means = series[stationary_indices(n, block, 40_000, np.random.default_rng(2))].mean(axis=1)
    # 4 standard errors of a variance estimated from 40,000 values that are nearly normal: 4·√(2/40,000)
    assert means.var() == pytest.approx(expected, rel=0.03)
    # The first row of every drawn mean is as likely from anywhere: without bias.
    assert abs(means.mean() - series.mean()) < 4 * np.sqrt(expected / 40_000)


def test_intervals_for_a_mean_cover_it_where_the_plain_bootstrap_does_not() -> None:
    """x_t = 0.5 x_{t-1} + noise: the plain bootstrap takes the mean for √3 times as sure as it is."""
    n, series = 400, autoregressive(0.5, 400, 400, seed=3)
    rng = np.random.default_rng(4)

    def covered(block: float) -> float:
        # the same 300 resamples for all 400 series: a resample is a set of weights
        weights = np.stack([np.bincount(one, minlength=n) for one in stationary_indices(n, block, 300, rng)]) / n
        low, high = np.quantile(series @ weights.T, [0.025, 0.975], axis=1)
        return float(np.mean((low <= 0) & (high >= 0)))

    lengths = [block_length(one) for one in series[:50]]
    stationary, plain = covered(float(np.median(lengths))), covered(1.0)
    # Blocks of 9 leave out (2φ/(1 - φ²))/9 = 15 % of the variance; ± 3 standard errors of 400 series
    expected = 2 * norm.cdf(1.96 * np.sqrt(1 - 4 / 3 / np.median(lengths))) - 1
    assert abs(stationary - expected) < 0.04
    assert 0.92 < expected < 0.95
    # a normal interval √3 times too short covers 2Φ(1.96/√3) - 1 = 74 %, ± 7 %
    assert plain < 0.81


def test_the_length_of_a_block_is_the_closed_form_of_an_autoregression() -> None:
    """G/Σ R = 2φ/(1 - φ²), so that the best length is (2φ/(1 - φ²))^⅔ n^⅓."""
    n = 8_000
    for phi in (0.3, 0.6, 0.8):
        found = [block_length(one) for one in autoregressive(phi, n, 9, seed=5)]
        # an estimate from one series errs by some 15 %; the median of nine, by a third of that
        assert np.median(found) == pytest.approx((2 * phi / (1 - phi**2)) ** (2 / 3) * n ** (1 / 3), rel=0.15)
    assert block_length(np.random.default_rng(6).normal(size=n)) < 3


def test_what_makes_no_sense_is_refused() -> None:
    rng = np.random.default_rng(0)
    for n, block, count in ((0, 2.0, 1), (5, 0.5, 1), (5, np.inf, 1), (5, np.nan, 1), (5, 2.0, 0)):
        with pytest.raises(UserError, match="mean length"):
            stationary_indices(n, block, count, rng)
    for series in (np.arange(5.0), np.ones(50), np.append(np.arange(50.0), np.nan), np.ones((10, 10))):
        with pytest.raises(UserError, match="block length"):
            block_length(series)


@pytest.mark.parametrize("unit", [2.0**-660, 2.0**660])
def test_the_unit_of_a_series_does_not_change_its_block(unit):
    """Its squares would be 0 or ∞. A power of 2 changes no digit, so equal means equal."""
    series = np.convolve(np.random.default_rng(0).normal(size=200), np.ones(9), "valid")
    assert block_length(series * unit) == block_length(series) > 1

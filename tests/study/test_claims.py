"""Claims: the rule behind a verdict, and the intervals that it rests on."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from thalweg.analysis.medians import median_interval
from thalweg.errors import UserError
from thalweg.study.claim import Claim, ClaimVerdict

SUPPORTED, NOT_SUPPORTED, UNDECIDED = ClaimVerdict.SUPPORTED, ClaimVerdict.NOT_SUPPORTED, ClaimVerdict.UNDECIDED
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("interval", "at_most", "at_least"),
    [
        ((0.2, 0.8), SUPPORTED, NOT_SUPPORTED),
        ((1.2, 1.8), NOT_SUPPORTED, SUPPORTED),
        ((0.8, 1.2), UNDECIDED, UNDECIDED),
        ((1.0, 1.0), SUPPORTED, SUPPORTED),  # equal agrees with both
        ((0.5, 1.0), SUPPORTED, UNDECIDED),
        ((1.0, 1.5), UNDECIDED, SUPPORTED),
        ((-INF, INF), UNDECIDED, UNDECIDED),
        ((-INF, 0.5), SUPPORTED, NOT_SUPPORTED),
        ((NAN, NAN), NOT_SUPPORTED, NOT_SUPPORTED),
        ((0.5, NAN), NOT_SUPPORTED, NOT_SUPPORTED),
    ],
)
def test_the_verdict_follows_from_interval_and_reference(interval, at_most, at_least) -> None:
    value = interval[0]
    assert Claim.at_most("a", value, interval, 1.0).verdict is at_most
    assert Claim.at_least("a", value, interval, 1.0).verdict is at_least


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.95, 1.05), SUPPORTED),
        ((0.9, 1.1), SUPPORTED),
        ((0.85, 1.05), UNDECIDED),
        ((1.05, 1.15), UNDECIDED),
        ((0.0, 2.0), UNDECIDED),
        ((0.5, 0.8), NOT_SUPPORTED),
        ((1.2, 1.3), NOT_SUPPORTED),
        ((NAN, 1.0), NOT_SUPPORTED),
    ],
)
def test_near(interval, verdict) -> None:
    assert Claim.near("a", interval[0], interval, 1.0, tolerance=0.1).verdict is verdict


def test_a_value_that_is_not_a_number_supports_nothing() -> None:
    assert Claim.at_most("the error is small", NAN, (0.0, 0.1), 1.0).verdict is NOT_SUPPORTED


@pytest.mark.parametrize("reference", [NAN, INF, -INF])
def test_a_claim_that_could_not_fail_is_refused(reference: float) -> None:
    """Every number is at most infinity; no number is at most NaN."""
    for make in (Claim.at_most, Claim.at_least):
        with pytest.raises(UserError, match="reference"):
            make("the error is finite", 0.1, (0.0, 0.2), reference)
    with pytest.raises(UserError, match="tolerance"):
        Claim.near("the error is finite", 0.1, (0.0, 0.2), 0.0, tolerance=abs(reference))


def test_what_is_no_claim_is_refused() -> None:
    with pytest.raises(UserError, match="low end"):
        Claim.at_most("ends exchanged", 0.5, (0.8, 0.2), 1.0)
    with pytest.raises(UserError, match="statement"):
        Claim.at_most(" ", 0.5, (0.2, 0.8), 1.0)
    with pytest.raises(UserError, match="tolerance"):
        Claim.near("near", 0.5, (0.2, 0.8), 1.0, tolerance=-0.1)


def test_a_claim_survives_its_file_bit_for_bit() -> None:
    third = np.float32(1) / 3  # a NumPy scalar whose shortest text differs in 32 and 64 bits
    claim = Claim.at_least("a third", third, (third / 7, third * 7), 0.1, unit="K")
    again = Claim.from_json(json.loads(json.dumps(claim.to_json())))
    assert again == claim
    assert again.value == float(third)
    assert type(again.value) is float


@pytest.mark.parametrize("n", [6, 9, 10, 15, 20, 40])
def test_the_median_interval_is_the_innermost_pair_that_covers(n: int) -> None:
    """Against SciPy's binomial distribution: the pair covers at least 95 %, and the next pair inwards less."""
    value, (low, high) = median_interval(list(range(1, n + 1))[::-1])
    assert value == (n + 1) / 2
    k = int(low)
    assert high == n + 1 - k
    coverage = lambda k: 1 - 2 * stats.binom.cdf(k - 1, n, 0.5)
    assert coverage(k) >= 0.95 > coverage(k + 1)


def test_the_median_interval_covers_a_skewed_distribution() -> None:
    """2,000 samples of 10; exact coverage is 97.85 %, the count's standard deviation 6.5, and four of them are left."""
    rng = np.random.default_rng(0)
    found = [median_interval(sample)[1] for sample in rng.lognormal(size=(2_000, 10)).tolist()]
    covered = sum(low <= 1.0 <= high for low, high in found)
    assert abs(covered - 2_000 * (1 - 22 / 1024)) < 26


def test_few_or_bad_values_decide_nothing() -> None:
    value, interval = median_interval([0.9, 0.8, 0.95, 0.99, 0.97])
    assert (value, interval) == (0.95, (-INF, INF))
    assert Claim.at_least("a", value, interval, 0.5).verdict is UNDECIDED
    assert Claim.at_least("a", *median_interval([0.9] * 9 + [NAN]), 0.5).verdict is NOT_SUPPORTED
    with pytest.raises(UserError, match="0 values"):
        median_interval([])
    with pytest.raises(UserError, match="level"):
        median_interval([1.0], level=1.0)

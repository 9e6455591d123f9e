"""Splits: every row once, no group in two parts, time in order, shares kept, the same rows from the same seed."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from thalweg.data import Split, group_split, random_split, time_split
from thalweg.errors import UserError

SEEDS = st.integers(0, 2**31)
FRACTIONS = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)).map(
    lambda parts: (parts[0] / sum(parts), parts[1] / sum(parts), parts[2] / sum(parts))
)


def check_partition(split: Split, n: int) -> None:
    for part in split:
        assert part.dtype == np.int64
        assert len(part) > 0
        assert (np.diff(part) > 0).all()
    np.testing.assert_array_equal(np.sort(np.concatenate(list(split))), np.arange(n))


@given(st.integers(4, 300), SEEDS, FRACTIONS)
def test_random_split_is_a_partition_with_the_shares_asked_for(n, seed, fractions):
    split = random_split(n, seed, fractions)
    check_partition(split, n)
    for part, share in zip(split, fractions, strict=True):
        # validation and test are rounded (½ each), training takes the rest (1); where a share is less than its part's
        # least number of rows (2, 1, 1), the others lend up to 3 rows
        assert abs(len(part) - share * n) <= (1 if min(fractions) * n >= 2 else 3)


@given(st.lists(st.integers(0, 5), min_size=4, max_size=200), SEEDS, FRACTIONS)
def test_stratified_split_keeps_the_share_of_each_label(labels, seed, fractions):
    labels = np.array(labels)
    split = random_split(len(labels), seed, fractions, stratify=labels)
    check_partition(split, len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    for part in split:
        for label, count in zip(classes, counts, strict=True):
            # rounding each of C labels moves the common cuts by C/2 rows in all, each cut is within 1 row of a label's
            # share, and parts that would be empty borrow up to 2
            allowed = len(classes) / 2 + 4
            assert abs((labels[part] == label).sum() - count * len(part) / len(labels)) <= allowed


def test_a_stratified_split_of_digits_has_each_digit_in_its_share():
    labels = load_digits().target  # 1,797 rows, 174 … 183 of each digit
    for part, share in zip(random_split(len(labels), 0, stratify=labels), (0.7, 0.15, 0.15), strict=True):
        # equal classes: the cut falls at the same place in each, so each is within one row, and 3 for the sizes' spread
        assert (np.abs(np.bincount(labels[part]) - share * np.bincount(labels)) < 4).all()


def test_the_first_member_of_every_label_is_trained_on():
    labels = np.array([0] * 50 + [1] * 49 + [2])
    assert all(99 in random_split(100, seed, stratify=labels).train for seed in range(20))


def test_random_split_depends_on_the_seed_alone_and_is_not_in_order():
    first, again, other = random_split(100, 1), random_split(100, 1), random_split(100, 2)
    for left, right in zip(first, again, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(first.test, other.test)
    # each row is tested in 15 % of the seeds: 300 draws have a standard deviation of 0.021, 5 of them 0.1
    tested = np.mean([np.isin(np.arange(100), random_split(100, seed).test) for seed in range(300)], axis=0)
    assert (np.abs(tested - 0.15) < 0.1).all()


def distance(sizes: np.ndarray, part: np.ndarray, fractions: tuple[float, float, float]) -> float:
    return float(np.sum((np.bincount(part, weights=sizes, minlength=3) - np.array(fractions) * sizes.sum()) ** 2))


@given(st.lists(st.integers(0, 12), min_size=4, max_size=150), SEEDS, FRACTIONS)
def test_group_split_shares_no_group(groups, seed, fractions):
    groups = np.array(groups)
    assume(len(np.unique(groups)) >= 3)
    split = group_split(groups, seed, fractions)
    check_partition(split, len(groups))
    for left, right in itertools.combinations(split, 2):
        assert not set(groups[left]) & set(groups[right])
    for left, right in zip(split, group_split(groups, seed, fractions), strict=True):
        np.testing.assert_array_equal(left, right)


@given(st.lists(st.integers(1, 30), min_size=3, max_size=6), SEEDS)
def test_group_split_is_not_bettered_by_moving_or_exchanging_groups(sizes, seed):
    assume(sum(sizes) >= 4)
    sizes = np.array(sizes)
    fractions = (0.7, 0.15, 0.15)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    part = np.empty(len(sizes), int)
    for number, rows in enumerate(group_split(groups, seed, fractions)):
        part[groups[rows]] = number
    here = distance(sizes, part, fractions)
    for other in itertools.product(range(3), repeat=len(sizes)):
        changed = np.flatnonzero(np.array(other) != part)
        exchange = len(changed) == 2 and [other[changed[0]], other[changed[1]]] == [part[changed[1]], part[changed[0]]]
        if set(other) == {0, 1, 2} and (len(changed) == 1 or exchange):
            assert distance(sizes, np.array(other), fractions) >= here - 1e-6  # rounding of sums of some hundreds


def test_group_split_of_many_groups_meets_the_fractions():
    groups = np.random.default_rng(0).zipf(1.6, 20_000)  # some large, most with one row
    split = group_split(groups, 0)
    assert np.bincount(groups).max() < 0.5 * len(groups)
    # 1,000 and more groups of one row are there to even out: to a row
    assert [len(part) for part in split] == pytest.approx([14_000, 3_000, 3_000], abs=1)


def test_groups_may_be_text():
    patients = np.array(["a", "b", "b", "c", "d"], dtype=object)
    check_partition(group_split(patients, 0), 5)


@given(st.lists(st.integers(-20, 20), min_size=4, max_size=150), FRACTIONS, st.booleans())
def test_time_split_is_in_order_and_cuts_no_ties(times, fractions, dates):
    times = np.array(times)
    assume(len(np.unique(times)) >= 3)
    values = times.astype("datetime64[D]") if dates else times.astype(float)
    split = time_split(values, fractions)
    check_partition(split, len(times))
    assert times[split.train].max() < times[split.validation].min()
    assert times[split.validation].max() < times[split.test].min()


def test_time_split_without_ties_meets_the_fractions():
    times = np.random.default_rng(0).permutation(200)
    split = time_split(times)
    np.testing.assert_array_equal(np.sort(times[split.train]), np.arange(140))
    np.testing.assert_array_equal(np.sort(times[split.validation]), np.arange(140, 170))


def refused(call, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert caught.value.exit_status == 2
    for word in words:
        assert word in str(caught.value)


def test_tables_that_cannot_be_split():
    refused(lambda: random_split(1, 0), "1 row ", "At least 4 rows")
    refused(lambda: random_split(0, 0), "0 rows", "At least 4 rows")
    refused(lambda: random_split(3, 0), "3 rows", "At least 4 rows")
    refused(lambda: random_split(10, 0, (0.7, 0.3, 0.0)), "(0.7, 0.3, 0.0)", "sum 1")
    refused(lambda: random_split(10, 0, (0.7, 0.2, 0.2)), "sum 1")
    refused(lambda: random_split(10, 0, stratify=np.zeros(9)), "9 labels", "10 rows")
    refused(lambda: group_split(np.zeros(10), 0), "1 group", "at least 3")
    refused(lambda: group_split(np.arange(10) % 2, 0), "2 groups", "at least 3")
    refused(lambda: group_split(np.arange(3), 0), "3 rows", "At least 4 rows")
    refused(lambda: time_split(np.arange(10) % 2), "2 different times", "at least 3")
    refused(lambda: time_split(np.array([1.0, 2.0, 3.0, np.nan])), "missing")
    refused(lambda: time_split(np.array(["a", "b", "c", "d"])), "numbers or dates")

"""Walks: every part later than the one before, every time tested once, and nothing learned from what comes later."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.data import Standardizer, past_features, walk_forward
from thalweg.errors import UserError

LENGTHS = st.integers(1, 30)


@given(
    st.integers(1, 60), LENGTHS, LENGTHS, st.integers(0, 20), st.integers(0, 9), st.booleans(), st.integers(0, 2**31)
)
def test_parts_are_in_order_with_the_embargo_between(moments, train, test, validation, embargo, expanding, seed):
    rng = np.random.default_rng(seed)
    n = train + 2 * embargo + validation + moments
    times = np.repeat(np.sort(rng.choice(10 * n, n, replace=False)), rng.integers(1, 3, n))  # some of two rows
    times = rng.permutation(times)
    folds = walk_forward(times, train=train, test=test, validation=validation, embargo=embargo, expanding=expanding)
    place = np.searchsorted(np.unique(times), times)  # of each row's time among the times
    parts = lambda fold: [part for part in fold if len(part)]
    for i, fold in enumerate(folds):
        assert (len(fold.validation) > 0) == (validation > 0)
        for part in fold:
            assert part.dtype == np.int64
            assert (np.diff(part) > 0).all()
        for before, after in zip(parts(fold), parts(fold)[1:], strict=False):
            assert place[after].min() - place[before].max() == embargo + 1
        for part in fold:  # whole times, without a gap
            if len(part):
                inside = (place >= place[part].min()) & (place <= place[part].max())
                np.testing.assert_array_equal(part, np.flatnonzero(inside))
        length = len(np.unique(place[fold.train]))
        assert length == (train + i * test if expanding else train)
    tested = np.concatenate([fold.test for fold in folds])
    first = place[folds[0].test].min()
    assert sorted(tested) == sorted(np.flatnonzero(place >= first))  # each time from the first on, once
    assert first == train + embargo + (validation + embargo if validation else 0)


def test_dates_and_rows_in_order_walk_alike() -> None:
    dates = np.array("2000-01-01", "datetime64[D]") + 7 * np.arange(40)
    for by_date, by_row in zip(*(walk_forward(t, train=10, test=7, embargo=2) for t in (dates, 40)), strict=True):
        for one, other in zip(by_date, by_row, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("times", "lengths", "reason"),
    [
        (10, {"train": 0, "test": 1}, "train=0"),
        (10, {"train": 2.5, "test": 1}, "train=2.5"),
        (10, {"train": 2, "test": 0}, "test=0"),
        (10, {"train": 2, "test": True}, "test=True"),
        (10, {"train": 2, "test": 1, "embargo": -1}, "embargo=-1"),
        (10, {"train": 2, "test": 1, "validation": -1}, "validation=-1"),
        (10, {"train": 4, "test": 1, "validation": 4, "embargo": 1}, "at least 11 are needed"),
        (np.zeros(50), {"train": 4, "test": 1}, "1 different times are too few"),
        (0, {"train": 4, "test": 1}, "0 rows"),
        (np.array([1.0, np.nan]), {"train": 1, "test": 1}, "numbers or dates"),
        (np.array(["a", "b"]), {"train": 1, "test": 1}, "numbers or dates"),
        (np.array(["2000-01-01", "NaT"], "datetime64[D]"), {"train": 1, "test": 1}, "row 1"),
    ],
)
def test_what_makes_no_walk_is_refused(times, lengths, reason) -> None:
    with pytest.raises(UserError, match=reason):
        walk_forward(times, **lengths)


def test_past_features_are_the_definitions_and_do_not_know_the_future() -> None:
    series = np.random.default_rng(0).normal(size=200)
    found = past_features(series, lags=5, windows=[3, 20])
    assert found.names == ("lag 0", "lag 1", "lag 2", "lag 3", "lag 4", "mean 3", "rms 3", "mean 20", "rms 20")
    assert found.rows[0] == 19
    for row, values in zip(found.rows, found.values, strict=True):
        past = series[: row + 1][::-1]
        expected = [*past[:5], past[:3].mean(), np.sqrt((past[:3] ** 2).mean()), past[:20].mean(),
                    np.sqrt((past[:20] ** 2).mean())]  # fmt: skip
        # sums of at most 20, in another order
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-14)
    for t in (19, 77, 198):
        upto = found.rows <= t
        changed = series.copy()
        changed[t + 1 :] = 1e6 * np.random.default_rng(1).normal(size=199 - t)
        assert np.array_equal(past_features(changed, lags=5, windows=[3, 20]).values[upto], found.values[upto])
        shorter = past_features(series[: t + 1], lags=5, windows=[3, 20])
        assert np.array_equal(shorter.values, found.values[upto])
        moved = past_features(np.concatenate([series[: t + 1], [9.0], series[t + 1 :]]), lags=5, windows=[3, 20])
        assert np.array_equal(moved.values[: upto.sum()], found.values[upto])
        assert not np.array_equal(moved.values[upto.sum()], found.values[-1])


def test_a_scale_is_learned_and_kept() -> None:
    rows = np.random.default_rng(0).normal(3, 2, size=(50, 3))
    rows[:, 2] = 0.1
    scaler = Standardizer.learned(rows)
    np.testing.assert_allclose(scaler(rows)[:, :2].mean(axis=0), 0, atol=1e-14)  # a mean of 50
    np.testing.assert_allclose(scaler(rows)[:, :2].std(axis=0), 1, rtol=1e-14)
    np.testing.assert_allclose(scaler(rows + 1)[:, 2], 1.0, rtol=1e-12)  # constant: no scale to divide by
    np.testing.assert_allclose(scaler(rows[:1] + rows.std(axis=0))[0, :2], scaler(rows)[0, :2] + 1, rtol=1e-12)


def test_series_that_have_no_such_past_are_refused() -> None:
    with pytest.raises(UserError, match="row 3"):
        past_features(np.array([1.0, 2.0, 3.0, np.inf]), lags=2)
    for lags, windows in ((0, ()), (2, (1,)), (1.5, ())):
        with pytest.raises(UserError, match="whole number"):
            past_features(np.ones(9), lags=lags, windows=windows)
    with pytest.raises(UserError, match="no 10 values"):
        past_features(np.ones(9), lags=2, windows=[10])
    with pytest.raises(UserError, match=r"\(3,\)"):
        Standardizer.learned(np.ones(3))


def test_windows_that_are_none_and_values_that_cannot_be_squared_are_refused() -> None:
    with pytest.raises(UserError, match="windows 5 are no sequence"):
        past_features(np.ones(9), lags=1, windows=5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="whole number"):
        past_features(np.ones(9), lags=True)
    for series in (np.array(["a", "b"]), np.ones(9) * 1j):
        with pytest.raises(UserError, match="a series of dtype"):
            past_features(series, lags=1)
    large = np.array([1.0, 1.0, 1e300, 1.0])
    with pytest.raises(UserError, match=r"1e\+300, too large to square \(row 2"):
        past_features(large, lags=1, windows=[2])
    assert past_features(large, lags=1).values[2, 0] == 1e300
    assert np.isfinite(past_features(large / 1e150, lags=1, windows=[2]).values).all()

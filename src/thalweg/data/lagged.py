"""Features of a series that only its past can enter, and a scale that only training rows can."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from thalweg.errors import UserError

LARGEST = 1e150
"""Of a value whose square is asked for: a window of them still adds up to less than float64's largest number."""


@dataclass(frozen=True, eq=False)
class PastFeatures:
    """What was known of a series at each of its rows, from the first row at which all of it was.

    Args:
        values: shape (m, k), float64.
        rows: the position in the series of each, shape (m,), int64, ascending; the last m of the series.
        names: of the k columns.
    """

    values: np.ndarray
    rows: np.ndarray
    names: tuple[str, ...]


def past_features(series: np.ndarray, *, lags: int, windows: Sequence[int] = ()) -> PastFeatures:
    """The last values of a series, and their mean and root mean square over windows, at each row.

    Row t holds the series at t, t - 1, …, t - lags + 1, and for each window w the mean and the root mean square over t,
    …, t - w + 1. Nothing later enters, whatever it is: rows are sums over values shifted backwards.

    Args:
        series: shape (n,), finite, in the order of time.
        lags: how many of the last values, ≥ 1.
        windows: lengths of the windows, each ≥ 2.
    Raises:
        UserError: a value that is not finite, or beyond 1e150 where it is to be squared (its row is named),
            a length out of range, windows that are no sequence, a series shorter than these.

    >>> found = past_features(np.array([1.0, 2.0, 4.0, 8.0]), lags=2, windows=[3])
    >>> found.rows.tolist(), found.names
    ([2, 3], ('lag 0', 'lag 1', 'mean 3', 'rms 3'))
    >>> found.values[:, :2].tolist()
    [[4.0, 2.0], [8.0, 4.0]]
    """
    given = np.asarray(series)
    if given.dtype.kind not in "biuf":
        raise UserError(f"a series of dtype {given.dtype}", where="past_features", remedy="Give real numbers.")
    series = given.astype(np.float64)
    if not isinstance(windows, Sequence | np.ndarray):
        raise UserError(f"windows {windows!r} are no sequence", where="past_features", remedy="One is [5].")
    for length, least in ((lags, 1), *((window, 2) for window in windows)):
        if not isinstance(length, int | np.integer) or isinstance(length, bool) or length < least:
            raise UserError(f"a length of {length!r} is no whole number ≥ {least}", where="past_features")
    longest = max(lags, *windows) if len(windows) else lags
    if series.ndim != 1 or len(series) < longest:
        raise UserError(
            f"a series of shape {series.shape} has no {longest} values in a row",
            where="past_features",
            remedy="Give one value a time, shape (n,), or ask for fewer.",
        )
    most = LARGEST if len(windows) else np.finfo(np.float64).max
    wrong = np.flatnonzero(~(np.abs(series) <= most))
    if len(wrong):
        what = f"the series is {series[wrong[0]]}" + (
            "" if not np.isfinite(series[wrong[0]]) else ", too large to square"
        )
        raise UserError(what, where=f"row {wrong[0]}", remedy="Rows count from 0.")
    rows = np.arange(longest - 1, len(series))
    back = lambda k: series[rows - k]  # adding columns one by one: each row is the same sum, however many there are
    columns = {f"lag {k}": back(k) for k in range(lags)}
    for window in windows:
        total, squares = np.zeros(len(rows)), np.zeros(len(rows))
        for k in range(window):
            total += back(k)
            squares += back(k) ** 2
        columns[f"mean {window}"] = total / window
        columns[f"rms {window}"] = np.sqrt(squares / window)
    return PastFeatures(np.stack(list(columns.values()), axis=1), rows.astype(np.int64), tuple(columns))


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Columns brought to mean 0 and standard deviation 1, as they have in the rows that were learned from.

    Args:
        mean, scale: shape (k,).

    >>> scaler = Standardizer.learned(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> scaler(np.array([[5.0, 5.0]])).tolist()  # a column that is constant in training stays 0 there
    [[3.0, 0.0]]
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def learned(cls, training: np.ndarray) -> Self:
        """From the training rows alone, shape (n, k).

        Raises:
            UserError: no rows, or another shape.
        """
        training = np.asarray(training, np.float64)
        if training.ndim != 2 or not len(training):
            raise UserError(f"training rows of shape {training.shape}", where="Standardizer", remedy="Give (n, k).")
        spread = training.std(axis=0)
        varies = spread > 1e-12 * np.abs(training).max(axis=0)  # less is the rounding of a mean
        return cls(training.mean(axis=0), np.where(varies, spread, 1.0))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows (n, k) of any part, in the scale of the training rows."""
        return (np.asarray(rows, np.float64) - self.mean) / self.scale

"""Walk-forward evaluation: always trained on the past, always tested on what comes next."""

from dataclasses import dataclass
from typing import cast

import numpy as np

from thalweg.data.splits import Split
from thalweg.errors import UserError


@dataclass(frozen=True, eq=False)
class Fold(Split):
    """One place of a walk: row positions as in `Split`, but the rows of the embargo and of later times are in no part.

    Args:
        train: rows that the model is trained on, and the only ones that preprocessing learns from.
        validation: later rows, on which something may be chosen; empty if the walk has none.
        test: rows that are later still.
    """


def walk_forward(
    times: int | np.ndarray,
    *,
    train: int,
    test: int,
    validation: int = 0,
    embargo: int = 0,
    expanding: bool = False,
) -> list[Fold]:
    """Folds that walk through time: training, embargo, validation, embargo, test, each later than the one before.

    The test parts follow on each other without a gap, so each time from the first of them on is tested exactly once,
    and a forecast of it has seen nothing from then on. All lengths count different times; rows of one time (shares of
    one day) stay together.

    Args:
        times: time of each row, shape (n,), in any order, numbers or datetime64, none missing; or n, the number of rows
            that are in order and each of a time of its own.
        train: times of a training window, the least if it expands.
        test: times of each test part; the last one may have fewer.
        validation: times of each validation part; with 0 there is none, nor an embargo before it.
        embargo: times left out between two parts. A target that looks h times ahead is known only h times later: leave
            out at least h, more where what lies close in time is alike.
        expanding: the training window begins at the first time instead of moving along.
    Returns:
        the folds, ascending.
    Raises:
        UserError: a length that is no whole number in its range, times that are missing or none, too few of them.

    >>> for fold in walk_forward(12, train=4, validation=2, test=2, embargo=1):
    ...     print(*(part.tolist() for part in fold))
    [0, 1, 2, 3] [5, 6] [8, 9]
    [2, 3, 4, 5] [7, 8] [10, 11]
    """
    lengths = {"train": (train, 1), "test": (test, 1), "validation": (validation, 0), "embargo": (embargo, 0)}
    for name, (length, least) in lengths.items():
        if not isinstance(length, int | np.integer) or isinstance(length, bool) or length < least:
            raise UserError(
                f"{name}={length!r} of a walk is no whole number ≥ {least}",
                where="walk_forward",
                remedy="Lengths count times.",
            )
    codes, moments = _moments(times)
    first = train + embargo + (validation + embargo if validation else 0)
    if moments <= first:
        raise UserError(
            f"{moments} different times are too few to walk through",
            where="walk_forward",
            remedy=f"Training, validation and embargo take {first}, so at least {first + 1} are needed.",
        )
    rows = lambda start, end: cast(np.ndarray, np.flatnonzero((codes >= start) & (codes < end)).astype(np.int64))
    folds = []
    for begin in range(first, moments, test):  # of each test part
        chosen = begin - embargo - validation if validation else begin
        trained = chosen - embargo
        folds.append(
            Fold(
                train=rows(0 if expanding else trained - train, trained),
                validation=rows(chosen, chosen + validation),
                test=rows(begin, min(begin + test, moments)),
            )
        )
    return folds


def _moments(times: int | np.ndarray) -> tuple[np.ndarray, int]:
    """The place of each row among the different times, shape (n,), and how many there are."""
    if isinstance(times, int | np.integer) and not isinstance(times, bool):
        if times < 1:
            raise UserError(f"{times} rows have no times", where="walk_forward", remedy="Give their number, or times.")
        return np.arange(times), int(times)
    found = np.asarray(times)
    if found.ndim != 1 or found.dtype.kind not in "iufM" or not (np.isfinite(found) | (found.dtype.kind == "M")).all():
        raise UserError(
            "times must be numbers or dates, one a row",
            where="walk_forward",
            remedy="Give an array of shape (n,), or the number of rows if they are in order.",
        )
    missing = np.flatnonzero(np.isnat(found)) if found.dtype.kind == "M" else []
    if len(missing):
        raise UserError("the time is missing", where=f"row {missing[0]}", remedy="Rows are counted from 0.")
    moments, codes = np.unique(found, return_inverse=True)
    return codes.ravel(), len(moments)

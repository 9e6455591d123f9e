"""Which rows train, which choose the best weights, and which are held out to the end.

All splits are deterministic: the same arguments give the same rows. Index arrays are int64 and ascending.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np

from thalweg.errors import UserError

FRACTIONS = (0.7, 0.15, 0.15)
MINIMUM_ROWS = 4  # two rows to train on (one has no spread), one to validate, one to test
MOST_EXCHANGED = 300  # groups up to which exchanges of two are tried; beyond, single groups are small beside a part
Fractions = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Split:
    """Row positions, each shape (m,), int64, ascending; together each row once.

    Args:
        train: rows that the network is trained on, and the only ones a schema learns from.
        validation: rows that choose the best weights.
        test: rows that are held out for the scores.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def __iter__(self):
        return iter((self.train, self.validation, self.test))


def random_split(n: int, seed: int, fractions: Fractions = FRACTIONS, stratify: np.ndarray | None = None) -> Split:
    """A split of `n` rows at random.

    Args:
        n: number of rows.
        seed: seed of the shuffle, ≥ 0.
        fractions: shares of training, validation and test rows, positive, with sum 1.
        stratify: labels, shape (n,); each part then has nearly the same share of each label. The rows of a label are
            spread evenly over (0, 1) in random order and all rows are cut at the fractions, so a label's first
            member goes to training.
    Raises:
        UserError: too few rows (the number needed is named), or wrong fractions.

    >>> [len(part) for part in random_split(100, seed=0)]
    [70, 15, 15]
    """
    _check(n, fractions)
    shuffled = np.random.default_rng(seed).permutation(n)
    if stratify is not None:
        if len(stratify) != n:
            raise UserError(f"stratify has {len(stratify)} labels for {n} rows", remedy="Give one label a row")
        labels = np.unique(np.asarray(stratify)[shuffled], return_inverse=True)[1].ravel()
        by_label = np.argsort(labels, kind="stable")  # the rows of each label together, still in random order
        sizes = np.bincount(labels)
        starts = np.cumsum(sizes) - sizes
        rank = np.empty(n)
        rank[by_label] = np.arange(n) - starts[labels[by_label]]
        shuffled = shuffled[np.argsort((rank + 0.5) / sizes[labels], kind="stable")]
    first, second = _sizes(n, fractions)
    part = np.full(n, 2)
    part[shuffled[: first + second]] = 1
    part[shuffled[:first]] = 0
    return _split(part)


def group_split(groups: np.ndarray, seed: int, fractions: Fractions = FRACTIONS) -> Split:
    """A split at random in which no group has rows in two parts.

    The groups are laid end to end in random order and cut near the fractions; then the group whose move to another
    part brings the numbers of rows nearest to the fractions is moved, until no move helps and (up to 300 groups)
    no exchange of two groups. The best of all assignments is a partition problem; this one is a local optimum.

    Args:
        groups: the group of each row, shape (n,), any values that can be sorted.
        seed: seed of the order of groups, ≥ 0.
        fractions: shares of training, validation and test rows, positive, with sum 1.
    Raises:
        UserError: fewer than three groups, a missing group, groups of mixed kinds, too few rows, or wrong fractions.

    >>> patients = np.array([0, 0, 1, 1, 2, 2])
    >>> [len(set(patients[part])) for part in group_split(patients, seed=0, fractions=(0.4, 0.3, 0.3))]
    [1, 1, 1]
    """
    codes = group_codes(groups)
    n = len(codes)
    _check(n, fractions)
    sizes = np.bincount(codes)
    order = np.random.default_rng(seed).permutation(len(sizes))
    middles = np.cumsum(sizes[order]) - sizes[order] / 2
    part = np.empty(len(sizes), np.int64)  # of each group
    part[order] = np.searchsorted(np.cumsum(fractions[:2]) * n, middles)
    for empty in range(3):
        if not np.any(part == empty):
            donors = np.flatnonzero(np.bincount(part, minlength=3)[part] > 1)
            part[donors[np.argmin(sizes[donors])]] = empty
    _bring_nearer(part, sizes, np.array(fractions) * n)
    return _split(part[codes])


def group_codes(groups: np.ndarray, what: str = "group") -> np.ndarray:
    """The group of each row as a code 0, 1, …, shape (n,), int64; in the order of the groups' values.

    Args:
        groups: shape (n,), any values that can be sorted.
        what: what they are, for messages.
    Raises:
        UserError: not one value a row, a missing value, values that cannot be compared, fewer than three groups.

    >>> group_codes(np.array(["b", "a", "c", "a"]))
    array([1, 0, 2, 0])
    """
    groups = np.asarray(groups)
    if groups.ndim != 1:
        raise UserError(f"the {what}s have shape {groups.shape}", remedy=f"Give one {what} a row, shape (n,)")
    missing = np.array([one is None or one != one for one in groups]) if groups.dtype == object else groups != groups
    if missing.any():
        raise UserError(
            f"{missing.sum()} of {len(groups)} rows have no {what}",
            where=f"row {int(np.argmax(missing))}, counted from 0",
            remedy=f"Give each row a {what}, if need be one of its own, or leave the row out",
        )
    try:
        names, codes = np.unique(groups, return_inverse=True)
    except TypeError:
        raise UserError(
            f"the {what}s are of several kinds that cannot be put in order",
            remedy="Make all of them text, or all numbers",
        ) from None
    if len(names) < 3:
        raise UserError(
            f"the {len(groups)} rows belong to {len(names)} {what}{'' if len(names) == 1 else 's'}",
            remedy=f"Training, validation and test rows must not share a {what}: at least 3 {what}s are needed",
        )
    return codes.ravel().astype(np.int64)


def _bring_nearer(part: np.ndarray, sizes: np.ndarray, wanted: np.ndarray) -> None:
    """Move or exchange groups between parts, in place, while the squared distance to the wanted row counts falls."""
    groups = np.arange(len(sizes))
    enough = 1e-9 * sizes.sum()  # a smaller gain is rounding

    def gain(rows: np.ndarray, source: np.ndarray, to: np.ndarray) -> np.ndarray:
        """By how much Σ excess² falls when `rows` rows go from part `source` to part `to`."""
        return 2 * rows * (excess[source] - excess[to] - rows)

    while True:
        excess = np.bincount(part, weights=sizes, minlength=3) - wanted
        moves = gain(sizes[:, None], part[:, None], np.arange(3)[None, :])
        moves[groups, part] = 0
        moves[np.bincount(part, minlength=3)[part] == 1] = 0  # a part keeps its last group
        group, to = np.unravel_index(np.argmax(moves), moves.shape)
        if moves[group, to] > enough:
            part[group] = to
            continue
        if len(sizes) > MOST_EXCHANGED:
            return
        exchanges = gain(sizes[:, None] - sizes[None, :], part[:, None], part[None, :])
        exchanges[part[:, None] == part[None, :]] = 0
        group, other = np.unravel_index(np.argmax(exchanges), exchanges.shape)
        if exchanges[group, other] <= enough:
            return
        part[group], part[other] = part[other], part[group]


def time_split(times: np.ndarray, fractions: Fractions = FRACTIONS) -> Split:
    """A split by time: training rows are the earliest, test rows the latest; rows of one time stay together.

    Args:
        times: time of each row, shape (n,), numbers or datetime64, none missing.
        fractions: shares of training, validation and test rows, positive, with sum 1; met as nearly as ties allow.
    Raises:
        UserError: a missing time, fewer than three different times, too few rows, or wrong fractions.

    >>> time_split(np.array([3, 1, 2, 0]), fractions=(0.5, 0.25, 0.25))
    Split(train=array([1, 3]), validation=array([2]), test=array([0]))
    """
    times = np.asarray(times)
    n = len(times)
    if times.dtype.kind not in "iufM" or np.isnan(times).any():
        raise UserError("times must be numbers or dates, none of them missing")
    moments, codes = np.unique(times, return_inverse=True)
    if len(moments) < 3:
        raise UserError(
            f"the {n} rows have {len(moments)} different {'time' if len(moments) == 1 else 'times'}",
            remedy="Training, validation and test rows must differ in time: at least 3 times are needed",
        )
    _check(n, fractions)
    codes = codes.ravel()
    ends = np.cumsum(np.bincount(codes))  # rows up to and with each moment
    last = len(moments) - 1
    first = int(np.argmin(np.abs(ends[: last - 1] - fractions[0] * n)))
    second = first + 1 + int(np.argmin(np.abs(ends[first + 1 : last] - (fractions[0] + fractions[1]) * n)))
    return _split((codes > first).astype(np.int64) + (codes > second))


def _check(n: int, fractions: Fractions) -> None:
    if len(fractions) != 3 or not all(0 < share < 1 for share in fractions) or abs(sum(fractions) - 1) > 1e-9:
        raise UserError(
            f"the fractions {tuple(fractions)} cannot split a table",
            remedy="Give three positive numbers with sum 1 for training, validation and test rows",
        )
    if n < MINIMUM_ROWS:
        raise UserError(
            f"{n} {'row' if n == 1 else 'rows'} cannot be split into training, validation and test rows",
            remedy=f"At least {MINIMUM_ROWS} rows are needed",
        )


def _sizes(n: int, fractions: Fractions) -> tuple[int, int]:
    """Numbers of training and validation rows: rounded, at least 2 and 1, with at least one row left to test."""
    second = max(1, round(n * fractions[1]))
    third = max(1, round(n * fractions[2]))
    while n - second - third < 2:  # a table of a few rows with a small training share
        second, third = (second - 1, third) if second > third else (second, third - 1)
    return n - second - third, second


def _split(part: np.ndarray) -> Split:
    return Split(*(cast(np.ndarray, np.flatnonzero(part == which).astype(np.int64)) for which in range(3)))

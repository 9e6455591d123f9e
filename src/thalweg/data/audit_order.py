"""What ties test rows to seen rows beside their features: a group that nobody declared, a time, a place in the file."""

from dataclasses import dataclass

import numpy as np

from thalweg.data.audit_rows import unequal_rows
from thalweg.data.audit_table import Audited, Examined, ranks

ENTITIES = 15  # different values from which a column may name entities
VISITS = 20  # rows a value, at most, in the median
PAIRED = 12  # test rows with a namesake among the seen ones, at least
RESEMBLES = 0.3  # correlation of a test row's target with its namesakes', at least
CHANCE = 1e-5  # of such a correlation without a cause, over all columns
SORTED = 0.95  # rank correlation of the target with the file's order from which the file was sorted by it


@dataclass(frozen=True)
class Kin:
    """A column whose namesakes are alike in the target.

    Attributes:
        column: its name.
        different: number of its values.
        paired: test rows with a namesake among the seen rows.
        correlation: of their targets.
        row, twin: positions of an example.
    """

    column: str
    different: int
    paired: int
    correlation: float
    row: int
    twin: int


def undeclared_groups(table: Examined, copied: set[str], twins: np.ndarray) -> list[Kin]:
    """Columns with many repeated values, such as a patient's number, whose namesakes resemble each other in the target.

    A number may be alike in the target because near numbers are (an age); so what the five values above have in the
    mean is subtracted on one side, and what the five below have on the other: a trend then makes the two unlike. What
    is left correlates only if the value names something.

    Args:
        table: to look at.
        copied: columns that are told of already.
        twins: positions of test rows that are nearly copies, and so share every value with their twin.
    """
    found = []
    alone = np.setdiff1d(unequal_rows((*table.features, table.target)), twins)
    for one in table.features:
        counts = np.bincount(one.codes)
        counts = counts[counts > 0]
        repeated = counts[counts > 1].sum() / len(one.codes)
        if (
            one.name in copied
            or one.different < ENTITIES
            or repeated < 0.5
            or np.median(np.repeat(counts, counts)) > VISITS
        ):
            continue
        kin = _kin(table, one, alone)
        if kin is not None:
            found.append(kin)
    return found


def _kin(table: Examined, one: Audited, alone: np.ndarray) -> Kin | None:
    size = one.codes.max() + 1
    counts = np.bincount(one.codes[alone], minlength=size).astype(np.float64)
    test = np.intersect1d(table.test, alone)
    shared = test[np.isin(one.codes[test], one.codes[np.intersect1d(table.seen, alone)])]
    paired = alone[counts[one.codes[alone]] > 1]
    if len(shared) < PAIRED:
        return None
    codes = one.codes[paired]
    y = ranks(table.y) if not table.classes else table.y
    best, chance = 0.0, 1.0
    for goal in y.T:
        sums = np.bincount(one.codes[alone], weights=goal[alone], minlength=size)
        if one.numbers is None:
            above = below = np.full(size, goal[alone].mean())
        else:  # codes are in the numbers' order
            above = _beside(sums, counts)
            below = _beside(sums[::-1], counts[::-1])[::-1]
        namesakes = (sums[codes] - goal[paired]) / (counts[codes] - 1)
        left, right = goal[paired] - above[codes], namesakes - below[codes]
        alike = _correlation(left, right)
        if alike > best:  # a pair of namesakes counts twice
            best, chance = alike, _by_chance(alike, _effective(left * right) / 2)
    if best < RESEMBLES or chance * len(table.features) * max(1, y.shape[1] - 1) > CHANCE:
        return None
    row = int(shared[0])
    twin = int(table.seen[np.argmax(one.codes[table.seen] == one.codes[row])])
    return Kin(one.name, one.different, len(shared), best, row, twin)


def _beside(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean over the rows of the five values above each that have any; of all rows where there are none."""
    there = np.flatnonzero(counts)
    total, rows = (np.r_[0.0, np.cumsum(one[there])] for one in (sums, counts))
    first = np.searchsorted(there, np.arange(len(counts)), side="right")
    last = np.minimum(first + 5, len(there))
    number = rows[last] - rows[first]
    return np.where(number > 0, (total[last] - total[first]) / np.maximum(number, 1), total[-1] / rows[-1])


def _correlation(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(), right - right.mean()
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / size if size > 0 else 0.0


def _effective(products: np.ndarray) -> float:
    """How many rows a correlation rests on: fewer where a few large ones decide it (Kish); n/3 if normal."""
    size = np.abs(products)
    return min(3 * float(size.sum() ** 2 / max(float(size @ size), 1e-300)), len(size))


def _by_chance(correlation: float, rows: float) -> float:
    """The chance of a correlation at least so large among independent rows (Fisher's transformation)."""
    from scipy.stats import norm

    return float(norm.sf(np.arctanh(min(correlation, 1 - 1e-12)) * max(rows - 3, 1) ** 0.5))


@dataclass(frozen=True)
class Neighbours:
    """Rows that stand next to each other and are alike in what the features do not explain.

    Attributes:
        correlation: of the target's residual with that of the row before.
        between: share of the test rows with a seen row directly before or after.
    """

    correlation: float
    between: float


def alike_in_order(table: Examined, order: np.ndarray | None = None) -> Neighbours | None:
    """Whether neighbours in the file (or in `order`) are alike, and the split tears them apart.

    The target, less what ridge regression on the ranks of the features explains of it, is correlated with itself one
    row on. A file that was sorted by its target, or has its classes in blocks, says nothing and is passed over.
    """
    n = len(table.frame)
    place = np.arange(n) if order is None else np.argsort(np.argsort(order, kind="stable"), kind="stable")
    tested = np.zeros(n + 2, bool)
    tested[1 + place[table.test]] = True
    seen = np.zeros(n + 2, bool)
    seen[1 + place[table.seen]] = True
    at = 1 + place[table.test]
    between = float(np.mean(seen[at - 1] | seen[at + 1]))
    if between < 0.5 or n < 50:
        return None
    arranged = np.argsort(place)
    if table.classes:
        codes = table.target.codes[arranged]
        runs = 1 + int(np.sum(codes[1:] != codes[:-1]))
        if runs <= max(3 * table.target.different, 0.05 * n):
            return None
    elif abs(_correlation(ranks(table.y[:, 0]), place.astype(np.float64))) > SORTED:
        return None
    rows = arranged[:20_000]
    numeric = [one.numbers for one in table.features if one.numbers is not None and one.different > 1]
    x = ranks(np.column_stack(numeric)[rows]) - 0.5 if numeric else np.zeros((len(rows), 1))
    x = np.column_stack([x, *([np.abs(x) ** 2] if x.shape[1] < 100 else [])])
    y = (ranks(table.y) if not table.classes else table.y)[rows]
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    rest = y - x @ np.linalg.solve(x.T @ x + 1e-3 * len(x) * np.eye(x.shape[1]), x.T @ y)
    found = max(_correlation(one[1:], one[:-1]) for one in rest.T)
    if found < RESEMBLES or _by_chance(found, len(rows)) * y.shape[1] > CHANCE:
        return None
    return Neighbours(found, between)


def row_counters(table: Examined) -> list[tuple[str, float]]:
    """Columns that number the rows, in the file's order or another; with their rank correlation with the target."""
    found = []
    for one in table.features:
        if one.numbers is None or one.different < max(20, len(one.codes)) or np.isnan(one.numbers).any():
            continue
        steps = np.diff(one.numbers)
        whole = bool((one.numbers == np.round(one.numbers)).all()) and np.ptp(one.numbers) == len(one.numbers) - 1
        even = steps[0] != 0 and np.allclose(steps, steps[0], rtol=1e-9, atol=0)
        if whole or even:
            own = ranks(one.numbers)
            found.append((one.name, max(abs(_correlation(own, ranks(goal))) for goal in table.y.T)))
    return found

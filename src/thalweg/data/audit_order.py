"""What ties test rows to seen rows beside their features: a group that nobody declared, a time, a place in the file."""

from dataclasses import dataclass

import numpy as np

from thalweg.data.audit_rows import unequal_rows
from thalweg.data.audit_table import Audited, Examined, ranks
from thalweg.data.columns import Kind, column, kind_of

ENTITIES = 15  # different values from which a column may name entities
VISITS = 20  # rows a value, at most, in the median
PAIRED = 12  # test rows with a namesake among the seen ones, at least
RESEMBLES = 0.3  # correlation of a test row's target with its namesakes', at least
CHANCE = 1e-5  # of such a correlation without a cause, over all columns
SORTED = 0.95  # rank correlation of the target with the file's order from which the file was sorted by it
LOOKED_AT = 20_000  # rows whose neighbours are looked at
LEARNED = 4_000  # of them those that trees are grown on, in stretches of
STRETCH = 500
NAMES = 50  # values of a text column that may explain the target
EXPLAINING = 100  # columns that may


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


def undeclared_groups(
    table: Examined, copied: set[str], twins: np.ndarray, groups: np.ndarray | None = None
) -> list[Kin]:
    """Columns with many repeated values, such as a patient's number, whose namesakes resemble each other in the target.

    A number may be alike in the target because near numbers are (an age); so what the five values above have in the
    mean is subtracted on one side, and what the five below have on the other: a trend then makes the two unlike. What
    is left correlates only if the value names something.

    Args:
        table: to look at.
        copied: columns that are told of already.
        twins: positions of test rows that are nearly copies, and so share every value with their twin.
        groups: the declared group of each row, codes (n,): rows of one are alike, and no split parts them.
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
        kin = _kin(table, one, alone, np.arange(len(one.codes)) if groups is None else groups)
        if kin is not None:
            found.append(kin)
    return found


def _kin(table: Examined, one: Audited, alone: np.ndarray, groups: np.ndarray) -> Kin | None:
    size = one.codes.max() + 1
    # of a row's namesakes only those of other groups count; each row is a group of its own where none was declared
    own = np.unique(one.codes * (groups.max() + 1) + groups, return_inverse=True)[1].ravel()
    counts = np.bincount(one.codes[alone], minlength=size).astype(np.float64)
    within = np.bincount(own[alone], minlength=own.max() + 1)
    test = np.intersect1d(table.test, alone)
    shared = test[np.isin(one.codes[test], one.codes[np.intersect1d(table.seen, alone)])]
    paired = alone[counts[one.codes[alone]] > within[own[alone]]]
    if len(shared) < PAIRED or len(paired) < PAIRED:
        return None
    codes = one.codes[paired]
    y = ranks(table.y) if not table.classes else table.y
    best, chance = 0.0, 1.0
    for goal in y.T:
        sums = np.bincount(one.codes[alone], weights=goal[alone], minlength=size)
        mine = np.bincount(own[alone], weights=goal[alone], minlength=own.max() + 1)
        if one.numbers is None:
            above = below = np.full(size, goal[alone].mean())
        else:  # codes are in the numbers' order
            above = _beside(sums, counts)
            below = _beside(sums[::-1], counts[::-1])[::-1]
        namesakes = (sums[codes] - mine[own[paired]]) / (counts[codes] - within[own[paired]])
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
        sorted_by: a feature that the rows are sorted by; neighbours are then alike without a leak.
    """

    correlation: float
    between: float
    sorted_by: str | None = None


def alike_in_order(table: Examined) -> Neighbours | None:
    """Whether neighbours in the file are alike, and the split tears them apart.

    The target, less what the features explain of it, is correlated with itself one row on. A straight look (ridge
    regression on ranks, their squares and names) comes first; only what it leaves is learned by boosted trees, on rows
    apart. A file that was sorted by its target, or has its classes in blocks, says nothing and is passed over; in one
    that is sorted by a feature, a law that no model has quite learned looks the same, so that is only said.
    """
    n = len(table.frame)
    seen = np.zeros(n + 2, bool)
    seen[1 + table.seen] = True
    at = 1 + table.test
    between = float(np.mean(seen[at - 1] | seen[at + 1]))
    if between < 0.5 or n < 50:
        return None
    if table.classes:
        if _runs(table.target) <= max(3 * table.target.different, 0.05 * n):
            return None
    elif abs(_correlation(ranks(table.y[:, 0]), np.arange(n, dtype=np.float64))) > SORTED:
        return None
    y = ranks(table.y) if not table.classes else table.y
    rows = np.arange(min(n, LOOKED_AT))
    x = _explaining(table, rows, y[rows])
    bent = np.column_stack([x, *([(x - 0.5) ** 2] if x.shape[1] < 100 else [])])
    found, strong = _left_alike(y[rows] - _ridge(bent, y[rows], bent), rows)
    if not len(strong):
        return None
    sorted_by = next((one.name for one in table.features if _in_order(one)), None)
    if sorted_by is not None:
        return Neighbours(found, between, sorted_by)
    if n > LEARNED:  # stretches of neighbours from all over the file
        starts = np.linspace(0, n - STRETCH, LEARNED // STRETCH).astype(np.int64)
        rows = (starts[:, None] + np.arange(STRETCH)).ravel()
    left = [_unlearned(_explaining(table, rows, y[rows, which]), y[rows, which]) for which in strong[:3]]
    found, strong = _left_alike(np.column_stack(left), rows)
    return Neighbours(found, between) if len(strong) else None


def _runs(one: Audited) -> int:
    return 1 + int(np.sum(one.codes[1:] != one.codes[:-1]))


def _in_order(one: Audited) -> bool:
    """Whether the rows are sorted by a column, or laid in blocks of its values."""
    if one.different < 2:
        return False
    if one.different < 0.5 * len(one.codes) and _runs(one) <= 1.1 * one.different:
        return True
    if one.numbers is None or np.isnan(one.numbers).all():
        return False
    return abs(_correlation(ranks(one.numbers), np.arange(len(one.codes), dtype=np.float64))) > SORTED


def _explaining(table: Examined, rows: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What may explain the target, shape (m, d): ranks of numbers, indicators of names; of many the most related."""
    found = []
    for one in table.features:
        if one.different < 2:
            continue
        if one.numbers is not None:
            found.append(ranks(one.numbers[rows]))
        else:
            frequent = np.argsort(-np.bincount(one.codes[rows]), kind="stable")[:NAMES]
            found += list((one.codes[rows] == frequent[:, None]).astype(np.float64))
    if not found:
        return np.zeros((len(rows), 1))
    x = np.column_stack(found)
    if x.shape[1] > EXPLAINING:
        left = x - x.mean(axis=0)
        products = np.abs(left.T @ (y - y.mean(axis=0)).reshape(len(y), -1)).max(axis=1)
        related = products / np.maximum(np.linalg.norm(left, axis=0), 1e-12)
        x = x[:, np.sort(np.argsort(-related, kind="stable")[:EXPLAINING])]
    return x


def _ridge(x: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Ridge regression of y (m, …) on x (m, d), at the rows `new` (p, d)."""
    middle, level = x.mean(axis=0), y.mean(axis=0)
    left = x - middle
    slopes = np.linalg.solve(left.T @ left + 1e-3 * len(x) * np.eye(x.shape[1]), left.T @ (y - level))
    return level + (new - middle) @ slopes


def _unlearned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What of y (m,) ridge regression and boosted trees on what it leaves do not tell, each row by models of others."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    fold = np.random.default_rng(0).permutation(len(y)) % 3
    left = np.empty(len(y))
    for which in range(3):
        held = fold == which
        trees = HistGradientBoostingRegressor(min_samples_leaf=5, random_state=0)
        trees.fit(x[~held], y[~held] - _ridge(x[~held], y[~held], x[~held]))
        left[held] = y[held] - _ridge(x[~held], y[~held], x[held]) - trees.predict(x[held])
    return left


def _left_alike(rest: np.ndarray, rows: np.ndarray) -> tuple[float, np.ndarray]:
    """The largest correlation of the columns of `rest` (m, k) with themselves one row on, and which are no chance."""
    follows = np.flatnonzero(np.diff(rows) == 1)
    alike = np.array([_correlation(one[follows + 1], one[follows]) for one in rest.T])
    by_chance = np.array([_by_chance(max(one, 0.0), len(follows)) * len(alike) for one in alike])
    strong = np.flatnonzero((alike >= RESEMBLES) & (by_chance <= CHANCE))
    return float(alike.max()), strong[np.argsort(-alike[strong], kind="stable")]


def row_counters(table: Examined) -> list[tuple[str, float]]:
    """Columns that number the rows, in the file's order or another; with their rank correlation with the target."""
    found = []
    for one in table.features:
        if one.numbers is None or one.different < max(20, len(one.codes)) or np.isnan(one.numbers).any():
            continue
        steps = np.diff(one.numbers)
        whole = bool((one.numbers == np.round(one.numbers)).all())
        dated = kind_of(column(table.frame, one.name)) is Kind.DATE  # days are even too
        if whole and not dated and (np.ptp(one.numbers) == len(one.numbers) - 1 or np.ptp(steps) == 0):
            own = ranks(one.numbers)
            found.append((one.name, max(abs(_correlation(own, ranks(goal))) for goal in table.y.T)))
    return found

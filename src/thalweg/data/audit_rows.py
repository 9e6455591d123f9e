"""Rows of the test that the model has met: equal ones, nearly equal ones, and kin."""

from dataclasses import dataclass

import numpy as np

from thalweg.data.audit_table import Audited, Examined

DOUBT = 0.01  # chance of so many copies among rows that happen to be alike
SAFETY = 10.0  # by which that chance is exaggerated, for columns that depend on each other
EXAMINED = 1_000  # test rows whose nearest neighbours are looked for
NEIGHBOURS = 40
CLOSE = (1e-3, 1e-4)  # chances of a neighbour so much nearer than the next ones, that are looked at
ALIKE = 0.8  # share of the columns of names in which nearly equal rows agree
FEW_VALUES = 10  # different numbers up to which a column of numbers is compared for equality


@dataclass(frozen=True, eq=False)
class Copies:
    """Rows with a twin among others.

    Attributes:
        rows: positions of the rows that have one, ascending.
        twins: of each, the position of the first row that it equals.
        expected: how many pairs of equal rows chance would make, exaggerated.
        surprising: whether there are more than chance makes.
    """

    rows: np.ndarray
    twins: np.ndarray
    expected: float
    surprising: bool


def equal_rows(columns: tuple[Audited, ...], rows: np.ndarray, others: np.ndarray, apart: np.ndarray | None) -> Copies:
    """Which of `rows` equal one of `others` in all columns, and whether chance would do that.

    Chance is told by pairs that agree in all columns but one: among rows that are merely alike there are many of these,
    and the last column then agrees as often as its value is frequent. Copies have none. All columns together are taken
    for this chance, which exaggerates it: one would do if columns did not depend on each other.

    Args:
        columns: to compare.
        rows, others: positions, shapes (m,) and (k,).
        apart: codes (n,); pairs that agree in these too are not counted.
    """
    rng, n = np.random.default_rng(1), len(columns[0].codes)
    marks = _marks(columns)
    whole = np.add.reduce(marks)  # wraps around, as hashes do
    equal = _counts(whole, rows, others)
    nobody = np.zeros(len(rows), np.int64)
    own = nobody
    if apart is not None:
        own = _counts(whole + rng.integers(2**64, size=apart.max() + 1, dtype=np.uint64)[apart], rows, others)
    found = equal > own
    expected, least = 0.0, []
    alike = equal + 1
    for mark, one in zip(marks, columns, strict=True):
        if one.different < 2:
            continue
        near = _counts(whole - mark, rows, others) - equal  # agree in the others, not in this
        frequent = np.maximum(np.bincount(one.codes)[one.codes[rows]] - alike, 0) / n
        odds = frequent / np.maximum(1 - frequent, 1 / n)
        expected += float(np.sum(near * odds))
        least.append(float(np.mean(np.minimum(odds, 1))))
    from scipy.stats import poisson

    # where no pair agrees in all columns but one, a hundredth of such a pair may still be due to chance
    expected = SAFETY * (expected + 0.01 * float(np.mean(least or [0.0])))
    count = int(found.sum())  # rows, not pairs: of a few rows that are all alike there are many pairs
    surprising = bool(count > 0 and least and poisson.sf(count - 1, expected) < DOUBT)
    copied = rows[found]
    order = np.argsort(whole[others], kind="stable")
    if apart is None:
        places = np.searchsorted(whole[others][order], whole[copied])
        twins = others[order[places]] if len(copied) else copied
    else:
        twins = np.array([others[np.argmax((whole[others] == whole[i]) & (apart[others] != apart[i]))] for i in copied])
    return Copies(copied, twins.astype(np.int64), expected, surprising)


def unequal_rows(columns: tuple[Audited, ...]) -> np.ndarray:
    """Positions of the rows that equal no other row of the table, ascending."""
    _, which, counts = np.unique(np.add.reduce(_marks(columns)), return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[which.ravel()] == 1)


def _marks(columns: tuple[Audited, ...]) -> list[np.ndarray]:
    """A random number of 64 bits for each value of each column: their sum is a row's hash."""
    rng = np.random.default_rng(0)
    return [rng.integers(2**64, size=one.codes.max() + 1, dtype=np.uint64)[one.codes] for one in columns]


def _counts(hashes: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of how many others each row has the hash, shape (m,)."""
    values, counts = np.unique(hashes[others], return_counts=True)
    places = np.minimum(np.searchsorted(values, hashes[rows]), len(values) - 1)
    return np.where(values[places] == hashes[rows], counts[places], 0)


@dataclass(frozen=True, eq=False)
class Near:
    """Rows that nearly equal one of others.

    Attributes:
        rows, twins: positions, shape (k,).
        share: distance to the twin as a share of the distance that was expected, shape (k,).
        examined: rows that were looked at.
        surprising: whether there are more than chance makes.
    """

    rows: np.ndarray
    twins: np.ndarray
    share: np.ndarray
    examined: int
    surprising: bool


def nearly_equal_rows(table: Examined, seed: int) -> Near | None:
    """Test rows with a neighbour among the seen rows far nearer than the next neighbours would have it.

    In rows that are spread smoothly over D dimensions, (distance to the nearest / to the k-th)^D is the smallest of
    k − 1 numbers uniform in (0, 1), whatever the density (Levina and Bickel, 2004; Facco et al., 2017). D is the
    one that makes the median ratio right; where a row's outer neighbours, in which the twins sought have no part, lie
    in fewer dimensions than those of the others do, its own is less. Columns of names or few numbers only confirm:
    twins agree in most.

    Returns:
        what was found; None where fewer than two columns of numbers tell rows apart, or there are too few rows.
    """
    numeric = [one for one in table.features if one.numbers is not None and one.different > FEW_VALUES]
    k = min(NEIGHBOURS, len(table.seen) // 3)
    if len(numeric) < 2 or k < 6:
        return None
    names = [one.codes for one in table.features if one.numbers is None or one.different <= FEW_VALUES]
    x = np.column_stack([_scaled(one.numbers) for one in numeric if one.numbers is not None])
    test = table.test
    if len(test) > EXAMINED:
        test = np.sort(np.random.default_rng(seed).choice(test, EXAMINED, replace=False))
    distance, which = neighbours(x[test], x[table.seen], k)
    outer = k // 2
    inner = np.mean(np.log(distance[:, -1:] / np.maximum(distance[:, outer - 1 : -1], 1e-300)), axis=1)
    several = distance[:, -1] > 0
    if not several.any():
        return None
    # the mean of log(d_k / d_j) over the j = outer … k − 1 nearest is 1 / D in expectation, (k − j) exponentials each
    weight = np.mean([sum(1 / i for i in range(j, k)) for j in range(outer, k)])
    own = weight / np.maximum(inner, 1e-12)
    ratio = np.clip(distance[:, 0] / np.maximum(distance[:, -1], 1e-300), 1e-12, 1)
    half = np.log(1 - 0.5 ** (1 / (k - 1)))  # of the logarithm of the smallest of k − 1 uniform numbers, the median
    dimension = min(half / min(np.log(np.median(ratio[several])), -1e-3), len(numeric))
    dimension *= np.minimum(1, 1.3 * own / np.median(own[several]))  # 1.3: a row's own is known to a fifth
    chance = (k - 1) * ratio**dimension
    twins = table.seen[which[:, 0]]
    possible = several & (distance[:, 0] > 0)
    if names:
        possible &= np.mean([codes[test] == codes[twins] for codes in names], axis=0) >= ALIKE
    from scipy.stats import poisson

    count = lambda level: int(np.sum(possible & (chance < level)))
    doubts = [poisson.sf(count(level) - 1, SAFETY * level * len(test)) for level in CLOSE]
    best = CLOSE[int(np.argmin(doubts))]
    close = possible & (chance < best)
    surprising = count(best) >= 2 and min(doubts) < DOUBT / 10
    share = distance[:, 0] / np.maximum(np.median(distance, axis=1), 1e-300)
    return Near(test[close], twins[close], share[close], len(test), bool(surprising))


def _scaled(values: np.ndarray) -> np.ndarray:
    """A column in units of its mean absolute deviation, which a tail stretches little; missing values at the mean."""
    there = np.isfinite(values)
    size = max(np.abs(values[there]).max(initial=0.0), 1e-300)  # sums of huge values would overflow
    left = np.where(there, values / size, 0.0)
    left = np.where(there, left - left[there].mean(), 0.0)
    return left / max(np.abs(left).mean(), 1e-300)


def neighbours(rows: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances (m, k) to the k nearest of `others`, ascending, and their positions in it; by brute force in blocks."""
    coarse = others.astype(np.float32)
    squares = np.einsum("ij,ij->i", coarse, coarse)
    distance, which = np.empty((len(rows), k)), np.empty((len(rows), k), np.int64)
    spare = min(k + 10, len(others))  # the coarse order may err a little
    for start in range(0, len(rows), 256):
        block = rows[start : start + 256]
        rough = squares - 2 * (block.astype(np.float32) @ coarse.T)
        near = np.argpartition(rough, spare - 1, axis=1)[:, :spare] if spare < len(others) else None
        near = np.tile(np.arange(len(others)), (len(block), 1)) if near is None else near
        exact = np.sqrt(np.sum((block[:, None] - others[near]) ** 2, axis=2))
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        distance[start : start + 256] = np.take_along_axis(exact, order, axis=1)
        which[start : start + 256] = np.take_along_axis(near, order, axis=1)
    return distance, which


MANY_NAMES = 20  # columns of names that tell how far apart rows are
KIN = 0.25  # mismatches with the nearest, as a share of those with a row at random, of kin
STRANGER = 0.65  # and of strangers, at least


def kin_by_names(table: Examined, seed: int) -> Near | None:
    """The same for tables of names or few numbers (sequences, genotypes): by the number of columns that differ.

    A test row has kin where the nearest seen row differs in at most a quarter as many columns as a seen row at random,
    and that in at least `MANY_NAMES` of them; rows of independent columns practically never do. Where one opinion
    is behind all columns some rows do, but then there are more rows half as near: kin are told by the gap between them
    and strangers. It takes a twentieth of the test rows to speak of families.
    """
    few = [one for one in table.features if (one.numbers is None or one.different <= FEW_VALUES) and one.different > 1]
    few = [one for one in few if one.different <= 4 * FEW_VALUES]
    if len(few) < MANY_NAMES:
        return None
    rng = np.random.default_rng(seed)
    thin = lambda rows, most: rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))
    test, seen = thin(table.test, 500), thin(table.seen, 20_000)
    same = np.zeros((len(test), len(seen)), np.float32)
    for one in few:
        hot = np.eye(one.different, dtype=np.float32)[one.codes]
        same += hot[test] @ hot[seen].T
    differ = len(few) - same
    usual, least, twins = np.median(differ, axis=1), differ.min(axis=1), seen[differ.argmin(axis=1)]
    close = (usual >= MANY_NAMES) & (least > 0) & (least <= KIN * usual)
    between = np.sum((differ > KIN * usual[:, None]) & (differ < STRANGER * usual[:, None]), axis=1)
    close &= between <= np.sum(differ <= KIN * usual[:, None], axis=1)
    surprising = close.sum() >= max(2, 0.05 * len(test))
    return Near(test[close], twins[close], (least / np.maximum(usual, 1))[close], len(test), bool(surprising))

"""Columns that are the target in another dress: equal, scaled, ranked alike, recoded, or telling it alone."""

import enum
from dataclasses import dataclass

import numpy as np

from thalweg.data.audit_table import Audited, Examined, ranks

ROUNDED = (
    1e-6  # a line through the target that errs by less of its spread is a change of units, written with few digits
)
EXPLAINED = 0.998  # share of the variance that one column explains from which it is no honest feature
ERRS = 0.005  # share of wrong classes below which one column tells them
LEAST = 20  # rows with a value, below which nothing is said
UNLIKELY = 1e-3  # columns that chance makes a recoding of the target, above which nothing is said


class Dress(enum.Enum):
    """How a column repeats the target; the value says it in words."""

    EQUAL = "equals the target"
    LINE = "is the target in other units: a straight line through it"
    RANKS = "is in the same order as the target, row by row"
    REVERSED = "is in the opposite order to the target, row by row"
    RECODED = "names the target's values in other words, one for one"
    TELLS = "alone tells the target"

    @property
    def sure(self) -> bool:
        """Whether there is no other reading than a copy."""
        return self is not Dress.TELLS


@dataclass(frozen=True)
class Copy:
    """A column that repeats the target.

    Attributes:
        column: its name.
        dress: how.
        score: share of the variance explained, or of the classes told, on rows apart.
        rows: rows with a value.
    """

    column: str
    dress: Dress
    score: float
    rows: int


def copies_of_target(table: Examined) -> list[Copy]:
    """Each column that is, or alone tells, the target."""
    held = np.zeros(len(table.frame), bool)
    held[table.test] = True
    held[table.split.validation] = True
    if held.sum() < 10:
        held[::4] = True  # too few held-out rows to judge on
    search = _class_copy if table.classes else _number_copy
    found = (search(table, one, held) for one in table.features if one.different > 1)
    return [one for one in found if one is not None]


def _number_copy(table: Examined, one: Audited, held: np.ndarray) -> Copy | None:
    goal = table.y[:, 0]
    if one.numbers is None:
        return _recoded(table, one)
    there = np.isfinite(one.numbers)
    if there.sum() < max(LEAST, len(goal) / 2):
        return None
    x, y, held = one.numbers[there], goal[there], held[there]
    rows = len(x)
    values = table.target.different
    if min(values, one.different) < 3:
        return _recoded(table, one)
    if np.array_equal(x, y):
        return Copy(one.name, Dress.EQUAL, 1.0, rows)
    a, b = x / np.abs(x).max(), y / np.abs(y).max()  # squares of huge values would overflow
    a, b = a - a.mean(), b - b.mean()
    slope = (a @ b) / (a @ a)
    if np.abs(b - slope * a).max() <= ROUNDED * np.std(b):
        return Copy(one.name, Dress.LINE, 1.0, rows)
    p, q = ranks(x), ranks(y)
    tied = 0.5 / (rows + 1)
    if values >= 10 and np.abs(p - q).max() < tied:
        return Copy(one.name, Dress.RANKS, 1.0, rows)
    if values >= 10 and np.abs(1 - p - q).max() < tied:
        return Copy(one.name, Dress.REVERSED, 1.0, rows)
    found = _recoded(table, one)
    if found is not None or not 0 < held.sum() < rows:
        return found
    explained = min(_explained(x, one_y, held) for one_y in (b, q))
    return Copy(one.name, Dress.TELLS, explained, rows) if explained > EXPLAINED else None


def _explained(x: np.ndarray, y: np.ndarray, held: np.ndarray) -> float:
    """Share of the variance of y (n,) on the held rows that x explains: means of equal x, lines between."""
    trained = ~held
    at, which = np.unique(x[trained], return_inverse=True)
    means = np.bincount(which.ravel(), weights=y[trained]) / np.bincount(which.ravel())
    held = held & (x >= at[0]) & (x <= at[-1])  # beyond them no line leads
    left = y[held] - np.interp(x[held], at, means)
    spread = float(np.sum((y[held] - y[trained].mean()) ** 2))
    return 1 - float(left @ left) / spread if spread > 0 else 0.0


def _recoded(table: Examined, one: Audited) -> Copy | None:
    """Codes that stand for the target's values one for one; only of values that repeat does this say anything."""
    rows, values = len(one.codes), table.target.different
    if one.different != values or values > rows / 2:
        return None
    pairs = one.codes * (table.target.codes.max() + 1) + table.target.codes
    if rows < LEAST or len(np.unique(pairs)) != values or _recoded_by_chance(table) > UNLIKELY:
        return None
    return Copy(one.name, Dress.RECODED, 1.0, rows)


def _recoded_by_chance(table: Examined) -> float:
    """How many columns would be a recoding of the target if each were its values in random order, in other words."""
    from scipy.special import gammaln

    counts = np.bincount(table.target.codes)
    orders = gammaln(counts.sum() + 1) - gammaln(counts + 1).sum() - gammaln(table.target.different + 1)
    return float(len(table.features) * np.exp(-orders))


def _class_copy(table: Examined, one: Audited, held: np.ndarray) -> Copy | None:
    labels = table.target.codes
    n = len(labels)
    found = _recoded(table, one)
    if found is not None or n < LEAST:
        return found
    rare = 1 - np.bincount(labels[held]).max() / held.sum()
    if rare * held.sum() < 3:
        return None  # nearly all held rows are of one class: whatever says so is right
    told = _told(one, labels, held)
    wrong = np.mean(told[held] != labels[held])
    trained = np.mean(told[~held] != labels[~held])
    if max(wrong, trained) <= min(ERRS, 0.1 * rare):
        return Copy(one.name, Dress.TELLS, 1 - float(wrong), n)
    return None


def _told(one: Audited, labels: np.ndarray, held: np.ndarray) -> np.ndarray:
    """The class of each row by the column alone, learned from the rows that are not held."""
    if one.numbers is None or one.different <= len(labels) / 20:
        table = np.zeros((one.codes.max() + 1, labels.max() + 1))
        np.add.at(table, (one.codes[~held], labels[~held]), 1)
        return table.argmax(axis=1)[one.codes]
    from sklearn.tree import DecisionTreeClassifier

    x = ranks(one.numbers)[:, None]
    leaves = max(2, min(2 * len(np.unique(labels)), 40))
    tree = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=0).fit(x[~held], labels[~held])
    return tree.predict(x)

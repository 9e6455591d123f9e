"""Splits that ask for more than new rows: whole regions of the features, or whole scaffolds, are held out.

A random split asks how well a model fills in between rows that it has seen. These ask how well it goes on to rows
unlike them, and are the honest ones where rows come in families that nobody has named.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from thalweg.data.splits import FRACTIONS, Fractions, Split, group_codes, group_split, time_split
from thalweg.errors import UserError, whole_number


class Clustering(Protocol):
    """Rows to clusters."""

    def __call__(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """Standardized rows (n, d) to the cluster of each, shape (n,)."""
        ...


@dataclass(frozen=True)
class Centres:
    """k-means: so many compact clusters, whatever lies between them (Arthur and Vassilvitskii, 2007).

    Args:
        count: number of clusters, at least 3; fewer come out where there are fewer different rows.
    """

    count: int = 20

    def __post_init__(self):
        if whole_number(self.count, "the number of clusters", "Centres") < 3:
            raise UserError(
                f"{self.count} clusters cannot fill three parts", where="Centres", remedy="Ask for 3 or more"
            )

    def __call__(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """As `Clustering`."""
        from sklearn.cluster import KMeans

        different = len(np.unique(rows, axis=0))
        means = KMeans(min(self.count, different), random_state=seed % 2**32)
        return means.fit_predict(rows)


@dataclass(frozen=True)
class Leaders:
    """Every row is within `radius` of its cluster's leader (Butina, 1999): the clusters that chemists split by.

    The row with the most others within the radius leads the first cluster and takes them all, then the next that is
    still free, and so on; of equals the earlier row leads.

    Args:
        radius: distance of standardized rows, root of the mean square over columns: 1 is a standard deviation each.
    """

    radius: float

    def __post_init__(self):
        if not 0 < self.radius < np.inf:
            raise UserError(f"the radius {self.radius} makes no clusters", where="Leaders", remedy="Give it above 0")

    def __call__(self, rows: np.ndarray, seed: int) -> np.ndarray:
        """As `Clustering`; the seed changes nothing."""
        from scipy.spatial import KDTree

        radius = self.radius * rows.shape[1] ** 0.5
        tree = KDTree(rows)
        crowd = tree.query_ball_point(rows, radius, return_length=True)
        codes = np.full(len(rows), -1)
        for leader in np.argsort(-crowd, kind="stable"):
            if codes[leader] < 0:
                near = np.array(tree.query_ball_point(rows[leader], radius))
                codes[near[codes[near] < 0]] = leader
        return codes


def cluster_split(
    features: np.ndarray, seed: int, fractions: Fractions = FRACTIONS, *, clustering: Clustering | None = None
) -> Split:
    """A split in which no cluster of similar rows has rows in two parts.

    Args:
        features: numbers, shape (n, d) or (n,), none missing; they are standardized, constant columns left out.
        seed: seed of the clustering and of the order of clusters, ≥ 0.
        fractions: shares of training, validation and test rows; met as nearly as the clusters allow.
        clustering: `Centres(20)` by default, or `Leaders(radius)`, or any function of standardized rows and a seed.
    Raises:
        UserError: missing or infinite features, only constant columns, fewer than three clusters, and as `group_split`.

    >>> rows = np.repeat([0.0, 5.0, 9.0, 30.0], 25) + np.linspace(0, 0.1, 100)
    >>> split = cluster_split(rows, 0, (0.5, 0.25, 0.25), clustering=Centres(4))
    >>> [len(set(np.digitize(rows[part], [3, 7, 20]).tolist())) for part in split]
    [2, 1, 1]
    """
    if whole_number(seed, "the seed", "cluster_split") < 0:
        raise UserError(f"the seed {seed} is below 0", where="cluster_split")
    rows = standardized(features)
    codes = np.asarray((Centres() if clustering is None else clustering)(rows, seed))
    if codes.shape != (len(rows),):
        raise UserError(f"the clustering gave shape {codes.shape} for {len(rows)} rows", remedy="Return one a row")
    return group_split(group_codes(codes, "cluster"), seed, fractions)


def scaffold_split(
    rows: Sequence[Any] | np.ndarray,
    fractions: Fractions = FRACTIONS,
    *,
    key: Callable[[Any], Hashable] | None = None,
) -> Split:
    """The largest scaffolds train, the rarest are the test: new chemistry, as in MoleculeNet (Wu et al., 2018).

    Scaffolds are laid end to end by their number of rows, of equals the one that appears first, and cut near the
    fractions. There is no chance in it, hence no seed.

    Args:
        rows: the scaffold of each row, or whatever `key` finds it from, length n.
        fractions: shares of training, validation and test rows; met as nearly as the scaffolds allow.
        key: row -> scaffold, any hashable value; None: the rows are the scaffolds.
    Raises:
        UserError: a scaffold that is missing or not hashable (its row is named), fewer than three, and as `time_split`.

    >>> scaffold_split(["benzene", "indole", "benzene", "furan", "benzene", "indole"], (0.5, 0.3, 0.2))
    Split(train=array([0, 2, 4]), validation=array([1, 5]), test=array([3]))
    """
    codes: list[int] = []
    seen: dict[Hashable, int] = {}
    for i, row in enumerate(rows):
        found = row if key is None else key(row)
        where = f"row {i}, counted from 0"
        try:
            hash(found)  # of a tuple, that of all in it
        except TypeError:
            remedy = "Make it text, a number, or a tuple of these"
            raise UserError(
                f"the scaffold is a {type(found).__name__}, which has no hash", where=where, remedy=remedy
            ) from None
        if is_missing(found):
            raise UserError("the row has no scaffold", where=where, remedy="Give it one of its own, or leave it out")
        codes.append(seen.setdefault(found, len(seen)))
    group_codes(np.array(codes, np.int64), "scaffold")  # refuses fewer than three
    sizes = np.bincount(codes)
    rank = np.empty(len(sizes), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return time_split(rank[codes], fractions)


def is_missing(value: Any) -> bool:
    """Whether a value is None, NaN, or pandas's mark of a missing one, which is like nothing at all.

    >>> is_missing(float("nan")), is_missing(None), is_missing("benzene")
    (True, True, False)
    """
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA, whose comparisons are neither true nor false
        return True


def standardized(features: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and standard deviation 1, shape (n, d); constant columns are left out.

    Raises:
        UserError: not numbers, another shape, missing or infinite values, or nothing but constant columns.

    >>> standardized(np.array([[1e300, 7.0], [3e300, 7.0]])).round(9).tolist()
    [[-1.0], [1.0]]
    """
    x = np.asarray(features)
    if x.dtype.kind not in "iufb" or x.ndim not in (1, 2) or not len(x):
        raise UserError(f"the features are {x.dtype}, shape {x.shape}", remedy="Give numbers, shape (n, d)")
    x = x.astype(np.float64).reshape(len(x), -1)
    if not np.isfinite(x).all():
        row, place = np.argwhere(~np.isfinite(x))[0]
        raise UserError(
            f"a feature is {x[row, place]}",
            where=f"row {row}, column {place}, counted from 0",
            remedy="Fill the missing values, or leave the rows out",
        )
    x = x[:, (x != x[:1]).any(axis=0)]
    if not x.size:
        raise UserError("every feature is constant, so all rows are one cluster", remedy="Split at random")
    x = x / np.abs(x).max(axis=0)  # squares of huge values would overflow
    spread = x - x.mean(axis=0)
    return spread / spread.std(axis=0)

"""How many independent directions a set of vectors has, and how alike they are."""

from typing import Any

import numpy as np

from thalweg.errors import UserError


def effective_rank(matrix: Any) -> float:
    """exp(H) of a matrix, H the entropy of its singular values divided by their sum (Roy and Vetterli, 2007).

    Between 1 and the rank: k equal singular values give k, and small ones count little.

    Args:
        matrix: (n, m), finite; computed in 64 bits.
    Returns:
        the effective rank; 0 for a matrix of zeros.
    Raises:
        UserError: no matrix, or numbers that are not finite.

    >>> round(effective_rank(np.diag([3.0, 3.0, 0.0])), 6)
    2.0
    """
    values = np.linalg.svd(_matrix(matrix, "effective_rank"), compute_uv=False)
    if not values[0]:
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def mean_cosine(vectors: Any) -> float:
    """Mean |cosine| of the angle between two different rows: 0 where all are at right angles, 1 where all are parallel.

    A row of zeros has no direction: its pairs are left out. Of n random directions in d dimensions it is about
    √(2/πd).

    Args:
        vectors: (n, d), finite; computed in 64 bits.
    Returns:
        the mean; NaN with fewer than two rows that are not 0.
    Raises:
        UserError: no matrix, or numbers that are not finite.

    >>> round(mean_cosine([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), 4)  # 0, √½ and √½
    0.4714
    """
    rows = _matrix(vectors, "mean_cosine")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows[lengths[:, 0] > 0] / lengths[lengths[:, 0] > 0]
    if len(rows) < 2:
        return float("nan")
    return float(np.abs(rows @ rows.T)[np.triu_indices(len(rows), 1)].mean())


def _matrix(values: Any, where: str) -> np.ndarray:
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or not matrix.size:
        raise UserError(f"an array of shape {matrix.shape} is no matrix of numbers", where=where)
    if not np.isfinite(matrix).all():
        raise UserError("the matrix holds numbers that are not finite", where=where)
    return matrix

"""Columns in units of their own mean and spread, also where their squares have no float64."""

import numpy as np

from thalweg.data.resolution import middle, spread

FARTHEST = 1e8
"""Standard deviations beyond which all is one to a bent input; the square of what lies beyond might be infinite."""


def column_units(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column, (n, d) -> (d,), (d,); of a constant one the scale is 1.

    >>> [one.tolist() for one in column_units(np.array([[1e300, 7.0], [3e300, 7.0]]))]
    [[2e+300, 7.0], [1e+300, 1.0]]
    """
    scale = spread(features)
    constant = np.ptp(features, axis=0) == 0  # what rounding leaves of a constant's deviation is no spread
    return middle(features), np.where(constant | (scale == 0), 1.0, scale)


def standardized(features: np.ndarray, units: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The columns (n, d) in units of `column_units`, finite however far off."""
    with np.errstate(over="ignore"):
        return np.clip((features - units[0]) / units[1], -FARTHEST, FARTHEST)

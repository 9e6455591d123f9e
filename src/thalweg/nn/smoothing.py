"""Smooth curves through noisy readings, without a model: where the training of dynamics may begin."""

import numpy as np
from scipy.interpolate import BSpline, make_smoothing_spline

from thalweg.errors import UserError

FEWEST = 5
"""Readings that SciPy's smoothing spline needs."""


def smooth(times: np.ndarray, values: np.ndarray, noise: float, share: float = 0.6) -> BSpline:
    """The cubic smoothing spline (Reinsch, 1967) whose mean squared misfit is a given share of the noise's variance.

    All of the variance would be too much: a curve that follows the readings takes some of their noise with it.

    Args:
        times: increasing, shape (T,).
        values: shape (T,); NaN where a reading is missing, at least 5 that are there.
        noise: standard deviation of a reading, above 0.
        share: of the noise's variance.
    Returns:
        the spline, with `derivative()`.
    Raises:
        UserError: too few readings, shapes that differ, a noise or share that is not above 0.

    >>> t = np.linspace(0.0, 6.0, 60)
    >>> found = smooth(t, np.sin(t) + np.random.default_rng(0).normal(0.0, 0.05, 60), noise=0.05)
    >>> bool(np.abs(found(t) - np.sin(t)).max() < 0.1)
    True
    """
    times, values = np.asarray(times, float), np.asarray(values, float)
    if times.ndim != 1 or times.shape != values.shape:
        raise UserError(f"times of shape {times.shape} with values of shape {values.shape}", where="smooth")
    known = ~np.isnan(values)
    if known.sum() < FEWEST:
        raise UserError(f"{known.sum()} readings", where="smooth", remedy=f"At least {FEWEST}.")
    if not (noise > 0 and share > 0):
        raise UserError(f"noise {noise}, share {share}", where="smooth", remedy="Both above 0.")
    times, values = times[known], values[known]
    low, high = -12.0, 2.0  # powers of ten of the penalty
    for _ in range(16):
        middle = (low + high) / 2
        found = make_smoothing_spline(times, values, lam=10**middle)
        rough = np.mean(((found(times) - values) / noise) ** 2) < share
        low, high = (middle, high) if rough else (low, middle)
    return make_smoothing_spline(times, values, lam=10**low)

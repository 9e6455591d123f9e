"""Smooth curves through noisy readings, without a model: where the training of dynamics may begin."""

import numpy as np
from scipy.interpolate import BSpline, make_smoothing_spline

from thalweg.errors import UserError

FEWEST = 5
"""Readings that SciPy's smoothing spline needs."""

PENALTIES = (-10.0, 8.0)
"""Powers of ten between which the penalty is looked for, with readings one unit of time apart."""


def smooth(times: np.ndarray, values: np.ndarray, noise: float, share: float = 0.6) -> BSpline:
    """The cubic smoothing spline (Reinsch, 1967) whose mean squared misfit is a given share of the noise's variance.

    All of the variance would be too much: a curve that follows the readings takes some of their noise with it. Readings
    on a straight line have no such spline; the stiffest is taken.

    Args:
        times: increasing, shape (T,).
        values: shape (T,); NaN where a reading is missing, at least 5 that are there.
        noise: standard deviation of a reading, above 0.
        share: of the noise's variance.
    Returns:
        the spline, with `derivative()`.
    Raises:
        UserError: too few readings, shapes that differ, times that do not rise, a noise or share not above 0.

    >>> t = np.linspace(0.0, 6.0, 60)
    >>> found = smooth(t, np.sin(t) + np.random.default_rng(0).normal(0.0, 0.05, 60), noise=0.05)
    >>> bool(np.abs(found(t) - np.sin(t)).max() < 0.1)
    True
    """
    times, values = np.asarray(times, float), np.asarray(values, float)
    if times.ndim != 1 or times.shape != values.shape:
        raise UserError(f"times of shape {times.shape} with values of shape {values.shape}", where="smooth")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any() or np.isinf(values).any():
        raise UserError("times that do not rise, or infinite numbers", where="smooth", remedy="Sort them.")
    known = ~np.isnan(values)
    if known.sum() < FEWEST:
        raise UserError(f"{known.sum()} readings", where="smooth", remedy=f"At least {FEWEST}.")
    if not (np.ndim(noise) == 0 and noise > 0 and share > 0):
        raise UserError(f"noise {noise}, share {share}", where="smooth", remedy="Two numbers above 0.")
    values = values[known] / noise
    begin, spacing = times[known][0], np.ptp(times[known]) / (known.sum() - 1)
    at = (times[known] - begin) / spacing  # the penalty counts in units of time cubed
    low, high = PENALTIES
    for _ in range(20):
        middle = (low + high) / 2
        found = make_smoothing_spline(at, values, lam=10**middle)
        low, high = (middle, high) if np.mean((found(at) - values) ** 2) < share else (low, middle)
    found = make_smoothing_spline(at, values, lam=10**low)
    return BSpline(begin + spacing * found.t, noise * found.c, found.k)

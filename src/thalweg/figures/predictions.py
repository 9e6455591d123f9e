"""Predicted numbers beside true ones, and whether the doubt that was told is the doubt that there is."""

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from thalweg.figures.style import DASHES, GRID, MUTED, SERIES, dress, legend, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 600
"""Rows drawn at most; beyond, a random choice that is always the same."""

WIDTH_95 = NormalDist().inv_cdf(0.975)
"""Half width of the central 95 % interval of a Gaussian, in standard deviations: 1.96."""


def against_truth(
    ax: "Axes",
    truth: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray | None = None,
    outside: np.ndarray | None = None,
) -> None:
    """Predictions against true values; on the line they agree.

    Args:
        ax: where to draw.
        truth: true values, shape (n,).
        mean: predictions, shape (n,), same units.
        deviation: standard deviation of each prediction, shape (n,); drawn as its 95 % interval.
        outside: rows outside the training range, shape (n,), bool; drawn as hollow triangles.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> against_truth(ax, np.array([1.0, 2.0]), np.array([1.1, 1.8]), np.array([0.2, 0.2]))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('true', 'predicted')
    """
    dress(ax)
    span = np.concatenate([truth, mean])
    low, high = float(span.min()), float(span.max())
    margin = 0.06 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    _points(ax, truth, mean, deviation, outside)
    bottom, top = ax.get_ylim()  # whole intervals, unless they would press the points flat
    reach = ends[1] - ends[0]
    limits = (min(max(bottom, ends[0] - reach), ends[0]), max(min(top, ends[1] + reach), ends[1]))
    ax.plot(ends, ends, color=MUTED, linewidth=1.2, linestyle=DASHES[1], label="equal")
    ax.set(xlim=ends, ylim=limits, xlabel="true", ylabel="predicted")
    ax.locator_params(nbins=6)
    legend(ax)


def residuals(ax: "Axes", truth: np.ndarray, mean: np.ndarray, outside: np.ndarray | None = None) -> None:
    """What the predictions miss, true − predicted, against the prediction: no trend should be left.

    Args:
        ax: where to draw.
        truth, mean, outside: as for `against_truth`.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> residuals(ax, np.array([1.0, 2.0]), np.array([1.5, 2.5]))
    >>> ax.get_ylabel(), ax.lines[-1].get_ydata().tolist()
    ('true − predicted', [-0.5, -0.5])
    """
    dress(ax)
    ax.axhline(0.0, color=MUTED, linewidth=1.0, linestyle=DASHES[1])
    _points(ax, mean, truth - mean, None, outside)
    ax.set(xlabel="predicted", ylabel="true − predicted")
    ax.locator_params(nbins=6)
    legend(ax)


def residuals_against_doubt(
    ax: "Axes", truth: np.ndarray, mean: np.ndarray, deviation: np.ndarray, outside: np.ndarray | None = None
) -> None:
    """What the predictions miss against the doubt they came with: 95 of 100 points should lie within the wedge.

    Args:
        ax: where to draw.
        truth, mean, deviation, outside: as for `against_truth`.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> residuals_against_doubt(ax, np.array([1.0, 2.0]), np.array([1.5, 2.5]), np.array([0.5, 1.0]))
    >>> ax.get_xlabel()
    'standard deviation told'
    """
    dress(ax)
    widest, least = float(deviation.max()), float(deviation.min())
    margin = 0.06 * (widest - least) or 0.5 * widest or 1.0
    ends = np.array([max(least - margin, 0.0), widest + margin])
    ax.fill_between(
        ends, -WIDTH_95 * ends, WIDTH_95 * ends, color=SERIES[0], alpha=0.1, linewidth=0, label="95% expected here"
    )
    ax.axhline(0.0, color=MUTED, linewidth=1.0, linestyle=DASHES[1])
    _points(ax, deviation, truth - mean, None, outside)
    ax.set(xlim=ends, xlabel="standard deviation told", ylabel="true − predicted")
    ax.locator_params(nbins=6)
    legend(ax)


def coverage(truth: np.ndarray, mean: np.ndarray, deviation: np.ndarray, level: float) -> float:
    """Share of the rows whose true value lies within the central interval of a Gaussian, from 0 to 1.

    Args:
        truth, mean, deviation: as for `against_truth`.
        level: of the interval, in (0, 1).

    >>> coverage(np.array([0.0, 0.0]), np.array([1.0, 3.0]), np.array([1.0, 1.0]), 0.95)
    0.5
    """
    reach = NormalDist().inv_cdf((1 + level) / 2) * deviation
    return float(np.mean(np.abs(truth - mean) <= reach))


def chance(level: float, n: int) -> tuple[float, float]:
    """The range in which the share of n rows lies with 95 % probability when the true share is `level`.

    The normal approximation of the binomial distribution, cut to [0, 1].

    >>> [round(end, 2) for end in chance(0.5, 100)]
    [0.4, 0.6]
    """
    reach = WIDTH_95 * math.sqrt(level * (1 - level) / n)
    return max(level - reach, 0.0), min(level + reach, 1.0)


def interval_coverage(ax: "Axes", truth: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> None:
    """Calibration: the share of rows within an interval against the share that the interval promises.

    Above the line the doubt told is too large, below it too small; within the band, chance explains the difference.

    Args:
        ax: where to draw.
        truth, mean, deviation: as for `against_truth`.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> rng = np.random.default_rng(0)
    >>> interval_coverage(ax, rng.normal(size=500), np.zeros(500), np.ones(500))
    >>> levels, shares = ax.lines[-1].get_data()
    >>> bool(np.abs(np.array(levels) - shares).max() < 0.06)
    True
    """
    dress(ax)
    levels = np.linspace(0.01, 0.99, 50)
    low, high = np.array([chance(float(level), len(truth)) for level in levels]).T
    ax.fill_between(levels, low, high, color=GRID, linewidth=0, label=f"chance, {len(truth):,} rows")
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=DASHES[1], label="exact")
    shares = [coverage(truth, mean, deviation, float(level)) for level in levels]
    ax.plot(levels, shares, color=SERIES[0], linewidth=2.0, label="measured")
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="share that the interval promises", ylabel="share of rows within")
    percentages(ax)
    legend(ax)


def percentages(ax: "Axes") -> None:
    """Ticks at every fifth of both axes, in per cent."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def _points(ax: "Axes", x: np.ndarray, y: np.ndarray, deviation: np.ndarray | None, outside: np.ndarray | None) -> None:
    rows = thinned(len(x), MOST_POINTS)
    x, y = x[rows], y[rows]
    beyond = np.zeros(len(x), bool) if outside is None else outside[rows].astype(bool)
    dense = len(x) > 200
    ax.plot(
        x[~beyond], y[~beyond], "o", color=SERIES[0], markersize=3.0 if dense else 4.0, markeredgewidth=0,
        alpha=0.6 if dense else 0.85, label="test rows" if beyond.any() or deviation is not None else None,
    )  # fmt: skip
    if deviation is not None:
        reach = WIDTH_95 * deviation[rows]
        # one line with gaps, not one a row: the drawing stays small
        bars_x = np.column_stack([x, x, np.full(len(x), np.nan)]).ravel()
        bars_y = np.column_stack([y - reach, y + reach, np.full(len(x), np.nan)]).ravel()
        ax.plot(bars_x, bars_y, color=SERIES[0], linewidth=0.9, alpha=0.3, label="95% interval")
    if beyond.any():
        ax.plot(
            x[beyond], y[beyond], "^", color=SERIES[1], markerfacecolor="none", markersize=5, markeredgewidth=1.2,
            label="outside training",
        )  # fmt: skip

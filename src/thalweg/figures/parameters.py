"""Recovered numbers beside the true ones."""

from typing import TYPE_CHECKING

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import INK, SERIES, dress, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def recovered(
    ax: "Axes", values: np.ndarray, low: np.ndarray, high: np.ndarray, *, truth: float | None, label: str
) -> None:
    """Estimates with their intervals, one below the other; those that miss the truth stand out.

    Args:
        ax: where to draw.
        values, low, high: estimates and the ends of their intervals, (k,).
        truth: the true number, drawn as a line; None where nobody knows it.
        label: the number's name and units.
    Raises:
        UserError: shapes that differ.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> recovered(ax, np.array([1.0, 1.2]), np.array([0.9, 1.1]), np.array([1.1, 1.3]), truth=1.0, label="rate, 1/day")
    >>> ax.get_xlabel()
    'rate, 1/day'
    """
    values, low, high = np.asarray(values, float), np.asarray(low, float), np.asarray(high, float)
    if values.ndim != 1 or not values.shape == low.shape == high.shape:
        raise UserError("the shapes are not (k,) thrice", where=f"{values.shape}, {low.shape}, {high.shape}")
    dress(ax)
    ax.grid(visible=False, axis="y")
    misses = np.zeros(len(values), bool) if truth is None else (truth < low) | (truth > high)
    thin = 2.2 if len(values) <= 20 else 0.9
    for i, place in enumerate(np.arange(len(values))):
        colour = SERIES[1] if misses[i] else SERIES[0]
        ax.plot([low[i], high[i]], [place, place], color=colour, linewidth=thin, solid_capstyle="round")
        ax.plot(values[i], place, "o", color=colour, markersize=2.5 * thin)
    if truth is not None:
        ax.axvline(truth, color=INK, linewidth=1.2)
    ax.set_yticks([])
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(plain(label, 48))
    ax.locator_params(axis="x", nbins=5)

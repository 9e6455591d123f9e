"""Several models beside each other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import INK, MUTED, SERIES, dress, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def scores(
    ax: "Axes",
    names: Sequence[str],
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    metric: str,
    first: int = 0,
) -> None:
    """The score of each model with its interval, the first name on top.

    Args:
        ax: where to draw.
        names: of the k models.
        values, low, high: score and the ends of its interval, shape (k,); an interval that is not finite is left out.
        metric: the score's name and units.
        first: the model that stands out.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> scores(ax, ["network", "ridge"], np.array([0.8, 0.7]), np.array([0.7, 0.6]), np.array([0.9, 0.8]), metric="R²")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['network', 'ridge']
    """
    dress(ax)
    ax.grid(visible=False, axis="y")
    places = np.arange(len(names))
    for i, place in enumerate(places):
        colour = SERIES[0] if i == first else MUTED
        ax.plot([low[i], high[i]], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
        ax.plot(values[i], place, "o" if i == first else "s", color=colour, markersize=8 if i == first else 6)
    ax.set_yticks(places, [plain(name) for name in names], color=INK)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(plain(metric, 48))
    ax.locator_params(axis="x", nbins=6)


def medians(ax: "Axes", found: Mapping[str, Sequence[float] | np.ndarray], *, metric: str, first: int = 0) -> None:
    """The median score of each model over its runs with the interval of `median_interval`, the first name on top.

    Args:
        ax: where to draw.
        found: a name to the scores of its runs, one a seed.
        metric: the score's name and units.
        first: the model that stands out.
    Raises:
        UserError: no models, or no runs of one.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> medians(ax, {"network": [0.1, 0.3, 0.2], "ridge": [0.5]}, metric="error, %")
    >>> [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() in "os"]
    [0.2, 0.5]
    """
    if not found:
        raise UserError("no models to compare", where="figures.comparison.medians")
    from thalweg.analysis.medians import median_interval  # here, for the room loads JAX

    middles, intervals = zip(*(median_interval(list(runs)) for runs in found.values()), strict=True)
    low, high = np.transpose(intervals)
    scores(ax, list(found), np.array(middles), low, high, metric=metric, first=first)

"""Several models beside each other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import DASHES, INK, MUTED, SERIES, dress, legend, plain

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


def learning_curves(
    ax: "Axes", labels: Sequence[int], found: Mapping[str, np.ndarray], *, metric: str, counted: str = "labels"
) -> None:
    """The median score of each model by the number of labels that it learned from, with the range over its runs.

    Args:
        ax: where to draw.
        labels: numbers of labels, rising, above 0; on a logarithmic axis.
        found: a name to its scores, (runs, numbers).
        metric: the score's name and units.
        counted: what is counted.
    Raises:
        UserError: no models, or scores of another shape.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> learning_curves(ax, [8, 16], {"network": np.array([[0.6, 0.8], [0.5, 0.7]])}, metric="accuracy")
    >>> [float(value) for value in ax.lines[0].get_ydata()]
    [0.55, 0.75]
    """
    if not found or any(np.ndim(runs) != 2 or np.shape(runs)[1] != len(labels) for runs in found.values()):
        shapes = {name: np.shape(runs) for name, runs in found.items()}
        raise UserError(f"scores of shapes {shapes} for {len(labels)} numbers", where="figures.learning_curves")
    from matplotlib.ticker import NullLocator

    dress(ax)
    for i, (name, runs) in enumerate(found.items()):
        places = np.asarray(labels) * 1.035 ** (
            i - (len(found) - 1) / 2
        )  # side by side, so that no range hides another
        colour, dash = SERIES[i % len(SERIES)], DASHES[i % len(DASHES)]
        ax.plot(places, np.median(runs, axis=0), "o", linestyle=dash, color=colour, markersize=5, label=plain(name, 40))
        ax.vlines(places, np.min(runs, axis=0), np.max(runs, axis=0), color=colour, linewidth=1.2, alpha=0.6)
    ax.set_xscale("log")
    ax.set_xticks(list(labels), [str(label) for label in labels])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(plain(counted, 60))
    ax.set_ylabel(plain(metric, 48))
    legend(ax)

"""How signals travel through a model, layer by layer."""

from typing import TYPE_CHECKING

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import DASHES, SERIES, dress, legend, logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg.nn import SignalReport


def signal_by_depth(ax: "Axes", report: "SignalReport") -> None:
    """Mean squares of the signal and of the gradient at the output of each layer with weights, from first to last.

    Level lines are what one wishes for. A third line shows the signal with dropout off, where that differs. Values that
    are 0 or not finite leave gaps.

    Args:
        ax: where to draw.
        report: of `signal_report`.
    Raises:
        UserError: no layer of the report has weights.

    >>> import jax
    >>> from matplotlib.figure import Figure
    >>> from thalweg.nn import MLP, signal_report
    >>> model = MLP(2, 1, width=8, depth=3, key=jax.random.key(0))
    >>> ax = Figure().add_subplot()
    >>> signal_by_depth(ax, signal_report(model, np.ones((4, 2))))
    >>> [line.get_label() for line in ax.lines], ax.get_yscale()
    (['signal', 'gradient'], 'log')
    """
    rows = np.flatnonzero(report.has_weights)
    if not len(rows):
        raise UserError("no layer of the report has weights", where="signal_by_depth")
    lines = {"signal": report.mean_square, "gradient": report.backward}
    if not np.array_equal(report.without_dropout, report.mean_square, equal_nan=True):
        lines["signal, dropout off"] = report.without_dropout
    dress(ax)
    depth = np.arange(1, len(rows) + 1)
    marker = "o" if len(rows) <= 30 else None
    for (label, squares), colour, dashes in zip(lines.items(), SERIES, DASHES, strict=False):
        values = squares[rows]
        drawn = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        ax.plot(
            depth, drawn, color=colour, linestyle=dashes, linewidth=1.8, marker=marker, markersize=4, label=label
        )  # fmt: skip
    ax.set_yscale("log")
    _show_at_least_two_decades(ax)
    logarithmic(ax.yaxis)
    ax.set_xlabel("layer with weights")
    ax.set_ylabel("mean square")
    ax.locator_params(axis="x", nbins=6, integer=True)
    legend(ax)


def _show_at_least_two_decades(ax: "Axes") -> None:
    """So that a level line looks level."""
    low, high = np.log10(ax.get_ylim())
    room = max(0.0, 2 - (high - low)) / 2
    ax.set_ylim(10 ** (low - room), 10 ** (high + room))

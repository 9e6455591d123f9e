"""The learning rate's range test."""

from typing import TYPE_CHECKING

import numpy as np

from thalweg.figures.style import INK, MUTED, SERIES, dress, legend, logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thalweg.train.range_test import RangeTest


def range_test(ax: "Axes", found: "RangeTest") -> None:
    """The objective against the rate tried, smoothed and as it was, with the rate suggested and the bounds for a cycle.

    Args:
        ax: where to draw.
        found: what `thalweg.range_test` returned.

    >>> from matplotlib.figure import Figure
    >>> from thalweg.train.range_test import judged
    >>> rates = np.logspace(-5, 0, 60)
    >>> ax = Figure().add_subplot()
    >>> range_test(ax, judged(rates, 1 / (1 + rates / 1e-3) + 100 * rates**2, 0.5))
    >>> ax.get_xscale(), ax.get_xlabel()
    ('log', 'learning rate')
    """
    dress(ax)
    seen = np.where(np.isfinite(found.objective), found.objective, np.nan)
    ax.plot(found.rates, seen, color=MUTED, linewidth=0.7, alpha=0.6, label="each step")
    ax.plot(found.rates, found.smooth, color=INK, linewidth=1.8, label="smoothed")
    ax.axvspan(found.low, found.high, color=SERIES[0], alpha=0.12, linewidth=0, label="bounds for a cycle")
    ax.axvline(found.suggested, color=SERIES[1], linewidth=1.6, label=f"suggested, {found.suggested:.2g}")
    ax.set_xscale("log")
    logarithmic(ax.xaxis)
    kept = found.smooth[np.isfinite(found.smooth)]
    if kept.min() > 0:
        ax.set_yscale("log")
        logarithmic(ax.yaxis)
    ax.set_ylim(top=float(np.nanmax(np.concatenate([kept[: max(len(kept) // 10, 1)], [kept.min()]]))) * 4)
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    legend(ax)

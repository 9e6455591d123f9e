"""A slice of a loss surface, seen from above; and the heights of the same slice for a view that turns.

The turning view is drawn by the page itself (`thalweg/report/surface.js`), not by Plotly as first designed: plotly.js
alone has 4.5 MB, and a page is to stay small and open in under a second.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from thalweg.figures.style import INK, MUTED, SERIES, SHADE, dress, plain, power_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = 10
"""Steps of cost that have one shade each."""

MOST_HEIGHT = 9.0
"""Of what is drawn: only where the cut at 1 runs is seen of the cliffs above."""

FARTHEST = 3.0
"""Heights above the lowest cost that are shown, in units of the height of the start."""


class Scale(NamedTuple):
    """How costs become heights from 0 to 1.

    Attributes:
        low, high: costs of height 0 and 1; what is higher is cut off.
        is_log: heights follow the logarithm of the cost.
        is_cut: some cost is higher, or not finite.
    """

    low: float
    high: float
    is_log: bool
    is_cut: bool

    def heights(self, costs: np.ndarray) -> np.ndarray:
        """Heights, above 1 for what is cut off; NaN where the cost is none, 0 where it is below the lowest finite."""
        bounded, ends = np.maximum(costs, self.low), np.array([self.low, self.high])
        if self.is_log:
            bounded, ends = np.log(bounded), np.log(ends)
        return (bounded - ends[0]) / (ends[1] - ends[0])

    def cost(self, height: float) -> float:
        """The cost at a height."""
        if self.is_log:
            return float(np.exp(np.interp(height, [0, 1], np.log([self.low, self.high]))))
        return self.low + height * (self.high - self.low)


def scale_of(costs: np.ndarray, start: float | None = None) -> Scale:
    """A scale on which the way down is seen, whatever cliffs stand beside it.

    Args:
        costs: of a slice; at least one is finite.
        start: the cost where the walk began. The scale ends at three times its height above the lowest, or without a
            start at the nine-tenths quantile. It is logarithmic if it spans a factor of more than 50.

    >>> scale_of(np.array([[1.0, 2.0], [9.0, np.inf]]), start=2.0)
    Scale(low=1.0, high=4.0, is_log=False, is_cut=True)
    """
    known = costs[np.isfinite(costs)]
    low, top = float(known.min()), float(known.max())
    high = float(np.quantile(known, 0.9)) if start is None else low + FARTHEST * (start - low)
    high = min(high, top) if high > low else top
    if not high > low:  # a plain
        high = low + max(abs(low), 1.0)
    return Scale(low, high, low > 0 and high > 50 * low, bool((np.isnan(costs) | (costs > high)).any()))


def contours(ax: "Axes", offsets: np.ndarray, costs: np.ndarray, *, axes: tuple[str, str], start: float | None) -> None:
    """Contours of a slice: the deeper, the darker; with the middle marked, and the start of the walk to it.

    Args:
        ax: where to draw.
        offsets: along either direction, shape (n,), ascending.
        costs: `costs[i, j]` at `offsets[i]` along the first (drawn to the right) and `offsets[j]` along the second
            direction, shape (n, n); not all may be finite.
        axes: what the directions are.
        start: where on the first direction the walk began; None if it is not known.

    >>> from matplotlib.figure import Figure
    >>> offsets = np.linspace(-1.0, 1.0, 5)
    >>> ax = Figure().add_subplot()
    >>> contours(ax, offsets, np.add.outer(offsets**2, offsets**2), axes=("walked", "random"), start=-1.0)
    >>> ax.get_xlabel(), [text.get_text() for text in ax.texts[-2:]]
    ('walked', ['start', 'kept'])
    """
    scale = scale_of(costs, cost_at_start(offsets, costs, start))
    heights = np.ma.masked_invalid(np.minimum(scale.heights(costs), MOST_HEIGHT)).T
    edges = np.linspace(0, 1, LEVELS + 1)
    dress(ax)
    ax.grid(visible=False)
    shades = [(SERIES[0], opacity) for opacity in np.linspace(0.5, 0.04, LEVELS)]  # ink is read on all of them
    above = [1.0, MOST_HEIGHT + 1]
    ax.contourf(offsets, offsets, heights, levels=[-1e-9, *edges[1:-1], *above], colors=[*shades, shades[-1]])
    lines = ax.contour(offsets, offsets, heights, levels=edges[1:-1], colors=MUTED, linewidths=0.7)
    ax.clabel(lines, edges[1:-1:3], fmt=lambda height: _short(scale.cost(height)), fontsize=9, colors=INK)
    points = ([] if start is None else [(start, "s", "start")]) + [(0.0, "o", "kept")]
    for place, marker, text in points:
        ax.plot(place, 0.0, marker, color=SHADE, markeredgecolor=INK, markeredgewidth=1.6, markersize=7, zorder=4)
        ax.annotate(
            text, (place, 0.0), (0, 8), textcoords="offset points", ha="center", color=INK, fontweight="bold", zorder=5
        )
    ax.set_xlabel(plain(axes[0], 48))
    ax.set_ylabel(plain(axes[1], 48))
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
    ax.locator_params(nbins=5)


def cost_at_start(offsets: np.ndarray, costs: np.ndarray, start: float | None) -> float | None:
    """The cost at `start` on the first direction, between the grid's points; None if it is not known or not finite.

    >>> cost_at_start(np.array([-1.0, 0.0, 1.0]), np.array([[0, 4, 0], [0, 2, 0], [0, 8, 0]]), -0.5)
    3.0
    """
    if start is None:
        return None
    found = float(np.interp(start, offsets, costs[:, len(offsets) // 2]))
    return found if np.isfinite(found) else None


def _short(cost: float) -> str:
    """Three digits."""
    return power_of_ten(float(f"{cost:.3g}"))

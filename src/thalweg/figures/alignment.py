"""Alignment: where in a long input each label of a short sequence stands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import INK, MUTED, SERIES, dress, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def alignment(
    ax: "Axes",
    occupancy: np.ndarray,
    names: Sequence[str],
    *,
    path: np.ndarray | None = None,
    background: np.ndarray | None = None,
    labels: tuple[str, str] = ("step", "probability"),
) -> None:
    """The posterior probability of each label over the steps, its name above its peak.

    Args:
        ax: where to draw.
        occupancy: that a step belongs to a label, shape (T, S), such as `Alignment.labels`.
        names: of the S labels, in their order.
        path: the states 0 … 2S of one alignment, shape (T,), drawn as bars below; label s has the state 2s + 1.
        background: the input itself as an image (height, width), drawn above over the same span; dark is high. Its
            width is then the unit of the axis.
        labels: of the axes.
    Raises:
        UserError: shapes that do not belong together.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> alignment(ax, np.array([[0.9, 0.0], [0.1, 0.2], [0.0, 0.7]]), ["a", "b"], path=np.array([1, 2, 3]))
    >>> [text.get_text() for text in ax.texts], len(ax.patches)
    (['a', 'b'], 2)
    """
    steps, count = occupancy.shape
    if count != len(names) or (path is not None and path.shape != (steps,)):
        raise UserError(
            f"shares {occupancy.shape} with {len(names)} names and a path {None if path is None else path.shape}",
            where="alignment",
            remedy="A column for each name, and a state for each row.",
        )
    dress(ax)
    ax.grid(visible=False)
    width = steps if background is None else background.shape[1]
    at = (np.arange(steps) + 0.5) * width / steps
    top = 1.15
    for s, name in enumerate(names):
        colour = SERIES[s % len(SERIES)]
        ax.fill_between(at, occupancy[:, s], color=colour, alpha=0.25, linewidth=0)
        ax.plot(at, occupancy[:, s], color=colour, linewidth=1.2)
        peak = int(occupancy[:, s].argmax())
        ax.text(at[peak], min(occupancy[peak, s] + 0.03, 1.03), plain(name), color=INK, ha="center", va="bottom")
        if path is not None and (mine := np.flatnonzero(path == 2 * s + 1)).size:
            reach = (mine[-1] - mine[0] + 1) * width / steps
            ax.barh(-0.08, reach, left=mine[0] * width / steps, height=0.06, color=colour)
    if background is not None:
        edges = np.linspace(top + 0.6, top + 0.05, len(background) + 1)  # the first row on top
        ax.pcolormesh(np.arange(width + 1), edges, background, cmap="Greys", shading="flat")
        ax.axhline(top + 0.02, color=MUTED, linewidth=0.6)
        top += 0.62
    ax.set(xlim=(0, width), ylim=(-0.15 if path is not None else 0, top), xlabel=labels[0], ylabel=labels[1])
    ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])

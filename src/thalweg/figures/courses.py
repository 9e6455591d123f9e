"""Courses of several quantities over time: readings with what was fitted to them, forecasts with their bands."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import MUTED, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def fitted(
    ax: "Axes",
    times: np.ndarray,
    readings: np.ndarray,
    states: np.ndarray,
    *,
    names: Sequence[str],
    event: float | None = None,
    labels: tuple[str, str] = ("time", "value"),
) -> None:
    """Readings as dots, the course that was fitted to them as lines, a colour for each quantity.

    Args:
        ax: where to draw.
        times: shape (T,).
        readings: shape (T, d); NaN where one is missing.
        states: the course at these times, shape (T, d).
        names: of the d quantities.
        event: a time that is marked with a dotted line.
        labels: of the axes.
    Raises:
        UserError: shapes that do not belong together.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> fitted(ax, np.arange(3.0), np.ones((3, 1)), np.ones((3, 1)), names=["hares"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['hares, read', 'fitted']
    """
    _refuse_shapes(times, names, readings, states)
    for k, name in enumerate(names):
        ax.plot(times, readings[:, k], "o", color=f"C{k}", markersize=3, label=f"{plain(name)}, read")
        ax.plot(times, states[:, k], color=f"C{k}", linewidth=1, label="fitted")
    if event is not None:
        ax.axvline(event, color=MUTED, linestyle=":", linewidth=0.8)
    _label(ax, labels)


def foretold(
    ax: "Axes",
    times: np.ndarray,
    states: np.ndarray,
    half: np.ndarray,
    truth: np.ndarray | None = None,
    *,
    names: Sequence[str],
    labels: tuple[str, str] = ("time", "value"),
) -> None:
    """Courses with their bands, and what came, dashed.

    Args:
        ax: where to draw.
        times: shape (T,).
        states, half: courses and half the widths of their bands, shape (T, d).
        truth: what came, shape (T, d), or None.
        names: of the d quantities.
        labels: of the axes.
    Raises:
        UserError: shapes that do not belong together.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> foretold(ax, np.arange(3.0), np.ones((3, 1)), np.ones((3, 1)), np.zeros((3, 1)), names=["hares"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['hares', 'truth']
    """
    _refuse_shapes(times, names, states, half, *(() if truth is None else (truth,)))
    for k, name in enumerate(names):
        low, high = states[:, k] - half[:, k], states[:, k] + half[:, k]
        ax.fill_between(times, low, high, color=f"C{k}", alpha=0.25, linewidth=0)
        ax.plot(times, states[:, k], color=f"C{k}", linewidth=1, label=plain(name))
        if truth is not None:
            ax.plot(times, truth[:, k], "--", color=MUTED, linewidth=1.4, label="" if k else "truth")
    _label(ax, labels)


def _refuse_shapes(times: np.ndarray, names: Sequence[str], *arrays: np.ndarray) -> None:
    if any(np.shape(one) != (len(times), len(names)) for one in arrays):
        shapes = ", ".join(str(np.shape(one)) for one in arrays)
        raise UserError(f"arrays {shapes} for {len(times)} times and {len(names)} names", where="figures.courses")


def _label(ax: "Axes", labels: tuple[str, str]) -> None:
    ax.set_xlabel(plain(labels[0], 48))
    ax.set_ylabel(plain(labels[1], 48))
    ax.legend(fontsize=7, ncols=3)

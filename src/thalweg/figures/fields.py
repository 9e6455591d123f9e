"""Scalar fields over a plane domain, as filled contours on a triangulation."""

from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import INK, MUTED, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def field(
    ax: "Axes",
    points: np.ndarray,
    triangles: np.ndarray,
    values: np.ndarray,
    *,
    label: str,
    limits: tuple[float, float] | None = None,
    outline: np.ndarray | None = None,
    marks: np.ndarray | None = None,
) -> None:
    """A field's filled contours with their scale; around 0 two colours, else from dark to light.

    Args:
        ax: where to draw.
        points: (n, 2).
        triangles: of positions in `points`, (m, 3).
        values: at the points, (n,).
        label: the field's name and units.
        limits: ends of the scale, so that two figures share one; values beyond have the colour of the end. None takes
            the ends of the values. If the low one is minus the high one, 0 is white and signs have two colours.
        outline: corners of the domain, (k, 2), to be drawn around it.
        marks: points to mark, (j, 2), such as sensors.
    Raises:
        UserError: shapes that do not belong together, values that are not finite.

    >>> from matplotlib.figure import Figure
    >>> corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> ax = Figure().add_subplot()
    >>> field(ax, corners, np.array([[0, 1, 2]]), np.array([0.0, 1.0, 2.0]), label="temperature, °C")
    >>> ax.get_aspect()
    1.0
    """
    from matplotlib.tri import Triangulation

    points, triangles, values = np.asarray(points), np.asarray(triangles), np.asarray(values)
    if points.shape != (len(values), 2) or values.ndim != 1 or triangles.shape[1:] != (3,):
        shapes = f"points {points.shape}, triangles {triangles.shape}, values {values.shape}"
        raise UserError("the shapes are not (n, 2), (m, 3) and (n,)", where=shapes)
    if not np.isfinite(values).all():
        raise UserError("values that are not finite cannot be drawn", where=plain(label))
    levels, colours, shown = _contours(values, limits)
    mesh = Triangulation(points[:, 0], points[:, 1], triangles)
    drawn = ax.tricontourf(mesh, shown, levels=levels, cmap=colours)
    if outline is not None:
        closed = np.concatenate([outline, outline[:1]])
        ax.plot(*closed.T, color=INK, linewidth=1.2, solid_joinstyle="round")
    if marks is not None:
        ax.plot(*marks.T, "o", color="white", markeredgecolor="black", markeredgewidth=1.2, markersize=6)
    _finish(ax, drawn, label)
    ax.set_aspect("equal")


def history(
    ax: "Axes",
    t: np.ndarray,
    x: np.ndarray,
    values: np.ndarray,
    *,
    label: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """A field over time (to the right) and one coordinate (upwards), as filled contours with their scale.

    Args:
        ax: where to draw.
        t: times, rising, (m,).
        x: places, rising, (n,).
        values: (m, n).
        label: the field's name and units.
        limits: ends of the scale, as `field` has them.
    Raises:
        UserError: shapes that do not belong together, values that are not finite.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> history(ax, np.array([0.0, 1.0]), np.array([0.0, 1.0, 2.0]), np.arange(6.0).reshape(2, 3), label="u")
    >>> ax.get_xlabel(), [float(end) for end in ax.get_xlim()]
    ('time', [0.0, 1.0])
    """
    t, x, values = np.asarray(t), np.asarray(x), np.asarray(values)
    if t.ndim != 1 or x.ndim != 1 or values.shape != (len(t), len(x)):
        raise UserError("the shapes are not (m,), (n,) and (m, n)", where=f"{t.shape}, {x.shape}, {values.shape}")
    if not np.isfinite(values).all():
        raise UserError("values that are not finite cannot be drawn", where=plain(label))
    levels, colours, shown = _contours(values, limits)
    _finish(ax, ax.contourf(t, x, shown.T, levels=levels, cmap=colours), label)
    ax.set_xlabel("time")


def _contours(values: np.ndarray, limits: tuple[float, float] | None) -> tuple[np.ndarray, str, np.ndarray]:
    """Levels, colours, and the values held within the levels."""
    low, high = limits or (float(values.min()), float(values.max()))
    if not low < high:  # a constant field
        low, high = low - 0.5, low + 0.5
    # 15 steps around 0, so that the middle one is white
    levels, colours = (
        (np.linspace(low, high, 16), "RdBu_r") if low == -high else (np.linspace(low, high, 15), "inferno")
    )
    inside = 1e-6 * (high - low)  # a plateau at the very end of the scale would be left bare
    return levels, colours, np.clip(values, low + inside, high - inside)


def _finish(ax: "Axes", drawn: Any, label: str) -> None:
    """Soft edges, a scale, and plain axes."""
    from matplotlib.ticker import MaxNLocator

    drawn.set_edgecolor("face")  # no hairlines of the page between two colours
    drawn.set_linewidth(0.3)
    bar = ax.figure.colorbar(drawn, ax=ax, label=plain(label, 48), ticks=MaxNLocator(5))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=MUTED)
    bar.ax.yaxis.label.set_color(INK)
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0, labelcolor=MUTED)
    ax.locator_params(nbins=4)

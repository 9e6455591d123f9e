"""Plane vector fields: streamlines and nullclines, the phase portrait of a dynamical system."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Limits = tuple[tuple[float, float], tuple[float, float]]


def portrait(
    ax: "Axes",
    field: Callable[[np.ndarray], np.ndarray],
    limits: Limits,
    *,
    names: tuple[str, str],
    points: int = 41,
    nullclines: bool = True,
    density: float = 1.0,
) -> None:
    """Streamlines of a plane field, and the nullclines on which one of its components vanishes; they meet at rest.

    Args:
        ax: where to draw.
        field: points (n, 2) to rates of change (n, 2).
        limits: of the first and of the second coordinate.
        names: of the two coordinates, with units.
        points: of the grid along each side on which the field is evaluated, at least 3.
        nullclines: whether they are drawn: in C0 where the first coordinate rests, in C1 where the second does.
        density: of streamlines; 1 is about 30 along each side.
    Raises:
        UserError: limits in the wrong order, too coarse a grid, a field of another shape or not finite on the grid.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> turn = lambda x: np.stack([-x[:, 1], x[:, 0]], axis=1)
    >>> portrait(ax, turn, ((-1.0, 1.0), (-1.0, 1.0)), names=("position", "velocity"))
    >>> ax.get_xlabel(), ax.get_xlim() == (-1.0, 1.0)
    ('position', True)
    """
    grid, rates = on_grid(field, limits, points)
    (x, y), (u, v) = grid, rates
    ax.streamplot(x[0], y[:, 0], u, v, color=MUTED, linewidth=0.6, density=density, arrowsize=0.7)
    handles = []
    if nullclines:
        for component, name, color in ((u, names[0], "C0"), (v, names[1], "C1")):
            if component.min() < 0 < component.max():
                ax.contour(x, y, component, levels=[0.0], colors=color, linewidths=1.8)
                handles += ax.plot([], [], color=color, linewidth=1.8, label=f"{name} rests")
    if handles:
        ax.legend(handles=handles, fontsize=7, loc="upper right")
    ax.set_xlim(*limits[0])
    ax.set_ylim(*limits[1])
    ax.set_xlabel(names[0])
    ax.set_ylabel(names[1])


def on_grid(
    field: Callable[[np.ndarray], np.ndarray], limits: Limits, points: int
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The grid's coordinates (points, points), rows along the second, and the field's two components on it.

    Raises:
        UserError: as `portrait`.

    >>> (x, y), (u, v) = on_grid(lambda x: 2 * x, ((0.0, 1.0), (0.0, 4.0)), 3)
    >>> u[0].tolist(), v[:, 0].tolist()
    ([0.0, 1.0, 2.0], [0.0, 4.0, 8.0])
    """
    for low, high in limits:
        if not (np.isfinite([low, high]).all() and low < high):
            raise UserError(f"limits from {low} to {high}", where="phase portrait", remedy="The lower one first.")
    if points < 3:
        raise UserError(f"a grid of {points} points a side", where="phase portrait", remedy="At least 3.")
    x, y = np.meshgrid(*(np.linspace(low, high, points) for low, high in limits))
    rates = np.asarray(field(np.column_stack([x.ravel(), y.ravel()])))
    if rates.shape != (x.size, 2):
        raise UserError(f"a field of shape {rates.shape} at {x.size} points", where="phase portrait", remedy="(n, 2).")
    bad = np.flatnonzero(~np.isfinite(rates).all(axis=1))
    if len(bad):
        place = x.ravel()[bad[0]], y.ravel()[bad[0]]
        raise UserError(f"the field is not finite at ({place[0]:.4g}, {place[1]:.4g})", where="phase portrait")
    return (x, y), (rates[:, 0].reshape(x.shape), rates[:, 1].reshape(x.shape))

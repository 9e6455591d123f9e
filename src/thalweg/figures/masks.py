"""Masks on the image that they were drawn for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from thalweg.errors import UserError
from thalweg.figures.style import SERIES, legend, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = 9
DARKEST = 0.05
BROAD, FINE = 2.4, 1.2


def outlines(ax: "Axes", image: np.ndarray, masks: Mapping[str, np.ndarray], *, spacing: int = 1) -> None:
    """A grey image as filled contours, darker where it is dimmer, and the edge of each mask in a colour of its own.

    Args:
        ax: where to draw.
        image: (h, w), in any unit; all above its 99.5 % quantile is white.
        masks: a name to a mask (h, w) of 0 and 1; the first is drawn in a broad line, under the others.
        spacing: of the grid of pixels at which the image is drawn, its edges left as they are: 2 draws every other one.
    Raises:
        UserError: an image that is none, a mask of another shape.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> outlines(ax, np.eye(4), {"truth": np.eye(4) > 0})
    >>> [float(end) for end in ax.get_ylim()]  # the first row on top
    [3.5, -0.5]
    """
    image = np.asarray(image, np.float64)
    if image.ndim != 2 or min(image.shape) < 2:
        raise UserError(f"an image of shape {image.shape}", where="figures.masks.outlines", remedy="It is (h, w).")
    for name, mask in masks.items():
        if np.shape(mask) != image.shape:
            where = f"mask {plain(name)!r}"
            raise UserError(f"a mask of shape {np.shape(mask)} on an image of {image.shape}", where=where)
    height, width = image.shape
    low, high = float(image.min()), float(np.quantile(image, 0.995))
    shown = (
        np.clip((image - low) / max(high - low, 1e-30), 0, 1)[::spacing, ::spacing] ** 0.6
    )  # dim nuclei are seen too
    levels = np.linspace(0, 1 + 1e-9, LEVELS + 1)
    greys = [str(grey) for grey in np.linspace(DARKEST, 0.98, LEVELS).round(3)]
    drawn = ax.contourf(np.arange(0, width, spacing), np.arange(0, height, spacing), shown, levels=levels, colors=greys)
    drawn.set_edgecolor("face")  # no hairlines of the page between two greys
    drawn.set_linewidth(0.3)
    for i, (name, mask) in enumerate(masks.items()):
        colour = SERIES[(1, 0, 2, 3)[i % 4]]
        wide = np.pad(np.asarray(mask, np.float64), 1)  # an outline closes at the border of the image
        at = [np.arange(-1, size + 1) for size in (width, height)]
        ax.contour(*at, wide, levels=[0.5], colors=[colour], linewidths=BROAD if i == 0 else FINE)
        ax.plot([], [], color=colour, linewidth=BROAD if i == 0 else FINE, label=plain(name))
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_aspect("equal")
    ax.set_axis_off()
    legend(ax)

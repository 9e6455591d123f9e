"""The loss surface around the weights that were kept: contours, and a view that turns."""

import json
from dataclasses import dataclass
from functools import partial

import numpy as np

from thalweg.figures import surface
from thalweg.report.drawing import Drawing, drawing
from thalweg.report.formats import Slice, SliceFile
from thalweg.report.words import figure


@dataclass(frozen=True)
class Landscape:
    """The section on the loss surface.

    Attributes:
        skipped: why there is no slice; empty where there is one.
        drawing: the contours; None where there is no slice.
        data: what the script turns, as JSON.
        alt: what the turning view shows.
    """

    skipped: str
    drawing: Drawing | None = None
    data: str = ""
    alt: str = ""


def landscape(file: SliceFile) -> Landscape | None:
    """What a run's slice shows; None if its file says nothing."""
    if file.slice is None:
        return Landscape(file.skipped) if file.skipped else None
    found = file.slice
    offsets, costs = np.array(found.offsets), np.array(found.costs)
    start_cost = surface.cost_at_start(offsets, costs, found.start)
    scale = surface.scale_of(costs, start_cost)
    middle, low = float(np.interp(0.0, offsets, costs[:, len(offsets) // 2])), float(np.nanmin(costs))
    began = "" if start_cost is None else f" {figure(start_cost)} at the start,"
    cut = f" Above {figure(scale.high)} the surface is cut off." if scale.is_cut else ""
    logarithmic = " Heights follow the logarithm of the cost." if scale.is_log else ""
    told = f"{found.what}:{began} {figure(middle)} at the weights kept, {figure(low)} the lowest shown"
    alt = f"Contours of a slice of the loss surface. {told}."
    caption = (
        f"{told[0].upper()}{told[1:]}. To the right {found.axes[0]} (1 is the whole way), upwards {found.axes[1]}. "
        f"A valley here may be open in other directions.{cut}{logarithmic}"
    )
    contours = partial(surface.contours, offsets=offsets, costs=costs, axes=found.axes, start=found.start)
    size = (5.0, 4.2)
    drawn = drawing(contours, name="slice", title="From above", alt=alt, caption=caption, size=size)
    return Landscape("", drawn, _data(found, scale), f"The same slice as a surface, which turns. {told}.")


def _data(found: Slice, scale: surface.Scale) -> str:
    offsets = np.array(found.offsets)
    heights = scale.heights(np.array(found.costs))
    start = None if found.start is None else float(np.interp(found.start, offsets, np.arange(len(offsets))))
    values = {
        "heights": [
            [None if np.isnan(one) else round(min(one, surface.MOST_HEIGHT), 3) for one in row]
            for row in heights.tolist()
        ],
        "low": figure(scale.low, 3),
        "high": figure(scale.high, 3),
        "start": start,
        "middle": float(np.interp(0.0, offsets, np.arange(len(offsets)))),
    }
    return json.dumps(values, separators=(",", ":"))

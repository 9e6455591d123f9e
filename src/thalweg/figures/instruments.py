"""What was measured along a walk: the rate, gradient norms by layer, sharpness, the signal within the gradient."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thalweg.figures.style import DASHES, INK, MUTED, SERIES, dress, legend, logarithmic, plain, power_of_ten
from thalweg.figures.training import Curve, Rows, by_member, draw_curve, finite, phase_ends, step_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES = len(SERIES)
"""Lines that can be told apart in one figure; more layers become a map."""

MOST_COLUMNS = 80
"""Looks that a map of layers shows, evenly chosen."""

SHADES = 8
"""Steps of the scale of a map, at most."""


def measured(rows: Rows, instrument: str, kind: str = "") -> list[str]:
    """Names of an instrument's figures of one kind, in the order of the first row that has them.

    >>> looks = [{}, {"instruments": {"PartGradients": {"norm/law": 1.0, "cosine/law": 0.5}}}]
    >>> measured(looks, "PartGradients", "norm/")
    ['norm/law']
    """
    found = (row.get("instruments", {}).get(instrument, {}) for row in rows)
    return list(dict.fromkeys(name for figures in found for name in figures if name.startswith(kind)))


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths without the parts that all begin with; a bare number keeps the name before it.

    >>> short_names(["network/linear", "network/deep/layers/0"]), short_names(["net/layers/0", "net/layers/2"])
    (['linear', 'deep/layers/0'], ['layers/0', 'layers/2'])
    """
    parts = [path.split("/") for path in paths]
    shared = 0
    while len(paths) > 1 and all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    if shared and all(one[shared].isdigit() for one in parts):
        shared -= 1
    return ["/".join(one[shared:]) for one in parts]


def learning_rate(ax: "Axes", rows: Rows) -> None:
    """The rate of the first-order phases against the step; the other phases have none, and stay empty.

    Args:
        ax: where to draw.
        rows: of one fit, as `metrics.jsonl` holds them.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> learning_rate(ax, [{"phase": 0, "run_step": i, "figures": {"rate": 0.1 / i}} for i in (1, 2, 3)])
    >>> ax.get_ylabel()
    'learning rate'
    """
    steps, rates = _furthest(by_member(rows, "run_step"), finite(by_member(rows, "figures", "rate")))
    dress(ax)
    ax.plot(steps, rates, color=SERIES[0], linewidth=1.8)
    # a cosine that ends near 0 is read on a linear axis, a rate that falls by powers of ten is not
    known = rates[np.isfinite(rates)]
    if len(known) and 0 < np.median(known) < known.max() / 10:
        _logarithmic(ax, known)
    ax.set_ylabel("learning rate")
    step_axis(ax, rows)


def gradient_norms(ax: "Axes", rows: Rows) -> None:
    """Norm of the gradient by layer against the step: a line a layer, or a map where there are too many.

    Values are medians over the members. The scale is logarithmic.

    Args:
        ax: where to draw.
        rows: of one fit that `GradientNorms` looked at.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> looks = [{"instruments": {"GradientNorms": {"gradient/layers/0": 1 / i, "gradient/layers/1": 2 / i}}}
    ...          for i in (1, 2, 3)]
    >>> gradient_norms(ax, [{"phase": 0, "run_step": i + 1} | look for i, look in enumerate(looks)])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['layers/0', 'layers/1']
    """
    names = measured(rows, "GradientNorms", "gradient/")
    labels = short_names([name.removeprefix("gradient/") for name in names])
    if len(names) > MOST_LINES:
        _map(ax, rows, names, labels)
    else:
        _lines(ax, rows, "GradientNorms", names, labels)
        ax.set_ylabel("gradient norm")


def part_norms(ax: "Axes", rows: Rows) -> None:
    """Norm of each term's weighted gradient against the step, on a logarithmic scale.

    Args:
        ax: where to draw.
        rows: of one fit that `PartGradients` looked at.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> part_norms(ax, [{"phase": 0, "run_step": 5, "instruments": {"PartGradients": {"norm/law": 1.0}}}])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['law']
    """
    names = measured(rows, "PartGradients", "norm/")
    _lines(ax, rows, "PartGradients", names, [name.removeprefix("norm/") for name in names])
    ax.set_ylabel("gradient norm")


def sharpness(ax: "Axes", rows: Rows) -> None:
    """The largest rate at which gradient descent is stable, 2/λ_max, and the rate that was used.

    Args:
        ax: where to draw.
        rows: of one fit that `Sharpness` looked at; nothing is drawn where no direction curved upwards.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> sharpness(ax, [{"phase": 0, "run_step": 5, "figures": {"rate": 0.1},
    ...                 "instruments": {"Sharpness": {"stable_rate": 0.4}}}])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['largest stable rate 2/λ', 'rate used']
    """
    steps = by_member(rows, "run_step")
    stable, used = (finite(by_member(rows, *path)) for path in (("instruments", "Sharpness", "stable_rate"),
                                                                ("figures", "rate")))  # fmt: skip
    dress(ax)
    draw_curve(ax, steps, Curve("largest stable rate 2/λ", stable, SERIES[0], DASHES[0], each=True))
    if np.isfinite(used).any():
        x, y = _furthest(steps, used)
        ax.plot(x, y, color=INK, linestyle=DASHES[1], linewidth=1.8, label="rate used")
    both = np.concatenate([stable.ravel(), used[used > 1e-3 * np.nanmax(used, initial=0)]])  # not the tail of a cosine
    _logarithmic(ax, both, only=True)
    ax.set_ylabel("rate")
    step_axis(ax, rows)
    legend(ax)


def signal_to_noise(ax: "Axes", rows: Rows) -> None:
    """Signal over noise in the batch's gradient against the step, with a line at 1.

    Args:
        ax: where to draw.
        rows: of one fit that `NoiseRatio` looked at.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> signal_to_noise(ax, [{"phase": 0, "run_step": 5, "instruments": {"NoiseRatio": {"ratio": 3.0}}}])
    >>> ax.get_ylabel()
    'signal / noise'
    """
    ratio = finite(by_member(rows, "instruments", "NoiseRatio", "ratio"))
    dress(ax)
    draw_curve(ax, by_member(rows, "run_step"), Curve("signal / noise", ratio, SERIES[0], DASHES[0], each=True))
    ax.axhline(1.0, color=MUTED, linestyle=DASHES[1], linewidth=1.2, label="as much noise as signal")
    if (ratio[np.isfinite(ratio)] > 0).all():  # an unbiased estimate of a signal may be below 0
        _logarithmic(ax, np.append(ratio.ravel(), 1.0))
    ax.set_ylabel("signal / noise")
    step_axis(ax, rows)
    legend(ax)


# ------------------------------------------------------------------------------------------------------ lines and maps
def _furthest(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the member that has come furthest at each row: all share one schedule."""
    steps, values = np.broadcast_arrays(steps, values)
    places = np.arange(len(steps)), steps.argmax(axis=1)
    return steps[places], values[places]


def _lines(ax: "Axes", rows: Rows, instrument: str, names: Sequence[str], labels: Sequence[str]) -> None:
    steps, all_values = by_member(rows, "run_step"), []
    dress(ax)
    for i, (name, label) in enumerate(zip(names, labels, strict=True)):
        values = by_member(rows, "instruments", instrument, name)
        text = f" {plain(label)}" if label.startswith("_") else plain(label)  # matplotlib leaves out "_..."
        draw_curve(ax, steps, Curve(text, values, SERIES[i % len(SERIES)], DASHES[i % len(DASHES)]))
        all_values.append(values.ravel())
    _logarithmic(ax, np.concatenate(all_values or [np.empty(0)]))  # a norm of 0 is left out
    step_axis(ax, rows)
    legend(ax)


def _logarithmic(ax: "Axes", values: np.ndarray, *, only: bool = False) -> None:
    """A logarithmic axis, if any value is positive; `only`: that ends a little beyond these values."""
    positive = values[np.isfinite(values) & (values > 0)]
    if len(positive):
        ax.set_yscale("log")
        if only:
            ax.set_ylim(positive.min() / 1.5, positive.max() * 1.5)
        logarithmic(ax.yaxis)


def _map(ax: "Axes", rows: Rows, names: Sequence[str], labels: Sequence[str]) -> None:
    """Layers from the input's (top) down, looks from left to right; the darker the larger."""
    norms = np.stack([_median(finite(by_member(rows, "instruments", "GradientNorms", name))) for name in names])
    steps = by_member(rows, "run_step").max(axis=1)
    looked = np.flatnonzero(np.isfinite(norms).any(axis=0))
    if len(looked) > MOST_COLUMNS:
        looked = looked[np.linspace(0, len(looked) - 1, MOST_COLUMNS).round().astype(int)]
    norms, ends = norms[:, looked], steps[looked]
    edges = np.concatenate([[0.0], (ends[1:] + ends[:-1]) / 2, ends[-1:]])

    with np.errstate(divide="ignore"):
        sizes = np.log10(norms)
    bounds = _bounds(sizes[np.isfinite(sizes)])
    last = len(bounds) - 2
    shades = np.clip(np.searchsorted(bounds, sizes, side="right") - 1, 0, last)
    shades = np.where(np.isfinite(norms), shades, -1)  # a norm of 0 has the palest shade, one that is missing none
    dress(ax)
    ax.grid(visible=False)
    for shade in range(last + 1):
        label = f"≥ {_short(bounds[shade])}" if shade else f"< {_short(bounds[1])}"
        _cells(ax, edges, shades == shade, opacity=0.06 + 0.84 * shade / max(last, 1), label=label)
    for end in list(phase_ends(rows).values())[:-1]:
        ax.axvline(end, color=INK, linewidth=0.8)
    ax.set_xlim(0, max(float(steps.max()), 1.0))
    ax.set_xlabel("step")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.locator_params(axis="x", nbins=4, integer=True)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_yticks(range(len(names)), [plain(label) for label in labels], fontsize="small")
    ax.legend(  # three columns: how much room long names leave is not known before the figure is laid out
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, labelcolor=INK, handlelength=1.2,
        handletextpad=0.5, columnspacing=1.0, borderaxespad=0.2,
    )  # fmt: skip


def _bounds(exponents: np.ndarray) -> np.ndarray:
    """Ends of the shades, as powers of ten: whole ones if they span more than two."""
    low, high = (float(exponents.min()), float(exponents.max())) if len(exponents) else (0.0, 1.0)
    if high - low <= 2:
        return np.linspace(low, max(high, low + 1e-3), SHADES + 1)
    low, high = np.floor(low), np.ceil(high)
    step = np.ceil((high - low) / SHADES)
    return np.arange(low, high + step, step)


def _median(values: np.ndarray) -> np.ndarray:
    """Over the members; NaN where none has a value, without a word."""
    seen = np.isfinite(values).any(axis=1)
    found = np.full(len(values), np.nan)
    found[seen] = np.nanmedian(values[seen], axis=1)
    return found


def _short(exponent: float) -> str:
    """10**exponent with two digits."""
    return power_of_ten(float(f"{10.0**exponent:.1e}"))


def _cells(ax: "Axes", edges: np.ndarray, chosen: np.ndarray, *, opacity: float, label: str) -> None:
    """Every chosen cell, shape (rows, columns), as one path: neighbours in a row are one rectangle."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners, codes = [], []
    for row, cells in enumerate(chosen):
        turns = np.flatnonzero(np.diff(np.concatenate([[0], cells.astype(int), [0]])))
        for begin, end in zip(turns[::2], turns[1::2], strict=True):
            left, right = edges[begin], edges[end]
            corners += [(left, row - 0.5), (right, row - 0.5), (right, row + 0.5), (left, row + 0.5), (left, row - 0.5)]
            codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    path = Path(np.array(corners).reshape(-1, 2), codes)
    ax.add_patch(PathPatch(path, facecolor=SERIES[0], alpha=opacity, linewidth=0, label=label))

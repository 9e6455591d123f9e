"""What all figures share: colours told apart also without colour vision, plain axes, texts drawn as they stand."""

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK = "#1b2430"
MUTED = "#566271"
GRID = "#e2e7ed"
SHADE = "#eef1f5"
SERIES = ("#1d63b8", "#b8480c", "#0d7a66", "#8337b0", "#8a6100", "#b3205f")
"""Told apart by people without red or green vision too, and at least 4.5 : 1 against white."""

COLOURS = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "shade": SHADE,
    **{f"series-{i}": colour for i, colour in enumerate(SERIES, 1)},
}
"""Every colour that a figure here uses, by name, so that a page can put its own in their place."""

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (7, 2, 1.5, 2)))


def dress(ax: "Axes") -> None:
    """Two quiet spines, a light grid behind the data, no ticks.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> dress(ax)
    >>> ax.spines["top"].get_visible()
    False
    """
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set(color=MUTED, linewidth=0.8)
    ax.tick_params(which="both", length=0, labelcolor=MUTED, pad=5)
    ax.grid(which="major", color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.xaxis.label.set_color(INK)
    ax.yaxis.label.set_color(INK)


def legend(ax: "Axes") -> None:
    """A legend above the axes, where it hides nothing, in as many columns as fit; none if nothing is labelled."""
    import matplotlib
    from matplotlib.font_manager import FontProperties

    labels = ax.get_legend_handles_labels()[1]
    if not labels:
        return
    em = FontProperties(size=matplotlib.rcParams["legend.fontsize"]).get_size_in_points()
    room = 1.08 * 72 / ax.figure.dpi * ax.get_window_extent().width / em
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=_columns([len(label) for label in labels], room),
        frameon=False, labelcolor=INK, handlelength=1.5, handletextpad=0.5, columnspacing=1.2, borderaxespad=0.2,
    )  # fmt: skip


def _columns(lengths: list[int], room: float) -> int:
    """The most columns, filled downwards, whose entries fit into `room`, in units of the font's size."""
    for columns in range(len(lengths), 1, -1):
        # matplotlib gives the first columns one entry more where they do not come out even
        widest = [int(max(column)) for column in np.array_split(lengths, columns)]
        if sum(3.2 + 0.56 * length for length in widest) <= room:  # line, gaps and text
            return columns
    return 1


def plain(text: object, most: int = 24) -> str:
    """A name from a user's file as matplotlib must be given it, so that it is drawn as it stands.

    Args:
        text: any text; line ends and control characters become spaces.
        most: characters kept; a longer name ends in "…".
    Returns:
        the text with its dollar signs escaped: what stands between two is no formula here.

    >>> plain("price in $ or\\n€ per $m^2$")
    'price in \\\\$ or € per \\\\$m^...'
    """
    seen = "".join(one if one.isprintable() else " " for one in str(text))
    seen = " ".join(seen.split())
    return (seen if len(seen) <= most else seen[: most - 1] + "…").replace("$", r"\$")


def thinned(n: int, most: int) -> np.ndarray:
    """Positions of at most `most` of `n` rows, ascending, drawn at random but always the same.

    >>> len(thinned(10, 20)), len(thinned(1000, 20))
    (10, 20)
    """
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def logarithmic(axis: "Axis") -> None:
    """Powers of ten on a logarithmic axis, written in plain characters.

    Over less than two powers of ten 2 and 5 are named too; over less than one, round numbers as on any axis.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else math.inf
    subs = (1.0,) if decades > 2 else (1.0, 2.0, 5.0)
    axis.set_major_locator(MaxNLocator(5) if decades < 1 else LogLocator(subs=subs, numticks=7))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def power_of_ten(value: float) -> str:
    """A tick's label: plain digits near 1, else a power of ten with a raised exponent.

    >>> [power_of_ten(value) for value in (0.01, 1, 500, 1e-5, 2e7, -1e6, 0)]
    ['0.01', '1', '500', '10⁻⁵', '2·10⁷', '−10⁶', '0']
    """
    if value == 0:
        return "0"
    sign, size = "−" if value < 0 else "", abs(value)
    exponent = math.floor(math.log10(size) + 1e-9)
    if -3 <= exponent <= 3:
        return f"{sign}{size:g}"
    factor = round(size / 10.0**exponent, 2)
    raised = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{sign}10{raised}" if factor == 1 else f"{sign}{factor:g}·10{raised}"

"""How training went: the rows of `metrics.jsonl` against the step."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from thalweg.figures.style import DASHES, GRID, INK, MUTED, SERIES, SHADE, dress, legend, logarithmic, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]

MOST_POINTS = 6_000
"""Points of the thin lines of a curve together: many members over many rows would make a heavy drawing."""

MOST_ROWS = 600
"""Points of a bold line."""


def by_member(rows: Rows, *path: str) -> np.ndarray:
    """One figure of every row, shape (rows, members), float64; NaN where a row has none.

    Args:
        rows: of one fit; a figure is a number, or a list of them by member.
        path: where in a row it stands.

    >>> by_member([{"total": [2.0, 3.0], "validation": {"total": [4.0, 5.0]}}, {"total": [1.0, 2.0]}],
    ...           "validation", "total")
    array([[ 4.,  5.],
           [nan, nan]])
    """
    found: list[Any] = []
    for row in rows:
        value: Any = row
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        found.append(value)
    members = max((np.size(value) for value in found if value is not None), default=1)
    nothing = np.full(members, np.nan)
    return np.array([nothing if value is None else np.broadcast_to(value, members) for value in found], float)


def phase_ends(rows: Rows) -> dict[int, float]:
    """The step of the run at which each phase ended, by the phase's index.

    >>> phase_ends([{"phase": 0, "run_step": 50}, {"phase": 0, "run_step": 100}, {"phase": 1, "run_step": 150}])
    {0: 100.0, 1: 150.0}
    """
    steps = by_member(rows, "run_step").max(axis=1)
    return {row["phase"]: float(step) for row, step in zip(rows, steps, strict=True)}


def best_rows(rows: Rows) -> list[int | None]:
    """By member, the row of the lowest validation score; None where there was none.

    >>> best_rows([{"validation": {"total": 2.0}}, {"validation": {"total": 1.0}}, {"validation": {"total": 3.0}}])
    [1]
    """
    scores = finite(by_member(rows, "validation", "total"))
    return [int(np.nanargmin(score)) if np.isfinite(score).any() else None for score in scores.T]


FEW_ROWS = 10
"""Points of a line that are marked, so that one sees how few they are."""


class Curve(NamedTuple):
    """One figure of all rows and its looks.

    Attributes:
        label: for the legend; a name that begins with "_" is left out by matplotlib.
        values: shape (rows, members); what is not finite leaves a gap.
        colour, dashes: of the line.
        each: with a thin line for each member, beside the median.
    """

    label: str
    values: np.ndarray
    colour: str
    dashes: Any
    each: bool = False


def losses(ax: "Axes", rows: Rows) -> None:
    """The objective, its parts and the validation score against the step.

    The scale is logarithmic where all values are positive. Phases are shaded, the best validation score of each member
    is marked, and so is the step at which the objective stopped being finite. Bold lines are medians over the members;
    thin ones, each a member, are drawn for the objective and the validation score.

    Args:
        ax: where to draw.
        rows: of one fit, as `Fit.rows` and `metrics.jsonl` hold them.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> losses(ax, [{"phase": 0, "run_step": step, "total": 1 / step, "parts": {"data": 1 / step}}
    ...             for step in range(10, 100, 10)])
    >>> ax.get_yscale(), [text.get_text() for text in ax.get_legend().get_texts()]
    ('log', ['training'])
    """
    steps = by_member(rows, "run_step")
    names = list(dict.fromkeys(name for row in rows for name in row.get("parts", {})))
    whole = Curve("total" if len(names) > 1 else "training", by_member(rows, "total"), INK, DASHES[0], each=True)
    curves = [whole]
    for i, name in enumerate(names if len(names) > 1 else []):
        turn, place = divmod(i, len(SERIES) - 1)  # the first colour is the validation score's
        label = f" {plain(name)}" if name.startswith("_") else plain(name)  # matplotlib leaves out "_..."
        curves.append(Curve(label, by_member(rows, "parts", name), SERIES[place + 1], DASHES[turn % len(DASHES)]))
    validation = Curve("validation", by_member(rows, "validation", "total"), SERIES[0], DASHES[1], each=True)
    curves.append(validation)

    dress(ax)
    for curve in curves:
        draw_curve(ax, steps, curve)
    _mark_best(ax, rows, steps, validation.values)
    _mark_failure(ax, steps, by_member(rows, "total"))
    _scale(ax, whole.values, [curve.values for curve in curves])
    step_axis(ax, rows)
    legend(ax)


def step_axis(ax: "Axes", rows: Rows) -> None:
    """Steps of the run along x, from 0, with the phases. To be called when all else has been drawn and scaled.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> step_axis(ax, [{"phase": 0, "run_step": 50}])
    >>> ax.get_xlabel(), float(ax.get_xlim()[1])
    ('step', 50.0)
    """
    ax.set_xlim(0, max(float(np.nanmax(by_member(rows, "run_step"))), 1.0))
    shade_phases(ax, rows)
    ax.set_xlabel("step")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.locator_params(axis="x", nbins=5, integer=True)


def finite(values: np.ndarray) -> np.ndarray:
    """NaN in place of all that is not finite, so that it leaves a gap.

    >>> finite(np.array([1.0, np.inf]))
    array([ 1., nan])
    """
    return np.where(np.isfinite(values), values, np.nan)


def draw_curve(ax: "Axes", steps: np.ndarray, curve: Curve) -> None:
    """A curve's median over the members against the step, and its members, thin, where it asks for them.

    Args:
        ax: where to draw.
        steps: of the run at each row, shape (rows, members).
        curve: what to draw; rows that have nothing of it are passed over.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> draw_curve(ax, np.array([[1.0], [2.0]]), Curve("rate", np.array([[0.1], [0.2]]), INK, "-"))
    >>> ax.lines[0].get_ydata()
    array([0.1, 0.2])
    """
    values = finite(curve.values)
    seen = np.isfinite(values).any(axis=1)  # validation may be rarer than the rows
    if not seen.any():
        return
    steps, values = steps[seen], values[seen]
    members = values.shape[1]
    if members > 1 and curve.each:
        rows = _spaced(len(values), max(MOST_POINTS // members, 20))
        for i in range(members):
            x, y = steps[rows, min(i, steps.shape[1] - 1)], values[rows, i]
            ax.plot(x, y, color=curve.colour, linewidth=0.6, alpha=0.45)
    rows = _spaced(len(values), MOST_ROWS)
    ax.plot(
        steps[rows].max(axis=1), np.nanmedian(values[rows], axis=1), color=curve.colour, linestyle=curve.dashes,
        linewidth=1.8, label=curve.label, marker="o" if len(values) <= FEW_ROWS else None, markersize=4,
    )  # fmt: skip


def _spaced(n: int, most: int) -> np.ndarray:
    """At most `most` of n positions, evenly, the first and the last among them."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).round().astype(int)


def _mark_best(ax: "Axes", rows: Rows, steps: np.ndarray, validation: np.ndarray) -> None:
    places = [(i, row) for i, row in enumerate(best_rows(rows)) if row is not None]
    if places:
        x = [steps[row, min(i, steps.shape[1] - 1)] for i, row in places]
        y = [validation[row, i] for i, row in places]
        ax.plot(
            x, y, "o", color=SERIES[0], markersize=7 if len(places) == 1 else 4.5, markerfacecolor="none",
            markeredgewidth=1.4, label="best" if len(places) == 1 else "best of each", zorder=4,
        )  # fmt: skip


def _mark_failure(ax: "Axes", steps: np.ndarray, totals: np.ndarray) -> None:
    bad = ~np.isfinite(totals)
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        ax.axvline(steps[row].max(), color=SERIES[1], linewidth=1.4, label="not finite")


def _scale(ax: "Axes", totals: np.ndarray, values: list[np.ndarray]) -> None:
    """A logarithmic axis where it can be; one that is linear near zero where values of both signs differ much."""
    sizes = np.concatenate([one[np.isfinite(one)].ravel() for one in values])
    ax.set_ylabel("loss")
    if not len(sizes):
        return
    if (sizes > 0).all():
        ax.set_yscale("log")
        logarithmic(ax.yaxis)
        return
    typical = np.nanmedian(np.abs(totals)) if np.isfinite(totals).any() else np.median(np.abs(sizes))
    near = 10.0 ** np.ceil(np.log10(max(float(typical), 1e-12)))
    if np.abs(sizes).max() > 20 * near:
        from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

        from thalweg.figures.style import power_of_ten

        ax.set_yscale("symlog", linthresh=near, linscale=1.0)
        ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=near))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
        lowest = float(sizes.min())
        ax.set_ylim(lowest - 0.1 * near if lowest > -near else 1.3 * lowest, None)
        ax.set_ylabel(f"loss (linear up to {power_of_ten(near)})")


def shade_phases(ax: "Axes", rows: Rows) -> None:
    """Every second phase on a darker ground, with its number on top; nothing where there is one phase only.

    Args:
        ax: where the curves have been drawn already, with the limits that they are to keep.
        rows: of one fit.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> shade_phases(ax, [{"phase": 0, "run_step": 50}, {"phase": 1, "run_step": 100}])
    >>> [text.get_text() for text in ax.texts]
    ['phase 1', 'phase 2']
    """
    ends = phase_ends(rows)
    if len(ends) < 2:
        return
    _add_room_on_top(ax)
    begin = 0.0
    for phase, end in ends.items():
        if phase % 2:
            ax.axvspan(begin, end, color=SHADE, linewidth=0, zorder=0)
        ax.axvline(end, color=GRID, linewidth=0.8, zorder=0.5)
        share = (end - begin) / max(ends.values())
        text = f"phase {phase + 1}" if share > 0.17 else f"{phase + 1}" if share > 0.03 else ""
        ax.text(
            (begin + end) / 2, 0.985, text, transform=ax.get_xaxis_transform(), ha="center", va="top", color=MUTED,
            fontsize="small",
        )  # fmt: skip
        begin = end


def _add_room_on_top(ax: "Axes") -> None:
    """For the phases' names, above the curves."""
    transform = ax.yaxis.get_transform()
    bottom, top = transform.transform(np.array(ax.get_ylim()))
    ax.set_ylim(top=float(transform.inverted().transform(np.array([top + 0.1 * (top - bottom)]))[0]))

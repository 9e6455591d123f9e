"""How training went: losses, rate, and what the instruments saw."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from thalweg.figures import instruments, training
from thalweg.report.drawing import SIZE, Drawing, drawing
from thalweg.report.formats import Record
from thalweg.report.words import count, figure, joined


@dataclass(frozen=True)
class Course:
    """How one fit of the run went.

    Attributes:
        name: empty if the run has one fit only.
        facts: by name.
        drawing: of the losses.
        measured: of the rate, and of what instruments saw; as many as the rows have.
    """

    name: str
    facts: list[tuple[str, str]]
    drawing: Drawing
    measured: list[Drawing]


@dataclass(frozen=True)
class Training:
    """How training went: the fits, and what the loop decided."""

    courses: list[Course]
    decisions: list[str]
    more_decisions: int


MOST_DECISIONS = 20

MOST_MEASURED = 6
"""Fits whose rate and instruments are drawn; of a run with more, the first ones, so that the page stays light."""


def trained(record: Record) -> Training:
    """The course of every fit of the run."""
    names = list(dict.fromkeys(row["fit"] for row in record.rows))
    courses = [
        _course(name if len(names) > 1 else "", i, [row for row in record.rows if row["fit"] == name])
        for i, name in enumerate(names)
    ]
    told = [f"{_place(row)}: {row.get('what', 'a decision')}" for row in record.decisions]
    return Training(courses, told[:MOST_DECISIONS], max(len(told) - MOST_DECISIONS, 0))


def _median(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    return figure(float(np.median(finite))) if len(finite) else "not finite"


def _place(row: dict[str, Any]) -> str:
    phase = f" of phase {row['phase'] + 1}" if isinstance(row.get("phase"), int) else ""
    return f"step {row['step']:,}{phase}"


def _course(name: str, number: int, rows: training.Rows) -> Course:
    totals = training.by_member(rows, "total")
    validation = training.by_member(rows, "validation", "total")
    steps = training.by_member(rows, "run_step")
    members, ends = totals.shape[1], training.phase_ends(rows)
    facts = [("members", f"{members}; figures are medians over them")] if members > 1 else []
    facts.append(("steps", f"{int(steps.max()):,}" + (f" in {count(len(ends), 'phase')}" if len(ends) > 1 else "")))
    if len(ends) > 1:
        begins = [0.0, *list(ends.values())[:-1]]
        parts = [f"{phase + 1}: {int(end - begin):,}" for begin, (phase, end) in zip(begins, ends.items(), strict=True)]
        facts.append(("steps by phase", ", ".join(parts)))
    facts.append(("objective", f"{_median(totals[0])} → {_median(totals[-1])}"))
    if bad := int((~np.isfinite(totals[-1])).sum()) if members > 1 else 0:
        facts.append(("no longer finite", count(bad, "member")))
    best = [(i, row) for i, row in enumerate(training.best_rows(rows)) if row is not None]
    if best:
        scores = np.array([validation[row, i] for i, row in best])
        at = sorted(int(steps[row, min(i, steps.shape[1] - 1)]) for i, row in best)
        where = f"step {at[0]:,}" if at[0] == at[-1] else f"steps {at[0]:,} to {at[-1]:,}"
        facts.append(("best validation", f"{_median(scores)} at {where}"))
    if (rate := _seen(rows, "figures", "rate")) is not None and np.nanmin(rate) == np.nanmax(rate):
        facts.append(("learning rate", figure(float(np.nanmax(rate)))))
    names = list(dict.fromkeys(part for row in rows for part in row.get("parts", {})))
    if len(names) > 1:
        for part in names:
            values = training.by_member(rows, "parts", part)
            facts.append((part, f"{_median(values[0])} → {_median(values[-1])}"))
    kept = " The circle marks the best validation score, whose weights are kept." if best else ""
    several = " Thin lines are members, bold ones their median." if members > 1 else ""
    weighted = " Parts are drawn before weighting." if len(names) > 1 else ""
    shown = joined([*(["total"] if len(names) > 1 else ["training"]), *(names if len(names) > 1 else []),
                    *(["validation"] if best else [])])  # fmt: skip
    return Course(
        name,
        facts,
        drawing(
            partial(training.losses, rows=rows),
            name=f"losses-{number}",
            title="Loss against step",
            alt=f"Curves of {shown} over {int(steps.max()):,} steps; objective {_median(totals[0])} at the first row, "
            f"{_median(totals[-1])} at the last.",
            caption=f"Each point is a mean since the row before.{kept}{several}{weighted}",
            size=(5.0, 3.5 + 0.12 * max(len(names) - 3, 0)),  # room for the legend
        ),
        _measured(rows, number) if number < MOST_MEASURED else [],
    )


def _ends(values: np.ndarray, looked: str = "look") -> str:
    """A figure's median over the members where it was first and last seen."""
    seen = values[np.isfinite(values).any(axis=1)]
    return f"{_median(seen[0])} at the first {looked}, {_median(seen[-1])} at the last"


def _seen(rows: training.Rows, *path: str) -> np.ndarray | None:
    """A figure of the rows, shape (rows, members); None if no row has a finite one."""
    values = training.by_member(rows, *path)
    return values if np.isfinite(values).any() else None


def _measured(rows: training.Rows, number: int) -> list[Drawing]:
    steps = f"over {int(training.by_member(rows, 'run_step').max()):,} steps"
    found = [_rate(rows, number, steps), _layers(rows, number, steps), _parts(rows, number, steps),
             _sharpness(rows, number, steps), _noise(rows, number, steps)]  # fmt: skip
    return [one for one in found if one is not None]


def _rate(rows: training.Rows, number: int, steps: str) -> Drawing | None:
    rate = _seen(rows, "figures", "rate")
    if rate is None or np.nanmin(rate) == np.nanmax(rate):  # one rate is a fact, and no figure
        return None
    ended = len(training.phase_ends(rows)) > 1 and not np.isfinite(rate).any(axis=1).all()
    return drawing(
        partial(instruments.learning_rate, rows=rows),
        name=f"rate-{number}",
        title="Learning rate",
        alt=f"Learning rate {steps}: {_ends(rate, 'row')}; the largest is {figure(float(np.nanmax(rate)))}.",
        caption="What the optimizer used at each row." + (" Phases without a rate are empty." if ended else ""),
    )


def _layers(rows: training.Rows, number: int, steps: str) -> Drawing | None:
    names = [one for one in instruments.measured(rows, "GradientNorms", "gradient/")
             if _seen(rows, "instruments", "GradientNorms", one) is not None]  # fmt: skip
    if not names:
        return None
    last = {one: _last(rows, "GradientNorms", one) for one in names}
    largest, smallest = max(names, key=last.__getitem__), min(names, key=last.__getitem__)
    told = "; ".join(f"{what} {name.removeprefix('gradient/')} with {figure(last[name], 3)}" for what, name in
                     (("largest", largest), ("smallest", smallest)))  # fmt: skip
    is_map = len(names) > instruments.MOST_LINES
    how = "The darker, the larger; the first layer is on top." if is_map else "Of the batch at that step."
    return drawing(
        partial(instruments.gradient_norms, rows=rows),
        name=f"norms-{number}",
        title="Gradient norm by layer",
        alt=f"Gradient norms of {count(len(names), 'layer')} {steps}. At the last look: {told}.",
        caption=f"{how} A layer far below the others hardly learns; one that keeps growing may diverge.",
        size=(SIZE[0], max(SIZE[1], 1.3 + 0.17 * len(names)) if is_map else SIZE[1] + 0.12 * max(len(names) - 3, 0)),
    )


def _last(rows: training.Rows, instrument: str, name: str) -> float:
    """Median over the members at the last look that has one."""
    values = training.by_member(rows, "instruments", instrument, name)
    last = values[np.isfinite(values).any(axis=1)][-1]
    return float(np.nanmedian(training.finite(last)))


def _parts(rows: training.Rows, number: int, steps: str) -> Drawing | None:
    names = [one for one in instruments.measured(rows, "PartGradients", "norm/")
             if _seen(rows, "instruments", "PartGradients", one) is not None]  # fmt: skip
    if len(names) < 2:
        return None
    terms = {one.removeprefix("norm/"): _last(rows, "PartGradients", one) for one in names}
    against = [term for term in terms if _seen(rows, "instruments", "PartGradients", f"cosine/{term}") is not None
               and _last(rows, "PartGradients", f"cosine/{term}") < 0]  # fmt: skip
    told = f" At the last look the gradient of all points uphill for {joined(against)}." if against else ""
    return drawing(
        partial(instruments.part_norms, rows=rows),
        name=f"parts-{number}",
        title="Gradient norm by term",
        alt=f"Norms of the terms' weighted gradients {steps}. At the last look: "
        f"{joined([f'{term} {figure(norm, 3)}' for term, norm in terms.items()])}.",
        caption=f"With weights: the largest pulls the most.{told}",
        size=(SIZE[0], SIZE[1] + 0.12 * max(len(names) - 3, 0)),
    )


def _sharpness(rows: training.Rows, number: int, steps: str) -> Drawing | None:
    stable = _seen(rows, "instruments", "Sharpness", "stable_rate")
    if stable is None:
        return None
    return drawing(
        partial(instruments.sharpness, rows=rows),
        name=f"sharpness-{number}",
        title="Sharpness",
        alt=f"Largest stable rate of gradient descent {steps}: {_ends(training.finite(stable))}.",
        caption="At a rate above 2/λ, λ the largest curvature, plain gradient descent moves away along that direction "
        "(Cohen et al., 2021). Methods that scale each direction, as Adam does, may go above it.",
    )


def _noise(rows: training.Rows, number: int, steps: str) -> Drawing | None:
    ratio = _seen(rows, "instruments", "NoiseRatio", "ratio")
    if ratio is None:
        return None
    return drawing(
        partial(instruments.signal_to_noise, rows=rows),
        name=f"noise-{number}",
        title="Signal in the gradient",
        alt=f"Signal over noise of the batch's gradient {steps}: {_ends(training.finite(ratio))}.",
        caption="Below the dashed line a batch's gradient is mostly chance: a larger batch or a lower rate would help.",
    )

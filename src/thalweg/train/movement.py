"""Whether a walk still leads anywhere, by the rows that it left."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from thalweg.objective import Certificate
from thalweg.types import Finding


class Status(enum.Enum):
    """How the walk ended."""

    CONVERGED = "converged"
    STILL_IMPROVING = "still-improving"
    STALLED = "stalled"
    DIVERGED = "diverged"
    LINE_SEARCH_FAILED = "line-search-failed"
    TRIVIAL_SOLUTION = "trivial-solution"
    INFEASIBLE = "infeasible"
    INTERRUPTED = "interrupted"

    @property
    def exit_status(self) -> int:
        """What a process that ends so returns."""
        if self is Status.INTERRUPTED:
            return 130
        failures = (Status.DIVERGED, Status.LINE_SEARCH_FAILED, Status.TRIVIAL_SOLUTION, Status.INFEASIBLE)
        return int(self in failures)


@dataclass(frozen=True)
class Trace:
    """What one member's run left for judging; sequences have one value a row, of all phases.

    Attributes:
        steps: step of the run.
        totals: objective, mean since the row before.
        begin: index of the first row of the last phase.
        validation: validation score, NaN where none was taken.
        parts: by term, weighted mean cost.
        ended: the last phase's optimizer's `Ended`.
        bad_step: step at which the objective was first not finite; −1 never.
        bad_parts: mean cost by term there.
        unfinished: what the last phase's optimizer has left undone; None if nothing.
        bad_example: which example's cost is not finite also where the walk was sound; empty if that is not known.
        condition_met: the last phase's condition ended it.
        spread: by term, spread of the outputs over examples relative to their size (None: not a data term).
        descends: whether the last phase's optimizer means to lower the objective; a game's does not.
        validated: whether there is a validation objective.
        violations: by constraint, how far it was violated at each refresh, relative to its scale.
        certificate: of the constraints, at the model that is kept; None without constraints.
    """

    steps: Sequence[int]
    totals: Sequence[float]
    begin: int
    validation: Sequence[float]
    parts: Mapping[str, Sequence[float]]
    ended: int
    bad_step: int
    bad_parts: Mapping[str, float]
    condition_met: bool
    spread: Mapping[str, float]
    descends: bool = True
    validated: bool = False
    violations: Mapping[str, Sequence[float]] = field(default_factory=dict)
    bad_example: str = ""
    unfinished: Finding | None = None
    certificate: Certificate | None = None


SMALL_CHANGE = 1e-2
"""Relative decrease over a quarter of the phase below which the walk counts as arrived."""

CRAWL = 0.05
"""Unless a quarter still brings this share of all that the walk has gained."""


def movement(trace: Trace, first: float, last: float, span: str) -> tuple[Status, str, str]:
    """The walk made all its steps, and nothing went wrong: does it still lead anywhere?"""
    totals = np.asarray(trace.totals[trace.begin :], float)
    n = max(1, len(totals) // 4)
    late, early = totals[-n:], totals[-2 * n : -n]
    early = early if len(early) else np.array([first])
    fall, error = float(np.mean(early) - np.mean(late)), np.hypot(standard_error(late), standard_error(early))
    scale = abs(float(np.mean(early))) or float(np.finfo(float).tiny)
    if totals.min() < 0 < totals.max():  # what crosses zero has no relative change
        scale = float(np.ptp(totals))
    rate = f"{span}; relative change over the last quarter {-fall / scale:+.2%}"
    moves = abs(fall) > max(SMALL_CHANGE * scale, 2 * error)
    if not trace.descends:
        if moves:
            return Status.STILL_IMPROVING, f"the value of the game still moves: {rate}", "Play longer, or average."
        return Status.CONVERGED, f"the value of the game no longer moves: {rate}", ""
    gained = first - last
    has_gained = gained > SMALL_CHANGE * abs(first) and _gain_beyond_noise(np.asarray(trace.totals, float))
    if moves and fall < 0:
        return Status.STALLED, f"the objective rises again: {rate}", "Lower the learning rate towards the end."
    if not has_gained and not moves:
        remedy = "If there was something to learn, try a higher or lower learning rate, and check data and scales."
        return Status.STALLED, f"the objective is where it was: {rate}", remedy
    if fall > 2 * error and (moves or fall > CRAWL * gained):
        best = best_look(np.asarray(trace.validation, float))
        if best is not None and best.is_past:
            step = trace.steps[best.row]
            return Status.CONVERGED, f"the validation score was best about step {step}; {rate}", ""
        return Status.STILL_IMPROVING, rate, "Train longer: resume with more steps."
    if len(late) < 4 and fall > CRAWL * scale:  # too few rows for their scatter to mean anything
        return Status.STILL_IMPROVING, rate, "Train longer: resume with more steps."
    return Status.CONVERGED, rate, ""


def has_grown(totals: np.ndarray, last: float) -> bool:
    """Tenfold since it was lowest, and a quarter of all that was gained is lost again."""
    lowest = float(np.min(averages(totals)))
    return last - lowest > max(10 * abs(lowest), (float(totals[0]) - lowest) / 4)


def averages(values: np.ndarray) -> np.ndarray:
    """Means over windows of a tenth of the values."""
    width = max(1, len(values) // 10)
    return np.convolve(values, np.full(width, 1 / width), mode="valid")


def _gain_beyond_noise(totals: np.ndarray) -> bool:
    """Whether the first tenth lies above the last by more than the noise of the rows explains."""
    means = averages(totals)
    return bool(means[0] - means[-1] > 3 * noise(totals) * np.sqrt(2 / (len(totals) - len(means) + 1)))


def noise(values: np.ndarray) -> float:
    """Standard deviation of one value about its trend, from differences of neighbours."""
    steps = np.diff(values)
    return 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / np.sqrt(2) if len(steps) else 0.0


def standard_error(values: np.ndarray) -> float:
    """Of the mean of values that do not depend on each other."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class Best:
    """Where a noisy validation score was best: averaged over windows of a tenth of the looks.

    Attributes:
        row: of the middle of the best window.
        score, last: averages over the best and the last window.
        error: standard error of their difference.
        is_past: the best window lies well before the end.
    """

    row: int
    score: float
    last: float
    error: float
    is_past: bool


def best_look(validation: np.ndarray) -> Best | None:
    """Where the score was best; None for fewer than four looks."""
    rows = np.flatnonzero(np.isfinite(validation))
    if len(rows) < 4:
        return None
    seen = validation[rows]
    means = averages(seen)
    width, best = len(seen) - len(means) + 1, int(np.argmin(means))
    error = noise(seen) * float(np.sqrt(2 / width))
    row = int(rows[best + width // 2])
    return Best(row, float(means[best]), float(means[-1]), error, best < 0.9 * (len(means) - 1))

"""How a run ended: one status, and findings with evidence and remedy. Silent failure is never an option."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from thalweg.objective import HELD, Certificate
from thalweg.optim import Ended
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
class Verdict:
    """One status and any number of findings, for one member.

    Attributes:
        status: how the walk ended.
        evidence: the figures that the status rests on.
        remedy: what to do about it; empty if nothing.
        findings: what else was seen.
    """

    status: Status
    evidence: str
    remedy: str = ""
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `verdict.json`."""
        return asdict(self) | {"status": self.status.value}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Verdict":
        """The verdict that `to_json` wrote."""
        findings = tuple(Finding(**finding) for finding in data["findings"])
        return Verdict(Status(data["status"]), data["evidence"], data["remedy"], findings)


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


STATIONARY = 1e-2
"""Residual of stationarity up to which a constrained walk has arrived."""

LEVEL = 5e-2
"""Slope of the squared violations from which no nearby model breaks the constraints less: see `Certificate.level`. At a
feasible model's edge it grows without end, as 1 over the violation."""


def judge(trace: Trace) -> Verdict:
    """The verdict on one member.

    The last quarter of the last phase's rows is compared with the quarter before: means, and their standard errors, so
    that minibatch noise is not taken for progress. Where there is validation, progress is what the validation score
    makes, since the best by it is what is kept.
    """
    status, evidence, remedy = _status(trace)
    return Verdict(status, evidence, remedy, tuple(_findings(trace, status)))


SMALL_CHANGE = 1e-2
"""Relative decrease over a quarter of the phase below which the walk counts as arrived."""

CRAWL = 0.05
"""Unless a quarter still brings this share of all that the walk has gained."""


def _status(trace: Trace) -> tuple[Status, str, str]:
    if trace.bad_step >= 0:
        return _not_finite(trace)
    totals = np.asarray(trace.totals, float)
    first, last = float(totals[0]), float(np.median(totals[-max(1, len(totals) // 10) :]))
    span = f"objective {first:.4g} at the start, {last:.4g} at the end"
    if trace.certificate is not None:
        return _constrained(trace, trace.certificate, span)
    if trace.descends and _has_grown(totals, last):
        return Status.DIVERGED, f"the objective grew: {span}", "Lower the learning rate or clip the gradient."
    if flat := [name for name, spread in trace.spread.items() if spread < 1e-6]:
        return (
            Status.TRIVIAL_SOLUTION,
            f"term '{flat[0]}': the model gives the same output for every example (spread {trace.spread[flat[0]]:.1e})",
            "Check the inputs' scale and the learning rate; a dead network or a too strong penalty does this.",
        )
    if (left := trace.unfinished) is not None:
        lost = trace.ended == Ended.FAILED
        return Status.LINE_SEARCH_FAILED if lost else Status.STILL_IMPROVING, left.evidence, left.remedy
    if trace.ended == Ended.FAILED:
        return (
            Status.LINE_SEARCH_FAILED,
            f"no decrease along the steepest descent at step {trace.steps[-1]}; {span}",
            "The objective is noisy or not smooth, or its gradient is wrong: keep the batch (redraw=0), use float64, "
            "or check custom derivatives.",
        )
    if trace.ended == Ended.CONVERGED:
        return Status.CONVERGED, f"no further decrease can be resolved; {span}", ""
    if trace.condition_met:
        return Status.CONVERGED, f"the phase's condition was met at step {trace.steps[-1]}; {span}", ""
    return _movement(trace, first, last, span)


def _not_finite(trace: Trace) -> tuple[Status, str, str]:
    guilty = [name for name, value in trace.bad_parts.items() if not np.isfinite(value)]
    named = ", ".join(f"'{name}'" for name in guilty) or "the weighted sum"
    remedy = "Lower the learning rate, clip the gradient, or look at the data of that term."
    if trace.bad_step == 0:
        remedy = "The first evaluation failed: look at the data of that term, and at the model as it was given."
    evidence = f"the cost of {named} was not finite at step {trace.bad_step}"
    if trace.bad_example:
        remedy = "There the residual or loss has no value, such as 0/0 or the root of a negative number; or the data."
        evidence = f"{evidence}: {trace.bad_example}"
    return Status.DIVERGED, evidence, remedy


def _constrained(trace: Trace, found: Certificate, span: str) -> tuple[Status, str, str]:
    """Multipliers raise the objective as they should, so a constrained walk is judged by what it was to achieve."""
    told = f"KKT residuals: stationarity {found.stationarity:.1e}, complementary slackness {found.slackness:.1e}"
    if not np.isfinite(found.largest):
        return Status.DIVERGED, f"a constraint or its slope is not finite at the end; {span}", "Look at its quantity."
    if found.feasibility <= HELD:
        held = f"all constraints hold to {found.feasibility:.1e} of their size; {told}"
        if found.stationarity <= STATIONARY or not _still_moves(trace, found):
            return Status.CONVERGED, held, ""
        return Status.STILL_IMPROVING, f"{held}; the loss still moves", "Train longer: resume with more steps."
    worst = found.worst
    seen = trace.violations.get(worst.name) or [np.inf]
    unmet = f"constraint '{worst.name}' is broken by {worst.violation:.3g}, {worst.relative:.2g} of its size"
    falls = len(seen) > 1 and seen[-1] < (1 - SMALL_CHANGE) * seen[len(seen) // 2]
    if found.level is not None and found.level <= LEVEL and not falls:
        return (
            Status.INFEASIBLE,
            f"{unmet}, and nothing nearby breaks the constraints less (relative slope of the squared violations "
            f"{found.level:.1e}, penalty {worst.penalty:.0e})",
            "Loosen the bound, or the constraint that it contradicts; a larger model or another start may meet it.",
        )
    if falls:
        return Status.STILL_IMPROVING, f"{unmet}; {told}", "Train longer: resume with more steps."
    return Status.STALLED, f"{unmet}; {told}", "See the finding constraint-unmet."


def _still_moves(trace: Trace, found: Certificate) -> bool:
    """Whether the loss without the constraints' terms differs between the last two quarters of the last phase."""
    held = {one.name for one in found.constraints}
    parts = [np.asarray(values[trace.begin :], float) for name, values in trace.parts.items() if name not in held]
    if not parts:
        return False
    loss = np.sum(parts, axis=0)
    n = max(1, len(loss) // 4)
    late, early = loss[-n:], loss[-2 * n : -n] if len(loss) > n else loss[:1]
    error = np.hypot(_standard_error(late), _standard_error(early))
    return bool(abs(late.mean() - early.mean()) > max(SMALL_CHANGE * abs(early.mean()), 2 * error))


def _movement(trace: Trace, first: float, last: float, span: str) -> tuple[Status, str, str]:
    """The walk made all its steps, and nothing went wrong: does it still lead anywhere?"""
    totals = np.asarray(trace.totals[trace.begin :], float)
    n = max(1, len(totals) // 4)
    late, early = totals[-n:], totals[-2 * n : -n]
    early = early if len(early) else np.array([first])
    fall, error = float(np.mean(early) - np.mean(late)), np.hypot(_standard_error(late), _standard_error(early))
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
        best = _best(np.asarray(trace.validation, float))
        if best is not None and best.is_past:
            step = trace.steps[best.row]
            return Status.CONVERGED, f"the validation score was best about step {step}; {rate}", ""
        return Status.STILL_IMPROVING, rate, "Train longer: resume with more steps."
    if len(late) < 4 and fall > CRAWL * scale:  # too few rows for their scatter to mean anything
        return Status.STILL_IMPROVING, rate, "Train longer: resume with more steps."
    return Status.CONVERGED, rate, ""


def _has_grown(totals: np.ndarray, last: float) -> bool:
    """Tenfold since it was lowest, and a quarter of all that was gained is lost again."""
    lowest = float(np.min(_averages(totals)))
    return last - lowest > max(10 * abs(lowest), (float(totals[0]) - lowest) / 4)


def _averages(values: np.ndarray) -> np.ndarray:
    """Means over windows of a tenth of the values."""
    width = max(1, len(values) // 10)
    return np.convolve(values, np.full(width, 1 / width), mode="valid")


def _gain_beyond_noise(totals: np.ndarray) -> bool:
    """Whether the first tenth lies above the last by more than the noise of the rows explains."""
    means = _averages(totals)
    return bool(means[0] - means[-1] > 3 * _noise(totals) * np.sqrt(2 / (len(totals) - len(means) + 1)))


def _noise(values: np.ndarray) -> float:
    """Standard deviation of one value about its trend, from differences of neighbours."""
    steps = np.diff(values)
    return 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / np.sqrt(2) if len(steps) else 0.0


def _standard_error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


@dataclass(frozen=True)
class _Best:
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


def _best(validation: np.ndarray) -> _Best | None:
    rows = np.flatnonzero(np.isfinite(validation))
    if len(rows) < 4:
        return None
    seen = validation[rows]
    means = _averages(seen)
    width, best = len(seen) - len(means) + 1, int(np.argmin(means))
    error = _noise(seen) * float(np.sqrt(2 / width))
    row = int(rows[best + width // 2])
    return _Best(row, float(means[best]), float(means[-1]), error, best < 0.9 * (len(means) - 1))


def _findings(trace: Trace, status: Status) -> list[Finding]:
    unmet = None if status is Status.INFEASIBLE else _unmet(trace)
    found = (_overfitting(trace), _badly_scaled(trace), _validation_lost(trace), unmet)
    return [finding for finding in found if finding is not None]


def _overfitting(trace: Trace) -> Finding | None:
    validation = np.asarray(trace.validation, float)
    best = _best(validation)
    if best is None or not best.is_past:
        return None
    seen = validation[np.isfinite(validation)]
    scale = float(np.ptp(seen)) if seen.min() <= 0 else best.score
    rise = best.last - best.score
    if rise <= max(0.05 * scale, 3 * best.error):
        return None
    return Finding(
        "overfitting",
        f"the validation score rose from its best, {best.score:.4g} about step {trace.steps[best.row]}, "
        f"to {best.last:.4g} while training went on",
        "The best weights were kept. More data, a smaller model, dropout or weight decay would help.",
    )


def _validation_lost(trace: Trace) -> Finding | None:
    if not trace.validated or np.isfinite(np.asarray(trace.validation, float)).any():
        return None
    evidence = "the validation score was never finite, so no weights could be chosen by it"
    return Finding("validation-not-finite", evidence, "Look at the validation data; the last weights were kept.")


def _unmet(trace: Trace) -> Finding | None:
    found = trace.certificate
    if found is None or not found.feasibility > HELD:
        return None
    broken = [one for one in found.constraints if one.relative > HELD]
    told = "; ".join(
        f"'{one.name}' is broken by {one.violation:.3g} ({one.relative:.2g} of its size)" for one in broken
    )
    if not any(trace.violations.values()):
        remedy = "No refresh came before the end: make refresh_every smaller than the phase's steps."
    elif all(one.untouched for one in broken):
        remedy = (
            "No multiplier has moved, for between two refreshes the walk never converged: refresh more rarely, take "
            "all rows at each step, lower the rate towards the end, or end with a phase of LBFGS()."
        )
    else:
        remedy = "Train longer, or refresh more rarely, so that the walk converges between two refreshes."
    return Finding("constraint-unmet", told, remedy)


def _badly_scaled(trace: Trace) -> Finding | None:
    """A term that weighs less than a ten-thousandth of another throughout the first quarter of the run."""
    early = max(1, len(trace.totals) // 4)
    sizes = {name: np.abs(np.asarray(values[:early], float)) for name, values in trace.parts.items()}
    sizes = {name: values for name, values in sizes.items() if np.isfinite(values).all() and values[0] > 0}
    if len(sizes) < 2:
        return None
    large, small = max(sizes, key=lambda name: sizes[name][0]), min(sizes, key=lambda name: sizes[name][0])
    if not np.all(sizes[large] > 1e4 * sizes[small]):
        return None
    return Finding(
        "badly-scaled",
        f"at the start term '{large}' weighs {sizes[large][0]:.2g}, term '{small}' {sizes[small][0]:.2g}",
        f"Non-dimensionalize, change the weight of '{large}', or let a rule balance: Objective(balance=…).",
    )

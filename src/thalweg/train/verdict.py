"""How a run ended: one status, and findings with evidence and remedy. Silent failure is never an option."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from thalweg.optim import Ended


class Status(enum.Enum):
    """How the walk ended."""

    CONVERGED = "converged"
    STILL_IMPROVING = "still-improving"
    STALLED = "stalled"
    DIVERGED = "diverged"
    LINE_SEARCH_FAILED = "line-search-failed"
    TRIVIAL_SOLUTION = "trivial-solution"
    INTERRUPTED = "interrupted"

    @property
    def exit_status(self) -> int:
        """What a process that ends so returns."""
        if self is Status.INTERRUPTED:
            return 130
        return int(self in (Status.DIVERGED, Status.LINE_SEARCH_FAILED, Status.TRIVIAL_SOLUTION))


@dataclass(frozen=True)
class Finding:
    """Something that a user should know about a run.

    Attributes:
        name: a fixed word, such as `overfitting`.
        evidence: what was measured, with figures.
        remedy: what to try.
    """

    name: str
    evidence: str
    remedy: str


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
    """What one member's run left for judging.

    Attributes:
        steps: step of each row.
        totals: objective at each row, mean since the row before; of the last phase only.
        validation: validation score at each row of the whole run, NaN where none was taken.
        first_total: objective at the run's first row.
        parts: by term, weighted mean cost at the first row.
        ended: the last phase's optimizer's `Ended`.
        bad_step: step at which the objective was first not finite; −1 never.
        bad_parts: mean cost by term there.
        condition_met: the last phase's condition ended it.
        spread: by term, spread of the outputs over examples relative to the targets' (None: not a data term).
    """

    steps: Sequence[int]
    totals: Sequence[float]
    validation: Sequence[float]
    first_total: float
    parts: Mapping[str, float]
    ended: int
    bad_step: int
    bad_parts: Mapping[str, float]
    condition_met: bool
    spread: Mapping[str, float]


def judge(trace: Trace) -> Verdict:
    """The verdict on one member.

    The last quarter of the last phase's rows is compared with the quarter before: means, and their standard errors, so
    that minibatch noise is not taken for progress.
    """
    return Verdict(*_status(trace), findings=tuple(_findings(trace)))


SMALL_CHANGE = 1e-2
"""Relative decrease over a quarter of the phase below which the walk counts as arrived."""


def _status(trace: Trace) -> tuple[Status, str, str]:
    if trace.bad_step >= 0:
        guilty = [name for name, value in trace.bad_parts.items() if not np.isfinite(value)]
        named = ", ".join(f"'{name}'" for name in guilty) or "the weighted sum"
        return (
            Status.DIVERGED,
            f"the cost of {named} was not finite at step {trace.bad_step}",
            "Lower the learning rate, clip the gradient, or look at the data of that term.",
        )
    totals = np.asarray(trace.totals, float)
    last = float(np.median(totals[-max(1, len(totals) // 10) :]))
    span = f"objective {trace.first_total:.4g} at the start, {last:.4g} at the end"
    if last > trace.first_total + 10 * abs(trace.first_total):
        return Status.DIVERGED, f"the objective grew: {span}", "Lower the learning rate or clip the gradient."
    if flat := [name for name, spread in trace.spread.items() if spread < 1e-6]:
        return (
            Status.TRIVIAL_SOLUTION,
            f"term '{flat[0]}': the model gives the same output for every example (spread {trace.spread[flat[0]]:.1e})",
            "Check the inputs' scale and the learning rate; a dead network or a too strong penalty does this.",
        )
    if trace.ended == Ended.FAILED:
        return (
            Status.LINE_SEARCH_FAILED,
            f"no decrease along the steepest descent at step {trace.steps[-1]}; {span}",
            "The objective is noisy or not smooth: draw no new batch within the phase (redraw=0), or use float64.",
        )
    if trace.ended == Ended.CONVERGED:
        return Status.CONVERGED, f"no further decrease can be resolved; {span}", ""
    if trace.condition_met:
        return Status.CONVERGED, f"the phase's condition was met at step {trace.steps[-1]}; {span}", ""
    fall, error = _recent_fall(totals)
    rate = f"{span}; relative change over the last quarter {-fall:+.2%}"
    if fall > max(SMALL_CHANGE, 2 * error):
        return Status.STILL_IMPROVING, rate, "Train longer: resume with more steps."
    if last >= trace.first_total - SMALL_CHANGE * abs(trace.first_total):
        return Status.STALLED, rate, "Nothing was learned: try another learning rate, or check data and scales."
    return Status.CONVERGED, rate, ""


def _recent_fall(totals: np.ndarray) -> tuple[float, float]:
    """Relative fall from the last quarter but one to the last quarter, and its standard error."""
    n = max(1, len(totals) // 4)
    late, early = totals[-n:], totals[-2 * n : -n]
    if not len(early):
        return 0.0, np.inf
    scale = max(abs(float(np.mean(early))), np.finfo(float).tiny)
    error = np.hypot(_standard_error(late), _standard_error(early)) / scale
    return float((np.mean(early) - np.mean(late)) / scale), float(error)


def _standard_error(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _findings(trace: Trace) -> list[Finding]:
    findings = []
    validation = np.asarray(trace.validation, float)
    seen = validation[np.isfinite(validation)]
    if len(seen) >= 4:
        best, last = int(np.argmin(seen)), float(np.median(seen[-max(1, len(seen) // 10) :]))
        rise = (last - seen[best]) / max(abs(float(seen[best])), np.finfo(float).tiny)
        if best < 0.9 * len(seen) and rise > 0.05:
            findings.append(
                Finding(
                    "overfitting",
                    f"the validation score rose by {rise:.0%} from its best, {seen[best]:.4g}, to {last:.4g} "
                    "while training went on",
                    "The best weights were kept. More data, a smaller model, dropout or weight decay would help.",
                )
            )
    sizes = {name: abs(value) for name, value in trace.parts.items() if value and np.isfinite(value)}
    if len(sizes) > 1 and max(sizes.values()) > 1e4 * min(sizes.values()):
        large, small = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
        findings.append(
            Finding(
                "badly-scaled",
                f"at the start term '{large}' weighs {sizes[large]:.2g}, term '{small}' {sizes[small]:.2g}",
                f"Non-dimensionalize, or change the weight of '{large}'.",
            )
        )
    return findings

"""How a run ended: one status, and findings with evidence and remedy. Silent failure is never an option."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from thalweg.optim import Ended
from thalweg.train.constrained import constrained, has_diverged, unmet, validation_breaks
from thalweg.train.movement import Status as Status
from thalweg.train.movement import Trace as Trace
from thalweg.train.movement import best_look, has_grown, movement
from thalweg.types import Finding


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


def judge(trace: Trace) -> Verdict:
    """The verdict on one member.

    The last quarter of the last phase's rows is compared with the quarter before: means, and their standard errors, so
    that minibatch noise is not taken for progress. Where there is validation, progress is what the validation score
    makes, since the best by it is what is kept.
    """
    status, evidence, remedy = _status(trace)
    return Verdict(status, evidence, remedy, tuple(_findings(trace, status)))


def _status(trace: Trace) -> tuple[Status, str, str]:
    if trace.bad_step >= 0:
        return _not_finite(trace)
    totals = np.asarray(trace.totals, float)
    first, last = float(totals[0]), float(np.median(totals[-max(1, len(totals) // 10) :]))
    span = f"objective {first:.4g} at the start, {last:.4g} at the end"
    found = trace.certificate
    grown = has_grown(totals, last) if found is None else has_diverged(trace, found)
    if trace.descends and grown:
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
    if found is not None:
        return constrained(trace, found, span)
    if trace.ended == Ended.CONVERGED:
        return Status.CONVERGED, f"no further decrease can be resolved; {span}", ""
    if trace.condition_met:
        return Status.CONVERGED, f"the phase's condition was met at step {trace.steps[-1]}; {span}", ""
    return movement(trace, first, last, span)


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


def _findings(trace: Trace, status: Status) -> list[Finding]:
    broken = None if status is Status.INFEASIBLE else validation_breaks(trace) or unmet(trace)
    found = (_overfitting(trace), _badly_scaled(trace), _validation_lost(trace), broken)
    return [finding for finding in found if finding is not None]


def _overfitting(trace: Trace) -> Finding | None:
    validation = np.asarray(trace.validation, float)
    best = best_look(validation)
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

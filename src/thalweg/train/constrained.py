"""How a walk under constraints ended: by the conditions of a constrained optimum, and by the loss beneath them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from thalweg.objective import HELD, Certificate, ConstraintRecord
from thalweg.train.movement import SMALL_CHANGE, Status, Trace, has_grown, movement, standard_error
from thalweg.types import Finding

STATIONARY = 1e-2
"""Residual of stationarity, and of slackness, up to which a constrained walk may have arrived."""

EXACT = 1e-4
"""Up to which it has, whatever the loss does: above it one large balanced pair of forces can hide the others."""

LEVEL = 5e-2
"""Slope of the squared violations from which no nearby model breaks the constraints less: see `Certificate.level`. At a
feasible model's edge it grows without end, as 1 over the violation."""

LOWER = 0.9
"""Squared violations that are so much less at a place nearby show that the walk can still get there."""


def beneath(trace: Trace, found: Certificate) -> Trace:
    """The walk by its loss alone: multipliers raise the objective, as they should."""
    held = {one.name for one in found.constraints}
    parts = {name: values for name, values in trace.parts.items() if name not in held}
    whole = np.sum([np.asarray(values, float) for values in parts.values()], axis=0) if parts else None
    return replace(trace, totals=np.zeros(len(trace.totals)) if whole is None else whole, parts=parts)


def has_diverged(trace: Trace, found: Certificate) -> bool:
    """Whether loss and objective have both grown, and no constraint was met better for it."""
    fell = any(seen and seen[-1] < (1 - SMALL_CHANGE) * seen[0] for seen in trace.violations.values())
    grown = [has_grown(_array(one.totals), _last(one.totals)) for one in (trace, beneath(trace, found))]
    return all(grown) and not fell


def constrained(trace: Trace, found: Certificate, span: str) -> tuple[Status, str, str]:
    """Status, evidence and remedy of a walk that did not fail otherwise, by what it was to achieve."""
    told = f"KKT residuals: stationarity {found.stationarity:.1e}, complementary slackness {found.slackness:.1e}"
    if not np.isfinite(found.largest):
        return Status.DIVERGED, f"a constraint or its slope is not finite at the end; {span}", "Look at its quantity."
    if found.feasibility <= HELD:
        return _held(trace, found, told)
    worst = found.worst
    seen = trace.violations.get(worst.name) or [np.inf]
    unmet = f"constraint '{worst.name}' is broken by {worst.violation:.3g}, {worst.relative:.2g} of its size"
    falls = len(seen) > 1 and seen[-1] < (1 - SMALL_CHANGE) * seen[len(seen) // 2]
    finding = "See the finding constraint-unmet."
    if validation_breaks(trace):
        return Status.STALLED, f"{unmet}; {told}", "See the finding validation-breaks-constraint."
    if not worst.reached:
        what = f"{unmet}, and the last phase does not train what '{worst.name}' depends on"
        return Status.STALLED, what, f"Let the last phase train it too: where=…. {finding}"
    if falls:
        return Status.STILL_IMPROVING, f"{unmet}; {told}", "Train longer: resume with more steps."
    if found.level is not None and found.level <= LEVEL and found.nearby is not None:
        if found.nearby > LOWER and worst.pressed:
            return (
                Status.INFEASIBLE,
                f"{unmet}, and nothing nearby breaks the constraints less (relative slope of the squared violations "
                f"{found.level:.1e}, penalty {worst.penalty:.0e})",
                "Loosen the bound, or the constraint that it contradicts; a larger model or another start may meet it.",
            )
        why = "a place nearby breaks them less" if found.nearby <= LOWER else "the penalty has not grown enough"
        remedy = "Begin elsewhere, or train longer: the walk may be at a saddle of what is to be met."
        return Status.STALLED, f"{unmet}, with next to no slope, but {why}; {told}", f"{remedy} {finding}"
    return Status.STALLED, f"{unmet}; {told}", finding


def _held(trace: Trace, found: Certificate, told: str) -> tuple[Status, str, str]:
    held = f"all constraints hold to {found.feasibility:.1e} of their size; {told}"
    loss = beneath(trace, found)
    values = _array(loss.totals)
    moves = loss.parts and found.stationarity > EXACT and _moves(values[trace.begin :])
    if found.stationarity <= STATIONARY and found.slackness <= STATIONARY and not moves:
        return Status.CONVERGED, held, ""
    status, evidence, remedy = movement(loss, float(values[0]), _last(loss.totals), held)
    if status is Status.STILL_IMPROVING or (moves and status is Status.CONVERGED):
        remedy = remedy or "Train longer: resume with more steps."
        return Status.STILL_IMPROVING, f"{evidence}; the loss still moves", remedy
    if found.slackness > STATIONARY:
        slack = max(found.constraints, key=lambda one: one.slackness)
        evidence = f"{held}; the multiplier of '{slack.name}' pushes although its bound does not press"
        return Status.STALLED, evidence, refreshing(trace, [slack])
    if status is Status.CONVERGED:
        remedy = "Take all rows at each step, lower the rate towards the end, or end with a phase of LBFGS()."
        evidence = f"{held}; the loss no longer moves, but this is no optimum under the constraints"
    return Status.STALLED, evidence, remedy


def _moves(loss: np.ndarray) -> bool:
    """Whether the loss differs between the last two quarters of the last phase."""
    n = max(1, len(loss) // 4)
    late, early = loss[-n:], loss[-2 * n : -n] if len(loss) > n else loss[:1]
    error = np.hypot(standard_error(late), standard_error(early))
    return bool(abs(late.mean() - early.mean()) > max(SMALL_CHANGE * abs(early.mean()), 2 * error))


def _array(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, float)


def _last(values: Sequence[float]) -> float:
    return float(np.median(_array(values)[-max(1, len(values) // 10) :]))


def refreshing(trace: Trace, broken: Sequence[ConstraintRecord]) -> str:
    """What to do about multipliers that have not come where they belong."""
    if not any(trace.violations.values()):
        return "No refresh came before the end: make refresh_every smaller than the phase's steps."
    if all(one.untouched for one in broken):
        return (
            "No multiplier has moved, for between two refreshes the walk never converged: refresh more rarely, take "
            "all rows at each step, lower the rate towards the end, or end with a phase of LBFGS()."
        )
    return "Train longer, or refresh more rarely, so that the walk converges between two refreshes."


def _broken(found: Certificate) -> list[ConstraintRecord]:
    return [one for one in found.constraints if one.relative > HELD]


def validation_breaks(trace: Trace) -> Finding | None:
    """That the best model by validation, which is kept, breaks what the walk itself met in the end."""
    found = trace.certificate
    if found is None or not trace.validated or not np.isfinite(_array(trace.validation)).any():
        return None
    told = [
        f"the kept model (best validation) breaks '{one.name}' by {one.violation:.3g} ({one.relative:.2g} of its "
        f"size); at the last refresh it held to {trace.violations[one.name][-1]:.1e}"
        for one in _broken(found)
        if trace.violations.get(one.name) and trace.violations[one.name][-1] <= HELD
    ]
    if not told:
        return None
    remedy = "Without validation= the last model is kept; or begin near it: fit again from a model that holds."
    return Finding("validation-breaks-constraint", "; ".join(told), remedy)


def unmet(trace: Trace) -> Finding | None:
    """The constraints that are broken in the end."""
    found = trace.certificate
    if found is None or not found.feasibility > HELD:
        return None
    broken = _broken(found)
    told = "; ".join(
        f"'{one.name}' is broken by {one.violation:.3g} ({one.relative:.2g} of its size)" for one in broken
    )
    return Finding("constraint-unmet", told, refreshing(trace, broken))

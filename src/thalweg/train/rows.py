"""What the rows of a record say of one member, as its verdict asks."""

from collections.abc import Callable, Sequence
from typing import Any

from thalweg.optim import AbstractOptimizer
from thalweg.types import Finding


def violations(rows: Sequence[dict[str, Any]], pick: Callable[[Any], Any]) -> dict[str, list[float]]:
    """By constraint, how far it was violated at each refresh."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.get("refresh", {}).items():
            if name.endswith("/violation"):
                found.setdefault(name.removesuffix("/violation"), []).append(float(pick(value)))
    return found


def weighed(
    rows: Sequence[dict[str, Any]], weights: dict[str, float], pick: Callable[[Any], Any]
) -> dict[str, list[float]]:
    """By term, weight times mean cost in each row.

    A weight that a rule has moved is the moved one from there on; one that a path prescribes, that of the row.
    """
    present, found = dict(weights), {name: [] for name in weights}
    for row in rows:
        for name in weights:
            told = row.get("figures", {})
            own = pick(told[f"{name}/weight"]) if f"{name}/weight" in told else present[name]
            found[name].append(pick(row["parts"][name]) * own)
        moved = row.get("refresh", {})
        present |= {name: float(pick(moved[f"{name}/weight"])) for name in weights if f"{name}/weight" in moved}
    return found


def left_undone(
    rows: Sequence[dict[str, Any]], optimizers: Sequence[AbstractOptimizer], pick: Callable[[Any], Any]
) -> dict[int, Finding]:
    """By phase, what its optimizer says that it has not done, by the phase's last row."""
    last = {row["phase"]: row["figures"] for row in rows if row["figures"]}
    told = {phase: {name: float(pick(value)) for name, value in figures.items()} for phase, figures in last.items()}
    said = {phase: optimizers[phase].unfinished(figures) for phase, figures in told.items()}
    return {phase: finding for phase, finding in said.items() if finding is not None}

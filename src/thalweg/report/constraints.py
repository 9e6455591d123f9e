"""The constraints of a run: how nearly each is met, what it costs, and the residuals of the optimum's conditions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from thalweg.report.files import read_model
from thalweg.report.formats import Figure
from thalweg.report.words import count, figure, percent

MOST_FITS = 20
"""Fits that are shown."""

Number = Figure | list[Any]
"""A number, or those of a bound that is an array."""


class ConstraintRow(BaseModel):
    """One constraint: see `thalweg.objective.ConstraintRecord`."""

    model_config = ConfigDict(extra="ignore")
    name: str
    kind: str
    everywhere: bool
    points: int
    bound: Number
    value: Number
    violation: Figure
    relative: Figure
    multiplier: Number
    pressing: Figure
    penalty: Figure
    sensitivity: str


class CertificateRow(BaseModel):
    """One member's certificate: see `thalweg.objective.Certificate`."""

    model_config = ConfigDict(extra="ignore")
    stationarity: Figure
    feasibility: Figure
    dual: Figure
    slackness: Figure
    on: str
    constraints: list[ConstraintRow] = Field(min_length=1)

    @property
    def largest(self) -> float:
        """The largest residual; one that is not finite is larger than all."""
        found = [self.stationarity, self.feasibility, self.dual, self.slackness]
        return float(np.max(np.nan_to_num(found, nan=np.inf)))


class Certificates(BaseModel):
    """`certificate.json`: by fit, a certificate for each member; null for one that did not come to its end."""

    fits: dict[str, list[CertificateRow | None]]


@dataclass(frozen=True)
class Held:
    """The constraints of one fit.

    Attributes:
        name: of the fit; empty where the run has one.
        residuals: (condition, residual, meaning), texts.
        heads, rows: the table of constraints.
        note: what was looked at.
    """

    name: str
    residuals: list[tuple[str, str, str]]
    heads: list[str]
    rows: list[list[str]]
    note: str


@dataclass(frozen=True)
class Constraints:
    """All fits that have constraints, and how many are not shown."""

    fits: list[Held]
    more: int


def constraints_section(path: Path) -> Constraints | None:
    """The section of a run's page; None for a run without constraints."""
    found = read_model(path / "certificate.json", Certificates)
    if found is None:
        return None
    known = {name: [one for one in members if one is not None] for name, members in found.fits.items()}
    fits = [_held(name, members) for name, members in known.items() if members]
    if len(fits) == 1:
        fits = [Held("", fits[0].residuals, fits[0].heads, fits[0].rows, fits[0].note)]
    return Constraints(fits[:MOST_FITS], max(0, len(fits) - MOST_FITS)) if fits else None


def _held(name: str, members: Sequence[CertificateRow]) -> Held:
    worst = max(range(len(members)), key=lambda i: members[i].largest)
    one = members[worst]
    which = f"Of {count(len(members), 'member')}, this is member {worst}, the worst. " if len(members) > 1 else ""
    residuals = [
        ("Stationarity", figure(one.stationarity, 2), "slope of loss + multiplier · constraint, relative to its parts"),
        ("Primal feasibility", figure(one.feasibility, 2), "largest violation, relative to the bound's own size"),
        ("Dual feasibility", figure(one.dual, 2), "a multiplier of the wrong sign, relative to the largest"),
        ("Complementary slackness", figure(one.slackness, 2), "multiplier · distance from the bound, against the loss"),
    ]  # fmt: skip
    return Held(
        name,
        residuals,
        ["Constraint", "Asked", "Found", "Broken by", "Multiplier", "What it says"],
        [_row(each) for each in one.constraints],
        f"{which}Measured at the model that is kept, on {one.on}.",
    )


def _row(one: ConstraintRow) -> list[str]:
    kind = {"equal": "=", "at most": "≤", "at least": "≥"}.get(one.kind, one.kind)
    places = f" at each of {count(one.points, 'point')}" if one.everywhere else " on average" if one.points else ""
    multiplier = _told(one.multiplier)
    if one.everywhere:
        multiplier = f"{multiplier} (mean; presses at {percent(one.pressing)} of the points)"
    return [
        one.name,
        f"{kind} {_told(one.bound)}{places}",
        f"{_told(one.value)}{' at worst' if one.everywhere else ''}",
        figure(one.violation, 2),
        multiplier,
        one.sensitivity,
    ]


def _told(value: Any) -> str:
    """One number, or the first three of several."""
    numbers = [float(one) for one in np.ravel(np.asarray(value, float))]
    told = ", ".join(figure(one) for one in numbers[:3])
    return told if len(numbers) <= 3 else f"{told}, …"

"""What the report reads from a run's folder, checked before anything is drawn. Nothing that is read is executed."""

import fcntl
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from thalweg.report.arrays import ClassTest, NumberTest, read_test
from thalweg.report.files import damaged, read_model
from thalweg.train.record import RunDirectory
from thalweg.train.verdict import Status, Verdict
from thalweg.types import Finding

# JSON has neither NaN nor infinities: the record writes them as texts, which pydantic reads; None is "not measured".
Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class ModelScore(BaseModel):
    """One model's held-out scores: value, and the low and high end of its interval, by metric."""

    name: str
    values: dict[str, tuple[Figure, Figure, Figure]]


class Recommendation(BaseModel):
    """Which model to use, and the sentence that says why."""

    use: str
    sentence: str


class Difference(BaseModel):
    """thalweg's score minus another model's on the same rows, with its interval."""

    against: str
    value: Figure
    low: Figure
    high: Figure


class Scores(BaseModel):
    """`scores.json`: held-out scores beside those of baselines.

    Attributes:
        task: what kind of target.
        metric: the one that models are compared by.
        higher_is_better: of that metric.
        test_rows: held-out rows.
        models: thalweg and the baselines.
        classes: names of the classes, where there are any.
        recommendation, difference: what follows.
        interval: what the intervals are, in words.
    """

    task: Literal["number", "classes"]
    metric: str
    higher_is_better: bool
    test_rows: int
    models: list[ModelScore] = Field(min_length=1)
    classes: list[str] | None = None
    recommendation: Recommendation | None = None
    difference: Difference | None = None
    interval: str | None = None

    @model_validator(mode="after")
    def _metric_is_there(self) -> "Scores":
        if not any(self.metric in model.values for model in self.models):
            raise ValueError(f"no model has the metric {self.metric!r}")
        return self


class SplitSizes(BaseModel):
    """How the rows were split, and how many went where."""

    kind: str
    train: int
    validation: int
    test: int


class Column(BaseModel):
    """One column of the table; what it has depends on its kind (see `thalweg.data.TableSchema`)."""

    name: str
    kind: str
    low: Figure | None = None
    high: Figure | None = None
    fill: Figure | None = None
    missing: bool | None = None
    categories: list[str] | None = None
    classes: list[str] | None = None


class Data(BaseModel):
    """`data.json`: where the rows came from, and what became of the columns."""

    source: str
    rows: int
    split: SplitSizes | None = None
    notes: list[str] = []
    features: list[Column] = []
    dropped: list[str] = []
    target: Column | None = None


class ClaimRow(BaseModel):
    """One claim of a study (see `thalweg.study.claim`)."""

    statement: str
    value: Figure
    interval: tuple[Figure, Figure]
    reference: Figure
    verdict: Literal["supported", "not supported", "undecided"]
    unit: str = ""
    relation: str = ""


class Claims(BaseModel):
    """`claims.json`: what a study asked, and its claims."""

    question: str = ""
    claims: list[ClaimRow]


class Slice(BaseModel):
    """The cost on a plane through the weights that were kept (see `thalweg.analysis.plane_slice`).

    Attributes:
        what: what cost it is.
        offsets: along either direction, n of them, ascending, in units of the direction; the middle is where it ended.
        costs: n rows, one for each offset along the first direction, of n costs.
        axes: what the two directions are.
        start: where on the first direction the walk began; None if it is not known.
    """

    what: str
    offsets: list[Figure]
    costs: list[list[Figure]]
    axes: tuple[str, str]
    start: Figure | None = None

    @model_validator(mode="after")
    def _is_a_grid(self) -> "Slice":
        offsets, n = np.array(self.offsets), len(self.offsets)
        if n < 3 or not (np.isfinite(offsets).all() and (np.diff(offsets) > 0).all()):
            raise ValueError("the offsets are not three or more ascending numbers")
        if len(self.costs) != n or any(len(row) != n for row in self.costs):
            raise ValueError(f"the costs are not {n} rows of {n} numbers")
        if not np.isfinite(np.array(self.costs)).any():
            raise ValueError("no cost is finite")
        if self.start is not None and not offsets[0] <= self.start <= offsets[-1]:
            raise ValueError("the start lies outside the slice")
        return self


class SliceFile(BaseModel):
    """`arrays/slice.json`: a slice, or why there is none."""

    slice: Slice | None = None
    skipped: str = ""


class FindingRow(BaseModel):
    """Something seen: see `thalweg.train.Finding`."""

    name: str
    evidence: str
    remedy: str

    def finding(self) -> Finding:
        """The same as the loop's own class."""
        return Finding(self.name, self.evidence, self.remedy)


class VerdictRow(BaseModel):
    """One member's verdict: see `thalweg.train.Verdict`."""

    status: Status
    evidence: str
    remedy: str
    findings: list[FindingRow]

    def verdict(self) -> Verdict:
        """The same as the loop's own class."""
        found = tuple(finding.finding() for finding in self.findings)
        return Verdict(self.status, self.evidence, self.remedy, found)


class Verdicts(BaseModel):
    """`verdict.json`: one verdict a member, and what was found in the data."""

    members: list[VerdictRow] = Field(min_length=1)
    findings: list[FindingRow] = []


@dataclass(frozen=True)
class Record:
    """All that a run has left so far; None or empty for what it has not.

    Attributes:
        path: the run's folder.
        begun: when, in UTC.
        config, environment: settings and surroundings.
        rows, decisions: the two logs.
        verdicts: one a member.
        findings: what was found in the data.
        scores, data, claims, test, surface: see the classes.
        is_written: another process holds the run's lock.
    """

    path: Path
    begun: datetime
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    verdicts: list[Verdict]
    findings: list[Finding]
    scores: Scores | None
    data: Data | None
    claims: Claims | None
    test: NumberTest | ClassTest | None
    surface: SliceFile | None
    is_written: bool


def read_record(path: str | Path) -> Record:
    """Everything in a run's folder that the report shows.

    Raises:
        UserError: the folder does not exist or is no run's.
        DamagedError: a file in it is not what it should be; the file and the place in it are named.
    """
    run = RunDirectory.open(path)
    verdicts = read_model(run.path / "verdict.json", Verdicts)
    scores = read_model(run.path / "scores.json", Scores)
    data = read_model(run.path / "data.json", Data)
    environment = run.environment()
    return Record(
        run.path,
        _begun(run.path, environment),
        run.config(),
        environment,
        _rows(run),
        _decisions(run),
        [] if verdicts is None else [one.verdict() for one in verdicts.members],
        [] if verdicts is None else [one.finding() for one in verdicts.findings],
        scores,
        data,
        read_model(run.path / "claims.json", Claims),
        read_test(run.arrays / "test.npz", _class_names(scores, data)),
        read_model(run.arrays / "slice.json", SliceFile),
        is_written=verdicts is None and _is_locked(run.path / "lock"),
    )


def _class_names(scores: Scores | None, data: Data | None) -> list[str] | None:
    names = scores.classes if scores else None
    return names or (data.target.classes if data and data.target else None)


def _rows(run: RunDirectory) -> list[dict[str, Any]]:
    path, rows = run.path / "metrics.jsonl", run.metrics.read()
    members: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        row["fit"] = str(row.get("fit", "fit"))
        figures: dict[str, Any] = {name: row.get(name) for name in ("run_step", "total")}
        for group in ("parts", "validation"):
            if not isinstance(row.get(group, {}), Mapping):
                raise damaged(path, f"line {number}: {group!r} is no dictionary")
            figures |= {f"{group}.{name}": value for name, value in row.get(group, {}).items()}
        figures |= _measured(row, path, number)
        if type(row.get("phase")) is not int:
            raise damaged(path, f"line {number} has no integer 'phase'")
        for name, value in figures.items():
            if not _is_figure(value):
                raise damaged(path, f"line {number}: {name!r} is no number")
            if members.setdefault(row["fit"], _members(value)) != _members(value):
                raise damaged(path, f"line {number}: {name!r} has not one number for each member")
    return rows


INSTRUMENTS = ("GradientNorms", "PartGradients", "Sharpness", "NoiseRatio")
"""Those whose figures the page shows; what others measured is not looked at."""


def _measured(row: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    """The figures of the optimizer and the instruments that the page shows, by dotted name."""
    found = {}
    looks = row.get("instruments", {})
    for name, group in (("figures", row.get("figures", {})), ("instruments", looks)):
        if not isinstance(group, Mapping):
            raise damaged(path, f"line {number}: {name!r} is no dictionary")
    if "rate" in row.get("figures", {}):
        found["figures.rate"] = row["figures"]["rate"]
    for name in INSTRUMENTS:
        if not isinstance(looks.get(name, {}), Mapping):
            raise damaged(path, f"line {number}: {name!r} is no dictionary")
        found |= {f"instruments.{name}.{one}": value for one, value in looks.get(name, {}).items()}
    return found


def _decisions(run: RunDirectory) -> list[dict[str, Any]]:
    rows = run.decisions.read()
    for number, row in enumerate(rows, 1):
        if type(row["step"]) is not int:
            raise damaged(run.path / "decisions.jsonl", f"line {number} has no integer 'step'")
    return rows


def _is_figure(value: Any) -> bool:
    """Whether it is a number, or numbers by member."""
    numbers = value if isinstance(value, list) and value else [value]
    return all(isinstance(one, (int, float)) for one in numbers)


def _members(value: Any) -> int:
    """How many members a figure has; 0 says that it is a plain number."""
    return len(value) if isinstance(value, list) else 0


def _begun(path: Path, environment: dict[str, Any]) -> datetime:
    """When the run began: as recorded, else from the folder's name, else the age of `config.toml`."""
    for text in (str(environment.get("begun", "")), *re.findall(r"^\d{8}T\d{6}Z", path.resolve().name)):
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            continue
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    return datetime.fromtimestamp((path / "config.toml").stat().st_mtime, UTC)


def _is_locked(path: Path) -> bool:
    """Whether a living process holds the lock. It is tried and let go at once."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False

"""What the report reads from a run's folder, checked before anything is drawn. Nothing that is read is executed."""

import fcntl
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from thalweg.errors import DamagedError
from thalweg.train.record import RunDirectory
from thalweg.train.verdict import Finding, Status, Verdict

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
class NumberTest:
    """`arrays/test.npz` of a numeric target, each shape (n,) with n ≥ 1, in the target's units, finite.

    Attributes:
        truth, mean: true and predicted.
        aleatoric, epistemic: standard deviations: noise that no model removes, and what more data would.
        outside: bool; the row lies outside the training range.
        left_out: rows that had no finite prediction and are not here.
    """

    truth: np.ndarray
    mean: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray
    outside: np.ndarray
    left_out: int

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the whole doubt, shape (n,)."""
        return np.hypot(self.aleatoric, self.epistemic)


@dataclass(frozen=True)
class ClassTest:
    """`arrays/test.npz` of a target of k classes.

    Attributes:
        truth: shape (n,), integers 0 … k − 1.
        probability: shape (n, k).
        epistemic: shape (n,).
        classes: k names.
        left_out: rows that had no finite prediction and are not here.
    """

    truth: np.ndarray
    probability: np.ndarray
    epistemic: np.ndarray
    classes: list[str]
    left_out: int


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
        scores, data, claims, test: see the classes.
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
    is_written: bool


def read_record(path: str | Path) -> Record:
    """Everything in a run's folder that the report shows.

    Raises:
        UserError: the folder does not exist or is no run's.
        DamagedError: a file in it is not what it should be; the file and the place in it are named.
    """
    run = RunDirectory.open(path)
    verdicts = _model(run.path / "verdict.json", Verdicts)
    scores = _model(run.path / "scores.json", Scores)
    data = _model(run.path / "data.json", Data)
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
        _model(run.path / "claims.json", Claims),
        _test(run.arrays / "test.npz", scores, data),
        is_written=verdicts is None and _is_locked(run.path / "lock"),
    )


Model = TypeVar("Model", bound=BaseModel)


def _model(path: Path, model: type[Model]) -> Model | None:
    """The file as the model describes it; None if there is no such file."""
    if not path.exists():
        return None
    try:
        return model.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(one) for one in first["loc"])
        found = "" if first["type"] == "missing" else f", and it is {first['input']!r:.60}"
        raise damaged(path, f"{place}: {first['msg']}{found}" if place else f"{first['msg']}{found}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> DamagedError:
    """The error that names a file which is not what it should be."""
    remedy = "Restore the file from a copy, or move it away: the report then leaves out what it held."
    return DamagedError(f"the file cannot be used: {why}", where=str(path), remedy=remedy)


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
        if type(row.get("phase")) is not int:
            raise damaged(path, f"line {number} has no integer 'phase'")
        for name, value in figures.items():
            if not _is_figure(value):
                raise damaged(path, f"line {number}: {name!r} is no number")
            if members.setdefault(row["fit"], _members(value)) != _members(value):
                raise damaged(path, f"line {number}: {name!r} has not one number for each member")
    return rows


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


# ------------------------------------------------------------------------------------------------------- predictions
def _test(path: Path, scores: Scores | None, data: Data | None) -> NumberTest | ClassTest | None:
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise damaged(path, str(error)) from error
    try:
        if "probability" not in arrays:
            return _number_test(arrays)
        names = scores.classes if scores else None
        names = names or (data.target.classes if data and data.target else None)
        return _class_test(arrays, names)
    except ValueError as error:
        raise damaged(path, str(error)) from error


def _number_test(arrays: Mapping[str, np.ndarray]) -> NumberTest:
    n = len(_array(arrays, "truth", ndim=1))
    names = ("truth", "mean", "aleatoric", "epistemic")
    columns = {name: _array(arrays, name, ndim=1, rows=n) for name in names}
    outside = _array(arrays, "outside", ndim=1, rows=n).astype(bool)
    usable = np.isfinite(np.stack([*columns.values()])).all(axis=0)
    if any((columns[name][usable] < 0).any() for name in names[2:]):
        raise ValueError("a standard deviation is negative")
    if not usable.any():
        raise ValueError("no row has a finite prediction")
    return NumberTest(
        **{name: column[usable] for name, column in columns.items()},
        outside=outside[usable],
        left_out=int((~usable).sum()),
    )


def _class_test(arrays: Mapping[str, np.ndarray], names: list[str] | None) -> ClassTest:
    truth = _array(arrays, "truth", ndim=1)
    probability = _array(arrays, "probability", ndim=2, rows=len(truth))
    epistemic = _array(arrays, "epistemic", ndim=1, rows=len(truth))
    k = probability.shape[1]
    names = names or [f"class {i}" for i in range(k)]
    if len(names) != k or k < 2:
        raise ValueError(f"'probability' has {k} columns for {len(names)} classes")
    if not np.isin(truth, np.arange(k)).all():
        raise ValueError(f"'truth' holds a class outside 0 … {k - 1}")
    usable = np.isfinite(probability).all(axis=1)
    if not usable.any():
        raise ValueError("no row has a finite prediction")
    left_out = int((~usable).sum())
    return ClassTest(truth[usable].astype(int), probability[usable], epistemic[usable], names, left_out)


def _array(arrays: Mapping[str, np.ndarray], name: str, *, ndim: int, rows: int | None = None) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"it has no array {name!r}")
    array = arrays[name]
    if array.dtype.kind not in "biuf" or array.ndim != ndim or not len(array) or len(array) != (rows or len(array)):
        raise ValueError(f"the array {name!r} has the shape {array.shape} and the type {array.dtype}")
    return array.astype(float)

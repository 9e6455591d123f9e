"""What a user asked of a table, as it stands in a run's `config.toml`."""

import enum
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pydantic

from thalweg.data import Task
from thalweg.errors import DamagedError, UserError
from thalweg.settings import Settings
from thalweg.tables.family import Family

STEPS = 3_000
"""Steps of a fit whose epochs are not given."""

MOST_STEPS = 2**31 - 1
"""Steps are counted in 32 bits."""


class LossChoice(enum.StrEnum):
    """The loss of a numeric target: decided by the target, or the negative log-likelihood of a named family."""

    AUTO = "auto"
    GAUSSIAN = "gaussian"
    STUDENT_T = "student_t"
    LOG_NORMAL = "log_normal"
    LOGIT_NORMAL = "logit_normal"
    POISSON = "poisson"
    NEGATIVE_BINOMIAL = "negative_binomial"

    @property
    def family(self) -> Family | None:
        """The family asked for; None if the target decides."""
        return None if self is LossChoice.AUTO else Family(self.value)


class TableSettings(Settings):
    """How a table is fitted."""

    members: int = pydantic.Field(default=5, ge=1, le=100, description="networks in the ensemble")
    epochs: int | None = pydantic.Field(
        default=None, ge=1, le=1_000_000, description="passes over the training rows; by default 3,000 steps"
    )
    width: int = pydantic.Field(default=64, ge=1, le=4096, description="units in each hidden layer")
    depth: int = pydantic.Field(default=2, ge=0, le=20, description="hidden layers; 0 leaves the linear path alone")
    dropout: float = pydantic.Field(default=0.1, ge=0, lt=1, description="share of hidden units silenced in training")
    rate: float = pydantic.Field(default=3e-3, gt=0, le=10, description="largest learning rate of AdamW")
    decay: float = pydantic.Field(default=0.03, ge=0, le=100, description="decoupled weight decay of AdamW")
    batch: int | None = pydantic.Field(
        default=None, ge=1, le=1_000_000, description="rows a step; by default a fiftieth, 16 to 256"
    )
    patience: float = pydantic.Field(
        default=0.4, gt=0, le=1, description="share of the steps without a better validation score"
    )
    loss: LossChoice = pydantic.Field(
        default=LossChoice.AUTO, description=f"distribution of a numeric target: {', '.join(LossChoice)}"
    )
    validation: float = pydantic.Field(
        default=0.15, gt=0, lt=0.5, description="share of rows that choose the best weights"
    )
    copied_target: bool = pydantic.Field(default=False, description="fit although a column repeats the target")
    test: float = pydantic.Field(default=0.15, gt=0, lt=0.5, description="share of rows that only the scores see")


@dataclass(frozen=True)
class Request:
    """A table, its target, and how to split and fit it.

    Attributes:
        table: the file.
        target: column to predict.
        task: number or classes; None lets the target decide.
        group: column whose values are never split; None for none.
        time: column whose later rows are the test rows; None for none.
        ignore: columns left out.
        categorical: columns taken as categories however many values they have.
        seed: everything random follows from it.
        settings: of the fit.
    """

    table: Path
    target: str
    task: Task | None = None
    group: str | None = None
    time: str | None = None
    ignore: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    seed: int = 0
    settings: TableSettings = field(default_factory=lambda: TableSettings.checked({}, where="defaults"))

    def __post_init__(self):
        if self.group is not None and self.time is not None:
            raise UserError("a table is split by group or by time, not by both", remedy="Leave out --group or --time.")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"the seed must be between 0 and 2**31 - 1, not {self.seed}")

    def to_config(self) -> dict[str, Any]:
        """What `config.toml` holds; what was not asked is left out."""
        table: dict[str, Any] = {
            "path": str(self.table.resolve()),
            "sha256": file_sum(self.table),
            "target": self.target,
            "ignore": list(self.ignore),
            "categorical": list(self.categorical),
        }
        optional = {"task": self.task and self.task.value, "group": self.group, "time": self.time}
        table |= {name: value for name, value in optional.items() if value is not None}
        settings = {name: value for name, value in self.settings.model_dump(mode="json").items() if value is not None}
        return {"kind": "table", "seed": self.seed, "table": table, "settings": settings}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, table: Path | None, where: str) -> Self:
        """The request of an earlier run.

        Args:
            config: of `to_config`.
            table: where the file is now; None: where it was.
            where: the config file, for messages.
        Raises:
            UserError: another kind of run, or the table has changed or is gone.
            DamagedError: an entry is missing or of another type; it is named.
        """
        if config.get("kind") != "table":
            remedy = "A table's fit is resumed by its run folder; restore config.toml from a copy if this is one."
            raise UserError(
                f"this run is not of a table, but of kind {config.get('kind')!r}", where=where, remedy=remedy
            )
        try:
            found = _Config.model_validate(config)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            what = f"the run's settings are damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise DamagedError(what, where=where, remedy="Restore the file from a copy, or begin a new run.") from None
        asked = found.table
        file = table or Path(asked.path)
        if not _located(file).is_file():
            raise UserError("the run's table is gone", where=str(file), remedy="Say where it is now: --table FILE.")
        if file_sum(file) != asked.sha256:
            raise UserError(
                "the table has changed since the run began, so going on would mix two data sets",
                where=str(file),
                remedy="Bring the old file back, or begin a new run with `thalweg fit`.",
            )
        return cls(
            file,
            asked.target,
            asked.task,
            asked.group,
            asked.time,
            tuple(asked.ignore),
            tuple(asked.categorical),
            found.seed,
            TableSettings.checked(found.settings, where=where),
        )


class _Table(pydantic.BaseModel):
    """What `config.toml` says of the table."""

    path: str
    sha256: str
    target: str
    ignore: list[str]
    categorical: list[str]
    task: Task | None = None
    group: str | None = None
    time: str | None = None


class _Config(pydantic.BaseModel):
    """What `config.toml` holds."""

    seed: pydantic.StrictInt
    table: _Table
    settings: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How long a fit is: rows a step, steps a pass over the training rows, and steps in all."""

    batch: int
    per_epoch: int
    steps: int
    more: int

    @classmethod
    def of(cls, settings: TableSettings, rows: int, extension: int = 0) -> Self:
        """The plan for so many training rows.

        Args:
            extension: epochs added to a finished run; they are `more` steps.
        Raises:
            UserError: more steps than 32 bits count.
        """
        batch = settings.batch or min(max(2 ** round(math.log2(max(rows / 50, 1))), 16), 256)
        batch = min(batch, rows)
        per_epoch = math.ceil(rows / batch)
        steps = per_epoch * (settings.epochs or math.ceil(STEPS / per_epoch))
        more = per_epoch * extension
        if steps + more > MOST_STEPS:
            raise UserError(
                f"{(steps + more) // per_epoch:,} epochs of {per_epoch:,} steps are {steps + more:,} steps",
                where="epochs",
                remedy=f"At most {MOST_STEPS:,} steps can be counted; ask for fewer epochs or a larger batch.",
            )
        return cls(batch, per_epoch, steps, more)


def file_sum(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits; of an HDF5 group, that of its file. UserError if it cannot be read."""
    try:
        with open(_located(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror}", where=str(path)) from error


def _located(path: Path) -> Path:
    """The file itself, of a path that may go on into the file (an HDF5 group)."""
    return next((one for one in (path, *path.parents) if one.is_file()), path)

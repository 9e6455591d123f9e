"""`thalweg audit`, and the audit that every fit makes of its own split."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thalweg.data import (
    Audit,
    Leak,
    LeakKind,
    Split,
    Task,
    audit,
    cluster_split,
    drop_missing_target,
    group_split,
    group_values,
    infer_task,
    random_split,
    read_table,
    time_split,
    time_values,
)
from thalweg.data.columns import categories_of, column, numbers_of, require_columns, row_name
from thalweg.errors import UserError
from thalweg.types import Finding

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("train", "validation", "test")
FEW_NAMES = 20  # values of a text column that still take part in distances


class SplitChoice(enum.StrEnum):
    """How rows are split."""

    RANDOM = "random"
    GROUP = "group"
    TIME = "time"
    CLUSTER = "cluster"


@dataclass(frozen=True)
class AuditRequest:
    """A table, its target, and the split that is to be audited.

    Attributes:
        table: the file.
        target: column to predict.
        split: how its rows are split; None: by `parts`, `group` or `time` if one is given, else at random.
        group: column whose values no two parts may share.
        time: column by which training rows are to be earlier than test rows.
        parts: column that names the part of each row: train, validation, test.
        task: what the target is; None lets it say itself.
        ignore: columns that are no features.
        seed: of the split.
    """

    table: Path
    target: str
    split: SplitChoice | None = None
    group: str | None = None
    time: str | None = None
    parts: str | None = None
    task: Task | None = None
    ignore: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.seed < 2**31:
            raise UserError(f"the seed must be between 0 and 2**31 - 1, not {self.seed}")
        if self.parts is not None and self.split is not None:
            raise UserError("a split is made or read from a column, not both", remedy="Leave out --split or --parts.")
        for needs, name in ((SplitChoice.GROUP, "group"), (SplitChoice.TIME, "time")):
            if self.split is needs and getattr(self, name) is None:
                raise UserError(f"a split by {name} needs its column", remedy=f"Name it: --{name} COLUMN.")


def audit_table(request: AuditRequest) -> tuple[Audit, Split]:
    """Read a table, split it as asked, and look for leaks.

    Returns:
        what was found, and the split. Rows are counted among those that have a target.
    Raises:
        UserError: the table, a column or the split cannot be used.
    """
    source = request.table.name
    frame = read_table(request.table)
    choice = infer_task(frame, request.target, task=request.task, source=source)
    frame, dropped = drop_missing_target(frame, request.target, source)
    optional = [name for name in (request.group, request.time, request.parts) if name is not None]
    require_columns(frame, [*optional, *request.ignore], "column", source)
    split = _split(request, frame, choice.task, source)
    ignore = (*request.ignore, *([] if request.parts is None else [request.parts]))
    found = audit(
        frame, request.target, split, task=request.task, group=request.group, time=request.time, ignore=ignore,
        seed=request.seed, source=source,
    )  # fmt: skip
    return Audit(found.findings, (*frame.attrs.get("notes", ()), *dropped, *found.notes)), split


def _split(request: AuditRequest, frame: "pd.DataFrame", task: Task, source: str) -> Split:
    if request.parts is not None:
        return _named(frame, request.parts, source)
    made = request.split
    if made is None and request.group is not None:
        made = SplitChoice.GROUP
    elif made is None and request.time is not None:
        made = SplitChoice.TIME
    if made is SplitChoice.GROUP:
        return group_split(group_values(frame, str(request.group), source), request.seed)
    if made is SplitChoice.TIME:
        return time_split(time_values(frame, str(request.time), source))
    if made is SplitChoice.CLUSTER:
        left_out = {request.target, request.group, request.time, *request.ignore}
        return cluster_split(_distances(frame, left_out, source), request.seed)
    labels = frame[request.target].astype(str).to_numpy() if task is Task.CLASSES else None
    return random_split(len(frame), request.seed, stratify=labels)


def _named(frame: "pd.DataFrame", name: str, source: str) -> Split:
    """The split that a column names."""
    codes, names = categories_of(frame, name, source)
    known = np.array([PARTS.index(one.casefold()) if one.casefold() in PARTS else -1 for one in names] + [-1])
    part = known[codes]
    if (part < 0).any():
        row = int(np.argmax(part < 0))
        said = "nothing" if codes[row] < 0 else f"'{names[codes[row]]}'"
        raise UserError(
            f"column '{name}' must say {', '.join(PARTS[:2])} or {PARTS[2]}, but says {said}",
            where=f"{source}, {row_name(frame, row)}",
            remedy="Rename the parts, or remove the rows that are in none",
        )
    return Split(*(np.flatnonzero(part == which).astype(np.int64) for which in range(3)))


def _distances(frame: "pd.DataFrame", left_out: set[str | None], source: str) -> np.ndarray:
    """Columns that rows can be clustered by, (n, d): numbers, their gaps at the median, and names that are few."""
    found = []
    for name in map(str, frame.columns):
        if name in left_out:
            continue
        values, strays = numbers_of(column(frame, name))
        if not strays.any() and np.isfinite(values).any():
            found.append(np.where(np.isnan(values), np.nanmedian(values), values))
            continue
        codes, names = categories_of(frame, name, source)
        if len(names) <= FEW_NAMES:
            found += [(codes == code).astype(np.float64) for code in range(len(names))]
    if not found:
        raise UserError("no column is left to cluster the rows by", where=source, remedy="Split them another way")
    return np.column_stack(found)


def told(one: Leak) -> Finding:
    """A leak as a run's finding."""
    return Finding(one.kind.value, one.evidence, f"{one.remedy}.")


def refuse_copied_target(leaks: Sequence[Leak], source: str, features: int) -> None:
    """Refuse a column that is the target in another dress beside other features.

    Where it is the only feature, a law without noise or a calibration curve looks the same.

    Raises:
        UserError: there is such a column; it is named.
    """
    for one in leaks:
        if one.kind is LeakKind.TARGET_COPIED and one.sure and features > 1:
            remedy = f"{one.remedy}; to fit all the same: --set copied_target=true"
            raise UserError(f"the target would be known from the start: {one.evidence}", where=source, remedy=remedy)

"""From a file to what a network can take: read, split, learned schema, encoded rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.data import (
    ClassTarget,
    Split,
    TableSchema,
    Task,
    audit,
    drop_missing_target,
    group_split,
    group_values,
    infer_task,
    learn_schema,
    random_split,
    read_table,
    time_split,
    time_values,
)
from thalweg.data.columns import row_name
from thalweg.data.resolution import check_resolution
from thalweg.errors import UserError
from thalweg.tables.audit import refuse_copied_target, told
from thalweg.tables.family import Family, FamilyChoice, choose_family
from thalweg.tables.request import Request
from thalweg.train import Finding

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Prepared:
    """A table ready to fit.

    Attributes:
        task: number or classes.
        schema: learned from the training rows.
        split: row numbers of each part.
        x: encoded rows (n, d), float64.
        y: target (n,), float64 or class codes int64.
        family: distribution of a numeric target; None for classes.
        outside: rows with a value outside the training range.
        clusters: (n,) labels of rows that are not independent of each other; None if all are.
        data: what `data.json` holds.
        findings: what a user should know of the table before trusting a score.
    """

    task: Task
    schema: TableSchema
    split: Split
    x: np.ndarray
    y: np.ndarray
    family: Family | None
    outside: np.ndarray
    clusters: np.ndarray | None
    data: dict[str, Any]
    findings: tuple[Finding, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes; 0 for a number."""
        return len(self.schema.target.classes) if isinstance(self.schema.target, ClassTarget) else 0


def prepare_table(request: Request) -> Prepared:
    """Read, split, learn and encode; refuses what cannot be fitted.

    Raises:
        UserError: anything wrong with the table, see `thalweg.data`.
    """
    source = request.table.name
    frame = read_table(request.table)
    notes = list(frame.attrs.get("notes", ()))
    task = request.task
    if task is None and request.settings.loss.family is not None:
        task = Task.NUMBER  # its losses are for numbers
    choice = infer_task(frame, request.target, task=task, source=source)
    frame, dropped = drop_missing_target(frame, request.target, source)
    settings = request.settings
    fractions = (1 - settings.validation - settings.test, settings.validation, settings.test)
    clusters = None
    if request.group is not None:
        groups = group_values(frame, request.group, source)
        kind, split = "group", group_split(groups, request.seed, fractions)
        clusters = np.unique(groups, return_inverse=True)[1].ravel()
    elif request.time is not None:
        times = time_values(frame, request.time, source)
        kind, split = "time", time_split(times, fractions)
        clusters = _stretches(times)
    else:
        labels = frame[request.target].astype(str).to_numpy() if choice.task is Task.CLASSES else None
        kind, split = "random", random_split(len(frame), request.seed, fractions, labels)
    schema = learn_schema(
        frame,
        request.target,
        split.train,
        task=task,
        group=request.group,
        time=request.time,
        ignore=request.ignore,
        categorical=request.categorical,
        source=source,
    )
    found = audit(
        frame, request.target, split, task=choice.task, group=request.group, time=request.time,
        ignore=(*request.ignore, *schema.dropped), seed=request.seed, source=source,
    )  # fmt: skip
    if not settings.copied_target:
        refuse_copied_target(found.findings, source, len(schema.features))
    encoded = schema.encode(frame, source)
    y = schema.encode_target(frame, source)
    chosen = _family(request, choice.task, frame, encoded.features, y, split.train)
    description = schema.to_json()
    data = {
        "source": str(request.table),
        "rows": len(frame),
        "split": {"kind": kind, **{part: len(getattr(split, part)) for part in ("train", "validation", "test")}},
        "notes": [*notes, *dropped, *schema.notes, chosen.reason, *encoded.notes, *found.notes],
        "features": description["features"],
        "dropped": list(schema.dropped),
        "target": description["target"],
    }
    return Prepared(
        choice.task,
        schema,
        split,
        encoded.features,
        y,
        chosen.family,
        np.asarray(encoded.outside.any(axis=1)),
        clusters,
        data,
        tuple(told(one) for one in found.findings),
    )


def _family(
    request: Request, task: Task, frame: "pd.DataFrame", x: np.ndarray, y: np.ndarray, train: np.ndarray
) -> FamilyChoice:
    """The distribution of the target; a family asked for that cannot have such a target is refused by its row."""
    asked = request.settings.loss.family
    if task is Task.CLASSES:
        if asked is not None:
            raise UserError(
                f"the loss {asked.value} is for numbers, but the target '{request.target}' holds classes",
                where=request.table.name,
                remedy="Leave the loss out, or ask for a number (--task number)",
            )
        return FamilyChoice(None, "the loss is the cross-entropy of the classes")
    if asked is not None and not (fits := asked.takes(y)).all():
        row = int(np.argmin(fits))
        raise UserError(
            f"the loss {asked.value} takes {asked.domain}, but the target '{request.target}' is {y[row]:g}",
            where=f"{request.table.name}, {row_name(frame, row)}",
            remedy="Leave the loss to be chosen (--set loss=auto), or take gaussian or student_t",
        )
    if asked is not None and asked in LOGARITHMS:
        logs = LOGARITHMS[asked](y)
        what = f"the {'logit' if asked is Family.LOGIT_NORMAL else 'logarithm'} of target '{request.target}'"
        check_resolution(logs[train], logs, what, where=request.table.name)
    return choose_family(x[train], y[train], y, name=request.target, asked=asked, seed=request.seed)


LOGARITHMS = {
    Family.LOG_NORMAL: np.log,
    Family.LOGIT_NORMAL: lambda y: np.log(y) - np.log1p(-y),
    Family.POISSON: lambda y: np.log(y + 0.5),
    Family.NEGATIVE_BINOMIAL: lambda y: np.log(y + 0.5),
}
"""Where a family takes the target's logarithm, whose spread must not be lost either."""


def _stretches(times: np.ndarray) -> np.ndarray:
    """A label for each of about √n stretches of consecutive rows: what is near in time is alike."""
    rank = np.empty(len(times), int)
    rank[np.argsort(times, kind="stable")] = np.arange(len(times))
    return rank // max(1, round(len(times) ** 0.5))

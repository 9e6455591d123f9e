"""From a file to what a network can take: read, split, learned schema, encoded rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.data import (
    ClassTarget,
    Split,
    TableSchema,
    Task,
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
from thalweg.tables.request import Request


@dataclass(frozen=True)
class Prepared:
    """A table ready to fit.

    Attributes:
        task: number or classes.
        schema: learned from the training rows.
        split: row numbers of each part.
        x: encoded rows (n, d), float64.
        y: target (n,), float64 or class codes int64.
        outside: rows with a value outside the training range.
        data: what `data.json` holds.
    """

    task: Task
    schema: TableSchema
    split: Split
    x: np.ndarray
    y: np.ndarray
    outside: np.ndarray
    data: dict[str, Any]

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
    choice = infer_task(frame, request.target, task=request.task, source=source)
    frame, dropped = drop_missing_target(frame, request.target, source)
    settings = request.settings
    fractions = (1 - settings.validation - settings.test, settings.validation, settings.test)
    if request.group is not None:
        kind, split = "group", group_split(group_values(frame, request.group, source), request.seed, fractions)
    elif request.time is not None:
        kind, split = "time", time_split(time_values(frame, request.time, source), fractions)
    else:
        labels = frame[request.target].astype(str).to_numpy() if choice.task is Task.CLASSES else None
        kind, split = "random", random_split(len(frame), request.seed, fractions, labels)
    schema = learn_schema(
        frame,
        request.target,
        split.train,
        task=request.task,
        group=request.group,
        time=request.time,
        ignore=request.ignore,
        categorical=request.categorical,
        source=source,
    )
    encoded = schema.encode(frame, source)
    description = schema.to_json()
    data = {
        "source": str(request.table),
        "rows": len(frame),
        "split": {"kind": kind, **{part: len(getattr(split, part)) for part in ("train", "validation", "test")}},
        "notes": [*notes, *dropped, *schema.notes, *encoded.notes],
        "features": description["features"],
        "dropped": list(schema.dropped),
        "target": description["target"],
    }
    return Prepared(
        choice.task,
        schema,
        split,
        encoded.features,
        schema.encode_target(frame, source),
        np.asarray(encoded.outside.any(axis=1)),
        data,
    )

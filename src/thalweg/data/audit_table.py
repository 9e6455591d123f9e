"""What an audit looks at: columns as codes and as ranks, the target as numbers, and which rows are tested on which."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from thalweg.data.columns import (
    Kind,
    categories_of,
    check_names,
    column,
    kind_of,
    numbers_of,
    require_columns,
    row_name,
)
from thalweg.data.learn import Task, drop_missing_target, infer_task
from thalweg.data.splits import Split
from thalweg.errors import UserError


@dataclass(frozen=True, eq=False)
class Audited:
    """One column.

    Attributes:
        name: the column's.
        codes: shape (n,), int64: rows of equal value have equal codes; missing values are a value of their own.
        numbers: shape (n,), float64, NaN where missing; None for text.
        different: number of different values.
    """

    name: str
    codes: np.ndarray
    numbers: np.ndarray | None
    different: int


@dataclass(frozen=True, eq=False)
class Examined:
    """A table under examination.

    Attributes:
        frame: its rows that have a target.
        features: the columns that a model could use.
        target: the target.
        classes: whether the target is classes.
        y: shape (n, k), float64: the target, or for classes an indicator of each.
        seen: positions of the rows that the model is made from: training and validation.
        split: of the rows.
        notes: what was not looked at.
    """

    frame: pd.DataFrame
    features: tuple[Audited, ...]
    target: Audited
    classes: bool
    y: np.ndarray
    seen: np.ndarray
    split: Split
    notes: tuple[str, ...]

    @property
    def test(self) -> np.ndarray:
        """Positions of the rows that are held out."""
        return self.split.test

    def name(self, row: int) -> str:
        """How a message names a row."""
        return row_name(self.frame, int(row))


MOST_CLASSES = 20  # indicators of the most frequent ones; the others are rare


def examine(
    frame: pd.DataFrame, target: str, split: Split, *, task: Task | None, leave_out: tuple[str, ...], source: str
) -> Examined:
    """A table as the audit looks at it.

    Raises:
        UserError: no such column, a target that is none (see `infer_task`) or is missing in some rows, a split of other
            rows, no feature, infinite values in the target.
    """
    names = check_names(frame.columns, source)
    require_columns(frame, [target, *leave_out], "column", source)
    if target in leave_out:
        raise UserError(f"the target '{target}' is also a group, a time or left out", where=source)
    choice = infer_task(frame, target, task=task, source=source)
    if len(drop_missing_target(frame, target, source)[0]) < len(frame):
        raise UserError(
            f"rows have no value of the target '{target}'", where=source, remedy="Leave them out: drop_missing_target"
        )
    split = _check(split, len(frame), source)
    features, notes = [], []
    for name in names:
        if name == target or name in leave_out:
            continue
        try:
            features.append(_audited(frame, name, source))
        except UserError as error:
            notes.append(f"{error.what}: not looked at")
    if not features:
        raise UserError("no column is left to audit", where=source, remedy="Leave out fewer columns")
    goal = _audited(frame, target, source)
    classes = choice.task is Task.CLASSES
    if classes:
        frequent = np.argsort(-np.bincount(goal.codes), kind="stable")[:MOST_CLASSES]
        y = (goal.codes[:, None] == frequent).astype(np.float64)
    elif goal.numbers is None or not np.isfinite(goal.numbers).all():
        raise UserError(
            f"target '{target}' holds infinite values", where=source, remedy="Correct them or leave them out"
        )
    else:
        y = goal.numbers[:, None]
    seen = np.sort(np.concatenate([split.train, split.validation]))
    return Examined(frame, tuple(features), goal, classes, y, seen, split, tuple(notes))


MOST_SWITCHES = 500  # columns of zeros and ones that are compared with each other


def one_of_each(columns: tuple[Audited, ...]) -> tuple[Audited, ...]:
    """The same columns, with those of zeros and ones of which never two are 1 (dummies of one name) taken for one.

    Rows of dummies never differ in one column alone; whoever counts such rows must count names.
    """
    is_switch = lambda one: one.numbers is not None and one.different == 2 and set(np.unique(one.numbers)) == {0.0, 1.0}
    switches = [one for one in columns if is_switch(one)][:MOST_SWITCHES]
    if len(switches) < 3:
        return columns
    on = np.column_stack([one.numbers == 1 for one in switches if one.numbers is not None])
    apart = on.T.astype(np.float32) @ on.astype(np.float32) == 0
    free, merged, taken = list(range(len(switches))), [], set()
    while free:
        together = [free.pop(0)]
        for other in list(free):
            if apart[other, together].all():
                together.append(other)
                free.remove(other)
        if len(together) >= 3:
            codes = on[:, together] @ np.arange(1, len(together) + 1)
            taken |= {switches[i].name for i in together}
            merged.append(Audited(switches[together[0]].name, codes, None, len(np.unique(codes))))
    return (*(one for one in columns if one.name not in taken), *merged)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks in (0, 1) along the first axis, equal values alike, missing ones in the middle; of no scale, never huge."""
    from scipy.stats import rankdata

    found = rankdata(values, axis=0, nan_policy="omit") / (len(values) + 1)
    return np.where(np.isnan(found), 0.5, found)


def _audited(frame: pd.DataFrame, name: str, source: str) -> Audited:
    series = column(frame, name)
    kind = kind_of(series)
    if kind is Kind.OTHER:
        raise UserError(f"column '{name}' holds {kind.value}", where=source)
    if kind is Kind.TEXT:
        codes = categories_of(frame, name, source)[0]
        numbers = None
    elif kind is Kind.DATE:
        dates = pd.Series(pd.to_datetime(series, format="ISO8601", utc=True))
        numbers = (dates - dates.min()).dt.total_seconds().to_numpy(dtype=np.float64, na_value=np.nan)
        codes = _codes(numbers)
    else:
        numbers = numbers_of(series)[0]
        codes = _codes(numbers)
    return Audited(name, codes - codes.min(), numbers, len(np.unique(codes)))


def _codes(numbers: np.ndarray) -> np.ndarray:
    return np.unique(numbers + 0.0, return_inverse=True)[1].ravel().astype(np.int64)  # -0.0 becomes 0.0


def _check(split: Split, n: int, source: str) -> Split:
    parts = [np.asarray(part) for part in split]
    if any(len(part) and part.dtype.kind not in "iu" for part in parts):
        raise UserError("the split's rows must be whole numbers", where=source, remedy="Positions, counted from 0")
    split = Split(*(part.astype(np.int64) for part in parts))
    rows = np.concatenate(list(split))
    if len(np.unique(rows)) < len(rows):
        raise UserError("a row is in two parts of the split", where=source, remedy="Put each row into one part")
    if len(rows) and not 0 <= rows.min() <= rows.max() < n:
        raise UserError(f"the split names rows beyond the {n} of the table", where=source)
    for part in ("train", "test"):
        if not len(getattr(split, part)):
            raise UserError(
                f"the split has no {part} rows", where=source, remedy="An audit compares test with training"
            )
    return split

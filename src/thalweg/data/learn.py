"""Learn a schema from the training rows of a table, and say what was decided."""

import enum
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from thalweg.data.columns import (
    Kind,
    categories_of,
    check_names,
    column,
    finite_numbers,
    kind_of,
    numbers_of,
    quoted,
    require_columns,
)
from thalweg.data.resolution import TARGET_RANGE, check_resolution, step_of
from thalweg.data.schema import MISSING, CategoricalColumn, ClassTarget, NumberTarget, NumericColumn, TableSchema
from thalweg.data.splits import MINIMUM_ROWS
from thalweg.errors import UserError

FEW = 20  # distinct values that are always few enough for categories
FEW_SHARE = 0.05  # and as a share of the rows
MANY = 100  # distinct values that are never few enough, unless the user names the column as categorical


class Task(enum.Enum):
    """What a target is: a number to regress on, or classes to choose from."""

    NUMBER = "number"
    CLASSES = "classes"


@dataclass(frozen=True)
class TaskChoice:
    """What the target is taken for; `reason` says in a sentence what was chosen and why."""

    task: Task
    reason: str


def infer_task(frame: pd.DataFrame, target: str, *, task: Task | None = None, source: str = "the table") -> TaskChoice:
    """What the target is: numbers or classes.

    Without `task`: text and booleans are classes (up to 20 different ones, or 5 % of the rows); two different whole
    numbers are classes; so are whole numbers that count without a gap from 0 or 1 to at most 20 values, if the
    values are at most 5 % of the rows; everything else is a number. (So digits 0 … 9 and wines 0 … 2 are classes, and
    a disease score between 25 and 346 is a number.)

    Args:
        frame: the table; rows without a target do not count.
        target: its target column.
        task: the user's own choice.
        source: the file's name, for messages.
    Raises:
        UserError: no such column, no or too few rows with a value, a constant or infinite target, dates, text where
            `task` is NUMBER, text with too many different values to be classes.

    >>> infer_task(pd.DataFrame({"sold": [True, False, True, True]}), "sold").reason
    "target 'sold' is taken as classes: it holds text with 2 different values"
    """
    check_names(frame.columns, source)
    require_columns(frame, [target], "target column", source)
    series = column(frame, target)
    rows = int(series.notna().sum())
    if rows < MINIMUM_ROWS:
        raise UserError(
            f"the table has {rows} {'row' if rows == 1 else 'rows'} with a value of the target '{target}'",
            where=source,
            remedy=f"At least {MINIMUM_ROWS} are needed, to train, validate and test on different rows",
        )
    kind = kind_of(series)
    if kind in (Kind.DATE, Kind.OTHER):
        raise UserError(
            f"target column '{target}' holds {kind.value}", where=source, remedy="A target holds numbers or classes"
        )
    if kind is Kind.TEXT and task is not Task.CLASSES and (task is Task.NUMBER or _strays_among_numbers(series)):
        finite_numbers(frame, target, source)  # names the row and its text
    values = finite_numbers(frame, target, source) if kind is Kind.NUMBER else np.empty(0)
    different = len(categories_of(frame, target, source)[1]) if kind is Kind.TEXT else int(series.nunique())
    if different < 2:
        raise UserError(
            f"target column '{target}' is constant: every row has '{series.dropna().iloc[0]}'",
            where=source,
            remedy="There is nothing to predict; choose another target",
        )
    few = max(FEW, FEW_SHARE * rows)
    if task is not None:
        if task is Task.CLASSES and different > rows / 2:
            raise UserError(
                f"target column '{target}' has {different} different values in {rows} rows: too many for classes",
                where=source,
                remedy="Group them into fewer classes, or take the target as a number",
            )
        return TaskChoice(task, f"target '{target}' is taken as {_as(task)}: as asked")
    if kind is Kind.TEXT:
        if different > few:
            raise UserError(
                f"target column '{target}' holds text with {different} different values: neither a number nor classes",
                where=source,
                remedy=f"Classes may have {int(few)} values here; choose another target or group its values",
            )
        return TaskChoice(
            Task.CLASSES, f"target '{target}' is taken as classes: it holds text with {different} different values"
        )
    present = values[~np.isnan(values)]
    low, high = present.min(), present.max()
    whole = bool((present == np.round(present)).all())
    gapless = low in (0, 1) and high - low + 1 == different
    if whole and (different == 2 or (gapless and different <= min(FEW, FEW_SHARE * rows))):
        listed = f"{low:.0f} and {high:.0f}" if different == 2 else f"{low:.0f}, {low + 1:.0f} … {high:.0f}"
        return TaskChoice(
            Task.CLASSES,
            f"target '{target}' is taken as classes: it holds only the whole numbers {listed} (if they are amounts, "
            "ask for a number)",
        )
    return TaskChoice(
        Task.NUMBER,
        f"target '{target}' is taken as a number: it holds {different} different values from {low:g} to {high:g}"
        + (" (if they are codes, ask for classes)" if whole and different <= FEW else ""),
    )


def _as(task: Task) -> str:
    return "classes" if task is Task.CLASSES else "a number"


def drop_missing_target(
    frame: pd.DataFrame, target: str, source: str = "the table"
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows that have a target, and a note that counts the others.

    Raises:
        UserError: there is no such column, or no row has a value in it.

    >>> drop_missing_target(pd.DataFrame({"x": [1, 2, 3], "y": [1.0, None, 2.0]}), "y")[1]
    ("1 of 3 rows has no value of the target 'y' and is left out",)
    """
    check_names(frame.columns, source)
    require_columns(frame, [target], "target column", source)
    missing = column(frame, target).isna().to_numpy()
    if missing.all():
        raise UserError(f"target column '{target}' has no values", where=source, remedy="Choose another target")
    if not missing.any():
        return frame, ()
    count = f"{missing.sum()} of {len(frame)} rows {'has' if missing.sum() == 1 else 'have'}"
    verb = "is" if missing.sum() == 1 else "are"
    return frame.iloc[np.flatnonzero(~missing)], (f"{count} no value of the target '{target}' and {verb} left out",)


def learn_schema(
    frame: pd.DataFrame,
    target: str,
    rows: np.ndarray,
    *,
    task: Task | None = None,
    group: str | None = None,
    time: str | None = None,
    ignore: Collection[str] = (),
    categorical: Collection[str] = (),
    source: str = "the table",
) -> TableSchema:
    """Learn how to encode a table; the rule is in the docstring of `thalweg.data.schema`.

    Fills, ranges, categories and what is constant come from the training rows only. From all rows come: whether
    a column holds numbers or text, the refusal of values that nothing could use, and the names of the classes
    (a class that no training row has is noted).

    Text with more than 20 different values that are also more than 5 % of the training rows, or with more than 100, is
    refused as a feature unless `categorical` names it; dates are refused as features.

    Args:
        frame: the whole table, each row with a target (`drop_missing_target`).
        target: the target column.
        rows: positions of the training rows, shape (m,), at least two.
        task: what the target is, if `infer_task` should not decide.
        group: a column that is no feature but names groups.
        time: a column that is no feature but tells the time.
        ignore: columns that are no features.
        categorical: columns of numbers that are names (codes), or of text with many values.
        source: the file's name, for messages.
    Raises:
        UserError: names the column (and the row) of anything that cannot be learned from, and the remedy.

    >>> frame = pd.DataFrame({"age": [30, None, 50, 20], "city": ["Bern", "Rom", "Bern", "Wien"], "cost": [1, 5, 3, 4]})
    >>> learn_schema(frame, "cost", np.array([0, 1, 2])).feature_names
    ('age', 'age is missing', 'city=Bern', 'city=Rom')
    """
    names = check_names(frame.columns, source)
    choice = infer_task(frame, target, task=task, source=source)
    roles = {name: role for name, role in ((group, "group"), (time, "time")) if name is not None}
    for name, role in roles.items():
        require_columns(frame, [name], f"{role} column", source)
    require_columns(frame, ignore, "ignored column", source)
    require_columns(frame, categorical, "categorical column", source)
    for name in [target, *categorical]:
        if name in roles or name in ignore:
            other = roles.get(name, "ignored")
            mine = "target" if name == target else "categorical"
            raise UserError(f"column '{name}' cannot be both {mine} and {other}", where=source)
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise UserError(
            f"the training rows are no positions but {rows.dtype}, shape {rows.shape}",
            where=source,
            remedy="Give whole numbers, shape (m,)",
        )
    if len(rows) < 2:
        raise UserError(
            f"{len(rows)} training {'row' if len(rows) == 1 else 'rows'}",
            where=source,
            remedy="At least 2 training rows are needed",
        )
    train = frame.iloc[rows]
    goal, notes = _target(frame, target, rows, choice.task, source)
    features, dropped = [], []
    for name in names:
        if name == target or name in roles or name in ignore:
            continue
        feature = _feature(frame, train, name, name in categorical, source)
        (dropped if feature is None else features).append(name if feature is None else feature)
        if isinstance(feature, NumericColumn):
            notes += _resolved(frame, rows, feature, source)
    if dropped:
        notes.append(f"columns that are constant in the training rows are left out: {quoted(dropped)}")
    if not features:
        raise UserError("no column is left to predict from", where=source, remedy="; ".join(notes) or None)
    return TableSchema(
        tuple(features),
        goal,
        len(rows),
        group,
        time,
        tuple(dict.fromkeys(ignore)),
        tuple(dropped),
        (choice.reason, *notes),
    )


def _target(
    frame: pd.DataFrame, name: str, rows: np.ndarray, task: Task, source: str
) -> tuple[NumberTarget | ClassTarget, list[str]]:
    if task is Task.NUMBER:
        values = finite_numbers(frame, name, source)[rows]
        goal = NumberTarget(name, float(np.nanmin(values)), float(np.nanmax(values)))
        different = 1 if goal.low == goal.high else 2
    else:
        codes, classes = categories_of(frame, name, source)
        goal = ClassTarget(name, _sorted(classes))
        different = len(np.unique(codes[rows]))
    if different < 2:
        raise UserError(
            f"target column '{name}' is constant in the training rows",
            where=source,
            remedy="Use another seed, or another way to split the rows",
        )
    goal_values = TableSchema((), goal, len(rows)).encode_target(frame, source)  # refuses missing values
    if isinstance(goal, NumberTarget):
        rounded = step_of(column(frame, name))
        return goal, check_resolution(
            goal_values[rows], goal_values, f"target '{name}'", where=source, step=rounded, bounds=TARGET_RANGE
        )
    notes = []
    everywhere = np.bincount(goal_values, minlength=len(goal.classes))
    training = np.bincount(goal_values[rows], minlength=len(goal.classes))
    if (everywhere == 1).any():
        single = [goal.classes[place] for place in np.flatnonzero(everywhere == 1)]
        notes.append(f"classes with a single row, which cannot be trained and tested: {quoted(single)}")
    if (training == 0).any():
        absent = [goal.classes[place] for place in np.flatnonzero(training == 0)]
        notes.append(f"classes without a training row, which cannot be learned: {quoted(absent)}")
    return goal, notes


def _feature(
    frame: pd.DataFrame, train: pd.DataFrame, name: str, categorical: bool, source: str
) -> NumericColumn | CategoricalColumn | None:
    """What the training rows say about a column; None if they are constant there."""
    series = column(frame, name)
    kind = kind_of(series)
    ignore = f"--ignore {name}"
    if kind is Kind.DATE:
        raise UserError(
            f"column '{name}' holds dates, which are no features",
            where=source,
            remedy=f"Leave it out ({ignore}), split by it (--time {name}), or replace it by a number such as days",
        )
    if kind is Kind.OTHER:
        raise UserError(f"column '{name}' holds {kind.value}", where=source, remedy=f"Leave it out ({ignore})")
    if not column(train, name).notna().any():
        which = "any row" if series.isna().all() else "the training rows"
        raise UserError(
            f"column '{name}' has no value in {which}",
            where=source,
            remedy=f"Leave it out ({ignore})",
        )
    if kind is Kind.NUMBER and not categorical:
        finite_numbers(frame, name, source)
        values = finite_numbers(train, name, source)
        missing = np.isnan(values)
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if low == high and not missing.any():
            return None
        return NumericColumn(name, float(np.nanmedian(values)), low, high, bool(missing.any()))
    codes, categories = categories_of(train, name, source)
    if not categorical:
        many = len(categories) > min(max(FEW, FEW_SHARE * len(train)), MANY)
        if _strays_among_numbers(series, many):
            finite_numbers(frame, name, source)  # names the row and its text
        if many:
            raise UserError(
                f"column '{name}' holds text with {len(categories)} different values in {len(train)} training rows",
                where=source,
                remedy=f"Leave it out ({ignore}), keep its rows together (--group {name}), "
                f"or take it as categories all the same (--categorical {name})",
            )
    if (codes < 0).any() and MISSING not in categories:
        categories.append(MISSING)
    return CategoricalColumn(name, _sorted(categories)) if len(categories) > 1 else None


def _resolved(frame: pd.DataFrame, rows: np.ndarray, feature: NumericColumn, source: str) -> list[str]:
    """Refuse a column whose variation is lost; a note where little of it is left."""
    values = finite_numbers(frame, feature.name, source)
    train = values[rows]
    train = train[~np.isnan(train)]
    if feature.low == feature.high:  # only whether it is missing varies
        return []
    what, leave_out = f"column '{feature.name}'", f"--ignore {feature.name}"
    rounded = step_of(column(frame, feature.name))
    return check_resolution(train, values[~np.isnan(values)], what, where=source, leave_out=leave_out, step=rounded)


def _strays_among_numbers(series: pd.Series, many: bool = False) -> bool:
    """Whether text is mostly numbers, with something else in between.

    "0", "1", "2", "3+" are categories; numbers with decimals, or many different ones, with a "?" among them are not.
    """
    values, _ = numbers_of(pd.Series(series.dropna().unique()))
    numbers = values[~np.isnan(values)]
    return 2 * len(numbers) >= len(values) and (many or bool((numbers != np.round(numbers)).any()))


def _sorted(categories: list[str]) -> tuple[str, ...]:
    """Numbers by size, before text by letters; "(missing)" last."""

    def rank(category: str) -> tuple[bool, float, str]:
        number = numbers_of(pd.Series([category], dtype=object))[0][0]
        return category == MISSING, float(number) if np.isfinite(number) else np.inf, category

    return tuple(sorted(categories, key=rank))

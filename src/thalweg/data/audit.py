"""The leakage audit: what in a table, or in the way it is split, would make a test score too good to be true.

Each check has a stated null and compares with it, so that what merely looks like a leak is passed over: equal rows in a
table of few values, numbers with ties, strong features, rows that are there twice but in one part.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from thalweg.data.audit_order import alike_in_order, row_counters, undeclared_groups
from thalweg.data.audit_rows import Near, equal_rows, kin_by_names, nearly_equal_rows
from thalweg.data.audit_table import Examined, examine, one_of_each
from thalweg.data.audit_target import copies_of_target
from thalweg.data.columns import group_values, quoted, time_values
from thalweg.data.learn import Task
from thalweg.data.splits import Split

if TYPE_CHECKING:
    import pandas as pd


class LeakKind(enum.Enum):
    """What leaks; the value is the finding's name."""

    DUPLICATE_ROWS = "duplicate-rows"
    NEAR_DUPLICATES = "near-duplicates"
    SHARED_GROUPS = "shared-groups"
    UNDECLARED_GROUPS = "undeclared-groups"
    TARGET_COPIED = "target-copied"
    TIME_ORDER = "time-order"
    ROW_ORDER = "row-order"
    INDEX_COLUMN = "index-column"


@dataclass(frozen=True)
class Leak:
    """One leak.

    Attributes:
        kind: what leaks.
        sure: whether there is no innocent reading; else it is likely.
        evidence: what was found, with figures.
        remedy: what to do.
        columns: through which.
        rows: pairs of positions (test row, its like among the rows seen).
        figures: what the evidence rests on, by name.
    """

    kind: LeakKind
    sure: bool
    evidence: str
    remedy: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[int, int], ...] = ()
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        findings: the leaks, the surest first; empty if there are none.
        notes: sentences: what was not looked at, and what was seen but is no leak.
    """

    findings: tuple[Leak, ...]
    notes: tuple[str, ...] = ()

    @property
    def kinds(self) -> set[LeakKind]:
        """The kinds of leaks that were found."""
        return {one.kind for one in self.findings}


def audit(
    frame: "pd.DataFrame",
    target: str,
    split: Split,
    *,
    task: Task | None = None,
    group: str | None = None,
    time: str | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
    source: str = "the table",
) -> Audit:
    """Look for leaks from the test rows of a split into the others.

    Examined are copies and near-copies of rows, groups on both sides (also those that nobody declared), the order of
    time and of the file, columns that number the rows, and columns that are the target in another dress. The cost
    grows as n log n; of more than 1,000 test rows the neighbours of 1,000 are looked for, drawn at random.

    Args:
        frame: the table; each row has a target (`drop_missing_target`).
        target: the target column.
        split: of its rows; the validation part may be empty.
        task: what the target is; None lets it say itself.
        group: a column whose values no two parts may share; it is no feature.
        time: a column by which training rows are to be earlier than test rows; it is no feature.
        ignore: columns that are no features.
        seed: of the draw.
        source: the file's name, for messages.
    Raises:
        UserError: no such column, a missing group or time, no feature, a row in two parts, no training or test rows,
            and what `infer_task` refuses.

    >>> import pandas as pd
    >>> from thalweg.data import random_split
    >>> rng = np.random.default_rng(0)
    >>> frame = pd.DataFrame({"mass": rng.normal(size=60), "age": rng.normal(size=60)})
    >>> frame["price"] = frame["mass"] + rng.normal(size=60)
    >>> audit(frame, "price", random_split(60, 0)).findings
    ()
    >>> frame["price_usd"] = 1.1 * frame["price"]
    >>> [(one.kind.value, one.columns) for one in audit(frame, "price", random_split(60, 0)).findings]
    [('target-copied', ('price_usd',))]
    """
    ignore = (ignore,) if isinstance(ignore, str) else ignore
    left_out = tuple(dict.fromkeys(name for name in (group, time, *ignore) if name is not None))
    table = examine(frame, target, split, task=task, leave_out=left_out, source=source)
    notes = list(table.notes)
    found = [*_target(table), *_copies(table, notes), *_near(table, seed, notes)]
    copied = {name for one in found for name in one.columns}
    twins = np.array([test for one in found for test, _ in one.rows], np.int64)
    groups = None
    if group is not None:
        names = group_values(frame, group, source)
        found += _groups(table, group, names)
        groups = np.unique(names, return_inverse=True)[1].ravel()
    found += _undeclared(table, copied, twins, groups)
    times = None if time is None else time_values(frame, time, source)
    if times is not None:
        found += _time(table, str(time), times)
    found += [*_file_order(table, times, group, notes), *_counters(table)]
    return Audit(tuple(sorted(found, key=lambda one: not one.sure)), tuple(notes))


def _target(table: Examined) -> list[Leak]:
    found = []
    for one in copies_of_target(table):
        share = "" if one.dress.sure else f" ({100 * one.score:.2f} % of it, on rows apart)"
        found.append(
            Leak(
                LeakKind.TARGET_COPIED,
                one.dress.sure,
                f"column '{one.column}' {one.dress.value}, in {one.rows} rows{share}",
                f"Leave it out (--ignore {one.column}), unless it is known before the target is",
                (one.column,),
                figures={"score": one.score, "rows": one.rows},
            )
        )
    return found


def _copies(table: Examined, notes: list[str]) -> list[Leak]:
    """Equal rows across the split; and rows equal in all but the target, as of one thing measured twice."""
    features = one_of_each(table.features)
    columns, split = (*features, table.target), table.split
    pairs = (
        ("test", split.test, "training", split.train),
        ("validation", split.validation, "training", split.train),
        ("test", split.test, "validation", split.validation),
    )
    told, first, rows = [], None, []
    surprising = equal_rows(columns, split.test, table.seen, None).surprising
    for part, own, other, others in pairs:
        if not len(own) or not len(others):
            continue
        found = equal_rows(columns, own, others, None)
        surprising = surprising or found.surprising
        if len(found.rows):
            told.append(f"{len(found.rows)} of {len(own)} {part} rows have an equal row in the {other} rows")
            rows += zip(found.rows.tolist(), found.twins.tolist(), strict=True)
            first = first or f"{table.name(found.rows[0])} equals {table.name(found.twins[0])}"
    if told and surprising:
        remedy = (
            "If they are one case entered or measured again, remove the copies or keep them in one part (--group "
            "COLUMN); if they are different cases that happen to be equal, the scores stand"
        )
        evidence = f"{'; '.join(told)} (such as: {first})"
        figures = {"copies": float(len(rows))}
        return [Leak(LeakKind.DUPLICATE_ROWS, True, evidence, remedy, rows=tuple(rows), figures=figures)]
    if told:
        notes.append(f"{'; '.join(told)}: no more than rows of so few different values have by chance")
    same = equal_rows(features, table.test, table.seen, table.target.codes)
    if not same.surprising:
        return []
    evidence = (
        f"{len(same.rows)} of {len(table.test)} test rows equal a training or validation row in every column but the "
        f"target (such as: {table.name(same.rows[0])} and {table.name(same.twins[0])})"
    )
    remedy = "If they are one case measured again, keep it in one part (--group COLUMN)"
    both = tuple(zip(same.rows.tolist(), same.twins.tolist(), strict=True))
    figures = {"copies": float(len(same.rows))}
    return [Leak(LeakKind.NEAR_DUPLICATES, False, evidence, remedy, rows=both, figures=figures)]


def _near(table: Examined, seed: int, notes: list[str]) -> list[Leak]:
    near, kin = nearly_equal_rows(table, seed), kin_by_names(table, seed)
    if near is None and kin is None:
        notes.append("too few rows or columns of many values to tell whether rows are nearly equal")
    found = [one for one in (near, kin) if one is not None and one.surprising]
    return [_nearly(table, max(found, key=lambda one: len(one.rows)), found[0] is kin)] if found else []


def _nearly(table: Examined, near: Near, by_names: bool) -> Leak:
    measure = "the columns in which a row at random differs" if by_names else "the usual distance of the nearest rows"
    evidence = (
        f"{len(near.rows)} of {near.examined} test rows nearly equal a training or validation row: in the median they "
        f"differ by {100 * np.median(near.share):.2g} % of {measure} (such as: {table.name(near.rows[0])} and "
        f"{table.name(near.twins[0])})"
    )
    remedy = "If they are kin or one case measured again, split by what they share (--group COLUMN or --split cluster)"
    figures = {"rows": float(len(near.rows)), "examined": float(near.examined), "share": float(np.median(near.share))}
    both = tuple(zip(near.rows.tolist(), near.twins.tolist(), strict=True))
    return Leak(LeakKind.NEAR_DUPLICATES, False, evidence, remedy, rows=both, figures=figures)


def _groups(table: Examined, name: str, groups: np.ndarray) -> list[Leak]:
    shared = np.isin(groups[table.test], groups[table.seen])
    if not shared.any():
        return []
    rows = table.test[shared]
    twins = [int(table.seen[np.argmax(groups[table.seen] == groups[row])]) for row in rows[:100]]
    count = len(np.unique(groups[rows]))
    evidence = (
        f"{count} of {len(np.unique(groups))} groups of '{name}' have rows in the test and in training or validation: "
        f"{len(rows)} of {len(table.test)} test rows (such as: {table.name(rows[0])} and {table.name(twins[0])})"
    )
    both = tuple(zip(rows[:100].tolist(), twins, strict=True))
    remedy = f"Keep each group in one part (--group {name})"
    return [Leak(LeakKind.SHARED_GROUPS, True, evidence, remedy, (name,), both, {"groups": float(count)})]


def _undeclared(table: Examined, copied: set[str], twins: np.ndarray, groups: np.ndarray | None) -> list[Leak]:
    found = []
    for one in undeclared_groups(table, copied, twins, groups):
        evidence = (
            f"column '{one.column}' has {one.different} values, which repeat; {one.paired} of {len(table.test)} test "
            f"rows share theirs with seen rows, and their targets correlate by {one.correlation:.2f} beyond what near "
            f"values explain (such as: {table.name(one.row)} and {table.name(one.twin)})"
        )
        remedy = f"If it names a thing that new rows will not be of, keep its rows together (--group {one.column})"
        figures = {"correlation": one.correlation, "rows": float(one.paired)}
        pair = ((one.row, one.twin),)
        found.append(Leak(LeakKind.UNDECLARED_GROUPS, False, evidence, remedy, (one.column,), pair, figures))
    return found


def _time(table: Examined, name: str, times: np.ndarray) -> list[Leak]:
    begins = times[table.test].min()
    late = table.seen[times[table.seen] > begins]
    if not len(late):
        return []
    first = table.test[np.argmin(times[table.test])]
    evidence = (
        f"{len(late)} of {len(table.seen)} training and validation rows are later by '{name}' than the first test row "
        f"(such as: {table.name(late[0])} is later than {table.name(first)})"
    )
    remedy = f"Test on the latest rows (--time {name})"
    pair = ((int(first), int(late[0])),)
    return [Leak(LeakKind.TIME_ORDER, True, evidence, remedy, (name,), pair, {"rows": float(len(late))})]


def _file_order(table: Examined, times: np.ndarray | None, group: str | None, notes: list[str]) -> list[Leak]:
    if times is not None or group is not None:
        return []  # the order that matters was declared, or rows of one group stand together and are kept so
    found = alike_in_order(table)
    if found is None:
        return []
    if found.sorted_by is not None:
        notes.append(
            f"the rows are sorted by '{found.sorted_by}', so that neighbours are alike: whether the file's order tells "
            f"more was not looked at. If it is a time or names a series, say so (--time or --group {found.sorted_by})"
        )
        return []
    evidence = (
        f"rows next to each other in the file are alike (correlation {found.correlation:.2f} of what the features do "
        f"not explain of the target), and {100 * found.between:.0f} % of the test rows stand beside a row seen before"
    )
    remedy = "If the order is that of time or of a series, split by it (--time COLUMN, or --group of the series)"
    figures = {"correlation": found.correlation, "between": found.between}
    return [Leak(LeakKind.ROW_ORDER, False, evidence, remedy, figures=figures)]


def _counters(table: Examined) -> list[Leak]:
    found = row_counters(table)
    if not found:
        return []
    names = tuple(name for name, _ in found)
    strongest = max(correlation for _, correlation in found)
    evidence = (
        f"{quoted(names)} number{'s' if len(names) == 1 else ''} the rows (correlation with the target: at most "
        f"{strongest:.2f} in size): what is learned from it holds for no other rows"
    )
    remedy = f"Leave it out ({' '.join(f'--ignore {name}' for name in names)}) unless it is a measurement"
    return [Leak(LeakKind.INDEX_COLUMN, False, evidence, remedy, names, figures={"correlation": strongest})]

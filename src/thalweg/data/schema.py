"""What a table looked like in training, and how a table becomes numbers.

A schema is learned once, from the training rows (`learn.learn_schema`), is saved with the model, and encodes every
later table in the same way.

**The stated rule**

- A numeric column gives its value. A missing value is replaced by the median of the training rows; if training rows
  had missing values there, a second feature says so (1 missing, 0 not). A missing value in a column that never missed
  one in training is replaced too, and the row is marked as outside.
- A categorical column gives one feature per category of the training rows, 1 for the row's own and 0 for the
  others. Missing is a category of its own, "(missing)", if training rows had it. A category that no training row had
  gives zeros only, and the row is marked as outside.
- A number below the lowest or above the highest of the training rows is kept, and the row is marked as outside.
- Columns that were constant in training are left out.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from thalweg.data.columns import (
    Kind,
    categories_of,
    check_names,
    column,
    finite_numbers,
    is_number,
    kind_of,
    quoted,
    require_columns,
    row_name,
    row_names,
)
from thalweg.errors import DamagedError, UserError

MISSING = "(missing)"
VERSION = 1


@dataclass(frozen=True)
class NumericColumn:
    """A feature of numbers, as the training rows had it.

    Args:
        name: the column.
        fill: what replaces a missing value: the median.
        low: the lowest value.
        high: the highest value.
        missing: whether values were missing; a second feature then marks them.
    """

    name: str
    fill: float
    low: float
    high: float
    missing: bool

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The name of each feature that the column gives."""
        return (self.name, f"{self.name} is missing") if self.missing else (self.name,)


@dataclass(frozen=True)
class CategoricalColumn:
    """A feature of categories.

    Args:
        name: the column.
        categories: those of the training rows, sorted; "(missing)" comes last, if it was there.
    """

    name: str
    categories: tuple[str, ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The name of each feature that the column gives."""
        return tuple(f"{self.name}={category}" for category in self.categories)


@dataclass(frozen=True)
class NumberTarget:
    """A target to regress on; `low` and `high` are its range in the training rows."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class ClassTarget:
    """A target to classify; `classes` are the names of the codes 0, 1, …"""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class EncodedTable:
    """A table as numbers.

    Args:
        features: shape (n, d), float64, finite.
        feature_names: d names, such as "age", "age is missing", "colour=red".
        outside: shape (n, m), bool: the value in column j of row i is outside what the training rows had.
        columns: the m columns that were encoded, in the order of `outside`.
        notes: sentences for the user.
    """

    features: np.ndarray
    feature_names: tuple[str, ...]
    outside: np.ndarray
    columns: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def outside_columns(self, row: int) -> tuple[str, ...]:
        """The columns in which the row at position `row` is outside."""
        return tuple(self.columns[place] for place in np.flatnonzero(self.outside[row]))


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table as its training rows had them.

    Args:
        features: the columns that are encoded, in this order.
        target: what is predicted.
        rows: number of training rows.
        group: the group column, no feature.
        time: the time column, no feature.
        ignored: columns left out because the user said so.
        dropped: columns left out because they were constant.
        notes: what was decided in learning, in sentences; the first says what the target is taken for, and why.

    >>> schema = TableSchema((NumericColumn("age", 40.0, 18.0, 90.0, False),), NumberTarget("dose", 0.0, 5.0), rows=99)
    >>> table = schema.encode(pd.DataFrame({"age": [50, 120], "name": ["A", "B"]}), "new.csv")
    >>> table.features.tolist(), table.outside_columns(1), table.notes
    ([[50.0], [120.0]], ('age',), ("columns that training did not have are not used: 'name'",))
    """

    features: tuple[NumericColumn | CategoricalColumn, ...]
    target: NumberTarget | ClassTarget
    rows: int
    group: str | None = None
    time: str | None = None
    ignored: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The d names of the encoded features."""
        return tuple(name for feature in self.features for name in feature.feature_names)

    def encode(self, frame: pd.DataFrame, source: str = "the table") -> EncodedTable:
        """Encode a table by the stated rule (the module's docstring); the target need not be there.

        Args:
            frame: a table with at least the columns of `features`; other columns are not used, unknown ones noted.
            source: the file's name, for messages.
        Raises:
            UserError: a column is missing, twice there, or of another type than in training (the row and the value
                are named), or a value is infinite.
        """
        names = check_names(frame.columns, source)
        require_columns(frame, [feature.name for feature in self.features], "column", source)
        blocks, outside = [], []
        for feature in self.features:
            if isinstance(feature, NumericColumn):
                block, beyond = _encode_numbers(frame, feature, source)
            else:
                block, beyond = _encode_categories(frame, feature, source)
            blocks.append(block)
            outside.append(beyond)
        known = {feature.name for feature in self.features} | {self.target.name, self.group, self.time}
        extra = [name for name in names if name not in known | set(self.ignored) | set(self.dropped)]
        return EncodedTable(
            np.concatenate(blocks, axis=1),
            self.feature_names,
            np.stack(outside, axis=1),
            tuple(feature.name for feature in self.features),
            (f"columns that training did not have are not used: {quoted(extra)}",) if extra else (),
        )

    def encode_target(self, frame: pd.DataFrame, source: str = "the table") -> np.ndarray:
        """The target, shape (n,): float64 numbers, or int64 codes into `target.classes`.

        Raises:
            UserError: the target is missing from the table (the nearest name is suggested) or from rows, is text
                where numbers were learned, is infinite, or is a class that was not learned.
        """
        check_names(frame.columns, source)
        name = self.target.name
        require_columns(frame, [name], "target column", source)
        if isinstance(self.target, NumberTarget):
            values = finite_numbers(frame, name, source)
            absent = np.isnan(values)
        else:
            values = _codes(frame, name, self.target.classes, source)
            absent = column(frame, name).isna().to_numpy()
        if absent.any():
            raise UserError(
                f"target column '{name}' has no value in {absent.sum()} of {len(frame)} rows",
                where=f"{source}, {row_names(frame, absent)}",
                remedy="Remove these rows (drop_missing_target)",
            )
        if isinstance(self.target, ClassTarget) and (unknown := values < 0).any():
            row = int(np.argmax(unknown))
            raise UserError(
                f"target column '{name}' holds the class '{column(frame, name).iloc[row]}', which was not learned",
                where=f"{source}, {row_name(frame, row)}",
                remedy=f"The classes are {quoted(self.target.classes)}",
            )
        return values

    def to_json(self) -> dict[str, Any]:
        """The schema as plain dicts, lists, text, numbers and booleans."""
        return {
            "version": VERSION,
            "features": [
                {"kind": _KINDS[type(feature)]} | _plain(feature)  # "kind" first: the file is read by people too
                for feature in self.features
            ],
            "target": {"kind": _KINDS[type(self.target)]} | _plain(self.target),
            "rows": self.rows,
            "group": self.group,
            "time": self.time,
            "ignored": list(self.ignored),
            "dropped": list(self.dropped),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: object, source: str = "the schema") -> "TableSchema":
        """The schema that `to_json` wrote.

        Raises:
            DamagedError: anything that `to_json` does not write: an unknown kind or version, a wrong type, a name
                twice, a range that is empty or not finite.
        """
        entries = _entries(value, "schema", source)
        if (version := entries.pop("version", None)) != VERSION:
            raise DamagedError(f"the schema has version {version!r}, this program reads {VERSION}", where=source)
        features = entries.pop("features", None)
        if not isinstance(features, list) or not features:
            raise DamagedError("the schema has no list of features", where=source)
        schema = _build(
            cls,
            entries
            | {
                "features": tuple(_column(feature, (NumericColumn, CategoricalColumn), source) for feature in features),
                "target": _column(entries.get("target"), (NumberTarget, ClassTarget), source),
            },
            source,
        )
        names = [feature.name for feature in schema.features] + [schema.target.name]
        if len(set(names)) < len(names):
            raise DamagedError("the schema names a column twice", where=source)
        return schema


_KINDS: dict[type, str] = {
    NumericColumn: "numeric",
    CategoricalColumn: "categorical",
    NumberTarget: "number",
    ClassTarget: "classes",
}


def _encode_numbers(frame: pd.DataFrame, feature: NumericColumn, source: str) -> tuple[np.ndarray, np.ndarray]:
    values = finite_numbers(frame, feature.name, source)
    missing = np.isnan(values)
    outside = (values < feature.low) | (values > feature.high)
    values = np.where(missing, feature.fill, values)
    if feature.missing:
        return np.stack([values, missing.astype(np.float64)], axis=1), outside
    return values[:, None], outside | missing


def _encode_categories(frame: pd.DataFrame, feature: CategoricalColumn, source: str) -> tuple[np.ndarray, np.ndarray]:
    series = column(frame, feature.name)
    codes = _codes(frame, feature.name, feature.categories, source)
    kind = kind_of(series)
    retyped = kind is not Kind.TEXT and not (kind is Kind.NUMBER and _are_numbers(feature.categories))
    if retyped and series.notna().any() and not (codes[series.notna()] >= 0).any():
        row = int(np.argmax(series.notna()))
        raise UserError(
            f"column '{feature.name}' must hold categories such as {quoted(feature.categories, 3)} but holds "
            f"{kind.value} ({series.iloc[row]})",
            where=f"{source}, {row_name(frame, row)}",
            remedy="Use the categories of the training table",
        )
    block = np.zeros((len(frame), len(feature.categories)))
    known = codes >= 0
    block[known, codes[known]] = 1.0
    return block, ~known


def _are_numbers(categories: tuple[str, ...]) -> bool:
    """Whether the categories are codes, such as "1" and "2": numbers in a later table are then of the same kind."""
    return all(is_number(category) for category in categories if category != MISSING)


def _codes(frame: pd.DataFrame, name: str, known: tuple[str, ...], source: str) -> np.ndarray:
    """Codes into `known`, shape (n,), int64; -1 for what is not there; a missing value is "(missing)"."""
    codes, found = categories_of(frame, name, source)
    place = {category: code for code, category in enumerate(known)}
    return np.array([place.get(category, -1) for category in [*found, MISSING]], dtype=np.int64)[codes]


def _plain(item: NumericColumn | CategoricalColumn | NumberTarget | ClassTarget) -> dict[str, Any]:
    return {name: list(entry) if isinstance(entry, tuple) else entry for name, entry in asdict(item).items()}


def _entries(value: object, what: str, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedError(f"the {what} is no dictionary", where=source)
    return dict(value)


def _column(value: object, allowed: Iterable[type], source: str) -> Any:
    entries = _entries(value, "description of a column", source)
    kind = entries.pop("kind", None)
    for item in allowed:
        if _KINDS[item] == kind:
            return _build(item, entries, source)
    raise DamagedError(f"a column of the unknown kind {kind!r}", where=source)


def _build(item: type, entries: dict[str, Any], source: str) -> Any:
    """An instance of `item` from its entries, each checked against the type that its field is declared with."""
    declared = item.__annotations__
    if odd := sorted(set(entries) ^ set(declared)):
        raise DamagedError(f"entries missing or unknown in {item.__name__}: {', '.join(map(repr, odd))}", where=source)
    fields = {}
    for name, kind in declared.items():
        try:
            fields[name] = _checked(entries[name], kind)
        except (ValueError, OverflowError):
            raise DamagedError(f"'{name}' of {item.__name__} cannot be {entries[name]!r}", where=source) from None
    if fields.get("low", 0.0) > fields.get("high", 0.0):
        raise DamagedError(f"the range of column '{fields['name']}' is empty", where=source)
    for name in ("categories", "classes"):
        if name in fields and not 2 <= len(set(fields[name])) == len(fields[name]):
            raise DamagedError(f"the {name} of column '{fields['name']}' are too few or repeated", where=source)
    return item(**fields)


def _checked(entry: Any, kind: Any) -> Any:
    """The entry as a value of its field's type; ValueError if it cannot be one."""
    if kind == tuple[str, ...]:
        if isinstance(entry, list) and all(isinstance(one, str) for one in entry):
            return tuple(entry)
    elif kind is float:
        if type(entry) in (int, float) and math.isfinite(entry):
            return float(entry)
    elif kind == str | None:
        if entry is None or isinstance(entry, str):
            return entry
    elif kind not in (str, bool, int) or type(entry) is kind:  # features and target are built already
        return entry
    raise ValueError

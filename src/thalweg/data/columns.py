"""One column of a table: what kind of values it holds, and its values as numbers, categories, groups or times.

Rows are named in messages by the frame's index. `read_table` labels the rows of a text file by their line
(index name "line", the header is line 1) and the rows of other files by their number (index name "row", the first
is 1), so a row keeps its name however the frame is cut.
"""

import difflib
import enum
import re
from collections import Counter
from collections.abc import Iterable
from typing import cast

import numpy as np
import pandas as pd
from pandas.api import types

from thalweg.errors import UserError


class Kind(enum.Enum):
    """What a column holds: the kind of all its values that are not missing."""

    NUMBER = "numbers"
    TEXT = "text"
    DATE = "dates"
    OTHER = "values that are neither numbers, text nor dates"


def column(frame: pd.DataFrame, name: str) -> pd.Series:
    """The column `name`; names must be unique (`check_names`)."""
    return cast(pd.Series, frame[name])


def kind_of(series: pd.Series) -> Kind:
    """The kind of a column; text of numbers or of ISO 8601 dates counts as these, no value at all as numbers.

    >>> kind_of(pd.Series([1.0, None])), kind_of(pd.Series(["2024-02-29", None])), kind_of(pd.Series([True, False]))
    (<Kind.NUMBER: 'numbers'>, <Kind.DATE: 'dates'>, <Kind.TEXT: 'text'>)
    """
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return kind_of(pd.Series(dtype.categories))
    if types.is_bool_dtype(dtype):
        return Kind.TEXT
    if types.is_datetime64_any_dtype(dtype):
        return Kind.DATE
    if types.is_numeric_dtype(dtype):
        return Kind.OTHER if types.is_complex_dtype(dtype) else Kind.NUMBER
    if not (types.is_object_dtype(dtype) or types.is_string_dtype(dtype)):
        return Kind.OTHER
    present = series.dropna()
    if present.empty:
        return Kind.NUMBER
    inferred = types.infer_dtype(present, skipna=True)
    if inferred in ("integer", "floating", "mixed-integer-float", "decimal"):
        return Kind.NUMBER
    if inferred in ("datetime64", "datetime", "date"):
        return Kind.DATE
    if inferred == "string":
        return _kind_of_text(present)
    return Kind.TEXT if inferred in ("boolean", "mixed-integer", "mixed") else Kind.OTHER


def _kind_of_text(present: pd.Series) -> Kind:
    first = str(present.iloc[0])  # most text is told from numbers and dates by its first value
    if is_number(first):
        numbers = cast(pd.Series, pd.to_numeric(present.astype(object), errors="coerce"))
        return Kind.NUMBER if numbers.notna().all() else Kind.TEXT
    if re.match(r"\s*\d{4}-\d\d", first):
        dates = pd.to_datetime(present, format="ISO8601", errors="coerce", utc=True)
        return Kind.DATE if dates.notna().all() else Kind.TEXT
    return Kind.TEXT


def is_number(text: str) -> bool:
    """Whether text is a number with a decimal point, or nan, or infinite.

    >>> is_number(" -1.5e3"), is_number("1,5")
    (True, False)
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def numbers_of(series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """A column as float64 (missing: NaN), and where a value that is there is no number (bool).

    Returns:
        values, shape (n,), and strays, shape (n,): True where the value is text, a date, or anything else.

    >>> numbers_of(pd.Series(["1.5", "?", None]))
    (array([1.5, nan, nan]), array([False,  True, False]))
    """
    missing = series.isna().to_numpy()
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        series = series.astype(dtype.categories.dtype)
    if types.is_bool_dtype(series.dtype) or kind_of(series) in (Kind.DATE, Kind.OTHER):
        return np.full(len(series), np.nan), ~missing
    if types.is_numeric_dtype(series.dtype):
        return series.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(series), bool)
    objects = series.astype(object)
    objects = objects.mask(objects.map(lambda value: isinstance(value, bool)), "text")  # to_numeric reads True as 1
    values = cast(pd.Series, pd.to_numeric(objects, errors="coerce")).to_numpy(dtype=np.float64, na_value=np.nan)
    return values, np.isnan(values) & ~missing


def finite_numbers(frame: pd.DataFrame, name: str, source: str) -> np.ndarray:
    """Column `name` as float64, shape (n,), missing values as NaN.

    Raises:
        UserError: a value is text or infinite; its row and the value are named.
    """
    series = column(frame, name)
    values, strays = numbers_of(series)
    if strays.any():
        row = int(np.argmax(strays))
        value = str(series.iloc[row])
        comma = "," in value and "." not in value
        raise UserError(
            f"column '{name}' must hold numbers but holds '{value}'",
            where=f"{source}, {row_name(frame, row)}",
            remedy="Write numbers with a decimal point" if comma else "Correct the value, or leave the cell empty",
        )
    infinite = np.isinf(values)
    if infinite.any():
        raise UserError(
            f"column '{name}' holds {infinite.sum()} infinite {'value' if infinite.sum() == 1 else 'values'}",
            where=f"{source}, {row_names(frame, infinite)}",
            remedy="Leave the cells empty if the values are unknown",
        )
    return values


def categories_of(frame: pd.DataFrame, name: str, source: str) -> tuple[np.ndarray, list[str]]:
    """A column as codes and category names, in the order of first appearance.

    Whole numbers are named without a decimal point ("3", also for 3.0), booleans "False" and "True"; empty text is
    missing.

    Returns:
        codes, shape (n,), int64, -1 where missing; and the name of each code.
    Raises:
        UserError: the column holds something that is no single value (a list, say).
    """
    series = column(frame, name)
    if types.is_string_dtype(series.dtype):
        series = series.astype(object)
    try:
        codes, values = pd.factorize(series)
    except TypeError:
        raise UserError(f"column '{name}' holds values that are no single number or text", where=source) from None
    names = [_label(value) for value in values]
    unique = {name: code for code, name in enumerate(dict.fromkeys(name for name in names if name))}
    recode = np.array([unique.get(name, -1) for name in names] + [-1], dtype=np.int64)  # the last entry serves code -1
    return recode[codes], list(unique)


def _label(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value).strip()


def group_values(frame: pd.DataFrame, name: str, source: str) -> np.ndarray:
    """The group of each row as a code, shape (n,), int64; for `group_split`.

    Raises:
        UserError: there is no such column, or a row has no group.

    >>> group_values(pd.DataFrame({"patient": ["a", "b", "a"]}), "patient", "visits.csv")
    array([0, 1, 0])
    """
    require_columns(frame, [name], "group column", source)
    codes, _ = categories_of(frame, name, source)
    _refuse_missing(frame, codes < 0, f"group column '{name}'", source)
    return codes


def time_values(frame: pd.DataFrame, name: str, source: str) -> np.ndarray:
    """The time of each row, shape (n,), for `time_split`: float64 from numbers, datetime64 (UTC) from ISO dates.

    Raises:
        UserError: there is no such column, it holds other text, or a row has no time.

    >>> time_values(pd.DataFrame({"day": ["2024-03-01", "2024-02-29"]}), "day", "visits.csv").astype("datetime64[D]")
    array(['2024-03-01', '2024-02-29'], dtype='datetime64[D]')
    """
    require_columns(frame, [name], "time column", source)
    series = column(frame, name)
    if kind_of(series) is Kind.DATE:
        dates = pd.to_datetime(series, format="ISO8601", utc=True)
        times = cast(pd.Series, dates).dt.tz_localize(None).to_numpy()
    elif kind_of(series) is Kind.NUMBER:
        times = finite_numbers(frame, name, source)
    else:
        raise UserError(
            f"time column '{name}' holds '{series.dropna().iloc[0]}'",
            where=source,
            remedy="A time must be a number or an ISO date such as 2024-02-29 or 2024-02-29T12:30",
        )
    _refuse_missing(frame, np.isnan(times), f"time column '{name}'", source)
    return times


def _refuse_missing(frame: pd.DataFrame, missing: np.ndarray, what: str, source: str) -> None:
    if missing.any():
        raise UserError(
            f"{what} has no value in {missing.sum()} of {len(frame)} rows",
            where=f"{source}, {row_names(frame, missing)}",
            remedy="Fill the cells or remove the rows",
        )


def check_names(names: Iterable[object], source: str) -> list[str]:
    """The column names as they are, refused if one is no text, empty, or there twice."""
    names = list(names)
    wrong = [place for place, name in enumerate(names, 1) if not isinstance(name, str) or not name.strip()]
    if wrong:
        raise UserError(
            f"{_plural('column', wrong)} {', '.join(map(str, wrong[:10]))} of {len(names)} {_has(wrong)} no name",
            where=source,
            remedy="Give every column a name; a table saved from pandas needs index=False",
        )
    texts = [str(name) for name in names]
    twice = [name for name, count in Counter(texts).items() if count > 1]
    if twice:
        places = [str(place) for place, name in enumerate(texts, 1) if name == twice[0]]
        raise UserError(
            f"column {_plural('name', twice)} {quoted(twice)} appear more than once"
            if len(twice) > 1
            else f"column name {quoted(twice)} appears more than once (columns {', '.join(places)})",
            where=source,
            remedy="Rename or remove the columns",
        )
    return texts


def require_columns(frame: pd.DataFrame, names: Iterable[str], role: str, source: str) -> None:
    """Refuse columns that the table does not have, naming each with the nearest name that it has."""
    here = [str(name) for name in frame.columns]
    absent = [name for name in names if name not in set(here)]
    if not absent:
        return
    near = [f"'{nearest(name, here)}'" for name in absent[:10] if nearest(name, here)]
    listed = quoted(here)
    raise UserError(
        f"{role} {quoted(absent)} is not in the table"
        if len(absent) == 1
        else f"{role}s {quoted(absent)} are not in the table",
        where=source,
        remedy=f"Did you mean {', '.join(near)}?" if near else f"It has the columns {listed}",
    )


def nearest(name: str, names: list[str]) -> str | None:
    """The most similar of `names`, upper and lower case being the same, or None.

    >>> nearest("BMI", ["age", "bmi"])
    'bmi'
    """
    folded = {other.casefold(): other for other in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def row_name(frame: pd.DataFrame, row: int) -> str:
    """How a message names the row at position `row`: "line 7" or "row 6"."""
    return f"{frame.index.name or 'row'} {frame.index[row]}"


def row_names(frame: pd.DataFrame, where: np.ndarray) -> str:
    """How a message names the rows where `where` (bool, shape (n,)) is true; at most five are listed."""
    rows = np.flatnonzero(where)
    word = str(frame.index.name or "row")
    listed = ", ".join(str(frame.index[row]) for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"{word if len(rows) == 1 else word + 's'} {listed}{more}"


def quoted(names: Iterable[str], most: int = 10) -> str:
    """Names in quotes, at most `most` of them.

    >>> quoted(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    names = list(names)
    listed = ", ".join(f"'{name}'" for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def _plural(word: str, items: list) -> str:
    return word if len(items) == 1 else word + "s"


def _has(items: list) -> str:
    return "has" if len(items) == 1 else "have"

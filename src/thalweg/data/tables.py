"""Read a table from a file: CSV, Parquet, NPZ or HDF5, one set of rules for all."""

import difflib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pyarrow as pa

from thalweg.data.columns import check_names, is_number, quoted
from thalweg.data.delimited import read_delimited
from thalweg.errors import UserError

TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
_KNOWN = "CSV (.csv, .tsv, .txt, each also .gz), Parquet (.parquet, .pq), NPZ (.npz) or HDF5 (.h5, .hdf5)"


def read_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table; the suffix chooses the format and the content is checked against it.

    - **CSV** (.csv, .tsv, .txt, each also .gz): UTF-8 with or without a byte-order mark, the first line names the
      columns. The delimiter is the one of comma, semicolon, tab and vertical bar that splits the header and the
      first lines into the same number of columns; one that the suffix does not suggest is noted. Decimal commas are
      read where every number of the file can be one, and noted; a file that mixes them with decimal points, or in
      which they may mark thousands, is refused. Empty cells and NA, N/A, NaN, NULL, <NA> are missing.
    - **Parquet** (.parquet, .pq): columns of numbers, booleans, text, dates. An unnamed pandas index is dropped.
    - **NPZ** (.npz): a 1-D array is a column, a 2-D array `X` gives the columns `X_0`, `X_1` … (of width one: `X`), an
      array of records a column per field; scalars are left out with a note. Objects (pickles) are never loaded.
    - **HDF5** (.h5, .hdf5): the datasets of one group by the rules of NPZ. The group is the root, the only group
      below a root without datasets, or the one that the path names: `measurements.h5/plate/run_3`.

    For all: names and text lose surrounding blanks; booleans become the text "False" and "True"; text that is a
    number in every row becomes numbers; ISO 8601 dates become datetime64 (UTC).

    Args:
        path: the file, for HDF5 also file/group.
    Returns:
        a frame with columns of numbers, text and dates. Its index names the rows as messages do: "line" (from 2, the
        header is line 1) for text, "row" (from 1) for the others; so select rows by position, `frame.iloc[rows]`.
        `frame.attrs["notes"]` lists in sentences what was decided.
    Raises:
        UserError: no such file, a folder, unreadable, empty, not the format of its suffix, wrong or ambiguous
            delimiter, ragged lines, no rows, unnamed or repeated columns, columns of different lengths, objects.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "houses.csv"
    ...     _ = path.write_text("area;price\\n50,5;1\\n60,0;2\\n")
    ...     frame = read_table(path)
    >>> frame["area"].tolist(), frame.attrs["notes"]
    ([50.5, 60.0], ['columns are separated by semicolons', 'numbers are written with a decimal comma'])
    """
    path = Path(path)
    try:
        file, group = _locate(path)
        return _read(file, group)
    except OSError as error:
        raise UserError(f"the table cannot be read: {error.strerror or error}", where=str(path)) from None


def _locate(path: Path) -> tuple[Path, str]:
    """The file, and the HDF5 group that the path names below it ("" for none)."""
    if path.is_dir():
        raise UserError("the table is a folder", where=str(path), remedy="Name one file")
    if path.exists():
        if not path.is_file():
            raise UserError("the table is no regular file", where=str(path))
        return path, ""
    for parent in path.parents:
        if parent.suffix.lower() in HDF5_SUFFIXES and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    raise UserError("there is no such file", where=str(path), remedy=f"Did you mean '{near[0]}'?" if near else None)


def _read(path: Path, group: str) -> pd.DataFrame:
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower() if suffix == ".gz" else suffix
    source = f"{path}/{group}" if group else str(path)
    if inner in TEXT_SUFFIXES:
        table, lines, notes = read_delimited(path, inner)
        return _frame(list(zip(table.column_names, table.columns, strict=True)), lines, notes, source)
    readers: dict[str, Callable[[Path, list[str]], list[tuple[str, pa.ChunkedArray]]]] = {
        ".parquet": _read_parquet,
        ".pq": _read_parquet,
        ".npz": _read_npz,
    } | dict.fromkeys(HDF5_SUFFIXES, lambda path, notes: _read_hdf5(path, group, notes))
    if suffix not in readers:
        raise UserError(
            f"'{suffix}' is no format of a table" if suffix else "the file has no suffix that tells its format",
            where=source,
            remedy=f"Export it as {_KNOWN}",
        )
    if path.stat().st_size == 0:
        raise UserError("the file is empty", where=source)
    notes: list[str] = []
    columns = readers[suffix](path, notes)
    lengths = {name: len(values) for name, values in columns}
    if len(set(lengths.values())) > 1:
        common = max(lengths.values(), key=list(lengths.values()).count)
        odd = next(name for name, length in lengths.items() if length != common)
        other = next(name for name, length in lengths.items() if length == common)
        raise UserError(
            f"column '{odd}' has {lengths[odd]} rows and column '{other}' {common}",
            where=source,
            remedy="The arrays of a table must have equal lengths; keep others in another file or group",
        )
    rows = next(iter(lengths.values()), 0)
    return _frame(columns, pd.RangeIndex(1, rows + 1, name="row"), notes, source)


def _read_parquet(path: Path, notes: list[str]) -> list[tuple[str, pa.ChunkedArray]]:
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"the file is no Parquet table: {error}", where=str(path)) from None
    columns = list(zip(table.column_names, table.columns, strict=True))
    kept = [(name, values) for name, values in columns if not name.startswith("__index_level_")]
    if len(kept) < len(columns):
        notes.append("the unnamed row index that pandas stored is left out")
    return kept


def _read_npz(path: Path, notes: list[str]) -> list[tuple[str, pa.ChunkedArray]]:
    source = str(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError("the file is a single array (.npy), not NPZ", where=source, remedy="Save it by numpy.savez")
        with archive:
            columns = []
            for name in archive.files:
                try:
                    array = archive[name]
                except ValueError as error:
                    if "allow_pickle" in str(error):  # numpy's refusal, in words that advise the opposite of ours
                        raise _objects(name, source) from None
                    raise
                columns += _expand(name, array, notes, source)
            return columns
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError):
        raise UserError("the file is no NPZ archive, or is damaged", where=source) from None


def _read_hdf5(path: Path, group: str, notes: list[str]) -> list[tuple[str, pa.ChunkedArray]]:
    import h5py

    source = f"{path}/{group}" if group else str(path)
    if not h5py.is_hdf5(path):
        raise UserError("the file is no HDF5 file", where=str(path))
    with h5py.File(path, "r") as file:
        level = file.get(group) if group else file
        if not isinstance(level, h5py.Group):
            what = "there is no such group" if level is None else "this is a dataset, not a group"
            raise UserError(what, where=source, remedy=f"The file's root holds {quoted(file)}")
        groups = [name for name, item in level.items() if isinstance(item, h5py.Group)]
        datasets = {name: item for name, item in level.items() if isinstance(item, h5py.Dataset)}
        if not datasets and not group and len(groups) == 1 and isinstance(only := level[groups[0]], h5py.Group):
            notes.append(f"the table is the group '{groups[0]}'")
            datasets = {name: item for name, item in only.items() if isinstance(item, h5py.Dataset)}
        elif groups and datasets:
            notes.append(f"left out the groups {quoted(groups)}")
        if not datasets:
            remedy = f"Name one of its groups, as in {source}/{groups[0]}" if groups else None
            raise UserError("the group holds no datasets", where=source, remedy=remedy)
        columns = []
        for name, dataset in datasets.items():
            try:
                array = dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()]
            except (UnicodeDecodeError, OSError, TypeError) as error:
                raise UserError(f"dataset '{name}' cannot be read: {error}", where=source) from None
            columns += _expand(name, array, notes, source)
        return columns


def _expand(name: str, array: object, notes: list[str], source: str) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The columns that an array gives."""
    if isinstance(array, bytes):
        raise UserError(f"member '{name}' is no array", where=source)
    array = np.asarray(array)
    if array.ndim == 0:
        notes.append(f"left out '{name}', a single value")
    elif array.ndim > 2:
        shape = " × ".join(map(str, array.shape))
        raise UserError(
            f"array '{name}' has {array.ndim} axes ({shape})",
            where=source,
            remedy="A column has one axis and a block of columns two: reshape it to (rows, columns)",
        )
    elif array.dtype.names:
        for field in array.dtype.names:
            yield from _expand(field, array[field], notes, source)
    elif array.ndim == 2 and array.shape[1] != 1:
        for place in range(array.shape[1]):
            yield f"{name}_{place}", _arrow(name, array[:, place], source)
    else:
        yield name, _arrow(name, array.reshape(-1), source)


def _arrow(name: str, array: np.ndarray, source: str) -> pa.ChunkedArray:
    """A 1-D array as Arrow's: the one form from which every format goes to pandas by the same rules."""
    kind = array.dtype.kind
    if kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"column '{name}' holds bytes that are not UTF-8 text: {error}", where=source) from None
    elif kind == "O" and not all(isinstance(value, str) for value in array):
        raise _objects(name, source)
    elif kind == "M":
        array = array.astype("datetime64[us]")
    elif kind == "f":  # Arrow knows no long doubles and no foreign byte order
        array = array.astype(np.float64)
    elif kind not in "biuOU":
        raise UserError(
            f"column '{name}' holds values of type {array.dtype}",
            where=source,
            remedy="Columns hold real numbers, booleans, text or dates; write a complex number as two columns",
        )
    return pa.chunked_array([pa.array(array.astype(array.dtype.newbyteorder("=")))])


def _objects(name: str, source: str) -> UserError:
    return UserError(
        f"array '{name}' holds Python objects, which are not loaded",
        where=source,
        remedy="Save numbers, or text by array.astype(str)",
    )


def _frame(columns: list[tuple[str, pa.ChunkedArray]], index: pd.Index, notes: list[str], source: str) -> pd.DataFrame:
    names = check_names([name.strip() for name, _ in columns], source)
    if not names:
        raise UserError("the table has no columns", where=source)
    if len(index) == 0:
        raise UserError(f"the table has no rows, only the columns {quoted(names)}", where=source)
    if all(is_number(name) for name in names):
        notes = [*notes, "every column name is a number: if the file has no header, its first row is lost"]
    series = {name: _series(name, values, source) for name, (_, values) in zip(names, columns, strict=True)}
    frame = pd.DataFrame(series)
    frame.index = index
    frame.attrs["notes"] = notes
    return frame


def _series(name: str, values: pa.ChunkedArray, source: str) -> pd.Series:
    """A column as pandas holds it here: int64 or float64, text, or datetime64 (UTC, without a zone)."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_null(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.float64()).to_pandas()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return values.to_pandas()
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        dates = cast(pd.Series, values.to_pandas(date_as_object=False))
        zoned = isinstance(dates.dtype, pd.DatetimeTZDtype)
        return dates.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else dates
    if pa.types.is_boolean(kind):
        return cast(pd.Series, values.to_pandas()).map({True: "True", False: "False"})
    if pa.types.is_time(kind):
        values = values.cast(pa.string())
    elif not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise UserError(
            f"column '{name}' holds values of type {kind}",
            where=source,
            remedy="Columns hold numbers, booleans, text or dates; spread other values over columns",
        )
    text = cast(pd.Series, values.to_pandas()).str.strip()
    text = text.mask(text == "")
    present = text.dropna()
    if len(present) and is_number(str(present.iloc[0])):
        numbers = cast(pd.Series, pd.to_numeric(text.astype(object), errors="coerce"))
        if bool((numbers.notna() | text.isna()).all()):
            return numbers
    return text

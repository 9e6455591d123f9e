"""Delimited text (CSV, TSV): decode it, find its delimiter, read it, and say in which line it is wrong."""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from thalweg.errors import UserError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
USUAL_DELIMITER = {".csv": ",", ".tsv": "\t"}
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "<NA>"]
_SAMPLE_LINES = 100
_NUMBER = r"\s*[+-]?(?:\d+|\d*,\d+|\d+,)(?:[eE][+-]?\d+)?\s*"  # with a decimal comma
_THOUSANDS = r"\s*[+-]?[1-9]\d{0,2},\d{3}\s*"


def read_delimited(path: Path, suffix: str) -> tuple[pa.Table, pd.Index, list[str]]:
    """Read a delimited text file whose first line names the columns.

    Args:
        path: the file.
        suffix: ".csv", ".tsv" or ".txt": the delimiter that needs no note; any of `DELIMITERS` is read.
    Returns:
        the columns, the line of each row (index "line", the header is line 1), and notes.
    Raises:
        UserError: the file is empty, not UTF-8 text, has no or no single consistent delimiter, or ragged lines.
    """
    source = str(path)
    data = _unpacked(path)
    text = _decoded(data, source)
    delimiter = _find_delimiter(text, source)
    notes = []
    if delimiter != USUAL_DELIMITER.get(suffix, ","):
        notes.append(f"columns are separated by {DELIMITERS[delimiter]}")
    table = _parse(data, text, delimiter, ".", source)
    if _has_decimal_commas(table, source):
        table = _parse(data, text, delimiter, ",", source)
        notes.append("numbers are written with a decimal comma")
    return table, _lines(data, text, delimiter, table.num_rows), notes


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    is_gzip = data.startswith(b"\x1f\x8b")
    if path.suffix.lower() == ".gz":
        if data and not is_gzip:
            raise UserError("the file is not gzip-compressed", where=str(path), remedy="Remove .gz from its name")
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"the gzip file is damaged: {error}", where=str(path), remedy="Fetch it again") from None
    elif is_gzip:
        raise UserError("the file is gzip-compressed", where=str(path), remedy="Add .gz to its name")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise UserError("the file is empty", where=str(path))
    return data


def _decoded(data: bytes, source: str) -> str:
    remedy = "Save the table as UTF-8 text"
    for magic, kind in ((b"PAR1", "Parquet"), (b"\x89HDF", "HDF5"), (b"PK\x03\x04", "a zip archive (Excel or NPZ)")):
        if data.startswith(magic):
            raise UserError(f"the file is no text: it is {kind}", where=source, remedy="Correct its name or export CSV")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError("the file is UTF-16 text", where=source, remedy=remedy)
    nul = data.find(b"\0")
    if nul >= 0:
        line = data.count(b"\n", 0, nul) + 1
        raise UserError(
            "the file is binary, not text: it holds NUL bytes", where=f"{source}, line {line}", remedy=remedy
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"0x{data[error.start]:02x}"
        raise UserError(f"byte {byte} is not UTF-8 text", where=f"{source}, line {line}", remedy=remedy) from None


def _find_delimiter(text: str, source: str) -> str:
    """The delimiter that splits the header and every sampled line into the same number of columns, two or more."""
    head = text.split("\n", _SAMPLE_LINES)
    sample = "\n".join(head[:_SAMPLE_LINES])
    counts = {}
    for delimiter in DELIMITERS:
        try:
            widths = [width for _, width in itertools.islice(_records(sample, delimiter), _SAMPLE_LINES)]
        except csv.Error:  # a wide table that this delimiter does not split is one field, longer than csv allows
            widths = [1]
        # the cut may have gone through a quoted field
        counts[delimiter] = widths[:-1] if len(head) > _SAMPLE_LINES and len(widths) > 1 else widths
    split = [delimiter for delimiter, widths in counts.items() if widths[0] > 1]
    fitting = [delimiter for delimiter in split if len(set(counts[delimiter])) == 1]
    if len(fitting) > 1:
        first, second = (DELIMITERS[delimiter] for delimiter in fitting[:2])
        raise UserError(
            f"the columns may be separated by {first} or by {second}: both fit",
            where=source,
            remedy='Put names and text that hold a delimiter in double quotes ("…")',
        )
    if fitting:
        return fitting[0]
    if split:
        agreeing = {delimiter: counts[delimiter][1:].count(counts[delimiter][0]) for delimiter in split}
        best = max(split, key=lambda delimiter: (agreeing[delimiter], counts[delimiter][0]))
        if 2 * agreeing[best] >= len(counts[best]) - 1:
            return best  # the parser names the ragged line
    else:
        best = ","
    _refuse_other_delimiters(sample, counts, best, source)
    return best


def _refuse_other_delimiters(sample: str, counts: dict[str, list[int]], best: str, source: str) -> None:
    """Refuse a header that the delimiter `best` does not split as it splits the rows, naming what does."""
    width = counts[best][0]
    columns = f"{width} columns separated by {DELIMITERS[best]}" if width > 1 else "a single column"
    for delimiter, name in DELIMITERS.items():
        rows = counts[delimiter][1:]
        if rows and rows[0] > 1 and len(set(rows)) == 1:
            raise UserError(
                f"the header has {columns}, but the rows have {rows[0]} columns separated by {name}",
                where=f"{source}, line 2",
                remedy="Use one delimiter in the whole file",
            )
    lines = [line for line in sample.splitlines() if line.strip()]
    for delimiter, name in ((None, "spaces"), (":", "colons"), ("^", "carets"), ("~", "tildes")):
        widths = {len(line.split(delimiter)) for line in lines}
        if len(lines) > 1 and len(widths) == 1 and widths != {1}:
            raise UserError(
                f"the header is {columns}, but {name} would split every line into {widths.pop()} columns",
                where=source,
                remedy=f"Separate the columns by commas instead of {name}",
            )


def _records(text: str, delimiter: str) -> Iterator[tuple[int, int]]:
    """(line, number of columns) of each record that is not blank; lines count from 1."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    end = 0
    for record in reader:
        if record:
            yield end + 1, len(record)
        end = reader.line_num


def _shapes(text: str, delimiter: str) -> list[tuple[int, int]]:
    """All of `_records`, or none where csv gives up."""
    try:
        return list(_records(text, delimiter))
    except csv.Error:
        return []


def _parse(data: bytes, text: str, delimiter: str, decimal_point: str, source: str) -> pa.Table:
    first_line = data.find(b"\n")
    try:
        return arrow_csv.read_csv(
            pa.BufferReader(data),
            # a record must fit in a block
            read_options=arrow_csv.ReadOptions(block_size=max(1 << 20, 16 * first_line)),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in data),
            convert_options=arrow_csv.ConvertOptions(
                null_values=MISSING, strings_can_be_null=True, decimal_point=decimal_point
            ),
        )
    except pa.ArrowInvalid as error:
        records = _shapes(text, delimiter)
        expected = records[0][1] if records else 0
        for line, width in records:
            if width != expected:
                raise UserError(
                    f"the line has {width} {'column' if width == 1 else 'columns'} and the header {expected}, "
                    f"separated by {DELIMITERS[delimiter]}",
                    where=f"{source}, line {line}",
                    remedy="Complete the line, or put text that holds the delimiter in double quotes",
                ) from None
        raise UserError(f"the text is no table: {error}", where=source) from None


def _has_decimal_commas(table: pa.Table, source: str) -> bool:
    """Whether text columns are numbers with a decimal comma; refused where that cannot be told from thousands."""
    found, points, all_thousands = [], [], True
    for name, values in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_floating(values.type):
            points.append(name)
        elif pa.types.is_string(values.type):
            text = cast(pd.Series, values.drop_null().to_pandas())
            if not text.head(10).str.fullmatch(_NUMBER).all():
                continue
            commas = cast(pd.Series, text[text.str.contains(",", regex=False)])
            if len(commas) and text.str.fullmatch(_NUMBER).all():
                found.append(name)
                all_thousands &= bool(commas.str.fullmatch(_THOUSANDS).all())
    if found and points:
        raise UserError(
            f"column '{found[0]}' has decimal commas and column '{points[0]}' decimal points",
            where=source,
            remedy="Write all numbers with a decimal point",
        )
    if found and all_thousands:
        raise UserError(
            f"the comma in the numbers of column '{found[0]}' may mark decimals or thousands",
            where=source,
            remedy="Write all numbers with a decimal point and without marks for thousands",
        )
    return bool(found)


def _lines(data: bytes, text: str, delimiter: str, rows: int) -> pd.Index:
    """The line of each row; counted record by record only where blank lines or quoted line breaks shift them."""
    physical = data.count(b"\n") + (not data.endswith(b"\n"))
    if physical == rows + 1:
        return pd.RangeIndex(2, rows + 2, name="line")
    lines = [line for line, _ in _shapes(text, delimiter)][1:]
    if len(lines) == rows:
        return pd.Index(lines, name="line")
    return pd.RangeIndex(1, rows + 1, name="row")  # the two parsers disagree: say no line rather than a wrong one

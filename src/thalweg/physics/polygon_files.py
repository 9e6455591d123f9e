"""Polygons from files: a table of corners (CSV), or GeoJSON (RFC 7946)."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.errors import UserError
from thalweg.physics.polygons import Polygon, polygon

MOST_CORNERS = 5_000
"""Triangulating takes seconds there, and grows with the square."""


def polygon_from_file(path: str | Path) -> Polygon:
    """The polygon whose corners a file lists.

    Args:
        path: `.csv`, `.txt` or `.tsv`: a row (x, y) for each corner, in order around the polygon, between comma,
            semicolon, tab or blanks; a first row of names is left out. `.json` or `.geojson`: a Polygon, alone or in a
            Feature or a collection of one. In both the first corner may be repeated at the end.
    Raises:
        UserError: no such file, another kind, not one polygon without holes, a row that is not two numbers (it is
            named), or what `polygon` refuses.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "plate.csv"
    >>> _ = file.write_text("x,y\\n0,0\\n2,0\\n2,1\\n0,1\\n")
    >>> polygon_from_file(file).area
    2.0
    """
    path = Path(path)
    readers = {".csv": _table, ".txt": _table, ".tsv": _table, ".json": _geojson, ".geojson": _geojson}
    if path.suffix.lower() not in readers:
        remedy = f"Name it {', '.join(readers)}, by what is in it."
        raise UserError(
            f"a polygon file of the kind {path.suffix or 'without a suffix'!r}", where=str(path), remedy=remedy
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(error.strerror or "it cannot be read", where=str(path), remedy="Check the path.") from error
    except UnicodeDecodeError as error:
        raise UserError("it is no text in UTF-8", where=str(path), remedy="Save it as UTF-8.") from error
    corners, names = readers[path.suffix.lower()](text, str(path))
    if len(corners) > 1 and corners[0] == corners[-1]:
        corners, names = corners[:-1], names[:-1]
    if len(corners) > MOST_CORNERS:
        remedy = "Leave out details that are smaller than the distance of the points that will be drawn."
        raise UserError(f"{len(corners)} corners, more than {MOST_CORNERS}", where=str(path), remedy=remedy)
    try:
        return polygon(np.array(corners, np.float64).reshape(-1, 2))
    except UserError as error:
        first = f"corner 0 is {names[0]}, corner 1 is {names[1]}, and so on" if len(names) > 1 else "too few corners"
        raise UserError(error.what, where=f"{path}; {first}", remedy=error.remedy) from error


def _table(text: str, where: str) -> tuple[list[tuple[float, float]], list[str]]:
    """Corners, and what to call each in a message."""
    corners, names = [], []
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    mark = next((mark for mark in ",;\t" if lines and mark in lines[0][1]), None)
    for i, (number, line) in enumerate(lines):
        cells = line.split() if mark is None else [cell.strip() for cell in next(csv.reader([line], delimiter=mark))]
        if len(cells) != 2:
            remedy = "Each row has x and y, and nothing else; decimals have a point."
            raise UserError(f"{len(cells)} columns", where=f"{where}, row {number}", remedy=remedy)
        values = [_number(cell) for cell in cells]
        if i == 0 and _are_names(cells):
            continue
        if bad := [k for k, value in enumerate(values) if value is None]:
            at = f"{where}, row {number}, column {bad[0] + 1}"
            raise UserError(f"{cells[bad[0]]!r} is no finite number", where=at, remedy="Give it as 12.5 or 1.25e1.")
        corners.append(tuple(values))
        names.append(f"row {number}")
    return corners, names


def _are_names(cells: list[str]) -> bool:
    """Whether a first row names the columns: two different words, not a number that went wrong."""
    words = [cell.strip("\"'").lower() for cell in cells]
    plain = all(word[:1].isalpha() and word not in ("nan", "inf", "infinity", "none", "null") for word in words)
    return plain and words[0] != words[1]


def _number(cell: Any) -> float | None:
    if isinstance(cell, str) and "_" in cell:  # which Python would take for a number
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if np.isfinite(value) else None


def _geojson(text: str, where: str) -> tuple[list[tuple[float, float]], list[str]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = f"{where}, row {error.lineno}" if isinstance(error, json.JSONDecodeError) else where
        raise UserError("it is no JSON", where=at, remedy="Export it again as GeoJSON.") from error
    if isinstance(found, dict) and found.get("type") == "FeatureCollection":
        features = found.get("features")
        if not isinstance(features, list) or len(features) != 1:
            count = len(features) if isinstance(features, list) else "no"
            raise UserError(f"{count} features", where=where, remedy="Keep the one that is the domain.")
        found = features[0]
    if isinstance(found, dict) and found.get("type") == "Feature":
        found = found.get("geometry")
    if not isinstance(found, dict) or found.get("type") != "Polygon":
        kind = found.get("type") if isinstance(found, dict) else type(found).__name__
        raise UserError(f"a geometry of the type {kind!r}", where=where, remedy="Give one Polygon.")
    rings = found.get("coordinates")
    if not isinstance(rings, list) or len(rings) != 1 or not isinstance(rings[0], list):
        count = len(rings) if isinstance(rings, list) else "no"
        remedy = "Give one ring; cut holes with tw.geometry.difference(outer, hole)."
        raise UserError(f"a polygon of {count} rings", where=where, remedy=remedy)
    corners = []
    for i, position in enumerate(rings[0]):
        pair = [_number(v) for v in position[:2]] if isinstance(position, list) and len(position) in (2, 3) else [None]
        if None in pair or any(isinstance(value, bool | str) for value in position):
            raise UserError(f"{position!r} is no position", where=f"{where}, position {i}", remedy="It is [x, y].")
        corners.append(tuple(pair))
    return corners, [f"position {i}" for i in range(len(corners))]

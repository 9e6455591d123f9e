"""Polygons from CSV and GeoJSON, and what is refused by row."""

import json

import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.physics import geometry

L = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t", "  ", ", "])
@pytest.mark.parametrize("header", ["", "x{mark}y\n"])
@pytest.mark.parametrize("closed", [False, True])
def test_tables(tmp_path, mark, header, closed):
    rows = [*L, L[0]] if closed else L
    text = header.format(mark=mark) + "\n".join(f"{x}{mark}{y}" for x, y in rows) + "\n\n"
    found = geometry.polygon_from_file(written(tmp_path, "plate.csv", text))
    np.testing.assert_array_equal(found.corners, L)
    assert found.area == 3.0


def test_a_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "plate.CSV"
    path.write_bytes(b"\xef\xbb\xbfx,y\r\n0,0\r\n1,0\r\n0,1e0\r\n")
    assert geometry.polygon_from_file(path).area == 0.5


def test_geojson(tmp_path):
    ring = {"type": "Polygon", "coordinates": [[*map(list, L), [0, 0]]]}
    feature = {"type": "Feature", "properties": {}, "geometry": ring}
    for shape in (ring, feature, {"type": "FeatureCollection", "features": [feature]}):
        assert geometry.polygon_from_file(written(tmp_path, "plate.geojson", json.dumps(shape))).area == 3.0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y\n0,0\n1,zero\n0,1\n", r"'zero' is no finite number .*row 3, column 2"),
        ("a.csv", "x,y\n0,0\n\n1,\n0,1\n", "row 4, column 2"),
        ("a.csv", "0,0\n1,0,5\n0,1\n", "3 columns .*row 2"),
        ("a.csv", "0,0\nnan,0\n0,1\n", "'nan' is no finite number .*row 2, column 1"),
        ("a.csv", "0;0\n1,5;0\n0;1\n", "'1,5' is no finite number .*row 2, column 1.*12.5"),
        ("a.csv", "x,y\n0,0\n1,1\n1,0\n0,1\n", "edges 0 and 2 cross.*corner 0 is row 2"),
        ("a.csv", "0,0\n1,1\n", "2 corners"),
        ("a.csv", "", r"corners"),
        ("a.shp", "", r"kind '\.shp'.*Name it"),
        ("a", "", "without a suffix"),
        ("a.json", "{", "no JSON .*row 1"),
        ("a.json", "[]", "type 'list'"),
        ("a.json", '{"type": "MultiPolygon", "coordinates": []}', "'MultiPolygon'.*one Polygon"),
        ("a.json", '{"type": "FeatureCollection", "features": [1, 2]}', "2 features"),
        ("a.json", '{"type": "FeatureCollection"}', "no features"),
        ("a.json", '{"type": "Polygon", "coordinates": [[], []]}', "2 rings.*difference"),
        ("a.json", '{"type": "Polygon", "coordinates": [[[0, 0], [1, "a"], [0, 1]]]}', "position 1"),
        ("a.json", '{"type": "Polygon", "coordinates": [[[0, 0], 7, [0, 1]]]}', "position 1"),
        ("a.json", '{"type": "Polygon", "coordinates": [[[0, 0], [true, 1], [0, 1]]]}', "position 1"),
        ("a.json", "[" * 100_000, "no JSON"),
    ],
)
def test_bad_files_are_refused_by_row(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        geometry.polygon_from_file(written(tmp_path, name, text))


def test_unreadable_files(tmp_path):
    with pytest.raises(UserError, match=r"No such file.*none\.csv"):
        geometry.polygon_from_file(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        geometry.polygon_from_file(tmp_path / "bytes.csv")
    many = "\n".join(f"{np.cos(a)},{np.sin(a)}" for a in np.linspace(0, 6, 5_001))
    with pytest.raises(UserError, match="5001 corners, more than 5000"):
        geometry.polygon_from_file(written(tmp_path, "many.csv", many))

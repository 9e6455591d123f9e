"""Tables from files: the same values in every format, and each unusable file refused by its name and line."""

import gzip
import os
import re
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from thalweg.data import read_table
from thalweg.errors import UserError

REAL = {"diabetes": load_diabetes, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}


def real(name: str) -> pd.DataFrame:
    bunch = REAL[name]()
    columns = [str(column) for column in bunch.feature_names]
    return pd.DataFrame(bunch.data, columns=columns).assign(target=bunch.target)


def write_csv(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def write_gzip(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_csv(folder / "table.csv.gz", index=False)
    return folder / "table.csv.gz"


def write_tabs(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_csv(folder / "table.tsv", index=False, sep="\t", encoding="utf-8-sig")
    return folder / "table.tsv"


def write_decimal_commas(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_csv(folder / "table.csv", index=False, sep=";", decimal=",")
    return folder / "table.csv"


def write_parquet(frame: pd.DataFrame, folder: Path) -> Path:
    frame.to_parquet(folder / "table.parquet")
    return folder / "table.parquet"


def write_npz(frame: pd.DataFrame, folder: Path) -> Path:
    np.savez(folder / "table.npz", **{name: frame[name].to_numpy() for name in frame})
    return folder / "table.npz"


def write_hdf5(frame: pd.DataFrame, folder: Path) -> Path:
    with h5py.File(folder / "table.h5", "w", track_order=True) as file:
        for name in frame:
            file[str(name).replace("/", "|")] = frame[name].to_numpy()  # HDF5 keeps / for paths
    return folder / "table.h5"


WRITERS = [write_csv, write_gzip, write_tabs, write_decimal_commas, write_parquet, write_npz, write_hdf5]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", REAL)
def test_real_tables_come_back_bit_for_bit(name, write, tmp_path):
    frame = real(name)
    read = read_table(write(frame, tmp_path))
    assert [str(column).replace("|", "/") for column in read] == list(frame)
    # pandas writes the shortest text that is the same float64, and Arrow reads exactly: no tolerance
    np.testing.assert_array_equal(read.to_numpy(np.float64), frame.to_numpy(np.float64))


@pytest.mark.parametrize("write", WRITERS)
def test_text_booleans_and_missing_values_are_the_same_in_every_format(write, tmp_path):
    frame = pd.DataFrame(
        {
            "city": ["Zürich", "Rom", "Zürich", "Wien"],
            "sold": [True, False, True, True],
            "rooms": [3, 4, 5, 6],
            "area": [50.5, np.nan, 60.25, 1e-3],
        }
    )
    if write in (write_npz, write_hdf5):  # text arrays: fixed width in NPZ, UTF-8 bytes in HDF5
        frame["city"] = frame["city"].astype(object)
    if write is write_npz:
        arrays = {name: frame[name].to_numpy() for name in frame} | {"city": frame["city"].to_numpy().astype(str)}
        np.savez(tmp_path / "table.npz", **arrays)
        read = read_table(tmp_path / "table.npz")
    else:
        read = read_table(write(frame, tmp_path))
    assert read["city"].tolist() == ["Zürich", "Rom", "Zürich", "Wien"]
    assert read["sold"].tolist() == ["True", "False", "True", "True"]
    assert read["rooms"].tolist() == [3, 4, 5, 6]
    np.testing.assert_array_equal(read["area"], frame["area"])
    first = 2 if write in (write_csv, write_gzip, write_tabs, write_decimal_commas) else 1
    assert read.index.tolist() == [first, first + 1, first + 2, first + 3]
    assert read.index.name == ("line" if first == 2 else "row")


def csv(tmp_path: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "text", "notes"),
    [
        ("table.csv", "a,b\n1,x\n2,y\n", []),
        ("table.csv", "\ufeffa,b\r\n1,x\r\n2,y\r\n", []),
        ("table.csv", "a, b\n1, x\n2, y", []),
        ("table.csv", 'a,"b"\n1,"x"\n2,"y"\n', []),
        ("table.csv", "a;b\n1;x\n2;y\n", ["columns are separated by semicolons"]),
        ("table.csv", "a|b\n1|x\n2|y\n", ["columns are separated by vertical bars"]),
        ("table.tsv", "a\tb\n1\tx\n2\ty\n", []),
        ("table.txt", "a\tb\n1\tx\n2\ty\n", ["columns are separated by tabs"]),
        ("table.tsv", "a,b\n1,x\n2,y\n", ["columns are separated by commas"]),
        ("TABLE.CSV", "a,b\n+1,x\n+2,y\n", []),  # a plus sign, which Arrow reads as text
    ],
)
def test_delimiters_quotes_and_byte_order_marks(name, text, notes, tmp_path):
    frame = read_table(csv(tmp_path, text, name))
    assert frame.to_dict("list") == {"a": [1, 2], "b": ["x", "y"]}
    assert frame.attrs["notes"] == notes


def test_missing_spellings_and_dates(tmp_path):
    text = "n,s,d,t\n1,NA,2024-02-29,2024-02-29T12:00:00+02:00\n,x,,\nNaN, ,2024-03-01,2024-03-01T00:00:00Z\n"
    frame = read_table(csv(tmp_path, text))
    np.testing.assert_array_equal(frame["n"], [1, np.nan, np.nan])
    assert frame["s"].isna().tolist() == [True, False, True]
    assert frame["d"].tolist()[::2] == [pd.Timestamp("2024-02-29"), pd.Timestamp("2024-03-01")]
    assert frame["t"].iloc[0] == pd.Timestamp("2024-02-29T10:00:00")  # in UTC


def test_lines_are_those_of_the_file_despite_blank_lines_and_line_breaks_in_quotes(tmp_path):
    frame = read_table(csv(tmp_path, 'a,b\n\n1,"two\nlines"\n\n2,y\n'))
    assert frame.index.tolist() == [3, 6]
    assert frame["b"].tolist() == ["two\nlines", "y"]


def test_a_very_wide_table_is_read(tmp_path):
    # its header is longer than the longest field that Python's csv takes (131,072), and than Arrow's block (1 MiB)
    names = [f"wavelength_{number:060d}" for number in range(16_000)]
    frame = read_table(csv(tmp_path, ",".join(names) + "\n" + ("1.5," * 16_000)[:-1] + "\n"))
    assert frame.shape == (1, 16_000)


def test_line_breaks_in_quotes_throughout_a_large_file(tmp_path):
    # several of Arrow's blocks (1 MiB): a cut at any line break would nearly always be within the quotes
    text = "line\n" * 20 + "end"
    frame = read_table(csv(tmp_path, "a,b\n" + f'1,"{text}"\n' * 40_000))
    assert (frame["b"] == text).all()
    assert frame.index[-1] == 2 + 39_999 * 21


def test_one_column_is_a_table(tmp_path):
    assert read_table(csv(tmp_path, "sepal length\n5.1\n4.9\n"))["sepal length"].tolist() == [5.1, 4.9]
    assert list(read_table(csv(tmp_path, '"a,b;c"\n1\n'))) == ["a,b;c"]


def test_numeric_names_are_noted_as_a_missing_header(tmp_path):
    assert "no header" in read_table(csv(tmp_path, "5.1,3.5\n4.9,3.0\n")).attrs["notes"][0]


def refused(path: Path, *words: str, source: bool = True) -> None:
    with pytest.raises(UserError) as caught:
        read_table(path)
    assert caught.value.exit_status == 2
    for word in (*words, *([str(path)] if source else [])):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty"]),
        (" \n\n", ["empty"]),
        ("\ufeff", ["empty"]),
        ("a,b\n", ["no rows", "'a', 'b'"]),
        (b"a,b\n1,2\n3,\0\n", ["NUL", "line 3"]),
        ("a,b\n1,é\n".encode("latin-1"), ["0xe9", "line 2", "UTF-8"]),
        ("a,b\n1,2\n".encode("utf-16"), ["UTF-16"]),
        (b"PAR1....", ["Parquet"]),
        (b"\x89HDF\r\n\x1a\n", ["HDF5"]),
        (b"PK\x03\x04..", ["Excel"]),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), ["Add .gz"]),
        ("a b c\n1 2 3\n4 5 6\n", ["single column", "spaces", "3 columns"]),
        ("a:b\n1:2\n", ["single column", "colons", "2 columns"]),
        ("a,b,c\n1;2;3\n4;5;6\n", ["3 columns separated by commas", "3 columns separated by semicolons"]),
        ("a\n1,2\n3,4\n", ["single column", "2 columns separated by commas"]),
        ("a,b;c\n1,2;3\n", ["commas", "semicolons", "both fit"]),
        ("a,b,a\n1,2,3\n", ["'a' appears more than once", "columns 1, 3"]),
        ("a,b, a,b\n1,2,3,4\n", ["'a', 'b' appear more than once"]),
        ("a,b\n1,2\n3\n4,5\n", ["1 column and the header 2", "line 3"]),
        ("a,b\n1,2\n\n3,4,5\n6,7\n", ["3 columns and the header 2", "line 4"]),
        ('a,b\n1,"x\ny"\n2,z\n3\n', ["1 column and the header 2", "line 5"]),
        ("a,,c\n1,2,3\n", ["column 2 of 3", "no name", "index=False"]),
        (",a, \n0,1,2\n", ["columns 1, 3 of 3"]),
        ("a;b\n1,5;2.5\n2,5;3.5\n", ["'a' has decimal commas", "'b' decimal points"]),
        ("a;b\n1,500;x\n2,250;y\n", ["'a'", "thousands"]),
        ('a,b\n"1,500",1\n"12,250",2\n', ["'a'", "thousands"]),
    ],
)
def test_unusable_text_is_refused(text, words, tmp_path):
    refused(csv(tmp_path, text), *words)


def test_a_ragged_line_far_into_a_large_file_is_named(tmp_path):
    lines = ["a,b"] + ["1,2"] * 300_000  # more than one of the blocks that the parser works on
    lines[250_000] = "1,2,3"
    refused(csv(tmp_path, "\n".join(lines)), "line 250001", "3 columns")


def test_files_that_cannot_be_opened(tmp_path):
    csv(tmp_path, "a,b\n1,2\n", "houses.csv")
    refused(tmp_path / "house.csv", "no such file", "Did you mean 'houses.csv'?")
    refused(tmp_path / "nowhere" / "table.csv", "no such file")
    refused(tmp_path, "folder")
    (tmp_path / "folder.csv").mkdir()
    refused(tmp_path / "folder.csv", "folder")
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "no regular file")
    refused(csv(tmp_path, "a", "table.xlsx"), "'.xlsx'", "CSV", "Parquet")
    refused(csv(tmp_path, "a", "table"), "no suffix")


def test_an_unreadable_file(tmp_path):
    path = tmp_path / "table.csv"
    path.symlink_to("/proc/self/mem")  # fails to read also for root, who may read any file of mode 000
    if not path.is_file():
        pytest.skip("no /proc here")
    refused(path, "cannot be read")


def test_a_damaged_gzip_file(tmp_path):
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    refused(csv(tmp_path, whole[:-12], "table.csv.gz"), "damaged")
    refused(csv(tmp_path, b"a,b\n1,2\n", "table.csv.gz"), "not gzip")


@pytest.mark.parametrize("name", ["table.parquet", "table.npz", "table.h5"])
def test_text_or_nothing_under_a_binary_suffix(name, tmp_path):
    refused(csv(tmp_path, "a,b\n1,2\n", name), "the file is no")
    refused(csv(tmp_path, "", name), "empty")


def test_parquet_types(tmp_path):
    table = pa.table(
        {
            "flag": pa.array([True, None, False]),
            "count": pa.array([1, None, 3], pa.int32()),
            "exact": pa.array([1, 2, 3]).cast(pa.decimal128(30, 2)),
            "code": pa.array(["a", None, "b"]).dictionary_encode(),
            "empty": pa.nulls(3),
            "day": pa.array([0, 1, None], pa.date32()),
            "at": pa.array([0, 1, None], pa.time32("s")),
            "when": pa.array([0, None, 1], pa.timestamp("s", "Asia/Tokyo")),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    frame = read_table(tmp_path / "table.parquet")
    assert frame["flag"].isna().tolist() == [False, True, False]
    assert frame["flag"].iloc[0] == "True"
    np.testing.assert_array_equal(frame["count"], [1, np.nan, 3])
    assert frame["exact"].tolist() == [1.0, 2.0, 3.0]
    assert frame["code"].iloc[2] == "b"
    assert frame["empty"].isna().all()
    assert frame["day"].iloc[1] == pd.Timestamp("1970-01-02")
    assert frame["at"].iloc[1] == "00:00:01.000"  # Parquet keeps milliseconds
    assert frame["when"].iloc[2] == pd.Timestamp("1970-01-01T00:00:01")  # in UTC


def test_parquet_refusals(tmp_path):
    path = tmp_path / "table.parquet"
    pyarrow.parquet.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    refused(path, "'a' appears more than once")
    pyarrow.parquet.write_table(pa.table({"points": pa.array([[1, 2], [3]])}), path)
    refused(path, "'points'", "list")
    pyarrow.parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    refused(path, "no rows", "'a'")
    pyarrow.parquet.write_table(pa.table({"a": pa.array(range(1000))}), path)
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "no Parquet")


def test_parquet_leaves_out_the_index_that_pandas_stored(tmp_path):
    frame = pd.DataFrame({"a": [1, 2, 3, 4]})
    frame.iloc[[0, 1, 3]].to_parquet(tmp_path / "table.parquet")
    read = read_table(tmp_path / "table.parquet")
    assert list(read) == ["a"]
    assert "index" in read.attrs["notes"][0]


def test_npz_blocks_records_and_scalars(tmp_path):
    records = np.array([(1, 0.5), (2, 1.5)], dtype=[("id", "i4"), ("mass", ">f8")])
    np.savez(
        tmp_path / "table.npz",
        X=np.arange(4.0).reshape(2, 2),
        y=np.array([[5], [6]], dtype=">i2"),
        text=np.array([b"a", b"b"]),
        records=records,
        half=np.array([1, 2], dtype=np.float16),
        day=np.array(["2024-02-29", "NaT"], dtype="datetime64[D]"),
        seed=np.array(7),
    )
    frame = read_table(tmp_path / "table.npz")
    assert list(frame) == ["X_0", "X_1", "y", "text", "id", "mass", "half", "day"]
    assert frame["X_1"].tolist() == [1.0, 3.0]
    assert frame["y"].tolist() == [5, 6]
    assert frame["text"].tolist() == ["a", "b"]
    assert frame["mass"].tolist() == [0.5, 1.5]
    assert frame["day"].isna().tolist() == [False, True]
    assert frame.attrs["notes"] == ["left out 'seed', a single value"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.array([1, "x", None], dtype=object)}, ["'a'", "Python objects"]),
        ({"a": np.zeros(3), "b": np.zeros(3), "c": np.zeros(4)}, ["'c' has 4 rows", "'a' 3"]),
        ({"a": np.zeros((3, 4, 5))}, ["'a' has 3 axes", "3 × 4 × 5"]),
        ({"a": np.zeros(3, complex)}, ["'a'", "complex128"]),
        ({"a": np.zeros((3, 2)), "a_1": np.zeros(3)}, ["'a_1' appears more than once"]),
        ({"a": np.zeros(0)}, ["no rows"]),
        ({"a": np.array(1.0)}, ["no columns"]),
    ],
)
def test_npz_refusals(arrays, words, tmp_path):
    np.savez(tmp_path / "table.npz", **arrays, allow_pickle=True)
    refused(tmp_path / "table.npz", *words)


def test_npz_files_of_other_kinds(tmp_path):
    with open(tmp_path / "table.npz", "wb") as file:
        np.save(file, np.zeros(3))
    refused(tmp_path / "table.npz", ".npy", "savez")
    with open(tmp_path / "table.npz", "wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "table.npz", "no NPZ")
    with zipfile.ZipFile(tmp_path / "table.npz", "w") as archive:
        archive.writestr("readme.txt", "not an array")
    refused(tmp_path / "table.npz", "'readme.txt' is no array")
    np.savez(tmp_path / "table.npz", a=np.arange(1000))
    data = bytearray((tmp_path / "table.npz").read_bytes())
    data[500] ^= 1
    (tmp_path / "table.npz").write_bytes(data)
    refused(tmp_path / "table.npz", "damaged")


def test_hdf5_groups(tmp_path):
    path = tmp_path / "plate.h5"
    with h5py.File(path, "w") as file:
        file["plate/run_1/x"] = np.arange(3.0)
        file["plate/run_1/name"] = ["a", "b", "ü"]
        file["plate/run_2/x"] = np.zeros((2, 2))
    frame = read_table(path / "plate" / "run_1")
    assert frame.to_dict("list") == {"name": ["a", "b", "ü"], "x": [0, 1, 2]}
    assert list(read_table(f"{path}/plate/run_2")) == ["x_0", "x_1"]
    refused(path, "no datasets", "plate", source=False)
    refused(path / "plate", "no datasets", f"{path}/plate/run_1")
    refused(path / "disk", "no such group", "'plate'")
    refused(path / "plate/run_1/x", "dataset, not a group")
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["only/x"] = np.arange(3)
    frame = read_table(tmp_path / "one.h5")
    assert frame["x"].tolist() == [0, 1, 2]
    assert frame.attrs["notes"] == ["the table is the group 'only'"]


def test_hdf5_refusals(tmp_path):
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["x"] = np.arange(3)
        file["y"] = np.arange(4)
    refused(tmp_path / "table.h5", "'y' has 4 rows", "'x' 3")
    with h5py.File(tmp_path / "table.h5", "w") as file:
        file["x"] = np.array([b"\xff", b"a"])
    refused(tmp_path / "table.h5", "'x'", "cannot be read")


def test_a_refused_file_is_left_as_it_was(tmp_path):
    path = csv(tmp_path, "a,b\n1,2\n3\n")
    refused(path, "line 3")
    assert path.read_text() == "a,b\n1,2\n3\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_the_room_imports_no_jax_and_nothing_above_it():
    sources = Path(read_table.__code__.co_filename).parent.glob("*.py")
    imported = {
        name
        for source in sources
        for name in re.findall(r"^\s*(?:from|import) ([a-z_0-9]+(?:\.[a-z_0-9]+)*)", source.read_text(), re.MULTILINE)
    }
    outside = {name.split(".")[0] for name in imported if not name.startswith("thalweg")}
    allowed = {"numpy", "pandas", "pyarrow", "h5py", "scipy", "sklearn"}
    assert outside - set(__import__("sys").stdlib_module_names) <= allowed
    ours = {name for name in imported if name.startswith("thalweg")}
    assert all(name.startswith("thalweg.data") or name == "thalweg.errors" for name in ours)

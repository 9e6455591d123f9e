"""Whatever stands in the files of a run or a model, reading them ends in an answer or one clear message."""

import copy
import json
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from thalweg import cli
from thalweg.errors import DamagedError, UserError
from thalweg.nn import save
from thalweg.report.formats import read_record
from thalweg.report.provenance import data_section, provenance
from thalweg.report.summary import heading
from thalweg.tables import Request, TableSettings, fit_table, load_table_model, predict_table
from thalweg.tables.fit import EXTENSION, _extension
from thalweg.train import CheckpointStore, RunDirectory, load_run
from thalweg.train.files import write_json_atomic
from thalweg.train.reading import read_verdicts

DELETED = object()
JUNK = (None, 7, -1.5, "odd", [], ["a"], {}, {"a": 1}, True, 10**30, DELETED)


@pytest.fixture(scope="module")
def tiny(diabetes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one very small network; every test puts back what it changes."""
    folder = tmp_path_factory.mktemp("tiny")
    shutil.copy(diabetes, folder / "t.csv")
    settings = TableSettings(members=1, epochs=1, width=2, depth=1)
    run = fit_table(Request(folder / "t.csv", "target", settings=settings), folder / "run").run
    write_json_atomic(run / EXTENSION, {"epochs": 0})
    return run


@pytest.fixture
def run(tiny: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "run"))


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value stands; of lists the first two, since the others are alike."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


def damaged(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one thing in it replaced or deleted, and what was done."""
    for at in places(value):
        for junk in JUNK:
            done = f"{'.'.join(map(str, at)) or 'all'} {'deleted' if junk is DELETED else f'= {junk!r}'}"
            if at:
                changed = copy.deepcopy(value)
                inner = changed
                for key in at[:-1]:
                    inner = inner[key]
                if junk is DELETED:
                    del inner[at[-1]]
                else:
                    inner[at[-1]] = junk
                yield done, changed
            elif junk is not DELETED:
                yield done, junk


def survive(file: Path, texts: Iterator[tuple[str, str]], read: Callable[[], object]) -> int:
    """How many of the texts are refused; anything but a refusal or an answer fails, and says which."""
    refused = 0
    for done, text in texts:
        file.write_text(text)
        try:
            read()
        except UserError:  # exit status 2
            refused += 1
        except Exception as error:
            pytest.fail(f"{file.name}, {done}: {error!r}")
    return refused


def report_reads(run: Path) -> None:
    """All that `thalweg report` reads and says, without the drawing, which takes a second."""
    record = read_record(run)
    heading(record)
    provenance(record)
    if record.data is not None:
        data_section(record.data)


def resume_reads(run: Path) -> None:
    """All that `thalweg resume` reads before it trains."""
    directory = RunDirectory.open(run)
    Request.from_config(directory.config(), table=None, where=str(run / "config.toml"))
    read_verdicts(directory)
    _extension(run / EXTENSION)


@pytest.mark.parametrize(
    ("name", "readers"),
    [
        ("environment.json", [report_reads, load_run]),
        ("verdict.json", [report_reads, load_run, resume_reads]),
        ("data.json", [report_reads]),
        (EXTENSION, [resume_reads]),
    ],
)
def test_the_record_is_read_or_refused(run: Path, name: str, readers: list[Callable[[Path], object]]):
    file = run / name
    texts = [(done, json.dumps(one)) for done, one in damaged(json.loads(file.read_text()))]
    for read in readers:
        assert survive(file, iter(texts), lambda read=read: read(run))


def test_settings_are_read_or_refused(run: Path):
    file = run / "config.toml"
    changed = damaged(tomllib.loads(file.read_text()))
    texts = [(done, tomli_w.dumps(one)) for done, one in changed if isinstance(one, dict) and writable(one)]
    assert survive(file, iter(texts), lambda: resume_reads(run))
    assert survive(file, iter(texts), lambda: report_reads(run)) == 0  # any settings can be shown
    assert survive(file, iter(texts), lambda: load_run(run)) == 0


def writable(value: Any) -> bool:
    """Whether TOML can say it: it has no null."""
    try:
        tomli_w.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def test_scores_are_read_or_refused(run: Path):
    file = run / "scores.json"
    texts = ((done, json.dumps(one)) for done, one in damaged(json.loads(file.read_text())))
    assert survive(file, texts, lambda: read_record(run))


def test_logged_rows_are_read_or_refused(run: Path):
    file = run / "metrics.jsonl"
    first, *others = file.read_text().splitlines(keepends=True)
    texts = ((done, json.dumps(one) + "\n" + "".join(others)) for done, one in damaged(json.loads(first)))
    assert survive(file, texts, lambda: read_record(run))


def test_checkpoints_are_read_or_refused(run: Path):
    def read() -> None:
        latest = CheckpointStore(run / "checkpoints" / "fit").latest()
        assert latest is not None
        latest.verify()
        latest.meta()
        latest.leaves()

    for file in sorted((run / "checkpoints" / "fit").glob("step-*"))[-1].glob("*.json"):
        original = file.read_text()
        assert survive(file, ((done, json.dumps(one)) for done, one in damaged(json.loads(original))), read)
        file.write_text(original)


# --------------------------------------------------------------------------------------------------------- model files
def described(run: Path) -> dict[str, Any]:
    return json.loads((run / "model" / "model.json").read_text())


def signed(content: Any) -> str:
    """As a hostile writer would: with the sum that belongs to it."""
    if isinstance(content, dict) and "description_sha256" in content:
        content = content | {"description_sha256": save._digest(content)}
    return json.dumps(content)


def test_a_models_description_is_read_or_refused(run: Path, tmp_path: Path):
    row = tmp_path / "row.csv"
    row.write_text("age,sex,bmi,bp,s1,s2,s3,s4,s5,s6\n59,2,32.1,101,157,93.2,38,4,4.8598,87\n")
    texts = ((done, signed(one)) for done, one in damaged(described(run)))
    assert survive(run / "model" / "model.json", texts, lambda: predict_table(run, row)) > 500


@pytest.mark.parametrize("entry", ["keys", "weak", "scalars"])
def test_hostile_leaves_are_refused(run: Path, entry: str):
    content = described(run)
    leaf = "members/0/network/linear/weight"
    for name in (leaf, "nowhere"):
        for value in ("threefry2x32", "rbg", "odd", ""):
            content[entry] = [name] if entry == "weak" else {name: value}
            (run / "model" / "model.json").write_text(signed(content))
            try:
                load_table_model(run)
            except UserError:
                continue
            assert entry == "weak" or name == "nowhere"  # these change nothing in the model


def test_a_model_of_another_size_than_its_schema_is_refused(run: Path, class_run: Path):
    content = described(run)
    content["metadata"]["schema"]["features"].pop()
    (run / "model" / "model.json").write_text(signed(content))
    with pytest.raises(DamagedError, match="cannot take 9 features"):
        load_table_model(run)
    shutil.copytree(class_run / "model", run / "classes")
    content = json.loads((run / "classes" / "model.json").read_text())
    names = content["metadata"]["schema"]["target"]["classes"]
    for classes in (names[:-1], [*names, "chianti"]):
        changed = copy.deepcopy(content)
        changed["metadata"]["schema"]["target"]["classes"] = classes
        (run / "classes" / "model.json").write_text(signed(changed))
        with pytest.raises(DamagedError, match="answers with"):
            load_table_model(run / "classes")
    content["metadata"]["schema"]["target"] = {"kind": "number", "name": "y", "low": 0.0, "high": 1.0}
    (run / "classes" / "model.json").write_text(signed(content))
    with pytest.raises(DamagedError, match="different targets"):
        load_table_model(run / "classes")


def test_a_bottomless_description_is_refused(run: Path):
    content = described(run)
    inner: Any = None
    for _ in range(400):
        inner = {"tuple": [inner]}
    content["spec"] = inner
    (run / "model" / "model.json").write_text(signed(content))
    with pytest.raises(UserError):
        load_table_model(run)


# ---------------------------------------------------------------------------------------------------- the command line
def ended(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["thalweg", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (b"", "config.toml"),
        (b"\x89HDF\r\n\x1a\n\xff\xfe", "cannot be read"),
        (b"kind = [", "cannot be read"),
        (b"kind = 'table'\n", "seed: Field required"),
        (b"kind = 'table'\nseed = 0\ntable = 'a.csv'\n[settings]\n", "table: "),
        (b"kind = 'table'\nseed = 'x'\n[settings]\n[table]\npath = 3\n", "seed: "),
        (b"kind = 'study'\n", "'study', 'seed' and 'settings'"),
        (b"kind = 'study'\nstudy = 3\nseed = 1\n[settings]\n", "'study', 'seed' and 'settings'"),
        (b"kind = ['table']\n", "kind"),
    ],
)
def test_resume_of_a_run_with_damaged_settings(monkeypatch, capsys, run: Path, settings: bytes, message: str):
    (run / "config.toml").write_bytes(settings)
    verdict = (run / "verdict.json").read_bytes()
    assert ended(monkeypatch, "resume", run) == 2
    said = capsys.readouterr().err
    assert message in said
    assert str(run / "config.toml") in said
    assert "Traceback" not in said
    assert (run / "verdict.json").read_bytes() == verdict


@pytest.mark.parametrize("settings", [b"\x89HDF\r\n\x1a\n\xff\xfe", b"kind = ["])
def test_report_of_a_run_with_damaged_settings(monkeypatch, capsys, run: Path, settings: bytes):
    (run / "config.toml").write_bytes(settings)
    assert ended(monkeypatch, "report", run) == 2
    assert str(run / "config.toml") in capsys.readouterr().err


def test_predict_by_a_hostile_model(monkeypatch, capsys, run: Path, diabetes: Path):
    content = described(run)
    content["keys"] = ["members/0/network/linear/weight"]
    (run / "model" / "model.json").write_text(signed(content))
    assert ended(monkeypatch, "predict", run / "model", diabetes) == 2
    said = capsys.readouterr().err
    assert "'keys'" in said
    assert "model.json" in said

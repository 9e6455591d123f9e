"""The command line: a user's error is one clear message and status 2, and nothing is written over."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from thalweg import cli

QUICK = ["--set", "members=1", "--set", "epochs=1", "--set", "width=4", "--set", "depth=1"]


@pytest.fixture(scope="module")
def wine() -> pd.DataFrame:
    return load_wine(as_frame=True).frame


@pytest.fixture(scope="module")
def finished(wine: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, through the command line."""
    folder = tmp_path_factory.mktemp("cli")
    wine.to_csv(folder / "wine.csv", index=False)
    out = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "fit", folder / "wine.csv", "--target", "target", "--out", out, *QUICK) == 0
    return out


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """The exit status of `thalweg ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["thalweg", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must end with status 2, without a traceback."""
    assert run(monkeypatch, *arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def fit_text(folder: Path, text: str | bytes, name: str = "table.csv") -> list[object]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ["fit", path, "--target", "y", "--out", folder / "run", *QUICK]


ROWS = "".join(f"{i},{i * i % 7},{i % 5}\n" for i in range(40))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (b"\x00\x01PAR1\xff\xfe\x00" * 50, "binary"),
        ("a:b:y\n1:2:3\n2:3:4\n3:4:6\n4:5:7\n", "colons"),
        ("a,b,c\n" + ROWS, "'y'"),
        ("a,b,y\n" + "".join(f"{i},{i % 7},3\n" for i in range(40)), "constant"),
        ("a,b,y\n" + "".join(f"{i},,{i % 5 + i / 3}\n" for i in range(40)), "'b'"),
        ("a,b,y\n" + "".join(f"{i},{'inf' if i == 7 else i % 7},{i % 5 + i / 3}\n" for i in range(40)), "infinit"),
        ("a,b,y\n1,2,3\n", "row"),
        ("a,a,y\n" + ROWS, "'a'"),
    ],
    ids=[
        "empty",
        "binary",
        "delimiter",
        "no target",
        "constant target",
        "all missing",
        "infinite",
        "one row",
        "duplicate",
    ],
)
def test_bad_tables(monkeypatch, capsys, tmp_path: Path, text: str | bytes, message: str):
    assert message in refused(monkeypatch, capsys, *fit_text(tmp_path, text))
    assert not (tmp_path / "run").exists()


def test_text_target_for_a_regression(monkeypatch, capsys, tmp_path: Path):
    arguments = fit_text(tmp_path, "a,y\n" + "".join(f"{i},{'high' if i % 2 else i}\n" for i in range(40)))
    assert "'high'" in refused(monkeypatch, capsys, *arguments, "--task", "number")


def test_missing_file_and_folder(monkeypatch, capsys, tmp_path: Path):
    assert "nowhere.csv" in refused(monkeypatch, capsys, "fit", tmp_path / "nowhere.csv", "--target", "y")
    assert str(tmp_path) in refused(monkeypatch, capsys, "fit", tmp_path, "--target", "y")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=0", "epochs='0'"),
        ("rate=-0.1", "rate='-0.1'"),
        ("rate=nan", "rate='nan'"),
        ("epoch=3", "Did you mean 'epochs'?"),
        ("width=wide", "width='wide'"),
        ("width", "key=value"),
    ],
)
def test_bad_settings(monkeypatch, capsys, tmp_path: Path, setting: str, message: str):
    arguments = fit_text(tmp_path, "a,b,y\n" + ROWS)[: -len(QUICK)]
    assert message in refused(monkeypatch, capsys, *arguments, "--set", setting)
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists_is_left_alone(monkeypatch, capsys, tmp_path: Path, finished: Path):
    before = (finished / "model" / "model.safetensors").read_bytes()
    arguments = fit_text(tmp_path, "a,b,y\n" + ROWS)
    arguments[arguments.index("--out") + 1] = finished
    assert str(finished) in refused(monkeypatch, capsys, *arguments)
    assert (finished / "model" / "model.safetensors").read_bytes() == before


def test_resume_of_no_run(monkeypatch, capsys, tmp_path: Path):
    assert "no run" in refused(monkeypatch, capsys, "resume", tmp_path)
    assert "nowhere" in refused(monkeypatch, capsys, "resume", tmp_path / "nowhere")


def test_resume_of_a_locked_run(monkeypatch, capsys, finished: Path):
    from thalweg.train import RunDirectory

    with RunDirectory.open(finished).lock():
        assert "process" in refused(monkeypatch, capsys, "resume", finished)


def test_resume_of_a_damaged_checkpoint_offers_an_older_one(monkeypatch, capsys, finished: Path, tmp_path: Path):
    shutil.copytree(finished, tmp_path / "run")
    latest = max((tmp_path / "run" / "checkpoints" / "fit").glob("step-*"))
    content = bytearray((latest / "arrays.safetensors").read_bytes())
    content[-1] ^= 1
    (latest / "arrays.safetensors").write_bytes(content)
    message = refused(monkeypatch, capsys, "resume", tmp_path / "run")
    assert "arrays.safetensors" in message
    assert "step 0" in message


def test_predict_writes_a_file_once(monkeypatch, capsys, finished: Path, wine: pd.DataFrame, tmp_path: Path):
    wine.drop(columns="target").to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "answers.csv"
    assert run(monkeypatch, "predict", finished, tmp_path / "new.csv", "--out", out) == 0
    assert len(pd.read_csv(out)) == len(wine)
    capsys.readouterr()
    assert "exists" in refused(monkeypatch, capsys, "predict", finished, tmp_path / "new.csv", "--out", out)


def test_predict_with_missing_extra_and_retyped_columns(
    monkeypatch, capsys, finished: Path, wine: pd.DataFrame, tmp_path: Path
):
    path = tmp_path / "new.csv"
    wine.drop(columns="alcohol").to_csv(path, index=False)
    assert "'alcohol'" in refused(monkeypatch, capsys, "predict", finished, path)
    wine.assign(alcohol=["much"] * len(wine)).to_csv(path, index=False)
    message = refused(monkeypatch, capsys, "predict", finished, path)
    assert "'alcohol'" in message
    assert "'much'" in message
    assert "2" in message
    wine.assign(alcohol=np.inf).to_csv(path, index=False)
    assert "'alcohol'" in refused(monkeypatch, capsys, "predict", finished, path)
    wine.assign(colour="red").to_csv(path, index=False)
    assert run(monkeypatch, "predict", finished, path, "--out", tmp_path / "answers.csv") == 0
    assert "'colour'" in capsys.readouterr().err


def test_predict_from_what_is_no_model(monkeypatch, capsys, finished: Path, wine: pd.DataFrame, tmp_path: Path):
    wine.to_csv(tmp_path / "new.csv", index=False)
    refused(monkeypatch, capsys, "predict", tmp_path / "nowhere", tmp_path / "new.csv")
    refused(monkeypatch, capsys, "predict", tmp_path, tmp_path / "new.csv")
    model = tmp_path / "model"
    shutil.copytree(finished / "model", model)
    (model / "model.safetensors").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")  # a pickle's beginning
    assert "model.safetensors" in refused(monkeypatch, capsys, "predict", model, tmp_path / "new.csv")


def test_report_is_written_anew(monkeypatch, capsys, finished: Path):
    (finished / "report.html").unlink()
    assert run(monkeypatch, "report", finished) == 0
    assert "<html" in (finished / "report.html").read_text()


def test_the_record_of_a_run(finished: Path):
    assert json.loads((finished / "verdict.json").read_text())["members"][0]["status"]
    assert json.loads((finished / "environment.json").read_text())["seed"] == 0
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["parts"]["data"]


@pytest.mark.parametrize("command", ["fit", "predict", "resume", "report"])
def test_help_of_every_command(monkeypatch, capsys, command: str):
    assert run(monkeypatch, command, "--help") == 0
    assert "Usage: thalweg" in capsys.readouterr().out


def test_unknown_command(monkeypatch, capsys):
    assert "No such command" in refused(monkeypatch, capsys, "fti")

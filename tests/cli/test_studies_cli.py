"""Studies from the command line: list, show, run, resume, copy, completion, and every refusal's status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thalweg import cli
from thalweg.study.catalogue import built_in

STUDY = """
import thalweg as tw

class Settings(tw.Settings):
    throws: int = tw.setting(8, "throws of the coin", quick=4, ge=1)
    width: float = tw.setting(2.5, "diameter of the coin", unit="mm", gt=0)

@tw.study("coin", question="Is it fair?", systems=["S08"])
def coin(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    heads = (run.seed + settings.throws) % 3
    return [tw.Claim.at_most("few heads", heads, (heads, heads), 1, unit="heads")]
"""
HEAVY = ("jax", "equinox", "pandas", "matplotlib", "sklearn", "scipy")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """The exit status of `thalweg ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["thalweg", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def said(monkeypatch, capsys, *arguments: object) -> str:
    """Standard output of a command that must succeed."""
    capsys.readouterr()
    assert run(monkeypatch, *arguments) == 0
    return capsys.readouterr().out


def refused(monkeypatch, capsys, *arguments: object, status: int = 2) -> str:
    """The message of a command that must fail, without a traceback."""
    capsys.readouterr()
    assert run(monkeypatch, *arguments) == status
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """The command in a process of its own, which then says on standard error what heavy modules it has loaded."""
    program = f"""
import atexit, runpy, sys
atexit.register(lambda: sys.stderr.write("loaded: " + " ".join(m for m in {HEAVY} if m in sys.modules) + "\\n"))
sys.argv = ["thalweg", *{arguments!r}]
runpy.run_module("thalweg.cli", run_name="__main__")
"""
    known = os.environ | environment
    return subprocess.run([sys.executable, "-c", program], env=known, capture_output=True, text=True, timeout=300)


@pytest.fixture
def coin(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coin.py").write_text(STUDY)
    return tmp_path / "coin.py"


# -------------------------------------------------------------------------------------------------------- list, show
def test_list_names_every_study_and_loads_nothing_heavy() -> None:
    done = process("list")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(built_in())
    assert all(line.rstrip(")").rpartition("(")[0].strip().endswith("?") or line.endswith("?")
               for line in done.stdout.splitlines())  # fmt: skip
    assert done.stderr.splitlines()[-1] == "loaded: "


def test_show_documents_the_settings_with_units(monkeypatch, capsys, coin: Path) -> None:
    text = said(monkeypatch, capsys, "show", "coin.py")
    assert "Is it fair?" in text
    assert "S08" in text
    assert re.search(r"throws +throws of the coin \(int, default 8, quick 4; ≥ 1\)", text)
    assert re.search(r"width +diameter of the coin \(float, default 2.5 mm; > 0\)", text)
    assert "thalweg run coin.py" in text
    assert not (coin.parent / "runs").exists()


def test_show_of_thalwegs_own(monkeypatch, capsys) -> None:
    text = said(monkeypatch, capsys, "show", "digits")
    assert re.search(r"seeds .*int, default 10", text)
    assert "thalweg run digits" in text


# --------------------------------------------------------------------------------------------------------------- run
def test_run_a_file(monkeypatch, capsys, coin: Path) -> None:
    text = said(monkeypatch, capsys, "run", "coin.py", "--seed", 1, "--set", "throws=5", "--out", "out")
    assert re.search(r"supported +few heads", text)
    assert "measured 0 [0, 0] heads; reference at most 1 heads" in text
    assert "report: out/report.html" in text
    assert "verdict" not in text  # nothing was trained
    assert json.loads(Path("out/claims.json").read_text())["claims"][0]["verdict"] == "supported"


def test_a_claim_that_is_not_supported_is_no_failure(monkeypatch, capsys, coin: Path) -> None:
    text = said(monkeypatch, capsys, "run", "coin.py", "--out", "out")  # 8 throws: 2 heads
    assert re.search(r"not supported +few heads", text)


def test_the_preset_and_what_is_set_over_it(monkeypatch, capsys, coin: Path) -> None:
    for i, (arguments, throws) in enumerate([
        (["--preset", "quick"], 4),
        (["--preset", "full"], 8),
        ([], 8),
        (["--preset", "quick", "--set", "throws=6"], 6),
    ]):  # fmt: skip
        said(monkeypatch, capsys, "run", "coin.py", *arguments, "--out", f"out{i}")
        assert f"throws = {throws}\n" in Path(f"out{i}/config.toml").read_text()


def test_seeds_is_the_setting_of_that_name(monkeypatch, capsys, coin: Path) -> None:
    assert "there is no setting 'seeds'" in refused(monkeypatch, capsys, "run", "coin.py", "--seeds", 3)
    coin.write_text(STUDY.replace("    throws: int", '    seeds: int = tw.setting(2, "seeds", ge=1)\n    throws: int'))
    said(monkeypatch, capsys, "run", "coin.py", "--seeds", 3, "--out", "out")
    assert "seeds = 3\n" in Path("out/config.toml").read_text()
    assert "twice" in refused(monkeypatch, capsys, "run", "coin.py", "--seeds", 3, "--set", "seeds=4")


def test_runs_have_a_folder_of_their_own_by_default(monkeypatch, capsys, coin: Path) -> None:
    for _ in range(2):
        said(monkeypatch, capsys, "run", "coin.py")
    assert len(list(Path("runs/coin").iterdir())) == 2


def test_report_and_resume_of_a_study(monkeypatch, capsys, coin: Path) -> None:
    said(monkeypatch, capsys, "run", "coin.py", "--out", "out")
    before = Path("out/claims.json").read_bytes()
    page = Path("out/report.html").read_text()
    coin.unlink()
    Path("out/report.html").unlink()
    assert said(monkeypatch, capsys, "report", "out").strip() == "out/report.html"
    assert Path("out/report.html").read_text() == page

    assert run(monkeypatch, "resume", "out") == 0
    captured = capsys.readouterr()
    assert "executing the run's own copy of the study, in out/source" in captured.err
    assert "few heads" in captured.out
    assert Path("out/claims.json").read_bytes() == before
    assert "fits of tables" in refused(monkeypatch, capsys, "resume", "out", "--epochs", 3)
    copy = Path("out/source/coin.py")
    copy.write_text(copy.read_text().replace("% 3", "% 2"))
    assert "'coin.py' of the run was changed" in refused(monkeypatch, capsys, "resume", "out")
    assert Path("out/claims.json").read_bytes() == before


@pytest.mark.slow
def test_copy_digits_and_run_the_copy(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "thalweg run my.py" in said(monkeypatch, capsys, "copy", "digits", "my.py")
    small = ["--set", "steps=60", "--set", "width=16", "--seeds", 2]
    text = said(monkeypatch, capsys, "run", "my.py", *small, "--out", "copied")
    assert "The median test accuracy over 2 seeds" in text
    said(monkeypatch, capsys, "run", "digits", *small, "--out", "own")
    assert Path("copied/claims.json").read_bytes() == Path("own/claims.json").read_bytes()


@pytest.mark.slow
def test_digits_reaches_what_it_claims(monkeypatch, capsys, tmp_path: Path) -> None:
    """With another split and other seeds than those it was built with."""
    said(monkeypatch, capsys, "run", "digits", "--seed", 7, "--out", tmp_path / "out")
    median, *_ = json.loads((tmp_path / "out" / "claims.json").read_text())["claims"]
    assert (median["verdict"], median["value"] >= 97.5) == ("supported", True)


# --------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("command", ["run", "show", "copy"])
def test_an_unknown_study(monkeypatch, capsys, tmp_path: Path, command: str) -> None:
    more = [tmp_path / "my.py"] if command == "copy" else []
    assert "Did you mean 'digits'?" in refused(monkeypatch, capsys, command, "digts", *more)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "throw=3"], "Did you mean 'throws'?"),
        (["--set", "throws=many"], "throws='many'"),
        (["--set", "throws=2.5"], "throws='2.5'"),
        (["--set", "throws=0"], "throws='0'"),
        (["--set", "width=-1"], "diameter of the coin, in mm"),
        (["--set", "width=nan"], "width='nan'"),
        (["--set", "throws"], "key=value"),
        (["--seed", "-1"], "seed"),
        (["--seed", "one"], "--seed"),
        (["--preset", "fast"], "quick"),
    ],
)
def test_bad_settings(monkeypatch, capsys, coin: Path, arguments: list[str], message: str) -> None:
    assert message in refused(monkeypatch, capsys, "run", "coin.py", *arguments)
    assert sorted(path.name for path in coin.parent.iterdir() if path.name != "__pycache__") == ["coin.py"]


@pytest.mark.parametrize(
    ("text", "message", "status"),
    [
        ("def f(:\n", "line 1: def f(:", 2),
        ("print('hello')\n", "holds no study", 2),
        (STUDY + STUDY, "2 studies are named 'coin'", 2),
        ("import nowhere\n" + STUDY, "line 1: import nowhere", 1),
        (STUDY.replace("% 3", "% 0"), "line 10, in coin: heads = (run.seed + settings.throws) % 0", 1),
        (STUDY.replace("(heads, heads)", "(2, 1)"), "your line: ", 2),
        (STUDY.replace("return [", "return list or ["), "no list of claims", 1),
    ],
    ids=["syntax", "no study", "two of one name", "import", "raises", "thalweg raises", "no claims"],
)
def test_bad_files(monkeypatch, capsys, coin: Path, text: str, message: str, status: int) -> None:
    coin.write_text(text)
    said = refused(monkeypatch, capsys, "run", "coin.py", "--out", "out", status=status)
    assert message in said
    assert "coin.py" in said


def test_missing_files_and_an_existing_out(monkeypatch, capsys, coin: Path) -> None:
    assert "nowhere.py" in refused(monkeypatch, capsys, "run", "nowhere.py")
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert "nothing was written over" in refused(monkeypatch, capsys, "run", "coin.py", "--out", "out")
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]
    assert "exists already" in refused(monkeypatch, capsys, "copy", "digits", "coin.py")
    assert coin.read_text() == STUDY


@pytest.mark.parametrize("command", ["list", "show", "run", "copy"])
def test_help_of_every_command(monkeypatch, capsys, command: str) -> None:
    assert "Usage: thalweg" in said(monkeypatch, capsys, command, "--help")


def test_the_shell_completes_studies_and_files(coin: Path) -> None:
    """As bash asks, without loading anything heavy."""
    for words, expected in (("thalweg run dig", ["digits"]), ("thalweg run coi", ["coin.py"])):
        done = process(_THALWEG_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD="2")
        assert done.stdout.split() == expected, done.stderr
        assert done.stderr.splitlines()[-1] == "loaded: "

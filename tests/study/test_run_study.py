"""A study is carried out: what it leaves, how it fails, and that a killed one resumes to the same claims."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import thalweg as tw
from thalweg.errors import RunError, UserError
from thalweg.study.claim import ClaimVerdict
from thalweg.study.files import StudyFailed
from thalweg.study.runner import resume_study, run_study
from thalweg.train import FitFailed, FitInterrupted, RunDirectory, Status, load_run

HEAD = """
import jax, jax.numpy as jnp, numpy as np
from sklearn.datasets import load_diabetes
import thalweg as tw
from helper import Stopper

class Settings(tw.Settings):
    steps: int = tw.setting(60, "steps of each fit", quick=20, ge=1)
    rate: float = tw.setting(1e-2, "learning rate", gt=0)
"""

# Two fits of 442 patients (Efron et al., 2004): a line, then a bend on what the line leaves.
STUDY = (
    HEAD
    + """
@tw.study("patients", question="Does a bend say more than a line?", systems=["S50"])
def patients(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    x, y = load_diabetes(return_X_y=True)
    x, y = (20 * x).astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)[:, None]

    def trained(name, depth):
        model = tw.nn.MLP(10, 1, width=8, depth=depth, key=jax.random.key(run.seed))
        data = tw.Objective(data=tw.Supervised(jnp.array(x), jnp.array(y), loss=tw.losses.squared_error, batch_size=32))
        fitted = tw.fit(model, data, tw.Phase(tw.Adam(settings.rate), settings.steps), seed=run.seed, run=run,
                        name=name, log_every=5, checkpoint_seconds=0, callbacks=[*run.callbacks, Stopper(name)])
        return float(np.mean((np.asarray(jax.vmap(fitted.model)(jnp.array(x))) - y) ** 2))

    line, bend = trained("line", 0), trained("bend", 1)
    run.save_figure("losses", lambda ax: ax.bar(["line", "bend"], [line, bend]), title="Both", caption="Mean squares.")
    return [
        tw.Claim.at_most("the bend's error is at most the line's", bend, (0.9 * bend, 1.1 * bend), line),
        tw.Claim.at_least("the line explains half", 1 - line, (1 - line, 1 - line), 0.5),
    ]
"""
)

HELPER = """
import os, signal
import thalweg as tw

class Stopper(tw.Callback):
    # Stops the process in the middle of one fit, as the environment says; the same file runs and resumes.
    def __init__(self, name):
        self.left = int(os.environ.get("STOP_AFTER", 0)) if os.environ.get("STOP_IN") == name else 0

    def progress(self, phase, step, row):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.Signals[os.environ["STOP_BY"]])
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write(tmp_path, STUDY)


def write(folder: Path, text: str) -> Path:
    (folder / "helper.py").write_text(HELPER)
    (folder / "patients.py").write_text(text)
    return folder / "patients.py"


def raising(folder: Path, body: str) -> Path:
    """A study that fits a line, then does something else."""
    text = STUDY.replace("    line, bend = ", f"    trained('line', 0)\n    {body}\n    line, bend = ")
    assert text != STUDY
    return write(folder, text)


def claims(run: Path) -> bytes:
    return (run / "claims.json").read_bytes()


# ---------------------------------------------------------------------------------------------------- what is left
def test_what_a_study_leaves(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = run_study(study, {"rate": "0.02"}, quick=True, seed=3, out=out)
    assert found.path == out
    assert (found.study, found.question) == ("patients", "Does a bend say more than a line?")
    assert [claim.verdict for claim in found.claims] == [
        tw.Claim.from_json(one).verdict for one in json.loads(claims(out))["claims"]
    ]
    assert json.loads(claims(out))["systems"] == ["S50"]
    run = RunDirectory.open(out)
    assert run.config() == {
        "kind": "study",
        "study": "patients",
        "file": str(study),
        "seed": 3,
        "settings": {"steps": 20, "rate": 0.02},
    }
    assert run.environment()["seed"] == 3
    copies = run.verify_sources()
    assert [path.name for path in copies] == ["patients.py", "helper.py"]
    assert copies[0].read_text() == STUDY
    assert {row["fit"] for row in run.metrics.read()} == {"line", "bend"}
    page = (out / "report.html").read_text()
    assert "Does a bend say more than a line?" in page
    assert "the line explains half" in page
    assert f"thalweg run {study} --seed 3 --set steps=20 --set rate=0.02" in page
    assert (out / "arrays" / "figures" / "losses.svg").is_file()
    assert not (out / "error.txt").exists()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_claims_and_another_does_not(study: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_study(study, quick=True, seed=seed, out=tmp_path / name)
    assert claims(tmp_path / "a") == claims(tmp_path / "b")
    assert claims(tmp_path / "a") != claims(tmp_path / "c")


def test_the_verdict_of_the_worst_fit_comes_first(tmp_path: Path) -> None:
    """Three fits, of which the second diverges by a rate a million times too high, and is meant to."""
    body = """
    from dataclasses import replace
    objective = tw.Objective(data=tw.Supervised(jnp.array(x), jnp.array(y), loss=tw.losses.squared_error))
    tw.fit(tw.nn.MLP(10, 1, width=8, depth=1, key=jax.random.key(0)), objective, tw.Phase(tw.SGD(1e6), 40), run=run,
           name="wild", raise_failures=False)
    """
    path = raising(tmp_path, body.strip())
    found = run_study(path, quick=True, out=tmp_path / "run")
    assert next(iter(found.verdicts)) == "wild"
    assert set(found.verdicts) == {"wild", "line", "bend"}
    written = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert written["members"][0]["status"] == "diverged"
    assert len(written["members"]) == 3
    assert list(written["fits"]) == list(found.verdicts)
    assert load_run(tmp_path / "run").verdicts["wild"][0].status is Status.DIVERGED


def test_a_study_that_trains_nothing(tmp_path: Path) -> None:
    text = (
        HEAD
        + """
@tw.study("patients", question="Is 1 at most 2?")
def patients(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    return [tw.Claim.at_most("1 is at most 2", 1, (1, 1), 2)]
"""
    )
    found = run_study(write(tmp_path, text), out=tmp_path / "run")
    assert found.claims[0].verdict is ClaimVerdict.SUPPORTED
    page = found.report.read_text()
    assert "it trained nothing" in page
    assert "did not come to its end" not in page


# -------------------------------------------------------------------------------------------------------- bad input
def test_a_run_folder_that_exists_is_left_alone(study: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run_study(study, out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["results.txt"]


@pytest.mark.parametrize(
    ("settings", "seed", "message"),
    [
        ({"step": "3"}, 0, "Did you mean 'steps'"),
        ({"steps": "many"}, 0, "steps='many'"),
        ({"rate": "-1"}, 0, "rate='-1'"),
        ({"rate": "nan"}, 0, "rate='nan'"),
        ({}, -1, "seed"),
        ({}, 2**31, "seed"),
    ],
)
def test_wrong_settings_leave_nothing(study: Path, tmp_path: Path, settings: Any, seed: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_study(study, settings, seed=seed, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_study_that_raises_shows_the_users_line_and_keeps_the_record(tmp_path: Path) -> None:
    path = raising(tmp_path, "np.linalg.inv(np.zeros((2, 2)))")
    with pytest.raises(StudyFailed) as caught:
        run_study(path, quick=True, out=tmp_path / "run")
    said = str(caught.value)
    assert caught.value.exit_status == 1
    assert "LinAlgError: Singular matrix" in said
    assert "in patients: np.linalg.inv(np.zeros((2, 2)))" in said
    assert str(path) in said
    assert "Singular matrix" in (tmp_path / "run" / "error.txt").read_text()
    assert "linalg.py" in (tmp_path / "run" / "error.txt").read_text()  # NumPy's own lines are there too
    assert not (tmp_path / "run" / "claims.json").exists()
    assert len(load_run(tmp_path / "run").verdicts["line"]) == 1  # what had been done is not lost
    assert "line" in (tmp_path / "run" / "report.html").read_text()


def test_an_error_of_thalwegs_shows_the_users_line_too(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="momentum") as caught:
        run_study(raising(tmp_path, "tw.SGD(0.1, momentum=2.0)"), quick=True, out=tmp_path / "run")
    assert any("tw.SGD(0.1, momentum=2.0)" in note for note in caught.value.__notes__)


def test_a_fit_that_fails_fails_the_study(study: Path, tmp_path: Path) -> None:
    with pytest.raises(FitFailed) as caught:
        run_study(study, {"rate": "1e9", "steps": "200"}, out=tmp_path / "run")
    assert caught.value.exit_status == 1
    assert any("patients.py" in note for note in caught.value.__notes__)
    assert "diverged" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("answer", ["3", "None", "[1, 2]", "tw.Claim.at_most('a', 1, (1, 1), 2)"])
def test_a_study_that_returns_no_claims(tmp_path: Path, answer: str) -> None:
    with pytest.raises(RunError, match="no list of claims"):
        run_study(raising(tmp_path, f"return {answer}"), quick=True, out=tmp_path / "run")


def test_a_study_that_exits(tmp_path: Path) -> None:
    with pytest.raises(StudyFailed, match="SystemExit"):
        run_study(raising(tmp_path, "raise SystemExit(0)"), quick=True, out=tmp_path / "run")


# ---------------------------------------------------------------------------------------------------------- resuming
RUN = "from thalweg.study.runner import *; run_study({!r}, seed=5, out=Path({!r}))"
RESUME = "from thalweg.study.runner import *; resume_study(Path({!r}))"


def process(program: str, **environment: str) -> subprocess.CompletedProcess:
    known = os.environ | environment
    return subprocess.run([sys.executable, "-c", program], env=known, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_killed_at_several_moments_it_resumes_to_the_same_claims(study: Path, tmp_path: Path) -> None:
    """kill -9 in the first fit, in the second, and in the resumed second; the original files are gone by then."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    run_study(study, seed=5, out=whole)
    done = process(RUN.format(str(study), str(out)), STOP_IN="line", STOP_AFTER="5", STOP_BY="SIGKILL")
    assert done.returncode == -signal.SIGKILL, done.stderr
    study.unlink()
    (tmp_path / "helper.py").unlink()
    for after in ("3", "4"):
        done = process(RESUME.format(str(out)), STOP_IN="bend", STOP_AFTER=after, STOP_BY="SIGKILL")
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "claims.json").exists()
    resume_study(out)
    assert claims(out) == claims(whole)
    assert (out / "verdict.json").read_bytes() == (whole / "verdict.json").read_bytes()
    rows = [repr(RunDirectory.open(run).metrics.read()) for run in (out, whole)]
    assert rows[0] == rows[1]


def test_a_signal_ends_it_with_130_and_it_resumes(study: Path, tmp_path: Path, monkeypatch) -> None:
    run_study(study, seed=5, out=tmp_path / "whole")
    for name, value in (("STOP_IN", "bend"), ("STOP_AFTER", "4"), ("STOP_BY", "SIGTERM")):
        monkeypatch.setenv(name, value)
    with pytest.raises(FitInterrupted) as caught:
        run_study(study, seed=5, out=tmp_path / "run")
    assert caught.value.exit_status == 130
    assert "interrupted" in (tmp_path / "run" / "report.html").read_text()
    monkeypatch.delenv("STOP_IN")
    resume_study(tmp_path / "run")
    assert claims(tmp_path / "run") == claims(tmp_path / "whole")


def test_a_finished_run_says_the_same_again(study: Path, tmp_path: Path) -> None:
    run_study(study, quick=True, out=tmp_path / "run")
    before = claims(tmp_path / "run")
    resume_study(tmp_path / "run")
    assert claims(tmp_path / "run") == before


def test_resume_executes_the_runs_own_copy_and_nothing_that_was_changed(study: Path, tmp_path: Path) -> None:
    run_study(study, quick=True, out=tmp_path / "run")
    before = claims(tmp_path / "run")
    study.write_text("raise SystemExit('the original was executed')")
    resume_study(tmp_path / "run")  # what became of the original does not matter
    assert claims(tmp_path / "run") == before

    helper = tmp_path / "run" / "source" / "helper.py"
    text = helper.read_text()
    helper.write_text(text + "\nraise SystemExit('a changed copy was executed')\n")
    with pytest.raises(UserError, match=r"'helper.py' of the run was changed"):
        resume_study(tmp_path / "run")
    helper.write_text(text)
    (tmp_path / "run" / "source" / "numpy.py").write_text("")
    with pytest.raises(UserError, match="was added"):
        resume_study(tmp_path / "run")
    assert claims(tmp_path / "run") == before


def test_resume_executes_no_compiled_file_that_was_put_there(study: Path, tmp_path: Path) -> None:
    """A .pyc that claims to belong to the helper, with the helper's own time and size, is not what was hashed."""
    run_study(study, quick=True, out=tmp_path / "run")
    source = tmp_path / "run" / "source"
    evil = f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\n" + HELPER
    compiled = f"""
import importlib._bootstrap_external as b, importlib.util as u, os
path = {str(source / "helper.py")!r}
stat = os.stat(path)
data = b._code_to_timestamp_pyc(compile({evil!r}, path, "exec"), int(stat.st_mtime), stat.st_size)
os.makedirs(os.path.dirname(u.cache_from_source(path)), exist_ok=True)
open(u.cache_from_source(path), "wb").write(data)
"""
    done = process(compiled)
    assert done.returncode == 0, done.stderr
    imported = process(f"import sys; sys.path.insert(0, {str(source)!r}); import helper")
    assert imported.returncode == 0, imported.stderr
    assert (tmp_path / "executed").exists()  # Python itself would take it
    (tmp_path / "executed").unlink()
    resume_study(tmp_path / "run")
    assert not (tmp_path / "executed").exists()


def test_resume_of_what_is_no_study(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", {"kind": "table"}).close()
    with pytest.raises(UserError, match="kind 'table'"):
        resume_study(tmp_path / "run")


# ----------------------------------------------------------------------------------------------------- what it is given
def test_seeds_follow_from_the_runs_seed(tmp_path: Path) -> None:
    from thalweg.study.run import Run

    seeds = []
    for seed in (0, 1, 2_000_000):
        with Run.create(tmp_path / str(seed), {"seed": seed}, seed=seed) as run:
            assert run.seed == seed
            seeds += run.seeds(1_000)
            with pytest.raises(UserError, match="number of seeds"):
                run.seeds(0)
    assert len(set(seeds)) == 3_000
    assert max(seeds) < 2**31  # what a key takes without 64 bits

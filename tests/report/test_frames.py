"""Figures saved as frames: side by side for everyone, a slider where scripts run, and nothing of a study's can run."""

import base64
import hashlib
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thalweg.errors import DamagedError, UserError
from thalweg.report import write_report
from thalweg.report.claims import FIGURES, save_figure
from thalweg.report.scripts import page_script
from thalweg.study.run import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
X = np.linspace(0, 6, 50)
WORDS = {"title": "A wave", "caption": "It moves to the right."}


def at(t: float) -> tuple[str, Any]:
    return f"t = {t}", lambda ax: ax.plot(X, np.sin(X - t), label="height")


@pytest.fixture
def run(tmp_path: Path):
    with Run.create(tmp_path / "run", {"kind": "study", "study": "wave", "seed": 1}, seed=1) as made:
        yield made


def page_of(run: Run) -> str:
    return write_report(run.path).read_text(encoding="utf-8")


def frames_of(page: str) -> list[str]:
    return re.findall(r'<div class="frame".*?</svg></div>', page, re.DOTALL)


def test_frames_stand_side_by_side_in_their_order(run: Run) -> None:
    run.save_frames("wave", [at(t) for t in range(12)], slider="time <s>", **WORDS)
    page = page_of(run)
    labels = [unescape(re.findall('data-label="([^"]*)"', frame)[0]) for frame in frames_of(page)]
    assert labels == [f"t = {t}" for t in range(12)]
    assert "A wave" in page
    assert "It moves to the right." in page
    assert "<span>time &lt;s&gt;</span>" in page
    # without the script nothing is hidden but the slider
    assert page.count(" hidden>") == 1
    assert re.search(r'<p class="slider" hidden>.*<input type="range" min="0" max="11" value="0"', page)
    assert "aria-label=\"A wave (t = 3): It moves to the right.\"" in page  # fmt: skip
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))


def test_frames_differ_and_the_same_frames_are_the_same_files(run: Run, tmp_path: Path) -> None:
    first = run.save_frames("wave", [at(0.0), at(1.0)], **WORDS)
    before = [path.read_bytes() for path in sorted(first.iterdir())]
    again = run.save_frames("wave", [at(0.0), at(1.0)], **WORDS)
    assert [path.read_bytes() for path in sorted(again.iterdir())] == before
    one, other = frames_of(page_of(run))
    path = lambda frame: re.findall(r' d="(M[^"]{200,})"', frame)
    assert path(one) != path(other)


def test_only_its_own_script_may_run(run: Run) -> None:
    run.save_frames("wave", [at(0.0), at(1.0)], **WORDS)
    page = page_of(run)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}'\"" in page
    expected = page_script(["frames"])
    assert expected is not None
    assert script == expected[0]
    assert not re.search(r"https?:|import|fetch|eval|XMLHttp|innerHTML|document\.write", script)
    assert "its one script moves through the frames of a figure" in page


def test_two_scripts_are_one() -> None:
    both, one, other = (page_script(names) for names in (["surface", "frames"], ["surface"], ["frames"]))
    assert both
    assert one
    assert other
    assert both[0] == f"{one[0]}\n{other[0]}"
    assert both[2] == "turns the loss surface and moves through the frames of a figure"
    assert page_script([]) is None


def test_what_replaces_what(run: Run) -> None:
    """Fewer frames leave no old ones behind; a picture and frames of one name do not stand side by side."""
    run.save_frames("wave", [at(0.0), at(1.0), at(2.0)], **WORDS)
    run.save_frames("wave", [at(0.0), at(1.0)], **WORDS)
    assert len(frames_of(page_of(run))) == 2
    run.save_figure("wave", at(0.0)[1], **WORDS)
    page = page_of(run)
    assert frames_of(page) == []
    assert page.count("<svg") == 1
    assert "<script" not in page
    run.save_frames("wave", [at(0.0), at(1.0)], **WORDS)
    assert page_of(run).count("<svg") == 2


@pytest.mark.parametrize(
    ("frames", "words", "message"),
    [
        ([at(0.0)], WORDS, "1 frames"),
        ([at(0.0)] * 61, WORDS, "61 frames"),
        ([("", at(0.0)[1]), at(1.0)], WORDS, "label"),
        ([at(0.0), at(1.0)], WORDS | {"slider": " "}, "label"),
        ([at(0.0), at(1.0)], WORDS | {"caption": ""}, "caption"),
        ([at(0.0), ("b", lambda ax: ax.imshow(np.eye(3)))], WORDS, "raster"),
        ([(f"{i}", lambda ax: ax.plot(np.arange(9_000) % 173, ".")) for i in range(5)], WORDS, "together"),
    ],
)
def test_frames_that_cannot_be_shown_leave_what_was_there(run: Run, frames: Any, words: Any, message: str) -> None:
    before = run.save_frames("wave", [at(5.0), at(6.0)], **WORDS)
    kept = [path.read_bytes() for path in sorted(before.iterdir())]
    with pytest.raises(UserError, match=message):
        run.save_frames("wave", frames, **words)
    assert [path.read_bytes() for path in sorted(before.iterdir())] == kept


def test_hostile_labels_come_out_escaped_and_foreign_frames_are_refused(run: Run) -> None:
    evil = "\"><script>alert('x')</script>{{7331*7}}"
    folder = run.save_frames("wave", [(evil, at(0.0)[1]), at(1.0)], slider=evil, title=evil, caption=evil)
    page = page_of(run)
    assert page.count("<script") == 1
    assert "<script>alert" not in page
    assert "51317" not in page
    (folder / "000.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    with pytest.raises(DamagedError, match=r"000\.svg"):
        write_report(run.path)


def test_an_empty_folder_is_passed_over(run: Run) -> None:
    save_figure(run.path / FIGURES, "one", at(0.0)[1], **WORDS, size=(5.0, 3.5))
    (run.path / FIGURES / "notes").mkdir()
    (run.path / FIGURES / "notes.txt").write_text("mine")
    assert page_of(run).count("<svg") == 1


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_shows_one_frame_and_the_slider(run: Run, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    run.save_frames("wave", [at(float(t)) for t in range(3)], **WORDS)
    write_report(run.path)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync",
               "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'browser'}"]  # fmt: skip
    page = (run.path / "report.html").as_uri()
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page], capture_output=True, text=True, timeout=60, check=True
    )
    frames = re.findall(r'<div class="frame"[^>]*>', done.stdout)
    assert ["hidden" in frame for frame in frames] == [False, True, True]
    assert '<p class="slider">' in done.stdout
    assert "<output>t = 0.0</output>" in done.stdout
    assert 'aria-valuetext="t = 0.0"' in done.stdout
    assert "Refused" not in done.stderr

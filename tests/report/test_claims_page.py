"""The claims of a study and the figures that it saved, on the page of its run."""

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thalweg.errors import DamagedError, UserError
from thalweg.figures.style import COLOURS
from thalweg.report import write_report
from thalweg.report.claims import FIGURES, save_figure
from thalweg.study.claim import Claim
from thalweg.train import RunDirectory
from thalweg.train.files import write_json_atomic

CLAIMS = [
    Claim.at_least("The median accuracy is at least 97.5 %", 98.25, (97.75, 98.5), 97.5, unit="%"),
    Claim.at_most("Momentum saves steps", 1240.0, (1100.0, 1300.0), 1000.0, unit="steps"),
    Claim.near("The rate is one half", 0.52, (0.45, 0.61), 0.5, tolerance=0.1),
    Claim.at_most("The error is small", float("nan"), (float("nan"), float("nan")), 1e-5),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of a study that trained nothing."""
    config = {"kind": "study", "study": "coin", "seed": 1, "file": "my coin.py", "settings": {"throws": 8}}
    with RunDirectory.create(tmp_path / "run", config, seed=1) as run:
        claims = [claim.to_json() for claim in CLAIMS]
        write_json_atomic(run.path / "claims.json", {"question": "Is it fair?", "systems": [], "claims": claims})
    return tmp_path / "run"


def texts(folder: Path) -> str:
    """What a page says, without its elements and figures."""
    page = write_report(folder).read_text(encoding="utf-8")
    bare = re.sub(r"<style.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", bare)).split())


def plain(ax: Any) -> None:
    for i in range(3):
        ax.plot([0, 1, 2], [i, 1, 2 - i], label=f"line {i}")
    ax.set_xlabel("time [s]")
    ax.legend()


def test_claims_stand_on_the_page(folder: Path) -> None:
    said = texts(folder)
    assert "Is it fair?" in said
    assert "4 claims: 1 supported, 2 not supported and 1 undecided." in said
    assert "The median accuracy is at least 97.5 % 98.25 % 97.75 to 98.5 % at least 97.5 % supported" in said
    assert "Momentum saves steps 1,240 steps 1,100 to 1,300 steps at most 1,000 steps not supported" in said
    assert "The rate is one half 0.52 0.45 to 0.61 within 0.1 of 0.5 undecided" in said
    assert "The error is small – – to – at most 1 × 10⁻⁵ not supported" in said
    page = (folder / "report.html").read_text()
    for verdict, tone in (("supported", "good"), ("not supported", "bad"), ("undecided", "fair")):
        assert f'<span class="word {tone}">{verdict}</span>' in page
    assert "finished" in said
    assert "thalweg run 'my coin.py' --seed 1 --set throws=8" in said
    assert 'href="#claims"' in page
    assert 'id="claims"' in page


def test_a_run_without_claims_has_no_such_section(folder: Path) -> None:
    (folder / "claims.json").unlink()
    write_report(folder)
    assert 'id="claims"' not in (folder / "report.html").read_text()


def test_no_claim_at_all(folder: Path) -> None:
    write_json_atomic(folder / "claims.json", {"question": "Is it fair?", "claims": []})
    assert "The study made no claim." in texts(folder)


def test_a_saved_figure_stands_on_the_page_in_the_pages_colours(folder: Path) -> None:
    path = save_figure(
        folder / FIGURES, "course", plain, title="Course <of> it", caption='What & "why"', size=(5.0, 3.5)
    )
    assert path == folder / "arrays" / "figures" / "course.svg"
    assert path.read_text().startswith("<?xml")  # a file of its own, which any viewer shows
    said = texts(folder)
    assert "Course <of> it" in said
    assert 'What & "why"' in said
    (drawn,) = re.findall(r"<svg.*?</svg>", (folder / "report.html").read_text(), re.DOTALL)
    assert 'role="img" aria-label="Course &lt;of&gt; it: What &amp;' in drawn
    assert "line 0" in drawn
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[;\"])", drawn) == []  # every colour follows light and dark
    assert {"series-1", "series-2", "series-3", "ink", "muted"} <= set(re.findall(r"var\(--([\w-]+)\)", drawn))
    assert set(re.findall(r"var\(--([\w-]+)\)", drawn)) <= set(COLOURS)


def test_the_same_figure_is_the_same_file(folder: Path, tmp_path: Path) -> None:
    first, second = (
        save_figure(place / FIGURES, "course", plain, title="Course", caption="What", size=(5.0, 3.5)).read_bytes()
        for place in (folder, tmp_path)
    )
    assert first == second


def test_contours_with_a_colour_bar(folder: Path) -> None:
    """What the studies of landscapes draw: filled contours are paths, not an image."""
    x = np.linspace(-2, 2, 40)

    def draw(ax: Any) -> None:
        filled = ax.contourf(x, x, (1 - x) ** 2 + 100 * (x[:, None] - x**2) ** 2, levels=12)
        ax.figure.colorbar(filled, ax=ax)

    save_figure(folder / FIGURES, "valley", draw, title="Valley", caption="Rosenbrock's", size=(5.0, 3.5))
    assert "Rosenbrock's" in texts(folder)


@pytest.mark.parametrize(
    ("name", "draw", "title", "message"),
    [
        ("a/b", plain, "a", "name"),
        ("../b", plain, "a", "name"),
        ("", plain, "a", "name"),
        ("b", plain, " ", "title"),
        ("b", lambda ax: ax.imshow(np.eye(3)), "a", "raster"),
        ("b", lambda ax: ax.plot(np.arange(30_000) % 173, "."), "a", "bytes"),
    ],
)
def test_a_figure_that_cannot_be_shown_is_refused(
    folder: Path, name: str, draw: Callable[[Any], None], title: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        save_figure(folder / FIGURES, name, draw, title=title, caption="c", size=(5.0, 3.5))
    assert not list(folder.rglob("*.svg"))


# ----------------------------------------------------------------------------------------------------- hostile input
def test_hostile_words_come_out_escaped(folder: Path) -> None:
    evil = "<script>alert('x')</script>\"&{{7331*7}}"
    content = json.loads((folder / "claims.json").read_text())
    content["question"] = evil
    content["claims"][0] |= {"statement": evil, "unit": evil, "relation": evil}
    write_json_atomic(folder / "claims.json", content)
    said = texts(folder)
    assert said.count("<script>alert('x')</script>\"&{{7331*7}}") >= 4
    assert "<script" not in (folder / "report.html").read_text()
    assert "51317" not in said


@pytest.mark.parametrize(
    "inside",
    [
        "<script>alert(1)</script>",
        '<a href="x"><path d="M 0 0"/></a>',
        '<image href="http://a/b.png"/>',
        "<foreignObject><p>a</p></foreignObject>",
        '<path d="M 0 0" onclick="alert(1)"/>',
        '<use href="file:///etc/passwd"/>',
        '<path d="M 0 0" style="fill: url(http://a/b)"/>',
        '<path d="M 0 0" style="fill: url( #a)"/>',
        "<animate/>",
        "<path",
    ],
)
def test_a_foreign_figure_is_refused_and_named(folder: Path, inside: str) -> None:
    (folder / "report.html").write_text("the page before")
    path = folder / FIGURES / "course.svg"
    path.parent.mkdir(parents=True)
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><g>{inside}</g></svg>')
    with pytest.raises(DamagedError, match=r"course\.svg"):
        write_report(folder)
    assert (folder / "report.html").read_text() == "the page before"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["claims"][0].update(verdict="yes"), "claims.0.verdict"),
        (lambda content: content["claims"][0].update(interval=[1.0]), "claims.0.interval"),
        (lambda content: content["claims"][0].pop("statement"), "claims.0.statement"),
        (lambda content: content.pop("claims"), "claims"),
    ],
)
def test_damaged_claims_are_refused(folder: Path, change: Callable[[Any], Any], message: str) -> None:
    content = json.loads((folder / "claims.json").read_text())
    change(content)
    write_json_atomic(folder / "claims.json", content)
    with pytest.raises(DamagedError, match=message):
        write_report(folder)

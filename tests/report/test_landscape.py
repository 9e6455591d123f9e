"""The loss surface on the page: contours for everyone, a view that turns, and only that one script."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thalweg.errors import DamagedError
from thalweg.report import write_report
from thalweg.report.scripts import page_script

SCRIPT = (page_script(["surface"]) or ("",))[0]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the run that has a slice."""
    return Path(shutil.copytree(runs["classes"], tmp_path / "run"))


def page_of(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def turned(page: str) -> dict[str, Any]:
    """What the script is given."""
    (found,) = re.findall(r'data-surface="([^"]*)"', page)
    return json.loads(unescape(found))


def change(run: Path, **changes: Any) -> dict[str, Any]:
    path = run / "arrays" / "slice.json"
    content = json.loads(path.read_text())
    content["slice"] |= changes
    path.write_text(json.dumps(content))
    return content["slice"]


def test_only_the_one_script_may_run(run: Path) -> None:
    page = page_of(run)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'"
    assert script == SCRIPT
    assert len(script) < 6_000
    assert not re.search(r"https?:|import|fetch|eval|XMLHttp|innerHTML|document\.write", script)


def test_a_page_without_a_slice_has_no_script(run: Path) -> None:
    (run / "arrays" / "slice.json").unlink()
    page = page_of(run)
    assert "<script" not in page
    assert "script-src" not in page
    assert 'id="surface"' not in page
    assert "runs no script" in page


def test_both_views_show_the_same_slice(run: Path) -> None:
    given = json.loads((run / "arrays" / "slice.json").read_text())["slice"]
    costs = np.array(given["costs"])
    page = page_of(run)
    data = turned(page)
    heights = np.array(data["heights"])
    assert heights.shape == costs.shape
    assert np.unravel_index(heights.argmin(), heights.shape) == np.unravel_index(costs.argmin(), costs.shape)
    low, start = costs.min(), np.interp(-1.0, given["offsets"], costs[:, 5])
    high = min(costs.max(), low + 3 * (start - low))
    # heights have three decimals
    np.testing.assert_allclose(heights, np.minimum((costs - low) / (high - low), 9.0), atol=5.1e-4)
    assert (data["start"], data["middle"]) == (1.0, 5.0)  # places on the grid: -1 and 0 of -1.25, -1, … 1.25
    assert f"{start:.4g} at the start, {costs[5, 5]:.4g} at the weights kept" in page
    assert 'id="surface"' in page
    assert 'href="#surface"' in page


def test_the_turning_view_can_be_reached_and_is_described(run: Path) -> None:
    page = page_of(run)
    (canvas,) = re.findall(r"<canvas([^>]*)>", page)
    assert 'role="img"' in canvas
    assert 'tabindex="0"' in canvas
    assert re.search(r'aria-label="The same slice.*at the weights kept', canvas)
    assert re.search(r"<figure class=\"turning\"[^>]* hidden>", page)  # until the script shows it
    assert re.search(r"@media print \{.*\.turning \{ display: none", page, re.DOTALL)
    assert "prefers-reduced-motion" in SCRIPT


def test_cliffs_are_cut_off_and_said(run: Path) -> None:
    given = json.loads((run / "arrays" / "slice.json").read_text())["slice"]["costs"]
    given[-1] = ["inf"] * 11
    given[-2] = [1e6] * 11
    given[0][0] = "nan"
    change(run, costs=given)
    page = page_of(run)
    data = turned(page)
    assert data["heights"][-1] == [9.0] * 11
    assert data["heights"][0][0] is None
    assert "the surface is cut off" in page


def test_a_wide_range_is_logarithmic_and_said(run: Path) -> None:
    offsets = np.linspace(-1.0, 1.0, 11)
    costs = 1e-3 + np.add.outer(offsets**2, offsets**2)
    change(run, offsets=offsets.tolist(), costs=costs.tolist(), start=-1.0)
    page = page_of(run)
    assert "follow the logarithm" in page
    heights = np.array(turned(page)["heights"])
    # three decimals
    assert heights[5, 6] == pytest.approx(np.log(costs[5, 6] / 1e-3) / np.log(costs.max() / 1e-3), abs=5.1e-4)


@pytest.mark.parametrize("costs", [np.full((11, 11), 2.0), np.zeros((11, 11)), np.full((11, 11), -3.0)])
def test_a_plain_is_drawn(run: Path, costs: np.ndarray) -> None:
    change(run, costs=costs.tolist())
    assert np.array_equal(turned(page_of(run))["heights"], np.zeros((11, 11)))


def test_a_slice_that_was_skipped_is_said(run: Path) -> None:
    (run / "arrays" / "slice.json").write_text('{"skipped": "it would have taken <i>longer</i>"}')
    page = page_of(run)
    assert "There is no slice of the loss surface: it would have taken &lt;i&gt;longer&lt;/i&gt;." in page
    assert "<script" not in page


def test_texts_of_a_slice_are_escaped(run: Path) -> None:
    evil = "</script><script>alert(1)</script>\"'{{7*7}} $\\frac$"
    change(run, what=evil, axes=[evil, evil])
    page = page_of(run)
    assert page.count("<script") == 1
    assert "<script>alert" not in page


DAMAGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda one: one.update(offsets=[0.0, 1.0]), "offsets"),
    (lambda one: one.update(offsets=one["offsets"][::-1]), "ascending"),
    (lambda one: one["costs"].pop(), "11 rows of 11"),
    (lambda one: one["costs"][3].append(1.0), "11 rows of 11"),
    (lambda one: one["costs"].__setitem__(0, ["high"] * 11), "costs"),
    (lambda one: one.update(costs=[["nan"] * 11] * 11), "no cost is finite"),
    (lambda one: one.update(start=-7.0), "start"),
    (lambda one: one.update(axes=["one"]), "axes"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES, ids=[f"{i}-{said}" for i, (_, said) in enumerate(DAMAGES)])
def test_a_damaged_slice_is_refused(run: Path, damage: Callable[[dict[str, Any]], Any], said: str) -> None:
    path = run / "arrays" / "slice.json"
    content = json.loads(path.read_text())
    damage(content["slice"])
    path.write_text(json.dumps(content))
    with pytest.raises(DamagedError, match=said) as caught:
        write_report(run)
    assert str(path) in str(caught.value)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_runs_it(run: Path, tmp_path: Path) -> None:
    """Under the page's own policy: the figure is shown and the canvas has been given its size."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync",
               "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'browser'}"]  # fmt: skip
    page = write_report(run).as_uri()
    done = subprocess.run(
        [CHROMIUM, *options, "--dump-dom", page], capture_output=True, text=True, timeout=60, check=True
    )
    (figure,) = re.findall(r"<figure class=\"turning\"[^>]*>", done.stdout)
    assert "hidden" not in figure
    assert re.search(r"<canvas[^>]* width=\"\d+\"", done.stdout)
    assert "Refused" not in done.stderr

"""What the page says of the rate and of what instruments saw."""

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thalweg.errors import DamagedError
from thalweg.report import write_report
from thalweg.train import RunDirectory


def figures(run: Path) -> dict[str, tuple[str, str]]:
    """(alt text, caption) of each figure of the page by its title."""
    page = write_report(run).read_text(encoding="utf-8")
    found = re.findall(
        r'<h3>([^<]*)</h3>\s*<svg[^>]*aria-label="([^"]*)".*?<figcaption>(.*?)</figcaption>', page, re.DOTALL
    )
    return {unescape(title): (unescape(alt), unescape(caption)) for title, alt, caption in found}


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the run that was measured."""
    return Path(shutil.copytree(runs["program"], tmp_path / "run"))


def rewrite(run: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        change(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_what_was_measured_is_drawn_and_told(runs: dict[str, Path]) -> None:
    rows = RunDirectory.open(runs["program"]).metrics.read()
    shown = figures(runs["program"])
    measured = [
        "Learning rate",
        "Gradient norm by layer",
        "Gradient norm by term",
        "Sharpness",
        "Signal in the gradient",
    ]
    assert [title for title in shown if title in measured] == measured

    rates = [row["figures"]["rate"] for row in rows if "rate" in row["figures"]]
    assert f"{rates[0]:.4g} at the first row" in shown["Learning rate"][0]
    assert "Phases without a rate are empty." in shown["Learning rate"][1]  # L-BFGS
    looks = [row["instruments"]["GradientNorms"] for row in rows if "GradientNorms" in row.get("instruments", {})]
    last = {name.removeprefix("gradient/"): norm for name, norm in looks[-1].items() if name.startswith("gradient/")}
    largest = max(last, key=last.__getitem__)
    assert re.search(rf"largest {re.escape(largest)} with ", shown["Gradient norm by layer"][0])
    assert f"Gradient norms of {len(last)} layers over 900 steps" in shown["Gradient norm by layer"][0]
    assert "motion" in shown["Gradient norm by term"][0]
    assert "sensors" in shown["Gradient norm by term"][0]
    assert "Cohen" in shown["Sharpness"][1]


def test_a_run_without_instruments_has_none_of_it(runs: dict[str, Path]) -> None:
    """Its rate never changes, so that it is told and not drawn."""
    assert "Learning rate" not in figures(runs["number"])
    assert "Sharpness" not in figures(runs["number"])
    assert re.search(r"learning rate</dt><dd>0\.003<", write_report(runs["number"]).read_text())


def test_a_term_that_the_gradient_raises_is_told(run: Path) -> None:
    def against(row: dict[str, Any]) -> None:
        if parts := row.get("instruments", {}).get("PartGradients"):
            parts["cosine/motion"], parts["cosine/sensors"] = -0.5, 0.9

    rewrite(run, against)
    assert "the gradient of all points uphill for motion" in figures(run)["Gradient norm by term"][1]


def test_looks_without_a_finite_figure_are_left_out(run: Path) -> None:
    def spoiled(row: dict[str, Any]) -> None:
        if "Sharpness" in row.get("instruments", {}):
            row["instruments"]["Sharpness"]["stable_rate"] = "inf"
        if "NoiseRatio" in row.get("instruments", {}):
            row["instruments"]["NoiseRatio"]["ratio"] = "nan"

    rewrite(run, spoiled)
    shown = figures(run)
    assert "Sharpness" not in shown
    assert "Signal in the gradient" not in shown
    assert "Gradient norm by layer" in shown


def test_many_layers_become_a_map(run: Path) -> None:
    rng = np.random.default_rng(0)

    def deep(row: dict[str, Any]) -> None:
        if "GradientNorms" in row.get("instruments", {}):
            row["instruments"]["GradientNorms"] = {
                f"gradient/layers/{i}": float(rng.lognormal(-i, 1)) for i in range(30)
            }

    rewrite(run, deep)
    alt, caption = figures(run)["Gradient norm by layer"]
    assert "30 layers" in alt
    assert "The darker, the larger" in caption
    assert len(write_report(run).read_bytes()) < 250_000


def test_a_run_of_many_fits_stays_light(run: Path) -> None:
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"fit": f"fit-{i}"}) + "\n" for i in range(20) for row in rows))
    page = write_report(run).read_text()
    assert page.count(">Loss against step<") == 20
    assert page.count(">Sharpness<") == 6
    assert len(page) < 2_000_000


def test_what_a_users_instrument_measured_is_no_damage(run: Path) -> None:
    rewrite(run, lambda row: row.update(instruments={"Mine": {"spectrum": [[1.0, 2.0], [3.0, 4.0]]}}))
    assert "Gradient norm by layer" not in figures(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.update(instruments=3), "instruments"),
        (lambda row: row.update(instruments={"Sharpness": [1.0]}), "Sharpness"),
        (lambda row: row.update(instruments={"GradientNorms": {"gradient/a": "x"}}), "gradient/a"),
        (lambda row: row.update(instruments={"GradientNorms": {"gradient/a": [1.0, 2.0]}}), "for each member"),
        (lambda row: row.update(figures={"rate": "fast"}), "figures.rate"),
        (lambda row: row.update(figures=[1.0]), "figures"),
    ],
)
def test_damaged_measurements_are_refused(run: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    rewrite(run, change)
    with pytest.raises(DamagedError, match=said) as caught:
        write_report(run)
    assert "line 1" in str(caught.value)

"""The page of a run: what it says, what it never does, and what it refuses."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from scipy import stats

from thalweg.errors import DamagedError, UserError
from thalweg.figures.style import COLOURS
from thalweg.report import write_report
from thalweg.train import RunDirectory
from thalweg.train.verdict import Status

VOID = {"meta", "path", "use", "br"}
PAGE_ELEMENTS = set(
    "html head meta title style body header main footer section nav div p span strong a ul li dl dt dd h1 h2 h3 pre "
    "code details summary figure figcaption table caption thead tbody tr th td svg g defs path use text tspan clippath "
    "rect"
    .split()
)  # fmt: skip


class Page(HTMLParser):
    """A page's elements, and its texts by the element that they stand in. An element left open is an error."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", " ".join(data.split())))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self) -> str:
        """All texts but those of figures and styles."""
        return " ".join(text for tag, text in self.texts if tag not in ("style", "text", "title", "script"))


@pytest.fixture
def copy(runs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the runs, to be changed."""
    return lambda name: Path(shutil.copytree(runs[name], tmp_path / name))


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


# ---------------------------------------------------------------------------------------------------- every page
@pytest.mark.parametrize("name", ["number", "classes", "program"])
def test_a_page_stands_on_its_own(runs: dict[str, Path], name: str) -> None:
    path = write_report(runs[name])
    assert path == runs[name] / "report.html"
    page = Page(path)
    assert len(page.source.encode()) < 150_000
    turning = {"canvas", "script"} if name == "classes" else set()  # the run with a slice; see test_landscape.py
    assert {tag for tag, _ in page.elements} <= PAGE_ELEMENTS | turning  # no image, frame, link or form
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "src" for name in attributes)
    assert set(re.findall(r"\w+://[^\"' )]*", page.source)) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}
    assert "@import" not in page.source
    assert any("default-src 'none'" in meta.get("content", "") for meta in page.all("meta"))

    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities))
    for _, attributes in page.elements:
        if (link := attributes.get("href", "")).startswith("#"):
            assert link[1:] in identities
        elif link:
            assert (runs[name] / unquote(link)).exists()
        for clip in re.findall(r"url\(#([^)]+)\)", attributes.get("clip-path", "")):
            assert clip in identities


@pytest.mark.parametrize("name", ["number", "classes", "program"])
def test_a_page_is_accessible(runs: dict[str, Path], name: str) -> None:
    page = Page(write_report(runs[name]))
    assert page.all("html")[0]["lang"] == "en"
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    figures = [*page.all("svg"), *page.all("canvas")]
    assert figures
    assert len(page.all("figcaption")) == len(figures)
    assert all(figure["role"] == "img" and len(figure["aria-label"]) > 20 for figure in figures)
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.elements[[tag for tag, _ in page.elements].index("body") + 1][1]["class"] == "skip"  # first by keyboard


def test_figures_use_only_colours_of_the_page(runs: dict[str, Path]) -> None:
    """So that they are read in the dark too."""
    for folder in runs.values():
        drawn = "".join(re.findall(r"<svg.*?</svg>", write_report(folder).read_text(), re.DOTALL))
        assert re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[;\"])", drawn) == []
        assert set(re.findall(r"var\(--([\w-]+)\)", drawn)) <= set(COLOURS)


def css_colours() -> dict[str, dict[str, str]]:
    import thalweg.report

    css = (Path(thalweg.report.__file__).parent / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    return dict(
        zip(("light", "dark", "print"), (dict(re.findall(r"--([\w-]+): (#\w{6})", one)) for one in blocks), strict=True)
    )


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_contrast_is_sufficient(scheme: str) -> None:
    colours = css_colours()[scheme]
    assert set(COLOURS) <= set(colours)
    pairs = [(name, "paper") for name in ("ink", "muted", "link", *(name for name in colours if "series" in name))]
    for tone in ("good", "fair", "bad", "none"):  # badge, words in it, and texts on its ground
        pairs += [(tone, "paper"), (tone, f"{tone}-soft"), ("ink", f"{tone}-soft"), ("muted", f"{tone}-soft")]
    pairs += [("ink", "shade"), ("muted", "shade")]
    poor = {pair: contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: value for pair, value in poor.items() if value < 4.5} == {}  # AA for text of any size


def test_counts_in_a_confusion_matrix_are_read() -> None:
    """The darkest cell is half a series' colour over the paper."""
    for scheme, colours in css_colours().items():
        for series in ("series-1", "series-2"):
            mix = [(int(colours[series][i : i + 2], 16) + int(colours["paper"][i : i + 2], 16)) // 2 for i in (1, 3, 5)]
            assert contrast(colours["ink"], "#" + "".join(f"{c:02x}" for c in mix)) >= 4.5, scheme


def test_the_same_folder_gives_the_same_page(runs: dict[str, Path]) -> None:
    """In another process too, with other hashes of texts."""
    first = write_report(runs["classes"]).read_bytes()
    program = f"from thalweg.report import write_report; write_report({str(runs['classes'])!r})"
    subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": "7"}, check=True, timeout=120)
    assert (runs["classes"] / "report.html").read_bytes() == first


def test_only_the_page_is_written(runs: dict[str, Path]) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in runs["number"].rglob("*") if path.is_file()}

    before = contents()
    write_report(runs["number"])
    after = contents()
    after.pop(runs["number"] / "report.html")
    before.pop(runs["number"] / "report.html", None)
    assert before == after


# ------------------------------------------------------------------------------------------------- what the pages say
def test_numbers_stand_on_the_page(runs: dict[str, Path]) -> None:
    said = Page(write_report(runs["number"])).said()
    scores = json.loads((runs["number"] / "scores.json").read_text())
    value, low, high = scores["models"][1]["values"]["R²"]
    assert f"{value:.3f} {low:.3f} to {high:.3f}".replace("-", "−") in said
    assert scores["recommendation"]["sentence"] in said
    assert "Predicting progression from diabetes.csv" in said
    assert "fit 442 rows 10 columns seed 0" in said
    assert "thalweg fit data/diabetes.csv --target progression --seed 0 --set members=3 --set steps=800" in said
    assert "train 310 rows (70.1%)" in said
    assert "blood pressure numeric" in said
    assert "Left out: hospital" in said

    members = json.loads((runs["number"] / "verdict.json").read_text())["members"]
    assert all(f"member {i}" in said and member["evidence"] in said for i, member in enumerate(members))
    assert all(f"{finding['name']} in" in said for member in members for finding in member["findings"])


def test_calibration_on_the_page_against_scipy(runs: dict[str, Path]) -> None:
    test = np.load(runs["number"] / "arrays" / "test.npz")
    deviation = np.sqrt(test["aleatoric"] ** 2 + test["epistemic"] ** 2)
    low, high = stats.norm.interval(0.95, test["mean"], deviation)
    covered = 100 * np.mean((low <= test["truth"]) & (test["truth"] <= high))
    said = Page(write_report(runs["number"])).said()
    assert f"{covered:.1f}% of {len(deviation)} rows lie within their 95% interval" in said
    assert f"{test['outside'].sum()} rows lie outside the training range" in said


def test_training_on_the_page(runs: dict[str, Path]) -> None:
    rows = RunDirectory.open(runs["number"]).metrics.read()
    scores = np.array([row["validation"]["total"] for row in rows])
    steps = np.array([row["run_step"] for row in rows])[scores.argmin(axis=0), np.arange(3)]
    where = f"steps {steps.min():,} to {steps.max():,}" if steps.min() < steps.max() else f"step {steps.min():,}"
    said = Page(write_report(runs["number"])).said()
    assert f"best validation {np.median(scores.min(axis=0)):.4g} at {where}" in said


def test_classes_on_the_page(runs: dict[str, Path]) -> None:
    page = Page(write_report(runs["classes"]))
    test = np.load(runs["classes"] / "arrays" / "test.npz")
    right = int((test["probability"].argmax(axis=1) == test["truth"]).sum())
    assert f"{right} of {len(test['truth'])} rows get their true class" in page.said()
    assert "log loss; lower is better" in page.said()
    assert [text for tag, text in page.texts if tag == "text"].count("class_0") == 2  # both axes of the matrix
    assert "soil categorical 3: chalk, clay, (missing) a category" in page.said()


def test_a_run_without_a_table_has_only_its_own_sections(runs: dict[str, Path]) -> None:
    page = Page(write_report(runs["program"]))
    assert [one.get("id") for one in page.all("h2")] == ["training", "again"]
    assert "900 in 2 phases" in page.said()
    drawn = [text for tag, text in page.texts if tag == "text"]
    assert {"total", "motion", "sensors", "phase 1", "phase 2"} <= set(drawn)
    assert "thalweg run oscillator --seed 3" in page.said()


def test_the_better_baseline_is_recommended(copy: Callable[[str], Path]) -> None:
    run = copy("classes")

    def ridge_wins(scores: dict[str, Any]) -> None:
        scores["recommendation"] = {"use": "gradient boosting", "sentence": "Use gradient boosting."}
        scores["difference"] = {"against": "gradient boosting", "value": 0.2, "low": 0.1, "high": 0.3}

    rewrite(run / "scores.json", ridge_wins)
    page = Page(write_report(run))
    assert "gradient boosting use this" in page.said()
    # lower is better, so a positive difference speaks against thalweg
    assert "thalweg minus gradient boosting in log loss: 0.200 (0.100 to 0.300)." in page.said()
    assert "thalweg is worse here" in page.said()
    assert any(one.get("class") == "answer fair" for one in page.all("p"))


def test_the_worst_member_gives_the_badge(copy: Callable[[str], Path]) -> None:
    run = copy("number")

    def mixed(verdict: dict[str, Any]) -> None:
        for member, status in zip(verdict["members"], ("converged", "diverged", "converged"), strict=True):
            member["status"], member["evidence"] = status, f"evidence of {status}"

    rewrite(run / "verdict.json", mixed)
    page = Page(write_report(run))
    assert ("p", "diverged") in page.texts
    assert "3 members: 1 diverged and 2 converged" in page.said()
    assert "member 1, the worst: evidence of diverged" in page.said()


@pytest.mark.parametrize("status", list(Status))
def test_every_status_has_a_page(copy: Callable[[str], Path], status: Status) -> None:
    run = copy("program")
    rewrite(run / "verdict.json", lambda verdict: verdict["members"][0].update(status=status.value))
    assert ("p", status.value) in Page(write_report(run)).texts


def test_a_killed_run_has_a_page(copy: Callable[[str], Path]) -> None:
    run = copy("program")
    (run / "verdict.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"fit": "fit", "pha')  # half a row
    said = Page(write_report(run)).said()
    assert "no verdict yet" in said
    assert "The run did not come to its end." in said
    assert f"thalweg resume {run}" in said
    assert "at step 900" in said


def test_a_run_that_still_goes_has_a_page(copy: Callable[[str], Path]) -> None:
    run = copy("program")
    (run / "verdict.json").unlink()
    with RunDirectory.open(run).lock():
        assert "The run is still going." in Page(write_report(run)).said()
    assert "The run is still going." not in Page(write_report(run)).said()


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    RunDirectory.create(tmp_path / "run", {"study": "heat-plate"}, seed=0).close()
    said = Page(write_report(tmp_path / "run")).said()
    assert "no step has been logged" in said


def test_a_diverged_run_has_a_page(copy: Callable[[str], Path]) -> None:
    run = copy("number")
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[50:]:
        row["total"] = ["nan", *row["total"][1:]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(write_report(run))
    assert "no longer finite 1 member" in page.said()
    assert "not finite" in [text for tag, text in page.texts if tag == "text"]


def test_rows_without_a_prediction_are_counted(copy: Callable[[str], Path]) -> None:
    run = copy("number")
    path = run / "arrays" / "test.npz"
    arrays = dict(np.load(path))
    arrays["mean"][:3] = np.nan
    np.savez(path, **arrays)
    assert "3 rows have no finite prediction" in Page(write_report(run)).said()


def test_a_large_run_has_a_light_page(copy: Callable[[str], Path]) -> None:
    run = copy("number")
    rng, n = np.random.default_rng(0), 100_000
    truth = rng.normal(size=n)
    arrays = {"truth": truth, "mean": truth + rng.normal(size=n), "aleatoric": np.ones(n), "epistemic": np.ones(n)}
    np.savez(run / "arrays" / "test.npz", **arrays, outside=rng.random(n) < 0.1)
    members = 8
    lines = []
    for i in range(1, 5001):
        figure = (np.exp(-i / 2000) + 0.1 * rng.random(members)).tolist()
        row = {"fit": "fit", "phase": i // 2500, "step": i, "run_step": [i] * members, "total": figure}
        lines.append(json.dumps(row | {"parts": {"a": figure, "b": figure}, "validation": {"total": figure}}))
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    page = Page(write_report(run))
    assert len(page.source.encode()) < 1_000_000
    assert "600 of 100,000 rows are drawn" in page.said()


# ----------------------------------------------------------------------------------------------------- hostile input
def test_hostile_names_come_out_escaped(copy: Callable[[str], Path]) -> None:
    """Names of columns, classes, terms, models and files, and sentences, are texts and nothing else."""
    evil = "<script>alert('x')</script>\"'&{{1237*7}} $\\frac$ 葡萄 \x1b"
    run = copy("classes")
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('"cultivar"', json.dumps(evil)))

    def spoil_scores(scores: dict[str, Any]) -> None:
        scores["classes"] = [evil + str(i) for i in range(3)]
        scores["models"][1]["name"] = scores["recommendation"]["use"] = evil
        scores["recommendation"]["sentence"] = scores["interval"] = scores["difference"]["against"] = evil
        for model in scores["models"]:
            model["values"][evil] = model["values"].pop("log loss")
        scores["metric"] = evil

    def spoil_data(data: dict[str, Any]) -> None:
        data["features"][0]["name"] = data["source"] = data["split"]["kind"] = data["target"]["name"] = evil
        data["features"][-1]["categories"] = data["dropped"] = data["notes"] = [evil, "b"]

    def spoil_verdict(verdict: dict[str, Any]) -> None:
        verdict["members"][0] |= {"evidence": evil, "remedy": evil}
        verdict["members"][0]["findings"] = [{"name": evil, "evidence": evil, "remedy": evil}]

    rewrite(run / "scores.json", spoil_scores)
    rewrite(run / "data.json", spoil_data)
    rewrite(run / "verdict.json", spoil_verdict)
    rewrite(run / "environment.json", lambda environment: environment.update({evil: evil}))
    (run / "decisions.jsonl").write_text(json.dumps({"step": 3, "what": evil}) + "\n")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in lines:
        row["fit"] = evil if row["step"] < 100 else "two"
        row["parts"] = {evil: row["total"], "javascript:x": row["total"]}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (run / "<script>alert(1)<").write_text("")
    (run / "javascript:alert(1)").write_text("")

    page = Page(write_report(run))
    assert {tag for tag, _ in page.elements} <= PAGE_ELEMENTS | {"canvas", "script"}
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "8659" not in page.said()  # nothing was taken for a template
    assert page.said().count("<script>alert('x')</script>\"'&{{1237*7}}") > 10
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert all(link.startswith(("#", "./")) for link in links)
    assert any(text.startswith("<script>") for tag, text in page.texts if tag == "text")  # in the figures too
    assert any("\\frac" in text for tag, text in page.texts if tag in ("text", "td"))


def test_loading_executes_nothing(copy: Callable[[str], Path], tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "executed",))

    run = copy("number")
    payload = np.array([Payload()], dtype=object)
    np.savez(run / "arrays" / "test.npz", truth=payload)
    np.load(run / "arrays" / "test.npz", allow_pickle=True)["truth"]
    assert (tmp_path / "executed").exists()  # the payload does work where it is let
    (tmp_path / "executed").unlink()
    with pytest.raises(UserError, match=r"test\.npz"):
        write_report(run)
    assert not (tmp_path / "executed").exists()


# ---------------------------------------------------------------------------------------------------------- refusals
def put(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text)  # pyright: ignore[reportReturnType]


def altered(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda path: rewrite(path, change)


def arrays(**changes: Any) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **(dict(np.load(path)) | changes))


def first_row(**changes: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps(json.loads(lines[0]) | changes), *lines[1:]]) + "\n")

    return change


DAMAGES = [
    ("number", "config.toml", put("seed = "), "config.toml"),
    ("number", "environment.json", put("{"), "environment.json"),
    ("number", "verdict.json", put("{"), "verdict.json"),
    ("number", "verdict.json", put("\x00\x00"), "verdict.json"),
    ("number", "verdict.json", put('{"members": []}'), "members"),
    ("number", "verdict.json", altered(lambda v: v["members"][1].update(status="fine")), "'fine'"),
    ("number", "verdict.json", altered(lambda v: v["members"][1].pop("evidence")), "evidence"),
    ("number", "scores.json", put("[]"), "scores.json"),
    ("number", "scores.json", altered(lambda v: v.update(task="words")), "task"),
    ("number", "scores.json", altered(lambda v: v.update(metric="F1")), "F1"),
    ("number", "scores.json", altered(lambda v: v["models"][1]["values"].update(MAE=[1.0])), "models.1.values.MAE"),
    ("number", "data.json", altered(lambda v: v.update(rows="many")), "rows"),
    ("number", "metrics.jsonl", put("{}\n"), "line 1"),
    ("number", "metrics.jsonl", first_row(phase="one"), "phase"),
    ("number", "metrics.jsonl", first_row(total=[1.0, 2.0]), "'total'"),
    ("number", "metrics.jsonl", first_row(parts={"data": [1.0, "x", 2.0]}), "parts.data"),
    ("number", "metrics.jsonl", first_row(validation=3), "validation"),
    ("number", "decisions.jsonl", put('{"step": "late"}\n'), "step"),
    ("number", "arrays/test.npz", put("no archive"), "test.npz"),
    ("number", "arrays/test.npz", lambda path: path.write_bytes(path.read_bytes()[:-300]), "test.npz"),
    ("number", "arrays/test.npz", arrays(mean=np.zeros(3)), "'mean'"),
    ("number", "arrays/test.npz", arrays(mean=np.full(66, np.nan)), "finite"),
    ("number", "arrays/test.npz", arrays(aleatoric=np.full(66, -1.0)), "negative"),
    ("number", "arrays/test.npz", arrays(truth=np.array(["a"] * 66)), "'truth'"),
    ("classes", "arrays/test.npz", arrays(truth=np.full(27, 3)), "outside 0 … 2"),
    ("classes", "arrays/test.npz", arrays(probability=np.ones((27, 2))), "2 columns for 3 classes"),
]


@pytest.mark.parametrize(
    ("name", "file", "damage", "said"), DAMAGES, ids=[f"{i}-{one[1]}" for i, one in enumerate(DAMAGES)]
)
def test_a_damaged_file_is_refused(
    copy: Callable[[str], Path], name: str, file: str, damage: Callable[[Path], Any], said: str
) -> None:
    run = copy(name)
    (run / "report.html").write_text("the page before")
    damage(run / file)
    with pytest.raises(DamagedError) as caught:
        write_report(run)
    assert str(run / file) in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.exit_status == 2
    assert (run / "report.html").read_text() == "the page before"


def test_what_is_no_run_is_refused(tmp_path: Path, copy: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"config\.toml"):
        write_report(tmp_path)
    run = copy("number")
    (run / "environment.json").unlink()
    with pytest.raises(UserError, match=r"environment\.json"):
        write_report(run)


def test_no_warning_reaches_the_user(runs: dict[str, Path]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_report(runs["number"])
    assert [str(one.message) for one in caught] == []

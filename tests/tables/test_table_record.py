"""What a fit of a table writes down: copies across the split, every verdict, the surroundings, and its length."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

from thalweg import cli
from thalweg.errors import UserError
from thalweg.report import write_report
from thalweg.tables import Request, TableFit, TableSettings, fit_table, resume_table
from thalweg.tables.prepare import prepare_table
from thalweg.tables.request import Plan
from thalweg.train import Callback, load_run

QUICK = TableSettings(members=1, epochs=1, width=4, depth=1)
COPIES = 60


class Looks(Callback):
    """Notes under which precision of matrix products it is called."""

    def __init__(self):
        self.seen: set[str] = set()

    def progress(self, phase, step, row):
        self.seen.add(jax.config.jax_default_matmul_precision)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Made:
    """A fit of the patients, of whom the first sixty are there twice."""

    table: Path
    found: TableFit
    looks: Looks


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, looks = tmp_path_factory.mktemp("copied"), Looks()
    bunch: Any = load_diabetes(as_frame=True, scaled=False)
    patients = bunch.frame
    assert not patients.duplicated().any()
    pd.concat([patients, patients[:COPIES]]).to_csv(folder / "patients.csv", index=False)
    request = Request(folder / "patients.csv", "target", settings=QUICK)
    return Made(folder / "patients.csv", fit_table(request, folder / "run", callbacks=[looks]), looks)


def parts_of(table: Path) -> tuple[pd.DataFrame, list[set[int]]]:
    split = prepare_table(Request(table, "target", settings=QUICK)).split
    return pd.read_csv(table), [set(part.tolist()) for part in split]


def test_copies_across_the_split_are_counted(copied: Made):
    table, (train, validation, test) = parts_of(copied.table)
    first = len(table) - COPIES
    twin = {row: row + first if row < COPIES else row - first for row in [*range(COPIES), *range(first, len(table))]}
    across = lambda part, other: sum(twin.get(row) in other for row in part)
    (finding,) = copied.found.findings
    assert finding.name == "duplicate-rows"
    assert f"{across(test, train)} of {len(test)} test rows have an equal row in the training rows" in finding.evidence
    assert f"{across(validation, train)} of {len(validation)} validation rows" in finding.evidence
    assert across(test, train) > 3
    assert "--group" in finding.remedy


def test_copies_are_named_by_their_lines(copied: Made):
    lines = copied.table.read_text().splitlines()
    evidence = copied.found.findings[0].evidence
    one, other = (int(part.split()[0].strip(")")) for part in evidence.split("line ")[1:])
    assert one != other
    assert lines[one - 1] == lines[other - 1]  # the header is line 1


def test_the_report_and_the_terminal_show_the_copies(copied: Made, capsys: pytest.CaptureFixture[str]):
    evidence = copied.found.findings[0].evidence
    assert evidence in copied.found.report.read_text(encoding="utf-8")
    cli._tell(copied.found)
    assert f"duplicate-rows: {evidence}" in capsys.readouterr().out


def test_no_copies_and_no_random_split_no_finding(diabetes: Path, copied: Made, tmp_path: Path):
    assert prepare_table(Request(diabetes, "target", settings=QUICK)).findings == ()
    table = pd.read_csv(copied.table)
    table["patient"] = np.r_[np.arange(len(table) - COPIES), np.arange(COPIES)]
    table.to_csv(tmp_path / "visits.csv", index=False)
    assert prepare_table(Request(tmp_path / "visits.csv", "target", group="patient")).findings == ()


def test_the_verdict_file_keeps_members_fits_and_findings(copied: Made):
    run = copied.found.run
    written = json.loads((run / "verdict.json").read_text())
    assert written["fits"] == {"fit": written["members"]}
    assert [one["name"] for one in written["findings"]] == ["duplicate-rows"]
    assert load_run(run).verdicts == {"fit": copied.found.verdicts}
    assert resume_table(run).findings == copied.found.findings
    assert json.loads((run / "verdict.json").read_text()) == written


def test_the_environment_is_what_the_run_was_under(copied: Made):
    environment = json.loads((copied.found.run / "environment.json").read_text())
    assert copied.looks.seen == {environment["matmul_precision"]}


def test_the_report_says_when_the_run_began_what_it_is_and_how_to_run_it_again(copied: Made):
    run = copied.found.run
    path = run / "environment.json"
    environment = json.loads(path.read_text())
    path.write_text(json.dumps(environment | {"begun": "2026-03-01T17:05:00+00:00"}))
    try:
        page = write_report(run).read_text(encoding="utf-8")
    finally:
        path.write_text(json.dumps(environment))
    assert "begun 1 March 2026, 17:05 UTC" in page
    assert "Predicting target from patients.csv" in page
    assert f"thalweg fit {copied.table.resolve()} --target target --seed 0 --set members=1" in page


# -------------------------------------------------------------------------------------------------------------- length
def test_every_number_among_the_settings_is_bounded_above():
    for one in TableSettings.described():
        if one.kind in ("int", "float"):
            assert "≤" in one.bounds or "<" in one.bounds, one.name


@pytest.mark.parametrize("name", [one.name for one in TableSettings.described() if one.kind in ("int", "float")])
@pytest.mark.parametrize("value", ["1" + 30 * "0", "1e400", "-1e30"])
def test_a_number_out_of_bounds_is_refused_by_name(name: str, value: str):
    with pytest.raises(UserError, match=f"^{name}="):
        TableSettings.from_pairs([f"{name}={value}"])


def test_more_steps_than_can_be_counted_are_refused_before_there_is_a_folder(diabetes: Path, tmp_path: Path):
    with pytest.raises(UserError, match="epochs"):
        Plan.of(TableSettings(epochs=1_000_000, batch=1), 3_000)
    with pytest.raises(UserError, match="1,000,001 epochs"):
        Plan.of(TableSettings(epochs=1, batch=1), 3_000, extension=1_000_000)
    assert Plan.of(TableSettings(epochs=1_000_000), 3_000).steps == 1_000_000 * 47
    settings = TableSettings(epochs=1_000_000, batch=1)
    table = pd.concat([pd.read_csv(diabetes)] * 10)
    table.to_csv(tmp_path / "long.csv", index=False)
    with pytest.raises(UserError, match="epochs"):
        fit_table(Request(tmp_path / "long.csv", "target", settings=settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""`thalweg audit`, and the audit that `thalweg fit` makes of its own split."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thalweg import cli
from thalweg.data import LeakKind
from thalweg.errors import UserError
from thalweg.tables import AuditRequest, Request, SplitChoice, TableSettings, audit_table
from thalweg.tables.prepare import prepare_table


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """The exit status of `thalweg audit ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["thalweg", "audit", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 patients with four visits each."""
    rng = np.random.default_rng(0)
    who = np.repeat(np.arange(60), 4)
    frame = pd.DataFrame({"age": rng.uniform(20, 90, 240), "day": rng.permutation(240), "patient": who})
    frame["pressure"] = 2 * rng.normal(size=60)[who] + rng.normal(size=240) + frame["age"] / 20
    frame["set"] = np.where(who < 40, "train", np.where(who < 50, "validation", "test"))
    path = tmp_path_factory.mktemp("visits") / "visits.csv"
    frame.to_csv(path, index=False)
    return path


def test_a_leak_is_printed_and_is_status_1(monkeypatch, capsys, visits: Path):
    assert asked(monkeypatch, visits, "--target", "pressure", "--split", "random", "--group", "patient",
                 "--ignore", "day", "--ignore", "set") == 1  # fmt: skip
    printed = capsys.readouterr().out
    assert "168 training, 36 validation and 36 test rows" in printed
    assert "shared-groups (sure): " in printed
    assert "Keep each group in one part (--group patient)." in printed
    assert "1 leak found" in printed


def test_no_leak_is_status_0(monkeypatch, capsys, visits: Path):
    for split in (["--group", "patient", "--ignore", "set"], ["--group", "patient", "--parts", "set"]):
        assert asked(monkeypatch, visits, "--target", "pressure", *split, "--ignore", "day") == 0
        assert "no leak found" in capsys.readouterr().out


def test_an_undeclared_patient_is_found_in_any_split_that_shares_it(visits: Path):
    for split in (SplitChoice.RANDOM, SplitChoice.TIME):
        request = AuditRequest(visits, "pressure", split, time="day" if split is SplitChoice.TIME else None,
                               ignore=("set",) if split is SplitChoice.TIME else ("set", "day"))  # fmt: skip
        assert ("patient",) in [one.columns for one in audit_table(request)[0].findings]


def test_clusters_are_made_of_numbers_gaps_and_names(tmp_path: Path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=200), "b": rng.choice(["x", "y", "z"], 200), "y": rng.normal(size=200)})
    frame.loc[5, "a"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    found, split = audit_table(AuditRequest(tmp_path / "t.csv", "y", SplitChoice.CLUSTER))
    assert found.findings == ()
    assert min(len(part) for part in split) > 10


def test_questions_that_make_no_sense_are_refused(monkeypatch, capsys, visits: Path, tmp_path: Path):
    (tmp_path / "parts.csv").write_text("x,part,y\n" + "".join(f"{i},{'train' if i else 'tran'},{i * i % 7}\n"
                                                               for i in range(40)))  # fmt: skip
    text = tmp_path / "text.csv"
    text.write_text("x,y\n" + "".join(f"{chr(97 + i % 26)}{i},{i * i % 7}\n" for i in range(40)))
    for words, arguments in (
        ("'presure' is not in the table", [visits, "--target", "presure"]),
        ("Did you mean 'patient'", [visits, "--target", "pressure", "--group", "patent"]),
        ("needs its column", [visits, "--target", "pressure", "--split", "group"]),
        ("needs its column", [visits, "--target", "pressure", "--split", "time"]),
        ("not both", [visits, "--target", "pressure", "--split", "random", "--parts", "set"]),
        ("says 'tran'", [tmp_path / "parts.csv", "--target", "y", "--parts", "part"]),
        ("cluster the rows by", [text, "--target", "y", "--split", "cluster"]),
        ("there is no such file", [tmp_path / "nowhere.csv", "--target", "y"]),
        ("seed must be", [visits, "--target", "pressure", "--seed", "-1"]),
    ):
        assert asked(monkeypatch, *arguments) == 2
        assert words in capsys.readouterr().err


def test_a_fit_refuses_a_copied_target_and_says_how_to_go_on(visits: Path, tmp_path: Path):
    frame = pd.read_csv(visits).assign(kilopascal=lambda f: 0.133322 * f["pressure"])
    frame.to_csv(tmp_path / "copied.csv", index=False)
    request = Request(tmp_path / "copied.csv", "pressure", group="patient")
    with pytest.raises(UserError, match="'kilopascal' is the target in other units") as caught:
        prepare_table(request)
    assert "--ignore kilopascal" in str(caught.value)
    prepare_table(Request(request.table, "pressure", group="patient", ignore=("kilopascal",)))
    allowed = TableSettings(copied_target=True)
    prepared = prepare_table(Request(request.table, "pressure", group="patient", settings=allowed))
    assert LeakKind.TARGET_COPIED.value in [one.name for one in prepared.findings]


def test_a_law_of_one_column_is_fitted_and_noted(tmp_path: Path):
    x = np.random.default_rng(0).uniform(size=60)
    pd.DataFrame({"volts": x, "kelvin": 300 + 40 * x}).to_csv(tmp_path / "gauge.csv", index=False)
    (finding,) = prepare_table(Request(tmp_path / "gauge.csv", "kelvin")).findings
    assert finding.name == LeakKind.TARGET_COPIED.value


def test_a_fit_names_an_undeclared_group(visits: Path):
    findings = prepare_table(Request(visits, "pressure", ignore=("day", "set"))).findings
    # a patient's visits follow each other in the file, so that its order tells of them too
    # its rows stand together in the file: of a file that is sorted by a column the order is only noted
    assert [one.name for one in findings] == ["undeclared-groups"]
    assert "--group patient" in findings[0].remedy

"""A table to a trusted model: what the run folder holds is true, and the same whatever happened on the way."""

import json
import signal
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, r2_score

from thalweg.errors import UserError
from thalweg.tables import Request, TableSettings, fit_table, load_table_model, predict_table, resume_table
from thalweg.train import Callback, FitInterrupted
from thalweg.tree import tree_hash

SETTINGS = {"members": 2, "epochs": 4, "width": 16, "depth": 1}


def scores(run: Path) -> dict:
    return json.loads((run / "scores.json").read_text())


def test_scores_are_those_of_the_predictions_on_the_test_rows(number_run: Path):
    arrays = np.load(number_run / "arrays" / "test.npz")
    network = scores(number_run)["models"][0]["values"]
    assert network["R²"][0] == pytest.approx(r2_score(arrays["truth"], arrays["mean"]), rel=1e-12)  # same formula
    assert network["R²"][1] < network["R²"][0] < network["R²"][2]


def test_class_scores_equal_scikit_learns(class_run: Path):
    arrays = np.load(class_run / "arrays" / "test.npz")
    network = scores(class_run)["models"][0]["values"]
    expected = log_loss(arrays["truth"], arrays["probability"], labels=[0, 1, 2])
    assert network["log loss"][0] == pytest.approx(expected, rel=1e-9)  # theirs renormalizes the probabilities
    assert np.allclose(arrays["probability"].sum(1), 1)


def test_the_saved_model_predicts_what_the_run_measured(number_run: Path, diabetes: Path):
    arrays = np.load(number_run / "arrays" / "test.npz")
    found = predict_table(number_run, diabetes)
    table = pd.read_csv(diabetes)
    # a test row is known by its truth and its prediction; each must be among the predictions of the whole table
    pairs = {(truth, round(mean, 6)) for truth, mean in zip(table["target"], found["mean"], strict=True)}
    assert all((truth, round(mean, 6)) in pairs for truth, mean in zip(arrays["truth"], arrays["mean"], strict=True))


def test_doubt_follows_the_law_of_total_variance(number_run: Path, diabetes: Path):
    found = predict_table(number_run, diabetes)
    total = np.hypot(found["aleatoric_std"], found["epistemic_std"])
    assert np.allclose(found["total_std"], total, rtol=1e-12)
    assert (found["aleatoric_std"] > 0).all()


def test_epistemic_doubt_grows_off_the_data(number_run: Path, diabetes: Path, tmp_path: Path):
    table = pd.read_csv(diabetes)
    far = table.assign(**{name: table[name].mean() + 4 * (table[name] - table[name].mean()) for name in table.columns})
    far.to_csv(tmp_path / "far.csv", index=False)
    near, off = predict_table(number_run, diabetes), predict_table(number_run, tmp_path / "far.csv")
    assert off["epistemic_std"].median() > near["epistemic_std"].median()
    assert (off["outside_training_range"] != "").mean() > 0.9


def test_rows_outside_the_training_range_are_named(number_run: Path, diabetes: Path, tmp_path: Path):
    table = pd.read_csv(diabetes)[:3]
    table.loc[1, "bmi"] = 70.0
    table.to_csv(tmp_path / "new.csv", index=False)
    assert list(predict_table(number_run, tmp_path / "new.csv")["outside_training_range"][1:2]) == ["bmi"]


def test_class_probabilities_sum_to_one_and_name_the_class(class_run: Path, wine: Path):
    found = predict_table(class_run, wine)
    columns = [name for name in found if name.startswith("probability_")]
    assert sorted(columns) == ["probability_barbera", "probability_barolo", "probability_grignolino"]
    assert np.allclose(found[columns].sum(axis=1), 1)
    chosen = found[columns].to_numpy().argmax(1)
    assert ("probability_" + found["prediction"]).tolist() == [columns[i] for i in chosen]


def test_a_model_folder_alone_is_enough(number_run: Path, diabetes: Path, tmp_path: Path):
    moved = tmp_path / "elsewhere"
    (number_run / "model").rename(moved)
    try:
        assert np.isfinite(predict_table(moved, diabetes)["mean"]).all()
    finally:
        moved.rename(number_run / "model")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_model_and_another_seed_another(wine: Path, class_run: Path, tmp_path: Path):
    again = fit_table(Request(wine, "cultivar", settings=TableSettings(**SETTINGS)), tmp_path / "again").run
    other = fit_table(Request(wine, "cultivar", seed=1, settings=TableSettings(**SETTINGS)), tmp_path / "other").run
    hashes = [tree_hash(load_table_model(run)[0]) for run in (class_run, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]


class InterruptAt(Callback):
    """Sends SIGINT to the process at a step."""

    def __init__(self, step: int):
        self.step = step

    def progress(self, phase, step, row):
        if step >= self.step and threading.current_thread() is threading.main_thread():
            self.step = 10**9
            signal.raise_signal(signal.SIGINT)


def test_interrupted_and_resumed_equals_uninterrupted(wine: Path, class_run: Path, tmp_path: Path):
    request = Request(wine, "cultivar", settings=TableSettings(**SETTINGS))
    with pytest.raises(FitInterrupted) as caught:
        fit_table(request, tmp_path / "run", callbacks=[InterruptAt(3)])
    assert caught.value.exit_status == 130
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert {member["status"] for member in verdict["members"]} == {"interrupted"}
    resume_table(tmp_path / "run")
    assert tree_hash(load_table_model(tmp_path / "run")[0]) == tree_hash(load_table_model(class_run)[0])


def test_a_finished_run_is_extended(wine: Path, tmp_path: Path):
    request = Request(wine, "cultivar", settings=TableSettings(**SETTINGS, patience=1.0))
    run = fit_table(request, tmp_path / "run").run
    rows = len((run / "metrics.jsonl").read_text().splitlines())
    resume_table(run, epochs=2)
    longer = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(longer) > rows
    assert longer[-1]["step"] == longer[rows - 1]["step"] * 6 // 4


def test_resume_refuses_a_changed_table(wine: Path, tmp_path: Path):
    copy = tmp_path / "wine.csv"
    copy.write_bytes(wine.read_bytes())
    run = fit_table(Request(copy, "cultivar", settings=TableSettings(**SETTINGS)), tmp_path / "run").run
    copy.write_text(copy.read_text().replace("14.23", "14.24", 1))
    with pytest.raises(UserError, match="the table has changed"):
        resume_table(run)
    copy.unlink()
    with pytest.raises(UserError, match="table is gone"):
        resume_table(run)


def test_groups_and_time_split(diabetes: Path, tmp_path: Path):
    from thalweg.tables.prepare import prepare_table

    table = pd.read_csv(diabetes)
    table["clinic"] = np.arange(len(table)) % 9
    table["day"] = pd.date_range("2020-01-01", periods=len(table)).astype(str)
    table.to_csv(tmp_path / "table.csv", index=False)
    by_group = prepare_table(Request(tmp_path / "table.csv", "target", group="clinic", ignore=("day",)))
    parts = [set(table["clinic"].to_numpy()[part]) for part in by_group.split]
    assert not parts[0] & parts[1]
    assert not parts[1] & parts[2]
    assert not parts[0] & parts[2]
    by_time = prepare_table(Request(tmp_path / "table.csv", "target", time="day", ignore=("clinic",)))
    assert by_time.split.train.max() < by_time.split.validation.min() <= by_time.split.validation.max()
    assert by_time.split.validation.max() < by_time.split.test.min()


def test_the_recommendation_names_a_baseline_that_is_better(tmp_path: Path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    # exactly linear and hardly trained: ridge must win, and the report must say so
    frame = pd.DataFrame(x, columns=["a", "b", "c"]).assign(y=x @ [3.0, -2.0, 1.0])
    frame.to_csv(tmp_path / "line.csv", index=False)
    settings = TableSettings(members=1, epochs=1, width=4, depth=1, rate=1e-5)
    run = fit_table(Request(tmp_path / "line.csv", "y", settings=settings), tmp_path / "run").run
    assert scores(run)["recommendation"]["use"] == "ridge"
    assert scores(run)["difference"]["high"] < 0  # in R², of which more is better

"""Scores that do not claim more than the rows can show."""

import numpy as np
import pytest

from thalweg.data import Task
from thalweg.tables.scores import score_models


def winners(clustered: bool) -> int:
    """Claims that one model is better, of 10 tables on which both err by one law: a shift a group, noise a row."""
    found = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(6), 40)
        truth = rng.normal(size=240)
        err = lambda rng=rng, groups=groups: 0.7 * rng.normal(size=6)[groups] + 0.3 * rng.normal(size=240)
        answers = {"thalweg": truth + err(), "ridge": truth + err()}
        scores = score_models(Task.NUMBER, truth, answers, seed, clusters=groups if clustered else None)
        found += scores["difference"]["low"] > 0 or scores["difference"]["high"] < 0
    return found


def test_rows_of_a_group_are_resampled_together():
    # nothing separates the models; six clusters make a bootstrap somewhat too sure, rows alone far too sure
    assert winners(clustered=True) <= 4 < winners(clustered=False)


def test_without_groups_the_interval_is_that_of_single_rows():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200)
    answers = {"thalweg": truth + rng.normal(size=200), "mean": np.zeros(200)}
    one, other = (score_models(Task.NUMBER, truth, answers, 0, clusters=c) for c in (None, np.arange(200)))
    assert one["difference"] == other["difference"]


def test_one_test_row_is_not_scored():
    scores = score_models(Task.NUMBER, np.array([1.0]), {"thalweg": np.array([1.0]), "mean": np.array([0.0])}, 0)
    assert "Too few test rows" in scores["recommendation"]["sentence"]


@pytest.mark.parametrize("better", ["thalweg", "ridge"])
def test_the_better_model_is_recommended(better):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    answers = {name: truth + (0.1 if name == better else 1.0) * rng.normal(size=300) for name in ("thalweg", "ridge")}
    assert score_models(Task.NUMBER, truth, answers, 0)["recommendation"]["use"] == better

"""Which distribution a target is given: the rule proposes, the training rows confirm, the note says."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes

from thalweg.data import Task
from thalweg.errors import UserError
from thalweg.tables import Request, TableSettings
from thalweg.tables.family import Family, choose_family, propose
from thalweg.tables.prepare import prepare_table
from thalweg.tables.request import LossChoice

ROWS = 600


def made(family: Family, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns, and a target that has this distribution given them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 3))
    eta = 0.8 * x[:, 0] - 0.5 * x[:, 1]
    match family:
        case Family.GAUSSIAN:
            return x, eta + np.exp(0.4 * x[:, 2] - 1) * rng.normal(size=ROWS)
        case Family.STUDENT_T:
            return x, eta + 0.3 * rng.standard_t(2.2, size=ROWS)
        case Family.LOG_NORMAL:
            return x, np.exp(1 + eta + 0.7 * rng.normal(size=ROWS))
        case Family.LOGIT_NORMAL:
            return x, 1 / (1 + np.exp(2 - eta - 0.7 * rng.normal(size=ROWS)))
        case Family.NEGATIVE_BINOMIAL:
            mean = np.exp(1 + 0.5 * eta)
            return x, rng.negative_binomial(1.5, 1.5 / (1.5 + mean)).astype(float)
        case Family.POISSON:  # less scatter than Poisson's, all in all, as of 12 trials
            return x, rng.binomial(12, 1 / (1 + np.exp(1.5 - 0.3 * eta))).astype(float)


def chosen(x: np.ndarray, y: np.ndarray, asked: Family | None = None):
    return choose_family(x, y, y, name="y", asked=asked, seed=0)


@pytest.mark.parametrize(
    "family",
    [Family.GAUSSIAN, Family.STUDENT_T, Family.LOG_NORMAL, Family.LOGIT_NORMAL, Family.NEGATIVE_BINOMIAL],
)
def test_a_target_is_given_the_distribution_that_made_it(family: Family):
    found = chosen(*made(family))
    assert found.family is family
    assert "target 'y' is taken as" in found.reason
    if family is not Family.GAUSSIAN:
        assert "nats a row over a Gaussian" in found.reason
        assert "--set loss=gaussian" in found.reason


@pytest.mark.parametrize("seed", range(5))
def test_a_gaussian_stays_one(seed: int):
    """Noise of one scale: no other family may look surely better, on any of these draws, also where y is positive."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 3))
    y = x @ [1.0, -2.0, 0.5] + rng.normal(size=ROWS)
    assert chosen(x, y).family is Family.GAUSSIAN
    assert chosen(x, y + 100).family is Family.GAUSSIAN


def test_real_measurements_in_whole_numbers_are_not_taken_for_counts():
    """Diabetes progression, 25 to 346, whole numbers: its variance is 39 times its mean, and it is no count."""
    x, y = load_diabetes(return_X_y=True)
    assert (Family.NEGATIVE_BINOMIAL, 39) in [(family, round(y.var() / y.mean())) for family, _ in propose(y, y)]
    found = chosen(x, y)
    assert found.family is Family.GAUSSIAN
    assert "negative binomial" in found.reason


def test_what_the_values_propose():
    families = lambda y: [family for family, _ in propose(y, y)]
    assert families(made(Family.POISSON)[1]) == [Family.POISSON]  # a tie of the most frequent value rules out a density
    assert families(made(Family.NEGATIVE_BINOMIAL)[1])[0] is Family.NEGATIVE_BINOMIAL
    assert families(made(Family.LOGIT_NORMAL)[1]) == [Family.LOGIT_NORMAL, Family.STUDENT_T]
    assert families(made(Family.LOG_NORMAL)[1]) == [Family.LOG_NORMAL, Family.STUDENT_T]
    assert families(made(Family.GAUSSIAN)[1]) == [Family.STUDENT_T]


def test_one_row_out_of_range_rules_a_family_out_wherever_it_is():
    y = made(Family.LOG_NORMAL)[1]
    assert propose(y, np.append(y, 0.0))[0][0] is Family.STUDENT_T
    proportions = made(Family.LOGIT_NORMAL)[1]
    assert propose(proportions, np.append(proportions, 1.0))[0][0] is Family.LOG_NORMAL


def test_few_rows_stay_gaussian():
    x, y = made(Family.LOG_NORMAL)
    assert "too few rows" in chosen(x[:30], y[:30]).reason


def test_columns_that_are_constant_or_equal_do_no_harm():
    x, y = made(Family.LOG_NORMAL)
    assert chosen(np.column_stack([x, np.ones(ROWS), x[:, 0]]), y).family is Family.LOG_NORMAL


# ---------------------------------------------------------------------------------------------------------- the request
@pytest.fixture
def amounts(tmp_path: Path) -> Path:
    x, y = made(Family.LOG_NORMAL)
    pd.DataFrame(x, columns=["a", "b", "c"]).assign(y=y, cold=-y).to_csv(tmp_path / "amounts.csv", index=False)
    return tmp_path / "amounts.csv"


def test_the_choice_is_made_and_noted(amounts: Path):
    prepared = prepare_table(Request(amounts, "y", ignore=("cold",)))
    assert prepared.family is Family.LOG_NORMAL
    assert any("taken as log-normal" in note for note in prepared.data["notes"])


def test_the_user_has_the_last_word(amounts: Path):
    settings = TableSettings.from_pairs(["loss=student_t"])
    prepared = prepare_table(Request(amounts, "y", ignore=("cold",), settings=settings))
    assert prepared.family is Family.STUDENT_T
    assert any(note.endswith("as asked") and "Student's t" in note for note in prepared.data["notes"])


def test_a_loss_that_cannot_have_the_target_is_refused_with_the_line(amounts: Path):
    settings = TableSettings(loss=LossChoice.LOG_NORMAL)
    with pytest.raises(UserError, match=r"log_normal takes numbers > 0, but the target 'cold' is -.*line 2"):
        prepare_table(Request(amounts, "cold", ignore=("y",), settings=settings))


def test_a_loss_for_numbers_is_refused_for_classes(wine: Path):
    settings = TableSettings(loss=LossChoice.POISSON)
    with pytest.raises(UserError, match="poisson is for numbers"):
        prepare_table(Request(wine, "cultivar", task=Task.CLASSES, settings=settings))
    with pytest.raises(UserError, match=r"must hold numbers but holds 'barolo'.*line 2"):
        prepare_table(Request(wine, "cultivar", settings=settings))
    prepared = prepare_table(Request(wine, "cultivar"))
    assert prepared.family is None
    assert any("cross-entropy" in note for note in prepared.data["notes"])


def test_small_counts_are_classes_unless_a_loss_or_the_task_says_otherwise(tmp_path: Path):
    x, y = made(Family.POISSON)
    pd.DataFrame(x, columns=["a", "b", "c"]).assign(y=y.astype(int)).to_csv(tmp_path / "counts.csv", index=False)
    assert prepare_table(Request(tmp_path / "counts.csv", "y")).family is None
    asked = prepare_table(Request(tmp_path / "counts.csv", "y", settings=TableSettings(loss=LossChoice.POISSON)))
    assert asked.family is Family.POISSON
    assert prepare_table(Request(tmp_path / "counts.csv", "y", task=Task.NUMBER)).family is not None


def test_an_unknown_loss_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"loss='possion'.*negative_binomial"):
        TableSettings.from_pairs(["loss=possion"])


def test_the_loss_survives_the_config(amounts: Path):
    request = Request(amounts, "y", settings=TableSettings(loss=LossChoice.LOG_NORMAL))
    config = json.loads(json.dumps(request.to_config()))
    assert config["settings"]["loss"] == "log_normal"
    again = Request.from_config(config, table=None, where="config.toml")
    assert again.settings.loss is LossChoice.LOG_NORMAL
    del config["settings"]["loss"]  # of a run begun before there was a choice
    assert Request.from_config(config, table=None, where="config.toml").settings.loss is LossChoice.AUTO

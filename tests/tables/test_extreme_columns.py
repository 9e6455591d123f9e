"""A column far from ordinary size is worth what the same column is worth in another unit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thalweg.errors import UserError
from thalweg.tables import Request, TableSettings, fit_table, predict_table
from thalweg.tables.request import LossChoice

SETTINGS = TableSettings(members=1, epochs=30, width=8, depth=1)
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 200))
Y = A + 0.5 * B + 0.1 * RNG.normal(size=200)


def fitted(folder: Path, **columns: np.ndarray) -> tuple[dict[str, float], pd.DataFrame, Path]:
    """R² by model, and the predictions of the table itself."""
    folder.mkdir(exist_ok=True)
    frame = pd.DataFrame({"a": A, "b": B, "y": Y} | columns)
    frame.to_parquet(folder / "t.parquet", index=False)  # exact, unlike a CSV
    found = fit_table(Request(folder / "t.parquet", "y", settings=SETTINGS), folder / "run")
    scores = {model["name"]: model["values"]["R²"][0] for model in found.scores["models"]}
    return scores, predict_table(found.run, folder / "t.parquet"), found.run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], pd.DataFrame, Path]:
    return fitted(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("power", [990, -980])
def test_a_huge_or_tiny_column_counts_as_in_another_unit(plain, tmp_path: Path, power: int):
    scores, found, _ = fitted(tmp_path, a=A * 2.0**power)
    # a power of two rounds nothing, but XLA may multiply by the reciprocal of a scale
    np.testing.assert_allclose(found["mean"], plain[1]["mean"], rtol=1e-9)
    assert scores == pytest.approx(plain[0], rel=1e-9)


@pytest.mark.slow
def test_a_column_far_from_zero_counts_as_without_its_offset(plain, tmp_path: Path):
    scores, found, _ = fitted(tmp_path, a=1e9 + 1e-3 * A)
    # float64 holds these numbers to 1.2e-7 of 1e-3
    np.testing.assert_allclose(found["mean"], plain[1]["mean"], atol=1e-2 * Y.std())
    assert scores["ridge"] == pytest.approx(plain[0]["ridge"], abs=1e-4)
    assert scores["ridge"] > 0.9


@pytest.mark.parametrize("power", [300, -300])
@pytest.mark.slow
def test_a_large_or_small_target_is_scored_as_in_another_unit(plain, tmp_path: Path, power: int):
    scores, found, _ = fitted(tmp_path, y=Y * 2.0**power)
    assert scores["gradient boosting"] == pytest.approx(plain[0]["gradient boosting"], rel=1e-6)  # keeps float32
    assert scores["ridge"] == pytest.approx(plain[0]["ridge"], rel=1e-9)
    assert np.isfinite(found.select_dtypes(float)).all(axis=None)


def test_a_huge_number_in_a_new_row_is_bent_like_any_far_one(plain, tmp_path: Path):
    frame = pd.DataFrame({"a": [1e30, 1e200, 1e300], "b": [0.0, 0.0, 0.0]})
    frame.to_csv(tmp_path / "far.csv", index=False)
    found = predict_table(plain[2], tmp_path / "far.csv")
    # 1e8 deviations off and beyond, the bent input is 3 to the last digit
    np.testing.assert_allclose(found["mean"], found["mean"][0], rtol=1e-12)
    assert found["mean"][0] > Y.max() - Y.std()
    assert (found["outside_training_range"] == "a").all()


def test_what_cannot_be_computed_is_refused_before_there_is_a_folder(tmp_path: Path):
    for columns, name in (({"a": 1e9 + 1e-6 * A}, "column 'a'"), ({"y": 1e300 * Y / 10}, "target 'y'")):
        with pytest.raises(UserError, match=name):
            fitted(tmp_path, **columns)
        assert not (tmp_path / "run").exists()


def test_a_family_whose_logarithm_is_lost_is_refused_by_the_targets_name(tmp_path: Path):
    pd.DataFrame({"a": A, "y": 1e50 * (1 + 1e-13 * Y)}).to_parquet(tmp_path / "t.parquet", index=False)
    request = Request(tmp_path / "t.parquet", "y", settings=TableSettings(loss=LossChoice.LOG_NORMAL))
    with pytest.raises(UserError, match="logarithm of target 'y'"):
        fit_table(request, tmp_path / "run")
    assert not (tmp_path / "run").exists()

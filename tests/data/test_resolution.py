"""Columns whose numbers cannot be told apart are refused by name; large, small and far-off ones are not."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thalweg.data import learn_schema, read_table
from thalweg.data.resolution import middle, spread
from thalweg.errors import UserError

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=200)
ROWS = np.arange(150)


def learned(column: np.ndarray, target: np.ndarray = NOISE):
    return learn_schema(pd.DataFrame({"mass": column, "y": target}), "y", ROWS, source="t.csv")


@pytest.mark.parametrize("factor", [2.0**990, 2.0**-980, 1.0])
def test_mean_and_spread_have_no_limits_of_their_own(factor: float):
    # powers of two scale exactly, so there is nothing to tolerate
    assert spread(NOISE * factor) == NOISE.std() * factor
    assert middle(NOISE * factor) == NOISE.mean() * factor


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (1e9 + 1e-6 * NOISE, ["'mass' varies by", "rounds to 1e-07", "Subtract an offset", "--ignore mass"]),
        (1 + 1e-15 * NOISE, ["'mass' varies by", "its variation is lost"]),
        ((1e4 + 1e-2 * NOISE).astype(np.float32), ["'mass' varies by 0.0", "float32 rounds to 0.0"]),
        (1e301 * NOISE, ["'mass' holds", "e+301", "Change the unit"]),
        (1e-305 * NOISE, ["'mass' varies by", "spreads below 1e-300", "Change the unit"]),
    ],
)
def test_a_column_whose_variation_is_lost_is_refused_by_name(column: np.ndarray, words: list[str]):
    with pytest.raises(UserError) as caught:
        learned(column)
    for word in [*words, "t.csv"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (1e300 * NOISE / 10, ["target 'y' holds", "Change the unit"]),
        (1e-300 * NOISE, ["target 'y' varies by", "Change the unit"]),
        (1e9 + 1e-6 * NOISE, ["target 'y' varies by", "Subtract an offset"]),
    ],
)
def test_a_target_whose_variation_is_lost_is_refused_by_name(target: np.ndarray, words: list[str]):
    with pytest.raises(UserError) as caught:
        learned(NOISE, target)
    for word in words:
        assert word in str(caught.value)
    assert "--ignore" not in str(caught.value)  # a target cannot be left out


@pytest.mark.parametrize("column", [1e299 * NOISE, 1e-290 * NOISE, 1e6 + NOISE, np.where(NOISE > 2, 1.0, 0.0)])
def test_a_column_with_a_proper_spread_is_taken_without_a_word(column: np.ndarray):
    schema = learned(column)
    assert [feature.name for feature in schema.features] == ["mass"]
    assert not any("mass" in note for note in schema.notes)


def test_few_digits_are_said():
    (note,) = [note for note in learned(1e9 + 1e-3 * NOISE).notes if "'mass'" in note]
    assert "about 4 digits" in note  # 1e-3 over the spacing of float64 at 1e9, 1.2e-7, is 8,400


def test_a_code_for_missing_among_ordinary_numbers_is_said():
    column = NOISE.copy()
    column[7] = 1e20
    (note,) = [note for note in learned(column).notes if "'mass'" in note]
    assert "1e+20" in note
    assert "leave the cell empty" in note


def test_numbers_that_were_float32_in_the_file_are_judged_as_such(tmp_path: Path):
    for dtype in (np.float32, np.float64):
        frame = pd.DataFrame({"mass": (1e5 + 1e-2 * NOISE).astype(dtype), "y": NOISE})
        frame.to_parquet(tmp_path / "t.parquet", index=False)
        table = read_table(tmp_path / "t.parquet")
        if dtype is np.float64:
            assert learn_schema(table, "y", ROWS).features[0].name == "mass"
        else:
            with pytest.raises(UserError, match=r"'mass' varies by .* float32"):
                learn_schema(table, "y", ROWS)


def test_a_column_of_which_only_the_absence_varies_is_kept():
    column = np.where(NOISE > 0, 1e9, np.nan)
    assert learned(column).feature_names == ("mass", "mass is missing")

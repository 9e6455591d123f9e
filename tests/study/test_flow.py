"""Gradient flow: what the study computes beside its walks, and the whole study."""

import json
from pathlib import Path

import diffrax
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from thalweg.errors import UserError
from thalweg.studies import flow as study
from thalweg.study.runner import run_study


def test_the_regression_is_what_it_is_said_to_be():
    assert study.PRODUCTS.shape == (442, 65)
    # sex has two values, so that its square is the column itself: 65 columns of rank 64
    assert np.linalg.matrix_rank(study.PRODUCTS) == 64
    linear = np.mean((study.INPUTS @ np.linalg.lstsq(study.INPUTS, study.TARGET, rcond=None)[0] - study.TARGET) ** 2)
    # R² of ordinary least squares on these data is 0.5177, as Efron et al. and scikit-learn's page have it
    assert 1 - linear == pytest.approx(0.5177, abs=1e-4)
    assert study.LEAST < linear


def test_the_exact_flow_is_that_of_the_equation():
    model = study.starts([5])[0]
    field = lambda t, x: -2 * study.PRODUCTS.T @ (study.PRODUCTS @ x - study.TARGET) / len(study.TARGET)
    times = np.array([0.0, 0.1, 1.0, 3.0])
    found = solve_ivp(field, (0, 3), np.asarray(model["x"]), "LSODA", times, rtol=1e-9, atol=1e-11).y.T
    heights = np.mean((found @ study.PRODUCTS.T - study.TARGET) ** 2, axis=1)
    assert np.allclose(study.flow_heights(model, times), heights, rtol=1e-7)  # SciPy's tolerance, over some steps


def test_the_growth_of_an_explicit_method_is_its_polynomial():
    """Dormand and Prince's is the exponential's to order 5, and z⁶/600 (Hairer, Nørsett and Wanner, 1993)."""
    z = np.array([0.1, 1.0, 3.0])
    series = sum((-z) ** k / np.prod(np.arange(1.0, k + 1)) for k in range(6)) + z**6 / 600
    assert np.allclose(study.growth_of(diffrax.Dopri5(), z), series, rtol=1e-12)


@pytest.mark.slow
def test_the_study_at_small_settings(tmp_path: Path) -> None:
    done = run_study("flow", {"seeds": 6, "steps": 1_000}, out=tmp_path / "run")
    # these are theorems, whatever the starts
    assert [claim.verdict.value for claim in done.claims[:4]] == ["supported"] * 4
    assert len(done.claims) == 12
    figures = sorted(path.stem for path in (tmp_path / "run/arrays/figures").glob("*.svg"))
    assert figures == ["1-stability", "2-regression", "3-path", "4-network"]
    assert json.loads((tmp_path / "run/claims.json").read_text())["systems"] == ["S06"]


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seeds"):
        run_study("flow", {"seeds": 2}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

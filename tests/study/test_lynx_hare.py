"""Lynx and hare: the data, the law against its invariant and its published constants, and the whole study."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.errors import UserError
from thalweg.studies import lynx_hare as study
from thalweg.studies.lynx_hare import LOGS, YEARS, plain_fit, plain_states
from thalweg.study.runner import run_study

CONSTANTS = np.log([0.55, 0.028, 0.80, 0.024, 33.0, 6.0])


def test_the_pelts_have_their_two_cycles():
    assert LOGS.shape == (len(YEARS), 2) == (21, 2)
    assert YEARS[np.argsort(study.HARE)[-2:]].tolist() == [1913, 1903]
    assert YEARS[np.argsort(study.LYNX)[-2:]].tolist() == [1915, 1904]


def test_the_law_keeps_its_invariant():
    """Volterra's: δh − γ log h + βl − α log l is constant."""
    states = plain_states(CONSTANTS, np.linspace(0, 40, 200))
    alpha, beta, gamma, delta = np.exp(CONSTANTS[:4])
    hare, lynx = np.exp(states).T
    kept = delta * hare - gamma * states[:, 0] + beta * lynx - alpha * states[:, 1]
    assert np.ptp(kept) < 1e-5  # some hundred steps at 1e-8
    assert np.ptp(states) > 2  # and it did move


@pytest.mark.slow
def test_the_hybrid_starts_as_the_law():
    with jax.enable_x64(True):
        law = tw.nn.NeuralODE(study.LotkaVolterra(jnp.asarray(CONSTANTS[:4])), rtol=1e-9, atol=1e-9)
        found = law(tw.nn.Trajectory(CONSTANTS[4:], YEARS - 1900.0))
    expected = plain_states(CONSTANTS, YEARS - 1900.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)  # two integrators at 1e-8 and 1e-9 over two cycles
    whole = study.hybrid(CONSTANTS, 8, seed=0)(tw.nn.Trajectory(np.int32(0), YEARS - 1900.0))
    # a hundredth of a network's output a year, over 20 years of a system that neither damps nor forgets
    assert 1e-5 < np.abs(whole - expected).max() < 0.5


def test_the_plain_fit_finds_what_made_the_data():
    exact = plain_states(CONSTANTS, YEARS - 1900.0)
    np.testing.assert_allclose(plain_fit(exact, seed=0, starts=3), CONSTANTS, rtol=0, atol=1e-4)


def test_the_plain_fit_agrees_with_the_published_one():
    """Carpenter (2018), all 21 years, posterior mean and standard deviation; his priors pull a little."""
    found = np.exp(plain_fit(LOGS, seed=0, starts=3))
    mean, deviation = np.array([0.55, 0.028, 0.80, 0.024]), np.array([0.064, 0.0043, 0.091, 0.0036])
    assert (np.abs(found[:4] - mean) < deviation).all()


@pytest.mark.slow
def test_the_study_at_tiny_settings(tmp_path: Path) -> None:
    done = run_study("lynx-hare", {"seeds": 2, "steps": 3, "width": 3}, out=tmp_path / "run")
    assert len(done.claims) == 4
    # two seeds have no interval at 95 %
    assert {claim.verdict.value for claim in done.claims[:3]} <= {"undecided", "not supported"}
    assert [path.name for path in (tmp_path / "run/arrays/figures").glob("*.svg")] == ["course.svg"]
    assert json.loads((tmp_path / "run/claims.json").read_text())["systems"] == ["S36"]
    assert "Two cycles of lynx and hare" in done.report.read_text()


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="held"):
        run_study("lynx-hare", {"held": 20}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_every_seed_ends_at_the_same_place(tmp_path: Path) -> None:
    done = run_study("lynx-hare", quick=True, out=tmp_path / "run")
    fitted, unseen, _, solved = done.claims
    # The same most probable model from six starts: else the figures would be those of an optimizer. Measured 0.3 %.
    assert fitted.interval[1] - fitted.interval[0] < 0.02
    assert unseen.interval[1] - unseen.interval[0] < 0.02
    assert fitted.verdict.value == solved.verdict.value == "supported"

"""The study of homotopy: its smoothed heights are convolutions, its rivals count fairly, its equation is solved."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.studies import homotopy as study
from thalweg.study.runner import run_study


@pytest.mark.parametrize("make", [study.rastrigin, study.hollows])
def test_the_smoothed_height_is_a_gaussian_convolution(make):
    """Against a mean over a million draws, and without smoothing against the height and slope written by hand."""
    with jax.enable_x64(True):
        ground = make(3)
        x = np.asarray(ground.x)
        at = jax.jit(lambda g, x, w: eqx.tree_at(lambda g: g.x, g, x).height(w))
        height, slope = study.sloped(ground)(x)
        assert float(at(ground, ground.x, jnp.zeros(()))) == pytest.approx(height, rel=1e-12)
        gradient = jax.grad(lambda x: at(ground, x, jnp.zeros(())))(ground.x)
        assert np.allclose(gradient, slope, rtol=1e-10, atol=1e-12)
        width = 0.4
        draws = np.random.default_rng(0).normal(size=(200_000, len(x)))
        seen = np.asarray(
            jax.jit(jax.vmap(lambda d: at(ground, ground.x + width * d, jnp.zeros(()))))(jnp.asarray(draws))
        )
        # five standard errors of the mean
        assert abs(float(at(ground, ground.x, jnp.asarray(width))) - seen.mean()) < 5 * seen.std() / len(seen) ** 0.5


def test_the_lowest_place_is_not_above_any_that_is_seen():
    ground = study.hollows(5)
    slope, goal = study.sloped(ground), study.lowest(ground)
    places = np.random.default_rng(1).uniform(-study.BOX, study.BOX, (2_000, study.SIZE))
    assert min(slope(one)[0] for one in [*places, *np.asarray(ground.centres)]) >= goal
    assert study.lowest(study.rastrigin(0)) == 0


def test_searches_spend_what_they_are_given():
    """An ample budget finds the lowest hollow; one of a single evaluation sees the start."""
    ground = study.hollows(5)
    first = study.sloped(ground)(np.asarray(ground.x))[0]
    for search in study.SEARCHES.values():
        assert study.searched(search, ground, 1, 0) == first
    assert study.searched(study.restarting, ground, 1_500, 0) == pytest.approx(study.lowest(ground), abs=1e-6)


def test_the_interval_of_a_gain_is_newcombes():
    """Wilson's ends for 56 of 70 by hand: (0.82744 ± 0.09764)/1.05488; equal rates have an interval about 0."""
    low, high = study.share_interval(56, 70)
    assert (low, high) == (pytest.approx(0.6918, abs=2e-4), pytest.approx(0.8770, abs=2e-4))
    value, (low, high) = study.gain(np.ones(30, bool), np.ones(30, bool))
    assert value == 0
    assert low == -high < 0


def test_collocation_puts_the_layer_where_theory_does():
    found = study.collocated(0.01)
    assert abs(found(np.array([study.LAYER]))[0]) < 1e-6  # the layer's middle, up to what is exponentially small
    inside = 5 / 6 * np.tanh(5 / 6 * 0.01 / (2 * 0.01))
    assert found(np.array([study.LAYER + 0.01]))[0] == pytest.approx(inside, abs=0.03)  # up to some ε (measured 2.1 ε)


def test_settings_out_of_range_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="viscosity"):
        run_study("homotopy", {"viscosity": 0.5}, out=tmp_path / "run")


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path):
    tiny = {"seeds": 6, "steps": 200, "networks": 2, "newton": 40, "points": 60, "width": 5, "viscosity": 0.05}
    done = run_study("homotopy", tiny, out=tmp_path / "run")
    assert len(done.claims) == 11
    assert "6 against" in done.claims[0].statement  # Rastrigin's smoothed minimum is the lowest place by symmetry
    assert {path.stem for path in (tmp_path / "run" / "arrays" / "figures").glob("*.svg")} == {
        "rastrigin-rates", "rastrigin-path", "hollows-rates", "hollows-path", "layer", "layer-path"
    }  # fmt: skip

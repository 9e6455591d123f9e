"""The cooling plate: its finite elements against a closed form, the law, the conditions, and the whole study."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import thalweg as tw
from thalweg.errors import UserError
from thalweg.studies import heat_cooling as study
from thalweg.studies.heat_cooling import Elements
from thalweg.study.runner import run_study


def test_elements_cool_as_the_closed_form_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a source and with k = 0.4, cos(λx)·exp(-0.4λ²t) with 0.4·λ·tan(2λ) = h keeps its shape."""
    monkeypatch.setattr(study, "conductivity", lambda x: 0.4 + 0 * x[0])
    monkeypatch.setattr(study, "source", lambda x: 0 * x[0])
    h = 0.7
    slow = brentq(lambda s: 0.4 * s * np.tan(2 * s) - h, 0.01, np.pi / 4 - 1e-9)
    times, places = np.array([0.5, 1.0]), np.array([[0.1, 0.2], [1.0, 0.9], [2.0, 0.5]])
    right = np.cos(slow * places[:, :1]) * np.exp(-0.4 * slow**2 * times)
    errors = []
    for n, steps in ((2, 10), (4, 20), (8, 40)):
        mesh = Elements(n, steps)
        found = mesh.at(mesh.solution(h, np.cos(slow * np.asarray(mesh.basis.doflocs)[0])), places, times)
        errors.append(np.abs(found - right).max())
    assert errors[-1] < 2e-5
    # Crank and Nicolson's second order, or the elements' third, whichever errs more
    assert min(np.log2(np.divide(errors[:-1], errors[1:]))) > 1.7


def test_the_reference_has_converged() -> None:
    fine, coarse = Elements(16, 400), Elements(8, 200)
    places = np.random.default_rng(0).uniform([0, 0], [2, 1], (50, 2))
    at = [one.at(one.solution(study.COOLING), places, study.TIMES) for one in (fine, coarse)]
    # measured 2.9e-4, from the elements; their third order leaves the finer an eighth of it
    assert np.abs(at[0] - at[1]).max() < 4e-4 * at[0].max()
    assert 1.3 < at[0].max() < 3.0
    assert at[0].min() > 0.0  # only heated


def test_least_squares_find_h_without_noise() -> None:
    truth, coarse = Elements(8, 100), Elements(4, 40)
    exact = truth.at(truth.solution(study.COOLING), study.SENSORS, study.TIMES).ravel()
    assert coarse.estimate(exact) == pytest.approx(study.COOLING, rel=5e-3)  # the coarse elements' own error
    assert coarse.estimate(0.9 * exact) > 1.1 * study.COOLING


def plate() -> study.Plate:
    network = tw.nn.MLP(3, None, width=5, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    return study.Plate(network, tw.Unknown(0.7, low=0.0), jnp.zeros(80))


@pytest.mark.slow
def test_the_network_keeps_its_conditions() -> None:
    model = plate()
    starts = jax.vmap(model)(jnp.array([[0.3, 0.4, 0.0], [2.0, 1.0, 0.0]]))
    np.testing.assert_array_equal(starts, 0.0)
    edges = [study.PLATE.left, study.PLATE.lower, study.PLATE.upper]
    for edge in edges:
        at = study.DURING.over(edge).sample(jax.random.key(1), 20)
        flow = lambda at: tw.conditions.flux(study.conductivity, jax.tree_util.Partial(model), at)
        leaving = jax.vmap(flow)(at)
        assert np.abs(np.asarray(leaving)).max() < 1e-6  # 32 bits


def test_the_law_and_newtons_law_are_the_equations() -> None:
    """By hand for u = t·x²·y: u_t - k·Δu - ∇k·∇u - q, and -k·u_x - h·u at the right edge."""

    class Product(eqx.Module):
        cooling: tw.Unknown

        def __call__(self, at):
            return at[2] * at[0] ** 2 * at[1]

    with jax.enable_x64(True):
        u, (x, y, t) = Product(tw.Unknown(0.7, low=0.0)), (0.6, 0.3, 0.5)
        k = 0.4 + 0.1 * np.sin(np.pi * x) * np.cos(np.pi * y)
        k_x, k_y = (0.1 * np.pi * np.cos(np.pi * x) * np.cos(np.pi * y),
                    -0.1 * np.pi * np.sin(np.pi * x) * np.sin(np.pi * y))  # fmt: skip
        q = 6 * np.exp(-((x - 1.3) ** 2 + (y - 0.6) ** 2) / 0.1)
        expected = x * x * y - k * 2 * t * y - k_x * 2 * t * x * y - k_y * t * x * x - q
        assert float(study.law(u, jnp.array([x, y, t]))) == pytest.approx(expected, rel=1e-12)
        at = tw.geometry.BoundaryPoint(jnp.array([2.0, y, t]), jnp.array([1.0, 0.0, 0.0]))
        # k at x = 2 is 0.4; Unknown's bound costs rounding in 32 bits
        assert float(study.cooling(u, at)) == pytest.approx(-0.4 * 4 * t * y - 0.7 * 4 * t * y, rel=1e-6)


@pytest.mark.slow
def test_the_study_at_tiny_settings(tmp_path: Path) -> None:
    tiny = {"seeds": 2, "points": 60, "adam": 4, "newton": 4, "fresh": 2, "width": 4}
    done = run_study("heat-cooling", tiny, out=tmp_path / "run")
    assert len(done.claims) == 7
    # so few steps reach nothing, and two seeds have no interval at 95 %
    assert {claim.verdict.value for claim in done.claims[:5]} <= {"undecided", "not supported"}
    assert json.loads((tmp_path / "run/claims.json").read_text())["systems"] == ["S34"]
    assert "thermocouples" in done.report.read_text()


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="noise"):
        run_study("heat-cooling", {"noise": 0}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_bars_are_reached(tmp_path: Path) -> None:
    errors, number, told, *_ = run_study("heat-cooling", quick=True, out=tmp_path / "run").claims
    assert errors.interval[1] <= 1.0
    assert number.value <= 5.0
    assert told.verdict.value == "supported"

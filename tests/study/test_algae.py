"""The algae study: its reference against a spectral one, its classical estimate, its conditions, and a tiny run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.studies import algae as study
from thalweg.study.runner import run_study


def test_the_method_of_lines_against_fourier_modes():
    """Without flux at both ends the solution is the even half of a periodic one on twice the channel."""
    x, found = study.method_of_lines(study.DIFFUSION, study.GROWTH, np.array([0.2, 1.0]), 400)
    mirrored = np.concatenate([x, 2 - x[::-1]])
    start = 0.6 * np.exp(-((np.minimum(mirrored, 2 - mirrored) - 0.25) ** 2) / 0.01)

    def reaction(v, k):
        u = np.fft.irfft(v)
        return np.fft.rfft(study.GROWTH * u * (1 - u))

    expected = tw.references.periodic_evolution(
        start, [0.2, 1.0], length=2, linear=lambda k: -study.DIFFUSION * k**2, nonlinear=reaction, step=1e-3
    )
    # second order in the cells' size: (1/400)²/12 times u_xxxx, which reaches 300 early on
    np.testing.assert_allclose(found, expected[:, :400], rtol=0, atol=2e-4)


def test_least_squares_find_what_made_the_readings():
    exact = study.at_places(study.method_of_lines(study.DIFFUSION, study.GROWTH, study.TIMES, 100))
    np.testing.assert_allclose(study.classical(exact), [study.DIFFUSION, study.GROWTH], rtol=1e-4)


def test_the_model_keeps_start_and_ends():
    unknown = lambda: tw.Unknown(1.0, low=0.0)
    network = tw.nn.MLP(2, None, width=4, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    bloom = study.Bloom(network, unknown(), unknown(), jnp.zeros(200))
    assert float(bloom(jnp.array([0.3, 0.0]))) == pytest.approx(float(study.patch(0.3)))
    for end in (0.0, 1.0):
        flux = float(tw.gradient(bloom, jnp.array([end, 0.7]))[0])
        assert abs(flux) < 1e-5 + abs(float(jax.grad(study.patch)(end)))  # the patch's own, 0.06 at the near end


@pytest.mark.slow
def test_the_study_at_tiny_settings(tmp_path: Path):
    settings = {"seeds": 1, "repeats": 10, "points": 60, "adam": 5, "broyden": 5, "newton": 2, "width": 4}
    done = run_study("algae", settings, out=tmp_path / "run")
    assert len(done.claims) == 8
    assert "not supported" in [claim.verdict.value for claim in done.claims]  # five steps recover nothing
    assert (tmp_path / "run" / "report.html").stat().st_size > 20_000


@pytest.mark.slow
def test_numbers_are_recovered_from_exact_readings(tmp_path: Path):
    """Without noise D and r come out to a percent: what is left is the network's error in the law."""
    settings = {"seeds": 1, "repeats": 10, "points": 400, "broyden": 2_500, "newton": 1, "noise": 1e-3}
    run_study("algae", settings, out=tmp_path / "run")
    with np.load(tmp_path / "run" / "arrays" / "algae.npz") as arrays:
        np.testing.assert_allclose(arrays["numbers"][0], [study.DIFFUSION, study.GROWTH], rtol=0.02)

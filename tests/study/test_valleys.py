"""The study of valleys: its landscapes are the published ones, and what theory says of the walks is measured."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.studies import valleys
from thalweg.studies.valleys import beale, heights_at, plateau, ravine, rosenbrock, rugged, saddle, summed, turned
from thalweg.study.runner import run_study


@pytest.mark.parametrize(
    ("ground", "lowest"),
    [
        (summed(rosenbrock), (1.0, 1.0)), (summed(beale), (3.0, 0.5)), (summed(ravine), (0.0, 0.0)),
        (summed(turned), (0.0, 0.0)), (rugged, (0.0, 0.0)), (saddle, (0.0, 1.0)), (plateau, (0.0, 0.0)),
    ],
)  # fmt: skip
def test_the_lowest_place_is_where_it_is_said_to_be(ground, lowest):
    assert heights_at(ground, [lowest])[0] == pytest.approx(0, abs=1e-15)
    grid = np.stack(np.meshgrid(np.linspace(-4, 4, 41), np.linspace(-4, 4, 41)), axis=-1).reshape(-1, 2)
    assert heights_at(ground, grid).min() >= 0


def test_the_ravines_have_the_curvatures_they_are_named_for():
    with jax.enable_x64(True):
        for residual in (ravine, turned):
            hessian = jax.hessian(summed(residual))(jnp.zeros(2))
            assert np.allclose(np.linalg.eigvalsh(hessian), [1, 100], rtol=1e-12)
        assert np.linalg.eigvalsh(jax.hessian(saddle)(jnp.zeros(2)))[0] < 0


def test_quadratics_have_curvatures_from_1_to_100():
    with jax.enable_x64(True):
        for model in valleys.quadratics([0, 1]):
            values = np.linalg.eigvalsh(model["matrix"])
            assert np.isclose(values[0], 1, rtol=1e-9)
            assert np.isclose(values[-1], 100, rtol=1e-9)


@pytest.mark.slow
def test_the_whole_study(tmp_path: Path) -> None:
    done = run_study("valleys", {"seeds": 6, "steps": 400}, out=tmp_path / "run")
    by_name = {claim.statement.split(",")[0]: claim for claim in done.claims}
    assert len(done.claims) == len(by_name) == 11
    # what is a theorem must come out as the theorem says, whatever the seeds
    stable = next(claim for claim in done.claims if "stable up to 2/λ" in claim.statement)
    assert 0.985 < stable.value < 1.015
    ball = next(claim for claim in done.claims if "heavy ball" in claim.statement)
    assert ball.value < 0.5
    assert {path.stem for path in (tmp_path / "run" / "arrays" / "figures").glob("*.svg")} == {
        "rosenbrock", "beale", "ravine", "turned-ravine", "exact", "kicks"
    }  # fmt: skip

"""The studies of equations: each closed form obeys its law, each network its conditions, and `solve` judges rightly."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.studies import allen_cahn, burgers, helmholtz, kdv, navier_stokes, wave
from thalweg.study.runner import run_study

POINTS = np.random.default_rng(0).uniform(0.05, 0.95, (20, 2))


def string(at):
    x, t = at
    return jnp.sin(jnp.pi * x) * jnp.cos(2 * jnp.pi * t) + jnp.sin(4 * jnp.pi * x) * jnp.cos(8 * jnp.pi * t) / 2


def soliton(at):
    """u = 3c·sech²(√c/(2·0.022)·(x - ct)) of Korteweg and de Vries' equation in Zabusky and Kruskal's units."""
    speed, width = 0.4, 0.022
    return 3 * speed / jnp.cosh(jnp.sqrt(speed) / (2 * width) * (at[0] - speed * at[1])) ** 2


def wall(at):
    """u = tanh(x/√(2·1e-4/5)): Allen and Cahn's wall at rest."""
    return jnp.tanh(at[0] / jnp.sqrt(2e-4 / 5))


@pytest.mark.parametrize(
    ("law", "solution", "points"),
    [
        (helmholtz.law, helmholtz.exact, POINTS),
        (wave.law, string, POINTS),
        (kdv.law, soliton, POINTS * [0.4, 1.0]),
        (allen_cahn.law, wall, (POINTS - 0.5) * [0.04, 1.0]),
        (navier_stokes.law(40.0), navier_stokes.kovasznay, POINTS),
    ],
)
def test_a_known_solution_obeys_the_law(law, solution, points):
    broken = tw.at_points(lambda at: law(solution, at), points)
    bent = tw.at_points(lambda at: law(lambda z: 1.1 * solution(z) + 0.1 * z[0] ** 2, at), points)
    assert np.abs(broken).max() < 1e-8  # 64 bits through three derivatives of a front 0.03 wide
    assert np.abs(bent).max() > 1e-3


@pytest.mark.parametrize(
    ("field", "sees", "points", "values"),
    [
        (helmholtz.Field, (2, None), [[1.0, 0.3], [-1.0, 0.2], [0.1, 1.0], [0.4, -1.0]], np.zeros(4)),
        (wave.Field, (2, None), [[0.0, 0.3], [1.0, 0.7], [0.25, 0.0]], [0.0, 0.0, np.sqrt(0.5)]),
        (kdv.Field, (5, None), [[0.0, 0.0], [0.25, 0.0]], [1.0, np.sqrt(0.5)]),
        (allen_cahn.Field, (7, 2), [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [-0.75, 0.0]], [0.0, 0.0, -1.0, -0.397748]),
        (burgers.Bound, (2, None), [[-1.0, 0.4], [1.0, 0.8], [0.5, 0.0]], [0.0, 0.0, -1.0]),
    ],
)
def test_the_network_keeps_its_conditions(field, sees, points, values):
    model = field(tw.nn.MLP(*sees, width=5, depth=1, activation=jnp.tanh, key=jax.random.key(0)))
    # a 32-bit network on 64-bit points; what it is multiplied with is 0 to rounding
    np.testing.assert_allclose(
        tw.at_points(lambda x: model(x.astype(jnp.float32)), np.array(points)), values, atol=1e-6
    )


@pytest.mark.parametrize(("field", "sees"), [(kdv.Field, (5, None)), (allen_cahn.Field, (7, 2))])
def test_a_ring_closes(field, sees):
    model = field(tw.nn.MLP(*sees, width=5, depth=1, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float32))
    ends = jnp.array([[-1.0, 0.6], [1.0, 0.6]])
    slopes = jax.vmap(lambda x: jnp.stack([model(x), tw.derivative(model, x, 0)]))(ends)
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-5, atol=1e-5)  # 32 bits


def test_the_rounded_kink_is_what_diffusion_makes_of_one():
    """Against Fourier modes of the heat equation from the kink, the ring's only one."""
    x = np.linspace(-1, 1, 4_096, endpoint=False)
    distance = 2 / np.pi * np.cos(np.pi * x / 2)
    (heat,) = tw.references.periodic_evolution(
        distance, [0.5], length=2, linear=lambda k: -allen_cahn.DIFFUSION * k**2, nonlinear=lambda v, k: 0 * v, step=0.5
    )
    found = tw.at_points(lambda x: allen_cahn.rounded(x, 0.5), x)
    # where the distance is not the arc's own, diffusion also works on its bend: D·t·|s''| = 1e-4·0.5·π/2
    np.testing.assert_allclose(found, heat, rtol=0, atol=1e-4)
    assert abs(found[0] - np.sqrt(4 * allen_cahn.DIFFUSION * 0.5 / np.pi)) < 1e-12  # 8e-3 at the kink
    begins = tw.at_points(lambda x: allen_cahn.rounded(x, 1e-30), x)
    np.testing.assert_allclose(begins, distance, rtol=0, atol=1e-15)


def test_the_string_starts_at_rest():
    net = tw.nn.MLP(2, None, width=5, depth=1, activation=jnp.sin, key=jax.random.key(0))
    speed = jax.vmap(lambda x: tw.derivative(wave.Field(net), x, 1))(jnp.array([[0.2, 0.0], [0.7, 0.0]]))
    assert np.abs(np.asarray(speed)).max() == 0.0


def test_the_cavity_is_eased_at_its_two_jumps_only():
    eased = lambda x, y: float(navier_stokes.eased(jnp.array([x, y])))
    assert eased(0.0, 1.0) == eased(1.0, 1.0) == 0.0
    assert eased(0.5, 1.0) == eased(0.06, 1.0) == eased(0.0, 0.94) == eased(0.0, 0.0) == 1.0


def test_a_reference_knows_its_grid():
    first, second = np.linspace(0, 1, 4), np.linspace(2, 3, 5)
    reference = tw.Reference(first, second, second[None] * 10 + first[:, None])
    assert reference.error(lambda at: 10 * at[0] + at[1]) < 1e-14
    assert reference.error(lambda at: 11 * (at[0] + at[1] / 10)) == pytest.approx(0.1)
    assert reference.error(lambda at: 10 * at[:1] + at[1:]) < 1e-14  # of shape (1,)
    with pytest.raises(tw.UserError, match="no reference"):
        tw.Reference(first, second, np.zeros((4, 5)))
    with pytest.raises(tw.UserError, match="grid of 5 by 4"):
        tw.Reference(second, first, np.zeros((4, 5)))


def test_the_fewest_modes_that_do_are_timed():
    assert 0 < kdv.modes_take(1e-1) < 5
    x, coarse = kdv.modes(128, np.array([1.0]), 1e-3)
    _, fine = kdv.modes(512, np.array([1.0]), 2e-4)
    assert len(x) == 128
    np.testing.assert_allclose(coarse[0], fine[0, ::4], atol=2e-4)  # of 2.5: 128 modes see the fronts with three points


@pytest.mark.slow
@pytest.mark.parametrize("name", ["helmholtz", "wave", "kdv", "allen-cahn", "navier-stokes"])
def test_each_study_runs_and_may_say_no(name: str, tmp_path: Path):
    settings = {"seeds": 2, "points": 60, "adam": 3, "steps": 3, "refresh": 2, "width": 4}
    done = run_study(name, settings, out=tmp_path / "run")
    assert done.claims[0].verdict.value in ("not supported", "undecided")  # three steps solve nothing
    if name != "navier-stokes":
        with np.load(tmp_path / "run" / "arrays" / "solution.npz") as arrays:
            assert arrays["network"].shape == arrays["reference"].shape


@pytest.mark.slow
def test_burgers_at_tiny_settings(tmp_path: Path):
    settings = {"seeds": 1, "points": 60, "adam": 3, "steps": 3, "refresh": 2, "width": 4, "ablation": 2, "repeats": 1}
    done = run_study("burgers", settings, out=tmp_path / "run")
    assert len(done.claims) == 5
    assert done.claims[0].verdict.value in ("not supported", "undecided")

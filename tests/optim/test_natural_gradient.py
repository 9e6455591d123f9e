"""The natural gradient: Gauss-Newton's direction, its momentum and line search, and the geometry it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.objective import Objective, Residual, Rows
from thalweg.optim import Ended, LevenbergMarquardt, NaturalGradient

RNG = np.random.default_rng(0)
POINTS = np.concatenate([RNG.normal(size=(30, 4)), RNG.normal(size=(30, 1))], axis=1)


def line(x, point):
    return jnp.vdot(point[:4], x) - point[4]


def bent(x, point):
    return jnp.tanh(jnp.vdot(point[:4], x)) + 0.1 * jnp.vdot(x, x) - point[4]


def rosenbrock(x, _):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def test_on_linear_residuals_one_step_is_the_answer(walk, of_residual):
    x, _, info = walk(NaturalGradient(), of_residual(line, POINTS), np.zeros(4), 1)
    expected = np.linalg.lstsq(POINTS[:, :4], POINTS[:, 4], rcond=None)[0]
    assert info.accepted[0]
    assert np.allclose(x[1], expected, atol=1e-9)  # the ridge of 1e-12, times a condition number of about 4


def test_a_step_is_the_best_length_along_the_gauss_newton_direction(walk, of_residual, bound):
    start = np.array([1.0, -2.0, 0.5, 3.0])
    x, _, info = walk(NaturalGradient(), of_residual(bent, POINTS), start, 1)
    with jax.enable_x64(True):
        problem, params = bound(of_residual(bent, POINTS).astype(np.float64), jnp.asarray(start))
        r, j, _ = problem.linearize(params)
        direction = np.linalg.solve(j.T @ j + 1e-12 * np.max(np.diag(j.T @ j)) * np.eye(4), j.T @ r)
        heights = [
            float(problem.evaluate(jax.tree.map(lambda p, k=k: p - 0.5**k * direction, params))[0]) for k in range(16)
        ]
    assert np.allclose(x[1], start - 0.5 ** np.argmin(heights) * direction, rtol=1e-8)
    assert np.isclose(info.total[0], min(heights), rtol=1e-10)
    assert info.figures["length"][0] == 0.5 ** np.argmin(heights)


def test_momentum_corrects_the_last_direction_for_the_residuals(walk, of_residual, bound):
    """d₂ = φ + (G + ρ)⁻¹(Jᵀr − Gφ), φ = 0.6·d₁, at the place after the first step."""
    start = np.array([1.0, -2.0, 0.5, 3.0])
    x, states, _ = walk(NaturalGradient(momentum=0.6), of_residual(bent, POINTS), start, 2)
    with jax.enable_x64(True):
        problem, params = bound(of_residual(bent, POINTS).astype(np.float64), jnp.asarray(x[1]))
        r, j, _ = problem.linearize(params)
        g = np.asarray(j.T @ j)
        phi = 0.6 * states.last[1]
        ridge = 1e-12 * np.max(np.diag(g)) * np.eye(4)
        direction = phi + np.linalg.solve(g + ridge, np.asarray(j.T @ r) - g @ phi)
    moved = x[2] - x[1]
    cosine = -moved @ direction / np.linalg.norm(moved) / np.linalg.norm(direction)
    assert np.any(phi != 0)
    assert cosine == pytest.approx(1, abs=1e-10)


def test_it_is_the_same_walk_whatever_the_parameters_are_measured_in(walk, of_residual):
    """In the limit of no ridge the step depends on the functions, not on their coordinates: x = s·y walks alike."""
    scale = np.array([1.0, 10.0, 0.1, 3.0])
    start = np.array([1.0, -2.0, 0.5, 3.0])
    plain = walk(NaturalGradient(), of_residual(line_bent, POINTS), start, 5)[2].total
    scaled = lambda y, point: line_bent(y * jnp.asarray(scale, y.dtype), point)
    other = walk(NaturalGradient(), of_residual(scaled, POINTS), start / scale, 5)[2].total
    assert plain[0] != plain[3]
    # the ridge, 1e-12 of the largest of scales that differ by 1e4
    assert np.allclose(plain, other, rtol=1e-5)


def line_bent(x, point):
    """Not linear, and no square of the parameters in it that a change of their units would change."""
    return jnp.tanh(jnp.vdot(point[:4], x)) - point[4]


def test_it_arrives_at_rosenbrocks_minimum_and_ends(walk, of_residual):
    x, _, info = walk(NaturalGradient(), of_residual(rosenbrock), [-1.2, 1.0], 60)
    assert np.allclose(x[-1], 1, atol=1e-12)
    assert info.total[-1] < 1e-25
    assert np.all(np.diff(info.total) <= 0)
    assert info.ended[-1] == Ended.CONVERGED
    assert np.array_equal(info.accepted, np.any(x[1:] != x[:-1], axis=1))


def test_it_ends_at_a_minimum_that_is_not_zero(walk, of_residual):
    info = walk(NaturalGradient(), of_residual(bent, POINTS), np.zeros(4), 60)[2]
    other = walk(LevenbergMarquardt(), of_residual(bent, POINTS), np.zeros(4), 60)[2]
    assert info.ended[-1] == Ended.CONVERGED
    assert np.isclose(info.total[-1], other.total[-1], rtol=1e-9)


def test_a_jacobian_that_lies_is_a_failure(walk, of_residual):
    """Its Jacobian says that the total falls where it rises."""
    liar = lambda x, _: 2 * jax.lax.stop_gradient(x) - x + 3
    assert walk(NaturalGradient(), of_residual(liar), [1.0, 2.0], 30)[2].ended[-1] == Ended.FAILED


def test_a_wall_beside_the_params_is_a_failure(walk, of_residual):
    wall = lambda x, _: jnp.where(x[0] < 3, jnp.nan, 1.0) * x
    x, _, info = walk(NaturalGradient(), of_residual(wall), [3.0, 2.0], 30)
    assert info.ended[-1] == Ended.FAILED
    assert np.all(np.isfinite(x))


def test_with_few_points_the_smaller_side_gives_the_same_walk(walk, of_residual):
    start = 0.3 * RNG.normal(size=4)
    wide = walk(NaturalGradient(ridge=1e-6), of_residual(bent, POINTS[:3]), start, 6)
    narrow = walk(NaturalGradient(ridge=1e-6, memory=130.0), of_residual(bent, np.tile(POINTS[:3], (2, 1))), start, 6)
    assert wide[1].local.gram.shape[1:] == (3, 3)
    assert narrow[1].local.gram.shape[1:] == (4, 4)
    assert wide[2].total[-1] < 1e-8
    assert narrow[2].total[-1] < 1e-8


def test_weights_of_terms_count(walk, of_residual):
    far = Objective(
        a=Residual(lambda m, p: m.x[0] - 1.0, Rows(np.zeros((1, 1))), weight=3.0),
        b=Residual(lambda m, p: m.x[0] + 1.0, Rows(np.zeros((1, 1)))),
    )
    x = walk(NaturalGradient(), far, [5.0], 1)[0]
    assert np.allclose(x[1], 0.5)  # (3·1 − 1)/4


def test_bad_input_is_refused(walk, of_residual, of_cost):
    for make, word in (
        (lambda: NaturalGradient(ridge=0.0), "ridge"),
        (lambda: NaturalGradient(momentum=1.0), "momentum"),
        (lambda: NaturalGradient(lengths=0), "length"),
        (lambda: NaturalGradient(memory=0), "bytes"),
    ):
        with pytest.raises(UserError, match=word):
            make()
    with pytest.raises(UserError, match="float64"):
        walk(NaturalGradient(), of_residual(rosenbrock), [1.0, 1.0], 1, np.float32)
    with pytest.raises(UserError, match="couples the examples"):
        walk(NaturalGradient(), of_cost(jnp.sum), [1.0], 1)
    with pytest.raises(UserError, match="at most 5000"):
        walk(NaturalGradient(), of_residual(lambda x, _: x), np.ones(5_001), 1)

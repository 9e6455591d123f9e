"""Levenberg-Marquardt against SciPy's (MINPACK) on named problems, and against its own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import least_squares

from thalweg.errors import UserError
from thalweg.objective import Objective, Residual, Rows
from thalweg.optim import Ended, LevenbergMarquardt
from thalweg.optim.gauss_newton import linear_model


def rosenbrock(x, _):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def powell_singular(x, _):
    a, b, c, d = x
    root = jnp.sqrt(jnp.asarray([5.0, 10.0], x.dtype))
    return jnp.stack([a + 10 * b, root[0] * (c - d), (b - 2 * c) ** 2, root[1] * (a - d) ** 2])


def exponential(x, point):
    return x[0] * jnp.exp(-x[1] * point[0]) + x[2] - point[1]


def decay_data() -> np.ndarray:
    t = np.linspace(0, 4, 30)
    return np.stack([t, 2.5 * np.exp(-1.3 * t) + 0.5 + 0.01 * np.random.default_rng(0).normal(size=30)], axis=1)


NONE = np.zeros((1, 1))
# Steps (one evaluation of residuals and Jacobian each) to within 1e-10 of the least cost, and SciPy's evaluations in
# all: Rosenbrock 15, 21; Powell 11, 400 (whose Jacobian is singular at the minimum); exponential 4, 8.
CASES = {
    "rosenbrock": (rosenbrock, [-1.2, 1.0], NONE, 1e-12),
    # singular at the minimum: cost ~ distance⁴, so a cost known to 1e-32 is a place known to 1e-8
    "powell-singular": (powell_singular, [3.0, -1.0, 0.0, 1.0], NONE, 1e-7),
    "exponential": (exponential, [1.0, 1.0, 0.0], decay_data(), 1e-8),
}


@pytest.mark.parametrize("name", CASES)
def test_finds_the_minimizer_that_scipy_finds(name, walk, of_residual):
    residual, start, points, tolerance = CASES[name]
    x, _, info = walk(LevenbergMarquardt(), of_residual(residual, points), start, 100)
    with jax.enable_x64(True):
        stacked = jax.jit(lambda x: jnp.ravel(jax.vmap(lambda z: residual(x, z))(points)) / np.sqrt(len(points)))
        reference = least_squares(
            stacked, start, jax.jit(jax.jacfwd(stacked)), method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15
        )
    assert np.allclose(x[-1], reference.x, atol=tolerance)
    assert info.total[-1] <= 2 * reference.cost + 1e-15  # SciPy's cost has a ½; ours is ‖r‖² over the number of points
    assert np.argmax(info.total <= 2 * reference.cost + 1e-10) < 20
    assert np.all(np.diff(info.total) <= 0)
    assert np.array_equal(info.accepted, np.any(x[1:] != x[:-1], axis=1))


@pytest.mark.parametrize("name", ["rosenbrock", "exponential"])
def test_matrix_free_arrives_where_dense_does(name, walk, of_residual):
    # with as many iterations as unknowns conjugate gradients solve such small systems to far below FORCING = 1e-2
    residual, start, points, tolerance = CASES[name]
    dense, _, info = walk(LevenbergMarquardt(), of_residual(residual, points), start, 60)
    free, _, found = walk(LevenbergMarquardt(dense=False), of_residual(residual, points), start, 60)
    # ten times the distance within which the dense one is from SciPy's: both stop where rounding stops them
    assert np.allclose(free[-1], dense[-1], atol=10 * tolerance)
    assert found.total[-1] <= info.total[-1] + 1e-15
    assert np.all(np.diff(found.total) <= 0)


def test_matrix_free_takes_more_params_than_a_matrix_could(walk, of_residual):
    # Least squares of 6,000 unknowns, whose answer is known: x = 1. Curvatures from 1 to 1e4, so that conjugate
    # gradients need about √1e4 · ln(2/1e-2)/2 = 265 iterations for a step; 3 such steps leave (1e-2)³ of the gradient.
    scale = np.sqrt(np.logspace(0, 4, 6_000))
    linear = lambda x, _: jnp.asarray(scale, x.dtype) * (x - 1)
    x, _, info = walk(LevenbergMarquardt(iterations=300, damping=1e-9), of_residual(linear), np.zeros(6_000), 5)
    assert info.total[-1] < 1e-6 * info.total[0]
    assert np.abs(x[-1] - 1).max() < 1e-2


def test_one_evaluation_a_step(walk, of_residual):
    calls = []

    def counted(x, point):
        jax.debug.callback(lambda: calls.append(1))
        return rosenbrock(x, point)

    walk(LevenbergMarquardt(), of_residual(counted), [-1.2, 1.0], 10)
    jax.effects_barrier()
    assert len(calls) == 10 + 1  # of the one point; and the one of `init`


def test_gain_ratio_damping_is_nielsens(walk, of_residual):
    _, state, info = walk(LevenbergMarquardt(), of_residual(rosenbrock), [-1.2, 1.0], 15)
    gain, damping, growth = info.figures["gain_ratio"], state.damping, state.growth
    assert np.isclose(damping[0], 1e-3 * np.max(np.diagonal(state.local.gram[0])), rtol=1e-12)
    for i in range(14):
        if info.accepted[i]:
            expected = damping[i] * max(1 / 3, 1 - (2 * gain[i] - 1) ** 3)
            assert growth[i + 1] == 2
        else:
            expected = damping[i] * growth[i]
            assert growth[i + 1] == 2 * growth[i]
        assert np.isclose(damping[i + 1], expected, rtol=1e-12)
    assert not info.accepted.all()  # both branches were seen


def test_says_converged_at_the_minimum_and_holds_still(walk, of_residual):
    x, _, info = walk(LevenbergMarquardt(), of_residual(exponential, decay_data()), [1.0, 1.0, 0.0], 60)
    ended = int(np.argmax(info.ended == Ended.CONVERGED))
    assert 0 < ended < 40
    assert np.all(info.ended[ended:] == Ended.CONVERGED)
    assert np.all(x[ended + 1 :] == x[-1])


def test_rounding_at_the_floor_is_no_failure(bound):
    """With little damping the last steps repeat each other, and so does a rise by one unit in the last place."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(200, 4))  # three inputs, and noise as the target: a misfit remains

    def ended(start: jax.Array) -> jax.Array:
        fit = Objective(noise=Residual(lambda model, z: jnp.tanh(model.x @ z[:3]) - z[3], points))
        problem, params = bound(fit.astype(np.float64), start)
        key, optimizer = jax.random.key(1), LevenbergMarquardt()
        step = lambda carry, _: (optimizer.step(problem, *carry, key)[:2], None)
        (_, state), _ = jax.lax.scan(step, (params, optimizer.init(problem, params, key)), None, length=60)
        return state.ended

    with jax.enable_x64(True):
        ends = jax.jit(jax.vmap(ended))(jnp.asarray(rng.normal(size=(300, 3))))
    # Before steps of one length were told apart from shorter ones, 30 of these 300 were said to have failed.
    assert not np.any(ends == Ended.FAILED)
    assert np.mean(ends == Ended.CONVERGED) > 0.9  # a few may still be on their way down


def wrong_jacobian(x, _):
    @jax.custom_jvp
    def square(x):
        return x**2

    square.defjvp(lambda primals, tangents: (square(*primals), -2 * primals[0] * tangents[0]))
    return square(x)


@pytest.mark.parametrize(
    ("residual", "start", "damping"),
    [
        (wrong_jacobian, [1.0, 2.0], 1e-3),
        (wrong_jacobian, [1.0, 2.0], 1e-12),  # the first steps are all of one length
        (lambda x, _: jnp.sqrt(x - x) + x + 1, [1.0, 2.0], 1e-3),  # the derivative of a root at 0 is not finite
        (lambda x, _: jnp.where(x > 0.5, x + 1, jnp.nan), [0.6, 0.7], 1e-3),  # beside what is not finite
    ],
)
def test_says_failed_where_the_cost_does_not_fall_as_the_jacobian_says(residual, start, damping, walk, of_residual):
    x, _, info = walk(LevenbergMarquardt(damping=damping), of_residual(residual), start, 200)
    assert info.ended[-1] == Ended.FAILED
    assert np.all(np.isfinite(x))


def test_refuses_what_cannot_work(walk, of_residual, of_cost):
    with pytest.raises(UserError, match="works in float64"):
        walk(LevenbergMarquardt(), of_residual(rosenbrock), [1.0, 1.0], 1, np.float32)
    with pytest.raises(UserError, match="at most 5000 parameters or residuals, not 5001 and 5001"):
        walk(LevenbergMarquardt(dense=True), of_residual(lambda x, _: x), np.ones(5_001), 1)
    with pytest.raises(UserError, match="at least 1 iteration, not 0"):
        LevenbergMarquardt(iterations=0)
    with pytest.raises(UserError, match="couples the examples"):
        walk(LevenbergMarquardt(dense=False), of_cost(jnp.sum), [1.0], 1)
    with pytest.raises(UserError, match=r"couples the examples of a batch \(term 'cost'\)"):
        walk(LevenbergMarquardt(), of_cost(jnp.sum), [1.0], 1)
    for damping in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="damping must be a number above 0"):
            LevenbergMarquardt(damping=damping)


def curve(x, point):
    """Two residuals a point of five unknowns, none of them linear."""
    a, b, c, d, e = x
    t = point[0]
    return jnp.stack([a * jnp.exp(-b * t) + c - point[1], d * jnp.sin(e * t) * a])


FIVE = np.array([1.0, 1.0, 0.1, 0.5, 2.0])


@pytest.mark.parametrize("memory", [200.0, 1_000.0, 2_300.0])
def test_in_chunks_it_makes_the_same_steps(memory, walk, of_residual):
    """A Jacobian of 30 × 2 rows of 5 numbers takes 2,400 bytes: two, twelve or 28 points at once."""
    objective = of_residual(curve, decay_data())
    whole, _, info = walk(LevenbergMarquardt(dense=True), objective, FIVE, 12)
    cut, _, found = walk(
        LevenbergMarquardt(dense=True, memory=max(memory, 200.0)), of_residual(curve, decay_data()), FIVE, 12
    )
    # the same sums in another order: rounding, times a condition number that 12 steps do not let grow past 1e6
    assert np.allclose(cut, whole, rtol=1e-9, atol=1e-10)
    assert np.allclose(found.total, info.total, rtol=1e-9)
    assert np.array_equal(found.accepted, info.accepted)


@pytest.mark.slow
def test_the_normal_equations_of_chunks_are_those_of_the_whole(bound):
    """Weights of examples and of terms, a batch that chunks do not divide, and dropout's keys."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(23, 2))
    noisy = lambda model, point: jnp.tanh(model.x[:2] * point) * model.x[2]
    objective = Objective(
        a=Residual(noisy, Rows(x, weights=rng.uniform(0.5, 2, size=23)), weight=3.0),
        b=Residual(lambda model, point: model.x @ model.x - point[0], Rows(x[:7])),
    )
    with jax.enable_x64(True):
        problem, params = bound(objective.astype(np.float64), jnp.asarray([0.3, -0.4, 1.2]))
        residuals, jacobian, parts = problem.linearize(params)
        for memory in (1.0, 24.0 * 5, 24.0 * 20, np.inf):
            found = problem.normal_equations(params, memory)
            assert np.allclose(found.gram, jacobian.T @ jacobian, rtol=1e-12)
            assert np.allclose(found.slope, jacobian.T @ residuals, rtol=1e-12)
            assert np.allclose(found.total, problem.evaluate(params)[0], rtol=1e-12)
            assert {name: float(part) for name, part in found.parts.items()} == pytest.approx(
                {name: float(part) for name, part in parts.items()}, rel=1e-12
            )


def test_no_more_of_the_jacobian_is_formed_than_memory_allows(bound, of_residual):
    """XLA's own count of temporary bytes: 20,000 points of 40 unknowns are 6.4 MB at once, and 0.64 MB in chunks."""
    wave = lambda x, point: jnp.vdot(x, jnp.sin(jnp.arange(1.0, 41.0) * point[0])) ** 2 - point[0]
    points = np.linspace(0, 1, 20_000)[:, None]
    sizes = {}
    with jax.enable_x64(True):
        problem, params = bound(of_residual(wave, points).astype(np.float64), jnp.ones(40))
        for memory in (2.0**30, 640_000.0):
            compiled = jax.jit(lambda p, memory=memory: problem.normal_equations(p, memory)).lower(params).compile()
            found = compiled.memory_analysis()
            assert found is not None
            sizes[memory] = found.temp_size_in_bytes
    assert sizes[2.0**30] > 6_400_000
    # a chunk's Jacobian, what its derivation keeps, and vectors of 20,000: several times the cap, far from the whole
    assert sizes[640_000.0] < 0.5 * sizes[2.0**30]


def test_with_few_residuals_the_smaller_side_is_solved(walk, of_residual):
    """Three points, 40 unknowns: JJᵀ is 3 × 3, and the step is the same."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(size=(3, 40)), rng.normal(size=(3, 1))], axis=1)
    bent = lambda x, point: jnp.tanh(jnp.vdot(point[:40], x)) + jnp.vdot(x, x) - point[40]
    start = 0.1 * rng.normal(size=40)
    _, states, info = walk(LevenbergMarquardt(), of_residual(bent, points), start, 10)
    assert states.local.gram.shape[1:] == (3, 3)
    # so little memory that J does not fit: JᵀJ in chunks
    with jax.enable_x64(True):
        _, other, narrow = walk(
            LevenbergMarquardt(memory=40 * 40 * 8.0), of_residual(bent, np.tile(points, (20, 1))), start, 10
        )
    assert other.local.gram.shape[1:] == (40, 40)
    # the points twenty times over are the same mean square, and J has the same Gauss-Newton matrix; damping begins
    # from another diagonal, so that the first step differs and the place does not
    assert info.total[-1] < 1e-12
    assert narrow.total[-1] < 1e-12


def test_one_step_on_either_side_is_the_same(bound, of_residual):
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(size=(3, 8)), rng.normal(size=(3, 1))], axis=1)
    bent = lambda x, point: jnp.tanh(jnp.vdot(point[:8], x)) + jnp.vdot(x, x) - point[8]
    with jax.enable_x64(True):
        problem, params = bound(of_residual(bent, points).astype(np.float64), jnp.asarray(0.1 * rng.normal(size=8)))
        damping = jnp.asarray(1e-3)
        wide = linear_model(problem, params, wide=True).solve(damping)
        narrow = linear_model(problem, params, wide=False).solve(damping)
        residuals, jacobian, _ = problem.linearize(params)
        expected = np.linalg.solve(jacobian.T @ jacobian + 1e-3 * np.eye(8), jacobian.T @ residuals)
    # a condition number of about 1e4 between rounding 1e-16 and the solutions
    assert np.allclose(wide, expected, rtol=1e-9)
    assert np.allclose(narrow, expected, rtol=1e-9)


def test_memory_that_is_none_is_refused(walk, of_residual):
    for memory in (0, -1.0, True):
        with pytest.raises(UserError, match="bytes"):
            LevenbergMarquardt(memory=memory)
    with pytest.raises(UserError, match="memory"):
        walk(LevenbergMarquardt(dense=True, memory=10), of_residual(rosenbrock), [-1.2, 1.0], 1)

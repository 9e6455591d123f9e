"""Lanczos and conjugate gradients against LAPACK and SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg

from thalweg.errors import UserError
from thalweg.linalg import Loop, Solved, conjugate_gradients, lanczos

KEY = jax.random.key(3)
EPS = np.finfo(np.float64).eps
N = 60


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def symmetric(values, seed=0):
    """A dense matrix with these eigenvalues and random eigenvectors."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    matrix = (rotation * np.asarray(values)) @ rotation.T
    return (matrix + matrix.T) / 2


def positive(condition=1e3, n=N, seed=0):
    return symmetric(np.geomspace(1 / condition, 1.0, n), seed)


def indefinite(n=N, seed=0):
    matrix = np.random.default_rng(seed).normal(size=(n, n))
    return matrix + matrix.T


def times(matrix):
    return lambda v: jnp.asarray(matrix) @ v


def start(n=N):
    return jax.random.normal(jax.random.key(1), (n,), jnp.float64)


# ------------------------------------------------------------------------------------------------------- Lanczos


@pytest.mark.parametrize("loop", Loop)
@pytest.mark.parametrize("make", [positive, indefinite, lambda: -positive()])
@pytest.mark.slow
def test_whole_space_gives_lapacks_eigenpairs(make, loop):
    matrix = make()
    found = lanczos(times(matrix), start(), key=KEY, iterations=N, count=5, loop=loop)
    values, vectors = np.linalg.eigh(matrix)
    norm = np.abs(values).max()
    # Backward stable with full orthogonalization: errors of a modest multiple of eps * norm * sqrt(n); 100 is ample.
    np.testing.assert_allclose(found.values, values[::-1][:5], atol=100 * EPS * norm)
    assert np.asarray(found.bounds).max() <= 100 * EPS * norm
    # The angle is at most residual / gap to the next value (Davis and Kahan, 1970).
    gap = values[-1] - values[-2]
    overlap = abs(np.asarray(found.vectors[0]) @ vectors[:, -1])
    assert 1 - overlap <= (100 * EPS * norm / gap) ** 2 + 10 * EPS
    assert found.diagonal.shape == (N,)
    assert found.off_diagonal.shape == (N - 1,)


@pytest.mark.parametrize("make", [positive, indefinite])
@pytest.mark.parametrize("iterations", [3, 8, 20])
def test_bounds_hold_before_convergence(make, iterations):
    matrix = make()
    found = lanczos(times(matrix), start(), key=KEY, iterations=iterations, count=3)
    values = np.linalg.eigvalsh(matrix)
    norm = np.abs(values).max()
    distance = np.abs(np.asarray(found.values)[:, None] - values).min(axis=1)
    assert (distance <= np.asarray(found.bounds) + 100 * EPS * norm).all()  # rounding of the product beside the bound
    assert found.values[0] <= values[-1] + 100 * EPS * norm  # a Rayleigh quotient never exceeds the largest
    vectors = np.asarray(found.vectors)
    residuals = np.linalg.norm(matrix @ vectors.T - vectors.T * np.asarray(found.values), axis=0)
    np.testing.assert_allclose(found.bounds, residuals, atol=100 * EPS * norm)
    if iterations == 3:
        assert found.bounds[0] > 1e-6 * norm  # not converged, and it says so


def test_orthogonality_is_kept_where_plain_lanczos_loses_it():
    """A well separated largest value: without reorthogonalization its copies appear as false eigenvalues."""
    values = np.concatenate([np.linspace(0, 1, 99), [1e6]])
    found = lanczos(times(symmetric(values)), start(100), key=KEY, iterations=60, count=3)
    assert found.values[0] == pytest.approx(1e6, rel=1e-12)
    assert found.values[1] < 1.0 + 1e-6  # the second is 1, to 100 * eps * 1e6 = 2e-8; a ghost would be 1e6
    products = np.asarray(found.vectors) @ np.asarray(found.vectors).T
    np.testing.assert_allclose(products, np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    "values",
    [
        np.ones(10),
        np.zeros(10),
        -np.ones(10),
        np.repeat([2.0, -1.0], 5),
        np.r_[5.0, 5.0, 5.0, np.zeros(7)],
        np.r_[-1.0, -2.0, -np.full(8, 3.0)],
    ],
)
def test_repeated_eigenvalues_and_used_up_spaces(values):
    found = lanczos(times(symmetric(values)), start(10), key=KEY, iterations=10, count=10)
    # A false zero from an exhausted space would stand first where all are negative.
    np.testing.assert_allclose(found.values, np.sort(values)[::-1], atol=1e-13)
    assert np.asarray(found.bounds).max() < 1e-13


def test_start_in_an_invariant_space_is_left():
    matrix = np.diag([1.0, 2.0, 3.0, 4.0])
    along = jnp.array([1.0, 0.0, 0.0, 0.0])
    assert lanczos(times(matrix), along, key=KEY, iterations=4).values[0] == pytest.approx(4.0, rel=1e-13)
    assert lanczos(times(matrix), jnp.zeros(4), key=KEY, iterations=9).values[0] == pytest.approx(4.0, rel=1e-13)


@pytest.mark.slow
def test_hessian_of_parameters_as_a_pytree():
    """The intended use: a Hessian-vector product on a network's parameters, against the dense Hessian."""
    x = jax.random.normal(KEY, (20, 3), jnp.float64)
    params = {"weight": jax.random.normal(KEY, (3, 4), jnp.float64), "bias": [jnp.zeros(4), jnp.ones(())]}

    def cost(p):
        return jnp.mean(jnp.sum(jnp.tanh(x @ p["weight"] + p["bias"][0]), axis=1) * p["bias"][1] + p["bias"][1] ** 3)

    product = lambda v: jax.jvp(jax.grad(cost), (params,), (v,))[1]
    zeros = jax.tree.map(jnp.zeros_like, params)
    found = eqx.filter_jit(lanczos)(product, zeros, key=KEY, iterations=17, count=2)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = np.asarray(jax.hessian(lambda f: cost(unravel(f)))(flat))
    np.testing.assert_allclose(
        found.values, np.linalg.eigvalsh(dense)[::-1][:2], atol=100 * EPS * np.linalg.norm(dense)
    )
    assert jax.tree.structure(found.vectors) == jax.tree.structure(params)
    assert found.vectors["weight"].shape == (2, 3, 4)


def test_lanczos_compiles_maps_and_does_not_depend_on_how_it_is_written():
    matrices = jnp.stack([jnp.asarray(indefinite(12, seed)) for seed in range(3)])[:, :8, :8]

    def largest(matrix, loop):
        return lanczos(lambda v: matrix @ v, jnp.zeros(8), key=KEY, iterations=8, loop=loop).values[0]

    expected = np.linalg.eigvalsh(np.asarray(matrices))[:, -1]
    for loop in Loop:
        found = jax.jit(jax.vmap(lambda matrix, loop=loop: largest(matrix, loop)))(matrices)
        np.testing.assert_allclose(found, expected, rtol=1e-12)  # 100 * eps * norm / value, as above
    program = str(jax.make_jaxpr(lambda m: largest(m, Loop.UNROLLED))(matrices[0]))
    assert "scan" not in program
    assert "while[" not in program
    assert "scan" in str(jax.make_jaxpr(lambda m: largest(m, Loop.COMPILED))(matrices[0]))


def test_single_precision_is_kept():
    matrix = positive().astype(np.float32)
    found = lanczos(times(matrix), jnp.zeros(N, jnp.float32), key=KEY, iterations=N)
    assert found.values.dtype == found.bounds.dtype == jnp.float32
    assert float(found.values[0]) == pytest.approx(1.0, abs=1e-5)  # 100 roundings of 1.2e-7


def test_lanczos_does_not_hide_what_is_not_finite():
    found = lanczos(lambda v: v * jnp.nan, jnp.ones(4), key=KEY, iterations=3)
    assert np.isnan(found.values).all()
    assert np.isnan(found.bounds).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "1 eigenvalues from 0 iterations"),
        ({"count": 0}, "0 eigenvalues"),
        ({"count": 5, "iterations": 4}, "5 eigenvalues from 4 iterations"),
        ({"count": 7, "iterations": 10}, "7 eigenvalues from 10 iterations in 6 dimensions"),
        ({"start": jnp.zeros(6, jnp.int32)}, "types \\['int32'\\]"),
        ({"start": jnp.zeros(6, jnp.complex64)}, "complex64"),
        ({"start": (jnp.zeros(3, jnp.float32), np.zeros(3))}, "float32', 'float64"),
        ({"start": {}}, "types"),
        ({"start": jnp.zeros((0,))}, "without numbers"),
        ({"operator": lambda v: v[:3]}, "an operator from"),
        ({"operator": lambda v: v.astype(jnp.float32)}, "an operator from"),
    ],
)
def test_lanczos_refuses(arguments, message):
    given = {"operator": lambda v: v, "start": jnp.zeros(6), "key": KEY} | arguments
    with pytest.raises(UserError, match=message):
        lanczos(**given)


# -------------------------------------------------------------------------------------------- conjugate gradients


@pytest.mark.parametrize("loop", Loop)
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
def test_solution_is_that_of_a_direct_solver(condition, loop):
    matrix, b = positive(condition), np.random.default_rng(1).normal(size=N)
    rtol = 1e-10
    # In exact arithmetic N products suffice; with rounding, condition 1e6 takes several times that.
    found = conjugate_gradients(times(matrix), jnp.asarray(b), rtol=rtol, iterations=1_000, loop=loop)
    assert found.result == Solved.CONVERGED
    residual = np.linalg.norm(b - matrix @ np.asarray(found.value))
    assert residual <= 10 * rtol * np.linalg.norm(b)  # the promise: within `DRIFT` tolerances
    # Two residuals computed apart differ by the rounding of A·x, eps ‖A‖‖x‖, of which some are ample (‖A‖ = 1).
    rounding = 10 * EPS * np.linalg.norm(np.asarray(found.value))
    assert float(found.residual_norm) == pytest.approx(residual, rel=1e-3, abs=rounding)
    direct = scipy.linalg.solve(matrix, b, assume_a="pos")
    # ‖x − x*‖ ≤ ‖A⁻¹‖‖r‖, and the direct solver's own error of eps * condition.
    bound = condition * (10 * rtol * np.linalg.norm(b) + 100 * EPS * np.linalg.norm(direct))
    assert np.linalg.norm(np.asarray(found.value) - direct) <= bound
    assert int(found.iterations) >= (1 if condition == 1.0 else 10)


def test_iterations_are_scipys():
    # Well within N products: beyond, rounding decides their number, and with it the processor (117 against 112).
    matrix, b = positive(10), np.random.default_rng(2).normal(size=N)
    counted = []
    expected, failed = scipy.sparse.linalg.cg(matrix, b, rtol=1e-8, callback=lambda x: counted.append(1))
    assert failed == 0
    found = conjugate_gradients(times(matrix), jnp.asarray(b), rtol=1e-8, iterations=500)
    # The same recurrence and stopping rule; rounding may tip the last comparison by one step.
    assert abs(int(found.iterations) - len(counted)) <= 1
    assert 10 < len(counted) < N / 2
    np.testing.assert_allclose(found.value, expected, atol=10 * 1e-8 * np.linalg.norm(b) * 2)  # ‖A⁻¹‖ · both residuals


def test_preconditioner_saves_iterations():
    scales = np.geomspace(1, 1e4, N)
    matrix = positive(10) * np.sqrt(np.outer(scales, scales))
    b = np.random.default_rng(2).normal(size=N)
    diagonal = jnp.asarray(1 / np.diag(matrix))
    plain = conjugate_gradients(times(matrix), jnp.asarray(b), rtol=1e-8, iterations=2_000)
    better = conjugate_gradients(times(matrix), jnp.asarray(b), rtol=1e-8, preconditioner=lambda r: diagonal * r)
    assert better.result == plain.result == Solved.CONVERGED
    # Condition 10 · after Jacobi against 10⁵: the bound √κ · ln(2/tol)/2 is 30 against 3,000.
    assert int(better.iterations) <= 40 < int(plain.iterations)
    exact = jnp.asarray(np.linalg.inv(matrix))
    assert int(conjugate_gradients(times(matrix), jnp.asarray(b), preconditioner=lambda r: exact @ r).iterations) == 1


def test_a_good_start_saves_iterations_and_a_perfect_one_all():
    matrix, b = positive(1e2), np.random.default_rng(2).normal(size=N)
    solution = jnp.asarray(np.linalg.solve(matrix, b))
    found = conjugate_gradients(times(matrix), jnp.asarray(b), start=solution, rtol=1e-8)
    assert (int(found.iterations), int(found.result)) == (0, Solved.CONVERGED)
    zero = conjugate_gradients(times(matrix), jnp.zeros(N))
    assert (int(zero.iterations), int(zero.result)) == (0, Solved.CONVERGED)
    assert not np.asarray(zero.value).any()


@pytest.mark.parametrize("loop", Loop)
def test_results_name_what_happened(loop):
    b = jnp.asarray(np.random.default_rng(1).normal(size=N))
    solve = lambda matrix, **options: conjugate_gradients(times(matrix), b, loop=loop, **options)
    few = solve(positive(1e6), iterations=3)
    assert (int(few.result), int(few.iterations)) == (Solved.MORE_ITERATIONS, 3)
    bent = solve(symmetric(np.linspace(-1, 1, N)))
    assert bent.result == Solved.NOT_POSITIVE
    along = np.asarray(bent.direction)
    assert along @ symmetric(np.linspace(-1, 1, N)) @ along <= 0  # the direction that proves it
    assert np.isfinite(bent.value).all()
    assert solve(-np.eye(N)).result == Solved.NOT_POSITIVE
    assert solve(np.eye(N), preconditioner=lambda r: -r).result == Solved.NOT_POSITIVE
    assert solve(np.full((N, N), np.nan)).result == Solved.NOT_FINITE
    assert conjugate_gradients(times(np.eye(2)), jnp.array([1.0, jnp.inf])).result == Solved.NOT_FINITE


def test_a_tolerance_below_rounding_is_named():
    """The recurrence's residual goes on to fall when the true one cannot: 1e-13 in a problem of condition 1e8."""
    matrix, b = positive(1e8), np.random.default_rng(1).normal(size=N)
    found = conjugate_gradients(times(matrix), jnp.asarray(b), rtol=1e-13, iterations=5_000)
    assert found.result == Solved.ROUNDED
    assert float(found.residual_norm) > 1e-12 * np.linalg.norm(b)


def test_conjugate_gradients_compile_map_and_take_pytrees():
    matrices = jnp.stack([jnp.asarray(positive(c, 9)) for c in (1.01, 10.0, 1e2)])
    b = {"one": jnp.ones((2, 3)), "two": (jnp.ones(2), jnp.ones(()))}
    flat, unravel = jax.flatten_util.ravel_pytree(b)

    def solve(matrix, loop):
        operator = lambda v: unravel(matrix @ jax.flatten_util.ravel_pytree(v)[0])
        return conjugate_gradients(operator, b, rtol=1e-10, iterations=12, loop=loop)

    for loop in Loop:
        found = jax.jit(jax.vmap(lambda matrix, loop=loop: solve(matrix, loop)))(matrices)
        assert (np.asarray(found.result) == Solved.CONVERGED).all()
        assert len(set(np.asarray(found.iterations).tolist())) > 1  # each its own count: condition 1.01 takes 5 of 9
        for i, matrix in enumerate(np.asarray(matrices)):
            one = jax.flatten_util.ravel_pytree(jax.tree.map(lambda leaf, i=i: leaf[i], found.value))[0]
            np.testing.assert_allclose(one, np.linalg.solve(matrix, flat), atol=1e2 * 1e-9 * 3)  # ‖A⁻¹‖ ‖r‖
    program = str(jax.make_jaxpr(lambda m: solve(m, Loop.UNROLLED).value)(matrices[0]))
    assert "while[" not in program
    assert "scan[" not in program


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": 0}, "0 iterations"),
        ({"rtol": -1.0}, "rtol must be a number of at least 0"),
        ({"atol": float("nan")}, "atol must be a number of at least 0"),
        ({"start": jnp.zeros(5)}, "start is not like"),
        ({"start": (jnp.zeros(6),)}, "start is not like"),
        ({"operator": lambda v: v[:3]}, "an operator from"),
        ({"preconditioner": lambda v: v[:3]}, "an operator from .*preconditioner"),
        ({"right": jnp.zeros(6, jnp.int32)}, "types \\['int32'\\]"),
    ],
)
def test_conjugate_gradients_refuse(arguments, message):
    given = {"operator": lambda v: v, "right": jnp.ones(6)} | arguments
    with pytest.raises(UserError, match=message):
        conjugate_gradients(**given)

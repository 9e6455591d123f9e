"""BFGS and self-scaled Broyden with the whole inverse Hessian: the matrix they learn, and how far they get."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.nn import MLP
from thalweg.objective import Objective, Residual, Rows
from thalweg.optim import BFGS, LBFGS, Adam, SelfScaledBroyden
from thalweg.optim.curvature import InverseHessian, RecentPairs, SelfScaledInverseHessian
from thalweg.physics import geometry, laplacian
from thalweg.train import Phase, fit


def quadratic(condition):
    """½(x − t)ᵀA(x − t) + 1 of 20 unknowns in a rotated frame, eigenvalues of A spread evenly in their logarithm."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    a, t = q @ np.diag(np.logspace(0, np.log10(condition), 20)) @ q.T, np.linspace(-1, 1, 20)
    return lambda x: jnp.vdot(x - t, jnp.asarray(a) @ (x - t)) / 2 + 1


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def test_one_update_is_the_published_one():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(5, 5))
    h, s = a @ a.T, rng.normal(size=5)
    y = s + 0.1 * rng.normal(size=5)
    rho, eye = 1 / (s @ y), np.eye(5)
    expected = (eye - rho * np.outer(s, y)) @ h @ (eye - rho * np.outer(y, s)) + rho * np.outer(s, s)
    with jax.enable_x64(True):
        found = (
            InverseHessian(jnp.asarray(h), jnp.int32(3)).take(jnp.asarray(s), jnp.asarray(y), jnp.asarray(1.0)).matrix
        )
    assert np.allclose(found, expected, rtol=1e-12)
    assert np.allclose(np.asarray(found) @ y, s, rtol=1e-12)  # the secant condition


def test_with_a_long_memory_the_two_loops_are_the_matrix():
    # from the same scale and pairs, L-BFGS with room for all pairs is BFGS (Nocedal and Wright, 2006, section 7.2)
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        pairs = RecentPairs(jnp.zeros((6, 4)), jnp.zeros((6, 4)), jnp.int32(0))
        steps = [rng.normal(size=4) for _ in range(3)]
        ys = [s * np.array([1.0, 2, 3, 4]) for s in steps]
        for s, y in zip(steps, ys, strict=True):
            pairs = pairs.take(jnp.asarray(s), jnp.asarray(y), jnp.asarray(1.0))
        matrix = (steps[-1] @ ys[-1]) / (ys[-1] @ ys[-1]) * np.eye(4)  # L-BFGS scales by its last pair
        whole = InverseHessian(jnp.asarray(matrix), jnp.int32(1))
        for s, y in zip(steps, ys, strict=True):
            whole = whole.take(jnp.asarray(s), jnp.asarray(y), jnp.asarray(1.0))
        g = jnp.asarray(rng.normal(size=4))
        assert np.allclose(pairs.product(g), whole.product(g), rtol=1e-12)


def test_learns_the_inverse_hessian_of_a_quadratic(walk, of_cost):
    cost = quadratic(1e2)
    x, states, _ = walk(BFGS(), of_cost(cost), [0.0] * 20, 200)
    with jax.enable_x64(True):
        hessian = np.asarray(jax.hessian(cost)(jnp.zeros(20)))
    # The update is exact in the directions walked, all 20 of them here; the last pairs are differences of gradients
    # near the rounding of the cost (1e-16 of 1, over steps of 1e-7), so the matrix is known to a few per cent only.
    assert np.abs(states.history.matrix[-1] @ hessian - np.eye(20)).max() < 0.2
    assert np.allclose(x[-1], np.linspace(-1, 1, 20), atol=1e-6)


@pytest.mark.slow
def test_needs_far_fewer_evaluations_than_a_short_memory_where_curvatures_differ(walk, of_cost):
    cost = quadratic(1e4)
    evaluations = []
    for optimizer in (BFGS(), LBFGS()):
        _, _, info = walk(optimizer, of_cost(cost), [0.0] * 20, 600)
        evaluations.append(int(np.argmax(info.total <= 1 + 1e-10)) + 1)
    assert 20 < evaluations[0] < evaluations[1] / 2  # measured: 126 and 455


def test_finds_the_minimum_of_the_curved_valley(walk, of_cost):
    x, _, info = walk(BFGS(), of_cost(rosenbrock), [-1.2, 1.0], 80)
    assert np.allclose(x[-1], 1, atol=1e-6)
    # SciPy's BFGS needs 38 evaluations to 1e-10 of the minimum (measured), this one 42: half as many again at most
    assert np.argmax(info.total <= 1e-10) + 1 <= 57


def test_refuses_too_many_params_and_too_few_trials():
    with pytest.raises(UserError, match=r"5,001 × 5,001 numbers.*LBFGS"):
        BFGS().curvature(jnp.zeros(5_001))
    with pytest.raises(UserError, match="trials"):
        BFGS(trials=1)
    with pytest.raises(UserError, match="SelfScaledBroyden keeps a matrix"):
        SelfScaledBroyden().curvature(jnp.zeros(5_001))


def published_factors(b, h, n):
    """Urbán, Stefanou and Pons (2025), equations 13 to 23, in plain numbers (as the authors compute them)."""
    a = b * h - 1
    c = np.sqrt(a / (1 + a))
    low = min(1, h * (1 - c))
    theta = max((low - 1) / a, min(1 / low, (1 - b) / b))
    sigma = 1 + theta * a
    high = min(1, 1 / b)
    tau = min(high * sigma ** (1 / (1 - n)), sigma) if theta <= 0 else high * min(sigma ** (1 / (1 - n)), 1 / theta)
    return (1 - theta) / (1 + a * theta), tau


def spd(rng, n, spread=2.0):
    q = np.linalg.qr(rng.normal(size=(n, n)))[0]
    return q @ np.diag(10 ** rng.uniform(-spread, spread, n)) @ q.T


@pytest.mark.parametrize("seed", range(8))
def test_a_self_scaled_update_is_the_published_one_and_stays_positive(seed):
    rng = np.random.default_rng(seed)
    h, hessian, s = spd(rng, 6), spd(rng, 6), rng.normal(size=6)
    y = hessian @ s
    bent = s @ np.linalg.solve(h, s)
    sy, image = s @ y, h @ y
    yhy = y @ image
    phi, tau = published_factors(bent / sy, yhy / sy, 6)
    v = np.sqrt(yhy) * (s / sy - image / yhy)
    expected = (h - np.outer(image, image) / yhy + phi * np.outer(v, v)) / tau + np.outer(s, s) / sy
    with jax.enable_x64(True):
        before = SelfScaledInverseHessian(jnp.asarray(h), jnp.int32(3))
        found = np.asarray(before.take(jnp.asarray(s), jnp.asarray(y), jnp.asarray(bent)).matrix)
    # curvatures over four powers of ten: sums of terms 1e4 times their result
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert np.allclose(found @ y, s, rtol=1e-7, atol=1e-9)  # the secant condition
    assert np.linalg.eigvalsh(found)[0] > 0


def test_the_step_promises_the_curvature_that_the_matrix_does(walk, of_cost):
    # the optimizer finds s·B·s without B, from the search direction −Hg: compare with solving for B
    x, states, info = walk(SelfScaledBroyden(), of_cost(quadratic(1e2)), [0.0] * 20, 30)
    checked = 0
    for i in np.flatnonzero(info.accepted)[1:]:
        matrix, s = states.history.matrix[i], x[i + 1] - x[i]
        if states.history.count[i] == 0 or not np.allclose(states.search.direction[i], -matrix @ states.gradient[i]):
            continue
        length = info.figures["step_length"][i]
        assert np.isclose(s @ np.linalg.solve(matrix, s), -(length**2) * states.search.slope[i], rtol=1e-6)
        checked += 1
    assert checked > 5


@pytest.mark.slow
def test_self_scaling_gets_further_than_bfgs_on_poissons_equation():
    # measured with 1,500 steps of each: 8e-9 and 5e-7; here 400, and a factor of 3 is asked for
    class Hard(eqx.Module):
        net: MLP

        def __call__(self, x):
            return x[0] * (1 - x[0]) * x[1] * (1 - x[1]) * self.net(2 * x - 1)

    exact = lambda x: jnp.sin(jnp.pi * x[0]) * jnp.sin(jnp.pi * x[1])
    law = lambda u, x: laplacian(u, x) + 2 * jnp.pi**2 * exact(x)
    points = np.asarray(geometry.rectangle((0.0, 0.0), (1.0, 1.0)).spread_interior(jax.random.key(7), 500), np.float64)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 40)] * 2), axis=-1).reshape(-1, 2)
    errors = []
    for optimizer in (SelfScaledBroyden(), BFGS()):
        model = Hard(MLP(2, None, width=16, depth=2, activation=jnp.tanh, key=jax.random.key(0)))
        program = [Phase(Adam(5e-3), 200), Phase(optimizer, 400)]
        found = fit(model, Objective(law=Residual(law, Rows(points))), program, precision=np.float64)
        with jax.enable_x64(True):
            u, truth = (np.asarray(jax.vmap(field)(jnp.asarray(grid))) for field in (found.model, exact))
        errors.append(np.linalg.norm(u - truth) / np.linalg.norm(truth))
    assert errors[0] < errors[1] / 3

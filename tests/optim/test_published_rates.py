"""What is published of first-order methods: stability, rates and memories in closed form (S01, S03)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.linalg import lanczos
from thalweg.objective import Objective, Residual, Rows, split
from thalweg.optim import SGD, AdaGrad, Adam, RMSprop


def bowl(x):
    """½ xᵀ diag(1, 10, 100) x."""
    return jnp.sum(jnp.asarray([1.0, 10.0, 100.0], x.dtype) * x * x) / 2


@pytest.mark.parametrize(("share", "converges"), [(0.99, True), (1.01, False)])
def test_gradient_descent_converges_below_two_over_the_top_curvature_only(share, converges, walk, of_cost):
    # the steepest direction is multiplied by 1 − ηλ = 1 − 2·share at each step: 0.98^1000 = 2e-9, 1.02^1000 = 4e8
    x, _, _ = walk(SGD(share * 2 / 100), of_cost(bowl), [1.0, 1.0, 1.0], 1_000)
    assert (np.abs(x[-1]).max() < 1e-6) == converges
    assert (np.abs(x[-1]).max() > 1e6) == (not converges)


def test_lanczos_measures_that_curvature():
    x = jnp.array([1.0, 1.0, 1.0])
    product = lambda v: jax.jvp(jax.grad(bowl), (x,), (v,))[1]
    assert np.isclose(float(lanczos(product, x, iterations=3, key=jax.random.key(0)).values[0]), 100, rtol=1e-5)


def test_heavy_ball_falls_at_its_closed_rate(walk, of_cost):
    # Polyak (1964): with η = (2/(√L + √m))² and μ = ((√L − √m)/(√L + √m))² every mode falls as √μ^t
    root = np.sqrt(100)
    rate, momentum = (2 / (root + 1)) ** 2, ((root - 1) / (root + 1)) ** 2
    x, _, _ = walk(SGD(rate, momentum=momentum), of_cost(bowl), [1.0, 1.0, 1.0], 200)
    size = np.linalg.norm(x, axis=1)
    found = (size[200] / size[100]) ** (1 / 100)
    # a double root: the fall is t·√μ^t, whose factor grows by 2 from step 100 to 200, that is 0.7 % a step
    assert np.isclose(found, np.sqrt(momentum), rtol=0.02)


SLOPES = np.array([3.0, -0.02])


def constant(x):
    return jnp.vdot(jnp.asarray(SLOPES, x.dtype), x)


def test_adagrads_rate_falls_as_one_over_the_root_of_time(walk, of_cost):
    x, _, _ = walk(AdaGrad(0.1), of_cost(constant), [0.0, 0.0], 400)
    steps = np.diff(x, axis=0)
    expected = -0.1 * np.sign(SLOPES) / np.sqrt(np.arange(1, 401))[:, None]
    assert np.allclose(steps, expected, rtol=1e-8)  # ε = 1e-10 against a root of at least 0.02


def test_rmsprops_rate_becomes_constant_with_its_memory(walk, of_cost):
    decay = 0.99
    x, _, _ = walk(RMSprop(0.1, decay=decay, eps=1e-12), of_cost(constant), [0.0, 0.0], 1_500)
    steps = np.diff(x, axis=0)
    # v_t = (1 − β^t) g², so a step is η·sign(g)/√(1 − β^t), which tends to η
    expected = -0.1 * np.sign(SLOPES) / np.sqrt(1 - decay ** np.arange(1, 1_501))[:, None]
    assert np.allclose(steps, expected, rtol=1e-8)
    assert np.allclose(np.abs(steps[-1]), 0.1, rtol=1e-6)


def test_adam_without_epsilon_steps_by_the_sign(walk, of_cost):
    x, _, _ = walk(Adam(0.1, eps=0.0), of_cost(constant), [0.0, 0.0], 50)
    assert np.allclose(np.diff(x, axis=0), -0.1 * np.sign(SLOPES), rtol=1e-12)


@pytest.mark.parametrize("ratio", [10.0, 100.0])
def test_rmsprop_is_back_after_a_fall_of_the_gradient_and_adagrad_is_not(ratio, walk, of_cost):
    decay, large, small = 0.95, 1.0, 1.0 / ratio
    # the gradient falls from G to g where x passes −10
    cost = lambda x: jnp.sum(jnp.where(x > -10, large * x, small * (x + 10) - large * 10))
    x, _, _ = walk(RMSprop(0.1, decay=decay, eps=1e-15), of_cost(cost), [0.0], 1_200)
    steps = -np.diff(x[:, 0])
    begun = int(np.argmax(x[:-1, 0] <= -10))  # the first step with the small gradient
    back = int(np.argmax(np.abs(steps[begun:] - 0.1) <= 0.01))
    # v has to fall below 1.21 g² (a step within 10 % of η): β^t (G² − g²) ≤ 0.21 g²
    predicted = np.log(large**2 / (0.21 * small**2)) / (1 - decay)
    assert 0 < back <= predicted
    assert back > 0.8 * predicted  # the prediction is of this time, not of any: 1 − β stands for −ln β, 3 % here
    x, _, _ = walk(AdaGrad(0.1), of_cost(cost), [0.0], 6_000)
    passed = int(np.argmax(x[:-1, 0] <= -10))
    assert passed > 0
    assert -np.diff(x[:, 0])[passed + back] < 0.1 * (1 / np.sqrt(passed))


def test_the_minibatch_gradient_is_unbiased_and_its_covariance_falls_as_one_over_its_size():
    class Place(eqx.Module):
        x: jax.Array

    rows = np.random.default_rng(0).normal(size=(4_096, 2)) * [1.0, 3.0]
    spread = {}
    with jax.enable_x64(True):
        for batch in (8, 32):
            term = Residual(lambda model, z: model.x - z, Rows(rows, batch_size=batch))
            objective, parts = Objective(data=term).astype(np.float64), split(Place(jnp.zeros(2)))
            state = objective.init(jax.random.key(0))

            def gradient(index, objective=objective, parts=parts, state=state):
                problem = objective.bind(parts.static, objective.draw(state, index), state, None)
                return jax.grad(lambda p: problem.evaluate(p)[0])(parts.params).x

            found = np.asarray(jax.jit(jax.vmap(gradient))(jnp.arange(4_096 // batch, dtype=jnp.int32)))
            # one epoch meets each row once, so the mean of its batches is the whole gradient
            assert np.allclose(found.mean(axis=0), -2 * rows.mean(axis=0), atol=1e-12)
            spread[batch] = np.trace(np.cov(found.T))
    # gradients are −2 z: tr C/B = 4·tr Cov(z)/B; known to √(2/(batches·2)) = 9 % at 128 batches
    for batch, variance in spread.items():
        assert np.isclose(variance, 4 * np.trace(np.cov(rows.T)) / batch, rtol=0.25)
    assert np.isclose(spread[8] / spread[32], 4, rtol=0.3)

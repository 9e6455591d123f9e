"""Initial weights: variances, orthogonality, and signals that neither vanish nor explode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg import nn
from thalweg.errors import UserError

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("init", "variance"),
    [
        (nn.lecun_normal, 1 / 300),
        (nn.lecun_uniform, 1 / 300),
        (nn.glorot_normal, 2 / 500),
        (nn.glorot_uniform, 2 / 500),
        (nn.he_normal, 2 / 300),
        (nn.he_uniform, 2 / 300),
        (nn.scaled(3.0), 9 / 300),
        (nn.for_activation(nn.LeakyReLU(0.2)), 2 / (1.04 * 300)),
        (nn.for_activation(nn.Activation(jax.nn.relu)), 2 / 300),
        (nn.for_activation(jax.nn.relu, dropout=0.4), 1.2 / 300),
        (nn.scaled(3.0, dropout=0.5), 4.5 / 300),
    ],
)
def test_variance(init, variance):
    weight = np.asarray(init(KEY, (300, 200), jnp.float32))
    # 60,000 draws: the sample variance has a relative standard deviation of at most sqrt(2/60,000) = 0.6 %.
    assert weight.var() == pytest.approx(variance, rel=0.03)
    assert abs(weight.mean()) < 5 * np.sqrt(variance / weight.size)


def test_fan_in_of_a_convolution_counts_its_window():
    weight = np.asarray(nn.he_normal(KEY, (3, 3, 32, 64), jnp.float32))
    assert weight.var() == pytest.approx(2 / (9 * 32), rel=0.05)  # 18,432 draws: 1 % standard deviation


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_orthogonal(shape):
    with jax.enable_x64(True):
        weight = np.asarray(nn.orthogonal(KEY, shape, jnp.float64))
    gram = weight.T @ weight if shape[0] >= shape[1] else weight @ weight.T
    np.testing.assert_allclose(gram, np.eye(4), atol=1e-14)  # a QR decomposition of order 6


def mean_square(activation, derivative=False, variance=1.0):
    """E[φ(z)²] or E[φ'(z)²] for z ~ N(0, variance), by the trapezoidal rule, which is spectral for such integrands."""
    with jax.enable_x64(True):
        z = jnp.linspace(-12, 12, 24_001)
        function = jax.vmap(jax.grad(activation)) if derivative else activation
        density = np.exp(-0.5 * np.asarray(z) ** 2) / np.sqrt(2 * np.pi)
        return float(np.sum(np.asarray(function(z * np.sqrt(variance))) ** 2 * density) * 1e-3)


# 1e-3: the spacing of the quadrature, for the kinks of these functions lie on a grid point.
@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.leaky_relu, nn.LeakyReLU(0.3), jax.nn.selu])
def test_gain_keeps_the_second_moment(activation):
    assert nn.gain(activation) ** 2 * mean_square(activation) == pytest.approx(1, abs=1e-3)


def test_gain_of_tanh_is_the_edge_of_chaos():
    # A small signal's perturbations are multiplied by gain² E[tanh'²] -> 1 (Schoenholz et al., 2017).
    assert nn.gain(jnp.tanh) ** 2 * mean_square(jnp.tanh, derivative=True, variance=1e-6) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    # The three conditions below, solved by SciPy's fsolve with exact derivatives, agree in eight digits with the bias
    # and weight variances of Roberts, Yaida and Hanin (2022), section 5.3.4. GELU is the exact one there.
    ("activation", "bias", "weight", "fixed"),
    [
        (lambda x: jax.nn.gelu(x, approximate=False), 0.17292239, 1.98305826, 3.56155281),
        (jax.nn.silu, 0.55514317, 1.98800468, 14.32017362),
    ],
)
def test_gains_of_gelu_and_silu_are_near_the_critical_ones(activation, bias, weight, fixed):
    # A fixed point of the variance, at which perturbations across neither grow nor shrink, nor those along. 1e-6: eight
    # digits are given; a central difference of step 0.01 in a second derivative below 0.1.
    def after(variance):
        return bias + weight * mean_square(activation, variance=variance)

    assert after(fixed) == pytest.approx(fixed, rel=1e-6)
    assert weight * mean_square(activation, derivative=True, variance=fixed) == pytest.approx(1, rel=1e-6)
    assert (after(fixed + 0.01) - after(fixed - 0.01)) / 0.02 == pytest.approx(1, rel=1e-5)
    assert nn.gain(jax.nn.gelu) ** 2 == pytest.approx(weight, rel=0.01)
    assert nn.gain(jax.nn.silu) ** 2 == pytest.approx(weight, rel=0.01)


def test_relu_signals_survive_twenty_layers():
    width, depth, networks = 512, 20, 8

    def moments(key, init):
        x_key, *keys = jax.random.split(key, depth + 1)
        x = jax.random.normal(x_key, (width,))
        squares = [jnp.mean(x**2)]
        for layer_key in keys:
            x = jax.nn.relu(nn.Linear(width, width, key=layer_key, init=init)(x))
            squares.append(jnp.mean(x**2))
        return jnp.stack(squares)

    keys = jax.random.split(KEY, networks)
    suited = np.mean([moments(key, nn.for_activation(jax.nn.relu)) for key in keys], axis=0)
    # Each layer multiplies E[x²] by a factor of mean 1 and variance 5/width: after 20 layers the standard deviation of
    # its logarithm is sqrt(20 · 5/512) = 0.44, over 8 networks 0.16. A factor of two is more than four of them.
    assert np.all((suited > 0.5) & (suited < 2)), suited
    unsuited = moments(keys[0], nn.lecun_normal)
    assert unsuited[-1] < 1e-4  # 2^-20 = 1e-6: without the gain the signal vanishes


KEEP, WIDTH, DEPTH, NETWORKS = 0.8, 256, 50, 6


@pytest.mark.parametrize(
    # what one layer multiplies E[x²] by: in training by 1/p beyond what the weights do, with dropout off by no more
    ("suited", "training", "expected"),
    [(True, True, 1.0), (False, True, 1 / KEEP), (True, False, KEEP), (False, False, 1.0)],
)
def test_dropout_over_fifty_layers(suited, training, expected):
    init = nn.for_activation(jax.nn.relu, dropout=1 - KEEP if suited else 0.0)
    dropout = nn.Dropout(1 - KEEP)

    def ratios(key):
        x_key, *keys = jax.random.split(key, DEPTH + 1)
        x, squares = jax.random.normal(x_key, (WIDTH,)), []
        for layer_key in keys:
            weight_key, mask_key = jax.random.split(layer_key)
            x = dropout(x, key=mask_key if training else None)
            squares.append(jnp.mean(x**2))
            x = jax.nn.relu(nn.Linear(WIDTH, WIDTH, key=weight_key, init=init)(x))
        squares = jnp.stack(squares)
        return squares[1:] / squares[:-1]

    found = np.concatenate([ratios(key) for key in jax.random.split(KEY, NETWORKS)])
    # Given the layer before, the expectation is exact, and the relative variance v/width: E[relu(z)⁴] = 3σ⁴/2 makes it
    # 5, the mask 6/p - 1. So the mean over the 294 ratios has a standard deviation below 0.9 %; four of them.
    v = (6 / KEEP - 1 if training else 5) / WIDTH
    assert found.mean() == pytest.approx(expected, rel=4 * np.sqrt(v / len(found)))
    # Over all layers the logarithms add up, each of mean log(expected) - v/2 and variance v: six networks leave a
    # standard deviation of 0.46, where p^-49 is e^11.
    total = np.log(found).sum() / NETWORKS
    error = np.sqrt((DEPTH - 1) * v / NETWORKS)
    assert total == pytest.approx((DEPTH - 1) * (np.log(expected) - v / 2), abs=4 * error)


@pytest.mark.parametrize("init", [None, nn.he_normal])
def test_a_perceptron_knows_its_dropout(init):
    model = nn.MLP(300, 200, width=300, depth=2, activation=jax.nn.relu, dropout=0.4, init=init, key=KEY)
    variances = [float(np.var(layer.weight) * 300) for layer in model.layers if isinstance(layer, nn.Linear)]
    # its inputs go through no dropout; what the caller chose stays. 60,000 draws and more: 0.6 % standard deviation.
    assert variances == pytest.approx([2.0, 1.2 if init is None else 2.0, 0.6], rel=0.03)


def test_without_dropout_a_perceptron_starts_as_before():
    # the weights of a saved study must not change: drawn here as `for_activation` and `lecun_normal` draw them
    model, keys = nn.MLP(5, 3, width=4, depth=1, activation=jnp.tanh, key=KEY), jax.random.split(KEY, 2)
    np.testing.assert_array_equal(model.layers[0].weight, nn.for_activation(jnp.tanh)(keys[0], (5, 4), jnp.float32))
    np.testing.assert_array_equal(model.layers[-1].weight, nn.lecun_normal(keys[1], (4, 3), jnp.float32))


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(UserError, match="outside"):
        nn.for_activation(jax.nn.relu, dropout=rate)


@pytest.mark.parametrize("activation", [jnp.cos, nn.LayerNorm(2)])
def test_an_unknown_activation_is_refused(activation):
    with pytest.raises(UserError, match="init=thalweg"):
        nn.for_activation(activation)

"""Linear, dropout, layer norm, standardization, convolution, pooling, MLP: against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax.test_util import check_grads

from thalweg import nn
from thalweg.errors import UserError
from thalweg.types import Untrained

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_alone_and_in_company():
    RNG.bit_generator.state = START


def test_linear_is_the_affine_map():
    layer = nn.Linear(3, 2, key=KEY)
    assert layer.weight.shape == (3, 2)
    assert np.all(layer.bias == 0)
    x = RNG.normal(size=3).astype(np.float32)
    # 1e-6: three products of order one in float32.
    np.testing.assert_allclose(layer(x), np.asarray(layer.weight).T @ x, atol=1e-6)
    assert nn.Linear(3, 2, bias=False, key=KEY).bias is None


def test_dropout_keeps_the_mean_and_is_off_without_a_key():
    x = jnp.ones(100_000)
    layer = nn.Dropout(0.2)
    assert layer(x) is x
    assert nn.Dropout(0.0)(x, key=KEY) is x
    y = np.asarray(layer(x, key=KEY))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.8)}
    # The mean of n such values has the standard deviation sqrt((1-p)/(p n)) = 0.0016 with p = 0.8; five of them.
    assert abs(y.mean() - 1) < 0.008
    assert not np.array_equal(y, layer(x, key=jax.random.key(1)))
    np.testing.assert_array_equal(y, layer(x, key=KEY))


def test_layer_norm_is_its_formula():
    with jax.enable_x64(True):
        layer = nn.LayerNorm(5, eps=1e-3, dtype=jnp.float64)
        x = RNG.normal(3.0, 2.0, size=(4, 5))
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
        # 1e-13: a few roundings, amplified by at most |x|/std ~ 10.
        np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=0, atol=1e-13)


def test_standardize_and_back():
    mean, scale = [10.0, -3.0], [2.0, 0.5]
    layer = nn.Standardize(mean, scale)
    assert isinstance(layer, Untrained)
    x = RNG.normal(size=(6, 2)).astype(np.float32)
    # Two roundings in float32 of values up to 30.
    np.testing.assert_allclose(jax.vmap(layer)(x), (x - mean) / scale, atol=4e-6)
    np.testing.assert_allclose(layer.inverse(layer(jnp.asarray(x))), x, atol=4e-6)
    scalar = nn.Standardize(10.0, 2.0)
    assert scalar.inverse(jnp.array(1.0)) == 12
    members = jax.vmap(lambda m: nn.Standardize(m, jnp.ones(2)))(jnp.ones((3, 2)))
    assert members.mean.shape == (3, 2)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (3, 2)])
def test_convolution_of_a_sequence_is_numpys(stride, padding):
    with jax.enable_x64(True):
        layer = nn.Conv1d(2, 3, kernel_size=4, stride=stride, padding=padding, key=KEY, dtype=jnp.float64)
        layer = jax.tree.map(lambda leaf: leaf + 0.1, layer)  # so that the bias counts
        x, weight = RNG.normal(size=(9, 2)), np.asarray(layer.weight)
        padded = np.pad(x, ((padding, padding), (0, 0)))
        each = [sum(np.correlate(padded[:, i], weight[:, i, o], "valid") for i in (0, 1)) for o in range(3)]
        # 1e-13: eight products of order one.
        np.testing.assert_allclose(layer(jnp.asarray(x)), np.stack(each, 1)[::stride] + 0.1, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1), ((1, 3), (2, 0))])
def test_convolution_is_scipys(stride, padding):
    with jax.enable_x64(True):
        layer = nn.Conv2d(2, 3, kernel_size=(3, 2), stride=stride, padding=padding, key=KEY, dtype=jnp.float64)
        layer = jax.tree.map(lambda leaf: leaf + 0.1, layer)  # so that the bias counts
        x = RNG.normal(size=(7, 6, 2))
        (rows, columns), (up, left) = layer.stride, layer.padding
        padded = np.pad(x, ((up, up), (left, left), (0, 0)))
        expected = np.stack(
            [
                sum(
                    scipy.signal.correlate2d(padded[..., i], np.asarray(layer.weight)[..., i, o], "valid")
                    for i in (0, 1)
                )
                for o in range(3)
            ],
            axis=-1,
        )[::rows, ::columns]
        y = layer(jnp.asarray(x))
        # 1e-13: twelve products of order one.
        np.testing.assert_allclose(y, expected + 0.1, rtol=0, atol=1e-13)
        # Central differences of a bilinear map with a step of 1e-3 are exact up to rounding / step: 1e-12; 1e-8 is
        # ample and still sees any wrong entry.
        check_grads(
            lambda layer, x: jax.vmap(layer)(x),
            (layer, jnp.asarray(x)[None]),
            order=1,
            modes=["rev"],
            eps=1e-3,
            atol=1e-8,
            rtol=1e-8,
        )


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.slow
def test_groups_do_not_mix_and_the_odd_zero_of_same_padding_comes_last(groups):
    with jax.enable_x64(True):
        size, stride = (3, 4), (2, 3)
        layer = nn.Conv2d(
            4, 4, kernel_size=size, stride=stride, padding=None, groups=groups, bias=False, key=KEY, dtype=jnp.float64
        )
        x, each = RNG.normal(size=(8, 7, 4)), 4 // groups
        # ⌈8/2⌉ = 4 rows reach to (4 - 1)·2 + 3 = 9, so one zero is needed, and it comes last; ⌈7/3⌉ = 3 columns to 10
        padded = np.pad(x, ((0, 1), (1, 2), (0, 0)))
        expected = np.zeros((4, 3, 4))
        for o in range(4):
            first = o // each * each
            for i in range(each):
                kernel = np.asarray(layer.weight)[..., i, o]
                expected[..., o] += scipy.signal.correlate2d(padded[..., first + i], kernel, "valid")[::2, ::3]
        assert layer.weight.shape == (*size, each, 4)
        # 1e-13: up to 48 products of order one.
        np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=0, atol=1e-13)
        # as for the plain convolution: central differences of a bilinear map
        check_grads(lambda layer, x: layer(x), (layer, jnp.asarray(x)), order=1, modes=["rev"], eps=1e-3, atol=1e-8)


def test_pooling_is_the_mean():
    x = RNG.normal(size=(4, 6, 2)).astype(np.float32)
    expected = np.stack([[x[i : i + 2, j : j + 3].mean((0, 1)) for j in (0, 3)] for i in (0, 2)])
    # Means of at most 24 values of order one.
    np.testing.assert_allclose(nn.MeanPool2d((2, 3))(jnp.asarray(x)), expected, atol=1e-6)
    np.testing.assert_allclose(nn.GlobalMeanPool2d()(jnp.asarray(x)), x.mean((0, 1)), atol=1e-6)


def test_mlp_is_its_formula():
    model = nn.MLP(3, 2, width=5, depth=2, activation=jnp.tanh, key=KEY)
    first, _, second, _, last = model.layers
    x = RNG.normal(size=3).astype(np.float32)
    hidden = np.tanh(np.tanh(x @ np.asarray(first.weight)) @ np.asarray(second.weight))
    # 1e-6: three products of matrices of order one.
    np.testing.assert_allclose(model(x), hidden @ np.asarray(last.weight), atol=1e-6)


def test_mlp_shapes():
    assert nn.MLP(3, None, width=4, depth=1, key=KEY)(jnp.ones(3)).shape == ()
    assert nn.MLP(3, 2, width=4, depth=0, key=KEY)(jnp.ones(3)).shape == (2,)
    model = nn.MLP(3, 1, width=[6, 5], dropout=0.5, key=KEY)
    assert [layer.weight.shape for layer in model.layers if isinstance(layer, nn.Linear)] == [(3, 6), (6, 5), (5, 1)]
    x = jnp.ones(3)
    np.testing.assert_array_equal(model(x), model(x))  # no key: dropout is off
    assert model(x, key=KEY) != model(x)


def test_an_ensemble_is_the_vmapped_constructor():
    keys = jax.random.split(KEY, 3)
    members = jax.vmap(lambda key: nn.MLP(2, 1, width=4, depth=1, key=key))(keys)
    alone = nn.MLP(2, 1, width=4, depth=1, key=keys[1])
    x = jnp.array([0.5, -1.0])
    together = jax.vmap(lambda model: model(x))(members)
    # A batched product may add in another order than a single one.
    np.testing.assert_allclose(together[1], alone(x), atol=1e-6)


IMAGE = jnp.ones((4, 4, 2))


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: nn.Linear(0, 2, key=KEY), "from 0 to 2"),
        (lambda: nn.Linear(3, 2, key=KEY)(jnp.ones(4)), "(4,)"),
        (lambda: nn.Linear(3, 2, key=KEY)(jnp.ones(())), "()"),
        (lambda: nn.MLP(3, 2, width=4, depth=1, key=KEY)(jnp.ones((8, 3))), "jax.vmap"),
        (lambda: nn.MLP(3, 2, width=4, key=KEY), "depth"),
        (lambda: nn.MLP(3, 2, width=4, depth=-1, key=KEY), "-1"),
        (lambda: nn.MLP(3, 2, width=[4, 4], depth=3, key=KEY), "depth of 3"),
        (lambda: nn.MLP(3, 2, width=[4, 0], key=KEY), "from 4 to 0"),
        (lambda: nn.MLP(3, 2, width=4, depth=1, key=KEY, activation=lambda x: x**2), "init="),
        (lambda: nn.MLP(3, 2, width=4, depth=1, key=KEY, dropout=1.0), "1.0"),
        (lambda: nn.Dropout(-0.1), "-0.1"),
        (lambda: nn.LeakyReLU(1.5), "1.5"),
        (lambda: nn.LayerNorm(3)(jnp.ones(2)), "(2,)"),
        (lambda: nn.LayerNorm(3, eps=-1), "eps -1"),
        (lambda: nn.BatchNorm(3, momentum=1.5), "1.5"),
        (lambda: nn.BatchNorm(3)(jnp.ones(2)), "(2,)"),
        (lambda: nn.Standardize([1.0, 2.0], [1.0]), "(1,)"),
        (lambda: nn.Standardize([1.0, 2.0], [1.0, 0.0]), "index (1,)"),
        (lambda: nn.Standardize([np.nan, 2.0], [1.0, 1.0]), "index (0,)"),
        (lambda: nn.Standardize([1.0, 2.0], [1.0, 1.0])(jnp.ones(3)), "(3,)"),
        (lambda: nn.Standardize([1.0, 2.0], [1.0, 1.0])(jnp.ones(())), "()"),
        (lambda: nn.Conv2d(2, 3, kernel_size=0, key=KEY), "kernel (0, 0)"),
        (lambda: nn.Conv2d(3, 3, kernel_size=2, key=KEY)(IMAGE), "3 channels"),
        (lambda: nn.Conv2d(4, 6, kernel_size=1, groups=4, key=KEY), "4 groups"),
        (lambda: nn.Conv2d(4, 4, kernel_size=1, groups=0, key=KEY), "4 to 4 channels"),
        (lambda: nn.Conv2d(2, 3, kernel_size=5, key=KEY)(IMAGE), "kernel (5, 5)"),
        (lambda: nn.Conv2d(2, 3, kernel_size=3, key=KEY)(IMAGE[None]), "(1, 4, 4, 2)"),
        (lambda: nn.Linear(2, None, key=KEY), "out_size None"),
        (lambda: nn.Conv2d(2.5, 3, kernel_size=3, key=KEY), "in_channels 2.5"),
        (lambda: nn.Conv2d(2, 3, kernel_size=1.5, key=KEY), "1.5 is no whole number"),
        (lambda: nn.Conv2d(2, 3, kernel_size=(1, 2, 3), key=KEY), "(1, 2, 3)"),
        (lambda: nn.Conv1d(2, 3, kernel_size="3", key=KEY), "kernel_size '3'"),
        (lambda: nn.Conv1d(2, 3, kernel_size=0, key=KEY), "kernel 0"),
        (lambda: nn.Conv1d(2, 3, kernel_size=5, key=KEY)(jnp.ones((4, 2))), "kernel 5"),
        (lambda: nn.Conv1d(3, 3, kernel_size=2, key=KEY)(jnp.ones((4, 2))), "3 channels"),
        (lambda: nn.Conv1d(2, 3, kernel_size=2, key=KEY)(jnp.ones((1, 4, 2))), "(1, 4, 2)"),
        (lambda: nn.MeanPool2d(3)(IMAGE), "(3, 3)"),
        (lambda: nn.MeanPool2d(0), "(0, 0)"),
        (lambda: nn.GlobalMeanPool2d()(jnp.ones(3)), "(3,)"),
        (lambda: nn.Sequential([]), "without layers"),
        (lambda: nn.Sequential([jax.nn.relu]), "nn.Activation"),
        (lambda: nn.Residual(jax.nn.relu), "nn.Activation"),
        (lambda: nn.Residual(nn.Linear(3, 2, key=KEY))(jnp.ones(3)), "(2,)"),
    ],
)
def test_mistakes_are_refused_early(mistake, named):
    with pytest.raises(UserError) as refused:
        mistake()
    assert named in str(refused.value)

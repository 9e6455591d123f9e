"""Dropout as a regularizer and as an ensemble: its two exact facts, by all masks of the layer itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_diabetes, load_iris

from thalweg.losses import squared_error
from thalweg.nn import Dropout, Linear, Sequential
from thalweg.objective import Supervised

FEATURES = 4


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def every_mask(layer: Dropout) -> tuple[jax.Array, np.ndarray]:
    """A key for each of the 2⁴ masks that a layer can draw, and the masks' probabilities."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    kept = np.asarray(jax.vmap(lambda key: layer(jnp.ones(FEATURES), key=key) > 0)(keys))
    masks, first = np.unique(kept, axis=0, return_index=True)
    assert len(masks) == 2**FEATURES
    return keys[first], np.prod(np.where(masks, 1 - layer.rate, layer.rate), axis=1)


def by_mask(layer: Dropout, function) -> tuple[np.ndarray, np.ndarray]:
    """function(key) for each mask, and the masks' probabilities."""
    keys, chances = every_mask(layer)
    return np.asarray(jax.vmap(function)(keys)), chances


@pytest.mark.parametrize("rate", [0.2, 0.5])
@pytest.mark.slow
def test_of_a_linear_model_it_is_a_ridge_that_knows_the_features_scales(rate):
    x, y = load_diabetes(return_X_y=True)
    x, y = jnp.asarray(x[:40, 2 : 2 + FEATURES] * np.array([20, 30, 10, 5])), jnp.asarray(y[:40, None] / 100)
    layer = Dropout(rate)
    model = Linear(FEATURES, 1, key=jax.random.key(1), dtype=float)
    term = Supervised(x, y, loss=squared_error)

    def cost(weight, key):
        masked = Sequential([_Keyed(layer, key), eqx.tree_at(lambda m: m.weight, model, weight)])
        return term.mean_cost(masked, term.source.few(40), None)[0]

    # the mean over examples is linear in them, so that one mask for all has the same mean as one mask for each
    costs, chances = by_mask(layer, lambda key: cost(model.weight, key))
    slopes, _ = by_mask(layer, lambda key: jax.grad(cost)(model.weight, key))
    w, ratio = np.asarray(model.weight), rate / (1 - rate)
    size = np.mean(np.square(x), axis=0)  # diag(XᵀX)/n
    errors = np.asarray(y - x @ w - model.bias)
    # sums of 16 and of 40 terms of order one: rounding of 1e-16 each
    assert chances @ costs == pytest.approx(np.mean(errors**2) + ratio * np.sum(size[:, None] * w**2), rel=1e-13)
    slope = -2 * np.asarray(x).T @ errors / 40 + 2 * ratio * size[:, None] * w
    np.testing.assert_allclose(np.tensordot(chances, slopes, 1), slope, rtol=1e-12)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_of_one_softmax_layer_scaled_weights_are_the_ensembles_geometric_mean(rate):
    x = jnp.asarray(load_iris().data[::10])
    layer, last = Dropout(rate), Linear(FEATURES, 3, key=jax.random.key(2), dtype=float)
    model = Sequential([layer, last])
    answer = lambda key: jax.nn.softmax(jax.vmap(lambda row: model(row, key=key))(x))
    keys, chances = every_mask(layer)
    # Sequential gives each layer a key of its own: find the masks by the keys that the dropout gets
    masked = jax.vmap(lambda key: jax.nn.softmax(jax.vmap(lambda row: last(layer(row, key=key)))(x)))(keys)
    geometric = np.exp(np.tensordot(chances, np.log(masked), 1))
    geometric /= geometric.sum(axis=1, keepdims=True)
    # without a key: all features, which are divided by what is kept in training. Logarithms of order ten.
    np.testing.assert_allclose(geometric, answer(None), rtol=1e-12)
    np.testing.assert_allclose(geometric, softmax(x @ last.weight + last.bias, axis=1), rtol=1e-12)
    # it is not the arithmetic mean
    assert np.abs(np.tensordot(chances, np.asarray(masked), 1) - geometric).max() > 0.01


def test_of_one_linear_layer_scaled_weights_are_the_ensembles_mean():
    x = jnp.asarray(load_iris().data[0])
    layer, last = Dropout(0.3), Linear(FEATURES, 3, key=jax.random.key(2), dtype=float)
    masked, chances = by_mask(layer, lambda key: last(layer(x, key=key)))
    np.testing.assert_allclose(chances @ masked, last(x), rtol=1e-13)  # sums of 16 terms of order one


class _Keyed(eqx.Module):
    """A dropout that always gets the same key."""

    layer: Dropout
    mask_key: jax.Array

    def __call__(self, x, *, key=None):
        return self.layer(x, key=self.mask_key)

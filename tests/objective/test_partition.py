"""A model cut in pieces: what is trained, what the batch moves, what stays."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.nn import MLP, BatchNorm, Linear, Sequential, Standardize
from thalweg.objective import frozen, only, running_statistics, split, trainable


def model():
    keys = jax.random.split(jax.random.key(0), 2)
    return Sequential(
        [Standardize(np.zeros(3), np.ones(3)), Linear(3, 4, key=keys[0]), BatchNorm(4), Linear(4, 1, key=keys[1])]
    )


def sizes(tree):
    return sorted(leaf.size for leaf in jax.tree.leaves(tree))


def test_what_is_trained_by_default():
    parts = split(model())
    assert sizes(parts.params) == [1, 4, 4, 4, 4, 12]  # two Linear, and BatchNorm's scale and shift
    assert sizes(parts.model_state) == [1, 4, 4]  # its running count, mean and variance
    assert sizes(parts.frozen) == [3, 3]  # the constants of Standardize
    assert eqx.tree_equal(parts.combine(), model())
    assert sizes(running_statistics(model())) == [1, 4, 4]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (only(lambda m: m.layers[3]), [1, 4]),
        (only(lambda m: m.layers[3].weight), [4]),
        (only(lambda m: (m.layers[1].bias, m.layers[3])), [1, 4, 4]),
        (only(lambda m: m.layers[1:]), [1, 4, 4, 4, 4, 12]),
        (frozen(lambda m: m.layers[1]), [1, 4, 4, 4]),
        (frozen(lambda m: [m.layers[1].weight, m.layers[2]]), [1, 4, 4]),
    ],
)
def test_only_and_frozen_select_nodes(where, expected):
    parts = split(model(), where)
    assert sizes(parts.params) == expected
    assert sizes(parts.model_state) == [1, 4, 4]
    assert eqx.tree_equal(parts.combine(), model())


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (only(lambda m: m.layers[0]), "nothing is left to train"),
        (frozen(lambda m: m), "nothing is left to train"),
        (lambda m: jax.tree.map(lambda _: False, trainable(m)), "nothing is left to train"),
        (lambda m: jax.tree.map(eqx.is_inexact_array, m), r"model.layers\[0\].mean cannot be trained"),
        (lambda m: jax.tree.map(eqx.is_array, m), "cannot be trained"),
        (lambda m: True, "not of the model's structure"),
        (lambda m: None, "not of the model's structure"),
        (lambda m: trainable(m.layers[1]), "not of the model's structure"),
    ],
)
def test_refuses_filters_that_cannot_work(where, message):
    with pytest.raises(UserError, match=message):
        split(model(), where)


def test_integers_and_functions_stay():
    class Odd(eqx.Module):
        w: jax.Array
        n: jax.Array
        f: object

    odd = Odd(jnp.ones(2), jnp.arange(3), jnp.tanh)
    parts = split(odd)
    assert sizes(parts.params) == [2]
    assert sizes(parts.frozen) == [3]
    with pytest.raises(UserError, match=r"model.n cannot be trained: it is no floating-point array"):
        split(odd, lambda m: jax.tree.map(lambda leaf: True, m))


def test_a_networks_activation_is_not_trained():
    assert sizes(split(MLP(2, 1, width=3, depth=1, key=jax.random.key(0))).params) == [1, 3, 3, 6]

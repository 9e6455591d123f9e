"""What the loop reads off a traced program: which inputs matter, and whether anything is convolved."""

import jax
import jax.numpy as jnp
import pytest

from thalweg.nn import MLP, Conv2d
from thalweg.train.traced import has_convolution, used_inputs


def uses_key(function):
    """Whether the second argument, a key, matters to the first's result."""
    return used_inputs(jax.make_jaxpr(function)(jnp.ones(3), jax.random.key(0)).jaxpr)[-1]


def network(rate):
    return MLP(3, 1, width=4, depth=2, dropout=rate, key=jax.random.key(0))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint, lambda f: jax.jit(jax.checkpoint(f))])
def test_a_key_matters_only_where_numbers_are_drawn_from_it(wrap):
    # both networks split the key for their layers; only the one with dropout does anything with the parts
    for rate, matters in ((0.0, False), (0.5, True)):
        model = network(rate)
        assert uses_key(wrap(lambda x, key, model=model: model(x, key=key))) is matters
        batch = wrap(lambda x, key, model=model: jnp.sum(jax.vmap(lambda k: model(x, key=k))(jax.random.split(key, 5))))
        assert uses_key(batch) is matters


def test_other_control_flow_counts_as_using_all_that_it_is_handed():
    def looped(x, key):
        return jax.lax.fori_loop(0, 3, lambda i, carry: (carry[0] + 1, carry[1]), (x, key))[0]

    assert uses_key(looped)
    assert not uses_key(lambda x, key: looped(x, jax.random.key(1)))


def test_an_output_that_is_an_input_or_a_constant():
    assert used_inputs(jax.make_jaxpr(lambda x, y: (x, 1.0))(1.0, 2.0).jaxpr) == [True, False]
    assert used_inputs(jax.make_jaxpr(lambda x, y: (x, y))(1.0, 2.0).jaxpr, [False, True]) == [False, True]


def test_convolutions_are_found_at_any_depth():
    layer, image = Conv2d(1, 2, kernel_size=3, key=jax.random.key(0)), jnp.ones((5, 5, 1))

    def deep(x):
        step = lambda carry, _: (carry + jnp.sum(jax.jit(jax.vmap(layer))(x[None])), None)
        return jax.lax.scan(step, 0.0, None, length=2)[0]

    assert has_convolution(jax.make_jaxpr(deep)(image).jaxpr)
    assert has_convolution(jax.make_jaxpr(jax.grad(deep))(image).jaxpr)
    assert not has_convolution(jax.make_jaxpr(lambda x: jnp.sum(x @ x))(jnp.ones((2, 2))).jaxpr)

"""Losses for classes, against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from thalweg import losses
from thalweg.errors import UserError

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_alone_and_in_company():
    RNG.bit_generator.state = START


def test_cross_entropy_is_scipys():
    with jax.enable_x64(True):
        logits = RNG.normal(scale=5.0, size=7)
        for target in range(7):
            # 1e-12 relative: the sum of seven exponentials, and a logarithm whose value is not below 1e-3 here.
            expected = -scipy.special.log_softmax(logits)[target]
            np.testing.assert_allclose(
                losses.cross_entropy(jnp.asarray(logits), jnp.array(target)), expected, rtol=1e-12
            )
        probabilities = scipy.special.softmax(logits)
        one_hot = np.eye(7, dtype=int)[3]
        expected = -scipy.stats.multinomial.logpmf(one_hot, 1, probabilities)
        np.testing.assert_allclose(losses.cross_entropy(jnp.asarray(logits), jnp.array(3)), expected, rtol=1e-12)


def test_probabilities_sum_to_one_and_huge_logits_stay_finite():
    with jax.enable_x64(True):
        logits = jnp.array([1e4, -1e4, 1e4 - 1, 0.0])
        costs = jax.vmap(lambda target: losses.cross_entropy(logits, target))(jnp.arange(4))
        assert np.isfinite(costs).all()
        assert float(jnp.sum(jnp.exp(-costs))) == pytest.approx(1, abs=1e-11)  # an ulp of 1e4 is 2e-12


def test_positions_are_summed():
    with jax.enable_x64(True):
        logits, target = jnp.asarray(RNG.normal(size=(5, 3))), jnp.array([0, 2, 1, 1, 0])
        apart = sum(losses.cross_entropy(row, one) for row, one in zip(logits, target, strict=True))
        np.testing.assert_allclose(losses.cross_entropy(logits, target), apart, rtol=1e-14)


def test_gradient_is_softmax_minus_one_hot():
    with jax.enable_x64(True):
        logits, target = jnp.asarray(RNG.normal(size=4)), jnp.array(1)
        gradient = jax.grad(losses.cross_entropy)(logits, target)
        np.testing.assert_allclose(gradient, scipy.special.softmax(logits) - np.eye(4)[1], atol=1e-15)
        # Central differences with step 1e-4: truncation of some 1e-9.
        check_grads(lambda x: losses.cross_entropy(x, target), (logits,), order=2, modes=["rev"], eps=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["uint8", "int32", "int64"])
def test_the_dtype_is_kept_under_jit_and_vmap(precision, kind):
    with jax.enable_x64(precision == "float64" or kind == "int64"):
        logits, target = (
            jnp.zeros((2, 300), precision),
            jnp.array([0, 255], kind),
        )  # more classes than a uint8 can count
        loss = jax.jit(jax.vmap(losses.cross_entropy))(logits, target)
        assert loss.dtype == precision
        np.testing.assert_allclose(loss, np.log(300), rtol=1e-6)


def test_a_class_out_of_range_is_not_silently_another():
    assert np.isnan(losses.cross_entropy(jnp.zeros(3), jnp.array(3)))
    assert np.isnan(losses.cross_entropy(jnp.zeros(3), jnp.array(-1)))


@pytest.mark.parametrize(
    ("logits", "target", "named"),
    [
        (jnp.zeros(3), jnp.array(1.0), "float32"),
        (jnp.zeros(3), jnp.array([1]), r"\(3,\).*\(1,\)"),
        (jnp.zeros((2, 3)), jnp.array(1), r"\(2, 3\).*\(\)"),
        (jnp.zeros(()), jnp.array(1), r"\(\)"),
    ],
)
def test_mistakes_are_refused(logits, target, named):
    with pytest.raises(UserError, match=named):
        losses.cross_entropy(logits, target)

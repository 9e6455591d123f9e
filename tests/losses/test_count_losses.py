"""Losses for counts, against SciPy's probabilities, and 40 digits where SciPy's own formula cancels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from thalweg import losses
from thalweg.errors import UserError

COUNTS = np.array([0, 1, 2, 3, 7, 20, 150])
LOG_MEANS = np.array([-20.0, -3.0, -0.5, 0.0, 1.1, 3.0, 5.0, 8.0])
LOG_DISPERSIONS = np.array([-6.0, -2.0, 0.0, 1.0, 4.0])


@jax.jit
@partial(jnp.vectorize, signature="(),(),()->()")
def negative_binomial(log_mean, log_dispersion, count):
    return losses.negative_binomial_nll((log_mean, log_dispersion), count)


@jax.jit
@partial(jnp.vectorize, signature="(),()->()")
def poisson(log_rate, count):
    return losses.poisson_nll(log_rate, count)


def test_poisson_is_scipys():
    with jax.enable_x64(True):
        found = poisson(LOG_MEANS[:, None], COUNTS)
        expected = -scipy.stats.poisson.logpmf(COUNTS, np.exp(LOG_MEANS)[:, None])
        # 1e-12: SciPy subtracts terms of up to 1,200 that leave at least 1, with 1e-16 lost on each.
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_negative_binomial_is_scipys():
    with jax.enable_x64(True):
        grid = np.ix_(LOG_MEANS[1:], LOG_DISPERSIONS, COUNTS)  # below, 1 + αμ has lost digits before SciPy sees it
        mean, dispersion = np.exp(grid[0]), np.exp(grid[1])
        expected = -scipy.stats.nbinom.logpmf(grid[2], 1 / dispersion, 1 / (1 + dispersion * mean))
        # 1e-12 relative. Where a probability comes near 1, SciPy's difference of log Γ(400) leaves 1e-13 absolute.
        np.testing.assert_allclose(negative_binomial(*grid), expected, rtol=1e-12, atol=1e-12)
        variance = scipy.stats.nbinom.var(1 / 0.5, 1 / (1 + 0.5 * 3.0))
        assert variance == pytest.approx(3 + 0.5 * 9)  # the parametrization that the docstring states


@pytest.mark.parametrize("count", [0, 1, 5, 10_000, 1_000_000])
def test_forty_digits_agree_where_textbook_formulas_cancel(count):
    mp = pytest.importorskip("mpmath")
    with jax.enable_x64(True), mp.workdps(40):
        for log_mean in (-20.0, 0.0, 9.2, 13.8, 25.0):
            mean = mp.exp(log_mean)
            exact = mean - count * mp.mpf(log_mean) + mp.loggamma(count + 1)
            # 1e-12: y (exp(d) - 1 - d), with d = log(mean/y) known to 1e-15 of log y.
            assert float(poisson(log_mean, count)) == pytest.approx(float(exact), rel=1e-12)
            for log_dispersion in (-40.0, -8.0, 0.0, 8.0, 40.0):
                alpha = mp.exp(log_dispersion)
                size = 1 / alpha
                exact = size * mp.log1p(alpha * mean) - count * mp.log(alpha * mean / (1 + alpha * mean))
                exact -= mp.loggamma(count + size) - mp.loggamma(size) - mp.loggamma(count + 1)
                found = negative_binomial(log_mean, log_dispersion, count)
                assert float(found) == pytest.approx(float(exact), rel=1e-12), (log_mean, log_dispersion)


def test_probabilities_add_up_to_one():
    with jax.enable_x64(True):
        counts = np.arange(4_000)
        # Beyond 4,000 there are 1e-30 of these distributions; the rest is 4,000 roundings.
        assert float(jnp.exp(-negative_binomial(2.0, 0.5, counts)).sum()) == pytest.approx(1, abs=1e-12)
        assert float(jnp.exp(-poisson(5.0, counts)).sum()) == pytest.approx(1, abs=1e-12)


def test_without_dispersion_it_is_poisson():
    with jax.enable_x64(True):
        for dispersion in (-50.0, -500.0):
            found = negative_binomial(LOG_MEANS[:, None], dispersion, COUNTS)
            expected = -scipy.stats.poisson.logpmf(COUNTS, np.exp(LOG_MEANS)[:, None])
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_float32_keeps_its_digits_at_a_million():
    """The textbook's log Γ(1e6 + 1) is 1.3e7, of which a float32 keeps ones only."""
    for log_mean in (13.7, 13.8155, 13.9):
        single = losses.poisson_nll(jnp.float32(log_mean), jnp.int32(1_000_000))
        exact = -scipy.stats.poisson.logpmf(1_000_000, np.exp(np.float64(np.float32(log_mean))))
        # log(mean/y) is known to 1e-6, a thousandth of the standard deviation of log y.
        assert float(single) == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_values_and_gradients_are_finite_in_the_tails(precision):
    with jax.enable_x64(precision == "float64"):
        counts = jnp.asarray([0, 1, 1_000, 1_000_000], jnp.int32)
        grid = np.ix_([-80.0, -20.0, 0.0, 20.0, 80.0], [-100.0, -20.0, 0.0, 20.0, 80.0])
        mean, dispersion = (jnp.asarray(part.ravel(), precision) for part in np.broadcast_arrays(*grid))
        for count in counts:
            cost = lambda m, a, y=count: losses.negative_binomial_nll((m, a), y)
            value, gradient = jax.jit(jax.vmap(jax.value_and_grad(cost, (0, 1))))(mean, dispersion)
            assert value.dtype == precision
            assert np.isfinite(value).all()
            assert np.isfinite(gradient).all()
            value, slope = jax.jit(jax.vmap(jax.value_and_grad(losses.poisson_nll), (0, None)))(mean, count)
            assert np.isfinite(value).all()
            assert np.isfinite(slope).all()


def test_gradients():
    with jax.enable_x64(True):
        log_mean, counts = jnp.array([-1.0, 0.3, 2.0, 5.0]), jnp.array([0, 1, 7, 100])
        # d/dη of exp(η) - y η; 1e-12: one expm1 and one product.
        slope = jax.grad(losses.poisson_nll)(log_mean, counts)
        np.testing.assert_allclose(slope, np.exp(log_mean) - np.asarray(counts), rtol=1e-12)
        dispersion = jnp.array([-2.0, -1.0, 0.0, 1.0])
        # Central differences with step 1e-4: truncation 1e-8 times a third derivative of at most a hundred.
        check_grads(
            jax.jit(lambda *o: losses.negative_binomial_nll(o, counts)), (log_mean, dispersion),
            order=1, modes=["rev"], eps=1e-4, atol=1e-4, rtol=1e-5,
        )  # fmt: skip


@pytest.mark.parametrize("wrong", [-1.0, 1.5, np.nan])
def test_what_is_no_count_costs_nan_and_is_refused_beforehand(wrong):
    assert np.isnan(losses.poisson_nll(jnp.zeros(()), jnp.float32(wrong)))
    assert np.isnan(losses.negative_binomial_nll((jnp.zeros(()), jnp.zeros(())), jnp.float32(wrong)))
    targets = np.array([0.0, 3.0, wrong, 1.0])
    for loss in (losses.poisson_nll, losses.negative_binomial_nll):
        with pytest.raises(UserError, match=r"must be a count .*row 2"):
            loss.check_targets(targets)
        loss.check_targets(targets[:2])


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: losses.poisson_nll(jnp.ones((3, 1)), jnp.ones(3)), r"\(3, 1\).*\(3,\)"),
        (lambda: losses.negative_binomial_nll(jnp.ones(3), jnp.ones(3)), "log_mean, log_dispersion"),
        (lambda: losses.negative_binomial_nll((jnp.ones(3), jnp.ones(())), jnp.ones(3)), r"\(\).*\(3,\)"),
    ],
)
def test_mistakes_are_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()

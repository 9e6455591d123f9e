"""Losses for real targets, against SciPy's densities and their own theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from thalweg import losses
from thalweg.errors import UserError
from thalweg.objective import Supervised

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_alone_and_in_company():
    RNG.bit_generator.state = START


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_squared_error_is_the_sum_and_its_residual_squares_to_it(shape):
    with jax.enable_x64(True):
        output, target = (jnp.asarray(RNG.normal(size=shape)) for _ in range(2))
        loss, residual = losses.squared_error(output, target), losses.squared_error.residual(output, target)
        assert loss.shape == ()
        assert residual.shape == (output.size,)
        # 1e-14: a handful of roundings.
        np.testing.assert_allclose(loss, np.sum((np.asarray(output) - np.asarray(target)) ** 2), rtol=1e-14)
        np.testing.assert_allclose(residual @ residual, loss, rtol=1e-14)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_gaussian_nll_is_scipys(shape):
    with jax.enable_x64(True):
        mean, log_scale, target = (RNG.normal(scale=2.0, size=shape) for _ in range(3))
        expected = -scipy.stats.norm.logpdf(target, mean, np.exp(log_scale)).sum()
        loss = losses.gaussian_nll((jnp.asarray(mean), jnp.asarray(log_scale)), jnp.asarray(target))
        # 1e-12 relative: at most six terms; exp(-log_scale) against exp(log_scale) differ by an ulp or two, which the
        # square doubles: 1e-15 each.
        np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_gaussian_nll_integrates_to_one():
    with jax.enable_x64(True):
        target = jnp.linspace(-20.0, 22.0, 8_401)
        density = jnp.exp(-jax.vmap(lambda t: losses.gaussian_nll((jnp.array(1.0), jnp.array(0.5)), t))(target))
        # The trapezoidal rule is exact to rounding for a Gaussian cut at 12 standard deviations.
        assert float(jnp.sum(density) * 0.005) == pytest.approx(1, abs=1e-12)


def test_beta_weighs_the_gradient_by_the_variance():
    """Seitzer et al. (2022), equation 5: the gradients of the NLL, each times σ^2β."""
    with jax.enable_x64(True):
        mean, log_scale, target = (jnp.asarray(RNG.normal(size=4)) for _ in range(3))

        def gradients(loss):
            return jax.grad(lambda mean, log_scale: loss((mean, log_scale), target), argnums=(0, 1))(mean, log_scale)

        exact = gradients(losses.gaussian_nll)
        for beta in (0.5, 1.0):
            for mine, plain in zip(gradients(losses.GaussianNLL(beta)), exact, strict=True):
                np.testing.assert_allclose(mine, plain * np.exp(2 * beta * log_scale), rtol=1e-12)
        # β = 1: the gradient for the mean is that of half the squared error.
        np.testing.assert_allclose(gradients(losses.GaussianNLL(1.0))[0], mean - target, rtol=1e-12)


def test_gradients_by_differences():
    with jax.enable_x64(True):
        mean, log_scale, target = (jnp.asarray(RNG.normal(size=3)) for _ in range(3))
        # Central differences with step 1e-4: truncation 1e-8 times a third derivative of some tens at most.
        settings = {"order": 2, "modes": ["rev"], "eps": 1e-4, "atol": 1e-5, "rtol": 1e-5}
        check_grads(lambda m, s: losses.gaussian_nll((m, s), target), (mean, log_scale), **settings)
        check_grads(lambda m: losses.squared_error(m, target), (mean,), **settings)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_dtype_is_kept_under_jit_and_vmap(precision):
    with jax.enable_x64(precision == "float64"):
        values = jnp.ones((5, 2), precision)

        @jax.jit
        def run(values):
            return (
                jax.vmap(losses.squared_error)(values, values),
                jax.vmap(losses.GaussianNLL(0.5))((values, values), values),
            )

        for loss in run(values):
            assert loss.dtype == precision
            assert loss.shape == (5,)


def test_which_losses_are_least_squares():
    assert isinstance(losses.squared_error, losses.AbstractLeastSquares)
    assert not isinstance(losses.gaussian_nll, losses.AbstractLeastSquares)
    assert not hasattr(losses.gaussian_nll, "residual")


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: losses.squared_error(jnp.ones(1), jnp.ones(())), r"\(1,\).*\(\)"),
        (lambda: losses.squared_error(jnp.ones((3, 1)), jnp.ones(3)), r"\(3, 1\).*\(3,\)"),
        (lambda: losses.gaussian_nll(jnp.ones(2), jnp.ones(2)), "mean, log_scale"),
        (lambda: losses.gaussian_nll((jnp.ones(2), jnp.ones(())), jnp.ones(2)), r"\(\).*\(2,\)"),
        (lambda: losses.gaussian_nll((jnp.ones(3), jnp.ones(2)), jnp.ones(2)), r"\(3,\).*\(2,\)"),
        (lambda: losses.GaussianNLL(1.5), "1.5"),
    ],
)
def test_mistakes_are_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()


@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_fixed_gaussian_is_scipys(shape):
    with jax.enable_x64(True):
        output, target = (jnp.asarray(RNG.normal(scale=9.0, size=shape)) for _ in range(2))
        found = losses.FixedGaussianNLL(0.7)(output, target)
        np.testing.assert_allclose(found, -scipy.stats.norm.logpdf(target, output, 0.7).sum(), rtol=1e-12)


def test_a_perfect_fit_with_a_vanishing_scale_is_no_nan():
    value, slope = jax.value_and_grad(losses.gaussian_nll)((jnp.float32(2), jnp.float32(-200)), jnp.float32(2))
    assert float(value) == pytest.approx(-200 + 0.9189385, rel=1e-6)  # float32
    assert np.isfinite(slope).all()


def test_log_normal_and_logit_normal_are_scipys():
    with jax.enable_x64(True):
        target = np.concatenate([np.logspace(-12, 12, 49)])
        for log_median, log_scale in ((0.0, 0.0), (3.0, -2.0), (-8.0, 1.5)):
            output = (jnp.full(49, log_median), jnp.full(49, log_scale))
            found = jax.vmap(losses.log_normal_nll)(output, jnp.asarray(target))
            expected = -scipy.stats.lognorm.logpdf(target, np.exp(log_scale), scale=np.exp(log_median))
            # 1e-12 relative, and absolute where the density passes 1: SciPy divides by exp(log_median) before the log.
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

            share = np.concatenate([np.logspace(-12, -1, 24), [0.5], 1 - np.logspace(-12, -1, 24)])
            found = jax.vmap(losses.logit_normal_nll)(output, jnp.asarray(share))
            log_odds = scipy.special.logit(share)
            expected = -scipy.stats.norm.logpdf(log_odds, log_median, np.exp(log_scale)) + np.log(share * (1 - share))
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "grid"),
    [
        (losses.log_normal_nll, np.exp(np.linspace(-16, 18, 20_001))),
        (losses.logit_normal_nll, scipy.special.expit(np.linspace(-16, 18, 20_001))),
    ],
)
def test_transformed_densities_integrate_to_one(loss, grid):
    with jax.enable_x64(True):
        output = (jnp.array(1.0), jnp.array(0.5))
        density = np.exp(-np.asarray(jax.vmap(loss, (None, 0))(output, jnp.asarray(grid))))
        # The trapezoidal rule on uneven steps: h² times a second derivative, some 1e-6 for h = 0.0017.
        assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-5)


def test_more_gradients_by_differences():
    with jax.enable_x64(True):
        mean, log_scale = (jnp.asarray(RNG.normal(size=3)) for _ in range(2))
        target = jnp.array([0.2, 0.5, 0.9])
        settings = {"order": 1, "modes": ["rev"], "eps": 1e-4, "atol": 1e-5, "rtol": 1e-5}
        check_grads(lambda m: losses.FixedGaussianNLL(2.0)(m, target), (mean,), **settings)
        check_grads(lambda *o: losses.log_normal_nll(o, target), (mean, log_scale), **settings)
        check_grads(lambda *o: losses.logit_normal_nll(o, target), (mean, log_scale), **settings)


@pytest.mark.parametrize(
    ("loss", "good", "wrong", "named"),
    [
        (
            losses.squared_error,
            [[1.0, -2.0]],
            [[0.0, 1.0], [2.0, np.inf]],
            r"is inf \(row 1, component \(1,\)\)",
        ),
        (losses.gaussian_nll, [1, 2], [0.0, np.nan], r"finite.* is nan \(row 1\)"),
        (losses.log_normal_nll, [0.1, 9.0], [1.0, 0.0], r"> 0.* is 0.0 \(row 1\)"),
        (losses.logit_normal_nll, [0.1, 0.9], [0.5, 1.0, 0.0], r"both excluded.* is 1.0 \(row 1\)"),
    ],
)
def test_targets_are_looked_through(loss, good, wrong, named):
    loss.check_targets(np.asarray(good))
    with pytest.raises(UserError, match=named):
        loss.check_targets(np.asarray(wrong))
    with pytest.raises(UserError, match=named):
        loss.check_targets(jnp.asarray(wrong))
    jax.jit(loss.check_targets)(jnp.asarray(wrong))  # a tracer shows nothing


@pytest.mark.parametrize(("loss", "wrong"), [(losses.log_normal_nll, 0.0), (losses.logit_normal_nll, 1.0)])
def test_a_target_out_of_range_costs_nan(loss, wrong):
    assert np.isnan(loss((jnp.zeros(()), jnp.zeros(())), jnp.float32(wrong)))


def test_a_term_refuses_targets_that_its_loss_cannot_take():
    with pytest.raises(UserError, match=r"PoissonNLL must be a count .*row 2"):
        Supervised(jnp.ones((3, 1)), jnp.array([1.0, 2.0, -1.0]), loss=losses.poisson_nll)
    assert Supervised(jnp.ones((3, 1)), jnp.array([1.0, 2.0, 0.0]), loss=losses.poisson_nll).source.population == 3
    Supervised(jnp.ones((1, 1)), jnp.array([-1.0]), loss=lambda output, target: output - target)  # anybody's own loss


def test_a_fixed_scale_must_be_positive():
    with pytest.raises(UserError, match="scale 0"):
        losses.FixedGaussianNLL(0.0)

"""Losses for outliers and quantiles, against SciPy, scikit-learn and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads
from sklearn.metrics import mean_pinball_loss

from thalweg import losses
from thalweg.errors import UserError

DEVIATIONS = np.concatenate([-np.logspace(-8, 8, 17), [0.0], np.logspace(-8, 8, 17)])
LOG_SCALES = np.array([-30.0, -3.0, 0.0, 2.0, 30.0])


def on_grid(loss, *parts):
    """The loss of every combination of the outputs and the target, which comes last."""
    *outputs, target = (jnp.asarray(part) for part in np.broadcast_arrays(*np.ix_(*parts)))
    flat = [output.ravel() for output in outputs]
    take = (lambda one, y: loss(one[0], y)) if len(flat) == 1 else loss
    return np.asarray(jax.jit(jax.vmap(take))(tuple(flat), target.ravel())).reshape(target.shape)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_absolute_error_and_its_likelihood(shape):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        output, target = (jnp.asarray(rng.normal(size=shape)) for _ in range(2))
        loss = losses.absolute_error(output, target)
        assert loss.shape == ()
        # 1e-14 here and 1e-12 below: at most six terms of one rounding each.
        np.testing.assert_allclose(loss, np.abs(np.asarray(output - target)).sum(), rtol=1e-14)
        likelihood = losses.FixedLaplaceNLL(2.5)(output, target)
        np.testing.assert_allclose(likelihood, -scipy.stats.laplace.logpdf(target, output, 2.5).sum(), rtol=1e-12)
        np.testing.assert_allclose(likelihood, loss / 2.5 + output.size * np.log(5.0), rtol=1e-12)
        gradient = jax.grad(losses.absolute_error)(target, target)
        np.testing.assert_array_equal(gradient, np.zeros(shape))


@pytest.mark.parametrize("delta", [0.5, 1.0, 3.0])
def test_huber_is_scipys_and_pytorchs(delta):
    with jax.enable_x64(True):
        found = on_grid(losses.Huber(delta), [0.0], DEVIATIONS)[0]
        np.testing.assert_allclose(found, scipy.special.huber(delta, DEVIATIONS), rtol=1e-14)  # the same few operations
        slopes = jax.vmap(jax.grad(losses.Huber(delta)), (None, 0))(jnp.array(0.0), jnp.asarray(DEVIATIONS))
        np.testing.assert_allclose(slopes, -np.clip(DEVIATIONS, -delta, delta), rtol=1e-14)
        torch = pytest.importorskip("torch")
        theirs = torch.nn.HuberLoss(reduction="none", delta=delta)(
            torch.zeros(35, dtype=torch.float64), torch.tensor(DEVIATIONS)
        )
        np.testing.assert_allclose(found, theirs, rtol=1e-14)


def test_huber_of_what_squared_would_overflow():
    found, slope = jax.value_and_grad(losses.Huber(1.0))(jnp.float32(1e30), jnp.float32(0))
    assert float(found) == pytest.approx(1e30, rel=1e-6)  # a float32 has 7 digits
    assert float(slope) == 1


def test_quantile_is_scikit_learns_and_least_at_the_quantile():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        output, target = rng.normal(size=(2, 50))
        for level in (0.05, 0.5, 0.9):
            found = losses.Quantile(level)(jnp.asarray(output), jnp.asarray(target))
            # 1e-12: a mean of fifty, in another order.
            np.testing.assert_allclose(found / 50, mean_pinball_loss(target, output, alpha=level), rtol=1e-12)
        levels = (0.1, 0.5, 0.9)
        several = losses.Quantile(levels)(jnp.asarray(np.stack([output] * 3, axis=-1)), jnp.asarray(target))
        apart = sum(losses.Quantile(level)(jnp.asarray(output), jnp.asarray(target)) for level in levels)
        np.testing.assert_allclose(several, apart, rtol=1e-12)
        # Of 1,001 points the loss is flat nowhere: the least lies at the order statistic itself.
        sample = jnp.asarray(rng.normal(size=1_001))
        cost = jax.vmap(lambda guess: losses.Quantile(0.9)(jnp.full_like(sample, guess), sample))(sample)
        assert float(sample[jnp.argmin(cost)]) == np.quantile(sample, 0.9)


def test_laplace_is_scipys_into_the_tails():
    with jax.enable_x64(True):
        found = on_grid(losses.laplace_nll, [0.0], LOG_SCALES, DEVIATIONS)[0]
        with np.errstate(divide="ignore"):  # SciPy takes the logarithm of a density that may have become 0
            expected = -scipy.stats.laplace.logpdf(DEVIATIONS, 0, np.exp(LOG_SCALES)[:, None])
        beyond = np.abs(DEVIATIONS) / np.exp(LOG_SCALES)[:, None] + np.log(2) + LOG_SCALES[:, None]
        expected = np.where(np.isfinite(expected), expected, beyond)
        # exp(-log_scale) against a division by exp(log_scale): one part in 1e16 for each unit of log_scale.
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("df", [0.3, 1.0, 2.5, 7.0, 100.0])
def test_student_t_is_scipys_into_the_tails(df):
    with jax.enable_x64(True):
        expected = -scipy.stats.t.logpdf(DEVIATIONS, df, 0, np.exp(LOG_SCALES)[:, None])
        fixed = on_grid(losses.StudentTNLL(df), [0.0], LOG_SCALES, DEVIATIONS)[0]
        # 1e-12 relative; 1e-13 absolute where the density passes through 1 and its logarithm through 0.
        np.testing.assert_allclose(fixed, expected, rtol=1e-12, atol=1e-13)
        learned = on_grid(losses.student_t_nll, [0.0], LOG_SCALES, np.log([df]), DEVIATIONS)[0, :, 0]
        np.testing.assert_allclose(learned, expected, rtol=1e-12, atol=1e-13)


def test_student_t_becomes_the_gaussian():
    """SciPy's difference of log Γ loses seven digits at 1e10 degrees of freedom; this must not."""
    with jax.enable_x64(True):
        deviations = np.linspace(-10, 10, 41)
        for df in (1e20, np.inf):
            found = on_grid(losses.StudentTNLL(df), [0.0], [0.0], deviations)[0, 0]
            np.testing.assert_allclose(found, -scipy.stats.norm.logpdf(deviations), rtol=1e-12)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("loss", [losses.laplace_nll, losses.student_t_nll, losses.StudentTNLL(3.0)])
def test_values_and_gradients_are_finite_in_the_tails(loss, precision):
    with jax.enable_x64(precision == "float64"):
        parts = 3 if loss is losses.student_t_nll else 2
        grid = [np.array([0.0, 1e-30, 1e-3, 1.0, 1e5, 1e15]), np.array([-40.0, -1, 0, 1, 40])]
        grid += [np.array([-40.0, 0, 1, 40])] * (parts - 2)
        rows = tuple(jnp.asarray(part.ravel(), precision) for part in np.broadcast_arrays(*np.ix_(*grid)))
        value, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss), (0, None)))(rows, jnp.zeros((), precision))
        assert value.dtype == precision
        assert np.isfinite(value).all()
        assert all(np.isfinite(part).all() for part in gradient)


@pytest.mark.slow
def test_gradients_by_differences():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        location, log_scale, log_df, target = (jnp.asarray(rng.normal(size=4)) for _ in range(4))
        # Central differences with step 1e-4: truncation 1e-8 times a third derivative of some tens at most.
        settings = {"order": 2, "modes": ["rev"], "eps": 1e-4, "atol": 1e-5, "rtol": 1e-5}
        check_grads(jax.jit(lambda *o: losses.student_t_nll(o, target)), (location, log_scale, log_df), **settings)
        check_grads(jax.jit(lambda *o: losses.laplace_nll(o, target)), (location, log_scale), **settings)
        check_grads(lambda o: losses.Huber(0.7)(o, target), (location,), **settings)
        # the curvature at a perfect fit is (ν + 1)/(ν s²), not the 0 of a branch cut off there
        curvature = jax.grad(jax.grad(lambda m: losses.StudentTNLL(3.0)((m, jnp.zeros(())), jnp.zeros(()))))
        assert float(curvature(jnp.zeros(()))) == pytest.approx(4 / 3, rel=1e-12)


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: losses.absolute_error(jnp.ones(1), jnp.ones(())), r"\(1,\).*\(\)"),
        (lambda: losses.Huber(0.0), "delta 0"),
        (lambda: losses.Huber(1.0)(jnp.ones((3, 1)), jnp.ones(3)), r"\(3, 1\).*\(3,\)"),
        (lambda: losses.Quantile(1.0), "1.0"),
        (lambda: losses.Quantile(()), r"\(\)"),
        (lambda: losses.Quantile((0.1, 0.9))(jnp.ones(3), jnp.ones(3)), r"\(3,\).*\(3,\)"),
        (lambda: losses.FixedLaplaceNLL(-1.0), "scale -1"),
        (lambda: losses.StudentTNLL(0.0), "df 0"),
        (lambda: losses.student_t_nll((jnp.ones(2), jnp.ones(2)), jnp.ones(2)), "log_df"),
        (lambda: losses.StudentTNLL(3.0)((jnp.ones(2), jnp.ones(3)), jnp.ones(2)), r"\(3,\).*\(2,\)"),
        (lambda: losses.laplace_nll(jnp.ones(2), jnp.ones(2)), "location, log_scale"),
    ],
)
def test_mistakes_are_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()

"""Losses for censored times: against SciPy, a brute force, and a data set whose fit is in the textbooks."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from thalweg import losses
from thalweg.errors import UserError
from thalweg.losses.special import log_survival, stirling_error
from thalweg.objective import AbstractTerm, Objective, Rows

# Weeks in remission of 42 children with leukaemia, 21 on 6-mercaptopurine and 21 on placebo (Freireich et al., Blood 21
# (1963) 699; the example of Cox, 1972). 0: still in remission when last seen.
TREATED = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
RELAPSED = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
TIME = np.array(TREATED + PLACEBO, float)
EVENT = np.array(RELAPSED + [1] * 21, bool)
IS_PLACEBO = np.array([0.0] * 21 + [1.0] * 21)

# statsmodels 0.15.0, PHReg(TIME, IS_PLACEBO, status=EVENT, ties=...): coefficient; loglike there, at 0 and at ½.
STATSMODELS = {
    losses.Ties.EFRON: (1.5721251488290666, [-85.00842457737163, -93.18426999684775, -88.73768117072267]),
    losses.Ties.BRESLOW: (1.5091914125858783, [-86.37962207114555, -93.98505047824518, -89.71214015632265]),
}


def weibull(log_scale, log_shape, time, event):
    outputs = (jnp.asarray(log_scale), jnp.asarray(log_shape))
    return losses.weibull_survival(outputs, (jnp.asarray(time), jnp.asarray(event)))


@pytest.mark.parametrize("log_shape", [-1.5, 0.0, 1.2])
@pytest.mark.parametrize("log_scale", [-4.0, 0.0, 3.0])
def test_weibull_is_scipys_density_and_survival(log_scale, log_shape):
    with jax.enable_x64(True):
        time = np.logspace(-6, 2, 25)
        theirs = scipy.stats.weibull_min(np.exp(log_shape), scale=np.exp(log_scale))
        for event, expected in ((True, -theirs.logpdf(time)), (False, -theirs.logsf(time))):
            found = jax.vmap(lambda t, e=event: weibull(log_scale, log_shape, t, e))(jnp.asarray(time))
            # 1e-12 relative, absolute where a density passes 1: a power taken as the exponential of a product.
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("log_scale", [-2.0, 0.0, 1.0])
def test_log_normal_is_scipys_density_and_survival(log_scale):
    with jax.enable_x64(True):
        time = np.exp(np.linspace(-30, 30, 61))
        theirs = scipy.stats.lognorm(np.exp(log_scale), scale=np.exp(0.7))
        z = (np.log(time) - 0.7) / np.exp(log_scale)
        outputs = (jnp.array(0.7), jnp.array(log_scale))
        for event, expected in ((True, -theirs.logpdf(time)), (False, -scipy.special.log_ndtr(-z))):
            cost = lambda t, e=event: losses.log_normal_survival(outputs, (t, jnp.array(e)))
            found = jax.vmap(cost)(jnp.asarray(time))
            # 2e-12: z is the difference of two logarithms, and its square doubles the error.
            np.testing.assert_allclose(found, expected, rtol=2e-12, atol=1e-12)
        uncensored = jax.vmap(losses.log_normal_nll, (None, 0))(outputs, jnp.asarray(time))
        events = jax.vmap(lambda t: losses.log_normal_survival(outputs, (t, jnp.array(1))))(jnp.asarray(time))
        np.testing.assert_allclose(events, uncensored, rtol=1e-14, atol=1e-14)  # one formula, compiled twice


def test_components_are_summed_and_whole_times_will_do():
    with jax.enable_x64(True):
        time, event = jnp.array([3, 5]), jnp.array([1, 0])
        outputs = (jnp.array([0.5, 1.0]), jnp.array([0.1, -0.3]))
        for loss in (losses.weibull_survival, losses.log_normal_survival):
            apart = [
                loss((outputs[0][i], outputs[1][i]), (jnp.asarray(time[i], float), event[i] == 1)) for i in range(2)
            ]
            np.testing.assert_allclose(loss(outputs, (time, event)), sum(apart), rtol=1e-14)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_values_and_gradients_are_finite_in_the_tails(precision):
    with jax.enable_x64(precision == "float64"):
        grid = np.ix_([-15.0, 0.0, 15.0], [-6.0, 0.0, 1.0], np.exp([-20.0, 0.0, 20.0]))
        first, second, time = (jnp.asarray(part.ravel(), precision) for part in np.broadcast_arrays(*grid))
        for loss in (losses.weibull_survival, losses.log_normal_survival):
            for event in (True, False):
                cost = lambda a, b, t, loss=loss, event=event: loss((a, b), (t, jnp.array(event)))
                value, slope = jax.jit(jax.vmap(jax.value_and_grad(cost, (0, 1))))(first, second, time)
                assert value.dtype == precision
                assert np.isfinite(value).all() or loss is losses.weibull_survival  # (t/λ)^k may pass 3e38
                assert np.isfinite(np.asarray(slope)[:, np.isfinite(value)]).all()


def test_gradients_by_differences():
    with jax.enable_x64(True):
        outputs = (jnp.array([0.3, -0.5, 1.0]), jnp.array([0.2, -0.4, 0.1]))
        target = (jnp.array([0.7, 2.0, 3.0]), jnp.array([1, 0, 1]))
        for loss in (losses.weibull_survival, losses.log_normal_survival):
            # Central differences with step 1e-4: truncation 1e-8 times a third derivative of some tens at most.
            cost = jax.jit(lambda *o, loss=loss: loss(o, target))
            check_grads(cost, outputs, order=1, modes=["rev"], eps=1e-4, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_the_survival_function_and_its_slopes_in_the_tails():
    """JAX's own log_ndtr has the right values and, in float32 at 2e4, a gradient 400 times too large."""
    with jax.enable_x64(True):
        z = np.concatenate([-np.logspace(-3, 1.5, 50), np.logspace(-3, 12, 200), np.linspace(4.9, 5.1, 21)])
        hazard = np.sqrt(2 / np.pi) / scipy.special.erfcx(z / np.sqrt(2))
        # SciPy's own log_ndtr returns 0 beyond 1 - 1e-16; relative there means nothing.
        np.testing.assert_allclose(log_survival(z), scipy.special.log_ndtr(-z), rtol=1e-12, atol=1e-16)
        slope = jax.vmap(jax.grad(log_survival))(jnp.asarray(z))
        np.testing.assert_allclose(slope, -hazard, rtol=1e-12, atol=1e-200)
        curvature = jax.vmap(jax.grad(jax.grad(log_survival)))(jnp.asarray(z))
        exact = -hazard * (hazard - z)
        known = z < 50  # beyond, the difference has no digits left; the limit is -1
        np.testing.assert_allclose(curvature[known], exact[known], rtol=1e-9, atol=1e-200)
        np.testing.assert_allclose(curvature[~known], -1, rtol=1e-3)
    single = jax.vmap(jax.grad(log_survival))(jnp.asarray(z, jnp.float32))
    # 1e-5: exp(-z²/2) of a z with 7 digits; for z < -13 a float32 holds 0.
    np.testing.assert_allclose(single, -hazard, rtol=1e-5, atol=1e-37)


def test_what_stirlings_formula_leaves_out():
    with jax.enable_x64(True):
        z = np.logspace(-6, 2, 200)
        exact = scipy.special.gammaln(z) - ((z - 0.5) * np.log(z) - z + 0.5 * np.log(2 * np.pi))
        np.testing.assert_allclose(stirling_error(jnp.log(z)), exact, rtol=1e-12, atol=1e-13)  # gammaln(100) = 359
        np.testing.assert_allclose(stirling_error(jnp.array(25.0)), np.exp(-25) / 12, rtol=1e-3, atol=1e-14)


# ------------------------------------------------------------------------------------------------------------------ Cox
@pytest.mark.parametrize("ties", losses.Ties)
def test_cox_is_statsmodels_on_the_remission_times(ties):
    with jax.enable_x64(True):
        loss = losses.CoxPartialLikelihood(ties)
        cost = lambda slope: loss(slope * IS_PLACEBO, jnp.asarray(TIME), jnp.asarray(EVENT))
        slopes = jax.jit(lambda slope: (cost(slope), jax.grad(cost)(slope), jax.grad(jax.grad(cost))(slope)))
        fitted, levels = STATSMODELS[ties]
        for slope, level in zip((fitted, 0.0, 0.5), levels, strict=True):
            assert float(slopes(slope)[0]) == pytest.approx(-level, rel=1e-12)
        found = 0.0
        for _ in range(8):  # Newton's method
            _, first, second = slopes(found)
            found -= float(first / second)
        assert found == pytest.approx(fitted, rel=1e-8)  # theirs stops at a gradient of 1e-8


COX = {
    ties: (jax.jit(loss), jax.jit(jax.grad(loss)))
    for ties in losses.Ties
    for loss in [losses.CoxPartialLikelihood(ties)]
}


def brute_force(risk, time, event, ties):
    """The definition: Breslow's sums, and Efron's as the mean over what is left of the tied ones."""
    total = 0.0
    for moment in np.unique(time[event]):
        tied = [i for i in range(len(time)) if time[i] == moment and event[i]]
        at_risk = sum(np.exp(risk[j]) for j in range(len(time)) if time[j] >= moment)
        dying = sum(np.exp(risk[j]) for j in tied)
        for place, i in enumerate(tied):
            gone = place / len(tied) * dying if ties is losses.Ties.EFRON else 0.0
            total += np.log(at_risk - gone) - risk[i]
    return total


@pytest.mark.parametrize(("ties", "seed"), list(itertools.product(losses.Ties, range(3))))
def test_cox_is_the_brute_force_with_ties_and_censoring(ties, seed):
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        n = 40
        risk, event = rng.normal(scale=2.0, size=n), rng.uniform(size=n) < 0.6
        time = rng.integers(1, 12, n).astype(float) if seed else rng.uniform(size=n)
        loss, slope = COX[ties]
        found = loss(jnp.asarray(risk), jnp.asarray(time), jnp.asarray(event))
        assert float(found) == pytest.approx(brute_force(risk, time, event, ties), rel=1e-12)
        order = rng.permutation(n)
        shuffled = loss(jnp.asarray(risk[order]), jnp.asarray(time[order]), jnp.asarray(event[order]))
        assert float(shuffled) == pytest.approx(float(found), rel=1e-12)
        shifted = loss(jnp.asarray(risk) + 300.0, jnp.asarray(time), jnp.asarray(event))
        assert float(shifted) == pytest.approx(float(found), rel=1e-11)  # 300 costs two digits of each
        step = 1e-4 * rng.normal(size=n)  # central differences, so an error of 1e-8 relative
        ahead, behind = (loss(jnp.asarray(risk + s), jnp.asarray(time), jnp.asarray(event)) for s in (step, -step))
        gradient = slope(jnp.asarray(risk), jnp.asarray(time), jnp.asarray(event))
        assert float(gradient @ step) == pytest.approx(float(ahead - behind) / 2, rel=1e-6)


def test_cox_stays_finite_for_risks_that_overflow():
    risk = jnp.array([1e4, -1e4, 0.0, 500.0, -500.0], jnp.float32)
    time, event = jnp.array([1.0, 1.0, 2.0, 2.0, 3.0]), jnp.array([1, 1, 0, 1, 1])
    for ties in losses.Ties:
        value, slope = jax.jit(jax.value_and_grad(losses.CoxPartialLikelihood(ties)))(risk, time, event)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


class Hazards(AbstractTerm):
    """How a user makes a term of it: a cost of the whole batch."""

    source: Rows
    weight: float = 1.0

    def batch_loss(self, model, examples, key):
        x, time, event = examples.values
        risk = jax.vmap(model)(x)
        return losses.cox_partial_likelihood(risk, time, event) / jnp.sum(event), None


def test_cox_serves_a_term():
    with jax.enable_x64(True):
        term = Hazards(Rows((IS_PLACEBO, TIME, EVENT.astype(float))))
        objective = Objective(relapse=term)
        assert set(objective.terms) == {"relapse"}
        slope, levels = STATSMODELS[losses.Ties.EFRON]
        cost, _ = term.batch_loss(eqx.Partial(jnp.multiply, slope), term.source.draw(None, jnp.int32(0)), None)
        assert float(cost) == pytest.approx(-levels[0] / EVENT.sum(), rel=1e-12)


# ------------------------------------------------------------------------------------------------------------- mistakes
def test_a_time_or_event_that_cannot_be_costs_nan():
    for loss in (losses.weibull_survival, losses.log_normal_survival):
        for time, event in ((0.0, 1.0), (-1.0, 0.0), (1.0, 0.5), (np.nan, 1.0)):
            assert np.isnan(loss((jnp.zeros(()), jnp.zeros(())), (jnp.float32(time), jnp.float32(event))))
    assert np.isnan(losses.cox_partial_likelihood(jnp.zeros(2), jnp.array([1.0, jnp.nan]), jnp.ones(2, bool)))


@pytest.mark.parametrize(
    ("times", "events", "named"),
    [
        ([1.0, 0.0], [1, 0], r"time > 0.* is 0.0 \(row 1\)"),
        ([1.0, 2.0, np.inf], [1, 0, 1], r"time > 0.* is inf \(row 2\)"),
        ([1.0, 2.0], [1, 2], r"event.* is 2 \(row 1\)"),
    ],
)
def test_targets_are_looked_through(times, events, named):
    for loss in (losses.weibull_survival, losses.log_normal_survival):
        loss.check_targets((TIME, EVENT))
        with pytest.raises(UserError, match=named):
            loss.check_targets((np.array(times), np.array(events)))
    losses.cox_partial_likelihood.check_targets((TIME - 1, EVENT))  # only the order counts, so 0 is a time
    with pytest.raises(UserError, match="no event"):
        losses.cox_partial_likelihood.check_targets((TIME, np.zeros(42)))
    with pytest.raises(UserError, match="pair"):
        losses.weibull_survival.check_targets(TIME)


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: losses.weibull_survival((jnp.ones(2), jnp.ones(2)), jnp.ones(2)), "time, event"),
        (lambda: losses.weibull_survival(jnp.ones(2), (jnp.ones(2), jnp.ones(2))), "log_scale, log_shape"),
        (lambda: losses.log_normal_survival((jnp.ones(2), jnp.ones(3)), (jnp.ones(2), jnp.ones(2))), r"\(3,\)"),
        (lambda: losses.log_normal_survival((jnp.ones(2), jnp.ones(2)), (jnp.ones(2), jnp.ones(1))), r"\(1,\)"),
        (lambda: losses.cox_partial_likelihood(jnp.ones(2), jnp.ones(3), jnp.ones(3)), r"\(2,\)"),
        (lambda: losses.cox_partial_likelihood(jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.ones((2, 1))), r"\(2, 1\)"),
    ],
)
def test_mistakes_are_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()

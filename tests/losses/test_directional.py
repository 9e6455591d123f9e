"""The directional loss against its closed forms, and the penalties that no descent could feel."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from thalweg import losses
from thalweg.errors import UserError
from thalweg.objective import Objective, Supervised
from thalweg.optim import SGD
from thalweg.train import Phase, fit

RETURNS = np.random.default_rng(0).standard_t(4, size=200)  # heavy tails, as returns have
FORECASTS = np.random.default_rng(1).normal(size=200)


def test_value_and_slope_are_the_closed_forms() -> None:
    forecasts = np.concatenate([FORECASTS, [0.0, 0.0, 0.3, 1e-30]])
    returns = np.concatenate([RETURNS, [0.7, -0.7, 0.0, -1e-300]])
    for weight in (0.0, 0.4, 3.0):
        with jax.enable_x64(True):
            cost = losses.Directional(weight)
            found, slopes = jax.vmap(jax.value_and_grad(cost))(jnp.asarray(forecasts), jnp.asarray(returns))
        wrong = np.sign(forecasts) * np.sign(returns) < 0
        expected = (forecasts - returns) ** 2 + weight * np.maximum(0, -forecasts * returns)
        # 1e-12: three operations of one rounding each, some of which cancel down to a thousandth
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(slopes, 2 * (forecasts - returns) - weight * returns * wrong, rtol=1e-12, atol=1e-12)
        # At the kink the square's own slope.
        np.testing.assert_allclose(np.asarray(slopes)[200:203], [-1.4, 1.4, 0.6], rtol=1e-14)


def test_the_slope_is_that_of_finite_differences_away_from_the_kink() -> None:
    away = np.abs(FORECASTS) > 1e-3
    step = 1e-5
    with jax.enable_x64(True):
        cost = jax.vmap(losses.Directional(2.0))
        slopes = jax.vmap(jax.grad(losses.Directional(2.0)))(jnp.asarray(FORECASTS), jnp.asarray(RETURNS))
        at = lambda forecasts: np.asarray(cost(jnp.asarray(forecasts), jnp.asarray(RETURNS)))
        expected = (at(FORECASTS + step) - at(FORECASTS - step)) / (2 * step)
    # A quadratic has no third derivative: what is left is rounding of costs up to 100, 1e-14/1e-5.
    np.testing.assert_allclose(np.asarray(slopes)[away], expected[away], rtol=1e-8, atol=1e-8)


def test_it_is_convex_in_the_forecast() -> None:
    ends = np.random.default_rng(2).normal(scale=3, size=(2, 200))
    with jax.enable_x64(True):
        cost = jax.vmap(losses.Directional(5.0), (0, 0))
        at = lambda forecast: np.asarray(cost(jnp.asarray(forecast), jnp.asarray(RETURNS)))
        for share in (0.1, 0.5, 0.8):
            between = at(share * ends[0] + (1 - share) * ends[1])
            # strictly, by at least the square's own share·(1 - share)·(a - b)²; 1e-10: rounding of costs up to 1e3
            least = share * at(ends[0]) + (1 - share) * at(ends[1]) - share * (1 - share) * (ends[0] - ends[1]) ** 2
            assert (between <= least + 1e-10).all()


@pytest.mark.parametrize("up", [0.5, 0.55, 0.62, 0.8, 0.3])
@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_best_constant_for_two_outcomes_is_the_mean_moved_towards_nothing(up: float, weight: float) -> None:
    """Outcomes a with probability p and -a: the mean a(2p - 1) loses λ/2·a(1 - p), and stays 0 once it would pass 0."""
    a = 1.5
    mean = a * (2 * up - 1)
    expected = max(0.0, mean - weight / 2 * a * (1 - up)) + min(0.0, mean + weight / 2 * a * up)
    outcomes = np.array([a, -a])
    cost = lambda m: float(np.dot([up, 1 - up], [_cost(m, r, weight) for r in outcomes]))
    found = minimize_scalar(cost, bounds=(-2, 2), method="bounded", options={"xatol": 1e-9})
    assert found.x == pytest.approx(expected, abs=1e-6)  # a golden section finds a square's foot to √rounding
    assert abs(expected) <= abs(mean)
    with jax.enable_x64(True):
        slope = jax.grad(lambda m: jnp.asarray([up, 1 - up]) @ jax.vmap(losses.Directional(weight), (None, 0))(
            m, jnp.asarray(outcomes)))  # fmt: skip
        if expected:
            assert float(slope(jnp.asarray(expected))) == pytest.approx(0.0, abs=1e-12)
        else:  # 0 is the foot of a kink: downhill to it from both sides
            assert float(slope(jnp.asarray(-1e-9))) <= 1e-8
            assert float(slope(jnp.asarray(1e-9))) >= -1e-8


def _cost(forecast: float, outcome: float, weight: float) -> float:
    return (forecast - outcome) ** 2 + weight * max(0.0, -forecast * outcome)


def test_of_any_returns_the_best_constant_loses_half_the_weight_of_the_wrong_side() -> None:
    returns = RETURNS + 0.4
    mean, weight = returns.mean(), 0.3
    expected = mean - weight / 2 * np.maximum(0, -returns).mean()
    assert 0 < expected < mean
    with jax.enable_x64(True):
        total = lambda m: jnp.mean(jax.vmap(losses.Directional(weight), (None, 0))(m, jnp.asarray(returns)))
        assert float(jax.grad(total)(jnp.asarray(expected))) == pytest.approx(0.0, abs=1e-12)  # a mean of 200


def test_a_fit_ends_at_the_best_constant() -> None:
    class Constant(eqx.Module):
        value: jax.Array

        def __call__(self, x, *, key=None):
            return self.value

    returns = RETURNS + 0.4
    objective = Objective(returns=Supervised(np.zeros((200, 1)), returns, loss=losses.Directional(0.3)))
    fitted = fit(Constant(jnp.asarray(0.1)), objective, Phase(SGD(0.25), 60), precision=jnp.float64)
    expected = returns.mean() - 0.15 * np.maximum(0, -returns).mean()
    # a parabola of curvature 2: each step halves what is left, 2⁻⁶⁰
    assert float(fitted.model.value) == pytest.approx(expected, rel=1e-12)


def test_the_weight_has_no_units() -> None:
    """In percent or as fractions, the same λ weighs the same: the cost is homogeneous of degree 2."""
    with jax.enable_x64(True):
        predicted, actual = jnp.asarray(FORECASTS), jnp.asarray(RETURNS)
        plain = losses.directional(predicted, actual, 0.7)
        np.testing.assert_allclose(losses.directional(predicted / 100, actual / 100, 0.7), plain / 1e4, rtol=1e-12)


def test_small_returns_keep_their_sign_in_32_bits() -> None:
    """Their product is 0 there; the slope -λ r is not."""
    small = jnp.float32(1e-30)
    assert float(small * small) == 0.0
    slope = jax.grad(lambda f: losses.directional(f, -small, jnp.float32(1e6)))(small)
    assert float(slope) == pytest.approx(1e-24, rel=1e-5)  # 2 (r̂ - r) is a millionth of it; float32 has 7 digits


def test_a_penalty_of_ones_own() -> None:
    smooth = lambda predicted, actual: jax.nn.softplus(-10 * predicted * actual) / 10
    with jax.enable_x64(True):
        found = losses.Directional(2.0, penalty=smooth)(jnp.asarray(FORECASTS), jnp.asarray(RETURNS))
        expected = np.sum((FORECASTS - RETURNS) ** 2) + 2 * np.sum(np.logaddexp(0, -10 * FORECASTS * RETURNS) / 10)
        np.testing.assert_allclose(found, expected, rtol=1e-12)  # sums of 200
    mine = losses.Directional(2.0, penalty=lambda predicted, actual: jnp.maximum(0, -predicted * actual))
    given = losses.Directional(2.0)
    assert float(mine(jnp.array(0.5), jnp.array(-1.0))) == float(given(jnp.array(0.5), jnp.array(-1.0)))


@pytest.mark.parametrize(
    ("penalty", "reason"),
    [
        (
            lambda predicted, actual: jnp.where(predicted * actual < 0, 1.0, 0.0),
            "slope in the forecast is 0 at all 128",
        ),
        (lambda predicted, actual: jnp.square(jnp.sign(predicted) - jnp.sign(actual)), "slope in the forecast is 0"),
        (lambda predicted, actual: jnp.where(predicted * actual < 0, jnp.abs(actual), 0), "descent would never"),
        (
            lambda predicted, actual: jnp.maximum(0.0, predicted * actual),
            "slope in the forecast is 0",
        ),  # the right side
        (lambda predicted, actual: jnp.log(predicted * actual), "costs nan"),
        (lambda predicted, actual: jnp.stack([predicted, actual]), "two scalars to a real scalar"),
        (lambda predicted: predicted, "two scalars to a real scalar"),
        (0.5, "no function but float"),
    ],
)
def test_a_penalty_without_slope_is_refused(penalty, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        losses.Directional(1.0, penalty=penalty)


def test_what_makes_no_sense_is_refused() -> None:
    for weight in (-0.1, np.inf, np.nan):
        with pytest.raises(UserError, match="weight"):
            losses.Directional(weight)
    with pytest.raises(UserError, match=r"\(3, 1\).*\(3,\)"):
        losses.Directional(1.0)(jnp.ones((3, 1)), jnp.ones(3))
    x = jnp.ones((3, 2))
    Supervised(x, jnp.array([0.1, 0.0, -0.1]), loss=losses.Directional(1.0))  # a day without change is a day
    with pytest.raises(UserError, match="row 1"):
        Supervised(x, jnp.array([0.1, jnp.nan, -0.1]), loss=losses.Directional(1.0))
    for weight in ("a", "1", None):
        with pytest.raises(UserError, match="weight"):
            losses.Directional(weight)
    with pytest.raises(UserError, match="it raises KeyError: 'x'"):
        losses.Directional(1.0, penalty=lambda forecast, outcome: {}["x"])

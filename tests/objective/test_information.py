"""The posterior of unknown numbers against linear least squares, SciPy's curve fit, and simulation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import curve_fit

import thalweg as tw

X = np.linspace(0.0, 2.0, 40)


class Decay(eqx.Module):
    """A·exp(-rate·x) + shift."""

    size: tw.Unknown
    rate: tw.Unknown
    shift: tw.Unknown

    def __call__(self, x):
        return self.size.value * jnp.exp(-self.rate.value * x) + self.shift.value


def decay(size=1.0, rate=1.0, shift=0.1):
    return Decay(tw.Unknown(size, low=0.0), tw.Unknown(rate, low=0.0, high=5.0), tw.Unknown(shift))


def at(*values):
    """The curve at these values of its unknowns."""
    model = decay()
    raws = [u.raw_of(float(v)) for u, v in zip((model.size, model.rate, model.shift), values, strict=True)]
    return eqx.tree_at(lambda m: (m.size.raw, m.rate.raw, m.shift.raw), model, [jnp.asarray(raw) for raw in raws])


def data(noise, seed=0):
    return 2.0 * np.exp(-1.3 * X) + 0.5 + noise * np.random.default_rng(seed).normal(size=len(X))


def objective(y):
    return tw.Objective(data=tw.Residual(misfit, np.stack([X, y], axis=1)))


def misfit(model, at):
    return model(at[0]) - at[1]


def test_the_posterior_is_that_of_scipy():
    y = data(0.05)
    fitted = tw.fit(decay(), objective(y), tw.Phase(tw.LevenbergMarquardt(), 60), precision=jnp.float64)
    found = tw.unknown_posterior(fitted.model, objective(y), {"data": 0.05})
    curve = lambda x, size, rate, shift: size * np.exp(-rate * x) + shift
    best, covariance = curve_fit(curve, X, y, [1, 1, 0.1], sigma=np.full(len(X), 0.05), absolute_sigma=True)
    values = [float(unknown) for unknown in found.unknowns.values()]
    np.testing.assert_allclose(values, best, rtol=1e-5)  # SciPy stops at 1e-8 of the cost
    # From `raw` to the numbers themselves by the slope of the change of variable: dA = A·dlog A, and so on.
    with jax.enable_x64(True):
        slopes = [float(jax.grad(u.value_of)(jnp.float64(u.raw))) for u in found.unknowns.values()]
    np.testing.assert_allclose(np.diag(slopes) @ found.covariance @ np.diag(slopes), covariance, rtol=1e-4)
    assert not found.findings


def test_weights_of_a_network_are_integrated_out():
    """A line a + b·x seen as an unknown b and a 'network' a: the variance of b is that of the regression."""

    class Line(eqx.Module):
        intercept: jax.Array
        slope: tw.Unknown

    line = Line(jnp.asarray(0.0), tw.Unknown(2.0))
    term = tw.Residual(lambda m, at: m.intercept + m.slope.value * at[0] - at[1], np.stack([X, 2 * X], axis=1))
    found = tw.unknown_posterior(line, tw.Objective(data=term), {"data": 0.3})
    expected = 0.3**2 / np.sum((X - X.mean()) ** 2) / 2.0**2
    np.testing.assert_allclose(found.covariance[0, 0], expected, rtol=1e-6)  # the ridge is 1e-10 of the curvature


def test_intervals_keep_the_bounds_and_cover():
    """90 % intervals of a linear-in-log rate over 200 simulated data sets; ±3.5 standard errors of a share of 0.9."""
    hits = 0
    for seed in range(200):
        y = data(0.02, seed)
        curve = lambda x, size, rate, shift: size * np.exp(-rate * x) + shift
        best, _ = curve_fit(curve, X, y, [2, 1.3, 0.5])
        low, high = tw.unknown_posterior(at(*best), objective(y), {"data": 0.02}).interval("rate")
        assert 0 < low < high < 5
        hits += low <= 1.3 <= high
    assert abs(hits / 200 - 0.9) < 3.5 * np.sqrt(0.9 * 0.1 / 200)


class Product(eqx.Module):
    """Two numbers of which only the product is seen."""

    first: tw.Unknown
    second: tw.Unknown


def product():
    return Product(tw.Unknown(2.0, low=0.0), tw.Unknown(3.0, low=0.0))


def product_objective():
    seen = lambda m, at: m.first.value * m.second.value * at[0] - at[1]
    return tw.Objective(data=tw.Residual(seen, np.stack([X, 6.0 * X + 0.01 * np.sin(50 * X)], axis=1)))


def test_the_combination_that_cannot_be_told_is_named():
    """log first - log second: the direction (1, -1)/√2."""
    (finding,) = tw.unknown_posterior(product(), product_objective(), {"data": 0.01}).findings
    assert finding.name == "unidentifiable"
    assert "0.71 log first -0.71 log second" in finding.evidence


def test_a_run_ends_with_that_finding():
    program = tw.Phase(tw.LevenbergMarquardt(), 10)
    fitted = tw.fit(product(), product_objective(), program, precision=jnp.float64, raise_failures=False)
    assert "unidentifiable" in [finding.name for finding in fitted.verdict.findings]
    y = data(0.05)
    fitted = tw.fit(decay(), objective(y), tw.Phase(tw.LevenbergMarquardt(), 60), precision=jnp.float64)
    assert "unidentifiable" not in [finding.name for finding in fitted.verdict.findings]


def test_data_met_to_rounding_do_not_tell_more_than_they_can():
    """Exact data, met exactly: the product is known, the quotient is not."""
    exact = tw.Objective(
        data=tw.Residual(lambda m, at: m.first.value * m.second.value * at[0] - at[1], np.stack([X, 6.0 * X], axis=1))
    )
    (finding,) = tw.unknown_posterior(product(), exact).findings
    assert "log first -0.71 log second" in finding.evidence
    low, high = tw.unknown_posterior(product(), exact).interval("first")
    assert (low, high) == (0.0, np.inf)
    broken = eqx.tree_at(lambda m: m.first.raw, product(), jnp.asarray(jnp.nan))
    with pytest.raises(tw.UserError, match="not finite"):
        tw.unknown_posterior(broken, exact)


def test_an_unknown_that_no_term_uses_is_refused():
    term = tw.Residual(lambda m, at: m.first.value * at[0] - at[1], np.stack([X, X], axis=1))
    with pytest.raises(tw.UserError, match="second"):
        tw.fit(product(), tw.Objective(data=term), tw.Phase(tw.Adam(1e-3), 5))


@pytest.mark.parametrize(
    "bad", [{"start": 0.0, "low": 0.0}, {"start": 2.0, "low": 0.0, "high": 1.0}, {"start": 1.0, "high": 2.0},
            {"start": float("nan")}, {"start": "one"}],
)  # fmt: skip
def test_bad_unknowns_are_refused(bad):
    with pytest.raises(tw.UserError):
        tw.Unknown(**bad)


def test_bad_questions_are_refused():
    with pytest.raises(tw.UserError, match="no unknown number"):
        tw.unknown_posterior(tw.nn.Linear(1, 1, key=jax.random.key(0)), objective(X))
    with pytest.raises(tw.UserError, match="a term 'sensors'"):
        tw.unknown_posterior(decay(), objective(X), {"sensors": 1.0})
    found = tw.unknown_posterior(decay(), objective(data(0.1)), {"data": 0.1})
    with pytest.raises(tw.UserError, match="no unknown 'speed'"):
        found.interval("speed")
    with pytest.raises(tw.UserError, match="level"):
        found.interval("rate", level=1.5)

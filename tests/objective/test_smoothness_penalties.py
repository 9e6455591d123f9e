"""The Jacobian's norm and the total variation, against closed forms, differences, ridge regression and SciPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import lsq_linear
from sklearn.datasets import load_diabetes, load_sample_image
from sklearn.linear_model import Ridge

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP, Linear
from thalweg.objective import JacobianNorm, NoExamples, Objective, Rows, Supervised, TotalVariation
from thalweg.optim import BFGS, LevenbergMarquardt
from thalweg.train import Phase, fit

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def table():
    x, y = load_diabetes(return_X_y=True)
    return x[:60] / x.std(axis=0), (y[:60, None] - y.mean()) / y.std()


def network():
    return MLP(10, 3, width=5, depth=1, activation=jnp.tanh, key=KEY, dtype=float)


# ------------------------------------------------------------------------------------------------------- the Jacobian
def test_of_a_linear_model_it_is_the_squared_weights(table):
    model = Linear(10, 4, key=KEY, dtype=float)
    term = JacobianNorm(table[0], 1.0)
    cost, _ = term.mean_cost(model, term.source.few(60), None)
    assert cost == pytest.approx(np.sum(np.square(model.weight)), rel=1e-13)  # the mean of 60 like sums of 40 squares
    found = eqx.filter_grad(lambda m: term.mean_cost(m, term.source.few(60), None)[0])(model)
    np.testing.assert_allclose(found.weight, 2 * model.weight, rtol=1e-13)
    np.testing.assert_array_equal(found.bias, 0)


def test_of_a_network_it_is_what_differences_say(table):
    model, x, h = network(), table[0][0], 1e-5
    columns = [(model(x + h * e) - model(x - h * e)) / (2 * h) for e in np.eye(10)]
    cost = JacobianNorm(table[0], 1.0).example_cost(model, x, None)
    assert cost == pytest.approx(np.sum(np.square(columns)), rel=1e-8)  # of the order of h², and rounding over h


def test_its_estimate_has_the_exact_mean(table):
    model, x, draws = network(), jnp.asarray(table[0][0]), 20_000
    exact = JacobianNorm(table[0], 1.0).example_cost(model, x, None)
    for probes in (1, 3):
        term = JacobianNorm(table[0], 1.0, probes=probes)
        keys = jax.random.split(jax.random.key(1), draws)
        found = np.asarray(jax.jit(jax.vmap(lambda key, term=term: term.example_cost(model, x, key)))(keys))
        assert found.std() > 0.1 * exact  # it is an estimate
        assert abs(found.mean() - exact) < 4 * found.std() / draws**0.5  # one in 16,000 by chance; the keys are fixed
        assert term.example_cost(model, x, None) == exact  # in inference it is exact


def test_beside_a_squared_error_of_a_linear_model_it_is_ridge_regression_also_by_least_squares(table):
    x, y = table
    weight = 0.3
    objective = Objective(data=Supervised(x, y, loss=squared_error), flat=JacobianNorm(x, weight))
    found = fit(Linear(10, 1, key=KEY, dtype=float), objective, Phase(LevenbergMarquardt(), 20), precision=float)
    ridge = Ridge(alpha=weight * len(x)).fit(x, y[:, 0])
    np.testing.assert_allclose(found.model.weight[:, 0], ridge.coef_, atol=1e-10)  # quadratic: only damping is left
    np.testing.assert_allclose(found.model.bias, ridge.intercept_, atol=1e-10)


# ---------------------------------------------------------------------------------------------------- total variation
def test_of_a_wave_it_is_what_it_climbs_and_falls():
    at = ((np.arange(1_000) + 0.5) / 1_000)[:, None]
    term = TotalVariation(at, 1.0, field=lambda u, x: u(x[0]), smoothing=0.0)
    wave = lambda t: jnp.sin(2 * jnp.pi * t)
    cost, _ = term.mean_cost(wave, term.source.few(1_000), None)
    assert cost == pytest.approx(4, rel=2e-6)  # up 1, down 2, up 1; the midpoint rule errs by π²/(6·1000²)
    # a vector field u = (3x, 4x): the Frobenius norm of its Jacobian; and smoothed, in a closed form
    both = TotalVariation(at, 1.0, field=lambda u, x: jnp.stack([3 * x[0], 4 * x[0]]), smoothing=2.0)
    assert both.loss(None, jnp.array([0.1]), None) == pytest.approx(29**0.5 - 2, rel=1e-14)


def test_where_a_field_is_flat_its_slope_is_zero():
    flat = eqx.tree_at(lambda m: m.weight, Linear(2, 1, key=KEY, dtype=float), jnp.zeros((2, 1)))
    for smoothing in (0.0, 0.1):
        term = TotalVariation(np.ones((3, 2)), 1.0, smoothing=smoothing)
        found = eqx.filter_grad(lambda m, term=term: term.loss(m, jnp.ones(2), None))(flat)
        np.testing.assert_array_equal(found.weight, 0)


class Line(eqx.Module):
    """Values at 0, 1, …, straight between them."""

    values: jax.Array

    def __call__(self, x, *, key=None):
        left = jnp.clip(jnp.floor(x[0]).astype(int), 0, self.values.size - 2)
        share = x[0] - left.astype(x.dtype)
        return (1 - share) * self.values[left] + share * self.values[left + 1]


def test_a_row_of_a_photograph_is_denoised_as_by_the_dual_problem():
    row = np.asarray(load_sample_image("china.jpg"))[200, 100:160].mean(axis=1) / 255
    n, weight, smoothing = len(row), 0.1, 1e-4
    places = np.arange(n)[:, None]
    objective = Objective(
        data=Supervised(places.astype(float), row, loss=squared_error),
        edges=TotalVariation(places[:-1] + 0.5, weight, smoothing=smoothing),
    )
    found = np.asarray(fit(Line(jnp.asarray(row)), objective, Phase(BFGS(), 600), precision=float).model.values)
    # ½‖v − y‖² + μ‖Dv‖₁ is least at v = y − Dᵀz, where z minimizes ‖y − Dᵀz‖ within |z| ≤ μ (Chambolle, 2004)
    differences, bound = np.diff(np.eye(n), axis=0), weight * n / (2 * (n - 1))
    dual = lsq_linear(differences.T, row, bounds=(-bound, bound), tol=1e-14).x
    exact = row - differences.T @ dual
    assert np.sum(np.abs(np.diff(exact)) < 1e-6) > n / 2  # it has become flat in most places
    # smoothing changes the landscape by at most λs, and that rises from its lowest point by at least the mean square
    assert np.sqrt(np.mean((found - exact) ** 2)) < (weight * smoothing) ** 0.5
    assert np.sqrt(np.mean((row - exact) ** 2)) > 10 * (weight * smoothing) ** 0.5


# ---------------------------------------------------------------------------------------------------------- bad input
def test_what_is_no_penalty_is_refused():
    x = np.ones((4, 2))
    for weight in (-1e-9, float("inf"), "0.1"):
        for penalty in (JacobianNorm, TotalVariation):
            with pytest.raises(UserError, match="not below 0") as refused:
                penalty(x, weight)
            assert penalty.__name__ in str(refused.value)
    for probes in (0, True, 1.5):
        with pytest.raises(UserError, match="probes"):
            JacobianNorm(x, 1.0, probes=probes)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="belongs to the source"):
        JacobianNorm(Rows(x), 1.0, batch_size=2)
    for smoothing in (-1.0, float("nan")):
        with pytest.raises(UserError, match="smoothing"):
            TotalVariation(x, 1.0, smoothing=smoothing)
    with pytest.raises(UserError, match="a field is a function"):
        TotalVariation(x, 1.0, field="k")  # pyright: ignore[reportArgumentType]
    for penalty in (JacobianNorm, TotalVariation):
        with pytest.raises(UserError, match="no place at which"):
            penalty(NoExamples(), 1.0)


@pytest.mark.parametrize(
    ("penalty", "values", "key", "named"),
    [
        (JacobianNorm, np.ones((4, 2), int), None, "int.* has no slopes"),
        (TotalVariation, np.ones((4, 2), int), None, "int.* has no slopes"),
        (JacobianNorm, (np.ones((4, 2)), np.ones((4, 1))), None, "2 arrays.*without targets"),
        (JacobianNorm, (np.ones((4, 2)), np.ones((4, 1))), jax.random.key(0), "2 arrays.*without targets"),
    ],
)
def test_inputs_without_slopes_are_refused(penalty, values, key, named):
    model = Linear(2, 1, key=jax.random.key(0), dtype=float)
    with pytest.raises(UserError, match=named):
        penalty(values, 1.0).mean_cost(model, Rows(values).few(4), key)

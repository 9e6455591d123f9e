"""Penalties: λθ and λ·sign(θ), against ridge and lasso of scikit-learn, and against decoupled decay."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Lasso, Ridge

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP, BatchNorm, Linear, Sequential, Standardize
from thalweg.objective import L1, L2, Objective, Supervised, frozen, kernels, only, split, trainable
from thalweg.optim import LBFGS, SGD, Adam, AdamW, Cosine, FirstOrder, LevenbergMarquardt
from thalweg.train import FitMany, Phase, fit, fit_many

RATE, DECAY = 0.1, 0.3


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def table():
    data = load_diabetes()
    x = data.data[:80] / data.data[:80].std(axis=0)
    y = (data.target[:80] - data.target.mean()) / data.target.std()
    return x, y[:, None]


def linear(seed=0):
    return Linear(10, 1, key=jax.random.key(seed), dtype=float)


def network(seed=0):
    return MLP(10, 1, width=5, depth=1, activation=jnp.tanh, key=jax.random.key(seed), dtype=float)


def normalized():
    first, last = (Linear(10, 4, key=jax.random.key(0), dtype=float), Linear(4, 1, key=jax.random.key(1), dtype=float))
    constants = Standardize(np.full(10, 2.0), np.full(10, 3.0), dtype=float)
    return Sequential([constants, first, BatchNorm(4, dtype=float), last])


def slope(objective, model):
    """The gradient of the total at the model, a pytree like it with None for what is not trained."""
    parts, state = split(model), objective.init(jax.random.key(1))
    static = eqx.combine(parts.model_state, parts.frozen, parts.static)
    problem = objective.bind(static, objective.draw(state, jnp.int32(0)), state, None)
    return jax.grad(lambda p: problem.evaluate(p)[0])(parts.params)


def assert_penalty_gradient(found, model, where, expected):
    marks = where(model)
    leaves = jax.tree.leaves(model), jax.tree.leaves(marks), jax.tree.leaves(found, is_leaf=lambda leaf: leaf is None)
    touched = 0
    for leaf, mark, g in zip(*leaves, strict=True):
        if g is not None:
            # one product of two numbers: a rounding of it
            np.testing.assert_allclose(g, expected(leaf) if mark else np.zeros_like(leaf), rtol=1e-15)
            touched += bool(mark)
    assert touched


FILTERS = [kernels, trainable, only(lambda m: m.layers[1]), frozen(lambda m: m.layers[1].weight)]


@pytest.mark.parametrize("where", FILTERS)
def test_the_gradient_of_l2_is_the_parameters_times_its_weight(where):
    model = normalized()
    objective = Objective(small=L2(DECAY, where=where)).astype(float)
    assert_penalty_gradient(slope(objective, model), model, where, lambda leaf: DECAY * np.asarray(leaf))


@pytest.mark.parametrize("where", FILTERS)
def test_the_subgradient_of_l1_is_the_sign_times_its_weight(where):
    # a parameter that is exactly 0 stays there: its subgradient is 0
    model = eqx.tree_at(lambda m: m.layers[1].weight, normalized(), replace_fn=lambda w: w.at[0].set(0))
    objective = Objective(sparse=L1(DECAY, where=where)).astype(float)
    assert_penalty_gradient(slope(objective, model), model, where, lambda leaf: DECAY * np.sign(leaf))


def test_only_what_is_trained_counts():
    model = normalized()
    everything = lambda m: jax.tree.map(eqx.is_array, m)  # running statistics, their count, the constants of the inputs
    cost, after = L2(1.0, where=everything).batch_loss(model, None, None)
    arrays = [model.layers[1].weight, model.layers[1].bias, model.layers[2].weight, model.layers[2].bias]
    arrays += [model.layers[3].weight, model.layers[3].bias]
    assert after is None
    # a sum of 60 squares: rounding of 1e-16 each
    assert cost == pytest.approx(sum(float(np.sum(np.square(a))) for a in arrays) / 2, rel=1e-14)


# ------------------------------------------------------------------------------------------- against decoupled decay
def one_step(optimizer, model, table, decay=0.0):
    x, y = table
    terms = {"data": Supervised(x, y, loss=squared_error)}
    if decay:
        terms["small"] = L2(decay, where=trainable)
    fitted = fit(model, Objective(**terms), Phase(optimizer, 1), precision=float, raise_failures=False)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(fitted.model, eqx.is_inexact_array))]


def data_gradient(model, table):
    x, y = table
    objective = Objective(data=Supervised(x, y, loss=squared_error)).astype(float)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(slope(objective, model))]


@pytest.mark.slow
def test_under_gradient_descent_the_penalty_is_decoupled_decay(table):
    model = network()
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))]
    penalized = one_step(SGD(RATE), model, table, DECAY)
    decoupled = one_step(FirstOrder(optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE))), model, table)
    closed = [(1 - RATE * DECAY) * p - RATE * g for p, g in zip(before, data_gradient(model, table), strict=True)]
    for mine, theirs, exact in zip(penalized, decoupled, closed, strict=True):
        # the gradient is a sum of 80 terms of order one, in another order: 1e-14 leaves it a factor of ten
        np.testing.assert_allclose(mine, exact, rtol=0, atol=1e-14)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-14)


@pytest.mark.slow
def test_under_adam_it_is_not(table):
    model, eps = network(), 1e-8
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))]
    penalized = one_step(Adam(RATE, eps=eps), model, table, DECAY)
    decoupled = one_step(AdamW(RATE, decay=DECAY, eps=eps), model, table)
    apart = 0.0
    for p, g, mine, theirs in zip(before, data_gradient(model, table), penalized, decoupled, strict=True):
        # Adam's first step: both of its unbiased moments are the gradient's own. The quotient is of order one, its
        # rounding some 1e-16 divided by 1 - 0.999.
        coupled = g + DECAY * p
        np.testing.assert_allclose(mine, p - RATE * coupled / (np.abs(coupled) + eps), rtol=0, atol=1e-12)
        np.testing.assert_allclose(theirs, (1 - RATE * DECAY) * p - RATE * g / (np.abs(g) + eps), rtol=0, atol=1e-12)
        apart = max(apart, float(np.abs(mine - theirs).max()))
    # Adam divides the penalty's pull away, unless it turns the gradient's sign; decoupled, every parameter shrinks
    largest = max(float(np.abs(p).max()) for p in before)
    assert apart > RATE * DECAY * largest / 2


# ----------------------------------------------------------------------------------------------- against scikit-learn
def test_l2_beside_a_squared_error_is_ridge_regression(table):
    x, y = table
    weight = 0.7
    objective = Objective(data=Supervised(x, y, loss=squared_error), small=L2(weight))
    fitted = fit(linear(), objective, Phase(LBFGS(), 200, redraw=0), precision=float)
    ridge = Ridge(alpha=len(x) * weight / 2).fit(x, y[:, 0])
    # L-BFGS stops where no decrease of a value of order one can be told: 1e-16 in it, its root in the parameters
    np.testing.assert_allclose(fitted.model.weight[:, 0], ridge.coef_, atol=1e-7)
    np.testing.assert_allclose(fitted.model.bias, ridge.intercept_, atol=1e-7)  # not penalized
    parts = fitted.rows[-1]["parts"]
    # the record holds costs before their weight
    assert parts["small"] == pytest.approx(np.sum(ridge.coef_**2) / 2, rel=1e-6)


def test_l1_beside_a_squared_error_is_the_lasso(table):
    x, y = table
    weight = 0.2
    objective = Objective(data=Supervised(x, y, loss=squared_error), sparse=L1(weight))
    # the last rates are a thousandth, and a parameter about 0 is passed by at most rate times weight
    program = Phase(SGD(Cosine(0.05, 4_000)), 4_000)
    fitted = fit(linear(), objective, program, precision=float)
    lasso = Lasso(alpha=weight / 2, tol=1e-10, max_iter=100_000).fit(x, y[:, 0])
    assert np.sum(lasso.coef_ == 0) >= 3  # else it would be no test of a lasso
    np.testing.assert_allclose(fitted.model.weight[:, 0], lasso.coef_, atol=1e-3)


# ------------------------------------------------------------------------------------------------------ with the rest
@pytest.mark.slow
def test_members_are_each_fitted_with_the_penalty(table):
    x, y = table
    objective = Objective(data=Supervised(x, y, loss=squared_error, batch_size=20), small=L2(0.1), sparse=L1(0.01))
    many = fit_many([network(seed) for seed in (0, 1, 2)], objective, Phase(SGD(0.05), 10), seeds=[0, 1, 2])
    assert isinstance(many, FitMany)
    for seed, found in enumerate(many.models):
        alone = fit(network(seed), objective, Phase(SGD(0.05), 10), seed=seed).model
        pairs = zip(*(jax.tree.leaves(eqx.filter(model, eqx.is_array)) for model in (found, alone)), strict=True)
        for mine, theirs in pairs:
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)  # 10 steps of sums of order one


def test_a_part_that_a_phase_holds_stays_where_it_is(table):
    x, y = table
    objective = Objective(data=Supervised(x, y, loss=squared_error), small=L2(1.0))
    model = network()
    fitted = fit(model, objective, Phase(SGD(0.05), 5, where=only(lambda m: m.layers[-1])), precision=float)
    np.testing.assert_array_equal(fitted.model.layers[0].weight, model.layers[0].weight)
    assert np.any(fitted.model.layers[-1].weight != model.layers[-1].weight)


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("weight", [-1e-3, float("nan"), float("inf"), "0.1", None, np.ones(2)])
@pytest.mark.parametrize("penalty", [L1, L2])
def test_a_weight_that_is_no_size_is_refused_by_the_terms_name(penalty, weight):
    with pytest.raises(UserError, match="not below 0") as refused:
        penalty(weight)
    assert penalty.__name__ in str(refused.value)


def test_a_weight_of_zero_switches_it_off(table):
    x, y = table
    data = Supervised(x, y, loss=squared_error)
    off = slope(Objective(data=data, small=L2(0), sparse=L1(0.0)).astype(float), network())
    without = slope(Objective(data=data).astype(float), network())
    for mine, theirs in zip(jax.tree.leaves(off), jax.tree.leaves(without), strict=True):
        np.testing.assert_array_equal(mine, theirs)


class Scale(eqx.Module):
    factor: jax.Array

    def __call__(self, x, *, key=None):
        return x[:1] * self.factor


@pytest.mark.parametrize(
    ("model", "where", "named"),
    [
        (Scale(jnp.ones(1)), kernels, "nothing to penalize"),  # an array of one axis
        (network(), lambda m: jax.tree.map(lambda _: False, m), "nothing to penalize"),
        (network(), lambda m: True, "structure"),
    ],
)
def test_a_filter_that_selects_nothing_is_refused_by_the_terms_name(table, model, where, named):
    x, y = table
    objective = Objective(data=Supervised(x, y, loss=squared_error), small=L2(0.1, where=where))
    with pytest.raises(UserError, match=named) as refused:
        fit(model, objective, Phase(SGD(0.1), 1), precision=float)
    assert "term 'small'" in str(refused.value)


def test_a_filter_that_is_no_function_is_refused():
    with pytest.raises(UserError, match=r"L1\(where"):
        L1(0.1, where="weights")  # pyright: ignore[reportArgumentType]


def test_least_squares_methods_refuse_a_penalty_by_name(table):
    x, y = table
    objective = Objective(data=Supervised(x, y, loss=squared_error), small=L2(0.1))
    with pytest.raises(UserError, match="term 'small'"):
        fit(network(), objective, Phase(LevenbergMarquardt(), 1, redraw=0), precision=float)

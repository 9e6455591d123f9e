"""The slice of landscape that an optimizer sees: residuals, Jacobians and gradients that belong to one total."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from sklearn.datasets import load_diabetes

from thalweg.errors import UserError
from thalweg.losses import CrossEntropy, GaussianNLL, squared_error
from thalweg.nn import MLP, BatchNorm, Linear, Sequential
from thalweg.objective import AbstractTerm, Equal, NoExamples, Objective, Residual, Rows, Supervised, frozen, split


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def table():
    data = load_diabetes()
    x, y = data.data[:40] / data.data.std(axis=0), (data.target[:40] - data.target.mean()) / data.target.std()
    return x, y[:, None]


class Penalty(AbstractTerm):
    """A coupled term: ‖params‖², of the parameters alone."""

    source: NoExamples = NoExamples()
    weight: float = 0.01

    def batch_loss(self, model, examples, key):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))), None


def network(**kwargs):
    return MLP(10, 1, width=5, depth=1, activation=jnp.tanh, key=jax.random.key(0), dtype=float, **kwargs)


def bound(objective, model, *, key=None, where=None, dtype=np.float64):
    objective = objective.astype(dtype)
    parts = split(model) if where is None else split(model, where)
    static = eqx.combine(parts.model_state, parts.frozen, parts.static)
    state = objective.init(jax.random.key(1))
    return objective.bind(static, objective.draw(state, jnp.int32(0)), state, key), parts.params


def compiled(problem, method, params):
    return jax.jit(lambda p: getattr(problem, method)(p))(params)


def slope(problem, params):
    return jax.jit(jax.grad(lambda p: problem.evaluate(p)[0]))(params)


def least_squares(table, **kwargs):
    """Two least-squares terms, one with weights of examples, the other with two residuals a point."""
    x, y = table
    slope = lambda u, point: jnp.stack([jnp.sum(jax.grad(lambda z: u(z)[0])(point)), u(point)[0] - 1])
    weights = np.linspace(0.1, 2.0, len(x))
    return Objective(
        data=Supervised(x, y, loss=squared_error, weights=weights, **kwargs),
        equation=Residual(slope, x[:7], weight=0.3),
    )


def test_residuals_square_to_the_total_and_the_jacobian_is_their_derivative(table):
    problem, params = bound(least_squares(table), network(), where=frozen(lambda m: m.layers[0].bias))
    total, evaluation = compiled(problem, "evaluate", params)
    residuals, jacobian, parts = compiled(problem, "linearize", params)
    assert residuals.shape == (40 + 2 * 7,)
    # sums of some fifty products each: rounding of 1e-15 relative
    assert np.isclose(jnp.vdot(residuals, residuals), total, rtol=1e-13)
    assert np.allclose(residuals, compiled(problem, "residuals", params), rtol=1e-14, atol=1e-15)
    assert np.array_equal(jacobian, compiled(problem, "jacobian", params))
    assert parts.keys() == evaluation.parts.keys()
    assert all(np.isclose(parts[name], evaluation.parts[name], rtol=1e-13) for name in parts)
    flat, unravel = ravel_pytree(params)
    assert flat.size == 10 * 5 + 5 + 1  # without the frozen bias
    expected = jax.jit(jax.jacfwd(lambda p: problem.residuals(unravel(p))))(flat)
    assert np.allclose(jacobian, expected, rtol=1e-12, atol=1e-13)
    gradient = ravel_pytree(slope(problem, params))[0]
    assert np.allclose(2 * jacobian.T @ residuals, gradient, rtol=1e-11, atol=1e-13)


def test_with_dropout_residuals_total_and_gradients_share_their_masks(table):
    problem, params = bound(least_squares(table), network(dropout=0.5), key=jax.random.key(3))
    total, _ = problem.evaluate(params)
    assert np.isclose(jnp.sum(problem.residuals(params) ** 2), total, rtol=1e-13)
    again, _ = bound(least_squares(table), network(dropout=0.5), key=jax.random.key(4))
    assert not np.isclose(again.evaluate(params)[0], total, rtol=1e-6)


def test_part_gradients_sum_to_the_gradient(table):
    objective = Objective(penalty=Penalty(), **least_squares(table).terms)
    problem, params = bound(objective, network())
    gradient = slope(problem, params)
    parts = compiled(problem, "part_gradients", params)
    assert set(parts) == {"data", "equation", "penalty"}
    total = jax.tree.map(lambda *g: sum(g), *parts.values())
    for found, expected in zip(jax.tree.leaves(total), jax.tree.leaves(gradient), strict=True):
        assert np.allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_example_gradients_average_to_the_gradient(table, dtype):
    model = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, network())
    problem, params = bound(least_squares(table), model, dtype=dtype)
    examples = compiled(problem, "example_gradients", params)
    gradient = slope(problem, params)
    means = [jax.tree.map(lambda g: jnp.mean(g, axis=0), examples[name]) for name in ("data", "equation")]
    assert jax.tree.leaves(examples["data"])[0].shape[0] == 40
    tolerance = 1e-5 if dtype == np.float32 else 1e-13  # some hundred units of rounding, over 40 terms
    for found, expected in zip(
        jax.tree.leaves(jax.tree.map(lambda a, b: a + b, *means)), jax.tree.leaves(gradient), strict=True
    ):
        assert found.dtype == dtype
        assert np.allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_terms_add_up_by_their_weights(table):
    objective = Objective(penalty=Penalty(weight=0.5), **least_squares(table).terms)
    problem, params = bound(objective, network())
    total, evaluation = problem.evaluate(params)
    weights = {"penalty": 0.5, "data": 1.0, "equation": 0.3}
    assert np.isclose(total, sum(weights[name] * evaluation.parts[name] for name in weights), rtol=1e-14)
    assert problem.population == {"data": 40, "equation": 7, "penalty": 0}


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [(squared_error, 1), (GaussianNLL(), 2), (CrossEntropy(), 3), (lambda o, y: jnp.abs(o[0] - y[0]), 1)],
)
def test_an_example_of_weight_two_counts_as_two(table, loss, outputs):
    x, y = table
    model = MLP(10, outputs, width=5, depth=1, key=jax.random.key(0), dtype=float)
    cost = loss
    if isinstance(loss, CrossEntropy):
        y = np.arange(40) % 3
    if isinstance(loss, GaussianNLL):
        y, cost = y[:, 0], lambda output, target: loss((output[0], output[1]), target)
    weights = np.ones(40)
    weights[:10] = 2
    twice = np.concatenate([np.arange(40), np.arange(10)])
    weighted, params = bound(Objective(d=Supervised(x, y, loss=cost, weights=weights)), model)
    repeated, _ = bound(Objective(d=Supervised(x[twice], y[twice], loss=cost)), model)
    value = lambda problem: compiled(problem, "evaluate", params)[0]
    assert np.isclose(value(weighted), value(repeated), rtol=1e-13)
    slopes = [ravel_pytree(slope(problem, params))[0] for problem in (weighted, repeated)]
    assert np.allclose(*slopes, rtol=1e-11, atol=1e-14)


def test_class_weights_balance_the_classes(table):
    """Weights n/(classes · count), as scikit-learn's "balanced", give the mean over classes of each class's mean."""
    x, _ = table
    y = (np.arange(40) % 5 == 0).astype(int)
    model = MLP(10, 2, width=5, depth=1, key=jax.random.key(0), dtype=float)
    weights = 40 / (2 * np.bincount(y))[y]
    problem, params = bound(Objective(d=Supervised(x, y, loss=CrossEntropy(), weights=weights)), model)
    costs = np.asarray(jax.vmap(lambda a, b: CrossEntropy()(model(a), b))(jnp.asarray(x), jnp.asarray(y)))
    assert np.isclose(problem.evaluate(params)[0], (costs[y == 0].mean() + costs[y == 1].mean()) / 2, rtol=1e-13)


def test_a_term_of_output_and_loss_of_output_is_a_term(table):
    class Split(AbstractTerm):
        source: Rows
        weight: float = 1.0

        def output(self, model, example, key):
            return model(example[0])

        def loss_of_output(self, output, example):
            return jnp.sum((output - example[1]) ** 2)

    x, y = table
    one, params = bound(Objective(data=Split(Rows((x, y)))), network())
    other, _ = bound(Objective(data=Supervised(x, y, loss=squared_error)), network())
    assert np.isclose(one.evaluate(params)[0], other.evaluate(params)[0], rtol=1e-13)
    with pytest.raises(UserError, match=r"has a loss but no residual.* \(term 'data'\)"):
        one.jacobian(params)


def test_the_order_in_which_terms_are_named_changes_nothing(table):
    x, y = table
    terms = {name: Supervised(x, y, loss=squared_error, batch_size=8) for name in ("late", "early", "middle")}
    one, params = bound(Objective(**terms), network(dropout=0.5), key=jax.random.key(3))
    other, _ = bound(Objective(**dict(reversed(terms.items()))), network(dropout=0.5), key=jax.random.key(3))
    assert one.evaluate(params)[0] == other.evaluate(params)[0]
    # and a further term leaves the draws of the others as they were
    more, _ = bound(Objective(another=Penalty(), **terms), network(dropout=0.5), key=jax.random.key(3))
    for name in terms:
        assert more.evaluate(params)[1].parts[name] == one.evaluate(params)[1].parts[name]
    assert one.evaluate(params)[1].parts["late"] != one.evaluate(params)[1].parts["early"]


def batch_normalized():
    keys = jax.random.split(jax.random.key(0), 2)
    return Sequential(
        [Linear(10, 4, key=keys[0], dtype=float), BatchNorm(4, dtype=float), Linear(4, 1, key=keys[1], dtype=float)]
    )


COUPLED = r"couples the examples of a batch \(term '{}'\)"


@pytest.mark.parametrize("method", ["residuals", "jacobian", "linearize", "example_gradients"])
def test_refuses_single_examples_where_there_are_none(method, table):
    x, y = table
    problem, params = bound(Objective(data=Supervised(x, y, loss=squared_error)), batch_normalized())
    with pytest.raises(UserError, match=COUPLED.format("data")):
        getattr(problem, method)(params)
    problem, params = bound(Objective(size=Equal(lambda m, z: m(z[0])[0], 0.0, Rows((x, y)))), network())
    with pytest.raises(UserError, match=COUPLED.format("size")):
        getattr(problem, method)(params)


@pytest.mark.parametrize("method", ["residuals", "jacobian", "linearize"])
def test_refuses_jacobians_of_terms_without_residual(method, table):
    x, y = table
    objective = Objective(
        fit=Supervised(x, y, loss=squared_error), tail=Supervised(x, y, loss=lambda o, t: jnp.sum(jnp.abs(o - t)))
    )
    problem, params = bound(objective, network())
    with pytest.raises(UserError, match=r"has a loss but no residual.* \(term 'tail'\)"):
        getattr(problem, method)(params)
    assert set(problem.example_gradients(params)) == {"fit", "tail"}
    problem, params = bound(Objective(debt=Supervised(x, y, loss=squared_error, weight=-1.0)), network())
    with pytest.raises(UserError, match=r"weights not below 0, not -1.0 \(term 'debt'\)"):
        getattr(problem, method)(params)


def test_names_the_term_whose_cost_has_the_wrong_shape(table):
    x, y = table
    vector = Supervised(x, y, loss=lambda output, target: (output - target) ** 2)
    problem, params = bound(Objective(fine=Supervised(x, y, loss=squared_error), odd=vector), network())
    with pytest.raises(UserError, match=r"must be a scalar, shape \(\), not \(1,\) \(term 'odd'\)"):
        problem.evaluate(params)

    class Odd(Penalty):
        def batch_loss(self, model, examples, key):
            return jnp.zeros(2), None

    problem, params = bound(Objective(odd=Odd()), network())
    with pytest.raises(UserError, match=r"must be a scalar, not of shape \(2,\) \(term 'odd'\)"):
        problem.evaluate(params)
    flat = Supervised(x, y[:, 0], loss=squared_error)
    problem, params = bound(Objective(odd=flat), network())
    with pytest.raises(UserError, match=r"\(1,\) against a target of shape \(\) \(term 'odd', SquaredError\)"):
        problem.evaluate(params)


def test_refuses_objectives_that_cannot_be(table):
    x, y = table
    fine = Supervised(x, y, loss=squared_error)
    with pytest.raises(UserError, match="at least one term"):
        Objective()
    with pytest.raises(UserError, match=r"must be an AbstractTerm, not function \(term 'data'\)"):
        Objective(data=lambda model: 0.0)  # pyright: ignore[reportArgumentType]
    for weight in (float("nan"), float("inf"), np.ones(2), "heavy"):
        with pytest.raises(UserError, match=r"weight must be one finite number \(term 'data'\)"):
            Objective(data=Supervised(x, y, loss=squared_error, weight=weight))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="refresh_every must not be negative"):
        Objective(data=fine, refresh_every=-1)
    with pytest.raises(UserError, match="40 inputs but 39 targets"):
        Supervised(x, y[1:], loss=squared_error)
    with pytest.raises(UserError, match="needs targets"):
        Supervised(x, loss=squared_error)
    with pytest.raises(UserError, match="belong to the source"):
        Supervised(Rows((x, y)), loss=squared_error, batch_size=4)
    with pytest.raises(UserError, match="only inside an objective"):
        Equal(lambda m, z: z, 0.0, Rows(x)).batch_loss(network(), Rows(x).draw(None, jnp.int32(0)), None)

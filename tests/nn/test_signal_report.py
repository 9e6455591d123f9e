"""Signals by depth: closed forms over fifty layers, NumPy's own passes, units that are dead by construction."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg import nn
from thalweg.errors import UserError
from thalweg.nn.taps import Passes

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
WIDTH, DEPTH = 256, 50
X = RANDOM.normal(size=(64, WIDTH))

# Each ReLU layer multiplies a mean square by a factor whose logarithm has a standard deviation of sqrt(5/width) and a
# mean 5/(2·width) below that of the expectation; the growth is the mean of 49 of them: a standard deviation of 2 %.
GROWTH_ERROR = 4 * np.sqrt(5 / WIDTH / (DEPTH - 1)) + 5 / (2 * WIDTH)


def deep(init=None, **options):
    return nn.MLP(WIDTH, 1, width=WIDTH, depth=DEPTH, activation=jax.nn.relu, init=init, key=KEY, **options)


def names(report):
    return [finding.name for finding in report.findings]


def by_hand(*layers):
    """A Sequential of Linear layers with these (weight, bias), and modules as they are."""

    def linear(weight, bias):
        weight = jnp.asarray(weight, jnp.float32)
        layer = nn.Linear(*weight.shape, key=KEY)
        return eqx.tree_at(lambda m: (m.weight, m.bias), layer, (weight, jnp.asarray(bias, jnp.float32)))

    return nn.Sequential([linear(*layer) if isinstance(layer, tuple) else layer for layer in layers])


# ------------------------------------------------------------------------------------------------------- fifty layers
@pytest.mark.slow
def test_hes_weights_keep_signal_and_gradient_over_fifty_layers():
    report = nn.signal_report(deep(), X)
    assert report.findings == ()
    assert np.log(report.forward_growth) == pytest.approx(0, abs=GROWTH_ERROR)
    assert np.log(report.backward_growth) == pytest.approx(0, abs=GROWTH_ERROR)
    assert len(report.hidden) == DEPTH
    # over all 49: four standard deviations of the sum, e^4, where weights of variance 1/fan_in would leave e^-34
    total = report.mean_square[report.hidden[-1]] / report.mean_square[report.hidden[0]]
    assert abs(np.log(total)) < 4 * np.sqrt(5 * 49 / WIDTH) + 0.5
    np.testing.assert_array_equal(report.without_dropout, report.mean_square)


@pytest.mark.parametrize(
    ("init", "factor"),
    # variance g²/fan_in: ReLU halves the mean square, so a layer multiplies it by g²/2, forward as backward
    [(nn.glorot_normal, 0.5), (nn.lecun_uniform, 0.5), (nn.scaled(0.5), 0.125), (nn.scaled(2.0), 2.0)],
)
@pytest.mark.slow
def test_other_weights_are_badly_scaled_by_their_factor_a_layer(init, factor):
    report = nn.signal_report(deep(init), X)
    assert np.log(report.forward_growth) == pytest.approx(np.log(factor), abs=GROWTH_ERROR)
    assert np.log(report.backward_growth) == pytest.approx(np.log(factor), abs=GROWTH_ERROR)
    assert names(report) == ["badly-scaled"]
    (finding,) = report.findings
    assert f"50 hidden layers multiplies the mean square of the signal by {report.forward_growth:.3g}" in str(finding)
    assert f"the gradient on its way back by {report.backward_growth:.3g}" in finding.evidence
    assert "for_activation" in finding.remedy


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh, jax.nn.silu, jax.nn.gelu, jax.nn.selu, jnp.sin])
def test_a_perceptron_of_usual_depth_has_nothing_to_be_said_against(activation):
    model = nn.MLP(8, 3, width=32, depth=4, activation=activation, dropout=0.1, key=KEY)
    assert nn.signal_report(model, X[:, :8]).findings == ()


def test_the_logistic_function_loses_the_gradient():
    report = nn.signal_report(nn.MLP(8, 1, width=64, depth=8, activation=jax.nn.sigmoid, key=KEY), X[:, :8])
    # its slope is at most 1/4, so with variance 1/fan_in a layer keeps at most 1/16 of the gradient's mean square,
    # but for the chance of 64 units: 5/64 in the variance of a logarithm, over seven layers a tenth
    assert report.backward_growth < 1.5 / 16
    assert names(report) == ["badly-scaled"]
    assert "gradient" in report.findings[0].evidence
    assert "the signal by" not in report.findings[0].evidence


# ------------------------------------------------------------------------------------------------------------ dropout
KEEP = 0.8
# 6/p - 1 in place of 5: the masks. They differ by example, so this is a bound.
DROPOUT_ERROR = 4 * np.sqrt((6 / KEEP - 1) / WIDTH / (DEPTH - 1)) + (6 / KEEP - 1) / (2 * WIDTH)


@pytest.mark.parametrize(
    ("init", "training", "off", "found"),
    [
        (None, 1.0, KEEP, ["dropout-mismatch"]),
        (nn.he_normal, 1 / KEEP, 1.0, ["badly-scaled", "dropout-mismatch"]),
    ],
)
@pytest.mark.slow
def test_dropout_over_fifty_layers_is_kept_in_training_or_without_but_not_in_both(init, training, off, found):
    report = nn.signal_report(deep(init, dropout=1 - KEEP), X)
    assert np.log(report.forward_growth) == pytest.approx(np.log(training), abs=DROPOUT_ERROR)
    assert np.log(report.backward_growth) == pytest.approx(np.log(training), abs=DROPOUT_ERROR)
    squares = report.without_dropout[report.hidden]
    growth = np.log(squares[-1] / squares[0]) / (DEPTH - 1)
    assert growth == pytest.approx(np.log(off), abs=GROWTH_ERROR)
    assert names(report) == found
    assert "no initial weights serve both" in report.findings[-1].remedy.lower()


def test_masks_and_gradients_follow_the_seed():
    model = nn.MLP(8, 1, width=16, depth=2, dropout=0.5, key=KEY)
    first, again, other = (nn.signal_report(model, X[:, :8], seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.mean_square, again.mean_square)
    np.testing.assert_array_equal(first.backward, again.backward)
    assert np.all(first.backward != other.backward)
    assert first.mean_square[-1] != other.mean_square[-1]
    np.testing.assert_array_equal(first.without_dropout, other.without_dropout)


# ---------------------------------------------------------------------------------------------- against NumPy's passes
def test_signal_and_gradient_are_those_of_a_pass_by_hand():
    w1, b1, w2, b2 = RANDOM.normal(size=(3, 4)), RANDOM.normal(size=4), RANDOM.normal(size=(4, 2)), np.zeros(2)
    x = RANDOM.normal(size=(5, 3))
    model = by_hand((w1, b1), nn.Activation(jnp.tanh), (w2, b2))
    outputs, gradients, _ = Passes(model, jnp.asarray(x, jnp.float32)).there_and_back(None, KEY)
    z = x @ w1 + b1
    expected = [z, np.tanh(z), np.tanh(z) @ w2 + b2]
    top = np.asarray(gradients[2])  # the output's own gradient is the random one
    back = [(top @ w2.T) * (1 - np.tanh(z) ** 2), top @ w2.T, top]
    for mine, theirs in zip([*outputs, *gradients], [*expected, *back], strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)  # float32: sums of four products of order one
    report = nn.signal_report(model, x)
    np.testing.assert_allclose(report.mean_square, [np.mean(y**2) for y in expected], rtol=1e-5)
    np.testing.assert_allclose(report.variance, [np.mean(y.var(axis=0)) for y in expected], rtol=1e-5)


def test_the_gradient_at_the_output_has_variance_one():
    report = nn.signal_report(by_hand((np.eye(50), np.zeros(50)), nn.Activation(jnp.sin)), X[:, :50])
    # 3,200 normal numbers: their mean square has a standard deviation of sqrt(2/3,200) = 2.5 %
    assert report.backward[-1] == pytest.approx(1, abs=0.1)


def test_batch_statistics_are_those_of_the_batch_and_the_gradient_goes_through_them():
    x = RANDOM.normal(size=(6, 3)) * 5 + 2
    w1, w2 = RANDOM.normal(size=(3, 4)), RANDOM.normal(size=(4, 1))
    model = by_hand((w1, np.zeros(4)), nn.BatchNorm(4, eps=0.0), (w2, np.zeros(1)))
    outputs, gradients, _ = Passes(model, jnp.asarray(x, jnp.float32)).there_and_back(None, KEY)
    z = x @ w1
    normal = (z - z.mean(axis=0)) / z.std(axis=0)
    np.testing.assert_allclose(outputs[1], normal, atol=1e-5)
    top = np.asarray(gradients[1])
    # Ioffe and Szegedy (2015), section 3: what mean and variance of the batch take off
    expected = (top - top.mean(axis=0) - normal * np.mean(top * normal, axis=0)) / z.std(axis=0)
    np.testing.assert_allclose(gradients[0], expected, atol=1e-5)
    assert nn.signal_report(model, x).mean_square[1] == pytest.approx(1, rel=1e-5)


# -------------------------------------------------------------------------------------------------------- units at rest
def test_dead_units_are_counted():
    # of four units the second never fires, the third for the last example alone
    weight, bias = [[1.0, 1.0, 1.0, 1.0]], [0.0, -10.0, -2.5, 10.0]
    x = np.array([[-1.0], [1.0], [2.0], [3.0]])
    relu = nn.signal_report(by_hand((weight, bias), nn.Activation(jax.nn.relu)), x)
    assert relu.dead[1] == 1 / 4
    assert np.isnan(relu.dead[0])
    assert np.isnan(relu.saturated).all()
    assert relu.findings == ()
    # without the last example the third is dead too; a leaky unit never is
    assert nn.signal_report(by_hand((weight, bias), nn.Activation(jax.nn.relu)), x[:3]).dead[1] == 2 / 4
    assert nn.signal_report(by_hand((weight, bias), nn.LeakyReLU(0.1)), x[:3]).dead[1] == 0


def test_a_layer_of_dead_units_is_found():
    report = nn.signal_report(
        by_hand((np.eye(4), [-9.0] * 4), nn.Activation(jax.nn.relu), (np.eye(4), [1.0] * 4)), X[:, :4]
    )
    assert "dead-units" in names(report)
    assert "100% of layers[1] Activation" in next(f for f in report.findings if f.name == "dead-units").evidence


def test_a_channel_is_a_unit():
    layer = nn.Conv2d(1, 4, kernel_size=3, key=KEY)
    layer = eqx.tree_at(lambda m: m.bias, layer, jnp.array([-100.0, 0.0, 0.0, 0.0]))
    images = RANDOM.normal(size=(8, 6, 6, 1))
    report = nn.signal_report(nn.Sequential([layer, nn.Activation(jax.nn.relu), nn.GlobalMeanPool2d()]), images)
    assert report.dead[1] == 1 / 4
    assert report.layers == ("layers[0] Conv2d", "layers[1] Activation", "layers[2] GlobalMeanPool2d")
    assert report.has_weights.tolist() == [True, False, False]


@pytest.mark.parametrize(("activation", "edge"), [(jnp.tanh, 2.179), (jax.nn.sigmoid, 4.357)])
def test_saturated_values_are_counted(activation, edge):
    # 1 - tanh² = 0.05 at 2.1783, and four times the slope of the logistic function at twice that
    x = np.array([[0.0], [edge - 0.01], [edge + 0.01], [-edge - 0.01], [-edge + 0.01]])
    report = nn.signal_report(nn.Sequential([nn.Activation(activation), nn.Activation(jnp.sin)]), x)
    assert report.saturated[0] == pytest.approx(2 / 5)
    assert np.isnan(report.saturated[1])
    assert report.dead[0] == 0


def test_saturated_units_and_unscaled_inputs_are_found():
    report = nn.signal_report(nn.MLP(8, 1, width=32, depth=2, activation=jnp.tanh, key=KEY), 100 * X[:, :8])
    assert names(report) == ["badly-scaled", "saturated-units"]
    assert "layers[0] Linear" in report.findings[0].evidence
    assert "Standardize" in report.findings[0].remedy
    standardized = nn.Sequential([nn.Standardize(np.zeros(8), np.full(8, 100.0)), report_model()])
    assert nn.signal_report(standardized, 100 * X[:, :8]).findings == ()


def report_model():
    return nn.MLP(8, 1, width=32, depth=2, activation=jnp.tanh, key=KEY)


# --------------------------------------------------------------------------------------------------------- any model
class Heads(eqx.Module):
    """Two outputs, from a class that thalweg does not know; it looks at a layer's size and calls one twice."""

    trunk: nn.MLP
    shared: nn.Linear

    def __call__(self, x, *, key=None):
        y = self.shared(self.shared(self.trunk(x, key=key)))
        return y[0], jnp.sum(y) / self.shared.out_size


class OfOneArgument(eqx.Module):
    network: nn.MLP

    def __call__(self, x):
        return self.network(x)


@pytest.mark.slow
def test_layers_within_any_class_are_seen_in_the_order_of_their_calls():
    heads = Heads(nn.MLP(8, 4, width=6, depth=1, key=KEY), nn.Linear(4, 4, key=KEY))
    report = nn.signal_report(heads, X[:, :8])
    trunk = ("trunk.layers[0] Linear", "trunk.layers[1] Activation", "trunk.layers[2] Linear")
    assert report.layers == (*trunk, "shared Linear", "shared Linear")
    one = nn.signal_report(OfOneArgument(nn.MLP(8, None, width=6, depth=1, key=KEY)), X[:, :8])
    assert one.layers == tuple(f"network.{name.removeprefix('trunk.')}" for name in trunk)
    np.testing.assert_allclose(one.mean_square[:2], report.mean_square[:2], rtol=1e-6)  # keys of the same numbers
    equinox = nn.signal_report(eqx.nn.MLP(8, 2, 16, 2, key=KEY), X[:, :8])
    assert equinox.layers == ("layers[0] Linear", "layers[1] Linear", "layers[2] Linear")


def test_a_residual_layer_is_seen_within_and_as_a_sum():
    body = nn.Sequential([nn.Linear(8, 8, key=KEY), nn.Activation(jnp.tanh)])
    report = nn.signal_report(nn.Sequential([nn.Residual(body), nn.LayerNorm(8)]), X[:, :8])
    inside = ("layers[0].body.layers[0] Linear", "layers[0].body.layers[1] Activation")
    assert report.layers == (*inside, "layers[0] Residual", "layers[1] LayerNorm")
    assert report.has_weights.tolist() == [True, False, False, False]
    expected = X[:, :8] + np.tanh(X[:, :8] @ np.asarray(body.layers[0].weight))
    assert report.mean_square[2] == pytest.approx(np.mean(expected**2), rel=1e-5)


def test_a_looked_at_model_is_as_it_was():
    model = nn.Sequential([nn.Linear(8, 4, key=KEY), nn.BatchNorm(4), nn.Dropout(0.5)])
    before = jax.tree.map(lambda leaf: leaf.copy(), model)
    nn.signal_report(model, X[:, :8])
    assert eqx.tree_equal(before, model)
    assert jax.jit(jax.vmap(model))(jnp.asarray(X[:, :8], jnp.float32)).shape == (64, 4)


@pytest.mark.parametrize("precision", ["bfloat16", "float64"])
def test_in_the_models_own_precision(precision):
    with jax.enable_x64(precision == "float64"):
        model = nn.MLP(8, 1, width=16, depth=2, activation=jax.nn.relu, dtype=jnp.dtype(precision), key=KEY)
        report = nn.signal_report(model, X[:, :8])
        assert report.findings == ()
        assert np.isfinite(report.backward).all()


# ---------------------------------------------------------------------------------------------------------- bad input
def test_a_signal_that_is_not_finite_or_vanishes_is_found():
    large = nn.signal_report(deep(nn.scaled(20.0)), X)  # 20^50 is beyond float32
    assert names(large)[0] == "badly-scaled"
    assert "is not finite" in large.findings[0].evidence
    assert np.log(large.forward_growth) == pytest.approx(np.log(200), abs=2 * GROWTH_ERROR)  # of those that are
    none = nn.signal_report(jax.tree.map(lambda leaf: 0 * leaf, nn.MLP(8, 1, width=4, depth=3, key=KEY)), X[:, :8])
    assert "badly-scaled" in names(none)
    assert np.isnan(none.forward_growth)


def with_hole():
    x = X[:, :8].copy()
    x[3, 2] = np.nan
    return x


MODEL = report_model()


@pytest.mark.parametrize(
    ("model", "batch", "named"),
    [
        (MODEL, np.zeros((0, 8)), "without examples"),
        (MODEL, with_hole(), "index (3, 2)"),
        (MODEL, np.full((4, 8), 1e300), "float32"),
        (MODEL, np.zeros((4, 7)), "(7,)"),
        (MODEL, np.zeros(8), "()"),
        (MODEL, np.float32(1.0), "leading axis"),
        (MODEL, [], "leading axis"),
        (MODEL, (np.zeros((4, 8)), np.zeros((5, 8))), "(5, 8)"),
        (MODEL, np.array([["a"] * 8]), "dtype"),
        (eqx.nn.Linear(8, 2, key=KEY), X[:, :8], "no layers are to be seen"),
        (lambda x: jnp.sin(x), X[:, :8], "no layers are to be seen"),
        (3.0, X[:, :8], "cannot be called"),
        (eqx.nn.MLP(8, 2, 4, 1, key=KEY), X[:, :7], "shape (7,)"),
        (nn.Sequential([nn.Linear(8, 2, key=KEY), nn.BatchNorm(2)]), X[:1, :8], "at least two"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(model, batch, named):
    with pytest.raises(UserError) as refused:
        nn.signal_report(model, batch)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "within",
    [
        lambda layer, x: eqx.filter_jit(layer)(x),
        lambda layer, x: jax.vmap(layer)(jnp.stack([x, x]))[0],
        lambda layer, x: jax.grad(lambda z: layer(z)[0])(x),
        lambda layer, x: jax.lax.scan(lambda c, _: (layer(c), None), x, None, length=2)[0],
    ],
    ids=["jit", "vmap", "grad", "scan"],
)
def test_layers_called_within_a_transformation_are_refused(within):
    class Within(eqx.Module):
        layer: nn.Linear

        def __call__(self, x, *, key=None):
            return within(self.layer, x)

    with pytest.raises(UserError, match="cannot be looked at"):
        nn.signal_report(Within(nn.Linear(8, 8, key=KEY)), X[:, :8])

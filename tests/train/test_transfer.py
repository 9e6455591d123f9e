"""Transfer: what is frozen keeps its bits and costs no memory; rates by layer; layers that join one after the other."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets

import thalweg as tw
from thalweg import nn
from thalweg.errors import UserError
from thalweg.objective.partition import split

KEYS = jax.random.split(jax.random.key(0), 4)


class Net(eqx.Module):
    """Convolutions with batch statistics, and a head."""

    body: nn.Sequential
    head: nn.Sequential

    def __call__(self, x, *, key=None):
        return self.head(self.body(x, key=key), key=key)

    def training_call(self, x, *, key, axis_name):
        y, body = nn.training_call(self.body, x, key=key, axis_name=axis_name)
        y, head = nn.training_call(self.head, y, key=key, axis_name=axis_name)
        return y, Net(body, head)


def net() -> Net:
    statistics = nn.RunningStatistics(4)
    statistics = eqx.tree_at(
        lambda s: (s.mean, s.variance, s.count), statistics, (jnp.arange(4.0), jnp.arange(1.0, 5.0), jnp.int32(50))
    )
    norm = eqx.tree_at(lambda layer: layer.statistics, nn.BatchNorm(4), statistics)
    layers = [nn.Conv2d(1, 4, kernel_size=3, key=KEYS[0]), norm, nn.Activation(jax.nn.relu), nn.GlobalMeanPool2d()]
    return Net(nn.Sequential(layers), nn.Sequential([nn.Linear(4, 3, key=KEYS[1])]))


def digits() -> tw.Supervised:
    """The first digits 0, 1 and 2 of scikit-learn's handwritten ones, as images (8, 8, 1)."""
    images, labels = sklearn.datasets.load_digits(n_class=3, return_X_y=True)
    x = jnp.asarray(images[:64].reshape(-1, 8, 8, 1) / 16, jnp.float32)
    return tw.Supervised(x, jnp.asarray(labels[:64], jnp.int32), loss=tw.losses.CrossEntropy(), batch_size=16)


@pytest.mark.parametrize("statistics", ["fixed", "moving"])
def test_what_is_frozen_keeps_its_bits_and_batch_statistics_move_by_choice(statistics):
    model = nn.frozen_statistics(net()) if statistics == "fixed" else net()
    head = tw.only(lambda m: m.head)
    fitted = tw.fit(model, tw.Objective(digits=digits()), tw.Phase(tw.Adam(0.05), 20, where=head)).model
    conv, norm = fitted.body.layers[:2]
    assert eqx.tree_equal(conv, model.body.layers[0])
    np.testing.assert_array_equal(norm.weight, 1)
    assert not np.array_equal(fitted.head.layers[0].weight, model.head.layers[0].weight)
    same = eqx.tree_equal(norm.statistics, model.body.layers[1].statistics)
    assert same == (statistics == "fixed")


def test_no_memory_is_kept_for_what_is_frozen():
    model = net()
    for where, arrays in ((tw.only(lambda m: m.head), 2), (tw.frozen(lambda m: m.body.layers[0]), 4)):
        params = split(model, where).params
        state = tw.Adam(0.05).init(None, params, jax.random.key(0))
        kept = sorted(leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim)
        assert len(jax.tree.leaves(params)) == arrays
        # Adam keeps two moments for each array that is trained, and counters.
        assert kept == sorted([leaf.shape for leaf in jax.tree.leaves(params)] * 2)


def test_with_fixed_statistics_training_is_inference_and_examples_are_apart():
    model, x = net(), jnp.asarray(np.random.default_rng(0).normal(size=(5, 8, 8, 1)), jnp.float32)
    fixed = nn.frozen_statistics(model)
    train = lambda model: jax.vmap(
        lambda x: nn.training_call(model, x, key=None, axis_name="b"), axis_name="b", out_axes=(0, None)
    )
    y, after = train(fixed)(x)
    np.testing.assert_array_equal(y, jax.vmap(model)(x))
    assert eqx.tree_equal(after, fixed)
    assert np.abs(train(model)(x)[0] - y).max() > 0.01  # the batch's own statistics are others
    assert (digits().is_coupled(model), digits().is_coupled(fixed)) == (True, False)
    assert eqx.tree_equal(nn.moving_statistics(fixed), model)
    with pytest.raises(UserError, match="no RunningStatistics"):
        nn.frozen_statistics(fixed)
    with pytest.raises(UserError, match="no FixedStatistics"):
        nn.moving_statistics(model)
    with pytest.raises(UserError, match="what is selected"):
        nn.frozen_statistics(model, lambda m: m.head)


@pytest.mark.parametrize(
    ("optimizer", "faster"),
    [
        (tw.SGD(0.1, momentum=0.9), tw.SGD(0.025, momentum=0.9)),
        (tw.Adam(0.1), tw.Adam(0.025)),
        (tw.AdamW(0.1, decay=0.3), tw.AdamW(0.025, decay=0.3)),
    ],
)
def test_a_factor_is_the_same_as_another_rate(optimizer, faster):
    """Of given gradients a part with the factor 1/4 makes what it would make at a quarter of the rate."""
    rng = np.random.default_rng(0)
    params = {"body": [jnp.asarray(rng.normal(size=3)), None], "head": jnp.asarray(rng.normal(size=2))}
    parts = [(lambda m: m["body"], 0.25)]
    rules = [one.transform() for one in (tw.LayerRates(optimizer, parts), optimizer, faster)]
    states = [rule.init(params) for rule in rules]
    for _ in range(5):
        gradient = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)
        found = []
        for i, rule in enumerate(rules):
            with jax.numpy_dtype_promotion("standard"):  # as the optimizer itself calls it
                updates, states[i] = rule.update(gradient, states[i], params)
            found.append(updates)
        mine, full, quarter = found
        np.testing.assert_array_equal(mine["head"], full["head"])
        np.testing.assert_allclose(mine["body"][0], quarter["body"][0], rtol=1e-6)  # two roundings of float32
        assert mine["body"][1] is None


def test_gradient_descent_with_rates_by_layer_is_its_closed_form():
    """On ‖a - 1‖² + ‖b - 2‖² each step shrinks the distance by 1 - 2·η·factor."""
    with jax.enable_x64(True):
        start = {"a": jnp.asarray([4.0, -2.0]), "b": jnp.asarray([5.0])}

        class Bowl(tw.AbstractTerm):
            source: tw.AbstractSource
            weight: float

            def batch_loss(self, model, examples, key):
                return jnp.sum((model["a"] - 1) ** 2) + jnp.sum((model["b"] - 2) ** 2), None

        optimizer = tw.LayerRates(tw.SGD(0.1), [(lambda m: m["a"], 0.5)])
        found = tw.fit(start, tw.Objective(bowl=Bowl(tw.NoExamples(), 1.0)), tw.Phase(optimizer, 15)).model
        # 1e-12: fifteen steps of a few roundings each
        np.testing.assert_allclose(found["a"], 1 + np.array([3.0, -3.0]) * (1 - 2 * 0.05) ** 15, rtol=1e-12)
        np.testing.assert_allclose(found["b"], 2 + 3.0 * (1 - 2 * 0.1) ** 15, rtol=1e-12)


GROUPS = [lambda m: m.body.layers[0], lambda m: m.body.layers[1:], lambda m: m.head]


def test_layers_join_from_the_head_backwards():
    program = tw.gradual_unfreezing(tw.discriminative_rates(tw.Adam(0.02), GROUPS), 10, GROUPS, redraw=1)
    sizes = [[leaf.size for leaf in jax.tree.leaves(split(net(), phase.where).params)] for phase in program]
    assert sizes == [[12, 3], [4, 4, 12, 3], [36, 4, 4, 4, 12, 3]]
    # Howard and Ruder (2018): a factor of 2.6 from group to group
    np.testing.assert_allclose([factor for _, factor in program[0].optimizer.parts], [2.6**-2, 2.6**-1, 1], rtol=1e-12)


@pytest.mark.slow
def test_gradual_unfreezing_moves_each_group_from_its_phase_on():
    objective, start = tw.Objective(digits=digits()), nn.frozen_statistics(net())
    program = tw.gradual_unfreezing(tw.discriminative_rates(tw.Adam(0.02), GROUPS), 10, GROUPS)
    for phases in (1, 2, 3):
        after = tw.fit(start, objective, program[:phases]).model
        moved = [not eqx.tree_equal(group(after), group(start)) for group in GROUPS]
        assert moved == [phases == 3, phases >= 2, True]
        assert eqx.tree_equal(after.body.layers[1].statistics, start.body.layers[1].statistics)


HEAD: Any = lambda m: m.head
LACKING: Any = lambda m: m.body.layers[9]


def step(optimizer):
    rule, params = optimizer.transform(), eqx.filter(net(), eqx.is_inexact_array)
    with jax.numpy_dtype_promotion("standard"):  # as the optimizer itself calls it
        return rule.update(params, rule.init(params), params)


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: tw.LayerRates(tw.LBFGS(), []), "LBFGS"),
        (lambda: tw.LayerRates(tw.Adam(0.1), [(lambda m: m.head, 0.0)]), "above 0"),
        (lambda: tw.LayerRates(tw.Adam(0.1), [("head", 1.0)]), "Pairs"),
        (lambda: step(tw.LayerRates(tw.Adam(0.1), [(lambda m: m.tail, 1.0)])), "tail"),
        (lambda: tw.discriminative_rates(tw.Adam(0.1), []), "0 groups"),
        (lambda: tw.discriminative_rates(tw.Adam(0.1), GROUPS, ratio=0.5), "0.5"),
        (lambda: tw.gradual_unfreezing(tw.Adam(0.1), 10, []), "no groups"),
        (lambda: tw.gradual_unfreezing(tw.Adam(0.1), 0, GROUPS), "steps"),
        (lambda: tw.LayerRates(tw.Adam(0.1), [HEAD]), "function of the model and its factor"),
        (lambda: tw.LayerRates(tw.Adam(0.1), [(HEAD, 1.0, 2.0)]), "function of the model and its factor"),
        (lambda: tw.LayerRates(tw.Adam(0.1), None), "a list is needed, not NoneType"),
        (lambda: tw.discriminative_rates(tw.Adam(0.1), GROUPS, ratio="a"), "ratio 'a'"),
        (lambda: tw.discriminative_rates(tw.Adam(0.1), HEAD), "a list is needed, not function"),
        (lambda: tw.gradual_unfreezing(tw.Adam(0.1), 5, HEAD), "a list is needed, not function"),
        (lambda: tw.gradual_unfreezing(tw.Adam(0.1), 5, ["head"]), "not 'head'"),
        (lambda: tw.gradual_unfreezing(tw.Adam(0.1), 5, GROUPS, where=tw.only(HEAD)), "no other filter"),
        (lambda: split(net(), tw.gradual_unfreezing(tw.Adam(0.1), 5, [LACKING])[0].where), "one of the groups"),
        (lambda: nn.frozen_statistics(net(), lambda m: m.tail), "no part that is selected"),
        (lambda: nn.frozen_statistics(net(), LACKING), "no part that is selected"),
        (lambda: nn.moving_statistics(net(), "body"), "function of the model, not str"),
    ],
)
def test_mistakes_are_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()

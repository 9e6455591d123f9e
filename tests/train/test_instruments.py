"""Instruments against closed forms and NumPy, their cadence, and that they leave the walk alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import AbstractTerm, NoExamples, Objective, Residual, Rows, Supervised
from thalweg.optim import SGD, Adam
from thalweg.train import (
    AbstractInstrument,
    Activations,
    GradientNorms,
    Layout,
    LossBelow,
    NoiseRatio,
    PartGradients,
    Phase,
    Sharpness,
    fit,
    fit_many,
)
from thalweg.train.instruments import SHARE, looks_every
from thalweg.tree import tree_hash

X = np.linspace(-1, 1, 64)[:, None]
ALL = (GradientNorms(), PartGradients(), NoiseRatio(), Sharpness())


def network(seed=0):
    return MLP(1, 1, width=8, depth=1, key=jax.random.key(seed))


def objective(batch=16):
    data = Supervised(X, X**2, loss=squared_error, batch_size=batch)
    edge = Residual(lambda u, z: u(z) - 1.0, Rows(np.array([[-1.0], [1.0]])), weight=0.5)
    return Objective(data=data, edge=edge)


class Bowl(AbstractTerm):
    """½ Σ λᵢ xᵢ² of a model that is a vector."""

    source: NoExamples = NoExamples()
    weight: float = 1.0

    def batch_loss(self, model, examples, key):
        return jnp.sum(jnp.asarray([1.0, -3.0, 50.0], model.dtype) * model**2) / 2, None


@pytest.fixture(scope="module")
def watched():
    return fit(network(), objective(), Phase(Adam(1e-2), 400), log_every=50, instruments=ALL)


def test_the_walk_is_the_same_bits_without_them(watched):
    plain = fit(network(), objective(), Phase(Adam(1e-2), 400), log_every=50)
    assert tree_hash(plain.model) == tree_hash(watched.model)
    assert [row["total"] for row in plain.rows] == [row["total"] for row in watched.rows]
    assert not any("instruments" in row for row in plain.rows)


def test_each_is_looked_at_as_often_as_its_cost_allows(watched):
    seen = {}
    for row in watched.rows:
        for name in row.get("instruments", {}):
            seen.setdefault(name, []).append(row["step"])
    # costs 1, 2, 4 and 22 gradients, a quarter of 5 % each: every 80, 160, 320 and 1,760 steps, rounded up to 50
    assert seen == {
        "GradientNorms": [100, 200, 300, 400],
        "PartGradients": [200, 400],
        "NoiseRatio": [350, 400],
        "Sharpness": [400],
    }
    for instrument in ALL:
        every = looks_every(instrument, 2, len(ALL), 50)
        assert instrument.cost(2) / every <= SHARE / len(ALL)
        assert every % 50 == 0


def test_norms_by_layer_and_by_part_are_consistent(watched):
    found = watched.rows[-1]["instruments"]
    norms, parts = found["GradientNorms"], found["PartGradients"]
    assert set(norms) == {f"{kind}/layers/{i}" for kind in ("gradient", "params") for i in (0, 2)}
    layers = [np.asarray(leaf) for leaf in jax.tree.leaves(watched.model.layers[0]) if isinstance(leaf, jax.Array)]
    # float32 sums of a few squares
    assert np.isclose(norms["params/layers/0"], np.sqrt(sum((leaf**2).sum() for leaf in layers)), rtol=1e-5)
    whole = np.hypot(norms["gradient/layers/0"], norms["gradient/layers/2"])
    # |g|² = Σᵢ |gᵢ| |g| cosᵢ, because the parts' gradients add up to the whole one
    projected = sum(parts[f"norm/{term}"] * parts[f"cosine/{term}"] for term in ("data", "edge"))
    assert np.isclose(projected, whole, rtol=1e-4)
    assert all(-1.0001 <= parts[f"cosine/{term}"] <= 1.0001 for term in ("data", "edge"))
    assert found["NoiseRatio"]["noise"] > 0


def test_sharpness_is_the_top_curvature_and_its_stable_rate():
    start = jnp.array([1.0, 1.0, 1.0])
    found = fit(start, Objective(bowl=Bowl()), Phase(SGD(1e-3), 3), instruments=[Sharpness(3)], raise_failures=False)
    figures = found.rows[-1]["instruments"]["Sharpness"]
    assert np.isclose(figures["curvature"], 50, rtol=1e-5)  # float32; three products span all three directions
    assert np.isclose(figures["stable_rate"], 2 / 50, rtol=1e-5)
    assert figures["bound"] < 1e-3


def test_looks_once_more_where_a_condition_ends_the_phase():
    program = Phase(Adam(1e-2), 400, until=LossBelow(1e9, every=3))
    found = fit(network(), objective(), program, log_every=50, instruments=[GradientNorms()])
    assert found.rows[-1]["step"] == 3
    assert "GradientNorms" in found.rows[-1]["instruments"]
    assert found.decisions[-1]["run_step"] == 3


def test_activations_are_what_the_layers_answer():
    model = MLP(1, 1, width=8, depth=1, key=jax.random.key(0), activation=jax.nn.relu)
    # three units are cut off for every x within [-1, 1]
    bias = model.layers[0].bias.at[:3].set(-100.0)
    model = eqx.tree_at(lambda m: m.layers[0].bias, model, bias)
    data = Objective(data=Supervised(X, X**2, loss=squared_error))
    found = fit(model, data, Phase(SGD(1e-6), 1), instruments=[Activations()]).rows[-1]["instruments"]["Activations"]
    hidden = np.maximum(np.asarray(X, np.float32) @ np.asarray(model.layers[0].weight) + np.asarray(bias), 0)
    alive = (hidden > 0).any(axis=0)
    assert alive.sum() <= 5
    # one step at a rate of 1e-6 changes the weights by about 1e-6; float32 sums
    assert np.isclose(found["mean_square/layers[1] Activation"], np.mean(hidden**2), rtol=1e-4)
    assert np.isclose(found["dead/layers[1] Activation"], 1 - alive.mean(), rtol=1e-6)
    assert found["dead/layers[0] Linear"] == 0
    with pytest.raises(UserError, match="no term tells what the model is called with"):
        fit(
            model,
            Objective(edge=Residual(lambda u, z: u(z), Rows(X))),
            Phase(SGD(1e-6), 1),
            instruments=[Activations()],
        )


@pytest.mark.slow
@pytest.mark.parametrize("layout", [Layout.IN_TURN, Layout.VMAPPED])
def test_members_are_measured_each_by_itself(layout):
    found = fit_many(
        [network(0), network(1)], objective(), Phase(Adam(1e-2), 40), layout=layout, instruments=[GradientNorms()]
    )
    for member in (0, 1):
        alone = fit(network(member), objective(), Phase(Adam(1e-2), 40), seed=member, instruments=[GradientNorms()])
        many = {k: v[member] for k, v in found.rows[-1]["instruments"]["GradientNorms"].items()}
        for name, value in alone.rows[-1]["instruments"]["GradientNorms"].items():
            assert np.isclose(many[name], value, rtol=1e-3), name  # 40 steps of Adam magnify rounding, 1e-7


def test_refuses_what_is_no_instrument():
    with pytest.raises(UserError, match="not the class GradientNorms itself"):
        fit(network(), objective(), Phase(Adam(1e-2), 4), instruments=[GradientNorms])
    with pytest.raises(UserError, match="two instruments Sharpness"):
        fit(network(), objective(), Phase(Adam(1e-2), 4), instruments=[Sharpness(2), Sharpness(3)])
    with pytest.raises(UserError, match="at least 1 iteration"):
        Sharpness(0)
    with pytest.raises(NotImplementedError):
        AbstractInstrument().cost(1)

"""Batch normalization under vmap, against NumPy, PyTorch and its own theory; statistics without hidden state."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.datasets
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from thalweg import nn
from thalweg.errors import UserError

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_numbers_alone_and_in_company():
    RNG.bit_generator.state = START


def train(model, batch, key=None):
    """One training call over a batch: outputs, and the updated model."""

    def one(x, key):
        return nn.training_call(model, x, key=key, axis_name="batch")

    keys = None if key is None else jax.random.split(key, len(batch))
    return jax.vmap(one, in_axes=(0, None if key is None else 0), axis_name="batch", out_axes=(0, None))(batch, keys)


def batch_norm(size, **settings):
    """A layer in float64 whose weight and bias are not the initial ones."""
    layer = nn.BatchNorm(size, dtype=jnp.float64, **settings)
    values = jnp.asarray(RNG.normal(size=(2, size)))
    return eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, (values[0], values[1]))


@pytest.mark.parametrize("shape", [(8, 3), (4, 2, 5, 3)])
def test_output_and_gradient_are_the_dense_formulas(shape):
    with jax.enable_x64(True):
        layer = batch_norm(3)
        x, cotangent = RNG.normal(2.0, 3.0, size=shape), RNG.normal(size=shape)
        weight, bias = np.asarray(layer.weight), np.asarray(layer.bias)
        axes = tuple(range(len(shape) - 1))
        deviation = np.sqrt(x.var(axes) + layer.eps)
        hat = (x - x.mean(axes)) / deviation

        y, pullback, updated = jax.vjp(lambda x: train(layer, x), jnp.asarray(x), has_aux=True)
        # 1e-13: some hundred additions of order-one values.
        np.testing.assert_allclose(y, weight * hat + bias, rtol=0, atol=1e-13)
        # The backward formula of Ioffe and Szegedy (2015), written out: gradients flow through mean and variance.
        expected = weight / deviation * (cotangent - cotangent.mean(axes) - hat * (cotangent * hat).mean(axes))
        np.testing.assert_allclose(pullback(jnp.asarray(cotangent))[0], expected, rtol=0, atol=1e-13)

        n = x.size // 3
        np.testing.assert_allclose(updated.statistics.mean, x.mean(axes), rtol=1e-13)
        np.testing.assert_allclose(updated.statistics.variance, x.var(axes) * n / (n - 1), rtol=1e-13)
        assert updated.statistics.count == 1
        assert jax.tree.structure(updated) == jax.tree.structure(layer)


def test_no_gradient_flows_through_the_running_statistics():
    def cost(x):
        updated = train(nn.BatchNorm(2), x)[1]
        return jnp.sum(updated.statistics.mean + updated.statistics.variance)

    assert np.all(jax.grad(cost)(jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32)) == 0)


def test_a_large_mean_loses_no_digits():
    x = 10_000 + np.arange(8, dtype=np.float32)[:, None]
    y, _ = train(nn.BatchNorm(1, eps=0.0), jnp.asarray(x))
    # These sums are exact in float32, so only the last roundings remain; E[x²] - E[x]² would be off by whole units.
    np.testing.assert_allclose(y[:, 0], (np.arange(8) - 3.5) / np.arange(8).std(), rtol=1e-6)


def test_the_gradient_is_divided_by_the_scale_of_the_weights():
    """ε = 0: the output does not change when W grows to aW, so its gradient there is a-th part (SYSTEMS.md, S23)."""
    with jax.enable_x64(True):
        layer = batch_norm(3, eps=0.0)
        weight, x = jnp.asarray(RNG.normal(size=(4, 3))), jnp.asarray(RNG.normal(size=(16, 4)))
        target = jnp.asarray(RNG.normal(size=(16, 3)))
        gradient = jax.jit(jax.grad(lambda W: jnp.sum((train(layer, x @ W)[0] - target) ** 2)))
        a, at_one = 7.5, gradient(weight)
        assert np.abs(at_one).max() > 0.1  # no comparison of zeros
        # 1e-11: the gradient of a few units is a difference of terms some hundred times as large.
        np.testing.assert_allclose(a * gradient(a * weight), at_one, rtol=0, atol=1e-11)


def test_the_running_average_is_its_rule():
    with jax.enable_x64(True):
        layer, batches = batch_norm(2, momentum=0.8), RNG.normal(1.0, 2.0, size=(12, 6, 2))
        step = jax.jit(lambda layer, batch: train(layer, batch)[1])
        mean, variance = np.zeros(2), np.ones(2)
        for count, batch in enumerate(batches):
            weight = max(1 - 0.8, 1 / (count + 1))
            mean += weight * (batch.mean(0) - mean)
            variance += weight * (batch.var(0, ddof=1) - variance)
            layer = step(layer, batch)
            if count == 4:  # 1/(1 - momentum) batches: still the plain average
                np.testing.assert_allclose(layer.statistics.mean, batches[:5].mean((0, 1)), rtol=1e-12)
        # 1e-12: twelve updates with a rounding each.
        np.testing.assert_allclose(layer.statistics.mean, mean, rtol=1e-12)
        np.testing.assert_allclose(layer.statistics.variance, variance, rtol=1e-12)
        assert layer.statistics.count == 12


def test_after_convergence_inference_uses_the_statistics_of_the_data_set():
    """Real measurements (scikit-learn's wine, 178 × 13) in random batches of 64."""
    with jax.enable_x64(True):
        data = sklearn.datasets.load_wine().data
        table, momentum, size, steps = jnp.asarray(data), 0.998, 64, 4_000
        layer = nn.BatchNorm(data.shape[1], momentum=momentum, dtype=jnp.float64)

        @jax.jit
        def run(layer):
            def step(layer, key):
                return train(layer, table[jax.random.randint(key, (size,), 0, len(table))])[1], None

            return jax.lax.scan(step, layer, jax.random.split(KEY, steps))[0]

        layer = run(layer)
        # Batches are drawn with replacement, so the data set is the population: its variance has the divisor N. The
        # exponential average leaves the share (1-m)/(1+m) = 1e-3 of a batch mean's variance σ²/64: 0.004 σ; six of
        # them. A batch variance has σ⁴(κ-1)/64 with κ < 11 for each of these columns: 0.4 σ², so 0.0125 σ²; six.
        np.testing.assert_allclose((layer.statistics.mean - data.mean(0)) / data.std(0), 0, atol=0.024)
        np.testing.assert_allclose(layer.statistics.variance / data.var(0), 1, atol=0.075)
        normal = np.asarray(jax.vmap(layer)(table))
        np.testing.assert_allclose(normal.mean(0), 0, atol=0.024 * 1.04)
        np.testing.assert_allclose(normal.std(0), 1, atol=0.04)

        # The whole table as the one batch: the data set's statistics exactly, with the divisor N - 1.
        whole = train(nn.BatchNorm(data.shape[1], dtype=jnp.float64), table)[1].statistics
        np.testing.assert_allclose(whole.mean, data.mean(0), rtol=1e-12)
        np.testing.assert_allclose(whole.variance, data.var(0, ddof=1), rtol=1e-11)


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, of whatever version is there
def test_equal_to_pytorch():
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        batches = RNG.normal(2.0, 3.0, size=(5, 8, 3))
        # A plain average of all batches is momentum=None there and 1 here. An exponential one begins there with the
        # mean 0 and variance 1, as here where many batches are already counted.
        for theirs, ours, count in [(None, 1.0, 0), (0.1, 0.9, 1_000)]:
            layer = eqx.tree_at(lambda layer: layer.statistics.count, batch_norm(3, momentum=ours), jnp.int32(count))
            peer = torch.nn.BatchNorm1d(3, momentum=theirs, dtype=torch.float64)
            with torch.no_grad():
                peer.weight.copy_(torch.from_numpy(np.array(layer.weight)))
                peer.bias.copy_(torch.from_numpy(np.array(layer.bias)))
            for batch in batches:
                x = torch.from_numpy(batch).requires_grad_(True)
                expected = peer(x)
                torch.sum(torch.sin(expected)).backward()
                gradient = jax.grad(lambda x, layer=layer: jnp.sum(jnp.sin(train(layer, x)[0])))(jnp.asarray(batch))
                y, layer = train(layer, jnp.asarray(batch))
                # 1e-12: the same formulas in another order of additions.
                np.testing.assert_allclose(y, expected.detach().numpy(), rtol=0, atol=1e-12)
                np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=0, atol=1e-12)
            np.testing.assert_allclose(layer.statistics.mean, peer.running_mean.numpy(), rtol=1e-12)
            np.testing.assert_allclose(layer.statistics.variance, peer.running_var.numpy(), rtol=1e-12)
            inference = peer.eval()(torch.from_numpy(batches[0])).detach().numpy()
            np.testing.assert_allclose(jax.vmap(layer)(jnp.asarray(batches[0])), inference, rtol=0, atol=1e-12)


def test_statistics_are_those_of_the_whole_sharded_batch():
    with jax.enable_x64(True):
        layer, batch = batch_norm(3), jnp.asarray(RNG.normal(size=(8, 3)) + np.arange(8)[:, None])
        y, updated = train(layer, batch)
        mesh = Mesh(np.array(jax.devices()[:4]), ("devices",))

        # Left to the compiler ...
        spread = jax.device_put(batch, NamedSharding(mesh, P("devices")))
        results = [jax.jit(train)(layer, spread)]

        # ... and by hand, with the mean over both axes. (JAX 0.10's check_vma fails on any pmean over a mapped axis.)
        def on_one_device(x):
            def one(x):
                return nn.training_call(layer, x, key=None, axis_name=("batch", "devices"))

            return jax.vmap(one, axis_name="batch", out_axes=(0, None))(x)

        results.append(
            jax.jit(
                jax.shard_map(
                    on_one_device, mesh=mesh, in_specs=P("devices"), out_specs=(P("devices"), P()), check_vma=False
                )
            )(batch)
        )
        for sharded, statistics in results:
            # 1e-13: eight values are added in another order.
            np.testing.assert_allclose(sharded, y, rtol=0, atol=1e-13)
            for mine, theirs in zip(jax.tree.leaves(statistics), jax.tree.leaves(updated), strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-13)


def test_a_batch_of_one_value_is_refused():
    with pytest.raises(UserError, match="at least two examples"):
        train(nn.BatchNorm(2), jnp.ones((1, 2)))
    train(nn.BatchNorm(2), jnp.asarray(RNG.normal(size=(1, 4, 4, 2)), jnp.float32))  # one image has values enough


def nested(rate=0.5):
    """Statistics at several depths: in a row, a branch, a shortcut and an MLP; and a layer that occurs three times."""
    keys = jax.random.split(KEY, 4)
    mlp = nn.MLP(3, 3, width=4, depth=1, key=keys[0])
    mlp = eqx.tree_at(lambda m: m.layers, mlp, (mlp.layers[0], nn.BatchNorm(4), *mlp.layers[1:]))
    block = nn.Residual(
        nn.Sequential([nn.Linear(3, 3, key=keys[1]), nn.BatchNorm(3), nn.Dropout(rate)]),
        shortcut=nn.Sequential([nn.BatchNorm(3)]),
    )
    relu = nn.Activation(jax.nn.relu)
    return nn.Sequential([nn.BatchNorm(3), relu, block, relu, mlp, nn.Residual(relu), nn.Linear(3, 1, key=keys[2])])


def test_containers_carry_the_statistics_of_their_children():
    model, x = nested(), jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
    assert nn.has_running_statistics(model)
    step = jax.jit(lambda model, x, key: train(model, x, key))
    y, updated = step(model, x, KEY)
    assert y.shape == (16, 1)
    assert jax.tree.structure(updated) == jax.tree.structure(model)

    def statistics(model):
        is_leaf = lambda node: isinstance(node, nn.RunningStatistics)
        return [node for node in jax.tree.leaves(model, is_leaf=is_leaf) if is_leaf(node)]

    assert len(statistics(updated)) == 4
    assert [int(node.count) for node in statistics(updated)] == [1] * 4
    assert [int(node.count) for node in statistics(model)] == [0] * 4  # the old one is as it was
    for before, after in zip(statistics(model), statistics(updated), strict=True):
        assert np.all(np.asarray(before.mean) != np.asarray(after.mean))
    # Everything but statistics comes back to the bit.
    emptied = [
        eqx.tree_at(lambda m: statistics(m), tree, replace=[nn.RunningStatistics(1)] * 4) for tree in (model, updated)
    ]
    assert eqx.tree_equal(*emptied)
    # One more step with the same program: nothing in the structure moved.
    step(updated, x, KEY)
    assert step._cache_size() == 1


def test_keys_reach_dropout_in_training_only_where_given():
    model, x = nested(), jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
    step = jax.jit(train)
    first, second, other = step(model, x, KEY)[0], step(model, x, KEY)[0], step(model, x, jax.random.key(1))[0]
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    off = jax.jit(train)(model, x)[0]
    # 1e-6: without a key dropout is the identity, as at rate 0.
    np.testing.assert_allclose(off, step(nested(rate=0.0), x, KEY)[0], atol=1e-6)


def test_a_model_without_statistics_is_called_with_the_same_keys():
    model = nn.MLP(3, 2, width=8, depth=2, dropout=0.5, key=KEY)
    assert not nn.has_running_statistics(model)
    x = jnp.ones(3)
    y, same = nn.training_call(model, x, key=KEY, axis_name="batch")
    np.testing.assert_array_equal(y, model(x, key=KEY))
    assert eqx.tree_equal(same, model)


class Careless(eqx.Module):
    norm: nn.BatchNorm

    def __call__(self, x, *, key=None):
        return self.norm(x)


class Careful(Careless):
    def training_call(self, x, *, key, axis_name):
        y, norm = nn.training_call(self.norm, x, key=key, axis_name=axis_name)
        return y, dataclasses.replace(self, norm=norm)


def test_statistics_below_a_class_that_forgets_them_are_refused():
    x = jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32)
    with pytest.raises(UserError, match="Careless holds running statistics"):
        train(nn.Sequential([Careless(nn.BatchNorm(2))]), x)
    assert train(nn.Sequential([Careful(nn.BatchNorm(2))]), x)[1].layers[0].norm.statistics.count == 1


def test_what_cannot_be_called_is_refused():
    with pytest.raises(UserError, match="cannot be called: int"):
        nn.training_call(3, jnp.ones(2), key=None, axis_name="batch")

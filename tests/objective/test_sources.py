"""Where examples come from: the values untouched until a precision is chosen, weights, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.objective import FreshPoints, HeldPoints, HostRows, NoExamples, Objective, Residual, Rows, Supervised

N = 57
X, Y = np.random.default_rng(0).normal(size=(N, 3)), np.arange(N)


def drawn(source, index, key=0, dtype=None):
    """A batch as the loop gets it, through an objective of that precision."""
    objective = Objective(term=Residual(lambda m, z: z, source))
    objective = objective if dtype is None else objective.astype(dtype)
    state = objective.init(jax.random.key(key))
    if source.on_host:
        return objective.stream(state, index)["term"]
    return jax.jit(lambda state, i: objective.draw(state, i)["term"])(state, jnp.int32(index))


def test_64_bits_given_are_64_bits_used():
    x = np.full((4, 1), 1 / 3)
    objective = Objective(data=Supervised(x, x, loss=squared_error, weights=[1, 1, 1, 3]))  # made where 64 bits are off
    with jax.enable_x64(True):
        batch = objective.astype(np.float64).draw(objective.init(jax.random.key(0)), jnp.int32(0))["data"]
        assert batch.values[0].dtype == np.float64
        assert batch.values[0][0, 0] == 1 / 3
        assert batch.weights.dtype == np.float64
        assert np.array_equal(batch.weights, [2 / 3, 2 / 3, 2 / 3, 2])
    assert objective.astype(np.float32).terms["data"].source.values[0].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_host_and_device_hand_out_the_same_batches_bit_for_bit(dtype):
    with jax.enable_x64(dtype is np.float64):
        weights = np.linspace(1, 2, N)
        for index in (0, 5, 6, 100):
            device = drawn(Rows((X, Y), batch_size=10, weights=weights), index, dtype=dtype)
            host = drawn(HostRows((X, Y), batch_size=10, weights=weights), index, dtype=dtype)
            for one, other in zip(jax.tree.leaves(device), jax.tree.leaves(host), strict=True):
                assert one.dtype == other.dtype
                assert np.array_equal(one, other)
            assert np.array_equal(device.values[0], X[np.asarray(device.values[1])].astype(dtype))


def test_all_rows_come_in_their_own_order_where_no_batch_size_is_given():
    for index in (0, 3):
        assert np.array_equal(drawn(Rows((X, Y)), index).values[1], Y)
    assert not Rows(X).varies
    assert Rows(X, batch_size=N).varies


def test_weights_have_mean_one_over_the_population():
    source = Rows(X, weights=np.arange(1.0, N + 1))
    assert np.isclose(np.mean(source.weights), 1, rtol=1e-15)
    assert np.allclose(source.weights, np.arange(1.0, N + 1) / ((N + 1) / 2))


def test_a_memory_mapped_array_is_read_by_rows(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = HostRows(mapped, batch_size=10)
    assert isinstance(source.rows.tree.values, np.memmap)
    on_device = drawn(Rows(X, batch_size=10), 2, dtype=np.float32)
    assert np.array_equal(drawn(source, 2, dtype=np.float32).values, on_device.values)


def test_points_are_held_until_refreshed_and_fresh_ones_are_not_held():
    sampler = lambda key, n: jax.random.uniform(key, (n, 2))
    held, fresh = HeldPoints(sampler, 9), FreshPoints(sampler, 9)
    assert np.array_equal(drawn(held, 0).values, drawn(held, 1).values)
    assert not np.array_equal(drawn(held, 0).values, drawn(held, 0, key=1).values)
    assert not np.array_equal(drawn(fresh, 0).values, drawn(fresh, 1).values)
    assert np.array_equal(drawn(fresh, 1).values, drawn(fresh, 1).values)
    state = held.init(jax.random.key(0))
    assert not np.array_equal(state, held.refresh(state, jax.random.key(5), lambda values: values[:, 0]))
    assert (held.varies, fresh.varies, NoExamples().varies) == (False, True, False)
    with jax.enable_x64(True):  # a sampler draws 64 bits here; a phase in 32 gets 32
        assert drawn(held, 0, dtype=np.float32).values.dtype == np.float32
        assert drawn(fresh, 0, dtype=np.float32).values.dtype == np.float32


@pytest.mark.parametrize("make", [Rows, HostRows])
@pytest.mark.parametrize(
    ("values", "kwargs", "message"),
    [
        (X, {"batch_size": N + 1}, f"batch size {N + 1} is not between 1 and the number of examples, {N}"),
        (X, {"batch_size": 0}, "batch size 0 is not between"),
        ((X, Y[1:]), {"batch_size": 1}, "differ in their number of rows"),
        (np.float64(3.0), {"batch_size": 1}, "differ in their number of rows"),
        ([], {"batch_size": 1}, "at least one array"),
        (X[:0], {"batch_size": 1}, "between 1 and"),
        (np.array(["a", "b"]), {"batch_size": 1}, "an array of examples of dtype <U1"),
        (X, {"batch_size": 1, "weights": np.ones(N - 1)}, "one weight per example"),
        (X, {"batch_size": 1, "weights": np.full(N, np.nan)}, "finite, not negative, and not all zero"),
        (X, {"batch_size": 1, "weights": -np.ones(N)}, "finite, not negative, and not all zero"),
        (X, {"batch_size": 1, "weights": np.zeros(N)}, "finite, not negative, and not all zero"),
    ],
)
def test_refuses_examples_that_cannot_be_used(make, values, kwargs, message):
    with pytest.raises(UserError, match=message):
        make(values, **kwargs)

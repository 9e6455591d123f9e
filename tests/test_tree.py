"""Pytrees by name: nothing lost, nothing mixed up, equal only if equal to the last bit."""

import hashlib
import json
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg.errors import UserError
from thalweg.tree import NamedLeaves, flatten_with_names, named_leaves, rebuild, tree_hash


class State(NamedTuple):
    count: Any
    moment: Any


def every_kind() -> dict[str, Any]:
    """One leaf of every kind that the state of a training can hold."""
    tree = {
        "bfloat16": jnp.asarray([1.5, -0.0, jnp.nan], jnp.bfloat16),
        "bool": jnp.asarray([True, False]),
        "complex": jnp.asarray([1j, 2.0], jnp.complex64),
        "count": jnp.zeros((), jnp.int32),
        "empty": jnp.zeros((0, 4)),
        "half": jnp.asarray([6e-8], jnp.float16),  # subnormal: a flush to zero would show
        "key": jax.random.key(7),
        "keys": jax.random.split(jax.random.key(7, impl="rbg"), 3),
        "raw_key": jnp.asarray([0, 2**32 - 1], jnp.uint32),
        "state": State(count=jnp.asarray(3, jnp.int8), moment=(np.arange(3.0), np.float64(0.1))),
        "weak": jnp.asarray(0.5),
        "weak_vector": jnp.full((3,), -0.0),
    }
    with jax.enable_x64(True):
        tree |= {
            "double": jnp.asarray([1 / 3, 5e-324]),
            "long": jnp.asarray(2**53 + 1),
            "weak_double": jnp.asarray(0.1),
        }
    return tree


def blank(leaf: Any) -> Any:
    """A leaf of the same kind with other bits."""
    with jax.enable_x64(True):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = jnp.full_like(jax.random.key_data(leaf), 9)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jnp.ones_like(leaf) if isinstance(leaf, jax.Array) else leaf + 1


def test_names_are_paths() -> None:
    model = eqx.nn.MLP(2, 1, width_size=4, depth=1, key=jax.random.key(0))
    state = optax.adam(1e-3).init(eqx.filter(model, eqx.is_array))
    names = set(flatten_with_names({"params": model, "opt": state}))
    assert {"params/layers/0/weight", "params/layers/1/bias", "opt/0/count", "opt/0/mu/layers/0/weight"} <= names
    assert not any("activation" in name for name in names)  # a function is no array


def test_names_are_unique_when_keys_hold_slashes() -> None:
    arrays = flatten_with_names({"a/b": np.zeros(1), "a": {"b": np.ones(1)}, "a~1b": np.full(1, 2.0)})
    assert {name: float(array[0]) for name, array in arrays.items()} == {"a~1b": 0.0, "a/b": 1.0, "a~01b": 2.0}


def test_two_leaves_of_one_name_are_refused() -> None:
    @jax.tree_util.register_pytree_with_keys_class
    class Twins:
        def tree_flatten_with_keys(self):
            return [(jax.tree_util.DictKey("x"), np.zeros(1)), (jax.tree_util.DictKey("x"), np.ones(1))], None

        @classmethod
        def tree_unflatten(cls, aux, children):
            return cls()

    with pytest.raises(UserError, match="'x'"):
        flatten_with_names(Twins())


def test_hash_is_the_stated_one() -> None:
    # Written out by hand: header line and bytes of each array, in the order of the names.
    expected = hashlib.sha256()
    expected.update(json.dumps(["a", None, "int32", [2]]).encode() + b"\n" + b"\1\0\0\0\2\0\0\0")
    expected.update(json.dumps(["k", "threefry2x32", "uint32", [2]]).encode() + b"\n" + b"\0\0\0\0\7\0\0\0")
    assert tree_hash({"k": jax.random.key(7), "a": jnp.asarray([1, 2], jnp.int32)}) == expected.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"b": np.zeros(2, np.float32)},
        {"a": np.zeros(2, np.int32)},
        {"a": np.zeros((2, 1), np.float32)},
        {"a": np.zeros((1, 2), np.float32)},
        {"a": np.float32([0.0, -0.0])},
        {"a": np.float32([0.0, 1e-45])},
        {"a": np.zeros(2, np.float32), "b": np.zeros(0)},
        {},
    ],
    ids=["name", "dtype", "shape", "shape again", "sign of zero", "last bit", "one more, empty", "none"],
)
def test_hash_sees_every_difference(other: dict[str, np.ndarray]) -> None:
    assert tree_hash(other) != tree_hash({"a": np.zeros(2, np.float32)})


def test_hash_sees_the_kind_of_key() -> None:
    data = jnp.arange(4, dtype=jnp.uint32)
    assert tree_hash(jax.random.wrap_key_data(data, impl="rbg")) != tree_hash(data)


def test_hash_ignores_what_is_no_difference() -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(1, np.float32)
    same = [{"a": a, "b": b}, {"b": b, "a": a}, {"a": jnp.asarray(a), "b": b}, {"a": np.asfortranarray(a), "b": b}]
    assert len({tree_hash(tree) for tree in same}) == 1


def test_same_seed_same_hash_other_seed_other_hash() -> None:
    def model(seed: int) -> eqx.nn.MLP:
        return eqx.nn.MLP(3, 2, width_size=8, depth=2, key=jax.random.key(seed))

    assert tree_hash(model(0)) == tree_hash(model(0))
    assert len({tree_hash(model(seed)) for seed in range(5)}) == 5


def test_rebuild_is_exact_for_every_kind() -> None:
    tree = every_kind()
    again = rebuild(jax.tree.map(blank, tree), named_leaves(tree))
    assert tree_hash(again) == tree_hash(tree)
    for old, new in zip(jax.tree.leaves(tree), jax.tree.leaves(again), strict=True):
        assert type(new) is type(old)
        assert new.dtype == old.dtype
        assert getattr(new, "weak_type", None) == getattr(old, "weak_type", None)
    # Equal keys must also draw equally.
    assert jnp.array_equal(jax.random.normal(again["keys"][1], (4,)), jax.random.normal(tree["keys"][1], (4,)))


def test_weak_types_come_from_what_was_saved() -> None:
    # A fresh optimizer's counter may be weakly typed where the trained one no longer is; bfloat16 then shows it.
    like, saved = {"scale": jnp.asarray(2.0)}, {"scale": jnp.float32(3.0)}
    assert not rebuild(like, named_leaves(saved))["scale"].weak_type
    assert rebuild(saved, named_leaves(like))["scale"].weak_type


def test_rebuild_follows_the_devices_of_like() -> None:
    devices = jax.devices()
    assert len(devices) >= 2, "conftest.py asks for four simulated devices"
    placed = jax.device_put(jnp.zeros(4), devices[1])
    again = rebuild({"a": placed, "b": jnp.zeros(4)}, NamedLeaves({"a": np.ones(4, "f4"), "b": np.ones(4, "f4")}))
    assert again["a"].devices() == {devices[1]}
    assert not again["b"].committed  # so that it may still join the other on its device
    assert jnp.array_equal(again["a"] + again["b"], jnp.full(4, 2.0))


def test_rebuild_takes_shapes_alone() -> None:
    tree = {"w": jnp.arange(3.0), "key": jax.random.key(5)}
    assert tree_hash(rebuild(jax.eval_shape(lambda: tree), named_leaves(tree))) == tree_hash(tree)


def test_rebuilt_arrays_share_no_memory_and_can_be_donated() -> None:
    source = np.arange(1000, dtype=np.float32)
    again = rebuild(
        {"w": jnp.zeros(1000), "host": np.zeros(1000, np.float32)}, NamedLeaves({"w": source, "host": source})
    )
    expected = source + 1
    source[:] = -1
    assert np.array_equal(again["host"] + 1, expected)
    moved = jax.jit(lambda w: w + 1, donate_argnums=0)(again["w"])  # a useless donation would warn, and so fail
    assert np.array_equal(moved, expected)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": jnp.zeros((2, 4)), "n": 1}, r"'w' was saved as float32\[2, 3\], but the tree holds float32\[2, 4\]"),
        ({"w": jnp.zeros((2, 3), jnp.bfloat16), "n": 1}, "'w' was saved as float32"),
        ({"w": jnp.zeros((2, 3)), "extra": jnp.zeros(1), "n": 1}, "'extra'.* was not saved"),
        ({"n": 1}, "'w'.* is not in the tree"),
        ({"w": jax.random.key(0), "n": 1}, "'w' was saved as float32"),
        ({"w": jnp.zeros((2, 3)), "n": 2}, "'n' is a Python value, 1 when saved and 2 now"),
        ({"w": jnp.zeros((2, 3))}, "'n' is a Python value, 1 when saved and None now"),
    ],
)
def test_a_difference_is_refused_with_the_leaf(like: dict[str, Any], message: str) -> None:
    leaves = named_leaves({"w": jnp.ones((2, 3)), "n": 1})
    with pytest.raises(UserError, match=message) as caught:
        rebuild(like, leaves, where="run/checkpoints/step-0000000001")
    assert caught.value.where == "run/checkpoints/step-0000000001"


def test_a_key_of_another_implementation_is_refused() -> None:
    with pytest.raises(UserError, match="'key'"):
        rebuild({"key": jax.random.key(0, impl="rbg")}, named_leaves({"key": jax.random.key(0)}))
    with pytest.raises(UserError, match="'key' is no key of the implementation 'dice'"):
        rebuild({"key": jax.random.key(0)}, NamedLeaves({"key": np.zeros(2, np.uint32)}, {"key": "dice"}))

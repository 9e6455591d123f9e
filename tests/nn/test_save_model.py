"""A model on disk: to the last bit and back, both files or nothing, and no code from a file."""

import hashlib
import json
import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from thalweg import nn
from thalweg.errors import DamagedError, RunError, UserError
from thalweg.nn import save
from thalweg.tree import tree_hash

KEY = jax.random.key(0)


def model():
    keys = jax.random.split(KEY, 2)
    norm = eqx.tree_at(lambda norm: norm.statistics.count, nn.BatchNorm(4), jnp.int32(7))
    return nn.Sequential(
        [
            nn.Standardize([1.0, 2.0], [3.0, 4.0]),
            nn.Residual(nn.Linear(2, 4, key=keys[0]), nn.Linear(2, 4, bias=False, key=keys[1])),
            norm,
            nn.Dropout(0.1),
            nn.Activation(jax.nn.gelu),
        ]
    )


def assert_same(loaded, saved):
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    loaded, saved = eqx.filter(loaded, eqx.is_array), eqx.filter(saved, eqx.is_array)
    assert [leaf.dtype for leaf in jax.tree.leaves(loaded)] == [leaf.dtype for leaf in jax.tree.leaves(saved)]
    assert tree_hash(loaded) == tree_hash(saved)


def test_round_trip_with_metadata(tmp_path):
    metadata = {"target": "price", "columns": ["a", "b"], "score": 0.25, "nested": {"none": None}}
    nn.save_model(tmp_path / "new" / "model", model(), metadata)
    assert sorted(file.name for file in (tmp_path / "new").rglob("*")) == ["model", "model.json", "model.safetensors"]
    for path in ("", "model.json", "model.safetensors"):
        loaded, described = nn.load_model(tmp_path / "new" / "model" / path)
        assert_same(loaded, model())
        assert described == metadata
    x = jnp.array([0.3, -0.7])
    np.testing.assert_array_equal(loaded(x), model()(x))
    assert_same(nn.load_model(tmp_path / "new" / "model", like=model())[0], model())


def test_every_dtype_comes_back_to_the_bit_whatever_the_64_bit_setting(tmp_path):
    special = np.array([0.1, -0.0, np.inf, np.nan, 1e-40])
    arrays = {name: special.astype(dtype) for name, dtype in save.DTYPES.items() if dtype.kind in "fV"}
    arrays["nan with a message"] = np.array([0x7FF8000000000123], np.uint64).view(np.float64)
    arrays["bool"], arrays["complex64"] = np.array([True, False]), np.array([1 + 2j], np.complex64)
    arrays |= {
        name: np.array([np.iinfo(dtype).max], dtype) for name, dtype in save.DTYPES.items() if dtype.kind in "iu"
    }
    arrays["scalar"], arrays["empty"] = np.array(1 / 3), np.zeros((0, 3), np.float32)
    arrays["transposed"] = (
        np.arange(6.0).reshape(2, 3).T
    )  # a view in Fortran order, which safetensors would write wrongly
    assert set(save.DTYPES) <= set(arrays)
    with jax.enable_x64(True):
        tree = {name: jnp.asarray(array) for name, array in arrays.items()}
    nn.save_model(tmp_path / "jax", tree)
    nn.save_model(tmp_path / "numpy", arrays)
    for folder in ("jax", "numpy"):
        loaded, metadata = nn.load_model(tmp_path / folder)
        assert metadata == {}
        assert all(isinstance(leaf, jax.Array) for leaf in loaded.values())
        assert_same(loaded, tree)


def test_an_ensemble(tmp_path):
    members = jax.vmap(lambda key: nn.MLP(2, None, width=4, depth=1, key=key))(jax.random.split(KEY, 3))
    nn.save_model(tmp_path / "model", members)
    loaded, _ = nn.load_model(tmp_path / "model")
    assert_same(loaded, members)
    assert jax.vmap(lambda model: model(jnp.ones(2)))(loaded).shape == (3,)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        nn.save_model(tmp_path / name, model())
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


class Mine(eqx.Module):
    layer: nn.Linear
    key: jax.Array
    power: int = 2

    def __call__(self, x, *, key=None):
        return self.layer(x) ** self.power


def test_a_users_class_needs_like(tmp_path):
    saved = Mine(nn.Linear(2, 1, key=KEY), jax.random.key(5))
    nn.save_model(tmp_path / "model", saved, {"a": 1})
    with pytest.raises(UserError, match=r"tensors only.*Mine.*like="):
        nn.load_model(tmp_path / "model")
    like = Mine(nn.Linear(2, 1, key=jax.random.key(1)), jax.random.key(6))
    loaded, metadata = nn.load_model(tmp_path / "model", like=like)
    assert_same(loaded, saved)
    assert metadata == {"a": 1}
    for other, named in [
        (Mine(nn.Linear(2, 1, key=KEY), jax.random.key(5), power=3), "'power'"),
        (Mine(nn.Linear(3, 1, key=KEY), jax.random.key(5)), "'layer/weight'"),
        (Mine(nn.Linear(2, 1, bias=False, key=KEY), jax.random.key(5)), "'layer/bias'"),
        (Mine(nn.Linear(2, 1, key=KEY, dtype=jnp.bfloat16), jax.random.key(5)), "'layer/"),
        (model(), "'layers/0/mean'"),
    ]:
        with pytest.raises(UserError, match=named):
            nn.load_model(tmp_path / "model", like=other)


def test_a_function_of_the_users_own_needs_like_too(tmp_path):
    saved = nn.Sequential([nn.Linear(2, 1, key=KEY), nn.Activation(jnp.cos)])
    nn.save_model(tmp_path / "model", saved)
    with pytest.raises(UserError, match=r"layers\[1\].function"):
        nn.load_model(tmp_path / "model")
    assert_same(nn.load_model(tmp_path / "model", like=saved)[0], saved)


def test_classes_of_a_higher_room(tmp_path):
    class Doubled(eqx.Module):
        layer: nn.Linear

    saved, classes = Doubled(nn.Linear(2, 1, key=KEY)), {**nn.LAYERS, "Doubled": Doubled}
    nn.save_model(tmp_path / "model", saved, classes=classes)
    assert_same(nn.load_model(tmp_path / "model", classes=classes)[0], saved)
    with pytest.raises(UserError, match="unknown class 'Doubled'"):
        nn.load_model(tmp_path / "model")


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link to nothing"])
def test_what_exists_is_never_replaced(tmp_path, kind):
    place = tmp_path / "model"
    if kind == "file":
        place.write_text("mine")
    elif kind == "link to nothing":
        place.symlink_to(tmp_path / "nothing")
    else:
        place.mkdir()
        if kind == "folder":
            (place / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="exists already"):
        nn.save_model(place, model())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("tree", "metadata", "named"),
    [
        ({"w": np.zeros(2, np.complex128)}, {}, "'w' has the dtype complex128"),
        ({"w": np.array(["text"])}, {}, "'w'"),
        ({}, {"set": {1}}, "no JSON"),
        ({}, {"nan": float("nan")}, "no JSON"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_and_nothing_written(tmp_path, tree, metadata, named):
    with pytest.raises(UserError, match=named):
        nn.save_model(tmp_path / "model", tree, metadata)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        nn.save_model(tmp_path / "model", model())
    assert list(tmp_path.iterdir()) == []


def sign(folder, **changes):
    """Makes a forged folder's sums right, so that the checks behind them are reached."""
    content = json.loads((folder / "model.json").read_text()) | changes
    content["tensors_sha256"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    content["description_sha256"] = save._digest(content)
    (folder / "model.json").write_text(json.dumps(content))


@pytest.fixture
def saved(tmp_path):
    nn.save_model(tmp_path / "model", model())
    return tmp_path / "model"


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "binary"])
def test_a_damaged_file_is_refused(saved, file, damage):
    content = bytearray((saved / file).read_bytes())
    if damage == "flipped":
        # A digit of a number in the description; a bit of a weight.
        at = content.index(b'"rate": 0.1') + 10 if file == "model.json" else len(content) - 3
        content[at] ^= 1
    contents = {"flipped": content, "cut": content[:-20], "empty": b"", "binary": bytes(range(256))}
    (saved / file).write_bytes(contents[damage])
    with pytest.raises(DamagedError, match=file):
        nn.load_model(saved)
    with pytest.raises(DamagedError, match=file):
        nn.load_model(saved, like=model())


# What pickle.dumps makes of an object whose loading calls os.mkdir("executed").
PICKLE = b"cposix\nmkdir\n(S'executed'\ntR."


def test_anything_but_tensors_is_refused_and_not_executed(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (saved / "model.safetensors").write_bytes(PICKLE)
    sign(saved)
    with pytest.raises(DamagedError, match="something else than tensors"):
        nn.load_model(saved)
    assert not (tmp_path / "executed").exists()


def drop(tensors):
    del tensors["layers/2/bias"]


def add(tensors):
    tensors["layers/9/bias"] = np.zeros(1, np.float32)


def reshape(tensors):
    tensors["layers/2/bias"] = tensors["layers/2/bias"].reshape(2, 2)


def retype(tensors):
    tensors["layers/2/bias"] = tensors["layers/2/bias"].astype(np.float16)


@pytest.mark.parametrize("forge", [drop, add, reshape, retype])
def test_wrong_tensors_are_refused_by_name(saved, forge):
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    forge(tensors)
    safetensors.numpy.save_file(tensors, saved / "model.safetensors")
    sign(saved)
    with pytest.raises(DamagedError, match=r"'layers/[29]/bias'"):
        nn.load_model(saved)
    with pytest.raises(UserError, match=r"'layers/[29]/bias'"):
        nn.load_model(saved, like=model())


def test_a_type_that_numpy_has_not_is_refused_by_name(saved):
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}).encode()
    (saved / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    sign(saved)
    with pytest.raises(DamagedError, match=r"'w'.*F8_E4M3"):
        nn.load_model(saved)


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"format": "other"}, DamagedError, "does not describe"),
        ({"version": 2}, UserError, "version 2"),
        ({"spec": {"class": "os.system", "fields": {}}}, UserError, "os.system"),
        ({"spec": {"class": "Activation", "fields": {"function": {"function": "eval"}}}}, UserError, "'eval'"),
    ],
)
def test_a_forged_description_is_refused(saved, changes, error, named):
    sign(saved, **changes)
    with pytest.raises(error, match=named):
        nn.load_model(saved)


def test_a_description_nested_without_end_is_refused(saved):
    (saved / "model.json").write_text("[" * 100_000)
    with pytest.raises(DamagedError, match="damaged"):
        nn.load_model(saved)


def test_a_place_without_a_model_is_refused(tmp_path, saved):
    with pytest.raises(UserError, match="no model can be read here"):
        nn.load_model(tmp_path)
    with pytest.raises(UserError, match="no model can be read here"):
        nn.load_model(tmp_path / "missing")
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        nn.load_model(saved)

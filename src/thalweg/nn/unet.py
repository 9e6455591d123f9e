"""The U-Net: one image to one value, or several, at each of its pixels."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thalweg.errors import UserError, whole_number
from thalweg.nn.activations import Activation
from thalweg.nn.conv import Conv2d
from thalweg.nn.initializers import for_activation, lecun_normal
from thalweg.nn.normalization import GroupNorm
from thalweg.nn.pooling import MaxPool2d, UpConv2d
from thalweg.nn.sequential import call_in_order
from thalweg.types import Key, Model


class DoubleConv(eqx.Module):
    """Two 3 × 3 convolutions that keep the size of the image, each followed by its normalization and activation.

    Args:
        in_channels, out_channels: at least 1.
        key: for the initial kernels.
        groups: of the group normalization; it divides `out_channels`. None for no normalization.
        activation: a function, or a module such as `LeakyReLU(0.2)`.
        dtype: of the parameters.
    Raises:
        UserError: an argument out of range, an activation without known initial weights.

    >>> DoubleConv(1, 4, key=jax.random.key(0))(jnp.ones((6, 6, 1))).shape
    (6, 6, 4)
    """

    layers: tuple[Model, ...]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        key: Key,
        groups: int | None = None,
        activation: Callable[..., jax.Array] = jax.nn.relu,
        dtype: DTypeLike = jnp.float32,
    ):
        init = for_activation(activation)
        acts: Model = activation if issubclass(type(activation), eqx.Module) else Activation(activation)
        layers: list[Model] = []
        for channels, layer_key in zip((in_channels, out_channels), jax.random.split(key), strict=True):
            # The normalization has a bias of its own.
            settings = {"kernel_size": 3, "padding": 1, "init": init, "bias": groups is None, "dtype": dtype}
            layers.append(Conv2d(channels, out_channels, key=layer_key, **settings))
            layers += [] if groups is None else [GroupNorm(out_channels, groups=groups, dtype=dtype)]
            layers.append(acts)
        self.layers = tuple(layers)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(height, width, in_channels) to (height, width, out_channels)."""
        return call_in_order(self.layers, x, key=key)


class UNet(eqx.Module):
    """A network for dense answers (Ronneberger, Fischer and Brox, 2015): down to few pixels and up again, with bridges.

    At each level two convolutions, then the image is halved; on the way up it is doubled, and what the same level saw
    on the way down is laid beside it. Images are padded with zeros, so that the answer has the size of the image
    (the authors cut off the borders). Normalization, if any, is by groups of channels of one image, for which there is
    no need of a batch.

    Args:
        in_channels: of the image.
        out_channels: values at each pixel, or None for one without an axis of its own: a mask's logits (height, width).
        widths: channels of each level, the finest first; n levels halve the image n - 1 times.
        key: for the initial weights.
        groups: of the group normalization; it divides every width. None for no normalization.
        activation: a function, or a module such as `LeakyReLU(0.2)`.
        dtype: of the parameters; inputs must have it too.
    Raises:
        UserError: an argument out of range; at the call, an image of another dtype, or one that cannot be halved so
            often.

    >>> model = UNet(3, 5, widths=(4, 8), key=jax.random.key(0))
    >>> model(jnp.ones((4, 6, 3))).shape
    (4, 6, 5)
    """

    down: tuple[DoubleConv, ...]
    up: tuple[UpConv2d, ...]
    joined: tuple[DoubleConv, ...]
    head: Conv2d
    halve: MaxPool2d
    out_channels: int | None = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None,
        *,
        widths: Sequence[int],
        key: Key,
        groups: int | None = None,
        activation: Callable[..., jax.Array] = jax.nn.relu,
        dtype: DTypeLike = jnp.float32,
    ):
        if not isinstance(widths, Sequence):
            raise UserError(f"widths {widths!r} of a U-Net are no sequence", remedy="A width for each level: (16, 32).")
        widths = [whole_number(width, "the width", "UNet") for width in widths]
        if not widths:
            raise UserError("a U-Net without levels", remedy="Give a width for each, such as (16, 32, 64).")
        down_key, up_key, joined_key, head_key = jax.random.split(key, 4)
        settings = {"groups": groups, "activation": activation, "dtype": dtype}
        self.down = tuple(
            DoubleConv(before, width, key=one, **settings)
            for before, width, one in zip(
                (in_channels, *widths), widths, jax.random.split(down_key, len(widths)), strict=False
            )
        )
        levels = list(pairwise(widths))[::-1]  # finer and coarser, the coarsest first
        self.up = tuple(
            UpConv2d(coarse, fine, key=one, dtype=dtype)
            for (fine, coarse), one in zip(levels, jax.random.split(up_key, max(1, len(levels))), strict=False)
        )
        self.joined = tuple(
            DoubleConv(2 * fine, fine, key=one, **settings)
            for (fine, _), one in zip(levels, jax.random.split(joined_key, max(1, len(levels))), strict=False)
        )
        values = 1 if out_channels is None else out_channels
        self.head = Conv2d(widths[0], values, kernel_size=1, key=head_key, init=lecun_normal, dtype=dtype)
        self.halve = MaxPool2d(2)
        self.out_channels = None if out_channels is None else int(out_channels)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(height, width, in_channels) to (height, width, out_channels), or (height, width) if that is None."""
        if x.dtype != self.head.weight.dtype:
            raise UserError(
                f"an image of dtype {x.dtype} for a network of {self.head.weight.dtype}",
                where="UNet",
                remedy="Convert it: image.astype(…); of bytes, divide by 255.",
            )
        times = 2 ** len(self.up)
        if x.ndim == 3 and (x.shape[0] % times or x.shape[1] % times):
            raise UserError(
                f"an image of shape {x.shape} cannot be halved {len(self.up)} times",
                where="UNet",
                remedy=f"Pad or cut it to multiples of {times} pixels, or take fewer levels.",
            )
        seen = []
        for i, level in enumerate(self.down):
            x = level(x if i == 0 else self.halve(x))
            seen.append(x)
        for larger, level, bridge in zip(self.up, self.joined, seen[-2::-1], strict=True):
            x = level(jnp.concatenate([bridge, larger(x)], axis=-1))
        y = self.head(x)
        return y[..., 0] if self.out_channels is None else y

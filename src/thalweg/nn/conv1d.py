"""Convolution of one sequence, channels last: (length, channels)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thalweg.errors import UserError, whole_number
from thalweg.nn.initializers import Initializer, lecun_normal
from thalweg.types import Key


class Conv1d(eqx.Module):
    """Cross-correlation with a learned kernel over a sequence, plus a bias.

    Computed as one matrix product with the windows side by side: XLA's own convolution is slow inside loops on a CPU.

    Args:
        in_channels, out_channels: at least 1.
        kernel_size: length of the kernel, in steps.
        key: for the initial kernel; the initial bias is zero.
        stride: in steps.
        padding: zeros added at either end, in steps; (kernel_size - 1)/2 keeps the length at stride 1.
        init: of the kernel, which has the shape (kernel_size, in_channels, out_channels).
        bias: whether to add one.
        dtype: of the parameters; inputs must have it too.
    Raises:
        UserError: an argument out of range; at the call, a sequence with other channels or shorter than the kernel.

    >>> layer = Conv1d(3, 8, kernel_size=5, stride=2, padding=2, key=jax.random.key(0))
    >>> layer(jnp.ones((9, 3))).shape
    (5, 8)
    """

    weight: jax.Array
    bias: jax.Array | None
    in_channels: int = eqx.field(static=True)
    out_channels: int = eqx.field(static=True)
    kernel_size: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        key: Key,
        stride: int = 1,
        padding: int = 0,
        init: Initializer = lecun_normal,
        bias: bool = True,
        dtype: DTypeLike = jnp.float32,
    ):
        self.in_channels = whole_number(in_channels, "in_channels", "Conv1d")
        self.out_channels = whole_number(out_channels, "out_channels", "Conv1d")
        self.kernel_size = whole_number(kernel_size, "kernel_size", "Conv1d")
        self.stride, self.padding = whole_number(stride, "stride", "Conv1d"), whole_number(padding, "padding", "Conv1d")
        if min(self.in_channels, self.out_channels, self.kernel_size, self.stride) < 1 or self.padding < 0:
            raise UserError(
                f"a convolution from {in_channels} to {out_channels} channels with kernel {kernel_size}, "
                f"stride {stride}, padding {padding}",
                remedy="All must be at least 1, the padding at least 0.",
            )
        self.weight = init(key, (kernel_size, in_channels, out_channels), dtype)
        self.bias = jnp.zeros(out_channels, dtype) if bias else None

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(length, in_channels) to (length', out_channels), length' = (length + 2·padding - kernel)//stride + 1."""
        if x.ndim != 2 or x.shape[1] != self.in_channels or len(x) + 2 * self.padding < self.kernel_size:
            raise UserError(
                f"input of shape {x.shape} for a convolution of {self.in_channels} channels, kernel {self.kernel_size}",
                where="Conv1d",
                remedy="A sequence has the shape (length, channels), and the padded one must be as long as the kernel. "
                "Map over a batch: jax.vmap(model)(x).",
            )
        padded = jnp.pad(x, [(self.padding, self.padding), (0, 0)])
        last = len(padded) - self.kernel_size
        windows = [padded[i : i + last + 1 : self.stride] for i in range(self.kernel_size)]
        y = jnp.concatenate(windows, axis=1) @ self.weight.reshape(-1, self.out_channels)
        return y if self.bias is None else y + self.bias

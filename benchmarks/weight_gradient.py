"""The three products of a 3 × 3 convolution at batch 8, and other ways to its weight gradient, against PyTorch.

The ways that were tried and are not in `nn.Conv2d`, for none is quicker on XLA's CPU than what JAX derives:
blocks of rows as examples, so that the contracted channel is long; columns shifted to the left factor and rows to the
right one, as one product of matrices; Winograd's F(2 × 2, 3 × 3) (Lavin and Gray, 2016); image and slope with exchanged
roles. For the input gradient: a forward convolution with the flipped kernel, written out.
Run: .venv/bin/python -m benchmarks.weight_gradient
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.side_by_side import alternate, ratio, record, seconds, summary

BATCH = 8
LAYERS = ((128, 16, 16), (128, 32, 16), (64, 32, 32), (32, 64, 64))  # side, channels in and out
PLAIN = ("NHWC", "HWIO", "NHWC")
INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])  # Winograd's three matrices
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
SLOPE = np.array([[1, 0], [1, 1], [1, -1], [0, -1]])

Way = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def convolution(x: jax.Array, w: jax.Array) -> jax.Array:
    """(n, h, w, c) with (3, 3, c, o) to (n, h, w, o)."""
    return jax.lax.conv_general_dilated(x, w, (1, 1), [(1, 1), (1, 1)], dimension_numbers=PLAIN)


def derived(x: jax.Array, dy: jax.Array, w: jax.Array) -> jax.Array:
    """As JAX derives it."""
    return jax.vjp(lambda w: convolution(x, w), w)[1](dy)[0]


def padded(x: jax.Array) -> jax.Array:
    """With a border of zeros."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def blocks(rows: int) -> Way:
    """Blocks of rows, with a row more on either side, as examples of their own."""

    def way(x: jax.Array, dy: jax.Array, w: jax.Array) -> jax.Array:
        n, height, width, _ = x.shape
        number, wide = height // rows, padded(x)
        cut = jnp.stack([wide[:, i * rows : i * rows + rows + 2] for i in range(number)])
        slopes = dy.reshape(n, number, rows, width, -1).swapaxes(0, 1)
        left, right = cut.reshape(-1, *cut.shape[2:]), slopes.reshape(-1, *slopes.shape[2:])
        numbers = ("CHWN", "IHWO", "HWNC")
        return jax.lax.conv_general_dilated(left, right, (1, 1), "VALID", dimension_numbers=numbers)

    return way


def shifts(x: jax.Array, dy: jax.Array, w: jax.Array) -> jax.Array:
    """Three shifts along the columns of x, three along the rows of dy, and one product for each example."""
    n, height, width, c = x.shape
    wide, high = padded(x), jnp.pad(dy, ((0, 0), (2, 2), (0, 0), (0, 0)))
    left = jnp.concatenate([wide[:, :, j : j + width] for j in range(3)], axis=-1)
    right = jnp.concatenate([high[:, 2 - i : 4 - i + height] for i in range(3)], axis=-1)
    product = jnp.einsum("nkc,nko->co", left.reshape(n, -1, 3 * c), right.reshape(n, left[0, ..., 0].size, -1))
    return product.reshape(3, c, 3, -1).transpose(2, 0, 1, 3)


def winograd(x: jax.Array, dy: jax.Array, w: jax.Array) -> jax.Array:
    """Sixteen products of a quarter of the pixels, between sums of neighbours."""
    height, width, c = x.shape[1:]
    wide = padded(x)

    def sums(matrix: np.ndarray, parts: Sequence[jax.Array]) -> list[jax.Array]:
        scaled = [[part if k == 1 else -part for k, part in zip(row, parts, strict=True) if k] for row in matrix]
        return [jnp.sum(jnp.stack(row), axis=0) if len(row) > 1 else row[0] for row in scaled]

    lines = sums(INPUT, [wide[:, i : i + height : 2] for i in range(4)])
    left = [one for line in lines for one in sums(INPUT, [line[:, :, j : j + width : 2] for j in range(4)])]
    lines = sums(SLOPE, [dy[:, i::2] for i in range(2)])
    right = [one for line in lines for one in sums(SLOPE, [line[:, :, j::2] for j in range(2)])]
    flat = [jnp.stack(each).reshape(16, -1, each[0].shape[-1]) for each in (left, right)]
    product = jnp.einsum("fkc,fko->fco", *flat).reshape(4, 4, c, -1)
    kernel = jnp.asarray(KERNEL, x.dtype)
    return jnp.einsum("ai,bj,abco->ijco", kernel, kernel, product)


def exchanged(x: jax.Array, dy: jax.Array, w: jax.Array) -> jax.Array:
    """The slope as the image, the image as the kernel."""
    numbers = ("CHWN", "IHWO", "HWNC")
    flipped = jax.lax.conv_general_dilated(dy, x, (1, 1), [(1, 1), (1, 1)], dimension_numbers=numbers)
    return flipped[::-1, ::-1].swapaxes(2, 3)


WEIGHT: dict[str, Way] = {
    "derived": derived,
    "blocks of 8 rows": blocks(8),
    "shifts, one product": shifts,
    "Winograd": winograd,
    "roles exchanged": exchanged,
}
IMAGE: dict[str, Way] = {
    "derived": lambda x, dy, w: jax.vjp(lambda x: convolution(x, w), x)[1](dy)[0],
    "flipped kernel": lambda x, dy, w: convolution(dy, w[::-1, ::-1].swapaxes(2, 3)),
}


def layer(side: int, before: int, after: int) -> dict[str, dict[str, float]]:
    """Milliseconds of PyTorch's product, and the ratio of each way to it, pair by pair."""
    rng = np.random.default_rng(0)
    shapes = (BATCH, side, side, before), (BATCH, side, side, after), (3, 3, before, after)
    x, dy, w = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    image, slope = (torch.as_tensor(a).permute(0, 3, 1, 2).contiguous() for a in (x, dy))
    kernel = torch.as_tensor(w).permute(3, 2, 0, 1).contiguous()
    backward = lambda mask: torch.ops.aten.convolution_backward(
        slope, image, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
    )
    arrays = [jnp.asarray(a) for a in (x, dy, w)]
    found = {}
    for product, ways, theirs in (
        ("forward", {"derived": lambda x, dy, w: convolution(x, w)}, lambda: torch.conv2d(image, kernel, padding=1)),
        ("input gradient", IMAGE, lambda: backward([True, False, False])),
        ("weight gradient", WEIGHT, lambda: backward([False, True, False])),
    ):
        compiled = {name: jax.jit(way).lower(*arrays).compile() for name, way in ways.items()}
        expected = np.asarray(compiled["derived"](*arrays))
        for name, way in compiled.items():
            # sums of up to 131,072 products of order one in float32, in another order
            if np.abs(np.asarray(way(*arrays)) - expected).max() > 1e-4 * np.abs(expected).max():
                raise ArithmeticError(f"{product}, {name}: not the same product")
        calls = {
            name: lambda way=way: seconds(lambda: jax.block_until_ready(way(*arrays))) for name, way in compiled.items()
        }
        times = alternate({**calls, "torch": lambda theirs=theirs: seconds(theirs)}, 10)
        times = {name: values[1:] for name, values in times.items()}  # the first one warms up
        found[product] = {"torch, milliseconds": 1e3 * summary(times["torch"])["median"]} | {
            f"{name}, ratio": ratio(times[name], times["torch"])["median"] for name in ways
        }
    return found


def main() -> None:
    """All layers."""
    named = {f"{side} × {side}, {before} to {after}": layer(side, before, after) for side, before, after in LAYERS}
    record("weight_gradient", named)


if __name__ == "__main__":
    main()

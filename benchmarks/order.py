"""What the keyed epoch order costs a step, beside the permutation it replaces. Run: `python -m benchmarks.order`.

The bar: under 0.2 ms a step for every size (issue 2, B6). "in a loop" is the cost within a compiled loop of many steps,
with the gathering of the rows; "one step" is one call from Python, dispatch included; "host" is the stream's NumPy.
"""

import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.objective.order import order_words, rows_of_batch

SIZES, BATCH, FEATURES, STEPS, REPEATS = (1_797, 60_000, 10**6), 128, 16, 200, 7


def milliseconds(function: Callable[[], object], steps: int) -> float:
    """Median time of one step over repeats, after a first call that compiles."""
    jax.block_until_ready(function())
    found = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(function())
        found.append((time.perf_counter() - began) / steps * 1e3)
    return float(np.median(found))


def shuffled_rows(key: jax.Array, index: jax.Array, *, batch_size: int, size: int) -> jax.Array:
    """The usual way: sort a random permutation of the epoch, take a slice."""
    per_epoch = size // batch_size
    order = jax.random.permutation(jax.random.fold_in(key, index // per_epoch), size)
    return jax.lax.dynamic_slice(order, ((index % per_epoch) * batch_size,), (batch_size,))


def keyed_rows(key: jax.Array, index: jax.Array, *, batch_size: int, size: int) -> jax.Array:
    """Ours, from a key as the other."""
    return rows_of_batch(order_words(key), index, batch_size, size)


def in_a_loop(draw: Callable[..., jax.Array], size: int, steps: int) -> float:
    """Time of a step within a compiled loop: draw the rows, gather them, and use them."""
    table, key = jnp.ones((size, FEATURES)), jax.random.key(0)

    def body(i: jax.Array, total: jax.Array) -> jax.Array:
        return total + jnp.sum(jnp.take(table, draw(key, i, batch_size=BATCH, size=size), axis=0, mode="clip"))

    run = jax.jit(lambda: jax.lax.fori_loop(jnp.int32(0), jnp.int32(steps), body, jnp.zeros(())))
    return milliseconds(run, steps)


def one_step(size: int) -> float:
    """Time of one compiled call from Python."""
    draw = jax.jit(partial(rows_of_batch, batch_size=BATCH, size=size))
    words, indices = order_words(jax.random.key(0)), [np.int32(i) for i in range(STEPS)]
    return milliseconds(lambda: [draw(words, i) for i in indices], STEPS)


def host(size: int) -> float:
    """Time of one batch's rows by NumPy."""
    words = np.asarray(order_words(jax.random.key(0)))
    return milliseconds(lambda: [rows_of_batch(words, i, BATCH, size, np) for i in range(STEPS)], STEPS)


def main() -> None:
    """Print the table."""
    print(f"ms a step, batch {BATCH}, median of {REPEATS}")
    print(f"{'rows':>10} {'in a loop':>10} {'one step':>10} {'host':>10} {'sorted permutation':>20}")
    for size in SIZES:
        steps = max(2, STEPS * 1_797 // size)
        sorted_ms = in_a_loop(shuffled_rows, size, steps)
        print(f"{size:>10} {in_a_loop(keyed_rows, size, STEPS):>10.4f} {one_step(size):>10.4f} ", end="")
        print(f"{host(size):>9.4f} {sorted_ms:>20.3f}")


if __name__ == "__main__":
    main()

"""Epoch order as a stateless keyed bijection of the position: no permutation is sorted or stored.

A Feistel network (Luby and Rackoff, 1988) over a grid of about √n by √n that holds the n row numbers, in the form of
format-preserving encryption (Black and Rogaway, 2002, section 5); cycle-walking (section 3) restricts it to the rows
themselves. Sorting a random permutation inside the step costs 42 ms at 60,000 rows on two cores; this costs
microseconds for a batch.

Every function takes the array module (`numpy` or `jax.numpy`), so that rows read on the host come in the same order as
rows held on the device, and the thread that reads them never waits for the device.
"""

import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.types import Key

ROUNDS = 16
"""Luby and Rackoff prove four for large n. With twelve, some orders of six rows still came more often than others."""

LARGEST_SIZE = 2**31 - 1


def order_words(key: Key) -> jax.Array:
    """What an order is keyed by, shape (2,), uint32: one pair of words is one order for all epochs."""
    return jax.random.bits(key, (2,), jnp.uint32)


def round_keys(words: Any, epoch: Any, xp: ModuleType = jnp) -> Any:
    """The Feistel network's keys for each of some epochs.

    Args:
        words: of `order_words`, (2,) uint32.
        epoch: uint32, any shape but ().
    Returns:
        uint32, (ROUNDS, *shape of epoch).
    """
    steps = (np.arange(1, ROUNDS + 1) * 0x9E3779B9 % 2**32).astype(np.uint32)  # Weyl's sequence of the golden ratio
    steps = xp.asarray(steps).reshape((ROUNDS,) + (1,) * epoch.ndim)
    first, second = _hash(words[:1] + epoch), _hash(words[1:] ^ _hash(~epoch))
    return _hash(first + steps) ^ _hash(second ^ steps)


def divide_product(a: Any, factor: int, divisor: int, xp: ModuleType = jnp) -> tuple[Any, Any]:
    """`divmod(a * factor, divisor)` for uint32 `a`, exact although the product passes 32 bits.

    The quotient is taken modulo 2**32. Long multiplication: double and add, reducing after each bit.

    >>> import numpy as np
    >>> [int(v) for v in divide_product(np.uint32(4_000_000_000), 1000, 2_000_000_011, np)] == [
    ...     v % 2**32 for v in divmod(4_000_000_000 * 1000, 2_000_000_011)]
    True
    """
    size = np.uint32(divisor)
    whole, rest = a // size, a % size
    quotient, remainder = xp.zeros_like(a), xp.zeros_like(a)
    for bit in bin(factor)[2:]:
        carry = (remainder >= size - remainder).astype(xp.uint32)  # 2·remainder >= size without overflow
        quotient, remainder = quotient * np.uint32(2) + carry, remainder + remainder - carry * size
        if bit == "1":
            carry = (remainder >= size - rest).astype(xp.uint32)
            quotient, remainder = quotient + carry, remainder + rest - carry * size
    return quotient + whole * np.uint32(factor), remainder


def _hash(x: Any) -> Any:
    """A mixing function of 32-bit integers (Wellons, 2018, `lowbias32`)."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def _feistel(x: Any, keys: Any, height: int, width: int) -> Any:
    """A bijection of the integers below height · width. `keys` has shape (ROUNDS, *x.shape), or 1 for an axis."""
    height_, width_ = np.uint32(height), np.uint32(width)
    row, column = x // width_, x % width_
    for i in range(0, ROUNDS, 2):
        row = (row + _hash(column ^ keys[i]) % height_) % height_
        column = (column + _hash(row ^ keys[i + 1]) % width_) % width_
    return row * width_ + column


def permute(position: Any, keys: Any, size: int, xp: ModuleType = jnp) -> Any:
    """The row at each position of an epoch: a bijection of 0 … size − 1.

    Args:
        position: positions within the epoch, (n,), uint32.
        keys: uint32, (ROUNDS, 1) for one epoch, or (ROUNDS, n) for an epoch each.
        size: number of rows, 1 … 2**31 − 1.
    Returns:
        row numbers, (n,), uint32.

    >>> import numpy as np
    >>> keys = np.arange(ROUNDS, dtype=np.uint32)[:, None]
    >>> sorted(permute(np.arange(10, dtype=np.uint32), keys, 10, np).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    height = math.isqrt(size - 1) + 1
    width = -(-size // height)  # the grid is less than √size + 1 larger than the rows
    limit = np.uint32(size)
    x = _feistel(position, keys, height, width)
    # Every walk returns to the rows, since it starts from one.
    if xp is jnp:
        walk = lambda x: jnp.where(x >= limit, _feistel(x, keys, height, width), x)
        return jax.lax.while_loop(lambda x: jnp.any(x >= limit), walk, x)
    keys = np.broadcast_to(keys, (ROUNDS, *x.shape))
    while (outside := np.flatnonzero(x >= limit)).size:
        x[outside] = _feistel(x[outside], keys[:, outside], height, width)
    return x


def batch_positions(index: Any, batch_size: int, size: int, xp: ModuleType = jnp) -> tuple[Any, Any, Any]:
    """Where batch number `index` lies: (first epoch, epochs passed by each example (B,) 0 or 1, position (B,)).

    Batches follow each other without a gap, so that a batch may end one epoch and begin the next, and every epoch
    contains every row exactly once whatever the batch size.
    """
    epoch, offset = divide_product(xp.asarray(index).astype(xp.uint32), batch_size, size, xp)
    position = offset + xp.arange(batch_size, dtype=xp.uint32)
    passed = (position >= np.uint32(size)).astype(xp.uint32)
    return epoch, passed, position - passed * np.uint32(size)


def rows_of_batch(words: Any, index: Any, batch_size: int, size: int, xp: ModuleType = jnp) -> Any:
    """Row numbers of batch number `index`, shape (batch_size,), int32: inside a compiled step, or by NumPy on the host.

    Args:
        words: of `order_words`, (2,) uint32.
        index: number of the batch from the start of training, below 2**31, shape ().
        batch_size: at most `size`.
        size: number of rows.
        xp: `jax.numpy`, or `numpy` for data that stay on the host: the same rows.
    """
    epoch, passed, position = batch_positions(index, batch_size, size, xp)
    keys = round_keys(words, xp.stack([epoch, epoch + np.uint32(1)]), xp)
    straddles = size % batch_size != 0
    keys = xp.where(passed[None, :] == 1, keys[:, 1:], keys[:, :1]) if straddles else keys[:, :1]
    return permute(position, keys, size, xp).astype(xp.int32)

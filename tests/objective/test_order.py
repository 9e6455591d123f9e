"""The epoch order: each row once an epoch, whatever the sizes; the same on host and device; no pattern in it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest

from thalweg.objective.order import (
    ROUNDS,
    batch_positions,
    divide_product,
    order_words,
    permute,
    round_keys,
    rows_of_batch,
)

# Smallest, primes, powers of two and four and their neighbours (where cycle-walking has most and least to do), and the
# sizes of the benchmark.
SMALL = [*range(1, 70), 97, 127, 128, 129, 255, 256, 257, 509, 1_021, 1_023, 1_024, 1_025, 1_797, 4_095, 4_096, 4_097]
LARGE = [16_383, 16_384, 16_385, 60_000, 65_535, 65_536, 65_537, 99_991, 262_144, 262_145, 524_287, 999_983, 10**6]


def words(seed: int) -> np.ndarray:
    return np.asarray(order_words(jax.random.key(seed)))


def host_keys(seed: int, epoch: int = 0) -> np.ndarray:
    return round_keys(words(seed), np.array([epoch], np.uint32), np)


def orders(size: int, seed: int, number: int) -> np.ndarray:
    """The orders of that many epochs, (number, size)."""
    keys = round_keys(words(seed), np.arange(number, dtype=np.uint32)[:, None], np)
    keys = np.broadcast_to(keys, (ROUNDS, number, size)).reshape(ROUNDS, -1)
    return permute(np.tile(np.arange(size, dtype=np.uint32), number), keys, size, np).reshape(number, size)


@pytest.mark.parametrize("size", SMALL + LARGE)
def test_an_epoch_visits_each_row_exactly_once(size):
    rows = permute(np.arange(size, dtype=np.uint32), host_keys(size), size, np)
    assert np.array_equal(np.sort(rows), np.arange(size))


def rows_by_epoch(size: int, batch_size: int, epochs: int, seed: int) -> list[np.ndarray]:
    """Rows in the order of training until `epochs` are over, cut into epochs."""
    batches = -(-epochs * size // batch_size)
    rows = np.concatenate([rows_of_batch(words(seed), i, batch_size, size, np) for i in range(batches)])
    return [rows[e * size : (e + 1) * size] for e in range(epochs)]


@pytest.mark.parametrize(
    ("size", "batch_size"),
    [(1, 1), (2, 1), (3, 2), (7, 3), (10, 10), (64, 64), (65, 64), (101, 100), (257, 16), (1_797, 32), (1_797, 1_000)],
)
def test_batches_that_straddle_epochs_leave_no_row_out(size, batch_size):
    epochs = rows_by_epoch(size, batch_size, 4, 1)
    for rows in epochs:
        assert np.array_equal(np.sort(rows), np.arange(size))
    if size > 20:  # fewer rows may come in the same order twice by chance
        assert not any(np.array_equal(epochs[0], rows) for rows in epochs[1:])


@pytest.mark.parametrize(("size", "batch_size"), [(1, 1), (5, 3), (1_797, 128), (60_000, 128), (65_537, 100)])
def test_host_and_device_agree_bit_for_bit(size, batch_size):
    order = words(7)
    draw = jax.jit(partial(rows_of_batch, batch_size=batch_size, size=size))
    last_of_epoch = -(-size // batch_size) - 1
    for index in (0, 1, last_of_epoch, last_of_epoch + 1, 10**6, 2**31 - 1):
        device = np.asarray(draw(order, np.int32(index)))
        assert device.dtype == np.int32
        assert np.array_equal(device, rows_of_batch(order, index, batch_size, size, np))
        assert device.min() >= 0
        assert device.max() < size


def test_the_order_is_the_same_with_64_bits_switched_on():
    order = words(3)
    narrow = np.asarray(rows_of_batch(order, 5, 32, 1_797))
    with jax.enable_x64(True):
        wide = np.asarray(rows_of_batch(order, jnp.asarray(5), 32, 1_797))
        host = rows_of_batch(order, 5, 32, 1_797, np)
    assert np.array_equal(narrow, wide)
    assert np.array_equal(narrow, host)


def test_members_mapped_together_draw_what_each_draws_alone():
    members = np.stack([words(seed) for seed in range(3)])
    together = jax.vmap(lambda order, index: rows_of_batch(order, index, 10, 97))(members, jnp.array([0, 9, 40]))
    alone = [rows_of_batch(order, index, 10, 97, np) for order, index in zip(members, (0, 9, 40), strict=True)]
    assert np.array_equal(together, np.stack(alone))


def test_keys_and_epochs_have_orders_of_their_own():
    size = 1_000
    found = [*orders(size, 0, 3), *orders(size, 1, 3)]
    for i, first in enumerate(found):
        for second in found[i + 1 :]:
            # two independent permutations agree at a Poisson(1) number of places; 8 or more has probability 1e-5
            assert np.sum(first == second) < 8


def uniformity(size: int, number: int) -> float:
    """Probability, were all rows equally likely at all positions, of counts as uneven as those found (chi-square)."""
    rows = orders(size, 11, number)
    counts = np.zeros((size, size))
    np.add.at(counts, (np.broadcast_to(np.arange(size), rows.shape), rows), 1)
    expected = number / size
    statistic = np.sum((counts - expected) ** 2) / expected * (size - 1) / size
    # each row and column of the table of a permutation has a fixed sum: (size - 1)² degrees of freedom
    return float(chi2.sf(statistic, (size - 1) ** 2))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 16, 17, 31, 64])
def test_every_row_is_equally_likely_at_every_position(size):
    # one in ten thousand of sound orders would fail; the keys are fixed, so this is decided once and for all
    assert uniformity(size, 20_000) > 1e-4


# (Not 7: on a grid of 3 by 3, or of any odd sides, every turn is an even permutation, so odd orders are rarer.)
@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_every_order_of_few_rows_occurs_equally_often(size):
    number, possible = 60_000, int(np.prod(np.arange(1, size + 1)))
    found, counts = np.unique(orders(size, 5, number), axis=0, return_counts=True)
    assert len(found) == possible
    expected = number / possible
    assert chi2.sf(np.sum((counts - expected) ** 2) / expected, possible - 1) > 1e-4


@pytest.mark.parametrize("size", [1_797, 65_537, 10**6])
def test_one_order_looks_random(size):
    rows = permute(np.arange(size, dtype=np.uint32), host_keys(2), size, np).astype(float)
    # neighbours are not correlated: the correlation of n independent pairs has standard deviation 1/√n
    for lag in (1, 2, 16, 128):
        correlation = np.corrcoef(rows[:-lag], rows[lag:])[0, 1]
        assert abs(correlation) < 4.5 / np.sqrt(size), lag
    assert abs(np.corrcoef(rows, np.arange(size))[0, 1]) < 4.5 / np.sqrt(size)
    # a batch is a sample of the whole: its rows are spread uniformly
    assert kstest(rows[:1_000] / size, "uniform").pvalue > 1e-3
    # the distances between neighbours have the triangular law of independent rows
    gaps = np.abs(np.diff(rows)) / size
    assert kstest(gaps[::7], lambda x: 1 - (1 - x) ** 2).pvalue > 1e-3


def test_long_multiplication_divides_exactly():
    random = np.random.default_rng(0)
    a = random.integers(0, 2**32, 2_000, dtype=np.uint32)
    for factor, divisor in ((1, 1), (128, 60_000), (2**31 - 2, 2**31 - 1), (7, 2**31 - 1), (999_983, 10**6)):
        quotient, remainder = divide_product(a, factor, divisor, np)
        exact = [divmod(int(v) * factor, divisor) for v in a]
        assert [int(q) for q in quotient] == [q % 2**32 for q, _ in exact]
        assert [int(r) for r in remainder] == [r for _, r in exact]


def test_positions_follow_each_other_up_to_the_largest_size():
    size, batch = 2**31 - 1, 1_000_000
    for index in (0, 2_147, 2_148, 2**31 - 1):
        epoch, passed, position = batch_positions(np.uint32(index), batch, size, np)
        exact = index * batch + np.arange(batch)
        assert np.array_equal(exact // size, int(epoch) + passed)
        assert np.array_equal(exact % size, position)


def test_there_are_as_many_keys_as_rounds():
    assert round_keys(words(0), np.arange(3, dtype=np.uint32), np).shape == (ROUNDS, 3)

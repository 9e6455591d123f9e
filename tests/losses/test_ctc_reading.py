"""What CTC reads and where: decoding and alignment, against sums over all paths."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from thalweg import losses
from thalweg.errors import UserError

STEPS, CLASSES = 6, 3


def read(path, blank):
    """What a path reads as: by the definition."""
    return tuple(int(label) for label, _ in itertools.groupby(path) if label != blank)


def all_paths(logits):
    """Every path, (paths, T), and its probability."""
    each = scipy.special.softmax(logits, axis=1)
    paths = np.array(list(itertools.product(range(logits.shape[1]), repeat=len(logits))))
    return paths, each[np.arange(len(logits)), paths].prod(axis=1)


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_is_exhaustive(seed, blank):
    """So wide that nothing is dropped, it knows the probability of every sequence; the best one among them."""
    logits = 2 * np.random.default_rng(seed).normal(size=(STEPS, CLASSES))
    paths, weights = all_paths(logits)
    total: dict[tuple[int, ...], float] = {}
    for path, weight in zip(paths, weights, strict=True):
        total[read(path, blank)] = total.get(read(path, blank), 0.0) + weight
    found = losses.ctc_beam(logits, width=2**7, keep=2**7, blank=blank)  # of 2 labels there are 127 up to length 6
    assert {reading.labels for reading in found} == set(total)
    for reading in found:
        assert np.exp(reading.log_probability) == pytest.approx(total[reading.labels], rel=1e-12)  # 64 bits
    chances = [total[reading.labels] for reading in found]
    assert found[0].labels == max(total, key=lambda labels: total[labels])
    assert chances == sorted(chances, reverse=True)
    narrow = losses.ctc_beam(logits, width=3, blank=blank)[0]
    assert np.exp(narrow.log_probability) <= total[narrow.labels] * (1 + 1e-12)
    best = weights.argmax()
    greedy = losses.ctc_greedy(logits, blank=blank)
    assert greedy.labels == read(paths[best], blank)
    assert np.exp(greedy.log_probability) == pytest.approx(weights[best], rel=1e-12)


def test_the_beam_finds_what_the_best_path_misses_on_half_of_flat_outputs():
    rng = np.random.default_rng(9)
    flat = rng.normal(size=(40, 12, 4))
    greedy = [losses.ctc_greedy(one) for one in flat]
    beam = [losses.ctc_beam(one, width=200)[0] for one in flat]
    target = losses.ctc_targets([*(r.labels for r in greedy), *(r.labels for r in beam)], 12)
    costs = jax.vmap(losses.ctc)(
        jnp.asarray(np.concatenate([flat, flat]), jnp.float32), target[0], target[2], target[1]
    )
    by_greedy, by_beam = -np.asarray(costs).reshape(2, -1)
    assert np.all(by_beam >= by_greedy - 1e-5)  # float32
    assert np.mean(by_beam > by_greedy + 1e-3) > 0.5
    assert np.all(np.array([reading.log_probability for reading in beam]) <= by_beam + 1e-5)  # a lower bound


def test_only_steps_that_count_are_read():
    logits = np.log(np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [np.nan, np.nan, np.nan]]))
    assert losses.ctc_greedy(logits, 2).labels == (1, 2)
    assert losses.ctc_beam(logits, 2)[0].labels == (1, 2)
    assert losses.ctc_greedy(logits, 0) == losses.ctc_beam(logits, 0)[0] == ((), 0.0)
    for decode in (losses.ctc_greedy, losses.ctc_beam):
        with pytest.raises(UserError, match="NaN in step 2"):
            decode(logits)
        with pytest.raises(UserError, match="an input length of 4, where there are 3 steps"):
            decode(logits, 4)
        with pytest.raises(UserError, match="logits of shape"):
            decode(logits[0])
        with pytest.raises(UserError, match="with the blank 3"):
            decode(logits, 2, blank=3)
    with pytest.raises(UserError, match="5 readings of a beam of 4"):
        losses.ctc_beam(logits, 2, width=4, keep=5)


def test_the_alignment_is_that_of_all_paths():
    """In 64 bits; padded by labels and by a step, which change nothing."""
    sequences = [(1, 2), (1, 1), (2, 1, 2), (1,), ()]
    logits = 2 * np.random.default_rng(4).normal(size=(len(sequences), STEPS + 1, CLASSES))
    target = losses.ctc_targets(sequences, STEPS, width=4)
    with jax.enable_x64(True):
        arrays = (jnp.asarray(logits), target.labels, target.input_length, target.label_length)
        found = jax.vmap(losses.ctc_alignment)(*arrays)
        occupancies = np.asarray(jax.vmap(lambda one: one.occupancy)(found))
    for i, labels in enumerate(sequences):
        paths, weights = all_paths(logits[i, :STEPS])
        reads = [read(path, 0) == labels for path in paths]
        paths, weights = paths[reads], weights[reads]
        begins = np.diff(paths, axis=1, prepend=0) != 0
        count = np.cumsum(begins & (paths != 0), axis=1)
        states = np.where(paths == 0, 2 * count, 2 * count - 1)
        occupancy = np.zeros((STEPS, 2 * len(labels) + 1))
        for path, weight in zip(states, weights, strict=True):
            occupancy[np.arange(STEPS), path] += weight / weights.sum()
        mine = occupancies[i]
        np.testing.assert_allclose(mine[:STEPS, : occupancy.shape[1]], occupancy, rtol=0, atol=1e-13)  # some roundings
        assert not mine[STEPS:].any()
        assert not mine[:, occupancy.shape[1] :].any()
        assert found.path[i].tolist() == [*states[weights.argmax()].tolist(), -1]
        assert float(found.log_probability[i]) == pytest.approx(np.log(weights.sum()), rel=1e-12)
        assert float(found.path_log_probability[i]) == pytest.approx(np.log(weights.max()), rel=1e-12)
        np.testing.assert_array_equal(mine[:, 1::2], found.labels[i])


def test_where_no_alignment_is_possible_there_is_none():
    found = jax.jit(losses.ctc_alignment)(jnp.zeros((3, 3)), jnp.array([1, 1, 1]), jnp.array(3), jnp.array(3))
    assert not found.occupancy.any()
    assert found.path.tolist() == [-1] * 3
    assert (found.log_probability, found.path_log_probability) == (-np.inf, -np.inf)
    with pytest.raises(UserError, match="3 labels, 2 of them repeated, need 5 steps"):
        losses.ctc_alignment(jnp.zeros((3, 3)), jnp.array([1, 1, 1]))


@pytest.mark.parametrize("step", [[np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0], [-np.inf] * 3], ids=["NaN", "+∞", "only -∞"])
def test_a_step_that_is_no_distribution_has_no_alignment_and_is_not_read(step):
    """The alignment says NaN, never a number; the decoders name the step. Beyond the input's end nobody looks at it."""
    logits = np.array([[0.0, 1.0, 0.0], [0.0, 1.0, 2.0], step], np.float32)
    found = losses.ctc_alignment(logits, np.array([1, 2]))
    assert np.isnan([found.log_probability, found.path_log_probability]).all()
    assert np.isnan(found.occupancy).all()
    assert found.path.tolist() == [-1] * 3
    before = losses.ctc_alignment(logits, np.array([1, 2]), 2)
    assert float(before.log_probability) == pytest.approx(-float(losses.ctc(logits, np.array([1, 2]), 2, 2)), rel=1e-6)
    for decode in (losses.ctc_greedy, losses.ctc_beam):
        assert decode(logits, 2)
        with pytest.raises(UserError, match="in step 2"):
            decode(logits)


def test_arguments_of_the_decoders_are_whole_numbers_and_logits_real():
    logits = np.zeros((3, 3))
    for wrong in ({"blank": 1.0}, {"blank": True}, {"input_length": 2.7}):
        for decode in (losses.ctc_greedy, losses.ctc_beam):
            with pytest.raises(UserError, match="no whole number"):
                decode(logits, **wrong)
    for wrong in ({"width": 2.5}, {"keep": 1.0}):
        with pytest.raises(UserError, match="no whole number"):
            losses.ctc_beam(logits, **wrong)
    for values in (logits + 1j, np.full((3, 3), "a")):
        with pytest.raises(UserError, match="logits of dtype"):
            losses.ctc_greedy(values)
    assert losses.ctc_beam(jnp.ones((2, 2), jnp.bfloat16), blank=np.int64(1))

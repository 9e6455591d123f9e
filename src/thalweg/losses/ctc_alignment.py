"""Where in the input the labels of CTC stand: the posterior over all alignments, and the best of them."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.losses.ctc_lattice import Lattice, Wide, lattice_of, posterior_of
from thalweg.losses.ctc_loss import at_least_single, check_call, is_sound


class Alignment(eqx.Module):
    """Of one example with T steps and room for S labels; states are blank, label, blank, …, label, blank.

    Where no alignment is possible the shares are 0, the path is -1 and both logarithms are -∞. So are shares and path
    beyond the input's end. What costs NaN as a loss (a step with NaN, with +∞ or with only -∞ among those that count;
    in a compiled program also a label or length out of range) has NaN for shares and logarithms, and the path -1.
    """

    labels: jax.Array
    """(T, S): probability, given the sequence, that a step belongs to that label."""
    blanks: jax.Array
    """(T, S + 1): likewise for the blanks before, between and after the labels."""
    path: jax.Array
    """(T,): the state 0 … 2S of each step in the most probable alignment; that of label s is 2s + 1."""
    log_probability: jax.Array
    """(): of the sequence, over all alignments."""
    path_log_probability: jax.Array
    """(): of the most probable alignment alone."""

    @property
    def occupancy(self) -> jax.Array:
        """(T, 2S + 1): the probability of each state at each step; a step's row adds up to 1."""
        return _woven(self.blanks, self.labels)


def ctc_alignment(
    logits: Any, labels: Any, input_length: Any = None, label_length: Any = None, *, blank: int = 0
) -> Alignment:
    """The alignment of one example's labels with its steps, exactly; it can be mapped and compiled, not differentiated.

    Args:
        logits: shape (T, C), floating point.
        labels: whole numbers, shape (S,).
        input_length, label_length: how many count, shape (); None for all.
        blank: the class that stands for no label.
    Raises:
        UserError: as for `thalweg.losses.ctc`.

    >>> import numpy as np
    >>> found = ctc_alignment(np.log([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]]), np.array([1]))
    >>> found.path  # blank, label, blank
    Array([0, 1, 2], dtype=int32)
    >>> [round(float(share), 2) for share in found.labels[:, 0]]  # of the readings ·1·, 1··, ··1, 11·, ·11 and 111
    [0.31, 0.9, 0.42]
    """
    steps = jnp.shape(logits)[0] if input_length is None else input_length
    count = jnp.shape(labels)[0] if label_length is None else label_length
    given, sequence, steps, count = check_call(logits, labels, steps, count, blank)
    return _compiled(at_least_single(given), sequence, steps, count, blank)


def _alignment(logits: jax.Array, labels: jax.Array, steps: jax.Array, count: jax.Array, blank: int) -> Alignment:
    lattice = lattice_of(logits, labels, steps, count, blank)
    log_probability, blanks, shares = posterior_of(lattice)
    best, path = _best_path(lattice)
    sound = lattice.is_number & is_sound(logits, labels, steps, count, blank)
    here = lattice.is_input & (best > -jnp.inf) & sound
    known = lambda values: jnp.where(sound, values, jnp.nan)
    return Alignment(
        labels=known(jnp.where(here[:, None], shares, 0)),
        blanks=known(jnp.where(here[:, None], blanks, 0)),
        path=jnp.where(here, path, -1),
        log_probability=known(log_probability),
        path_log_probability=known(best),
    )


_compiled = jax.jit(_alignment, static_argnums=(4,), inline=True)


def _best_path(lattice: Lattice) -> tuple[jax.Array, jax.Array]:
    """The most probable path (Viterbi, 1967): its log probability (), and its states (T,)."""
    emitted = _woven(_log(lattice.blanks), _log(lattice.labels), repeat=lattice.sequence.shape[0] + 1)
    states = emitted.shape[1]
    state = jnp.arange(states, dtype=jnp.int32)
    labels = jnp.zeros(states, jnp.int32).at[1::2].set(lattice.sequence + 1)  # blanks are alike, labels are not 0
    may_leap = (labels != jnp.roll(labels, 2)) & (state % 2 == 1) & (state >= 2)

    def step(score: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
        one, two = (jnp.concatenate([jnp.full(k, -jnp.inf, score.dtype), score[: states - k]]) for k in (1, 2))
        ways = jnp.stack([score, one[:states], jnp.where(may_leap, two[:states], -jnp.inf)])
        return jnp.max(ways, axis=0) + now, jnp.argmax(ways, axis=0).astype(jnp.int32)

    start = jnp.where(state == 0, 0, -jnp.inf).astype(emitted.dtype)
    score, back = jax.lax.scan(step, start, emitted)
    # What is left beyond the last label can only be its blank: the input beyond its end is surely blank.
    last = 2 * lattice.label_length
    before = jnp.maximum(last - 1, 0)
    end = jnp.where((last > 0) & (score[before] > score[last]), before, last).astype(jnp.int32)

    def walk(at: jax.Array, steps: jax.Array) -> tuple[jax.Array, jax.Array]:
        return at - steps[at], at

    _, path = jax.lax.scan(walk, end, back, reverse=True)
    return score[end], path


def _log(wide: Wide) -> jax.Array:
    power = jnp.where(wide.mantissa > 0, wide.exponent, 0).astype(wide.mantissa.dtype)
    return jnp.log(wide.mantissa) + power * math.log(2)


def _woven(blanks: jax.Array, labels: jax.Array, repeat: int = 1) -> jax.Array:
    """(T, S + 1) and (T, S) to (T, 2S + 1)."""
    blanks = jnp.repeat(blanks, repeat, axis=1) if blanks.shape[1] == 1 else blanks
    states = jnp.zeros((labels.shape[0], 2 * labels.shape[1] + 1), labels.dtype)
    return states.at[:, ::2].set(blanks).at[:, 1::2].set(labels)

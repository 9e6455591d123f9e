"""The sum over all alignments of a label sequence with a longer input, and what each state has of it.

Between, before and after the S labels may stand blanks, so an alignment is a path through 2S + 1 states (blank, label,
blank, …, label, blank), a state a step. From one step to the next it stays, goes on by one, or leaps over the blank
between two labels that differ (Graves, Fernández, Gomez and Schmidhuber, 2006). The forward recursion α sums the paths
up to a step, the backward one β those from it on.

Within one step the sums of two states can differ by more than a float32's whole range, and over thousands of steps they
always do. In logarithms each step rounds a number that has grown with the length, so errors grow too (in PyTorch's
gradient to 3 % over 5,000 steps, measured); divided by a common factor each step, what is small now and needed later is
lost. Here each state's sum is a mantissa in [1, 2) and an exponent of its own, a 32-bit integer: as precise at any size
and length as one float, and cheaper than logarithms, for the inner loop has additions, products and shifts of bits.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

NEVER = -(2**29)
"""Exponent of what is 0: below all others; two of them still add up within 32 bits."""

LARGEST_FALL = 2**28
"""Powers of 2 that all steps together can lose: what a single step loses is cut off at this, divided by the steps."""


class Wide(NamedTuple):
    """mantissa · 2^exponent; a mantissa of 0 goes with the exponent NEVER."""

    mantissa: jax.Array
    exponent: jax.Array


class Sums(NamedTuple):
    """Of all states: blanks (…, S + 1), and labels (…, S + 1), of which the last stands for none and is always 0."""

    blanks: Wide
    labels: Wide


class Lattice(NamedTuple):
    """What one example asks of the recursions."""

    probability: jax.Array  # (T, C), softmax of the logits
    blanks: Wide  # (T, 1): the probability of the blank; 1 beyond the input's end
    labels: Wide  # (T, S): of the labels in their order; 0 beyond the last, and beyond the input's end
    class_of: jax.Array  # (C, S), 1 where label s is class c
    sequence: jax.Array  # (S,)
    label_length: jax.Array  # ()
    is_input: jax.Array  # (T,), before the input's end
    is_number: jax.Array  # (): no NaN, and not only -∞, in any step of the input


def lattice_of(
    logits: jax.Array, labels: jax.Array, input_length: jax.Array, label_length: jax.Array, blank: int
) -> Lattice:
    """Logits (T, C) in 32 or 64 bits and labels (S,), with the lengths that count, made ready."""
    steps, classes = logits.shape
    probability, emitted = _softmax(logits)
    counts = jnp.arange(labels.shape[0], dtype=jnp.int32) < label_length
    class_of = (jnp.arange(classes, dtype=jnp.int32)[:, None] == labels) & counts
    class_of = class_of.astype(logits.dtype)
    is_input = jnp.arange(steps, dtype=jnp.int32) < input_length
    # A product with zeros and ones, exact, where an index would do: on a CPU it is faster, and its transpose is needed.
    chosen = Wide(_matmul(emitted.mantissa, class_of), _matmul(emitted.exponent, class_of).astype(jnp.int32))
    here = is_input[:, None]
    # Beyond its end the input is surely blank: every sum then stays as it is, and nothing needs to know the length.
    rest = Wide(emitted.mantissa[:, blank][:, None], emitted.exponent[:, blank][:, None].astype(jnp.int32))
    return Lattice(
        probability=probability,
        blanks=Wide(jnp.where(here, rest.mantissa, 1), jnp.where(here, rest.exponent, 0)),
        labels=Wide(jnp.where(here, chosen.mantissa, 0), chosen.exponent),
        class_of=class_of,
        sequence=labels,
        label_length=label_length,
        is_input=is_input,
        is_number=jnp.all(jnp.isfinite(probability[:, 0]) | ~is_input),
    )


def log_probability_of(lattice: Lattice) -> jax.Array:
    """Natural logarithm of the sum over all alignments, shape (); -∞ where there is none."""
    # β alone, for it ends where all inputs begin
    start, probabilities, may_leap = jax.tree.map(lambda both: both[..., 1:, :], _both_ways(lattice))
    last, _ = jax.lax.scan(lambda sums, now: (_emitted(_arrived(sums, may_leap), now), None), start, probabilities)
    return _log_total(last)


def posterior_of(lattice: Lattice) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The log probability (), and of each state the share of all alignments that are in it at a step.

    Returns:
        log probability (), the shares of the blanks (T, S + 1) and of the labels (T, S). In each step all add up to 1;
        where there is no alignment they are 0. Beyond the input's end they mean nothing.
    """
    start, probabilities, may_leap = _both_ways(lattice)

    def step(sums: Sums, now: Sums) -> tuple[Sums, Sums]:
        after = _emitted(_arrived(sums, may_leap), now)
        return after, after

    last, (blanks, labels) = jax.lax.scan(step, start, probabilities)
    mine = labels.mantissa.shape[-1] - 1
    labels = jax.tree.map(lambda both: both[..., :mine], labels)
    # Both recursions' sums hold the step's own probability, so their product has it once too often.
    blanks, labels = _met(blanks, lattice.blanks), _met(labels, lattice.labels)
    top = jnp.max(blanks.exponent, axis=-1, keepdims=True)
    if mine:
        top = jnp.maximum(top, jnp.max(labels.exponent, axis=-1, keepdims=True))
    blank_share, label_share = (_scaled(wide, top) for wide in (blanks, labels))
    # Each step's total is the same number; divided by its own, rounding errors of many steps do not show.
    total = jnp.sum(blank_share, axis=-1, keepdims=True) + jnp.sum(label_share, axis=-1, keepdims=True)
    total = jnp.where(total > 0, total, 1)
    return _log_total(last), blank_share / total, label_share / total


def slope_of(lattice: Lattice, blank: int) -> tuple[jax.Array, jax.Array]:
    """The log probability (), and the gradient of its negative with respect to the logits, (T, C).

    In each step that gradient is softmax minus each class's share of the alignments; it is 0 where there is none.
    """
    log_probability, blanks, labels = posterior_of(lattice)
    share = _matmul(labels, lattice.class_of.T)
    is_blank = jnp.arange(share.shape[1], dtype=jnp.int32) == blank
    share = jnp.where(is_blank, jnp.sum(blanks, axis=-1, keepdims=True), share)
    counts = lattice.is_input[:, None] & (log_probability > -jnp.inf)
    return log_probability, jnp.where(counts, lattice.probability - share, 0)


def _both_ways(lattice: Lattice) -> tuple[Sums, Sums, jax.Array]:
    """Starts (2, S + 1), probabilities (T, 2, …) and where a leap is allowed (2, S + 1), for α and β.

    Read backwards, β is an α: so one loop does both. Its labels begin where the padding ends.
    """
    dtype, size = lattice.probability.dtype, lattice.sequence.shape[0]
    first = jnp.stack([jnp.zeros((), jnp.int32), size - lattice.label_length.astype(jnp.int32)])[:, None]
    is_first = first == jnp.arange(size + 1, dtype=jnp.int32)
    nothing = Wide(jnp.zeros(is_first.shape, dtype), jnp.full(is_first.shape, NEVER, jnp.int32))
    start = Sums(Wide(is_first.astype(dtype), jnp.where(is_first, 0, NEVER)), nothing)
    turn = lambda values: jnp.stack([values, values[::-1, ::-1]], axis=1)
    labels = jax.tree.map(lambda values: jnp.pad(turn(values), [(0, 0), (0, 0), (0, 1)]), lattice.labels)
    ways = jnp.stack([lattice.sequence, lattice.sequence[::-1]])
    differs = ways[:, 1:] != ways[:, :-1]
    may_leap = jnp.concatenate([jnp.zeros((2, 1), bool), differs, jnp.zeros((2, min(size, 1)), bool)], axis=1)
    return start, Sums(jax.tree.map(turn, lattice.blanks), labels), may_leap


def _arrived(sums: Sums, may_leap: jax.Array) -> Sums:
    """One step on, still without that step's probability."""
    blanks, labels = sums
    before = Wide(_later(labels.mantissa, 0), _later(labels.exponent, NEVER))
    leap = Wide(jnp.where(may_leap, before.mantissa, 0), jnp.where(may_leap, before.exponent, NEVER))
    return Sums(_added(blanks, before), _added(labels, blanks, leap))


def _emitted(arrived: Sums, probability: Sums) -> Sums:
    return Sums(_times(arrived.blanks, probability.blanks), _times(arrived.labels, probability.labels))


def _later(values: jax.Array, fill: int) -> jax.Array:
    return jnp.pad(values[:, :-1], [(0, 0), (1, 0)], constant_values=fill)


def _log_total(last: Sums) -> jax.Array:
    """Of β at the input's beginning: the sum of what starts in the first blank and in the first label."""
    size = last.blanks.mantissa.shape[-1] - 1
    ends = zip(last, (size, size - 1), strict=True)
    mantissa, exponent = _added(*(Wide(wide.mantissa[-1, at], wide.exponent[-1, at]) for wide, at in ends))
    return jnp.log(mantissa) + jnp.where(mantissa > 0, exponent, 0).astype(mantissa.dtype) * math.log(2)


def _met(both: Wide, emitted: Wide) -> Wide:
    """α times β over the step's own probability; (T, 2, n) to (T, n)."""
    possible = emitted.mantissa > 0
    rest = jnp.where(possible, both.mantissa[::-1, 1, ::-1] / jnp.where(possible, emitted.mantissa, 1), 0)
    return Wide(both.mantissa[:, 0] * rest, both.exponent[:, 0] + both.exponent[::-1, 1, ::-1] - emitted.exponent)


# ------------------------------------------------------------------------------------------------ numbers of wide range
def _softmax(logits: jax.Array) -> tuple[jax.Array, Wide]:
    """Softmax over the last axis, as floats and as wide numbers; here the exponents are whole floats."""
    dtype = logits.dtype
    # ln 2 in two parts, of which the first has so few bits that its multiples are exact (Cody and Waite, 1980)
    high, low = (
        (0.693359375, -2.12194440e-4) if dtype == jnp.float32 else (0.693147180369123816490, 1.90821492927058770e-10)
    )
    below = logits - jnp.max(logits, axis=-1, keepdims=True)
    share = jnp.exp(below)
    total = jnp.sum(share, axis=-1, keepdims=True)
    least = -min(2**24, LARGEST_FALL // max(len(logits), 1))
    held = jnp.where(below == -jnp.inf, below, jnp.maximum(below, least * math.log(2)))
    power = jnp.round(jnp.maximum(held / math.log(2), least))
    return share / total, Wide(jnp.exp((held - power * high) - power * low) / total, power)


def _matmul(one: jax.Array, other: jax.Array) -> jax.Array:
    return jnp.matmul(one, other, precision=jax.lax.Precision.HIGHEST)  # else not exact on accelerators


def _layout(dtype: jnp.dtype) -> tuple[type, int, int]:
    """Of a floating-point number: the integers of its size, the bits of its fraction, and its exponent's bias."""
    return (jnp.int32, 23, 127) if dtype == jnp.float32 else (jnp.int64, 52, 1023)


def _scaled(wide: Wide, top: jax.Array) -> jax.Array:
    """The number / 2^top as a float, for exponents not above top; 0 where a float would be subnormal."""
    dtype = wide.mantissa.dtype
    whole, fraction, bias = _layout(dtype)
    biased = jnp.maximum(wide.exponent - top, -bias).astype(whole) + bias
    return wide.mantissa * jax.lax.bitcast_convert_type(biased << fraction, dtype)


def _added(*wide: Wide) -> Wide:
    """The sum, whose mantissa may be some 2s large."""
    top = wide[0].exponent
    for other in wide[1:]:
        top = jnp.maximum(top, other.exponent)
    return Wide(sum((_scaled(each, top) for each in wide[1:]), _scaled(wide[0], top)), top)


def _times(one: Wide, other: Wide) -> Wide:
    """The product, with its mantissa in [1, 2) again, or 0."""
    mantissa = one.mantissa * other.mantissa
    whole, fraction, bias = _layout(mantissa.dtype)
    bits = jax.lax.bitcast_convert_type(mantissa, whole)
    unit = jax.lax.bitcast_convert_type((bits & ((1 << fraction) - 1)) | (bias << fraction), mantissa.dtype)
    exponent = one.exponent + other.exponent + ((bits >> fraction) - bias).astype(jnp.int32)
    return Wide(jnp.where(mantissa == 0, 0, unit), jnp.where(mantissa == 0, NEVER, exponent))

"""Connectionist temporal classification: sequences of labels of which nobody says where in the input they stand."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError, whole_number
from thalweg.losses.ctc_lattice import lattice_of, log_probability_of, slope_of
from thalweg.losses.loss import AbstractLoss, on_host

LARGEST = np.iinfo(np.int32).max
"""Compiled programs count in 32 bits. What is larger is refused, or stays out of range; it never wraps around."""


class CTCTarget(NamedTuple):
    """The target of `CTC`, of one example or with a leading axis of n examples; `ctc_targets` makes it."""

    labels: Any
    """Classes in their order, whole numbers, padded with anything; shape (S,)."""
    label_length: Any
    """How many of them count; shape ()."""
    input_length: Any
    """How many steps of the output count; shape ()."""


class CTC(AbstractLoss):
    """-log of the probability that an output of T steps reads as a sequence of labels, summed over all alignments.

    The output of the model is the logits (T, C): in each step C - 1 labels and a blank, which stands for no label. A
    reading takes one class a step, drops what repeats the step before, then the blanks, so a label that follows itself
    needs a blank between (Graves, Fernández, Gomez and Schmidhuber, 2006). The target is a `CTCTarget`.

    Where no alignment is possible (fewer steps than labels and repeats together, or probabilities of 0) a compiled
    program costs ∞, with the gradient 0; `check_targets` refuses it before. A label out of range, the blank among the
    labels, or a length below 0 or beyond the padding costs NaN. First derivatives are exact to rounding, at any length
    and for any logits, in both modes; second ones are refused.

    Args:
        blank: the class that stands for no label.
        classes: C; if given, `check_targets` refuses labels beyond it.
    Raises:
        UserError: a class out of range; at the call, shapes or types that do not belong together.

    >>> loss = CTC()
    >>> cost = loss(jnp.zeros((2, 3)), CTCTarget(jnp.array([1, 0]), jnp.array(1), jnp.array(2)))
    >>> round(float(jnp.exp(-cost)), 3)  # 3 of 9 paths: 1·, ·1, 11
    0.333
    """

    blank: int = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)

    def __init__(self, blank: int = 0, classes: int | None = None):
        self.classes = None if classes is None else whole_number(classes, "the number of classes", "CTC")
        self.blank = _checked_blank(blank, self.classes)

    def __call__(self, output: jax.Array, target: Any) -> jax.Array:
        """Logits (T, C), and labels (S,) with the two lengths, to a scalar."""
        labels, label_length, input_length = _three(target)
        if self.classes is not None and jnp.shape(output)[-1:] != (self.classes,):
            raise UserError(f"logits of shape {jnp.shape(output)} for {self.classes} classes", where="CTC")
        return ctc(output, labels, input_length, label_length, blank=self.blank)

    def check_targets(self, targets: Any) -> None:
        """Refuse labels out of range, the blank among them, lengths that cannot be, and inputs that are too short.

        Raises:
            UserError: the first such row is named, counted from 0, and how many steps it needs.
        """
        self._refuse(targets, self.classes, None)

    def check_outputs(self, output: Any, targets: Any) -> None:
        """Refuse, of what logits (T, C) are asked, labels beyond C, lengths beyond T and inputs that are too short."""
        if len(getattr(output, "shape", ())) == 2:
            self._refuse(targets, output.shape[1], output.shape[0])

    def _refuse(self, targets: Any, classes: int | None, steps: int | None) -> None:
        labels, label_length, input_length = map(on_host, _three(targets))
        if labels is None or label_length is None or input_length is None:
            return
        lengths = label_length.shape, input_length.shape
        if labels.ndim != 2 or lengths != (labels.shape[:1],) * 2:
            raise UserError(
                f"labels of shape {labels.shape} with lengths of the shapes {lengths[0]} and {lengths[1]}",
                where="CTC",
                remedy="They are (n, S), (n,) and (n,); thalweg.losses.ctc_targets pads sequences.",
            )
        _refuse(labels, label_length, input_length, self.blank, classes, steps, "row {}")


def ctc(logits: Any, labels: Any, input_length: Any, label_length: Any, *, blank: int = 0) -> jax.Array:
    """-log of the probability that logits read as labels, of one example; see `CTC`.

    Args:
        logits: shape (T, C), floating point.
        labels: whole numbers, shape (S,); those beyond `label_length` are padding.
        input_length, label_length: how many steps and labels count, shape ().
        blank: the class that stands for no label.
    Returns:
        natural units, shape (), ≥ 0, of the logits' dtype. 16-bit logits are computed with in 32 bits.
    Raises:
        UserError: shapes and types; and what `CTC` says costs ∞ or NaN, where the arrays are at hand, not traced.

    >>> logits = jnp.log(jnp.array([[0.6, 0.4], [0.3, 0.7]]))
    >>> bool(jnp.isclose(jnp.exp(-ctc(logits, jnp.array([1]), 2, 1)), 0.6 * 0.7 + 0.4 * 0.3 + 0.4 * 0.7))
    True
    """
    given, labels, input_length, label_length = check_call(logits, labels, input_length, label_length, blank)
    return _compiled(at_least_single(given), labels, input_length, label_length, blank).astype(given.dtype)


def ctc_targets(sequences: Sequence[Any], input_lengths: Any, *, width: int | None = None) -> CTCTarget:
    """Sequences of labels of different lengths, padded to one array.

    Args:
        sequences: n sequences of whole numbers; one may be empty.
        input_lengths: steps of each example's output, whole numbers of shape (n,), or one for all.
        width: S, if it should be more than the longest sequence, such as for another set with the same program.
    Returns:
        labels (n, S) padded with zeros, and both lengths (n,), as NumPy's int32.
    Raises:
        UserError: a sequence that is not one of whole numbers 0 … 2³¹ - 1, or is longer than `width`; lengths that are
            no such numbers, or of another shape.

    >>> ctc_targets([[3, 1], [2]], 8)
    CTCTarget(labels=array([[3, 1],
           [2, 0]], dtype=int32), label_length=array([2, 1], dtype=int32), input_length=array([8, 8], dtype=int32))
    """
    rows = []
    for i, sequence in enumerate(sequences):
        try:
            row = np.asarray(sequence)
        except ValueError as error:
            raise UserError("labels within labels", where=f"row {i}", remedy="A sequence is flat.") from error
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise UserError(f"labels of {row.dtype}{list(row.shape)}", where=f"row {i}", remedy="Number them from 0.")
        if len(bad := row[(row < 0) | (row > LARGEST)]):
            raise UserError(f"the label {bad[0]}", where=f"row {i}", remedy="Number the classes from 0.")
        rows.append(row)
    lengths = np.array([row.size for row in rows], np.int32)
    longest = int(max(lengths, default=0))
    size = longest if width is None else whole_number(width, "the width", "ctc_targets")
    if longest > size or size < 0:
        row = f"row {lengths.argmax()}" if lengths.size else "ctc_targets"
        raise UserError(f"{longest} labels in a width of {size}", where=row, remedy="Raise the width.")
    padded = np.zeros((len(rows), size), np.int32)
    for i, row in enumerate(rows):
        padded[i, : row.size] = row
    return CTCTarget(padded, lengths, _input_lengths(input_lengths, len(rows)))


def _input_lengths(given: Any, count: int) -> np.ndarray:
    remedy = f"They are whole numbers ≥ 0, one to each of the {count} sequences, or one for all."
    found = on_host(given)
    if found is None or found.shape not in ((), (count,)) or (found.size and found.dtype.kind not in "iu"):
        what = "traced" if found is None else f"of dtype {found.dtype}, shape {found.shape}"
        raise UserError(f"input lengths {what}", where="ctc_targets", remedy=remedy)
    if len(bad := np.argwhere((found < 0) | (found > LARGEST))):
        row = f"row {bad[0][0]}" if found.ndim else "ctc_targets"
        raise UserError(f"an input length of {found[tuple(bad[0])]}", where=row, remedy=remedy)
    return np.broadcast_to(found, count).astype(np.int32)


def check_call(
    logits: Any, labels: Any, input_length: Any, label_length: Any, blank: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The arguments as arrays, whose values are looked at where they are at hand."""
    given = jnp.asarray(logits)
    if given.ndim != 2 or not jnp.issubdtype(given.dtype, jnp.floating):
        raise UserError(
            f"logits of dtype {given.dtype}, shape {given.shape}",
            where="ctc",
            remedy="Those of one example have the shape (steps, classes), floating point; map over a batch: jax.vmap.",
        )
    whole = [
        _whole(values, ndim, name)
        for values, ndim, name in zip(
            (labels, input_length, label_length), (1, 0, 0), ("labels", "input_length", "label_length"), strict=True
        )
    ]
    blank = _checked_blank(blank, given.shape[1])
    on_hand = [on_host(values) for values in whole]
    if all(values is not None for values in on_hand):
        row, steps, count = (np.asarray(values)[None] for values in on_hand)
        _refuse(row, count, steps, blank, given.shape[1], given.shape[0], "ctc")
    row, steps, count = map(_narrowed, whole)
    return given, row, steps, count


def _whole(values: Any, ndim: int, name: str) -> Any:
    """Whole numbers as they are, in NumPy if they are none of JAX: JAX would narrow them before they are looked at."""
    shape = "(S,)" if ndim else "()"
    if not isinstance(values, jax.Array):
        try:
            values = np.asarray(values)
        except TypeError:  # a list with traced numbers in it
            values = jnp.asarray(values)
        except ValueError as error:
            raise UserError(f"{name} within {name}", where="ctc", remedy=f"Whole numbers {shape}.") from error
    if values.ndim != ndim or not (jnp.issubdtype(values.dtype, jnp.integer) or not values.size):
        raise UserError(
            f"{name} of dtype {values.dtype}, shape {values.shape}", where="ctc", remedy=f"Whole numbers {shape}."
        )
    return values


def _narrowed(values: Any) -> jax.Array:
    """In 32 bits; what does not fit stays out of range, and what is out of range costs NaN."""
    library = jnp if isinstance(values, jax.Array) else np
    if values.size and values.dtype.itemsize >= 4:
        values = library.minimum(values, LARGEST)
        values = library.maximum(values, -LARGEST) if values.dtype.kind == "i" else values
    return jnp.asarray(values.astype(np.int32))


def at_least_single(logits: jax.Array) -> jax.Array:
    """16-bit logits in 32 bits, others as they are."""
    return logits if logits.dtype == jnp.float64 else logits.astype(jnp.float32)


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _cost(logits: jax.Array, labels: jax.Array, steps: jax.Array, count: jax.Array, blank: int) -> jax.Array:
    lattice = lattice_of(logits, labels, steps, count, blank)
    sound = lattice.is_number & is_sound(logits, labels, steps, count, blank)
    return jnp.where(sound, -log_probability_of(lattice), jnp.nan)


@_cost.defjvp
def _cost_jvp(blank: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    value, slope = _cost_and_slope(*primals, blank)
    return value, jnp.sum(slope * tangents[0])


_compiled = jax.jit(_cost, static_argnums=(4,), inline=True)  # a call by hand would else compile each operation alone


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def _cost_and_slope(
    logits: jax.Array, labels: jax.Array, steps: jax.Array, count: jax.Array, blank: int
) -> tuple[jax.Array, jax.Array]:
    lattice = lattice_of(logits, labels, steps, count, blank)
    log_probability, slope = slope_of(lattice, blank)
    sound = lattice.is_number & is_sound(logits, labels, steps, count, blank)
    return jnp.where(sound, -log_probability, jnp.nan), jnp.where(sound, slope, jnp.nan)


@_cost_and_slope.defjvp
def _refuse_second(blank: int, primals: Any, tangents: Any) -> tuple[Any, Any]:
    # Its mantissas are taken apart as bits, whose derivative JAX would silently take for 0.
    raise UserError(
        "a second derivative of the CTC loss",
        where="ctc",
        remedy="It has first derivatives only: choose a first-order or quasi-Newton optimizer, and no `Sharpness`.",
    )


def is_sound(logits: jax.Array, labels: jax.Array, steps: jax.Array, count: jax.Array, blank: int) -> jax.Array:
    """Whether lengths and labels are in their range, shape ()."""
    padding = jnp.arange(labels.shape[0], dtype=jnp.int32) >= count
    fits = (steps >= 0) & (steps <= logits.shape[0]) & (count >= 0) & (count <= labels.shape[0])
    return fits & jnp.all(padding | ((labels >= 0) & (labels < logits.shape[1]) & (labels != blank)))


def _refuse(
    labels: np.ndarray,
    label_length: np.ndarray,
    input_length: np.ndarray,
    blank: int,
    classes: int | None,
    steps: int | None,
    where: str,
) -> None:
    """Refuses the first of n rows that cannot be; `where` has a place for its number."""
    for values, name in ((labels, "labels"), (label_length, "label lengths"), (input_length, "input lengths")):
        if values.size and values.dtype.kind not in "iu":
            raise UserError(f"{name} of dtype {values.dtype}", where="CTC", remedy="They are whole numbers.")
    size, beyond = labels.shape[1], LARGEST + 1 if classes is None else classes
    most = LARGEST if steps is None else steps
    counts = np.arange(size) < label_length[:, None]
    repeats = np.sum((labels[:, 1:] == labels[:, :-1]) & counts[:, 1:], axis=1)
    least = label_length.astype(np.int64) + repeats
    outside = counts & ((labels < 0) | (labels == blank) | (labels >= beyond))
    faults = (
        ((label_length < 0) | (label_length > size), "a label length of {count}, where there is room for {size}"),
        ((input_length < 0) | (input_length > most), "an input length of {steps}{room}"),
        (outside.any(axis=1), "the label {label}, where a label is {range}"),
        (input_length < least, "{count} labels, {repeats} of them repeated, need {least} steps, but there are {steps}"),
    )
    wrong = np.any([fault for fault, _ in faults], axis=0)
    if not wrong.any():
        return
    row = int(wrong.argmax())
    what = next(text for fault, text in faults if fault[row])
    allowed = f"a class 0 … 2³¹ - 1 but {blank}, the blank" if classes is None else f"below {classes} and not the blank"
    found = {
        "count": label_length[row],
        "size": size,
        "steps": input_length[row],
        "room": "" if steps is None else f", where there are {steps} steps",
        "label": labels[row][outside[row].argmax()] if size else None,
        "range": allowed,
        "repeats": repeats[row],
        "least": least[row],
    }
    raise UserError(
        what.format(**found),
        where=where.format(row),
        remedy="Each label needs a step, and a blank must part it from its like; lengths count what is not padding.",
    )


def _three(target: Any) -> tuple[Any, Any, Any]:
    if not (isinstance(target, tuple) and len(target) == 3):
        raise UserError(
            f"a target {type(target).__name__} in place of (labels, label_length, input_length)",
            where="CTC",
            remedy="thalweg.losses.ctc_targets makes it of sequences.",
        )
    return target


def _checked_blank(blank: int, classes: int | None) -> int:
    number = whole_number(blank, "the blank", "CTC")
    if number < 0 or (classes is not None and number >= classes):
        among = "" if classes is None else f" of {classes} classes"
        raise UserError(f"the blank {blank}{among}", where="CTC", remedy="It is one of the classes 0 … C - 1.")
    return number

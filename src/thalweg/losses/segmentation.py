"""Losses for masks: how far a predicted region and the true one overlap, from logits.

Both overlaps compare sums over pixels, so a pixel's slope depends on all the others, and a large background does not
drown a small object, as it does where each pixel counts for itself (`BinaryCrossEntropy`, `BinaryFocal`: these take
masks too, and sum over the pixels).
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError, whole_number
from thalweg.losses.loss import AbstractLoss, check_shapes, on_host, real_number, refuse_rows


class AbstractOverlap(AbstractLoss):
    """1 - overlap of a mask of probabilities with the true mask.

    Several images stacked into one array count as one: called on a whole batch, the sums run over the batch before the
    ratio is taken. `objective.SupervisedBatch` does that.

    Attributes:
        empty: s > 0, in pixels; see `SoftIoU`.
        classes: None for one mask of yes and no; else the number of classes of a mask of integers.
    """

    empty: eqx.AbstractVar[float]
    classes: eqx.AbstractVar[int | None]

    @abc.abstractmethod
    def parts(self, p: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the overlap is the ratio of, at each pixel: probability and truth to numerator and denominator."""

    def overlap(self, p: jax.Array, y: jax.Array) -> jax.Array:
        """The overlap of one mask of probabilities with the truth.

        Args:
            p: probabilities in [0, 1], any shape.
            y: 0 or 1, of that shape and dtype.
        Returns:
            within [0, 1], shape ().
        """
        # In 16 bits a sum over many pixels is ∞, or stands still at 256; the ratio fits again.
        wide = jnp.float64 if p.dtype == jnp.float64 else jnp.float32
        above, below = (jnp.sum(part, dtype=wide) for part in self.parts(p, y))
        extra = jnp.where(jnp.any(y != 0), 0, self.empty).astype(wide)
        return ((above + extra) / (below + extra)).astype(p.dtype)

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Logits and mask of one shape, to a scalar; with classes, logits (*the mask's, classes).

        A target out of its range costs NaN, for it can only be checked when the compiled program runs; `check_targets`
        checks it before.
        """
        if not jnp.issubdtype(output.dtype, jnp.floating):
            raise UserError(
                f"logits of dtype {output.dtype}", where=type(self).__name__, remedy="They are floating point."
            )
        if self.classes is None:
            check_shapes(self, output, target)
            y = target.astype(output.dtype)
            y = jnp.where((y == 0) | (y == 1), y, jnp.nan)
            return 1 - self.overlap(jax.nn.sigmoid(output), y)
        if not jnp.issubdtype(target.dtype, jnp.integer):
            raise UserError(
                f"a mask of dtype {target.dtype} in place of integer classes",
                where=type(self).__name__,
                remedy="Number the classes from 0; of one-hot masks take the argmax over the last axis.",
            )
        check_shapes(self, output, target, self.classes)
        # A comparison where an index would do: its gradient is no scatter, which is slow.
        chosen = target.astype(jnp.int32)[..., None] == jnp.arange(self.classes, dtype=jnp.int32)
        y = jnp.where(jnp.any(chosen, axis=-1, keepdims=True), chosen.astype(output.dtype), jnp.nan)
        each = jax.vmap(self.overlap, in_axes=-1)(jax.nn.softmax(output, axis=-1), y)
        return 1 - jnp.mean(each)

    def check_targets(self, targets: Any) -> None:
        """Refuse masks of several sizes, and pixels that are not 0 or 1 (with classes: not 0 … classes - 1)."""
        if isinstance(targets, list | tuple):
            sizes = [np.shape(mask) for mask in targets]
            other = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
            if other is not None:
                raise UserError(
                    f"masks of several sizes, {sizes[0]} and {sizes[other]}",
                    where=f"{type(self).__name__}, row {other}",
                    remedy="Rows are counted from 0. Cut or pad the images and their masks to one size.",
                )
        if self.classes is None:
            refuse_rows(self, targets, "0 or 1", lambda pixels: (pixels != 0) & (pixels != 1), "a pixel of a mask")
            return
        found, most = on_host(targets), self.classes - 1
        if found is not None and found.dtype.kind not in "iu":
            raise UserError(
                f"masks of dtype {found.dtype} in place of integer classes",
                where=type(self).__name__,
                remedy="Number the classes from 0; of one-hot masks take the argmax over the last axis.",
            )
        is_wrong = lambda pixels: (pixels < 0) | (pixels > most)
        refuse_rows(self, targets, f"a class 0 … {most}", is_wrong, "a pixel of a mask")


class SoftIoU(AbstractOverlap):
    """1 - Σ p y / Σ (p + y - p y): one minus the intersection over the union (Jaccard, 1912; Rahman and Wang, 2016).

    p = sigmoid(logits) and y the mask, summed over the pixels. With I and U for the two sums its slope is
    ∂(I/U)/∂p = (y U - I (1 - y))/U², and for p of 0 and 1 it is the IoU that is reported of hard masks.

    *Without an object* the ratio is 0/0 or 0, so that nothing could be learned from such an image. There, and nowhere
    else, s pixels that are right are added to both sums: s/(s + Σ p), which is 1 if nothing is predicted, has a slope
    between -1/s and 0 that pushes predictions down, and is ½ with s pixels of false alarm (where hard masks' IoU is 0).
    An image with an object needs no such constant, U ≥ 1, and its value is exact.

    Args:
        empty: s > 0, in pixels.
        classes: None if the output is logits of the mask's shape and the mask 0 or 1. Else the number of classes ≥ 2 of
            integer masks: the output is logits (*mask's shape, classes), p = softmax(logits), and the overlap is the
            mean of those of the classes, the background among them.
    Raises:
        UserError: an argument out of range; at the call, shapes that do not fit.

    >>> SoftIoU()(jnp.array([[0.0, 50.0]]), jnp.array([[True, True]]))  # IoU ¾
    Array(0.25, dtype=float32)
    >>> SoftIoU()(jnp.full((2, 2), -50.0), jnp.zeros((2, 2), bool))  # rightly nothing
    Array(0., dtype=float32)
    """

    empty: float = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)

    def __init__(self, empty: float = 1.0, classes: int | None = None):
        self.empty, self.classes = _checked(empty, classes, "SoftIoU")

    def parts(self, p: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        both = p * y
        return both, p + y - both


class Dice(AbstractOverlap):
    """1 - 2 Σ p y / Σ (p + y): one minus Dice's (1945) coefficient, the F1 score of pixels (Milletari et al., 2016).

    As `SoftIoU` in everything else, also where there is no object. With I = Σ p y and S = Σ (p + y) its slope is
    ∂(2I/S)/∂p = 2 (y S - I)/S².

    Args:
        empty, classes: as `SoftIoU`.
    Raises:
        UserError: as `SoftIoU`.

    >>> print(f"{Dice()(jnp.array([[0.0, 50.0]]), jnp.array([[True, True]])):.4f}")  # 1 - 3/3.5
    0.1429
    """

    empty: float = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)

    def __init__(self, empty: float = 1.0, classes: int | None = None):
        self.empty, self.classes = _checked(empty, classes, "Dice")

    def parts(self, p: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        return 2 * p * y, p + y


def _checked(empty: float, classes: int | None, name: str) -> tuple[float, int | None]:
    pixels = real_number(empty)
    if not (math.isfinite(pixels) and pixels > 0):
        raise UserError(
            f"{empty!r} pixels for images without an object in {name}", remedy="Any number above 0; 1 is usual."
        )
    number = None if classes is None else whole_number(classes, "the number of classes", name)
    if number is not None and number < 2:
        raise UserError(f"{number} classes of {name}", remedy="At least 2; None for one mask of yes and no.")
    return pixels, number


soft_iou = SoftIoU()
dice = Dice()

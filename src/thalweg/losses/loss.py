"""What a loss is."""

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from thalweg.errors import UserError, kind_of


class AbstractLoss(eqx.Module):
    """The cost of one example's output against its target; the engine maps it over the batch and takes the mean.

    Where a loss is a negative log density, its outputs live on the whole real line (a mean, the log of a scale or of
    a rate, a logit), so that no output of a network is out of range, and the constant of the density is there, so that
    two likelihoods of one target can be compared.
    """

    @abc.abstractmethod
    def __call__(self, output: Any, target: Any) -> jax.Array:
        """The output of the model and the target of the same example, to a scalar of shape () and the output's dtype.

        Raises:
            UserError: shapes that do not belong together; nothing is broadcast.
        """

    def check_targets(self, targets: Any) -> None:
        """Refuse targets that the loss cannot take, on the host, before anything is compiled.

        A term calls it once, with all its targets (n, ...). Tracers are passed over: a compiled program cannot refuse,
        so there such a target costs NaN. This one, for losses without a domain of their own, refuses NaN and ∞.

        Raises:
            UserError: a value out of the loss's domain; the first such row is named, counted from 0.
        """
        for values in jax.tree.leaves(targets):
            refuse_rows(self, values, "a finite number", lambda found: ~np.isfinite(found))

    def check_outputs(self, output: Any, targets: Any) -> None:
        """Refuse targets that do not go with the model's output, on the host, before anything is compiled.

        Nothing is refused by a loss that can tell in its call, from shapes.

        Args:
            output: of one example, its arrays as `jax.ShapeDtypeStruct`.
            targets: all that are held, (n, ...).
        Raises:
            UserError: the first such row is named, counted from 0.
        """


class AbstractLeastSquares(AbstractLoss):
    """A loss that is a sum of squares, so that Gauss-Newton and Levenberg-Marquardt can use it."""

    @abc.abstractmethod
    def residual(self, output: Any, target: jax.Array) -> jax.Array:
        """Output and target of one example to a vector r with ‖r‖² equal to the loss (no ½, everywhere)."""

    def __call__(self, output: Any, target: jax.Array) -> jax.Array:
        """‖residual(output, target)‖², shape ()."""
        return jnp.sum(jnp.square(self.residual(output, target)))


def on_host(targets: Any) -> np.ndarray | None:
    """Targets as a NumPy array; None for what this process cannot look at: tracers, arrays of others, keys.

    Raises:
        UserError: lists within lists that make no array.
    """
    if isinstance(targets, jax.Array):
        is_key = jnp.issubdtype(targets.dtype, jax.dtypes.extended)
        if isinstance(targets, Tracer) or is_key or not targets.is_fully_addressable:
            return None
    try:
        return np.asarray(targets)
    except ValueError as error:
        raise UserError(
            "targets whose rows differ in shape", where=kind_of(targets), remedy="They must make one array."
        ) from error


def real_number(value: Any) -> float:
    """An argument as a Python float; NaN if it is none, so that whoever asks whether it is finite refuses it."""
    try:
        return math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def refuse_rows(
    loss: eqx.Module,
    values: Any,
    must_be: str,
    is_wrong: Callable[[np.ndarray], np.ndarray],
    what: str = "a target",
) -> None:
    """Refuses the first of n rows in which something is wrong; tracers are passed over.

    Args:
        loss: who says so.
        values: of shape (n, ...).
        must_be: what each should be, in words.
        is_wrong: those values as a NumPy array to booleans of the same shape.
        what: what they are, in words.
    Raises:
        UserError: naming the row, counted from 0, and the value; or values that are no real numbers.
    """
    found = on_host(values)
    if found is None or found.ndim == 0:
        return
    if found.dtype.kind not in "biuf":
        try:
            if found.dtype.kind in "cUSmM":
                raise TypeError(found.dtype)
            found = found.astype(np.float64)  # bfloat16 and its like, and objects that are numbers
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{what} of {type(loss).__name__} must be {must_be}, but they are of dtype {found.dtype}",
                where=type(loss).__name__,
                remedy="Give real numbers.",
            ) from error
    wrong = is_wrong(found)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        row = f"row {place[0]}, component {place[1:]}" if place[1:] else f"row {place[0]}"
        raise UserError(
            f"{what} of {type(loss).__name__} must be {must_be}, but is {found[place]}",
            where=row,
            remedy="Rows are counted from 0. Mend it, leave the row out, or choose a loss for such targets.",
        )


def check_arrays(loss: eqx.Module, output: Any, target: Any) -> None:
    """Refuses an output or target that is a tuple, a dictionary or nothing where a loss takes one array.

    Raises:
        UserError: saying which of the two, and what it is.
    """
    for what, value in (("output", output), ("target", target)):
        if not hasattr(value, "shape"):
            raise UserError(
                f"the {what} is a {kind_of(value)} in place of one array",
                where=type(loss).__name__,
                remedy="Choose a loss for it, or a function of (output, target) that takes it apart.",
            )


def check_shapes(loss: eqx.Module, output: Any, target: Any, *more: int) -> None:
    """Refuses an output that is not of the target's shape, with further axes of the sizes `more`.

    Raises:
        UserError: naming both shapes: silently broadcast, (n, 1) against (n,) has cost many a wrong fit.
    """
    check_arrays(loss, output, target)
    expected = (*target.shape, *more)
    if output.shape != expected:
        raise UserError(
            f"an output of shape {output.shape} against a target of shape {target.shape}",
            where=type(loss).__name__,
            remedy=f"For one example with this target the output must have the shape {expected}.",
        )


def unpack(loss: eqx.Module, output: Any, names: tuple[str, ...], target: jax.Array) -> tuple[jax.Array, ...]:
    """The parts of an output, each of the target's shape.

    Raises:
        UserError: the output is no tuple of so many arrays, or one of them has another shape than the target.
    """
    if not (isinstance(output, tuple) and len(output) == len(names)):
        raise UserError(
            f"an output {type(output).__name__} in place of the tuple ({', '.join(names)})", where=type(loss).__name__
        )
    for part in output:
        check_shapes(loss, part, target)
    return output


def standardized(deviation: jax.Array, log_scale: jax.Array) -> jax.Array:
    """Deviation / exp(log_scale), which stays 0 where the deviation is 0 and the scale so small that 1/scale is ∞."""
    return deviation * jnp.exp(jnp.minimum(-log_scale, largest_log(log_scale.dtype)))


def absolute(x: jax.Array) -> jax.Array:
    """|x|, whose gradient at 0 is 0. (That of `jnp.abs` is 1 there, which pushes a perfect fit away.)"""
    return x * jnp.sign(x)


def largest_log(dtype: Any) -> float:
    """Logarithm of a number that a floating-point type just holds."""
    return float(np.log(float(jnp.finfo(dtype).max))) - 1

"""Squared error where something was measured: for series with holes."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.losses.loss import AbstractLeastSquares, on_host


class MaskedSquaredError(AbstractLeastSquares):
    """Σ ((output − target) / scale)² over what was measured: a least-squares loss, for targets (values, mask).

    Args:
        scale: standard deviation of the noise, > 0, in the units of the values; one number, or one for each component.
    Raises:
        UserError: a scale that is not positive; at the call, shapes that differ.

    >>> loss = MaskedSquaredError()
    >>> loss(jnp.array([[1.0], [5.0]]), (jnp.array([[3.0], [0.0]]), jnp.array([[True], [False]])))
    Array(4., dtype=float32)
    """

    scale: float | tuple[float, ...] = eqx.field(static=True)

    def __init__(self, scale: float | Sequence[float] = 1.0):
        given = np.asarray(scale, np.float64)
        if given.ndim > 1 or not (np.isfinite(given) & (given > 0)).all():
            raise UserError(f"scale {scale} of MaskedSquaredError", remedy="Give standard deviations > 0.")
        self.scale = tuple(given.tolist()) if given.ndim else float(given)

    def residual(self, output: Any, target: Any) -> jax.Array:
        """Arrays of one shape, and booleans, to a vector of as many entries: 0 where nothing was measured."""
        values, mask = target
        if not jnp.shape(output) == jnp.shape(values) == jnp.shape(mask):
            raise UserError(
                f"an output of shape {jnp.shape(output)} against values of shape {jnp.shape(values)} "
                f"and a mask {jnp.shape(mask)}",
                where="MaskedSquaredError",
                remedy="All must be of one shape, such as (times, components) of one trajectory.",
            )
        known = jnp.where(mask, values, 0)  # what stands in a hole may be NaN
        scale = jnp.asarray(self.scale, output.dtype)
        return jnp.ravel(jnp.where(mask, (output - known.astype(output.dtype)) / scale, 0))

    def check_targets(self, targets: Any) -> None:
        """Refuse what was measured and is not finite, and targets that are no pair of values and booleans.

        Raises:
            UserError: the first such row, counted from 0.
        """
        if not (isinstance(targets, tuple | list) and len(targets) == 2):
            raise UserError("targets of MaskedSquaredError are a pair: values, and a mask of booleans")
        values, mask = map(on_host, targets)
        if values is None or mask is None:
            return
        if mask.dtype != bool or mask.shape != values.shape:
            raise UserError(
                f"a mask of {mask.dtype}{list(mask.shape)} for values {list(values.shape)}",
                where="MaskedSquaredError",
                remedy="It needs a boolean for each value: True where it was measured.",
            )
        bad = np.argwhere(mask & ~np.isfinite(values))
        if len(bad):
            row, *rest = map(int, bad[0])
            raise UserError(
                f"a measured value is {values[tuple(bad[0])]}",
                where=f"row {row}, component {tuple(rest)}",
                remedy="Rows are counted from 0. Mend it, or mark it as not measured.",
            )

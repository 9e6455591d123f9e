"""A loss for forecasts of which first the sign is acted on, such as tomorrow's return of a share."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.losses.loss import AbstractLoss, check_shapes, real_number

PROBED_SIZES = (1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Sizes of forecast and outcome at which a penalty of one's own is looked at."""


class Directional(AbstractLoss):
    """Σ (r̂ - r)² + λ max(0, -r̂ r) over the components: an error that costs more where the forecast has the wrong sign.

    Its slope in the forecast r̂ is 2 (r̂ - r), less λ r where r̂ r < 0. At the kink r̂ = 0, and where r = 0, it is that of
    the square alone: the end of the subdifferential that belongs to the right side. It is convex in r̂.

    **λ has no units**, for both parts are squares of a return: in percent or as fractions the same λ weighs the same.
    (The rate of an optimizer does notice the units. Targets of standard deviation 1 are still the ones to give.)

    **What it does to the best forecast**: of all constants the one that costs least in the mean is the mean of r moved
    towards 0: by λ/2 · E[max(0, -r)] if it is positive, by λ/2 · E[max(0, r)] if negative, and 0 if it would pass 0. So
    forecasts become smaller, and their sign in the limit of many data is that of plain least squares, or none. What it
    can change is how a model that cannot fit everything spends what it has.

    Args:
        weight: λ ≥ 0; 0 is the squared error.
        penalty: in place of max(0, -r̂ r), a function of (r̂, r), two scalars, to a scalar. A constant for each wrong
            sign, the first that comes to mind, is refused: its slope is 0 almost everywhere, so descent never feels
            it. (It is looked at where forecasts and outcomes of opposite signs have sizes from 1e-4 to 10.)
    Raises:
        UserError: a weight that is negative or not finite; a penalty that is no function to a scalar, raises, is not
            finite, or is flat at all of those; at the call, output and target differ in shape.

    >>> Directional(3.0)(jnp.array(0.5), jnp.array(-1.0))  # 1.5² + 3 · 0.5
    Array(3.75, dtype=float32)
    >>> jax.grad(Directional(3.0))(jnp.array(0.5), jnp.array(-1.0))  # 2 · 1.5 + 3 · 1
    Array(6., dtype=float32, weak_type=True)
    """

    weight: float = eqx.field(static=True)
    penalty: Callable[[jax.Array, jax.Array], jax.Array] | None

    def __init__(self, weight: float, penalty: Callable[[jax.Array, jax.Array], jax.Array] | None = None):
        size = real_number(weight)
        if not (math.isfinite(size) and size >= 0):
            raise UserError(
                f"weight {weight!r} of Directional is no finite number ≥ 0",
                remedy="0 is the squared error; at 1 an error to the wrong side costs up to a quarter more.",
            )
        if penalty is not None:
            _refuse_flat(penalty)
        self.weight = size
        self.penalty = penalty

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Two arrays of the same shape to a scalar."""
        check_shapes(self, output, target)
        if self.penalty is None:
            return directional(output, target, self.weight)
        flat = jnp.ravel(output), jnp.ravel(target)
        return jnp.sum(jnp.square(output - target)) + self.weight * jnp.sum(jax.vmap(self.penalty)(*flat))


def directional(predicted: jax.Array, actual: jax.Array, weight: float | jax.Array) -> jax.Array:
    """Σ (r̂ - r)² + λ max(0, -r̂ r), as `Directional`, whose λ may here be an array, one to each member of a fit, say.

    Args:
        predicted, actual: r̂ and r, one shape.
        weight: λ ≥ 0, shape (); its dtype that of the prediction. It is not checked here.
    Returns:
        shape ().

    >>> directional(jnp.array([0.5, 1.0]), jnp.array([-1.0, 1.0]), 3.0)
    Array(3.75, dtype=float32)
    """
    # Signs are compared, not multiplied: the product of two small returns would be 0 in float32, and the slope with it.
    is_wrong = ((predicted > 0) & (actual < 0)) | ((predicted < 0) & (actual > 0))
    return jnp.sum(jnp.square(predicted - actual)) + weight * jnp.sum(jnp.where(is_wrong, -predicted * actual, 0))


def _refuse_flat(penalty: Callable[[jax.Array, jax.Array], jax.Array]) -> None:
    """Refuses a penalty that descent could not feel where the sign is wrong."""
    where = "the penalty of Directional"
    if not callable(penalty):
        raise UserError(
            f"it is no function but {type(penalty).__name__}",
            where=where,
            remedy="A constant has no slope. Write (forecast, outcome) -> cost, or leave it out for max(0, -r̂ r).",
        )
    sizes = np.array(PROBED_SIZES, np.float32)
    predicted, actual = (side.ravel() for side in np.meshgrid(np.concatenate([sizes, -sizes]), sizes))
    actual = -np.sign(predicted) * actual
    try:
        costs, slopes = jax.vmap(jax.value_and_grad(penalty))(jnp.asarray(predicted), jnp.asarray(actual))
    except TypeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"it does not take two scalars to a real scalar: {reason}",
            where=where,
            remedy="Write (forecast, outcome) -> cost in jax.numpy.",
        ) from None
    except UserError:
        raise
    except Exception as error:  # whatever a function of the user's may raise
        raise UserError(
            f"it raises {type(error).__name__}: {error}"[:200],
            where=where,
            remedy="Write (forecast, outcome) -> cost in jax.numpy.",
        ) from error
    costs, slopes = np.asarray(costs), np.asarray(slopes)
    bad = np.flatnonzero(~(np.isfinite(costs) & np.isfinite(slopes)))
    if len(bad):
        raise UserError(
            f"it costs {costs[bad[0]]} with the slope {slopes[bad[0]]}",
            where=f"{where} at the forecast {predicted[bad[0]]:g}, outcome {actual[bad[0]]:g}",
            remedy="It must be finite wherever a forecast may be.",
        )
    if not slopes.any():
        raise UserError(
            f"its slope in the forecast is 0 at all {len(slopes)} places probed, where forecast and outcome have"
            " opposite signs: descent would never feel it",
            where=where,
            remedy="Let it grow with the size of the wrong forecast, as max(0, -r̂ r) does, or smooth the step.",
        )

"""What a loss is."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError


class AbstractLoss(eqx.Module):
    """The cost of one example's output against its target; the engine maps it over the batch and takes the mean."""

    @abc.abstractmethod
    def __call__(self, output: Any, target: jax.Array) -> jax.Array:
        """The output of the model and the target of the same example, to a scalar of shape () and the output's dtype.

        Raises:
            UserError: shapes that do not belong together; nothing is broadcast.
        """


class AbstractLeastSquares(AbstractLoss):
    """A loss that is a sum of squares, so that Gauss-Newton and Levenberg-Marquardt can use it."""

    @abc.abstractmethod
    def residual(self, output: Any, target: jax.Array) -> jax.Array:
        """Output and target of one example to a vector r with ‖r‖² equal to the loss (no ½, everywhere)."""

    def __call__(self, output: Any, target: jax.Array) -> jax.Array:
        """‖residual(output, target)‖², shape ()."""
        return jnp.sum(jnp.square(self.residual(output, target)))


def check_shapes(loss: AbstractLoss, output: jax.Array, expected: tuple[int, ...], target: jax.Array) -> None:
    """Refuses an output that is not of the shape that the target asks for.

    Raises:
        UserError: naming both shapes: silently broadcast, (n, 1) against (n,) has cost many a wrong fit.
    """
    if output.shape != expected:
        raise UserError(
            f"an output of shape {output.shape} against a target of shape {target.shape}",
            where=type(loss).__name__,
            remedy=f"For one example with this target the output must have the shape {expected}.",
        )

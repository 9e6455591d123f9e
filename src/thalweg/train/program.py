"""A program: a list of phases, each an optimizer, a number of steps, and a measured condition that may end it early."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.objective import trainable
from thalweg.optim import AbstractOptimizer
from thalweg.optim.optimizer import checked_optimizer
from thalweg.train.conditions import AbstractCondition
from thalweg.types import Where


class Phase(eqx.Module):
    """A stretch of the walk under one optimizer.

    Args:
        optimizer: what steps.
        steps: most steps of the phase, at least 1.
        until: ends the phase for a member as soon as it is met.
        redraw: steps that share a batch and dropout mask; 1 draws for each step, 0 once for the whole phase.
        where: model -> filter of what is trained.
        precision: dtype of the params in this phase; None keeps that of `fit`.

    >>> from thalweg.optim import Adam, LBFGS
    >>> from thalweg.train.conditions import Plateau
    >>> program = [Phase(Adam(1e-3), 2_000, until=Plateau()), Phase(LBFGS(), 500, redraw=0)]
    """

    optimizer: AbstractOptimizer
    steps: int = eqx.field(static=True)
    until: AbstractCondition | None
    redraw: int = eqx.field(static=True)
    where: Where = eqx.field(static=True)
    precision: Any = eqx.field(static=True)

    def __init__(
        self,
        optimizer: AbstractOptimizer,
        steps: int,
        *,
        until: AbstractCondition | None = None,
        redraw: int = 1,
        where: Where = trainable,
        precision: Any = None,
    ):
        checked_optimizer(optimizer, "Phase")
        _check_count(steps, 1, "a phase's steps", "Give the most steps that the phase may take.")
        if not (until is None or isinstance(until, AbstractCondition)):
            raise UserError(
                f"until must be a condition, not {type(until).__name__}", remedy="Wrap a predicate: When(predicate)."
            )
        optimizer.check_steps(int(steps))
        _check_count(redraw, 0, "redraw", "0 keeps one batch for the phase.")
        if until is not None:
            _check_count(until.every, 1, "the steps between a condition's looks", "every=100, say.")
        self.optimizer, self.steps, self.until, self.redraw = optimizer, int(steps), until, int(redraw)
        self.where, self.precision = where, None if precision is None else floating_dtype(precision)


def floating_dtype(precision: Any) -> np.dtype:
    """A precision as a floating-point dtype.

    Raises:
        UserError: it is none.

    >>> floating_dtype("float32")
    dtype('float32')
    """
    try:
        dtype = np.dtype(precision)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"precision must be a floating-point type, not {precision!r}", remedy="jnp.float32 or jnp.float64."
        )
    return dtype


def _check_count(value: Any, least: int, what: str, remedy: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value < 2**31:
        raise UserError(f"{what} must be a whole number of at least {least}, not {value!r}", remedy=remedy)

"""The learning rate's range test: one short run with an ever larger rate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.errors import UserError, kind_of
from thalweg.objective import Objective
from thalweg.optim import AbstractOptimizer
from thalweg.train.fit import fit
from thalweg.train.program import Phase
from thalweg.types import PyTree

DIVERGED = 4.0
"""Smoothed objective, in units of the lowest so far, from which the rate is too large."""

WINDOWS = 20
"""Windows that the range is cut into: slopes are taken over one of them."""

CLEAR_FALL = 0.05
"""Share of the whole fall of the smoothed objective, in logarithms or differences, that shows that it falls."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes:
        rates: tried, shape (n,), rising geometrically.
        objective: at each step, shape (n,); not finite once the run has diverged.
        smooth: the objective smoothed, shape (n,).
        suggested: rate at which the smoothed objective falls most steeply per decade of rate.
        low, high: bounds for a cyclical schedule: where the objective has clearly begun to fall, and the last rate
            before it stops falling (Smith, 2017, section 3.3).
        ended: why there is no larger rate to look at.
    """

    rates: np.ndarray
    objective: np.ndarray
    smooth: np.ndarray
    suggested: float
    low: float
    high: float
    ended: str


def range_test(
    model: PyTree,
    objective: Objective,
    optimizer: Callable[[Any], AbstractOptimizer],
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
    smoothing: float = 0.9,
    seed: int = 0,
    precision: Any = None,
) -> RangeTest:
    """Walk `steps` steps with a rate that grows geometrically from `low` to `high`, and propose rates.

    The model and objective given are not changed, and nothing is kept of the walk.

    Args:
        model, objective, seed, precision: as `fit`.
        optimizer: learning rate -> optimizer, such as `Adam` itself.
        low, high: rates between which to look.
        steps: of the walk, at least 20.
        smoothing: memory of the exponential average of the objective, at least 0 and below 1.
    Raises:
        UserError: bounds or steps that cannot work; an objective that does not fall at any of the rates.

    >>> import jax, numpy as np
    >>> from thalweg.losses import squared_error
    >>> from thalweg.nn import MLP
    >>> from thalweg.objective import Supervised
    >>> from thalweg.optim import Adam
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> curve = Objective(data=Supervised(x, x**2, loss=squared_error))
    >>> found = range_test(MLP(1, 1, width=16, depth=1, key=jax.random.key(0)), curve, Adam)
    >>> bool(1e-4 < found.low < found.suggested < found.high < 10)
    True
    """
    for name, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise UserError(f"{name} must be a rate above 0, not {value!r}", where="range_test")
    if isinstance(optimizer, AbstractOptimizer) or not callable(optimizer):
        raise UserError(
            f"range_test needs a function of the rate, not {kind_of(optimizer)}",
            remedy="Adam itself, or lambda rate: SGD(rate, momentum=0.9).",
        )
    if low >= high:
        raise UserError(f"the lowest rate, {low:g}, is not below the highest, {high:g}", where="range_test")
    if isinstance(steps, bool) or not (isinstance(steps, int) and steps >= 20):
        raise UserError(f"a range test needs at least 20 steps, not {steps!r}", where="range_test")
    if not (isinstance(smoothing, int | float) and 0 <= smoothing < 1):
        raise UserError(f"smoothing must be at least 0 and below 1, not {smoothing!r}", where="range_test")
    growth = (high / low) ** (1 / (steps - 1))
    walking = optimizer(lambda step: low * growth**step)
    found = fit(
        model, objective, Phase(walking, steps), seed=seed, precision=precision, log_every=1, raise_failures=False
    )
    if "rate" not in found.rows[0]["figures"]:
        raise UserError(
            f"no learning rate is known of {type(walking).__name__}, so the rates tried say nothing",
            where="range_test",
            remedy="Use SGD, Adam or another of thalweg's first-order optimizers.",
        )
    seen = np.array([row["total"] for row in found.rows], float)
    return judged(low * growth ** np.arange(len(seen)), seen, smoothing)


def judged(rates: np.ndarray, seen: np.ndarray, smoothing: float) -> RangeTest:
    """Read rates off the objective seen at each.

    Args:
        rates: (n,), rising.
        seen: (n,), the objective before the step of each rate.
        smoothing: memory of the average.
    Raises:
        UserError: the objective does not fall.
    """
    smooth = _smoothed(seen, smoothing)
    usable = np.isfinite(smooth)
    if not usable.any():
        raise UserError("the objective is not finite at the start", where="range_test")
    if np.nanmin(smooth) > 0:
        limit = DIVERGED * np.fmin.accumulate(smooth)
    else:  # four times a lowest that is negative means nothing: then by its own size above the start
        limit = np.full(len(smooth), smooth[0] + abs(smooth[0]))
    over = ~usable | (smooth > limit)
    end = int(np.argmax(over)) if over.any() else len(rates)
    ended = "the objective grew" if over.any() else "the highest rate was reached"
    kept = smooth[:end]
    best = int(np.argmin(kept))
    values = np.log(kept) if kept.min() > 0 else kept
    window = max(3, len(rates) // WINDOWS)
    start = np.median(values[:window])  # of several batches: the first may be a lucky one
    fall = start - values[best]
    if best < window or not fall > 0:
        raise UserError(
            "the objective falls at none of these rates",
            where=f"range_test from {rates[0]:g} to {rates[-1]:g}",
            remedy="Look between other rates, or mend the objective: a wrong sign, or a model that is not trained.",
        )
    begun = int(np.argmax(start - values >= CLEAR_FALL * fall))
    # between two places a window apart, so that the luck of single batches does not decide; named by their middle
    falls = values[begun : best + 1][:-window] - values[begun : best + 1][window:]
    steepest = begun + window // 2 + int(np.argmax(falls)) if falls.size else (begun + best) // 2
    return RangeTest(rates, seen, smooth, float(rates[steepest]), float(rates[begun]), float(rates[best]), ended)


def _smoothed(values: np.ndarray, memory: float) -> np.ndarray:
    """The exponential average, freed of its start; not finite from the first value that is not."""
    smooth, mean = np.full(len(values), np.nan), 0.0
    for i, value in enumerate(values):
        if not np.isfinite(value):
            break
        mean = memory * mean + (1 - memory) * value
        smooth[i] = mean / (1 - memory ** (i + 1))
    return smooth

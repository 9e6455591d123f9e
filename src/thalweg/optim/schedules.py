"""Schedules: the learning rate as a function of the step, counted from 0 in each phase."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError


@dataclass(frozen=True)
class AbstractSchedule(abc.ABC):
    """A rate that depends on the step; pure, so that it runs within a compiled step."""

    @abc.abstractmethod
    def __call__(self, step: Any) -> Any:
        """The rate of step number `step`, counted from 0; of shape (), or of the shape of `step`."""

    @property
    def length(self) -> int | None:
        """Steps after which it has run its course; None for one that goes on for ever."""
        return None


LOOKS = 17
"""Steps at which a function that is a rate is looked at before a phase."""

Rate = float | Callable[[Any], Any]
"""A learning rate: a number above 0, a schedule, or any function of the step."""


@dataclass(frozen=True)
class Constant(AbstractSchedule):
    """One rate.

    >>> Constant(0.1)(7)
    0.1
    """

    rate: float

    def __post_init__(self):
        _check_rates(rate=self.rate)

    def __call__(self, step: Any) -> Any:
        return self.rate


@dataclass(frozen=True)
class StepDecay(AbstractSchedule):
    """The rate times `factor` every `every` steps.

    >>> round(float(StepDecay(0.1, every=10, factor=0.5)(25)), 6)
    0.025
    """

    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self):
        _check_rates(rate=self.rate, factor=self.factor)
        _check_steps(every=self.every)

    def __call__(self, step: Any) -> Any:
        return self.rate * self.factor ** (_real(step) // self.every)


@dataclass(frozen=True)
class Cosine(AbstractSchedule):
    """From `rate` down to `last` along half a cosine of `steps`, and `last` from there (Loshchilov and Hutter, 2017).

    >>> [round(float(Cosine(1.0, 100, last=0.01)(step)), 3) for step in (0, 50, 100, 150)]
    [1.0, 0.505, 0.01, 0.01]
    """

    rate: float
    steps: int
    last: float = 0.0

    def __post_init__(self):
        _check_rates(rate=self.rate)
        _check_last(self.last)
        _check_steps(steps=self.steps)

    def __call__(self, step: Any) -> Any:
        return _half_cosine(self.rate, self.last, jnp.minimum(_real(step) / self.steps, 1.0))

    @property
    def length(self) -> int | None:
        return self.steps


@dataclass(frozen=True)
class CosineRestarts(AbstractSchedule):
    """Cosines that begin again at `rate`: cycle number i is `first`·`growth`^i steps long (SGDR, equation 5).

    Args:
        rate: at each restart.
        first: steps of the first cycle.
        growth: how much longer each cycle is than the one before, a whole number of at least 1.
        last: rate that each cycle falls to.

    >>> [round(float(CosineRestarts(1.0, 10, growth=2)(step)), 3) for step in (0, 5, 10, 20, 30)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    rate: float
    first: int
    growth: int = 1
    last: float = 0.0

    def __post_init__(self):
        _check_rates(rate=self.rate)
        _check_last(self.last)
        _check_steps(first=self.first, growth=self.growth)

    def __call__(self, step: Any) -> Any:
        # a number of cycles may pass within 2**31 steps, none of which need be found by a logarithm that rounds
        step = jnp.asarray(step)
        if self.growth == 1:
            begun, length = step - step % self.first, jnp.asarray(self.first)
        else:
            begun, length, start = jnp.zeros_like(step), jnp.full_like(step, self.first), self.first
            size = self.first
            while start < 2**31 - size * self.growth:
                size *= self.growth
                begun, length = jnp.where(step >= start, start, begun), jnp.where(step >= start, size, length)
                start += size
        return _half_cosine(self.rate, self.last, _real(step - begun) / _real(length))

    @property
    def length(self) -> int | None:
        return self.first


@dataclass(frozen=True)
class OneCycle(AbstractSchedule):
    """Up to `rate` along half a cosine, then down far below the start along another (Smith and Topin, 2018).

    Args:
        rate: the highest.
        steps: of the whole cycle, at least 2.
        warm: share of the steps spent going up.
        start: the first rate is `rate` / start.
        end: the last rate is the first / end.

    >>> [round(float(OneCycle(1.0, 101, warm=0.3)(step)), 5) for step in (0, 30, 100)]
    [0.04, 0.99976, 0.0]
    """

    rate: float
    steps: int
    warm: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self):
        _check_rates(rate=self.rate, start=self.start, end=self.end)
        _check_steps(steps=self.steps)
        if self.steps < 2:
            raise UserError(f"a cycle needs at least 2 steps, not {self.steps!r}", where="OneCycle(steps=…)")
        if not (isinstance(self.warm, int | float) and 0 < self.warm < 1):
            raise UserError(f"warm must lie between 0 and 1, not {self.warm!r}", where="OneCycle(warm=…)")

    def __call__(self, step: Any) -> Any:
        step, top, last = _real(step), self.warm * self.steps - 1.0, float(self.steps - 1)
        first, lowest = self.rate / self.start, self.rate / self.start / self.end
        up = _half_cosine(first, self.rate, step / top) if top > 0 else self.rate
        down = _half_cosine(self.rate, lowest, jnp.clip((step - max(top, 0.0)) / (last - max(top, 0.0)), 0.0, 1.0))
        return jnp.where(step <= top, up, down)

    @property
    def length(self) -> int | None:
        return self.steps


@dataclass(frozen=True)
class Triangular(AbstractSchedule):
    """Up and down between two rates in straight lines, for ever (Smith, 2017).

    Args:
        low, high: the two rates.
        half: steps from one to the other.

    >>> [float(Triangular(0.0, 1.0, half=4)(step)) for step in (0, 2, 4, 6, 8)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    low: float
    high: float
    half: int

    def __post_init__(self):
        _check_cycle(self.low, self.high, self.half)

    def __call__(self, step: Any) -> Any:
        return self.low + (self.high - self.low) * _triangle(step, self.half)

    @property
    def length(self) -> int | None:
        return 2 * self.half


@dataclass(frozen=True)
class Triangular2(AbstractSchedule):
    """As `Triangular`, the height of the triangle halved at each cycle (Smith, 2017).

    >>> [float(Triangular2(0.0, 1.0, half=4)(step)) for step in (4, 12, 20)]
    [1.0, 0.5, 0.25]
    """

    low: float
    high: float
    half: int

    def __post_init__(self):
        _check_cycle(self.low, self.high, self.half)

    def __call__(self, step: Any) -> Any:
        cycle = _real(step) // (2 * self.half)
        return self.low + (self.high - self.low) * _triangle(step, self.half) * 0.5**cycle

    @property
    def length(self) -> int | None:
        return 2 * self.half


@dataclass(frozen=True)
class ExpRange(AbstractSchedule):
    """As `Triangular`, the height of the triangle times `decay`^step (Smith, 2017).

    >>> round(float(ExpRange(0.0, 1.0, half=4, decay=0.99)(4)), 6)
    0.960596
    """

    low: float
    high: float
    half: int
    decay: float = 0.9994

    def __post_init__(self):
        _check_cycle(self.low, self.high, self.half)
        if not (isinstance(self.decay, int | float) and 0 < self.decay <= 1):
            raise UserError(f"decay must be above 0 and at most 1, not {self.decay!r}", where="ExpRange(decay=…)")

    def __call__(self, step: Any) -> Any:
        return self.low + (self.high - self.low) * _triangle(step, self.half) * self.decay ** _real(step)

    @property
    def length(self) -> int | None:
        return 2 * self.half


@dataclass(frozen=True)
class WarmUp(AbstractSchedule):
    """A straight line up to the first rate of another schedule, over `steps`; then that schedule, from its step 0.

    Step k of the line has the share (k+1)/(steps+1), so that no step is wasted at a rate of 0.

    >>> [round(float(WarmUp(4, Cosine(1.0, 100))(step)), 3) for step in (0, 1, 3, 4)]
    [0.2, 0.4, 0.8, 1.0]
    """

    steps: int
    then: Rate

    def __post_init__(self):
        _check_steps(steps=self.steps)
        checked_rate(self.then)

    def __call__(self, step: Any) -> Any:
        count = jnp.asarray(step)
        later = jnp.maximum(count - self.steps, 0)
        after = jnp.asarray(self.then(later) if callable(self.then) else self.then, _real(count).dtype)
        return after * jnp.minimum((_real(count) + 1) / (self.steps + 1), 1.0)

    @property
    def length(self) -> int | None:
        after = self.then.length if isinstance(self.then, AbstractSchedule) else 0
        return None if after is None else self.steps + after


def checked_rate(rate: Any, name: str = "learning rate") -> Rate:
    """A rate or schedule (step -> rate) as given; a number must be finite and above 0.

    Raises:
        UserError: it is none, or its rates at the first steps are not finite or below 0.
    """
    if callable(rate):
        _check_rates_at(rate, [0, 1], name)
        return rate
    if isinstance(rate, bool) or not (isinstance(rate, int | float | np.number) and 0 < rate < float("inf")):
        raise UserError(f"the {name} must be a number above 0, not {rate!r}", remedy="A common start is 1e-3.")
    return float(rate)


def _check_rates_at(rate: Callable[[Any], Any], steps: list[int], name: str = "learning rate") -> None:
    """Somebody else's schedule, looked at here and there: a negative rate would climb."""
    for step in steps:
        with jax.numpy_dtype_promotion("standard"):  # it may mix types
            found = np.asarray(rate(step))
        if found.shape != () or not np.isfinite(found) or found < 0:
            answer = f"{found.tolist()} at step {step:,}"
            raise UserError(f"a schedule must answer each step with one finite rate, at least 0: {answer}", where=name)


def rate_at(rate: Rate, step: Any) -> jax.Array:
    """The rate at a step, as an array of shape ()."""
    return jnp.asarray(rate(step) if callable(rate) else rate, jnp.float32)


def check_length(rate: Rate | None, steps: int) -> None:
    """Refuse a schedule that `steps` would cut off, or a function that is no rate at some of them.

    Raises:
        UserError: the schedule is longer, or the function's rate is negative or not finite.
    """
    if callable(rate) and not isinstance(rate, AbstractSchedule):
        _check_rates_at(rate, np.unique(np.linspace(0, steps - 1, LOOKS).astype(int)).tolist())
    length = rate.length if isinstance(rate, AbstractSchedule) else None
    if length is not None and length > steps:
        raise UserError(
            f"the learning rate's schedule takes {length:,} steps, and the phase has {steps:,}: it would be cut off",
            where=type(rate).__name__,
            remedy=f"Give the schedule {steps:,} steps, or the phase more.",
        )


def _real(step: Any) -> Any:
    """A step as a floating-point number; a Python one stays as exact as it is."""
    return jnp.asarray(step).astype(jax.dtypes.canonicalize_dtype(float))


def _half_cosine(begin: float, end: float, share: Any) -> Any:
    return end + (begin - end) * 0.5 * (1.0 + jnp.cos(jnp.pi * share))


def _triangle(step: Any, half: int) -> Any:
    """0 at the start of each cycle of 2·half steps, 1 in its middle."""
    within = jnp.asarray(step) % (2 * half)  # whole numbers, so that no step is too large to be exact
    return 1.0 - jnp.abs(_real(within) / half - 1.0)


def _check_rates(**rates: Any) -> None:
    for name, rate in rates.items():
        if isinstance(rate, bool) or not (isinstance(rate, int | float) and 0 < rate < float("inf")):
            raise UserError(f"{name} must be a number above 0, not {rate!r}")


def _check_last(last: Any) -> None:
    if not (isinstance(last, int | float) and 0 <= last < float("inf")):
        raise UserError(f"the last rate must be a number of at least 0, not {last!r}")


def _check_steps(**counts: Any) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not (isinstance(count, int) and 1 <= count < 2**31):
            raise UserError(f"{name} must be a whole number of at least 1, not {count!r}")


def _check_cycle(low: float, high: float, half: int) -> None:
    _check_last(low)
    _check_rates(high=high)
    _check_steps(half=half)
    if low >= high:
        raise UserError(f"the low rate {low:g} must be below the high one {high:g}")

"""Measured conditions that end a phase, for each member of a batch of runs on its own."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError, kind_of
from thalweg.objective import Problem, gradient_signal, signal_over_noise
from thalweg.types import Key, Params, PyTree, Scalar


class Monitor(eqx.Module):
    """What a condition may look at, for one member.

    Attributes:
        step: steps done in this phase, int32.
        total: objective, mean over the steps since the last look.
        parts: mean cost by term at the last step.
        validation: last validation score; inf before the first, or without validation.
        validation_best: best score so far.
        since_best: steps since the best score was seen.
    """

    step: Scalar
    total: Scalar
    parts: dict[str, Scalar]
    validation: Scalar
    validation_best: Scalar
    since_best: Scalar


class AbstractCondition(eqx.Module):
    """When a phase is over, asked every `every` steps, for each member of a batch of runs on its own."""

    every: eqx.AbstractVar[int]
    needs_validation: ClassVar[bool] = False

    def init(self, dtype: Any) -> PyTree:
        """The condition's moving state; figures of the objective are kept in its own floating type."""
        return None

    def check(
        self, problem: Problem, params: Params, monitor: Monitor, state: PyTree, key: Key
    ) -> tuple[PyTree, Scalar, dict[str, Scalar]]:
        """(state, whether the condition is met, the figures it was decided by)."""
        raise NotImplementedError


class LossBelow(AbstractCondition):
    """Met when the objective, averaged since the last look, is below a level.

    Args:
        level: in units of the objective.
        every: steps between looks.
    """

    level: float
    every: int = eqx.field(static=True, default=100, kw_only=True)

    def __check_init__(self):
        if not (isinstance(self.level, int | float) and self.level == self.level):
            raise UserError(f"the level must be a number, not {self.level!r}", where="LossBelow")

    def check(self, problem, params, monitor, state, key):
        return state, monitor.total < self.level, {"total": monitor.total}


class Plateau(AbstractCondition):
    """Met when the objective has not improved by a relative amount for a number of looks.

    Args:
        patience: looks without improvement.
        improvement: relative decrease that counts.
        every: steps between looks.
    """

    patience: int = eqx.field(static=True, default=10)
    improvement: float = 1e-3
    every: int = eqx.field(static=True, default=100, kw_only=True)

    def __check_init__(self):
        if isinstance(self.patience, bool) or not (isinstance(self.patience, int) and self.patience >= 1):
            raise UserError(f"patience is a whole number of looks, at least 1, not {self.patience!r}", where="Plateau")
        if not (isinstance(self.improvement, int | float) and 0 <= self.improvement < float("inf")):
            raise UserError(
                f"the improvement must be a number of at least 0, not {self.improvement!r}", where="Plateau"
            )

    def init(self, dtype: Any) -> PyTree:
        return jnp.asarray(jnp.inf, dtype), jnp.zeros((), jnp.int32)

    def check(self, problem, params, monitor, state, key):
        best, looks = state
        total = monitor.total.astype(best.dtype)
        better = total < best - self.improvement * jnp.where(jnp.isfinite(best), jnp.abs(best), 0)
        looks = jnp.where(better, 0, looks + 1)
        best = jnp.where(better, total, best)
        return (best, looks), looks >= self.patience, {"total": total, "best": best, "looks": looks}


class NoImprovement(AbstractCondition):
    """Early stopping: met when the validation score has not improved for a number of steps.

    Args:
        steps: steps without a better validation score.
        every: steps between looks.
    """

    steps: int = eqx.field(static=True)
    every: int = eqx.field(static=True, default=100, kw_only=True)
    needs_validation: ClassVar[bool] = True

    def __check_init__(self):
        if isinstance(self.steps, bool) or not (isinstance(self.steps, int) and self.steps >= 1):
            raise UserError(f"steps is a whole number, at least 1, not {self.steps!r}", where="NoImprovement")

    def check(self, problem, params, monitor, state, key):
        figures = {"validation": monitor.validation, "best": monitor.validation_best, "since": monitor.since_best}
        return state, monitor.since_best >= self.steps, figures


class When(AbstractCondition):
    """Met when a predicate of the monitor says so.

    Args:
        predicate: `Monitor` -> boolean scalar; compiled.
        every: steps between looks.
    """

    predicate: Callable[[Monitor], Any] = eqx.field(static=True)
    every: int = eqx.field(static=True, default=100, kw_only=True)

    def __check_init__(self):
        if not callable(self.predicate):
            raise UserError(f"a predicate is a function of a Monitor, not {kind_of(self.predicate)}", where="When")

    def check(self, problem, params, monitor, state, key):
        try:
            met = self.predicate(monitor)
        except jax.errors.TracerBoolConversionError as error:
            remedy = "It is compiled: write & for `and`, | for `or`, ~ for `not`, jnp.where for `if`."
            raise UserError("the predicate asks whether a traced value is true", where="When", remedy=remedy) from error
        except AttributeError as error:
            if error.obj is not monitor:
                raise
            names = ", ".join(field.name for field in dataclasses.fields(Monitor))
            raise UserError(f"a Monitor has no {error.name!r}", where="When", remedy=f"It has {names}.") from error
        return state, met, {"total": monitor.total}


class SignalToNoise(AbstractCondition):
    """Met when the gradient of a batch has become mostly signal, so that a method that trusts it will do better.

    √B′·SNR rises above a level, where SNR² = max(0, ‖ḡ‖² − tr Ĉ/B) / tr Ĉ is estimated without bias from the present
    batch, and B′ is the batch of the phase that comes next (`thalweg.objective.gradient_signal`). One batch is a noisy
    witness, so signal and noise are each averaged over the looks before they are divided.

    Args:
        above: level.
        batch: B′, examples a step of the next phase; None: as many as now.
        memory: of the average over looks, at least 0 and below 1; 0 believes each look alone.
        every: steps between looks; each costs about as much as a step.

    >>> until = SignalToNoise(above=1.0, batch=2_000)
    """

    above: float
    batch: int | None = eqx.field(static=True)
    memory: float
    every: int = eqx.field(static=True, kw_only=True)

    def __init__(self, above: float, *, batch: int | None = None, memory: float = 0.7, every: int = 100):
        if not (isinstance(above, int | float) and 0 < above < float("inf")):
            raise UserError(f"the level must be a number above 0, not {above!r}", where="SignalToNoise(above=…)")
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
            raise UserError(f"a batch has at least 1 example, not {batch!r}", where="SignalToNoise(batch=…)")
        if not 0 <= memory < 1:
            raise UserError(f"memory must be at least 0 and below 1, not {memory!r}", where="SignalToNoise(memory=…)")
        self.above, self.batch, self.memory, self.every = float(above), batch, float(memory), every

    def init(self, dtype: Any) -> PyTree:
        return jnp.zeros((), dtype), jnp.zeros((), dtype)

    def check(self, problem, params, monitor, state, key):
        found = gradient_signal(problem, params)
        # both averages begin at 0 and lack the same share, which cancels in their ratio
        mix = lambda old, new: self.memory * old + (1 - self.memory) * new.astype(old.dtype)
        signal, noise = mix(state[0], found.signal), mix(state[1], found.noise)
        growth = 1.0 if self.batch is None else self.batch / max(found.examples, 1)
        ratio = signal_over_noise(signal, noise, growth)
        figures = {"ratio": ratio, "signal": found.signal, "noise": found.noise}
        return (signal, noise), ratio > self.above, figures

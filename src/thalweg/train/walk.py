"""The compiled programs of one phase, written for one member: start, advance, renew, refresh, check, validate.

Every program has the signature `(state, frozen, streamed, shared, count) -> (state, figures)`, so that whatever maps
members (see `members.py`) maps all of them alike.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.objective import Batch, Objective, ObjectiveState, Problem, named_key
from thalweg.optim import Ended, StepInfo
from thalweg.train.conditions import Monitor
from thalweg.train.instruments import AbstractInstrument
from thalweg.train.program import Phase
from thalweg.types import Key, Params, PyTree, Scalar

NEVER = -1


class Tally(eqx.Module):
    """What the steps since the last look amounted to.

    Attributes:
        count: steps since the last look, int32.
        sum: of the objective over them.
        total: objective at the last step.
        parts: mean cost by term at the last step.
        figures: of the last step.
        ended: the optimizer's `Ended`.
        bad_step: step of the run at which the objective was first not finite, −1 while it is; parts stay as then.
        accepted: steps accepted since the last look.
    """

    count: Scalar
    sum: Scalar
    total: Scalar
    parts: dict[str, Scalar]
    figures: dict[str, Scalar]
    ended: Scalar
    bad_step: Scalar
    accepted: Scalar


class Best(eqx.Module):
    """The best place seen by validation, and where the score stands now."""

    params: Params
    model_state: PyTree
    score: Scalar
    step: Scalar
    last: Scalar


class State(eqx.Module):
    """Everything that moves, for one member: what a checkpoint holds.

    Attributes:
        key: the member's key; all randomness is folded from it by name and number.
        step: steps done in the run, int32.
        batch: number of the batch used last, int32.
        held: the phase is over for this member.
    """

    params: Params
    model_state: PyTree
    optimizer: PyTree
    objective: ObjectiveState
    condition: PyTree
    tally: Tally
    best: Best
    key: Key
    step: Scalar
    phase_step: Scalar
    batch: Scalar
    held: Scalar


def int32(value: int) -> Scalar:
    """An int32 scalar, whatever the default integer is."""
    return jnp.asarray(value, jnp.int32)


class Walk:
    """The programs of one phase on one objective.

    Args:
        phase: what to do.
        objective: the landscape, arrays included; only its static part is kept.
        validation: another landscape, evaluated in inference mode; None without.
        static: the part of the model that is no array.
        varies: whether two batches (or dropout masks) can differ.
        sharding: how to lay the batch over devices; None for one device.
        hold: whether members are mapped together, so that finished ones must be held by `where`.
    """

    def __init__(
        self,
        phase: Phase,
        objective: Objective,
        validation: Objective | None,
        static: PyTree,
        *,
        varies: bool,
        sharding: Any = None,
        hold: bool = False,
    ):
        self.phase, self.static, self.varies, self.sharding, self.hold = phase, static, varies, sharding, hold
        # where the landscape is to move, an optimizer that has ended on the present one waits for the next
        self.moves = (varies and phase.redraw > 0) or objective.refresh_every > 0
        self.objective_static = eqx.partition(objective, eqx.is_array)[1]
        self.validation_static = eqx.partition(validation, eqx.is_array)[1]

    # The slice of landscape under a member's feet.

    def problem(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, batch: Scalar) -> Problem:
        """The objective bound at batch number `batch`."""
        objective = eqx.combine(shared[0], self.objective_static)
        examples = objective.draw(state.objective, batch, streamed)
        if self.sharding is not None:
            examples = jax.lax.with_sharding_constraint(examples, self.sharding)
        static = eqx.combine(state.model_state, frozen, self.static)
        key = jax.random.fold_in(named_key(state.key, "dropout"), batch)
        return objective.bind(static, examples, state.objective, key)

    def start(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
        """Begin the phase: a fresh optimizer and condition at the present params."""
        first = state.batch + 1
        problem = self.problem(state, frozen, streamed, shared, first)
        key = jax.random.fold_in(named_key(state.key, "optimizer"), state.step)
        optimizer = self.phase.optimizer.init(problem, state.params, key)
        until = self.phase.until
        begun = State(
            state.params,
            state.model_state,
            optimizer,
            state.objective,
            None if until is None else until.init(state.tally.total.dtype),
            state.tally,
            state.best,
            state.key,
            state.step,
            int32(0),
            state.batch,
            jnp.asarray(False),
        )
        info = jax.eval_shape(lambda: self._step(begun, problem)[1])
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (info.total, info.parts, info.figures))
        total, parts, figures = zeros
        tally = Tally(int32(0), total, total, parts, figures, int32(0), int32(NEVER), int32(0))
        batch = state.batch if self.phase.redraw == 1 else first
        return eqx.tree_at(lambda s: (s.tally, s.batch), begun, (tally, batch)), {}

    def _step(self, state: State, problem: Problem) -> tuple[State, StepInfo]:
        key = jax.random.fold_in(named_key(state.key, "step"), state.step)
        memory = state.optimizer
        if self.phase.redraw == 1 and self.varies:
            memory = self.phase.optimizer.redraw(problem, state.params, memory)
        params, memory, info = self.phase.optimizer.step(problem, state.params, memory, key)
        model_state = state.model_state
        if info.model_state is not None:
            accepted = info.accepted
            model_state = info.model_state if accepted is True else _where(accepted, info.model_state, model_state)
        after = eqx.tree_at(
            lambda s: (s.params, s.model_state, s.optimizer),
            state,
            (params, model_state, memory),
            is_leaf=lambda leaf: leaf is None,
        )
        return after, info

    def step(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
        """One step of the phase's optimizer, and its trace in the tally."""
        batch = state.batch + 1 if self.phase.redraw == 1 else state.batch
        problem = self.problem(state, frozen, streamed, shared, batch)
        after, info = self._step(state, problem)
        tally, good = state.tally, state.tally.bad_step == NEVER
        finite = jnp.isfinite(info.total)
        keep = lambda new, old: jnp.where(good, new, old)
        tally = Tally(
            tally.count + 1,
            tally.sum + info.total,
            keep(info.total, tally.total),
            jax.tree.map(keep, info.parts, tally.parts),
            jax.tree.map(keep, info.figures, tally.figures),
            info.ended,
            jnp.where(good & ~finite, state.step, tally.bad_step),
            tally.accepted + jnp.asarray(info.accepted).astype(jnp.int32),
        )
        after = eqx.tree_at(
            lambda s: (s.tally, s.step, s.phase_step, s.batch),
            after,
            (tally, state.step + 1, state.phase_step + 1, batch),
        )
        return (_where(state.held, state, after) if self.hold else after), {}

    def advance(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
        """`count` steps in one program. The count is dynamic, so that no length of stretch compiles again."""
        body = lambda _, s: self.step(s, frozen, streamed, shared, None)[0]
        return jax.lax.fori_loop(np.int32(0), count, body, state), {}

    # What happens between stretches of steps.

    def renew(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
        """`count` is 1: draw a new batch. 0: the same batch on a landscape that `refresh` has moved."""
        batch = state.batch + count
        problem = self.problem(state, frozen, streamed, shared, batch)
        memory = self.phase.optimizer.redraw(problem, state.params, state.optimizer)
        after = eqx.tree_at(lambda s: (s.optimizer, s.batch), state, (memory, batch), is_leaf=lambda leaf: leaf is None)
        return (_where(state.held, state, after) if self.hold else after), {}

    def refresh(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
        """Let the objective move: multipliers, held points."""
        problem = self.problem(state, frozen, streamed, shared, state.batch)
        key = jax.random.fold_in(named_key(state.key, "refresh"), state.step)
        objective = eqx.combine(shared[0], self.objective_static)
        lowered = self.phase.optimizer.landscape(problem, state.optimizer)
        moved, figures = objective.refresh(problem, state.params, key, lowered)
        after = eqx.tree_at(lambda s: s.objective, state, moved)
        return (_where(state.held, state, after) if self.hold else after), figures

    def check(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
        """Ask the phase's condition."""
        until = self.phase.until
        assert until is not None
        tally = state.tally
        mean = tally.sum / jnp.maximum(tally.count, 1).astype(tally.sum.dtype)
        # patience begins anew with a phase, also where the best is of an earlier one
        since = jnp.where(state.best.step == NEVER, state.phase_step, state.step - state.best.step)
        monitor = Monitor(state.phase_step, mean, tally.parts, state.best.last, state.best.score, since)
        problem = self.problem(state, frozen, streamed, shared, state.batch)
        key = jax.random.fold_in(named_key(state.key, "condition"), state.step)
        condition, met, figures = until.check(problem, state.params, monitor, state.condition, key)
        if not (isinstance(met, bool | np.bool_) or (isinstance(met, jax.Array) and _is_truth(met))):
            found = f"{met.dtype} of shape {met.shape}" if isinstance(met, jax.Array) else type(met).__name__
            raise UserError(f"a condition must answer with one boolean, not {found}", where=type(until).__name__)
        met = jnp.asarray(met) & (tally.bad_step == NEVER)
        after = eqx.tree_at(
            lambda s: (s.condition, s.held), state, (condition, state.held | met), is_leaf=lambda leaf: leaf is None
        )
        return (_where(state.held, state, after) if self.hold else after), {"met": met} | figures

    def validate(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
        """Score the params that would be kept, in inference mode, and remember the best."""
        validation = eqx.combine(shared[1], self.validation_static)
        kept = self.phase.optimizer.eval_params(state.params, state.optimizer)
        landscape = validation.init(named_key(state.key, "validation"))
        static = eqx.combine(state.model_state, frozen, self.static)
        score, found = validation.bind(static, validation.draw(landscape, int32(0)), landscape, None).evaluate(kept)
        better = score < state.best.score
        new = Best(kept, state.model_state, score, state.step, score)
        old = eqx.tree_at(lambda b: b.last, state.best, score)
        after = eqx.tree_at(lambda s: s.best, state, _where(better, new, old))
        figures = {"total": score} | found.parts
        return (_where(state.held, state, after) if self.hold else after), figures

    def measuring(self, instrument: AbstractInstrument) -> Callable[..., tuple[State, dict]]:
        """The program that looks through an instrument, at the batch of the last step."""

        def measure(state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
            problem = self.problem(state, frozen, streamed, shared, state.batch)
            key = jax.random.fold_in(named_key(state.key, "instrument"), state.step)
            return state, instrument.measure(problem, state.params, key)

        return measure

    def settle(self, state: State, frozen: PyTree, streamed: Batch, shared: PyTree, count: Any) -> tuple[State, dict]:
        """After a look: an empty tally, and a member held whose optimizer has ended or whose cost is not finite."""
        tally = eqx.tree_at(
            lambda t: (t.count, t.sum, t.accepted), state.tally, (int32(0), jnp.zeros_like(state.tally.sum), int32(0))
        )
        held = state.held | (tally.bad_step != NEVER)
        if not self.moves:
            held = held | (tally.ended != int(Ended.GOING))
        return eqx.tree_at(lambda s: (s.tally, s.held), state, (tally, held)), {}


def _is_truth(array: jax.Array) -> bool:
    return array.shape == () and array.dtype == jnp.bool_


def _where(condition: Any, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(condition, a, b), yes, no)

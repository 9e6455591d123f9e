"""The loop: stretches of compiled steps, and between them what is rare (looks, checks, refreshes, checkpoints).

It knows no optimizer, no term and no condition by name.
"""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.objective import Objective, ObjectiveState
from thalweg.optim import Ended
from thalweg.train.interrupts import Interrupts
from thalweg.train.journal import Journal
from thalweg.train.members import AbstractMembers, Mode
from thalweg.train.phases import Prepared
from thalweg.train.walk import NEVER, State
from thalweg.types import PyTree

STRETCH_SECONDS = 0.25
"""Aim for one compiled stretch: short enough for a bar that moves and a signal that is heard."""


@dataclass
class Position:
    """Where the walk stands, on the host.

    Attributes:
        phase: index.
        step: steps of the phase done by the members that still go.
        batch: by member, number of the batch used last.
        going: members whose phase is not over.
    """

    phase: int
    step: int
    batch: np.ndarray
    going: list[int]


class Streams:
    """Batches of the terms that live on the host, fetched one step ahead in a thread.

    Args:
        objective: whose sources stream.
        members: whose states hold the orders.
    """

    def __init__(self, objective: Objective, members: AbstractMembers):
        self.objective = objective
        self.pool = ThreadPoolExecutor(1) if objective.host_terms else None
        self.wide = jax.dtypes.canonicalize_dtype(np.float64) == np.float64  # a new thread would not know
        self.follow(members)

    def follow(self, members: AbstractMembers) -> None:
        """Stream by the members' present orders, held on the host so that the thread never waits for the device."""
        self.ahead: dict[tuple[int, ...], Future[list[PyTree]]] = {}
        self.states: list[ObjectiveState] = []
        names = self.objective.host_terms
        for state, _ in members.unstack() if names else ():
            sources = {name: state.objective.sources[name] for name in names}
            self.states.append(ObjectiveState(jax.tree.map(_on_host, sources), {}, {}))

    def at(self, batches: np.ndarray, *, then: np.ndarray | None = None) -> list[PyTree]:
        """The batch of each member; and begin to fetch `then`."""
        if self.pool is None:
            return [{}] * len(batches)
        wanted = tuple(int(b) for b in batches)
        future = self.ahead.pop(wanted, None)
        found = self._fetch(wanted) if future is None else future.result()
        if then is not None:
            key = tuple(int(b) for b in then)
            self.ahead = {key: self.ahead.get(key) or self.pool.submit(self._fetch, key)}
        return found

    def _fetch(self, batches: tuple[int, ...]) -> list[PyTree]:
        with jax.enable_x64(self.wide):
            pairs = zip(self.states, batches, strict=True)
            return [self.objective.stream(state, max(batch, 0)) for state, batch in pairs]

    def close(self) -> None:
        """End the thread."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


class PhaseRun:
    """One phase under way: its programs compiled for the members, and the events between stretches.

    Args:
        prepared: walk, members, mode, cadence and shared arrays of the phase.
        streams: batches from the host.
        journal: where rows go, and who listens.
        interrupts: signals that arrived.
    """

    def __init__(self, prepared: Prepared, streams: Streams, journal: Journal, interrupts: Interrupts):
        self.walk, self.members, self.mode = prepared.walk, prepared.members, prepared.mode
        self.cadence, self.shared = prepared.cadence, prepared.shared
        self.streams, self.journal, self.interrupts = streams, journal, interrupts
        walk, cadence, compile_ = self.walk, self.cadence, self.members.compile
        self.stretch = compile_(walk.advance if self.mode is Mode.LOOP else walk.step)
        programs = (
            ("renew", walk.renew, cadence.renew or cadence.refresh),
            ("refresh", walk.refresh, cadence.refresh),
            ("check", walk.check, cadence.check),
            ("validate", walk.validate, cadence.validate),
            ("settle", walk.settle, cadence.log),
        )
        self.rare = {name: compile_(program) for name, program, every in programs if every}
        self.rare |= {name: compile_(walk.measuring(one)) for name, one in prepared.instruments.items()}
        # a penalty is meant to be small
        terms = prepared.objective.terms
        self.compared = [name for name, term in terms.items() if not term.provides("batch_loss")]
        self.validation: dict[str, Any] = {}
        self.first_seconds = 0.0

    def run(self, position: Position) -> Iterator[Position]:
        """Walk from `position` to the end of the phase, handing back the position wherever a checkpoint may be made."""
        steps, length = self.walk.phase.steps, 1
        while position.going and position.step < steps:
            count = min(self.cadence.to_next(position.step, steps), length)
            began = time.monotonic()
            self._renew(position)
            self._advance(position, count)
            self.members.read(lambda state: state.step)  # waits
            seconds = time.monotonic() - began
            self.first_seconds = self.first_seconds or seconds
            if position.phase == 0 and position.step == 1:  # the first stretch is one step long
                self._tell_sizes(position)
            # a stretch may grow fourfold, so that one slow compile says nothing about the next
            length = int(np.clip(count * STRETCH_SECONDS / max(seconds, 1e-9), 1, 4 * length))
            row = self._events(position, steps)
            for callback in self.journal.callbacks:
                callback.progress(position.phase, position.step, row)
            yield position
            if self.interrupts.arrived:
                return

    def _renew(self, position: Position) -> None:
        """A new batch if one is due: before the stretch that uses it, so that a resumed phase does the same."""
        every = self.cadence.renew
        if every and position.step and position.step % every == 0:
            self._rare("renew", position, 1)
            position.batch[position.going] += 1

    def _advance(self, position: Position, count: int) -> None:
        fresh = int(self.walk.phase.redraw == 1)
        if self.mode is Mode.LOOP:
            self.stretch(position.going, self.streams.at(position.batch), self.shared, np.int32(count))
            position.batch[position.going] += fresh * count
        else:
            for _ in range(count):
                position.batch[position.going] += fresh
                streamed = self.streams.at(position.batch, then=position.batch + fresh)
                self.stretch(position.going, streamed, self.shared, None)
        position.step += count

    def _events(self, position: Position, steps: int) -> dict[str, Any] | None:
        """Whatever is due at this step; the row, if one was logged."""
        cadence, step, over = self.cadence, position.step, position.step >= steps
        due = lambda every: every > 0 and step % every == 0
        found: dict[str, Any] = {}
        if due(cadence.validate) or (cadence.validate and over):
            self.validation = self._rare("validate", position)
        if due(cadence.check):
            figures = self._rare("check", position)
            self._decide(position, figures["met"], f"{type(self.walk.phase.until).__name__} met", figures)
        if due(cadence.refresh):
            found = self._rare("refresh", position)
            self._rare("renew", position, 0)
            self.streams.follow(self.members)
        over = over or (bool(cadence.measure) and self._all_end(position))
        measured = {name: self._rare(name, position) for name, every in cadence.measure.items() if due(every) or over}
        looks = (cadence.log, cadence.check, cadence.refresh, cadence.validate)
        if not (any(map(due, looks)) or over):
            return None
        row = self._log(position, found, measured)
        self._settle(position)
        return row

    def _all_end(self, position: Position) -> bool:
        """Whether no member will go on after this look."""
        read = lambda s: {"held": s.held, "ended": s.tally.ended, "bad_step": s.tally.bad_step}
        seen = self.members.read(read)
        ends = seen["held"] | (seen["bad_step"] != NEVER)
        if not self.walk.moves:
            ends = ends | (seen["ended"] != int(Ended.GOING))
        return bool(ends[position.going].all())

    def _settle(self, position: Position) -> None:
        """Hold the members for whom the phase is over, and say why."""
        self._rare("settle", position)
        read = lambda s: {"held": s.held, "ended": s.tally.ended, "bad_step": s.tally.bad_step, "total": s.tally.total}
        seen = self.members.read(read)
        bad = seen["bad_step"] != NEVER
        figures = {"total": seen["total"], "ended": seen["ended"]}
        self._decide(position, bad, "cost not finite", figures)
        name = type(self.walk.phase.optimizer).__name__
        for reason in (Ended.CONVERGED, Ended.FAILED):
            over = seen["held"] & ~bad & (seen["ended"] == int(reason))
            self._decide(position, over, f"{name} {reason.name.lower()}", figures)
        position.going = [i for i in position.going if not seen["held"][i]]

    def _rare(self, name: str, position: Position, count: int | None = None) -> dict[str, np.ndarray]:
        number = None if count is None else np.int32(count)
        after = position.batch + (count or 0)
        return self.rare[name](position.going, self.streams.at(after), self.shared, number)

    def _log(self, position: Position, found: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any] | None:
        def read(state: State) -> dict[str, Any]:
            tally = state.tally
            return {
                "run_step": state.step,
                "count": tally.count,
                "sum": tally.sum,
                "total": tally.total,
                "parts": tally.parts,
                "figures": tally.figures,
                "accepted": tally.accepted,
                "bad_step": tally.bad_step,
            }

        seen = self.members.read(read)
        count = np.maximum(seen["count"], 1)
        fine = (seen["bad_step"] == NEVER) & (seen["count"] > 0)  # a member that is held has made no steps
        figures = {
            "run_step": seen["run_step"],
            "total": np.where(fine, seen["sum"] / count, seen["total"]),
            "last": seen["total"],
            "parts": seen["parts"],
            "figures": seen["figures"],
            "accepted": seen["accepted"] / count,
        }
        if self.validation:
            figures["validation"], self.validation = self.validation, {}
        if found:
            figures["refresh"] = found
        if measured:
            figures["instruments"] = measured
        self.journal.row(position.phase, position.step, figures)
        return self.journal.rows[-1]

    def _tell_sizes(self, position: Position) -> None:
        """Log what each term costs and weighs at the first step, and say it: scales that do not fit are seen at once.

        A first-order optimizer's first step is taken where the walk begins; others may have moved in it.
        """
        if len(self.compared) < 2:
            return
        seen = self.members.read(lambda state: {"parts": state.tally.parts, "weights": state.objective.weights})
        parts = {name: seen["parts"][name] for name in self.compared}
        weighs = {name: np.abs(cost) * seen["weights"][name] for name, cost in parts.items()}
        rms = {name: np.sqrt(np.abs(cost)) for name, cost in parts.items()}
        self.journal.decision(position.phase, position.step, sizes_told(weighs), {"rms": rms, "weighs": weighs})

    def _decide(self, position: Position, over: np.ndarray, why: str, figures: Mapping[str, np.ndarray]) -> None:
        """Log that the phase is over for some of the members, with the figures of all."""
        members = [i for i in position.going if over[i]]
        if members:
            who = "" if self.journal.single else f" for member {', '.join(map(str, members))}"
            what = f"{why}{who}: phase {position.phase + 1} ends"
            steps = {"run_step": self.members.read(lambda state: state.step)}
            self.journal.decision(position.phase, position.step, what, steps | dict(figures))


FAR_APART = 1e6
"""Between what two terms weigh, from which nobody can expect one optimizer to see both."""


def sizes_told(weighs: Mapping[str, np.ndarray]) -> str:
    """What terms weigh in the objective, medians over members, and a warning where it is far apart.

    >>> sizes_told({"edge": np.array([2e-4]), "law": np.array([3e5])})
    'weight × cost at the start: edge 0.0002, law 3e+05; badly scaled: law weighs 1.5e+09 times edge'
    """
    middle = {name: float(np.median(values)) for name, values in weighs.items()}
    told = "weight × cost at the start: " + ", ".join(f"{name} {value:.3g}" for name, value in middle.items())
    seen = {name: value for name, value in middle.items() if value > 0 and np.isfinite(value)}
    if seen:
        large, small = max(seen, key=lambda name: seen[name]), min(seen, key=lambda name: seen[name])
        if seen[large] > FAR_APART * seen[small]:
            told += f"; badly scaled: {large} weighs {seen[large] / seen[small]:.2g} times {small}"
    return told


def _on_host(leaf: jax.Array) -> Any:
    """A copy, since every step is handed its state to write over; random keys cannot leave the device."""
    return jnp.copy(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.array(leaf)

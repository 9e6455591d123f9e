"""The course of a program: phase after phase from the latest checkpoint, and the verdict at its end."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from thalweg.errors import UserError
from thalweg.objective import Objective
from thalweg.train.interrupts import Interrupts
from thalweg.train.journal import Journal
from thalweg.train.loop import PhaseRun, Position, Streams
from thalweg.train.phases import Choices, Prepared, Traveller, cast, phase_dtype, prepare
from thalweg.train.program import Phase
from thalweg.train.verdict import Status, Trace, Verdict, judge
from thalweg.train.walk import NEVER
from thalweg.types import PyTree

SNAPSHOT_SECONDS = 1.0
"""Least time between two copies of the params kept in case the cost stops being finite."""


def walk_program(
    models: Sequence[PyTree],
    seeds: Sequence[int],
    objective: Objective,
    phases: Sequence[Phase],
    choices: Choices,
    journal: Journal,
    interrupts: Interrupts,
) -> tuple[list[PyTree], list[Verdict]]:
    """Every phase in turn; begins at the journal's latest checkpoint if it has one.

    Returns:
        the models to keep, and the verdicts, by member.
    """
    travellers = [Traveller(model, seed, best=model) for model, seed in zip(models, seeds, strict=True)]
    place = journal.place()
    if place is not None:
        _refuse_other_program(place, phases, len(models))
    course = Course(phases, objective, choices, journal, interrupts, Snapshot(travellers))
    end = PhaseEnd(travellers, {}, place is not None)
    for index in range(0 if place is None else place["phase"], len(phases)):
        end = course.phase(index, end.travellers, place)
        place = None
        if interrupts.arrived or any(np.asarray(end.tally["bad_step"]) != NEVER):
            break
    kept = [course.kept(i, end) for i in range(len(models))]
    return kept, [course.verdict(i, kept[i], end) for i in range(len(models))]


@dataclass(frozen=True)
class PhaseEnd:
    """How a phase ended: the members, and what their last steps left (arrays by member)."""

    travellers: list[Traveller]
    tally: dict[str, Any]
    held: Any


@dataclass(frozen=True)
class Course:
    """What stays the same from phase to phase."""

    phases: Sequence[Phase]
    objective: Objective
    choices: Choices
    journal: Journal
    interrupts: Interrupts
    safe: "Snapshot"

    def phase(self, index: int, travellers: list[Traveller], place: dict[str, Any] | None) -> PhaseEnd:
        """Walk one phase, from `place` in it if that is given."""
        choices = self.choices
        if place is not None:  # the rule for the cadence looks at the number of steps, which may have grown
            choices = replace(choices, log_every=place["log_every"], validate_every=place["validate_every"])
        prepared = prepare(travellers, self.objective, self.phases[index], choices)
        streams = _streams(prepared)
        try:
            if place is None:
                position = _begin(prepared, streams, index)
                self.checkpoint(prepared, travellers, position)
            else:
                travellers, position = self.resume(prepared, travellers, streams, place)
                streams.close()  # the order keys are the checkpoint's now
                streams = _streams(prepared)
            runner = PhaseRun(prepared, streams, self.journal, self.interrupts)
            for _ in runner.run(position):
                self.safe.take(prepared, travellers, index)
                if self.journal.due():
                    self.checkpoint(prepared, travellers, position)
        finally:
            streams.close()
        conduct = {"phase": index} | prepared.conduct | {"first_stretch_seconds": round(runner.first_seconds, 3)}
        self.journal.conduct.append(conduct)
        self.checkpoint(prepared, travellers, position, permanent=not self.interrupts.arrived)
        read = prepared.members.read
        tally = read(lambda s: {"ended": s.tally.ended, "bad_step": s.tally.bad_step, "parts": s.tally.parts})
        return PhaseEnd(prepared.travellers(travellers, index), tally, read(lambda state: state.held))

    def resume(
        self, prepared: Prepared, travellers: list[Traveller], streams: Streams, place: dict[str, Any]
    ) -> tuple[list[Traveller], Position]:
        """The members as the latest checkpoint holds them."""
        best = []
        for traveller, phase in zip(travellers, place["best_phase"], strict=True):
            dtype = None if phase < 0 else phase_dtype(traveller.model, self.phases[phase], self.choices.precision)
            best.append(traveller.best if dtype is None else cast(traveller.best, dtype))
        like = {"members": prepared.like(streams.at(np.zeros(len(travellers), int))), "best": best}
        tree = self.journal.restore(like)
        members = prepared.members
        members.restore(tree["members"])
        scores = zip(
            travellers, tree["best"], place["best_score"], place["best_step"], place["best_phase"], strict=True
        )
        restored = [
            replace(traveller, best=model, best_score=float(score), best_step=step, best_phase=phase)
            for traveller, model, score, step, phase in scores
        ]
        held, batch = members.read(lambda state: (state.held, state.batch))
        going = [i for i, over in enumerate(held) if not over]
        return restored, Position(place["phase"], place["step"], np.array(batch), going)

    def checkpoint(
        self, prepared: Prepared, travellers: Sequence[Traveller], position: Position, *, permanent: bool = False
    ) -> None:
        """Save the members, the best models, and where the walk stands."""
        place = {
            "phase": position.phase,
            "step": position.step,
            "steps": [phase.steps for phase in self.phases],
            "members": len(travellers),
            "log_every": prepared.cadence.log,
            "validate_every": prepared.cadence.validate or None,
            "best_score": [str(t.best_score) for t in travellers],  # JSON has no infinity
            "best_step": [t.best_step for t in travellers],
            "best_phase": [t.best_phase for t in travellers],
        }
        tree = {"members": prepared.members.tree(), "best": [t.best for t in travellers]}
        done = sum(phase.steps for phase in self.phases[: position.phase]) + position.step
        self.journal.checkpoint(done, tree, place, permanent=permanent)

    def kept(self, i: int, end: PhaseEnd) -> PyTree:
        """The model to return: the best by validation, else the last, else the last whose cost was finite."""
        traveller = end.travellers[i]
        if traveller.best_phase >= 0:
            return traveller.best
        return traveller.model if int(end.tally["bad_step"][i]) == NEVER else self.safe.models[i]

    def verdict(self, i: int, model: PyTree, end: PhaseEnd) -> Verdict:
        """How member i's walk ended."""
        if self.interrupts.arrived is not None:
            saved = self.journal.store is not None
            remedy = "Resume the run; nothing is lost." if saved else "Give the fit a run folder to be able to resume."
            evidence = f"{self.interrupts.arrived.name} arrived at step {end.travellers[i].step}"
            return Verdict(Status.INTERRUPTED, evidence, remedy)
        rows, pick = self.journal.rows, lambda value: value if self.journal.single else value[i]
        last_phase = rows[-1]["phase"]
        last = [row for row in rows if row["phase"] == last_phase]
        weights = {name: float(term.weight) for name, term in self.objective.terms.items()}
        trace = Trace(
            steps=[row["step"] for row in last],
            totals=[pick(row["total"]) for row in last],
            validation=[pick(row["validation"]["total"]) if "validation" in row else np.nan for row in rows],
            first_total=pick(rows[0]["total"]),
            parts={name: pick(value) * weights[name] for name, value in rows[0]["parts"].items()},
            ended=int(end.tally["ended"][i]),
            bad_step=int(end.tally["bad_step"][i]),
            bad_parts={name: float(value[i]) for name, value in end.tally["parts"].items()},
            condition_met=bool(end.held[i]) and self.phases[last_phase].until is not None,
            spread=self.objective.spread(model),
        )
        return judge(trace)


class Snapshot:
    """Whole models as they last stood with a finite cost.

    Args:
        travellers: the members before the first step.
    """

    def __init__(self, travellers: Sequence[Traveller]):
        self.models = [traveller.model for traveller in travellers]
        self.taken = time.monotonic()

    def take(self, prepared: Prepared, travellers: Sequence[Traveller], phase: int) -> None:
        """Copy the members whose cost is finite, if the last copy is old enough."""
        if time.monotonic() - self.taken < SNAPSHOT_SECONDS:
            return
        bad = prepared.members.read(lambda state: state.tally.bad_step) != NEVER
        for i, traveller in enumerate(prepared.travellers(travellers, phase)):
            if not bad[i]:
                self.models[i] = jax.tree.map(
                    lambda leaf: leaf.copy() if isinstance(leaf, jax.Array) else leaf, traveller.model
                )
        self.taken = time.monotonic()


def _begin(prepared: Prepared, streams: Streams, index: int) -> Position:
    members, everyone = prepared.members, list(range(prepared.conduct["members"]))
    batch = np.array(members.read(lambda state: state.batch))
    members.compile(prepared.walk.start)(everyone, streams.at(batch + 1), prepared.shared, None)
    return Position(index, 0, np.array(members.read(lambda state: state.batch)), everyone)


def _streams(prepared: Prepared) -> Streams:
    return Streams(prepared.objective, [state.objective for state, _ in prepared.members.unstack()])


def _refuse_other_program(place: dict[str, Any], phases: Sequence[Phase], members: int) -> None:
    before, now = place["steps"], [phase.steps for phase in phases]
    same = len(before) == len(now) and before[:-1] == now[:-1] and now[-1] >= before[-1]
    if not same or place["members"] != members:
        raise UserError(
            f"the checkpoint is of a program of {before} steps for {place['members']} members, "
            f"not of {now} for {members}",
            remedy="Resume with the program it was begun with; only the last phase may be made longer.",
        )

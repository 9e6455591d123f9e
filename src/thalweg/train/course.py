"""The course of a program: phase after phase from the latest checkpoint, and the verdict at its end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import equinox as eqx
import numpy as np

from thalweg.errors import UserError
from thalweg.objective import AbstractTerm, Objective, certify, disagreeing, unidentifiable
from thalweg.train.blame import bad_example
from thalweg.train.description import described, program_described
from thalweg.train.interrupts import Interrupts
from thalweg.train.journal import Journal
from thalweg.train.loop import PhaseRun, Position, Streams
from thalweg.train.phases import Choices, Prepared, Traveller, cast, phase_dtype, prepare
from thalweg.train.program import Phase
from thalweg.train.rows import left_undone, violations, weighed
from thalweg.train.verdict import Status, Trace, Verdict, judge
from thalweg.train.walk import NEVER
from thalweg.tree import tree_hash
from thalweg.types import PyTree


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
    origin = {} if journal.store is None else _origin(models, seeds, objective, choices)
    place = journal.place()
    if place is None:
        journal.begin()
    else:
        _refuse_other(place, origin, phases)
    course = Course(phases, objective, choices, journal, interrupts, origin, Snapshot(models))
    index = 0 if place is None else place["phase"]
    end = course.phase(index, travellers, place)
    while index + 1 < len(phases) and not interrupts.arrived and end.alive:
        index += 1
        end = course.phase(index, end.travellers, None)
    kept = [course.kept(i, end) for i in range(len(models))]
    return kept, [course.verdict(i, kept[i], end) for i in range(len(models))]


@dataclass(frozen=True)
class PhaseEnd:
    """How a phase ended: the members, and what their last steps left (arrays by member)."""

    travellers: list[Traveller]
    ended: np.ndarray
    held: np.ndarray
    alive: bool


@dataclass(frozen=True)
class Course:
    """What stays the same from phase to phase.

    Attributes:
        origin: what the fit began with, see `_origin`.
        safe: models from before a cost stopped being finite.
        deaths: member -> the step of the run at which its cost was first not finite, and its parts there.
    """

    phases: Sequence[Phase]
    objective: Objective
    choices: Choices
    journal: Journal
    interrupts: Interrupts
    origin: dict[str, Any]
    safe: "Snapshot"
    deaths: dict[int, dict[str, Any]] = field(default_factory=dict)

    def phase(self, index: int, travellers: list[Traveller], place: dict[str, Any] | None) -> PhaseEnd:
        """Walk one phase, from `place` in it if that is given."""
        choices = self.choices
        if place is not None:
            # the rule for the cadence looks at the number of steps, which may have grown
            choices = replace(choices, log_every=place["log_every"], validate_every=place["validate_every"])
            travellers = [replace(one, model=self.cast(one.model, index - 1)) for one in travellers]
        prepared = prepare(travellers, self.objective, self.phases[index], choices)
        streams, copy = _streams(prepared), _copier(prepared)
        try:
            if place is None:
                position = _begin(prepared, streams, index)
                self.snapshot(prepared, copy, position)
                self.checkpoint(prepared, travellers, position)
            else:
                travellers, position = self.resume(prepared, travellers, streams, place)
                streams.follow(prepared.members)
                self.snapshot(prepared, copy, position)
            runner = PhaseRun(prepared, streams, self.journal, self.interrupts)
            for _ in runner.run(position):
                self.safe.confirm(prepared.members.read(lambda state: state.tally.bad_step))
                self.snapshot(prepared, copy, position)
                if self.journal.due():
                    self.checkpoint(prepared, travellers, position)
        finally:
            streams.close()
        what = {"phase": index, "optimizer": described(self.phases[index].optimizer), "steps": self.phases[index].steps}
        conduct = what | prepared.conduct | {"first_stretch_seconds": round(runner.first_seconds, 3)}
        self.journal.conduct.append(conduct)
        self.checkpoint(prepared, travellers, position, permanent=not self.interrupts.arrived)
        alive = self.count_deaths(prepared)
        if not alive:
            beyond = prepared.members.read(lambda state: state.step - state.tally.bad_step).min()
            self.journal.forget(self.done(position) - int(beyond))
        ended, held = prepared.members.read(lambda state: (state.tally.ended, state.held))
        return PhaseEnd(prepared.travellers(travellers, index), ended, held, alive)

    def cast(self, model: PyTree, phase: int) -> PyTree:
        """A model in the dtype that it has after a phase; −1: before the first."""
        for one in self.phases[: phase + 1]:
            model = cast(model, phase_dtype(model, one, self.choices.precision))
        return model

    def resume(
        self, prepared: Prepared, travellers: list[Traveller], streams: Streams, place: dict[str, Any]
    ) -> tuple[list[Traveller], Position]:
        """The members as the latest checkpoint holds them."""
        _refuse_difference("it was made with", place["conduct"], _conduct(prepared))
        spare = [self.cast(one.best, phase) for one, phase in zip(travellers, place["spare_phase"], strict=True)]
        like = {"members": prepared.like(streams.at(np.zeros(len(travellers), int))), "spare": spare}
        tree = self.journal.restore(like)
        members = prepared.members
        members.restore(tree["members"])
        _note_changes(place, self.phases, self.journal)
        self.deaths.update({int(i): death for i, death in place["deaths"].items()})
        if prepared.cadence.validate:
            scores = zip(
                travellers, tree["spare"], place["best_score"], place["best_step"], place["spare_phase"], strict=True
            )
            travellers = [
                replace(traveller, best=model, best_score=float(score), best_step=step, best_phase=phase)
                for traveller, model, score, step, phase in scores
            ]
        else:
            self.safe.restore(tree["spare"], place["spare_phase"])
        held, batch = members.read(lambda state: (state.held, state.batch))
        going = [i for i, over in enumerate(held) if not over]
        return travellers, Position(place["phase"], place["step"], np.array(batch), going)

    def checkpoint(
        self, prepared: Prepared, travellers: Sequence[Traveller], position: Position, *, permanent: bool = False
    ) -> None:
        """Save the members, what to fall back on, and where the walk stands; unless no member's cost is finite.

        A run all of whose members have diverged so keeps its last good checkpoint as the latest: resumed as it was, it
        diverges again; resumed with a lower rate, it goes on from there.
        """
        if self.journal.store is None or not self.count_deaths(prepared, remember=False):
            return
        if prepared.cadence.validate:
            spare, spare_phase = [t.best for t in travellers], [t.best_phase for t in travellers]
        else:
            spare, spare_phase = self.safe.models(), self.safe.phases
        place = {
            "phase": position.phase,
            "step": position.step,
            "steps": [phase.steps for phase in self.phases],
            "program": program_described(list(self.phases)),
            "origin": self.origin,
            "conduct": _conduct(prepared),
            "log_every": prepared.cadence.log,
            "validate_every": prepared.cadence.validate or None,
            "spare_phase": spare_phase,
            "best_score": [t.best_score for t in travellers],
            "best_step": [t.best_step for t in travellers],
            "deaths": {str(i): death for i, death in self.deaths.items()},
        }
        tree = {"members": prepared.members.tree(), "spare": spare}
        self.journal.checkpoint(self.done(position), tree, place, permanent=permanent)

    def done(self, position: Position) -> int:
        """The step that a checkpoint is named by: phases ended early count in full."""
        return sum(phase.steps for phase in self.phases[: position.phase]) + position.step

    def snapshot(self, prepared: Prepared, copy: Callable[[], "Copies"], position: Position) -> None:
        """Copy the members at every step that logs a row, so that a resumed walk has the same copies.

        With validation there is no need: the best model is kept.
        """
        if not prepared.cadence.validate and position.step % prepared.cadence.log == 0:
            steps = prepared.members.read(lambda state: state.step)
            self.safe.consider(copy(), steps, position.phase)

    def count_deaths(self, prepared: Prepared, *, remember: bool = True) -> bool:
        """Whether any member's cost is still finite; and remember which ones' is not, beyond the phase."""
        tally = prepared.members.read(lambda state: {"bad_step": state.tally.bad_step, "parts": state.tally.parts})
        dead = [i for i, step in enumerate(tally["bad_step"]) if step != NEVER]
        for i in dead if remember else []:
            parts = {name: float(value[i]) for name, value in tally["parts"].items()}
            self.deaths.setdefault(i, {"step": int(tally["bad_step"][i]), "parts": parts})
        return len({*dead, *self.deaths}) < len(tally["bad_step"])

    def kept(self, i: int, end: PhaseEnd) -> PyTree:
        """The model to return: the best by validation, else the last, else the last whose cost was finite."""
        traveller = end.travellers[i]
        if traveller.best_phase >= 0:
            return traveller.best
        return self.safe.models()[i] if i in self.deaths else traveller.model

    def verdict(self, i: int, model: PyTree, end: PhaseEnd) -> Verdict:
        """How member i's walk ended."""
        self.journal.certificates.append(None)
        if self.interrupts.arrived is not None:
            saved = self.journal.store is not None
            remedy = "Resume the run; nothing is lost." if saved else "Give the fit a run folder to be able to resume."
            evidence = f"{self.interrupts.arrived.name} arrived at step {end.travellers[i].step}"
            return Verdict(Status.INTERRUPTED, evidence, remedy)
        pick = lambda value: value if self.journal.single else value[i]
        rows = self.journal.rows
        # a member whose walk is over is still in the rows of the others
        moved = [rows[0], *(b for a, b in pairwise(rows) if pick(b["run_step"]) > pick(a["run_step"]))]
        last_phase = moved[-1]["phase"]
        left = left_undone(moved, [phase.optimizer for phase in self.phases], pick)
        # what came before the last phase under which the landscape itself moved was measured on another one
        alien = [k for k in range(last_phase) if not self.phases[k].optimizer.descends]
        moved = [row for row in moved if not alien or row["phase"] > alien[-1]]
        weights = {name: float(term.weight) for name, term in self.objective.terms.items()}
        death, end_state, where = self.deaths.get(i), end.travellers[i].objective, self.phases[last_phase].where
        if end_state is not None and death is None:
            certificate = certify(model, self.objective, end_state, end.travellers[i].batch, where)
            self.journal.certificates[-1] = certificate
        trace = Trace(
            steps=[pick(row["run_step"]) for row in moved],
            totals=[pick(row["total"]) for row in moved],
            begin=next(k for k, row in enumerate(moved) if row["phase"] == last_phase),
            validation=[pick(row["validation"]["total"]) if "validation" in row else np.nan for row in moved],
            parts=weighed(moved, weights, pick),
            ended=int(end.ended[i]),
            bad_step=NEVER if death is None else death["step"],
            bad_parts={} if death is None else death["parts"],
            condition_met=bool(end.held[i]) and self.phases[last_phase].until is not None,
            spread=self.objective.spread(model),
            descends=self.phases[last_phase].optimizer.descends,
            validated=any("validation" in row for row in moved),
            violations=violations(moved, pick),
            bad_example="" if death is None else self.blamed(model, end.travellers[i], death),
            unfinished=left.get(last_phase),
            certificate=self.journal.certificates[-1],
        )
        verdict = judge(trace)
        verdict = replace(verdict, findings=(*verdict.findings, *left.values()))
        if end_state is None:
            return verdict
        said = self.objective.findings(model, end_state, end.travellers[i].batch)
        if i < FEW:
            said += unidentifiable(model, self.objective, where)
            if trace.descends and i not in self.deaths:
                said += disagreeing(model, self.objective, end_state, end.travellers[i].batch, where)
        return replace(verdict, findings=(*verdict.findings, *said))

    def blamed(self, model: PyTree, end: Traveller, death: dict[str, Any]) -> str:
        """Which example has no finite cost at the last sound model, on the batch in which the cost was not finite."""
        if end.objective is None:
            return ""
        each = all(phase.redraw == 1 for phase in self.phases)
        return bad_example(self.objective, end.objective, model, death["step"] if each else max(end.batch, 0))


FEW = 10
"""Members whose unknown numbers and contradictions are examined at the end: each takes a factorization or a gradient of
each example."""

Copies = Callable[[int], PyTree]
"""Member -> its whole model, copied earlier."""


class Snapshot:
    """By member, the last model from which a step found a finite cost.

    Args:
        models: the members before the first step.
    """

    def __init__(self, models: Sequence[PyTree]):
        self.restore(models, [NEVER] * len(models))

    def restore(self, models: Sequence[PyTree], phases: Sequence[int]) -> None:
        """Begin with these, which are of those phases."""
        self.sources: list[Copies] = [list(models).__getitem__] * len(models)
        self.phases = list(phases)
        self.candidates: Copies | None = None
        self.steps, self.phase = np.zeros(len(models), int), NEVER

    def consider(self, candidates: Copies, steps: np.ndarray, phase: int) -> None:
        """Models whose own cost the next step will tell; `steps` of the run they have done."""
        self.candidates, self.steps, self.phase = candidates, steps, phase

    def confirm(self, bad_steps: np.ndarray) -> None:
        """Keep the candidates whose cost the step after them found finite."""
        if self.candidates is not None:
            for i in np.flatnonzero((bad_steps == NEVER) | (bad_steps > self.steps)):
                self.sources[i], self.phases[i] = self.candidates, self.phase
        self.candidates = None

    def models(self) -> list[PyTree]:
        """The models that are kept."""
        return [source(i) for i, source in enumerate(self.sources)]


def _copier(prepared: Prepared) -> Callable[[], Copies]:
    """Copies the members, which the next step would write over, and makes whole models of them when they are wanted."""
    members, evaluate = prepared.members, prepared.walk.phase.optimizer.eval_params
    take = members.copier(lambda state: (evaluate(state.params, state.optimizer), state.model_state))

    def copy() -> Copies:
        moving = take()
        return lambda i: eqx.combine(*moving(i), members.unstack()[i][1], prepared.static)

    return copy


def _begin(prepared: Prepared, streams: Streams, index: int) -> Position:
    members, everyone = prepared.members, list(range(prepared.conduct["members"]))
    batch = np.array(members.read(lambda state: state.batch))
    members.compile(prepared.walk.start)(everyone, streams.at(batch + 1), prepared.shared, None)
    return Position(index, 0, np.array(members.read(lambda state: state.batch)), everyone)


def _streams(prepared: Prepared) -> Streams:
    return Streams(prepared.objective, prepared.members)


def _origin(models: Sequence[PyTree], seeds: Sequence[int], objective: Objective, choices: Choices) -> dict[str, Any]:
    """What a fit begins with, as far as it can be compared: functions, such as a loss or a schedule, cannot."""
    # rows on the host may be larger than memory: their number and the first thousand stand for them
    hosts = {name: objective.terms[name].source.few(1_000) for name in objective.host_terms}
    data = tree_hash((objective, choices.validation, hosts))
    terms = {name: _described(term) for name, term in objective.terms.items()}
    return {
        "members": len(models),
        "models": tree_hash(list(models)),
        "seeds": list(seeds),
        "terms": terms | {"refresh_every": objective.refresh_every} | _rule(objective),
        "data": data,
    }


def _rule(objective: Objective) -> dict[str, str]:
    return {} if objective.balance is None else {"balance": described(objective.balance)}


def _described(term: AbstractTerm) -> str:
    source = term.source
    batch = getattr(source, "batch_size", None) or source.population
    kinds = f"{type(term).__name__} of {type(source).__name__}"
    return f"{kinds}, {batch} of {source.population} at a time, weight {float(term.weight):g}"


def _conduct(prepared: Prepared) -> dict[str, Any]:
    """The choices, some of them automatic, that the bits depend on."""
    names = ("mode", "layout", "precision", "devices", "backend")
    return {name: prepared.conduct[name] for name in names} | {"validation": bool(prepared.cadence.validate)}


def _refuse_other(place: dict[str, Any], origin: dict[str, Any], phases: Sequence[Phase]) -> None:
    _refuse_difference("its fit began with other", place["origin"], origin)
    before, now = place["steps"], [phase.steps for phase in phases]
    if len(before) != len(now) or before[:-1] != now[:-1] or now[-1] < before[-1]:
        raise UserError(
            f"the checkpoint is of a program of {before} steps, not of {now}",
            remedy="Resume with the program it was begun with; only the last phase may be made longer.",
        )


def _note_changes(place: dict[str, Any], phases: Sequence[Phase], journal: Journal) -> None:
    """Log what differs from the program of the checkpoint: a lower rate is allowed, and may be why it goes on."""
    changes = zip(place["program"], program_described(list(phases)), strict=True)
    for index, (before, now) in enumerate(changes):
        if before != now:
            what = f"resumed with another phase {index + 1}: {now}; it was {before}"
            journal.decision(place["phase"], place["step"], what, {})


def _refuse_difference(how: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if before[name] != value:
            known = "" if name in ("models", "data") else f": {before[name]}, now {value}"
            raise UserError(
                f"the checkpoint is of another fit: {how} {name}{known}",
                remedy="Resume as it was begun; give another fit of the same run a name of its own (name=…).",
            )

"""From phase to phase: cast, cut the models, lay out the members, choose the mode; and back to whole models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.objective import Objective, ObjectiveState, Parts, cast, named_key, split
from thalweg.physics import Unknown, unknowns_of
from thalweg.train.instruments import AbstractInstrument, looks_every
from thalweg.train.members import (
    AbstractMembers,
    Layout,
    Mode,
    arrange,
    array_leaves,
    automatic_mode,
    batch_sharding,
)
from thalweg.train.program import Phase, floating_dtype
from thalweg.train.traced import has_convolution, used_inputs
from thalweg.train.walk import NEVER, Best, State, Tally, Walk, int32
from thalweg.types import PyTree


@dataclass(frozen=True)
class Cadence:
    """Steps between events within a phase; 0: never.

    Attributes:
        log: rows in the record.
        check: the phase's condition.
        refresh: the objective's.
        renew: a new batch, where a batch is kept for several steps.
        validate: the validation score.
        measure: by instrument; multiples of `log`.
    """

    log: int
    check: int = 0
    refresh: int = 0
    renew: int = 0
    validate: int = 0
    measure: Mapping[str, int] = field(default_factory=dict)

    def to_next(self, step: int, steps: int) -> int:
        """Steps until the next event, or the end of the phase."""
        every = (self.log, self.check, self.refresh, self.renew, self.validate)
        return min(steps - step, *(e - step % e for e in every if e))


@dataclass(frozen=True)
class Choices:
    """What the caller of `fit` chose; None leaves it to a stated rule."""

    validation: Objective | None
    validate_every: int | None
    precision: Any
    mode: Mode | None
    layout: Layout
    devices: Sequence[Any] | None
    log_every: int | None
    instruments: Mapping[str, AbstractInstrument] = field(default_factory=dict)


@dataclass(frozen=True)
class Traveller:
    """One member between two phases.

    Attributes:
        model: the whole model.
        objective: the landscape's state; None before the first phase.
        seed: of all its randomness.
        step, batch: steps done, number of the batch used last.
        best: the best model by validation, its score, step, and phase (−1: none yet).
    """

    model: PyTree
    seed: int
    objective: ObjectiveState | None = None
    step: int = 0
    batch: int = -1
    best: PyTree = None
    best_score: float = float("inf")
    best_step: int = 0
    best_phase: int = -1


@dataclass
class Prepared:
    """A phase ready to walk."""

    walk: Walk
    members: AbstractMembers
    mode: Mode
    cadence: Cadence
    objective: Objective
    shared: PyTree
    static: PyTree
    conduct: dict[str, Any] = field(default_factory=dict)
    instruments: Mapping[str, AbstractInstrument] = field(default_factory=dict)

    def like(self, streamed: Sequence[PyTree]) -> PyTree:
        """Structure, shapes and dtypes of the members once the phase has begun."""
        return self.members.shapes(self.walk.start, streamed, self.shared)

    def travellers(self, before: Sequence[Traveller], phase: int) -> list[Traveller]:
        """The members as whole models again."""
        found = []
        for traveller, (state, frozen) in zip(before, self.members.unstack(), strict=True):
            params = self.walk.phase.optimizer.eval_params(state.params, state.optimizer)
            after = replace(
                traveller,
                model=eqx.combine(params, state.model_state, frozen, self.static),
                objective=state.objective,
                step=int(state.step),
                batch=int(state.batch),
            )
            if self.cadence.validate and int(state.best.step) >= 0:
                best = eqx.combine(state.best.params, state.best.model_state, frozen, self.static)
                after = replace(
                    after,
                    best=best,
                    best_score=float(state.best.score),
                    best_step=int(state.best.step),
                    best_phase=phase,
                )
            found.append(after)
        return found


def phase_dtype(model: PyTree, phase: Phase, precision: Any) -> np.dtype:
    """The dtype of a phase's params and data: the phase's own, else the fit's, else the model's."""
    chosen = phase.precision or precision
    if chosen is None:
        dtypes = {np.dtype(leaf.dtype) for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))}
        if not dtypes:
            raise UserError("the model has no floating-point array, so there is nothing to train")
        if len(dtypes) != 1:
            raise UserError(
                f"the model's arrays are of {len(dtypes)} floating-point types: {sorted(map(str, dtypes))}",
                remedy="Pass precision= to fit.",
            )
        chosen = dtypes.pop()
    return floating_dtype(chosen)


def prepare(travellers: Sequence[Traveller], objective: Objective, phase: Phase, choices: Choices) -> Prepared:
    """Everything that a phase needs, nothing compiled yet.

    Args:
        travellers: the members as they come from the phase before.
        objective: the landscape as the user made it.
        phase: what to do.
        choices: of the caller.
    """
    dtype = phase_dtype(travellers[0].model, phase, choices.precision)
    phase.optimizer.check_objective(objective)
    objective = objective.astype(dtype)
    validation = None if choices.validation is None else choices.validation.astype(dtype)
    parts = [split(cast(traveller.model, dtype), phase.where) for traveller in travellers]
    _refuse_different(parts)
    for asked in (objective, validation):
        if asked is not None:
            asked.check_model(parts[0].combine())
    spread = choices.devices is not None and choices.layout is not Layout.SHARDED
    if spread:
        _refuse_uneven(objective, len(choices.devices or ()))
    states = [
        _state(traveller, cut, objective, validation is not None, dtype)
        for traveller, cut in zip(travellers, parts, strict=True)
    ]
    members = arrange(choices.layout, states, [cut.frozen for cut in parts], choices.devices)
    shared = tuple(eqx.partition(tree, eqx.is_array)[0] for tree in (objective, validation))
    if members.placement is not None:
        everywhere = jax.sharding.NamedSharding(members.placement.mesh, jax.sharding.PartitionSpec())
        shared = jax.device_put(shared, everywhere)
    traced = _traced(objective, parts[0].combine(), states[0])
    _refuse_unreached(traced, objective)
    _refuse_unused(traced, parts[0].combine())
    walk = Walk(
        phase,
        objective,
        validation,
        parts[0].static,
        varies=objective.varies or used_inputs(traced, _only(traced, 0))[-1],
        sharding=batch_sharding(choices.devices or ()) if spread else None,
        hold=members.hold,
    )
    if phase.optimizer.steady and walk.varies and phase.redraw > 0:
        raise UserError(
            f"{type(phase.optimizer).__name__} needs the same batch for its whole phase, but batches (or dropout) vary",
            where="Phase(redraw=…)",
            remedy="redraw=0 keeps one batch; or give all rows, or fixed points.",
        )
    parameters = array_leaves(parts[0].params)
    mode, reason = automatic_mode(parameters, has_convolution(traced), bool(objective.host_terms))
    if choices.mode is not None and choices.mode is not mode:
        if objective.host_terms:
            raise UserError(
                "batches from the host cannot enter a compiled loop",
                where=f"term '{objective.host_terms[0]}'",
                remedy="Leave the mode to the rule, or hold the data on the device (Rows).",
            )
        mode, reason = choices.mode, "chosen by the caller"
    conduct = {
        "mode": mode.value,
        "reason": reason,
        "layout": choices.layout.value,
        "members": len(parts),
        "precision": str(dtype),
        "parameters": parameters,
        "devices": len(choices.devices or [0]),
        "matmul_precision": "highest",
        "backend": jax.default_backend(),
    }
    cadence = _cadence(phase, objective, choices, walk.varies)
    return Prepared(walk, members, mode, cadence, objective, shared, parts[0].static, conduct, choices.instruments)


def _cadence(phase: Phase, objective: Objective, choices: Choices, varies: bool) -> Cadence:
    log = choices.log_every or max(1, min(100, phase.steps // 100))
    instruments = choices.instruments
    terms = len(objective.terms)
    return Cadence(
        log=log,
        check=0 if phase.until is None else phase.until.every,
        refresh=objective.refresh_every,
        renew=phase.redraw if phase.redraw > 1 and varies else 0,
        validate=0 if choices.validation is None else choices.validate_every or log,
        measure={name: looks_every(one, terms, len(instruments), log) for name, one in instruments.items()},
    )


def _state(traveller: Traveller, cut: Parts, objective: Objective, validated: bool, dtype: Any) -> State:
    """A member's state before the phase; `Walk.start` fills in what the phase itself makes."""
    key, zero, params, model_state = jax.random.key(traveller.seed), jnp.zeros((), dtype), cut.params, cut.model_state
    state = traveller.objective or objective.init(named_key(key, "objective"), cut.combine())
    best = Best(None, None, zero, int32(0), zero)
    if validated:
        score = jnp.asarray(traveller.best_score, dtype)
        # step −1: the best is not of this phase, and what is stored here is not it
        best = Best(params, model_state, score, int32(NEVER), jnp.asarray(jnp.inf, dtype))
    tally = Tally(int32(0), zero, zero, {}, {}, int32(0), int32(NEVER), int32(0))
    whole = State(
        params, model_state, None, cast(state, dtype), None, tally, best, key,
        int32(traveller.step), int32(0), int32(traveller.batch), jnp.asarray(False),
    )  # fmt: skip
    # donated to every step: never the caller's own arrays, never one array in two places
    return _copied(whole)


@jax.jit
def _copied(tree: PyTree) -> PyTree:
    """Every array anew, by one program: copied one by one they would each be compiled."""
    return jax.tree.map(jnp.copy, tree)


def _traced(objective: Objective, model: PyTree, state: State) -> Any:
    """The total and each term's cost of a batch as a program of (arrays of the model, dropout key), traced, not run."""

    def cost(arrays: PyTree, key: Any) -> Any:
        examples = objective.draw(state.objective, int32(0), streamed)
        total, evaluation = objective.bind(static, examples, state.objective, key).evaluate(arrays)
        return total, [evaluation.parts[name] for name in objective.terms]

    streamed = objective.stream(state.objective, 0)
    arrays, static = eqx.partition(model, eqx.is_array)
    return jax.make_jaxpr(cost)(arrays, state.key).jaxpr


def _refuse_unreached(traced: Any, objective: Objective) -> None:
    """A term that no array of the model enters can neither be lowered nor tell anything."""
    for output, name in enumerate(objective.terms, start=1):
        if not any(used_inputs(traced, _only(traced, output))[:-1]):
            raise UserError(
                "no array of the model enters the term's cost, so no training can change it",
                where=f"term '{name}'",
                remedy="Let the residual or loss call the model it is handed, or leave the term out.",
            )


def _refuse_unused(traced: Any, model: PyTree) -> None:
    """An unknown number that no term uses would keep the value that it starts with, and be taken for found."""
    arrays = eqx.filter(model, eqx.is_array)
    is_unknown = lambda node: isinstance(node, Unknown)
    marked = jax.tree.map(lambda node: jax.tree.map(lambda _: is_unknown(node), node), arrays, is_leaf=is_unknown)
    used = used_inputs(traced, _only(traced, 0))[:-1]
    names = iter(unknowns_of(model))
    for is_one, reached in zip(jax.tree.leaves(marked), used, strict=True):
        if is_one and (name := next(names)) and not reached:
            raise UserError(
                f"no term uses the unknown number '{name}'",
                remedy="Use its `.value` in an equation, or leave it out of the model.",
            )


def _only(traced: Any, output: int) -> list[bool]:
    return [i == output for i in range(len(traced.outvars))]


def _refuse_different(members: Sequence[Parts]) -> None:
    """One compiled program serves all members, so all but the values of their arrays must be the same."""
    shapes = [
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), eqx.filter(m.combine(), eqx.is_array)) for m in members
    ]
    for i, (member, shape) in enumerate(zip(members, shapes, strict=True)):
        if shape != shapes[0] or not eqx.tree_equal(member.static, members[0].static):
            raise UserError(
                "the models of fit_many differ in more than the values of their arrays",
                where=f"members 0 and {i}",
                remedy="Build them by one constructor.",
            )


def _refuse_uneven(objective: Objective, devices: int) -> None:
    if not devices:
        raise UserError("there must be at least one device", where="devices=")
    for name, term in objective.terms.items():
        size = getattr(term.source, "batch_size", None) or term.source.population
        if size % devices:
            raise UserError(
                f"a batch of {size} examples cannot be spread evenly over {devices} devices",
                where=f"term '{name}'",
                remedy=f"Choose a batch size that is a multiple of {devices}.",
            )

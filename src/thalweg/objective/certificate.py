"""The certificate of a constrained optimum: the conditions of Karush (1939), Kuhn and Tucker (1951), measured."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.objective.constraints import AbstractConstraint, Kind
from thalweg.objective.objective import Objective
from thalweg.objective.partition import split
from thalweg.objective.precision import cast
from thalweg.objective.problem import Batch, ObjectiveState, Problem
from thalweg.objective.reach import constraint_names, least_nearby, reachable, squared_violations
from thalweg.objective.sources import Examples
from thalweg.types import Params, PyTree, Where

HELD = 1e-3
"""A constraint counts as held when it is broken by no more than a thousandth of its own size."""

MOST_ROWS = 10_000
"""A term with so many rows on the device is looked at on all of them, one with more on the walk's last batch."""


@dataclass(frozen=True)
class ConstraintRecord:
    """One constraint at the model that is kept; numbers in its own units, lists where the bound is an array.

    Attributes:
        name: of its term.
        kind: "equal", "at most" or "at least".
        everywhere: at each of `points` examples, not on their average.
        points: how many examples.
        bound: the value.
        value: the average; everywhere: the one that breaks the bound most, or comes closest to it.
        violation: by how much the bound is broken at most, 0 where it is not.
        relative: the same, relative to |bound|, or to the quantity's own size where that is 0.
        multiplier: λ of loss + λ·(what breaks the bound); everywhere: the mean over the examples.
        pressing: share of examples (or of numbers of the bound) whose multiplier is not 0.
        dual: by how much a multiplier has the wrong sign, relative to the largest; 0 by construction, for the first-
            order multiplier of an inequality is max(0, …) and that of an equality has no wrong sign.
        slackness: the largest |λ·(value − bound)|, relative to the rest of the objective at the start.
        penalty: ρ at the end.
        untouched: neither multiplier nor penalty has ever moved.
        reached: what was trained last can change it; told only where it is broken.
        pressed: the penalty has grown at least a hundredfold, or to its end.
    """

    name: str
    kind: str
    everywhere: bool
    points: int
    bound: Any
    value: Any
    violation: float
    relative: float
    multiplier: Any
    pressing: float
    dual: float
    slackness: float
    penalty: float
    untouched: bool
    reached: bool = True
    pressed: bool = False

    @property
    def sensitivity(self) -> str:
        """What the multiplier says of the loss, to first order."""
        if not self.relative <= HELD:
            return "The bound is not met, so that its multiplier does not say what it costs."
        found = np.ravel(np.asarray(self.multiplier, float))
        where = " at every point" if self.everywhere else ""
        if self.kind != Kind.EQUAL.value and not found.any():
            return "The bound does not press: loosening it would change nothing."
        told = ", ".join(f"{-m if self.kind == Kind.EQUAL.value else m:.3g}" for m in found)
        each = " (its numbers one by one)" if len(found) > 1 else ""
        if self.kind == Kind.EQUAL.value:
            return f"Raising the value by 1{where} would change the loss by about {told}{each}."
        return f"Loosening the bound by 1{where} would lower the loss by about {told}{each}."


@dataclass(frozen=True)
class Certificate:
    """How nearly a model meets the conditions of a constrained optimum. All four residuals are without dimension.

    Attributes:
        stationarity: ‖∇ loss + Σ λ ∇c‖, relative to the sum of the norms of the terms' gradients that it is made of,
            and √ε times the objective's size at the start over the length of the params plus one, below which all of
            them are rounding; where no constraint presses, to that size over that length.
        feasibility: the largest `relative` of the constraints.
        dual, slackness: the largest of theirs.
        loss: the rest of the objective.
        gradients: by term, ‖weight · gradient‖, of a constraint with its multiplier.
        level: slope of the penalized squared violations, times the length of the params plus one, relative to them.
            Near 0 where nothing nearby would break the constraints less; None where they hold. With the present
            penalties or with those that the walk has balanced: the smaller.
        on: what was looked at.
        constraints: one by one.
        nearby: the least squared violations at places near by, relative to those here; None where all hold.
    """

    stationarity: float
    feasibility: float
    dual: float
    slackness: float
    loss: float
    gradients: dict[str, float]
    level: float | None
    on: str
    constraints: tuple[ConstraintRecord, ...]
    nearby: float | None = None

    @property
    def largest(self) -> float:
        """The largest of the four residuals; NaN if one is."""
        return float(np.max([self.stationarity, self.feasibility, self.dual, self.slackness]))

    @property
    def worst(self) -> ConstraintRecord:
        """The constraint that is broken most."""
        return max(self.constraints, key=lambda one: one.relative)

    def __getitem__(self, name: str) -> ConstraintRecord:
        for one in self.constraints:
            if one.name == name:
                return one
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `certificate.json`."""
        constraints = [asdict(one) | {"sensitivity": one.sensitivity} for one in self.constraints]
        return asdict(self) | {"constraints": constraints}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "Certificate":
        """The certificate that `to_json` wrote."""
        rows = [{k: v for k, v in one.items() if k != "sensitivity"} for one in data["constraints"]]
        return Certificate(**{**data, "constraints": tuple(ConstraintRecord(**row) for row in rows)})


def certify(model: PyTree, objective: Objective, state: ObjectiveState, index: int, where: Where) -> Certificate | None:
    """The certificate at a model; None for an objective without constraints.

    The multipliers are those of first order: of the augmented Lagrangian's gradient at the model. Where the last
    refresh moved them after the last step, those from before it are tried too, and the better ones are told.

    Args:
        model: as it is kept.
        objective, state, index: what was walked on, where it ended, and the number of the last batch.
        where: what was trained.
    """
    names = constraint_names(objective)
    if not names:
        return None
    parts = split(model, where)
    dtype = ravel_pytree(parts.params)[0].dtype
    objective = objective.astype(dtype)
    batch, on = _looked_at(objective, state, max(index, 0))
    static = eqx.combine(parts.model_state, parts.frozen, parts.static)
    problem = objective.bind(static, batch, cast(state, dtype), None)
    found = _examined(problem, parts.params)
    slopes, told, whole, levels = jax.tree.map(lambda leaf: np.asarray(leaf, float), found)
    found = _written(problem, names, on, slopes, told, whole, levels)
    if not found.feasibility > HELD:
        return found
    reached = reachable(problem, parts.params)
    records = tuple(replace(one, reached=bool(reached[one.name])) for one in found.constraints)
    return replace(found, constraints=records, nearby=float(least_nearby(problem, parts.params)))


def _looked_at(objective: Objective, state: ObjectiveState, index: int) -> tuple[Batch, str]:
    batch = objective.draw(state, jnp.int32(index), objective.stream(state, index))
    complete = True
    for name, term in objective.terms.items():
        source = term.source
        if source.held is not None and not source.on_host and source.population <= MOST_ROWS:
            batch[name] = Examples(source.held, getattr(source, "weights", None))
        complete = complete and batch[name].size == source.population
    return batch, "all examples" if complete else "the last batch of the terms whose examples are too many"


@eqx.filter_jit
def _examined(problem: Problem, params: Params) -> tuple[Any, Any, Any, Any]:
    """Gradients, multipliers and values, twice: with the present multipliers, and with those before the last refresh.

    Returns:
        by term its gradient, (n,), for constraints of λ·c with both multipliers, (2, n); by constraint what is told of
        it; loss, size and length; and (penalized squared violations, their gradient (n,)) with both penalties.
    """
    flat, unravel = ravel_pytree(params)
    bound = {name: term for name, term in problem.bound().items() if isinstance(term, AbstractConstraint)}

    def part(name: str):
        def cost(p: jax.Array) -> jax.Array:
            value = problem.evaluate(unravel(p))[1].parts[name]
            return problem.state.weights[name].astype(value.dtype) * value

        return cost

    slopes, told = {}, {}
    for name in problem.terms:
        if name not in bound:
            slopes[name] = jax.grad(part(name))(flat)
    loss = sum((part(name)(flat) for name in slopes), jnp.zeros((), flat.dtype))
    for name, term in bound.items():
        state, examples = term.present(), problem.batch[name]
        weight = problem.state.weights[name].astype(flat.dtype)

        def violation(p: jax.Array, term: Any = term, examples: Examples = examples) -> jax.Array:
            return term.violation(problem.model(unravel(p)), examples)

        c, back = jax.vjp(violation, flat)
        relative = c / state.scale
        units = weight * state.size / state.scale
        multipliers = [
            units * term.next_multiplier(relative, *one) for one in ((state.multiplier, state.penalty), state.former)
        ]
        # everywhere: the Lagrangian has the mean of λ·c over the examples
        mean = jax.grad(lambda one, term=term, examples=examples: jnp.sum(term.average(one, examples)))
        share = mean(jnp.zeros_like(c)) if term.everywhere else jnp.ones_like(c)
        slopes[name] = jnp.stack([back(share * one)[0] for one in multipliers])
        values = term.values(problem.model(params), examples)
        told[name] = {
            "violation": c,
            "excess": term.excess(c),
            "multipliers": multipliers,
            "means": [term.average(one, examples) if term.everywhere else one for one in multipliers],
            "value": values if term.everywhere else term.average(values, examples),
            "scale": state.scale,
            "penalty": state.penalty,
            "end": 0.99 / jnp.finfo(state.penalty.dtype).eps,  # where `refresh` stops
            "untouched": (state.penalty == term.first_penalty)
            & (term.first_multiplier == 0)
            & jnp.all(state.multiplier == 0),
        }

    size = jnp.max(jnp.stack([term.present().size for term in bound.values()]))
    whole = {"loss": loss, "size": size, "length": 1 + jnp.linalg.norm(flat), "eps": jnp.finfo(flat.dtype).eps}
    levels = [jax.value_and_grad(squared_violations(problem, unravel, former))(flat) for former in (False, True)]
    return slopes, told, whole, levels


def _written(
    problem: Problem, names: Sequence[str], on: str, slopes: Any, told: Any, rest: Any, levels: Any
) -> Certificate:
    size, length = float(rest["size"]), float(rest["length"])
    rounding = np.sqrt(rest["eps"]) * size / length
    pushed = sum((slope for name, slope in slopes.items() if name not in names), np.zeros(levels[0][1].shape))
    tries = []
    for i in range(2):
        whole = np.linalg.norm(pushed + sum(slopes[name][i] for name in names))
        norms = {name: float(np.linalg.norm(one[i] if name in names else one)) for name, one in slopes.items()}
        presses = any(norms[name] > 0 for name in names)
        against = sum(norms.values()) + rounding if presses else size / length
        tries.append((float(whole / against), norms))
    best = 0 if not tries[1][0] < tries[0][0] else 1
    stationarity, norms = tries[best]
    records = tuple(_record(name, problem, told[name], best, size) for name in names)
    level = [float(np.linalg.norm(slope)) * length / float(broken) for broken, slope in levels if broken > 0]
    return Certificate(
        stationarity,
        max(one.relative for one in records),
        max(one.dual for one in records),
        max(one.slackness for one in records),
        float(rest["loss"]),
        norms,
        min(level, default=None),
        on,
        records,
    )


def _record(name: str, problem: Problem, told: Mapping[str, Any], best: int, size: float) -> ConstraintRecord:
    term = problem.terms[name]
    assert isinstance(term, AbstractConstraint)
    multiplier, excess = told["multipliers"][best], np.abs(told["excess"])
    bound = np.asarray(term.bound, float)
    own = told["scale"] if term.scale is not None else np.where(bound == 0, told["scale"], np.abs(bound))
    inequality = term.kind is not Kind.EQUAL
    largest = float(np.max(np.abs(multiplier)))
    value = told["value"]
    if term.everywhere:  # by number of the bound, where it is broken most or nearly
        worst = np.argmax(told["violation"] if inequality else excess, axis=0)
        value = np.take_along_axis(value, worst[None], axis=0)[0]
    return ConstraintRecord(
        name,
        term.kind.value,
        term.everywhere,
        problem.batch[name].size,
        bound.tolist(),
        np.asarray(value).tolist(),
        float(np.max(excess)),
        float(np.max(excess / own)),
        np.asarray(told["means"][best]).tolist(),
        float(np.mean(multiplier != 0)),
        float(max(0.0, -np.min(multiplier)) / (largest or 1.0)) if inequality else 0.0,
        float(np.max(np.abs(multiplier * told["violation"])) / size) if inequality else 0.0,
        float(told["penalty"]),
        bool(told["untouched"]),
        pressed=bool(told["penalty"] >= min(100 * term.first_penalty, told["end"])),
    )

"""What can change a constraint's quantity, and whether anything near by breaks the constraints less."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.constraints import AbstractConstraint, Kind
from thalweg.objective.objective import Objective
from thalweg.objective.partition import split
from thalweg.objective.precision import cast
from thalweg.objective.problem import Problem
from thalweg.objective.sources import Examples
from thalweg.types import Params, PyTree, Scalar, Where


def constraint_names(objective: Objective) -> list[str]:
    """The terms that are constraints."""
    return [name for name, term in objective.terms.items() if isinstance(term, AbstractConstraint)]


def refuse_level(model: PyTree, objective: Objective, wheres: Sequence[Where], dtype: Any) -> None:
    """Refuse a constraint that no small change of what is trained can change.

    Its quantity is looked at where the walk begins and at two places beside it: where its slope in every trained
    number is exactly 0 at all three, it does not depend on them, or only in jumps, as a count of zeros does.

    Args:
        model: as it begins.
        objective: with or without constraints.
        wheres: of the phases.
        dtype: of the first phase.
    Raises:
        UserError: such a constraint, by name.
    """
    names = constraint_names(objective)
    if not names:
        return
    terms: dict[str, Any] = {name: objective.terms[name] for name in names}
    alone = Objective(refresh_every=1, **terms).astype(dtype)
    model = cast(model, dtype)
    state = alone.init(jax.random.key(0))
    batch = alone.draw(state, jnp.int32(0), alone.stream(state, 0))
    moves = dict.fromkeys(names, False)
    for where in dict.fromkeys(wheres):
        parts = split(model, where)
        problem = alone.bind(eqx.combine(parts.model_state, parts.frozen, parts.static), batch, state, None)
        for name, found in reachable(problem, parts.params).items():
            moves[name] = moves[name] or bool(found)
    for name, is_moved in moves.items():
        if not is_moved:
            raise UserError(
                "the constraint's quantity has no slope in any trained number: it depends on none, or only in jumps",
                where=f"term '{name}'",
                remedy="Let it call the model, and bound something smooth: mean |h| instead of a count of zeros.",
            )


@eqx.filter_jit
def reachable(problem: Problem, params: Params) -> dict[str, jax.Array]:
    """By constraint, whether its quantity has a slope that is not 0 (or not finite) at one of three places.

    Where an inequality holds at all three, places far off count as well: a unit that is shut may open.
    """
    flat, unravel = ravel_pytree(params)
    noise = jax.random.normal(jax.random.key(0), (2, flat.size), flat.dtype)
    places = jnp.concatenate([flat[None], flat + (0.1 + 0.1 * jnp.abs(flat)) * noise])
    far = jnp.concatenate([-flat[None], flat + (1 + jnp.abs(flat)) * noise, flat - (1 + jnp.abs(flat)) * noise])
    found = {}
    for name, term in problem.terms.items():
        if not isinstance(term, AbstractConstraint):
            continue
        examples = problem.batch[name]

        def whole(p: jax.Array, term: Any = term, examples: Examples = examples) -> jax.Array:
            values = term.values(problem.model(unravel(p)), examples)
            signs = jnp.cos(jnp.arange(values.size, dtype=values.dtype)).reshape(values.shape)
            return jnp.sum(signs * values)  # differences between examples count as well

        def over(p: jax.Array, term: Any = term, examples: Examples = examples) -> jax.Array:
            return jnp.max(term.violation(problem.model(unravel(p)), examples))

        found[name] = jnp.any(jax.vmap(jax.grad(whole))(places) != 0)
        if term.kind is not Kind.EQUAL:
            holds = jnp.all(jax.vmap(over)(places) <= 0)
            found[name] |= holds & jnp.any(jax.vmap(jax.grad(whole))(far) != 0)
    return found


def squared_violations(problem: Problem, unravel: Any, former: bool) -> Callable[[jax.Array], Scalar]:
    """The squared violations, weighted by their present penalties or by those that the walk has balanced."""
    bound = {name: term for name, term in problem.bound().items() if isinstance(term, AbstractConstraint)}
    penalties = {name: term.present().former[1] if former else term.present().penalty for name, term in bound.items()}
    largest = jnp.max(jnp.stack(list(penalties.values())))

    def broken(p: jax.Array) -> Scalar:
        found = jnp.zeros((), p.dtype)
        for name, term in bound.items():
            examples = problem.batch[name]
            excess = term.excess(term.violation(problem.model(unravel(p)), examples) / term.present().scale)
            squares = penalties[name] / largest * jnp.square(excess)
            found = found + jnp.sum(term.average(squares, examples) if term.everywhere else squares)
        return found

    return broken


@eqx.filter_jit
def least_nearby(problem: Problem, params: Params) -> Scalar:
    """The least squared violations, relative to those here, at places about the params and down their slope."""
    flat, unravel = ravel_pytree(params)
    found = []
    for former in (False, True):
        broken = squared_violations(problem, unravel, former)
        here, slope = jax.value_and_grad(broken)(flat)
        noise = jax.random.normal(jax.random.key(0), (4, flat.size), flat.dtype)
        noise = jnp.concatenate([noise, -noise]) * (1 + jnp.abs(flat))
        norm = jnp.linalg.norm(slope)
        down = -slope / jnp.where(norm > 0, norm, 1) * (1 + jnp.linalg.norm(flat))
        moves = [reach * noise for reach in (0.1, 0.3, 1.0)]
        moves.append(jnp.stack([reach * down for reach in (0.01, 0.1, 1.0)]))
        there = jax.lax.map(lambda move, broken=broken: broken(flat + move), jnp.concatenate(moves))
        found.append(jnp.nanmin(there) / here)
    return jnp.min(jnp.stack(found))

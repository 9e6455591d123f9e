"""Weights of terms that the engine sets, so that no term is drowned by another's scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.problem import Problem
from thalweg.objective.term import AbstractTerm
from thalweg.types import Params, Scalar


class AbstractBalance(eqx.Module):
    """A rule for the weights of terms, applied at each refresh of the objective.

    A term's weight becomes the rule's factor times the weight that the user gave it, which so stays a priority.

    Attributes:
        terms: names of the terms that it weighs; None: all.
        memory: share of the present factor that is kept, below 1.
        most: a factor stays between 1/most and most.
    """

    terms: eqx.AbstractVar[tuple[str, ...] | None]
    memory: eqx.AbstractVar[float]
    most: eqx.AbstractVar[float]

    def factors(self, problem: Problem, params: Params, names: Sequence[str]) -> dict[str, Scalar]:
        """What the rule asks for here and now, by term; not finite where it asks for nothing."""
        raise NotImplementedError

    def check(self, terms: Mapping[str, AbstractTerm]) -> None:
        """Refuse terms that the rule cannot weigh.

        Raises:
            UserError: a name that is no term's; a single term; a weight that is not above 0.
        """
        who = type(self).__name__
        for name in self.terms or ():
            if name not in terms:
                raise UserError(f"there is no term '{name}'", where=who, remedy=f"The terms are {', '.join(terms)}.")
        names = self.names(terms)
        if len(names) < 2:
            raise UserError("one term alone cannot be balanced", where=who, remedy="Name at least two, or drop it.")
        for name in names:
            weight = terms[name].weight
            if isinstance(weight, int | float) and weight <= 0:
                raise UserError(f"{who} needs weights above 0, not {weight}", where=f"term '{name}'")

    def names(self, terms: Mapping[str, AbstractTerm]) -> list[str]:
        """The terms that are weighed, in the objective's order."""
        return [name for name in terms if self.terms is None or name in self.terms]

    def moved(self, problem: Problem, params: Params) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """The weights of all terms after the rule, and figures "term/weight" for the record."""
        names, weights = self.names(problem.terms), dict(problem.state.weights)
        asked = self.factors(problem, params, names)
        for name in names:
            given = jnp.asarray(problem.terms[name].weight, weights[name].dtype)
            present = weights[name] / given
            wanted = jnp.clip(asked[name].astype(present.dtype), 1 / self.most, self.most)
            after = self.memory * present + (1 - self.memory) * wanted
            weights[name] = jnp.where(jnp.isfinite(asked[name]), after, present) * given
        return weights, {f"{name}/weight": weights[name] for name in names}


class GradientNorm(AbstractBalance):
    """Each term pulls at the parameters with the same force (Wang, Teng and Perdikaris, 2021, algorithm 1).

    With a reference r: λᵢ = max|∇L_r| / mean|∇Lᵢ|, and λ_r = 1. Without: λᵢ = Σⱼ‖∇Lⱼ‖ / ‖∇Lᵢ‖ (Wang, Sankaran,
    Wang and Perdikaris, 2023, algorithm 1). L are mean costs before their weights. A refresh makes one gradient for
    each term.

    Args:
        reference: the term whose weight stays, such as the equation's.
        terms: names of the others to be weighed (with a reference: besides it); None: all.
        memory: share of the present factor that is kept; both papers take 0.9.
        most: a factor stays between 1/most and most.
    Raises:
        UserError: a number out of its range.

    >>> GradientNorm(reference="law").memory
    0.9
    """

    reference: str | None = eqx.field(static=True)
    terms: tuple[str, ...] | None = eqx.field(static=True)
    memory: float = eqx.field(static=True)
    most: float = eqx.field(static=True)

    def __init__(
        self,
        reference: str | None = None,
        *,
        terms: Sequence[str] | None = None,
        memory: float = 0.9,
        most: float = 1e8,
    ):
        self.reference, self.terms = reference, _named(terms, reference)
        self.memory, self.most = _checked(memory, most, "GradientNorm")

    def check(self, terms: Mapping[str, AbstractTerm]) -> None:
        super().check(terms)
        if self.reference is not None and self.reference not in terms:
            remedy = f"The terms are {', '.join(terms)}."
            raise UserError(f"there is no term '{self.reference}'", where="GradientNorm", remedy=remedy)

    def factors(self, problem: Problem, params: Params, names: Sequence[str]) -> dict[str, Scalar]:
        def slope(name: str) -> jax.Array:
            return ravel_pytree(jax.grad(lambda p: problem.evaluate(p)[1].parts[name])(params))[0]

        slopes = {name: slope(name) for name in names}
        if self.reference is None:
            norms = {name: jnp.linalg.norm(one) for name, one in slopes.items()}
            return _over(norms)
        strongest = jnp.max(jnp.abs(slopes[self.reference]))
        found = {name: strongest / jnp.mean(jnp.abs(one)) for name, one in slopes.items()}
        return found | {self.reference: jnp.ones_like(strongest)}


class NTKTrace(AbstractBalance):
    """Each term's residuals are learned at the same mean rate (Wang, Yu and Perdikaris, 2022, algorithm 1).

    λᵢ = Σⱼ tr Kⱼ / tr Kᵢ of the tangent kernels K = J·Jᵀ of the terms' residuals, as means over points, so that a
    term's number of points does not count. A refresh makes one gradient for each residual of each point; no kernel is
    formed.

    Args:
        terms: names of the terms that are weighed, each with a residual; None: all.
        memory: share of the present factor that is kept; the paper keeps none.
        most: a factor stays between 1/most and most.
    Raises:
        UserError: a number out of its range.

    >>> NTKTrace().memory
    0.0
    """

    terms: tuple[str, ...] | None = eqx.field(static=True)
    memory: float = eqx.field(static=True)
    most: float = eqx.field(static=True)

    def __init__(self, *, terms: Sequence[str] | None = None, memory: float = 0.0, most: float = 1e8):
        self.terms = _named(terms, None)
        self.memory, self.most = _checked(memory, most, "NTKTrace")

    def check(self, terms: Mapping[str, AbstractTerm]) -> None:
        super().check(terms)
        for name in self.names(terms):
            if not terms[name].provides("residual"):
                raise UserError(
                    "NTKTrace needs a residual, and the term has none",
                    where=f"term '{name}'",
                    remedy="Leave it out: NTKTrace(terms=…); or take GradientNorm().",
                )

    def factors(self, problem: Problem, params: Params, names: Sequence[str]) -> dict[str, Scalar]:
        return _over(problem.kernel_traces(params, names=names))


def _over(sizes: dict[str, Scalar]) -> dict[str, Scalar]:
    """The sum of all over each."""
    total = jnp.sum(jnp.stack(list(sizes.values())))
    return {name: total / size for name, size in sizes.items()}


def _named(terms: Sequence[str] | None, reference: str | None) -> tuple[str, ...] | None:
    if terms is None:
        return None
    if isinstance(terms, str) or not all(isinstance(name, str) for name in terms):
        raise UserError(f"terms are a list of names, not {terms!r}", where="balance", remedy='terms=["law", "edge"].')
    return tuple(dict.fromkeys([*terms, *([] if reference is None else [reference])]))


def _checked(memory: float, most: float, where: str) -> tuple[float, float]:
    if isinstance(memory, bool) or not (isinstance(memory, int | float) and 0 <= memory < 1):
        raise UserError(f"the memory must be at least 0 and below 1, not {memory!r}", where=where)
    if isinstance(most, bool) or not (isinstance(most, int | float) and 1 <= most < float("inf")):
        raise UserError(f"the largest factor must be at least 1, not {most!r}", where=where)
    return float(memory), float(most)

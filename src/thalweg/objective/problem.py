"""The slice of landscape that an optimizer sees: batch, dropout key and weights frozen; a function of params only."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.keys import named_key
from thalweg.objective.sources import Examples
from thalweg.objective.term import AbstractTerm, map_examples
from thalweg.types import Key, Params, PyTree, Scalar, Where

Batch = dict[str, Examples]


class ObjectiveState(eqx.Module):
    """What moves in a landscape while one walks on it.

    Attributes:
        sources: by term, its source's order key or held points.
        terms: by term, multipliers and the like.
        weights: by term, its present weight, shape ().
    """

    sources: dict[str, PyTree]
    terms: dict[str, PyTree]
    weights: dict[str, jax.Array]


class Evaluation(eqx.Module):
    """What one evaluation found.

    Attributes:
        parts: mean cost of each term, before its weight.
        model_state: running statistics after the batch; the loop commits them only if the step was accepted.
    """

    parts: dict[str, Scalar]
    model_state: PyTree


class Problem(eqx.Module):
    """total(params) = Σ wᵢ · mean cost of term i, on one batch. Made by `Objective.bind`.

    Attributes:
        terms: by name, as the user made them.
        static: the model with the trainable leaves replaced by None (running statistics included).
        batch: the examples of each term.
        state: the objective's moving state.
        key: for dropout; None in inference.
    """

    terms: dict[str, AbstractTerm]
    static: PyTree
    batch: Batch
    state: ObjectiveState
    key: Key | None

    @property
    def population(self) -> dict[str, int]:
        """Number of examples behind each term's mean: what a sampler scales the cost by."""
        return {name: term.source.population for name, term in self.terms.items()}

    def bound(self) -> dict[str, AbstractTerm]:
        """The terms with their moving states filled in."""
        return {name: term.bind(self.state.terms[name]) for name, term in self.terms.items()}

    def model(self, params: Params) -> PyTree:
        """The whole model at `params`."""
        return eqx.combine(params, self.static)

    def keys(self) -> dict[str, Key | None]:
        """A key for each term."""
        if self.key is None:
            return dict.fromkeys(self.terms)
        return {name: named_key(self.key, name) for name in self.terms}

    def evaluate(self, params: Params) -> tuple[Scalar, Evaluation]:
        """The total and, by term, what it is made of. Differentiable in `params`."""
        model, keys = self.model(params), self.keys()
        total, parts, model_state = None, {}, None
        for name, term in self.bound().items():
            cost, after = term.mean_cost(model, self.batch[name], keys[name])
            if jnp.shape(cost) != ():
                raise UserError(
                    f"the cost of a term must be a scalar, not of shape {jnp.shape(cost)}", where=f"term '{name}'"
                )
            if after is not None:  # later terms see the statistics that earlier ones have moved
                model_state = jax.lax.stop_gradient(after)
                model = eqx.combine(model_state, model)
            parts[name] = cost
            weighted = self.state.weights[name].astype(cost.dtype) * cost
            total = weighted if total is None else total + weighted
        assert total is not None, "an objective has at least one term"
        return total, Evaluation(parts, model_state)

    def residuals(self, params: Params) -> jax.Array:
        """All residuals stacked, each scaled so that ‖residuals‖² is the total; shape (m,)."""
        model, keys = self.model(params), self.keys()
        rows = []
        for name, term in self._least_squares().items():
            rows.append(self._mapped(name, keys[name], lambda example, k, term=term: term.residual(model, example, k)))
        return jnp.concatenate([jnp.ravel(r) for r in rows])

    def jacobian(self, params: Params) -> jax.Array:
        """Jacobian of `residuals` in the flattened params, shape (m, n): mapped one-example gradients.

        Reverse-differentiating the stacked residual instead costs about twenty times as much (measured).
        """
        flat, unravel = ravel_pytree(params)
        keys = self.keys()
        rows = []
        for name, term in self._least_squares().items():

            def gradient(example: PyTree, k: Key | None, term: AbstractTerm = term) -> jax.Array:
                return jax.jacrev(lambda p: jnp.ravel(term.residual(self.model(unravel(p)), example, k)))(flat)

            rows.append(self._mapped(name, keys[name], gradient).reshape(-1, flat.size))
        return jnp.concatenate(rows)

    def example_gradients(self, params: Params) -> dict[str, PyTree]:
        """Gradient of each example's weighted cost, by term: a pytree like params with a leading axis (B,)."""
        keys, gradients = self.keys(), {}
        for name, term in self._one_example_terms("gradients of single examples").items():

            def gradient(example: PyTree, k: Key | None, term: AbstractTerm = term) -> PyTree:
                return jax.grad(lambda p: term.example_cost(self.model(p), example, k))(params)

            mapped = map_examples(gradient, self.batch[name], keys[name])
            scale = self.state.weights[name] * _weights(self.batch[name])
            gradients[name] = jax.tree.map(lambda g, s=scale: g * _column(s.astype(g.dtype), g), mapped)
        return gradients

    def part_gradients(self, params: Params) -> dict[str, PyTree]:
        """Gradient of each term's weighted mean cost: pytrees like params that sum to the total's gradient."""

        def part(name: str) -> Callable[[Params], Scalar]:
            def cost(p: Params) -> Scalar:
                value = self.evaluate(p)[1].parts[name]
                return self.state.weights[name].astype(value.dtype) * value

            return cost

        return {name: jax.grad(part(name))(params) for name in self.terms}

    def restrict(
        self, params: Params, where: Where, weights: Mapping[str, Any] | None = None
    ) -> tuple[Params, "Problem"]:
        """The same slice seen by a player who moves only part of the params, with weights of its own.

        Args:
            params: all params.
            where: model -> filter; the player's params are those of `params` that it selects.
            weights: factor on each named term's weight; terms not named keep theirs. None keeps all.
        Returns:
            the player's params, and the Problem in which the others stay as they are.
        """
        marks = jax.tree.map(
            lambda leaf, mark: bool(mark) and leaf is not None,
            params,
            where(self.model(params)),
            is_leaf=lambda leaf: leaf is None,
        )
        mine, others = eqx.partition(params, marks)
        moved = dict(self.state.weights)
        for name, factor in (weights or {}).items():
            if name not in moved:
                raise UserError(f"there is no term '{name}'", remedy=f"The terms are {', '.join(moved)}.")
            moved[name] = moved[name] * factor
        state = eqx.tree_at(lambda s: s.weights, self.state, moved)
        return mine, Problem(self.terms, eqx.combine(others, self.static), self.batch, state, self.key)

    def _least_squares(self) -> dict[str, AbstractTerm]:
        terms = self._one_example_terms("residuals")
        for name, term in terms.items():
            if not term.provides("residual"):
                raise UserError(
                    "the term has a loss but no residual, so there is no Jacobian to work with",
                    where=f"term '{name}'",
                    remedy="Give it a `residual` (squared error has one), or use another optimizer.",
                )
        return terms

    def _one_example_terms(self, asked: str) -> dict[str, AbstractTerm]:
        for name, term in self.bound().items():
            if term.is_coupled(self.static):
                raise UserError(
                    f"{asked} do not exist: the term's cost couples the examples of a batch",
                    where=f"term '{name}'",
                    remedy="Batch statistics, averages and penalties need a first-order or quasi-Newton optimizer.",
                )
        return self.bound()

    def _mapped(self, name: str, key: Key | None, function: Callable[[PyTree, Key | None], jax.Array]) -> jax.Array:
        """√(w · weight / B) · function(example) for every example."""
        examples = self.batch[name]
        rows = map_examples(function, examples, key)
        scale = jnp.sqrt(self.state.weights[name] * _weights(examples) / examples.size).astype(rows.dtype)
        return rows * _column(scale, rows)


def _weights(examples: Examples) -> jax.Array:
    return jnp.ones(examples.size) if examples.weights is None else examples.weights


def _column(scale: jax.Array, rows: jax.Array) -> jax.Array:
    return scale.reshape((-1,) + (1,) * (rows.ndim - 1))

"""The slice of landscape that an optimizer sees: batch, dropout key and weights frozen; a function of params only."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.along import Path, all_at
from thalweg.objective.keys import named_key
from thalweg.objective.sources import Examples
from thalweg.objective.term import AbstractTerm, map_examples, weighted_mean
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


class NormalEquations(eqx.Module):
    """The quadratic ‖r + Jδ‖² that least squares sees around the params, J the Jacobian of `Problem.residuals`.

    Attributes:
        total: ‖r‖², shape ().
        gram: JᵀJ, (n, n).
        slope: Jᵀr, (n,): half the total's gradient.
        parts: mean cost of each term.
    """

    total: Scalar
    gram: jax.Array
    slope: jax.Array
    parts: dict[str, Scalar]


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

    def at(self, progress: Scalar, weights: Mapping[str, Path] | None = None) -> "Problem":
        """The same slice on the way of a continuation: each `Along` of its terms at λ, and weights that follow paths.

        Args:
            progress: λ, shape (); at 1 this is the landscape itself, to the last bit.
            weights: by term, λ -> its weight; terms not named keep theirs.
        """
        moved = dict(self.state.weights)
        for name, path in (weights or {}).items():
            there = jnp.asarray(path(progress), moved[name].dtype)
            moved[name] = jnp.where(progress >= 1, moved[name], there)
        state = eqx.tree_at(lambda s: s.weights, self.state, moved)
        return Problem(all_at(self.terms, progress), self.static, self.batch, state, self.key)

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
            with _naming(name):
                cost, after = term.mean_cost(model, self.batch[name], keys[name])
                if jnp.shape(cost) != ():
                    raise UserError(f"the cost of a term must be a scalar, not of shape {jnp.shape(cost)}")
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
        stacked = []
        for name, term in self._least_squares().items():
            with _naming(name):
                residual = lambda example, k, term=term: jnp.ravel(term.residual(model, example, k))
                rows = map_examples(residual, self.batch[name], keys[name])
            stacked.append(jnp.ravel(rows * self._row_scale(name, rows)[:, None]))
        return jnp.concatenate(stacked)

    def jacobian(self, params: Params) -> jax.Array:
        """Jacobian of `residuals` in the flattened params, shape (m, n): mapped one-example gradients."""
        return self.linearize(params)[1]

    def linearize(self, params: Params) -> tuple[jax.Array, jax.Array, dict[str, Scalar]]:
        """(`residuals` (m,), `jacobian` (m, n), mean cost of each term), evaluating each example once.

        Reverse-differentiating the stacked residual instead costs about twenty times as much (measured).
        """
        flat = ravel_pytree(params)[0]
        keys, stacked, jacobians, parts = self.keys(), [], [], {}
        for name, term in self._least_squares().items():
            with _naming(name):
                rows, slopes = map_examples(self._one_linearized(term, params), self.batch[name], keys[name])
            scale = self._row_scale(name, rows)
            parts[name] = weighted_mean(jnp.sum(rows * rows, axis=1), self.batch[name].weights)
            stacked.append(jnp.ravel(rows * scale[:, None]))
            jacobians.append((slopes * scale[:, None, None]).reshape(-1, flat.size))
        return jnp.concatenate(stacked), jnp.concatenate(jacobians), parts

    def normal_equations(self, params: Params, memory: float = math.inf) -> NormalEquations:
        """JᵀJ, Jᵀr and what goes with them, evaluating each example once and keeping no more of J than is allowed.

        Args:
            params: where.
            memory: bytes that the Jacobian of a term may take (its examples are taken in chunks, one after another, if
                that of all takes more); at least one example's is formed.
        """
        flat, parts = ravel_pytree(params)[0], {}
        total, gram, slope = jnp.zeros((), flat.dtype), jnp.zeros((flat.size,) * 2, flat.dtype), jnp.zeros_like(flat)

        def sums(rows: jax.Array, slopes: jax.Array, weight: jax.Array, share: jax.Array) -> Any:
            costs = jnp.sum(rows * rows, axis=1)
            rows = jnp.ravel(rows * jnp.sqrt(weight)[:, None])
            slopes = (slopes * jnp.sqrt(weight)[:, None, None]).reshape(-1, flat.size)
            return rows @ rows, slopes.T @ slopes, slopes.T @ rows, share @ costs

        for name, term in self._least_squares().items():
            found = self._summed(name, term, params, memory, sums)
            total, gram, slope, parts[name] = total + found[0], gram + found[1], slope + found[2], found[3]
        return NormalEquations(total, gram, slope, parts)

    def kernel_traces(
        self, params: Params, names: Iterable[str] | None = None, memory: float = 2**28
    ) -> dict[str, Scalar]:
        """By term, the mean over its examples of ‖∂r/∂params‖², before its weight: its tangent kernel's mean diagonal.

        Args:
            params: where.
            names: of the terms that are asked for; None: all.
            memory: as `normal_equations`.
        """
        squares = lambda rows, slopes, weight, share: share @ jnp.sum(slopes * slopes, axis=(1, 2))
        terms = self._least_squares(names)
        return {name: self._summed(name, term, params, memory, squares) for name, term in terms.items()}

    def _summed(self, name: str, term: AbstractTerm, params: Params, memory: float, sums: Callable[..., Any]) -> Any:
        """Sums over a term's examples, of which no more are linearized at once than `memory` allows.

        Args:
            name, term, params, memory: as above.
            sums: (residuals (b, k), Jacobians (b, k, n), weights in the total (b,), in the term's mean (b,)) -> sums
                over b, a pytree; an example of weight 0 must add nothing.
        """
        flat, examples, key = ravel_pytree(params)[0], self.batch[name], self.keys()[name]
        weights = self._example_weights(name, flat.dtype) / examples.size
        shares = jnp.ones_like(weights) if examples.weights is None else examples.weights.astype(flat.dtype)
        each = (examples.values, None if key is None else jax.random.split(key, examples.size))
        with _naming(name):
            # traced once, so that its shape is known before it is mapped
            one = eqx.filter_closure_convert(self._one_linearized(term, params), *_first(each))
            count = jax.eval_shape(one, *_first(each))[0].size
            most = max(1, int(min(memory / (count * flat.size * flat.dtype.itemsize), examples.size)))
            chunk = lambda rows: sums(*jax.vmap(lambda values, k: one(values, k))(*rows[0]), *rows[1:])
            return _in_chunks(chunk, (each, weights, shares / examples.size), examples.size, most)

    def _one_linearized(self, term: AbstractTerm, params: Params) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """(example, key) -> its residual (k,) and the Jacobian of that in the flattened params (k, n)."""
        flat, unravel = ravel_pytree(params)

        def both(example: PyTree, key: Key | None) -> tuple[jax.Array, jax.Array]:
            def residual(p: jax.Array) -> tuple[jax.Array, jax.Array]:
                r = jnp.ravel(term.residual(self.model(unravel(p)), example, key))
                return r, r

            jacobian, r = jax.jacrev(residual, has_aux=True)(flat)
            return r, jacobian

        return both

    def example_gradients(self, params: Params) -> dict[str, PyTree]:
        """Gradient of each example's weighted cost, by term: a pytree like params with a leading axis (B,)."""
        keys, gradients = self.keys(), {}
        for name, term in self._one_example_terms("gradients of single examples").items():

            def gradient(example: PyTree, k: Key | None, term: AbstractTerm = term) -> PyTree:
                return jax.grad(lambda p: term.example_cost(self.model(p), example, k))(params)

            with _naming(name):
                mapped = map_examples(gradient, self.batch[name], keys[name])
            weigh = lambda g, name=name: g * _column(self._example_weights(name, g.dtype), g)
            gradients[name] = jax.tree.map(weigh, mapped)
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

    def _least_squares(self, names: Iterable[str] | None = None) -> dict[str, AbstractTerm]:
        terms = self._one_example_terms("residuals", names)
        for name, term in terms.items():
            if not term.provides("residual"):
                raise UserError(
                    "the term has a loss but no residual, so there is no Jacobian to work with",
                    where=f"term '{name}'",
                    remedy="Give it a `residual` (squared error has one), or use another optimizer.",
                )
            if isinstance(term.weight, int | float) and term.weight < 0:
                raise UserError(f"least squares needs weights not below 0, not {term.weight}", where=f"term '{name}'")
        return terms

    def _one_example_terms(self, asked: str, names: Iterable[str] | None = None) -> dict[str, AbstractTerm]:
        wanted = self.terms if names is None else set(names)
        terms = {name: term for name, term in self.bound().items() if name in wanted}
        for name, term in terms.items():
            if term.is_coupled(self.static):
                raise UserError(
                    f"{asked} do not exist: the term's cost couples the examples of a batch",
                    where=f"term '{name}'",
                    remedy="Batch statistics, averages and penalties need a first-order or quasi-Newton optimizer.",
                )
        return terms

    def _row_scale(self, name: str, rows: jax.Array) -> jax.Array:
        """√(weight · example weight / B) for the residuals of every example, shape (B,)."""
        examples = self.batch[name]
        return jnp.sqrt(self._example_weights(name, rows.dtype) / examples.size)

    def _example_weights(self, name: str, dtype: Any) -> jax.Array:
        """The term's weight times the weight of each example, shape (B,)."""
        examples = self.batch[name]
        weights = jnp.ones(examples.size, dtype) if examples.weights is None else examples.weights.astype(dtype)
        return self.state.weights[name].astype(dtype) * weights


def _first(tree: PyTree) -> PyTree:
    """The first of many, all leaves with one leading axis."""
    return jax.tree.map(lambda leaf: leaf[0], tree)


def _in_chunks(summed: Callable[[Any], Any], rows: Any, size: int, most: int) -> Any:
    """`summed` over all rows, at most so many at once; it must give the sum over rows of one chunk, by weights.

    Args:
        summed: (values, weights, shares) of a chunk -> a pytree of sums.
        rows: the same of all, each leaf with a leading axis of `size`.
        size: number of rows.
        most: rows at once.
    """
    if most >= size:
        return summed(rows)
    chunks = -(-size // most)
    each = -(-size // chunks)  # as even as can be
    place = jnp.arange(chunks * each).reshape(chunks, each)
    values, weights, shares = rows

    def one(sums: Any, places: jax.Array) -> Any:
        kept = jnp.minimum(places, size - 1)  # past the end stands the last row once more, with weight 0
        there = jnp.where(places < size, jnp.ones_like(weights, shape=places.shape), 0)
        chunk = jax.tree.map(lambda leaf: leaf[kept], values), weights[kept] * there, shares[kept] * there
        return jax.tree.map(jnp.add, sums, summed(chunk)), None

    start = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(summed, _chunk(rows, each)))
    return jax.lax.scan(one, start, place)[0]


def _chunk(rows: Any, each: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:each], rows)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Say in which term something was refused."""
    try:
        yield
    except UserError as error:
        where = f"term '{name}'" if error.where is None else f"term '{name}', {error.where}"
        raise UserError(error.what, where=where, remedy=error.remedy) from error


def _column(scale: jax.Array, rows: jax.Array) -> jax.Array:
    return scale.reshape((-1,) + (1,) * (rows.ndim - 1))

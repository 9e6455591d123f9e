"""The second abstraction: an objective, the landscape as a sum of named terms."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.objective.balancing import AbstractBalance
from thalweg.objective.keys import named_key
from thalweg.objective.partition import trainable
from thalweg.objective.precision import cast
from thalweg.objective.problem import Batch, ObjectiveState, Problem
from thalweg.objective.term import AbstractTerm, Slope
from thalweg.types import Finding, Key, Params, PyTree


class Objective(eqx.Module):
    """total = Σ wᵢ · mean cost of term i.

    Args:
        terms: the terms by name; they are kept in the order of their names.
        balance: a rule for the terms' weights, applied at each refresh; None: they stay as given.
        refresh_every: steps between two calls of `refresh` (held points drawn afresh, multipliers moved); 0: never.
        dtype: floating type of all that is drawn; None as the sources have it, until `fit` chooses by `astype`.

    >>> import jax.numpy as jnp
    >>> from thalweg.losses import squared_error
    >>> from thalweg.objective.supervised import Supervised
    >>> objective = Objective(data=Supervised(jnp.ones((4, 2)), jnp.zeros((4, 1)), loss=squared_error))
    >>> list(objective.terms)
    ['data']
    """

    terms: dict[str, AbstractTerm]
    balance: AbstractBalance | None
    refresh_every: int = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(
        self,
        *,
        balance: AbstractBalance | None = None,
        refresh_every: int = 0,
        dtype: Any = None,
        **terms: AbstractTerm,
    ):
        if not terms:
            raise UserError("an objective needs at least one term", remedy="Objective(data=Supervised(…)).")
        for name, term in terms.items():
            if not isinstance(term, AbstractTerm):
                raise UserError(f"a term must be an AbstractTerm, not {type(term).__name__}", where=f"term '{name}'")
            if not (isinstance(term.weight, Tracer) or _is_finite_number(term.weight)):
                raise UserError("a term's weight must be one finite number", where=f"term '{name}'")
        if refresh_every < 0:
            raise UserError("refresh_every must not be negative", remedy="0 never refreshes.")
        if balance is not None:
            if not isinstance(balance, AbstractBalance):
                raise UserError(f"balance must be a rule, not {balance!r}", remedy="GradientNorm() or NTKTrace().")
            if refresh_every == 0:
                raise UserError("only a refresh balances", remedy="Objective(…, balance=…, refresh_every=100).")
            balance.check(terms)
        self.balance = balance
        # sorted as every pytree of JAX is: compiled or not, terms are added up in one order
        self.terms, self.refresh_every = dict(sorted(terms.items())), int(refresh_every)
        self.dtype = None if dtype is None else np.dtype(dtype)

    def astype(self, dtype: Any) -> "Objective":
        """The same landscape with its arrays on the device, and all that it holds or draws in one floating type.

        Args:
            dtype: a floating-point type; float64 needs `jax.enable_x64`.
        """
        return Objective(balance=self.balance, refresh_every=self.refresh_every, dtype=dtype, **cast(self.terms, dtype))

    def check_model(self, model: PyTree) -> None:
        """Refuse what a term cannot compare with this model's output, before anything is compiled.

        Raises:
            UserError: as `AbstractTerm.check_model`.
        """
        for term in self.terms.values():
            term.check_model(model)

    @property
    def varies(self) -> bool:
        """Whether two draws can differ."""
        return any(term.source.varies for term in self.terms.values())

    @property
    def host_terms(self) -> list[str]:
        """Names of the terms whose batches come from the host."""
        return [name for name, term in self.terms.items() if term.source.on_host]

    def spread(self, model: PyTree) -> dict[str, float]:
        """By data term: standard deviation of the model's outputs over examples, relative to that of the targets."""
        found = {}
        for name, term in self.terms.items():
            measured = term.spread(model)
            if measured is not None:
                found[name] = measured
        return found

    def findings(self, model: PyTree, state: ObjectiveState, index: int) -> list[Finding]:
        """What terms have to say of the model, each finding once.

        Args:
            model: as it is kept.
            state: where the walk ended.
            index: of the walk's last batch.
        """
        found: list[Finding] = []
        for name, term in self.terms.items():
            seen = None if term.source.on_host else term.source.draw(state.sources[name], jnp.int32(max(index, 0)))
            found.extend(term.bind(state.terms[name]).findings(model, seen, name))
        return list(dict.fromkeys(found))

    def init(self, key: Key, model: PyTree = None) -> ObjectiveState:
        """The state before the first step.

        Args:
            key: of all that is drawn.
            model: as it begins, for terms that ask how large things are; None leaves their sizes at what they assume.
        """
        sources, states, weights = {}, {}, {}
        for name, term in self.terms.items():
            source_key, term_key = jax.random.split(named_key(key, name))
            sources[name], states[name] = term.source.init(source_key), term.init(term_key)
            weights[name] = jnp.asarray(term.weight, _float_dtype(term.weight))
        state = self._cast(ObjectiveState(sources, states, weights))
        asking = [name for name, term in self.terms.items() if term.provides("sized")]
        return state if model is None or not asking else _sized(self, state, model, self.stream(state, 0), asking)

    def draw(self, state: ObjectiveState, index: jax.Array, streamed: Batch | None = None) -> Batch:
        """Batch number `index`. Pure; terms on the host are taken from `streamed`."""
        streamed = streamed or {}
        return self._cast(
            {
                name: streamed[name] if name in streamed else term.source.draw(state.sources[name], index)
                for name, term in self.terms.items()
            }
        )

    def stream(self, state: ObjectiveState, index: int) -> Batch:
        """The part of batch number `index` that lives on the host."""
        batch = {name: self.terms[name].source.stream(state.sources[name], index) for name in self.host_terms}
        return self._cast(batch)

    def bind(self, static: PyTree, batch: Batch, state: ObjectiveState, key: Key | None) -> Problem:
        """Freeze all but the trainable params.

        Args:
            static: the model with its trainable leaves replaced by None.
            batch: of `draw`.
            state: of `init` or `refresh`.
            key: for dropout; None for inference.
        """
        return Problem(self.terms, static, batch, state, key)

    def refresh(
        self, problem: Problem, params: Params, key: Key, landscape: Problem | None = None
    ) -> tuple[ObjectiveState, dict[str, Any]]:
        """Let the balance move the weights, each term its state, then its source draw afresh what it holds.

        Terms look first, on the points that the walk has worked on: only there does "converged" mean anything.

        Args:
            problem: this objective, bound.
            params: where the walk stands.
            key: for drawing.
            landscape: what the walk lowers, if it is on the way to `problem` (`AbstractOptimizer.landscape`).
        Returns:
            the new state, and figures "term/figure" -> array for the record.
        """
        lowered = problem if landscape is None else landscape
        gradient = jax.grad(lambda p: lowered.evaluate(p)[0])(params)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradient)))
        model, state, figures = problem.model(params), problem.state, {}
        costs = lambda term: lambda values: jax.vmap(lambda value: term.example_cost(model, value, None))(values)
        sources, terms = {}, {}
        for name, term in lowered.terms.items():
            term_key, source_key = jax.random.split(named_key(key, name))
            slope = Slope(model, problem.batch[name], norm, term_key)
            terms[name], found = term.refresh(state.terms[name], slope)
            sources[name] = term.source.refresh(state.sources[name], source_key, costs(term.bind(terms[name])))
            figures |= {f"{name}/{figure}": value for figure, value in found.items()}
        weights = state.weights
        if self.balance is not None:
            weights, found = self.balance.moved(problem, params)
            figures |= found
        return self._cast(ObjectiveState(sources, terms, weights)), figures

    def _cast(self, tree: PyTree) -> PyTree:
        return tree if self.dtype is None else cast(tree, self.dtype)


@eqx.filter_jit
def _sized(
    objective: Objective, state: ObjectiveState, model: PyTree, streamed: Batch, asking: list[str]
) -> ObjectiveState:
    """The state with the sizes that some terms ask for."""
    batch = objective.draw(state, jnp.int32(0), streamed)
    others = [name for name in objective.terms if name not in asking]
    dtype = jnp.result_type(*(weight for weight in state.weights.values()))

    def cost(at: PyTree) -> jax.Array:
        costs = {name: objective.terms[name].mean_cost(at, batch[name], None)[0] for name in others}
        whole = sum((state.weights[name] * one.astype(dtype) for name, one in costs.items()), jnp.zeros((), dtype))
        return jnp.where(jnp.isfinite(whole), jnp.abs(whole), 0)

    moved, kept = eqx.partition(model, trainable(model))
    flat, unravel = ravel_pytree(moved)
    off = unravel(flat * (1 + jax.random.normal(jax.random.key(0), flat.shape, flat.dtype) / 10))
    rest = jnp.maximum(cost(model), cost(eqx.combine(off, kept)))
    sized = {name: objective.terms[name].sized(state.terms[name], model, batch[name], rest) for name in asking}
    return objective._cast(ObjectiveState(state.sources, state.terms | sized, state.weights))


def _is_finite_number(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
    return is_number and np.ndim(value) == 0 and bool(np.isfinite(value))


def _float_dtype(value: Any) -> Any:
    return value.dtype if isinstance(value, jax.Array) else jax.dtypes.canonicalize_dtype(float)

"""The first abstraction: a term, one named part of the landscape, its mathematics written for ONE example."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.objective.sources import AbstractSource, Examples
from thalweg.types import Finding, Key, PyTree, Scalar


class AbstractTerm(eqx.Module):
    """One named part of an objective. Implement one of `residual`, `loss`, `output` + `loss_of_output`, `batch_loss`.

    * `residual(model, example, key) -> (k,)`: least squares; the example's cost is ‖r‖², without ½.
    * `loss(model, example, key) -> ()`: any cost of one example.
    * `output(model, example, key)` and `loss_of_output(output, example) -> ()`: the same cost in two parts, which
      Gauss-Newton and Laplace need.
    * `batch_loss(model, examples, key) -> ((), model_state)`: a cost of the whole batch ("coupled"): batch statistics,
      averages, penalties on weights. `model_state` is the model's running statistics after the batch (None: as before).

    `key` is None in inference (no dropout, running statistics).

    Attributes:
        source: where the examples come from.
        weight: the term's weight wᵢ in total = Σ wᵢ · mean cost.
    """

    source: eqx.AbstractVar[AbstractSource]
    weight: eqx.AbstractVar[float | jax.Array]

    def residual(self, model: PyTree, example: PyTree, key: Key | None) -> jax.Array:
        """Residual of one example, shape (k,)."""
        raise NotImplementedError

    def loss(self, model: PyTree, example: PyTree, key: Key | None) -> Scalar:
        """Cost of one example, shape ()."""
        raise NotImplementedError

    def output(self, model: PyTree, example: PyTree, key: Key | None) -> PyTree:
        """What the model says of one example, as `loss_of_output` takes it."""
        raise NotImplementedError

    def loss_of_output(self, output: PyTree, example: PyTree) -> Scalar:
        """Cost of one output, shape ()."""
        raise NotImplementedError

    def batch_loss(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[Scalar, PyTree]:
        """Cost of a whole batch, shape (), and the model's running statistics after it (None: unchanged)."""
        raise NotImplementedError

    def provides(self, part: str) -> bool:
        """Whether this term implements the named method."""
        return getattr(type(self), part) is not getattr(AbstractTerm, part)

    def check_model(self, model: PyTree) -> None:
        """Refuse what cannot go with this model, before anything is compiled; nothing by default.

        Raises:
            UserError: examples that the model's output cannot be compared with.
        """

    def is_coupled(self, model: PyTree) -> bool:
        """Whether the cost of one example depends on the others, so that no cost of one example exists."""
        return self.provides("batch_loss")

    def init(self, key: Key) -> PyTree:
        """The term's own moving state (multipliers, …); None if it has none."""
        return None

    def sized(self, state: PyTree, model: PyTree, examples: "Examples", rest: Scalar) -> PyTree:
        """The state before the first step, once the sizes of things can be seen.

        Args:
            state: of `init`.
            model: as the walk begins, in inference mode.
            examples: of the first batch.
            rest: what all terms cost that do not ask so, weighted, shape (): there, or where each trained number is
                about a tenth off if that is more, for the walk may begin where they cost nothing.
        """
        return state

    def bind(self, state: PyTree) -> "AbstractTerm":
        """The term with its moving state filled in."""
        return self

    def refresh(self, state: PyTree, slope: "Slope") -> tuple[PyTree, dict[str, Any]]:
        """The moving state after a look at how far the walk has converged; and figures for the record."""
        return state, {}

    @property
    def needs_refresh(self) -> bool:
        """Whether it is what it says only when the objective refreshes it now and then."""
        return self.provides("refresh") or self.source.needs_refresh

    def spread(self, model: PyTree) -> float | None:
        """How far the model's outputs differ over examples, relative to their size; None where that means nothing."""
        return None

    def inputs(self, values: PyTree) -> PyTree:
        """Of the source's examples, one or many, what the model itself is called with; None where that is not known."""
        return None

    def findings(self, model: PyTree, seen: Examples | None, name: str) -> tuple[Finding, ...]:
        """What the verdict should say of the model on this term's examples; nothing by default.

        Args:
            model: as it is kept.
            seen: the walk's last batch; None where the examples live on the host.
            name: the term's.
        """
        return ()

    # What the engine asks; a subclass rarely changes these.

    def example_cost(self, model: PyTree, example: PyTree, key: Key | None) -> Scalar:
        """Cost of one example by whichever method the term implements."""
        if self.provides("residual"):
            residual = self.residual(model, example, key)
            return jnp.sum(residual * residual)
        if self.provides("loss"):
            return self.loss(model, example, key)
        return self.loss_of_output(self.output(model, example, key), example)

    def mean_cost(self, model: PyTree, examples: Examples, key: Key | None) -> tuple[Scalar, PyTree]:
        """Weighted mean cost over a batch, and the model's running statistics after it (None: unchanged)."""
        if self.is_coupled(model):
            return self.batch_loss(model, examples, key)
        costs = map_examples(lambda example, k: self.example_cost(model, example, k), examples, key)
        return weighted_mean(costs, examples.weights), None


class Slope(eqx.Module):
    """What a term may look at in `refresh`: the bound cost's slope at the walk's present place.

    Attributes:
        model: the model as it stands.
        examples: the term's examples of the present batch.
        gradient_norm: ‖∇ total‖ over the trainable parameters, shape ().
        key: for drawing.
    """

    model: PyTree
    examples: Examples
    gradient_norm: Scalar
    key: Key


def map_examples(function: Any, examples: Examples, key: Key | None) -> PyTree:
    """`function(example, key)` over a batch, each example with a key of its own (None stays None)."""
    if key is None:
        return jax.vmap(lambda example: function(example, None))(examples.values)
    return jax.vmap(function)(examples.values, jax.random.split(key, examples.size))


def weighted_mean(costs: jax.Array, weights: jax.Array | None) -> Scalar:
    """Mean of costs (B,), each times its weight; weights have mean one over the population, not over the batch."""
    if costs.ndim != 1:
        raise UserError(f"a cost of one example must be a scalar, shape (), not {costs.shape[1:]}")
    return jnp.mean(costs if weights is None else costs * weights)


@eqx.filter_jit
def example_costs(term: AbstractTerm, model: PyTree, examples: PyTree) -> jax.Array:
    """The cost of each example (n, …) for a term that takes them one by one, without randomness: shape (n,)."""
    if not jax.tree.leaves(examples):  # a term that looks at the model alone
        return jnp.atleast_1d(term.example_cost(model, examples, None))
    return jax.vmap(lambda example: term.example_cost(model, example, None))(examples)


NUMBERS = 4
"""Of an example that are written out."""


def written(example: PyTree) -> str:
    """The first numbers of an example.

    >>> written((np.array([0.5, 1 / 3]), np.array(2)))
    '(0.5, 0.3333), 2'
    """
    told = []
    for leaf in jax.tree.leaves(example):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        numbers = [f"{value:.4g}" for value in np.ravel(leaf)[:NUMBERS].tolist()]
        more = ", …" if np.size(leaf) > NUMBERS else ""
        told.append(numbers[0] if np.ndim(leaf) == 0 else f"({', '.join(numbers)}{more})")
    return ", ".join(told)

"""How much of a batch's gradient is signal, and how much is the luck of the draw."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.objective.problem import Problem
from thalweg.types import Params, PyTree, Scalar


class GradientSignal(eqx.Module):
    """An unbiased look at one batch's gradient ḡ.

    Attributes:
        signal: estimate of ‖E ḡ‖²; its mean is right, so under pure noise it is as often below 0 as above.
        noise: estimate of E‖ḡ − E ḡ‖², the variance of the batch's gradient (of one term: tr C / B).
        examples: B, the examples of the batch, of all terms together.
    """

    signal: Scalar
    noise: Scalar
    examples: int = eqx.field(static=True)

    def ratio(self, batch: int | None = None) -> Scalar:
        """√B′·SNR for a batch of B′ examples (None: of this size): signal over noise of such a batch's gradient.

        0 where the signal is not above 0; ∞ where there is no noise.
        """
        growth = 1.0 if batch is None else batch / self.examples
        return signal_over_noise(self.signal, self.noise, growth)


def gradient_signal(problem: Problem, params: Params) -> GradientSignal:
    """‖E ḡ‖² and the variance of ḡ from one batch, without bias.

    With a batch of B examples, ‖ḡ‖² overestimates ‖E ḡ‖² by tr C / B, so that the signal is ‖ḡ‖² − tr Ĉ/B, where Ĉ is
    the examples' covariance with B − 1 in the denominator. Several terms, drawn independently, add their variances
    (each with its weight squared). A term that couples the examples of its batch, or that has none, gives no gradient
    of one example: the former is cut into two half-batches, whose difference has four times the variance of their
    mean; the latter has no noise.

    Args:
        problem: the landscape at one batch; each term needs at least two examples for its noise to be known.
        params: where.
    Raises:
        UserError: no term has as many as two.
    """
    gradient = jax.grad(lambda p: problem.evaluate(p)[0])(params)
    signal = _square(gradient)
    noise, examples = jnp.zeros_like(signal), 0
    for name, term in problem.terms.items():
        size = problem.batch[name].size
        if size < 2:
            continue
        examples += size
        alone = _of_term(problem, name)
        if term.is_coupled(problem.static):
            halves = [_gradient(_part(alone, name, i, half), params) for i, half in enumerate(_halves(size))]
            noise = noise + _square(jax.tree.map(lambda a, b: a - b, *halves)) / 4
        else:
            rows = alone.example_gradients(params)[name]
            mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), rows)
            spread = jax.tree.map(lambda g, m: g - m, rows, mean)
            noise = noise + _square(spread) / (size - 1) / size
    if examples == 0:
        raise UserError(
            "no term has two examples in a batch, so their noise cannot be told",
            remedy="Use batches of at least 2 examples, or another condition, such as Plateau().",
        )
    return GradientSignal(signal - noise, noise, examples)


def signal_over_noise(signal: Scalar, noise: Scalar, growth: Any = 1.0) -> Scalar:
    """√(signal·growth / noise), the signal not below 0."""
    kept = jnp.maximum(signal, 0) * growth
    none = noise <= 0
    ratio = jnp.sqrt(kept / jnp.where(none, 1, noise))
    return jnp.where(none, jnp.where(kept > 0, jnp.inf, 0.0).astype(ratio.dtype), ratio)


def _of_term(problem: Problem, name: str) -> Problem:
    """The problem with this term alone."""
    terms, batch = {name: problem.terms[name]}, {name: problem.batch[name]}
    return Problem(terms, problem.static, batch, problem.state, problem.key)


def _part(problem: Problem, name: str, number: int, rows: slice) -> Problem:
    """The problem with some of the term's examples only, and draws of its own, which are noise too."""
    batch = {name: jax.tree.map(lambda leaf: leaf[rows], problem.batch[name])}
    key = None if problem.key is None else jax.random.fold_in(problem.key, number)
    return Problem(problem.terms, problem.static, batch, problem.state, key)


def _gradient(problem: Problem, params: Params) -> PyTree:
    return jax.grad(lambda p: problem.evaluate(p)[0])(params)


def _halves(size: int) -> tuple[slice, slice]:
    half = size // 2
    return slice(0, half), slice(half, 2 * half)


def _square(tree: PyTree) -> Scalar:
    first, *others = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)]
    return sum(others, first)

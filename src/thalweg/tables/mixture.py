"""An ensemble's answer for a numeric target: the equal mixture of its members' distributions."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from thalweg.tables.numbers import AbstractNumberModel
from thalweg.trust import Prediction

CHUNK = 4_096
"""Rows sent through a network at once: bounds memory, and short tables compile for their own length only."""

HALVINGS = 40
"""Of the bracket of a quantile: to 1e-12 of what the members differ by."""


class Mixture:
    """The members' distributions of n rows (Lakshminarayanan et al., 2017), whatever their family.

    Args:
        members: networks of one family.
        x: encoded rows (n, d).
    """

    def __init__(self, members: Sequence[AbstractNumberModel], x: np.ndarray):
        self._model = members[0]
        self._outputs = [_outputs(member, x) for member in members]
        self._distributions = [self._model.distribution(*_parts(output)) for output in self._outputs]

    def prediction(self) -> Prediction:
        """Mean of means; aleatoric² = mean of variances; epistemic² = variance of means; in the target's units."""
        means = np.stack([one.mean() for one in self._distributions])
        variances = np.stack([one.std() for one in self._distributions]) ** 2
        return Prediction(means.mean(0), np.sqrt(variances.mean(0)), means.std(0))

    def costs(self, y: np.ndarray) -> np.ndarray:
        """Negative log of the mixture's probability or density of each row's target, (n,) -> (n,), in nats."""
        loss = jax.jit(jax.vmap(self._model.loss))
        costs = np.stack([loss(output, jnp.asarray(y)) for output in self._outputs])
        return np.log(len(costs)) - scipy.special.logsumexp(-costs, axis=0)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Probability of at most y in each row, (n,) -> (n,)."""
        return np.mean([one.cdf(y) for one in self._distributions], axis=0)

    def quantile(self, level: float) -> np.ndarray:
        """The smallest value that each row does not exceed with this probability, shape (n,).

        It lies between the least and the largest of the members' own, and is found by halving.
        """
        own = np.stack([one.ppf(level) for one in self._distributions])
        low, high = own.min(0), own.max(0)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            if self._model.is_discrete:
                middle = np.floor(middle)
            enough = self.cdf(middle) >= level
            high = np.where(enough, middle, high)
            low = np.where(enough, low, middle + 1 if self._model.is_discrete else middle)
            if not (low < high).any():
                break
        return high


def _parts(output: Any) -> tuple[np.ndarray, ...]:
    return output if isinstance(output, tuple) else (output,)


@eqx.filter_jit
def _call(member: AbstractNumberModel, x: jax.Array) -> Any:
    return jax.vmap(lambda one: member(one, key=None))(x)


def _outputs(member: AbstractNumberModel, x: np.ndarray) -> Any:
    """A member's outputs for all rows, as NumPy arrays (n,)."""
    parts = [jax.tree.map(np.asarray, _call(member, jnp.asarray(x[i : i + CHUNK]))) for i in range(0, len(x), CHUNK)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

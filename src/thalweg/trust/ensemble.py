"""Deep ensembles: several networks, trained from different starts, and what they disagree on."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.trust.prediction import Prediction
from thalweg.types import Model

CHUNK = 4_096
"""Rows sent through a network at once: bounds memory, and short tables compile for their own length only."""


def _outputs(members: Sequence[Model], x: np.ndarray) -> list:
    """Each member's outputs on all rows, as NumPy arrays with a leading axis of rows."""
    if x.ndim != 2:
        raise UserError(f"inputs must be of shape (rows, features), not {x.shape}")
    return [_mapped(member, x) for member in members]


@eqx.filter_jit
def _call(member: Model, x: jax.Array):
    return jax.vmap(lambda one: member(one, key=None))(x)


def _mapped(member: Model, x: np.ndarray):
    parts = [jax.tree.map(np.asarray, _call(member, jnp.asarray(x[i : i + CHUNK]))) for i in range(0, len(x), CHUNK)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def predict_numbers(members: Sequence[Model], x: np.ndarray) -> Prediction:
    """A mixture of Gaussians, one a member (Lakshminarayanan et al., 2017, section 2.4).

    Args:
        members: models of one row, each returning (mean, log_scale) of shape ().
        x: inputs (n, d).
    Returns:
        mean of the means; aleatoric² = mean of the variances; epistemic² = variance of the means.
    """
    outputs = _outputs(members, x)
    means = np.stack([np.ravel(mean) for mean, _ in outputs])
    scales = np.exp(np.stack([np.ravel(log_scale) for _, log_scale in outputs]))
    return Prediction(means.mean(0), np.sqrt((scales**2).mean(0)), means.std(0))


def predict_classes(members: Sequence[Model], x: np.ndarray) -> Prediction:
    """The mean of the members' class probabilities.

    Args:
        members: models of one row, each returning logits (k,).
        x: inputs (n, d).
    Returns:
        probabilities (n, k); aleatoric² = mean of p(1 − p); epistemic² = variance of p over the members. They add up to
        the variance p̄(1 − p̄) of the class's indicator.
    """
    logits = np.stack(_outputs(members, x))
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    p = shifted / shifted.sum(-1, keepdims=True)
    return Prediction(p.mean(0), np.sqrt((p * (1 - p)).mean(0)), p.std(0))

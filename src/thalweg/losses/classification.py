"""Losses for targets that are classes."""

import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.losses.loss import AbstractLoss, check_shapes


class CrossEntropy(AbstractLoss):
    """-log softmax(logits)[target], exactly; summed over the positions where an example has several.

    The output of the model is the logits, shape (*target's, classes); the target the integer class, 0 … classes - 1. A
    class outside that range gives NaN, for an index can only be checked when the compiled program runs.

    Raises:
        UserError: at the call, a target that is no integer, or logits whose shape does not fit it.

    >>> cross_entropy(jnp.zeros(4), jnp.array(2))  # log 4
    Array(1.3862944, dtype=float32)
    """

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Logits (..., classes) and classes (...), to a scalar."""
        if not jnp.issubdtype(target.dtype, jnp.integer):
            raise UserError(
                f"a target of dtype {target.dtype} in place of integer classes",
                where="CrossEntropy",
                remedy="Number the classes from 0.",
            )
        classes = output.shape[-1] if output.ndim else 0
        check_shapes(self, output, (*target.shape, classes), target)
        # A comparison where an index would do: its gradient is no scatter, which is slow.
        chosen = jnp.arange(classes, dtype=jnp.int32) == target.astype(jnp.int32)[..., None]
        logit = jnp.sum(jnp.where(chosen, output, 0), axis=-1)
        logit = jnp.where(jnp.any(chosen, axis=-1), logit, jnp.nan)
        return jnp.sum(jax.nn.logsumexp(output, axis=-1) - logit)


cross_entropy = CrossEntropy()

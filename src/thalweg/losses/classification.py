"""Losses for targets that are classes, or probabilities of classes."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.losses.loss import AbstractLoss, check_arrays, check_shapes, on_host, refuse_rows

SUM_TOLERANCE = 1e-3
"""How far the probabilities of a soft target may be from adding up to 1: a float16's rounding."""


class CrossEntropy(AbstractLoss):
    """-Σ_k p_k log softmax(logits)_k, exactly; summed over the positions where an example has several.

    The output of the model is the logits, shape (*positions, classes). The target is hard, the integer class 0 …
    classes - 1 of each position, shape (*positions,); or soft, the probabilities p, floating point, shape (*positions,
    classes). A class outside its range, or a negative probability, gives NaN, for it can only be checked when the
    compiled program runs; `check_targets` and `check_outputs` check what they can before.

    Args:
        smoothing: share ε in [0, 1) of each target that goes to all K classes alike, (1 - ε) p + ε/K (label smoothing,
            Szegedy et al., 2016). With 0 a hard target costs its exact negative log probability.
    Raises:
        UserError: smoothing out of range; at the call, logits whose shape does not fit the target.

    >>> cross_entropy(jnp.zeros(4), jnp.array(2))  # log 4
    Array(1.3862944, dtype=float32)
    >>> cross_entropy(jnp.array([0.0, 0.0, -1e9]), jnp.array([0.5, 0.5, 0.0]))  # log 2
    Array(0.6931472, dtype=float32)
    """

    smoothing: float = eqx.field(static=True)

    def __init__(self, smoothing: float = 0.0):
        self.smoothing = _checked_smoothing(smoothing, "CrossEntropy")

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Logits (..., classes), and classes (...) or probabilities (..., classes), to a scalar."""
        check_arrays(self, output, target)
        total = jax.nn.logsumexp(output, axis=-1) if output.ndim else output
        if jnp.issubdtype(target.dtype, jnp.integer):
            cost = total - _logit_of(self, output, target)
        else:
            cost = self._soft(output, target, total)
        if self.smoothing != 0:
            uniform = total - jnp.mean(output, axis=-1)
            cost = (1 - self.smoothing) * cost + self.smoothing * uniform
        return jnp.sum(cost)

    def _soft(self, output: jax.Array, target: jax.Array, total: jax.Array) -> jax.Array:
        if not jnp.issubdtype(target.dtype, jnp.floating) or target.shape != output.shape or target.ndim == 0:
            raise UserError(
                f"a target of dtype {target.dtype}, shape {target.shape} against logits of shape {output.shape}",
                where="CrossEntropy",
                remedy="Number the classes from 0 as integers, or give a probability for each logit.",
            )
        share = jnp.where(target >= 0, target, jnp.nan).astype(output.dtype)
        # A logit of -∞ where the target is 0 costs nothing.
        each = jnp.where(target == 0, 0, share * (total[..., None] - jnp.where(target == 0, 0, output)))
        return jnp.sum(each, axis=-1)

    def check_targets(self, targets: Any) -> None:
        """Refuse hard targets below 0, and soft ones that are no probabilities adding up to 1 over the last axis."""
        values = on_host(targets)
        if values is None or values.dtype.kind in "iu":
            refuse_rows(self, targets, "a class 0, 1, 2, …", lambda classes: classes < 0)
            return
        _refuse_improbable(self, targets)
        sums = values.astype(np.float64).sum(axis=-1) if values.ndim > 1 else np.ones(1)
        what = "the sum of the probabilities in a target"
        refuse_rows(self, sums, "1", lambda total: np.abs(total - 1) > SUM_TOLERANCE, what)

    def check_outputs(self, output: Any, targets: Any) -> None:
        """Refuse classes that have no logit."""
        _refuse_beyond(self, output, targets)


class Focal(AbstractLoss):
    """-α_c (1 - p_c)^γ log p_c of the true class c, p = softmax(logits); summed over the positions of an example.

    Examples that are easy by now weigh little, so that a rare and hard class is heard (Lin et al., 2017). With γ = 0
    and no α it is the cross-entropy. With γ > 0 it is no likelihood: its probabilities are not calibrated.

    The output of the model is the logits, shape (*target's, classes), at least two; the target the integer class. A
    class out of range gives NaN.

    Args:
        gamma: γ ≥ 0.
        alpha: a weight ≥ 0 for each class; None for 1.
    Raises:
        UserError: a negative γ or α; at the call, a target that is no integer, or logits whose shape does not fit it.

    >>> Focal(2.0)(jnp.zeros(2), jnp.array(1))  # ¼ log 2
    Array(0.1732868, dtype=float32)
    """

    gamma: float = eqx.field(static=True)
    alpha: tuple[float, ...] | None = eqx.field(static=True)

    def __init__(self, gamma: float = 2.0, alpha: Sequence[float] | None = None):
        self.gamma = _checked_gamma(gamma, "Focal")
        self.alpha = None if alpha is None else tuple(float(weight) for weight in alpha)
        if self.alpha is not None and not all(math.isfinite(weight) and weight >= 0 for weight in self.alpha):
            raise UserError(f"alpha {alpha} of Focal is not all ≥ 0", remedy="Give a weight for each class.")

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Logits (..., classes) and classes (...), to a scalar."""
        logit = _logit_of(self, output, target)
        classes = output.shape[-1]
        if classes < 2 or (self.alpha is not None and len(self.alpha) != classes):
            weights = "no alpha" if self.alpha is None else f"{len(self.alpha)} weights in alpha"
            raise UserError(f"{classes} logits and {weights}", where="Focal", remedy="One weight a class, two classes.")
        chosen = _is_chosen(output, target)
        log_others = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, output), axis=-1)
        margin = logit - log_others  # p = sigmoid(margin)
        cost = _focal(margin, self.gamma)
        if self.alpha is not None:
            cost = cost * jnp.sum(jnp.where(chosen, jnp.asarray(self.alpha, output.dtype), 0), axis=-1)
        return jnp.sum(cost)

    def check_targets(self, targets: Any) -> None:
        """Refuse targets below 0."""
        refuse_rows(self, targets, "a class 0, 1, 2, …", lambda classes: classes < 0)

    def check_outputs(self, output: Any, targets: Any) -> None:
        """Refuse classes that have no logit."""
        _refuse_beyond(self, output, targets)


class BinaryCrossEntropy(AbstractLoss):
    """-y log p - (1 - y) log(1 - p), p = sigmoid(logit), exactly; summed over the components.

    The output of the model is the logit, of the target's shape: log(p/(1 - p)) of the probability of "yes". The
    target is hard (booleans, or the numbers 0 and 1) or soft, a probability in [0, 1]; anything else costs NaN, and
    `check_targets` names it. Hard, it is Bernoulli's negative log probability; soft, the cross-entropy, which is least
    at p = y but is no density of y.

    Args:
        smoothing: share ε in [0, 1) of each target that goes to both sides alike, (1 - ε) y + ε/2.
    Raises:
        UserError: smoothing out of range; at the call, output and target differ in shape.

    >>> binary_cross_entropy(jnp.zeros(2), jnp.array([True, False]))  # 2 log 2
    Array(1.3862944, dtype=float32)
    """

    smoothing: float = eqx.field(static=True)

    def __init__(self, smoothing: float = 0.0):
        self.smoothing = _checked_smoothing(smoothing, "BinaryCrossEntropy")

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Logit and target of one shape, to a scalar."""
        check_shapes(self, output, target)
        yes = target.astype(output.dtype)
        yes = jnp.where((yes >= 0) & (yes <= 1), yes, jnp.nan)
        yes = (1 - self.smoothing) * yes + 0.5 * self.smoothing
        return jnp.sum(yes * jax.nn.softplus(-output) + (1 - yes) * jax.nn.softplus(output))

    def check_targets(self, targets: Any) -> None:
        """Refuse targets outside [0, 1]."""
        _refuse_improbable(self, targets)


class BinaryFocal(AbstractLoss):
    """-α_t (1 - p_t)^γ log p_t, p_t the probability given to the true side; summed over the components.

    Lin et al. (2017), equations 4 and 5; see `Focal`. The output of the model is the logit of "yes", of the target's
    shape; the target booleans, or the numbers 0 and 1: anything else costs NaN, and `check_targets` names it.

    Args:
        gamma: γ ≥ 0.
        alpha: weight of "yes" in [0, 1], that of "no" being 1 - alpha; None weighs both 1. (The paper's choice: 0.25.)
    Raises:
        UserError: γ negative or α out of range; at the call, output and target differ in shape.

    >>> BinaryFocal(2.0)(jnp.array(0.0), jnp.array(True))  # ¼ log 2
    Array(0.1732868, dtype=float32)
    """

    gamma: float = eqx.field(static=True)
    alpha: float | None = eqx.field(static=True)

    def __init__(self, gamma: float = 2.0, alpha: float | None = None):
        self.gamma = _checked_gamma(gamma, "BinaryFocal")
        if alpha is not None and not 0 <= alpha <= 1:
            raise UserError(f"alpha {alpha} of BinaryFocal lies outside [0, 1]", remedy="The authors' choice is 0.25.")
        self.alpha = alpha

    def __call__(self, output: jax.Array, target: jax.Array) -> jax.Array:
        """Logit and target of one shape, to a scalar."""
        check_shapes(self, output, target)
        yes = target.astype(output.dtype)
        yes = jnp.where((yes == 0) | (yes == 1), yes, jnp.nan)
        cost = _focal((2 * yes - 1) * output, self.gamma)
        if self.alpha is not None:
            cost = cost * (yes * self.alpha + (1 - yes) * (1 - self.alpha))
        return jnp.sum(cost)

    def check_targets(self, targets: Any) -> None:
        """Refuse targets other than 0 and 1."""
        refuse_rows(self, targets, "0 or 1", lambda values: (values != 0) & (values != 1))


def _focal(margin: jax.Array, gamma: float) -> jax.Array:
    """-(1 - p)^γ log p, p = sigmoid(margin); in logarithms, so that its gradient is finite for every γ ≥ 0."""
    return jnp.exp(-gamma * jax.nn.softplus(margin)) * jax.nn.softplus(-margin)


def _is_chosen(output: jax.Array, target: jax.Array) -> jax.Array:
    # A comparison where an index would do: its gradient is no scatter, which is slow.
    return jnp.arange(output.shape[-1], dtype=jnp.int32) == target.astype(jnp.int32)[..., None]


def _logit_of(loss: AbstractLoss, output: jax.Array, target: jax.Array) -> jax.Array:
    """The logit of the true class, NaN where there is none such."""
    check_arrays(loss, output, target)
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise UserError(
            f"a target of dtype {target.dtype} in place of integer classes",
            where=type(loss).__name__,
            remedy="Number the classes from 0.",
        )
    check_shapes(loss, output, target, output.shape[-1] if output.ndim else 0)
    chosen = _is_chosen(output, target)
    logit = jnp.sum(jnp.where(chosen, output, 0), axis=-1)
    return jnp.where(jnp.any(chosen, axis=-1), logit, jnp.nan)


def _refuse_beyond(loss: AbstractLoss, output: Any, targets: Any) -> None:
    if type(loss).__call__ not in (CrossEntropy.__call__, Focal.__call__):
        return  # a user's own, whose classes may lie along another axis
    found, shape = on_host(targets), getattr(output, "shape", ())
    if found is not None and found.dtype.kind in "iu" and shape:
        count = shape[-1]
        refuse_rows(loss, found, f"a class 0 … {count - 1} for {count} logits", lambda classes: classes >= count)


def _refuse_improbable(loss: AbstractLoss, targets: Any) -> None:
    refuse_rows(loss, targets, "a probability in [0, 1]", lambda values: ~((values >= 0) & (values <= 1)))


def _checked_smoothing(smoothing: float, name: str) -> float:
    if not 0 <= smoothing < 1:
        raise UserError(f"smoothing {smoothing} of {name} lies outside [0, 1)", remedy="0.1 is usual.")
    return float(smoothing)


def _checked_gamma(gamma: float, name: str) -> float:
    if not (math.isfinite(gamma) and gamma >= 0):
        raise UserError(f"gamma {gamma} of {name} is negative", remedy="The authors' choice is 2.")
    return float(gamma)


cross_entropy = CrossEntropy()
binary_cross_entropy = BinaryCrossEntropy()

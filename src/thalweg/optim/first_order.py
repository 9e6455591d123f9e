"""First-order optimizers: any Optax transform as an optimizer, the common ones by name, and weight averaging."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from thalweg.errors import UserError
from thalweg.objective.problem import Problem
from thalweg.optim.optimizer import AbstractOptimizer, StepInfo, checked_rate, going, value_and_gradient
from thalweg.types import Key, Params, PyTree

Rate = float | Callable[[Any], Any]


class FirstOrder(AbstractOptimizer):
    """Any Optax gradient transform.

    Args:
        transform: an `optax.GradientTransformation`.
        clip: largest global norm of the gradient; None does not clip (Pascanu et al., 2013).

    >>> import optax
    >>> optimizer = FirstOrder(optax.lion(1e-4), clip=1.0)
    """

    transform: optax.GradientTransformation = eqx.field(static=True)

    def __init__(self, transform: optax.GradientTransformation, *, clip: float | None = None):
        if clip is not None:
            transform = optax.chain(optax.clip_by_global_norm(checked_rate(clip, "clipping norm")), transform)
        self.transform = transform

    def init(self, problem: Problem, params: Params, key: Key) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes int32 counts with floats
            return self.transform.init(params)

    def step(self, problem: Problem, params: Params, state: PyTree, key: Key) -> tuple[Params, PyTree, StepInfo]:
        total, evaluation, gradient = value_and_gradient(problem, params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = self.transform.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        info = StepInfo(total, evaluation.parts, True, evaluation.model_state, going(), {})
        return params, state, info


def SGD(rate: Rate, *, momentum: float = 0.0, nesterov: bool = False, clip: float | None = None) -> FirstOrder:
    """Stochastic gradient descent: θ ← θ − η·v, v ← μ·v + g (Polyak, 1964; Nesterov, 1983, as Sutskever et al., 2013).

    Args:
        rate: learning rate η, or a schedule step -> η.
        momentum: μ, at least 0 and below 1.
        nesterov: take the gradient's step ahead of the momentum.
        clip: largest global norm of the gradient.

    >>> optimizer = SGD(0.1, momentum=0.9)
    """
    if not 0 <= momentum < 1:
        raise UserError(f"momentum must be at least 0 and below 1, not {momentum}")
    if nesterov and not momentum:
        raise UserError("Nesterov's step needs a momentum", remedy="A common one is momentum=0.9.")
    return FirstOrder(optax.sgd(checked_rate(rate), momentum or None, nesterov=nesterov), clip=clip)


def Adam(rate: Rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, clip: float | None = None) -> FirstOrder:
    """Adam (Kingma and Ba, 2015, algorithm 1).

    Args:
        rate: learning rate, or a schedule step -> rate.
        b1, b2: memories of the gradient's first and second moment, below 1.
        eps: added to the root of the second moment.
        clip: largest global norm of the gradient.

    >>> optimizer = Adam(1e-3)
    """
    _check_moments(b1, b2, eps)
    return FirstOrder(optax.adam(checked_rate(rate), b1, b2, eps), clip=clip)


def AdamW(
    rate: Rate,
    *,
    decay: float = 1e-2,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip: float | None = None,
) -> FirstOrder:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): weights also shrink by (1 − η·decay).

    Args:
        rate: learning rate η, or a schedule step -> η.
        decay: strength, not negative.
        b1, b2, eps, clip: as `Adam`.

    >>> optimizer = AdamW(1e-3, decay=1e-2)
    """
    if not 0 <= decay < float("inf"):
        raise UserError(f"weight decay must be a number not below 0, not {decay!r}")
    _check_moments(b1, b2, eps)
    return FirstOrder(optax.adamw(checked_rate(rate), b1, b2, eps, weight_decay=decay), clip=clip)


def _check_moments(b1: float, b2: float, eps: float) -> None:
    if not (0 <= b1 < 1 and 0 <= b2 < 1 and eps >= 0):
        raise UserError(f"b1 and b2 must be at least 0 and below 1, eps not below 0, not {b1}, {b2} and {eps}")


class Averaged(AbstractOptimizer):
    """Any optimizer, judged and kept at an exponential average of its params (Polyak and Juditsky, 1992).

    Args:
        optimizer: what walks.
        decay: memory of the average, below 1; a ramp min(decay, (1 + t)/(10 + t)) lets it forget the start.

    >>> optimizer = Averaged(Adam(1e-3), decay=0.999)
    """

    optimizer: AbstractOptimizer
    decay: float = eqx.field(static=True)

    def __init__(self, optimizer: AbstractOptimizer, *, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise UserError(f"the average's decay must be at least 0 and below 1, not {decay}")
        self.optimizer, self.decay = optimizer, decay

    def init(self, problem: Problem, params: Params, key: Key) -> PyTree:
        return self.optimizer.init(problem, params, key), params, jnp.zeros((), jnp.int32)

    def step(self, problem: Problem, params: Params, state: PyTree, key: Key) -> tuple[Params, PyTree, StepInfo]:
        inner, average, count = state
        params, inner, info = self.optimizer.step(problem, params, inner, key)
        t = count.astype(jnp.float32)
        memory = jnp.minimum(jnp.float32(self.decay), (1 + t) / (10 + t))
        moved = jax.tree.map(lambda a, p: a + (1 - memory.astype(a.dtype)) * (p - a), average, params)
        return params, (inner, moved, count + 1), info

    def redraw(self, problem: Problem, params: Params, state: PyTree) -> PyTree:
        return self.optimizer.redraw(problem, params, state[0]), *state[1:]

    @property
    def descends(self) -> bool:
        return self.optimizer.descends

    def eval_params(self, params: Params, state: PyTree) -> Params:
        return state[1]

"""First-order optimizers: any Optax transform as an optimizer, and the common ones by name."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from optax import contrib

from thalweg.errors import UserError
from thalweg.objective.problem import Problem
from thalweg.optim.optimizer import AbstractOptimizer, StepInfo, going, value_and_gradient
from thalweg.optim.schedules import Rate, check_length, checked_rate, rate_at
from thalweg.types import Key, Params, PyTree


class AbstractFirstOrder(AbstractOptimizer):
    """A step along what a gradient transform makes of the gradient.

    Attributes:
        transform: the whole rule, learning rate included.
        rate: the learning rate or schedule within it, for the record; None if it is not known.
    """

    transform: eqx.AbstractVar[optax.GradientTransformation]
    rate: eqx.AbstractVar[Rate | None]

    def init(self, problem: Problem, params: Params, key: Key) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes int32 counts with floats
            return self.transform.init(params), jnp.zeros((), jnp.int32)

    def step(self, problem: Problem, params: Params, state: PyTree, key: Key) -> tuple[Params, PyTree, StepInfo]:
        memory, count = state
        total, evaluation, gradient = value_and_gradient(problem, params)
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = self.transform.update(gradient, memory, params)
            figures = {} if self.rate is None else {"rate": rate_at(self.rate, count)}
        params = optax.apply_updates(params, updates)
        info = StepInfo(total, evaluation.parts, True, evaluation.model_state, going(), figures)
        return params, (memory, count + 1), info

    def check_steps(self, steps: int) -> None:
        check_length(self.rate, steps)


class FirstOrder(AbstractFirstOrder):
    """Any Optax gradient transform.

    Args:
        transform: an `optax.GradientTransformation`.
        clip: largest global norm of the gradient; None does not clip (Pascanu et al., 2013).

    >>> import optax
    >>> optimizer = FirstOrder(optax.lion(1e-4), clip=1.0)
    """

    transform: optax.GradientTransformation = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True, default=None)

    def __init__(self, transform: optax.GradientTransformation, *, clip: float | None = None):
        if not (callable(getattr(transform, "init", None)) and callable(getattr(transform, "update", None))):
            raise UserError(
                f"FirstOrder needs an Optax gradient transform, not {type(transform).__name__}",
                remedy="FirstOrder(optax.lion(1e-4)), for instance.",
            )
        self.transform, self.rate = _clipped(transform, clip), None


class SGD(AbstractFirstOrder):
    """Stochastic gradient descent: θ ← θ − η·v, v ← μ·v + g (Polyak, 1964; Nesterov, 1983, as Sutskever et al., 2013).

    Args:
        rate: learning rate η, or a schedule step -> η.
        momentum: μ, at least 0 and below 1.
        nesterov: take the gradient's step ahead of the momentum.
        clip: largest global norm of the gradient.

    >>> optimizer = SGD(0.1, momentum=0.9)
    """

    transform: optax.GradientTransformation = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True)

    def __init__(self, rate: Rate, *, momentum: float = 0.0, nesterov: bool = False, clip: float | None = None):
        _check_share(momentum, "momentum")
        if nesterov and not momentum:
            raise UserError("Nesterov's step needs a momentum", remedy="A common one is momentum=0.9.")
        self.rate = checked_rate(rate)
        self.transform = _clipped(optax.sgd(self.rate, momentum or None, nesterov=nesterov), clip)


class AdaGrad(AbstractFirstOrder):
    """Rate divided by the root of all squared gradients so far: θ ← θ − η·g / (√Σg² + ε) (Duchi et al., 2011).

    Under a constant gradient the effective rate falls as 1/√t; it never recovers from a large gradient.

    Args:
        rate: learning rate η, or a schedule step -> η.
        eps: keeps the first step of a vanishing gradient finite, above 0.
        clip: largest global norm of the gradient.

    >>> optimizer = AdaGrad(0.1)
    """

    transform: optax.GradientTransformation = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True)

    def __init__(self, rate: Rate, *, eps: float = 1e-10, clip: float | None = None):
        self.rate = checked_rate(rate)
        scale = optax.GradientTransformation(_zeros, partial(_divided_by_root, _above_zero(eps)))
        self.transform = _clipped(optax.chain(scale, optax.scale_by_learning_rate(self.rate)), clip)


class RMSprop(AbstractFirstOrder):
    """Rate divided by the root of a fading mean of squared gradients (Tieleman and Hinton, 2012).

    v ← β·v + (1−β)·g², θ ← θ − η·g / (√v + ε): a large gradient is forgotten after about 1/(1−β) steps.

    Args:
        rate: learning rate η, or a schedule step -> η.
        decay: memory β, below 1.
        momentum: of the divided gradient, below 1.
        eps: added to the root, above 0.
        clip: largest global norm of the gradient.

    >>> optimizer = RMSprop(1e-3)
    """

    transform: optax.GradientTransformation = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True)

    def __init__(
        self,
        rate: Rate,
        *,
        decay: float = 0.99,
        momentum: float = 0.0,
        eps: float = 1e-8,
        clip: float | None = None,
    ):
        _check_share(decay, "decay")
        _check_share(momentum, "momentum")
        self.rate, eps = checked_rate(rate), _above_zero(eps)
        transform = optax.rmsprop(self.rate, decay, eps, eps_in_sqrt=False, momentum=momentum or None)
        self.transform = _clipped(transform, clip)


class Adam(AbstractFirstOrder):
    """Adam (Kingma and Ba, 2015, algorithm 1).

    Args:
        rate: learning rate, or a schedule step -> rate.
        b1, b2: memories of the gradient's first and second moment, below 1.
        eps: added to the root of the second moment.
        clip: largest global norm of the gradient.

    >>> optimizer = Adam(1e-3)
    """

    transform: optax.GradientTransformation = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True)

    def __init__(self, rate: Rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, clip: float | None = None):
        _check_moments(b1, b2, eps)
        self.rate = checked_rate(rate)
        self.transform = _clipped(optax.adam(self.rate, b1, b2, eps), clip)


class AdamW(AbstractFirstOrder):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): weights also shrink by (1 − η·decay).

    Args:
        rate: learning rate η, or a schedule step -> η.
        decay: strength, not negative.
        b1, b2, eps, clip: as `Adam`.

    >>> optimizer = AdamW(1e-3, decay=1e-2)
    """

    transform: optax.GradientTransformation = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True)

    def __init__(
        self,
        rate: Rate,
        *,
        decay: float = 1e-2,
        b1: float = 0.9,
        b2: float = 0.999,
        eps: float = 1e-8,
        clip: float | None = None,
    ):
        if not (isinstance(decay, int | float) and 0 <= decay < float("inf")):
            raise UserError(f"weight decay must be a number not below 0, not {decay!r}")
        _check_moments(b1, b2, eps)
        self.rate = checked_rate(rate)
        self.transform = _clipped(optax.adamw(self.rate, b1, b2, eps, weight_decay=decay), clip)


class Muon(AbstractFirstOrder):
    """Matrices move by their orthogonalized momentum, all else by Adam (Jordan et al., 2024).

    The momentum M of an (m, n) matrix becomes about U·Vᵀ of its singular value decomposition by five Newton–Schulz
    steps, times √max(1, n/m).

    Args:
        rate: learning rate, or a schedule step -> rate; of matrices and of all else.
        momentum: memory of the matrices' gradients, below 1; Nesterov's.
        clip: largest global norm of the gradient.

    >>> optimizer = Muon(0.02)
    """

    transform: optax.GradientTransformation = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True)

    def __init__(self, rate: Rate, *, momentum: float = 0.95, clip: float | None = None):
        _check_share(momentum, "momentum")
        self.rate = checked_rate(rate)
        self.transform = _clipped(contrib.muon(self.rate, beta=momentum), clip)


def _zeros(params: Params) -> Params:
    return jax.tree.map(jnp.zeros_like, params)


def _divided_by_root(eps: float, updates: Params, state: Params, params: Params | None = None) -> tuple[Params, Params]:
    """As AdaGrad was published: Optax's puts ε under the root and begins the sum at 0.1."""
    squares = jax.tree.map(lambda total, g: total + g * g, state, updates)
    return jax.tree.map(lambda g, total: g / (jnp.sqrt(total) + eps), updates, squares), squares


def _clipped(transform: optax.GradientTransformation, clip: float | None) -> optax.GradientTransformation:
    if clip is None:
        return transform
    if not (isinstance(clip, int | float) and 0 < clip < float("inf")):
        raise UserError(f"the clipping norm must be a number above 0, not {clip!r}")
    return optax.chain(optax.clip_by_global_norm(clip), transform)


def _check_moments(b1: float, b2: float, eps: float) -> None:
    numbers = all(isinstance(value, int | float) for value in (b1, b2, eps))
    if not (numbers and 0 <= b1 < 1 and 0 <= b2 < 1 and 0 <= eps < float("inf")):
        raise UserError(f"b1 and b2 must be at least 0 and below 1, eps not below 0, not {b1!r}, {b2!r} and {eps!r}")


def _check_share(value: float, what: str) -> None:
    if not (isinstance(value, int | float) and 0 <= value < 1):
        raise UserError(f"{what} must be at least 0 and below 1, not {value!r}")


def _above_zero(eps: float) -> float:
    if not (isinstance(eps, int | float) and 0 < eps < float("inf")):
        raise UserError(f"eps must be a number above 0, not {eps!r}")
    return float(eps)

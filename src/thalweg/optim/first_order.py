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
        rate: the learning rate or schedule, for the record; None if it is not known.
        clip: largest global norm of the gradient; None does not clip (Pascanu et al., 2013).
    """

    rate: eqx.AbstractVar[Rate | None]
    clip: eqx.AbstractVar[float | None]

    def rule(self) -> optax.GradientTransformation:
        """The transform, learning rate included, before any clipping."""
        raise NotImplementedError

    def transform(self) -> optax.GradientTransformation:
        """The whole transform."""
        return self.rule() if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), self.rule())

    def init(self, problem: Problem, params: Params, key: Key) -> PyTree:
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes int32 counts with floats
            return self.transform().init(params), jnp.zeros((), jnp.int32)

    def step(self, problem: Problem, params: Params, state: PyTree, key: Key) -> tuple[Params, PyTree, StepInfo]:
        memory, count = state
        total, evaluation, gradient = value_and_gradient(problem, params)
        with jax.numpy_dtype_promotion("standard"):
            updates, memory = self.transform().update(gradient, memory, params)
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
        clip: largest global norm of the gradient.

    >>> import optax
    >>> optimizer = FirstOrder(optax.lion(1e-4), clip=1.0)
    """

    given: optax.GradientTransformation = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)
    rate: Rate | None = eqx.field(static=True)

    def __init__(self, transform: optax.GradientTransformation, *, clip: float | None = None):
        if not (callable(getattr(transform, "init", None)) and callable(getattr(transform, "update", None))):
            raise UserError(
                f"FirstOrder needs an Optax gradient transform, not {type(transform).__name__}",
                remedy="FirstOrder(optax.lion(1e-4)), for instance.",
            )
        self.given, self.clip, self.rate = transform, _checked_clip(clip), None

    def rule(self) -> optax.GradientTransformation:
        return self.given


class SGD(AbstractFirstOrder):
    """Stochastic gradient descent: θ ← θ − η·v, v ← μ·v + g (Polyak, 1964; Nesterov, 1983, as Sutskever et al., 2013).

    Args:
        rate: learning rate η, or a schedule step -> η.
        momentum: μ, at least 0 and below 1.
        nesterov: take the gradient's step ahead of the momentum.
        clip: largest global norm of the gradient.

    >>> optimizer = SGD(0.1, momentum=0.9)
    """

    rate: Rate | None = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    nesterov: bool = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(self, rate: Rate, *, momentum: float = 0.0, nesterov: bool = False, clip: float | None = None):
        if nesterov and not momentum:
            raise UserError("Nesterov's step needs a momentum", remedy="A common one is momentum=0.9.")
        self.rate, self.clip = checked_rate(rate), _checked_clip(clip)
        self.momentum, self.nesterov = _checked_share(momentum, "momentum"), bool(nesterov)

    def rule(self) -> optax.GradientTransformation:
        return optax.sgd(_known(self.rate), self.momentum or None, nesterov=self.nesterov)


class AdaGrad(AbstractFirstOrder):
    """Rate divided by the root of all squared gradients so far: θ ← θ − η·g / (√Σg² + ε) (Duchi et al., 2011).

    Under a constant gradient the effective rate falls as 1/√t; it never recovers from a large gradient.

    Args:
        rate: learning rate η, or a schedule step -> η.
        eps: keeps the first step of a vanishing gradient finite, above 0.
        clip: largest global norm of the gradient.

    >>> optimizer = AdaGrad(0.1)
    """

    rate: Rate | None = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(self, rate: Rate, *, eps: float = 1e-10, clip: float | None = None):
        self.rate, self.eps, self.clip = checked_rate(rate), _above_zero(eps, "eps"), _checked_clip(clip)

    def rule(self) -> optax.GradientTransformation:
        scale = optax.GradientTransformation(_zeros, partial(_divided_by_root, self.eps))
        return optax.chain(scale, optax.scale_by_learning_rate(_known(self.rate)))


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

    rate: Rate | None = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(
        self,
        rate: Rate,
        *,
        decay: float = 0.99,
        momentum: float = 0.0,
        eps: float = 1e-8,
        clip: float | None = None,
    ):
        self.rate, self.clip, self.eps = checked_rate(rate), _checked_clip(clip), _above_zero(eps, "eps")
        self.decay, self.momentum = _checked_share(decay, "decay"), _checked_share(momentum, "momentum")

    def rule(self) -> optax.GradientTransformation:
        # Optax's own RMSprop puts the rate into the momentum, which is another method once the rate changes
        scale = optax.scale_by_rms(self.decay, self.eps, eps_in_sqrt=False)
        momentum = optax.trace(self.momentum) if self.momentum else optax.identity()
        return optax.chain(scale, momentum, optax.scale_by_learning_rate(_known(self.rate)))


class Adam(AbstractFirstOrder):
    """Adam (Kingma and Ba, 2015, algorithm 1).

    Args:
        rate: learning rate, or a schedule step -> rate.
        b1, b2: memories of the gradient's first and second moment, below 1.
        eps: added to the root of the second moment.
        clip: largest global norm of the gradient.

    >>> optimizer = Adam(1e-3)
    """

    rate: Rate | None = eqx.field(static=True)
    b1: float = eqx.field(static=True)
    b2: float = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(self, rate: Rate, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, clip: float | None = None):
        _check_moments(b1, b2, eps)
        self.rate, self.clip = checked_rate(rate), _checked_clip(clip)
        self.b1, self.b2, self.eps = b1, b2, eps

    def rule(self) -> optax.GradientTransformation:
        return optax.adam(_known(self.rate), self.b1, self.b2, self.eps)


class AdamW(AbstractFirstOrder):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): weights also shrink by (1 − η·decay).

    Args:
        rate: learning rate η, or a schedule step -> η.
        decay: strength, not negative.
        b1, b2, eps, clip: as `Adam`.

    >>> optimizer = AdamW(1e-3, decay=1e-2)
    """

    rate: Rate | None = eqx.field(static=True)
    decay: float = eqx.field(static=True)
    b1: float = eqx.field(static=True)
    b2: float = eqx.field(static=True)
    eps: float = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

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
        self.rate, self.clip = checked_rate(rate), _checked_clip(clip)
        self.decay, self.b1, self.b2, self.eps = decay, b1, b2, eps

    def rule(self) -> optax.GradientTransformation:
        return optax.adamw(_known(self.rate), self.b1, self.b2, self.eps, weight_decay=self.decay)


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

    rate: Rate | None = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)

    def __init__(self, rate: Rate, *, momentum: float = 0.95, clip: float | None = None):
        self.rate, self.clip = checked_rate(rate), _checked_clip(clip)
        self.momentum = _checked_share(momentum, "momentum")

    def rule(self) -> optax.GradientTransformation:
        return contrib.muon(_known(self.rate), beta=self.momentum)


def _known(rate: Rate | None) -> Rate:
    assert rate is not None, "every optimizer but a bare transform knows its rate"
    return rate


def _zeros(params: Params) -> Params:
    return jax.tree.map(jnp.zeros_like, params)


def _divided_by_root(eps: float, updates: Params, state: Params, params: Params | None = None) -> tuple[Params, Params]:
    """As AdaGrad was published: Optax's puts ε under the root and begins the sum at 0.1."""
    squares = jax.tree.map(lambda total, g: total + g * g, state, updates)
    return jax.tree.map(lambda g, total: g / (jnp.sqrt(total) + eps), updates, squares), squares


def _checked_clip(clip: float | None) -> float | None:
    return None if clip is None else _above_zero(clip, "the clipping norm")


def _check_moments(b1: float, b2: float, eps: float) -> None:
    numbers = all(isinstance(value, int | float) for value in (b1, b2, eps))
    if not (numbers and 0 <= b1 < 1 and 0 <= b2 < 1 and 0 <= eps < float("inf")):
        raise UserError(f"b1 and b2 must be at least 0 and below 1, eps not below 0, not {b1!r}, {b2!r} and {eps!r}")


def _checked_share(value: float, what: str) -> float:
    if not (isinstance(value, int | float) and 0 <= value < 1):
        raise UserError(f"{what} must be at least 0 and below 1, not {value!r}")
    return float(value)


def _above_zero(value: float, what: str) -> float:
    if not (isinstance(value, int | float) and 0 < value < float("inf")):
        raise UserError(f"{what} must be a number above 0, not {value!r}")
    return float(value)

"""What every public term and loss owes the engine: one trace, its precision kept, a slope that points uphill."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg.losses
import thalweg.objective
from thalweg.losses import (
    CTC,
    AbsoluteError,
    AbstractLeastSquares,
    AbstractLoss,
    BinaryCrossEntropy,
    BinaryFocal,
    CrossEntropy,
    CTCTarget,
    Dice,
    Directional,
    FixedGaussianNLL,
    FixedLaplaceNLL,
    Focal,
    GaussianNLL,
    Huber,
    LaplaceNLL,
    LogitNormalNLL,
    LogNormalNLL,
    LogNormalSurvival,
    MaskedSquaredError,
    NegativeBinomialNLL,
    PoissonNLL,
    Quantile,
    SoftIoU,
    SquaredError,
    StudentTNLL,
    WeibullSurvival,
)
from thalweg.nn import MLP, BatchNorm, Linear, Sequential
from thalweg.objective import (
    L1,
    L2,
    AbstractTerm,
    AtLeast,
    AtMost,
    Equal,
    GroupLasso,
    HeldPoints,
    JacobianNorm,
    Objective,
    Orthogonality,
    Residual,
    Rows,
    SpectralNorm,
    Supervised,
    SupervisedBatch,
    TotalVariation,
    split,
)
from thalweg.objective.regularizers import AbstractPenalty

N = 16
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 3))
REAL, POSITIVE, UNIT = X[:, 0] + 0.5, np.exp(X[:, 0]), 1 / (1 + np.exp(X[:, 1]))
CLASS, YES, COUNT = np.arange(N) % 4, np.arange(N) % 2 == 0, np.arange(N) % 5
MASKS = X[:, :2] > 0


class Heads(eqx.Module):
    """A network whose outputs are a tuple of scalars, as the losses with several parameters take them."""

    network: MLP

    def __call__(self, x, *, key=None):
        out = self.network(x, key=key)
        return tuple(out[i] for i in range(out.shape[0]))


def scalar():
    return MLP(3, None, width=4, depth=1, key=jax.random.key(1))


def vector(n):
    return MLP(3, n, width=4, depth=1, key=jax.random.key(1))


def heads(n):
    return Heads(vector(n))


class Sequence(eqx.Module):
    """Logits of three classes at three steps."""

    network: MLP

    def __call__(self, x, *, key=None):
        return self.network(x, key=key).reshape(3, 3)


LABELS = CTCTarget(np.tile([[1, 2]], (N, 1)), np.full(N, 2), np.full(N, 3))

# loss, model, targets
LOSSES = {
    SquaredError: (SquaredError(), scalar(), REAL),
    MaskedSquaredError: (MaskedSquaredError(0.5), vector(2), (X[:, :2], X[:, :2] > 0)),
    AbsoluteError: (AbsoluteError(), scalar(), REAL),
    Huber: (Huber(1.0), scalar(), REAL),
    Quantile: (Quantile((0.1, 0.9)), vector(2), REAL),
    FixedGaussianNLL: (FixedGaussianNLL(0.5), scalar(), REAL),
    FixedLaplaceNLL: (FixedLaplaceNLL(0.5), scalar(), REAL),
    GaussianNLL: (GaussianNLL(0.5), heads(2), REAL),
    LaplaceNLL: (LaplaceNLL(), heads(2), REAL),
    StudentTNLL: (StudentTNLL(), heads(3), REAL),
    LogNormalNLL: (LogNormalNLL(), heads(2), POSITIVE),
    LogitNormalNLL: (LogitNormalNLL(), heads(2), UNIT),
    PoissonNLL: (PoissonNLL(), scalar(), COUNT),
    NegativeBinomialNLL: (NegativeBinomialNLL(), heads(2), COUNT),
    CrossEntropy: (CrossEntropy(), vector(4), CLASS),
    Focal: (Focal(), vector(4), CLASS),
    BinaryCrossEntropy: (BinaryCrossEntropy(), scalar(), YES),
    BinaryFocal: (BinaryFocal(), scalar(), YES),
    SoftIoU: (SoftIoU(), vector(2), MASKS),
    Dice: (Dice(), vector(2), MASKS),
    Directional: (Directional(0.5), scalar(), REAL),
    CTC: (CTC(), Sequence(vector(9)), LABELS),
    WeibullSurvival: (WeibullSurvival(), heads(2), (POSITIVE, YES)),
    LogNormalSurvival: (LogNormalSurvival(), heads(2), (POSITIVE, YES)),
}


def normalized():
    first, last = Linear(3, 4, key=jax.random.key(0)), Linear(4, 1, key=jax.random.key(1))
    return Sequential([first, BatchNorm(4), last])


POINTS = HeldPoints(lambda key, n: jax.random.normal(key, (n, 3)), N)
TERMS = {
    "Supervised": (Supervised(X, REAL, loss=SquaredError(), weights=POSITIVE), scalar()),
    "Supervised, dropout": (
        Supervised(X, REAL, loss=SquaredError()),
        MLP(3, None, width=8, depth=1, dropout=0.5, key=jax.random.key(0)),
    ),
    "Supervised, batch norm": (Supervised(X, REAL[:, None], loss=SquaredError()), normalized()),
    "SupervisedBatch": (SupervisedBatch(X, MASKS, loss=SoftIoU()), vector(2)),
    "SupervisedBatch, batch norm": (SupervisedBatch(X, YES[:, None], loss=SoftIoU()), normalized()),
    "Residual": (Residual(lambda u, z: jax.grad(u)(z) + u(z), POINTS), scalar()),
    "Equal": (Equal(lambda u, z: u(z), 3.0, POINTS), scalar()),
    "AtMost": (AtMost(lambda u, z: u(z), -3.0, Rows(X)), scalar()),
    "AtLeast": (AtLeast(lambda u, z: u(z), 3.0, Rows(X), everywhere=True), scalar()),
    "L1": (L1(0.1), scalar()),
    "L2": (L2(0.1), scalar()),
    "Orthogonality": (Orthogonality(0.1), scalar()),
    "GroupLasso": (GroupLasso(0.1), scalar()),
    "SpectralNorm": (SpectralNorm(0.1), scalar()),
    "JacobianNorm": (JacobianNorm(X, 0.1), scalar()),
    "JacobianNorm, probes": (JacobianNorm(X, 0.1, probes=2), vector(4)),
    "TotalVariation": (TotalVariation(POINTS, 0.1), scalar()),
}


def check(term, model, dtype):
    """One trace, types kept, finite, and a step down the slope lowers the cost. Always with 64 bits switched on: what
    makes default-typed numbers of its own then mixes them with 32 bits, which is refused."""
    with jax.enable_x64(True):
        objective, parts = Objective(term=term).astype(dtype), split(thalweg.objective.cast(model, dtype))
        state = objective.init(jax.random.key(0))
        batch = objective.draw(state, jnp.int32(0))
        static = eqx.combine(parts.model_state, parts.frozen, parts.static)
        problem = objective.bind(static, batch, state, jax.random.key(1))

        @jax.jit
        def slope(params):
            return jax.value_and_grad(problem.evaluate, has_aux=True)(params)

        (total, evaluation), gradient = slope(parts.params)
        assert (total.shape, total.dtype) == ((), dtype)
        assert np.isfinite(total)
        for leaf, param in zip(jax.tree.leaves(gradient), jax.tree.leaves(parts.params), strict=True):
            assert (leaf.shape, leaf.dtype) == (param.shape, dtype)
            assert np.all(np.isfinite(leaf))
        square = sum(float(jnp.sum(leaf.astype(np.float64) ** 2)) for leaf in jax.tree.leaves(gradient))
        assert square > 1e-8
        # a step so short that the slope tells all but a hundredth of the change, but long enough for float32
        length = 1e-3 * float(abs(total)) / square
        moved = jax.tree.map(lambda p, g: p - jnp.asarray(length, dtype) * g, parts.params, gradient)
        (after, _), _ = slope(moved)
        assert after < total
        if evaluation.model_state is not None:
            for leaf in jax.tree.leaves(eqx.filter(evaluation.model_state, eqx.is_inexact_array)):
                assert leaf.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.__name__)
def test_every_loss_is_a_term(kind, dtype):
    loss, model, targets = LOSSES[kind]
    check(Supervised(X, targets, loss=loss), model, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TERMS)
def test_every_term_keeps_its_precision(name, dtype):
    check(*TERMS[name], dtype)


@pytest.mark.parametrize("name", TERMS)
def test_every_term_runs_its_users_code_once_a_trace(name):
    term, model = TERMS[name]
    calls = []

    class Watched(eqx.Module):
        inner: eqx.Module

        def __call__(self, x, *, key=None):
            calls.append(1)
            return self.inner(x, key=key)

        def training_call(self, x, *, key, axis_name):
            calls.append(1)
            y, inner = self.inner.training_call(x, key=key, axis_name=axis_name)
            return y, eqx.tree_at(lambda w: w.inner, self, inner)

    parts = split(Watched(model))
    objective = Objective(term=term).astype(np.float32)
    state = objective.init(jax.random.key(0))
    static = eqx.combine(parts.model_state, parts.frozen, parts.static)
    problem = objective.bind(static, objective.draw(state, jnp.int32(0)), state, jax.random.key(1))
    calls.clear()
    jax.make_jaxpr(lambda p: jax.value_and_grad(problem.evaluate, has_aux=True)(p))(parts.params)
    # the equation calls the model twice, and is run once more to learn which derivatives it asks for; a penalty looks
    # at the parameters alone
    assert len(calls) == (0 if isinstance(term, AbstractPenalty) else {"Residual": 4}.get(name, 1))


def test_the_registries_hold_every_public_loss_and_term():
    def public(module, base):
        classes = {value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, base)}
        return {kind for kind in classes if not kind.__name__.startswith("Abstract")}

    assert public(thalweg.losses, AbstractLoss) == set(LOSSES)
    assert {kind.__name__ for kind in public(thalweg.objective, AbstractTerm)} == {name.split(",")[0] for name in TERMS}
    assert {kind for kind in LOSSES if issubclass(kind, AbstractLeastSquares)} == {SquaredError, MaskedSquaredError}

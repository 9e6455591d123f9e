"""What every public optimizer owes the loop: pure steps, types kept, one trace of the user's cost a program."""

import enum
import inspect
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import thalweg.optim
from thalweg.losses import squared_error
from thalweg.nn import Kvaerno5
from thalweg.objective import AbstractTerm, HeldPoints, Objective, Residual, Rows, Supervised, only, split
from thalweg.optim import (
    BFGS,
    LBFGS,
    SGD,
    AbstractOptimizer,
    AdaGrad,
    Adam,
    AdamW,
    Averaged,
    Continuation,
    ExplicitEuler,
    FirstOrder,
    GradientFlow,
    LayerRates,
    LevenbergMarquardt,
    Muon,
    NaturalGradient,
    Player,
    Players,
    Predictor,
    ProximalPoint,
    RMSprop,
    SelfScaledBroyden,
)
from thalweg.train import Layout, Mode, Phase, Plateau, fit, fit_many


class Line(eqx.Module):
    """A straight line whose two parameters differ in shape."""

    slope: jax.Array  # (2,)
    height: jax.Array  # ()

    def __call__(self, x, *, key=None):
        return x @ self.slope + self.height


def line(seed=0, dtype=np.float32):
    return Line(jnp.asarray([0.1 * seed, -0.2], dtype), jnp.asarray(0.3, dtype))


RISING = {"data": lambda t: 0.5 + 0.5 * t}
REGISTRY = {
    "sgd": lambda: SGD(0.05),
    "momentum": lambda: SGD(0.05, momentum=0.9, clip=1.0),
    "adam": lambda: Adam(0.05),
    "adam, schedule": lambda: Adam(lambda step: 0.05 * 0.99**step),
    "adamw": lambda: AdamW(0.05),
    "AdaGrad": lambda: AdaGrad(0.05),
    "RMSprop": lambda: RMSprop(0.05),
    "Muon": lambda: Muon(0.05),
    "Optax's lion": lambda: FirstOrder(optax.lion(1e-2)),
    "averaged": lambda: Averaged(Adam(0.05)),
    "L-BFGS": lambda: LBFGS(memory=4),
    "BFGS": lambda: BFGS(),
    "self-scaled Broyden": lambda: SelfScaledBroyden(),
    "averaged L-BFGS": lambda: Averaged(LBFGS(memory=4)),
    "Levenberg-Marquardt": lambda: LevenbergMarquardt(),
    "Levenberg-Marquardt, in chunks": lambda: LevenbergMarquardt(memory=100.0),
    "Levenberg-Marquardt, matrix-free": lambda: LevenbergMarquardt(dense=False, iterations=5),
    "explicit Euler": lambda: ExplicitEuler(0.05),
    "proximal point": lambda: ProximalPoint(0.5),
    "gradient flow": lambda: GradientFlow(),
    "gradient flow, implicit": lambda: GradientFlow(Kvaerno5()),
    "natural gradient": lambda: NaturalGradient(),
    "continuation": lambda: Continuation(LBFGS(memory=4), weights=RISING),
    "continuation, tangents and looks": lambda: Continuation(
        LBFGS(memory=4), weights=RISING, predictor=Predictor.TANGENT, look=2
    ),
    "continuation, first-order": lambda: Continuation(Adam(0.05), weights=RISING, tolerance=0.1),
    "continuation, Levenberg-Marquardt": lambda: Continuation(LevenbergMarquardt(), weights=RISING),
    "rates by layer": lambda: LayerRates(Adam(0.05), [(lambda m: m.slope, 0.5)]),
    "players": lambda: Players(
        {"a": Player(Adam(0.05), only(lambda m: m.slope)), "b": Player(SGD(0.05), only(lambda m: m.height))}, ("a", "b")
    ),
}
TURNS = {
    "players": 2,
    "Levenberg-Marquardt, matrix-free": 2,  # the products with the Jacobian at the params, and the slope at the trial
    "natural gradient": 2,  # the lengths, and the Jacobian at the best
    "continuation": 2,  # the same landscape at another λ, under a `cond`
    "continuation, tangents and looks": 5,  # and the gradient's change with λ and with the place, and the look
    "continuation, first-order": 2,  # the corrector's own slope, and that at the place it moved to
    "continuation, Levenberg-Marquardt": 2,
    "gradient flow": 6,  # a gradient for each stage
    "gradient flow, implicit": 3,
}
FLOAT64_ONLY = {name for name in REGISTRY if "Levenberg" in name} | {"natural gradient"}
CASES = [
    (name, dtype)
    for name in REGISTRY
    for dtype in (np.float32, np.float64)
    if (name, dtype) not in {(n, np.float32) for n in FLOAT64_ONLY}
]

X = np.random.default_rng(0).normal(size=(24, 2))
Y = X @ [1.0, 2.0] + 3.0


class Counted:
    """A residual term that counts how often Python runs it."""

    def __init__(self):
        self.calls = 0

    def objective(self, **kwargs):
        def residual(model, example):
            self.calls += 1
            return jnp.atleast_1d(model(example[0]) - example[1])

        return Objective(data=Written(Rows((X, Y), **kwargs), residual))


class Written(AbstractTerm):
    """A residual that is run as it stands: `Residual` runs its equation twice to learn what derivatives it asks for."""

    source: Rows
    equation: Callable
    weight: float = 1.0

    def residual(self, model, example, key):
        return self.equation(model, example)


def bound(objective, model, dtype):
    objective, parts = objective.astype(dtype), split(model)
    state = objective.init(jax.random.key(0))
    return objective.bind(parts.static, objective.draw(state, jnp.int32(0)), state, jax.random.key(0)), parts.params


def test_the_registry_holds_every_public_optimizer():
    public = {
        name
        for name, value in vars(thalweg.optim).items()
        if inspect.isclass(value) and issubclass(value, AbstractOptimizer) and not name.startswith("Abstract")
    }
    assert public == {type(make()).__name__ for make in REGISTRY.values()}


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_a_step_keeps_structure_shapes_and_types_and_traces_the_cost_once(name, dtype):
    counted, optimizer = Counted(), REGISTRY[name]()
    with jax.enable_x64(dtype is np.float64):
        problem, params = bound(counted.objective(), line(dtype=dtype), dtype)
        key = jax.random.key(0)
        shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
        state = jax.eval_shape(lambda: optimizer.init(problem, params, key))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
        counted.calls = 0
        after, memory, info = jax.eval_shape(lambda: optimizer.step(problem, params, zeros, key))
        assert counted.calls == TURNS.get(name, 1)
        assert jax.tree.structure(after) == jax.tree.structure(params)
        assert shapes(after) == shapes(params)
        assert jax.tree.structure(memory) == jax.tree.structure(state)
        assert shapes(memory) == shapes(state)
        assert (info.total.shape, info.total.dtype) == ((), dtype)
        assert (info.ended.shape, info.ended.dtype) == ((), np.int32)
        assert all(value.shape == () for value in info.figures.values())
        kept = jax.eval_shape(lambda: optimizer.eval_params(params, zeros))
        assert shapes(kept) == shapes(params)
        again = jax.eval_shape(lambda: optimizer.redraw(problem, params, zeros))
        assert shapes(again) == shapes(state)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_it_walks_downhill_and_keeps_the_model_whole(name, dtype):
    found = fit(line(), Counted().objective(), Phase(REGISTRY[name](), 200), precision=dtype)
    assert jax.tree.structure(found.model) == jax.tree.structure(line())
    assert [leaf.dtype for leaf in jax.tree.leaves(found.model)] == [dtype, dtype]
    start = np.mean((X @ [0.0, -0.2] + 0.3 - Y) ** 2)
    assert start > 5
    # the line fits exactly, but the slowest rule here (lion) moves 0.01 a step, 2 in all, of the 3.2 to go
    assert found.rows[-1]["last"] < 0.3 * start
    assert found.conduct[0]["precision"] == np.dtype(dtype).name


@contextmanager
def compiled_programs():
    """Counts, by name, the programs that XLA compiles (or takes from the cache on disk)."""
    names, logger = Counter(), logging.getLogger("jax._src.interpreters.pxla")

    class Count(logging.Handler):
        def emit(self, record):
            words = record.getMessage().split()
            if words[0] == "Compiling":
                names[words[1]] += 1

    handler, propagate = Count(logging.DEBUG), logger.propagate
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield names
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def calls_in_fit(name, steps, mode, **kwargs):
    counted = Counted()
    with compiled_programs() as names:
        fit(
            line(),
            counted.objective(**kwargs),
            Phase(REGISTRY[name](), steps),
            precision=np.float64,
            mode=mode,
            log_every=5,
        )
    return counted.calls, {n: count for n, count in names.items() if n in OURS}


OURS = {
    f"jit({program})" for program in ("start", "step", "advance", "renew", "refresh", "check", "validate", "settle")
}


class Rowwise(enum.Enum):
    """Which rows a step sees."""

    ALL = None
    SOME = 8


@pytest.mark.parametrize("rows", list(Rowwise))
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", ["momentum", "averaged", "L-BFGS", "Levenberg-Marquardt", "players"])
def test_more_steps_neither_trace_nor_compile_more(name, mode, rows):
    """LOOP takes stretches of growing lengths, and rows are logged in between: nothing may be compiled twice."""
    few, programs = calls_in_fit(name, 10, mode, batch_size=rows.value)
    many, same = calls_in_fit(name, 300, mode, batch_size=rows.value)
    assert few == many
    assert programs == same
    assert set(programs.values()) == {1}
    assert set(programs) == {"jit(start)", "jit(settle)", "jit(advance)" if mode is Mode.LOOP else "jit(step)"}


@pytest.mark.slow
@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("name", ["adam", "L-BFGS", "Levenberg-Marquardt"])
def test_members_compile_each_program_once(name, layout):
    counted = Counted()
    with compiled_programs() as names:
        models = [line(seed) for seed in range(4)]
        fit_many(
            models, counted.objective(), Phase(REGISTRY[name](), 60), layout=layout, precision=np.float64, log_every=5
        )
    assert {names[n] for n in OURS if names[n]} == {1}


@pytest.mark.slow
def test_batches_over_devices_compile_each_program_once():
    with compiled_programs() as names:
        fit(line(), Counted().objective(batch_size=8), Phase(Adam(0.05), 60), devices=jax.devices()[:4], log_every=5)
    assert {names[n] for n in OURS if names[n]} == {1}


def test_one_seed_one_result_another_seed_another():
    def run(seed):
        objective = Objective(data=Supervised(X, Y, loss=squared_error, batch_size=8))
        return fit(line(), objective, Phase(Adam(0.05), 20), precision=np.float32, seed=seed).model

    first = run(0)
    assert eqx.tree_equal(first, run(0))
    assert not np.allclose(first.slope, run(1).slope, atol=1e-4)


@pytest.mark.parametrize("devices", [None, 4])
def test_all_that_happens_between_stretches_compiles_once(devices):
    moving = Residual(
        lambda model, z: model(z), HeldPoints(lambda key, n: jax.random.normal(key, (n, 2)), 8), weight=0.1
    )
    objective = Objective(moving=moving, refresh_every=10, **Counted().objective(batch_size=8).terms)
    phase = Phase(LBFGS(), 60, redraw=5, until=Plateau(every=4))
    with compiled_programs() as names:
        spread = None if devices is None else jax.devices()[:devices]
        fit(line(), objective, phase, validation=Counted().objective(), devices=spread, log_every=3)
    programs = OURS - {"jit(step)"}
    assert {name: names[name] for name in programs} == dict.fromkeys(programs, 1)

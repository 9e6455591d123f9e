"""First-order optimizers against torch.optim's recorded trajectories; clipping and averaging against their formulas."""

import importlib.util
import json
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.objective import Objective, Supervised, split
from thalweg.optim import LBFGS, SGD, AdaGrad, Adam, AdamW, Averaged, FirstOrder, Muon, RMSprop

HERE = Path(__file__).parent
RECORDED = json.loads((HERE / "torch_trajectories.json").read_text(encoding="utf-8"))

OURS = {
    "sgd": lambda: SGD(0.1),
    "momentum": lambda: SGD(0.05, momentum=0.9),
    "nesterov": lambda: SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: Adam(0.01),
    "adam, other memories": lambda: Adam(0.02, b1=0.8, b2=0.95, eps=1e-4),
    "adamw": lambda: AdamW(0.01, decay=0.1),
    "adagrad": lambda: AdaGrad(0.1),
    "rmsprop": lambda: RMSprop(0.01),
    "rmsprop, momentum": lambda: RMSprop(0.01, decay=0.9, eps=1e-4, momentum=0.5),
}


def recorder():
    """The script that recorded the trajectories, as a module: the problem is defined there once."""
    spec = importlib.util.spec_from_file_location("record_torch", HERE / "record_torch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Network(eqx.Module):
    """The script's network."""

    w: jax.Array
    b: jax.Array
    v: jax.Array

    def __call__(self, x, *, key=None):
        return jnp.tanh(x @ self.w + self.b) @ self.v


def problem_and_start():
    script = recorder()
    objective = Objective(
        data=Supervised(np.array(script.INPUTS), np.array(script.TARGETS), loss=squared_error)
    ).astype(np.float64)
    parts = split(Network(**{name: jnp.asarray(value, np.float64) for name, value in script.START.items()}))
    state = objective.init(jax.random.key(0))
    return objective.bind(parts.static, objective.draw(state, jnp.int32(0)), state, None), parts.params


def trajectory(optimizer, steps):
    """Params after each step, with a leading axis of steps."""
    with jax.enable_x64(True):
        problem, params = problem_and_start()
        key = jax.random.key(0)

        def step(carry, _):
            after, state, _ = optimizer.step(problem, *carry, key)
            return (after, state), after

        start = (params, optimizer.init(problem, params, key))
        path = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps)[1])(start)
        return jax.tree.map(np.asarray, path)


def compare(runs, name):
    path = trajectory(OURS[name](), recorder().STEPS)
    for step, params in runs[name]["path"].items():
        for leaf, expected in params.items():
            # The same arithmetic in another order: each step adds a few units of rounding (1e-16), and 50 steps at a
            # rate of 0.1 on a cost of curvature ~10 can magnify them by (1 + 0.1·10)^few, far below 1e-11.
            found = getattr(path, leaf)[int(step) - 1]
            assert np.allclose(found, expected, rtol=1e-11, atol=1e-12), (name, step, leaf)


@pytest.mark.parametrize("name", OURS)
def test_walks_as_torch_did(name):
    script = recorder()
    assert RECORDED["runs"][name]["arguments"] == script.RUNS[name][1]  # recorded by the script as it stands
    compare(RECORDED["runs"], name)


def test_every_recorded_run_is_compared():
    assert set(OURS) == set(RECORDED["runs"])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed (extra `peers`)")
@pytest.mark.filterwarnings("ignore")  # torch's own, at import
def test_the_record_is_what_torch_does_now():
    live = recorder().record()
    assert "torch" in sys.modules
    for name in OURS:
        compare(live["runs"], name)
        for step, params in RECORDED["runs"][name]["path"].items():
            for leaf, expected in params.items():
                assert np.allclose(live["runs"][name]["path"][step][leaf], expected, rtol=1e-11, atol=1e-12)


def test_lbfgs_arrives_where_torch_does():
    # another line search, so another path: only the place of the minimum is compared
    with jax.enable_x64(True):
        problem, params = problem_and_start()

        def penalized(p):
            return problem.evaluate(p)[0] + 0.001 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))

        class Penalized:
            evaluate = staticmethod(lambda p: (penalized(p), problem.evaluate(p)[1]))

        optimizer, key = LBFGS(), jax.random.key(0)

        def step(carry, _):
            return optimizer.step(Penalized, *carry, key)[:2], None

        start = (params, optimizer.init(Penalized, params, key))
        (found, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=600))(start)
        minimum = RECORDED["minimum"]
        assert float(penalized(found)) <= minimum["cost"] + 1e-14
        for leaf, expected in minimum["params"].items():
            # the penalty's curvature, 0.002, is the least: a cost known to 1e-16 is a place known to √(1e-16/1e-3)
            assert np.allclose(getattr(found, leaf), expected, atol=1e-6), leaf


@pytest.mark.parametrize("clip", [1e-3, 0.5, 1e3])
def test_clipping_scales_the_whole_gradient_to_the_norm(clip):
    with jax.enable_x64(True):
        problem, params = problem_and_start()
        gradient = jax.grad(lambda p: problem.evaluate(p)[0])(params)
        norm = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient))))
        assert 1e-3 < norm < 1e3  # both sides of the clip are met
        expected = jax.tree.map(lambda p, g: p - 0.1 * g * min(1, clip / norm), params, gradient)
    path = trajectory(SGD(0.1, clip=clip), 1)
    for found, place in zip(jax.tree.leaves(path), jax.tree.leaves(expected), strict=True):
        # PyTorch's clip_grad_norm_ divides by norm + 1e-6 instead; one step's rounding otherwise
        assert np.allclose(found[0], place, rtol=1e-12, atol=1e-14)


def test_averaged_is_an_exponential_average_that_forgets_the_start():
    decay, steps = 0.9, 40
    plain = trajectory(Adam(0.01), steps)
    with jax.enable_x64(True):
        problem, params = problem_and_start()
        optimizer, key = Averaged(Adam(0.01), decay=decay), jax.random.key(0)

        def step(carry, _):
            after, state, _ = optimizer.step(problem, *carry, key)
            return (after, state), (after, optimizer.eval_params(after, state))

        start = (params, optimizer.init(problem, params, key))
        walked, kept = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps)[1])(start)
    memory = [min(decay, (1 + t) / (10 + t)) for t in range(steps)]
    for leaf in ("w", "b", "v"):
        assert np.array_equal(getattr(walked, leaf), getattr(plain, leaf))  # averaging does not touch the walk
        x = np.stack([getattr(params, leaf), *getattr(plain, leaf)])
        # closed form: Σ_t (1 − m_t) Π_{s>t} m_s x_t, the start with the product of all
        tail = [float(np.prod(memory[t + 1 :])) for t in range(steps)]
        weights = np.array([np.prod(memory), *((1 - m) * rest for m, rest in zip(memory, tail, strict=True))])
        assert np.isclose(weights.sum(), 1, rtol=1e-12)
        # the memories are computed in float32: 6e-8 relative, times the spread of x over the walk
        assert np.allclose(getattr(kept, leaf)[-1], np.tensordot(weights, x, axes=1), atol=1e-7)


def test_any_optax_transform_walks():
    path = trajectory(FirstOrder(optax.sgd(0.1)), 5)
    assert np.array_equal(path.w, trajectory(SGD(0.1), 5).w)


def test_rmsprops_momentum_is_of_the_divided_gradient_also_when_the_rate_changes():
    # torch's rule by hand: buf ← μ·buf + g/(√v + ε), θ ← θ − η_t·buf
    decay, momentum, eps, gradients = 0.9, 0.9, 1e-8, []
    path = trajectory(RMSprop(lambda step: 0.01 * 0.5**step, decay=decay, momentum=momentum), 4)
    with jax.enable_x64(True):
        problem, params = problem_and_start()
        slope = jax.jit(jax.grad(lambda p: problem.evaluate(p)[0]))
        v = buf = np.zeros(4)
        for step in range(4):
            g = np.asarray(slope(params).v)
            v = decay * v + (1 - decay) * g**2
            buf = momentum * buf + g / (np.sqrt(v) + eps)
            expected = np.asarray(params.v) - 0.01 * 0.5**step * buf
            params = jax.tree.map(lambda leaf, step=step: jnp.asarray(leaf[step]), path)
            assert np.allclose(params.v, expected, rtol=1e-10)
            gradients.append(g)


def test_a_schedule_is_a_function_of_the_step():
    path = trajectory(SGD(lambda step: 0.1 * 0.5**step), 2)
    once = trajectory(SGD(0.1), 1)
    assert np.allclose(path.w[0], once.w[0], rtol=1e-14)
    slower, steady = path.w[1] - path.w[0], trajectory(SGD(0.1), 2).w[1] - once.w[0]
    assert np.allclose(slower, 0.5 * steady, rtol=1e-9)


@pytest.mark.parametrize("rate", [0, -1e-3, float("nan"), float("inf"), "fast", None])
@pytest.mark.parametrize("make", [SGD, AdaGrad, RMSprop, Adam, AdamW, Muon])
def test_refuses_rates_that_are_none(make, rate):
    with pytest.raises(UserError, match="learning rate must be a number above 0"):
        make(rate)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0.1, momentum=1.0), "momentum must be"),
        (lambda: SGD(0.1, momentum=-0.1), "momentum must be"),
        (lambda: SGD(0.1, nesterov=True), "needs a momentum"),
        (lambda: SGD(0.1, clip=0.0), "clipping norm must be"),
        (lambda: Adam(0.1, b1=1.0), "b1 and b2"),
        (lambda: Adam(0.1, b2=-0.5), "b1 and b2"),
        (lambda: AdamW(0.1, eps=-1e-8), "b1 and b2"),
        (lambda: AdaGrad(0.1, eps=0.0), "eps must be"),
        (lambda: RMSprop(0.1, decay=1.0), "decay must be"),
        (lambda: RMSprop(0.1, momentum=-0.1), "momentum must be"),
        (lambda: Muon(0.1, momentum=1.0), "momentum must be"),
        (lambda: FirstOrder("adam"), "needs an Optax gradient transform, not str"),
        (lambda: AdamW(0.1, decay=-1.0), "weight decay"),
        (lambda: AdamW(0.1, decay=float("nan")), "weight decay"),
        (lambda: Averaged(Adam(0.1), decay=1.0), "average's decay"),
    ],
)
def test_refuses_arguments_that_cannot_work(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_numpy_numbers_are_rates():
    assert np.array_equal(trajectory(SGD(np.float64(0.1)), 2).w, trajectory(SGD(0.1), 2).w)
    SGD(np.float32(0.5))

"""Schedules against torch's recorded rates and their published formulas."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg.errors import UserError
from thalweg.optim import (
    SGD,
    AbstractSchedule,
    Adam,
    Averaged,
    Constant,
    Cosine,
    CosineRestarts,
    ExpRange,
    OneCycle,
    StepDecay,
    Triangular,
    Triangular2,
    WarmUp,
)
from thalweg.train import Phase

RECORDED = json.loads((Path(__file__).parent / "torch_trajectories.json").read_text(encoding="utf-8"))["rates"]

OURS = {
    "step": StepDecay(0.1, every=7, factor=0.5),
    "cosine": Cosine(0.1, 60, last=0.001),
    "restarts": CosineRestarts(0.1, 8, last=0.001),
    "growing restarts": CosineRestarts(0.1, 8, growth=2, last=0.001),
    "one-cycle": OneCycle(0.1, 60),
    "triangular": Triangular(0.01, 0.1, half=6),
    "triangular2": Triangular2(0.01, 0.1, half=6),
    "exp_range": ExpRange(0.01, 0.1, half=6, decay=0.97),
    "warm-up": WarmUp(9, Constant(0.1)),
}


@pytest.mark.parametrize("name", OURS)
def test_equals_torchs_rates(name):
    assert set(OURS) == set(RECORDED)
    with jax.enable_x64(True):
        found = jax.jit(OURS[name])(jnp.arange(60))
    # torch's cosine is a recurrence, each step of which rounds; 60 of them stay within 60 units of 1e-16 · few
    assert np.allclose(found, RECORDED[name], rtol=1e-12)
    steps = [float(OURS[name](step)) for step in (0, 1, 59)]  # one by one, in 32 bits
    # a cosine near its end is the difference of two numbers near 1, known to 6e-8 of the whole rate
    assert np.allclose(steps, [RECORDED[name][step] for step in (0, 1, 59)], atol=1e-8)


def test_each_schedule_is_tested():
    kinds = {type(schedule) for schedule in OURS.values()} | {Constant}
    assert kinds == set(AbstractSchedule.__subclasses__())


def test_published_formulas():
    step = np.arange(200)
    cycle = np.floor(1 + step / 16)
    x = np.abs(step / 8 - 2 * cycle + 1)  # Smith (2017), section 3.2
    height = np.maximum(0, 1 - x) * 0.9
    with jax.enable_x64(True):
        assert np.allclose(jax.vmap(Triangular(0.1, 1.0, half=8))(step), 0.1 + height)
        assert np.allclose(jax.vmap(Triangular2(0.1, 1.0, half=8))(step), 0.1 + height / 2 ** (cycle - 1))
        assert np.allclose(jax.vmap(ExpRange(0.1, 1.0, half=8, decay=0.99))(step), 0.1 + height * 0.99**step)


@pytest.mark.parametrize("step", [0, 10**6, 2**31 - 2])
def test_late_steps_are_exact(step):
    # 2**31 - 2 is no float32, so a cycle must be found in whole numbers
    expected = 1 - abs(step % 14 / 7 - 1)
    assert np.isclose(float(Triangular(0.0, 1.0, half=7)(jnp.int32(step))), expected, atol=1e-6)
    within, length = step, 3
    while within >= length:
        within, length = within - length, length * 2
    cosine = 0.5 + 0.5 * np.cos(np.pi * within / length)
    assert np.isclose(float(CosineRestarts(1.0, 3, growth=2)(jnp.int32(step))), cosine, atol=1e-6)


def test_the_rate_is_recorded():
    # the optimizer reports what it used: the third step of a halving rate
    import thalweg as tw

    x = np.linspace(-1, 1, 8)[:, None]
    objective = tw.Objective(data=tw.Supervised(x, 2 * x, loss=tw.losses.squared_error))
    model = tw.nn.MLP(1, 1, width=4, depth=1, key=jax.random.key(0))
    phase = tw.Phase(Averaged(SGD(StepDecay(0.1, every=1, factor=0.5))), 3)
    rows = tw.fit(model, objective, phase, log_every=1).rows
    assert [round(row["figures"]["rate"], 6) for row in rows] == [0.1, 0.05, 0.025]


def test_a_schedule_longer_than_its_phase_is_refused():
    with pytest.raises(UserError, match=r"takes 100 steps, and the phase has 50: it would be cut off \(Cosine\)"):
        Phase(Averaged(Adam(Cosine(0.1, 100))), 50)
    with pytest.raises(UserError, match="takes 105 steps"):
        Phase(Adam(WarmUp(5, OneCycle(0.1, 100))), 104)
    Phase(Adam(WarmUp(5, Constant(0.1))), 5)
    Phase(Adam(Cosine(0.1, 50)), 50)
    Phase(Adam(optax.cosine_decay_schedule(0.1, 50)), 50)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(0.0),
        lambda: Constant(float("nan")),
        lambda: StepDecay(0.1, every=0),
        lambda: Cosine(-0.1, 10),
        lambda: Cosine(0.1, 0),
        lambda: Cosine(0.1, 10, last=float("nan")),
        lambda: CosineRestarts(0.1, 10, growth=0),
        lambda: OneCycle(0.1, 1),
        lambda: OneCycle(0.1, 10.5),
        lambda: OneCycle(0.1, float("nan")),
        lambda: OneCycle(0.1, 10, warm="a"),
        lambda: ExpRange(0.1, 1.0, half=4, decay="a"),
        lambda: OneCycle(0.1, 10, warm=1.0),
        lambda: Triangular(1.0, 0.1, half=5),
        lambda: Triangular(0.1, 1.0, half=True),
        lambda: Triangular2(0.1, 1.0, half=2.5),
        lambda: ExpRange(0.1, 1.0, half=5, decay=1.5),
        lambda: WarmUp(0, 0.1),
        lambda: WarmUp(3, -0.1),
        lambda: Adam(lambda step: float("nan")),
        lambda: Adam(lambda step: -1.0),
        lambda: Adam(lambda step: [0.1, 0.2]),
    ],
)
def test_refuses_what_cannot_work(make):
    with pytest.raises(UserError):
        make()

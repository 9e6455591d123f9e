"""The switch by signal-to-noise, and the range test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import Objective, Supervised
from thalweg.optim import LBFGS, SGD, Adam
from thalweg.train import NoImprovement, Phase, Plateau, SignalToNoise, fit, range_test
from thalweg.train.range_test import judged
from thalweg.tree import tree_hash

RNG = np.random.default_rng(0)
X = RNG.normal(size=(512, 4))
SLOPE = np.array([[1.0], [-2.0], [0.5], [3.0]])


def linear(noise, batch=16):
    y = X @ SLOPE + noise * np.random.default_rng(1).normal(size=(512, 1))
    return Objective(data=Supervised(X, y, loss=squared_error, batch_size=batch))


def model():
    return MLP(4, 1, width=4, depth=0, key=jax.random.key(0))


@pytest.mark.slow
def test_switches_when_the_signal_is_strong_enough_and_says_by_what():
    # far from the minimum of a clean line the gradients of all examples agree; B′ = 512 reads them √(512/16) clearer
    program = [Phase(SGD(1e-3), 200, until=SignalToNoise(2.0, batch=512, every=10)), Phase(LBFGS(), 5, redraw=0)]
    found = fit(model(), linear(0.0), program)
    (met,) = [row for row in found.decisions if "SignalToNoise met" in row["what"]]
    assert met["ratio"] > 2.0
    assert met["step"] < 200
    assert found.rows[-1]["phase"] == 1


def test_does_not_switch_while_the_gradient_is_noise():
    # started at the minimum of a line with much noise: every batch's slope is the luck of the draw
    y = X @ SLOPE + 5.0 * np.random.default_rng(1).normal(size=(512, 1))
    best = np.linalg.lstsq(np.c_[X, np.ones(512)], y, rcond=None)[0]
    at_best = jax.tree.map(
        lambda leaf: (
            jnp.asarray(best[:4] if leaf.shape == (4, 1) else best[4], leaf.dtype)
            if isinstance(leaf, jax.Array)
            else leaf
        ),
        model(),
    )
    found = fit(at_best, linear(5.0), Phase(SGD(1e-4), 200, until=SignalToNoise(2.0, every=10)))
    assert not [row for row in found.decisions if "met" in row["what"]]
    assert found.rows[-1]["step"] == 200


@pytest.mark.parametrize(
    "make",
    [
        lambda: SignalToNoise(0.0),
        lambda: SignalToNoise(float("nan")),
        lambda: SignalToNoise(1.0, batch=0),
        lambda: SignalToNoise(1.0, batch=2.5),
        lambda: SignalToNoise(1.0, memory=1.0),
        lambda: Phase(Adam(0.1), 5, until=SignalToNoise(1.0, every=0)),
    ],
)
def test_refuses_conditions_that_cannot_work(make):
    with pytest.raises(UserError):
        make()


def test_what_the_steps_are_is_not_mixed_up_with_how_often_to_look():
    assert (NoImprovement(120, every=20).steps, NoImprovement(120, every=20).every) == (120, 20)
    with pytest.raises(TypeError):
        NoImprovement(120, 20)


def test_the_range_test_finds_the_largest_stable_rate():
    # The squared error of a line is a quadratic whose Hessian is 2 ZᵀZ/n, and gradient descent is stable below 2/λ of
    # its largest eigenvalue (S01). Noise keeps every direction excited; the rate grows by 5 % a step, and an
    # instability needs some steps to outgrow what had fallen, so the highest rate lies within a factor of 3 of it.
    z = np.c_[X, np.ones(512)]
    stable = 2 / np.linalg.eigvalsh(2 * z.T @ z / 512)[-1]
    found = range_test(model(), linear(1.0, batch=64), SGD, low=1e-4, high=100.0, steps=300)
    assert found.ended == "the objective grew"
    assert found.low < found.suggested < stable
    assert stable / 3 < found.high < 3 * stable


@pytest.mark.slow
def test_the_suggested_rate_trains_and_the_model_given_is_as_before():
    before = model()
    kept = tree_hash(before)
    found = range_test(before, linear(0.1), Adam)
    assert tree_hash(before) == kept
    slow, good = (fit(before, linear(0.1), Phase(Adam(rate), 200)) for rate in (found.low / 10, found.suggested))
    assert good.rows[-1]["total"] < 0.1 * slow.rows[-1]["total"]


def test_rates_are_read_off_the_curve():
    rates = np.logspace(-6, 0, 61)
    # falls steeply between 1e-4 and 1e-2 around 1e-3, is flat before and grows after 1e-1
    seen = 1 - 0.9 / (1 + (1e-3 / rates) ** 2) + 100 * np.maximum(0, rates - 0.1) ** 2
    found = judged(rates, seen, 0.0)
    # in logarithms the steepest place of 1 − 0.9/(1 + (c/r)²) lies at r = c·(0.1)^(−1/4) = 1.78 c
    assert np.isclose(found.suggested, 1.78e-3, rtol=0.15)
    assert found.low < found.suggested < found.high <= 0.2
    with pytest.raises(UserError, match="falls at none of these rates"):
        judged(rates, 1 + rates, 0.0)
    with pytest.raises(UserError, match="not finite at the start"):
        judged(rates, np.full(61, np.nan), 0.0)


def test_an_optimizer_that_has_no_rate_has_no_range():
    with pytest.raises(UserError, match="no learning rate is known of LBFGS"):
        range_test(model(), linear(0.1), lambda rate: LBFGS())
    with pytest.raises(UserError, match="needs a function of the rate, not Adam"):
        range_test(model(), linear(0.1), Adam(1e-3))


def test_memory_of_a_condition_is_as_fine_as_the_walk():
    # heights of 1e-50 are no float32: kept so, they would all be 0 and the walk called level
    data = Supervised(X, X @ SLOPE, loss=squared_error, weight=1e-50)
    phase = Phase(Adam(1e-2, eps=1e-80), 200, until=Plateau(3, every=20))
    found = fit(model(), Objective(data=data), phase, precision=np.float64)
    assert found.rows[-1]["step"] == 200
    assert found.rows[-1]["total"] < 0.5 * found.rows[0]["total"]


@pytest.mark.parametrize(
    "named",
    [
        {"low": 0.0},
        {"low": 1.0, "high": 0.1},
        {"high": float("nan")},
        {"steps": 5},
        {"steps": True},
        {"smoothing": 1.0},
    ],
)
def test_refuses_ranges_that_cannot_work(named):
    with pytest.raises(UserError):
        range_test(model(), linear(0.1), Adam, **named)

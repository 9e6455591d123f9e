"""Signal and noise of a batch's gradient against their closed forms."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.nn import BatchNorm, Linear, Sequential
from thalweg.objective import (
    AbstractTerm,
    NoExamples,
    Objective,
    Residual,
    Rows,
    Supervised,
    gradient_signal,
    signal_over_noise,
    split,
)


class Point(eqx.Module):
    """A model that is its two params."""

    x: jax.Array


class Tilt(AbstractTerm):
    """An example's cost is its own slope times the params, so its gradient is that slope."""

    source: Rows
    weight: float = 1.0

    def loss(self, model, example, key):
        return jnp.vdot(model.x, example)


class Penalty(AbstractTerm):
    """A cost of the params alone."""

    source: NoExamples = NoExamples()
    weight: float = 1.0

    def batch_loss(self, model, examples, key):
        return jnp.sum(model.x**2), None


class Look(NamedTuple):
    signal: float
    noise: float
    ratio: float
    ratio_of_200: float
    examples: int


def look(objective, model, index=0, seed=0):
    """(signal, noise, ratio, ratio of a batch of 200, examples) as numbers, in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(np.float64) if eqx.is_inexact_array(leaf) else leaf, model)
        objective, parts = objective.astype(np.float64), split(wide)
        state = objective.init(jax.random.key(seed))
        static = eqx.combine(parts.model_state, parts.frozen, parts.static)
        problem = objective.bind(static, objective.draw(state, jnp.int32(index)), state, jax.random.key(1))
        found = gradient_signal(problem, parts.params)
        numbers = (found.signal, found.noise, found.ratio(), found.ratio(200))
        return Look(*map(float, numbers), found.examples)


SLOPES = np.random.default_rng(0).normal(size=(4_096, 2)) * [1.0, 2.0]
SLOPES -= SLOPES.mean(axis=0)  # pure noise: the population's gradient is exactly 0


def test_is_what_numpy_makes_of_the_rows():
    tilt = Tilt(Rows(SLOPES[:50] + 0.5), weight=3.0)
    found = look(Objective(tilt=tilt, penalty=Penalty(weight=0.1)), Point(jnp.asarray([1.0, -1.0])))
    rows = 3 * (SLOPES[:50] + 0.5)
    gradient = rows.mean(axis=0) + 0.1 * 2 * np.array([1.0, -1.0])
    noise = np.trace(np.cov(rows.T)) / 50
    assert np.isclose(found.noise, noise, rtol=1e-12)
    assert np.isclose(found.signal, gradient @ gradient - noise, rtol=1e-12)
    assert found.examples == 50
    assert np.isclose(found.ratio, np.sqrt(found.signal / noise), rtol=1e-12)
    assert np.isclose(found.ratio_of_200, 2 * found.ratio, rtol=1e-12)


def test_two_terms_add_their_variances():
    with jax.enable_x64(True):
        one, two = Tilt(Rows(SLOPES[:40]), weight=2.0), Tilt(Rows(SLOPES[40:100]))
        point = Point(jnp.zeros(2))
        both, first, second = (
            look(Objective(**terms), point) for terms in ({"a": one, "b": two}, {"a": one}, {"b": two})
        )
    assert np.isclose(both.noise, first.noise + second.noise, rtol=1e-12)
    assert both.examples == 100


def test_under_pure_noise_the_signal_has_mean_zero():
    # SNR² of S04 is signal / (B · noise): its numerator, unclipped, must have mean 0
    batch, looks = 16, 256
    with jax.enable_x64(True):
        objective, point = Objective(tilt=Tilt(Rows(SLOPES, batch_size=batch))).astype(np.float64), Point(jnp.zeros(2))
        parts, state = split(point), objective.init(jax.random.key(3))

        def one(index):
            problem = objective.bind(parts.static, objective.draw(state, index), state, None)
            found = gradient_signal(problem, parts.params)
            return found.signal, found.noise

        signal, noise = map(np.asarray, jax.jit(jax.vmap(one))(jnp.arange(looks, dtype=jnp.int32)))
    error = np.std(signal) / np.sqrt(looks)
    assert abs(np.mean(signal)) < 3 * error  # one chance in 400, and the seed is fixed
    # one epoch, so the mean of the batches' variances is the population's, to the accuracy of 4,096 rows
    assert np.isclose(np.mean(noise), np.trace(np.cov(SLOPES.T)) / batch, rtol=0.02)
    assert 0.3 < np.mean(signal < 0) < 0.7
    assert np.mean(noise) / 2 > error  # the test would see the bias of ‖ḡ‖² taken as it is, which is this noise


@pytest.mark.slow
def test_batch_statistics_are_looked_at_by_half_batches():
    x = np.random.default_rng(1).normal(size=(64, 3))
    model = Sequential((Linear(3, 4, key=jax.random.key(0)), BatchNorm(4), Linear(4, 1, key=jax.random.key(1))))
    data = Supervised(x, x[:, :1] ** 2, loss=lambda output, target: jnp.sum((output - target) ** 2))
    found = look(Objective(data=data), model)
    assert found.noise > 0
    assert np.isfinite(found.ratio)
    assert found.examples == 64


class Drawn(AbstractTerm):
    """A cost of a whole batch whose slope is drawn from the key: mean of z·x, z of variance 1 in each component."""

    source: Rows
    weight: float = 1.0

    def batch_loss(self, model, examples, key):
        z = jax.random.normal(key, (examples.size, 2), model.x.dtype)
        return jnp.mean(z @ model.x), None


def test_noise_of_a_key_is_seen_in_half_batches():
    with jax.enable_x64(True):
        objective, parts = Objective(drawn=Drawn(Rows(SLOPES[:16]))).astype(np.float64), split(Point(jnp.zeros(2)))
        state = objective.init(jax.random.key(0))
        batch = objective.draw(state, jnp.int32(0))

        def one(key):
            found = gradient_signal(objective.bind(parts.static, batch, state, key), parts.params)
            return found.signal, found.noise

        signal, noise = map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 400)))
    # z of 16 rows: the mean has variance 2/16; half-batches differ by four times that. χ² of 2 · 400: 3.5 % a deviation
    assert np.isclose(noise.mean(), 2 / 16, rtol=0.15)
    assert abs(signal.mean()) < 3.5 * signal.std() / 20


@pytest.mark.parametrize(
    ("signal", "noise", "expected"), [(4.0, 1.0, 2.0), (-1.0, 1.0, 0.0), (1.0, 0.0, np.inf), (0.0, 0.0, 0.0)]
)
def test_the_ratio_at_its_edges(signal, noise, expected):
    assert float(signal_over_noise(jnp.float32(signal), jnp.float32(noise))) == expected


def test_residual_terms_have_a_signal_too():
    term = Residual(lambda model, z: model.x - z, Rows(np.full((10, 2), 3.0)))
    found = look(Objective(equation=term), Point(jnp.zeros(2)))
    assert found.ratio == np.inf  # all examples agree

"""Points that follow the residual, weights that follow time, and points that were learned by heart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import thalweg as tw
from thalweg.objective.causality import Causality
from thalweg.objective.points import AdaptivePoints

sampler = lambda key, n: jax.random.uniform(key, (n, 1))


def test_adaptive_points_follow_the_published_density():
    """Wu et al. (2023), equation 2: p ∝ |r|^k/mean |r|^k + c. With r = x, k = 2, c = 1 the density is (3x² + 1)/2."""
    source = AdaptivePoints(sampler, 2_000, candidates=100_000, power=2.0, floor=1.0)
    drawn = source.refresh(source.init(jax.random.key(0)), jax.random.key(1), lambda x: x[:, 0] ** 2)
    # Without replacement 2 % of the candidates thin the dense places by at most 4 %, less than the test can see.
    assert stats.kstest(np.asarray(drawn[:, 0], float), lambda x: (x**3 + x) / 2).pvalue > 1e-3


def test_a_power_of_zero_prefers_nothing_and_no_point_is_taken_twice():
    source = AdaptivePoints(sampler, 500, candidates=1_000, power=0.0)
    drawn = np.asarray(source.refresh(source.init(jax.random.key(0)), jax.random.key(2), lambda x: x[:, 0] ** 8))
    assert len(np.unique(drawn)) == 500
    assert stats.kstest(drawn[:, 0], "uniform").pvalue > 1e-3


def test_a_point_without_a_cost_is_not_looked_for():
    source = AdaptivePoints(sampler, 10, candidates=1_000, floor=0.0)
    drawn = source.refresh(None, jax.random.key(0), lambda x: jnp.where(x[:, 0] < 0.5, jnp.nan, x[:, 0] ** 2))
    assert bool(jnp.all(drawn >= 0.5))


@pytest.mark.parametrize("bad", [{"size": 0}, {"candidates": 5}, {"power": -1.0}, {"floor": float("nan")}])
def test_bad_choices_are_refused(bad):
    with pytest.raises(tw.UserError):
        AdaptivePoints(sampler, **({"size": 10} | bad))


def test_causal_weights_are_the_published_ones():
    """Brute force over chunks, in NumPy."""
    causality = Causality(lambda x: x[1], -1.0, 3.0, chunks=5, tolerance=0.7)
    rng = np.random.default_rng(0)
    points, costs = rng.uniform(-1, 3, (400, 2)), rng.exponential(size=400)
    found = causality.next_weights(jnp.asarray(points), jnp.asarray(costs))
    chunk = np.minimum((points[:, 1] + 1) / 4 * 5 // 1, 4)
    means = [costs[chunk == i].mean() for i in range(5)]
    expected = [np.exp(-0.7 * sum(means[:i])) for i in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # 32 bits


def decay(u, x):
    return tw.derivative(u, x, 0) + 3 * u(x)


def start(u, x):
    return 10 * (u(x) - 1)


def test_a_causal_term_weighs_late_times_down_until_early_ones_are_solved():
    net = tw.nn.MLP(1, None, width=8, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    times = np.linspace(0, 1, 64)[:, None]
    law = tw.Residual(decay, times, causal=Causality(lambda x: x[0], 0.0, 1.0, chunks=4, tolerance=1.0))
    objective = tw.Objective(law=law, start=tw.Residual(start, np.zeros((1, 1))), refresh_every=20)
    found = tw.fit(net, objective, tw.Phase(tw.Adam(1e-2), 3_000), log_every=20)
    weight = [row["refresh"]["law/causal weight at the end"] for row in found.rows if "refresh" in row]
    assert weight[0] < 0.5
    assert weight[-1] > 0.95
    exact = np.exp(-3 * times[:, 0])
    assert np.abs(np.asarray(jax.vmap(found.model)(jnp.asarray(times, jnp.float32))) - exact).max() < 0.03  # of 1


def test_what_needs_a_refresh_says_so():
    law = tw.Residual(decay, AdaptivePoints(sampler, 10))
    with pytest.raises(tw.UserError, match="only a refresh can move"):
        tw.fit(
            tw.nn.MLP(1, None, width=3, depth=1, key=jax.random.key(0)),
            tw.Objective(law=law),
            tw.Phase(tw.Adam(1e-3), 1),
        )


def test_held_out_points_of_another_shape_are_refused_at_once():
    with pytest.raises(tw.UserError, match="held-out points of shapes"):
        tw.Residual(decay, tw.HeldPoints(sampler, 5), held_out=np.zeros((3, 2)))


def wiggly(u, x):
    return u(x) - jnp.sin(9 * x[0])


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (tw.HeldPoints(sampler, 6), True),
        (tw.FreshPoints(sampler, 200), False),
        (np.linspace(0, 1, 6)[:, None], False),  # nothing is known between them: nothing is said
    ],
)
@pytest.mark.slow
def test_points_learned_by_heart_are_a_finding(points, expected):
    net = tw.nn.MLP(1, None, width=30, depth=2, activation=jnp.tanh, key=jax.random.key(0))
    program = [tw.Phase(tw.Adam(1e-2), 200), tw.Phase(tw.BFGS(), 200)]
    term = tw.Residual(wiggly, points)
    found = tw.fit(net, tw.Objective(wave=term), program, precision=jnp.float64, raise_failures=False)
    names = [finding.name for finding in found.verdict.findings]
    assert ("points-overfitted" in names) is expected
    if expected:
        finding = next(f for f in found.verdict.findings if f.name == "points-overfitted")
        assert "term 'wave'" in finding.evidence


@pytest.mark.slow
def test_fixed_points_are_watched_by_held_out_ones():
    net = tw.nn.MLP(1, None, width=30, depth=2, activation=jnp.tanh, key=jax.random.key(0))
    term = tw.Residual(wiggly, np.linspace(0, 1, 6)[:, None], held_out=np.linspace(0, 1, 101)[:, None])
    program = [tw.Phase(tw.Adam(1e-2), 200), tw.Phase(tw.BFGS(), 200)]
    found = tw.fit(net, tw.Objective(wave=term), program, precision=jnp.float64, raise_failures=False)
    assert "points-overfitted" in [finding.name for finding in found.verdict.findings]

"""Exact conditions: distances that vanish with slope 1, values on every part, periodicity; and the terms' helpers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.errors import UserError
from thalweg.physics import conditions, geometry
from thalweg.physics.taylor import taylor

KEY = jax.random.key(4)
L = geometry.polygon([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)])
PARTS = {
    "L": (L, L.boundary),
    "two edges of the L": (L, L.edges(1, 4)),
    "rectangle": (geometry.rectangle((-1, 0), (1, 3)), geometry.rectangle((-1, 0), (1, 3)).boundary),
    "disk": (geometry.disk((1, 2), 1.5), geometry.disk((1, 2), 1.5).boundary),
    "annulus": (geometry.annulus((0, 1), 0.5, 1.5), geometry.annulus((0, 1), 0.5, 1.5).boundary),
    "box": (geometry.box((0, 0, 0), (1, 2, 3)), geometry.box((0, 0, 0), (1, 2, 3)).boundary),
    "interval": (geometry.interval(-1, 2), geometry.interval(-1, 2).boundary),
    "start and walls": (
        (history := geometry.time_cylinder(geometry.interval(0, 1), 1.0, 2.0)),
        geometry.joined(history.initial, history.over(geometry.interval(0, 1).boundary)),
    ),
}


@pytest.fixture(params=PARTS)
def case(request):
    return PARTS[request.param]


def network(inputs, seed=0):
    return tw.nn.MLP(inputs.size, None, width=8, depth=2, activation=jnp.tanh, key=jax.random.key(seed))


@pytest.mark.slow
def test_a_smooth_distance_vanishes_on_its_part_with_slope_one_and_nowhere_else(case):
    domain, part = case
    with jax.enable_x64(True):
        distance = conditions.SmoothDistance(part)
        at = part.sample(KEY, 200)
        on_it = jax.jit(jax.vmap(distance))
        np.testing.assert_allclose(on_it(at.x), 0, atol=1e-14)  # rounding of coordinates up to 3
        h = 1e-6
        slope = on_it(at.x - h * at.normal) / h
        # Within 1,000 h of a corner the slope differs by more; of 200 points at most a handful is that near.
        assert (np.abs(slope - 1) < 1e-3).mean() > 0.97
        inside = domain.sample_interior(KEY, 500)
        assert (on_it(inside) > 0).all()


@pytest.mark.slow
def test_it_goes_through_taylor_propagation_and_has_finite_derivatives(case):
    domain, part = case
    with jax.enable_x64(True):
        u = conditions.Exact(
            lambda z: jnp.sum(jnp.tanh(z)), conditions.Inputs(domain), conditions.SmoothDistance(part), lambda x: x[0]
        )
        along = jnp.ones(domain.dimension) / np.sqrt(domain.dimension)
        for x in domain.sample_interior(KEY, 5):
            series = taylor(u, x, [(along, 2)])
            second = jax.jvp(lambda z: jax.jvp(u, (z,), (along,))[1], (x,), (along,))[1]
            np.testing.assert_allclose(2 * series.tails[0][1], second, rtol=1e-9)
        for x in part.sample(KEY, 20).x:
            assert np.isfinite(jax.grad(u)(x)).all()


@pytest.mark.slow
def test_corners_and_many_edges_do_no_harm():
    distance = conditions.SmoothDistance(L.boundary)
    for corner in L.corners:
        assert float(distance(jnp.asarray(corner, jnp.float32))) == 0
        assert np.isfinite(jax.grad(distance)(jnp.asarray(corner, jnp.float32))).all()
    angles = np.arange(300) * 2 * np.pi / 300
    round_one = geometry.polygon(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    middle = float(conditions.SmoothDistance(round_one.boundary)(jnp.zeros(2)))
    # From afar a segment of length L has φ = d²/L, and Σ L/d² = 2π round the middle. Their product is beyond 32 bits.
    assert middle == pytest.approx(1 / (2 * np.pi), rel=1e-3)


def test_the_formula_for_a_segment():
    """By hand, at (0.5, 1) beside the segment from (0, 0) to (1, 0), and at (2, 0) on its line."""
    edge = geometry.rectangle((0, 0), (1, 1)).lower
    # f = -1, t = 1/4 - 1 = -3/4: φ² = 1 + ((√(9/16 + 1) + 3/4)/2)² = 1 + 1
    assert float(edge.distances(jnp.array([0.5, 1.0]))[0]) == pytest.approx(np.sqrt(2), rel=1e-6)
    # f = 0, t = 1/4 - 9/4 = -2: φ = 2
    assert float(edge.distances(jnp.array([2.0, 0.0]))[0]) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.slow
def test_a_blend_has_every_value_on_its_part():
    with jax.enable_x64(True):
        lift = conditions.Blend((L.edges(1), lambda x: jnp.cos(x[1])), (L.edges(4), 0.0), (L.edges(3), 2.0))
        value = lambda edge: jax.vmap(lift)(L.edges(edge).sample(KEY, 100).x)
        np.testing.assert_allclose(value(1), np.cos(L.edges(1).sample(KEY, 100).x[:, 1]), atol=1e-12)
        np.testing.assert_allclose(value(4), 0, atol=1e-9)
        np.testing.assert_allclose(value(3), 2, atol=1e-9)
        inside = jax.vmap(lift)(L.sample_interior(KEY, 200))
        assert (inside > 0).all()
        assert (inside < 2).all()
        assert np.isfinite(lift(jnp.array([1.0, 2.0])))  # where two values meet


@pytest.mark.slow
def test_nothing_of_it_is_trained_and_the_condition_stays():
    line = geometry.interval(0.0, 1.0)
    inputs = conditions.Inputs(line)
    lift = conditions.Blend((line.left, 1.0), (line.right, 2.0))
    u = conditions.Exact(network(inputs), inputs, conditions.SmoothDistance(line.boundary), lift)
    trained = jax.tree.leaves(eqx.filter(u, tw.trainable(u)))
    assert len(trained) == len(jax.tree.leaves(eqx.filter(u.network, eqx.is_inexact_array)))
    law = tw.Residual(lambda u, x: tw.laplacian(u, x), tw.FreshPoints(line.spread_interior, 64))
    phases = [tw.Phase(tw.LevenbergMarquardt(), 40)]
    fitted = tw.fit(u, tw.Objective(law=law), phases, precision=jnp.float64)
    with jax.enable_x64(True):
        ends = jax.vmap(fitted.model)(jnp.array([[0.0], [1.0]]))
        np.testing.assert_allclose(ends, [1, 2], atol=1e-15)
        middle = fitted.model(jnp.array([0.5]))
    assert float(middle) == pytest.approx(1.5, abs=1e-3)  # the straight line; measured 1e-6


def test_periodic_inputs():
    domain = geometry.rectangle((1, 0), (3, 1))
    inputs = conditions.Inputs(domain, periods=(2.0, None), modes=2)
    with jax.enable_x64(True):
        u = lambda x: network(inputs)(inputs(x).astype(jnp.float32)).astype(float)
        smooth = lambda x: jnp.sum(inputs(x) ** 3)
        for y in (0.0, 0.3):
            left, right = jnp.array([1.0, y]), jnp.array([3.0, y])
            np.testing.assert_allclose(u(left), u(right), rtol=1e-6)
            np.testing.assert_allclose(jax.hessian(smooth)(left), jax.hessian(smooth)(right), atol=1e-10)
        x = jnp.array([1.5, 0.25])
        np.testing.assert_allclose(inputs(x), [0, -1, 1, 0, -0.5], atol=1e-12)  # a quarter of the period
    assert inputs.size == 5


@pytest.mark.slow
def test_helpers_for_terms():
    with jax.enable_x64(True):
        disk = geometry.disk((0, 0), 2.0)
        at = jax.tree.map(lambda rows: rows[0], disk.sample_boundary(KEY, 1))
        u = lambda x: x[0] ** 3 + x[1]
        slope = np.array([3 * at.x[0] ** 2, 1.0])
        assert float(conditions.normal_derivative(u, at)) == pytest.approx(float(slope @ at.normal))
        matrix = np.array([[2.0, 1.0], [0.0, 3.0]])
        found = conditions.flux(lambda x: jnp.asarray(matrix), u, at)
        assert float(found) == pytest.approx(float(-at.normal @ matrix @ slope))
        # Two layers, k = 1 and 4, u continuous: flux jumps by what the slopes do not make up for.
        inner, outer = (lambda x: jnp.sum(x**2)), (lambda x: 2 + jnp.sum(x**2) / 2)
        jump = conditions.interface(inner, outer, at, lambda x: jnp.ones(()), lambda x: jnp.full((), 4.0))
        np.testing.assert_allclose(jump, [0, -4 * 2.0 + 4.0], atol=1e-12)
        right = geometry.rectangle((0, 0), (2, 1)).right
        for pair in (
            conditions.PeriodicPairs(right, (-2.0, 0)).sample(KEY, 7),
            conditions.PeriodicPairs(right, (-2.0, 0)).spread(KEY, 7),
        ):
            np.testing.assert_array_equal(pair.other, pair.x - np.array([2.0, 0]))
            assert (pair.other[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conditions.SmoothDistance(L), "Polygon is no part"),
        (lambda: conditions.SmoothDistance(L.part(lambda x: x[0] < 1)), "Matching has no smooth distance"),
        (
            lambda: conditions.SmoothDistance(geometry.joined(L.edges(0), L.part(lambda x: x[0] < 1))),
            "Matching has no smooth distance",
        ),
        (lambda: conditions.Blend(), "nothing to blend"),
        (lambda: conditions.Inputs(L, periods=(1.0,)), "1 periods for 2"),
        (lambda: conditions.Inputs(L, periods=(0.0, None)), "period of 0.0"),
        (lambda: conditions.Inputs(L, periods=(1.0, None), modes=0), "0 modes"),
        (lambda: conditions.Inputs("L"), "str is no domain"),
        (lambda: conditions.PeriodicPairs(L, (1, 0)), "Polygon is no part"),
        (lambda: conditions.PeriodicPairs(L.edges(0), (0.0, 0.0)), "a shift of"),
    ],
)
def test_bad_conditions_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()

"""Boxes, balls, annuli, combinations, time cylinders: sizes, points, normals and distances against closed forms."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from thalweg.errors import UserError
from thalweg.objective import FreshPoints, HeldPoints, Objective, Residual
from thalweg.physics import geometry

KEY = jax.random.key(11)


@functools.cache
def domains():
    """Each with its size and the size of its boundary, by hand."""
    square, unit = geometry.rectangle((-2, -2), (2, 2)), geometry.disk((0, 0), 1.0)
    cube, inner = geometry.box((-1, -1, -1), (1, 1, 1)), geometry.ball((0, 0, 0), 0.5)
    lens = 2 * np.pi / 3 - np.sqrt(3) / 2  # common part of two unit disks at a distance of 1
    left, right = geometry.disk((-0.5, 0), 1.0), geometry.disk((0.5, 0), 1.0)
    arc = 2 * np.pi / 3  # of either circle, within the other
    return {
        "box": (geometry.box((0, -1, 2), (1, 1, 5)), 6.0, 22.0),
        "ball": (geometry.ball((1, 2, 3), 2.0), 32 * np.pi / 3, 16 * np.pi),
        "ball in 4-D": (geometry.ball((0, 1, 0, 0), 1.5), np.pi**2 / 2 * 1.5**4, 2 * np.pi**2 * 1.5**3),
        "annulus": (geometry.annulus((1, 0), 1.0, 2.0), 3 * np.pi, 6 * np.pi),
        "plate with a hole": (geometry.difference(square, unit), 16 - np.pi, 16 + 2 * np.pi),
        "lens": (geometry.intersection(left, right), lens, 2 * arc),
        "two disks": (geometry.union(left, right), 2 * np.pi - lens, 4 * np.pi - 2 * arc),
        "L of rectangles": (  # they share an edge, which is no boundary, and lie on one line
            geometry.union(geometry.rectangle((0, 0), (2, 1)), geometry.rectangle((0, 1), (1, 2))),
            3.0,
            8.0,
        ),
        "notch": (  # the notch shares part of an edge
            geometry.difference(geometry.rectangle((0, 0), (2, 1)), geometry.rectangle((1, 0), (2, 0.5))),
            1.5,
            6.0,
        ),
        "overlap": (  # parts of two edges coincide and point the same way
            geometry.union(geometry.rectangle((0, 0), (2, 1)), geometry.rectangle((1, 0), (3, 1))),
            3.0,
            8.0,
        ),
        "nested": (
            geometry.union(geometry.difference(square, unit), geometry.disk((0, 0), 0.5)),
            16 - np.pi + np.pi / 4,
            16 + 2 * np.pi + np.pi,
        ),
        "hollow cube": (geometry.difference(cube, inner), 8 - np.pi / 6, 24 + np.pi),
        "cylinder": (geometry.time_cylinder(geometry.disk((0, 0), 1.0), 1.0, 3.0), 2 * np.pi, 6 * np.pi),
        "cylinder over a plate with a hole": (
            geometry.time_cylinder(geometry.difference(square, unit), 0.0, 0.5),
            (16 - np.pi) / 2,
            2 * (16 - np.pi) + (16 + 2 * np.pi) / 2,
        ),
    }


N = 2**12
LONGER = ("ball in 4-D", "notch", "nested", "hollow cube", "cylinder over a plate with a hole")


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in LONGER else n for n in domains()])
def name(request):
    return request.param


@functools.cache
def drawn(name, dtype=np.float64):
    """Uniform and spread points of the interior and of the boundary, compiled with the domain traced."""

    @eqx.filter_jit
    def draw(domain, keys):
        inside = domain.sample_interior(keys[0], N), domain.spread_interior(keys[1], N)
        return *inside, domain.sample_boundary(keys[2], N), domain.spread_boundary(keys[3], N)

    with jax.enable_x64(dtype == np.float64):
        return jax.tree.map(np.asarray, draw(domains()[name][0], jax.random.split(KEY, 4)))


@eqx.filter_jit
def _both(domain, x):
    return jax.vmap(domain.signed_distance)(x), jax.vmap(domain.contains)(x)


def measured(domain, x):
    """Signed distance of points (…, d) and whether they are contained; N at a time, to compile it once."""
    x = np.asarray(x)
    rows = x.reshape(-1, x.shape[-1])
    chunks = np.concatenate([rows, np.repeat(rows[:1], -len(rows) % N, axis=0)]).reshape(-1, N, x.shape[-1])
    with jax.enable_x64(x.dtype == np.float64):
        found = [jax.tree.map(np.asarray, _both(domain, jnp.asarray(chunk))) for chunk in chunks]
    return [np.concatenate(each)[: len(rows)].reshape(x.shape[:-1]) for each in zip(*found, strict=True)]


def test_sizes_are_those_of_closed_forms_and_of_monte_carlo(name):
    domain, size, boundary_size = domains()[name]
    combined = any("share" in vars(one) for one in (domain, getattr(domain, "domain", domain)))
    # Combinations are measured with 2¹⁴ points: five standard deviations of a share of 0.5 and above are 4 %.
    assert domain.size == pytest.approx(size, rel=0.04 if combined else 1e-6)
    assert domain.boundary_size == pytest.approx(boundary_size, rel=0.04 if combined else 1e-6)
    lower, upper = map(np.asarray, domain.bounds)
    n = 10 * N
    share = measured(domain, np.random.default_rng(3).uniform(lower, upper, (n, len(lower))))[1].mean()
    wanted = size / np.prod(upper - lower)
    assert abs(share - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / n) + 1e-6  # five standard deviations


def test_points_lie_inside_and_on_the_boundary(name):
    check_points(name, np.float64)


@pytest.mark.parametrize("name", ["box", "ball", "annulus", "plate with a hole", "cylinder"])
@pytest.mark.slow
def test_points_of_32_bits_lie_inside_and_on_the_boundary(name):
    check_points(name, np.float32)


def check_points(name, dtype):
    domain, eps = domains()[name][0], np.finfo(dtype).eps
    inside, even, at, even_at = drawn(name, dtype)
    for points in (inside, even):
        assert points.shape == (N, domain.dimension)
        assert points.dtype == dtype
        distance, contained = measured(domain, points)
        assert contained.all()
        assert (distance < 0).mean() > 0.99
        assert len(np.unique(points, axis=0)) == N  # none occurs twice
    for found in (at, even_at):
        assert {leaf.dtype for leaf in found} == {np.dtype(dtype)}
        np.testing.assert_allclose(measured(domain, found.x)[0], 0, atol=100 * eps)  # coordinates up to 5
        np.testing.assert_allclose(np.linalg.norm(found.normal, axis=1), 1, atol=20 * eps)
        assert len(np.unique(found.x, axis=0)) > 0.98 * N


def test_normals_are_the_slope_of_the_distance(name):
    """By central differences, in 64 bits, away from edges, where the distance has kinks."""
    domain = domains()[name][0]
    for found in drawn(name)[2:]:
        step = 1e-6
        beside = lambda by, x=found.x: measured(domain, x + by)
        each = [(beside(step * e)[0] - beside(-step * e)[0]) / (2 * step) for e in np.eye(domain.dimension)]
        slope = np.stack(each, axis=1)
        # Where surfaces coincide the bound has no slope along the normal; elsewhere hardly a point is at a kink.
        smooth = np.abs(np.linalg.norm(slope, axis=1) - 1) < 1e-3
        assert smooth.mean() > 0.8
        # Error of the difference: step²/r² and rounding/step = 1e-9.
        assert (np.abs(slope - found.normal)[smooth].max(axis=1) < 1e-5).mean() > 0.99
        inside, outside = beside(-1e-4 * found.normal)[1], beside(1e-4 * found.normal)[1]
        assert (inside & ~outside).mean() > 0.99


def test_the_divergence_theorem(name):
    """∮ f·n = ∫ ∇·f for f = x³: uniformity inside and on the boundary, normals, sizes, all at once."""
    _, size, boundary_size = domains()[name]
    _, inside, _, at = drawn(name)
    volume = size * 3 * np.sum(inside**2, axis=1)
    surface = boundary_size * np.sum(at.x**3 * at.normal, axis=1)
    # Quasi-random points err by far less than independent ones; two standard errors of these are allowed.
    error = 2 * (volume.std() + surface.std()) / np.sqrt(N)
    assert volume.mean() == pytest.approx(surface.mean(), abs=error)


def test_sampling_is_uniform(name):
    """The points drawn, against those of the box that are inside: chi-square of two samples at the level of 1e-6."""
    domain = domains()[name][0]
    lower, upper = map(np.asarray, domain.bounds)
    box = np.random.default_rng(5).uniform(lower, upper, (40 * N, len(lower)))
    box = box[measured(domain, box)[1]]
    bins = {2: 8, 3: 4, 4: 3}[domain.dimension]
    count = lambda x: np.histogramdd(x, bins=bins, range=list(zip(lower, upper, strict=True)))[0].ravel()
    one, two = count(drawn(name)[0]), count(box)
    kept = one + two > 50
    k1, k2 = np.sqrt(two.sum() / one.sum()), np.sqrt(one.sum() / two.sum())
    statistic = np.sum((k1 * one[kept] - k2 * two[kept]) ** 2 / (one[kept] + two[kept]))
    assert statistic < scipy.stats.chi2.ppf(1 - 1e-6, kept.sum())


def test_boundary_points_are_uniform_on_every_surface():
    """Shares of the surfaces, and uniform along each: five standard deviations, and Kolmogorov and Smirnov at 1e-6."""
    share = 2 * np.pi / (16 + 2 * np.pi)
    for x, _ in drawn("plate with a hole")[2:]:
        on_hole = np.linalg.norm(x, axis=1) < 1.5
        assert abs(on_hole.mean() - share) < 5 * np.sqrt(share * (1 - share) / N)
        angle = np.arctan2(*x[on_hole].T) / (2 * np.pi) + 0.5
        assert scipy.stats.kstest(angle, "uniform").pvalue > 1e-6
    gaps = np.diff(np.sort(angle))  # of the even points
    assert gaps.max() < 1.3 / len(angle)  # equidistant, but for an eighth at either end
    x = drawn("overlap")[2].x
    lower = x[x[:, 1] == 0][:, 0] / 3  # the middle third belongs to two rectangles, and counts once
    assert scipy.stats.kstest(lower, "uniform").pvalue > 1e-6
    at = drawn("annulus")[2]
    away = at.x - [1, 0]
    inner = np.linalg.norm(away, axis=1) < 1.5
    assert abs(inner.mean() - 1 / 3) < 5 * np.sqrt(2 / 9 / N)
    np.testing.assert_allclose(at.normal[inner], -away[inner], atol=1e-14)


def test_the_sphere_has_no_preferred_direction():
    normal = np.asarray(geometry.ball((0, 0, 0), 2.0).sample_boundary(KEY, 10_000).normal)
    for axis in range(3):  # Archimedes: each coordinate of a point on the sphere is uniform
        assert scipy.stats.kstest(normal[:, axis] / 2 + 0.5, "uniform").pvalue > 1e-6


def test_distances_are_exact_where_that_is_promised():
    distance = lambda domain, *x: float(domain.signed_distance(jnp.array(x, jnp.float32)))
    cuboid, ring = geometry.box((0, 0, 0), (2, 2, 2)), geometry.annulus((0, 0), 1.0, 2.0)
    cases = [
        (cuboid, (1, 1, 0.25), -0.25),
        (cuboid, (1, 1, 3), 1.0),
        (cuboid, (3, 3, 3), np.sqrt(3)),
        (ring, (0, 0), 1.0),
        (ring, (0, 1.25), -0.25),
        (ring, (3, 4), 3.0),
        (geometry.ball((0, 0, 1), 1), (0, 0, 4), 2.0),
        (geometry.time_cylinder(geometry.disk((0, 0), 1), 0, 1), (2, 0, 2), np.sqrt(2)),
    ]
    for domain, x, value in cases:
        assert distance(domain, *x) == pytest.approx(value, abs=1e-6)  # float32


def test_the_distance_of_a_combination_is_a_bound_of_the_right_sign(name):
    """No boundary point is nearer than the bound says."""
    domain = domains()[name][0]
    lower, upper = map(np.asarray, domain.bounds)
    x = np.random.default_rng(1).uniform(lower - 0.2, upper + 0.2, (300, len(lower)))
    found, contained = measured(domain, x)
    nearest = np.linalg.norm(drawn(name)[3].x - x[:, None], axis=-1).min(axis=1)
    assert (np.abs(found) <= nearest + 1e-9).all()
    np.testing.assert_array_equal(found <= 0, contained)


@pytest.mark.slow
def test_time_cylinders():
    plate = geometry.rectangle((0, 0), (2, 1))
    history = geometry.time_cylinder(plate, 1.0, 4.0)
    for part, time, normal in ((history.initial, 1.0, -1.0), (history.final, 4.0, 1.0)):
        for at in (part.sample(KEY, 100), part.spread(KEY, 100)):
            assert (at.x[:, 2] == time).all()
            assert (at.normal == jnp.array([0, 0, normal])).all()
            assert part.size == 2.0
    for at in (history.sides.sample(KEY, 2_000), history.sides.spread(KEY, 2_000)):
        assert (at.normal[:, 2] == 0).all()
        assert scipy.stats.kstest((np.asarray(at.x[:, 2]) - 1) / 3, "uniform").pvalue > 1e-6
        np.testing.assert_array_equal(np.asarray(jax.vmap(plate.contains)(at.x[:, :2])), True)
    hot = history.over(plate.right).sample(KEY, 50)
    assert (hot.x[:, 0] == 2).all()
    assert (hot.normal == jnp.array([1.0, 0, 0])).all()
    assert history.sides.size == 18.0
    even = np.asarray(geometry.time_cylinder(geometry.interval(0, 1), 0, 1).spread_interior(KEY, 256))
    cells = np.histogram2d(*even.T, bins=8, range=[(0, 1), (0, 1)])[0]
    assert cells.min() >= 2  # 4 a cell: independent points would leave a cell with one or none (chance 0.998)
    assert cells.max() <= 6


@pytest.mark.slow
def test_terms_draw_from_combinations_in_a_compiled_step():
    plate = domains()["plate with a hole"][0]
    hole = plate.part(lambda x: jnp.sum(x**2) < 1.1)
    with jax.enable_x64(True):
        objective = Objective(
            law=Residual(lambda u, x: jnp.sum(x), FreshPoints(plate.spread_interior, 64)),
            hole=Residual(lambda u, at: jnp.vdot(at.x, at.normal), FreshPoints(hole.spread, 16)),
            held=Residual(lambda u, at: jnp.vdot(at.x, at.normal), HeldPoints(hole.sample, 16)),
        ).astype(np.float64)
        state = objective.init(KEY)
        draw = eqx.filter_jit(lambda objective, state, index: objective.draw(state, index))
        first, second = (draw(objective, state, jnp.int32(i)) for i in range(2))
        assert not np.array_equal(first["law"].values, second["law"].values)
        for name in ("hole", "held"):
            at = first[name].values
            np.testing.assert_allclose(np.sum(np.asarray(at.x) * np.asarray(at.normal), axis=1), -1, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: geometry.union(geometry.disk((0, 0), 1)), "1 domains.*two or more"),
        (lambda: geometry.union(geometry.disk((0, 0), 1), 3), "int is no domain"),
        (lambda: geometry.union(geometry.disk((0, 0), 1), geometry.interval(0, 1)), "domains of \\[1, 2\\] dim"),
        (lambda: geometry.intersection(geometry.disk((0, 0), 1), geometry.disk((3, 0), 1)), "combination is empty"),
        (lambda: geometry.intersection(geometry.disk((0, 0), 1), geometry.disk((1.9, 1.9), 1)), "combination is empty"),
        (lambda: geometry.difference(geometry.disk((0, 0), 1), geometry.disk((0, 0), 1)), "combination is empty"),
        (lambda: geometry.difference(geometry.disk((0, 0), 1), geometry.rectangle((-2, -2), (2, 2))), "is empty"),
        (lambda: geometry.difference(geometry.disk((0, 0), 1)), "1 domains"),
        (lambda: geometry.box((0, 0), (1, 0)), "a box from"),
        (lambda: geometry.box((0, 0), (1, 1, 1)), "upper corner of a box"),
        (lambda: geometry.box((), ()), "lower corner of a box"),
        (lambda: geometry.ball((0, 0, np.nan), 1), "center of a ball"),
        (lambda: geometry.ball((0, 0, 0), 0), "radius 0"),
        (lambda: geometry.annulus((0, 0), 2, 1), "annulus of radii 2 and 1"),
        (lambda: geometry.annulus((0, 0), 0, 1), "annulus of radii 0"),
        (lambda: geometry.time_cylinder(geometry.disk((0, 0), 1), 1, 1), "times from 1 to 1"),
        (lambda: geometry.time_cylinder(geometry.disk((0, 0), 1), 0, np.inf), "Finite numbers"),
        (lambda: geometry.time_cylinder((0, 1), 0, 1), "tuple is no domain"),
        (lambda: geometry.box((0, 0), (1, 1)).contains(jnp.ones(3)), "point of shape \\(3,\\)"),
        (lambda: geometry.box((0, 0), (1, 1)).lower_face(2), "no coordinate 2"),
    ],
)
def test_bad_domains_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()

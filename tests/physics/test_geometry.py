"""Domains: exact areas, uniform points, outward normals, distances; against closed forms and matplotlib's polygons."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from matplotlib.path import Path

from thalweg.errors import UserError
from thalweg.objective import FreshPoints, HeldPoints, Objective, Residual
from thalweg.physics import geometry
from thalweg.physics.triangulation import signed_area, triangulated

KEY = jax.random.key(5)
L = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
THIN_L = [(0, 0), (4, 0), (4, 1), (0.5, 1), (0.5, 3), (0, 3)]  # triangles of very different area
STAR = [(r * np.cos(a), r * np.sin(a)) for a, r in zip(np.arange(10) * np.pi / 5, [2, 0.7] * 5, strict=True)]
COMB = [(0, 0), (7, 0), (7, 3), (6, 3), (6, 1), (5, 1), (5, 3), (4, 3), (4, 1), (3, 1), (3, 3), (2, 3), (2, 1), (0, 1)]
SPIRAL = [(0, 0), (5, 0), (5, 5), (0, 5), (0, 2), (3, 2), (3, 3), (1, 3), (1, 4), (4, 4), (4, 1), (0, 1)]
DIVIDED = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (0, 2), (0, 1)]  # a square with three corners of 180°
SHAPES = {"L": L, "thin": THIN_L, "star": STAR, "comb": COMB, "spiral": SPIRAL, "divided": DIVIDED}


@pytest.fixture(params=SHAPES)
def corners(request):
    return np.array(SHAPES[request.param], float)


def domains():
    return {
        "interval": geometry.interval(-1.0, 2.0),
        "disk": geometry.disk((1.0, -1.0), 2.0),
        "rectangle": geometry.rectangle((-1, 0), (1, 3)),
        "L": geometry.polygon(L),
    }


def shoelace(corners):
    return 0.5 * sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True))


# ------------------------------------------------------------------------------------------------- size and shape


def test_sizes_are_exact():
    assert (geometry.polygon(L).area, geometry.polygon(L).perimeter) == (3.0, 8.0)
    assert (geometry.polygon(COMB).area, geometry.polygon(COMB).perimeter) == (13.0, 28.0)
    assert geometry.polygon(STAR).area == pytest.approx(5 * 2 * 0.7 * np.sin(np.pi / 5), rel=1e-14)
    assert (geometry.rectangle((-1, 0), (1, 3)).area, geometry.rectangle((-1, 0), (1, 3)).perimeter) == (6.0, 10.0)
    assert geometry.interval(-1.0, 2.5).length == 3.5
    assert geometry.disk((3, 4), 2).area == 4 * np.pi
    assert geometry.disk((3, 4), 2).perimeter == 4 * np.pi


@pytest.mark.parametrize("move", [lambda c: c, lambda c: c[::-1], lambda c: np.roll(c, 3, 0), lambda c: c + 1e6])
def test_triangles_cover_the_polygon_and_do_not_overlap(corners, move):
    corners = move(corners)
    triangles = triangulated(corners)
    areas = np.array([shoelace(triangle) for triangle in triangles - corners[0]])
    assert (areas > 0).all()
    # Whole area and (below) no two overlapping: then they tile it. 1e-9: rounding of coordinates near 1e6.
    assert areas.sum() == pytest.approx(abs(shoelace(corners - corners[0])), rel=1e-9)
    assert len(triangles) <= len(corners) - 2
    centers = triangles.mean(axis=1)
    inside = np.array([Path(triangle).contains_points(centers) for triangle in triangles])
    np.testing.assert_array_equal(inside, np.eye(len(triangles), dtype=bool))
    assert Path(corners).contains_points(centers).all()


def test_a_large_random_polygon():
    """Star-shaped with 300 corners of random radius: never self-intersecting, strongly not convex."""
    rng = np.random.default_rng(0)
    angle, radius = np.sort(rng.uniform(0, 2 * np.pi, 300)), rng.uniform(0.2, 1, 300)
    corners = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    plate = geometry.polygon(corners)
    assert plate.triangles.shape == (298, 3, 2)
    assert plate.area == pytest.approx(shoelace(corners), rel=1e-12)


# ------------------------------------------------------------------------------------------------------ interiors


def cells(points, lower, upper, count):
    """How many points fall into each cell of a grid."""
    return np.histogram2d(*np.asarray(points).T, bins=count, range=list(zip(lower, upper, strict=True)))[0].ravel()


def cell_shares(corners, lower, upper, count, fine=60):
    """Each cell's share of a polygon, from a fine grid of midpoints and matplotlib's test."""
    axes = [
        np.linspace(a, b, count * fine, endpoint=False) + (b - a) / (2 * count * fine)
        for a, b in zip(lower, upper, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    found = cells(grid[Path(corners).contains_points(grid)], lower, upper, count)
    return found / found.sum()


def chi_square(observed, shares):
    """The statistic over cells of some area, and the value that a uniform sample exceeds with probability 1e-6."""
    kept = shares > 1e-3
    assert observed[shares == 0].sum() == 0
    expected = observed.sum() * shares[kept]
    statistic = np.sum((observed[kept] - expected) ** 2 / expected)
    return statistic, scipy.stats.chi2.ppf(1 - 1e-6, kept.sum() - 1)


def test_interior_points_are_uniform(corners):
    """20,000 points in 8 × 8 cells. The areas of cells that an edge cuts are known to about 1e-3 of a cell, which adds
    n · share · (1e-3)² · cells < 1 to the statistic: nothing beside the threshold of about 130.
    """
    lower, upper = corners.min(axis=0), corners.max(axis=0)
    points = eqx.filter_jit(geometry.polygon(corners).sample_interior)(KEY, 20_000)
    statistic, limit = chi_square(cells(points, lower, upper, 8), cell_shares(corners, lower, upper, 8))
    assert statistic < limit


def test_the_test_of_uniformity_finds_what_is_not():
    """The mistakes that one makes: triangles chosen alike whatever their area; corners favoured within a triangle."""
    corners = np.array(THIN_L)
    plate = geometry.polygon(corners)
    lower, upper = corners.min(axis=0), corners.max(axis=0)
    shares = cell_shares(corners, lower, upper, 8)
    rng = np.random.default_rng(0)
    a, b, c = np.moveaxis(np.asarray(plate.triangles), 1, 0)
    areas = np.array([shoelace(triangle) for triangle in plate.triangles])
    for chance, power in ((np.full(len(a), 1 / len(a)), 0.5), (areas / areas.sum(), 0.6)):
        k, s, t = rng.choice(len(a), 20_000, p=chance), rng.random((20_000, 1)) ** power, rng.random((20_000, 1))
        points = (1 - s) * a[k] + s * (1 - t) * b[k] + s * t * c[k]
        statistic, limit = chi_square(cells(points, lower, upper, 8), shares)
        assert statistic > limit


def test_points_of_disk_and_interval_are_uniform():
    middle, radius = np.array([1.0, -1.0]), 2.0
    away = (np.asarray(geometry.disk(middle, radius).sample_interior(KEY, 20_000)) - middle) / radius
    share, angle = np.sum(away**2, axis=1), np.arctan2(away[:, 1], away[:, 0]) / (2 * np.pi) + 0.5
    line = np.asarray(geometry.interval(-1.0, 2.0).sample_interior(KEY, 20_000))
    assert line.shape == (20_000, 1)
    for uniform in (share, angle, (line[:, 0] + 1) / 3):
        # Kolmogorov and Smirnov; a fixed key, and the level of 1e-6 as above.
        assert scipy.stats.kstest(uniform, "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(share, angle)[0, 1]) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("name", domains())
def test_all_points_lie_inside(name):
    domain = domains()[name]
    for draw in (domain.sample_interior, domain.spread_interior):
        points = draw(KEY, 4_000)
        assert points.dtype == jnp.float32
        assert np.asarray(jax.vmap(domain.contains)(points)).all()
        # not merely within rounding: hardly any point is that near to the boundary
        assert (np.asarray(jax.vmap(domain.signed_distance)(points)) < 0).mean() > 0.999


@pytest.mark.parametrize("name", domains())
def test_spread_points_are_uniform_over_keys_and_more_even(name):
    domain, keys = domains()[name], jax.random.split(KEY, 200)
    mean = lambda draw: np.asarray(
        jax.vmap(lambda key: jnp.mean(jnp.sin(2 * draw(key, 256)), axis=0))(keys)
    )  # (200, d)
    alone, together = mean(domain.sample_interior), mean(domain.spread_interior)
    # Both are unbiased for the same mean: they differ by 5 standard errors of the noisier at most.
    error = np.hypot(alone.std(axis=0), together.std(axis=0)) / np.sqrt(len(keys))
    assert (np.abs(alone.mean(axis=0) - together.mean(axis=0)) < 5 * error).all()
    # Sobol's error falls as 1/n up to logarithms, not 1/√n: at 256 points it is a small part (measured 0.02 to 0.2).
    assert (together.std(axis=0) < 0.4 * alone.std(axis=0)).all()


@pytest.mark.parametrize("n", [0, 1, 3])
def test_any_number_of_points(n):
    for domain in domains().values():
        d = 1 if isinstance(domain, geometry.Interval) else 2
        for draw in (domain.sample_interior, domain.spread_interior):
            assert draw(KEY, n).shape == (n, d)
        for draw in (domain.sample_boundary, domain.spread_boundary):
            assert [part.shape for part in draw(KEY, n)] == [(n, d), (n, d)]


# ----------------------------------------------------------------------------------------------------- boundaries


@pytest.mark.parametrize("turn", [1, -1])
def test_normals_are_orthogonal_and_point_outward(corners, turn):
    plate = geometry.polygon(corners[::turn])
    for draw in (plate.sample_boundary, plate.spread_boundary):
        with jax.enable_x64(True):
            x, normal = map(np.asarray, draw(KEY, 500))
        np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-15)
        starts = corners[::turn]
        along = np.roll(starts, -1, axis=0) - starts
        share = np.clip(np.sum((x[:, None] - starts) * along, -1) / np.sum(along**2, -1), 0, 1)
        gaps = np.linalg.norm(starts + share[..., None] * along - x[:, None], axis=-1)  # (500, edges)
        edge = gaps.argmin(axis=1)
        assert gaps.min(axis=1).max() < 1e-14  # on an edge: rounding of numbers up to 7
        assert np.abs(np.sum(normal * along[edge], axis=1)).max() < 1e-14
        small = 1e-6  # far above rounding, far below the details of the shapes
        assert not Path(corners).contains_points(x + small * normal).any()
        away = np.abs(x[:, None] - corners).max(axis=-1).min(axis=1) > 1e-3  # at a corner, inward may leave elsewhere
        assert Path(corners).contains_points((x - small * normal)[away]).all()


def test_boundary_points_are_uniform_along_the_edges(corners):
    plate = geometry.polygon(corners)
    x = plate.sample_boundary(KEY, 20_000).x
    lengths = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    upto = np.concatenate([[0], np.cumsum(lengths)])
    starts, along = corners, np.roll(corners, -1, axis=0) - corners
    share = np.clip(np.sum((np.asarray(x)[:, None] - starts) * along, -1) / np.sum(along**2, -1), 0, 1)
    gaps = np.linalg.norm(starts + share[..., None] * along - np.asarray(x)[:, None], axis=-1)
    edge = gaps.argmin(axis=1)
    position = (upto[edge] + share[np.arange(len(edge)), edge] * lengths[edge]) / upto[-1]
    assert scipy.stats.kstest(position, "uniform").pvalue > 1e-6
    even = np.asarray(plate.spread_boundary(KEY, 400).x)
    chords = np.linalg.norm(np.roll(even, -1, axis=0) - even, axis=1)
    # Equidistant along the boundary: chords are that or, where one spans a corner, shorter.
    assert chords.max() <= plate.perimeter / 400 * (1 + 1e-4)
    assert (chords > plate.perimeter / 400 * (1 - 1e-4)).sum() >= 400 - len(corners)


@pytest.mark.slow
def test_boundary_of_disk_and_interval():
    disk = geometry.disk((1.0, -1.0), 2.0)
    for draw in (disk.sample_boundary, disk.spread_boundary):
        x, normal = map(np.asarray, draw(KEY, 5_000))
        np.testing.assert_allclose(x, np.array([1.0, -1.0]) + 2 * normal, atol=1e-6)  # float32
        np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
        angle = np.arctan2(normal[:, 1], normal[:, 0]) / (2 * np.pi) + 0.5
        assert scipy.stats.kstest(angle, "uniform").pvalue > 1e-6
    line = geometry.interval(-1.0, 2.0)
    for draw in (line.sample_boundary, line.spread_boundary):
        x, normal = map(np.asarray, draw(KEY, 1_000))
        np.testing.assert_array_equal(normal, np.where(x == 2, 1, -1))
        assert set(x.ravel().tolist()) == {-1.0, 2.0}
        assert abs((x == 2).sum() - 500) < 5 * np.sqrt(250)  # five standard deviations of fair draws


def test_parts_of_a_boundary():
    plate = geometry.rectangle((0, 0), (2, 1))
    for i, (normal, length) in enumerate([((0, -1), 2), ((1, 0), 1), ((0, 1), 2), ((-1, 0), 1)]):
        part = plate.edges(i)
        assert part.length == length
        assert np.unique(np.asarray(part.sample(KEY, 50).normal), axis=0).tolist() == [list(map(float, normal))]
    both = plate.edges(3, 0)
    x, normal = map(np.asarray, both.sample(KEY, 3_000))
    assert both.length == 3.0
    assert ((x[:, 0] == 0) | (x[:, 1] == 0)).all()
    assert abs((normal[:, 0] == -1).sum() - 1_000) < 5 * np.sqrt(3_000 * 2 / 9)  # five standard deviations
    for which, message in [((4,), "edge 4"), ((-1,), "edge -1"), ((1, 1), "edge 1"), ((), "no edge")]:
        with pytest.raises(UserError, match=message):
            plate.edges(*which)


# ---------------------------------------------------------------------------------------------- inside and how far


def test_contains_agrees_with_matplotlib(corners):
    rng = np.random.default_rng(1)
    lower, upper = corners.min(axis=0), corners.max(axis=0)
    points = rng.uniform(lower - 0.5, upper + 0.5, (3_000, 2))
    # Also level with corners, where a careless ray counts a corner twice or not at all.
    points[:1_500, 1] = rng.choice(corners[:, 1], 1_500)
    path = Path(corners)
    with jax.enable_x64(True):
        plate = geometry.polygon(corners)
        found = np.asarray(jax.jit(jax.vmap(lambda x: plate.contains(x)))(jnp.asarray(points)))
        distance = np.asarray(jax.jit(jax.vmap(lambda x: plate.signed_distance(x)))(jnp.asarray(points)))
    clear = np.abs(distance) > 1e-9  # on the boundary itself matplotlib says either
    assert clear.sum() > 2_000
    np.testing.assert_array_equal(found[clear], path.contains_points(points)[clear])
    np.testing.assert_array_equal(found[clear], distance[clear] < 0)
    assert found[~clear].all()


def test_boundary_belongs_to_the_domain():
    for domain in domains().values():
        on_it = eqx.filter_jit(lambda domain: jax.vmap(domain.contains)(domain.sample_boundary(KEY, 2_000).x))
        assert np.asarray(on_it(domain)).all()
    far = geometry.polygon(np.array(L) + 1_000.0)  # rounding grows with the coordinates
    assert np.asarray(jax.vmap(far.contains)(far.sample_boundary(KEY, 2_000).x)).all()
    assert not far.contains(jnp.array([1_001.5, 1_001.5]))


def test_distances():
    distance = lambda domain, *x: float(domain.signed_distance(jnp.array(x)))
    plate = geometry.polygon(L)
    expected = {
        (0.5, 0.25): -0.25,
        (1.5, 1.5): 0.5,
        (0.5, 3.0): 1.0,
        (0.9, 0.9): -np.hypot(0.1, 0.1),
        (3.0, -1.0): np.sqrt(2),
    }
    for x, value in expected.items():
        assert distance(plate, *x) == pytest.approx(value, abs=1e-6)  # float32
    assert distance(geometry.disk((1, 1), 2), 1.0, 0.0) == pytest.approx(-1.0)
    assert distance(geometry.disk((1, 1), 2), 4.0, 5.0) == pytest.approx(3.0)
    assert distance(geometry.interval(0, 3), 0.5) == pytest.approx(-0.5)
    assert distance(geometry.interval(0, 3), 4.0) == pytest.approx(1.0)


@pytest.mark.slow
def test_distance_has_a_slope_of_length_one_and_none_that_is_not_finite():
    plate = geometry.polygon(L)
    slope = jax.jit(jax.grad(lambda x: plate.signed_distance(x)))
    points = plate.sample_interior(KEY, 50)
    np.testing.assert_allclose(jnp.linalg.norm(jax.vmap(slope)(points), axis=1), 1, atol=1e-5)  # float32
    x, normal = plate.sample_boundary(KEY, 5)
    inside = jax.vmap(slope)(x - 0.01 * normal)
    np.testing.assert_allclose(inside, normal, atol=1e-4)  # float32, over a step of 0.01
    for place in ([0.0, 0.0], [1.0, 1.0], [1.0, 0.0]):
        assert np.isfinite(slope(jnp.array(place))).all()
    center = jnp.array([1.0, -1.0])
    assert np.isfinite(jax.grad(geometry.disk((1, -1), 2).signed_distance)(center)).all()


# ------------------------------------------------------------------------------------------------------ with terms


@pytest.mark.parametrize(("name", "dtype"), [*((name, np.float64) for name in domains()), ("L", np.float32)])
@pytest.mark.slow
def test_samplers_serve_terms_in_either_precision(name, dtype):
    """Held and fresh, in a compiled step, where the objective is an argument and so the domain is traced."""
    domain = domains()[name]
    with jax.enable_x64(dtype == np.float64):
        objective = Objective(
            law=Residual(lambda u, x: jnp.sum(x), FreshPoints(domain.spread_interior, 64)),
            held=Residual(lambda u, x: jnp.sum(x), HeldPoints(domain.sample_interior, 64)),
            flux=Residual(lambda u, at: jnp.vdot(at.x, at.normal), FreshPoints(domain.sample_boundary, 32)),
            ends=Residual(lambda u, at: jnp.vdot(at.x, at.normal), HeldPoints(domain.spread_boundary, 32)),
        ).astype(dtype)
        draw = eqx.filter_jit(lambda objective, state, index: objective.draw(state, index))
        state = objective.init(KEY)
        first, second, again = (draw(objective, state, jnp.int32(i)) for i in (0, 1, 0))
        for name in ("law", "flux"):
            assert not np.array_equal(*(jax.tree.leaves(batch[name].values)[0] for batch in (first, second)))
        for name, batch in first.items():
            assert {leaf.dtype for leaf in jax.tree.leaves(batch.values)} == {np.dtype(dtype)}
            for one, other in zip(*map(jax.tree.leaves, (batch, again[name])), strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_the_divergence_theorem_holds_on_the_points():
    """∮ f·n = ∫ ∇·f: area, perimeter, normals and both samplers at once, for f = (x³, xy²)."""
    field = lambda x: jnp.stack([x[0] ** 3, x[0] * x[1] ** 2])
    source = lambda x: 3 * x[0] ** 2 + 2 * x[0] * x[1]
    with jax.enable_x64(True):
        for domain in (geometry.polygon(L), geometry.polygon(STAR), geometry.disk((1, 2), 1.5)):
            inside = domain.area * jnp.mean(jax.jit(jax.vmap(source))(domain.spread_interior(KEY, 2**15)))
            x, normal = domain.spread_boundary(KEY, 2**15)
            through = domain.perimeter * jnp.mean(jnp.sum(jax.vmap(field)(x) * normal, axis=1))
            # Quasi-Monte-Carlo: 1/n = 3e-5 with logarithms and the field's size of up to 30; measured 3e-3 and less.
            assert float(inside) == pytest.approx(float(through), abs=2e-2)
            assert abs(through) > 0.5


# --------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("corners", "message"),
    [
        ([(0, 0), (1, 1)], "2 corners"),
        ([], "shape \\(0,\\)"),
        ([(0, 0, 0), (1, 0, 0), (0, 1, 0)], "shape \\(3, 3\\)"),
        ([(0, 0), (1,), (0, 1)], "no table of numbers"),
        ([("a", 0), (1, 0), (0, 1)], "no table of numbers"),
        ([(0, 0), (1, 0), (np.nan, 1)], "corner 2 is \\[nan"),
        ([(0, 0), (1, 0), (0, np.inf)], "corner 2 is"),
        ([(0, 0), (1, 0), (1, 1), (0, 0)], "corners 0 and 3 are the same.*closes by itself"),
        ([(0, 0), (1, 0), (1, 0), (0, 1)], "corners 1 and 2 are the same"),
        ([(0, 0), (1, 0), (1 + 1e-16, 1e-16), (0, 1)], "corners 1 and 2 are the same"),
        ([(0, 0), (2, 0), (2, 2), (1, 1), (0, 2), (1, 1)], "corners 3 and 5 are the same"),
        ([(0, 0), (1, 1), (1, 0), (0, 1)], "edges 0 and 2 cross"),
        ([(0, 0), (4, 0), (4, 4), (2, -1), (0, 4)], "edges 0 and 2 cross"),
        ([(0, 0), (4, 0), (4, 4), (2, 0), (0, 4)], "edges 0 and 2 cross or touch"),
        ([(0, 0), (4, 0), (4, 1), (3, 1), (3, 0), (1, 0), (1, 1), (0, 1)], "edges 0 and 3 cross or touch"),
        ([(0, 0), (1, 0), (2, 0)], "no area"),
        ([(0, 0), (1, 1), (3, 3)], "no area"),
        ([(1e5 + 0.2, 1e5 + 0.3), (1e5, 1e5 + 0.4), (1e5 + 0.4, 1e5 + 0.2)], "no area"),  # on a line but for rounding
        ([(0, 0), (4, 0), (2, 0), (2, 2)], "edges? .*(folds back|touch)"),
        ([(0, 0), (2, 0), (2, 2), (1, 2), (1, 3), (1, 1), (0, 2)], "(folds back|touch)"),
    ],
)
def test_bad_polygons_are_refused(corners, message):
    with pytest.raises(UserError, match=message):
        geometry.polygon(corners)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: geometry.interval(1.0, 1.0), "interval from 1.0 to 1.0"),
        (lambda: geometry.interval(0.0, np.inf), "Finite numbers"),
        (lambda: geometry.interval("a", 1.0), "no number"),
        (lambda: geometry.disk((0, 0), 0.0), "radius 0.0"),
        (lambda: geometry.disk((0, 0), -1), "radius -1"),
        (lambda: geometry.disk((0, 0, 0), 1), "center of a disk"),
        (lambda: geometry.rectangle((0, 0), (1, 0)), "rectangle from"),
        (lambda: geometry.rectangle((0, 0), (-1, 1)), "rectangle from"),
        (lambda: geometry.rectangle(0, 1), "corner of a rectangle"),
        (lambda: geometry.polygon(L).contains(jnp.ones((4, 2))), "point of shape \\(4, 2\\)"),
        (lambda: geometry.interval(0, 1).contains(jnp.ones(())), "point of shape \\(\\)"),
    ],
)
def test_bad_shapes_and_points_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_area_is_that_of_the_corners_whichever_way_round():
    assert signed_area(np.array(L)) == 3.0
    assert signed_area(np.array(L[::-1])) == -3.0
    assert geometry.polygon(L[::-1]).area == 3.0

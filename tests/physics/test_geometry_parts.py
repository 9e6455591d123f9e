"""Parts of a boundary by name and by condition, grids, and points that must lie inside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.physics import geometry

KEY = jax.random.key(2)


@pytest.mark.slow
def test_named_sides():
    plate, line = geometry.rectangle((0, 0), (2, 1)), geometry.interval(-1, 3)
    for part, normal, size in (
        (plate.lower, (0, -1), 2),
        (plate.right, (1, 0), 1),
        (plate.upper, (0, 1), 2),
        (plate.left, (-1, 0), 1),
        (line.left, (-1,), 1),
        (line.right, (1,), 1),
    ):
        assert part.size == size
        for at in (part.sample(KEY, 20), part.spread(KEY, 20)):
            assert np.unique(np.asarray(at.normal), axis=0).tolist() == [list(normal)]
    assert (line.right.sample(KEY, 5).x == 3).all()
    cube = geometry.box((0, 0, 0), (1, 2, 3))
    for axis, size in enumerate((6, 3, 2)):
        for face, where in ((cube.lower_face(axis), 0), (cube.upper_face(axis), axis + 1)):
            assert face.size == size
            at = face.spread(KEY, 64)
            assert (at.x[:, axis] == where).all()
            assert (at.normal[:, axis] == (1 if where else -1)).all()
            assert (jnp.abs(at.normal).sum(axis=1) == 1).all()
            for other in {0, 1, 2} - {axis}:  # the face is covered: Sobol's 64 points, within an eighth of each edge
                assert at.x[:, other].min() < (other + 1) / 8
                assert at.x[:, other].max() > (other + 1) * 7 / 8
    ring = geometry.annulus((1, 1), 1, 2)
    assert np.allclose(jnp.linalg.norm(ring.inner.sample(KEY, 9).x - 1, axis=1), 1, atol=1e-6)  # float32
    assert np.allclose(jnp.linalg.norm(ring.outer.spread(KEY, 9).x - 1, axis=1), 2, atol=1e-6)


@pytest.mark.slow
def test_parts_by_condition():
    plate = geometry.polygon([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)])
    left = plate.part(lambda x: x[0] < 1e-9)
    assert left.size == pytest.approx(2, rel=1e-3)  # a share of 16,384 equidistant points
    for at in (left.sample(KEY, 4_000), left.spread(KEY, 4_000)):
        assert (at.x[:, 0] == 0).all()
        assert (at.normal == jnp.array([-1.0, 0.0])).all()
        assert abs(float(at.x[:, 1].mean()) - 1) < 5 * 2 / np.sqrt(12 * 4_000)  # five standard errors
    low = left.part(lambda x: x[1] < 0.5)  # a part of a part
    assert low.size == pytest.approx(0.5, rel=1e-2)
    assert float(low.sample(KEY, 500).x[:, 1].max()) < 0.5
    gaps = np.diff(np.sort(np.asarray(low.spread(KEY, 50).x[:, 1])))
    assert gaps.max() < 0.01 * 1.3  # equidistant but for an eighth
    sphere = geometry.ball((0, 0, 0), 1.0).part(lambda x: x[2] > 0)
    assert sphere.size == pytest.approx(2 * np.pi, rel=0.02)
    assert (sphere.sample(KEY, 100).x[:, 2] > 0).all()
    corner = geometry.joined(plate.edges(5), plate.edges(0))
    assert corner.size == 4.0
    x = corner.spread(KEY, 40).x
    assert int((x[:, 0] == 0).sum()) == 20


def test_a_condition_that_is_lost_to_rounding_is_seen():
    """In 64 bits it matches; in 32 the bound rounds to the edge's own coordinate: NaN, which a fit refuses by term."""
    right = geometry.rectangle((0, 0), (2, 1)).part(lambda x: x[0] > 2 - 1e-9)
    with jax.enable_x64(True):
        assert (right.sample(KEY, 9).x[:, 0] == 2).all()
    assert np.isnan(right.sample(KEY, 9).x).all()


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (lambda x: x[0] > 5, "matches none of.*coordinates from \\[0.0, 0.0\\] to \\[2.0, 1.0\\].*room for rounding"),
        (lambda x: x[0], "gives float64\\[\\] at one point"),
        (lambda x: x > 1, "gives bool\\[2\\] at one point"),
        ("left", "str is no condition"),
    ],
)
def test_parts_that_match_nothing_are_refused(condition, message):
    with pytest.raises(UserError, match=message):
        geometry.rectangle((0, 0), (2, 1)).part(condition)


def test_joining_nothing_is_refused():
    with pytest.raises(UserError, match="no part to join"):
        geometry.joined()
    with pytest.raises(UserError, match="Disk is no part"):
        geometry.joined(geometry.disk((0, 0), 1))


def test_grids():
    unit = geometry.rectangle((0, 0), (1, 1)).grid_interior(0.25)
    assert unit.tolist() == [[x, y] for x in (0.125, 0.375, 0.625, 0.875) for y in (0.125, 0.375, 0.625, 0.875)]
    disk = geometry.disk((0, 0), 1.0).grid_interior(0.02)
    assert len(disk) * 0.02**2 == pytest.approx(np.pi, rel=0.03)  # a rim of a quarter of the spacing is left out: 1 %
    assert np.linalg.norm(disk, axis=1).max() <= 1 - 0.005 + 1e-12
    assert geometry.interval(0, 1).grid_interior(0.5).tolist() == [[0.25], [0.75]]
    for spacing, message in (
        (0.0, "spacing of 0.0"),
        (5.0, "leaves no point"),
        (1e-5, "more than 1e7"),
        (np.nan, "nan"),
    ):
        with pytest.raises(UserError, match=message):
            geometry.rectangle((0, 0), (1, 1)).grid_interior(spacing)


def test_sensors_outside_are_named_by_row():
    plate = geometry.polygon([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)])
    good = [(0.5, 0.5), (2, 1), (0, 0)]  # corners belong to the plate
    np.testing.assert_array_equal(plate.check_inside(good, "sensors"), good)
    with pytest.raises(UserError, match=r"2 of 4 sensors lie outside.*\[1.5, 1.5\] \(rows 1, 3"):
        plate.check_inside([(0.5, 0.5), (1.5, 1.5), (1, 1), (-1, 0)], "sensors")
    with pytest.raises(UserError, match=r"sensors have \[nan, 0.0\] \(row 1"):
        plate.check_inside([(0.5, 0.5), (np.nan, 0)], "sensors")
    with pytest.raises(UserError, match=r"sensors of shape \(2,\)"):
        plate.check_inside([0.5, 0.5], "sensors")
    with pytest.raises(UserError, match="no table of numbers"):
        plate.check_inside([("a", "b")], "sensors")
    with pytest.raises(UserError, match="readings lie outside"):
        geometry.time_cylinder(plate, 0, 1).check_inside([(0.5, 0.5, 2.0)], "readings")

"""Domains that points are drawn from: interval, disk, polygon; inside, and on the boundary with outward normals.

The samplers are pure, (key, n) -> n points, as `thalweg.HeldPoints` and `thalweg.FreshPoints` take them, such as
`FreshPoints(plate.sample_interior, 2_000)`. `sample_…` draws independent uniform points; `spread_…` draws points that
are as uniform and keep their distance, so that a mean over the domain needs fewer of them. None is ever rejected: the
cost is fixed. `contains` and `signed_distance` are written for one point: map them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.physics.triangulation import checked_polygon, signed_area, triangulated
from thalweg.physics.unit_points import equidistant, sobol, uniform
from thalweg.types import Key, Scalar


class BoundaryPoint(NamedTuple):
    """A point of a boundary; n of them have a leading axis (n,).

    Attributes:
        x: the point, shape (d,).
        normal: outward, of length one, shape (d,).
    """

    x: jax.Array
    normal: jax.Array


class AbstractDomain(eqx.Module):
    """A bounded part of space. Lengths are in the units of the numbers that it was made of."""

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        """Draws n independent points, uniform in the interior, shape (n, d)."""
        raise NotImplementedError

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        """Draws n points that fill the interior evenly, each by itself uniform; shape (n, d)."""
        raise NotImplementedError

    def sample_boundary(self, key: Key, n: int) -> BoundaryPoint:
        """Draws n independent points, uniform on the boundary, with outward normals; shapes (n, d)."""
        raise NotImplementedError

    def spread_boundary(self, key: Key, n: int) -> BoundaryPoint:
        """Draws n equidistant points on the boundary from a random start, with outward normals; shapes (n, d)."""
        raise NotImplementedError

    def signed_distance(self, x: jax.Array) -> Scalar:
        """Distance of one point x (d,) from the boundary, shape (): positive inside, negative outside.

        It has kinks where several places of the boundary are equally near, and slope zero at corners.
        """
        raise NotImplementedError

    def contains(self, x: jax.Array) -> Scalar:
        """Whether one point x (d,) lies inside or, within rounding, on the boundary; boolean, shape ()."""
        raise NotImplementedError


class Interval(AbstractDomain):
    """Made by `interval`.

    Attributes:
        ends: (2,), rising.
    """

    ends: Any

    @property
    def length(self) -> float:
        """From end to end."""
        return float(self.ends[1] - self.ends[0])

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(uniform(key, n, 1, _dtype(self.ends)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(equidistant(key, n, _dtype(self.ends))[:, None])

    def sample_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self._end(jax.random.bernoulli(key, 0.5, (n,)))

    def spread_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self._end(jax.random.bernoulli(key) ^ (jnp.arange(n) % 2 == 1))

    def signed_distance(self, x: jax.Array) -> Scalar:
        x = _point(x, 1)
        low, high = jnp.asarray(self.ends, x.dtype)
        return jnp.minimum(x[0] - low, high - x[0])

    def contains(self, x: jax.Array) -> Scalar:
        return self.signed_distance(x) >= -_rounding(jnp.asarray(self.ends, _point(x, 1).dtype))

    def _place(self, s: jax.Array) -> jax.Array:
        low, high = jnp.asarray(self.ends)
        return low + (high - low) * s

    def _end(self, is_high: jax.Array) -> BoundaryPoint:
        low, high = ends = jnp.asarray(self.ends)
        x = jnp.where(is_high, high, low)[:, None]
        return BoundaryPoint(x, jnp.where(is_high, 1, -1).astype(ends.dtype)[:, None])


class Disk(AbstractDomain):
    """Made by `disk`.

    Attributes:
        center: (2,).
        radius: ().
    """

    center: Any
    radius: Any

    @property
    def area(self) -> float:
        """πr²."""
        return float(np.pi * self.radius**2)

    @property
    def perimeter(self) -> float:
        """2πr."""
        return float(2 * np.pi * self.radius)

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(uniform(key, n, 2, _dtype(self.center)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(sobol(key, n, 2, _dtype(self.center)))

    def sample_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self._around(uniform(key, n, 1, _dtype(self.center))[:, 0])

    def spread_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self._around(equidistant(key, n, _dtype(self.center)))

    def signed_distance(self, x: jax.Array) -> Scalar:
        x = _point(x, 2)
        away = x - jnp.asarray(self.center, x.dtype)
        return jnp.asarray(self.radius, x.dtype) - _root(jnp.sum(away * away))

    def contains(self, x: jax.Array) -> Scalar:
        x = _point(x, 2)
        size = jnp.abs(jnp.asarray(self.center, x.dtype)) + jnp.asarray(self.radius, x.dtype)
        return self.signed_distance(x) >= -_rounding(size)

    def _place(self, s: jax.Array) -> jax.Array:
        """Area-preserving: the squared radius and the angle are uniform."""
        return jnp.asarray(self.center) + jnp.asarray(self.radius) * jnp.sqrt(s[:, :1]) * _direction(s[:, 1])

    def _around(self, s: jax.Array) -> BoundaryPoint:
        normal = _direction(s)
        return BoundaryPoint(jnp.asarray(self.center) + jnp.asarray(self.radius) * normal, normal)


class Edges(eqx.Module):
    """Some or all edges of a polygon; a part of its boundary to draw points from.

    Attributes:
        starts, ends: (m, 2).
        normals: (m, 2), outward, of length one.
    """

    starts: Any
    ends: Any
    normals: Any

    @property
    def length(self) -> float:
        """Of all of them together."""
        return float(np.linalg.norm(np.asarray(self.ends) - np.asarray(self.starts), axis=1).sum())

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        """Draws n independent points, uniform along the edges; shapes (n, 2)."""
        return self._place(uniform(key, n, 1, _dtype(self.starts))[:, 0])

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        """Draws n equidistant points, the edges laid end to end, from a random start; shapes (n, 2)."""
        return self._place(equidistant(key, n, _dtype(self.starts)))

    def _place(self, s: jax.Array) -> BoundaryPoint:
        starts, ends, normals = map(jnp.asarray, (self.starts, self.ends, self.normals))
        lengths = jnp.linalg.norm(ends - starts, axis=1)
        upto = jnp.cumsum(lengths)
        along = s * upto[-1]
        edge = jnp.minimum(jnp.searchsorted(upto, along, side="right"), len(lengths) - 1)
        share = jnp.clip((along - upto[edge]) / lengths[edge] + 1, 0, 1)[:, None]
        return BoundaryPoint((1 - share) * starts[edge] + share * ends[edge], normals[edge])


class Polygon(AbstractDomain):
    """Made by `polygon` or `rectangle`. Edge i goes from corner i to the next.

    Attributes:
        corners: (n, 2), in the order in which they were given.
        triangles: (m, 3, 2), that cover the polygon.
        boundary: all its edges.
    """

    corners: Any
    triangles: Any
    boundary: Edges

    @property
    def area(self) -> float:
        """By the shoelace formula."""
        return abs(signed_area(np.asarray(self.corners)))

    @property
    def perimeter(self) -> float:
        """Length of all edges."""
        return self.boundary.length

    def edges(self, *which: int) -> Edges:
        """The edges of these numbers, counted from 0 in the order of the corners.

        Raises:
            UserError: there is no such edge, or it is named twice, or none is.

        >>> rectangle((0, 0), (2, 1)).edges(1).normals.tolist()  # from (2, 0) to (2, 1)
        [[1.0, 0.0]]
        """
        count = len(self.corners)
        if bad := [i for i in which if i not in range(count) or which.count(i) > 1]:
            remedy = f"The edges are 0 to {count - 1}, each at most once."
            raise UserError(f"edge {bad[0]}, among {which}", where="Polygon.edges", remedy=remedy)
        if not which:
            raise UserError("no edge is named", where="Polygon.edges", remedy="All of them are the `boundary`.")
        return jax.tree.map(lambda rows: rows[np.array(which)], self.boundary)

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(uniform(key, n, 3, _dtype(self.corners)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(sobol(key, n, 3, _dtype(self.corners)))

    def sample_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self.boundary.sample(key, n)

    def spread_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self.boundary.spread(key, n)

    def signed_distance(self, x: jax.Array) -> Scalar:
        distance = self._distance(x)
        return jnp.where(self._is_inside(x), distance, -distance)

    def contains(self, x: jax.Array) -> Scalar:
        corners = jnp.asarray(self.corners, _point(x, 2).dtype)
        return self._is_inside(x) | (self._distance(x) <= _rounding(corners))

    def _distance(self, x: jax.Array) -> Scalar:
        """From the nearest edge."""
        x = _point(x, 2)
        starts = jnp.asarray(self.corners, x.dtype)
        along = jnp.roll(starts, -1, axis=0) - starts
        share = jnp.clip(jnp.sum((x - starts) * along, axis=1) / jnp.sum(along * along, axis=1), 0, 1)
        away = starts + share[:, None] * along - x
        return _root(jnp.min(jnp.sum(away * away, axis=1)))

    def _is_inside(self, x: jax.Array) -> Scalar:
        """Whether a ray to the right crosses the boundary an odd number of times."""
        x = _point(x, 2)
        starts = jnp.asarray(self.corners, x.dtype)
        ends = jnp.roll(starts, -1, axis=0)
        (dx, dy), (px, py) = (ends - starts).T, (x - starts).T
        spans = (starts[:, 1] > x[1]) != (ends[:, 1] > x[1])
        return jnp.sum(spans & ((dx * py - px * dy) * jnp.sign(dy) > 0)) % 2 == 1

    def _place(self, s: jax.Array) -> jax.Array:
        """Area-preserving: a triangle by its share of the area, then a point in it (Turk, 1990)."""
        a, b, c = jnp.moveaxis(jnp.asarray(self.triangles), 1, 0)
        (ux, uy), (vx, vy) = (b - a).T, (c - a).T
        upto = jnp.cumsum(ux * vy - uy * vx)
        triangle = jnp.minimum(jnp.searchsorted(upto, s[:, 0] * upto[-1], side="right"), len(a) - 1)
        root, share = jnp.sqrt(s[:, 1:2]), s[:, 2:]
        return (1 - root) * a[triangle] + root * (1 - share) * b[triangle] + root * share * c[triangle]


def interval(start: float, end: float) -> Interval:
    """The interval from start to end; its points have the shape (1,).

    Raises:
        UserError: ends that are not finite, or not rising.

    >>> interval(0.0, 2.0).sample_boundary(jax.random.key(0), 3).x.shape
    (3, 1)
    """
    ends = _numbers((start, end), "interval", (2,))
    if not ends[0] < ends[1]:
        raise UserError(f"an interval from {start} to {end}", where="interval", remedy="The end lies above the start.")
    return Interval(ends)


def disk(center: Sequence[float], radius: float) -> Disk:
    """The disk around a center.

    Raises:
        UserError: numbers that are not finite, a radius that is not above 0.

    >>> round(disk((0, 0), 2.0).area, 4)
    12.5664
    """
    middle, r = _numbers(center, "the center of a disk", (2,)), _numbers(radius, "the radius of a disk", ())
    if not r > 0:
        raise UserError(f"a disk of radius {radius}", where="disk", remedy="The radius is above 0.")
    return Disk(middle, r)


def polygon(corners: Any) -> Polygon:
    """The polygon with these corners, convex or not, without holes.

    Args:
        corners: (n, 2), n ≥ 3, in order around the polygon, either way round, the first not repeated at the end. A
            corner of 180° is allowed; it divides an edge, so that its parts can be treated differently.
    Raises:
        UserError: another shape, fewer than three corners, numbers that are not finite, a repeated corner, edges that
            cross, touch or fold back, no area.

    >>> plate = polygon([(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)])
    >>> plate.area, plate.perimeter, bool(plate.contains(jnp.array([1.5, 1.5])))
    (3.0, 8.0, False)
    >>> plate.sample_interior(jax.random.key(0), 5).shape
    (5, 2)
    """
    checked = checked_polygon(corners)
    ends = np.roll(checked, -1, axis=0)
    steps = (ends - checked) * np.sign(signed_area(checked))
    normals = np.stack([steps[:, 1], 0.0 - steps[:, 0]], axis=1) / np.linalg.norm(steps, axis=1, keepdims=True)
    return Polygon(checked, triangulated(checked), Edges(checked, ends, normals))


def rectangle(lower: Sequence[float], upper: Sequence[float]) -> Polygon:
    """The rectangle between two corners. Its edges are 0 the lower, 1 the right, 2 the upper, 3 the left.

    Args:
        lower, upper: (x, y) of the corner with the smallest and with the largest coordinates.
    Raises:
        UserError: numbers that are not finite, or not rising in both coordinates.

    >>> rectangle((0, 0), (2, 1)).area
    2.0
    """
    (x0, y0), (x1, y1) = (_numbers(corner, "a corner of a rectangle", (2,)) for corner in (lower, upper))
    if not (x0 < x1 and y0 < y1):
        raise UserError(f"a rectangle from {lower} to {upper}", where="rectangle", remedy="Both coordinates must rise.")
    return polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _numbers(values: Any, where: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{values!r} is no number", where=where) from error
    if found.shape != shape or not np.isfinite(found).all():
        raise UserError(f"{values!r}", where=where, remedy=f"Finite numbers of the shape {shape} are needed.")
    return found


def _dtype(numbers: Any) -> Any:
    """The type that a domain's own numbers have in JAX."""
    return jnp.asarray(numbers).dtype


def _direction(s: jax.Array) -> jax.Array:
    """Unit vectors, (n, 2), at a share s (n,) of the way round."""
    angle = 2 * jnp.pi * s
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def _root(square: Scalar) -> Scalar:
    """Square root whose slope at 0 is 0, not infinite."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def _rounding(numbers: jax.Array) -> jax.Array:
    """How far rounding may put a point off the boundary."""
    return 8 * jnp.finfo(numbers.dtype).eps * jnp.max(jnp.abs(numbers))


def _point(x: jax.Array, dimension: int) -> jax.Array:
    x = jnp.asarray(x)
    if x.shape != (dimension,):
        raise UserError(
            f"a point of shape {x.shape} in a domain of {dimension} dimensions",
            remedy="Map over several points: jax.vmap(domain.contains)(points).",
        )
    return x

"""Polygons and rectangles, and their edges."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.physics.domains import (
    AbstractBounded,
    AbstractPart,
    BoundaryPoint,
    dtype_of,
    numbers,
    one_point,
    root,
)
from thalweg.physics.triangulation import checked_polygon, signed_area, triangulated
from thalweg.physics.unit_points import equidistant, sobol, uniform
from thalweg.types import Key, Scalar


class Edges(AbstractPart):
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

    @property
    def size(self) -> float:
        return self.length

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        """Draws n independent points, uniform along the edges; shapes (n, 2)."""
        return self._place(uniform(key, n, 1, dtype_of(self.starts))[:, 0])

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        """Draws n equidistant points, the edges laid end to end, from a random start; shapes (n, 2)."""
        return self._place(equidistant(key, n, dtype_of(self.starts)))

    def distances(self, x: jax.Array) -> jax.Array:
        """From each segment, smooth but on it (Rvachev, 1982; Sukumar and Srivastava, 2022)."""
        x = one_point(x, 2)
        starts, ends, normals = (jnp.asarray(rows, x.dtype) for rows in (self.starts, self.ends, self.normals))
        lengths = jnp.linalg.norm(ends - starts, axis=1)
        from_line = jnp.sum((starts - x) * normals, axis=1)
        middle = x - (starts + ends) / 2
        within = (lengths**2 / 4 - jnp.sum(middle * middle, axis=1)) / lengths  # positive in the circle over the edge
        beyond = (root(within**2 + from_line**4) - within) / 2  # 0 on the edge, and further along its line not
        return root(from_line**2 + beyond**2)

    def _place(self, s: jax.Array) -> BoundaryPoint:
        starts, ends, normals = map(jnp.asarray, (self.starts, self.ends, self.normals))
        lengths = jnp.linalg.norm(ends - starts, axis=1)
        upto = jnp.cumsum(lengths)
        along = s * upto[-1]
        edge = jnp.minimum(jnp.searchsorted(upto, along, side="right"), len(lengths) - 1)
        share = jnp.clip((along - upto[edge]) / lengths[edge] + 1, 0, 1)[:, None]
        return BoundaryPoint((1 - share) * starts[edge] + share * ends[edge], normals[edge])


class Polygon(AbstractBounded):
    """Made by `polygon` or `rectangle`. Edge i goes from corner i to the next.

    Attributes:
        corners: (n, 2), in the order in which they were given.
        triangles: (m, 3, 2), that cover the polygon.
        around: all its edges.
    """

    corners: Any
    triangles: Any
    around: Edges

    @property
    def boundary(self) -> Edges:
        """All its edges."""
        return self.around

    @property
    def area(self) -> float:
        """By the shoelace formula."""
        return abs(signed_area(np.asarray(self.corners)))

    @property
    def perimeter(self) -> float:
        """Length of all edges."""
        return self.boundary.length

    @property
    def dimension(self) -> int:
        return 2

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        corners = jnp.asarray(self.corners)
        return corners.min(axis=0), corners.max(axis=0)

    @property
    def size(self) -> float:
        return self.area

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
        return self._place(uniform(key, n, 3, dtype_of(self.corners)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(sobol(key, n, 3, dtype_of(self.corners)))

    def signed_distance(self, x: jax.Array) -> Scalar:
        distance = self._distance(x)
        return jnp.where(self._is_inside(x), -distance, distance)

    def _distance(self, x: jax.Array) -> Scalar:
        """From the nearest edge."""
        x = one_point(x, 2)
        starts = jnp.asarray(self.corners, x.dtype)
        along = jnp.roll(starts, -1, axis=0) - starts
        share = jnp.clip(jnp.sum((x - starts) * along, axis=1) / jnp.sum(along * along, axis=1), 0, 1)
        away = starts + share[:, None] * along - x
        return root(jnp.min(jnp.sum(away * away, axis=1)))

    def _is_inside(self, x: jax.Array) -> Scalar:
        """Whether a ray to the right crosses the boundary an odd number of times."""
        x = one_point(x, 2)
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


class Rectangle(Polygon):
    """Made by `rectangle`: a polygon whose edges have names."""

    @property
    def lower(self) -> Edges:
        """The edge where y is smallest."""
        return self.edges(0)

    @property
    def right(self) -> Edges:
        """The edge where x is largest."""
        return self.edges(1)

    @property
    def upper(self) -> Edges:
        """The edge where y is largest."""
        return self.edges(2)

    @property
    def left(self) -> Edges:
        """The edge where x is smallest."""
        return self.edges(3)


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
    return Polygon(*_parts_of(checked_polygon(corners)))


def _parts_of(checked: np.ndarray) -> tuple[np.ndarray, np.ndarray, Edges]:
    """Corners, triangles and edges of a polygon."""
    ends = np.roll(checked, -1, axis=0)
    steps = (ends - checked) * np.sign(signed_area(checked))
    normals = np.stack([steps[:, 1], 0.0 - steps[:, 0]], axis=1) / np.linalg.norm(steps, axis=1, keepdims=True)
    return checked, triangulated(checked), Edges(checked, ends, normals)


def rectangle(lower: Sequence[float], upper: Sequence[float]) -> Rectangle:
    """The rectangle between two corners. Its edges 0 to 3 are `lower`, `right`, `upper` and `left`.

    Args:
        lower, upper: (x, y) of the corner with the smallest and with the largest coordinates.
    Raises:
        UserError: numbers that are not finite, or not rising in both coordinates.

    >>> plate = rectangle((0, 0), (2, 1))
    >>> plate.area, plate.right.length
    (2.0, 1.0)
    """
    (x0, y0), (x1, y1) = (numbers(corner, "a corner of a rectangle", (2,)) for corner in (lower, upper))
    if not (x0 < x1 and y0 < y1):
        raise UserError(f"a rectangle from {lower} to {upper}", where="rectangle", remedy="Both coordinates must rise.")
    return Rectangle(*_parts_of(checked_polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])))

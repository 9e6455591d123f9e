"""Intervals and boxes of any dimension, and their faces."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.physics.domains import (
    AbstractBounded,
    AbstractPart,
    BoundaryPoint,
    dtype_of,
    from_parts,
    numbers,
    one_point,
)
from thalweg.physics.unit_points import equidistant, sobol, uniform
from thalweg.types import Key, Scalar


class Faces(AbstractPart):
    """Some or all faces of a box: the ends of an interval, the sides of a rectangle, the faces of a cuboid.

    Attributes:
        lower, upper: (d,), of the box.
        which: (axis, is_upper) for each face.
    """

    lower: Any
    upper: Any
    which: tuple[tuple[int, bool], ...] = eqx.field(static=True)

    @property
    def size(self) -> float:
        lengths = np.asarray(self.upper) - np.asarray(self.lower)
        return float(sum(np.prod(np.delete(lengths, axis)) for axis, _ in self.which))

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        return self._place(uniform(key, n, max(len(self.lower) - 1, 1), dtype_of(self.lower)))

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        d, dtype = len(self.lower), dtype_of(self.lower)
        return self._place(sobol(key, n, d - 1, dtype) if d > 2 else equidistant(key, n, dtype)[:, None])

    def distances(self, x: jax.Array) -> jax.Array:
        """From the plane of each face."""
        x = one_point(x, len(self.lower))
        lower, upper = jnp.asarray(self.lower, x.dtype), jnp.asarray(self.upper, x.dtype)
        return jnp.stack([upper[axis] - x[axis] if side else x[axis] - lower[axis] for axis, side in self.which])

    def _place(self, s: jax.Array) -> BoundaryPoint:
        """Points (n, d) from unit points (n, d − 1): the first number chooses the face, and goes on within it."""
        lower, upper = jnp.asarray(self.lower), jnp.asarray(self.upper)
        d, axes = len(lower), np.array([axis for axis, _ in self.which])
        others = np.arange(d) != axes[:, None]  # (faces, d)
        areas = jnp.prod(jnp.where(others, upper - lower, 1), axis=1)
        upto = jnp.cumsum(areas)
        along = s[:, 0] * upto[-1]
        face = jnp.minimum(jnp.searchsorted(upto, along, side="right"), len(axes) - 1)
        within = jnp.clip((along - upto[face]) / areas[face] + 1, 0, 1)
        free = jnp.concatenate([within[:, None], s[:, 1:]], axis=1)
        columns = np.clip(np.cumsum(others, axis=1) - 1, 0, max(d - 2, 0))  # which free number each coordinate takes
        inside = lower + (upper - lower) * jnp.take_along_axis(free, jnp.asarray(columns)[face], axis=1)
        is_upper = np.array([side for _, side in self.which])
        fixed = jnp.where(is_upper[:, None], upper, lower)
        normals = jnp.asarray(np.where(others, 0, np.where(is_upper, 1, -1)[:, None]), s.dtype)
        return BoundaryPoint(jnp.where(jnp.asarray(others)[face], inside, fixed[face]), normals[face])


class Interval(AbstractBounded):
    """Made by `interval`.

    Attributes:
        ends: (2,), rising.
    """

    ends: Any

    @property
    def length(self) -> float:
        """From end to end."""
        return float(self.ends[1] - self.ends[0])

    @property
    def boundary(self) -> Faces:
        """Both ends."""
        return self._faces((0, False), (0, True))

    @property
    def left(self) -> Faces:
        """The lower end, a part of the boundary."""
        return self._faces((0, False))

    @property
    def right(self) -> Faces:
        """The upper end, a part of the boundary."""
        return self._faces((0, True))

    @property
    def dimension(self) -> int:
        return 1

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(self.ends)[:1], jnp.asarray(self.ends)[1:]

    @property
    def size(self) -> float:
        return self.length

    @property
    def boundary_size(self) -> float:
        return 2.0

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(uniform(key, n, 1, dtype_of(self.ends)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(equidistant(key, n, dtype_of(self.ends))[:, None])

    def spread_boundary(self, key: Key, n: int) -> BoundaryPoint:
        """The ends in turn, from either."""
        is_high = jax.random.bernoulli(key) ^ (jnp.arange(n) % 2 == 1)
        low, high = ends = jnp.asarray(self.ends)
        x = jnp.where(is_high, high, low)[:, None]
        return BoundaryPoint(x, jnp.where(is_high, 1, -1).astype(ends.dtype)[:, None])

    def signed_distance(self, x: jax.Array) -> Scalar:
        x = one_point(x, 1)
        low, high = jnp.asarray(self.ends, x.dtype)
        return jnp.maximum(low - x[0], x[0] - high)

    def _place(self, s: jax.Array) -> jax.Array:
        low, high = jnp.asarray(self.ends)
        return low + (high - low) * s

    def _faces(self, *which: tuple[int, bool]) -> Faces:
        return Faces(self.ends[:1], self.ends[1:], which)


class Box(AbstractBounded):
    """Made by `box`.

    Attributes:
        lower, upper: (d,), the corners with the smallest and with the largest coordinates.
    """

    lower: Any
    upper: Any

    @property
    def volume(self) -> float:
        """The product of its lengths."""
        return float(np.prod(np.asarray(self.upper) - np.asarray(self.lower)))

    @property
    def boundary(self) -> Faces:
        """All its faces."""
        return self._faces(*((axis, side) for axis in range(self.dimension) for side in (False, True)))

    def lower_face(self, axis: int) -> Faces:
        """The face where this coordinate, counted from 0, is smallest.

        Raises:
            UserError: there is no such coordinate.

        >>> box((0, 0, 0), (1, 2, 3)).lower_face(0).size
        6.0
        """
        return self._faces((axis, False))

    def upper_face(self, axis: int) -> Faces:
        """The face where this coordinate, counted from 0, is largest.

        Raises:
            UserError: there is no such coordinate.
        """
        return self._faces((axis, True))

    @property
    def dimension(self) -> int:
        return len(self.lower)

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        return jnp.asarray(self.lower), jnp.asarray(self.upper)

    @property
    def size(self) -> float:
        return self.volume

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(uniform(key, n, self.dimension, dtype_of(self.lower)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(sobol(key, n, self.dimension, dtype_of(self.lower)))

    def signed_distance(self, x: jax.Array) -> Scalar:
        x = one_point(x, self.dimension)
        lower, upper = jnp.asarray(self.lower, x.dtype), jnp.asarray(self.upper, x.dtype)
        return from_parts(jnp.maximum(lower - x, x - upper))

    def _place(self, s: jax.Array) -> jax.Array:
        lower, upper = self.bounds
        return lower + (upper - lower) * s

    def _faces(self, *which: tuple[int, bool]) -> Faces:
        if bad := [axis for axis, _ in which if axis not in range(self.dimension)]:
            raise UserError(f"there is no coordinate {bad[0]}", where=f"a box of {self.dimension} dimensions")
        return Faces(self.lower, self.upper, which)


def interval(start: float, end: float) -> Interval:
    """The interval from start to end; its points have the shape (1,).

    Raises:
        UserError: ends that are not finite, or not rising.

    >>> interval(0.0, 2.0).sample_boundary(jax.random.key(0), 3).x.shape
    (3, 1)
    """
    ends = numbers((start, end), "interval", (2,))
    if not ends[0] < ends[1]:
        raise UserError(f"an interval from {start} to {end}", where="interval", remedy="The end lies above the start.")
    return Interval(ends)


def box(lower: Sequence[float], upper: Sequence[float]) -> Box:
    """The box between two corners, of any dimension.

    Args:
        lower, upper: (d,), the corner with the smallest and with the largest coordinates.
    Raises:
        UserError: numbers that are not finite, lengths that differ, not rising in every coordinate.

    >>> cuboid = box((0, 0, 0), (1, 2, 3))
    >>> cuboid.volume, cuboid.boundary_size
    (6.0, 22.0)
    """
    low = numbers(lower, "the lower corner of a box", (-1,))
    high = numbers(upper, "the upper corner of a box", low.shape)
    if not (low < high).all():
        raise UserError(f"a box from {lower} to {upper}", where="box", remedy="Every coordinate must rise.")
    return Box(low, high)

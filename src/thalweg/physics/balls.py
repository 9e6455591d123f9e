"""Disks, annuli, and balls of any dimension."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.physics.domains import (
    AbstractBounded,
    AbstractDomain,
    AbstractPart,
    BoundaryPoint,
    dtype_of,
    numbers,
    one_point,
    root,
)
from thalweg.physics.unit_points import equidistant, sobol, uniform
from thalweg.types import Key, Scalar


class Circles(AbstractPart):
    """Circles around one center: the boundary of a disk or of an annulus, or one of its circles.

    Attributes:
        center: (2,).
        radii: (k,).
        outward: (k,), 1 where the normal points away from the center, -1 where towards it.
    """

    center: Any
    radii: Any
    outward: Any

    @property
    def size(self) -> float:
        return float(2 * np.pi * np.sum(self.radii))

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        return self._place(uniform(key, n, 1, dtype_of(self.center))[:, 0])

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        return self._place(equidistant(key, n, dtype_of(self.center)))

    def distances(self, x: jax.Array) -> jax.Array:
        """(R² − r²)/2R for each circle, and minus that where the domain is outside."""
        x = one_point(x, 2)
        radii, away = jnp.asarray(self.radii, x.dtype), x - jnp.asarray(self.center, x.dtype)
        return jnp.asarray(self.outward, x.dtype) * (radii**2 - jnp.sum(away * away)) / (2 * radii)

    def _place(self, s: jax.Array) -> BoundaryPoint:
        radii = jnp.asarray(self.radii)
        upto = jnp.cumsum(radii)
        along = s * upto[-1]
        circle = jnp.minimum(jnp.searchsorted(upto, along, side="right"), len(radii) - 1)
        away = _direction((along - upto[circle]) / radii[circle])
        normal = away * jnp.asarray(self.outward)[circle][:, None]
        return BoundaryPoint(jnp.asarray(self.center) + radii[circle][:, None] * away, normal)


class Disk(AbstractBounded):
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
        return self.boundary.size

    @property
    def boundary(self) -> Circles:
        """The circle."""
        return Circles(self.center, self.radius[None], np.ones(1))

    @property
    def dimension(self) -> int:
        return 2

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        center, radius = jnp.asarray(self.center), jnp.asarray(self.radius)
        return center - radius, center + radius

    @property
    def size(self) -> float:
        return self.area

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(uniform(key, n, 2, dtype_of(self.center)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(sobol(key, n, 2, dtype_of(self.center)))

    def signed_distance(self, x: jax.Array) -> Scalar:
        x = one_point(x, 2)
        away = x - jnp.asarray(self.center, x.dtype)
        return root(jnp.sum(away * away)) - jnp.asarray(self.radius, x.dtype)

    def _place(self, s: jax.Array) -> jax.Array:
        """Area-preserving: the squared radius and the angle are uniform."""
        return jnp.asarray(self.center) + jnp.asarray(self.radius) * jnp.sqrt(s[:, :1]) * _direction(s[:, 1])


class Annulus(AbstractBounded):
    """Made by `annulus`.

    Attributes:
        center: (2,).
        radii: (2,), rising.
    """

    center: Any
    radii: Any

    @property
    def area(self) -> float:
        """π(r_outer² − r_inner²)."""
        return float(np.pi * (self.radii[1] ** 2 - self.radii[0] ** 2))

    @property
    def perimeter(self) -> float:
        """Length of both circles."""
        return self.boundary.size

    @property
    def boundary(self) -> Circles:
        """Both circles; the normal of the inner one points towards the center."""
        return Circles(self.center, self.radii, np.array([-1.0, 1.0]))

    @property
    def inner(self) -> Circles:
        """The inner circle, a part of the boundary."""
        return Circles(self.center, self.radii[:1], -np.ones(1))

    @property
    def outer(self) -> Circles:
        """The outer circle, a part of the boundary."""
        return Circles(self.center, self.radii[1:], np.ones(1))

    @property
    def dimension(self) -> int:
        return 2

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        center, radius = jnp.asarray(self.center), jnp.asarray(self.radii)[1]
        return center - radius, center + radius

    @property
    def size(self) -> float:
        return self.area

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(uniform(key, n, 2, dtype_of(self.center)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(sobol(key, n, 2, dtype_of(self.center)))

    def signed_distance(self, x: jax.Array) -> Scalar:
        x = one_point(x, 2)
        away = x - jnp.asarray(self.center, x.dtype)
        (inner, outer), distance = jnp.asarray(self.radii, x.dtype), root(jnp.sum(away * away))
        return jnp.maximum(inner - distance, distance - outer)

    def _place(self, s: jax.Array) -> jax.Array:
        """Area-preserving: the squared radius and the angle are uniform."""
        least, most = jnp.asarray(self.radii) ** 2
        radius = jnp.sqrt(least + (most - least) * s[:, :1])
        return jnp.asarray(self.center) + radius * _direction(s[:, 1])


class Ball(AbstractDomain):
    """Made by `ball`.

    Attributes:
        center: (d,).
        radius: ().
    """

    center: Any
    radius: Any

    @property
    def volume(self) -> float:
        """π^(d/2) rᵈ / Γ(d/2 + 1)."""
        d = self.dimension
        return float(math.pi ** (d / 2) / math.gamma(d / 2 + 1) * self.radius**d)

    @property
    def dimension(self) -> int:
        return len(self.center)

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        center, radius = jnp.asarray(self.center), jnp.asarray(self.radius)
        return center - radius, center + radius

    @property
    def size(self) -> float:
        return self.volume

    @property
    def boundary_size(self) -> float:
        return self.dimension * self.volume / float(self.radius)

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(uniform(key, n, self.dimension + 1, dtype_of(self.center)))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        return self._place(sobol(key, n, self.dimension + 1, dtype_of(self.center)))

    def sample_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self._around(_normal_direction(uniform(key, n, self.dimension, dtype_of(self.center))))

    def spread_boundary(self, key: Key, n: int) -> BoundaryPoint:
        dtype = dtype_of(self.center)
        if self.dimension == 2:
            return self._around(_direction(equidistant(key, n, dtype)))
        return self._around(_normal_direction(sobol(key, n, self.dimension, dtype)))

    def signed_distance(self, x: jax.Array) -> Scalar:
        x = one_point(x, self.dimension)
        away = x - jnp.asarray(self.center, x.dtype)
        return root(jnp.sum(away * away)) - jnp.asarray(self.radius, x.dtype)

    def _place(self, s: jax.Array) -> jax.Array:
        radius = jnp.asarray(self.radius) * s[:, :1] ** (1 / self.dimension)
        return jnp.asarray(self.center) + radius * _normal_direction(s[:, 1:])

    def _around(self, normal: jax.Array) -> BoundaryPoint:
        return BoundaryPoint(jnp.asarray(self.center) + jnp.asarray(self.radius) * normal, normal)


def disk(center: Sequence[float], radius: float) -> Disk:
    """The disk around a center.

    Raises:
        UserError: numbers that are not finite, a radius that is not above 0.

    >>> round(disk((0, 0), 2.0).area, 4)
    12.5664
    """
    middle, r = numbers(center, "the center of a disk", (2,)), numbers(radius, "the radius of a disk", ())
    if not r > 0:
        raise UserError(f"a disk of radius {radius}", where="disk", remedy="The radius is above 0.")
    return Disk(middle, r)


def annulus(center: Sequence[float], inner: float, outer: float) -> Annulus:
    """The ring between two circles around a center. Parts of its boundary: `inner` and `outer`.

    Raises:
        UserError: numbers that are not finite, radii that are not above 0 and rising.

    >>> ring = annulus((0, 0), 1.0, 2.0)
    >>> round(ring.area, 4), round(ring.inner.size, 4)
    (9.4248, 6.2832)
    """
    middle = numbers(center, "the center of an annulus", (2,))
    radii = numbers((inner, outer), "the radii of an annulus", (2,))
    if not 0 < radii[0] < radii[1]:
        remedy = "The outer radius lies above the inner one, and that above 0."
        raise UserError(f"an annulus of radii {inner} and {outer}", where="annulus", remedy=remedy)
    return Annulus(middle, radii)


def ball(center: Sequence[float], radius: float) -> Ball:
    """The ball around a center, of as many dimensions as this has coordinates.

    Raises:
        UserError: numbers that are not finite, a radius that is not above 0.

    >>> round(ball((0, 0, 0), 1.0).volume, 4)
    4.1888
    """
    middle, r = numbers(center, "the center of a ball", (-1,)), numbers(radius, "the radius of a ball", ())
    if not r > 0:
        raise UserError(f"a ball of radius {radius}", where="ball", remedy="The radius is above 0.")
    return Ball(middle, r)


def _direction(s: jax.Array) -> jax.Array:
    """Unit vectors, (n, 2), at a share s (n,) of the way round."""
    angle = 2 * jnp.pi * s
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def _normal_direction(s: jax.Array) -> jax.Array:
    """Unit vectors, (n, d), from unit points (n, d): those of Gaussian vectors have no preferred direction."""
    tiny = jnp.finfo(s.dtype).eps
    gaussian = jax.scipy.special.ndtri(jnp.clip(s, tiny, 1 - tiny))
    return gaussian / jnp.linalg.norm(gaussian, axis=1, keepdims=True)

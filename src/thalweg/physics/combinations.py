"""Domains made of others: union, intersection, difference (constructive solid geometry; Requicha, 1980).

Points are drawn by rejection from a number of candidates that is fixed when the domain is made, so that the cost of a
step is fixed too. Should too few be left, which has a probability below 1e-9, some points occur twice.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.physics.domains import PROBES, AbstractDomain, BoundaryPoint, Joined, Whole, joined, one_point
from thalweg.physics.unit_points import candidates_needed, evenly_accepted, first_accepted, sobol, uniform
from thalweg.types import Key, Scalar


class AbstractCombination(AbstractDomain):
    """Made by `union`, `intersection` or `difference`.

    Its signed distance has the right sign, and is at most the true distance, by far where the nearest boundary of
    one operand is not that of the result. Sizes are measured with a few thousand points, to about 1 %.

    Attributes:
        operands: the domains that it was made of.
        surfaces: the boundaries of all simple domains in it; parts of them are its own.
        share: measured share of the box of its bounds.
        boundary_share: measured share of `surfaces`.
    """

    operands: tuple[AbstractDomain, ...]
    surfaces: Joined
    share: float = eqx.field(static=True, default=1.0)
    boundary_share: float = eqx.field(static=True, default=1.0)

    @property
    def dimension(self) -> int:
        return self.operands[0].dimension

    @property
    def size(self) -> float:
        lower, upper = self.bounds
        return self.share * float(jnp.prod(upper - lower))

    @property
    def boundary_size(self) -> float:
        return self.boundary_share * self.surfaces.size

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        return _interior(self, uniform, key, int(n))

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        """The first n of Sobol's points in the box that lie inside."""
        return _interior(self, sobol, key, int(n))

    def sample_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return _boundary_sample(self, key, int(n))

    def spread_boundary(self, key: Key, n: int) -> BoundaryPoint:
        """Eight times as many even points are made, and an even choice of them is kept."""
        return _boundary_spread(self, key, int(n))

    def signed_distance(self, x: jax.Array) -> Scalar:
        """A bound of the distance from the boundary, of the right sign: negative inside, positive outside."""
        x = one_point(x, self.dimension)
        return self._combined([operand.signed_distance(x) for operand in self.operands])

    def _combined(self, distances: list[Scalar]) -> Scalar:
        raise NotImplementedError

    @property
    def _dtype(self) -> Any:
        return self.bounds[0].dtype

    def _in_box(self, s: jax.Array) -> jax.Array:
        lower, upper = self.bounds
        return lower + (upper - lower) * s

    def _on_boundary(self, found: BoundaryPoint, source: jax.Array) -> tuple[BoundaryPoint, jax.Array]:
        """Candidates with their normals turned outward, and which of them lie on the boundary of the result.

        There just one of the two places beside a candidate lies inside. Where surfaces of several domains coincide,
        that of the first alone counts.
        """
        lower, upper = self.bounds
        eps, size = jnp.finfo(found.x.dtype).eps, jnp.maximum(jnp.max(jnp.abs(lower)), jnp.max(jnp.abs(upper)))
        aside = jnp.sqrt(eps) * size * found.normal
        before, behind = jax.vmap(self.contains)(found.x - aside), jax.vmap(self.contains)(found.x + aside)
        accepted = before != behind
        for i, part in enumerate(self.surfaces.parts[:-1]):
            if isinstance(part, Whole):  # as all are
                on_it = jnp.abs(jax.vmap(part.domain.signed_distance)(found.x)) < 64 * eps * size
                accepted &= (source <= i) | ~on_it
        return BoundaryPoint(found.x, jnp.where(before[:, None], found.normal, -found.normal)), accepted


class Union(AbstractCombination):
    """All that lies in at least one of the operands."""

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        lower, upper = zip(*(operand.bounds for operand in self.operands), strict=True)
        return jnp.stack(lower).min(axis=0), jnp.stack(upper).max(axis=0)

    def _combined(self, distances: list[Scalar]) -> Scalar:
        return jnp.stack(distances).min()


class Intersection(AbstractCombination):
    """What lies in all of the operands."""

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        lower, upper = zip(*(operand.bounds for operand in self.operands), strict=True)
        return jnp.stack(lower).max(axis=0), jnp.stack(upper).min(axis=0)

    def _combined(self, distances: list[Scalar]) -> Scalar:
        return jnp.stack(distances).max()


class Difference(AbstractCombination):
    """What lies in the first of the operands and in none of the others."""

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        return self.operands[0].bounds

    def _combined(self, distances: list[Scalar]) -> Scalar:
        return jnp.maximum(distances[0], -jnp.stack(distances[1:]).min())


def union(*domains: AbstractDomain) -> Union:
    """The domain that all these cover together.

    Args:
        domains: two or more, of the same dimension; they may overlap, touch, or lie apart.
    Raises:
        UserError: fewer than two, or of different dimensions.

    >>> from thalweg.physics.geometry import disk, rectangle
    >>> dumbbell = union(disk((0, 0), 1.0), disk((4, 0), 1.0), rectangle((0, -0.2), (4, 0.2)))
    >>> bool(dumbbell.contains(jnp.array([2.0, 0.1])))
    True
    """
    return _measured(Union, domains, "union")


def intersection(*domains: AbstractDomain) -> Intersection:
    """The domain that all these have in common.

    Args:
        domains: two or more, of the same dimension.
    Raises:
        UserError: fewer than two, of different dimensions, or that have nothing in common.

    >>> from thalweg.physics.geometry import disk, rectangle
    >>> quarter = intersection(disk((0, 0), 1.0), rectangle((0, 0), (1, 1)))
    >>> round(quarter.size, 1)
    0.8
    """
    return _measured(Intersection, domains, "intersection")


def difference(domain: AbstractDomain, *holes: AbstractDomain) -> Difference:
    """The domain without the holes.

    Args:
        domain: to be cut.
        holes: one or more, of the same dimension; they may reach beyond the domain.
    Raises:
        UserError: no hole, different dimensions, or nothing that is left.

    >>> from thalweg.physics.geometry import disk, rectangle
    >>> plate = difference(rectangle((-2, -2), (2, 2)), disk((0, 0), 1.0))
    >>> at = plate.part(lambda x: jnp.linalg.norm(x) < 1.001).sample(jax.random.key(0), 3)
    >>> bool(jnp.allclose(at.normal, -at.x, atol=1e-5))  # out of the plate, into the hole
    True
    """
    return _measured(Difference, (domain, *holes), "difference")


def _measured(kind: Any, operands: tuple[AbstractDomain, ...], where: str) -> Any:
    if len(operands) < 2:
        raise UserError(f"{len(operands)} domains", where=where, remedy="It takes two or more.")
    if bad := [operand for operand in operands if not isinstance(operand, AbstractDomain)]:
        raise UserError(f"{type(bad[0]).__name__} is no domain", where=where, remedy="See `thalweg.geometry`.")
    if len(dimensions := {operand.dimension for operand in operands}) > 1:
        raise UserError(f"domains of {sorted(dimensions)} dimensions", where=where, remedy="All need the same number.")
    parts = [
        part
        for operand in operands
        for part in (operand.surfaces.parts if isinstance(operand, AbstractCombination) else (Whole(operand),))
    ]
    surfaces = joined(*parts)
    with jax.enable_x64(True):
        made = kind(operands, surfaces)
        lower, upper = made.bounds
        share = boundary_share = 0.0
        if bool(jnp.all(lower < upper)):
            share, boundary_share = map(float, _shares(made))
    if share == 0 or boundary_share == 0:
        raise UserError(
            "the combination is empty",
            where=f"{where} of {', '.join(type(operand).__name__ for operand in operands)}",
            remedy=f"None of {PROBES} places in its bounds lies inside: look at the positions, sizes and units.",
        )
    return kind(operands, surfaces, share, boundary_share)


# Each of these is one program, also where it is called on its own: that compiles sooner than its operations would.
@eqx.filter_jit
def _interior(domain: AbstractCombination, points: Callable, key: Key, n: int) -> jax.Array:
    found = domain._in_box(points(key, candidates_needed(n, domain.share), domain.dimension, domain._dtype))
    return first_accepted(found, jax.vmap(domain.contains)(found), n)


@eqx.filter_jit
def _boundary_sample(domain: AbstractCombination, key: Key, n: int) -> BoundaryPoint:
    found = domain.surfaces.sample_from(key, candidates_needed(n, domain.boundary_share))
    return first_accepted(*domain._on_boundary(*found), n)


@eqx.filter_jit
def _boundary_spread(domain: AbstractCombination, key: Key, n: int) -> BoundaryPoint:
    found = domain.surfaces.spread_from(key, candidates_needed(8 * n, domain.boundary_share))
    return evenly_accepted(*domain._on_boundary(*found), n)


@eqx.filter_jit
def _shares(made: AbstractCombination) -> tuple[Scalar, Scalar]:
    """Share of its box, and of its surfaces."""
    inside, around = jax.random.split(jax.random.key(0))
    places = made._in_box(uniform(inside, PROBES, made.dimension, made._dtype))
    on_it = made._on_boundary(*made.surfaces.spread_from(around, PROBES))[1]
    return jnp.mean(jax.vmap(made.contains)(places)), jnp.mean(on_it)

"""What every domain and every part of a boundary can do, and the parts that any domain has."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.physics.unit_points import candidates_needed, evenly_accepted, first_accepted
from thalweg.types import Key, Scalar

PROBES = 2**14
"""Points with which a share of a domain or of a boundary is measured when it is made."""


class BoundaryPoint(NamedTuple):
    """A point of a boundary; n of them have a leading axis (n,).

    Attributes:
        x: the point, shape (d,).
        normal: outward, of length one, shape (d,).
    """

    x: jax.Array
    normal: jax.Array


class AbstractPart(eqx.Module):
    """Some or all of a domain's boundary, to draw points from."""

    @property
    def size(self) -> float:
        """Its length or area; in one dimension the number of its points."""
        raise NotImplementedError

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        """Draws n independent points, uniform on the part, with outward normals; shapes (n, d)."""
        raise NotImplementedError

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        """Draws n points that cover the part evenly: on a curve equidistant; shapes (n, d)."""
        raise NotImplementedError

    def distances(self, x: jax.Array) -> jax.Array:
        """Smooth functions of one point x (d,), one for each piece of this part, shape (k,).

        Each is 0 on its piece, and elsewhere in the domain positive; on the piece its slope along the inward normal
        is 1. `thalweg.conditions.SmoothDistance` joins them.

        Raises:
            UserError: this kind of part has none.
        """
        remedy = "Name it instead: edges of a polygon, faces of a box, circles, moments and sides of a time cylinder."
        raise UserError(f"{type(self).__name__} has no smooth distance", where="a part of a boundary", remedy=remedy)

    def part(self, belongs: Callable[[jax.Array], Any]) -> "Matching":
        """The places of this part for which `belongs`, a function of one point (d,), is true.

        Raises:
            UserError: it is true nowhere, or gives something else than a truth value.
        """
        return _matching(self, belongs)


class AbstractDomain(eqx.Module):
    """A bounded part of space. Lengths are in the units of the numbers that it was made of."""

    @property
    def dimension(self) -> int:
        """d: how many coordinates a point has."""
        raise NotImplementedError

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        """The smallest and the largest coordinates in it, or a box somewhat larger; (d,) and (d,)."""
        raise NotImplementedError

    @property
    def size(self) -> float:
        """Its length, area or volume."""
        raise NotImplementedError

    @property
    def boundary_size(self) -> float:
        """The length or area of its boundary; in one dimension 2, the number of its ends."""
        raise NotImplementedError

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
        """Draws n points that cover the boundary evenly, a curve equidistantly, with normals; shapes (n, d)."""
        raise NotImplementedError

    def signed_distance(self, x: jax.Array) -> Scalar:
        """Distance of one point x (d,) from the boundary, shape (): negative inside, positive outside.

        It has kinks where several places of the boundary are equally near, and slope zero at corners.
        """
        raise NotImplementedError

    def contains(self, x: jax.Array) -> Scalar:
        """Whether one point x (d,) lies inside or, within rounding, on the boundary; boolean, shape ()."""
        distance = self.signed_distance(x)
        lower, upper = self.bounds
        size = jnp.maximum(jnp.max(jnp.abs(lower)), jnp.max(jnp.abs(upper)))
        return distance <= 8 * jnp.finfo(distance.dtype).eps * size.astype(distance.dtype)

    def part(self, belongs: Callable[[jax.Array], Any]) -> "Matching":
        """The part of the boundary where `belongs`, a function of one point (d,), is true.

        A sharp comparison needs some room for rounding in 32 bits, such as `x[0] > 2 - 1e-5`.

        Raises:
            UserError: it is true nowhere on the boundary, or gives something else than a truth value.
        """
        return _matching(Whole(self), belongs)

    def grid_interior(self, spacing: float) -> np.ndarray:
        """The points of a square grid that lie inside, at least a quarter of the spacing from the boundary.

        Args:
            spacing: in every coordinate. The grid starts half of it within the bounds.
        Returns:
            (n, d), float64, on the host: for `Residual(equation, domain.grid_interior(0.1))`.
        Raises:
            UserError: a spacing that is not above 0, that leaves no point, or more than ten million.
        """
        where = "grid_interior"
        if not (np.isfinite(spacing) and spacing > 0):
            raise UserError(f"a spacing of {spacing}", where=where, remedy="It is a length above 0.")
        with jax.enable_x64(True):
            lower, upper = map(np.asarray, self.bounds)
            if np.prod((upper - lower) / spacing) > 1e7:
                raise UserError(f"a spacing of {spacing} makes more than 1e7 points", where=where, remedy="Enlarge it.")
            axes = [np.arange(a + spacing / 2, b, spacing) for a, b in zip(lower, upper, strict=True)]
            grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
            inside = np.asarray(jax.vmap(self.signed_distance)(jnp.asarray(grid))) <= -spacing / 4 if len(grid) else []
        if not np.any(inside):
            raise UserError(f"a spacing of {spacing} leaves no point inside", where=where, remedy="Choose a finer one.")
        return grid[inside]

    def check_inside(self, points: Any, name: str) -> np.ndarray:
        """The points as they are, if all lie inside or on the boundary.

        Args:
            points: (n, d), such as the places of sensors.
            name: what they are, for the message.
        Returns:
            (n, d), float64.
        Raises:
            UserError: another shape, numbers that are not finite, points outside, named by their rows from 0.
        """
        d = self.dimension
        found = finite_rows(points, name, d)
        with jax.enable_x64(True):
            inside = np.asarray(jax.vmap(self.contains)(jnp.asarray(found)))
        if len(bad := np.flatnonzero(~inside)):
            rows = ", ".join(map(str, bad[:5])) + (" …" if len(bad) > 5 else "")
            raise UserError(
                f"{len(bad)} of {len(found)} {name} lie outside the domain, the first at {found[bad[0]].tolist()}",
                where=f"{'row' if len(bad) == 1 else 'rows'} {rows}, counted from 0",
                remedy="Correct or leave out these rows; are the units and the order of the columns right?",
            )
        return found


class AbstractBounded(AbstractDomain):
    """A domain that has its boundary as a part."""

    @property
    def boundary(self) -> AbstractPart:
        """All of it."""
        raise NotImplementedError

    @property
    def boundary_size(self) -> float:
        return self.boundary.size

    def sample_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self.boundary.sample(key, n)

    def spread_boundary(self, key: Key, n: int) -> BoundaryPoint:
        return self.boundary.spread(key, n)


class Whole(AbstractPart):
    """All of a domain's boundary as a part."""

    domain: AbstractDomain

    @property
    def size(self) -> float:
        return self.domain.boundary_size

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        return self.domain.sample_boundary(key, n)

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        return self.domain.spread_boundary(key, n)

    def distances(self, x: jax.Array) -> jax.Array:
        boundary = getattr(self.domain, "boundary", None)
        return boundary.distances(x) if isinstance(boundary, AbstractPart) else super().distances(x)


class Matching(AbstractPart):
    """The places of a part that satisfy a condition; made by `domain.part`. Points are drawn by rejection.

    Where the condition is met nowhere in the precision of a run, though it was in 64 bits, its points are NaN.

    Attributes:
        whole: the part that points are drawn from.
        belongs: one point (d,) -> whether it counts.
        share: measured share of the whole.
    """

    whole: AbstractPart
    belongs: Callable[[jax.Array], Any]
    share: float = eqx.field(static=True)

    @property
    def size(self) -> float:
        """Measured on a few thousand points, not exact."""
        return self.whole.size * self.share

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        return _matching_sample(self, key, int(n))

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        """Eight times as many even points are made, and an even choice of them is kept."""
        return _matching_spread(self, key, int(n))


class Joined(AbstractPart):
    """Several parts as one; made by `joined`.

    Attributes:
        parts: that do not overlap.
        shares: of each in the sizes of all, together 1.
    """

    parts: tuple[AbstractPart, ...]
    shares: tuple[float, ...] = eqx.field(static=True)

    @property
    def size(self) -> float:
        return float(sum(part.size for part in self.parts))

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        return self.sample_from(key, n)[0]

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        """Each part has its share of the points, rounded."""
        return self.spread_from(key, n)[0]

    def sample_from(self, key: Key, n: int) -> tuple[BoundaryPoint, jax.Array]:
        """The same as `sample`, and the number of the part that each point is from, (n,)."""
        choose, *keys = jax.random.split(key, len(self.parts) + 1)
        drawn = [part.sample(one, n) for part, one in zip(self.parts, keys, strict=True)]
        upto = jnp.asarray(np.cumsum(self.shares)[:-1], drawn[0].x.dtype)
        which = jnp.searchsorted(upto, jax.random.uniform(choose, (n,), upto.dtype), side="right")
        return jax.tree.map(lambda *leaves: jnp.stack(leaves)[which, jnp.arange(n)], *drawn), which

    def spread_from(self, key: Key, n: int) -> tuple[BoundaryPoint, jax.Array]:
        """The same as `spread`, and the number of the part that each point is from, (n,)."""
        upto = np.round(np.cumsum(self.shares) * n).astype(int)
        upto[-1] = n
        counts = np.diff(upto, prepend=0)
        keys = jax.random.split(key, len(self.parts))
        drawn = [part.spread(one, int(m)) for part, one, m in zip(self.parts, keys, counts, strict=True)]
        which = jnp.asarray(np.repeat(np.arange(len(counts)), counts))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn), which

    def distances(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate([part.distances(x) for part in self.parts])


def joined(*parts: AbstractPart) -> Joined:
    """Several parts of a boundary as one, each with as many points as its size asks for. They must not overlap.

    Raises:
        UserError: no part, or something that is none.

    >>> from thalweg.physics.geometry import box
    >>> cube = box((0, 0, 0), (1, 1, 2))
    >>> joined(cube.lower_face(0), cube.upper_face(2)).size
    3.0
    """
    bad = [part for part in parts if not isinstance(part, AbstractPart)]
    if bad or not parts:
        what = f"{type(bad[0]).__name__} is no part of a boundary" if bad else "there is no part to join"
        raise UserError(what, where="joined", remedy="Join parts such as `cube.lower_face(0)` or `domain.part(…)`.")
    sizes = np.array([part.size for part in parts])
    return Joined(parts, tuple((sizes / sizes.sum()).tolist()))


def _matching(whole: AbstractPart, belongs: Callable[[jax.Array], Any]) -> Matching:
    where = "a part of the boundary by a condition"
    if not callable(belongs):
        raise UserError(f"{type(belongs).__name__} is no condition", where=where, remedy="Give a function of a point.")
    with jax.enable_x64(True):
        x, met = _probed(whole, belongs)
        if met.shape != (PROBES,) or met.dtype != bool:
            what = f"the condition gives {met.dtype}{list(met.shape[1:])} at one point"
            raise UserError(what, where=where, remedy="It gives one truth value: lambda x: x[0] < 1e-9.")
        share = float(jnp.mean(met))
    if share == 0:
        low, high = (edge(np.asarray(x), axis=0).tolist() for edge in (np.min, np.max))
        raise UserError(
            f"the condition matches none of {PROBES} points on the boundary",
            where=f"coordinates from {low} to {high}",
            remedy="Give it room for rounding, as in x[0] < 1e-9, and look at the sign and at the coordinate.",
        )
    return Matching(whole, belongs, share)


# Each of these is one program, also where it is called on its own: that compiles sooner than its operations would.
@eqx.filter_jit
def _matching_sample(part: Matching, key: Key, n: int) -> BoundaryPoint:
    found = part.whole.sample(key, candidates_needed(n, part.share))
    return first_accepted(found, jax.vmap(part.belongs)(found.x), n)


@eqx.filter_jit
def _matching_spread(part: Matching, key: Key, n: int) -> BoundaryPoint:
    found = part.whole.spread(key, candidates_needed(8 * n, part.share))
    return evenly_accepted(found, jax.vmap(part.belongs)(found.x), n)


@eqx.filter_jit
def _probed(whole: AbstractPart, belongs: Callable[[jax.Array], Any]) -> tuple[jax.Array, jax.Array]:
    """Even points on a part, and whether they match."""
    x = whole.spread(jax.random.key(0), PROBES).x
    return x, jax.vmap(lambda z: jnp.asarray(belongs(z)))(x)


def finite_rows(points: Any, name: str, dimension: int) -> np.ndarray:
    """Points as (n, dimension) finite numbers, float64, refused by row."""
    try:
        found = np.array(points, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} are no table of numbers", remedy=f"Give (n, {dimension}) numbers.") from error
    if found.ndim != 2 or found.shape[1] != dimension:
        raise UserError(f"{name} of shape {found.shape}", remedy=f"A row of {dimension} coordinates each is needed.")
    if len(bad := np.flatnonzero(~np.isfinite(found).all(axis=1))):
        where = f"row {bad[0]}, counted from 0"
        raise UserError(f"{name} have {found[bad[0]].tolist()}", where=where, remedy="Give finite numbers.")
    return found


def numbers(values: Any, where: str, shape: tuple[int, ...]) -> np.ndarray:
    """Finite numbers of a shape, float64, or a refusal. -1 in the shape stands for any length from 1."""
    try:
        found = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{values!r} is no number", where=where) from error
    fits = found.ndim == len(shape) and all(n == m or (m == -1 and n) for n, m in zip(found.shape, shape, strict=True))
    if not fits or not np.isfinite(found).all():
        wanted = str(shape).replace("-1", "d")
        raise UserError(f"{values!r}", where=where, remedy=f"Finite numbers of the shape {wanted} are needed.")
    return found


def one_point(x: jax.Array, dimension: int) -> jax.Array:
    """The point as an array, refused if it is not one point."""
    x = jnp.asarray(x)
    if x.shape != (dimension,):
        raise UserError(
            f"a point of shape {x.shape} in a domain of {dimension} dimensions",
            remedy="Map over several points: jax.vmap(domain.contains)(points).",
        )
    return x


def dtype_of(values: Any) -> Any:
    """The type that a domain's own numbers have in JAX."""
    return jnp.asarray(values).dtype


def root(square: Scalar) -> Scalar:
    """Square root whose slope at 0 is 0, not infinite."""
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def from_parts(each: jax.Array) -> Scalar:
    """Signed distance from a product of sets, from the signed distances (k,) from each in its own coordinates."""
    return root(jnp.sum(jnp.maximum(each, 0) ** 2)) + jnp.minimum(jnp.max(each), 0)

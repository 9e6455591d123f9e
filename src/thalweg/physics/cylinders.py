"""Space-time: a domain over a span of time, its initial and final states, and its sides."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.physics.domains import (
    AbstractBounded,
    AbstractDomain,
    AbstractPart,
    BoundaryPoint,
    Joined,
    Whole,
    dtype_of,
    from_parts,
    joined,
    numbers,
    one_point,
)
from thalweg.physics.unit_points import golden, uniform
from thalweg.types import Key, Scalar


class Moment(AbstractPart):
    """The interior of a domain at one time: the initial or the final state.

    Attributes:
        domain: in space.
        time: (), of all its points.
        is_final: whether the normal points to later times.
    """

    domain: AbstractDomain
    time: Any
    is_final: bool = eqx.field(static=True)

    @property
    def size(self) -> float:
        return self.domain.size

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        return self._place(self.domain.sample_interior(key, n))

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        return self._place(self.domain.spread_interior(key, n))

    def distances(self, x: jax.Array) -> jax.Array:
        """The time since the start, or to the end."""
        elapsed = jnp.asarray(x)[-1:] - jnp.asarray(self.time, jnp.asarray(x).dtype)
        return -elapsed if self.is_final else elapsed

    def _place(self, x: jax.Array) -> BoundaryPoint:
        now = jnp.full((len(x), 1), jnp.asarray(self.time, x.dtype))
        normal = jnp.zeros((len(x), x.shape[1] + 1), x.dtype).at[:, -1].set(1 if self.is_final else -1)
        return BoundaryPoint(jnp.concatenate([x, now], axis=1), normal)


class Sides(AbstractPart):
    """A part of a domain's boundary over a span of time; the normal's last entry, that of time, is 0.

    Attributes:
        around: the part in space.
        span: (2,), start and end.
    """

    around: AbstractPart
    span: Any

    @property
    def size(self) -> float:
        return self.around.size * float(self.span[1] - self.span[0])

    def sample(self, key: Key, n: int) -> BoundaryPoint:
        place, moment = jax.random.split(key)
        return self._place(self.around.sample(place, n), uniform(moment, n, 1, dtype_of(self.span)))

    def spread(self, key: Key, n: int) -> BoundaryPoint:
        place, moment = jax.random.split(key)
        return self._place(self.around.spread(place, n), golden(moment, n, dtype_of(self.span))[:, None])

    def distances(self, x: jax.Array) -> jax.Array:
        """Those of the part in space, at any time."""
        return self.around.distances(jnp.asarray(x)[:-1])

    def _place(self, at: BoundaryPoint, s: jax.Array) -> BoundaryPoint:
        times = _times(self.span, s)
        return BoundaryPoint(*(jnp.concatenate(pair, axis=1) for pair in ((at.x, times), (at.normal, 0 * times))))


class TimeCylinder(AbstractBounded):
    """Made by `time_cylinder`. Its points are (x, t), shape (d + 1,), time last.

    Attributes:
        domain: in space.
        span: (2,), start and end.
        around: `initial`, `final` and `sides`.
    """

    domain: AbstractDomain
    span: Any
    around: Joined

    @property
    def boundary(self) -> Joined:
        """Start, end and sides. Their sizes have different units, so for a condition take one of them."""
        return self.around

    @property
    def initial(self) -> Moment:
        """The domain at the start."""
        return Moment(self.domain, self.span[0], is_final=False)

    @property
    def final(self) -> Moment:
        """The domain at the end."""
        return Moment(self.domain, self.span[1], is_final=True)

    @property
    def sides(self) -> Sides:
        """All of the domain's boundary, over all times."""
        return self.over(Whole(self.domain))

    def over(self, part: AbstractPart) -> Sides:
        """A part of the domain's boundary, over all times.

        >>> from thalweg.physics.geometry import rectangle
        >>> plate = rectangle((0, 0), (2, 1))
        >>> hot = time_cylinder(plate, 0.0, 5.0).over(plate.right)
        >>> hot.size, hot.spread(jax.random.key(0), 4).x[:, 0].tolist()
        (5.0, [2.0, 2.0, 2.0, 2.0])
        """
        return Sides(part, self.span)

    @property
    def dimension(self) -> int:
        return self.domain.dimension + 1

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array]:
        span = jnp.asarray(self.span)
        lower, upper = self.domain.bounds
        return jnp.append(lower, span[0].astype(lower.dtype)), jnp.append(upper, span[1].astype(upper.dtype))

    @property
    def size(self) -> float:
        return self.domain.size * float(self.span[1] - self.span[0])

    def sample_interior(self, key: Key, n: int) -> jax.Array:
        place, moment = jax.random.split(key)
        times = _times(self.span, uniform(moment, n, 1, dtype_of(self.span)))
        return jnp.concatenate([self.domain.sample_interior(place, n), times], axis=1)

    def spread_interior(self, key: Key, n: int) -> jax.Array:
        place, moment = jax.random.split(key)
        times = _times(self.span, golden(moment, n, dtype_of(self.span))[:, None])
        return jnp.concatenate([self.domain.spread_interior(place, n), times], axis=1)

    def signed_distance(self, x: jax.Array) -> Scalar:
        """As in `AbstractDomain`, with a unit of time as long as one of length; a bound where the domain's is one."""
        x = one_point(x, self.dimension)
        start, end = jnp.asarray(self.span, x.dtype)
        return from_parts(jnp.stack([self.domain.signed_distance(x[:-1]), jnp.maximum(start - x[-1], x[-1] - end)]))


def time_cylinder(domain: AbstractDomain, start: float, end: float) -> TimeCylinder:
    """A domain from a first to a last moment. Parts of its boundary: `initial`, `final`, `sides` and `over(part)`.

    Args:
        domain: in space, (d,).
        start, end: in units of time.
    Raises:
        UserError: no domain, times that are not finite or not rising.

    >>> from thalweg.physics.geometry import interval
    >>> history = time_cylinder(interval(-1.0, 1.0), 0.0, 0.5)
    >>> history.size, history.initial.sample(jax.random.key(0), 3).normal.tolist()[0]
    (1.0, [0.0, -1.0])
    """
    where = "time_cylinder"
    if not isinstance(domain, AbstractDomain):
        raise UserError(f"{type(domain).__name__} is no domain", where=where, remedy="Such as tw.geometry.interval.")
    span = numbers((start, end), where, (2,))
    if not span[0] < span[1]:
        raise UserError(f"times from {start} to {end}", where=where, remedy="The end is later than the start.")
    first, last = Moment(domain, span[0], is_final=False), Moment(domain, span[1], is_final=True)
    return TimeCylinder(domain, span, joined(first, last, Sides(Whole(domain), span)))


def _times(span: Any, s: jax.Array) -> jax.Array:
    start, end = jnp.asarray(span)
    return start + (end - start) * s

"""Boundary conditions: those that a model meets by its form, and helpers for those that are terms.

A Dirichlet condition u = g holds exactly where the model is lift + distance · network, with a lift that is g on that
part of the boundary and a distance that is 0 there and nowhere else (Lagaris et al., 1998). `SmoothDistance` makes the
one and `Blend` the other from parts of a domain's boundary; `Inputs` scales what the network sees, and makes it
periodic. Everything is written for one point, and differentiable as often as the equation needs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.physics.cylinders import Sides
from thalweg.physics.domains import AbstractDomain, AbstractPart, BoundaryPoint, Joined
from thalweg.physics.operators import Field, directional_derivative, gradient
from thalweg.types import Key, Scalar, Untrained


class SmoothDistance(Untrained):
    """A smooth function that is 0 on a part of the boundary and positive elsewhere in the domain, with slope 1 there.

    The distances of the part's pieces are joined by φ = 1/(Σ 1/φᵢ), an R-equivalence that keeps the slope (Rvachev,
    1982; Biswas and Shapiro, 2004; Sukumar and Srivastava, 2022). Where two pieces meet at a corner its second
    derivatives are unbounded: keep points that an equation of second order is asked for some way off, or weigh them.

    Args:
        part: edges of a polygon, faces of a box, circles, moments or sides of a time cylinder, or several `joined`.
    Raises:
        UserError: the part has no smooth distance, as one by condition.

    >>> from thalweg.physics.geometry import rectangle
    >>> plate = rectangle((0, 0), (2, 1))
    >>> distance = SmoothDistance(plate.edges(0, 2))  # the lower and the upper edge
    >>> float(distance(jnp.array([1.0, 0.0]))), round(float(distance(jnp.array([1.0, 0.01]))), 3)
    (0.0, 0.01)
    """

    part: AbstractPart

    def __init__(self, part: AbstractPart):
        self.part = _with_distances(part)

    def __call__(self, x: jax.Array) -> Scalar:
        """At one point (d,), shape (), in the units of length."""
        each = self.part.distances(x)
        while len(each) > 1:  # in pairs, φ₁φ₂/(φ₁ + φ₂): the same sum, without dividing by a piece's 0
            half = len(each) // 2
            one, other, rest = each[:half], each[half : 2 * half], each[2 * half :]
            total = one + other
            at_corner = total == 0
            pairs = jnp.where(at_corner, 0, one * other / jnp.where(at_corner, 1, total))
            each = jnp.concatenate([pairs, rest])
        return each[0]


class Blend(Untrained):
    """A function that has given values on parts of the boundary, and passes smoothly from one to the other between.

    The weight of each value is the product of the distances from the other parts (transfinite interpolation: Rvachev
    et al., 2001). Where parts with different values meet it is their mean at that point alone, and jumps nearby.

    Args:
        values: pairs of a part of the boundary and its value: a function of one point (d,), or a number.
    Raises:
        UserError: no pair, or a part that has no smooth distance.

    >>> from thalweg.physics.geometry import interval
    >>> line = interval(0.0, 2.0)
    >>> [float(Blend((line.left, 1.0), (line.right, lambda x: 3 * x[0]))(jnp.array([x]))) for x in (0.0, 1.0, 2.0)]
    [1.0, 2.0, 6.0]
    """

    distances: tuple[SmoothDistance, ...]
    values: tuple[Any, ...]

    def __init__(self, *values: tuple[AbstractPart, Callable[[jax.Array], Any] | float]):
        if not values:
            raise UserError("there is nothing to blend", where="Blend", remedy="Give pairs of a part and its value.")
        self.distances = tuple(SmoothDistance(part) for part, _ in values)
        self.values = tuple(value for _, value in values)

    def __call__(self, x: jax.Array) -> jax.Array:
        """At one point (d,); of the shape of the values."""
        weights = _products_of_others(jnp.stack([distance(x) for distance in self.distances]))
        total = jnp.sum(weights)
        weights = jnp.where(total == 0, 1 / len(self.values), weights / jnp.where(total == 0, 1, total))
        each = [jnp.asarray(value(x) if callable(value) else value, x.dtype) for value in self.values]
        return sum((weights[i] * one for i, one in enumerate(each)), start=jnp.zeros_like(each[0]))


class Inputs(Untrained):
    """What a network sees of a point: each coordinate scaled to [-1, 1], or waves where the solution is periodic.

    A network of cos 2πkx/L and sin 2πkx/L, k = 1 … modes, is periodic whatever its weights are, with all its
    derivatives (Dong and Ni, 2021).

    Args:
        domain: whose bounds become -1 and 1.
        periods: for each coordinate its period L, or None where it is not periodic; None for all of them.
        modes: waves for each periodic coordinate.
    Raises:
        UserError: not one period for each coordinate, a period that is not above 0, less than one mode.

    >>> from thalweg.physics.geometry import rectangle
    >>> inputs = Inputs(rectangle((0, 0), (2, 1)), periods=(2.0, None), modes=3)
    >>> inputs.size, float(inputs(jnp.array([0.3, 1.0]))[-1])
    (7, 1.0)
    """

    lower: Any
    upper: Any
    periods: tuple[float | None, ...] = eqx.field(static=True)
    modes: int = eqx.field(static=True)

    def __init__(self, domain: AbstractDomain, periods: Sequence[float | None] | None = None, modes: int = 1):
        if not isinstance(domain, AbstractDomain):
            raise UserError(f"{type(domain).__name__} is no domain", where="Inputs", remedy="See `thalweg.geometry`.")
        with jax.enable_x64(True):
            self.lower, self.upper = map(np.asarray, domain.bounds)
        self.periods = (None,) * domain.dimension if periods is None else tuple(periods)
        if len(self.periods) != domain.dimension:
            what = f"{len(self.periods)} periods for {domain.dimension} coordinates"
            raise UserError(what, where="Inputs", remedy="Give None for a coordinate without a period.")
        if bad := [p for p in self.periods if p is not None and not (np.isfinite(p) and p > 0)]:
            raise UserError(f"a period of {bad[0]}", where="Inputs", remedy="A period is a length above 0.")
        if modes < 1:
            raise UserError(f"{modes} modes", where="Inputs", remedy="At least one.")
        self.modes = int(modes)

    @property
    def size(self) -> int:
        """How many numbers the network sees: its `in_size`."""
        return sum(1 if period is None else 2 * self.modes for period in self.periods)

    def __call__(self, x: jax.Array) -> jax.Array:
        """One point (d,) to (size,)."""
        lower, upper = jnp.asarray(self.lower, x.dtype), jnp.asarray(self.upper, x.dtype)
        scaled = 2 * (x - lower) / (upper - lower) - 1
        seen = []
        for axis, period in enumerate(self.periods):
            if period is None:
                seen.append(scaled[axis : axis + 1])
            else:
                waves = jnp.asarray(2 * np.pi / period * np.arange(1, self.modes + 1), x.dtype)
                angle = waves * (x[axis] - lower[axis])
                seen += [jnp.cos(angle), jnp.sin(angle)]
        return jnp.concatenate(seen)


class Exact(eqx.Module):
    """A model that meets conditions by its form: lift(x) + distance(x) · network(inputs(x)).

    For an initial condition u(0) = g and velocity v: lift g + v·t, distance t². For a component of a vector its own
    distance: `lambda x: jnp.stack([x[0], x[1]])`.

    Args:
        network: what is trained, (inputs.size,) -> () or (k,).
        inputs: point (d,) -> what the network sees; such as `Inputs`.
        distance: point -> () or (k,), 0 where the condition holds; such as `SmoothDistance`.
        lift: point -> () or (k,), what the solution is there; 0 if left out. Such as `Blend`.

    >>> import thalweg as tw
    >>> plate = tw.geometry.rectangle((0, 0), (2, 1))
    >>> inputs = Inputs(plate)
    >>> network = tw.nn.MLP(inputs.size, None, width=8, depth=1, key=jax.random.key(0))
    >>> u = Exact(network, inputs, SmoothDistance(plate.left), lambda x: x[1] ** 2)
    >>> float(u(jnp.array([0.0, 0.5])))
    0.25
    """

    network: Callable
    inputs: Callable[[jax.Array], jax.Array]
    distance: Callable[[jax.Array], jax.Array]
    lift: Callable[[jax.Array], jax.Array] | None = None

    def __call__(self, x: jax.Array) -> jax.Array:
        """At one point (d,); of the shape of the network's output."""
        free = self.distance(x) * self.network(self.inputs(x))
        return free if self.lift is None else self.lift(x) + free


def normal_derivative(u: Field, at: BoundaryPoint) -> jax.Array:
    """∂u/∂n at one boundary point: n·∇u.

    Neumann's condition is `normal_derivative(u, at) - g(at.x)`, Robin's `normal_derivative(u, at) + h * (u(at.x) - g)`.

    Args:
        u: field, (d,) -> () or (k,).
        at: a point of a domain's boundary with its outward normal.
    Returns:
        the shape of u(x), units of u per length.

    >>> from thalweg.physics.geometry import disk
    >>> at = jax.tree.map(lambda rows: rows[0], disk((0, 0), 2.0).sample_boundary(jax.random.key(0), 1))
    >>> round(float(normal_derivative(lambda x: jnp.sum(x**2), at)), 4)  # 2r
    4.0
    """
    return directional_derivative(u, at.x, at.normal)


def flux(coefficient: Field, u: Field, at: BoundaryPoint) -> Scalar:
    """What leaves through the boundary at one point by diffusion: −n·(K∇u).

    Args:
        coefficient: point -> K, a number () or a matrix (d, d).
        u: scalar field, (d,) -> ().
        at: a point of a domain's boundary with its outward normal.
    Returns:
        shape (), units of K and u per length; positive outward.

    >>> at = BoundaryPoint(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]))
    >>> float(flux(lambda x: jnp.float32(3.0), lambda x: -2 * x[0], at))
    6.0
    """
    k, slope = coefficient(at.x), gradient(u, at.x)
    return -jnp.vdot(at.normal, k @ slope if jnp.ndim(k) == 2 else k * slope)


def interface(inner: Field, outer: Field, at: BoundaryPoint, inner_k: Field, outer_k: Field) -> jax.Array:
    """How far two fields are from meeting at one point of an interface: jumps of the value and of the flux.

    Args:
        inner, outer: scalar fields on either side, (d,) -> ().
        at: a point of the inner domain's boundary with its outward normal.
        inner_k, outer_k: their coefficients, as in `flux`.
    Returns:
        (u_outer − u_inner, flux_outer − flux_inner), shape (2,): both 0 where the contact is perfect.

    >>> at = BoundaryPoint(jnp.array([0.0]), jnp.array([1.0]))
    >>> one, two = (lambda x: jnp.float32(1)), (lambda x: jnp.float32(2))
    >>> interface(lambda x: 2 * x[0], lambda x: x[0], at, one, two).tolist()
    [0.0, 0.0]
    """
    value = outer(at.x) - inner(at.x)
    return jnp.stack([value, flux(outer_k, outer, at) - flux(inner_k, inner, at)])


class Pair(NamedTuple):
    """Two points where a periodic solution is the same; n of them have a leading axis (n,).

    Attributes:
        x, other: (d,).
    """

    x: jax.Array
    other: jax.Array


class PeriodicPairs(eqx.Module):
    """Pairs of places that a period lies between, for periodicity as a term; `Inputs` has it exactly.

    `Residual(lambda u, pair: u(pair.x) - u(pair.other), FreshPoints(pairs.spread, 64))`

    Args:
        part: of the boundary, where each pair begins.
        shift: (d,), from there to where it ends.
    Raises:
        UserError: no part, or a shift that is 0 or not finite.

    >>> from thalweg.physics.geometry import rectangle
    >>> pairs = PeriodicPairs(rectangle((0, 0), (2, 1)).left, (2.0, 0.0))
    >>> pairs.sample(jax.random.key(0), 3).other[:, 0].tolist()
    [2.0, 2.0, 2.0]
    """

    part: AbstractPart
    shift: Any

    def __init__(self, part: AbstractPart, shift: Sequence[float]):
        self.part, self.shift = part, np.asarray(shift, np.float64)
        if not isinstance(part, AbstractPart):
            raise UserError(f"{type(part).__name__} is no part of a boundary", where="PeriodicPairs")
        if self.shift.ndim != 1 or not (np.isfinite(self.shift).all() and self.shift.any()):
            remedy = "It is the vector from a place to where the solution is the same."
            raise UserError(f"a shift of {shift}", where="PeriodicPairs", remedy=remedy)

    def sample(self, key: Key, n: int) -> Pair:
        """Draws n independent pairs; shapes (n, d)."""
        return self._pair(self.part.sample(key, n))

    def spread(self, key: Key, n: int) -> Pair:
        """Draws n pairs that cover the part evenly; shapes (n, d)."""
        return self._pair(self.part.spread(key, n))

    def _pair(self, at: BoundaryPoint) -> Pair:
        return Pair(at.x, at.x + jnp.asarray(self.shift, at.x.dtype))


def _products_of_others(each: jax.Array) -> jax.Array:
    """For every entry the product of all others, (k,): no division, so that zeros do no harm."""
    k = each.shape[0]
    one = jnp.ones((), each.dtype)
    before, after = [one], [one]
    for i in range(k - 1):
        before.append(before[-1] * each[i])
        after.append(after[-1] * each[k - 1 - i])
    return jnp.stack(before) * jnp.stack(after[::-1])


def _with_distances(part: AbstractPart) -> AbstractPart:
    if not isinstance(part, AbstractPart):
        remedy = "Give a part, such as `plate.edges(0)` or `disk.boundary`."
        raise UserError(f"{type(part).__name__} is no part of a boundary", where="SmoothDistance", remedy=remedy)
    for one in part.parts if isinstance(part, Joined) else (part.around,) if isinstance(part, Sides) else ():
        _with_distances(one)
    if type(part).distances is AbstractPart.distances:
        part.distances(jnp.zeros(1))  # refuses, and says why
    return part

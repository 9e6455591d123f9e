"""Differential operators on one point: `u` is any field, a function or a network, from a point to a number or a vector.

Written for one point, so that they are mapped, compiled, nested and differentiated like any other function. Cartesian
coordinates throughout. The directions are written out one by one: mapping over them instead makes the one-example
Jacobians that Gauss-Newton needs three times slower (measured, 2 and 3 dimensions), and a full Hessian more so.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.physics.jointly import answers

Field = Callable[[jax.Array], jax.Array]
"""Point (d,) -> number () or vector (k,)."""


UNROLLED = 8
"""Directions up to which each is written out: faster to run, but a program of a hundred takes minutes to compile."""


def gradient(u: Field, x: jax.Array) -> jax.Array:
    """Gradient of a field at one point; of a vector field, the matrix of its partial derivatives.

    Args:
        u: field, (d,) -> () or (k,).
        x: point, shape (d,), in the units of length of `u`'s domain.
    Returns:
        ∂u/∂x_j, shape (d,); for a vector field ∂u_i/∂x_j, shape (k, d). Units of u per length.
    Raises:
        UserError: x is not one point of floating numbers, or u returns neither a number nor a vector.

    >>> gradient(lambda x: x[0] ** 2 * x[1], jnp.array([1.0, 2.0])).tolist()
    [4.0, 1.0]
    """
    if together := answers(u, x, [(axis,) for axis in range(jnp.size(x))]):
        return jnp.stack(together, axis=-1)
    x = _point(x)
    shape = _shape_of(u, x)
    if shape == ():
        return jax.grad(u)(x)
    if len(shape) != 1:
        raise UserError(f"the gradient of a field of shape {shape}", remedy="A field is a number () or a vector (k,).")
    if shape[0] < x.size:  # one backward pass a component, or one forward pass a coordinate: whichever are fewer
        return jnp.stack([jax.grad(lambda z, i=i: u(z)[i])(x) for i in range(shape[0])])
    return jnp.stack([_slope(u, x, axis) for axis in range(x.size)], axis=-1)


def divergence(f: Field, x: jax.Array, axes: Sequence[int] | None = None) -> jax.Array:
    """Divergence of a vector field at one point; of a tensor field, that of each of its rows.

    Args:
        f: vector field, (d,) -> (d,), or tensor field, (d,) -> (k, d).
        x: point, shape (d,), in the units of length of f's domain.
        axes: the coordinates that are space, where others are time or parameters; f has one component for each. None
            is all.
    Returns:
        Σ_j ∂f_j/∂x_j, shape (); for a tensor field Σ_j ∂f_ij/∂x_j, shape (k,). Units of f per length.
    Raises:
        UserError: x is not one point, there is no such coordinate, or f has not one component for each.

    >>> x = jnp.array([1.0, 2.0])
    >>> float(divergence(lambda x: x[1] * gradient(lambda z: z[0] ** 2 + z[1] ** 2, x), x))  # y·4 + 2y
    12.0
    """
    place, x = x, _point(x)
    axes = _axes(axes, x)
    shape = _shape_of(f, x)
    if len(shape) not in (1, 2) or shape[-1] != len(axes):
        raise UserError(
            f"the divergence of a field of shape {shape} over {len(axes)} coordinates",
            remedy="The last axis of the field must have one component for each coordinate.",
        )
    if together := answers(f, place, [(axis,) for axis in axes]):
        return sum((slope[..., i] for i, slope in enumerate(together)), start=jnp.zeros(shape[:-1], x.dtype))
    return sum((_slope(f, x, axis)[..., i] for i, axis in enumerate(axes)), start=jnp.zeros(shape[:-1], x.dtype))


def curl(f: Field, x: jax.Array) -> jax.Array:
    """Curl of a vector field at one point, in two or three dimensions.

    Args:
        f: vector field, (d,) -> (d,), d = 2 or 3.
        x: point, shape (d,), in the units of length of f's domain.
    Returns:
        in 3-D the vector ∇ × f, shape (3,); in 2-D its only component, ∂f_y/∂x − ∂f_x/∂y, shape (). Units of f per
        length.
    Raises:
        UserError: another number of dimensions or components.

    >>> float(curl(lambda x: jnp.stack([-x[1], x[0]]), jnp.array([0.3, 0.4])))
    2.0
    """
    x = _point(x)
    shape = _shape_of(f, x)
    if x.size not in (2, 3) or shape != x.shape:
        raise UserError(f"the curl of a field of shape {shape} in {x.size} dimensions", remedy="Both must be 2, or 3.")
    slopes = [_slope(f, x, axis) for axis in range(x.size)]  # slopes[j][i] = ∂f_i/∂x_j
    rotation = lambda i, j: slopes[i][j] - slopes[j][i]
    return rotation(0, 1) if x.size == 2 else jnp.stack([rotation(1, 2), rotation(2, 0), rotation(0, 1)])


def laplacian(u: Field, x: jax.Array, axes: Sequence[int] | None = None) -> jax.Array:
    """Laplacian of a field at one point; of a vector field, that of each component.

    Args:
        u: field, (d,) -> () or (k,).
        x: point, shape (d,), in the units of length of u's domain.
        axes: the coordinates that are space, where others are time or parameters; None is all.
    Returns:
        Σ_j ∂²u/∂x_j², shape of u(x), units of u per length².
    Raises:
        UserError: x is not one point, or there is no such coordinate.

    >>> float(laplacian(lambda x: x[0] ** 2 * x[1] + x[1] ** 3, jnp.array([1.0, 2.0])))  # 2y + 6y
    16.0
    """
    point = _point(x)
    axes = _axes(axes, point)
    if together := answers(u, x, [(axis, axis) for axis in axes]):
        return sum(together[1:], start=together[0])
    along = lambda axis: _slope(lambda z: _slope(u, z, axis), point, axis)
    if len(axes) > UNROLLED:
        twice = lambda v: jax.jvp(lambda z: jax.jvp(u, (z,), (v,))[1], (point,), (v,))[1]
        return jnp.sum(jax.vmap(twice)(jnp.eye(point.size, dtype=point.dtype)[jnp.array(axes)]), axis=0)
    return sum((along(axis) for axis in axes), start=jnp.zeros(_shape_of(u, point), point.dtype))


def derivative(u: Field, x: jax.Array, *axes: int) -> jax.Array:
    """Partial derivative of a field at one point, of any order: one forward pass within another for each axis.

    With t the last of three coordinates, u_t is `derivative(u, x, 2)` and u_xy is `derivative(u, x, 0, 1)`.

    Args:
        u: field, (d,) -> () or (k,).
        x: point, shape (d,).
        axes: the coordinate of each differentiation.
    Returns:
        ∂ⁿu/∂x_a∂x_b…, shape of u(x), units of u per those of each coordinate.
    Raises:
        UserError: x is not one point, no axis, or no such coordinate.

    >>> float(derivative(lambda x: jnp.exp(x[0] * x[1]), jnp.array([0.0, 3.0]), 0, 0))
    9.0
    """
    point = _point(x)
    if not axes:
        raise UserError("a derivative along no axis", where="derivative", remedy="derivative(u, x, 0) is ∂u/∂x_0.")
    along = _axes(axes, point)
    if together := answers(u, x, [along]):
        return together[0]
    for axis in reversed(along):
        u = lambda z, u=u, axis=axis: _slope(u, z, axis)
    return u(point)


def directional_derivative(u: Field, x: jax.Array, direction: jax.Array, order: int = 1) -> jax.Array:
    """Derivative of a field along a direction, of any order: dⁿ/ds u(x + s·v) at s = 0. Its length counts.

    Args:
        u: field, (d,) -> () or (k,).
        x: point, shape (d,).
        direction: v, shape (d,); a unit normal gives the normal derivative.
        order: n, at least 1. 2 is vᵀHv with H the Hessian.
    Returns:
        shape of u(x), units of u per (length / units of v)ⁿ.
    Raises:
        UserError: x is not one point, the direction has another shape, or an order below 1.

    >>> x, normal = jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])
    >>> float(directional_derivative(lambda x: x[0] * x[1] ** 2, x, normal))
    4.0
    """
    x = _point(x)
    direction = _direction(direction, x)
    if order < 1:
        raise UserError(f"a directional derivative of order {order}", remedy="The order is at least 1.")
    for _ in range(order):
        u = lambda z, u=u: jax.jvp(u, (z,), (direction,))[1]
    return u(x)


def hessian_vector(u: Field, x: jax.Array, direction: jax.Array) -> jax.Array:
    """Product of a scalar field's Hessian with a vector at one point, without the Hessian.

    Args:
        u: scalar field, (d,) -> ().
        x: point, shape (d,).
        direction: v, shape (d,).
    Returns:
        Hv with H_ij = ∂²u/∂x_i∂x_j, shape (d,), units of u per length² times those of v.
    Raises:
        UserError: x is not one point, the direction has another shape, or u is no scalar field.

    >>> hessian_vector(lambda x: x[0] ** 2 * x[1], jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])).tolist()
    [4.0, 2.0]
    """
    x = _point(x)
    if (shape := _shape_of(u, x)) != ():
        raise UserError(f"the Hessian of a field of shape {shape}", remedy="Take one component: lambda x: u(x)[0].")
    return jax.jvp(jax.grad(u), (x,), (_direction(direction, x),))[1]


def strain(u: Field, x: jax.Array) -> jax.Array:
    """Small strain of a displacement field at one point: the symmetric part of its gradient.

    Args:
        u: displacement, (d,) -> (d,), in units of length.
        x: point, shape (d,), in the same units.
    Returns:
        ε_ij = (∂u_i/∂x_j + ∂u_j/∂x_i) / 2, shape (d, d), without units.
    Raises:
        UserError: x is not one point, or u has not d components.

    >>> strain(lambda x: jnp.stack([x[1], jnp.zeros(())]), jnp.array([0.0, 0.0])).tolist()  # simple shear
    [[0.0, 0.5], [0.5, 0.0]]
    """
    point = _point(x)
    if (shape := _shape_of(u, point)) != point.shape:
        raise UserError(f"the strain of a displacement of shape {shape} in {point.size} dimensions")
    slopes = gradient(u, x)
    return (slopes + slopes.T) / 2


def _slope(u: Field, x: jax.Array, axis: int) -> jax.Array:
    """∂u/∂x_axis by one forward pass."""
    along = jnp.zeros_like(x).at[axis].set(1)
    return jax.jvp(u, (x,), (along,))[1]


def _point(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim != 1 or x.size == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise UserError(
            f"a differential operator takes one point of floating numbers of shape (d,), not {x.dtype}{list(x.shape)}",
            remedy="Map it over several points: jax.vmap(lambda x: laplacian(u, x))(points).",
        )
    return x


def _direction(direction: jax.Array, x: jax.Array) -> jax.Array:
    if jnp.shape(direction) != x.shape:
        raise UserError(f"a direction of shape {jnp.shape(direction)} at a point of shape {x.shape}")
    return jnp.asarray(direction, x.dtype)


def _axes(axes: Sequence[int] | None, x: jax.Array) -> Sequence[int]:
    if axes is None:
        return range(x.size)
    if bad := [axis for axis in axes if axis not in range(x.size)]:
        raise UserError(f"there is no coordinate {bad[0]}", where=f"a point of shape {x.shape}", remedy="Count from 0.")
    return axes


def _shape_of(u: Field, x: jax.Array) -> tuple[int, ...]:
    made = jax.eval_shape(u, x)
    if not isinstance(made, jax.ShapeDtypeStruct):
        raise UserError(
            f"a field that returns {type(made).__name__}", remedy="A field returns one array: a number or a vector."
        )
    return made.shape

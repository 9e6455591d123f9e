"""Plane slices of a loss surface: its cost on a grid around one place (Li, Xu, Taylor, Studer & Goldstein, 2018)."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.types import Key, Params, Scalar


class PlaneSlice(NamedTuple):
    """The cost on a square grid.

    Attributes:
        offsets: along either direction, in units of that direction, shape (n,), ascending, 0 in the middle.
        costs: `costs[i, j]` at center + offsets[i]·first + offsets[j]·second, shape (n, n); it may not be finite.
    """

    offsets: np.ndarray
    costs: np.ndarray


def plane_slice(
    cost: Callable[[Params], Scalar],
    center: Params,
    first: Params,
    second: Params,
    *,
    extent: float = 1.0,
    resolution: int = 25,
    seconds: float = math.inf,
) -> PlaneSlice | None:
    """The cost on a grid in the plane through a place that two directions span.

    One row of the grid is one call of a program that is compiled once, so that no control flow surrounds the cost.

    Args:
        cost: params -> cost, shape ().
        center: the place, a pytree of floating-point arrays.
        first, second: directions like `center`.
        extent: the grid goes from -extent to extent along either, in units of the direction.
        resolution: points along either; odd, so that the center is one of them.
        seconds: for all of it, compilation included. Whether it will do is known after two rows.
    Returns:
        the slice; None where it would take longer.
    Raises:
        UserError: directions unlike the center, an even resolution, an extent that is not positive.

    >>> bowl = lambda p: jnp.sum(jnp.square(p))
    >>> found = plane_slice(bowl, jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]), resolution=3)
    >>> found.offsets, found.costs
    (array([-1.,  0.,  1.]), array([[5., 1., 5.], [4., 0., 4.], [5., 1., 5.]]))
    """
    _refuse_unlike(center, {"first": first, "second": second})
    if not (isinstance(resolution, int) and resolution >= 3 and resolution % 2):
        raise UserError(f"the resolution must be an odd number, at least 3, not {resolution!r}", where="plane_slice")
    if not (isinstance(extent, int | float) and extent > 0 and math.isfinite(extent)):
        raise UserError(f"the extent must be a positive number, not {extent!r}", where="plane_slice")
    began = time.monotonic()
    offsets = np.linspace(-extent, extent, resolution)
    offsets[resolution // 2] = 0.0  # to the last bit, so that the middle is the center itself

    @jax.jit
    def row(a: jax.Array, b: jax.Array, center: Params, first: Params, second: Params) -> jax.Array:
        def at(b: jax.Array) -> Scalar:
            moved = lambda x, d, e: x + a.astype(x.dtype) * d + b.astype(x.dtype) * e
            found = cost(jax.tree.map(moved, center, first, second))
            if jnp.shape(found) != ():
                raise UserError(f"a cost is one number, not an array {jnp.shape(found)}", where="plane_slice")
            return found

        return jax.vmap(at)(b)

    steps = jnp.asarray(offsets, jnp.result_type(*jax.tree.leaves(center)))
    rows: list[np.ndarray] = []
    for i in range(resolution):
        before = time.monotonic()
        rows.append(np.asarray(row(steps[i], steps, center, first, second), float))
        now = time.monotonic()
        left = resolution - len(rows)
        if i >= 1 and now - began + left * (now - before) > seconds:  # the first row also compiles
            return None
    return PlaneSlice(offsets, np.stack(rows))


def filter_normalized(key: Key, params: Params) -> Params:
    """A random direction in which each filter is as long as that of the params (Li et al., 2018).

    A filter is what leads to one output: `w[..., j]` of an array of two axes or more (thalweg's layers keep outputs on
    the last axis). Arrays of fewer axes, biases and scales, are not moved. So a slice looks alike for two networks that
    differ only in the scale of their weights.

    Args:
        key: of the normal distribution that it is drawn from.
        params: a pytree of floating-point arrays.
    Raises:
        UserError: no array has two axes, so that nothing would move.

    >>> weight = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    >>> direction = filter_normalized(jax.random.key(0), {"weight": weight, "bias": jnp.ones(2)})
    >>> jnp.linalg.norm(direction["weight"], axis=0).round(5), direction["bias"]
    (Array([3.     , 4.12311], dtype=float32), Array([0., 0.], dtype=float32))
    """
    leaves, structure = jax.tree.flatten(params)
    if not any(leaf.ndim >= 2 for leaf in leaves):
        raise UserError("no array has two axes or more, so there are no filters", where="filter_normalized")
    keys = jax.random.split(key, len(leaves))

    def direction(key: Key, leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        drawn = jax.random.normal(key, leaf.shape, leaf.dtype)
        norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axis=tuple(range(x.ndim - 1)), keepdims=True))
        return drawn * norm(leaf) / norm(drawn)

    return jax.tree.unflatten(structure, [direction(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])


def walked_direction(start: Params, end: Params) -> Params:
    """From where a walk began to where it ended: at `end`, the start lies at -1 along it.

    Raises:
        UserError: the two differ in structure or shapes, or are the same place.

    >>> walked_direction(jnp.array([1.0, 2.0]), jnp.array([3.0, 2.0]))
    Array([2., 0.], dtype=float32)
    """
    _refuse_unlike(end, {"start": start})
    direction = jax.tree.map(jnp.subtract, end, start)
    if not any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(direction)):
        raise UserError("the walk ended where it began, so it has no direction", where="walked_direction")
    return direction


def without_component(direction: Params, along: Params) -> Params:
    """A direction made orthogonal to another: what it has along that one is taken away.

    Raises:
        UserError: the two differ in structure or shapes, or the other one is 0.

    >>> without_component(jnp.array([3.0, 4.0]), along=jnp.array([2.0, 0.0]))
    Array([0., 4.], dtype=float32)
    """
    _refuse_unlike(along, {"direction": direction})
    size = _dot(along, along)
    if not float(size) > 0:
        raise UserError("a direction of length 0 has no component to take away", where="without_component")
    share = _dot(direction, along) / size
    return jax.tree.map(lambda d, a: d - share.astype(d.dtype) * a, direction, along)


def _dot(one: Params, other: Params) -> jax.Array:
    first, *rest = [jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]
    return sum(rest, first)


def _refuse_unlike(center: Params, others: dict[str, Params]) -> None:
    leaves = jax.tree.leaves(center)
    if not leaves or not all(
        isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
    ):
        remedy = "Pass the trainable part of a model: eqx.filter(model, eqx.is_inexact_array)."
        raise UserError("the place is no pytree of floating-point arrays", where="a slice", remedy=remedy)
    for name, other in others.items():
        if jax.tree.structure(other) != jax.tree.structure(center):
            raise UserError("a direction is not of the structure of the place", where=name)
        for a, b in zip(jax.tree.leaves(other), leaves, strict=True):
            if jnp.shape(a) != b.shape:
                raise UserError(f"an array of shape {jnp.shape(a)} where the place has {b.shape}", where=name)

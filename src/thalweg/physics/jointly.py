"""All derivatives that an equation asks of its field at one point, computed together.

An equation such as `derivative(u, x, 1) + u(x) * derivative(u, x, 0) - nu * derivative(u, x, 0, 0)` asks for a value,
two slopes and a second derivative at the same x. It is run twice while it is traced: once to learn what it asks for,
then with the answers of one Taylor pass. What it asks of anything else (another point, a function of u) goes the
general way, so that the result is the same to rounding whatever the equation does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from thalweg.physics.taylor import taylor
from thalweg.types import PyTree

MOST_DIRECTIONS = 8
"""Coordinates beyond which each derivative goes its own way: all are written out in one program, which grows."""

Asked = tuple[int, ...]
"""A partial derivative by the coordinates of its differentiations, rising; () is the value."""


def jointly(equation: Callable[[Any, PyTree], PyTree], field: Any, example: PyTree) -> PyTree:
    """equation(field, example), with plain derivatives of the field at the example's points by one pass for each.

    The equation sees a stand-in for the field, with the field's attributes and leaves; only `isinstance` tells.

    Args:
        equation: (field, example) -> anything.
        field: a callable on one point; anything else goes to the equation as it is.
        example: what the equation is evaluated at; its arrays of shape (d,) are the points.

    >>> from thalweg.physics.operators import laplacian
    >>> wave = lambda u, x: laplacian(u, x) + 2 * u(x)
    >>> round(float(jointly(wave, lambda x: jnp.sin(x[0]) * jnp.cos(x[1]), jnp.array([0.3, 0.4]))), 6)
    0.0
    """
    points = [leaf for leaf in jax.tree.leaves(example) if _is_point(leaf)]
    if not (points and callable(field)):
        return equation(field, example)
    asked = _Asking(field, points)
    try:
        jax.eval_shape(lambda: equation(asked, example))
    except Exception:  # it takes the field for more than a function of a point; or it is wrong, and will say so itself
        return equation(field, example)
    served = [(point, wanted) for point, wanted in asked.wanted() if _is_worth(wanted)]
    together = {id(point): _derivatives(field, point, wanted) for point, wanted in served}
    return equation(_Answering(field, points, together), example) if together else equation(field, example)


def answers(u: Any, x: Any, asked: Sequence[Sequence[int]]) -> list[jax.Array] | None:
    """Partial derivatives of a field at a point, where all were computed together with others; else None."""
    if type(u) not in (_Asking, _Answering):
        return None
    found = [u.partial_derivative(x, tuple(sorted(axes))) for axes in asked]
    known = [one for one in found if one is not None]
    return known if known and len(known) == len(found) else None


class _Field:
    """A field under its own name: calls and attributes are those of the field that it stands for."""

    def __init__(self, field: Any, points: list[Any]):
        self._field, self._points = field, points

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_field", "_points"):
            raise AttributeError(name)
        return getattr(self._field, name)

    def __getitem__(self, index: Any) -> Any:
        return self._field[index]

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        found = None if args or kwargs else self.partial_derivative(x, ())
        return self._field(x, *args, **kwargs) if found is None else found

    def partial_derivative(self, x: Any, axes: Asked) -> jax.Array | None:
        """The derivative at one of the points; None where it is not answered here."""
        raise NotImplementedError


class _Asking(_Field):
    """Writes down what is asked, and answers with zeros of the right shape."""

    def __init__(self, field: Any, points: list[Any]):
        super().__init__(field, points)
        self._wanted: list[set[Asked]] = [set() for _ in points]
        self._shapes: list[Any] = [None for _ in points]

    def partial_derivative(self, x: Any, axes: Asked) -> jax.Array | None:
        for i, point in enumerate(self._points):
            if point is x:
                if self._shapes[i] is None:
                    self._shapes[i] = jax.eval_shape(self._field, point)
                made = self._shapes[i]
                if not (isinstance(made, jax.ShapeDtypeStruct) and _is_served(axes)):
                    return None
                self._wanted[i].add(axes)
                return jnp.zeros(made.shape, made.dtype)
        return None

    def wanted(self) -> list[tuple[Any, set[Asked]]]:
        return list(zip(self._points, self._wanted, strict=True))


class _Answering(_Field):
    def __init__(self, field: Any, points: list[Any], known: dict[int, dict[Asked, jax.Array]]):
        super().__init__(field, points)  # which keeps the points alive, so that no id is used twice
        self._known = known

    def partial_derivative(self, x: Any, axes: Asked) -> jax.Array | None:
        return self._known.get(id(x), {}).get(axes)


def _derivatives(field: Any, point: jax.Array, wanted: set[Asked]) -> dict[Asked, jax.Array]:
    """What is wanted at one point: one direction for each coordinate."""
    orders: dict[int, int] = {}
    for axes in wanted:
        for axis in axes:
            orders[axis] = max(orders.get(axis, 1), len(axes))
    series = taylor(field, point, [(jnp.zeros_like(point).at[axis].set(1), order) for axis, order in orders.items()])
    found: dict[Asked, jax.Array] = {(): series.value}
    for (axis, order), tail in zip(orders.items(), series.tails, strict=True):
        factor = 1
        for k in range(1, order + 1):
            factor *= k
            found[(axis,) * k] = tail[k - 1] * factor if factor > 1 else tail[0]
    return found


def _is_worth(wanted: set[Asked]) -> bool:
    """Whether anything is asked that one plain pass would not give, along few enough directions to write them out."""
    along = {axis for axes in wanted for axis in axes}
    return any(len(axes) > 1 for axes in wanted) and len(along) <= MOST_DIRECTIONS


def _is_served(axes: Asked) -> bool:
    """Whether one direction gives this derivative. A mixed one would be a difference of others, and lose its digits."""
    return len(set(axes)) <= 1


def _is_point(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and leaf.ndim == 1 and leaf.size > 0 and jnp.issubdtype(leaf.dtype, jnp.floating)


# To JAX they are the field: its leaves are theirs, and what is rebuilt from leaves is the field itself.
for _kind in (_Asking, _Answering):
    jax.tree_util.register_pytree_node(_kind, lambda one: ((one._field,), None), lambda _, children: children[0])

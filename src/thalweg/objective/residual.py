"""Equation terms: a residual that should vanish at every point of a domain."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from thalweg.objective.sources import AbstractSource, Rows
from thalweg.objective.term import AbstractTerm
from thalweg.physics.jointly import jointly
from thalweg.types import Key, PyTree


class Residual(AbstractTerm):
    """Mean of ‖r(u, x)‖² over points x, for an equation r = 0 written for one point.

    Args:
        equation: (model, point) -> residual, shape () or (k,).
        points: a source of points, or an array (n, d) of fixed ones.
        weight: the term's weight.

    >>> import jax, jax.numpy as jnp
    >>> oscillator = Residual(lambda u, t: jax.grad(jax.grad(u))(t) + u(t), jnp.linspace(0.0, 1.0, 5))
    >>> float(oscillator.example_cost(jnp.sin, jnp.float32(0.3), None)) < 1e-12
    True
    """

    equation: Callable[[PyTree, PyTree], jax.Array]
    source: AbstractSource
    weight: float | jax.Array

    def __init__(
        self, equation: Callable[[PyTree, PyTree], jax.Array], points: PyTree, weight: float | jax.Array = 1.0
    ):
        self.equation = equation
        self.source = points if isinstance(points, AbstractSource) else Rows(points)
        self.weight = weight

    def residual(self, model: PyTree, example: PyTree, key: Key | None) -> jax.Array:
        return jnp.atleast_1d(jointly(self.equation, model, example))

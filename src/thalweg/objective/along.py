"""Numbers of the landscape that depend on how far a continuation has come."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError, kind_of
from thalweg.types import PyTree, Scalar

Path = Callable[[Any], Any]
"""λ in [0, 1] -> a number (or array) of the landscape; it must be differentiable for a tangent predictor."""

LOOKS = 11
"""Evenly spaced λ at which a path is looked at when it is given."""


class Along(eqx.Module):
    """A number of a term's mathematics that depends on λ: noise, a viscosity, a smoothing width, a Reynolds number.

    It is held by the term, not captured by a function: as a field of an equation that is a module, or as the first
    argument of `eqx.Partial(equation, Along(…))`. Everywhere but on the way of a `Continuation` it is what the path
    ends with.

    Args:
        path: λ -> the number (or array), for λ from 0 to 1; finite.
    Raises:
        UserError: a path that is no function of λ, or not finite.

    >>> viscosity = Along(lambda t: 0.1 ** (1 + t))
    >>> round(float(viscosity.value), 6), round(float(viscosity.at(jnp.float32(0.0)).value), 6)
    (0.01, 0.1)
    """

    path: Path = eqx.field(static=True)
    value: Any

    def __init__(self, path: Path):
        # an array also where it is one number: `cast` gives it the precision of the walk
        self.path, self.value = path, checked_path(path, "Along")[-1, ...]

    def at(self, progress: Scalar) -> "Along":
        """The same number at λ; at 1 to the last bit what it is everywhere else."""
        dtype = jnp.result_type(self.value) if isinstance(self.value, jax.Array) else progress.dtype
        end = jnp.asarray(self.value, dtype)
        moved = jnp.asarray(self.path(progress), dtype)
        return eqx.tree_at(lambda one: one.value, self, jnp.where(progress >= 1, end, moved))


def all_at(tree: PyTree, progress: Scalar) -> PyTree:
    """A pytree with each `Along` in it at λ."""
    return jax.tree.map(lambda node: node.at(progress) if _is_along(node) else node, tree, is_leaf=_is_along)


def depends(tree: PyTree) -> bool:
    """Whether there is an `Along` in a pytree."""
    return any(map(_is_along, jax.tree.leaves(tree, is_leaf=_is_along)))


def checked_path(path: Path, where: str) -> np.ndarray:
    """What a path says at evenly spaced λ from 0 to 1, (LOOKS, …), in 64 bits.

    Raises:
        UserError: it is no function of λ, is not finite, or its shape changes.
    """
    if not callable(path):
        raise UserError(
            f"a path is a function of λ, not {kind_of(path)}", where=where, remedy="lambda t: 1 - t, for instance."
        )
    at = np.linspace(0.0, 1.0, LOOKS)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        with jax.ensure_compile_time_eval():  # numbers, also where a program is being traced
            found = [_looked_at(path, one, where) for one in at]
        try:
            jax.eval_shape(path, jax.ShapeDtypeStruct((), np.float64))
        except TypeError as error:  # so are JAX's errors of tracing
            remedy = "Write it with jax.numpy: jnp.exp instead of math.exp, jnp.where instead of if."
            raise UserError("a path must be a function that JAX can trace", where=where, remedy=remedy) from error
    for one, value in zip(at, found, strict=True):
        if value.shape != found[0].shape or value.dtype.kind not in "fiu":
            raise UserError(
                f"a path gives a number for each λ, or arrays of one shape, not {value.dtype} of shape {value.shape} "
                f"at λ = {one:g}",
                where=where,
            )
        if not np.isfinite(value).all():
            raise UserError(f"the path is not finite at λ = {one:g}", where=where)
    return np.stack(found).astype(np.float64)


def _looked_at(path: Path, progress: np.float64, where: str) -> np.ndarray:
    try:
        return np.asarray(path(progress))
    except Exception as error:  # whatever a user's function may raise
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise UserError(
            f"the path raises at λ = {progress:g}: {said}",
            where=where,
            remedy="It must take one argument, λ, and give a number for each from 0 to 1: lambda t: 1 - t, say.",
        ) from error


def _is_along(node: Any) -> bool:
    return isinstance(node, Along)

"""Krylov methods for operators that exist only as products: Lanczos and conjugate gradients.

A vector is any pytree of arrays of one floating type (a network's parameters, or a flat array); an operator is a
function from such a pytree to one of the same structure. Everything compiles and maps.
"""

import enum
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError
from thalweg.types import Key, PyTree, Scalar

Operator = Callable[[PyTree], PyTree]
"""A linear map, vector -> vector of the same structure."""

DRIFT = 10.0
"""Residual, in tolerances, from which conjugate gradients own that their recurrence has lost the true residual."""


class Loop(enum.Enum):
    """How an iteration is written down."""

    COMPILED = "compiled"
    """One loop in the compiled program, which stays small."""

    UNROLLED = "unrolled"
    """Each iteration written out, none skipped. For an operator with convolutions on a CPU: XLA makes their weight
    gradients twenty times slower within any control flow (measured). The program grows with the iterations; called
    outside `jit` with an operator that is itself compiled, it does not."""


class Eigenpairs(eqx.Module):
    """The largest eigenvalues that a Krylov space of `iterations` dimensions shows.

    Attributes:
        values: (count,), from the largest down.
        bounds: (count,). Within this distance of each value there is an eigenvalue of the operator: the residual
            ‖Av − λv‖ for ‖v‖ = 1, up to rounding in the product. That it is the largest one is likely, not proved.
        vectors: like the start, with a leading axis (count,); each of norm one.
        diagonal, off_diagonal: the tridiagonal matrix, (iterations,) and (iterations − 1,).
    """

    values: jax.Array
    bounds: jax.Array
    vectors: PyTree
    diagonal: jax.Array
    off_diagonal: jax.Array


class Solved(enum.IntEnum):
    """Why conjugate gradients stopped; carried as an int32 array."""

    CONVERGED = 0
    """The residual is within the tolerance."""
    MORE_ITERATIONS = 1
    """The iterations ran out first. Remedy: allow more, or a preconditioner."""
    NOT_POSITIVE = 2
    """A direction of negative or no curvature: the operator (or the preconditioner) is not positive definite. Remedy:
    damping. The solution is the one from before that direction, and `direction` is it."""
    ROUNDED = 3
    """The tolerance is below what rounding allows in this precision. Remedy: a looser one, or float64."""
    NOT_FINITE = 4
    """The operator or the right-hand side gave a value that is not finite."""


class Solution(eqx.Module):
    """What conjugate gradients found.

    Attributes:
        value: x, like the right-hand side.
        residual_norm: ‖b − Ax‖, computed anew from x, shape ().
        iterations: products with the operator in the iteration, int32, shape ().
        result: a `Solved`, int32, shape ().
        direction: the last search direction; of no positive curvature where the result is `NOT_POSITIVE`.
    """

    value: PyTree
    residual_norm: Scalar
    iterations: Scalar
    result: Scalar
    direction: PyTree


def lanczos(
    operator: Operator, start: PyTree, *, key: Key, iterations: int = 30, count: int = 1, loop: Loop = Loop.COMPILED
) -> Eigenpairs:
    """Largest eigenvalues of a symmetric operator (Lanczos, 1950), each vector orthogonalized twice against all before.

    An invariant space that is used up is left by a random vector orthogonal to it, so that repeated eigenvalues are
    found too and no false ones appear. The number of products is min(iterations, n) + count, always. For the smallest
    eigenvalues give the negative operator.

    Args:
        operator: symmetric; not checked.
        start: a vector of n numbers in all; zeros start from a random one. Its scale does not matter.
        key: for the random vectors.
        iterations: dimension of the Krylov space; at most n are done.
        count: number of eigenvalues.
        loop: how the iteration is written down.
    Raises:
        UserError: iterations or count out of range; a start without numbers, or of several or no floating types; an
            operator that returns another structure.

    >>> matrix = jnp.diag(jnp.array([3.0, 1.0, -5.0]))
    >>> found = lanczos(lambda v: matrix @ v, jnp.zeros(3), key=jax.random.key(0), iterations=3)
    >>> round(float(found.values[0]), 4), bool(found.bounds[0] < 1e-5)
    (3.0, True)
    """
    flat, unravel, product = _flattened(operator, start, "lanczos")
    steps = min(iterations, flat.size)
    if iterations < 1 or not 1 <= count <= steps:
        raise UserError(
            f"{count} eigenvalues from {iterations} iterations in {flat.size} dimensions",
            where="lanczos",
            remedy="Both must be at least 1, and no more eigenvalues than iterations and dimensions.",
        )
    noise = jax.random.normal(key, flat.shape, flat.dtype)  # drawn once and rolled: drawing costs as much as a product
    tiny = 100 * flat.size**0.5 * jnp.finfo(flat.dtype).eps

    def orthogonal(vector: jax.Array, basis: jax.Array) -> jax.Array:
        for _ in range(2):  # "twice is enough" (Kahan; Parlett, 1980)
            vector = vector - basis.T @ (basis @ vector)
        return vector

    def step(carry: Any, position: jax.Array) -> Any:
        basis, after, scale = carry
        # `after` is what the last product left outside the basis: nothing, where the space is invariant.
        length = jnp.linalg.norm(after)
        used_up = length <= tiny * scale
        beta = jnp.where(used_up, jnp.zeros_like(length), length)
        other = orthogonal(jnp.roll(noise, position), basis)
        vector = jnp.where(used_up, other / jnp.linalg.norm(other), after / jnp.where(used_up, 1, length))
        image = product(vector)
        alpha = jnp.vdot(vector, image)
        basis = basis.at[position].set(vector)
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        return (basis, orthogonal(image, basis), scale), (alpha, beta)

    carry = (jnp.zeros((steps, flat.size), flat.dtype), flat, jnp.zeros((), flat.dtype))
    carry, (alphas, betas) = _iterate(step, carry, jnp.arange(steps), loop)
    tridiagonal = jnp.diag(alphas) + jnp.diag(betas[1:], 1) + jnp.diag(betas[1:], -1)
    values, weights = jnp.linalg.eigh(tridiagonal)
    values, weights = values[::-1][:count], weights[:, ::-1][:, :count]
    vectors = weights.T @ carry[0]  # (count, n)

    def residual(_: None, pair: Any) -> Any:
        value, vector = pair
        return None, jnp.linalg.norm(product(vector) - value * vector)

    bounds = _iterate(residual, None, (values, vectors), loop)[1]
    return Eigenpairs(values, bounds, jax.vmap(unravel)(vectors), alphas, betas[1:])


def conjugate_gradients(
    operator: Operator,
    right: PyTree,
    *,
    preconditioner: Operator | None = None,
    start: PyTree | None = None,
    rtol: float = 1e-6,
    atol: float = 0.0,
    iterations: int = 100,
    loop: Loop = Loop.COMPILED,
) -> Solution:
    """Solve Ax = b for a symmetric positive definite operator (Hestenes and Stiefel, 1952), preconditioned.

    Args:
        operator: A; that it is symmetric is not checked, that it is positive is, along each search direction.
        right: b.
        preconditioner: a symmetric positive definite approximation of A⁻¹; None is the identity.
        start: first guess; None is zero.
        rtol, atol: done when ‖b − Ax‖ ≤ max(rtol·‖b‖, atol).
        iterations: most products.
        loop: how the iteration is written down; unrolled, all iterations are computed whether needed or not.
    Raises:
        UserError: no iterations, a negative tolerance, or structures that differ.

    >>> matrix = jnp.array([[4.0, 1.0], [1.0, 3.0]])
    >>> solution = conjugate_gradients(lambda v: matrix @ v, jnp.array([1.0, 2.0]))
    >>> Solved(int(solution.result)).name, int(solution.iterations)
    ('CONVERGED', 2)
    """
    b, unravel, product = _flattened(operator, right, "conjugate_gradients")
    if iterations < 1:
        raise UserError(f"{iterations} iterations", where="conjugate_gradients", remedy="Allow at least 1.")
    for name, value in (("rtol", rtol), ("atol", atol)):
        if isinstance(value, int | float | np.number) and not 0 <= value < np.inf:
            raise UserError(f"{name} must be a number of at least 0, not {value}", where="conjugate_gradients")
    precondition = lambda r: r
    if preconditioner is not None:
        precondition = _flattened(preconditioner, right, "the preconditioner")[2]
    x = jnp.zeros_like(b)
    if start is not None:
        if not _are_alike(start, right):
            raise UserError("the start is not like the right-hand side", where="conjugate_gradients")
        x = ravel_pytree(start)[0]
    tolerance = jnp.maximum(jnp.asarray(rtol, b.dtype) * jnp.linalg.norm(b), jnp.asarray(atol, b.dtype))

    r = b if start is None else b - product(x)
    z = precondition(r)
    begin = _CG(x, r, z, jnp.vdot(r, z), jnp.ones((), b.dtype), jnp.zeros((), jnp.int32))

    def going(state: _CG) -> Scalar:
        # not `>`: a residual that is not a number must stop the iteration
        unfinished = (jnp.linalg.norm(state.r) > tolerance) & jnp.isfinite(state.rho)
        return unfinished & (state.rho > 0) & _is_positive(state.curvature) & (state.done < iterations)

    def step(state: _CG) -> _CG:
        image = product(state.direction)
        curvature = jnp.vdot(state.direction, image)
        bent = ~_is_positive(curvature)
        length = jnp.where(bent, 0, state.rho / jnp.where(bent, 1, curvature))
        x = jnp.where(bent, state.x, state.x + length * state.direction)
        r = jnp.where(bent, state.r, state.r - length * image)
        z = precondition(r)
        rho = jnp.vdot(r, z)
        onward = z + (rho / state.rho) * state.direction
        stopped = bent | ~(rho > 0)  # the direction in which it stopped is kept
        return _CG(x, r, jnp.where(stopped, state.direction, onward), rho, curvature, state.done + 1)

    if loop is Loop.COMPILED:
        end = jax.lax.while_loop(going, step, begin)
    else:
        end = begin
        for _ in range(iterations):
            go = going(end)
            end = jax.tree.map(lambda new, old, go=go: jnp.where(go, new, old), step(end), end)

    norm = jnp.linalg.norm(b - product(end.x))
    met = jnp.linalg.norm(end.r) <= tolerance
    finite = jnp.isfinite(norm) & jnp.isfinite(end.rho) & jnp.isfinite(end.curvature)
    result = jnp.select(
        [~finite, met & (norm <= DRIFT * tolerance), met, ~_is_positive(end.curvature) | ~(end.rho > 0)],
        [jnp.int32(code) for code in (Solved.NOT_FINITE, Solved.CONVERGED, Solved.ROUNDED, Solved.NOT_POSITIVE)],
        jnp.int32(Solved.MORE_ITERATIONS),
    )
    return Solution(unravel(end.x), norm, end.done, result, unravel(end.direction))


class _CG(eqx.Module):
    """Solution, residual, search direction, rᵀz, curvature of the last direction searched, iterations done."""

    x: jax.Array
    r: jax.Array
    direction: jax.Array
    rho: Scalar
    curvature: Scalar
    done: Scalar


def _is_positive(curvature: Scalar) -> Scalar:
    return (curvature > 0) & jnp.isfinite(curvature)


def _flattened(operator: Operator, like: PyTree, where: str) -> tuple[jax.Array, Any, Callable[[jax.Array], jax.Array]]:
    """The vector as a flat array, the way back, and the operator on flat arrays."""
    like = jax.tree.map(jnp.asarray, like)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(like)}
    if len(dtypes) != 1 or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise UserError(
            f"a vector of the types {sorted(map(str, dtypes))}",
            where=where,
            remedy="Its arrays must have one real floating-point type.",
        )
    flat, unravel = ravel_pytree(like)
    if not flat.size:
        raise UserError("a vector without numbers", where=where)
    made = jax.eval_shape(operator, like)
    if not _are_alike(made, like):
        shapes = jax.eval_shape(lambda: like)
        raise UserError(
            f"an operator from {shapes} to {made}", where=where, remedy="It must return a vector like the one it takes."
        )
    return flat, unravel, lambda vector: ravel_pytree(operator(unravel(vector)))[0]


def _are_alike(one: PyTree, other: PyTree) -> bool:
    """Whether two pytrees have the same structure, shapes and types."""
    kinds = lambda tree: [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
    return jax.tree.structure(one) == jax.tree.structure(other) and kinds(one) == kinds(other)


def _iterate(step: Callable[[Any, Any], Any], carry: Any, turns: Any, loop: Loop) -> Any:
    """`jax.lax.scan`, or the same written out."""
    if loop is Loop.COMPILED:
        return jax.lax.scan(step, carry, turns)
    found = []
    for i in range(len(jax.tree.leaves(turns)[0])):
        carry, one = step(carry, jax.tree.map(lambda turn, i=i: turn[i], turns))
        found.append(one)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *found)

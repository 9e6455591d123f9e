"""The path of a continuation: where it stands, how it goes on, and what is read of it afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.optim.optimizer import Ended
from thalweg.types import PyTree, Scalar


class Anchor(eqx.Module):
    """The last point of the path, to which the walk returns when the next one is not found.

    Attributes:
        place: (n,).
        total, parts, gradient_norm: there.
        progress: its λ.
        tangent: dθ/dλ by the predictor, (n,).
        corrections: corrector steps that it took, int32.
        curvature: the smallest eigenvalue of the Hessian there; NaN if it was not looked at.
        inner: the corrector's state there.
    """

    place: jax.Array
    total: Scalar
    parts: dict[str, Scalar]
    gradient_norm: Scalar
    progress: Scalar
    tangent: jax.Array
    corrections: jax.Array
    curvature: Scalar
    inner: PyTree


class Move(eqx.Module):
    """What the next step does before it corrects.

    Attributes:
        pending: whether it moves at all.
        fresh: it starts from a new point, whose tangent is still to be found.
        progress: λ to go to.
        ahead: how far that is along the tangent, in λ.
        push: (n,), away from a saddle; zeros for a step along the path.
    """

    pending: jax.Array
    fresh: jax.Array
    progress: Scalar
    ahead: Scalar
    push: jax.Array

    def done(self) -> "Move":
        """No move any more."""
        no = jnp.zeros((), bool)
        return Move(no, no, self.progress, self.ahead, self.push)


class Counts(eqx.Module):
    """What was done so far, int32.

    Attributes:
        corrections: corrector steps since the last move.
        points: of the path.
        returns: to the last point.
        here, saddles: that were left, at this λ and in all.
        products: with the Hessian.
    """

    corrections: jax.Array
    points: jax.Array
    returns: jax.Array
    here: jax.Array
    saddles: jax.Array
    products: jax.Array


class ContinuationState(eqx.Module):
    """Where the path stands.

    Attributes:
        inner: the corrector's state.
        progress: λ of the landscape that is walked on.
        stride: step in λ that led here, or is to be tried.
        anchor, move, counts: see there.
        ended: an `Ended`.
    """

    inner: PyTree
    progress: Scalar
    stride: Scalar
    anchor: Anchor
    move: Move
    counts: Counts
    ended: jax.Array


def none_yet() -> Counts:
    """Counts at the start."""
    return Counts(*[jnp.zeros((), jnp.int32)] * 6)


def new_point(
    state: ContinuationState, there: Anchor, *, few: int, shortest: float, longest: float, secant: bool
) -> ContinuationState:
    """The state at a new point of the path, about to go to the next λ; at λ = 1 it has ended.

    Args:
        state: where the corrector has found it.
        there: the point.
        few: corrector steps after which the next step in λ is twice as long.
        shortest, longest: step in λ.
        secant: whether the line through the last two points is taken for a tangent.
    """
    counts, before = state.counts, state.anchor
    usual = (counts.points > 0) & (counts.here == 0)  # neither the first point nor beside a saddle
    apart = state.progress - before.progress
    known = usual & (apart > 0) & secant
    tangent = jnp.where(known, (there.place - before.place) / jnp.where(known, apart, 1), 0)
    quick = usual & (counts.corrections <= few)
    stride = jnp.where(quick, jnp.minimum(2 * state.stride, longest), state.stride)
    ahead = state.progress + stride
    ahead = jnp.where(ahead > 1 - shortest / 2, 1, ahead).astype(stride.dtype)
    going, none = state.progress < 1, jnp.zeros((), jnp.int32)
    return ContinuationState(
        state.inner,
        state.progress,
        stride,
        eqx.tree_at(lambda a: a.tangent, there, tangent),
        Move(going, going, ahead, ahead - state.progress, jnp.zeros_like(tangent)),
        Counts(none, counts.points + 1, counts.returns, none, counts.saddles, counts.products),
        jnp.where(going, state.ended, jnp.int32(Ended.CONVERGED)),
    )


def turn_back(state: ContinuationState) -> ContinuationState:
    """The state at the last point again, with half the step ahead."""
    counts, anchor, stride = state.counts, state.anchor, state.stride / 2
    none, yes = jnp.zeros((), jnp.int32), jnp.ones((), bool)
    counted = Counts(none, counts.points, counts.returns + 1, none, counts.saddles, counts.products)
    move = Move(yes, ~yes, anchor.progress + stride, stride, jnp.zeros_like(anchor.place))
    return ContinuationState(anchor.inner, anchor.progress, stride, anchor, move, counted, state.ended)


def leave(state: ContinuationState, push: jax.Array) -> ContinuationState:
    """The state at a saddle, about to be left; λ stays, and so does the last point."""
    counts, yes = state.counts, jnp.ones((), bool)
    counted = Counts(
        jnp.zeros((), jnp.int32), counts.points, counts.returns, counts.here + 1, counts.saddles + 1, counts.products
    )
    move = Move(yes, ~yes, state.progress, jnp.zeros_like(state.progress), push)
    return eqx.tree_at(lambda s: (s.move, s.counts), state, (move, counted))


@dataclass(frozen=True)
class FollowedPath:
    """The points of a path, one a λ, in their order.

    Attributes:
        progress: λ, (k,).
        total: objective at that λ, (k,).
        norm: ‖θ‖, (k,).
        corrections: corrector steps, (k,).
        curvature: smallest eigenvalue of the Hessian, (k,); NaN where it was not looked at.
        missed: points that fell between two rows.
    """

    progress: np.ndarray
    total: np.ndarray
    norm: np.ndarray
    corrections: np.ndarray
    curvature: np.ndarray
    missed: int


def followed_path(rows: Sequence[Mapping[str, Any]], member: int | None = None) -> FollowedPath:
    """The path that the rows of a fit tell. With `log_every=1` every point is in them.

    Args:
        rows: of a `Fit`, or of a `FitMany`.
        member: of a `FitMany`.
    Raises:
        UserError: rows without a path.

    >>> figures = {"points": 1.0} | {f"point/{name}": 0.5 for name in ("lambda", "total", "norm", "corrections")}
    >>> followed_path([{"figures": figures}, {"figures": figures}]).progress.tolist()
    [0.5]
    """
    pick = (lambda value: float(value)) if member is None else (lambda value: float(value[member]))
    told = [row["figures"] for row in rows if "point/lambda" in row["figures"]]
    if not told:
        raise UserError("no row tells of a path", where="followed_path", remedy="Rows of a fit with a Continuation.")
    names = ("lambda", "total", "norm", "corrections", "curvature")
    found: list[list[float]] = []
    seen = 0
    for figures in told:
        if (points := int(pick(figures["points"]))) > seen:
            seen = points
            found.append([pick(figures[f"point/{name}"]) if f"point/{name}" in figures else np.nan for name in names])
    columns = np.array(found, float).reshape(-1, len(names)).T
    return FollowedPath(*columns, missed=seen - len(found))

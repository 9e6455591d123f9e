"""Continuation: the minimum of an easy landscape, followed while that is deformed into the one that is meant."""

import enum
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.errors import UserError, kind_of
from thalweg.linalg import Loop, Solved, conjugate_gradients, lanczos
from thalweg.objective.along import Path, checked_path, depends
from thalweg.objective.objective import Objective
from thalweg.objective.problem import Problem
from thalweg.optim.optimizer import AbstractOptimizer, Ended, StepInfo, checked_optimizer, select
from thalweg.optim.path import Anchor, ContinuationState, Move, leave, new_point, none_yet, turn_back
from thalweg.types import Finding, Key, Params, Scalar

ACCURACY = 1e-3
"""Relative residual to which the tangent's equation is solved: a predictor need not be better than its step."""

REACH = 0.5
"""Of 1 + ‖θ‖: the farthest that a predictor goes in one step of the path. Near a fold the tangent is infinite."""

NUDGE = 1e-3
"""Of 1 + ‖θ‖: how far from a saddle, along its eigenvector, the corrector begins anew."""

NEGATIVE = 1e-6
"""Of the largest curvature seen: how far below 0 the smallest must be, beyond Lanczos's own bound, for a saddle."""

LEAVES = 3
"""Saddles left at one λ, after which a point is taken as it is."""


class Predictor(enum.Enum):
    """Where the corrector begins at the next λ."""

    NONE = "none"
    """At the last point."""
    SECANT = "secant"
    """On the straight line through the last two points; costs nothing."""
    TANGENT = "tangent"
    """Along dθ/dλ = −H⁻¹ ∂∇L/∂λ, solved by conjugate gradients on products with the Hessian."""


class Continuation(AbstractOptimizer):
    """Follow the minimum of a landscape from λ = 0, where it is easy, to λ = 1, where it is the objective itself.

    A predictor-corrector method in the parameter (Allgower and Georg, 1990, chapters 2 and 6). What depends on λ is
    said by `weights` (a penalty that fades), by `Along` numbers in the terms (a viscosity that falls, a smoothing that
    narrows), or both. At each λ the corrector steps until ‖∇L‖(1 + ‖θ‖) ≤ tolerance·(1 + |L|), or until it can resolve
    no further decrease: a point of the path. After at most `few` corrector steps the next step in λ is twice as long;
    if `most` do not find a point, the walk returns to the last one and tries half the step. The shortest step has no
    such limit: where a minimum disappears (a fold), the corrector descends to another one, however far.

    With `look`, each point's smallest Hessian eigenvalue is estimated by Lanczos's method; a clearly negative one means
    a saddle, which is left along its eigenvector.

    One optimizer step is one corrector step. A move along the path re-evaluates the corrector's landscape and solves
    for the tangent, a look makes `look` + 1 products with the Hessian; both are rare, and stand under a `cond`. Mapped
    over members (`Layout.VMAPPED`), or written out (`Loop.UNROLLED`, for convolutions on a CPU), they are paid at every
    step: there keep `look=0` and a predictor that is not the tangent. A corrector that tells no `gradient_norm`
    (first-order ones) costs one more gradient a step; it is held to the same test, which it may fail to meet.

    Rows tell the total at their λ; validation, conditions and instruments see the landscape at λ = 1. A phase that ends
    before λ = 1 has the finding `path-unfinished`. The batch must stay (`Phase(redraw=0)`): the minimum of one batch is
    not that of the next.

    Args:
        corrector: any optimizer.
        weights: by term, λ -> its weight, not below 0; at 1 it must be the term's own.
        predictor: where the corrector begins.
        first, shortest, longest: step in λ.
        few, most: corrector steps that are few, and too many.
        tolerance: of a point; None is the square root of the precision, 1.5e-8 in float64.
        look: dimension of Lanczos's space; 0 does not look for saddles.
        iterations: of conjugate gradients for a tangent, at most.
        loop: how the rare work is written down.
    Raises:
        UserError: a number out of its range, a path that is not finite or below 0; when a phase begins: nothing that
            depends on λ, a name that is no term's, a path that does not end at the term's own weight, or that a
            balance would move too.

    >>> from thalweg.optim import LBFGS
    >>> optimizer = Continuation(LBFGS(), weights={"ridge": lambda t: 1e-3 ** t})
    """

    corrector: AbstractOptimizer
    weights: dict[str, Path] = eqx.field(static=True)
    predictor: Predictor = eqx.field(static=True)
    first: float = eqx.field(static=True)
    shortest: float = eqx.field(static=True)
    longest: float = eqx.field(static=True)
    few: int = eqx.field(static=True)
    most: int = eqx.field(static=True)
    tolerance: float | None = eqx.field(static=True)
    look: int = eqx.field(static=True)
    iterations: int = eqx.field(static=True)
    loop: Loop = eqx.field(static=True)

    def __init__(
        self,
        corrector: AbstractOptimizer,
        *,
        weights: Mapping[str, Path] | None = None,
        predictor: Predictor = Predictor.SECANT,
        first: float = 0.1,
        shortest: float = 1e-3,
        longest: float = 1.0,
        few: int = 10,
        most: int = 50,
        tolerance: float | None = None,
        look: int = 0,
        iterations: int = 50,
        loop: Loop = Loop.COMPILED,
    ):
        checked_optimizer(corrector, "Continuation")
        for wanted, value in ((Predictor, predictor), (Loop, loop)):
            if not isinstance(value, wanted):
                members = ", ".join(map(str, wanted))
                raise UserError(f"{value!r} is none of {members}", where="Continuation")
        if not (_is_number(first, shortest, longest) and 0 < shortest <= first <= longest <= 1):
            raise UserError(
                f"steps in λ of {first!r}, from {shortest!r} to {longest!r}",
                where="Continuation",
                remedy="0 < shortest ≤ first ≤ longest ≤ 1.",
            )
        if not (_is_count(few, 1) and _is_count(most, 2) and few < most):
            raise UserError(
                f"few={few!r} and most={most!r} corrector steps", where="Continuation", remedy="few < most."
            )
        if not (tolerance is None or (_is_number(tolerance) and 0 < tolerance < 1)):
            raise UserError(f"the tolerance must be above 0 and below 1, not {tolerance!r}", where="Continuation")
        if not (_is_count(look, 0) and _is_count(iterations, 1)):
            raise UserError(f"look={look!r}, iterations={iterations!r}", where="Continuation", remedy="Whole numbers.")
        if not isinstance(weights, Mapping | None):
            raise UserError(
                f"weights are paths by the names of terms, not {kind_of(weights)}",
                where="Continuation",
                remedy="weights={'ridge': lambda t: 1e-3 ** t}, for instance.",
            )
        for name, path in (weights or {}).items():
            if not (seen := checked_path(path, f"Continuation(weights={{'{name}': …}})")).ndim == 1 or seen.min() < 0:
                raise UserError(
                    "a weight is one number, not below 0, at every λ", where=f"Continuation(weights={{'{name}': …}})"
                )
        self.corrector, self.weights, self.predictor = corrector, dict(weights or {}), predictor
        self.first, self.shortest, self.longest = float(first), float(shortest), float(longest)
        self.few, self.most, self.look, self.iterations, self.loop = few, most, look, iterations, loop
        self.tolerance = None if tolerance is None else float(tolerance)

    def init(self, problem: Problem, params: Params, key: Key) -> ContinuationState:
        flat = ravel_pytree(params)[0]
        zero, none, no = jnp.zeros((), flat.dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        here, still = problem.at(zero, self.weights), jnp.zeros_like(flat)
        inner = self.corrector.init(here, params, key)
        parts = jax.eval_shape(lambda: here.evaluate(params)[1].parts)
        parts = jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), parts)
        anchor = Anchor(flat, zero, parts, zero, zero, still, none, zero + jnp.nan, inner)
        move = Move(no, no, zero, zero, still)
        return ContinuationState(inner, zero, zero + self.first, anchor, move, none_yet(), none)

    def redraw(self, problem: Problem, params: Params, state: ContinuationState) -> ContinuationState:
        inner = self.corrector.redraw(problem.at(state.progress, self.weights), params, state.inner)
        going = jnp.zeros_like(state.ended)
        return eqx.tree_at(lambda s: (s.inner, s.ended), state, (inner, going), is_leaf=lambda leaf: leaf is None)

    def step(
        self, problem: Problem, params: Params, state: ContinuationState, key: Key
    ) -> tuple[Params, ContinuationState, StepInfo]:
        flat, unravel = ravel_pytree(params)
        move, going = state.move, state.ended == int(Ended.GOING)
        progress = jnp.where(move.pending, move.progress, state.progress)
        here = problem.at(progress, self.weights)

        def moved(_: None) -> Any:
            tangent, count = self._tangent(problem, unravel, flat, state)
            along = move.ahead * tangent
            far = jnp.linalg.norm(along) / (REACH * (1 + jnp.linalg.norm(flat)))
            place = flat + along / jnp.maximum(far, 1) + move.push
            return place, tangent, self.corrector.redraw(here, unravel(place), state.inner), count

        stay = (flat, state.anchor.tangent, state.inner, jnp.zeros((), jnp.int32))
        place, tangent, inner, solved = self._rarely(move.pending, moved, stay)
        after, inner, info = self.corrector.step(here, unravel(place), inner, key)
        place, norm = ravel_pytree(after)[0], self._gradient_norm(here, after, info)

        size = 1 + jnp.linalg.norm(place)
        tolerance = jnp.finfo(flat.dtype).eps ** 0.5 if self.tolerance is None else self.tolerance
        finite = jnp.isfinite(info.total) & jnp.isfinite(norm)
        small = norm * size <= tolerance * (1 + jnp.abs(info.total))
        found = going & finite & (small | (info.ended == int(Ended.CONVERGED)))
        curvature, vector, bent, looked = self._looked(here, after, found, jax.random.fold_in(key, 1))

        counts = eqx.tree_at(
            lambda c: (c.corrections, c.products),
            state.counts,
            (state.counts.corrections + 1, state.counts.products + solved + looked),
        )
        anchor = eqx.tree_at(lambda a: a.tangent, state.anchor, tangent)
        walked = ContinuationState(inner, progress, state.stride, anchor, move.done(), counts, state.ended)
        there = Anchor(place, info.total, info.parts, norm, progress, tangent, counts.corrections, curvature, inner)

        saddle, begun = found & bent & (counts.here < LEAVES), counts.points > 0
        failed = going & ~found & (~finite | (info.ended == int(Ended.FAILED)))
        late = (counts.corrections >= self.most) & (counts.here == 0)
        back = going & ~found & begun & (failed | late) & (state.stride / 2 >= self.shortest)
        lost = failed & ~back  # with no shorter step to try, or no point to return to, a failure is the end

        point = new_point(
            walked, there, few=self.few, shortest=self.shortest, longest=self.longest,
            secant=self.predictor is not Predictor.NONE,
        )  # fmt: skip
        returned = turn_back(walked)
        end = select(begun, returned, eqx.tree_at(lambda s: s.anchor, walked, there))
        end = eqx.tree_at(lambda s: s.ended, end, jnp.int32(Ended.FAILED))
        left = leave(walked, vector * NUDGE * size)
        new = select(saddle, left, select(found, point, select(back, returned, select(lost, end, walked))))
        new = select(going, new, state)

        kept = ~going | ((back | lost) & begun)  # at the last point again
        only = lambda now, then: jnp.where(kept, then, now)
        place = only(place, state.anchor.place)
        total = only(info.total, state.anchor.total)
        parts = jax.tree.map(only, info.parts, state.anchor.parts)
        accepted = ~kept & (jnp.asarray(info.accepted) | move.pending)
        weights = problem.at(new.progress, self.weights).state.weights
        figures = {f"{name}/weight": weights[name] for name in self.weights}
        figures |= self._figures(new, only(norm, state.anchor.gradient_norm), jnp.linalg.norm(place))
        return unravel(place), new, StepInfo(total, parts, accepted, info.model_state, new.ended, figures)

    def unfinished(self, figures: Mapping[str, float]) -> Finding | None:
        reached, points = figures["point/lambda"], int(figures["points"])
        if points and reached >= 1:
            return None
        at = f"{figures['corrections']:.0f} corrector steps at λ = {figures['lambda']:.4g} found none"
        evidence = f"no point of the path was found: {at}"
        if points:
            evidence = f"the path was followed to λ = {reached:.4g} ({points} points), not to 1; {at} yet"
        return Finding(
            "path-unfinished",
            evidence,
            "Resume with more steps; a looser tolerance, another corrector, or an easier start of the path would help.",
        )

    def check_steps(self, steps: int) -> None:
        self.corrector.check_steps(steps)

    def landscape(self, problem: Problem, state: ContinuationState) -> Problem:
        return self.corrector.landscape(problem.at(state.progress, self.weights), state.inner)

    @property
    def descends(self) -> bool:
        return False  # the landscape rises and falls under the walk

    @property
    def steady(self) -> bool:
        return True

    def check_objective(self, objective: Objective) -> None:
        self.corrector.check_objective(objective)
        where = "Continuation(weights=…)"
        if self.weights and objective.balance is not None:
            raise UserError(
                f"the weights would follow paths and be moved by {type(objective.balance).__name__} as well",
                where=where,
                remedy="Leave out balance=…, or let Along numbers in the terms say what depends on λ.",
            )
        for name, path in self.weights.items():
            if name not in objective.terms:
                raise UserError(
                    f"there is no term '{name}'", where=where, remedy=f"The terms are {', '.join(objective.terms)}."
                )
            own, end = float(objective.terms[name].weight), float(checked_path(path, where)[-1])
            if not np.isclose(end, own, rtol=1e-6, atol=1e-12):
                raise UserError(
                    f"the path of '{name}' ends at a weight of {end:g}, but the term's own is {own:g}",
                    where=where,
                    remedy="At λ = 1 the landscape must be the objective itself: change the path or the term's weight.",
                )
        if not self.weights and not depends(objective.terms):
            raise UserError(
                "nothing in the landscape depends on λ",
                where="Continuation",
                remedy="Give weights={'term': lambda t: …}, or hold an Along number in a term: "
                "Residual(eqx.Partial(equation, Along(lambda t: …)), points).",
            )

    def _rarely(self, condition: jax.Array, work: Any, otherwise: Any) -> Any:
        if self.loop is Loop.COMPILED:
            return jax.lax.cond(condition, work, lambda _: otherwise, None)
        return select(condition, work(None), otherwise)

    def _gradient_norm(self, problem: Problem, params: Params, info: StepInfo) -> Scalar:
        if "gradient_norm" in info.figures:
            return info.figures["gradient_norm"]
        return jnp.linalg.norm(ravel_pytree(jax.grad(lambda p: problem.evaluate(p)[0])(params))[0])

    def _tangent(self, problem: Problem, unravel: Any, flat: jax.Array, state: ContinuationState) -> Any:
        """dθ/dλ at the last point, and the products with the Hessian that it took."""
        known = state.anchor.tangent
        if self.predictor is not Predictor.TANGENT:
            return known, jnp.zeros((), jnp.int32)

        def slope(x: jax.Array, progress: Scalar) -> jax.Array:
            return jax.grad(lambda x: problem.at(progress, self.weights).evaluate(unravel(x))[0])(x)

        at = state.anchor.progress
        change = jax.jvp(lambda t: slope(flat, t), (at,), (jnp.ones_like(at),))[1]
        curve = jax.linearize(lambda x: slope(x, at), flat)[1]
        # of a zero right-hand side conjugate gradients make nothing
        right = jnp.where(state.move.fresh & jnp.all(jnp.isfinite(change)), -change, 0)
        solved = conjugate_gradients(curve, right, rtol=ACCURACY, iterations=self.iterations, loop=self.loop)
        usable = (solved.result != int(Solved.NOT_POSITIVE)) & jnp.all(jnp.isfinite(solved.value))
        # where H is not positive: the secant, which the point has left here
        return jnp.where(state.move.fresh & usable, solved.value, known), solved.iterations + 1

    def _looked(self, problem: Problem, params: Params, found: jax.Array, key: Key) -> Any:
        """Smallest curvature, its unit vector (n,), whether it is clearly negative, and the products it took."""
        flat, unravel = ravel_pytree(params)
        none, nothing = jnp.zeros((), jnp.int32), jnp.full((), jnp.nan, flat.dtype)
        unseen = (nothing, jnp.zeros_like(flat), jnp.zeros((), bool), none)
        if not self.look:
            return unseen

        def looked(_: None) -> Any:
            slope = jax.grad(lambda x: problem.evaluate(unravel(x))[0])
            curve = jax.linearize(slope, flat)[1]
            seen = lanczos(lambda v: -curve(v), jnp.zeros_like(flat), key=key, iterations=self.look, loop=self.loop)
            least, largest = -seen.values[0], jnp.max(jnp.abs(seen.diagonal))
            bent = least + seen.bounds[0] < -NEGATIVE * largest
            return least, seen.vectors[0], bent, none + min(self.look, flat.size) + 1

        return self._rarely(found, looked, unseen)

    def _figures(self, state: ContinuationState, norm: Scalar, size: Scalar) -> dict[str, Scalar]:
        anchor, counts = state.anchor, state.counts
        number = lambda count: count.astype(size.dtype)
        seen = {"point/curvature": anchor.curvature, "saddles": number(counts.saddles)} if self.look else {}
        return seen | {
            "lambda": state.progress,
            "stride": state.stride,
            "norm": size,
            "gradient_norm": norm,
            "corrections": number(counts.corrections),
            "points": number(counts.points),
            "returns": number(counts.returns),
            "products": number(counts.products),
            "point/lambda": anchor.progress,
            "point/total": anchor.total,
            "point/norm": jnp.linalg.norm(anchor.place),
            "point/corrections": number(anchor.corrections),
        }


def _is_number(*values: Any) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least

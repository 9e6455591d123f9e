"""Continuation: the ridge path in closed form, bifurcations and folds, its steps, its record, and what it refuses."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from thalweg.errors import UserError
from thalweg.objective import Along, AtMost, GradientNorm, NoExamples, Objective, Residual, Rows
from thalweg.optim import (
    LBFGS,
    Adam,
    Averaged,
    Continuation,
    Ended,
    ExplicitEuler,
    LevenbergMarquardt,
    Predictor,
    followed_path,
)
from thalweg.train import FitFailed, Layout, Phase, RunDirectory, Status, fit, fit_many

RNG = np.random.default_rng(0)
X, NOISE = RNG.normal(size=(40, 5)) @ np.diag([3.0, 1.0, 1.0, 0.3, 0.1]), RNG.normal(size=40)
Y = X @ [1.0, -2.0, 0.5, 3.0, -1.0] + 0.1 * NOISE
GRAM, MOMENT = X.T @ X / 40, X.T @ Y / 40
LAST = 1e-3


def fading(t):
    """A ridge of 10 at λ = 0 that ends at 1e-3."""
    return 10.0 * 1e-4**t


def ridge_at(t: float) -> np.ndarray:
    """The minimum of mean (x·θ − y)² + w‖θ‖² in closed form, by NumPy."""
    return np.linalg.solve(GRAM + fading(t) * np.eye(5), MOMENT)


def ridge() -> Objective:
    return Objective(
        data=Residual(lambda model, at: jnp.atleast_1d(at[0] @ model.x - at[1]), Rows((X, Y))),
        ridge=Residual(lambda model, _: model.x, Rows(np.zeros((1, 1))), weight=LAST),
    )


class Deformed(eqx.Module):
    """A cost of the parameters and of one number that depends on λ."""

    cost: Any
    number: Along

    def __call__(self, x):
        return self.cost(x, self.number.value)


def points(states: Any) -> Any:
    """The anchors as they were found, one a point of the path."""
    new = np.flatnonzero(np.diff(states.counts.points, prepend=0) > 0)
    return jax.tree.map(lambda leaf: leaf[new], states.anchor)


@pytest.mark.parametrize(
    ("corrector", "predictor"),
    [
        (LBFGS(), Predictor.SECANT),
        (LBFGS(), Predictor.TANGENT),
        pytest.param(LevenbergMarquardt(), Predictor.NONE, marks=pytest.mark.slow),
        pytest.param(LevenbergMarquardt(), Predictor.TANGENT, marks=pytest.mark.slow),
    ],
)
def test_every_point_is_the_ridge_solution(corrector, predictor, walk):
    optimizer = Continuation(corrector, weights={"ridge": fading}, predictor=predictor, tolerance=1e-10)
    x, states, info = walk(optimizer, ridge(), np.zeros(5), 200)
    found = points(states)
    assert len(found.progress) >= 4
    assert found.progress[0] == 0
    assert found.progress[-1] == 1
    assert np.all(np.diff(found.progress) > 0)
    for at, place, total in zip(found.progress, found.place, found.total, strict=True):
        expected = ridge_at(at)
        # a slope of 1e-10·(1 + |L|)/(1 + ‖θ‖) < 2e-9 over twice the least curvature there, 0.01 at λ = 1
        assert np.linalg.norm(place - expected) < 1e-7
        cost = np.mean((X @ expected - Y) ** 2) + fading(at) * expected @ expected
        assert total == pytest.approx(cost, rel=1e-12)
    assert info.ended[-1] == Ended.CONVERGED
    assert np.array_equal(x[-1], found.place[-1])
    assert info.total[-1] == found.total[-1]  # told of the params that it leaves


@pytest.mark.slow
def test_the_tangent_is_that_of_the_closed_form(walk):
    optimizer = Continuation(
        LBFGS(), weights={"ridge": fading}, predictor=Predictor.TANGENT, tolerance=1e-10, longest=0.1
    )
    _, states, _ = walk(optimizer, ridge(), np.zeros(5), 200)
    # it is solved for in the first step after a point, and stands in the anchor from then on
    after = np.flatnonzero(np.diff(states.counts.points) > 0) + 2
    after = after[after < len(states.progress)]
    seen = 0
    for at, tangent in zip(states.anchor.progress[after], states.anchor.tangent[after], strict=True):
        if at < 1:
            slope = fading(at) * np.log(1e-4)
            expected = -np.linalg.solve(GRAM + fading(at) * np.eye(5), slope * ridge_at(at))
            # a residual of 1e-3 is an error of at most 1e-3 × the condition (9/0.01); usually far less
            assert np.linalg.norm(tangent - expected) <= 0.05 * np.linalg.norm(expected)
            seen += 1
    assert seen >= 9


@pytest.mark.slow
def test_a_better_predictor_needs_fewer_corrections(walk):
    """On a smooth path with short steps, in the order of the predictors' errors: h, h², and the tangent's h² / 2."""
    steps = {}
    for predictor in Predictor:
        optimizer = Continuation(
            ExplicitEuler(0.1), weights={"ridge": lambda t: 2 - t}, predictor=predictor,
            first=0.02, longest=0.02, most=10_000, tolerance=1e-4,
        )  # fmt: skip
        objective = ridge()
        objective = Objective(
            data=objective.terms["data"], ridge=eqx.tree_at(lambda t: t.weight, objective.terms["ridge"], 1.0)
        )
        _, states, _ = walk(optimizer, objective, np.zeros(5), 1_500)
        assert states.anchor.progress[-1] == 1
        steps[predictor] = int(points(states).corrections[1:].sum())
    assert steps[Predictor.TANGENT] < steps[Predictor.SECANT] < steps[Predictor.NONE]


def pitchfork(x, number):
    """One valley along y = 0 until `number` is ½, then a saddle there between two valleys at y = ±√(number − ½)."""
    return (x[0] - number) ** 2 / 2 + (0.5 - number) * x[1] ** 2 / 2 + x[1] ** 4 / 4


@pytest.mark.slow
def test_a_saddle_on_the_path_is_seen_and_left(walk, of_cost):
    landscape = of_cost(Deformed(pitchfork, Along(lambda t: t)))
    blind = Continuation(LBFGS(), longest=0.1)
    x, states, _ = walk(blind, landscape, [0.3, 0.0], 150)
    assert points(states).progress[-1] == 1
    assert np.allclose(x[-1], [1, 0], atol=1e-7)  # on the saddle, where no slope leads away from it

    seeing = Continuation(LBFGS(), longest=0.1, look=2)
    x, states, info = walk(seeing, landscape, [0.3, 0.0], 150)
    found = points(states)
    assert found.progress[-1] == 1
    assert states.counts.saddles[-1] == 1  # left once; from then on it is on the branch
    after = found.progress > 0.5
    # a tolerance of 1.5e-8 in the slope, over a curvature 2(λ − ½) of at least 0.05
    assert np.allclose(np.abs(found.place[after, 1]), np.sqrt(found.progress[after] - 0.5), atol=1e-6)
    assert np.allclose(found.place[~after, 1], 0)
    # in two dimensions Lanczos is exact: ½ − λ below, 2(λ − ½) above, or 1
    exact = np.where(after, np.minimum(2 * (found.progress - 0.5), 1), 0.5 - found.progress)
    assert np.allclose(found.curvature, exact, atol=1e-6)
    assert info.total[-1] == pytest.approx(-0.0625, abs=1e-12)


@pytest.mark.slow
def test_a_minimum_that_disappears_is_left_for_another(walk, of_cost):
    """x⁴/4 − x²/2 + x·s: the right-hand valley ends in a fold at s = 2/√27 = 0.385; s goes to 0.6."""
    quartic = lambda x, s: x[0] ** 4 / 4 - x[0] ** 2 / 2 + s * x[0]
    optimizer = Continuation(LBFGS(), most=8, few=4)
    x, states, info = walk(optimizer, of_cost(Deformed(quartic, Along(lambda t: 0.6 * t))), [0.8], 300)
    found = points(states)
    assert info.ended[-1] == Ended.CONVERGED
    right = found.place[:, 0] > 0
    assert right[0]
    assert found.progress[right][-1] < 0.385 / 0.6 < found.progress[~right][0]
    best = minimize_scalar(
        lambda z: quartic(np.array([z]), 0.6), bounds=(-3, 0), method="bounded", options={"xatol": 1e-9}
    )
    assert x[-1, 0] == pytest.approx(best.x, abs=1e-6)  # SciPy's own tolerance, about the root of the precision
    assert info.total[-1] == pytest.approx(best.fun, abs=1e-13)


def test_steps_double_after_few_corrections_and_halve_after_too_many(walk, of_cost):
    """A valley that jumps at λ = ½, followed by gradient descent, which needs longer the farther it has to go."""
    moving = lambda x, t: (x[0] - jnp.tanh(30 * (t - 0.5))) ** 2 / 2
    optimizer = Continuation(
        ExplicitEuler(0.5), predictor=Predictor.NONE, few=15, most=20, first=0.02, shortest=0.005, longest=0.16,
        tolerance=1e-6,
    )  # fmt: skip
    _, states, _ = walk(optimizer, of_cost(Deformed(moving, Along(lambda t: t))), [0.0], 900)
    found = points(states)
    assert found.progress[-1] == 1
    strides, turned = states.stride, np.diff(states.counts.returns, prepend=0) > 0
    new = np.diff(states.counts.points, prepend=0) > 0
    assert turned.sum() >= 2
    assert found.corrections[1:].max() <= 20  # here no step had to be so short that it is allowed more
    for i in np.flatnonzero(turned):
        assert strides[i] == strides[i - 1] / 2
        assert states.progress[i] == states.anchor.progress[i]  # back at the last point
    at = np.flatnonzero(new)
    for k in range(1, len(at)):
        before = strides[at[k] - 1]
        doubled = min(2 * before, 0.16) if found.corrections[k] <= 15 else before
        assert strides[at[k]] == doubled
    assert {0.02, 0.16} <= set(np.round(strides, 6))
    assert strides.min() < 0.02
    assert np.allclose(found.place[:, 0], np.tanh(30 * (found.progress - 0.5)), atol=1e-6)


@pytest.mark.slow
def test_a_cost_that_is_not_finite_ahead_is_come_back_from(walk, of_cost):
    """The wall of a barrier moves through the place where the last minimum was: a first step of 1 lands beyond it."""
    barrier = lambda x, t: x[0] - jnp.log(x[0] - 3 * t)  # lowest at 1 + 3λ
    landscape = of_cost(Deformed(barrier, Along(lambda t: t)))
    optimizer = Continuation(LBFGS(), first=0.8, predictor=Predictor.NONE)
    x, states, info = walk(optimizer, landscape, [1.5], 120)
    assert states.counts.returns[-1] >= 1
    assert np.isfinite(info.total).all()  # what is told is of the last point
    assert x[-1, 0] == pytest.approx(4.0, abs=1e-6)
    # no step is short enough where the cost ends: the walk ends at its last point, and says so
    broken = lambda x, t: x[0] ** 2 + jnp.sqrt(0.4 - t)
    x, states, info = walk(Continuation(LBFGS()), of_cost(Deformed(broken, Along(lambda t: t))), [1.5], 60)
    assert info.ended[-1] == Ended.FAILED
    assert np.isfinite(info.total).all()
    assert 0.39 < states.anchor.progress[-1] <= 0.4
    assert np.array_equal(x[-1], states.anchor.place[-1])


class Place(eqx.Module):
    """A model of one vector."""

    x: jax.Array


def vector(*numbers: float) -> Place:
    return Place(jnp.asarray(numbers, jnp.float32))


RIDGE = Continuation(LBFGS(), weights={"ridge": fading}, look=3)


@pytest.mark.slow
def test_the_record_tells_the_path_and_the_verdict_what_is_left():
    found = fit(vector(0, 0, 0, 0, 0), ridge(), Phase(RIDGE, 300), precision=np.float64, log_every=1)
    path = followed_path(found.rows)
    assert path.missed == 0
    assert (path.progress[0], path.progress[-1]) == (0, 1)
    for at, total, norm, curvature in zip(path.progress, path.total, path.norm, path.curvature, strict=True):
        place, hessian = ridge_at(at), 2 * (GRAM + fading(at) * np.eye(5))
        assert norm == pytest.approx(np.linalg.norm(place), rel=1e-6)
        assert total == pytest.approx(np.mean((X @ place - Y) ** 2) + fading(at) * place @ place, rel=1e-10)
        # three of five dimensions: an upper bound of the least eigenvalue, within the spectrum
        assert np.linalg.eigvalsh(hessian)[0] * (1 - 1e-9) <= curvature <= np.linalg.eigvalsh(hessian)[-1]
    assert path.corrections.min() >= 1
    assert found.verdict.status is Status.CONVERGED
    assert found.verdict.findings == ()
    last = found.rows[-1]["parts"]
    assert found.rows[-1]["last"] == pytest.approx(last["data"] + LAST * last["ridge"], rel=1e-12)

    short = fit(vector(0, 0, 0, 0, 0), ridge(), [Phase(RIDGE, 25), Phase(LBFGS(), 100)], precision=np.float64)
    assert [finding.name for finding in short.verdict.findings] == ["path-unfinished"]
    assert short.verdict.status is Status.CONVERGED  # of the last phase, on the objective itself
    assert np.allclose(short.model.x, ridge_at(1.0), atol=1e-6)


@pytest.mark.slow
def test_an_unfinished_path_is_told():
    found = fit(vector(0, 0, 0, 0, 0), ridge(), Phase(RIDGE, 25), precision=np.float64, log_every=5)
    assert found.verdict.status is Status.STILL_IMPROVING
    assert found.verdict.findings[0].name == "path-unfinished"
    reached = followed_path(found.rows).progress[-1]
    assert 0 < reached < 1
    assert f"{reached:.4g}" in found.verdict.evidence


@pytest.mark.slow
def test_it_resumes_bit_by_bit(tmp_path):
    with RunDirectory.create(tmp_path / "run", {}, seed=0) as run:
        fit(vector(0, 0, 0, 0, 0), ridge(), Phase(RIDGE, 25), precision=np.float64, run=run, log_every=5)
        again = fit(vector(0, 0, 0, 0, 0), ridge(), Phase(RIDGE, 200), precision=np.float64, run=run, log_every=5)
    whole = fit(vector(0, 0, 0, 0, 0), ridge(), Phase(RIDGE, 200), precision=np.float64, log_every=5)
    assert np.array_equal(again.model.x, whole.model.x)
    # as texts, since the curvature before the first point is NaN
    assert [str(row) for row in again.rows] == [str(row) for row in whole.rows]


@pytest.mark.slow
def test_members_mapped_together_walk_as_alone():
    starts = [vector(*RNG.normal(size=5)) for _ in range(3)]
    many = fit_many(starts, ridge(), Phase(RIDGE, 200), precision=np.float64, log_every=1, layout=Layout.VMAPPED)
    for i, start in enumerate(starts):
        alone = fit(start, ridge(), Phase(RIDGE, 200), precision=np.float64, log_every=1)
        ours, theirs = followed_path(many.rows, i), followed_path(alone.rows)
        assert np.array_equal(ours.progress, theirs.progress)
        assert np.allclose(many.models[i].x, alone.model.x, atol=1e-9)  # fused differently, converged to 1e-8


def test_what_cannot_be_followed_is_refused():
    start, phase = vector(0, 0, 0, 0, 0), lambda **kwargs: Phase(Continuation(LBFGS(), **kwargs), 10)
    run = lambda objective, one: fit(start, objective, one, precision=np.float64)
    with pytest.raises(UserError, match=r"ends at a weight of 0\.5, but the term's own is 0\.001"):
        run(ridge(), phase(weights={"ridge": lambda t: 1 - 0.5 * t}))
    with pytest.raises(UserError, match=r"no term 'rigde'.*data, ridge"):
        run(ridge(), phase(weights={"rigde": fading}))
    with pytest.raises(UserError, match="nothing in the landscape depends on λ"):
        run(ridge(), phase())
    with pytest.raises(UserError, match="not below 0"):
        Continuation(LBFGS(), weights={"ridge": lambda t: 2 * t - 1})
    with pytest.raises(UserError, match="not finite at λ = 0"):
        Continuation(LBFGS(), weights={"ridge": lambda t: LAST - jnp.log(t)})
    with pytest.raises(UserError, match="not below 0"):
        Continuation(LBFGS(), weights={"ridge": lambda t: jnp.stack([t, t])})
    with pytest.raises(UserError, match="a function of λ, not float"):
        Along(0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=r"jnp\.exp instead of math\.exp"):
        Along(lambda t: 1.0 if t > 0.5 else 0.0)
    some = Objective(
        **(ridge().terms | {"data": Residual(lambda model, at: at[0] @ model.x - at[1], Rows((X, Y), batch_size=8))})
    )
    with pytest.raises(UserError, match=r"same batch.*redraw=0"):
        run(some, phase(weights={"ridge": fading}))
    with pytest.raises(UserError, match="an optimizer is needed"):
        Continuation(LBFGS)  # pyright: ignore[reportArgumentType]
    for wrong in (
        {"first": 0}, {"first": 0.1, "longest": 0.05}, {"shortest": 0.2}, {"few": 50}, {"most": 1}, {"tolerance": 0.0},
        {"look": -1}, {"iterations": 0}, {"predictor": "secant"}, {"loop": True}, {"longest": 2.0},
    ):  # fmt: skip
        with pytest.raises(UserError):
            Continuation(LBFGS(), **wrong)


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: Along(lambda: 1.0), "raises at λ = 0: TypeError"),  # pyright: ignore[reportArgumentType]
        (lambda: Along(lambda t: math.log(t)), "raises at λ = 0: ValueError"),
        (lambda: Continuation(LBFGS(), weights={"ridge": lambda t: math.log(t)}), "raises at λ = 0: ValueError"),
        (lambda: Continuation(LBFGS(), weights={"ridge": lambda: 1.0}), r"raises at λ = 0.*one argument"),
        (lambda: Continuation(LBFGS(), weights=["ridge"]), r"not list.*ridge"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_a_path_that_cannot_be_asked_is_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()


def test_a_path_must_end_at_a_weight_that_is_an_array_and_no_balance_may_move_it():
    terms = ridge().terms | {"ridge": eqx.tree_at(lambda term: term.weight, ridge().terms["ridge"], jnp.float32(0.1))}
    for wrap in (lambda one: one, Averaged):
        optimizer = wrap(Continuation(LBFGS(), weights={"ridge": lambda t: 1 + 2 * t}))
        with pytest.raises(UserError, match=r"ends at a weight of 3, but the term's own is 0\.1"):
            fit(vector(0, 0, 0, 0, 0), Objective(**terms), Phase(optimizer, 10))
    balanced = Objective(balance=GradientNorm(), refresh_every=5, **ridge().terms)
    with pytest.raises(UserError, match=r"GradientNorm as well"):
        fit(vector(0, 0, 0, 0, 0), balanced, Phase(RIDGE, 10))


@pytest.mark.slow
def test_constraints_look_where_the_corrector_stands_and_a_path_may_be_of_jax_numpy():
    """At λ < 1 the corrector converges on a landscape whose minimum is not the objective's: multipliers move there."""
    cap = AtMost(lambda model, _: model.x[0], 0.1, NoExamples())
    objective = Objective(refresh_every=10, cap=cap, **ridge().terms)
    path = {"ridge": lambda t: 10.0 * jnp.exp(math.log(1e-4) * t)}
    # one short step of the path at a time: after 40 steps λ is far from 1
    slow = Continuation(LBFGS(), weights=path, first=0.01, longest=0.01, few=1, most=50)
    found = fit(vector(0, 0, 0, 0, 0), objective, Phase(slow, 40), precision=np.float64, log_every=10)
    looked = [row for row in found.rows if "refresh" in row]
    assert looked
    assert max(row["figures"]["lambda"] for row in looked) < 0.5
    assert any(row["refresh"]["cap/moved"] for row in looked)
    assert looked[-1]["figures"]["ridge/weight"] > 1  # a refresh leaves weights that follow a path alone


def test_numbers_along_the_path_are_of_the_precision_of_the_walk():
    with jax.enable_x64(True):
        law = Residual(
            eqx.Partial(lambda nu, model, at: nu.value * model.x[:1] - at, Along(lambda t: 1 / (1 + t))),
            np.ones((1, 1)),
        )
        found = fit(vector(0.0), Objective(law=law), Phase(LBFGS(), 20), precision=np.float32)
    assert found.model.x.dtype == np.float32
    assert found.model.x[0] == pytest.approx(2.0, rel=1e-3)  # the slope that L-BFGS ends at, in 32 bits


def test_a_first_order_corrector_is_held_to_the_same_test():
    """Adam at a constant rate ends its steps about as far from the minimum as its rate."""
    loose = Phase(Continuation(Adam(0.01), weights={"ridge": fading}, tolerance=0.05, most=500), 3_000)
    found = fit(vector(0, 0, 0, 0, 0), ridge(), loose, precision=np.float64, log_every=50)
    assert followed_path(found.rows).progress[-1] == 1
    assert found.verdict.findings == ()


def test_numbers_along_the_path_are_their_end_everywhere_else():
    law = Residual(
        eqx.Partial(lambda nu, model, at: nu.value * model.x[:1] - at, Along(lambda t: 1 / (1 + t))), np.ones((1, 1))
    )
    found = fit(vector(0.0), Objective(law=law), Phase(LBFGS(), 20), precision=np.float64)
    assert found.model.x[0] == pytest.approx(2.0, rel=1e-7)  # the slope that L-BFGS ends at
    with pytest.raises(FitFailed):
        fit(
            vector(0.0),
            Objective(law=Residual(lambda model, _: model.x * jnp.nan, np.zeros((1, 1)))),
            Phase(LBFGS(), 5),
        )

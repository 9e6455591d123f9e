"""Constrained optima against SciPy, closed forms and finite differences; what cannot be met; and what is recorded."""

import json
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.datasets import load_diabetes

import thalweg as tw
from thalweg.objective import certify, refuse_level, trainable
from thalweg.report import write_report


class Vector(eqx.Module):
    x: jax.Array


RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(12, 4)), 2 * RNG.normal(size=12)
TOTAL, CAP, FLOOR = 0.5, 0.15, -0.1


def least_squares(total=TOTAL, cap=CAP, floor=FLOOR, start: Any = None) -> tw.Objective:
    """mean (a·x − b)² with Σx given, ‖x‖² bounded and each of the four numbers above a floor."""
    first = {"total": 0.0, "cap": 0.0, "floor": 0.0} if start is None else start
    squares = tw.AtMost(lambda m, _: jnp.sum(m.x**2), cap, tw.NoExamples(), multiplier=first["cap"])
    return tw.Objective(
        refresh_every=20,
        data=tw.Residual(lambda m, row: (row[0] @ m.x - row[1])[None], tw.Rows((A, B))),
        total=tw.Equal(lambda m, _: jnp.sum(m.x), total, tw.NoExamples(), multiplier=first["total"]),
        cap=squares,
        floor=tw.AtLeast(lambda m, k: m.x[k], floor, tw.Rows(np.arange(4)), everywhere=True),
    )


def by_scipy() -> tuple[np.ndarray, np.ndarray]:
    """The point of sequential quadratic programming, and multipliers there: total, cap, and four of the floor."""
    loss, slope = lambda x: np.mean((A @ x - B) ** 2), lambda x: 2 * A.T @ (A @ x - B) / len(B)
    rules = (
        {"type": "eq", "fun": lambda x: np.sum(x) - TOTAL, "jac": lambda x: np.ones(4)},
        {"type": "ineq", "fun": lambda x: CAP - x @ x, "jac": lambda x: -2 * x},
        {"type": "ineq", "fun": lambda x: x - FLOOR, "jac": lambda x: np.eye(4)},
    )
    options = {"ftol": 1e-15, "maxiter": 500}
    x = minimize(loss, np.full(4, 0.1), jac=slope, method="SLSQP", constraints=rules, options=options).x
    # ∇f + λ₀·1 + λ₁·2x − Σ μₖeₖ = 0 with the floor's multipliers only where it is touched
    touched = np.flatnonzero(x - FLOOR < 1e-7)
    columns = np.concatenate([np.ones((4, 1)), 2 * x[:, None], -np.eye(4)[:, touched]], axis=1)
    found = np.linalg.lstsq(columns, -slope(x), rcond=None)[0]
    floor = np.zeros(4)
    floor[touched] = found[2:]
    return x, np.concatenate([found[:2], floor])


def test_a_convex_optimum_and_its_multipliers_are_those_of_scipy(tmp_path):
    x, multipliers = by_scipy()
    assert multipliers[1] > 0.1  # the bounds do press
    assert np.count_nonzero(multipliers[2:]) >= 1
    with tw.RunDirectory.create(tmp_path / "run", {"study": "convex"}, seed=0) as run:
        fitted = tw.fit(
            Vector(jnp.full(4, 0.3)), least_squares(), tw.Phase(tw.LBFGS(), 800), precision=jnp.float64, run=run
        )
    found = fitted.certificate
    assert found is not None
    assert fitted.verdict.status is tw.Status.CONVERGED
    assert np.allclose(fitted.model.x, x, atol=1e-6)  # SLSQP itself stops at about 1e-8
    assert found.largest <= 1e-6  # what is promised; measured 1e-12
    assert found["total"].multiplier == pytest.approx(multipliers[0], abs=1e-5)
    assert found["cap"].multiplier == pytest.approx(multipliers[1], abs=1e-5)
    # everywhere the Lagrangian has the mean over the four of λ·c, so that λ is four times SciPy's
    assert found["floor"].multiplier == pytest.approx(np.sum(multipliers[2:]), abs=1e-5)
    assert found["floor"].pressing == np.count_nonzero(multipliers[2:]) / 4
    assert found.loss == pytest.approx(np.mean((A @ x - B) ** 2), rel=1e-6)
    written = json.loads((tmp_path / "run" / "certificate.json").read_text())["fits"]["fit"]
    assert tw.Certificate.from_json(written[0]) == found
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert found["cap"].sensitivity in page
    assert "≤ 0.15" in page
    assert "Complementary slackness" in page
    (tmp_path / "run" / "certificate.json").write_text('{"fits": {"fit": [{"stationarity": "much"}]}}')
    with pytest.raises(tw.DamagedError, match=r"stationarity.*certificate\.json|certificate\.json.*stationarity"):
        write_report(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["total", "cap", "floor"])
def test_a_convex_multiplier_is_the_slope_of_the_loss_in_the_bound(name):
    ends, h = [], 1e-3
    middle = {"total": TOTAL, "cap": CAP, "floor": FLOOR}
    for step in (-h, 0.0, h):
        objective = least_squares(**middle | {name: middle[name] + step})
        fitted = tw.fit(Vector(jnp.full(4, 0.3)), objective, tw.Phase(tw.LBFGS(), 800), precision=jnp.float64)
        assert fitted.certificate is not None
        ends.append(fitted.certificate)
    slope = (ends[2].loss - ends[0].loss) / (2 * h)
    told = ends[1][name].multiplier * (1 if name == "floor" else -1)  # raising a floor tightens it
    assert told != 0
    assert slope == pytest.approx(told, rel=1e-3)  # the difference quotient errs by O(h²), about 1e-5 here


def at(x, **states) -> tuple[tw.Certificate, float]:
    """The certificate at x with multipliers, in the constraint's units, that did not move at the last refresh."""
    with jax.enable_x64(True):
        model = Vector(jnp.asarray(x, np.float64))
        objective = least_squares().astype(np.float64)
        state = objective.init(jax.random.key(0), model)
        for name, values in states.items():
            own = state.terms[name]
            values = jnp.broadcast_to(jnp.asarray(values) * own.scale / own.size, own.multiplier.shape)
            moved = eqx.tree_at(lambda s: (s.multiplier, s.former), own, (values, (values, own.penalty)))
            state = eqx.tree_at(lambda s, name=name: s.terms[name], state, moved)
        found = certify(model, objective, state, 0, trainable)
    assert found is not None
    return found, float(state.terms["cap"].size)


def test_the_residuals_are_what_their_names_say():
    x = np.array([0.6, -0.3, 0.1, 0.0])  # Σx = 0.4, not 0.5; ‖x‖² = 0.46 > 0.15; x₁ below the floor by 0.2
    found, size = at(x, total=-0.3, cap=0.7, floor=[0.0, 0.2, 0.0, 0.4])
    assert 0.999 <= size / np.mean((A @ x - B) ** 2) < 1.5  # the walk begins here
    data = 2 * A.T @ (A @ x - B) / len(B)
    # λ⁺ = λ + ρ·c·size/scale² in the constraint's units, ρ = 10; scales as the docstring says
    total = -0.3 + 10 * size * -0.1 / 0.5**2
    cap = 0.7 + 10 * size * 0.31 / 0.46**2
    scale = np.sqrt(np.mean(x**2))
    floor = np.maximum(0, np.array([0.0, 0.2, 0.0, 0.4]) + 10 * size * (FLOOR - x) / scale**2)
    pushes = {"data": data, "total": total * np.ones(4), "cap": cap * 2 * x, "floor": -floor / 4}
    norms = {name: np.linalg.norm(one) for name, one in pushes.items()}
    assert found.gradients == pytest.approx(norms, rel=1e-10)
    whole = np.linalg.norm(np.sum(list(pushes.values()), axis=0))
    # no looser: below √ε of the loss's size over the params', all forces are rounding
    rounding = np.sqrt(np.finfo(float).eps) * size / (1 + np.linalg.norm(x))
    assert found.stationarity == pytest.approx(whole / (sum(norms.values()) + rounding), rel=1e-10)
    assert found["total"].violation == pytest.approx(0.1)
    assert found["cap"].relative == pytest.approx(0.31 / 0.15)
    assert found["floor"].value == pytest.approx(-0.3)
    assert found.feasibility == pytest.approx(0.31 / 0.15)
    assert found["floor"].multiplier == pytest.approx(np.mean(floor), rel=1e-10)
    assert found["floor"].pressing == np.mean(floor > 0)
    slack = max(np.max(np.abs(floor * (FLOOR - x))), cap * 0.31) / size
    assert found.slackness == pytest.approx(slack, rel=1e-10)
    # squares of what is broken, each in its own size and of the same penalty
    parts = np.array([-0.1 / 0.5, 0.31 / 0.46])
    broken = np.sum(parts**2) + (0.2 / scale) ** 2 / 4
    slope = 2 * (parts[0] / 0.5 * np.ones(4) + parts[1] / 0.46 * 2 * x) + 2 * np.array([0, -0.2, 0, 0]) / scale**2 / 4
    assert found.level == pytest.approx(np.linalg.norm(slope) * (1 + np.linalg.norm(x)) / broken, rel=1e-10)


def test_what_a_multiplier_says():
    x, multipliers = by_scipy()
    found, _ = at(x, total=multipliers[0], cap=multipliers[1], floor=4 * multipliers[2:])
    assert found.largest < 1e-6  # at SciPy's own point and multipliers
    assert found["cap"].sensitivity == f"Loosening the bound by 1 would lower the loss by about {multipliers[1]:.3g}."
    assert found["total"].sensitivity == f"Raising the value by 1 would change the loss by about {-multipliers[0]:.3g}."
    assert "at every point" in found["floor"].sensitivity
    off, _ = at(np.array([0.6, -0.3, 0.1, 0.0]))
    assert "not met" in off["cap"].sensitivity
    free, _ = at(np.array([0.125, 0.125, 0.125, 0.125]))
    assert "does not press" in free["cap"].sensitivity


@pytest.mark.parametrize(
    "quantity",
    [
        lambda m, z: jnp.mean((m.x * z > 0).astype(m.x.dtype)),  # a share of zeros falls in jumps
        lambda m, z: jnp.sum(z),
        lambda m, z: jnp.sum(jax.lax.stop_gradient(m.x) * z),
    ],
)
def test_a_quantity_that_training_cannot_move_is_refused(quantity):
    objective = tw.Objective(refresh_every=5, flat=tw.AtMost(quantity, 0.1, tw.Rows(A)))
    with pytest.raises(tw.UserError, match=r"no slope in any trained number.*flat"):
        refuse_level(Vector(jnp.full(4, 0.3)), objective, [trainable], np.float32)


def test_a_quantity_of_what_is_held_in_all_phases_is_refused():
    class Two(eqx.Module):
        a: jax.Array
        b: jax.Array

    objective = tw.Objective(refresh_every=5, bound=tw.AtMost(lambda m, z: m.b * z[0], 0.1, tw.Rows(A)))
    model, only_a, only_b = Two(jnp.ones(()), jnp.ones(())), tw.only(lambda m: m.a), tw.only(lambda m: m.b)
    refuse_level(model, objective, [only_a, only_b], np.float32)
    with pytest.raises(tw.UserError, match=r"no slope.*bound"):
        refuse_level(model, objective, [only_a], np.float32)


# ---------------------------------------------------------------------------------------------- what cannot be met
def test_levenberg_marquardt_refuses_a_constraint_by_name():
    with pytest.raises(tw.UserError, match=r"residuals do not exist.*cap"):
        tw.fit(Vector(jnp.ones(4)), least_squares(), tw.Phase(tw.LevenbergMarquardt(), 5), precision=jnp.float64)


def crossed(**terms: Any) -> tw.Objective:
    return tw.Objective(
        refresh_every=20, data=tw.Residual(lambda m, row: (row[0] @ m.x - row[1])[None], tw.Rows((A, B))), **terms
    )


@pytest.mark.slow
def test_bounds_that_contradict_each_other_are_infeasible():
    whole = lambda m, _: jnp.sum(m.x)
    objective = crossed(low=tw.AtMost(whole, 0.1, tw.NoExamples()), high=tw.AtLeast(whole, 0.2, tw.NoExamples()))
    with pytest.raises(tw.FitFailed, match="infeasible") as caught:
        tw.fit(Vector(jnp.full(4, 0.3)), objective, tw.Phase(tw.LBFGS(), 1_200), precision=jnp.float64)
    verdict = caught.value.fit.verdict
    assert caught.value.exit_status == 1
    assert verdict.status is tw.Status.INFEASIBLE
    assert "'low'" in verdict.evidence
    assert "Loosen" in verdict.remedy
    assert not verdict.findings
    # the least squares of the two violations 0.1 − s and s − 0.2 has s in the middle
    assert float(np.sum(np.asarray(caught.value.fit.model.x))) == pytest.approx(0.15, abs=1e-6)


@pytest.mark.slow
def test_a_bound_below_what_is_possible_is_infeasible():
    objective = crossed(low=tw.AtMost(lambda m, _: jnp.sum(m.x**2), -0.1, tw.NoExamples()))
    found = tw.fit(
        Vector(jnp.full(4, 0.3)), objective, tw.Phase(tw.LBFGS(), 1_200), precision=jnp.float64, raise_failures=False
    )
    assert found.verdict.status is tw.Status.INFEASIBLE
    assert np.allclose(found.model.x, 0, atol=1e-3)  # the loss pulls with a force of 1 over the penalty


@pytest.mark.slow
def test_a_bound_that_takes_longer_is_not_infeasible():
    objective = crossed(low=tw.AtMost(lambda m, _: jnp.sum(m.x**2), 0.01, tw.NoExamples()))
    found = tw.fit(Vector(jnp.full(4, 2.0)), objective, tw.Phase(tw.Adam(1e-3), 200))
    assert found.verdict.status is tw.Status.STILL_IMPROVING
    assert [one.name for one in found.verdict.findings] == ["constraint-unmet"]
    assert "No multiplier has moved" in found.verdict.findings[0].remedy


# ---------------------------------------------------------------------------------------------------------- networks
def diabetes(rows: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_diabetes(return_X_y=True)
    x, y = x / x.std(axis=0), (y - y.mean()) / y.std()
    return x[:rows], y[:rows, None]


def squared_relu(z: jax.Array) -> jax.Array:
    """Exact zeros and a continuous slope: a minimum lies on no kink, so that its slope is 0."""
    return jnp.maximum(z, 0) ** 2


def activity(model: Any, x: jax.Array) -> jax.Array:
    return jnp.mean(squared_relu(model.layers[0](x)))


@pytest.mark.slow
def test_a_sparse_network_has_small_residuals_and_the_slope_that_its_multiplier_says():
    x, y = diabetes(100)
    model: Any = tw.nn.MLP(
        10, 1, width=4, depth=1, activation=squared_relu, init=tw.nn.scaled(1.0), key=jax.random.key(0)
    )

    def solve(model: Any, bound: float, multiplier: float) -> tw.Fit:
        objective = tw.Objective(
            refresh_every=50,
            data=tw.Supervised(x, y, loss=tw.losses.squared_error),
            size=tw.L2(1e-3),
            sparse=tw.AtMost(activity, bound, tw.Rows(x), multiplier=multiplier),
        )
        return tw.fit(model, objective, tw.Phase(tw.LBFGS(), 1_500), precision=jnp.float64)

    fitted = solve(model, 0.02, 0.0)
    found = fitted.certificate
    assert found is not None
    assert found.largest <= 1e-3  # what is promised; measured 1e-5
    told, h = found["sparse"].multiplier, 2e-4
    losses = []
    for bound in (0.02 - h, 0.02 + h):
        again = solve(fitted.model, bound, told).certificate
        assert again is not None
        losses.append(again.loss)
    slope = (losses[1] - losses[0]) / (2 * h)
    assert slope == pytest.approx(-told, rel=0.02)  # the curve bends: 1 % of the bound to either side
    with jax.enable_x64(True):
        hidden = np.asarray(squared_relu(jax.vmap(fitted.model.layers[0])(jnp.asarray(x))))
    assert np.mean(hidden == 0) > 0.5  # exact zeros


@pytest.mark.slow
def test_a_network_rises_in_one_input_at_every_row():
    x, y = diabetes(200)
    bmi = 2
    slope = lambda model, row: jax.grad(lambda z: model(z)[0])(row)[bmi]
    model = tw.nn.MLP(10, 1, width=6, depth=1, activation=jnp.tanh, key=jax.random.key(1))
    data = tw.Supervised(x, y, loss=tw.losses.squared_error)
    phase = tw.Phase(tw.LBFGS(), 1_500)
    plain = tw.fit(model, tw.Objective(data=data, size=tw.L2(1e-4)), phase, precision=jnp.float64)
    rises = tw.AtLeast(slope, 0.0, tw.Rows(x), everywhere=True)
    objective = tw.Objective(refresh_every=50, data=data, size=tw.L2(1e-4), rises=rises)
    fitted = tw.fit(model, objective, phase, precision=jnp.float64)
    with jax.enable_x64(True):
        before, after = (
            np.asarray(jax.vmap(lambda z, m=one.model: slope(m, z))(jnp.asarray(x))) for one in (plain, fitted)
        )
    assert before.min() < -0.1  # the plain one falls somewhere
    assert after.min() > -1e-3 * np.sqrt(np.mean(before**2))  # held: a thousandth of its size
    assert fitted.certificate is not None
    assert 0 < fitted.certificate["rises"].pressing < 1


@pytest.mark.slow
def test_two_groups_are_predicted_alike_on_average():
    x, y = diabetes(442)
    first = (x[:, 1] > 0).astype(float)
    share = first.mean()
    # the difference of the groups' means, as an average over all rows
    gap = lambda model, row: model(row[0])[0] * (row[1] / share - (1 - row[1]) / (1 - share))
    objective = tw.Objective(
        refresh_every=50,
        data=tw.Supervised(x, y, loss=tw.losses.squared_error),
        size=tw.L2(1e-3),
        fair=tw.Equal(gap, 0.0, tw.Rows((x, first))),
    )
    model = tw.nn.MLP(10, 1, width=6, depth=1, activation=jnp.tanh, key=jax.random.key(1))
    fitted = tw.fit(model, objective, tw.Phase(tw.LBFGS(), 1_500), precision=jnp.float64)
    with jax.enable_x64(True):
        told = np.asarray(jax.vmap(fitted.model)(jnp.asarray(x)))[:, 0]
    assert abs(y[first == 1].mean() - y[first == 0].mean()) > 0.05  # the data differ
    assert told[first == 1].mean() == pytest.approx(told[first == 0].mean(), abs=1e-4)  # measured 3e-5


@pytest.mark.slow
def test_a_string_on_a_floor_has_the_contact_force_of_the_closed_form():
    # ∫ ½u′² + u under a load of 1, u = 0 at both ends, floor at −1/20: the string is free, u = x²/2 − ax, until it lies
    # down with slope 0 at a = √(1/10), and from there the floor bears the load of 1
    n, a = 40, np.sqrt(0.1)
    nodes = np.arange(1, n)

    class Energy(tw.AbstractTerm):
        source: tw.AbstractSource = tw.Rows(np.arange(n))
        weight: float = 1.0

        def loss(self, model, example, key):
            u = jnp.concatenate([jnp.zeros_like(model.x[:1]), model.x, jnp.zeros_like(model.x[:1])])
            return n**2 * (u[example + 1] - u[example]) ** 2 / 2 + (u[example + 1] + u[example]) / 2

    floor = tw.AtLeast(lambda m, k: m.x[k], -0.05, tw.Rows(nodes - 1), everywhere=True)
    objective = tw.Objective(refresh_every=40, energy=Energy(), floor=floor)
    start = Vector(jnp.asarray(-0.5 * np.sin(np.pi * nodes / n), jnp.float32))
    fitted = tw.fit(start, objective, tw.Phase(tw.LBFGS(), 3_000), precision=jnp.float64)
    x = nodes / n
    free = np.minimum(x, 1 - x)
    exact = np.where(free < a, free**2 / 2 - a * free, -0.05)
    assert np.allclose(fitted.model.x, exact, atol=(1 / n) ** 2 / 2)  # the end of the contact lies within an element
    found = fitted.certificate
    assert found is not None
    assert found.largest < 1e-5
    # the mean of 39 nodes' forces, each over 1/40 of the string
    assert found["floor"].multiplier * (n - 1) / n == pytest.approx(1 - 2 * a, abs=2 / n)
    assert found["floor"].pressing == pytest.approx(1 - 2 * a, abs=2 / n)


# ------------------------------------------------------------------------------------------------ a reviewer's cases
def away(m: Vector) -> jax.Array:
    """Squared distance from (1, 2)."""
    return jnp.sum((m.x - jnp.array([1.0, 2.0], m.x.dtype)) ** 2)


def first(m: Vector, _: Any) -> jax.Array:
    return m.x[0]


class Cost(tw.objective.AbstractTerm):
    """A loss of the model alone."""

    source: Any
    weight: Any
    of: Any

    def __init__(self, of: Any):
        self.source, self.weight, self.of = tw.NoExamples(), 1.0, of

    def batch_loss(self, model: Any, examples: Any, key: Any) -> tuple[jax.Array, None]:
        return self.of(model), None


def walked(start: list[float], steps: int = 60, of: Any = away, **terms: Any) -> tw.Fit:
    objective = tw.Objective(refresh_every=10, d=Cost(of), **terms)
    phase = tw.Phase(tw.LBFGS(), steps)
    return tw.fit(Vector(jnp.array(start, jnp.float32)), objective, phase, raise_failures=False)


def certified(start: list[float], end: list[float], **terms: Any) -> tw.Certificate:
    """Of a walk in float32 from start to end, whose multipliers never moved."""
    objective = tw.Objective(refresh_every=10, d=Cost(away), **terms).astype(np.float32)
    state = objective.init(jax.random.key(0), Vector(jnp.array(start, jnp.float32)))
    found = certify(Vector(jnp.array(end, jnp.float32)), objective, state, 0, trainable)
    assert found is not None
    return found


def test_an_optimum_where_all_forces_are_rounding_is_stationary():
    beside = [1 + 2e-7, 2 - 3e-7]  # the constraint is met where the loss is least
    found = certified([0.3, 0.2], beside, cap=tw.Equal(lambda m, _: m.x[0] + m.x[1], 3.0, tw.NoExamples()))
    assert 0 < max(found.gradients.values()) < 1e-4
    assert found.stationarity < 1e-2  # it was near 1
    assert found.feasibility < 1e-6


def test_a_constraint_may_be_called_rest():
    found = certified([0.0, 0.0], [0.25, 2.0], rest=tw.AtMost(first, 0.5, tw.NoExamples()))
    assert found["rest"].value == 0.25
    assert found.loss == pytest.approx(0.75**2)


@pytest.mark.slow
def test_a_start_at_the_largest_violation_is_no_proof_that_nothing_is_better():
    flat = lambda m: m.x[1] ** 2 + 1
    found = walked([0.0, 1.0], 100, flat, cap=tw.AtLeast(lambda m, _: m.x[0] ** 2, 1.0, tw.NoExamples()))
    assert found.verdict.status is tw.Status.STALLED, found.verdict
    assert found.certificate is not None
    assert found.certificate.level == 0
    assert found.certificate.nearby == 0
    assert found.certificate["cap"].reached


@pytest.mark.slow
def test_what_the_last_phase_does_not_train_is_not_called_infeasible():
    class Two(eqx.Module):
        a: jax.Array
        b: jax.Array

    apart = Cost(lambda m: (m.a - 1) ** 2 + (m.b - 1) ** 2)
    objective = tw.Objective(refresh_every=10, d=apart, cap=tw.AtMost(lambda m, _: m.a, 0.5, tw.NoExamples()))
    phases = [
        tw.Phase(tw.Adam(0.1), 3, where=tw.only(lambda m: m.a)),
        tw.Phase(tw.LBFGS(), 60, where=tw.only(lambda m: m.b)),
    ]
    found = tw.fit(Two(jnp.full((), 2.0), jnp.zeros(())), objective, phases)  # it would raise
    assert found.verdict.status is tw.Status.STALLED
    assert "does not train what 'cap' depends on" in found.verdict.evidence


@pytest.mark.slow
def test_contradictions_in_other_units_are_infeasible():
    terms = {"a": tw.Equal(first, 1.0, tw.NoExamples())}
    terms["b"] = tw.Equal(lambda m, _: 1e3 * m.x[0], 2e3, tw.NoExamples())
    assert walked([0.0, 0.0], 600, **terms).verdict.status is tw.Status.INFEASIBLE


def test_a_unit_that_is_shut_where_the_walk_begins_can_be_bounded():
    shut = tw.AtMost(lambda m, _: jax.nn.relu(m.x[0]), 0.5, tw.NoExamples())
    model = Vector(jnp.array([-3.0, 0.0]))
    refuse_level(model, tw.Objective(refresh_every=5, cap=shut), [trainable], np.float32)
    broken = tw.AtLeast(lambda m, _: jax.nn.relu(m.x[0]), 0.5, tw.NoExamples())
    with pytest.raises(tw.UserError, match="no slope"):
        refuse_level(model, tw.Objective(refresh_every=5, cap=broken), [trainable], np.float32)

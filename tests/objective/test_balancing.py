"""Weights by rule: the papers' formulas, what they do to a badly scaled problem, and what the record says."""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import L2, GradientNorm, NTKTrace, Objective, Residual, Rows, Supervised, split, trainable
from thalweg.optim import LBFGS, Adam, LevenbergMarquardt
from thalweg.train import Phase, fit

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(11, 3)), 100 * RNG.normal(size=(4, 3))
X = np.array([0.5, -1.0, 2.0])


class Vector(eqx.Module):
    x: jax.Array


def terms(**weights: float) -> dict[str, Any]:
    linear = lambda model, row: jnp.stack([row @ model.x, jnp.sin(row[0] * model.x[0])])
    return {
        "law": Residual(linear, Rows(A), weight=weights.get("law", 1.0)),
        "edge": Residual(linear, Rows(B), weight=weights.get("edge", 1.0)),
    }


def refreshed(objective, x=X):
    """Weights after one refresh, and its figures."""
    with jax.enable_x64(True):
        objective, parts = objective.astype(np.float64), split(Vector(jnp.asarray(x)))
        state = objective.init(jax.random.key(0))
        static = eqx.combine(parts.model_state, parts.frozen, parts.static)
        problem = objective.bind(static, objective.draw(state, jnp.int32(0)), state, jax.random.key(0))
        after, figures = objective.refresh(problem, parts.params, jax.random.key(1))
        again, _ = objective.refresh(
            objective.bind(static, problem.batch, after, None), parts.params, jax.random.key(1)
        )
        read = lambda weights: {name: float(weight) for name, weight in weights.items()}
        return read(after.weights), {name: float(value) for name, value in figures.items()}, read(again.weights)


def jacobians(rows):
    """Of the two residuals of each row, by hand: (B, 2, 3); and the residuals (B, 2)."""
    found = np.zeros((len(rows), 2, 3))
    found[:, 0] = rows
    found[:, 1, 0] = rows[:, 0] * np.cos(rows[:, 0] * X[0])
    return found, np.stack([rows @ X, np.sin(rows[:, 0] * X[0])], axis=1)


def slopes():
    """Gradient of each term's mean cost, by hand."""
    found = {}
    for name, rows in (("law", A), ("edge", B)):
        j, r = jacobians(rows)
        found[name] = 2 * np.einsum("bkn,bk->n", j, r) / len(rows)
    return found


def test_gradient_norm_with_a_reference_is_the_papers_rule():
    weights, figures, _ = refreshed(Objective(balance=GradientNorm("law", memory=0.0), refresh_every=1, **terms()))
    g = slopes()
    expected = np.abs(g["law"]).max() / np.abs(g["edge"]).mean()
    assert weights["law"] == 1
    assert weights["edge"] == pytest.approx(expected, rel=1e-12)
    assert figures["edge/weight"] == weights["edge"]


def test_gradient_norm_without_a_reference_makes_forces_equal():
    weights, _, _ = refreshed(Objective(balance=GradientNorm(memory=0.0), refresh_every=1, **terms()))
    forces = {name: weights[name] * np.linalg.norm(slope) for name, slope in slopes().items()}
    assert forces["law"] == pytest.approx(forces["edge"], rel=1e-12)
    assert forces["law"] == pytest.approx(sum(np.linalg.norm(slope) for slope in slopes().values()), rel=1e-12)


@pytest.mark.slow
def test_ntk_trace_makes_mean_rates_equal_whatever_the_number_of_points():
    weights, _, _ = refreshed(Objective(balance=NTKTrace(), refresh_every=1, **terms()))
    traces = {name: np.sum(jacobians(rows)[0] ** 2) / len(rows) for name, rows in (("law", A), ("edge", B))}
    assert weights["edge"] == pytest.approx(sum(traces.values()) / traces["edge"], rel=1e-12)
    assert weights["law"] * traces["law"] == pytest.approx(weights["edge"] * traces["edge"], rel=1e-12)


def test_memory_keeps_a_share_of_the_present_weight():
    once, _, twice = refreshed(Objective(balance=GradientNorm("law", memory=0.9), refresh_every=1, **terms()))
    wanted = np.abs(slopes()["law"]).max() / np.abs(slopes()["edge"]).mean()
    assert once["edge"] == pytest.approx(0.9 + 0.1 * wanted, rel=1e-12)
    assert twice["edge"] == pytest.approx(0.9 * once["edge"] + 0.1 * wanted, rel=1e-12)


@pytest.mark.parametrize("rule", [GradientNorm(memory=0.0), NTKTrace()])
def test_the_users_weight_stays_a_priority_and_other_terms_are_left_alone(rule):
    rule = type(rule)(terms=["law", "edge"], memory=0.0)
    plain, _, _ = refreshed(Objective(balance=rule, refresh_every=1, **terms()))
    more = Objective(balance=rule, refresh_every=1, small=L2(1e-3, where=trainable), **terms(edge=5.0))
    weights, figures, again = refreshed(more)
    assert weights["edge"] == pytest.approx(5 * plain["edge"], rel=1e-12)
    assert weights["law"] == pytest.approx(plain["law"], rel=1e-12)
    assert weights["small"] == refreshed(Objective(small=L2(1e-3, where=trainable), **terms()))[0]["small"]
    assert "small/weight" not in figures
    assert again == pytest.approx(weights, rel=1e-12)  # the user's weight is not multiplied in twice


def test_a_factor_stays_within_bounds_and_a_term_that_is_met_keeps_its_weight():
    weights, _, _ = refreshed(Objective(balance=GradientNorm(memory=0.0, most=3.0), refresh_every=1, **terms()))
    assert weights["law"] == 3.0
    assert 1 <= weights["edge"] <= 3
    met: dict[str, Any] = {"met": Residual(lambda model, row: 0 * row @ model.x, Rows(A)), **terms()}
    weights, _, _ = refreshed(Objective(balance=GradientNorm(memory=0.0), refresh_every=1, **met))
    assert weights["met"] == 1.0
    assert np.isfinite(list(weights.values())).all()


def curved(u, x):
    """u″ + π² sin(πx) on (0, 1), whose solution with u(0) = u(1) = 0 is sin(πx)."""
    return jax.grad(jax.grad(u))(x) + jnp.pi**2 * jnp.sin(jnp.pi * x)


def of_rod(scale, **named):
    line = lambda model: lambda x: model(x[None])
    inside, ends = np.linspace(0.02, 0.98, 40)[:, None], np.array([[0.0], [1.0]])
    return Objective(
        law=Residual(lambda model, x: scale * curved(line(model), x[0]), Rows(inside)),
        ends=Residual(lambda model, x: model(x), Rows(ends)),
        **named,
    )


def error_of(objective, steps=1_500):
    network = MLP(1, None, width=16, depth=2, activation=jnp.tanh, key=jax.random.key(0))
    found = fit(network, objective, Phase(Adam(3e-3), steps), precision=np.float64, log_every=100)
    with jax.enable_x64(True):
        x = jnp.linspace(0, 1, 101)
        u = jax.vmap(lambda one: found.model(one[None]))(x)
        return float(jnp.linalg.norm(u - jnp.sin(jnp.pi * x)) / jnp.linalg.norm(jnp.sin(jnp.pi * x))), found


@pytest.mark.slow
def test_either_rule_restores_what_a_scale_of_ten_thousand_spoils():
    """The law's cost is 1e4 times too large, so that nobody looks at the ends.

    Measured: error 0.92; with the rules 5e-3, 9e-5 and 3e-4; with the law as it should be 3e-4.
    """
    spoiled, _ = error_of(of_rod(100.0))
    assert spoiled > 0.3
    for rule in (GradientNorm("law", memory=0.5), GradientNorm(memory=0.5), NTKTrace()):
        error, found = error_of(of_rod(100.0, balance=rule, refresh_every=50))
        assert error < 0.02, rule
        rows = [row["refresh"] for row in found.rows if "refresh" in row]
        assert rows[-1]["ends/weight"] > 100 * rows[-1]["law/weight"]


@pytest.mark.parametrize("optimizer", [LBFGS(), LevenbergMarquardt()])
@pytest.mark.slow
def test_second_order_optimizers_walk_on_the_moved_landscape(optimizer):
    objective = of_rod(10.0, balance=NTKTrace(), refresh_every=20)
    network = MLP(1, None, width=8, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    found = fit(network, objective, Phase(optimizer, 60), precision=np.float64, log_every=1)
    rows = found.rows
    moved = [i for i, row in enumerate(rows) if "refresh" in row]
    assert len(moved) >= 2
    weights = {name: rows[moved[0]]["refresh"][f"{name}/weight"] for name in ("law", "ends")}
    after = rows[moved[0] + 1]
    total = sum(weights[name] * after["parts"][name] for name in weights)
    assert after["last"] == pytest.approx(total, rel=1e-9)


def test_bad_input_is_refused():
    data: dict[str, Any] = {
        "data": Supervised(A, A[:, :1], loss=lambda output, target: jnp.sum(jnp.abs(output - target)))
    }
    squares: dict[str, Any] = {"squares": Supervised(A, A[:, :1], loss=squared_error)}
    for make, words in (
        (lambda: Objective(balance=NTKTrace(), **terms()), "only a refresh"),
        (lambda: Objective(balance=cast(Any, "ntk"), refresh_every=1, **terms()), "must be a rule"),
        (lambda: Objective(balance=NTKTrace(terms=["law", "side"]), refresh_every=1, **terms()), "no term 'side'"),
        (lambda: Objective(balance=GradientNorm("side"), refresh_every=1, **terms()), "no term 'side'"),
        (lambda: Objective(balance=NTKTrace(terms=["law"]), refresh_every=1, **terms()), "one term alone"),
        (lambda: Objective(balance=GradientNorm(), refresh_every=1, **squares), "one term alone"),
        (lambda: Objective(balance=GradientNorm(), refresh_every=1, **terms(edge=0.0)), "weights above 0"),
        (lambda: Objective(balance=NTKTrace(), refresh_every=1, **data, **terms()), "needs a residual.*'data'"),
        (lambda: GradientNorm(memory=1.0), "memory"),
        (lambda: NTKTrace(most=0.5), "largest factor"),
        (lambda: NTKTrace(terms="law"), "list of names"),
    ):
        with pytest.raises(UserError, match=words):
            make()

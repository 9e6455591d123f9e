"""Augmented Lagrangian: the cost by its formula; multipliers that move only when the inner problem has converged."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.objective import (
    AdaptivePoints,
    AtLeast,
    AtMost,
    Equal,
    FreshPoints,
    HeldPoints,
    HostRows,
    NoExamples,
    Objective,
    Residual,
    Rows,
    split,
)

POINTS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # mean of (z·x)² over them is ‖x‖²/2


class Vector(eqx.Module):
    x: jax.Array


def constrained(kind, bound=0.5, **kwargs):
    return kind(
        lambda model, z: jnp.dot(z, model.x) ** 2, bound, Rows(POINTS), **{"scale": 1.0, "tolerance": 0.0} | kwargs
    )


def bound_at(objective, x, **moved):
    """The problem at x, with the constraint's state changed."""
    objective = objective.astype(np.float64)
    parts = split(Vector(jnp.asarray(x, np.float64)))
    state = objective.init(jax.random.key(0))
    for name, value in moved.items():
        at = lambda s, name=name: getattr(s.terms["size"], name)
        state = eqx.tree_at(at, state, jnp.asarray(value, np.float64))
    return objective, objective.bind(parts.static, objective.draw(state, jnp.int32(0)), state, None), parts.params


def refreshed(objective, x, **moved):
    """(state before, state after, figures) of one refresh at x."""
    objective, problem, params = bound_at(objective, x, **moved)
    after, figures = jax.jit(lambda p: objective.refresh(problem, p, jax.random.key(1)))(params)
    return problem.state.terms["size"], after.terms["size"], {k.removeprefix("size/"): v for k, v in figures.items()}


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("x", [[2.0, 0.0], [0.6, 0.2]])  # c = 1.5 and −0.3
def test_the_cost_is_the_augmented_lagrangian(x):
    c, multiplier, penalty = np.dot(x, x) / 2 - 0.5, 0.7, 20.0
    _, problem, params = bound_at(Objective(size=constrained(Equal)), x, multiplier=multiplier, penalty=penalty)
    assert np.isclose(problem.evaluate(params)[0], multiplier * c + penalty / 2 * c**2, rtol=1e-13)
    _, problem, params = bound_at(Objective(size=constrained(AtMost)), x, multiplier=multiplier, penalty=penalty)
    expected = multiplier * c + penalty / 2 * c**2 if multiplier + penalty * c > 0 else -(multiplier**2) / 2 / penalty
    assert np.isclose(problem.evaluate(params)[0], expected, rtol=1e-13)


def test_begins_as_algorithm_17_4_does():
    before, _, _ = refreshed(Objective(size=constrained(Equal, penalty=10.0)), [1.0, 0.0])
    assert (before.multiplier, before.penalty) == (0, 10)
    assert np.isclose(before.feasible_below, 10**-0.1)
    assert np.isclose(before.converged_below, 0.1)


def test_multipliers_stay_while_the_inner_problem_has_not_converged():
    # c = 0.005 is feasible enough, but the slope 10·c·x = 0.05 is not below 0.01
    x = [np.sqrt(1.01), 0.0]
    before, after, figures = refreshed(Objective(size=constrained(Equal)), x, converged_below=0.01)
    assert figures["gradient_norm"] > figures["converged_below"]
    assert figures["violation"] < figures["feasible_below"]
    assert not figures["moved"]
    assert eqx.tree_equal(before, after)


def test_multipliers_move_when_converged_and_feasible_and_the_tolerances_tighten():
    x = [np.sqrt(1.01), 0.0]
    before, after, figures = refreshed(Objective(size=constrained(Equal)), x)
    assert figures["gradient_norm"] <= figures["converged_below"]
    assert figures["moved"]
    assert np.isclose(after.multiplier, 10 * 0.005, rtol=1e-12)
    assert after.penalty == before.penalty
    assert np.isclose(after.feasible_below, before.feasible_below * 10**-0.9)
    assert np.isclose(after.converged_below, before.converged_below / 10)


def test_the_penalty_grows_when_converged_but_not_feasible():
    before, after, figures = refreshed(Objective(size=constrained(Equal)), [0.0, 0.0], feasible_below=0.1)
    assert figures["gradient_norm"] == 0  # x = 0 is a stationary point, and c = −0.5 there
    assert np.isclose(figures["violation"], 0.5)
    assert not figures["moved"]
    assert after.multiplier == before.multiplier
    assert after.penalty == 100
    assert np.isclose(after.feasible_below, 100**-0.1)
    assert np.isclose(after.converged_below, 0.01)


def test_the_penalty_does_not_grow_without_end_nor_the_tolerances_fall_below_rounding():
    objective, problem, _ = bound_at(Objective(size=constrained(Equal)), [0.0, 0.0], feasible_below=0.1)

    @jax.jit
    def again(state, x):
        now = eqx.tree_at(lambda p: p.state, problem, state)
        return objective.refresh(now, eqx.tree_at(lambda p: p.x, split(Vector(x)).params, x), jax.random.key(1))

    state = problem.state
    for _ in range(40):
        state, _ = again(state, jnp.zeros(2))
        state = eqx.tree_at(lambda s: s.terms["size"].feasible_below, state, jnp.asarray(0.1))
    assert np.isclose(state.terms["size"].penalty, 1 / np.finfo(float).eps)
    state = problem.state
    for _ in range(60):
        state, figures = again(state, jnp.array([1.0, 0.0]))
        assert figures["size/moved"]  # c and the slope are 0 exactly
    assert state.terms["size"].feasible_below >= np.finfo(float).eps
    assert state.terms["size"].converged_below >= np.finfo(float).eps
    assert state.terms["size"].penalty == 10


def test_a_slack_inequality_loses_its_multiplier():
    # at x = 0, c = −0.5: λ = 0.3 goes to max(0, 0.3 + 10·(−0.5)) = 0, and what counts as violation is λ/ρ until then
    _, after, figures = refreshed(Objective(size=constrained(AtMost)), [0.0, 0.0], multiplier=0.3)
    assert np.isclose(figures["violation"], 0.03)
    assert figures["moved"]
    assert after.multiplier == 0
    _, after, figures = refreshed(Objective(size=constrained(AtMost)), [0.0, 0.0])
    assert figures["violation"] == 0


def test_a_bound_of_several_numbers_and_weighted_points():
    quantity = lambda model, z: z * model.x
    weights = np.array([3.0, 1.0, 0.0, 0.0])
    term = Equal(quantity, [0.5, 0.5], Rows(POINTS, weights=weights), scale=1.0)
    x = np.array([1.0, 2.0])
    objective, problem, params = bound_at(Objective(size=term), x)
    mean = (3 * POINTS[0] * x + POINTS[1] * x) / 4
    assert np.isclose(problem.evaluate(params)[0], 5 * np.sum((mean - 0.5) ** 2), rtol=1e-13)
    assert objective.init(jax.random.key(0)).terms["size"].multiplier.shape == (2,)


def test_held_points_are_drawn_afresh_after_the_look_at_them():
    term = Equal(
        lambda model, z: jnp.dot(z, model.x), 0.0, HeldPoints(lambda key, n: jax.random.normal(key, (n, 2)), 5)
    )
    objective, problem, params = bound_at(Objective(size=term), [1.0, 2.0])
    after, figures = objective.refresh(problem, params, jax.random.key(1))
    assert np.isclose(figures["size/violation"], abs(np.mean(problem.batch["size"].values @ np.array([1.0, 2.0]))))
    assert not np.array_equal(after.sources["size"], problem.state.sources["size"])


def test_all_is_counted_in_the_sizes_of_things():
    # pascals or fractions, a large loss or a small one: multipliers follow their units, the rest stays as it is
    term = lambda unit: AtMost(lambda model, z: unit * jnp.dot(z, model.x) ** 2, 0.5 * unit, Rows(POINTS))
    loss = lambda unit: Residual(lambda model, z: unit**0.5 * (model.x - jnp.array([3.0, 4.0])), Rows(POINTS))
    x = Vector(jnp.array([2.0, 0.5]))
    parts, seen = split(x), {}
    for units in ((1.0, 1.0), (1e6, 1.0), (1e-3, 1.0), (1.0, 1e6)):
        objective = Objective(size=term(units[0]), loss=loss(units[1]))
        objective = objective.astype(np.float64)
        state = objective.init(jax.random.key(0), x)
        state = eqx.tree_at(lambda s: s.terms["size"].converged_below, state, jnp.asarray(10.0))
        state = eqx.tree_at(lambda s: s.terms["size"].feasible_below, state, jnp.asarray(10.0))
        problem = objective.bind(parts.static, objective.draw(state, jnp.int32(0)), state, None)
        total = problem.evaluate(parts.params)[0] / units[1]
        _, found = objective.refresh(problem, parts.params, jax.random.key(1))
        kept = [found[f"size/{name}"] for name in ("violation", "gradient_norm", "penalty")]
        kept.append(state.terms["size"].size / units[1])
        seen[units] = np.array([total, found["size/multiplier"] * units[0] / units[1], *kept])
        assert found["size/moved"]
        # ‖x − a‖² at the start, or somewhat beside it
        assert 13.25 <= state.terms["size"].size / units[1] <= 1.5 * 13.25
        # the values there are 4, ¼, 4, ¼, whose root mean square is larger than the bound
        assert np.isclose(state.terms["size"].scale, np.sqrt((16 + 1 / 16) / 2) * units[0])
    for found in seen.values():
        assert np.allclose(found, seen[1.0, 1.0], rtol=1e-12)


def test_at_each_point_the_cost_is_the_mean_of_the_points_own():
    multipliers, weights = np.array([0.7, 0.0, 3.0, 0.1]), np.array([3.0, 1.0, 2.0, 2.0]) / 2
    points = Rows(POINTS, weights=weights)
    term = AtLeast(lambda model, z: jnp.dot(z, model.x), 0.5, points, everywhere=True, scale=1.0)
    x = np.array([2.0, 0.25])
    objective, problem, params = bound_at(Objective(size=term), x, multiplier=multipliers, penalty=20.0)
    assert objective.init(jax.random.key(0)).terms["size"].multiplier.shape == (4,)
    c = 0.5 - POINTS @ x
    pushed = np.maximum(0, multipliers + 20 * c)
    expected = np.mean(weights / weights.mean() * (pushed**2 - multipliers**2) / 40)
    assert np.isclose(problem.evaluate(params)[0], expected, rtol=1e-13)
    _, after, figures = refreshed(
        Objective(size=term), x, multiplier=multipliers, converged_below=1e3, feasible_below=9
    )
    assert figures["moved"]
    assert np.allclose(after.multiplier, np.maximum(0, multipliers + 10 * c), rtol=1e-13)
    assert np.isclose(figures["multiplier"], np.mean(weights / weights.mean() * after.multiplier), rtol=1e-13)


def test_a_quantity_of_the_model_alone():
    _, problem, params = bound_at(Objective(size=Equal(lambda model, _: model.x, [1.0, 5.0], NoExamples())), [2.0, 5.0])
    assert np.isclose(problem.evaluate(params)[0], 5 * 1.0, rtol=1e-13)


SAMPLER = lambda key, n: jax.random.normal(key, (n, 2))


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (Rows(POINTS, batch_size=2), "Rows draws minibatches"),
        (HostRows(POINTS, batch_size=2), "HostRows draws minibatches"),
        (FreshPoints(SAMPLER, 5), "FreshPoints draws its points anew"),
        (HeldPoints(SAMPLER, 5), "HeldPoints draws its points anew"),
        (NoExamples(), "needs examples to hold at"),
    ],
)
def test_everywhere_needs_examples_that_stay(source, why):
    with pytest.raises(UserError, match=why) as caught:
        AtMost(lambda model, z: jnp.dot(z, model.x), 1.0, source, everywhere=True)
    assert "Rows(" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"bound": "much"}, "bound is a number or an array"),
        ({"bound": jax.random.key(0)}, "bound is a number or an array"),
        ({"bound": np.array(1j)}, "bound is a number or an array"),
        ({"bound": np.zeros(0)}, r"bound has no number: its shape is \(0,\)"),
        ({"everywhere": "no"}, "everywhere is True or False, not 'no'"),
        ({"everywhere": True, "source": Rows(POINTS, weights=np.array([1.0, 0, 1, 1]))}, "rows of weight 0"),
        ({"multiplier": True}, "first multiplier must be a finite number"),
        ({"scale": 0.0}, "scale must be finite and above 0"),
        ({"scale": np.nan}, "scale must be finite and above 0"),
        ({"scale": [1.0, 2.0, 3.0]}, r"scale of shape \(3,\) for a bound of shape \(\)"),
        ({"penalty": np.inf}, "penalty must be above 1 and finite"),
        ({"multiplier": -1.0}, "multiplier of a bound is not below 0"),
        ({"multiplier": np.nan}, "first multiplier must be a finite number"),
        ({"tolerance": 1.0}, r"tolerance must lie in \[0, 1\)"),
        ({"quantity": 3.0}, "quantity is a function"),
        ({"source": POINTS}, "needs a source of examples, not ndarray"),
        ({"source": AdaptivePoints(SAMPLER, 5)}, "AdaptivePoints chooses points by a cost"),
    ],
)
def test_refuses_by_name(options, why):
    given = {"quantity": lambda model, z: jnp.dot(z, model.x), "bound": 1.0, "source": Rows(POINTS)} | options
    with pytest.raises(UserError, match=why):
        AtMost(given.pop("quantity"), given.pop("bound"), given.pop("source"), **given)


@pytest.mark.parametrize("kind", [Equal, AtMost])
def test_refuses_what_cannot_work(kind):
    with pytest.raises(UserError, match="bound must be finite"):
        constrained(kind, bound=np.inf)
    for penalty in (1.0, -3.0, float("nan")):
        with pytest.raises(UserError, match="first penalty must be above 1"):
            constrained(kind, penalty=penalty)
    _, problem, params = bound_at(Objective(size=constrained(kind, bound=[1.0, 2.0])), [1.0, 2.0])
    with pytest.raises(UserError, match=r"quantity has shape \(\), its bound \(2,\) \(term 'size'\)"):
        problem.evaluate(params)


def test_a_bound_of_integers_becomes_one_of_real_numbers():
    term = Equal(lambda model, _: model.x, jnp.array([1, 5]), NoExamples())
    _, problem, params = bound_at(Objective(size=term), [2.0, 5.0])
    assert np.isclose(problem.evaluate(params)[0], 5 * 1.0, rtol=1e-13)


@pytest.mark.parametrize(
    ("quantity", "why"),
    [
        (lambda model, _: (model.x[0], model.x[1]), "not tuple"),
        (lambda model, _: model.x[0] > 0, "real numbers that have a slope, not bool"),
        (lambda model, _: True, "not bool"),
    ],
)
def test_a_quantity_without_a_slope_is_refused_for_what_it_is(quantity, why):
    _, problem, params = bound_at(Objective(size=AtMost(quantity, 0.5, NoExamples())), [2.0, 5.0])
    with pytest.raises(UserError, match=f"{why}.*size"):
        problem.evaluate(params)


def test_a_penalty_beyond_the_precision_is_refused():
    objective = Objective(size=constrained(AtMost, penalty=1e39)).astype(np.float32)
    with pytest.raises(UserError, match=r"first penalty of 1e\+39 is too large for float32"):
        objective.init(jax.random.key(0))


def test_a_start_that_nearly_meets_a_bound_of_0_does_not_set_the_scale():
    objective = Objective(size=Equal(lambda model, _: model.x[0] - 1, 0.0, NoExamples())).astype(np.float64)
    scale = lambda x: float(objective.init(jax.random.key(0), Vector(jnp.array([x, 0.0]))).terms["size"].scale)
    assert scale(1 + 1e-7) > 1e-2  # 1e-7 would stop every walk
    assert scale(1.5) == pytest.approx(0.5)

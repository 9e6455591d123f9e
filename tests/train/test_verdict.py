"""Verdicts: every status and finding, from constructed traces and from real trainings that end so."""

import json
import math
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import Certificate, ConstraintRecord, Objective, Residual, Supervised, only
from thalweg.optim import LBFGS, SGD, Adam, Ended, LevenbergMarquardt, Player, Players
from thalweg.train import FitFailed, LossBelow, Phase, fit, fit_many
from thalweg.train.rows import weighed
from thalweg.train.verdict import Status, Trace, Verdict, judge
from thalweg.types import Finding

N = 100
NOISE = np.random.default_rng(0).normal(size=N)


def trace(totals: Any, **named: Any) -> Trace:
    """A run of one phase that made all its steps, with a row every ten."""
    totals = list(totals)
    return Trace(
        **{
            "steps": [10 * (i + 1) for i in range(len(totals))],
            "totals": totals,
            "begin": 0,
            "validation": [math.nan] * len(totals),
            "parts": {"data": totals},
            "ended": int(Ended.GOING),
            "bad_step": -1,
            "bad_parts": {},
            "condition_met": False,
            "spread": {"data": 1.0},
        }
        | named
    )


def held(
    broken: float = 0.0,
    *,
    slope: float = 1e-4,
    level: float | None = None,
    untouched: bool = False,
    slack: float = 0.0,
    nearby: float | None = 1.0,
    **record: Any,
) -> Certificate:
    """Of one constraint that is broken by so much."""
    found = ConstraintRecord(
        "cap",
        "at most",
        False,
        5,
        1.0,
        1.0 + broken,
        broken,
        broken,
        0.5,
        1.0,
        0.0,
        slack,
        1e3,
        untouched,
        **{"reached": True, "pressed": True} | record,
    )
    norms = {"data": 1.0, "cap": 1.0}
    return Certificate(slope, broken, 0.0, slack, 1.0, norms, level, "all examples", (found,), nearby)


def constrained(totals: Any, violations: Any, certificate: Certificate, **named: Any) -> Trace:
    return trace(totals, violations={"cap": list(violations)}, certificate=certificate, **named)


T = np.linspace(0, 1, N)
FALLING, STUCK = [1.0, 0.5, 0.3, 0.1], [1.0, 0.4, 0.4, 0.4]
CASES: dict[str, tuple[Trace, Status]] = {
    # a multiplier that rises lifts the objective
    "a constraint that holds at a stationary point": (constrained(np.exp(5 * T), FALLING, held()), Status.CONVERGED),
    "one that holds while the loss falls": (
        constrained(np.exp(-3 * T), FALLING, held(slope=0.5)),
        Status.STILL_IMPROVING,
    ),
    # stricter than it was: what rests where forces do not balance has found no constrained optimum
    "one that holds where the loss rests, at no optimum": (
        constrained(1 + np.exp(-40 * T), FALLING, held(slope=0.5)),
        Status.STALLED,
    ),
    "one that holds where the loss has arrived": (
        constrained(1 + np.exp(-40 * T), FALLING, held(slope=5e-3)),
        Status.CONVERGED,
    ),
    # a slack constraint proves nothing: the walk is judged as it would be without
    "one that is slack where the loss has grown": (
        constrained(np.exp(5 * T), [0.0] * 4, held(slope=0.5)),
        Status.DIVERGED,
    ),
    "one that is slack and one output for all": (
        constrained(np.exp(-3 * T), [0.0] * 4, held(), spread={"data": 1e-9}),
        Status.TRIVIAL_SOLUTION,
    ),
    "one that is slack after a failed search": (
        constrained(np.exp(-3 * T), [0.0] * 4, held(), ended=int(Ended.FAILED)),
        Status.LINE_SEARCH_FAILED,
    ),
    "one that holds while an optimizer has not done its work": (
        constrained(np.exp(-40 * T), FALLING, held(), unfinished=Finding("path", "half way", "walk on")),
        Status.STILL_IMPROVING,
    ),
    "one whose multiplier pushes from within": (
        constrained(1 + np.exp(-40 * T), FALLING, held(slack=0.3, untouched=True)),
        Status.STALLED,
    ),
    # a large balanced pair of forces makes the residual small, and hides that the rest still moves
    "one where a balanced pair hides the rest": (
        constrained(np.exp(-3 * T), FALLING, held(slope=5e-3)),
        Status.STILL_IMPROVING,
    ),
    "one that the last phase cannot change": (
        constrained(1 + T, STUCK, held(0.4, level=0.0, reached=False)),
        Status.STALLED,
    ),
    "one at a saddle": (constrained(1 + T, STUCK, held(0.4, level=1e-9, nearby=0.5)), Status.STALLED),
    "one whose penalty never grew": (constrained(1 + T, STUCK, held(0.4, level=1e-9, pressed=False)), Status.STALLED),
    "one that is not met yet": (constrained(1 + T, FALLING, held(0.1, level=9.0)), Status.STILL_IMPROVING),
    "one that is level but falls": (constrained(1 + T, FALLING, held(0.1, level=1e-9)), Status.STILL_IMPROVING),
    "one that stays where it is": (constrained(1 + T, STUCK, held(0.4, level=9.0)), Status.STALLED),
    "one that cannot be met": (constrained(1 + T, STUCK, held(0.4, level=1e-9)), Status.INFEASIBLE),
    "one without a value": (constrained(1 + T, STUCK, held(math.nan)), Status.DIVERGED),
    "an exponential that has arrived": (trace(1e-3 + np.exp(-20 * T)), Status.CONVERGED),
    "noise about a level": (trace(1e-2 + np.exp(-30 * T) + 1e-3 * NOISE), Status.CONVERGED),
    "an exponential on its way": (trace(np.exp(-3 * T)), Status.STILL_IMPROVING),
    "on its way down to nothing": (trace(np.exp(-30 * T)), Status.STILL_IMPROVING),
    # 0.8 % a quarter looks like arrival, but it is a quarter of all that was gained
    "a straight crawl": (trace(1 - 0.032 * T), Status.STILL_IMPROVING),
    "progress under heavy noise": (trace(1 - 0.5 * T + 0.1 * NOISE), Status.STILL_IMPROVING),
    "no progress that noise would let one see": (trace(1 - 0.005 * T + 0.1 * NOISE), Status.STALLED),
    "nothing": (trace(np.ones(N)), Status.STALLED),
    "next to nothing": (trace(1 - 1e-6 * T), Status.STALLED),
    "a row or two": (trace([1.0, 0.5]), Status.STILL_IMPROVING),
    "a single row": (trace([1.0]), Status.STALLED),
    "growth": (trace(np.exp(5 * T)), Status.DIVERGED),
    "growth after success": (trace(np.where(T < 0.7, np.exp(-20 * T), 0.5)), Status.DIVERGED),
    "a rise towards the end": (trace(np.where(T < 0.7, 0.3, 0.3 + (T - 0.7))), Status.STALLED),
    # log-likelihoods cross zero, where nothing is relative
    "a likelihood that has arrived": (trace(2 * np.exp(-20 * T) - 1.0), Status.CONVERGED),
    "a likelihood that ends at zero": (trace(np.exp(-20 * T) - 1e-4 * NOISE), Status.CONVERGED),
    "a likelihood on its way": (trace(1 - 2 * T), Status.STILL_IMPROVING),
    "a likelihood that comes back": (trace(0.01 - 1.2 * np.sin(np.pi * T * 0.7)), Status.STALLED),
    "nothing left to resolve": (trace(np.ones(N), ended=int(Ended.CONVERGED)), Status.CONVERGED),
    "a failed search": (trace(np.exp(-3 * T), ended=int(Ended.FAILED)), Status.LINE_SEARCH_FAILED),
    "a condition": (trace(np.exp(-3 * T), condition_met=True), Status.CONVERGED),
    "one output for all": (trace(np.exp(-3 * T), spread={"data": 1e-9}), Status.TRIVIAL_SOLUTION),
    "not finite": (trace([1.0, math.inf], bad_step=17, bad_parts={"data": math.inf}), Status.DIVERGED),
    # the second phase is judged by itself, the gain by the whole run
    "a second phase that changes nothing": (
        trace([*np.exp(-3 * T[:50]), *np.full(50, np.exp(-1.5))], begin=50),
        Status.CONVERGED,
    ),
    "a game that circles on": (trace(np.sin(3 * T), descends=False), Status.STILL_IMPROVING),
    "a game at rest": (trace(0.7 + np.exp(-20 * T), descends=False), Status.CONVERGED),
    "a game whose value has grown": (trace(0.1 + 3 * (1 - np.exp(-20 * T)), descends=False), Status.CONVERGED),
    "still falling, but not the validation score": (
        trace(np.exp(-3 * T), validation=1 + (T - 0.3) ** 2),
        Status.CONVERGED,
    ),
    "still falling, and the validation score too": (trace(np.exp(-3 * T), validation=2 - T), Status.STILL_IMPROVING),
}


@pytest.mark.parametrize(("given", "status"), CASES.values(), ids=CASES)
def test_constructed(given: Trace, status: Status) -> None:
    verdict = judge(given)
    assert verdict.status is status, verdict
    assert verdict.evidence
    assert bool(verdict.remedy) == (status is not Status.CONVERGED)


@pytest.mark.parametrize(
    ("validation", "found"),
    [
        (1 + (T - 0.3) ** 2, True),
        (1 + (T - 0.3) ** 2 + 0.02 * NOISE, True),
        (1 + np.exp(-5 * T), False),
        # the least of a hundred noisy looks is low by chance and says nothing
        (1 + 0.2 * NOISE, False),
        (np.where(np.arange(N) % 10 == 9, 1 + (T - 0.3) ** 2, math.nan), True),  # looked at every tenth row
        (2 * (T - 0.3) ** 2 - 1e-3, True),  # a likelihood whose best is about zero
        ([*[math.nan] * 97, 3, 1, 2], False),
    ],
)
def test_overfitting_is_a_rise_beyond_noise(validation: Any, found: bool) -> None:
    verdict = judge(trace(np.exp(-3 * T), validation=list(validation)))
    assert [finding.name for finding in verdict.findings] == ["overfitting"] * found
    if found:
        # The best look is at row 30, step 310, give or take half a window of ten rows.
        step = int(verdict.findings[0].evidence.split("about step ")[1].split(",")[0])
        assert abs(step - 310) <= 100


def test_a_term_is_badly_scaled_only_if_it_stays_so() -> None:
    small, large = np.full(N, 1.0), 1e6 * np.exp(-T)
    found = judge(trace(large, parts={"edge": small, "heat": large})).findings
    assert [one.name for one in found] == ["badly-scaled"]
    assert "'heat' weighs 1e+06, term 'edge' 1" in found[0].evidence
    satisfied = np.where(T < 0.05, 1e-9, 1e5)  # zero at the start because the network is
    assert not judge(trace(large, parts={"edge": satisfied, "heat": large})).findings
    assert not judge(trace(large, parts={"edge": 0 * small, "heat": large})).findings  # a penalty not in force


def test_a_cost_that_is_not_finite_is_named() -> None:
    late = judge(trace([1.0], bad_step=17, bad_parts={"heat": math.nan, "edge": 1.0}))
    assert "'heat' was not finite at step 17" in late.evidence
    assert "rate" in late.remedy
    first = judge(trace([math.nan], bad_step=0, bad_parts={"heat": 1.0, "edge": 1.0}))
    assert "the weighted sum was not finite at step 0" in first.evidence
    assert "data" in first.remedy


def test_verdicts_survive_json() -> None:
    given = Verdict(Status.STALLED, "x", "y", (Finding("overfitting", "a", "b"), Finding("badly-scaled", "c", "d")))
    text = json.dumps(given.to_json())
    assert json.loads(text)["status"] == "stalled"
    assert Verdict.from_json(json.loads(text)) == given


@pytest.mark.parametrize(
    ("violations", "untouched", "remedy"),
    [([], True, "No refresh"), (STUCK, True, "No multiplier has moved"), (FALLING, False, "Train longer")],
)
def test_a_constraint_that_is_not_met_is_a_finding(violations: Any, untouched: bool, remedy: str) -> None:
    (found,) = judge(constrained(1 + T, violations, held(0.4, level=9.0, untouched=untouched))).findings
    assert found.name == "constraint-unmet"
    assert "'cap' is broken by 0.4" in found.evidence
    assert found.remedy.startswith(remedy)
    assert not judge(constrained(1 + T, FALLING, held(1e-4))).findings
    assert not judge(constrained(1 + T, STUCK, held(0.4, level=1e-9))).findings  # the status has said it


def test_what_a_constrained_walk_lacks_is_named() -> None:
    slack = judge(constrained(1 + np.exp(-40 * T), FALLING, held(slack=0.3, untouched=True)))
    assert "'cap' pushes although" in slack.evidence
    assert slack.remedy.startswith("No multiplier has moved")
    fixed = judge(constrained(1 + T, STUCK, held(0.4, level=0.0, reached=False)))
    assert "does not train what 'cap' depends on" in fixed.evidence


def test_a_best_model_by_validation_that_breaks_a_constraint_is_a_finding() -> None:
    seen = {"validation": 1 + (T - 0.3) ** 2, "validated": True}
    given = constrained(1 + T, [0.4, 0.1, 1e-5], held(0.2, level=1e-9), **seen)
    verdict = judge(given)
    assert verdict.status is Status.STALLED
    found = next(one for one in verdict.findings if one.name == "validation-breaks-constraint")
    assert "breaks 'cap' by 0.2" in found.evidence
    assert "held to 1.0e-05" in found.evidence
    met = judge(constrained(1 + T, [0.4, 0.1, 1e-5], held(), **seen))
    assert "validation-breaks-constraint" not in [one.name for one in met.findings]


def test_exit_statuses() -> None:
    failures = {Status.DIVERGED, Status.LINE_SEARCH_FAILED, Status.TRIVIAL_SOLUTION, Status.INFEASIBLE}
    expected = {status: 1 if status in failures else 0 for status in Status} | {Status.INTERRUPTED: 130}
    assert {status: status.exit_status for status in Status} == expected


# ------------------------------------------------------------------------------------------------------- real trainings
X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]


def curve(**named: Any) -> Objective:
    noise = 0.1 * np.random.default_rng(0).normal(size=X.shape).astype(np.float32)  # so that there is a floor
    return Objective(data=Supervised(X, np.sin(3 * X) + noise, loss=squared_error, **named))


def network(**named: Any) -> MLP:
    return MLP(1, 1, **{"width": 16, "depth": 2, "key": jax.random.key(0), "activation": jnp.tanh} | named)


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (Phase(LevenbergMarquardt(), 100, precision=np.float64), Status.CONVERGED),
        (Phase(Adam(1e-2), 2_000, until=LossBelow(0.05)), Status.CONVERGED),
        (Phase(Adam(1e-3), 100), Status.STILL_IMPROVING),
        (Phase(SGD(1e-12), 200), Status.STALLED),
        ([Phase(Adam(1e-3), 100), Phase(SGD(1e-12), 100)], Status.CONVERGED),
    ],
)
def test_how_a_training_ends(program: Any, status: Status) -> None:
    fitted = fit(network(width=3, depth=1), curve(), program)
    assert fitted.verdict.status is status, fitted.verdict


def test_a_huge_rate_diverges_and_the_failure_carries_the_fit() -> None:
    start = network()
    with pytest.raises(FitFailed, match="diverged: the cost of 'data' was not finite at step") as caught:
        fit(start, curve(), Phase(SGD(1e6), 300))
    assert caught.value.exit_status == 1
    fitted: Any = caught.value.fit
    assert fitted.verdict.status is Status.DIVERGED
    values = jax.vmap(fitted.model)(X)
    assert bool(jnp.isfinite(values).all())
    assert fit(start, curve(), Phase(SGD(1e6), 300), raise_failures=False).verdict == fitted.verdict


def test_growth_without_overflow_diverges() -> None:
    # One weight, cost (w x - x)²: gradient descent multiplies the error by 1 - 2·rate·mean(x²) each step, which for
    # rate 4 is about -1.75: the cost grows threefold, and 40 steps do not reach the end of float32.
    line = Objective(line=Residual(lambda w, x: w * x - x, X))
    verdict = fit(jnp.array([0.0]), line, Phase(SGD(4.0), 40), raise_failures=False).verdict
    assert verdict.status is Status.DIVERGED
    assert "the objective grew" in verdict.evidence


def test_a_wrong_gradient_fails_the_line_search() -> None:
    @jax.custom_vjp
    def wrong(x: jax.Array) -> jax.Array:
        return x

    wrong.defvjp(lambda x: (x, None), lambda _, g: (-g,))  # the sign of every derivative through it is turned
    objective = Objective(bowl=Residual(lambda m, x: wrong(m(x) - jnp.sin(3 * x)), X))
    with pytest.raises(FitFailed, match="line-search-failed: no decrease along the steepest descent"):
        fit(network(), objective, Phase(LBFGS(), 200, redraw=0))


def test_a_dead_network_is_trivial() -> None:
    dead = network(activation=jax.nn.relu)
    dead = eqx.tree_at(lambda m: m.layers[0].bias, dead, jnp.full(16, -100.0))
    with pytest.raises(FitFailed, match="trivial-solution: term 'data': the model gives the same output") as caught:
        fit(dead, curve(), Phase(Adam(1e-2), 300))
    assert caught.value.exit_status == 1


@pytest.mark.slow
def test_overfitting_twenty_noisy_points() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (220, 1)).astype(np.float32)
    y = (np.sin(3 * x) + 0.5 * rng.normal(size=x.shape)).astype(np.float32)
    term = lambda rows: Objective(data=Supervised(x[rows], y[rows], loss=squared_error))
    fitted = fit(
        network(width=64), term(slice(20)), Phase(Adam(1e-2), 2_000), validation=term(slice(20, 220)), log_every=20
    )
    assert "overfitting" in [finding.name for finding in fitted.verdict.findings]
    held_out = lambda model: float(jnp.mean((jax.vmap(model)(x[20:]) - y[20:]) ** 2))
    best = min(row["validation"]["total"] for row in fitted.rows)
    # The model returned is the best one: its score is the lowest that was logged, up to the order of a float32 sum.
    assert held_out(fitted.model) == pytest.approx(best, rel=1e-5)
    assert fitted.verdict.status in (Status.CONVERGED, Status.STALLED)  # never "train longer" beside "overfitting"


def test_badly_scaled_terms() -> None:
    objective = Objective(
        near=Supervised(X, np.sin(3 * X), loss=squared_error),
        far=Supervised(X, 1e4 * np.sin(3 * X), loss=squared_error),
    )
    fitted = fit(network(), objective, Phase(Adam(1e-3), 100), raise_failures=False)
    assert "term 'far' weighs" in fitted.verdict.findings[0].evidence


def test_members_are_judged_apart() -> None:
    # Of the same program: one starts at the solution, one is dead, one learns.
    exact = fit(network(), curve(), Phase(LBFGS(), 500, redraw=0)).model
    dead = eqx.tree_at(lambda m: m.layers[0].bias, network(), jnp.full(16, 1e9))  # tanh is flat there
    found = fit_many([exact, dead, network()], curve(), Phase(Adam(1e-4), 200), raise_failures=False)
    assert [one.status for one in found.verdicts][1:] == [Status.TRIVIAL_SOLUTION, Status.STILL_IMPROVING]
    with pytest.raises(FitFailed, match=r"trivial-solution.*\(member 1\)") as caught:
        fit_many([exact, dead, network()], curve(), Phase(Adam(1e-4), 200))
    fitted: Any = caught.value.fit
    assert len(fitted.models) == 3


class Pair(eqx.Module):
    x: jax.Array
    y: jax.Array


def test_a_game_is_not_judged_by_its_value() -> None:
    # x·y + (x² - y²)/2 has its saddle at 0, and x, who wants it low, starts close to it: the value grows. (The root
    # is taken because a residual's square counts.)
    value = lambda m, _: jnp.sqrt(2 + m.x * m.y + (m.x**2 - m.y**2) / 2)
    game = Players(
        {"x": Player(SGD(0.05), only(lambda m: m.x)), "y": Player(SGD(0.05), only(lambda m: m.y), {"value": -1.0})},
        cycle=("x", "y"),
    )
    start = Pair(jnp.array(0.01), jnp.array(1.4))
    fitted = fit(start, Objective(value=Residual(value, np.zeros((1, 1), np.float32))), Phase(game, 1_000))
    assert fitted.verdict.status is Status.CONVERGED
    assert "game" in fitted.verdict.evidence
    assert abs(float(fitted.model.x)) + abs(float(fitted.model.y)) < 1e-3


def test_traces_can_be_replaced() -> None:
    assert judge(replace(trace(np.ones(N)), condition_met=True)).status is Status.CONVERGED


class Doubtful(eqx.Module):
    """A line that has something to say of itself."""

    slope: jax.Array

    def __call__(self, x: jax.Array, *, key: Any = None) -> jax.Array:
        return self.slope * x

    def findings(self, x: jax.Array) -> tuple[Finding, ...]:
        return (Finding("step-limit", f"{len(x)} answers were not finished", "Allow more steps."),)


def test_what_a_model_says_of_its_answers_is_in_the_verdict() -> None:
    x = np.linspace(-1, 1, 8)[:, None]
    data = Supervised(x, 2 * x, loss=squared_error)
    found = fit(Doubtful(jnp.ones(1)), Objective(data=data, again=data), Phase(Adam(1e-2), 20))
    assert [one.name for one in found.verdict.findings].count("step-limit") == 1
    assert "8 answers" in found.verdict.findings[-1].evidence


def test_the_same_answer_to_the_same_input_is_no_trivial_solution() -> None:
    replicates = np.ones((8, 1))
    y = 2 + 0.1 * np.random.default_rng(0).normal(size=(8, 1))
    data = Supervised(replicates, y, loss=squared_error)
    found = fit(Doubtful(jnp.ones(1)), Objective(data=data), Phase(Adam(1e-1), 100))
    assert found.verdict.status is not Status.TRIVIAL_SOLUTION


def test_a_moved_weight_counts_from_where_it_moved() -> None:
    rows = [
        {"parts": {"law": 2.0, "edge": 1.0}},
        {"parts": {"law": 2.0, "edge": 1.0}, "refresh": {"edge/weight": 5.0, "edge/violation": 0.1}},
        {"parts": {"law": 1.0, "edge": 0.5}},
    ]
    found = weighed(rows, {"law": 3.0, "edge": 1.0}, lambda value: value)
    assert found == {"law": [6.0, 6.0, 3.0], "edge": [1.0, 1.0, 2.5]}


def test_the_example_to_blame_is_in_the_evidence() -> None:
    verdict = judge(trace([math.nan], bad_step=0, bad_parts={"heat": math.nan}, bad_example="1 of 8 examples, at (0)"))
    assert "'heat' was not finite at step 0: 1 of 8 examples, at (0)" in verdict.evidence
    assert "0/0" in verdict.remedy

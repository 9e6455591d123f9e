"""The loop's side of the contract: batches, conditions and endings of each member on its own, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.losses import SquaredError, squared_error
from thalweg.nn import MLP, BatchNorm, Linear, Sequential
from thalweg.objective import (
    AbstractTerm,
    FreshPoints,
    HeldPoints,
    HostRows,
    NoExamples,
    Objective,
    Residual,
    Rows,
    Supervised,
    only,
    trainable,
)
from thalweg.objective.keys import named_key
from thalweg.objective.order import order_words, rows_of_batch
from thalweg.optim import LBFGS, SGD, Adam, Averaged, Cosine, LevenbergMarquardt, Player, Players
from thalweg.train import (
    AbstractCondition,
    FitFailed,
    Layout,
    LossBelow,
    Mode,
    NoImprovement,
    Phase,
    Plateau,
    SignalToNoise,
    Status,
    When,
    fit,
    fit_many,
)


class Place(eqx.Module):
    """A model that is one number, or a vector."""

    x: jax.Array


def at(*x):
    return Place(jnp.asarray(x, np.float32))


class Cost(AbstractTerm):
    """A cost of the parameters alone."""

    function: object
    weight: float = 1.0
    source: NoExamples = NoExamples()

    def batch_loss(self, model, examples, key):
        return self.function(model.x), None


BOWL = Objective(bowl=Cost(lambda x: jnp.sum(x**2)))


# ------------------------------------------------------------------------------------------------------------- batches
class Slope(AbstractTerm):
    """x · example: its gradient is the example, so the walk tells which examples it met."""

    source: object
    weight: float = 1.0

    def loss(self, model, example, key):
        return model.x[0] * example


@pytest.mark.parametrize("hold", [Rows, HostRows])
@pytest.mark.parametrize(("redraw", "drawn"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 0, 0, 1, 1, 1, 2]), (0, [0] * 7)])
def test_a_batch_lasts_as_many_steps_as_the_phase_says(hold, redraw, drawn):
    values = np.random.default_rng(0).normal(size=23).astype(np.float32)
    objective = Objective(slope=Slope(hold(values, batch_size=10)))
    found = fit(at(1.0), objective, Phase(SGD(0.1), 7, redraw=redraw), log_every=1)
    words = order_words(jax.random.split(named_key(named_key(jax.random.key(0), "objective"), "slope"))[0])
    x = 1.0
    for row, number in zip(found.rows, drawn, strict=True):
        mean = np.mean(values[rows_of_batch(np.asarray(words), number, 10, 23, np)])
        assert np.isclose(row["last"], x * mean, rtol=1e-5)  # float32, means of ten numbers
        x -= 0.1 * mean
    assert np.isclose(found.model.x[0], x, rtol=1e-5)


def test_phases_follow_each_other_without_meeting_a_batch_twice():
    values = np.arange(1.0, 9.0, dtype=np.float32)
    objective = Objective(slope=Slope(Rows(values, batch_size=2)))
    program = [Phase(SGD(0.1), 1), Phase(SGD(0.1), 2, redraw=2), Phase(SGD(0.1), 1)]
    found = fit(at(1.0), objective, program, log_every=1)
    x, means = 1.0, []
    for row in found.rows:
        means.append(row["last"] / x)
        x -= 0.1 * means[-1]
    # steps 2 and 3 share a batch: three batches of the epoch's four, no two rows twice
    assert np.isclose(means[1], means[2], rtol=1e-4)
    words = order_words(jax.random.split(named_key(named_key(jax.random.key(0), "objective"), "slope"))[0])
    expected = [np.mean(values[rows_of_batch(np.asarray(words), i, 2, 8, np)]) for i in (0, 1, 1, 2)]
    assert np.allclose(means, expected, rtol=1e-4)


# ----------------------------------------------------------------------------------------------------------- conditions
@pytest.mark.parametrize("layout", [Layout.IN_TURN, Layout.VMAPPED])
@pytest.mark.parametrize("mode", list(Mode))
def test_a_member_that_has_arrived_is_held_while_the_others_go_on(layout, mode):
    models = [at(1.0, 2.0), at(10.0, 20.0), at(0.5, 0.3)]
    phase = Phase(SGD(0.01), 500, until=LossBelow(0.1, every=10))
    found = fit_many(models, BOWL, [phase, Phase(SGD(1e-3), 20)], layout=layout, mode=mode, log_every=10)
    decisions = [row for row in found.decisions if row["what"].startswith("LossBelow met")]
    # ‖x‖²·0.98^2k < 0.1, averaged over the ten steps before the look
    ends = {}
    for i, square in enumerate((5.0, 500.0, 0.34)):
        steps = np.arange(500)
        ends[i] = next(k for k in range(10, 500, 10) if np.mean(square * 0.98 ** (2 * steps[k - 10 : k])) < 0.1)
    assert [(row["step"], row["what"].split(":")[0]) for row in decisions] == [
        (ends[i], f"LossBelow met for member {i}") for i in (2, 0, 1)
    ]
    for row, i in zip(decisions, (2, 0, 1), strict=True):
        assert row["total"][i] < 0.1
        assert row["met"][i] is True
    first = [row for row in found.rows if row["phase"] == 0]
    assert [row["step"] for row in first] == list(range(10, ends[1] + 1, 10))  # on until the last has arrived
    for i in ends:
        held = [row for row in first if row["step"] > ends[i]]
        assert all(row["run_step"][i] == ends[i] for row in held)
        # what is logged of a held member is where it stands, not nought
        assert all(row["total"][i] == row["last"][i] == first[ends[i] // 10 - 1]["last"][i] for row in held)
    # held bit for bit: as if its phase had had just so many steps
    alone = fit_many(models, BOWL, [Phase(SGD(0.01), ends[2])], layout=layout, mode=mode, log_every=10)
    again = fit_many(models, BOWL, [phase], layout=layout, mode=mode, log_every=10)
    assert np.array_equal(alone.models[2].x, again.models[2].x)
    # and the next phase moves all of them
    for one, other in zip(again.models, found.models, strict=True):
        assert not np.array_equal(one.x, other.x)
    assert all(verdict.status is Status.CONVERGED for verdict in again.verdicts)


def test_a_member_whose_optimizer_has_ended_is_held_and_the_decision_logged():
    found = fit_many([at(1.0, 2.0), at(10.0, 20.0)], BOWL, Phase(LBFGS(), 60), layout=Layout.VMAPPED, log_every=1)
    ends = {row["what"]: row["step"] for row in found.decisions}
    assert set(ends) == {f"LBFGS converged for member {i}: phase 1 ends" for i in (0, 1)}
    assert found.rows[-1]["step"] == max(ends.values()) < 60
    assert found.rows[-1]["run_step"] == [ends[f"LBFGS converged for member {i}: phase 1 ends"] for i in (0, 1)]
    assert all(verdict.status is Status.CONVERGED for verdict in found.verdicts)


def one_point_at_a_time(kind):
    """‖x − z‖² for one z, then another: each landscape has a minimum of its own, which can be reached exactly."""
    if kind is HeldPoints:
        points, refresh_every = HeldPoints(lambda key, n: jax.random.normal(key, (n, 2)), 1), 40
    else:
        points, refresh_every = Rows(np.random.default_rng(0).normal(size=(20, 2)), batch_size=1), 0
    return Objective(data=Residual(lambda m, z: m.x - z, points), refresh_every=refresh_every)


@pytest.mark.parametrize("kind", [HeldPoints, Rows])
def test_an_optimizer_that_has_ended_on_one_landscape_waits_for_the_next(kind):
    found = fit(at(1.0, 2.0), one_point_at_a_time(kind), Phase(LBFGS(), 200, redraw=40), log_every=5)
    assert found.rows[-1]["step"] == 200
    assert found.decisions == []
    moved = np.array([row["accepted"] for row in found.rows]).reshape(5, 8)
    assert np.all(moved.max(axis=1) > 0)  # each landscape of forty steps was walked on
    assert np.all(moved[:, -1] == 0)  # and waited on at its end


class Patient(AbstractCondition):
    """Met at a look whose number is given, by a state of its own."""

    looks: int
    every: int = eqx.field(static=True, default=5)

    def init(self, dtype):
        return jnp.zeros((), jnp.int32)

    def check(self, problem, params, monitor, state, key):
        return state + 1, state + 1 >= self.looks, {"looks": state + 1, "step": monitor.step}


def test_a_condition_has_a_state_of_its_own_in_each_phase():
    found = fit(at(1.0), BOWL, [Phase(SGD(0.01), 50, until=Patient(3)), Phase(SGD(0.01), 50, until=Patient(2))])
    assert [(row["phase"], row["step"], row["looks"]) for row in found.decisions] == [(0, 15, 3), (1, 10, 2)]


def test_plateau_counts_looks_without_improvement():
    phase = Phase(SGD(0.1), 1_000, until=Plateau(patience=3, improvement=0.01, every=10))
    found = fit(at(1.0), Objective(bowl=Cost(lambda x: jnp.sum(x**2) + 1.0)), phase)
    # x² + 1 from x = 1 with x ← 0.8x: means over ten steps are 1.277, 1.003, 1.00004, …; the second is the last that is
    # better by a hundredth, so the fifth look ends the phase
    assert [row["step"] for row in found.decisions] == [50]


def test_patience_begins_anew_with_each_phase():
    # the validation score never improves after the first look of phase 1
    objective, validation = BOWL, Objective(away=Cost(lambda x: -jnp.sum(x**2)))
    stop = NoImprovement(30, every=10)
    program = [Phase(SGD(0.01), 100), Phase(SGD(0.01), 100, until=stop)]
    found = fit(at(1.0), objective, program, validation=validation, validate_every=10, log_every=10)
    (decision,) = found.decisions
    assert (decision["phase"], decision["step"], decision["since"]) == (1, 30, 30)
    # and the best weights are kept: those of the first look
    assert np.isclose(found.model.x[0], 0.98**10, rtol=1e-5)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (1.0, "float"),
        (None, "NoneType"),
        (jnp.ones(()), "float32 of shape"),
        (jnp.ones(2, bool), r"bool of shape \(2,\)"),
    ],
)
def test_refuses_predicates_that_do_not_answer(answer, found):
    with pytest.raises(UserError, match=rf"must answer with one boolean, not {found}.* \(When\)"):
        fit(at(1.0), BOWL, Phase(SGD(0.01), 10, until=When(lambda monitor: answer, every=5)))


# --------------------------------------------------------------------------------------------------------- bad endings
CLIFF = Objective(
    fine=Cost(lambda x: -jnp.sum(x)),
    broken=Cost(lambda x: 0 * jnp.sum(jnp.log(1.05 - x))),  # not finite beyond 1.05
)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("log_every", [1, 4, 100])
def test_a_cost_that_is_not_finite_ends_the_run_and_names_term_and_step(mode, log_every):
    # from 0, a tenth a step: the cost is first evaluated beyond the cliff at step 11 (counted from 0), at x = 1.1
    with pytest.raises(FitFailed, match="cost of 'broken' was not finite at step 11") as failure:
        fit(at(0.0), CLIFF, Phase(SGD(0.1), 40), mode=mode, log_every=log_every)
    found = failure.value.fit
    assert found.verdict.status is Status.DIVERGED
    assert np.all(np.isfinite(found.model.x))
    assert [row["what"] for row in found.decisions] == ["cost not finite: phase 1 ends"]


@pytest.mark.parametrize("layout", [Layout.IN_TURN, Layout.VMAPPED])
def test_one_member_that_fails_takes_no_other_with_it(layout):
    program = [Phase(SGD(0.1), 20), Phase(SGD(0.01), 20)]
    found = fit_many([at(0.0), at(-9.0)], CLIFF, program, layout=layout, log_every=5, raise_failures=False)
    assert found.verdicts[0].status is Status.DIVERGED
    assert found.verdicts[1].status.exit_status == 0
    assert "cost of 'broken' was not finite at step 11" in found.verdicts[0].evidence
    assert np.isfinite(found.models[0].x[0])
    assert np.isclose(found.models[1].x[0], -9 + 20 * 0.1 + 20 * 0.01, rtol=1e-5)
    with pytest.raises(FitFailed, match=r"\(member 0\)"):
        fit_many([at(0.0), at(-9.0)], CLIFF, program, layout=layout, log_every=5)


def test_a_condition_is_not_met_by_a_cost_that_is_not_finite():
    phase = Phase(SGD(0.1), 40, until=When(lambda monitor: ~jnp.isfinite(monitor.total), every=4))
    with pytest.raises(FitFailed, match="not finite at step 11") as failure:
        fit(at(0.0), CLIFF, phase, log_every=4)
    assert [row["what"] for row in failure.value.fit.decisions] == ["cost not finite: phase 1 ends"]


# ----------------------------------------------------------------------------------------------------------- precision
@pytest.mark.parametrize("source", [HeldPoints, FreshPoints])
@pytest.mark.slow
def test_each_phase_has_its_own_precision_also_for_points_that_are_drawn(source):
    points = source(lambda key, n: jax.random.uniform(key, (n, 1)), 16)
    objective = Objective(line=Residual(lambda u, z: u(z) - 2 * z, points), refresh_every=10)
    model = MLP(1, 1, width=4, depth=1, activation=jnp.tanh, key=jax.random.key(0))
    program = [
        Phase(Adam(1e-2), 30),
        Phase(LevenbergMarquardt(), 30, precision=np.float64),
        Phase(Adam(1e-3), 30, precision=np.float32),
    ]
    found = fit(model, objective, program, log_every=10)
    assert [row["precision"] for row in found.conduct] == ["float32", "float64", "float32"]
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(found.model, eqx.is_array))} == {np.dtype(np.float32)}
    assert found.rows[5]["last"] < 1e-2 * found.rows[2]["last"]
    assert not jax.config.read("jax_enable_x64")


@pytest.mark.parametrize("hold", [Rows, HostRows])
def test_data_of_64_bits_reach_a_phase_of_64_bits_whole(hold):
    third = np.full((8, 1), 1 / 3)  # 1/3 in float32 is off by 1e-8
    objective = Objective(slope=Slope(hold(third[:, 0], batch_size=4)))
    found = fit(at(0.0), objective, Phase(SGD(1.0), 3), precision=np.float64, log_every=1)
    # −1/3 three times: exact to rounding of 1e-16
    assert abs(float(found.model.x[0]) + 1.0) < 1e-15
    assert abs(found.rows[1]["last"] + 1 / 9) < 1e-16


# -------------------------------------------------------------------------------------------------------------- manners
def test_the_callers_own_arrays_survive():
    model, values = at(1.0), jnp.arange(1.0, 9.0)
    objective = Objective(slope=Slope(Rows(values, batch_size=2)))
    first = fit(model, objective, Phase(SGD(0.1), 5)).model
    second = fit(model, objective, Phase(SGD(0.1), 5)).model
    assert np.array_equal(first.x, second.x)
    assert float(model.x[0]) == 1
    assert float(values.sum()) == 36
    many = fit_many([model, model], objective, Phase(SGD(0.1), 5), layout=Layout.VMAPPED)
    assert float(model.x[0]) == 1
    assert np.isfinite(many.models[0].x[0])


def test_modes_are_chosen_by_the_stated_rule():
    x = np.ones((8, 4, 4, 1), np.float32)
    conv = Objective(
        data=Residual(lambda m, z: jax.lax.conv(z[None, ..., 0][None], m.x[None, None], (1, 1), "SAME"), Rows(x))
    )
    kernel = Place(jnp.ones((3, 3)))
    assert fit(kernel, conv, Phase(SGD(1e-3), 2)).conduct[0]["mode"] == "step"
    assert fit(at(1.0), BOWL, Phase(SGD(1e-3), 2)).conduct[0]["mode"] == "loop"
    host = Objective(slope=Slope(HostRows(np.ones(8), batch_size=4)))
    assert fit(at(1.0), host, Phase(SGD(1e-3), 2)).conduct[0]["mode"] == "step"


# -------------------------------------------------------------------------------------------------------------- refused
X = np.random.default_rng(0).normal(size=(12, 3))
Y = X[:, :1]


def mlp(**kwargs):
    return MLP(3, 1, **{"width": 4, "depth": 1, "key": jax.random.key(0)} | kwargs)


def data(loss=squared_error, **kwargs):
    return Objective(data=Supervised(X, Y, loss=loss, **kwargs))


def normalized():
    return Sequential([Linear(3, 2, key=jax.random.key(0)), BatchNorm(2), Linear(2, 1, key=jax.random.key(1))])


LM = Phase(LevenbergMarquardt(), 2, precision=np.float64)
ADAM = Phase(Adam(1e-2), 2)


def absolute(output, target):
    return jnp.sum(jnp.abs(output - target))


def vector(output, target):
    return (output - target) ** 2


def host():
    return Objective(data=Supervised(HostRows((X, Y), batch_size=4), loss=squared_error))


def phase(steps=2, **kwargs):
    return Phase(Adam(1e-2), steps, **kwargs)


# message -> what is refused by it
REFUSED = {
    r"has a loss but no residual.* \(term 'data'\)": lambda: fit(mlp(), data(absolute), LM),
    "works in float64, but the parameters are float32": lambda: fit(mlp(), data(), Phase(LevenbergMarquardt(), 2)),
    r"couples the examples of a batch \(term 'data'\)": lambda: fit(normalized(), data(), LM),
    r"couples the examples of a batch \(term 'bowl'\)": lambda: fit(at(1.0), BOWL, LM),
    r"must be a scalar, shape \(\), not \(1,\) \(term 'data'\)": lambda: fit(mlp(), data(vector), ADAM),
    "nothing is left to train": lambda: fit(mlp(), data(), phase(where=only(lambda m: m.layers[1]))),
    "not of the model's structure": lambda: fit(mlp(), data(), phase(where=lambda m: True)),
    "steps must be a whole number of at least 1, not 0": lambda: phase(0),
    "steps must be a whole number of at least 1, not 2.5": lambda: phase(2.5),
    "redraw must be a whole number of at least 0, not -1": lambda: phase(redraw=-1),
    "an optimizer is needed, not the class Adam itself": lambda: Phase(Adam, 2),
    r"an optimizer is needed, not the class Adam itself \(Averaged\)": lambda: Averaged(Adam),
    r"an optimizer is needed, not float \(Player\)": lambda: Player(1e-3, trainable),
    "at least one player": lambda: Players({}, ()),
    r"takes 30 steps, and the phase has 20.*": lambda: Phase(
        Players({"a": Player(Adam(Cosine(1e-2, 30)), trainable)}, ("a", "a")), 10
    ),
    "the predicate asks whether a traced value is true.*write & for": lambda: fit(
        mlp(), data(), phase(until=When(lambda m: m.total < 1 and m.step > 3, every=1))
    ),
    "a Monitor has no 'nothere'.*It has step, total": lambda: fit(
        mlp(), data(), phase(until=When(lambda m: m.nothere < 1, every=1))
    ),
    "a predicate is a function": lambda: When(None),
    "patience is a whole number": lambda: Plateau(0),
    "the improvement must be": lambda: Plateau(improvement=float("nan")),
    r"steps is a whole number.*\(NoImprovement\)": lambda: NoImprovement(-1),
    "the level must be a number, not 'x'": lambda: LossBelow("x"),
    "at least 0: -0.0009.* at step 11": lambda: Phase(SGD(lambda step: 0.01 - 0.001 * step), 21),
    "until must be a condition, not function": lambda: phase(until=lambda m: True),
    "condition's looks must be a whole number of at least 1, not 0": lambda: phase(until=LossBelow(1.0, every=0)),
    "a program is one phase or a list of phases": lambda: fit(mlp(), data(), []),
    "log_every must be a whole number": lambda: fit(mlp(), data(), ADAM, log_every=0),
    "must be a floating-point type, not <class 'numpy.int32'>": lambda: fit(mlp(), data(), ADAM, precision=np.int32),
    "must be a floating-point type, not 'floaty'": lambda: fit(mlp(), data(), ADAM, precision="floaty"),
    "steps must be a whole number of at least 1, not True": lambda: phase(True),
    r"needs its rows on the device.* \(validation term 'data'\)": lambda: fit(mlp(), data(), ADAM, validation=host()),
    r"must be a finite number, but is nan \(row 1": lambda: Supervised(
        Rows((X, np.where(np.arange(12)[:, None] == 1, np.nan, Y))), loss=SquaredError()
    ),
    r"no array of the model enters.* \(term 'sky'\)": lambda: fit(
        mlp(), Objective(sky=Residual(lambda u, z: z, Rows(X)), **data().terms), ADAM
    ),
    r"from 1 to 2\*\*31 - 1, not 0": lambda: HeldPoints(lambda key, n: jax.random.normal(key, (n, 3)), 0),
    "a sampler is a function": lambda: FreshPoints(X, 5),
    r"asked for 5 points and gave arrays of shapes \[\(4, 3\)\]": lambda: fit(
        mlp(), Objective(points=Residual(lambda u, z: u(z), FreshPoints(lambda key, n: jnp.ones((4, 3)), 5))), ADAM
    ),
    r"an input is nan \(row 2, component \(0,\)\)": lambda: Supervised(
        np.where(np.arange(12)[:, None] == 2, np.nan, X), Y, loss=squared_error
    ),
    "no term has two examples in a batch": lambda: fit(
        mlp(), data(batch_size=1), phase(until=SignalToNoise(1.0, every=1))
    ),
    "batch size 13 is not between 1 and": lambda: data(batch_size=13),
    r"cannot enter a compiled loop \(term 'data'\)": lambda: fit(mlp(), host(), ADAM, mode=Mode.LOOP),
    r"6 examples cannot be spread evenly over 4 devices \(term 'data'\)": lambda: fit(
        mlp(), data(batch_size=6), ADAM, devices=jax.devices()[:4]
    ),
    "at least one device": lambda: fit(mlp(), data(), ADAM, devices=[]),
    "3 members cannot be spread evenly": lambda: fit_many([mlp()] * 3, data(), ADAM, layout=Layout.SHARDED),
    "at least one model": lambda: fit_many([], data(), ADAM),
    "2 models but 1 seeds": lambda: fit_many([mlp()] * 2, data(), ADAM, seeds=[1]),
    "differ in structure": lambda: fit_many([mlp(), mlp(depth=2)], data(), ADAM),
    r"differ in more than.* \(members 0 and 1\)": lambda: fit_many([at(1.0), at(1.0, 2.0)], BOWL, ADAM),
    "no floating-point array": lambda: fit(Place(jnp.arange(3)), BOWL, ADAM),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_by_name_what_cannot_work(message):
    with pytest.raises(UserError, match=message):
        REFUSED[message]()


def test_refuses_members_that_differ_in_a_number_that_is_no_array():
    class Scaled(eqx.Module):
        x: jax.Array
        scale: float

    scaled = Objective(bowl=Cost(lambda x: jnp.sum(x**2)))
    with pytest.raises(UserError, match=r"differ in more than the values of their arrays \(members 0 and 1\)"):
        fit_many([Scaled(jnp.ones(2), 1.0), Scaled(jnp.ones(2), 2.0)], scaled, ADAM)

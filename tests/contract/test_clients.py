"""Each client in each way: it solves its problem, and however it is run it walks the same path up to rounding.

One compiled run a test, unless it is marked slow; runs are shared between the tests (see conftest.py).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from thalweg.objective import Rows, frozen, split
from thalweg.optim import Adam
from thalweg.train import Phase, Status, fit
from thalweg.train.members import Layout
from thalweg.train.phases import Choices, Traveller, prepare

SAME = 1e-7
"""Largest difference, in parameters of order one, of runs that differ in nothing but the order of their sums. Float64
rounds at 1e-16; sixty steps of Levenberg-Marquardt on a badly conditioned JᵀJ magnify that most, measured to 2e-9. A
wrong batch, mask, key or member moves the parameters by 1e-2 and more."""


# --------------------------------------------------------------------------------------------- they solve their problem
def straight_line(x, y):
    """Mean squared error of the best linear model."""
    return np.mean((Ridge(1e-9).fit(x, y).predict(x) - y[:, 0]) ** 2)


def test_lbfgs_learns_more_than_a_straight_line(clients, runs, ways, table):
    found = runs(clients.LBFGS, ways.LOOP)
    assert found.rows[-1]["last"] < 0.85 * straight_line(*table(440))
    assert 0.8 < np.mean([row["accepted"] for row in found.rows])  # one evaluation a step: most of them move


def test_levenberg_marquardt_learns_more_than_a_straight_line(clients, runs, ways, table):
    found = runs(clients.LEVENBERG_MARQUARDT, ways.LOOP)
    assert found.rows[-1]["last"] < 0.9 * straight_line(*table(200))
    totals = [row["last"] for row in found.rows]
    assert totals == sorted(totals, reverse=True)


def test_levenberg_marquardt_solves_the_oscillator(clients, runs, ways):
    u = runs(clients.OSCILLATOR, ways.LOOP).model
    with jax.enable_x64(True):
        t = jnp.linspace(0, 3, 100, dtype=np.float64)
        error = np.max(np.abs(np.asarray(jax.vmap(u)(t)) - np.cos(t)))
    assert error < 0.02  # of an amplitude of 1, after sixty steps; a network that has not learned is off by 1 and more


def test_players_reach_the_equilibrium(clients, runs, ways, saddle):
    found = runs(clients.GAME, ways.LOOP)
    # 300 turns with a contraction of about 0.9 each leave 1e-14, and rounding
    assert np.allclose(np.concatenate([found.model.x, found.model.y]), saddle, atol=1e-10)


def test_the_constrained_optimum_and_its_multiplier(clients, runs, ways):
    found = runs(clients.CONSTRAINT, ways.LOOP)
    # ½‖x − a‖² with ‖x‖ = 2, a = (3, 4): x = 2a/5, and (x − a) + λx = 0 gives λ = 5/2 − 1
    assert np.allclose(found.model.x, [1.2, 1.6], atol=1e-8)
    refreshes = [row["refresh"] for row in found.rows if "refresh" in row]
    assert len(refreshes) == 400 // 20
    assert np.isclose(refreshes[-1]["size/multiplier"], 1.5, atol=1e-6)
    assert refreshes[-1]["slack/multiplier"] == 0  # ‖x‖² is far below its other bound
    assert abs(refreshes[-1]["size/violation"]) < 1e-8


def test_multipliers_move_only_when_the_inner_problem_has_converged(clients, runs, ways):
    refreshes = [row["refresh"] for row in runs(clients.CONSTRAINT, ways.LOOP).rows if "refresh" in row]
    moves = stays = 0
    for before, now in zip([None, *refreshes], refreshes, strict=False):
        converged = now["size/gradient_norm"] <= now["size/converged_below"]
        feasible = now["size/violation"] <= now["size/feasible_below"]
        assert now["size/moved"] == (converged and feasible)
        former = 0.0 if before is None else before["size/multiplier"]
        if now["size/multiplier"] != former:
            assert now["size/moved"]
            moves += 1
        else:
            stays += 1
    assert moves >= 4
    assert stays >= 1


@pytest.mark.slow
def test_the_convolutional_network_recognizes_digits(clients, recipes):
    recipe = recipes[clients.CONVOLUTION]
    found = fit(recipe.model(0), recipe.objective(Rows, 64), Phase(Adam(1e-2), 600), log_every=100)
    data = load_digits()
    images, classes = jnp.asarray(data.images[:, :, :, None] / 16, jnp.float32), data.target
    guessed = np.asarray(jax.vmap(found.model)(images)).argmax(axis=1)  # by the running statistics, without dropout
    assert np.mean(guessed == classes) > 0.9
    assert int(found.model.layers[1].statistics.count) == 600


def test_the_running_statistics_are_those_of_the_batches(clients, runs, ways):
    statistics = runs(clients.CONVOLUTION, ways.STEP).model.layers[1].statistics
    assert int(statistics.count) == 30  # one for each accepted step
    assert np.all(np.asarray(statistics.variance) > 0)
    assert np.all(np.asarray(statistics.mean) != 0)


# ------------------------------------------------------------------------------------------- in every way the same walk
def test_one_step_a_program_walks_as_many_do(client, runs, ways, distance):
    one, many = runs(client, ways.STEP), runs(client, ways.LOOP)
    assert distance(one.model, many.model) < SAME
    assert [row["step"] for row in one.rows] == [row["step"] for row in many.rows]
    assert one.conduct[0]["mode"] == "step"
    assert many.conduct[0]["mode"] == "loop"


def test_a_member_among_others_walks_as_alone(client, runs, ways, distance):
    together = runs(client, ways.VMAPPED)
    assert distance(together.models[0], runs(client, ways.LOOP).model) < SAME
    # and the others walk elsewhere: each has its own model, keys and order
    places = [distance(together.models[0], model) for model in together.models[1:]]
    assert len(set(places)) == 3
    if client.name not in ("GAME", "CONSTRAINT"):  # which have one solution for all
        assert min(places) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("way", ["IN_TURN", "SHARDED", "VMAPPED_STEP", "VMAPPED_HOST"])
def test_however_members_share_the_machine_they_walk_alike(way, client, runs, ways, distance):
    found, expected = runs(client, ways[way]), runs(client, ways.VMAPPED)
    assert len(found.models) == 4
    for one, other in zip(found.models, expected.models, strict=True):
        assert distance(one, other) < SAME


@pytest.mark.slow
@pytest.mark.parametrize("way", ["DEVICES", "WHOLE", "HOST", "HOST_DEVICES"])
def test_wherever_rows_live_and_batches_lie_the_walk_is_the_same(way, client, runs, ways, distance):
    """With batch norm this says too that its statistics are those of the whole batch, not of each device's part."""
    found = runs(client, ways[way])
    assert distance(found.model, runs(client, ways.LOOP).model) < SAME
    assert found.conduct[0]["devices"] == (4 if "DEVICES" in way else 1)


@pytest.mark.slow
def test_rows_on_the_host_are_the_rows_on_the_device(client, runs, ways, distance):
    # The same rows in the same order, so the same sums: the programs differ only where rows are gathered.
    assert distance(runs(client, ways.HOST).model, runs(client, ways.WHOLE).model) < 1e-12


def frozen_leaves(recipe, model):
    part = recipe.frozen(model)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(part) if eqx.is_inexact_array(leaf)]


def test_what_is_frozen_stays_bit_for_bit(client, recipe, runs, ways, distance):
    found, start = runs(client, ways.FROZEN), recipe.model(0)
    for before, after in zip(frozen_leaves(recipe, start), frozen_leaves(recipe, found.model), strict=True):
        assert np.array_equal(before.astype(np.float64), after)
    assert distance(found.model, start) > 1e-3


@pytest.mark.slow
def test_what_is_frozen_stays_bit_for_bit_in_every_member(client, recipe, runs, ways, distance):
    many = runs(client, ways.SHARDED_FROZEN)
    for seed, model in enumerate(many.models):
        for before, after in zip(frozen_leaves(recipe, recipe.model(seed)), frozen_leaves(recipe, model), strict=True):
            assert np.array_equal(before.astype(np.float64), after)
    assert distance(many.models[0], runs(client, ways.FROZEN).model) < SAME


def test_no_optimizer_keeps_memory_for_what_is_frozen(client, recipe):
    """Nothing is compiled: the shapes of the state are enough."""
    model, where = recipe.model(0), frozen(recipe.frozen)
    params = sum(leaf.size for leaf in jax.tree.leaves(split(model, where).params))
    everything = sum(leaf.size for leaf in jax.tree.leaves(split(model).params))
    assert params < everything
    choices = Choices(None, None, np.float64, None, Layout.IN_TURN, None, None)
    with jax.enable_x64(True):
        objective = recipe.objective(Rows, recipe.batch_size)
        prepared = prepare([Traveller(model, 0)], objective, recipe.phase(where), choices)
        state = prepared.like([{}])["states"][0].optimizer
    shapes = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    per_parameter = {
        "LBFGS": [(params,), (params,), (10, params), (10, params)],  # gradient, direction, history
        "CONSTRAINT": [(params,), (params,), (10, params), (10, params)],
        "LEVENBERG_MARQUARDT": [(params, params), (params,)],  # JᵀJ and Jᵀr
        "OSCILLATOR": [(params, params), (params,)],
        "GAME": [],  # plain gradient descent
    }
    if client.name in per_parameter:
        assert sorted(shapes) == sorted(per_parameter[client.name])
    else:  # Adam: two moments, of the shapes of the params
        assert sum(int(np.prod(shape)) for shape in shapes) == 2 * params


def test_every_verdict_is_sound(client, runs, ways):
    verdict = runs(client, ways.LOOP).verdict
    assert verdict.status in (Status.CONVERGED, Status.STILL_IMPROVING), verdict.evidence

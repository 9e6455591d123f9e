"""Games: players in turns reach the equilibrium that is known, with any optimizers, and see what the others did."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.nn import BatchNorm, Linear, Sequential
from thalweg.objective import AbstractTerm, NoExamples, Objective, Supervised, only, split
from thalweg.optim import LBFGS, SGD, Adam, Averaged, Ended, LevenbergMarquardt, Player, Players


class Point(eqx.Module):
    """Two players' parameters."""

    x: jax.Array
    y: jax.Array


A = np.array([[2.0, 1.0], [-1.0, 3.0]])
P, Q = np.array([1.0, -2.0]), np.array([0.5, 1.5])


class Saddle(AbstractTerm):
    """½‖x − p‖² + xᵀAy − ½‖y − q‖²: x makes it small, y large."""

    source: NoExamples = NoExamples()
    weight: float = 1.0

    def batch_loss(self, model, examples, key):
        a, p, q = (jnp.asarray(value, model.x.dtype) for value in (A, P, Q))
        x, y = model.x, model.y
        return jnp.sum((x - p) ** 2) / 2 + x @ a @ y - jnp.sum((y - q) ** 2) / 2, None


def equilibrium():
    """Both slopes vanish: x − p + Ay = 0 and Aᵀx − (y − q) = 0."""
    matrix = np.block([[np.eye(2), A], [-A.T, np.eye(2)]])
    return np.linalg.solve(matrix, np.concatenate([P, Q]))


def play(game, steps, model=None, objective=None):
    with jax.enable_x64(True):
        model = Point(jnp.zeros(2, np.float64), jnp.zeros(2, np.float64)) if model is None else model
        objective = (Objective(value=Saddle()) if objective is None else objective).astype(np.float64)
        parts, key = split(model), jax.random.key(0)
        state = objective.init(key)
        static = eqx.combine(parts.model_state, parts.frozen, parts.static)
        problem = objective.bind(static, objective.draw(state, jnp.int32(0)), state, key)

        def step(carry, _):
            after, memory, info = game.step(problem, *carry, key)
            return (after, memory), (after, info)

        start = (parts.params, game.init(problem, parts.params, key))
        return jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps))(start)


X, Y = only(lambda m: m.x), only(lambda m: m.y)


@pytest.mark.parametrize(
    ("first", "second"),
    [(SGD(0.05), SGD(0.05)), (SGD(0.05), SGD(0.03, momentum=0.5)), (Averaged(SGD(0.05)), SGD(0.05))],
)
def test_players_in_turns_reach_the_equilibrium(first, second):
    game = Players({"x": Player(first, X), "y": Player(second, Y, {"value": -1.0})}, cycle=("x", "y"))
    (params, _), (_, info) = play(game, 800)
    # the linear map of a turn contracts by at least 1 − 0.03 a step: 0.97^800 = 2e-11
    assert np.allclose(np.concatenate([params.x, params.y]), equilibrium(), atol=1e-9)
    assert np.isclose(info.figures["x/total"][-1], -info.figures["y/total"][-1], atol=1e-9)


def test_a_turn_sees_the_turn_before_it_and_a_cycle_may_repeat_a_player():
    rate = 0.1
    game = Players({"x": Player(SGD(rate), X), "y": Player(SGD(rate), Y, {"value": -1.0})}, cycle=("x", "x", "y"))
    _, (path, _) = play(game, 3)
    x, y = np.zeros(2), np.zeros(2)
    for i in range(3):
        for _ in range(2):
            x = x - rate * (x - P + A @ y)
        y = y + rate * (A.T @ x - (y - Q))
        # the same few operations in another order
        assert np.allclose(path.x[i], x, rtol=1e-14)
        assert np.allclose(path.y[i], y, rtol=1e-14)


def test_a_player_with_a_line_search_looks_again_after_the_others_have_moved():
    # x answers best to y each turn: then y climbs the concave function max over y of min over x
    game = Players({"x": Player(LBFGS(), X), "y": Player(SGD(0.05), Y, {"value": -1.0})}, cycle=("x", "y"))
    (params, _), _ = play(game, 600)
    assert np.allclose(np.concatenate([params.x, params.y]), equilibrium(), atol=1e-7)


def test_a_weight_of_zero_leaves_a_term_out():
    class Pull(AbstractTerm):
        source: NoExamples = NoExamples()
        weight: float = 1.0

        def batch_loss(self, model, examples, key):
            return jnp.sum((model.x - 7.0) ** 2), None

    objective = Objective(value=Saddle(), pull=Pull())
    game = Players(
        {"x": Player(SGD(0.05), X, {"pull": 0.0}), "y": Player(SGD(0.05), Y, {"value": -1.0})}, cycle=("x", "y")
    )
    (params, _), _ = play(game, 800, objective=objective)
    assert np.allclose(np.concatenate([params.x, params.y]), equilibrium(), atol=1e-9)


def test_optimizers_remember_their_own_part_only():
    game = Players({"x": Player(Adam(0.1), X), "y": Player(SGD(0.1), Y, {"value": -1.0})}, cycle=("x", "y"))
    (_, state), _ = play(game, 1)
    moments = [leaf.shape for leaf in jax.tree.leaves(state["x"]) if leaf.ndim]
    assert moments == [(2,), (2,)]  # Adam's two, of x
    assert not [leaf for leaf in jax.tree.leaves(state["y"]) if leaf.ndim]


def test_the_next_player_sees_the_statistics_that_a_turn_has_moved():
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 2)
        layers = [
            Linear(3, 4, key=keys[0], dtype=float),
            BatchNorm(4, dtype=float),
            Linear(4, 1, key=keys[1], dtype=float),
        ]
        x = np.random.default_rng(0).normal(size=(20, 3))
        objective = Objective(data=Supervised(x, x[:, :1], loss=lambda output, y: jnp.sum((output - y) ** 2)))
        first, last = only(lambda m: m.layers[0]), only(lambda m: m.layers[2])
        game = Players({"a": Player(SGD(0.01), first), "b": Player(SGD(0.01), last)}, cycle=("a", "b"))
        _, (_, info) = play(game, 1, Sequential(layers), objective)
        # the problem is bound once, so each step of this walk starts from 0 batches: two turns make two
        assert jax.tree.leaves(info.model_state.layers[1].statistics.count) == [2]


def test_the_game_goes_on_until_all_have_arrived_and_ends_when_one_has_failed():
    class Separate(AbstractTerm):
        source: NoExamples = NoExamples()
        weight: float = 1.0

        def batch_loss(self, model, examples, key):
            return jnp.sum((model.x - 1.0) ** 2) + jnp.sum((model.y - 1.0) ** 4), None

    game = Players({"x": Player(LBFGS(), X), "y": Player(SGD(0.01), Y)}, cycle=("x", "y"))
    _, (_, info) = play(game, 20, objective=Objective(value=Separate()))
    assert np.all(info.ended == Ended.GOING)  # x is there after two turns, y is not

    class Blind(LBFGS):
        def step(self, problem, params, state, key):
            params, state, info = super().step(problem, params, state, key)
            return params, state, eqx.tree_at(lambda i: i.ended, info, jnp.int32(Ended.FAILED))

    game = Players({"x": Player(Blind(), X), "y": Player(SGD(0.01), Y)}, cycle=("x", "y"))
    _, (_, info) = play(game, 2, objective=Objective(value=Separate()))
    assert np.all(info.ended == Ended.FAILED)


def test_refuses_games_that_cannot_be_played():
    players = {"x": Player(SGD(0.1), X), "y": Player(SGD(0.1), Y)}
    with pytest.raises(UserError, match="does not give every player a turn"):
        Players(players, cycle=("x",))
    with pytest.raises(UserError, match="does not give every player a turn"):
        Players(players, cycle=("x", "y", "z"))
    with pytest.raises(UserError, match="there is no term 'price'"):
        play(Players({"x": Player(SGD(0.1), X, {"price": 1.0})}, cycle=("x",)), 1)
    with pytest.raises(UserError, match=r"couples the examples of a batch \(term 'value'\)"):
        play(Players({"x": Player(LevenbergMarquardt(), X)}, cycle=("x",)), 1)
    with pytest.raises(UserError, match="player 'x' moves nothing"):
        play(Players({"x": Player(SGD(0.1), lambda m: jax.tree.map(lambda _: False, m))}, cycle=("x",)), 1)

"""Several players on one model: each moves its own part of the params, for an objective weighted in its own way."""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.objective.objective import Objective
from thalweg.objective.partition import running_statistics
from thalweg.objective.problem import Problem
from thalweg.optim.optimizer import AbstractOptimizer, Ended, StepInfo, checked_optimizer, select
from thalweg.types import Key, Params, PyTree, Where


class Player(eqx.Module):
    """One player of a game.

    Attributes:
        optimizer: how the player moves.
        where: model -> filter of the part that the player moves.
        weights: factor on each named term's weight for this player; −1 turns a cost into a gain, 0 leaves it out.
    """

    optimizer: AbstractOptimizer
    where: Where = eqx.field(static=True)
    weights: Mapping[str, float] = eqx.field(static=True, default_factory=dict)

    def __check_init__(self):
        checked_optimizer(self.optimizer, "Player")


class Players(AbstractOptimizer):
    """Players who take turns in a fixed cycle on the same batch; one step is one whole cycle.

    Args:
        players: by name.
        cycle: names in the order of their turns, such as ("critic", "critic", "generator").

    >>> from thalweg.objective.partition import only
    >>> from thalweg.optim.first_order import SGD
    >>> game = Players({"x": Player(SGD(0.1), only(lambda m: m.x)),
    ...                 "y": Player(SGD(0.1), only(lambda m: m.y), {"value": -1.0})}, cycle=("x", "y"))
    """

    players: dict[str, Player]
    cycle: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, players: Mapping[str, Player], cycle: Sequence[str]):
        self.players, self.cycle = dict(players), tuple(cycle)
        if not self.players:
            raise UserError("a game needs at least one player", where="Players")
        if set(self.cycle) != set(self.players):
            raise UserError(
                f"the cycle {self.cycle} does not give every player a turn", where=f"players {tuple(self.players)}"
            )

    def init(self, problem: Problem, params: Params, key: Key) -> dict[str, PyTree]:
        states = {}
        for name, player in self.players.items():
            mine, view = problem.restrict(params, player.where, player.weights)
            if not jax.tree.leaves(mine):
                raise UserError(f"player '{name}' moves nothing", remedy="Let its `where` select an array.")
            states[name] = player.optimizer.init(view, mine, key)
        return states

    def redraw(self, problem: Problem, params: Params, state: dict[str, PyTree]) -> dict[str, PyTree]:
        after = {}
        for name, player in self.players.items():
            mine, view = problem.restrict(params, player.where, player.weights)
            after[name] = player.optimizer.redraw(view, mine, state[name])
        return after

    def step(
        self, problem: Problem, params: Params, state: dict[str, PyTree], key: Key
    ) -> tuple[Params, dict[str, PyTree], StepInfo]:
        state, figures, totals = dict(state), {}, {}
        for name in self.cycle:
            player = self.players[name]
            mine, view = problem.restrict(params, player.where, player.weights)
            # the others have moved since this player's last turn: what it remembers of the slope is stale
            mine, state[name], info = player.optimizer.step(
                view, mine, player.optimizer.redraw(view, mine, state[name]), key
            )
            params = eqx.combine(mine, params)
            totals[name] = info
            if info.model_state is not None:  # the next player sees the statistics that this one has moved
                static = eqx.combine(info.model_state, problem.static)
                static = static if info.accepted is True else select(info.accepted, static, problem.static)
                problem = eqx.tree_at(lambda p: p.static, problem, static)
            figures |= {f"{name}/total": info.total} | {f"{name}/{k}": v for k, v in info.figures.items()}
        last = totals[self.cycle[-1]]
        each = jnp.stack([info.ended for info in totals.values()])
        # one player's failure ends the game, but one player's arrival does not
        ended = jnp.where(jnp.any(each == int(Ended.FAILED)), jnp.int32(Ended.FAILED), jnp.min(each))
        model_state = None if last.model_state is None else running_statistics(problem.static)
        return params, state, StepInfo(last.total, last.parts, True, model_state, ended, figures)

    def check_steps(self, steps: int) -> None:
        for name, player in self.players.items():
            player.optimizer.check_steps(steps * self.cycle.count(name))  # a step of the game is a whole cycle

    def check_objective(self, objective: Objective) -> None:
        for player in self.players.values():
            player.optimizer.check_objective(objective)

    @property
    def descends(self) -> bool:
        return False

    def eval_params(self, params: Params, state: dict[str, PyTree]) -> Params:
        for name, player in self.players.items():
            mine = eqx.filter(params, player.where(params))
            params = eqx.combine(player.optimizer.eval_params(mine, state[name]), params)
        return params

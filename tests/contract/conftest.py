"""The five awkward clients of the contract, and what they became in each way of running them, each run once."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits

from thalweg.losses import CrossEntropy, squared_error
from thalweg.nn import MLP, Activation, BatchNorm, Conv2d, Dropout, GlobalMeanPool2d, Linear, MeanPool2d, Sequential
from thalweg.objective import (
    AbstractSource,
    AbstractTerm,
    AtMost,
    Equal,
    HeldPoints,
    HostRows,
    Objective,
    Residual,
    Rows,
    Supervised,
    frozen,
    only,
    trainable,
)
from thalweg.optim import LBFGS, SGD, Adam, LevenbergMarquardt, Player, Players
from thalweg.train import Fit, FitMany, Layout, Mode, Phase, fit, fit_many
from thalweg.types import PyTree, Where

MEMBERS = 4
"""As many as there are simulated devices (tests/conftest.py)."""


class Client(enum.Enum):
    """What the contract is proved by."""

    LBFGS = "L-BFGS on a full batch"
    LEVENBERG_MARQUARDT = "Levenberg-Marquardt on data"
    OSCILLATOR = "Levenberg-Marquardt on an equation"
    CONVOLUTION = "batch norm and dropout, minibatches"
    GAME = "two players"
    CONSTRAINT = "resampled points and multipliers"


@dataclass(frozen=True)
class Recipe:
    """How a client is made.

    Attributes:
        model: seed -> model.
        objective: (how rows are held, their batch size or None) -> objective.
        phase: where -> phase.
        batch_size: of one step, None for all.
        examples: in all.
        frozen: model -> the part that is left out where one is.
        log_every: steps between rows.
    """

    model: Callable[[int], PyTree]
    objective: Callable[[Callable[..., AbstractSource], int | None], Objective]
    phase: Callable[[Where], Phase]
    frozen: Callable[[PyTree], Any]
    examples: int
    batch_size: int | None = None
    log_every: int = 5


# ------------------------------------------------------------------------------------------------------------ networks
@cache
def diabetes(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The first rows, standardized: (rows, 10) and (rows, 1)."""
    data = load_diabetes()
    x = (data.data - data.data.mean(axis=0)) / data.data.std(axis=0)
    y = (data.target - data.target.mean()) / data.target.std()
    return x[:rows], y[:rows, None]


def perceptron(seed: int, inputs: int = 10, width: int = 6) -> MLP:
    return MLP(inputs, 1, width=width, depth=1, activation=jnp.tanh, key=jax.random.key(seed))


def diabetes_objective(rows: int) -> Callable[[Callable[..., AbstractSource], int | None], Objective]:
    return lambda hold, size: Objective(data=Supervised(hold(diabetes(rows), batch_size=size), loss=squared_error))


class Scalar(eqx.Module):
    """A network of time: () -> ()."""

    network: MLP

    def __call__(self, t: jax.Array) -> jax.Array:
        return self.network(t[None])[0]


def oscillator(hold: Callable[..., AbstractSource], size: int | None) -> Objective:
    """u″ = −u with u(0) = 1, u′(0) = 0: u = cos t on [0, 3]."""
    swing = lambda u, t: jax.grad(jax.grad(u))(t) + u(t)
    start = lambda u, t: jnp.stack([u(t) - 1, jax.grad(u)(t)])
    return Objective(
        swing=Residual(swing, hold(np.linspace(0, 3, 40), batch_size=size)),
        start=Residual(start, np.zeros(4), weight=10.0),  # four times the same, so that four devices can share them
    )


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 8, 8, 1) in 0 … 1 and classes."""
    data = load_digits()
    return data.images[:1_792, :, :, None] / 16, data.target[:1_792]


def convolutional(seed: int) -> Sequential:
    keys = jax.random.split(jax.random.key(seed), 3)
    return Sequential(
        [
            # no bias before a batch norm: its gradient is rounding alone, which Adam would magnify to full steps
            Conv2d(1, 6, kernel_size=3, padding=1, bias=False, key=keys[0]),
            BatchNorm(6),
            Activation(jax.nn.relu),
            MeanPool2d(2),
            Conv2d(6, 12, kernel_size=3, key=keys[1]),
            Activation(jax.nn.relu),
            GlobalMeanPool2d(),
            Dropout(0.1),
            Linear(12, 10, key=keys[2]),
        ]
    )


def digits_objective(hold: Callable[..., AbstractSource], size: int | None) -> Objective:
    return Objective(digits=Supervised(hold(digits(), batch_size=size), loss=CrossEntropy()))


# ---------------------------------------------------------------------------------------------------------------- game
class Board(eqx.Module):
    """Two players' parameters, and one that nobody need move."""

    x: jax.Array
    y: jax.Array
    shift: jax.Array


def board(seed: int) -> Board:
    x, y = jax.random.normal(jax.random.key(seed), (2, 2))
    return Board(x, y, jnp.zeros(2))


PRICES = np.random.default_rng(3).normal(size=(64, 2)) @ np.array([[1.0, 0.4], [0.0, 0.7]])


class Saddle(AbstractTerm):
    """½‖x − p‖² + (x·z)(y·z) − ½‖y − q‖² averaged over prices z, with p = (1, −2) + shift and q = (½, 3/2)."""

    source: AbstractSource
    weight: float = 1.0

    def loss(self, model, example, key):
        p, q = jnp.asarray([1.0, -2.0], model.x.dtype) + model.shift, jnp.asarray([0.5, 1.5], model.x.dtype)
        bilinear = jnp.dot(model.x, example) * jnp.dot(model.y, example)
        return jnp.sum((model.x - p) ** 2) / 2 + bilinear - jnp.sum((model.y - q) ** 2) / 2


def saddle_point() -> np.ndarray:
    """(x, y) where neither player gains by moving: x − p + Cy = 0, Cx − y + q = 0, with C the mean of zzᵀ."""
    c = PRICES.T @ PRICES / len(PRICES)
    matrix = np.block([[np.eye(2), c], [c, -np.eye(2)]])
    return np.linalg.solve(matrix, np.array([1.0, -2.0, -0.5, -1.5]))


def game_phase(where: Where) -> Phase:
    players = {
        "x": Player(SGD(0.1), only(lambda m: m.x)),
        "y": Player(SGD(0.1), only(lambda m: m.y), {"value": -1.0}),
    }
    return Phase(Players(players, cycle=("x", "y")), 300, where=where)


# ---------------------------------------------------------------------------------------------------------- constraint
TARGET, RADIUS = np.array([3.0, 4.0]), 2.0


class Place(eqx.Module):
    """A point in the plane, and an offset of the target."""

    x: jax.Array
    shift: jax.Array


def circle(key: jax.Array, n: int) -> jax.Array:
    """n points evenly on a circle that is turned at random: their mean of zzᵀ is ½ the identity, however turned."""
    dtype = jnp.result_type(float)
    angle = 2 * jnp.pi * (jax.random.uniform(key, dtype=dtype) + jnp.arange(n, dtype=dtype) / n)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def constraint_objective(hold: Callable[..., AbstractSource], size: int | None) -> Objective:
    """½‖x − a‖² where ½‖x‖² must be ½R²: the minimum is Ra/‖a‖, the multiplier ‖a‖/R − 1.

    Where rows are held by something else than `Rows`, the constraint's points are those rows.
    """
    points = HeldPoints(circle, 16)
    angles = 2 * np.pi * np.arange(16) / 16
    evenly = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    held = points if size is None else hold(evenly, batch_size=size)
    pull = lambda m, z: jnp.dot(z, m.x - jnp.asarray(TARGET, m.x.dtype) - m.shift)
    return Objective(
        refresh_every=20,
        pull=Residual(pull, points),
        size=Equal(lambda m, z: jnp.dot(z, m.x) ** 2, RADIUS**2 / 2, held),
        slack=AtMost(lambda m, z: jnp.dot(z, m.x) ** 2, 50.0, points),
    )


RECIPES = {
    Client.LBFGS: Recipe(
        model=perceptron,
        objective=diabetes_objective(440),
        phase=lambda where: Phase(LBFGS(), 40, redraw=0, where=where),
        frozen=lambda m: m.layers[0],
        examples=440,
    ),
    Client.LEVENBERG_MARQUARDT: Recipe(
        model=lambda seed: perceptron(seed, width=3),
        objective=diabetes_objective(200),
        phase=lambda where: Phase(LevenbergMarquardt(), 20, redraw=0, where=where),
        frozen=lambda m: m.layers[0],
        examples=200,
    ),
    Client.OSCILLATOR: Recipe(
        model=lambda seed: Scalar(perceptron(seed, inputs=1, width=8)),
        objective=oscillator,
        phase=lambda where: Phase(LevenbergMarquardt(), 60, redraw=0, where=where),
        frozen=lambda m: m.network.layers[-1].bias,
        examples=40,
    ),
    Client.CONVOLUTION: Recipe(
        model=convolutional,
        objective=digits_objective,
        phase=lambda where: Phase(Adam(1e-2), 30, where=where),
        frozen=lambda m: (m.layers[0], m.layers[1].bias),
        examples=1_792,
        batch_size=64,
    ),
    Client.GAME: Recipe(
        model=board,
        objective=lambda hold, size: Objective(value=Saddle(hold(PRICES, batch_size=size))),
        phase=game_phase,
        frozen=lambda m: m.shift,
        examples=64,
    ),
    Client.CONSTRAINT: Recipe(
        model=lambda seed: Place(jax.random.normal(jax.random.key(seed), (2,)), jnp.zeros(2)),
        objective=constraint_objective,
        phase=lambda where: Phase(LBFGS(), 400, redraw=0, where=where),
        frozen=lambda m: m.shift,
        examples=16,
        log_every=20,
    ),
}


# ---------------------------------------------------------------------------------------------------------------- ways
class Way(enum.Enum):
    """How a client is run."""

    LOOP = "many steps a program"
    STEP = "one step a program"
    DEVICES = "each batch over four devices"
    FROZEN = "a part frozen"
    WHOLE = "all rows as one shuffled batch"
    HOST = "rows on the host"
    HOST_DEVICES = "rows on the host, each batch over four devices"
    IN_TURN = "four members in turn"
    VMAPPED = "four members mapped together"
    SHARDED = "four members over four devices"
    VMAPPED_STEP = "four members mapped together, one step a program"
    VMAPPED_HOST = "four members mapped together, rows on the host"
    SHARDED_FROZEN = "four members over four devices, a part frozen"


MANY = {
    Way.IN_TURN: Layout.IN_TURN,
    Way.VMAPPED: Layout.VMAPPED,
    Way.SHARDED: Layout.SHARDED,
    Way.VMAPPED_STEP: Layout.VMAPPED,
    Way.VMAPPED_HOST: Layout.VMAPPED,
    Way.SHARDED_FROZEN: Layout.SHARDED,
}
STEPS = {Way.STEP, Way.VMAPPED_STEP, Way.HOST, Way.HOST_DEVICES, Way.VMAPPED_HOST}


def run(client: Client, way: Way) -> Fit | FitMany:
    """Run it. In float64, so that equal up to rounding can mean very nearly equal."""
    recipe = RECIPES[client]
    frozen_part = way in (Way.FROZEN, Way.SHARDED_FROZEN)
    on_host = way in (Way.HOST, Way.HOST_DEVICES, Way.VMAPPED_HOST)
    # what lives on the host comes in shuffled batches, if need be of all rows
    size = recipe.examples if recipe.batch_size is None and (on_host or way is Way.WHOLE) else recipe.batch_size
    objective = recipe.objective(HostRows if on_host else Rows, size)
    # game and constraint have a leaf that is only there to be frozen
    spare = client in (Client.GAME, Client.CONSTRAINT)
    where = frozen(recipe.frozen) if frozen_part or spare else trainable
    common = {
        "precision": np.float64,
        "mode": Mode.STEP if way in STEPS else Mode.LOOP,
        "devices": jax.devices()[:4] if way in (Way.DEVICES, Way.HOST_DEVICES) else None,
        "log_every": recipe.log_every,
    }
    if way in MANY:
        models = [recipe.model(seed) for seed in range(MEMBERS)]
        return fit_many(models, objective, recipe.phase(where), layout=MANY[way], **common)
    return fit(recipe.model(0), objective, recipe.phase(where), **common)


class Runs:
    """Each client in each way, run at most once a session (and process: xdist's workers have one each)."""

    def __init__(self):
        self.done: dict[tuple[Client, Way], Fit | FitMany] = {}

    def __call__(self, client: Client, way: Way) -> Any:
        if (client, way) not in self.done:
            self.done[client, way] = run(client, way)
        return self.done[client, way]


@pytest.fixture(scope="session")
def runs() -> Runs:
    return Runs()


@pytest.fixture(params=list(Client), ids=lambda client: client.name.lower())
def client(request: pytest.FixtureRequest) -> Client:
    return request.param


@pytest.fixture(scope="session")
def clients() -> type[Client]:
    return Client


@pytest.fixture(scope="session")
def recipes() -> dict[Client, Recipe]:
    return RECIPES


@pytest.fixture
def recipe(client: Client) -> Recipe:
    return RECIPES[client]


@pytest.fixture(scope="session")
def ways() -> type[Way]:
    return Way


@pytest.fixture(scope="session")
def saddle() -> np.ndarray:
    """The game's equilibrium."""
    return saddle_point()


@pytest.fixture(scope="session")
def table() -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """The first rows of the diabetes data, standardized."""
    return diabetes


def floats(tree: PyTree) -> list[np.ndarray]:
    """Every floating-point array of a model, running statistics included."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]


@pytest.fixture(scope="session")
def distance() -> Callable[[PyTree, PyTree], float]:
    """Largest difference of two models' arrays."""
    return lambda one, other: max(float(np.max(np.abs(a - b))) for a, b in zip(floats(one), floats(other), strict=True))

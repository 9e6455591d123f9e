"""One training step of torchdiffeq's own spiral demo (its ode_demo.py): thalweg against torchdiffeq, without adjoints.

The truth is y' = y³A, seen 1,000 times over 25; a step draws 20 pieces of 10 times, integrates a network 2-50-2 of y³
from each piece's first state by Dormand and Prince's method at torchdiffeq's default tolerances (rtol 1e-7, atol 1e-9),
and moves by RMSprop at rate 1e-3 on the mean absolute error. Both start at the same weights and take 800 steps, in
turns of 50, in one process; torch on one thread, on which it is fastest. thalweg's steps are those of the program that
`fit` runs. torchdiffeq integrates the 20 pieces as one system with one step size; so does the first of thalweg's ways.
The others give each piece its own steps, so that it does not depend on its company, and wait for the slowest. Field
evaluations of a forward pass are counted at the weights where each ended, of the slowest piece where there are several.
Seconds to compile are without a cache, tracing included.
Run: .venv/bin/python -m benchmarks.spiral
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

from benchmarks.side_by_side import alternate, record, seconds, summary
from thalweg import nn
from thalweg.objective import Objective, Supervised
from thalweg.optim import RMSprop
from thalweg.train import Mode, Phase
from thalweg.train.members import Layout
from thalweg.train.phases import Choices, Traveller, prepare

SEEN, PIECE, BATCH, HORIZON = 1_000, 10, 20, 25.0
MATRIX = np.array([[-0.1, 2.0], [-2.0, -0.1]])
STEPS, ROUNDS = 50, 15
TOLERANCES = {"rtol": 1e-7, "atol": 1e-9}


def pieces() -> tuple[np.ndarray, np.ndarray]:
    """Times (10,) and all pieces of the truth, (990, 10, 2)."""
    times = np.linspace(0, HORIZON, SEEN)
    truth = solve_ivp(lambda t, y: y**3 @ MATRIX, (0, HORIZON), [2.0, 0.0], t_eval=times, rtol=1e-9, atol=1e-9).y.T
    return times[:PIECE], np.stack([truth[i : i + PIECE] for i in range(SEEN - PIECE)])


def weights() -> list[tuple[np.ndarray, np.ndarray]]:
    """Of the two layers, as the demo draws them: N(0, 0.1²), biases 0."""
    rng = np.random.default_rng(0)
    return [(0.1 * rng.normal(size=(50, 2)), np.zeros(50)), (0.1 * rng.normal(size=(2, 50)), np.zeros(2))]


class Cubed(eqx.Module):
    """A network of y³."""

    network: nn.MLP

    def __call__(self, t: jax.Array, y: jax.Array, u: None) -> jax.Array:
        """Time, state (2,), to its rate (2,)."""
        return self.network(y**3)


class Together(eqx.Module):
    """20 states as one of 40 numbers, so that they share their steps as in torchdiffeq."""

    network: nn.MLP

    def __call__(self, t: jax.Array, y: jax.Array, u: None) -> jax.Array:
        """Time, states (40,), to their rates (40,)."""
        return jnp.ravel(jax.vmap(self.network)(y.reshape(BATCH, 2) ** 3))


def network(dtype: Any) -> nn.MLP:
    """2-50-2 with the demo's weights."""
    model = nn.MLP(2, 2, width=50, depth=1, activation=jnp.tanh, key=jax.random.key(0), dtype=dtype)
    flat = [jnp.asarray(one.T, dtype) for pair in weights() for one in pair]  # torch holds the transpose
    leaves = lambda m: [leaf for layer in (m.layers[0], m.layers[-1]) for leaf in (layer.weight, layer.bias)]
    return eqx.tree_at(leaves, model, flat)


def thalweg_steps(
    dtype: Any, adjoint: nn.AbstractAdjoint, *, most: int = 4_096, together: bool = False
) -> tuple[Callable, float, Callable]:
    """A call that takes STEPS steps as `fit` does and returns seconds; seconds to compile; the model as it is then."""
    times, values = (one.astype(dtype) for one in pieces())
    if together:
        rng = np.random.default_rng(1)
        drawn = np.stack([values[rng.choice(len(values), BATCH, replace=False)] for _ in range(200)])
        starts, targets = drawn[:, :, 0].reshape(200, -1), drawn.transpose(0, 2, 1, 3).reshape(200, PIECE, -1)
    else:
        starts, targets = values[:, 0], values
    field = Together if together else Cubed
    x = nn.Trajectory(starts, np.tile(times, (len(starts), 1)))
    began = time.perf_counter()
    with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("highest"):
        model = nn.NeuralODE(field(network(dtype)), solver=nn.Dopri5(), adjoint=adjoint, max_steps=most, **TOLERANCES)
        data = Supervised(x, targets, loss=mean_absolute, batch_size=1 if together else BATCH)
        choices = Choices(None, None, None, Mode.LOOP, Layout.IN_TURN, None, None)
        prepared = prepare([Traveller(model, 0)], Objective(data=data), Phase(RMSprop(1e-3), STEPS), choices)
        members = prepared.members
        members.compile(prepared.walk.start)([0], [{}], prepared.shared, None)
        call = members.compile(prepared.walk.advance)

    def work() -> None:
        with jax.enable_x64(dtype == np.float64), jax.default_matmul_precision("highest"):
            call([0], [{}], prepared.shared, np.int32(STEPS))
            members.read(lambda state: state.step)

    work()
    compiled = time.perf_counter() - began
    trained = lambda: prepared.travellers([Traveller(model, 0)], 0)[0].model
    return lambda: seconds(work), compiled - seconds(work), trained


def mean_absolute(output: jax.Array, target: jax.Array) -> jax.Array:
    """Mean of |output − target|."""
    return jnp.mean(jnp.abs(output - target))


class TorchField(torch.nn.Module):
    """The demo's ODEFunc, which counts its calls."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 50), torch.nn.Tanh(), torch.nn.Linear(50, 2)).to(dtype)
        for layer, (weight, bias) in zip((self.net[0], self.net[2]), weights(), strict=True):
            layer.weight.data = torch.as_tensor(weight, dtype=dtype)
            layer.bias.data = torch.as_tensor(bias, dtype=dtype)
        self.calls = 0

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Time, states (20, 1, 2), to their rates."""
        self.calls += 1
        return self.net(y**3)


def torch_steps(dtype: Any) -> tuple[Callable, TorchField]:
    """The demo's own step, STEPS times."""
    times, values = (torch.as_tensor(one.astype(dtype)) for one in pieces())
    field = TorchField(times.dtype)
    optimizer = torch.optim.RMSprop(field.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)

    def work() -> None:
        for _ in range(STEPS):
            batch = values[rng.choice(len(values), BATCH, replace=False)].transpose(0, 1)[:, :, None]  # (10, 20, 1, 2)
            optimizer.zero_grad()
            found: Any = odeint(field, batch[0], times)
            torch.mean(torch.abs(found - batch)).backward()
            optimizer.step()

    work()
    return lambda: seconds(work), field


def evaluations(model: nn.NeuralODE, dtype: Any, batches: list[np.ndarray]) -> float:
    """Field evaluations of a forward pass for batches of systems (systems, pieces): of the slowest, on average."""
    times, values = (one.astype(dtype) for one in pieces())
    calls = [0]

    def count() -> None:
        calls[0] += 1

    class Counted(eqx.Module):
        field: Callable

        def __call__(self, t: jax.Array, y: jax.Array, u: None) -> jax.Array:
            jax.debug.callback(count)
            return self.field(t, y, u)

    def of(start: np.ndarray) -> int:
        calls[0] = 0
        jax.block_until_ready(solved(jnp.asarray(start)))
        jax.effects_barrier()
        return calls[0]

    with jax.enable_x64(dtype == np.float64):
        counted = eqx.tree_at(lambda m: m.field, model, Counted(model.field))
        solved = jax.jit(lambda start: counted(nn.Trajectory(start, jnp.asarray(times))))
        return float(np.mean([max(of(values[system, 0].ravel()) for system in one) for one in batches]))


def torch_evaluations(field: TorchField, dtype: Any, batches: list[np.ndarray]) -> float:
    """The same of torchdiffeq's one system."""
    times, values = (torch.as_tensor(one.astype(dtype)) for one in pieces())
    field.calls = 0
    for one in batches:
        odeint(field, values[one, 0][:, None], times)
    return field.calls / len(batches)


def main() -> None:
    """Both precisions, torchdiffeq and thalweg in turn; then what thalweg's other ways cost."""
    torch.set_num_threads(
        1
    )  # arrays this small gain nothing by a second one, and lose much on a machine that is shared
    figures: dict[str, Any] = {}
    rng = np.random.default_rng(2)
    batches = [rng.choice(SEEN - PIECE, BATCH, replace=False) for _ in range(10)]
    for dtype in (np.float32, np.float64):
        ways, compiles, trained = {}, {}, {}
        for name, make in {
            "one system": lambda d=dtype: thalweg_steps(d, nn.DiscreteAdjoint(), together=True),
            "one system, checkpointed": lambda d=dtype: thalweg_steps(d, nn.CheckpointedAdjoint(), together=True),
            "by piece": lambda d=dtype: thalweg_steps(d, nn.DiscreteAdjoint()),
            "by piece, checkpointed": lambda d=dtype: thalweg_steps(d, nn.CheckpointedAdjoint()),
            "by piece, direct, at most 64 steps": lambda d=dtype: thalweg_steps(d, nn.DirectAdjoint(), most=64),
        }.items():
            ways[name], compiles[name], trained[name] = make()
        ways["torchdiffeq"], field = torch_steps(dtype)
        times = alternate(ways, ROUNDS)
        figures[np.dtype(dtype).name] = {
            "milliseconds a step": {way: summary([1e3 * one / STEPS for one in each]) for way, each in times.items()},
            "ratio to torchdiffeq": {
                way: statistics.median(each) / statistics.median(times["torchdiffeq"])
                for way, each in times.items()
                if way != "torchdiffeq"
            },
            "field evaluations forward": {
                "one system": evaluations(trained["one system"](), dtype, [one[None] for one in batches]),
                "by piece": evaluations(trained["by piece"](), dtype, [one[:, None] for one in batches]),
                "torchdiffeq": torch_evaluations(field, dtype, batches),
            },
            "seconds to compile": compiles,
        }
    record("spiral", figures)


if __name__ == "__main__":
    main()

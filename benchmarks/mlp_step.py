"""One Adam step of an MLP 784-512-512-10 at batch 128 in float32: thalweg against PyTorch, eager and fused.

Both draw their batch from 10,000 rows held in memory, in a random order, and step 300 times; data loading is part of
training. Run: .venv/bin/python -m benchmarks.mlp_step
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.side_by_side import alternate, ratio, record, seconds, summary
from thalweg.losses import cross_entropy
from thalweg.nn import MLP
from thalweg.objective import Objective, Supervised
from thalweg.optim import Adam
from thalweg.train import Mode, Phase
from thalweg.train.members import Layout
from thalweg.train.phases import Choices, Traveller, prepare

ROWS, BATCH, STEPS = 10_000, 128, 300


def data() -> tuple[np.ndarray, np.ndarray]:
    """Random rows: the time of a step does not depend on what they mean."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 784)).astype(np.float32), rng.integers(0, 10, ROWS)


def thalweg_steps(mode: Mode):
    """A call that takes STEPS steps of the engine's own compiled program, and returns seconds."""
    x, y = data()
    objective = Objective(
        data=Supervised(jnp.asarray(x), jnp.asarray(y, jnp.int32), loss=cross_entropy, batch_size=BATCH)
    )
    model = MLP(784, 10, width=512, depth=2, key=jax.random.key(0), activation=jax.nn.relu)
    choices = Choices(None, None, None, mode, Layout.IN_TURN, None, None)
    with jax.default_matmul_precision("highest"):
        prepared = prepare([Traveller(model, 0)], objective, Phase(Adam(1e-3), STEPS), choices)
        members = prepared.members
        members.compile(prepared.walk.start)([0], [{}], prepared.shared, None)
        call = members.compile(prepared.walk.advance if mode is Mode.LOOP else prepared.walk.step)

    def work() -> None:
        if mode is Mode.LOOP:
            call([0], [{}], prepared.shared, np.int32(STEPS))
        else:
            for _ in range(STEPS):
                call([0], [{}], prepared.shared, None)
        members.read(lambda state: state.step)

    with jax.default_matmul_precision("highest"):
        work()
    return lambda: seconds(work)


def torch_steps(fused: bool):
    """The same in PyTorch."""
    x, y = (torch.as_tensor(a) for a in data())
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

    def work() -> None:
        order = torch.randperm(ROWS)
        for i in range(STEPS):
            rows = order[(i * BATCH) % (ROWS - BATCH) :][:BATCH]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()

    work()
    return lambda: seconds(work)


def main() -> None:
    """Alternate all four, report milliseconds a step and ratios."""
    ways = {
        "thalweg, one step a program": thalweg_steps(Mode.STEP),
        "thalweg, many steps a program": thalweg_steps(Mode.LOOP),
        "torch eager Adam": torch_steps(False),
        "torch fused Adam": torch_steps(True),
    }
    times = alternate(ways, 7)
    ours = times["thalweg, many steps a program"]  # what the rule for the mode chooses
    figures = {name: {k: 1e3 * v / STEPS for k, v in summary(values).items()} for name, values in times.items()}
    record(
        "mlp_step",
        {
            "milliseconds a step": figures,
            "ratio to torch eager": ratio(ours, times["torch eager Adam"]),
            "ratio to torch fused": ratio(ours, times["torch fused Adam"]),
        },
    )


if __name__ == "__main__":
    main()

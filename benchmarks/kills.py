"""Kill trainings at random moments, resume them, and compare every bit with the training that nobody killed.

    python -m benchmarks.kills [--kills 30] [--seed 0] [--only NAME …]

The clients are the awkward ones that the interface was proved by. A kill (SIGKILL) comes by the clock, at any moment of
the process; or soon after a random row of the log; or at a random call of the operating system within a random save of
a checkpoint. A resumed training is killed again, until it has had its share. At the end the models, the logs and the
verdicts must be those of the uninterrupted training; exit status 1 if any differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before JAX is imported: children share what one of them has compiled
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="thalweg-kills-cache-"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.losses import squared_error
from thalweg.nn import MLP, Activation, BatchNorm, Dropout, Linear, Sequential
from thalweg.objective import Equal, FreshPoints, HeldPoints, HostRows, Objective, Residual, Supervised, only
from thalweg.optim import LBFGS, SGD, Adam, Averaged, LevenbergMarquardt, Player, Players
from thalweg.train import (
    CheckpointStore,
    Fit,
    FitMany,
    Layout,
    LossBelow,
    NoImprovement,
    Phase,
    Plateau,
    RunDirectory,
    fit,
    fit_many,
)
from thalweg.tree import tree_hash

SAVE_EVERY = 0.02  # seconds
MEMBERS = 3


# ------------------------------------------------------------------------------------------------------------- clients
def table(rows: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Noisy regression data, (rows, 4) and (rows, 1), float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 4))
    return x, np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.1 * rng.normal(size=(rows, 1))


def supervised(size: int | None = None, *, rows: slice = slice(None), dtype: Any = np.float32) -> Supervised:
    """The table as a term."""
    x, y = (array[rows].astype(dtype) for array in table())
    return Supervised(x, y, loss=squared_error, batch_size=size)


def network(seed: int = 0) -> MLP:
    """4 -> 1."""
    return MLP(4, 1, width=16, depth=2, key=jax.random.key(seed), activation=jnp.tanh)


def lbfgs(run: RunDirectory) -> Fit:
    """Full batch, the line search's bracket in the state."""
    return fit(network(), Objective(data=supervised()), Phase(LBFGS(), 1_000, redraw=0), run=run, **QUICK)


def levenberg_marquardt(run: RunDirectory) -> Fit:
    """Float64, damping by the gain ratio."""
    objective = Objective(data=supervised(dtype=np.float64))
    return fit(network(), objective, Phase(LevenbergMarquardt(), 300), precision=np.float64, run=run, **QUICK)


def dropout_and_batch_norm(run: RunDirectory) -> Fit:
    """Minibatches, dropout keys, running statistics."""
    first, second = jax.random.split(jax.random.key(0))
    layers = [Linear(4, 32, key=first), BatchNorm(32), Activation(jax.nn.relu), Dropout(0.2), Linear(32, 1, key=second)]
    return fit(Sequential(layers), Objective(data=supervised(32)), Phase(Adam(3e-3), 2_000), run=run, **QUICK)


class Pair(eqx.Module):
    """Two players' params, shape (2,) each."""

    x: jax.Array
    y: jax.Array


def players(run: RunDirectory) -> Fit:
    """Player x descends and y climbs x·A·y + z·x + |x|²/2 − |y|²/2, with noise z drawn afresh each step."""
    matrix = jnp.array([[1.0, 2.0], [-1.0, 0.5]])
    points = FreshPoints(lambda key, n: jax.random.normal(key, (n, 2)), 16)
    value = lambda m, z: jnp.sqrt(50 + m.x @ matrix @ m.y + z @ m.x + (m.x @ m.x - m.y @ m.y) / 2)  # its square counts
    game = Players(
        {"x": Player(Adam(1e-2), only(lambda m: m.x)), "y": Player(SGD(0.05), only(lambda m: m.y), {"value": -1.0})},
        cycle=("y", "y", "x"),
    )
    start = Pair(jnp.array([1.0, -1.0]), jnp.array([0.5, 1.0]))
    return fit(start, Objective(value=Residual(value, points)), Phase(game, 4_000), run=run, **QUICK)


def constrained(run: RunDirectory) -> Fit:
    """The equation u'' = −π² sin πx on resampled points, with the mean of u held to 2/π by a multiplier."""
    draw = lambda key, n: jax.random.uniform(key, (n,))
    u = lambda m, x: x * (1 - x) * m(x[None])[0]
    equation = lambda m, x: jax.grad(jax.grad(lambda s: u(m, s)))(x) + jnp.pi**2 * jnp.sin(jnp.pi * x)
    objective = Objective(
        heat=Residual(equation, HeldPoints(draw, 64), weight=0.01),
        mean=Equal(u, 2 / np.pi, FreshPoints(draw, 64)),
        refresh_every=25,
    )
    model = MLP(1, 1, width=16, depth=2, key=jax.random.key(0), activation=jnp.tanh)
    return fit(model, objective, Phase(Adam(3e-3), 2_000), run=run, **QUICK)


def two_phases(run: RunDirectory) -> Fit:
    """Adam until a plateau, then L-BFGS that keeps each batch for ten steps."""
    program = [
        Phase(Adam(1e-2), 600, until=Plateau(patience=4, improvement=0.02, every=20)),
        Phase(LBFGS(), 600, redraw=10),
    ]
    return fit(network(), Objective(data=supervised(64)), program, run=run, **QUICK)


def _ensemble(run: RunDirectory, layout: Layout) -> FitMany:
    program = [Phase(Averaged(Adam(1e-2), decay=0.9), 600, until=NoImprovement(120, every=20)), Phase(SGD(1e-3), 200)]
    return fit_many(
        [network(i) for i in range(MEMBERS)],
        Objective(data=supervised(32, rows=slice(60))),
        program,
        validation=Objective(data=supervised(rows=slice(60, 200))),
        layout=layout,
        run=run,
        **QUICK,
    )


def many_in_turn(run: RunDirectory) -> FitMany:
    """Three members, weights averaged, each stopped early by validation."""
    return _ensemble(run, Layout.IN_TURN)


def many_vmapped(run: RunDirectory) -> FitMany:
    """The same, mapped together."""
    return _ensemble(run, Layout.VMAPPED)


def host_stream(run: RunDirectory) -> Fit:
    """Batches gathered on the host, ahead of time, in a thread."""
    x, y = (array.astype(np.float32) for array in table())
    objective = Objective(data=Supervised(HostRows((x, y), batch_size=32), loss=squared_error))
    return fit(network(), objective, Phase(Adam(3e-3), 800, until=LossBelow(0.02, every=50)), run=run, **QUICK)


def two_fits(run: RunDirectory) -> Fit:
    """A second fit in the same run begins with the model of the first."""
    objective = Objective(data=supervised(32))
    first = fit(network(), objective, Phase(Adam(1e-2), 300), run=run, name="first", **QUICK)
    return fit(first.model, objective, Phase(Adam(1e-3), 300), run=run, name="second", **QUICK)


QUICK: dict[str, Any] = {"checkpoint_seconds": SAVE_EVERY, "raise_failures": False}
CLIENTS: dict[str, Callable[[RunDirectory], Fit | FitMany]] = {
    client.__name__: client
    for client in (
        *(lbfgs, levenberg_marquardt, dropout_and_batch_norm, players, constrained, two_phases),
        *(many_in_turn, many_vmapped, host_stream, two_fits),
    )
}


# --------------------------------------------------------------------------------------------- one training, in a child
def train(client: str, folder: Path, result: Path, doom: tuple[int, int] | None) -> None:
    """Begin or resume a training, and write down what came of it.

    Args:
        client: name.
        folder: of the run.
        result: JSON file to write at the end.
        doom: (save, call): die at that call of the system within that save; None: live.
    """
    if doom is not None:
        _die_in_a_save(*doom)
    if (folder / "config.toml").exists():
        run = RunDirectory.open(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)  # killed while it was being made: no run yet
        run = RunDirectory.create(folder, {"client": client}, seed=0)
    with run:
        found = CLIENTS[client](run)
    models, verdicts = ([found.model], [found.verdict]) if isinstance(found, Fit) else (found.models, found.verdicts)
    logs = {kind: _text(folder / f"{kind}.jsonl") for kind in ("metrics", "decisions")}
    said = {"model": tree_hash(models), "verdicts": [verdict.to_json() for verdict in verdicts], **logs}
    fresh = result.with_suffix(".new")
    fresh.write_text(json.dumps(said))
    fresh.rename(result)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""  # a fit without decisions makes no log of them


def _die_in_a_save(save: int, call: int) -> None:
    """Arrange for SIGKILL at the `call`-th request to the operating system within the `save`-th checkpoint."""
    saves, calls, inside = 0, 0, False
    real_save, real_sync = CheckpointStore.save, os.fsync

    def hook(event: str, _: Any = ()) -> None:
        nonlocal calls, inside
        if inside and (event.startswith(("os.", "fcntl.", "shutil.")) or event in ("open", "fsync")):
            calls += 1
            if calls >= call:
                inside = False  # the kill is such a request too
                os.kill(os.getpid(), signal.SIGKILL)

    def loud_sync(handle: int) -> None:
        hook("fsync")
        real_sync(handle)

    def counted(store: CheckpointStore, *arguments: Any, **named: Any) -> Path:
        nonlocal saves, inside
        saves, inside = saves + 1, saves + 1 >= save
        path = real_save(store, *arguments, **named)
        inside = False
        return path

    setattr(CheckpointStore, "save", counted)  # noqa: B010 (the type checker is right that this is no way to live)
    os.fsync = loud_sync
    sys.addaudithook(hook)


def start(client: str, folder: Path, result: Path, doom: tuple[int, int] | None = None) -> int:
    """The process id of a training that has just begun, forked: everything is imported, no JAX backend is up."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with open(folder.with_suffix(".log"), "a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                train(client, folder, result, doom)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def ended(child: int, over: Callable[[], bool]) -> int | None:
    """The wait status of a training that ends before `over` says so."""
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if over():
            return None
        time.sleep(0.001)


def after(seconds: float) -> Callable[[], bool]:
    """Over in some seconds."""
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def rows(folder: Path) -> list[bytes]:
    """The finished rows of a run's log."""
    log = folder / "metrics.jsonl"
    return log.read_bytes().split(b"\n")[:-1] if log.exists() else []


# ------------------------------------------------------------------------------------------------------------ the trial
@dataclass
class Trial:
    """A training that was killed and resumed until it ended.

    Attributes:
        client: name.
        kills: where each fell.
        same: what was compared -> whether it is equal to the last bit.
    """

    client: str
    kills: list[str]
    same: dict[str, bool]


def reached(folder: Path) -> str:
    """How far a killed training had come: fit, phase and step of the last row, and the last checkpoint of that fit."""
    lines = rows(folder)
    if not lines:
        return "before the first row"
    row = json.loads(lines[-1])
    saved = [int(one.name[5:15]) for one in folder.glob(f"checkpoints/{row['fit']}/step-*")]
    torn = ", half a save left behind" if list(folder.glob("checkpoints/*/.staging-*")) else ""
    return f"{row['fit']}, phase {row['phase'] + 1}, step {row['step']}, saved {max(saved)}{torn}"


def trial(client: str, folder: Path, expected: dict[str, Any], seconds: float, share: int, rng: random.Random) -> Trial:
    """One training, killed up to `share` times."""
    kills: list[str] = []
    result = folder.with_suffix(".json")
    total = expected["metrics"].count("\n")
    while not result.exists():
        doom, over, how = None, after(600), ""
        match rng.choice(("clock", "row", "save")) if len(kills) < share else "never":
            case "clock":
                wait = rng.uniform(0, seconds)
                over, how = after(wait), f"after {wait:.2f} s"
            case "row":
                row, wait = rng.randint(min(len(rows(folder)) + 1, total), total), rng.uniform(0, 0.02)
                over, how = (
                    lambda row=row, wait=wait: len(rows(folder)) >= row and not time.sleep(wait),
                    f"at row {row}",
                )
            case "save":
                doom = (rng.randint(1, 12), rng.randint(1, 45))
                how = f"in save {doom[0]}, call {doom[1]}"
        child = start(client, folder, result, doom)
        status = ended(child, over)
        if status is None:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            kills.append(f"{reached(folder)} ({how})")
        elif status != 0:
            raise SystemExit(f"{client} failed:\n{folder.with_suffix('.log').read_text()}")
    said = json.loads(result.read_text())
    return Trial(client, kills, {name: said[name] == expected[name] for name in expected})


def survey(names: list[str], kills: int, seed: int, root: Path) -> list[Trial]:
    """Every client in turn until all kills are spent, each beside its own uninterrupted training."""
    trials: list[Trial] = []
    rng = random.Random(seed)
    for number, name in enumerate(names):
        reference = root / f"{name}-uninterrupted"
        seconds = 0.0
        for turn in ("cold", "warm"):  # the second knows what is compiled, so its seconds are those of a resumed one
            shutil.rmtree(reference, ignore_errors=True)
            began = time.monotonic()
            status = ended(start(name, reference, root / f"{name}-{turn}.json"), after(600))
            seconds = time.monotonic() - began
            if status != 0:
                raise SystemExit(f"{name} failed:\n{reference.with_suffix('.log').read_text()}")
        cold, warm = (json.loads((root / f"{name}-{turn}.json").read_text()) for turn in ("cold", "warm"))
        trials.append(Trial(name, [], {part: cold[part] == warm[part] for part in cold}))
        share = kills // len(names) + (number < kills % len(names))
        while share > 0:
            one = trial(name, root / f"{name}-{len(trials)}", warm, seconds, min(share, 3), rng)
            trials.append(one)
            share -= len(one.kills)
        sys.stdout.write(f"{name}: {seconds:.1f} s uninterrupted\n")
        sys.stdout.flush()
    return trials


def _by_client(trials: list[Trial]) -> list[dict[str, Any]]:
    """A row a client: its kills, how many of those fell within a save, and how many of its trainings are equal."""
    found = []
    for name in CLIENTS:
        own = [one for one in trials if one.client == name]
        kills = [kill for one in own for kill in one.kills]
        torn = sum("in save" in kill or "half a save" in kill for kill in kills)
        equal = sum(all(one.same.values()) for one in own)
        found.append({"client": name, "kills": len(kills), "in a save": torn, "equal": f"{equal} of {len(own)}"})
    return found


def main() -> int:
    """Run the survey and print its table."""
    parser = argparse.ArgumentParser(description="Kill trainings, resume them, compare every bit.")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(CLIENTS), default=list(CLIENTS))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thalweg-kills-") as folder:
        trials = survey(chosen.only, chosen.kills, chosen.seed, Path(folder))
    done = sum(len(one.kills) for one in trials)
    right = sum(all(one.same.values()) for one in trials)
    for one in trials:
        marks = "  ".join(f"{part} {'same' if same else 'DIFFERS'}" for part, same in one.same.items())
        sys.stdout.write(f"{one.client:<24} kills {len(one.kills)}  {marks}\n")
        for kill in one.kills:
            sys.stdout.write(f"    {kill}\n")
    sys.stdout.write(f"{done} kills, {right} of {len(trials)} trainings equal to the uninterrupted one\n")
    if chosen.only == list(CLIENTS):  # the whole survey
        from benchmarks.side_by_side import record

        record("kills", {"kills": done, "trainings": len(trials), "equal": right, "clients": _by_client(trials)})
    return int(right < len(trials) or done < chosen.kills)


if __name__ == "__main__":
    sys.exit(main())

"""A fit that is stopped anywhere, in any way, goes on to the same bits; and what cannot go on is refused."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from thalweg.errors import DamagedError, RunError, UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import HostRows, Objective, Residual, Supervised
from thalweg.optim import LBFGS, SGD, Adam, Averaged
from thalweg.train import (
    Callback,
    CheckpointStore,
    Fit,
    FitFailed,
    FitInterrupted,
    Layout,
    LossBelow,
    Mode,
    NoImprovement,
    Phase,
    RunDirectory,
    Status,
    fit,
    fit_many,
    load_run,
)
from thalweg.tree import tree_hash

X = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
Y = np.sin(3 * X) + 0.1 * np.random.default_rng(0).normal(size=X.shape).astype(np.float32)


def objective(size: int | None = 16, shift: float = 0.0) -> Objective:
    return Objective(data=Supervised(X[:48], Y[:48] + np.float32(shift), loss=squared_error, batch_size=size))


def held_out() -> Objective:
    return Objective(data=Supervised(X[48:], Y[48:], loss=squared_error))


def network(seed: int = 0) -> MLP:
    return MLP(1, 1, width=8, depth=1, key=jax.random.key(seed), activation=jnp.tanh)


class Killed(BaseException):
    """What a kill is to everything but the operating system: nobody catches it. (Real ones: test_kills.py.)"""


class Killer(Callback):
    """Ends a fit after so many stretches, or acts otherwise then."""

    def __init__(self, after: int, act: Callable[[], Any] | None = None):
        self.left, self.act = after, act

    def progress(self, phase: int, step: int, row: Any) -> None:
        self.left -= 1
        if self.left == 0:
            if self.act is None:
                raise Killed
            self.act()


def open_run(folder: Path) -> RunDirectory:
    if (folder / "config.toml").exists():
        return RunDirectory.open(folder)
    return RunDirectory.create(folder, {})


def outcome(fitted: Any) -> dict[str, Any]:
    models = [fitted.model] if isinstance(fitted, Fit) else fitted.models
    verdicts = [fitted.verdict] if isinstance(fitted, Fit) else fitted.verdicts
    rows, decisions = (
        [{k: v for k, v in row.items() if k != "fit"} for row in kind] for kind in (fitted.rows, fitted.decisions)
    )
    return {"models": tree_hash(models), "verdicts": verdicts, "rows": repr(rows), "decisions": repr(decisions)}


def assert_same(one: Any, other: Any) -> None:
    for part, value in outcome(one).items():
        assert value == outcome(other)[part], part


Client = Callable[..., Any]


def short(**named: Any) -> Any:
    return fit(network(), objective(), Phase(Adam(1e-2), 40), **named)


def phases(**named: Any) -> Any:
    program = [Phase(Adam(1e-2), 60, until=LossBelow(0.1, every=15)), Phase(LBFGS(), 40, redraw=10)]
    return fit(network(), objective(), program, **named)


def ensemble(**named: Any) -> Any:
    """One member diverges in the first phase, one stops early, all in float64 in the second phase."""
    bad = eqx.tree_at(lambda m: m.layers[-1].bias, network(1), jnp.array([1e25]))
    until = NoImprovement(20, every=10) if "validation" in named else LossBelow(0.1, every=10)
    program = [
        Phase(Averaged(Adam(1e-2), decay=0.9), 60, until=until),
        Phase(SGD(1e-2), 30, precision=np.float64),
    ]
    return fit_many([network(), bad, network(2)], objective(), program, raise_failures=False, **named)


def validated(**named: Any) -> Any:
    return ensemble(validation=held_out(), layout=Layout.VMAPPED, **named)


def streamed(**named: Any) -> Any:
    host = Objective(data=Supervised(HostRows((X, Y), batch_size=16), loss=squared_error))
    return fit(network(), host, Phase(Adam(1e-2), 60), validation=held_out(), **named)


@pytest.mark.parametrize("client", [phases, ensemble, pytest.param(validated, marks=pytest.mark.slow), streamed])
def test_killed_between_any_two_checkpoints(client: Client, tmp_path: Path) -> None:
    expected = client(log_every=5)
    with open_run(tmp_path / "whole") as run:
        assert_same(client(run=run, log_every=5, checkpoint_seconds=0), expected)
    deaths, turn = 0, 0
    while True:
        # Dies after ever more stretches; every other time with no checkpoint since the phase began.
        turn += 1
        stretches = 2 * turn
        with open_run(tmp_path / "killed") as run:
            try:
                seconds = (0, 1e9)[turn % 2]
                found = client(run=run, log_every=5, checkpoint_seconds=seconds, callbacks=[Killer(stretches)])
                break
            except Killed:
                deaths += 1
    assert deaths >= 3
    assert_same(found, expected)
    for kind in ("metrics", "decisions"):
        logs = [tmp_path / name / f"{kind}.jsonl" for name in ("whole", "killed")]
        assert logs[0].exists() == logs[1].exists()
        if logs[0].exists():
            assert logs[0].read_bytes() == logs[1].read_bytes()
    record = load_run(tmp_path / "killed")
    assert record.verdicts == {"fit": outcome(found)["verdicts"]}


def test_a_finished_fit_is_only_read_again(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        first = phases(run=run)
    before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file() and one.name != "lock"}
    with open_run(tmp_path) as run:
        assert_same(phases(run=run), first)
    assert {one: one.read_bytes() for one in before} == before


# ------------------------------------------------------------------------------------------------------------ extension
@pytest.mark.parametrize("mode", [Mode.LOOP, Mode.STEP])
def test_a_finished_fit_is_extended(mode: Mode, tmp_path: Path) -> None:
    def longer(steps: int, **named: Any) -> Fit:
        program = [Phase(Adam(1e-2), 20), Phase(Adam(1e-3), steps, until=NoImprovement(1_000, every=10))]
        return fit(network(), objective(), program, validation=held_out(), mode=mode, log_every=10, **named)

    expected = longer(80)
    for steps in (40, 40, 60, 80):
        with open_run(tmp_path) as run:
            found = longer(steps, run=run)
    assert_same(found, expected)
    with open_run(tmp_path) as run, pytest.raises(UserError, match=r"program of \[20, 80\] steps, not of \[20, 60\]"):
        longer(60, run=run)


def test_extension_keeps_the_cadence_that_the_first_length_chose(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        fit(network(), objective(), Phase(Adam(1e-2), 300), run=run)  # a row each 3 steps
        found = fit(network(), objective(), Phase(Adam(1e-2), 600), run=run)
    assert_same(found, fit(network(), objective(), Phase(Adam(1e-2), 600), log_every=3))


def test_a_condition_that_was_met_stays_met(tmp_path: Path) -> None:
    phase = lambda steps: Phase(Adam(1e-2), steps, until=LossBelow(0.2, every=20))
    with open_run(tmp_path) as run:
        first = fit(network(), objective(), phase(400), run=run, log_every=20)
        assert first.rows[-1]["step"] < 400
        found = fit(network(), objective(), phase(800), run=run)
    assert_same(found, first)
    assert "condition was met" in found.verdict.evidence


# ------------------------------------------------------------------------------------------------------ fits in one run
def script(folder: Path, *, first: int = 40, seconds: float = 0, kill: dict[str, int] | None = None) -> tuple[Fit, Fit]:
    """What a user writes: the second fit begins with the model of the first, and a row of the user's own."""
    killer = lambda name: [Killer((kill or {}).get(name, -1))]
    with open_run(folder) as run:
        named: dict[str, Any] = {"run": run, "log_every": 5, "checkpoint_seconds": seconds}
        one = fit(network(), objective(), Phase(Adam(1e-2), first), name="one", callbacks=killer("one"), **named)
        program = Phase(Adam(1e-3), 40, until=LossBelow(1e-9, every=10))
        two = fit(network(3), objective(), program, name="two", callbacks=killer("two"), **named)
        return one, two


def rows_of(folder: Path, name: str) -> list[Any]:
    return [row for row in load_run(folder).rows if row["fit"] == name]


@pytest.mark.parametrize("seconds", [0, 1e9])
@pytest.mark.slow
def test_two_fits_in_one_run(tmp_path: Path, seconds: float) -> None:
    expected = script(tmp_path / "whole")
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        script(folder, seconds=seconds, kill={"one": 4})
    for after in (3, 5):  # killed in the second fit, resumed, killed again
        with pytest.raises(Killed):
            script(folder, seconds=seconds, kill={"two": after})
        assert rows_of(folder, "one") == expected[0].rows
    for _ in range(2):
        for found, right in zip(script(folder), expected, strict=True):
            assert_same(found, right)
    assert (folder / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    # The first is extended: killed before its next checkpoint, then not; the second is as it was.
    with pytest.raises(Killed):
        script(folder, first=80, seconds=1e9, kill={"one": 4})
    assert len(rows_of(folder, "one")) > 8
    longer = script(folder, first=80)
    assert_same(longer[0], fit(network(), objective(), Phase(Adam(1e-2), 80), log_every=5))
    assert_same(longer[1], expected[1])
    assert rows_of(folder, "one") == longer[0].rows
    assert rows_of(folder, "two") == expected[1].rows
    assert list(load_run(folder).verdicts) == ["one", "two"]


def test_a_fit_that_failed_leaves_the_rows_of_the_next_alone(tmp_path: Path) -> None:
    """The first diverges, with rows after its last checkpoint; the second comes after those; then both again."""

    def both(second: int) -> tuple[Fit, Fit]:
        with open_run(tmp_path) as run:
            named: dict[str, Any] = {"run": run, "log_every": 1, "checkpoint_seconds": 1e9, "raise_failures": False}
            one = fit(network(), objective(), Phase(SGD(1e6), 40), name="one", **named)
            killer = Killer(second)
            return one, fit(network(), objective(), Phase(Adam(1e-2), 40), name="two", callbacks=[killer], **named)

    with pytest.raises(Killed):
        both(7)
    one, two = both(-1)
    assert one.verdict.status is Status.DIVERGED
    assert rows_of(tmp_path, "one")[:-1] == one.rows[:-1]  # (the last holds NaN, which equals nothing)
    assert_same(two, fit(network(), objective(), Phase(Adam(1e-2), 40), log_every=1))
    assert rows_of(tmp_path, "two") == two.rows


def test_two_fits_of_one_name_are_refused(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        fit(network(), objective(), Phase(Adam(1e-2), 20), run=run)
        with pytest.raises(UserError, match=r"began with other models.*a name of its own"):
            fit(network(1), objective(), Phase(Adam(1e-2), 20), run=run)
        fit(network(1), objective(), Phase(Adam(1e-2), 20), run=run, name="other")
        for name in ("", "a/b", "..", "nan"):
            with pytest.raises(UserError, match="name"):
                fit(network(), objective(), Phase(Adam(1e-2), 20), run=run, name=name)


# ----------------------------------------------------------------------------------------------------------- divergence
def cliff() -> Objective:
    """Finite only for w < 1, and falling towards it: a walk of steps of rate 0.02 is over the edge after some fifty."""
    return Objective(
        slope=Residual(lambda w, x: jnp.exp(-w), np.zeros((1, 1), np.float32)),
        edge=Residual(lambda w, x: jnp.where(w < 1, 0.0, jnp.inf), np.zeros((1, 1), np.float32)),
    )


@pytest.mark.parametrize("seconds", [0, 1e9])
def test_a_cost_that_is_not_finite(tmp_path: Path, seconds: float) -> None:
    def walk(**named: Any) -> Fit:
        return fit(jnp.zeros(1), cliff(), Phase(Adam(0.02), 200), log_every=8, **named)

    with pytest.raises(FitFailed, match=r"'edge' was not finite at step \d+") as caught:
        walk()
    expected: Any = caught.value.fit
    assert len(expected.rows) < 25  # stopped at the next look, not after 200 steps
    # The model is from the last row before the edge, and its cost is finite.
    edge = int(expected.verdict.evidence.split("step ")[1])
    assert 0.8 < float(expected.model[0]) < 1
    for _ in range(2):  # resumed, it does the same again
        with open_run(tmp_path) as run, pytest.raises(FitFailed) as caught:
            walk(run=run, checkpoint_seconds=seconds)
        assert outcome(caught.value.fit)["models"] == outcome(expected)["models"]
        assert outcome(caught.value.fit)["verdicts"] == [expected.verdict]
        store = CheckpointStore(tmp_path / "checkpoints" / "fit")
        assert store.steps()[-1] == 0 if seconds else edge - 8 <= store.steps()[-1] < edge
        assert len(rows_of(tmp_path, "fit")) == len(expected.rows)
    with open_run(tmp_path) as run:  # with a lower rate it goes on from before the edge
        lower = fit(jnp.zeros(1), cliff(), Phase(Adam(1e-6), 200), run=run, log_every=8)
    assert lower.verdict.status is not Status.DIVERGED
    changes = [row["what"] for row in lower.decisions if "resumed with another phase 1: Adam(rate=1e-06" in row["what"]]
    assert len(changes) == 1
    assert "it was Adam(rate=" in changes[0]
    assert (0.8 < float(lower.model[0]) < 1) == (seconds == 0)


def test_the_other_members_go_on(tmp_path: Path) -> None:
    found = ensemble()
    assert [one.status is Status.DIVERGED for one in found.verdicts] == [False, True, False]
    assert "'data' was not finite at step 0" in found.verdicts[1].evidence
    assert [row["phase"] for row in found.rows][-1] == 1  # the second phase was walked
    alone = fit(
        network(2), objective(),
        [Phase(Averaged(Adam(1e-2), decay=0.9), 60, until=LossBelow(0.1, every=10)),
         Phase(SGD(1e-2), 30, precision=np.float64)], seed=2,
    )  # fmt: skip
    assert tree_hash(found.models[2]) == tree_hash(alone.model)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(eqx.filter(found.models, eqx.is_array)))


# -------------------------------------------------------------------------------------------------------------- signals
@pytest.fixture
def handlers() -> Any:
    """The handlers of the test must be back afterwards."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield before
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize(("client", "number"), [(phases, signal.SIGINT), (ensemble, signal.SIGTERM)])
def test_a_signal_interrupts(client: Client, number: signal.Signals, tmp_path: Path, handlers: Any) -> None:
    expected = client(log_every=5)
    for after in (3, 7):
        interrupt = Killer(after, lambda: signal.raise_signal(number))
        with open_run(tmp_path) as run, pytest.raises(FitInterrupted, match=f"{number.name} arrived at step") as caught:
            client(run=run, log_every=5, checkpoint_seconds=1e9, callbacks=[interrupt])
        assert caught.value.exit_status == 130
        assert "Resume" in str(caught.value)
        assert {one.status for one in outcome(caught.value.fit)["verdicts"]} == {Status.INTERRUPTED}
        assert {one.status for one in load_run(tmp_path).verdicts["fit"]} == {Status.INTERRUPTED}
        step = int(caught.value.what.split("step ")[1])
        assert CheckpointStore(tmp_path / "checkpoints" / "fit").steps()[-1] >= step > 0
    with open_run(tmp_path) as run:
        assert_same(client(run=run, log_every=5), expected)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_acts_as_always(first: signal.Signals, tmp_path: Path, handlers: Any) -> None:
    def twice() -> None:
        signal.raise_signal(first)
        signal.raise_signal(signal.SIGINT)

    with open_run(tmp_path) as run, pytest.raises(KeyboardInterrupt):
        short(run=run, log_every=5, callbacks=[Killer(3, twice)])
    with open_run(tmp_path) as run:  # the run is whole nonetheless
        assert_same(short(run=run, log_every=5), short(log_every=5))


def test_without_a_run_a_signal_acts_as_always(handlers: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        short(callbacks=[Killer(3, lambda: signal.raise_signal(signal.SIGINT))])


def test_an_ignored_signal_stays_ignored(tmp_path: Path, handlers: Any) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job that a shell has put into the background
    with open_run(tmp_path) as run:
        interrupt = Killer(3, lambda: signal.raise_signal(signal.SIGINT))
        assert_same(short(run=run, callbacks=[interrupt]), short())
    signal.signal(signal.SIGINT, before)


def test_in_another_thread_no_signal_is_taken_over(tmp_path: Path, handlers: Any) -> None:
    seen, failures = [], []

    def work() -> None:
        try:
            with open_run(tmp_path) as run:
                short(run=run, callbacks=[Killer(2, lambda: seen.append(signal.getsignal(signal.SIGTERM)))])
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert seen == [handlers[1]]


SCRIPT = """
import sys
from pathlib import Path
import jax, numpy as np
from thalweg.errors import ThalwegError
from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import Objective, Supervised
from thalweg.optim import Adam
from thalweg.train import Callback, Phase, RunDirectory, fit
from thalweg.tree import tree_hash

class Beat(Callback):
    def progress(self, phase, step, row):
        Path(sys.argv[2]).touch()

folder = Path(sys.argv[1])
x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
objective = Objective(data=Supervised(x, x**2, loss=squared_error, batch_size=8))
model = MLP(1, 1, width=8, depth=1, key=jax.random.key(0))
try:
    with RunDirectory.open(folder) if folder.exists() else RunDirectory.create(folder, {}) as run:
        found = fit(model, objective, Phase(Adam(1e-3), int(sys.argv[3])), run=run, log_every=200, callbacks=[Beat()])
    print(tree_hash(found.model))
except ThalwegError as error:
    print(error)
    sys.exit(error.exit_status)
"""


@pytest.mark.slow
def test_a_process_stopped_from_outside(tmp_path: Path) -> None:
    def start(folder: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, tmp_path / folder, tmp_path / "beat", "20_000"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    process = start("stopped")
    while not (tmp_path / "beat").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "SIGTERM arrived at step" in said
    step = CheckpointStore(tmp_path / "stopped" / "checkpoints" / "fit").steps()[-1]
    assert 0 < step < 20_000
    hashes = [start(folder).communicate(timeout=120)[0] for folder in ("stopped", "whole")]
    assert hashes[0] == hashes[1]
    assert len(hashes[0].strip()) == 64


# --------------------------------------------------------------------------------------------------------- a full disk
def test_a_failed_save_fails_the_run_and_keeps_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, saves = CheckpointStore.save, 0

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(store: CheckpointStore, *arguments: Any, **named: Any) -> Path:
        nonlocal saves
        saves += 1
        with monkeypatch.context() as patch:
            if saves == 5:
                patch.setattr(os, "fsync", full)
            return real(store, *arguments, **named)

    monkeypatch.setattr(CheckpointStore, "save", save)
    with open_run(tmp_path) as run, pytest.raises(RunError, match=r"checkpoint of step \d+ .* No space left") as caught:
        short(run=run, log_every=5, checkpoint_seconds=0)
    assert caught.value.exit_status == 1
    store = CheckpointStore(tmp_path / "checkpoints" / "fit")
    assert len(store.steps()) == 3
    for step in store.steps():
        store.at(step).verify()
    with open_run(tmp_path) as run:  # there is space again
        assert_same(short(run=run, log_every=5), short(log_every=5))


# ------------------------------------------------------------------------------------------------------------ bad input
@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run killed on its way, with several checkpoints."""
    with open_run(tmp_path / "run") as run, pytest.raises(Killed):
        phases(run=run, log_every=5, checkpoint_seconds=0, callbacks=[Killer(9)])
    return tmp_path / "run"


def test_a_damaged_checkpoint_is_refused_and_an_older_one_can_be_taken(stopped: Path) -> None:
    store = CheckpointStore(stopped / "checkpoints" / "fit")
    *_, older, last = store.steps()
    arrays = store.at(last).path / "arrays.safetensors"
    content = bytearray(arrays.read_bytes())
    content[-1] ^= 1
    arrays.write_bytes(content)
    rows = (stopped / "metrics.jsonl").read_bytes()
    with open_run(stopped) as run, pytest.raises(DamagedError, match=f"checkpoint of step {last} damaged") as caught:
        phases(run=run, log_every=5)
    assert caught.value.exit_status == 2
    assert (stopped / "metrics.jsonl").read_bytes() == rows
    assert store.steps()[-1] == last
    # The remedy is what to type.
    remedy = caught.value.remedy or ""
    assert f"The checkpoint of step {older} is whole" in remedy
    assert f'CheckpointStore("{store.root}").discard_after({older})' in remedy
    store.discard_after(older)
    with open_run(stopped) as run:
        assert_same(phases(run=run, log_every=5), phases(log_every=5))


Change = Callable[[RunDirectory], Any]
CHANGES: list[tuple[Change, str]] = [
    (lambda run: fit(network(1), objective(), PROGRAM, run=run), "began with other models"),
    (
        lambda run: fit(network(), objective(8), PROGRAM, run=run),
        "other terms: .*, 16 of 48 at a time.*, now .*, 8 of 48",
    ),
    (lambda run: fit(network(), objective(shift=1e-6), PROGRAM, run=run), "began with other data"),
    (lambda run: fit(network(), objective(), PROGRAM, run=run, validation=held_out()), "began with other data"),
    (lambda run: fit(network(), objective(), PROGRAM, run=run, seed=1), r"other seeds: \[0\], now \[1\]"),
    (
        lambda run: fit(network(), objective(), PROGRAM, run=run, precision=np.float64),
        "precision: float32, now float64",
    ),
    (lambda run: fit(network(), objective(), PROGRAM, run=run, mode=Mode.STEP), "mode: loop, now step"),
    (lambda run: fit(network(), objective(), PROGRAM[:1], run=run), r"program of \[60, 40\] steps, not of \[60\]"),
    (lambda run: fit(network(), objective(), [PROGRAM[1], PROGRAM[0]], run=run), r"not of \[40, 60\]"),
    (lambda run: fit(network(), objective(), [Phase(SGD(0.1), 60), PROGRAM[1]], run=run), "leaf 'members/states/0"),
    (lambda run: fit_many([network()] * 2, objective(), PROGRAM, run=run), "members: 1, now 2"),
    (
        lambda run: fit(MLP(1, 1, width=9, depth=1, key=jax.random.key(0)), objective(), PROGRAM, run=run),
        "began with other models",
    ),
]
PROGRAM = [Phase(Adam(1e-2), 60, until=LossBelow(0.1, every=15)), Phase(LBFGS(), 40, redraw=10)]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_checkpoint_of_another_fit_is_refused(stopped: Path, change: Change, message: str) -> None:
    before = {one: one.read_bytes() for one in stopped.rglob("*") if one.is_file() and one.name != "lock"}
    with open_run(stopped) as run, pytest.raises(UserError, match=message):
        change(run)
    assert {one: one.read_bytes() for one in before} == before


def test_a_run_that_is_not_locked_is_refused(stopped: Path) -> None:
    run = RunDirectory.open(stopped)
    with pytest.raises(UserError, match="not locked for writing"):
        phases(run=run)
    with run, pytest.raises(UserError, match="is being written by process"), RunDirectory.open(stopped) as second:
        phases(run=second)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fit(network(), objective(), []),
        lambda: fit(network(), objective(), [Adam(1e-2)]),  # pyright: ignore[reportArgumentType]
        lambda: fit(network(), objective(), Phase(Adam(1e-2), 10), log_every=0),
        lambda: fit(network(), objective(), Phase(Adam(1e-2), 10), validate_every=0),
        lambda: fit(network(), objective(), Phase(Adam(1e-2), 10), checkpoint_seconds=-1),
        lambda: fit(network(), objective(), Phase(Adam(1e-2), 10), checkpoint_seconds=float("nan")),
        lambda: fit(network(), objective(), Phase(Adam(1e-2), 0)),
        lambda: fit_many([], objective(), Phase(Adam(1e-2), 10)),
        lambda: fit_many([network()], objective(), Phase(Adam(1e-2), 10), seeds=[1, 2]),
        lambda: fit_many([network(), MLP(1, 1, width=8, depth=2, key=jax.random.key(0))], objective(), PROGRAM),
    ],
)
def test_arguments_that_cannot_work(call: Callable[[], Any]) -> None:
    with pytest.raises(UserError):
        call()


def test_a_schedule_that_knows_the_length_is_the_users_to_keep(tmp_path: Path) -> None:
    """What the docstring of `fit` says of extensions: the same schedule, and so the same bits."""
    rate = optax.cosine_decay_schedule(1e-2, 40, alpha=0.1)
    with open_run(tmp_path) as run:
        fit(network(), objective(), Phase(Adam(rate), 40), run=run, log_every=10)
        found = fit(network(), objective(), Phase(Adam(rate), 80), run=run)
    assert_same(found, fit(network(), objective(), Phase(Adam(rate), 80), log_every=10))

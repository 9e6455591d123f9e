"""The record of a run: nothing written over, one writer, logs that survive a kill, sources that are those that ran."""

import errno
import hashlib
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import DamagedError, RunError, ThalwegError, UserError
from thalweg.train.files import plain, read_json, write_json_atomic, write_text_atomic
from thalweg.train.log import MetricsLog
from thalweg.train.record import RunDirectory, describe_environment, new_run_path


class Flavour(Enum):
    PLAIN = "plain"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


# A process that imports everything once and then forks one child a task: importing takes seconds, forking milliseconds.
FORGE = """
import itertools, json, os, resource, sys, time
from pathlib import Path
from thalweg.errors import RunError, UserError
from thalweg.train import record
from thalweg.train.files import write_json_atomic
from thalweg.train.log import MetricsLog

record.describe_environment = lambda **named: {}  # a forked JAX backend would hang

def rewrite(path):
    for n in itertools.count():
        write_json_atomic(path, {"n": n, "same": [n] * 20_000})

def append(path, said):
    log = MetricsLog(path)
    rows = log.read()
    handle = os.open(said, os.O_RDWR | os.O_CREAT)
    for step in itertools.count(rows[-1]["step"] + 1 if rows else 0):
        log.append({"step": step, "values": [step] * 50})
        os.pwrite(handle, b"%20d" % step, 0)

def fill(path, said):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    log = MetricsLog(path)
    try:
        for step in range(1000):
            log.append({"step": step})
    except RunError as error:
        os.write(os.open(said, os.O_RDWR | os.O_CREAT), f"{step} {error}".encode()[:900])

def lock(path, said):
    record.RunDirectory.open(path).lock()
    Path(said).touch()
    time.sleep(60)

def create(folder, name, go, said):
    while not Path(go).exists():
        pass
    made = 0
    for n in range(30):
        try:
            with record.RunDirectory.create(f"{folder}/{n}", {"maker": name}) as run:
                run.metrics.append({"step": 1, "maker": name})
        except UserError:
            continue
        made += 1
    Path(said).write_text(str(made))

for line in sys.stdin:
    order, *arguments = json.loads(line)
    if order == "wait":
        print(os.waitpid(*arguments, 0)[1], flush=True)
    else:
        child = os.fork()
        if child == 0:
            globals()[order](*arguments)
            os._exit(0)
        print(child, flush=True)
"""


class Forge:
    """Starts the tasks of FORGE, each in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", FORGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, task: str, *arguments: Any) -> int:
        """The process of a task that has just begun."""
        return self._order(task, *map(str, arguments))

    def wait(self, child: int) -> int:
        """The wait status of a task, when it has ended."""
        return self._order("wait", child)

    def kill(self, child: int) -> None:
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(self.wait(child)) == signal.SIGKILL  # it lived until then

    def _order(self, *order: Any) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def forge() -> Iterator[Forge]:
    forge = Forge()
    with forge.process:
        yield forge
        assert forge.process.stdin is not None
        forge.process.stdin.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    """A study, a helper beside it, and another helper of the same file name in a folder below."""
    folder = tmp_path / "mine"
    (folder / "physics").mkdir(parents=True)
    files = [folder / "plate.py", folder / "helper.py", folder / "physics" / "helper.py"]
    for file in files:
        file.write_text(f"NAME = {file.name!r}  # ν\n", encoding="utf-8")
    return files


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes every sync from the n-th on fail as on a full disk."""

    def from_call(n: int) -> None:
        real, calls = os.fsync, 0

        def fsync(handle: int) -> None:
            nonlocal calls
            calls += 1
            if calls >= n:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)

    return from_call


# ------------------------------------------------------------------------------------------------- files, whole or not
def test_plain_takes_what_a_run_records() -> None:
    given = {
        "arrays": [np.arange(3), jnp.asarray([[1.5]], jnp.bfloat16), np.float32(0.5), jnp.asarray(True)],
        "numbers": (1, 2.5, np.nan, -math.inf, np.float64(np.inf), np.int8(3)),
        "others": [None, True, "ν", Path("a") / "b", Flavour.PLAIN, np.str_("text")],
    }
    assert plain(given) == {
        "arrays": [[0, 1, 2], [[1.5]], 0.5, True],
        "numbers": [1, 2.5, "nan", "-inf", "inf", 3],
        "others": [None, True, "ν", "a/b", "plain", "text"],
    }
    assert plain([math.inf, np.float32(-np.inf)], numbers_only=False) == [math.inf, -math.inf]
    assert {type(one) for one in plain([np.float64(1.0), np.float64(np.inf)], numbers_only=False)} == {float}


@pytest.mark.parametrize(
    ("given", "message"),
    [({"a": [1, {2, 3}]}, r"set cannot be recorded \(a\[1\]\)"), ({"a": {1: 2}}, r"key 1 is no text \(a\)")],
)
def test_plain_refuses_the_rest_by_its_place(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plain(given)


def test_json_is_standard_json(tmp_path: Path) -> None:
    path = tmp_path / "verdict.json"
    write_json_atomic(path, {"loss": math.nan, "what": "ν"})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not in the standard")

    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse) == {"loss": "nan", "what": "ν"}


@pytest.mark.parametrize("content", [b"", b'{"epochs": 5', b"\xff", b"[" * 100_000])
def test_damaged_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "extension.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"it is no JSON.*extension\.json"):
        read_json(path)
    with pytest.raises(UserError, match=r"cannot be read: No such file.*missing\.json"):
        read_json(tmp_path / "missing.json")
    write_json_atomic(path, {"epochs": [5, None, "nan"]})
    assert read_json(path) == {"epochs": [5, None, "nan"]}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, full_disk: Callable[[int], None], failing: int) -> None:
    path = tmp_path / "claims.json"
    write_text_atomic(path, "old")
    full_disk(failing)
    with pytest.raises(RunError, match="No space left") as caught:
        write_text_atomic(path, "new")
    assert caught.value.exit_status == 1
    # The second sync is that of the folder: the new content is then whole and in place, only not yet durable.
    assert contents(tmp_path) == {"claims.json": b"old" if failing == 1 else b"new"}
    with pytest.raises(RunError):
        write_text_atomic(tmp_path / "missing" / "claims.json", "new")


def test_a_file_is_never_seen_half_written(tmp_path: Path, forge: Forge) -> None:
    path = tmp_path / "claims.json"
    write_json_atomic(path, {"n": -1, "same": [-1] * 20_000})
    seen: set[int] = set()

    def look() -> bool:
        value = json.loads(path.read_bytes())
        assert value["same"] == [value["n"]] * 20_000
        seen.add(value["n"])
        return len(seen) >= 15

    child = forge.start("rewrite", path)
    wait_for(look)
    forge.kill(child)
    look()


# ---------------------------------------------------------------------------------------------------------------- logs
def test_rows_come_back(tmp_path: Path) -> None:
    rows = [
        {"step": 0, "loss": math.inf, "terms": {"heat": -math.inf, "members": [0.1, 1e-300]}, "phase": "Adam ν"},
        {"step": 5, "loss": 1 / 3, "done": None, "text": "two\nlines"},
    ]
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.read() == []
    assert not log.path.exists()  # reading makes nothing
    for row in rows:
        log.append(row)
    log.append({"step": np.int64(6), "loss": jnp.float32(jnp.nan)})
    *same, last = log.read()
    assert same == rows
    assert last["step"] == 6
    assert math.isnan(last["loss"])
    assert len(log.path.read_bytes().splitlines()) == 3
    log.close()
    log.append({"step": 7})  # opens again
    assert [row["step"] for row in MetricsLog(log.path).read()] == [0, 5, 6, 7]
    log.close()


@pytest.mark.parametrize("row", [{}, {"step": 1.0}, {"step": True}, {"step": 1, "f": print}, {"step": 1, 2: 3}])
def test_what_is_no_row_is_refused(tmp_path: Path, row: dict[Any, Any]) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError):
        log.append(row)
    assert log.read() == []


def test_half_a_row_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole, last = b'{"step": 1}\n{"step": 2}\n', '{"step": 3, "ν": 0.5}'.encode()
    for length in range(1, len(last) + 1):  # also the whole of it without its line end, and half a "ν"
        path.write_bytes(whole + last[:length])
        assert [row["step"] for row in MetricsLog(path).read()] == [1, 2]
        assert path.read_bytes() == whole + last[:length]  # a reader repairs nothing: the writer may be alive
        log = MetricsLog(path)
        log.append({"step": 4})
        assert [row["step"] for row in log.read()] == [1, 2, 4]
        log.close()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for line in (b'{"step": 2', b"[1]", b"\0\0\0", b"\xff", b'{"loss": 1}'):
        path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
        with pytest.raises(DamagedError, match=r"metrics\.jsonl, line 2"):
            MetricsLog(path).read()


def test_rewinding_to_a_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "decisions.jsonl")
    assert log.rewind(0) == []
    assert not log.path.exists()
    for n in range(3):
        log.append({"step": 10, "n": n, "loss": math.inf})  # the same step: no step number could tell
    log.sync()
    log.close()
    with log.path.open("ab") as file:
        file.write(b'\0\0 what a power cut leaves\n{"step": 11, "n"')
    assert log.rewind(2) == [{"step": 10, "n": n, "loss": math.inf} for n in range(2)]
    log.append({"step": 11, "n": 3})
    assert [row["n"] for row in log.read()] == [0, 1, 3]
    before = log.path.stat().st_mtime_ns
    log.rewind(3)
    assert log.path.stat().st_mtime_ns == before  # nothing to drop, nothing written
    with pytest.raises(DamagedError, match="has 3 rows where the checkpoint saw 4"):
        log.rewind(4)
    assert len(log.read()) == 3
    log.close()
    log.path.write_bytes(b'{"step": 1}\n\0\n{"step": 3}\n')  # damage that no power cut leaves is not passed over
    with pytest.raises(DamagedError, match="line 2"):
        log.rewind(1)
    assert [one.name for one in tmp_path.iterdir()] == ["decisions.jsonl"]


def test_rewinding_one_of_two_fits(tmp_path: Path, full_disk: Callable[[int], None]) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    order = "aabbaab"
    for step, name in enumerate(order):
        log.append({"step": step, "fit": name})
    assert log.rewind(4, {"fit": "a"}) == [{"step": step, "fit": "a"} for step in (0, 1, 4, 5)]
    assert log.rewind(3, {"fit": "b"})[-1] == {"step": 6, "fit": "b"}
    assert "".join(row["fit"] for row in log.read()) == order
    before = log.path.read_bytes()
    full_disk(1)
    with pytest.raises(RunError, match="No space left"):
        log.rewind(3, {"fit": "a"})  # in the middle of the file, so it is written anew
    assert log.path.read_bytes() == before


def test_dropping_rows_between_those_of_another_fit(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step, name in enumerate("aabbaab"):
        log.append({"step": step, "fit": name})
    log.rewind(3, {"fit": "a"})
    assert [(row["step"], row["fit"]) for row in log.read()] == [*enumerate("aabba"), (6, "b")]
    log.append({"step": 7, "fit": "a"})  # into the new file, not into the one it replaced
    assert log.rewind(1, {"fit": "a"}) == [{"step": 0, "fit": "a"}]
    assert [(row["step"], row["fit"]) for row in log.read()] == [(0, "a"), (2, "b"), (3, "b"), (6, "b")]
    log.close()


def test_a_kill_loses_no_row_but_the_half_written(tmp_path: Path, forge: Forge) -> None:
    path, said = tmp_path / "metrics.jsonl", tmp_path / "said"
    rows: list[dict[str, Any]] = []
    for turn in range(10):
        before = len(rows)
        child = forge.start("append", path, said)
        wait_for(lambda: said.exists() and int(said.read_bytes() or b"-1") >= before)  # noqa: B023 (this turn's)
        time.sleep(0.002 * turn)
        forge.kill(child)
        rows = MetricsLog(path).read()
        assert [row["step"] for row in rows] == list(range(len(rows)))  # none missing, none twice
        assert all(row["values"] == [row["step"]] * 50 for row in rows)
        assert len(rows) > int(said.read_bytes() or b"0")


def test_a_full_disk_leaves_the_rows_before(tmp_path: Path, forge: Forge) -> None:
    path, said = tmp_path / "metrics.jsonl", tmp_path / "said"
    assert forge.wait(forge.start("fill", path, said)) == 0
    step, message = said.read_text().split(" ", 1)
    assert "a row could not be written" in message
    assert 30 < int(step) < 100  # about 14 bytes a row
    assert [row["step"] for row in MetricsLog(path).read()] == list(range(int(step)))
    assert path.read_bytes().endswith(b"}\n")  # no part of the row that failed


def test_a_log_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be opened"):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl").append({"step": 1})


# ------------------------------------------------------------------------------------------------------- run directory
def test_a_run_directory_holds_what_it_should(tmp_path: Path, study: list[Path]) -> None:
    config = {
        "steps": 200,
        "rates": [1e-3, np.float32(0.5)],
        "model": {"width": 32, "ν": "0.01/π", "out": tmp_path},
        "limit": math.inf,
        "phases": [{"optimizer": "Adam"}, {"optimizer": "LM", "damping": 1e-3}],
    }
    with RunDirectory.create(tmp_path / "runs" / "plate" / "1", config, sources=study, seed=7) as run:
        assert run.path == tmp_path / "runs" / "plate" / "1"
        run.metrics.append({"step": 1})
        run.decisions.append({"step": 2})
    names = {one.relative_to(run.path).as_posix() for one in run.path.rglob("*")}
    assert names == {
        *("config.toml", "environment.json", "metrics.jsonl", "decisions.jsonl", "lock"),
        *("checkpoints", "arrays", "model", "source", "source/manifest.json"),
        *("source/plate.py", "source/helper.py", "source/physics", "source/physics/helper.py"),
    }
    expected = {**config, "rates": [1e-3, 0.5], "model": {"width": 32, "ν": "0.01/π", "out": str(tmp_path)}}
    again = RunDirectory.open(str(run.path))
    assert again.config() == expected
    assert tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8")) == expected
    assert again.metrics.read() == [{"step": 1}]
    assert again.decisions.read() == [{"step": 2}]
    assert (run.checkpoints, run.arrays, run.model) == tuple(run.path / n for n in ("checkpoints", "arrays", "model"))
    manifest = json.loads((run.path / "source" / "manifest.json").read_text())
    for entry, origin in zip(manifest["files"], study, strict=True):
        data = origin.read_bytes()
        assert (run.path / "source" / entry["path"]).read_bytes() == data
        assert (entry["sha256"], entry["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
        assert entry["origin"] == str(origin.resolve())
    assert [one.relative_to(run.path).as_posix() for one in again.verify_sources()] == [
        *("source/plate.py", "source/helper.py", "source/physics/helper.py")
    ]


def test_the_environment_says_what_the_run_depends_on() -> None:
    environment = describe_environment(seed=7)
    assert environment["python"] == platform.python_version()
    assert environment["versions"] == {
        **{name: sys.modules[name].__version__ for name in ("jax", "jaxlib", "numpy")},
        **{name: environment["versions"][name] for name in ("thalweg", "equinox", "optax")},
    }
    assert all(re.match(r"\d+\.\d+", environment["versions"][name]) for name in ("thalweg", "equinox", "optax"))
    assert environment["platform"] == jax.default_backend()
    assert environment["device_count"] == jax.device_count()
    assert environment["device_kind"] == jax.devices()[0].device_kind
    assert (environment["precision"], environment["seed"]) == ("float32", 7)
    with jax.enable_x64(True):
        scoped = describe_environment()
    assert (scoped["precision"], scoped["seed"]) == ("float64", None)
    assert describe_environment(precision="bfloat16")["precision"] == "bfloat16"


def test_the_environment_says_when_the_run_began() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    begun = datetime.fromisoformat(describe_environment()["begun"])
    assert before <= begun <= datetime.now(UTC)


def test_the_environment_names_the_commit(repository: Path) -> None:
    if not (repository / ".git").exists():
        assert describe_environment()["commit"] is None
        return

    def head() -> str:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.strip()

    before, commit, after = head(), describe_environment()["commit"], head()  # a commit may come in between
    assert commit.removesuffix("-dirty") in (before, after)


def test_new_paths_are_fresh_and_in_order() -> None:
    paths = {new_run_path("runs", "heat-plate") for _ in range(50)}
    assert len(paths) == 50
    assert all(re.fullmatch(r"runs/heat-plate/\d{8}T\d{6}Z-[0-9a-f]{6}", path.as_posix()) for path in paths)
    for name in ("", ".", "..", "a/b", "/etc"):
        with pytest.raises(UserError, match="no folder name"):
            new_run_path("runs", name)


def test_an_existing_folder_is_not_written_over(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    for path, message in ((folder, "not empty: it holds 'thesis.txt'"), (folder / "thesis.txt", "cannot be made")):
        with pytest.raises(UserError, match=message) as caught:
            RunDirectory.create(path, {})
        assert caught.value.where == str(path)
    assert contents(tmp_path) == {"results/thesis.txt": b"years of work"}
    with RunDirectory.create(tmp_path / "run", {"n": 1}):
        pass
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="not empty"):
        RunDirectory.create(tmp_path / "run", {"n": 2})
    assert contents(tmp_path / "run") == before


def test_a_bad_beginning_leaves_no_folder(tmp_path: Path, study: list[Path]) -> None:
    path = tmp_path / "runs" / "1"
    bad: list[tuple[dict[str, Any], list[Path], str]] = [
        ({"model": {"sizes": [1, None]}}, [], r"None.*model\.sizes\.1"),
        ({"model": print}, [], r"cannot be recorded \(model\)"),
        ({}, [*study, tmp_path / "missing.py"], r"missing\.py"),
        ({}, [tmp_path], "cannot be read"),
    ]
    for config, sources, message in bad:
        with pytest.raises(UserError, match=message):
            RunDirectory.create(path, config, sources=sources)
        assert not path.parent.exists()


@pytest.mark.parametrize("failing", range(1, 10))
def test_a_full_disk_at_the_beginning_leaves_no_half_run(
    tmp_path: Path, study: list[Path], full_disk: Callable[[int], None], failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (tmp_path / "new", empty):
        full_disk(failing)
        with pytest.raises(RunError, match="No space left"):
            RunDirectory.create(path, {}, sources=study)
        monkeypatch.undo()
    assert not (tmp_path / "new").exists()
    assert list(empty.iterdir()) == []
    with RunDirectory.create(empty, {}, sources=study):
        pass


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "environment.json").write_text("{}")  # what a kill in the middle of `create` leaves
    for name, message in (("missing", "no such folder"), ("file", "no such folder"), ("half", "no config.toml")):
        with pytest.raises(UserError, match=message) as caught:
            RunDirectory.open(tmp_path / name)
        assert caught.value.exit_status == 2
        assert caught.value.where == str(tmp_path / name)
    (tmp_path / "half" / "config.toml").write_text("= no TOML")
    with pytest.raises(DamagedError, match=r"cannot be read.*config\.toml"):
        RunDirectory.open(tmp_path / "half").config()
    with pytest.raises(UserError, match=r"cannot be read.*manifest\.json"):
        RunDirectory.open(tmp_path / "half").verify_sources()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda source: (source / "physics" / "helper.py").write_text("changed"), "'physics/helper.py'.* was changed"),
        (lambda source: (source / "helper.py").unlink(), r"'helper\.py'.* is missing"),
        (lambda source: (source / "json.py").write_text("shadow"), r"'json\.py'.* was added"),
    ],
)
def test_changed_sources_are_refused_by_name(
    tmp_path: Path, study: list[Path], change: Callable[[Path], Any], message: str
) -> None:
    with RunDirectory.create(tmp_path / "run", {}, sources=study) as run:
        study[0].write_text("the user goes on editing; the run has its own copy")
        (run.path / "source" / "__pycache__").mkdir()
        (run.path / "source" / "__pycache__" / "plate.cpython-311.pyc").write_bytes(b"")
        assert len(run.verify_sources()) == 3
        change(run.path / "source")
        with pytest.raises(UserError, match=message):
            run.verify_sources()


def test_a_second_writer_is_refused_and_a_killed_one_is_not(tmp_path: Path, forge: Forge) -> None:
    with RunDirectory.create(tmp_path / "run", {}) as run:
        with pytest.raises(UserError, match=f"process {os.getpid()} "):
            RunDirectory.open(run.path).lock()  # in the same process too
        assert run.lock() is run
    first = forge.start("lock", run.path, tmp_path / "said")
    wait_for((tmp_path / "said").exists)
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"process {first} on .*{re.escape(platform.node())}") as caught:
        RunDirectory.open(run.path).lock()
    assert time.monotonic() - began < 1  # at once
    assert caught.value.exit_status == 2
    assert RunDirectory.open(run.path).config() == {}  # reading needs no lock
    forge.kill(first)
    second = RunDirectory.open(run.path)
    assert not second.is_locked
    with second:  # entering locks
        assert second.is_locked
        assert (run.path / "lock").read_text().startswith(f"{os.getpid()} ")
        with pytest.raises(UserError, match=f"process {os.getpid()} "), RunDirectory.open(run.path):
            pass
    assert not second.is_locked
    second.lock().close()  # and again


def test_two_processes_that_create_the_same_runs(tmp_path: Path, forge: Forge) -> None:
    go = tmp_path / "go"
    children = [forge.start("create", tmp_path / "runs", name, go, tmp_path / name) for name in "ab"]
    go.touch()
    assert [forge.wait(child) for child in children] == [0, 0]
    made = [int((tmp_path / name).read_text()) for name in "ab"]
    assert sum(made) == 30  # each was made once
    for n in range(30):
        run = RunDirectory.open(tmp_path / "runs" / str(n))
        assert run.metrics.read() == [{"step": 1, "maker": run.config()["maker"]}]


def test_errors_are_thalwegs_own(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "missing")
    for use in (run.config, run.environment, run.verify_sources, run.lock, run.metrics.sync):
        with pytest.raises(ThalwegError):
            use()

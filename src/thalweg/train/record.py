"""The record of a run: its directory, what is written there, and the lock that keeps a second writer out.

Nothing here trains, and nothing that is read here is executed.
"""

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import secrets
import shutil
import subprocess
import time
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tomli_w

from thalweg.errors import DamagedError, RunError, UserError
from thalweg.train.files import (
    plain,
    read_json,
    sha256,
    sync_folder,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)
from thalweg.train.log import MetricsLog

MATMUL_PRECISION = "highest"
"""What `fit` pins the precision of matrix products to."""

PACKAGES = ("thalweg", "jax", "jaxlib", "equinox", "optax", "numpy")


def new_run_path(root: str | Path, study: str) -> Path:
    """A fresh path `root/study/<time>-<id>`, the time in UTC so that names sort by it. Makes nothing.

    Raises:
        UserError: `study` is no plain folder name.

    >>> new_run_path("runs", "heat-plate").as_posix()
    'runs/heat-plate/...Z-...'
    """
    if study in ("", ".", "..") or Path(study).name != study:
        raise UserError(f"{study!r} is no folder name", where="study", remedy="Use letters, digits and hyphens.")
    return Path(root) / study / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"


def describe_environment(*, seed: int | None = None, precision: str | None = None) -> dict[str, Any]:
    """Versions, devices and precision under which bit-exactness is promised, and the time in UTC. Loads JAX.

    Args:
        seed: the run's one seed.
        precision: what the run computes in; None: what JAX's 64-bit setting says now.
    """
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        "commit": _commit(),
        "system": platform.platform(),
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "precision": precision or jax.numpy.result_type(float).name,
        "matmul_precision": MATMUL_PRECISION,
        "seed": seed,
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


class RunDirectory:
    """The folder that holds everything a run leaves: see "What a run leaves" in the design.

    Made by `RunDirectory.create`, which also locks it, or `RunDirectory.open`, which does not. Entering its `with`
    block locks it, leaving it closes the logs and releases the lock; so does the death of the process, however it dies.

    Attributes:
        path: the folder; in it `config.toml`, `environment.json`, `source/`, `metrics.jsonl`, `decisions.jsonl`,
            `checkpoints/`, `arrays/`, `model/` and `lock`.
        metrics, decisions: the two logs.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunDirectory.create(Path(folder) / "run", {"steps": 200}, seed=7) as run:
    ...         run.metrics.append({"step": 100, "loss": 0.5})
    ...     again = RunDirectory.open(Path(folder) / "run")
    ...     again.config(), again.environment()["seed"], again.metrics.read()
    ({'steps': 200}, 7, [{'step': 100, 'loss': 0.5}])
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.metrics = MetricsLog(self.path / "metrics.jsonl")
        self.decisions = MetricsLog(self.path / "decisions.jsonl")
        self._lock: int | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        sources: Sequence[str | Path] = (),
        seed: int | None = None,
        precision: str | None = None,
    ) -> Self:
        """Makes the folder of a new run and locks it.

        Args:
            path: a folder that does not exist yet, or is empty.
            config: the resolved settings; TOML has no null, so a None in it is refused.
            sources: the study file and its helper modules; copied, with their folders below the one they share.
            seed, precision: for `environment.json`, see `describe_environment`.
        Raises:
            UserError: the folder exists and is not empty, or cannot be made; a source cannot be read; a None.
            RunError: the disk is full; what was written is removed again.
        """
        run = cls(path)
        settings = _toml(config)
        copies = _read_sources(sources)
        environment = describe_environment(seed=seed, precision=precision)
        existed = run.path.is_dir()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            _refuse_content(run.path)
        except OSError as error:
            what = f"the run directory cannot be made: {error.strerror}"
            raise UserError(what, where=str(path), remedy="Choose another path for the run.") from error
        with contextlib.ExitStack() as undo:
            undo.callback(run.close)
            run.lock()
            _refuse_content(run.path, but="lock")  # another process may have been quicker
            undo.callback(_empty, run.path, remove=not existed)
            try:
                _write_run(run, copies, environment, settings)
            except OSError as error:
                what = f"the run directory could not be written: {error.strerror}"
                raise RunError(what, where=str(path), remedy="Free disk space and start again.") from error
            undo.pop_all()
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The folder of an existing run, for reading. To write into it, enter its `with` block, or `lock` it.

        Raises:
            UserError: the folder does not exist, or is no run's.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise UserError("there is no such folder", where=str(path), remedy=_WHICH)
        missing = [name for name in ("config.toml", "environment.json") if not (run.path / name).is_file()]
        if missing:
            raise UserError(f"the folder is no run: it has no {missing[0]}", where=str(path), remedy=_WHICH)
        return run

    def lock(self) -> Self:
        """Makes this process the run's only writer, until `close` or its death.

        Raises:
            UserError: another writer lives; its process is named. Or the file system has no locks.
        """
        if self._lock is not None:
            return self
        holder = ""
        with contextlib.ExitStack() as undo:
            try:
                handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                undo.callback(os.close, handle)
                holder = os.read(handle, 300).decode(errors="replace").strip()
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()} on {platform.node()}".encode(), 0)
            except BlockingIOError as error:
                what = f"the run is being written by process {holder}"
                remedy = "Wait for it to end, or stop it with SIGTERM: it then leaves a checkpoint."
                raise UserError(what, where=str(self.path), remedy=remedy) from error
            except OSError as error:
                what = f"the run directory cannot be locked: {error.strerror}"
                remedy = "Use a local folder that you may write to."
                raise UserError(what, where=str(self.path), remedy=remedy) from error
            undo.pop_all()
        self._lock = handle
        return self

    def close(self) -> None:
        """Closes the logs and releases the lock."""
        self.metrics.close()
        self.decisions.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def is_locked(self) -> bool:
        """Whether this object may write into the folder."""
        return self._lock is not None

    def __enter__(self) -> Self:
        return self.lock()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def checkpoints(self) -> Path:
        """The folder of the `CheckpointStore`."""
        return self.path / "checkpoints"

    @property
    def arrays(self) -> Path:
        """The folder of what the report shows."""
        return self.path / "arrays"

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.path / "model"

    def config(self) -> dict[str, Any]:
        """The resolved settings. Raises DamagedError if the file is no longer TOML."""
        path = self.path / "config.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # what is no UTF-8 or no TOML is a ValueError
            what = f"the file cannot be read: {error}"
            raise DamagedError(what, where=str(path), remedy="Restore it from a copy.") from error

    def environment(self) -> dict[str, Any]:
        """What `describe_environment` said at the beginning. Raises DamagedError if the file holds something else."""
        path = self.path / "environment.json"
        found = read_json(path)
        if not isinstance(found, dict) or not isinstance(found.get("versions", {}), dict):
            raise DamagedError("the file describes no environment", where=str(path), remedy="Restore it from a copy.")
        return found

    def verify_sources(self) -> list[Path]:
        """The run's copies of its sources, the study first, after comparing each with its SHA-256.

        Raises:
            UserError: a copy was changed, removed or added since the run began; it is named.
            DamagedError: the list of the sources is none.
        """
        folder = self.path / "source"
        manifest = folder / "manifest.json"
        content = read_json(manifest)
        try:
            names = {str(entry["path"]): str(entry["sha256"]) for entry in content["files"]}
        except (KeyError, TypeError) as error:
            what = f"the file does not list the run's sources: {error!r}"
            raise DamagedError(what, where=str(manifest), remedy="Restore it from a copy.") from error
        found = {
            one.relative_to(folder).as_posix()
            for one in folder.rglob("*")
            if one.is_file() and "__pycache__" not in one.parts
        } - {"manifest.json"}
        for name in [*names, *sorted(found - set(names))]:
            path = folder / name
            change = "was added" if name not in names else "is missing" if name not in found else None
            if change is None and sha256(path.read_bytes()) != names[name]:
                change = "was changed"
            if change is not None:
                raise UserError(
                    f"the source file {name!r} of the run {change} since the run began",
                    where=str(path),
                    remedy="Bring it back as it was to resume this run, or start a new run with the new source.",
                )
        return [folder / name for name in names]


# ------------------------------------------------------------------------------------------- parts of a run's folder
_WHICH = "Name the folder of one run, such as runs/<study>/<time>-<id>."


def _refuse_content(folder: Path, *, but: str = "") -> None:
    content = sorted(one.name for one in folder.iterdir() if one.name != but)
    if content:
        what = f"the run directory exists and is not empty: it holds {content[0]!r}"
        raise UserError(what, where=str(folder), remedy="Choose another path; nothing was written over.")


def _empty(folder: Path, *, remove: bool) -> None:
    with contextlib.suppress(OSError):
        for one in folder.iterdir():
            if one.is_dir():
                shutil.rmtree(one, ignore_errors=True)
            else:
                one.unlink()
        if remove:
            folder.rmdir()


def _write_run(
    run: RunDirectory, copies: Mapping[str, tuple[Path, bytes]], environment: dict[str, Any], settings: str
) -> None:
    source = run.path / "source"
    for folder in (source, run.checkpoints, run.arrays, run.model):
        folder.mkdir()
    entries = []
    for name, (origin, data) in copies.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(source / name, data)
        entries.append({"path": name, "sha256": sha256(data), "size": len(data), "origin": str(origin)})
    write_json_atomic(source / "manifest.json", {"files": entries})
    write_json_atomic(run.path / "environment.json", environment)
    write_text_atomic(run.path / "config.toml", settings)  # the last: a folder without it is no run
    sync_folder(run.path.parent)


def _read_sources(sources: Sequence[str | Path]) -> dict[str, tuple[Path, bytes]]:
    origins = list(dict.fromkeys(Path(source).resolve() for source in sources))
    shared = os.path.commonpath([origin.parent for origin in origins]) if origins else ""
    copies = {}
    for origin in origins:
        name = origin.relative_to(shared).as_posix()
        try:
            copies[name] = (origin, origin.read_bytes())
        except OSError as error:
            what = f"a source file cannot be read: {error.strerror}"
            raise UserError(what, where=str(origin), remedy="Check the path of the study and its modules.") from error
    return copies


def _toml(config: Mapping[str, Any]) -> str:
    settings = plain(config, numbers_only=False)
    waiting: list[tuple[str, Any]] = [(str(name), value) for name, value in settings.items()]
    for name, value in waiting:
        if value is None:
            raise UserError("a setting is None, which TOML cannot say", where=name, remedy="Leave it out instead.")
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting.extend((f"{name}.{key}", one) for key, one in inner)
    return tomli_w.dumps(settings)


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _commit() -> str | None:
    """The git commit of thalweg's own checkout, "-dirty" after it where files have changed; None outside a checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or not (root / "src" / "thalweg").is_dir():
        return None  # an installed thalweg may lie inside somebody else's checkout
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    return None

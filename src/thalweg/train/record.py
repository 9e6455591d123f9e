"""The record of a run: its directory, its logs, and files that are written whole or not at all.

Nothing here trains, and nothing that is read here is executed. Importing this module loads no JAX.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import secrets
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tomli_w

from thalweg.errors import DamagedError, RunError, UserError

PACKAGES = ("thalweg", "jax", "jaxlib", "equinox", "optax", "numpy")


# ------------------------------------------------------------------------------------------------- files, whole or not
def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: a rename survives a power cut only after this."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Writes a file and waits until the disk has it. The name becomes durable by `sync_folder`."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file so that its name shows either the old content or the new one, never a part.

    Raises:
        RunError: the disk is full, or the folder is missing or may not be written; the old content is still there.
    """
    path = Path(path)
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(staged, data)
        os.replace(staged, path)
        sync_folder(path.parent)
    except OSError as error:
        what = f"the file could not be written: {error.strerror}"
        remedy = "Free disk space, or choose a folder that you may write to; what was there before is untouched."
        raise RunError(what, where=str(path), remedy=remedy) from error
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


def write_text_atomic(path: str | Path, text: str) -> None:
    """`write_bytes_atomic` for text, in UTF-8.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_text_atomic(Path(folder) / "note.txt", "ν = 0.01/π")
    ...     (Path(folder) / "note.txt").read_text(encoding="utf-8")
    'ν = 0.01/π'
    """
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: str | Path, obj: Any) -> None:
    """`write_bytes_atomic` for anything that `plain` takes, as standard JSON: NaN and infinities become texts.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json_atomic(Path(folder) / "verdict.json", {"status": "diverged", "loss": math.inf})
    ...     json.loads((Path(folder) / "verdict.json").read_text())
    {'status': 'diverged', 'loss': 'inf'}
    """
    write_text_atomic(path, json.dumps(plain(obj), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any, *, numbers_only: bool = True, at: str = "") -> Any:
    """The same value in what JSON has: dict, list, str, int, float, bool, None.

    Args:
        value: these, and tuples, paths, enums (their value), NumPy and JAX arrays (nested lists).
        numbers_only: write NaN and the infinities as the texts "nan", "inf" and "-inf", as JSON has no such numbers.
        at: the name of `value`, for the message.
    Raises:
        UserError: something else is in it, or a key that is no text; its place is named.

    >>> plain({"loss": math.nan, "shape": (2, 3), "file": Path("a/b")})
    {'loss': 'nan', 'shape': [2, 3], 'file': 'a/b'}
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value)) if numbers_only else float(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"the key {key!r} is no text", where=at or "top level", remedy="Use texts as keys.")
        return {
            str(key): plain(one, numbers_only=numbers_only, at=f"{at}.{key}" if at else key)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(one, numbers_only=numbers_only, at=f"{at}[{i}]") for i, one in enumerate(value)]
    if isinstance(value, (str, Path)):
        return str(value)
    tolist = getattr(value, "tolist", None)  # NumPy and JAX arrays and scalars have it; this imports neither
    if tolist is not None:
        return plain(tolist(), numbers_only=numbers_only, at=at)
    raise UserError(
        f"a {type(value).__name__} cannot be recorded",
        where=at or "top level",
        remedy="Record numbers, texts, lists, arrays and dictionaries of these.",
    )


def sha256(data: bytes) -> str:
    """SHA-256 of some bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------------------------------------------------------- logs
class MetricsLog:
    """A file of rows, one JSON object a line: `metrics.jsonl`, `decisions.jsonl`.

    A row is handed to the operating system at once, so it survives the death of the process; it survives a power cut
    after `sync`, which belongs before every checkpoint. Half a last line, left by a kill, is never read and goes at the
    next append. NaN and the infinities are written as "nan", "inf" and "-inf" and read back as numbers.

    Args:
        path: the file; it is made at the first append, and read without being changed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     log = MetricsLog(Path(folder) / "metrics.jsonl")
    ...     log.append({"step": 100, "loss": 0.5})
    ...     position = log.sync()
    ...     log.append({"step": 200, "loss": math.inf})
    ...     print(log.read())
    ...     log.rewind(position)
    ...     print(log.read())
    ...     log.close()
    [{'step': 100, 'loss': 0.5}, {'step': 200, 'loss': inf}]
    [{'step': 100, 'loss': 0.5}]
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._file: io.FileIO | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one row; `row["step"]` is an integer.

        Raises:
            UserError: no integer "step", or a value that `plain` refuses.
            RunError: the disk is full; the rows before are still there, and no part of this one.
        """
        values = plain(row)
        if type(values.get("step")) is not int:
            raise UserError(
                'a row needs an integer "step"', where=str(self.path), remedy="Say which step it belongs to."
            )
        line = (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode()
        file = self._open()
        start = file.seek(0, os.SEEK_END)
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                file.truncate(start)
            what = f"a row could not be written: {error.strerror}"
            raise RunError(what, where=str(self.path), remedy="Free disk space, then resume the run.") from error

    def read(self) -> list[dict[str, Any]]:
        """All whole rows, in the order written; none if there is no file yet.

        Raises:
            DamagedError: a line is no JSON object; it is named.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is half a row, or nothing
        except FileNotFoundError:
            return []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or "step" not in row:
                raise DamagedError(
                    'the line is no JSON object with a "step"',
                    where=f"{self.path}, line {number}",
                    remedy="Remove that line, or resume from a checkpoint before it.",
                )
            rows.append(_with_numbers(row))
        return rows

    def sync(self) -> int:
        """Waits until the disk has every row; returns the length of the file in bytes, which `rewind` takes."""
        file = self._open()
        os.fsync(file.fileno())
        return file.seek(0, os.SEEK_END)

    def rewind(self, position: int) -> None:
        """Drops every row after `position`, a value that `sync` returned and a checkpoint kept.

        Raises:
            DamagedError: the file is shorter: rows that were synced have been lost.
        """
        file = self._open()
        length = file.seek(0, os.SEEK_END)
        if length < position:
            raise DamagedError(
                f"the file has {length} bytes where the checkpoint saw {position}",
                where=str(self.path),
                remedy="Bring the file back from a copy, or resume from an older checkpoint.",
            )
        file.truncate(position)

    def truncate(self, to_step: int, *, phase: int | None = None) -> None:
        """Drops the rows after a step, for a caller that kept no position.

        Args:
            to_step: the last step whose rows stay.
            phase: the phase that `to_step` counts in, where each row's "step" counts within its "phase" (an index);
                None: "step" counts over the whole run.
        """

        def stays(row: dict[str, Any]) -> bool:
            return (
                row["step"] <= to_step if phase is None else (row.get("phase", phase), row["step"]) <= (phase, to_step)
            )

        rows = self.read()
        kept = [row for row in rows if stays(row)]
        if len(kept) < len(rows):
            self.close()
            write_text_atomic(self.path, "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in kept))

    def close(self) -> None:
        """Closes the file; the next append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> io.FileIO:
        if self._file is None:
            is_new = not self.path.exists()
            try:
                file = open(self.path, "ab+", buffering=0)  # held open between rows
            except OSError as error:
                what = f"the log cannot be opened: {error.strerror}"
                raise RunError(what, where=str(self.path), remedy="Make its folder writable.") from error
            if is_new:
                sync_folder(self.path.parent)
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # half a row left by a kill
            self._file = file
        return self._file


def _with_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_numbers(one) for one in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


# ------------------------------------------------------------------------------------------------------- run directory
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
    """Versions, devices and precision under which bit-exactness is promised. Loads JAX.

    Args:
        seed: the run's one seed.
        precision: what the run computes in; None: what JAX's 64-bit setting says now. The matmul precision is the one
            in force now, so call this inside the scope that pins it.
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
        # (JAX makes the attribute at run time, so no type checker sees it.)
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore[reportAttributeAccessIssue]
        "seed": seed,
    }


class RunDirectory:
    """The folder that holds everything a run leaves: see "What a run leaves" in the design.

    Made by `RunDirectory.create`, which also locks it, or `RunDirectory.open`. As a context manager it closes the logs
    and releases the lock at the end; the death of the process releases the lock too, however it dies.

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
        """The folder of an existing run, for reading. To write into it, `lock` it (also as a context manager).

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

    def __enter__(self) -> Self:
        return self

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
        return _parsed(self.path / "config.toml", tomllib.loads)

    def environment(self) -> dict[str, Any]:
        """What `describe_environment` said at the beginning. Raises DamagedError if the file is no longer JSON."""
        return _parsed(self.path / "environment.json", json.loads)

    def verify_sources(self) -> list[Path]:
        """The run's copies of its sources, the study first, after comparing each with its SHA-256.

        Raises:
            UserError: a copy was changed, removed or added since the run began; it is named.
        """
        folder = self.path / "source"
        entries = _parsed(folder / "manifest.json", json.loads)["files"]
        names = {entry["path"]: entry["sha256"] for entry in entries}
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


def _parsed(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # every parser's error is a ValueError
        raise DamagedError(
            f"the file cannot be read: {error}", where=str(path), remedy="Restore it from a copy."
        ) from error


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

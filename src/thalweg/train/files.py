"""Files that are written whole or not at all, and the plain values that they hold. Nothing that is read is executed."""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from thalweg.errors import DamagedError, RunError, UserError


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


def read_json(path: str | Path) -> Any:
    """What a JSON file holds; a text such as "nan" stays the text that it is.

    Raises:
        UserError: there is no such file, or it cannot be read.
        DamagedError: it is no JSON.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json_atomic(Path(folder) / "extension.json", {"epochs": 5})
    ...     read_json(Path(folder) / "extension.json")
    {'epochs': 5}
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        what = f"the file cannot be read: {error.strerror}"
        raise UserError(what, where=str(path), remedy="Check the path.") from error
    except (ValueError, RecursionError) as error:
        what = f"the file is damaged: it is no JSON: {error}"
        raise DamagedError(what, where=str(path), remedy="Restore it from a copy.") from error


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

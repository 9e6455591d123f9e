"""A log of rows, one JSON object a line, that survives a kill."""

import contextlib
import errno
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thalweg.errors import DamagedError, RunError, UserError
from thalweg.train.files import plain, sync_folder, write_bytes_atomic


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
    ...     log.append({"step": 200, "loss": float("inf")})
    ...     print(log.read())
    ...     print(log.rewind(1))
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
        return [self._checked(row, number) for number, (_, row) in enumerate(self._lines(), 1)]

    def sync(self) -> None:
        """Waits until the disk has every row."""
        os.fsync(self._open().fileno())

    def rewind(self, count: int, mine: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """Drops what was written after a checkpoint: all but the first `count` rows, and of `mine` only.

        Several fits share one log, and the rows of another may come after those that go; they stay. What a power cut
        left behind the last whole row goes too.

        Args:
            count: how many of the rows stay, as the checkpoint knows.
            mine: values that tell the rows to look at, such as `{"fit": "fit"}`; None: every row.
        Returns:
            the rows of `mine` that stay.
        Raises:
            DamagedError: there are fewer than `count`, so rows that were synced have been lost; or a line before the
                last row is none. Nothing was changed.
            RunError: the disk is full. Nothing was changed.
        """
        lines, kept, found = self._lines(), [], []
        while lines and lines[-1][1] is None:
            lines.pop()
        for number, (line, given) in enumerate(lines, 1):
            row = self._checked(given, number)
            is_mine = all(row.get(name) == value for name, value in (mine or {}).items())
            if is_mine and len(found) < count:
                found.append(row)
            elif is_mine:
                continue
            kept.append(line)
        if len(found) < count:
            raise DamagedError(
                f"the log has {len(found)} rows where the checkpoint saw {count}",
                where=str(self.path),
                remedy="Bring the file back from a copy, or resume from an older checkpoint.",
            )
        self._keep([line for line, _ in lines], kept)
        return found

    def close(self) -> None:
        """Closes the file; the next append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> list[tuple[bytes, dict[str, Any] | None]]:
        """Every finished line, and the row that it holds, if it is one."""
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is half a row, or nothing
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            found.append((line, _with_numbers(row) if isinstance(row, dict) and "step" in row else None))
        return found

    def _checked(self, row: dict[str, Any] | None, number: int) -> dict[str, Any]:
        if row is None:
            raise DamagedError(
                'the line is no JSON object with a "step"',
                where=f"{self.path}, line {number}",
                remedy="Remove that line, or resume from a checkpoint before it.",
            )
        return row

    def _keep(self, lines: list[bytes], kept: list[bytes]) -> None:
        """The file with `kept` of its `lines`: cut where that is enough, else written anew, whole or not at all."""
        if kept == lines[: len(kept)]:
            length = sum(len(line) + 1 for line in kept)
            if self.path.exists() and self.path.stat().st_size > length:
                self._open().truncate(length)
        else:
            self.close()
            write_bytes_atomic(self.path, b"".join(line + b"\n" for line in kept))

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

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
from thalweg.train.files import plain, sync_folder, write_text_atomic


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
    ...     log.append({"step": 200, "loss": float("inf")})
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

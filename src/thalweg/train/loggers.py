"""Rows of a run for other people's dashboards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thalweg.errors import UserError
from thalweg.train.callbacks import Callback

UNTOLD = ("fit", "step", "run_step")
"""Of a row what is its place, or bookkeeping, and no figure."""


def scalars(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row by one name each: nested names joined by "/", a member's number last.

    Args:
        row: of `metrics.jsonl`, or as a callback's `progress` is handed it.

    >>> scalars({"fit": "fit", "phase": 0, "step": 100, "run_step": 100, "total": 0.5, "parts": {"data": 0.25}})
    {'phase': 0.0, 'total': 0.5, 'parts/data': 0.25}
    >>> scalars({"step": 100, "total": [0.5, 0.4]})
    {'total/0': 0.5, 'total/1': 0.4}
    """
    found: dict[str, float] = {}

    def gather(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for part, inner in value.items():
                gather(f"{name}/{part}", inner)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for i, one in enumerate(value):
                gather(f"{name}/{i}", one)
        elif isinstance(value, int | float):
            found[name] = float(value)

    for name, value in row.items():
        if name not in UNTOLD:
            gather(name, value)
    return found


def step_of(row: Mapping[str, Any]) -> int:
    """Steps of the run done at a row: of the member that has walked furthest.

    >>> step_of({"step": 3, "run_step": [103, 90]})
    103
    """
    steps = row.get("run_step", row["step"])
    return max(steps) if isinstance(steps, Sequence) else int(steps)


class TensorBoardLogger(Callback):
    """Every logged row as scalars that TensorBoard shows. Needs the extra `tensorboard` (tensorboardX).

    Args:
        folder: of the event files, a folder for each fit; made if it is not there. Resumed, what TensorBoard shows
            from the restored step on is replaced.
    Raises:
        UserError: tensorboardX is not installed, or the folder cannot be written.

    >>> import tempfile
    >>> logger = TensorBoardLogger(tempfile.mkdtemp())
    """

    def __init__(self, folder: str | Path):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            remedy = "pip install 'thalweg[tensorboard]'."
            raise UserError("TensorBoardLogger needs the package tensorboardX", remedy=remedy) from error
        self.folder, self._make = Path(folder), SummaryWriter
        self._writers: dict[str, Any] = {}
        self._last: Mapping[str, Any] | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error

    def progress(self, phase: int, step: int, row: Mapping[str, Any] | None) -> None:
        if row is None or row is self._last:
            return
        self._last = row
        for name, value in scalars(row).items():
            self._writer(row).add_scalar(name, value, step_of(row))

    def decision(self, row: Mapping[str, Any]) -> None:
        self._writer(row).add_text("decisions", str(row["what"]), step_of(row))

    def end(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, row: Mapping[str, Any]) -> Any:
        """Of the row's fit: each has a folder of its own, since each counts its steps from 0."""
        name = str(row["fit"])
        if name not in self._writers:
            self._writers[name] = self._make(str(self.folder / name), purge_step=step_of(row))
        return self._writers[name]

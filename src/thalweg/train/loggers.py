"""Rows of a run for other people's dashboards."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thalweg.errors import UserError
from thalweg.train.callbacks import Callback

UNTOLD = ("fit", "phase", "step", "run_step", "count")
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
        if name == "phase" or name not in UNTOLD:
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
        folder: of the event files; made if it is not there. Resumed, what TensorBoard shows from the restored step on
            is replaced.
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
        self.folder, self._make, self._writer, self._last = Path(folder), SummaryWriter, None, None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error

    def progress(self, phase: int, step: int, row: Mapping[str, Any] | None) -> None:
        if row is None or row is self._last:
            return
        self._last = row
        at = step_of(row)
        if self._writer is None:
            self._writer = self._make(str(self.folder), purge_step=at)
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, at)

    def decision(self, row: Mapping[str, Any]) -> None:
        if self._writer is not None:
            self._writer.add_text("decisions", str(row["what"]), int(row["step"]))

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

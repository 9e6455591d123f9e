"""What a fit writes down as it goes: rows, decisions, checkpoints. Without a run folder, rows in memory only."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thalweg.errors import UserError
from thalweg.train.callbacks import Callback
from thalweg.train.checkpoint import CheckpointStore
from thalweg.train.log import MetricsLog
from thalweg.train.record import RunDirectory
from thalweg.types import PyTree


class Journal:
    """Rows, decisions and checkpoints of one fit.

    Args:
        name: of the fit within its run.
        run: an open, locked run folder; None keeps nothing on disk.
        callbacks: told of every row and decision.
        seconds: least time between two checkpoints.
        single: rows hold one number a figure instead of a list by member.
    """

    def __init__(
        self, name: str, run: RunDirectory | None, callbacks: Sequence[Callback], *, seconds: float, single: bool
    ):
        self.name, self.callbacks, self.seconds, self.single = name, callbacks, seconds, single
        self.rows: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.conduct: list[dict[str, Any]] = []
        self.store: CheckpointStore | None = None
        self.logs: dict[str, MetricsLog] = {}
        self.saved = time.monotonic()
        if run is not None:
            self.store = CheckpointStore(run.checkpoints / name)
            self.logs = {kind: MetricsLog(run.path / f"{kind}.jsonl") for kind in ("metrics", "decisions")}

    def row(self, phase: int, step: int, figures: Mapping[str, Any]) -> None:
        """One logged step: figures by name, each with a leading axis of members."""
        row = {"fit": self.name, "phase": phase, "step": step} | self._plain(figures)
        self.rows.append(row)
        if self.logs:
            self.logs["metrics"].append(row)

    def decision(self, phase: int, step: int, what: str, figures: Mapping[str, Any]) -> None:
        """Something that the loop decided, with the figures it was decided by."""
        row = {"fit": self.name, "phase": phase, "step": step, "what": what} | self._plain(figures)
        self.decisions.append(row)
        if self.logs:
            self.logs["decisions"].append(row)
        for callback in self.callbacks:
            callback.decision(row)

    def _plain(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        plain = {}
        for name, value in figures.items():
            if isinstance(value, Mapping):
                plain[name] = self._plain(value)
            else:
                value = np.asarray(value)
                plain[name] = value[0].tolist() if self.single else value.tolist()
        return plain

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.store is not None and time.monotonic() - self.saved >= self.seconds

    def checkpoint(self, step: int, tree: PyTree, place: Mapping[str, Any], *, permanent: bool = False) -> None:
        """Save everything that moves, with how far the logs reached."""
        if self.store is None:
            return
        positions = {kind: log.sync() for kind, log in self.logs.items()}
        self.store.save(step, tree, {"place": dict(place), "positions": positions}, permanent=permanent)
        self.saved = time.monotonic()

    def place(self) -> dict[str, Any] | None:
        """Where the latest checkpoint stands, or None without one."""
        latest = None if self.store is None else self.store.latest()
        return None if latest is None else latest.meta()["place"]

    def restore(self, like: PyTree) -> PyTree:
        """The latest checkpoint's tree; the logs are cut back to it."""
        assert self.store is not None
        tree, meta = self.store.load(like=like)
        for kind, log in self.logs.items():
            log.rewind(meta["positions"][kind])
        self.rows = [row for row in self.logs["metrics"].read() if row["fit"] == self.name]
        self.decisions = [row for row in self.logs["decisions"].read() if row["fit"] == self.name]
        return tree

    def close(self) -> None:
        """Close the log files."""
        for log in self.logs.values():
            log.close()


def checked_name(name: str) -> str:
    """A name that can be a folder's."""
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise UserError(f"a fit's name is of letters, digits, '-' and '_', not {name!r}", where="fit(name=…)")
    return name

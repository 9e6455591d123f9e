"""What a fit writes down as it goes: rows, decisions, checkpoints. Without a run folder, rows in memory only."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from thalweg.errors import UserError
from thalweg.objective import Certificate
from thalweg.train.callbacks import Callback
from thalweg.train.checkpoint import CheckpointStore
from thalweg.train.files import read_json, write_json_atomic
from thalweg.train.log import MetricsLog
from thalweg.train.record import RunDirectory
from thalweg.train.verdict import Verdict
from thalweg.types import PyTree


class Journal:
    """Rows, decisions and checkpoints of one fit.

    The fits of a run share its two logs, each row naming its fit. A checkpoint says how many rows its own fit had, so
    going back to it drops the later rows of that fit and nothing of another.

    Args:
        name: of the fit within its run.
        run: an open, locked run folder; None keeps nothing on disk.
        callbacks: told of every row and decision.
        seconds: least time between two checkpoints.
        single: rows hold one number a figure instead of a list by member.
    Raises:
        UserError: the run is not locked, so another process may be writing it.
    """

    def __init__(
        self, name: str, run: RunDirectory | None, callbacks: Sequence[Callback], *, seconds: float, single: bool
    ):
        if not seconds >= 0:
            raise UserError(f"checkpoint_seconds must not be negative, but is {seconds}")
        self.name, self.run, self.callbacks, self.seconds, self.single = name, run, callbacks, seconds, single
        self.rows: list[dict[str, Any]] = []
        self.decisions: list[dict[str, Any]] = []
        self.conduct: list[dict[str, Any]] = []
        self.certificates: list[Certificate | None] = []
        self.store: CheckpointStore | None = None
        self.logs: dict[str, MetricsLog] = {}
        self.saved = time.monotonic()
        if run is not None:
            if not run.is_locked:
                what, remedy = "the run folder is not locked for writing", "Use it within a block: `with run: fit(…)`."
                raise UserError(what, where=str(run.path), remedy=remedy)
            self.store = CheckpointStore(run.checkpoints / name)
            self.logs = {"metrics": run.metrics, "decisions": run.decisions}

    def row(self, phase: int, step: int, figures: Mapping[str, Any]) -> None:
        """One logged step: figures by name, each with a leading axis of members."""
        self._add("metrics", self.rows, {"fit": self.name, "phase": phase, "step": step} | self._plain(figures))

    def decision(self, phase: int, step: int, what: str, figures: Mapping[str, Any]) -> None:
        """Something that the loop decided, with the figures it was decided by."""
        row = {"fit": self.name, "phase": phase, "step": step, "what": what} | self._plain(figures)
        self._add("decisions", self.decisions, row)
        for callback in self.callbacks:
            callback.decision(row)

    def _add(self, kind: str, rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
        if self.logs:
            self.logs[kind].append(row)
        rows.append(row)

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
        """Save everything that moves, with how many rows there are."""
        if self.store is None:
            return
        for log in self.logs.values():
            log.sync()
        rows = {"metrics": len(self.rows), "decisions": len(self.decisions)}
        self.store.save(step, tree, {"place": dict(place), "rows": rows}, permanent=permanent)
        self.saved = time.monotonic()

    def forget(self, step: int) -> None:
        """Remove the checkpoints from a step on, whose cost turned out not to be finite, if there is one before."""
        if self.store is not None and (earlier := [one for one in self.store.steps() if one < step]):
            self.store.discard_after(earlier[-1])

    def place(self) -> dict[str, Any] | None:
        """Where the latest checkpoint stands, or None without one."""
        latest = None if self.store is None else self.store.latest()
        return None if latest is None else latest.meta()["place"]

    def restore(self, like: PyTree) -> PyTree:
        """The latest checkpoint's tree; this fit's rows in the logs are cut back to it."""
        assert self.store is not None
        tree, meta = self.store.load(like=like)
        self._rewind(meta["rows"])
        return tree

    def begin(self) -> None:
        """No checkpoint: no row of this fit counts."""
        self._rewind({"metrics": 0, "decisions": 0})

    def _rewind(self, rows: Mapping[str, int]) -> None:
        if self.logs:
            mine = {"fit": self.name}
            self.rows = self.logs["metrics"].rewind(rows["metrics"], mine)
            self.decisions = self.logs["decisions"].rewind(rows["decisions"], mine)

    def finish(self, verdicts: Sequence[Verdict]) -> None:
        """Write the verdicts into `verdict.json`: "members" of this fit, which ended last, and "fits" by name.

        Likewise the certificates of constrained fits into `certificate.json`, by fit.
        """
        if self.run is None:
            return
        path = self.run.path / "verdict.json"
        members = [verdict.to_json() for verdict in verdicts]
        before = read_json(path) if path.exists() else {}
        write_json_atomic(path, {"members": members, "fits": before.get("fits", {}) | {self.name: members}})
        if any(one is not None for one in self.certificates):
            path = self.run.path / "certificate.json"
            told = [None if one is None else one.to_json() for one in self.certificates]
            before = read_json(path) if path.exists() else {}
            write_json_atomic(path, {"fits": before.get("fits", {}) | {self.name: told}})

    def close(self) -> None:
        """Close the log files."""
        for log in self.logs.values():
            log.close()


def checked_name(name: str) -> str:
    """A name that can be a folder's. (A log reads "nan" and "inf" as numbers.)"""
    if not name or name in ("nan", "inf", "-inf") or not all(c.isalnum() or c in "-_" for c in name):
        raise UserError(f"a fit's name is of letters, digits, '-' and '_', not {name!r}", where="fit(name=…)")
    return name

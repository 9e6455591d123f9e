"""Checkpoints: one unit each, whole or not there at all, and bit-exact.

A checkpoint is a folder `step-0000001234` of three files: `arrays.safetensors`, `state.json` (the step, what the arrays
do not say about the tree, and the caller's `meta`) and `manifest.json` (the SHA-256 and size of the other two). It is
written into a hidden staging folder, synced, and renamed, so a kill or a full disk at any moment leaves the earlier
checkpoints as they were. Loading reads tensors and JSON, compares the sums first, and executes nothing.
"""

import contextlib
import fcntl
import json
import operator
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from thalweg.errors import DamagedError, RunError, UserError
from thalweg.train.arrays import pack_arrays, unpack_arrays
from thalweg.train.files import plain, sha256, sync_folder, write_synced
from thalweg.tree import NamedLeaves, named_leaves, rebuild

Tree = TypeVar("Tree")

FORMAT = 1
ARRAYS, STATE, MANIFEST = "arrays.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in its folder. Everything that is read is compared with its sum first.

    Attributes:
        step: the step it was saved at.
        revision: 1, and one more each time the same step was saved again.
        path: its folder.
    """

    step: int
    revision: int
    path: Path

    def verify(self) -> None:
        """Compares every file with the manifest. Raises DamagedError, with the file and an older whole checkpoint."""
        with self._offering_older():
            for name in (ARRAYS, STATE):
                self._file(name)

    def meta(self) -> dict[str, Any]:
        """What the caller saved beside the tree, without reading the arrays. Raises DamagedError, as `verify`."""
        with self._offering_older():
            return self._state()["meta"]

    def leaves(self) -> NamedLeaves:
        """The tree by names, for a reader that has no tree like it. Raises DamagedError, as `verify`."""
        with self._offering_older():
            names = self._state()["tree"]
            arrays, _ = unpack_arrays(self._file(ARRAYS), str(self.path / ARRAYS))
            return NamedLeaves(arrays, names["keys"], tuple(names["weak"]), names["scalars"])

    def is_whole(self) -> bool:
        """Whether `verify` finds nothing."""
        try:
            self._state()
            self._file(ARRAYS)
        except DamagedError:
            return False
        return True

    def may_be_permanent(self) -> bool:
        """Whether it was saved to be kept however many follow, or is damaged so that nobody knows."""
        try:
            return self._state()["permanent"]
        except DamagedError:
            return True

    @contextlib.contextmanager
    def _offering_older(self) -> Iterator[None]:
        try:
            yield
        except DamagedError as error:
            older = [one for one in _finished(self.path.parent) if one.step < self.step]
            whole = next((one for one in reversed(older) if one.is_whole()), None)
            remedy = "No older checkpoint is whole: restore the folder from a copy, or start the run again."
            if whole is not None:
                call = f'CheckpointStore("{self.path.parent}").discard_after({whole.step})'
                remedy = f"The checkpoint of step {whole.step} is whole: to go on from there, call thalweg.{call}."
            raise DamagedError(error.what, where=error.where, remedy=remedy) from error

    def _state(self) -> dict[str, Any]:
        state = json.loads(self._file(STATE))  # the bytes are as they were written, so they are JSON
        if state["step"] != self.step:
            raise self._damaged(STATE, f"is that of step {state['step']}: the folder was renamed")
        return state

    def _file(self, name: str) -> bytes:
        try:
            manifest = json.loads((self.path / MANIFEST).read_bytes())
            written_as, entry = manifest["format"], manifest["files"][name]
            size, total = entry["size"], entry["sha256"]
        except OSError as error:
            raise self._damaged(MANIFEST, f"cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(MANIFEST, "is not what thalweg wrote") from error
        if written_as != FORMAT:
            raise self._damaged(MANIFEST, f"is of format {written_as!r}, and this thalweg reads {FORMAT}")
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise self._damaged(name, f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise self._damaged(name, f"has {len(data)} bytes instead of {size}")
        if sha256(data) != total:
            raise self._damaged(name, "is not what was written: its SHA-256 differs")
        return data

    def _damaged(self, name: str, what: str) -> DamagedError:
        return DamagedError(f"checkpoint of step {self.step} damaged: {name} {what}", where=str(self.path / name))


def _finished(root: Path) -> list[Checkpoint]:
    """Every finished checkpoint in a folder, in the order of (step, revision)."""
    names = os.listdir(root) if root.is_dir() else []
    matches = [match for name in names if (match := re.fullmatch(r"step-(\d{10,})(?:-r(\d+))?", name))]
    found = [Checkpoint(int(one[1]), int(one[2] or 1), root / one[0]) for one in matches]
    return sorted(found, key=lambda one: (one.step, one.revision))


class CheckpointStore:
    """The checkpoints of one run: one process saves, any number read meanwhile.

    Opening it removes what a kill left half-written, unless a save is going on; a finished checkpoint is never touched.

    Args:
        root: the folder of the checkpoints; made by the first `save`.
        keep: how many of the latest checkpoints stay, at least 1, beside the permanent ones.

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = CheckpointStore(Path(folder))
    ...     path = store.save(100, {"w": np.float64([0.1, 0.2])}, {"phase": 0})
    ...     tree, meta = store.load(like={"w": np.zeros(2)})
    >>> path.name, tree, meta
    ('step-0000000100', {'w': array([0.1, 0.2])}, {'phase': 0})
    """

    def __init__(self, root: str | Path, keep: int = 3):
        if keep < 1:
            raise UserError(f"keep is {keep}", where="CheckpointStore", remedy="Keep at least one checkpoint.")
        self.root = Path(root)
        self.keep = keep
        if self.root.is_dir():
            with contextlib.suppress(OSError), self._locked(wait=False):
                self._sweep()

    def save(self, step: int, tree: Any, meta: Mapping[str, Any], *, permanent: bool = False) -> Path:
        """Saves a checkpoint; when this returns, it is on the disk and survives a power cut.

        Saving a step again replaces its checkpoint, or does nothing if nothing differs. The older one is removed only
        after the new one is in place; so are, at last, those beyond `keep`.

        Args:
            step: no lower than that of the latest checkpoint.
            tree: any pytree; its arrays, PRNG keys included, are saved bit for bit (see `thalweg.tree.named_leaves`).
            meta: what JSON has, with texts as keys; NaN and infinities stay numbers.
            permanent: keep it however many follow, as at the end of a phase.
        Returns:
            The folder of the checkpoint.
        Raises:
            UserError: a later checkpoint exists, or something cannot be saved; it is named.
            RunError: the disk is full or failing. The earlier checkpoints are as they were.
        """
        step = operator.index(step)
        if step < 0:
            raise UserError(f"step is {step}", where=str(self.root), remedy="Count steps from 0.")
        latest = self.latest()
        if latest is not None and latest.step > step:
            what = f"step {step} comes before the latest checkpoint, of step {latest.step}"
            raise UserError(what, where=str(self.root), remedy="Call discard_after first, if the later ones may go.")
        if latest is not None and latest.step == step:
            permanent = permanent or latest.may_be_permanent()
        leaves = named_leaves(tree)
        state = {"step": step, "permanent": permanent, "meta": plain(meta, numbers_only=False, at="meta")}
        state["tree"] = {"keys": leaves.keys, "weak": leaves.weak, "scalars": leaves.scalars}
        files = {ARRAYS: pack_arrays(leaves.arrays, {}), STATE: json.dumps(state).encode()}
        sums = {name: {"sha256": sha256(data), "size": len(data)} for name, data in files.items()}
        files[MANIFEST] = json.dumps({"format": FORMAT, "files": sums}, indent=2).encode()
        try:
            if not self.root.is_dir():
                self.root.mkdir(parents=True)
                sync_folder(self.root.parent)
            with self._locked(wait=True):
                self._sweep()
                path = self._place(step, files)
                self._retire()
        except OSError as error:
            raise RunError(
                f"the checkpoint of step {step} could not be written: {error.strerror}",
                where=str(self.root),
                remedy="Free disk space, then resume the run: the earlier checkpoints are as they were.",
            ) from error
        return path

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in rising order."""
        return sorted({one.step for one in _finished(self.root)})

    def latest(self) -> Checkpoint | None:
        """The checkpoint of the highest step, not yet verified; None if there is none."""
        found = _finished(self.root)
        return found[-1] if found else None

    def at(self, step: int | None = None) -> Checkpoint:
        """The checkpoint of a step, not yet verified; None: the latest.

        Raises:
            UserError: there is none; the steps that have one are listed.
        """
        found = [one for one in _finished(self.root) if step is None or one.step == step]
        if not found:
            what = "there is no checkpoint" if step is None else f"there is no checkpoint of step {step}"
            have = ", ".join(map(str, self.steps()))
            remedy = f"There are those of steps {have}." if have else "The run left none: start it again."
            raise UserError(what, where=str(self.root), remedy=remedy)
        return found[-1]

    def load(self, step: int | None = None, *, like: Tree) -> tuple[Tree, dict[str, Any]]:
        """The saved tree, in the structure of `like`, and the `meta` saved with it.

        Args:
            step: whose checkpoint; None: the latest.
            like: a tree of the same structure, shapes and dtypes, see `thalweg.tree.rebuild`.
        Raises:
            UserError: no such checkpoint, or `like` differs from what was saved; the leaf is named.
            DamagedError: a file is not what was written; it is named, and the latest older checkpoint that is whole is
                offered. Nothing of a damaged checkpoint is returned.
        """
        checkpoint = self.at(step)
        try:
            leaves, meta = checkpoint.leaves(), checkpoint.meta()
        except DamagedError:
            if checkpoint.path.exists():
                raise
            return self.load(step, like=like)  # the writer has just retired it
        return rebuild(like, leaves, where=str(checkpoint.path)), meta

    def discard_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, so that a run can go on from an older one.

        Raises:
            UserError: there is no checkpoint of that step.
            DamagedError: it is damaged; nothing was removed.
        """
        self.at(step).verify()
        with self._locked(wait=True):
            for one in _finished(self.root):
                if one.step > step:
                    self._remove(one)

    def _place(self, step: int, files: Mapping[str, bytes]) -> Path:
        before = [one for one in _finished(self.root) if one.step == step]
        if before and before[-1].is_whole() and (before[-1].path / MANIFEST).read_bytes() == files[MANIFEST]:
            return before[-1].path
        # A folder cannot be renamed over another, so the same step again is a new revision and the old one goes after.
        revision = f"-r{before[-1].revision + 1}" if before else ""
        final = self.root / f"step-{step:010d}{revision}"
        staging = self._hidden()
        try:
            staging.mkdir()
            for name, data in files.items():
                write_synced(staging / name, data)
            sync_folder(staging)
            os.rename(staging, final)
            sync_folder(self.root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return final

    def _retire(self) -> None:
        found = _finished(self.root)
        newest = {one.step: one for one in found}
        kept = set(sorted(newest)[-self.keep :])
        for one in found:
            if one is not newest[one.step] or (one.step not in kept and not one.may_be_permanent()):
                self._remove(one)

    def _remove(self, checkpoint: Checkpoint) -> None:
        # Renamed first: a kill while files are being removed must not leave half a checkpoint under a finished name.
        hidden = self._hidden()
        with contextlib.suppress(OSError):  # what cannot be removed now is tried again at the next save
            os.rename(checkpoint.path, hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def _hidden(self) -> Path:
        return self.root / f".staging-{os.getpid()}-{secrets.token_hex(4)}"

    def _sweep(self) -> None:
        for one in self.root.glob(".staging-*"):
            shutil.rmtree(one, ignore_errors=True)

    @contextlib.contextmanager
    def _locked(self, *, wait: bool) -> Iterator[None]:
        """Holds the folder while it changes, so that a reader who opens it does not sweep a save in progress."""
        handle = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(handle)

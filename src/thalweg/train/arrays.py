"""Named arrays in one safetensors file, bit for bit. Reading one executes nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from thalweg.errors import DamagedError, UserError
from thalweg.train.files import plain, write_bytes_atomic

# What safetensors calls the dtypes that it stores as they are. Any other fixed-size dtype is stored as its bytes.
_DTYPES = {
    "BOOL": np.dtype(bool),
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    "C64": np.dtype(np.complex64),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
}
_AS_BYTES = {np.dtype(one).name: np.dtype(one) for one in (np.complex128, jnp.int4, jnp.uint4)}
_OURS = (
    "thalweg"  # one metadata entry only: safetensors writes several in no fixed order, and equal files must be equal
)


def save_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any] | None = None) -> None:
    """Writes named arrays into one safetensors file, whole or not at all. Equal input gives equal bytes.

    Args:
        path: the file; an older one is replaced only when the new one is on the disk.
        arrays: any shapes (also () and empty), bool, integer, float (also bfloat16) and complex dtypes.
            complex128, int4 and uint4, which the format lacks, are stored as their bytes, uint8 with one more axis.
        metadata: what `plain` takes; NaN and infinities stay numbers.
    Raises:
        UserError: a dtype that is no number's (objects, texts); the array is named.
        RunError: the disk is full or the folder may not be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_arrays(Path(folder) / "model.safetensors", {"w": np.float32([1, 2])}, {"width": 2})
    ...     load_arrays(Path(folder) / "model.safetensors")
    ({'w': array([1., 2.], dtype=float32)}, {'width': 2})
    """
    write_bytes_atomic(path, pack_arrays(arrays, metadata or {}))


def load_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads what `save_arrays` wrote, or any other safetensors file: arrays by name, and the metadata.

    Raises:
        UserError: there is no such file, or it cannot be read.
        DamagedError: the file is cut short or no safetensors file; nothing of it is used.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        what = f"the file cannot be read: {error.strerror}"
        raise UserError(what, where=str(path), remedy="Check the path.") from error
    return unpack_arrays(data, str(path))


def pack_arrays(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> bytes:
    """The bytes of the file that `save_arrays` writes. Raises UserError, as it does."""
    stored: dict[str, np.ndarray] = {}
    as_bytes: dict[str, str] = {}
    for name, given in arrays.items():
        array = np.asarray(given, order="C")  # safetensors copies raw memory; not ascontiguousarray: () would be (1,)
        if array.dtype in _DTYPES.values() and name != "__metadata__":
            stored[name] = array
        elif array.dtype.name in _AS_BYTES and name != "__metadata__":
            stored[name] = array.reshape(-1).view(np.uint8).reshape(*array.shape, array.dtype.itemsize)
            as_bytes[name] = array.dtype.name
        else:
            what = f"array {name!r} of dtype {array.dtype} cannot be saved"
            raise UserError(what, remedy="Save numbers and booleans, under any name but '__metadata__'.")
    ours = {"metadata": plain(metadata, numbers_only=False), "as_bytes": as_bytes}
    return safetensors.numpy.save(stored, {_OURS: json.dumps(ours)})


def unpack_arrays(data: bytes, where: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What the bytes of a file hold, as `load_arrays` says.

    Args:
        data: the whole file.
        where: its path, for the message.
    """
    remedy = "Use another copy of the file, or save it again; nothing of it was used."
    try:
        tensors = safetensors.deserialize(data)  # checks the header, the bounds and that nothing else is in the file
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header.get("__metadata__", {})
        ours = json.loads(metadata[_OURS]) if _OURS in metadata else {"metadata": metadata, "as_bytes": {}}
        arrays = {}
        for name, tensor in tensors:
            array = np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
            if name in ours["as_bytes"]:
                dtype = _AS_BYTES[ours["as_bytes"][name]]
                array = array.reshape(-1).view(dtype).reshape(array.shape[:-1])
            arrays[name] = array
        return arrays, ours["metadata"]
    except safetensors.SafetensorError as error:
        raise DamagedError(f"this is no whole safetensors file: {error}", where=where, remedy=remedy) from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DamagedError(
            f"this file says what thalweg does not know: {error!r}", where=where, remedy=remedy
        ) from error

"""A model on disk: `model.json` says what it is made of, `model.safetensors` holds its arrays. Neither holds code."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np
import safetensors
import safetensors.numpy

from thalweg.errors import DamagedError, RunError, UserError
from thalweg.nn.spec import DTYPES, LAYERS, from_spec, spec
from thalweg.tree import NamedLeaves, named_leaves, rebuild
from thalweg.types import PyTree

DESCRIPTION, TENSORS = "model.json", "model.safetensors"
_FORMAT, _VERSION = "thalweg-model", 1
_SAFETENSORS = {
    **{"BOOL": "bool", "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "C64": "complex64"},
    **{f"{short}{bits}": f"{long}{bits}" for short, long in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}


def save_model(
    folder: str | os.PathLike[str],
    model: PyTree,
    metadata: Mapping[str, Any] | None = None,
    *,
    classes: Mapping[str, type[eqx.Module]] = LAYERS,
) -> None:
    """Writes a model into a new folder: both files or nothing.

    A model of thalweg's own classes and activations can be loaded by its folder alone. Of any other the tensors are
    saved, and loading needs a model of the same structure.

    Args:
        folder: must not exist yet; missing parents are made.
        model: any pytree with arrays; an ensemble with a leading member axis likewise.
        metadata: JSON values with text keys; tuples come back as lists.
        classes: name -> class, for callers with classes of their own.
    Raises:
        UserError: the folder exists, the metadata are no JSON, or an array has a type that no model file holds.
        RunError: writing failed. Nothing is left behind.

    >>> import tempfile
    >>> import jax
    >>> from thalweg.nn.linear import Linear
    >>> with tempfile.TemporaryDirectory() as place:
    ...     save_model(place + "/model", Linear(3, 2, key=jax.random.key(0)), {"target": "price"})
    ...     model, metadata = load_model(place + "/model")
    >>> model(jax.numpy.ones(3)).shape, metadata
    ((2,), {'target': 'price'})
    """
    folder = Path(folder)
    if folder.exists() or folder.is_symlink():
        raise UserError("the folder for the model exists already", where=str(folder), remedy="Choose another name.")
    leaves = named_leaves(model)
    for name, array in leaves.arrays.items():
        if str(array.dtype) not in DTYPES:
            raise UserError(f"leaf {name!r} has the dtype {array.dtype}, which no model file can hold")
    # In C order: safetensors writes the memory of a transposed array as it lies, and so another array.
    tensors = safetensors.numpy.save({name: np.array(array, order="C") for name, array in leaves.arrays.items()})
    content: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "spec": None, "foreign": None}
    try:
        content["spec"] = spec(model, classes)
    except UserError as error:
        content["foreign"] = str(error)
    content["keys"], content["weak"], content["scalars"] = leaves.keys, list(leaves.weak), leaves.scalars
    content["metadata"] = dict(metadata or {})
    content["tensors_sha256"] = hashlib.sha256(tensors).hexdigest()
    try:
        content["description_sha256"] = _digest(content)
    except (TypeError, ValueError) as error:
        raise UserError(f"the metadata of a model are no JSON: {error}", where=str(folder)) from error
    description = json.dumps(content, indent=1, allow_nan=False).encode()
    try:
        _write_folder(folder, {DESCRIPTION: description, TENSORS: tensors})
    except OSError as error:
        raise RunError(f"the model could not be saved: {error}", where=str(folder)) from error


def load_model(
    path: str | os.PathLike[str],
    like: PyTree | None = None,
    *,
    classes: Mapping[str, type[eqx.Module]] = LAYERS,
) -> tuple[PyTree, dict[str, Any]]:
    """Reads a model that `save_model` wrote, bit for bit, 64-bit arrays included. No code is run.

    Args:
        path: the folder, or one of its two files.
        like: a model of the same structure, shapes and dtypes (arrays or `jax.ShapeDtypeStruct`s), whose values do not
            matter; needed for models of other classes than thalweg's.
        classes: name -> class, for callers with classes of their own.
    Returns:
        The model, and its metadata.
    Raises:
        UserError: nothing there, `like` missing or different, or a class, function or field that is not known here.
        DamagedError: a file that is not what was written: tensors missing, extra, of another shape or type, or anything
            but tensors.
    """
    folder = Path(path)
    if folder.name in (DESCRIPTION, TENSORS) and not folder.is_dir():
        folder = folder.parent
    content = _read_description(folder / DESCRIPTION)
    leaves = NamedLeaves(
        _read_tensors(folder / TENSORS, content["tensors_sha256"]),
        content["keys"],
        tuple(content["weak"]),
        content["scalars"],
    )
    if like is not None:
        return rebuild(like, leaves, where=str(folder)), content["metadata"]
    if content.get("spec") is None:
        raise UserError(
            f"this model file holds tensors only, because its model is not all of thalweg's classes: "
            f"{content.get('foreign')}",
            where=str(folder),
            remedy="Load it with like=a model of the same structure.",
        )
    try:
        skeleton = from_spec(content["spec"], classes)
    except RecursionError as error:
        raise DamagedError("the model's description is too deep", where=str(folder), remedy=_COPY) from error
    try:
        return rebuild(skeleton, leaves, where=str(folder / TENSORS)), content["metadata"]
    except UserError as error:
        raise DamagedError(
            f"tensors and description disagree: {error.what}", where=error.where, remedy="Take an intact copy."
        ) from error


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    staging.mkdir()
    try:
        for name, content in files.items():
            with open(staging / name, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync(staging)
        # Renaming a folder onto an empty one that has appeared since would replace it; onto any other it fails.
        staging.rename(folder)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(content: Mapping[str, Any]) -> str:
    """Of everything else in the description, whatever its layout."""
    others = {name: value for name, value in content.items() if name != "description_sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"no model can be read here: {error.strerror}",
            where=str(file),
            remedy=f"A saved model is a folder with {DESCRIPTION} and {TENSORS}.",
        ) from error


def _read_description(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(file))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError("it does not describe a thalweg model")
        if content.get("version") != _VERSION:
            what = f"a model file of version {content.get('version')}, where {_VERSION} is known"
            raise UserError(what, where=str(file), remedy="Load it with the thalweg that wrote it.")
        if content.get("description_sha256") != _digest(content):
            raise ValueError("its content is not what its sum says")
        if odd := next((name for name, is_right in _ENTRIES.items() if not is_right(content.get(name))), None):
            raise ValueError(f"its entry {odd!r} is missing or of another kind than it should be")
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the model's description is damaged: {error}", where=str(file), remedy=_COPY) from error
    return content


def _read_tensors(file: Path, sha256: str) -> dict[str, np.ndarray]:
    content = _read(file)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedError("the model's tensors are not those that were saved", where=str(file), remedy=_COPY)
    try:
        tensors = safetensors.deserialize(content)  # safetensors.numpy.load knows no bfloat16
    except safetensors.SafetensorError as error:
        raise DamagedError(f"the file holds something else than tensors: {error}", where=str(file)) from error
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in _SAFETENSORS:
            raise DamagedError(f"tensor {name!r} has the unknown type {tensor['dtype']}", where=str(file))
        dtype = DTYPES[_SAFETENSORS[tensor["dtype"]]]
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
    return arrays


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


_ENTRIES: Mapping[str, Callable[[Any], bool]] = {
    "tensors_sha256": lambda value: isinstance(value, str),
    "keys": _are_texts,
    "weak": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "scalars": _are_texts,
    "metadata": lambda value: isinstance(value, dict),
}
"""What a description must hold beside the `spec`, which `from_spec` checks."""

_COPY = "Take an intact copy, or save the model again."

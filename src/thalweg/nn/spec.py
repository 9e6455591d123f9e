"""What a model is made of, as JSON, and back: classes and functions by allow-listed names, arrays as placeholders.

Nothing is imported, executed or called on the way back: a class is looked up in a table, and its fields are set.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.nn.activations import ACTIVATIONS, Activation, LeakyReLU, name_of
from thalweg.nn.conv import Conv2d, GlobalMeanPool2d, MeanPool2d
from thalweg.nn.conv1d import Conv1d
from thalweg.nn.dropout import Dropout
from thalweg.nn.dynamics import HybridField, InitialStates, NeuralField, NeuralODE, SecondOrderField
from thalweg.nn.efficientnet import EfficientNetLite0
from thalweg.nn.linear import Linear
from thalweg.nn.mlp import MLP
from thalweg.nn.normalization import BatchNorm, GroupNorm, LayerNorm, Standardize
from thalweg.nn.pooling import MaxPool2d, UpConv2d
from thalweg.nn.sequential import Residual, Sequential
from thalweg.nn.solvers import (
    BacksolveAdjoint,
    CheckpointedAdjoint,
    DirectAdjoint,
    DiscreteAdjoint,
    Dopri5,
    ForwardSensitivities,
    Kvaerno5,
    Tsit5,
)
from thalweg.nn.statistics import FixedStatistics, RunningStatistics
from thalweg.nn.unet import DoubleConv, UNet
from thalweg.types import PyTree

LAYERS: Mapping[str, type[eqx.Module]] = MappingProxyType(
    {
        layer.__name__: layer
        for layer in (
            Activation,
            BacksolveAdjoint,
            BatchNorm,
            CheckpointedAdjoint,
            Conv1d,
            Conv2d,
            DirectAdjoint,
            DiscreteAdjoint,
            Dopri5,
            DoubleConv,
            Dropout,
            EfficientNetLite0,
            FixedStatistics,
            ForwardSensitivities,
            GlobalMeanPool2d,
            GroupNorm,
            HybridField,
            InitialStates,
            Kvaerno5,
            LayerNorm,
            LeakyReLU,
            Linear,
            MaxPool2d,
            MeanPool2d,
            MLP,
            NeuralField,
            NeuralODE,
            Residual,
            RunningStatistics,
            SecondOrderField,
            Sequential,
            Standardize,
            Tsit5,
            UNet,
            UpConv2d,
        )
    }
)
"""The classes that a model file may name. A caller with classes of its own passes `{**LAYERS, "Mine": Mine}`."""

# The types that both JAX and safetensors know.
DTYPES: Mapping[str, np.dtype] = MappingProxyType(
    {
        name: jnp.dtype(name)
        for name in (
            *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
            *("bfloat16", "float16", "float32", "float64", "complex64"),
        )
    }
)

_SCALARS = (bool, int, float, str, type(None))
_NEWER = "Was the file written by a newer thalweg?"


def spec(model: PyTree, classes: Mapping[str, type[eqx.Module]] = LAYERS) -> dict[str, Any]:
    """The structure of a model as JSON: classes, static fields, shapes and dtypes; no values of arrays.

    Args:
        model: modules of `classes`, in each other or in tuples, lists and dictionaries with text keys. Leading axes,
            such as an ensemble's, are kept as they are.
        classes: name -> class.
    Raises:
        UserError: the model holds something that has no name here; it is named with its place.

    >>> spec(Activation(jax.nn.relu))
    {'class': 'Activation', 'fields': {'function': {'function': 'relu'}}}
    >>> spec(jnp.zeros((2, 3)))
    {'array': [2, 3], 'dtype': 'float32'}
    """
    return _encode(model, "model", {cls: name for name, cls in classes.items()})


def from_spec(data: Mapping[str, Any], classes: Mapping[str, type[eqx.Module]] = LAYERS) -> PyTree:
    """The skeleton of a model: its arrays are `jax.ShapeDtypeStruct`s.

    Args:
        data: what `spec` made.
        classes: name -> class, as it was for `spec`.
    Raises:
        UserError: an unknown class, function, dtype or field, a missing field (but a static one of a default, which a
            file older than the field lacks), or anything that `spec` does not write.

    >>> from_spec(spec({"w": jnp.zeros((2, 3))}))
    {'w': ShapeDtypeStruct(shape=(2, 3), dtype=float32)}
    """
    return _decode(data, "model", classes)


def _encode(value: Any, where: str, names: Mapping[type, str]) -> Any:
    if value is None:
        return None
    if isinstance(value, (jax.Array, np.ndarray, jax.ShapeDtypeStruct)):
        if str(value.dtype) not in DTYPES:
            raise UserError(f"an array of dtype {value.dtype}, which no model file can hold", where=where)
        return {"array": list(value.shape), "dtype": str(value.dtype)}
    if type(value) in names:
        fields = {
            field.name: (_encode_static if _is_static(field) else _encode)(
                getattr(value, field.name), f"{where}.{field.name}", names
            )
            for field in dataclasses.fields(value)
        }
        return {"class": names[type(value)], "fields": fields}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_encode(item, f"{where}[{i}]", names) for i, item in enumerate(value)]}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _encode(item, f"{where}[{key!r}]", names) for key, item in value.items()}}
    raise UserError(
        f"{type(value).__name__} is not among the classes that a model file may name",
        where=where,
        remedy=f"Known: {', '.join(sorted(names.values()))}. Other models save their tensors only.",
    )


def _encode_static(value: Any, where: str, names: Mapping[type, str]) -> Any:
    if type(value) in _SCALARS and not (type(value) is float and not math.isfinite(value)):
        return value
    if type(value) is tuple:
        return {"tuple": [_encode_static(item, f"{where}[{i}]", names) for i, item in enumerate(value)]}
    if callable(value) and (name := name_of(value)) is not None:
        return {"function": name}
    raise UserError(
        f"{value!r} is nothing that a model file may hold",
        where=where,
        remedy=f"Known functions: {', '.join(ACTIVATIONS)}. Other models save their tensors only.",
    )


def _decode(data: Any, where: str, classes: Mapping[str, type[eqx.Module]]) -> Any:
    match data:
        case None:
            return None
        case {"array": list(shape), "dtype": str(dtype), **others} if not others:
            if dtype not in DTYPES:
                raise UserError(f"unknown dtype {dtype!r} in a model's description", where=where, remedy=_NEWER)
            if not all(type(size) is int and size >= 0 for size in shape):
                raise UserError(f"{shape} is no shape", where=where)
            return jax.ShapeDtypeStruct(tuple(shape), DTYPES[dtype])
        case {"class": str(name), "fields": dict(fields), **others} if not others:
            if name not in classes:
                known = f"Known: {', '.join(sorted(classes))}. {_NEWER}"
                raise UserError(f"unknown class {name!r} in a model's description", where=where, remedy=known)
            return _build(name, classes[name], fields, where, classes)
        case {"tuple": list(items), **others} if not others:
            return tuple(_decode(item, f"{where}[{i}]", classes) for i, item in enumerate(items))
        case {"list": list(items), **others} if not others:
            return [_decode(item, f"{where}[{i}]", classes) for i, item in enumerate(items)]
        case {"dict": dict(items), **others} if not others:
            return {key: _decode(item, f"{where}[{key!r}]", classes) for key, item in items.items()}
    what = f"keys {sorted(map(str, data))}" if isinstance(data, Mapping) else repr(data)[:80]
    raise UserError(f"a model's description holds {what} in place of a module or array", where=where)


def _decode_static(data: Any, where: str) -> Any:
    match data:
        case {"tuple": list(items), **others} if not others:
            return tuple(_decode_static(item, f"{where}[{i}]") for i, item in enumerate(items))
        case {"function": str(name), **others} if not others:
            if name not in ACTIVATIONS:
                known = f"Known: {', '.join(ACTIVATIONS)}. {_NEWER}"
                raise UserError(f"unknown function {name!r} in a model's description", where=where, remedy=known)
            return ACTIVATIONS[name]
        case _ if type(data) in _SCALARS:
            return data
    raise UserError(f"a model's description holds {str(data)[:80]!r} in place of a setting", where=where)


def _build(
    name: str, cls: type[eqx.Module], data: Mapping[str, Any], where: str, classes: Mapping[str, type[eqx.Module]]
) -> eqx.Module:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for unknown in data.keys() - fields.keys():
        raise UserError(f"unknown field {unknown!r} of {name} in a model's description", where=where, remedy=_NEWER)
    # a setting that came later has the default that stands for what the class did before
    data = {f.name: f.default for f in fields.values() if _is_static(f) and type(f.default) in _SCALARS} | dict(data)
    for missing in fields.keys() - data.keys():
        raise UserError(f"field {missing!r} of {name} is missing in a model's description", where=where)
    module = object.__new__(cls)  # as unflattening a pytree does: no constructor, so no weights are drawn to be dropped
    for field in fields.values():
        place, value = f"{where}.{field.name}", data[field.name]
        decoded = _decode_static(value, place) if _is_static(field) else _decode(value, place, classes)
        object.__setattr__(module, field.name, decoded)
    return module


def _is_static(field: dataclasses.Field) -> bool:
    return bool(field.metadata.get("static", False))

"""What a phase is, in words: for the record, and to see whether a resumed program is the one that was begun."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from thalweg.train.program import Phase


def described(thing: Any) -> str:
    """An optimizer, schedule or condition with the numbers it was made with; functions by their name only.

    >>> from thalweg.optim import Adam, Cosine
    >>> described(Adam(Cosine(1e-3, 100)))
    'Adam(rate=Cosine(rate=0.001, steps=100, last=0.0), b1=0.9, b2=0.999, eps=1e-08, clip=None)'
    """
    if isinstance(thing, type) or thing is None or isinstance(thing, str | bool | int | float):
        return repr(thing)
    if dataclasses.is_dataclass(thing):
        parts = [(field.name, getattr(thing, field.name)) for field in dataclasses.fields(thing)]
        known = [f"{name}={described(value)}" for name, value in parts if not _is_opaque(value)]
        return f"{type(thing).__name__}({', '.join(known)})"
    if isinstance(thing, Mapping):
        return "{" + ", ".join(f"{key}: {described(value)}" for key, value in thing.items()) + "}"
    if isinstance(thing, list | tuple):
        return "[" + ", ".join(map(described, thing)) + "]"
    if isinstance(thing, np.dtype):
        return str(thing)
    if np.ndim(thing) == 0 and isinstance(thing, np.generic | np.ndarray):
        return repr(thing.item())
    return getattr(thing, "__qualname__", type(thing).__name__)


def program_described(phases: list[Phase]) -> list[str]:
    """Each phase in words, without its number of steps, which may grow."""
    return [
        f"{described(phase.optimizer)} until {described(phase.until)}, redraw {phase.redraw}, "
        f"training {described(phase.where)}, precision {described(phase.precision)}"
        for phase in phases
    ]


def _is_opaque(value: Any) -> bool:
    """Whether it is a tuple of functions, such as an Optax transform: nothing to tell one from another by."""
    return isinstance(value, tuple) and bool(value) and all(map(callable, value))

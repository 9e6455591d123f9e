"""The object stream inside a PyTorch file, read as data: an allow-list of opcodes, of names, and of nothing else.

Such a stream is a program for a small stack machine that can call any Python function. The standard library's
`pickletools` knows the opcodes and their arguments without running them; here those that build plain containers are
followed, and all others are refused before their argument is looked at. The three things that a file of weights needs
(an ordered dictionary, a typed storage, a tensor that looks at one) become records, and all other names are refused.
"""

import io
import pickletools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from thalweg.errors import DamagedError, UserError

STORAGES: Mapping[str, np.dtype] = MappingProxyType(
    {
        f"torch {storage}Storage": jnp.dtype(dtype)
        for storage, dtype in (
            *(("Float", "float32"), ("Double", "float64"), ("Half", "float16"), ("BFloat16", "bfloat16")),
            *(("Long", "int64"), ("Int", "int32"), ("Short", "int16"), ("Char", "int8"), ("Byte", "uint8")),
            *(("Bool", "bool"), ("ComplexFloat", "complex64"), ("ComplexDouble", "complex128")),
        )
    }
)
"""The typed storages that a stream may name, and what their elements are."""

_DICTIONARY, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_NEVER = "thalweg runs nothing that a file names. Save the model's state_dict() alone, and read that."
_AGAIN = "Get the file anew: it is cut off or damaged."
_MOST_AXES = 32


@dataclass(frozen=True)
class StorageRecord:
    """A run of numbers elsewhere in the file: its key there, its type and how many."""

    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class TensorRecord:
    """A tensor as a look at a storage; all counted in elements."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Name:
    """A global that the stream named; never looked up."""

    text: str


_MARK = object()


def read_object(data: bytes, start: int, where: str) -> tuple[Any, int]:
    """What one stream describes: containers, numbers, texts, and records of storages and tensors.

    Args:
        data: the file, or a part of it.
        start: where in it the stream begins.
        where: for messages.
    Returns:
        the object, and the place after the stream's end.
    Raises:
        UserError: an opcode or name that is not on the list, with its place.
        DamagedError: no stream, or one that is cut off or contradicts itself.

    >>> read_object(b"\\x80\\x02}X\\x01\\x00\\x00\\x00aK\\x07s.", 0, "doctest")
    ({'a': 7}, 13)
    >>> read_object(b"cos\\nsystem\\nX\\x02\\x00\\x00\\x00ls\\x85R.", 0, "doctest")
    Traceback (most recent call last):
    thalweg.errors.UserError: it names 'os.system', which no file of weights needs (doctest, byte 0, opcode GLOBAL). ...
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    machine = _Machine(where)
    with _damaged(where, machine):
        for opcode, argument in _opcodes(stream, machine):
            machine.follow(opcode, argument)
        if len(machine.stack) != 1:
            raise ValueError(f"{len(machine.stack)} objects are left at its end")
        return machine.stack[0], stream.tell()


def read_tensor_records(data: bytes, start: int, where: str) -> tuple[dict[str, TensorRecord], int]:
    """A stream that holds a dictionary of tensors by name and nothing else, and the place after its end.

    Args:
        data, start, where: as `read_object`.
    Raises:
        UserError: as `read_object`; or the stream holds something else than named tensors.
    """
    content, end = read_object(data, start, where)
    remedy = "Save the model's state_dict() alone, and read that."
    if not isinstance(content, dict) or not content:
        raise UserError(f"the file holds {_told(content)}, no tensors by name", where=where, remedy=remedy)
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, TensorRecord)):
            raise UserError(
                f"beside tensors the file holds {_told(value)} under {name!r}"[:200], where=where, remedy=remedy
            )
    return content, end


def _opcodes(stream: io.BytesIO, machine: "_Machine") -> Iterator[tuple[str, Any]]:
    """Opcode and argument, up to STOP; one that is not on the list is refused first."""
    while True:
        place, byte = stream.tell(), stream.read(1)
        opcode = _OPCODES.get(byte.decode("latin-1"))
        if opcode is None:
            raise ValueError("its end is missing" if not byte else f"byte {byte[0]} is no opcode")
        machine.place = f"byte {place}, opcode {opcode.name}"
        if opcode.name not in _ALLOWED:
            machine.refuse(f"it has the opcode {opcode.name}, which no file of weights needs")
        if opcode.name == "GLOBAL":  # pickletools would also undo escapes, which the format does not have
            lines = stream.readline(), stream.readline()
            if not all(line.endswith(b"\n") for line in lines):
                raise ValueError("a name that is cut off")
            yield opcode.name, b" ".join(line[:-1] for line in lines).decode("ascii")
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(stream)
        if opcode.name == "STOP":
            return


class _Machine:
    """The stack and memo of one stream."""

    def __init__(self, where: str):
        self.where, self.stack, self.memo, self.place = where, [], {}, "at its start"

    def follow(self, opcode: str, argument: Any) -> None:
        """One opcode. What contradicts itself raises ValueError, which the reader turns into a DamagedError."""
        if opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _ARGUMENTS:
            self.stack.append(argument)
        elif opcode in _STEPS:
            _STEPS[opcode](self, argument)

    def refuse(self, what: str, remedy: str = _NEVER) -> NoReturn:
        raise UserError(what, where=f"{self.where}, {self.place}", remedy=remedy)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("an opcode finds nothing to work on")
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise ValueError(f"an opcode does not find the {kind.__name__} that it works on")
        return self.stack[-1]

    def since_mark(self) -> list[Any]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place] is _MARK:
                found = self.stack[place + 1 :]
                del self.stack[place:]
                return found
        raise ValueError("there is no mark for an opcode to go back to")

    def remember(self, number: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("there is nothing to remember")
        self.memo[number] = self.stack[-1]

    def recall(self, number: int) -> None:
        if number not in self.memo:
            raise ValueError(f"number {number} was never remembered")
        self.stack.append(self.memo[number])

    def collect(self, count: int | None) -> None:
        """A tuple of so many, or of all since the mark."""
        items = self.since_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def enter(self, items: list[Any]) -> None:
        target = self.top(dict)
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Texts and numbers only: the hash of a tuple of tuples of … could take for ever.
            if not isinstance(key, str | int):
                raise ValueError("a key that is neither text nor number")
            if key in target:
                raise ValueError(f"the key {key!r} twice"[:100])
            target[key] = value

    def name(self, text: str) -> None:
        if text not in STORAGES and text not in (_DICTIONARY, _TENSOR):
            self.refuse(f"it names {text.replace(' ', '.')!r}, which no file of weights needs"[:200])
        self.stack.append(_Name(text))

    def name_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise ValueError("a name that is no text")
        self.name(f"{module} {name}")

    def reduce(self) -> None:
        """An ordered dictionary or a tensor: the only two calls that stand for something."""
        arguments, function = self.pop(), self.pop()
        if function == _Name(_DICTIONARY) and arguments == ():
            self.stack.append({})
        elif function == _Name(_TENSOR) and isinstance(arguments, tuple):
            self.stack.append(_tensor(self, arguments))
        else:
            called = function.text.replace(" ", ".") if isinstance(function, _Name) else _told(function)
            self.refuse(f"it calls {called} in a way that no file of weights does")

    def build(self) -> None:
        """Attributes of a dictionary: PyTorch keeps the layers' versions there, which say nothing of the numbers."""
        state = self.pop()
        self.top(dict)
        if not (isinstance(state, dict) and set(state) == {"_metadata"} and isinstance(state["_metadata"], dict)):
            self.refuse("it sets attributes other than a dictionary's _metadata")

    def storage(self) -> None:
        content = self.pop()
        match content:
            case ("storage", _Name(text), str(key), str(_), int(count), *rest) if text in STORAGES:
                # The sixth, of the older format, would be a view of another storage.
                if not isinstance(count, bool) and count >= 0 and rest in ([], [None]):
                    self.stack.append(StorageRecord(key, STORAGES[text], count))
                    return
        raise ValueError("a reference that is no typed storage of a stated size")


def _tensor(machine: _Machine, arguments: tuple[Any, ...]) -> TensorRecord:
    match arguments:
        case (StorageRecord(), *_, dict(flags)) if len(arguments) == 7 and flags and set(flags) <= {"conj", "neg"}:
            how = " and ".join({"conj": "conjugated", "neg": "negated"}[flag] for flag in flags)
            machine.refuse(f"a tensor is a {how} view of its numbers", "Save .resolve_conj().resolve_neg() of it.")
        case (StorageRecord() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict(hooks)) if not hooks:
            whole = all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
            if whole and len(shape) == len(strides) <= _MOST_AXES:
                _check_bounds(machine, storage, offset, shape, strides)
                return TensorRecord(storage, offset, shape, strides)
    raise ValueError("a tensor whose storage, offset, shape or strides are none")


def _check_bounds(
    machine: _Machine, storage: StorageRecord, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    elements, last = 1, offset
    for size, stride in zip(shape, strides, strict=True):
        elements, last = elements * size, last + (size - 1) * stride
    what = f"a tensor of shape {shape}, strides {strides} and offset {offset} in a storage of {storage.count}"[:300]
    if elements and last >= storage.count:
        raise ValueError(what)
    if elements > storage.count:  # copied, the same numbers again and again would have no limit
        machine.refuse(f"{what} is a broadcast view", "Save .contiguous() of it.")


@contextmanager
def _damaged(where: str, machine: _Machine) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (ValueError, OverflowError) as error:  # pickletools' own complaints are ValueErrors too
        raise DamagedError(
            f"its object stream is damaged: {str(error)[:300]}", where=f"{where}, {machine.place}", remedy=_AGAIN
        ) from error


def _told(value: Any) -> str:
    return "an empty dictionary" if value == {} else value.text if isinstance(value, _Name) else type(value).__name__


_CONSTANTS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "NONE": lambda: None,
        "NEWTRUE": lambda: True,
        "NEWFALSE": lambda: False,
        "EMPTY_DICT": dict,
        "EMPTY_LIST": list,
        "EMPTY_TUPLE": tuple,
        "MARK": lambda: _MARK,
    }
)
# Whose argument is the value itself.
_ARGUMENTS = frozenset(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
)
_STEPS: Mapping[str, Callable[[_Machine, Any], None]] = MappingProxyType(
    {
        "BINPUT": _Machine.remember,
        "LONG_BINPUT": _Machine.remember,
        "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
        "BINGET": _Machine.recall,
        "LONG_BINGET": _Machine.recall,
        "TUPLE": lambda machine, _: machine.collect(None),
        "TUPLE1": lambda machine, _: machine.collect(1),
        "TUPLE2": lambda machine, _: machine.collect(2),
        "TUPLE3": lambda machine, _: machine.collect(3),
        "APPEND": lambda machine, _: machine.append([machine.pop()]),
        "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
        "SETITEM": lambda machine, _: machine.enter([machine.pop(), machine.pop()][::-1]),
        "SETITEMS": lambda machine, _: machine.enter(machine.since_mark()),
        "GLOBAL": _Machine.name,
        "STACK_GLOBAL": lambda machine, _: machine.name_from_stack(),
        "REDUCE": lambda machine, _: machine.reduce(),
        "BUILD": lambda machine, _: machine.build(),
        "BINPERSID": lambda machine, _: machine.storage(),
    }
)
# PROTO and FRAME tell the loader what to expect, and STOP ends the stream.
_ALLOWED = frozenset((*_CONSTANTS, *_ARGUMENTS, *_STEPS, "PROTO", "FRAME", "STOP"))
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}

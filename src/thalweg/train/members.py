"""How programs written for one member run for one or many: in turn, mapped together, or sharded over devices."""

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.train.walk import State
from thalweg.types import PyTree

Program = Callable[..., tuple[State, dict[str, Any]]]
Call = Callable[..., dict[str, np.ndarray]]


class Mode(enum.Enum):
    """How many steps go into one compiled program."""

    LOOP = "loop"
    """Many steps a program (`fori_loop` with a dynamic count): small networks, physics, samplers."""
    STEP = "step"
    """One donated step a program, called from Python: convolutions on a CPU, large models, streams from the host."""


class Layout(enum.Enum):
    """How the members of `fit_many` share the machine."""

    IN_TURN = "in turn"
    """One after the other through one compiled program, stretch by stretch."""
    VMAPPED = "vmapped"
    """All in one program with a leading axis."""
    SHARDED = "sharded"
    """Vmapped, the leading axis spread over devices."""


class AbstractMembers:
    """The states of all members, and how a program moves them.

    Attributes:
        hold: whether finished members go through the programs too and must be held by `where`.
        placement: how their arrays lie on several devices; None on one.
    """

    hold: bool
    placement: jax.sharding.NamedSharding | None

    def compile(self, program: Program) -> Call:
        """`call(going, streamed, shared, count) -> figures (members, …)`; only members in `going` need move."""
        raise NotImplementedError

    def read(self, get: Callable[[State], PyTree]) -> PyTree:
        """A part of every member's state, on the host with a leading axis of members."""
        raise NotImplementedError

    def copier(self, get: Callable[[State], PyTree]) -> Callable[[], Callable[[int], PyTree]]:
        """`copy()(i)` is a part of member i's state as it is when `copy` is called, on the device."""
        raise NotImplementedError

    def unstack(self) -> list[tuple[State, PyTree]]:
        """Each member's (state, frozen arrays)."""
        raise NotImplementedError

    def tree(self) -> PyTree:
        """What a checkpoint holds."""
        raise NotImplementedError

    def restore(self, tree: PyTree) -> None:
        """Put back what a checkpoint held."""
        raise NotImplementedError

    def shapes(self, program: Program, streamed: Sequence[PyTree], shared: PyTree) -> PyTree:
        """`tree()` as it would be after a program: structure, shapes and dtypes, without running it."""
        raise NotImplementedError


class InTurn(AbstractMembers):
    """Members kept apart, each sent through the same compiled program; a single run is a list of one.

    Args:
        states, frozen: by member.
        placement: sharding that every array is replicated by; None leaves them where they are.
    """

    hold = False

    def __init__(self, states: Sequence[State], frozen: Sequence[PyTree], placement: Any = None):
        self.placement = placement
        self.restore({"states": list(states), "frozen": list(frozen)})

    def compile(self, program: Program) -> Call:
        compiled = _jit(program, self.placement)

        def call(going: Iterable[int], streamed: PyTree, shared: PyTree, count: Any) -> dict[str, np.ndarray]:
            found: list[dict[str, Any]] = [{} for _ in self.states]
            for i in going:
                self.states[i], found[i] = compiled(self.states[i], self.frozen[i], streamed[i], shared, count)
            names = dict.fromkeys(name for figures in found for name in figures)
            return {name: _stacked([figures.get(name) for figures in found]) for name in names}

        return call

    def read(self, get: Callable[[State], PyTree]) -> PyTree:
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *map(get, self.states))

    def copier(self, get: Callable[[State], PyTree]) -> Callable[[], Callable[[int], PyTree]]:
        copy = jax.jit(lambda state: jax.tree.map(jnp.copy, get(state)))
        return lambda: [copy(state) for state in self.states].__getitem__

    def unstack(self) -> list[tuple[State, PyTree]]:
        return list(zip(self.states, self.frozen, strict=True))

    def tree(self) -> PyTree:
        return {"states": self.states, "frozen": self.frozen}

    def restore(self, tree: PyTree) -> None:
        if self.placement is not None:
            tree = jax.device_put(tree, self.placement)
        self.states, self.frozen = list(tree["states"]), list(tree["frozen"])

    def shapes(self, program: Program, streamed: Sequence[PyTree], shared: PyTree) -> PyTree:
        shape = lambda state, frozen, batch: jax.eval_shape(program, state, frozen, batch, shared, None)[0]
        return {"states": list(map(shape, self.states, self.frozen, streamed)), "frozen": self.frozen}


class Vmapped(AbstractMembers):
    """Members stacked along a leading axis and moved by one program.

    Args:
        states, frozen: by member.
        placement: sharding of the leading axis; None leaves it on one device.
    """

    hold = True

    def __init__(self, states: Sequence[State], frozen: Sequence[PyTree], placement: Any = None):
        self.count, self.placement = len(states), placement
        self.restore({"states": _stack(states), "frozen": _stack(frozen)})

    def compile(self, program: Program) -> Call:
        compiled = _jit(jax.vmap(program, in_axes=(0, 0, 0, None, None)), self.placement)

        def call(going: Iterable[int], streamed: PyTree, shared: PyTree, count: Any) -> dict[str, np.ndarray]:
            self.states, figures = compiled(self.states, self.frozen, _stack(streamed), shared, count)
            going = set(going)
            rows = {name: np.asarray(value) for name, value in figures.items()}
            return {
                name: _stacked([row if i in going else None for i, row in enumerate(v)]) for name, v in rows.items()
            }

        return call

    def read(self, get: Callable[[State], PyTree]) -> PyTree:
        return jax.tree.map(np.asarray, get(self.states))

    def copier(self, get: Callable[[State], PyTree]) -> Callable[[], Callable[[int], PyTree]]:
        copy = jax.jit(jax.vmap(lambda state: jax.tree.map(jnp.copy, get(state))))

        def take() -> Callable[[int], PyTree]:
            stacked = copy(self.states)
            return lambda i: jax.tree.map(lambda leaf: leaf[i], stacked)

        return take

    def unstack(self) -> list[tuple[State, PyTree]]:
        at = lambda i: jax.tree.map(lambda leaf: leaf[i], (self.states, self.frozen))
        return [at(i) for i in range(self.count)]

    def tree(self) -> PyTree:
        return {"states": self.states, "frozen": self.frozen}

    def restore(self, tree: PyTree) -> None:
        if self.placement is not None:
            tree = jax.device_put(tree, self.placement)
        self.states, self.frozen = tree["states"], tree["frozen"]

    def shapes(self, program: Program, streamed: Sequence[PyTree], shared: PyTree) -> PyTree:
        mapped = jax.vmap(program, in_axes=(0, 0, 0, None, None))
        states = jax.eval_shape(mapped, self.states, self.frozen, _stack(streamed), shared, None)[0]
        return {"states": states, "frozen": self.frozen}


def arrange(
    layout: Layout, states: Sequence[State], frozen: Sequence[PyTree], devices: Sequence[Any] | None
) -> AbstractMembers:
    """The members laid out as asked.

    Args:
        layout: see `Layout`.
        states, frozen: by member.
        devices: for `SHARDED`, what the members spread over; else what each batch spreads over (params replicated).
    """
    if layout is Layout.SHARDED:
        devices = list(devices or jax.devices())
        if len(states) % len(devices):
            raise UserError(
                f"{len(states)} members cannot be spread evenly over {len(devices)} devices",
                remedy="Choose a multiple, or Layout.VMAPPED.",
            )
        mesh = jax.sharding.Mesh(np.asarray(devices), ("members",))
        return Vmapped(states, frozen, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("members")))
    replicated = None if devices is None else batch_sharding(devices, replicated=True)
    return (Vmapped if layout is Layout.VMAPPED else InTurn)(states, frozen, replicated)


def batch_sharding(devices: Sequence[Any], *, replicated: bool = False) -> jax.sharding.NamedSharding:
    """The leading axis of every batch spread over devices (or everything on each)."""
    mesh = jax.sharding.Mesh(np.asarray(list(devices)), ("batch",))
    axes = () if replicated else ("batch",)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def automatic_layout(members: int) -> Layout:
    """The measured rule: on a CPU members in turn (vmapping ten costs 8.5 to 13.7 times one), on a GPU together."""
    return Layout.VMAPPED if members > 1 and jax.default_backend() != "cpu" else Layout.IN_TURN


def automatic_mode(parameters: int, convolutional: bool, streamed: bool) -> tuple[Mode, str]:
    """The stated rule for the mode, and its reason for the record.

    Convolutions inside control flow are some twenty times slower on XLA's CPU; a stream from the host cannot enter a
    compiled loop. Matrix products lose nothing there up to the size measured (benchmarks/mlp_step.py).
    """
    if streamed:
        return Mode.STEP, "batches come from the host"
    if jax.default_backend() == "cpu" and convolutional:
        return Mode.STEP, "convolutions inside control flow are slow on this CPU"
    if parameters > LARGE:
        return Mode.STEP, f"more than {LARGE} parameters"
    return Mode.LOOP, "no convolutions on a CPU, and small enough"


LARGE = 30_000_000
"""Parameters up to which the loop was measured to be as quick as the step: 0.76 to 1.04 of its time at 0.7 to 20 M."""


def _jit(program: Program, placement: Any) -> Any:
    """Compile; the state stays laid out as it is, or the next program would find another layout and compile again."""
    if placement is None:
        return jax.jit(program, donate_argnums=0)
    return jax.jit(program, donate_argnums=0, out_shardings=(placement, None))


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _stacked(values: list[Any]) -> np.ndarray:
    known = next(np.asarray(value) for value in values if value is not None)
    missing = np.zeros_like(known) if known.dtype == bool else np.full_like(known, np.nan, dtype=float)
    return np.stack([missing if value is None else np.asarray(value) for value in values])


def array_leaves(tree: PyTree) -> int:
    """Number of elements in the arrays of a pytree."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))

"""Trajectories as data: initial states, irregular times, inputs that drive them, and values with holes."""

import abc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from thalweg.errors import UserError


class AbstractInput(eqx.Module):
    """What drives a system from outside, as a function of time.

    Attributes:
        times: where it is given, shape (m,), increasing.
        values: there, shape (m, k).
    """

    times: eqx.AbstractVar[Any]
    values: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def __call__(self, t: jax.Array) -> jax.Array:
        """The input at a time, () to (k,); before the first and after the last time it keeps its end values."""

    @property
    def jumps(self) -> Any:
        """Times at which it jumps, shape (j,), or None: the solver steps exactly there."""
        return None


class LinearInput(AbstractInput):
    """Linear between the given times.

    Args:
        times: increasing, shape (m,), or (n, m) for n trajectories.
        values: shape (m, k) or (n, m, k).
    Raises:
        UserError: shapes that do not belong together, times that do not increase, anything that is not finite.

    >>> LinearInput([0.0, 2.0], [[0.0], [1.0]])(jnp.array(0.5))
    Array([0.25], dtype=float32)
    """

    times: Any
    values: Any

    def __init__(self, times: Any, values: Any):
        self.times, self.values = _checked_input(self, times, values)

    def __call__(self, t: jax.Array) -> jax.Array:
        times, values = jnp.asarray(self.times), jnp.asarray(self.values)
        return jax.vmap(lambda column: jnp.interp(t, times, column), in_axes=1)(values)


class StepInput(AbstractInput):
    """Constant from each given time up to the next. Gradients reach its values, not its times.

    Args:
        times, values: as `LinearInput`.
    Raises:
        UserError: as `LinearInput`.

    >>> StepInput([0.0, 2.0], [[0.0], [1.0]])(jnp.array(2.0))
    Array([1.], dtype=float32)
    """

    times: Any
    values: Any

    def __init__(self, times: Any, values: Any):
        self.times, self.values = _checked_input(self, times, values)

    def __call__(self, t: jax.Array) -> jax.Array:
        times, values = jnp.asarray(self.times), jnp.asarray(self.values)
        return values[jnp.maximum(jnp.searchsorted(times, t, side="right") - 1, 0)]

    @property
    def jumps(self) -> Any:
        return self.times


class Trajectory(eqx.Module):
    """What a model of dynamics is called with: where it starts, when it is looked at, what drives it.

    Args:
        initial: the state at the first of the times, shape (d,); or whatever `NeuralODE.initial` makes a state of.
        times: shape (T,), T ≥ 2, in increasing order; the same time may come twice.
        drive: an input, such as `LinearInput`, or None.
        With a leading axis n throughout, these are n trajectories for `jax.vmap(model)` or a `Supervised` term.
    Raises:
        UserError: times or states that are not finite, times out of order, shapes that do not belong together.

    >>> Trajectory([1.0, 0.0], [0.0, 0.3, 1.0]).times.shape
    (3,)
    >>> Trajectory([1.0, 0.0], [0.0, 1.0, 0.3])
    Traceback (most recent call last):
    thalweg.errors.UserError: the time 0.3 comes after 1.0 (Trajectory, time 2)...
    """

    initial: Any
    times: Any
    drive: AbstractInput | None

    def __init__(self, initial: Any, times: Any, drive: AbstractInput | None = None):
        self.initial = jax.tree.map(_array, initial, is_leaf=lambda leaf: isinstance(leaf, list))
        self.times, self.drive = _array(times), drive
        if self.times.ndim not in (1, 2) or self.times.shape[-1] < 2:
            remedy = "At least two times, the first of them that of the initial state."
            raise UserError(f"times of shape {self.times.shape}", where="Trajectory", remedy=remedy)
        leading = self.times.shape[:-1]
        _refuse_times(self.times, "Trajectory", strict=False)
        if not isinstance(self.times, Tracer) and np.any(self.times[..., 0] == self.times[..., -1]):
            raise UserError("all times are the same, so nothing moves", where="Trajectory")
        for leaf in jax.tree.leaves(self.initial):
            if leaf.shape[: len(leading)] != leading:
                raise UserError(f"initial states of shape {leaf.shape} for {leading[0]} trajectories")
            if jnp.issubdtype(leaf.dtype, jnp.inexact):
                _refuse_infinite(leaf, "the initial state", "Trajectory")
        if drive is not None and drive.times.shape[:-1] != leading:
            raise UserError(
                f"inputs at times of shape {drive.times.shape} for states at times of shape {self.times.shape}",
                where="Trajectory",
                remedy="Either one trajectory and its input, or as many inputs as trajectories.",
            )


def stack_trajectories(
    times: Sequence[Any],
    values: Sequence[Any],
    *,
    initial: Any = None,
    drives: Sequence[AbstractInput] | None = None,
) -> tuple[Trajectory, tuple[np.ndarray, np.ndarray]]:
    """Measured trajectories of different lengths as the `x` and `y` of a `Supervised` term with a masked loss.

    Shorter ones are filled up: their last time is repeated, and nothing there counts as measured.

    Args:
        times: for each of n trajectories when it was measured, shape (Tᵢ,), increasing. The first is when the initial
            state holds; if nothing was measured then, its row of values is NaN.
        values: what was measured, shape (Tᵢ, d); NaN where it is missing.
        initial: the initial states, shape (n, d). None: they are unknown, and each trajectory gets its number, which
            `NeuralODE(…, initial=InitialStates(guess))` turns into a state that is trained.
        drives: an input for each trajectory, all of one class.
    Returns:
        `Trajectory` with leading axis n; and the pair (values (n, T, d), mask (n, T, d)), values 0 where missing.
    Raises:
        UserError: names the trajectory, the row and the column.

    >>> x, (y, mask) = stack_trajectories([[0.0, 1.0], [0.0, 0.5, 2.0]], [[[1.0], [2.0]], [[1.0], [np.nan], [3.0]]])
    >>> x.times.tolist(), mask[:, :, 0].tolist()
    ([[0.0, 1.0, 1.0], [0.0, 0.5, 2.0]], [[True, True, False], [True, False, True]])
    """
    if not times or len(times) != len(values) or (drives is not None and len(drives) != len(times)):
        inputs = "" if drives is None else f" and {len(drives)} inputs"
        raise UserError(f"{len(times)} arrays of times for {len(values)} of values{inputs}", where="stack_trajectories")
    when, what = [np.asarray(t, np.float64) for t in times], [np.asarray(v, np.float64) for v in values]
    n, longest, size = len(when), max(map(len, when)), what[0].shape[-1] if what[0].ndim else 0
    found, mask = np.zeros((n, longest, size)), np.zeros((n, longest, size), bool)
    filled = np.zeros((n, longest))
    for i, (t, v) in enumerate(zip(when, what, strict=True)):
        where = f"trajectory {i}"
        if t.ndim != 1 or len(t) < 2 or v.shape != (len(t), size):
            raise UserError(
                f"times of shape {t.shape} with values of shape {v.shape}",
                where=where,
                remedy=f"At least two times, shape (T,), and values of shape (T, {size}).",
            )
        _refuse_times(t, where, strict=True)
        known = ~np.isnan(v)
        _refuse_infinite(np.where(known, v, 0), "a value", where)
        if not known.any():
            raise UserError("nothing was measured: all values are missing", where=where, remedy="Leave it out.")
        filled[i] = np.pad(t, (0, longest - len(t)), mode="edge")
        found[i, : len(t)], mask[i, : len(t)] = np.where(known, v, 0), known
    start = np.arange(n, dtype=np.int32) if initial is None else np.asarray(initial, np.float64)
    if initial is not None and start.shape != (n, size):
        raise UserError(f"initial states of shape {start.shape} for {n} trajectories of {size} components")
    return Trajectory(start, filled, None if drives is None else _stacked(drives)), (found, mask)


def cut_trajectories(
    times: Sequence[np.ndarray], values: Sequence[np.ndarray], pieces: int
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Every trajectory in pieces, each to have an unknown first state of its own (multiple shooting: Bock, 1983).

    A model that is still far off cannot be asked to foretell far. A piece ends at the reading where the next begins.

    Args:
        times, values: of n trajectories, shapes (Tᵢ,) and (Tᵢ, d).
        pieces: of each trajectory.
    Returns:
        times and values of the n·pieces pieces, in order, and the number (n·pieces,) of the trajectory each is from.
    Raises:
        UserError: fewer than two readings for a piece, times and values that do not belong together.

    >>> t, v, number = cut_trajectories([np.arange(5.0)], [np.ones((5, 2))], 2)
    >>> [one.tolist() for one in t], number.tolist()
    ([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]], [0, 0])
    """
    if len(times) != len(values) or not isinstance(pieces, int) or pieces < 1:
        raise UserError(
            f"{len(times)} arrays of times, {len(values)} of values, {pieces} pieces", where="cut_trajectories"
        )
    when, what = [], []
    for i, (t, v) in enumerate(zip(times, values, strict=True)):
        if len(t) != len(v):
            raise UserError(f"{len(t)} times with {len(v)} values", where=f"trajectory {i}")
        if len(t) <= pieces:
            raise UserError(f"{pieces} pieces of {len(t)} readings", where=f"trajectory {i}", remedy="Cut it less.")
        cuts = np.linspace(0, len(t) - 1, pieces + 1).round().astype(int)
        for begin, end in pairwise(cuts):
            when.append(t[begin : end + 1])
            what.append(v[begin : end + 1])
    return when, what, np.repeat(np.arange(len(times)), pieces)


def _array(values: Any) -> Any:
    """NumPy arrays stay: JAX would round 64 bits to 32 before a precision is known."""
    return values if isinstance(values, jax.Array) else np.asarray(values)


def _checked_input(drive: AbstractInput, times: Any, values: Any) -> tuple[Any, Any]:
    times, values, name = _array(times), _array(values), type(drive).__name__
    if times.ndim not in (1, 2) or values.ndim != times.ndim + 1 or values.shape[:-1] != times.shape:
        remedy = "Times (m,) and values (m, k); with a leading axis for several trajectories."
        raise UserError(f"times of shape {times.shape} with values of shape {values.shape}", where=name, remedy=remedy)
    _refuse_times(times, name, strict=True)
    _refuse_infinite(values, "a value", name)
    return times, values


def _stacked(drives: Sequence[AbstractInput]) -> AbstractInput:
    """Inputs of different lengths as one with a leading axis: shorter ones keep their last value."""
    if len({type(drive) for drive in drives}) > 1:
        raise UserError("the inputs are of different classes", where="stack_trajectories")
    longest = max(len(drive.times) for drive in drives)
    times, values = [], []
    for drive in drives:
        more = longest - len(drive.times)
        t, v = np.asarray(drive.times, np.float64), np.asarray(drive.values, np.float64)
        times.append(np.concatenate([t, t[-1] + 1.0 + np.arange(more)]))
        values.append(np.concatenate([v, np.repeat(v[-1:], more, axis=0)]))
    if len({v.shape for v in values}) > 1:
        raise UserError("the inputs differ in their number of components", where="stack_trajectories")
    return type(drives[0])(np.stack(times), np.stack(values))


def _refuse_times(times: Any, where: str, *, strict: bool) -> None:
    """Refuse times that are not finite, or out of order along the last axis; tracers are passed over."""
    _refuse_infinite(times, "a time", where)
    if isinstance(times, Tracer):
        return
    times = np.asarray(times)
    steps = np.diff(times, axis=-1)
    bad = np.argwhere(steps <= 0 if strict else steps < 0)
    if len(bad):
        *row, at = map(int, bad[0])
        before, after = times[(*row, at)], times[(*row, at + 1)]
        place = f"{where}, trajectory {row[0]}, time {at + 1}" if row else f"{where}, time {at + 1}"
        what = f"the time {after} comes {'twice' if before == after else f'after {before}'}"
        raise UserError(what, where=place, remedy="Sort the times; places are counted from 0.")


def _refuse_infinite(values: Any, what: str, where: str) -> None:
    """Refuse values that are not finite; tracers are passed over."""
    if isinstance(values, Tracer):
        return
    bad = np.argwhere(~np.isfinite(np.asarray(values, np.float64)))
    if len(bad):
        place = tuple(map(int, bad[0]))
        raise UserError(
            f"{what} is {np.asarray(values)[place]}",
            where=f"{where}, at {place[0] if len(place) == 1 else place}",
            remedy="Places are counted from 0. Leave it out or mend it.",
        )

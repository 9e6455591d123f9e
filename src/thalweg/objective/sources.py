"""Where a term's examples come from. A term does not know whether they live on the device, on the host, or are drawn.

A source has a moving state of its own (an order key, or points), made by `init`, read by `draw`, renewed by `refresh`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.objective.order import LARGEST_SIZE, order_words, rows_of_batch
from thalweg.types import Key, PyTree


class Examples(eqx.Module):
    """A batch of one term: `values` with a leading axis of examples, and their weights (B,) or None (all one)."""

    values: PyTree
    weights: jax.Array | None = None

    @property
    def size(self) -> int:
        """Number of examples."""
        return leading_size(self.values)


def leading_size(values: PyTree) -> int:
    """The common leading axis of every array in `values`; 0 if there is no array."""
    leaves = [leaf for leaf in jax.tree.leaves(values) if eqx.is_array_like(leaf)]
    return int(np.shape(leaves[0])[0]) if leaves else 0


class AbstractSource(eqx.Module):
    """Interface: a population of examples and a rule that draws batches from it."""

    @property
    def population(self) -> int:
        """Number of examples that the term's mean is over (for a drawn source: of one draw)."""
        raise NotImplementedError

    @property
    def varies(self) -> bool:
        """Whether two draws differ: if not, a new batch is never worth asking for."""
        raise NotImplementedError

    @property
    def on_host(self) -> bool:
        """Whether batches come from `stream` on the host instead of `draw` inside the compiled step."""
        return False

    @property
    def held(self) -> PyTree:
        """All examples, where they are held; None from a source that draws them."""
        return None

    def init(self, key: Key) -> PyTree:
        """The source's moving state."""
        raise NotImplementedError

    def draw(self, state: PyTree, index: jax.Array) -> Examples:
        """Batch number `index`; pure, called inside the compiled step."""
        raise NotImplementedError

    def stream(self, state: PyTree, index: int) -> Examples:
        """Batch number `index` gathered on the host; only for sources that are `on_host`."""
        raise NotImplementedError

    def refresh(self, state: PyTree, key: Key, cost: Callable[[PyTree], jax.Array]) -> PyTree:
        """The state with what is held drawn afresh; most sources hold nothing.

        Args:
            state: as it is.
            key: for drawing.
            cost: values (n, …) -> (n,), the term's cost of each example at the walk's present place.
        """
        return state

    @property
    def needs_refresh(self) -> bool:
        """Whether it is what it says only when the objective refreshes it now and then."""
        return False

    def unseen(self, key: Key) -> Examples | None:
        """Examples of the same population that a walk has not worked on; None from a source that has no others."""
        return None

    def few(self, count: int) -> Examples | None:
        """At most `count` examples to look at, in no particular order; None from a source that holds none."""
        return None


def _array(leaf: Any) -> Any:
    """A JAX array as it is, anything else as a NumPy one: JAX would round 64 bits to 32 before a precision is known."""
    return leaf if isinstance(leaf, jax.Array) else np.asanyarray(leaf)


def _is_numeric(leaf: Any) -> bool:
    kinds = (jnp.number, jnp.bool_, jax.dtypes.prng_key)
    return any(jnp.issubdtype(leaf.dtype, kind) for kind in kinds)


def _checked(values: PyTree, weights: Any, batch_size: int | None) -> tuple[PyTree, Any]:
    values = jax.tree.map(_array, values)
    sizes = {int(leaf.shape[0]) if leaf.ndim else -1 for leaf in jax.tree.leaves(values)}
    if not sizes:
        raise UserError("a source needs at least one array of examples", remedy="Pass arrays with a leading axis.")
    if len(sizes) > 1 or -1 in sizes:
        shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(values)]
        raise UserError("arrays of examples differ in their number of rows", where=f"shapes {shapes}")
    if odd := [leaf.dtype for leaf in jax.tree.leaves(values) if not _is_numeric(leaf)]:
        raise UserError(f"an array of examples of dtype {odd[0]}", remedy="Pass numbers, booleans or keys.")
    size = sizes.pop()
    if not 1 <= size <= LARGEST_SIZE:
        raise UserError(f"a source needs between 1 and 2**31 - 1 examples, not {size}")
    if batch_size is not None and not 1 <= batch_size <= size:
        raise UserError(
            f"batch size {batch_size} is not between 1 and the number of examples, {size}",
            remedy="Choose a smaller batch, or None for all examples at every step.",
        )
    if weights is not None:
        weights = np.asarray(weights, np.float64)
        if weights.shape != (size,):
            raise UserError("there must be one weight per example", where=f"weights {weights.shape}, {size} examples")
        if not np.isfinite(weights).all() or (weights < 0).any() or weights.sum() == 0:
            raise UserError("weights of examples must be finite, not negative, and not all zero")
        # Mean one over the population, so that a minibatch's weighted mean is unbiased for the whole sum.
        weights = (weights / weights.mean()).astype(next(_float_dtypes(values)))
    return values, weights


def _first(examples: Examples, count: int) -> Examples:
    return jax.tree.map(lambda leaf: np.asarray(leaf[:count]), examples)


def _float_dtypes(values: PyTree):
    yield from (leaf.dtype for leaf in jax.tree.leaves(values) if jnp.issubdtype(leaf.dtype, jnp.floating))
    yield jnp.dtype(jnp.float32)


class Rows(AbstractSource):
    """Examples held on the device; every epoch visits each once, in a keyed random order.

    NumPy arrays go to the device when a fit begins, in its precision; until then they are the caller's own.

    Args:
        values: a pytree of arrays with one leading axis of examples.
        weights: one weight an example, shape (n,), any scale (normalized to mean one).
        batch_size: examples a draw; None draws all of them, in their own order, every time.
    """

    values: PyTree
    weights: Any
    batch_size: int | None = eqx.field(static=True)

    def __init__(self, values: PyTree, *, weights: Any = None, batch_size: int | None = None):
        self.values, self.weights = _checked(values, weights, batch_size)
        self.batch_size = batch_size

    @property
    def population(self) -> int:
        return leading_size(self.values)

    @property
    def varies(self) -> bool:
        return self.batch_size is not None

    @property
    def held(self) -> PyTree:
        return self.values

    def few(self, count: int) -> Examples:
        return _first(Examples(self.values, self.weights), count)

    def init(self, key: Key) -> PyTree:
        return order_words(key)

    def draw(self, state: PyTree, index: jax.Array) -> Examples:
        if self.batch_size is None:
            return Examples(self.values, self.weights)
        rows = rows_of_batch(state, index, self.batch_size, self.population)
        take = lambda array: jnp.take(jnp.asarray(array), rows, axis=0, mode="clip")  # in range: no fill, no check
        return Examples(jax.tree.map(take, self.values), None if self.weights is None else take(self.weights))


class HostRows(AbstractSource):
    """Examples that stay on the host (any array NumPy can index by rows, memory-mapped files included).

    The order is that of `Rows` with the same key, bit for bit; the loop fetches batches ahead of time in a thread.

    Args:
        values: a pytree of NumPy arrays with one leading axis of examples.
        weights: one weight an example, shape (n,).
        batch_size: examples a draw.
    """

    rows: "_Identity" = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)

    def __init__(self, values: PyTree, *, batch_size: int, weights: Any = None):
        self.rows = _Identity(Examples(*_checked(values, weights, batch_size)))
        self.batch_size = batch_size

    @property
    def population(self) -> int:
        return self.rows.tree.size

    @property
    def varies(self) -> bool:
        return True

    @property
    def on_host(self) -> bool:
        return True

    @property
    def held(self) -> PyTree:
        return self.rows.tree.values

    def few(self, count: int) -> Examples:
        return _first(self.rows.tree, count)

    def init(self, key: Key) -> PyTree:
        return order_words(key)

    def stream(self, state: PyTree, index: int) -> Examples:
        rows = rows_of_batch(np.asarray(state), index, self.batch_size, self.population, np)
        return jax.tree.map(lambda array: np.asarray(array[rows]), self.rows.tree)


class _Identity:
    """A pytree held as one static value, compared by identity: host arrays must not be hashed or traced."""

    def __init__(self, tree: PyTree):
        self.tree = tree


class NoExamples(AbstractSource):
    """For a term on the parameters alone, such as a penalty."""

    @property
    def population(self) -> int:
        return 0

    @property
    def varies(self) -> bool:
        return False

    def init(self, key: Key) -> PyTree:
        return None

    def draw(self, state: PyTree, index: jax.Array) -> Examples:
        return Examples(None)

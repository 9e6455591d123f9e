"""A model cut into what an optimizer sees, what the batch moves, and what stays."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax

from thalweg.errors import UserError
from thalweg.nn import RunningStatistics
from thalweg.types import Params, PyTree, Untrained, Where


def trainable(model: PyTree) -> PyTree:
    """The filter of all that can be trained: floating-point arrays that lie under no `Untrained` node.

    >>> import equinox as eqx, jax
    >>> linear = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    >>> trainable(linear).weight
    True
    """

    def mark(node: Any) -> Any:
        return jax.tree.map(lambda _: False, node) if isinstance(node, Untrained) else eqx.is_inexact_array(node)

    return jax.tree.map(mark, model, is_leaf=lambda node: isinstance(node, Untrained))


def only(select: Callable[[PyTree], Any]) -> Where:
    """A filter that trains just the selected part of a model: `Phase(..., where=only(lambda m: m.head))`.

    Args:
        select: model -> a node of it, or a sequence of nodes.
    """
    return lambda model: _restricted(model, select, keep=True)


def frozen(select: Callable[[PyTree], Any]) -> Where:
    """A filter that trains all but the selected part of a model.

    Args:
        select: model -> a node of it, or a sequence of nodes.
    """
    return lambda model: _restricted(model, select, keep=False)


def _restricted(model: PyTree, select: Callable[[PyTree], Any], *, keep: bool) -> PyTree:
    marks = trainable(model)
    none = jax.tree.map(lambda _: False, marks)
    selected = select(marks)
    nodes = tuple(selected) if isinstance(selected, Sequence) else (selected,)

    def nodes_of(tree: PyTree) -> tuple[Any, ...]:
        part = select(tree)
        return tuple(part) if isinstance(part, Sequence) else (part,)

    replacement = nodes if keep else tuple(jax.tree.map(lambda _: False, node) for node in nodes)
    return eqx.tree_at(nodes_of, none if keep else marks, replacement)


def running_statistics(model: PyTree) -> PyTree:
    """The model with every leaf replaced by None but its running statistics ("model_state")."""
    is_statistics = lambda node: isinstance(node, RunningStatistics)
    marks = jax.tree.map(
        lambda node: jax.tree.map(lambda _: is_statistics(node), node) if is_statistics(node) else False,
        model,
        is_leaf=is_statistics,
    )
    return eqx.filter(model, marks)


class Parts(eqx.Module):
    """A model in four pieces of one structure; `combine` puts them together.

    Attributes:
        params: what the optimizer moves.
        model_state: running statistics.
        frozen: other arrays.
        static: everything that is no array.
    """

    params: Params
    model_state: PyTree
    frozen: PyTree
    static: PyTree

    def combine(self) -> PyTree:
        """The whole model."""
        return eqx.combine(self.params, self.model_state, self.frozen, self.static)


def split(model: PyTree, where: Where = trainable) -> Parts:
    """Cut a model into its parts.

    Args:
        model: any pytree.
        where: model -> filter of the same structure.
    Raises:
        UserError: `where` selects nothing, or something that cannot be trained.
    """
    marks, possible = where(model), trainable(model)
    if jax.tree.structure(marks) != jax.tree.structure(possible):
        raise UserError(
            "where(model) is not of the model's structure",
            where="Phase(where=…)",
            remedy="Use only(…) or frozen(…), or change the leaves of trainable(model).",
        )
    wrong = jax.tree.map(lambda mark, can: bool(mark) and not can, marks, possible)
    if bad := [path for path, is_wrong in jax.tree_util.tree_leaves_with_path(wrong) if is_wrong]:
        raise UserError(
            f"model{jax.tree_util.keystr(bad[0])} cannot be trained: it is no floating-point array, or is Untrained",
            where="Phase(where=…)",
        )
    params, rest = eqx.partition(model, marks)
    if not jax.tree.leaves(params):
        raise UserError("nothing is left to train", where="Phase(where=…)", remedy="Select at least one array.")
    model_state = running_statistics(rest)
    rest = eqx.filter(rest, jax.tree.map(lambda leaf: leaf is None, model_state, is_leaf=lambda leaf: leaf is None))
    frozen_arrays, static = eqx.partition(rest, eqx.is_array)
    return Parts(params, model_state, frozen_arrays, static)

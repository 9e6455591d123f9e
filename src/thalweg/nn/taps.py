"""Looking into a model while it answers: what each of its layers is given and returns, whatever they are put into.

A model is a pytree, so its layers can be found and wrapped without its class taking part: a wrapped layer answers as
before and notes the call.
"""

import inspect
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.nn.sequential import Residual
from thalweg.nn.statistics import has_running_statistics, training_call
from thalweg.types import Key, Model, PyTree

AXIS = "batch"


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes:
        name: where the layer lies in the model, and its class.
        layer: the layer.
        given: what it was called with first.
        returned: its output, a floating-point array.
    """

    name: str
    layer: Model
    given: Any
    returned: jax.Array


class Notebook:
    """The calls of one pass through a tapped model, in their order."""

    def __init__(self):
        self.begin(None)

    def begin(self, nudges: Sequence[jax.Array] | None) -> None:
        """A new pass.

        Args:
            nudges: added to the outputs, one each in the order of the calls: zeros to differentiate by, or None.
        """
        self.calls: list[Call] = []
        self.nudges = nudges

    def note(self, name: str, layer: Model, given: Any, returned: Any) -> Any:
        """Writes a call down; what is no floating-point array passes unseen."""
        if not (eqx.is_array(returned) and jnp.issubdtype(returned.dtype, jnp.floating)):
            return returned
        if self.nudges is not None:
            returned = returned + self.nudges[len(self.calls)]
        self.calls.append(Call(name, layer, given, returned))
        return returned


class _Tap(eqx.Module):
    """A layer that answers as before and notes it."""

    layer: Model
    name: str = eqx.field(static=True)
    notebook: Notebook = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.notebook.note(self.name, self.layer, args[0] if args else None, self.layer(*args, **kwargs))

    def training_call(self, x: Any, *, key: Key | None, axis_name: Hashable) -> tuple[Any, "_Tap"]:
        y, layer = training_call(self.layer, x, key=key, axis_name=axis_name)
        return self.notebook.note(self.name, self.layer, x, y), _Tap(layer, self.name, self.notebook)

    def __getattr__(self, name: str) -> Any:
        if name == "layer":  # not there yet, while JAX builds the node anew
            raise AttributeError(name)
        return getattr(self.layer, name)  # for a model that looks at its layers' sizes or weights


def tapped(model: PyTree, notebook: Notebook) -> PyTree:
    """The model with each of its layers wrapped, so that they note their calls.

    A layer is a callable Equinox module, below the model's root, that holds no other one; and a `Residual`, beside
    those within it, for its sum is a signal of its own.

    >>> from thalweg.nn.activations import Activation
    >>> from thalweg.nn.sequential import Sequential
    >>> notebook = Notebook()
    >>> y = tapped(Sequential([Activation(jax.nn.relu), Activation(jnp.tanh)]), notebook)(jnp.array([-1.0, 0.0]))
    >>> [(call.name, call.returned.tolist()) for call in notebook.calls]
    [('layers[0] Activation', [0.0, 0.0]), ('layers[1] Activation', [0.0, 0.0])]
    """
    return _wrapped(model, "", notebook)


def _wrapped(node: PyTree, place: str, notebook: Notebook) -> PyTree:
    inside, structure = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda one: one is not node and _calls(one))
    leaves = [
        _wrapped(leaf, place + jax.tree_util.keystr(path), notebook) if _calls(leaf) else leaf for path, leaf in inside
    ]
    whole = jax.tree.unflatten(structure, leaves)
    is_layer = isinstance(node, Residual) or not any(_calls(leaf) for _, leaf in inside)
    return _Tap(whole, f"{place.lstrip('.')} {type(node).__name__}", notebook) if is_layer and place else whole


def _calls(node: Any) -> bool:
    return isinstance(node, eqx.Module) and callable(node)


class Passes:
    """Passes of a batch through a model, as in training, seen at every layer.

    Args:
        model: for one example.
        x: the batch, a pytree of arrays with a leading axis of examples.
        watched: classes of the layers whose inputs are wanted too.
    Attributes:
        names, layers: of each call, in their order.
    Raises:
        UserError: the model does not take the examples, no layer is to be seen, or the output holds no floating-point
            number.
    """

    def __init__(self, model: PyTree, x: PyTree, *, watched: tuple[type, ...] = ()):
        self.notebook = Notebook()
        self.model, self.x, self.watched = tapped(model, self.notebook), x, watched
        self.size = jax.tree.leaves(x)[0].shape[0]
        self._shapes: list[jax.ShapeDtypeStruct] = []
        shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(x)]
        try:
            with self._refusing():
                outputs, self._shapes, _ = jax.eval_shape(lambda: self._run(jax.random.key(0), None))
        except (TypeError, ValueError) as error:
            raise UserError(
                f"the model does not take an example of shape {', '.join(map(str, shapes))}: {error}",
                where=type(model).__name__,
                remedy="The batch has one more axis, of examples, in front of what the model takes.",
            ) from error
        self.names = tuple(call.name for call in self.notebook.calls)
        self.layers = tuple(call.layer for call in self.notebook.calls)
        self.notebook.begin(None)
        if not self.layers:
            raise UserError(
                "no layers are to be seen in the model",
                where=type(model).__name__,
                remedy="Build it of Equinox modules, such as nn.Sequential([nn.Linear(…), nn.Activation(…)]).",
            )
        if not outputs:
            raise UserError("the model's output holds no floating-point number", where=type(model).__name__)

    def forward(self, key: Key | None) -> list[jax.Array]:
        """The output of each call, (n, ...).

        Args:
            key: for dropout; None switches it off. Batch statistics are those of the batch.
        """
        with self._refusing():
            return self._run(key, None)[1]

    def there_and_back(
        self, key: Key | None, gradient_key: Key
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array | None]]:
        """By call: the output, the gradient with respect to it, and the input, of watched layers only.

        Args:
            key: as `forward`.
            gradient_key: of the random gradient at the model's output, independent, of mean 0 and variance 1.
        """

        def run(nudges: list[jax.Array]) -> tuple[list[jax.Array], tuple[list[jax.Array], list[jax.Array | None]]]:
            outputs, returned, given = self._run(key, nudges)
            return outputs, (returned, given)

        zeros = [jnp.zeros(one.shape, one.dtype) for one in self._shapes]
        with self._refusing():
            outputs, back, (returned, given) = jax.vjp(run, zeros, has_aux=True)
        keys = jax.random.split(gradient_key, len(outputs))
        (gradients,) = back([jax.random.normal(k, y.shape, y.dtype) for k, y in zip(keys, outputs, strict=True)])
        return returned, gradients, given

    def _run(
        self, key: Key | None, nudges: list[jax.Array] | None
    ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array | None]]:
        """Floating-point outputs of the model; and by call the output, and the input of watched layers."""

        def one(
            x: PyTree, key: Key | None, nudges: list[jax.Array] | None
        ) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array | None]]:
            self.notebook.begin(nudges)
            outputs = [y for y in jax.tree.leaves(self._answer(x, key)) if eqx.is_inexact_array(y)]
            calls = self.notebook.calls
            given = [call.given if isinstance(call.layer, self.watched) else None for call in calls]
            return outputs, [call.returned for call in calls], given

        keys = None if key is None else jax.random.split(key, self.size)
        found = jax.vmap(one, axis_name=AXIS)(self.x, keys, nudges)
        if len(found[1]) != len(self._shapes or found[1]):  # what jit has traced before it does not call again
            raise jax.errors.UnexpectedTracerError("calls are missing")
        return found

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.UnexpectedTracerError as error:
            raise UserError(
                "layers that are called within jit, vmap, grad or scan inside the model cannot be looked at",
                where=type(self.model).__name__,
                remedy="Look at the part of the model within, on a batch of what it is given.",
            ) from error

    def _answer(self, x: PyTree, key: Key | None) -> PyTree:
        if hasattr(self.model, "training_call") or has_running_statistics(self.model) or _takes_key(self.model):
            return training_call(self.model, x, key=key, axis_name=AXIS)[0]
        return self.model(x)


def _takes_key(model: Model) -> bool:
    parameters = inspect.signature(model).parameters.values()
    return any(one.name == "key" or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)

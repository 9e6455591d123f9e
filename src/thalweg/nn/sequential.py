"""Layers one after the other, and around one another."""

from collections.abc import Hashable, Sequence

import equinox as eqx
import jax

from thalweg.errors import UserError
from thalweg.nn.statistics import training_call
from thalweg.types import Key, Model


class Sequential(eqx.Module):
    """The layers in their order; each gets a key of its own.

    Args:
        layers: at least one module, each called as `layer(x, key=key)`.
    Raises:
        UserError: no layers, or one that is no module.

    >>> from thalweg.nn.activations import Activation
    >>> Sequential([Activation(jax.nn.relu), Activation(jax.numpy.sin)])(jax.numpy.array([-1.0]))
    Array([0.], dtype=float32)
    """

    layers: tuple[Model, ...]

    def __init__(self, layers: Sequence[Model]):
        if not layers:
            raise UserError("a Sequential without layers")
        for position, layer in enumerate(layers):
            check_module(layer, f"layer {position} of Sequential")
        self.layers = tuple(layers)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """The shape of the first layer's input to that of the last one's output."""
        return call_in_order(self.layers, x, key=key)

    def training_call(self, x: jax.Array, *, key: Key | None, axis_name: Hashable) -> tuple[jax.Array, "Sequential"]:
        """The output, and the same layers with updated running statistics."""
        y, layers = training_call_in_order(self.layers, x, key=key, axis_name=axis_name)
        return y, eqx.tree_at(lambda model: model.layers, self, layers)


class Residual(eqx.Module):
    """shortcut(x) + body(x) (He, Zhang, Ren and Sun, 2016).

    Args:
        body: a module from the shape of x to that of the shortcut's output.
        shortcut: a module; None is the identity.
    Raises:
        UserError: either is no module; at the call, the two outputs differ in shape.

    >>> from thalweg.nn.activations import Activation
    >>> Residual(Activation(jax.nn.relu))(jax.numpy.array([-1.0, 1.0]))
    Array([-1.,  2.], dtype=float32)
    """

    body: Model
    shortcut: Model | None

    def __init__(self, body: Model, shortcut: Model | None = None):
        check_module(body, "body of Residual")
        if shortcut is not None:
            check_module(shortcut, "shortcut of Residual")
        self.body, self.shortcut = body, shortcut

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """The shape of x to that of the shortcut's output."""
        body_key, shortcut_key = split(key, 2)
        return _add(x if self.shortcut is None else self.shortcut(x, key=shortcut_key), self.body(x, key=body_key))

    def training_call(self, x: jax.Array, *, key: Key | None, axis_name: Hashable) -> tuple[jax.Array, "Residual"]:
        """The output, and the same two branches with updated running statistics."""
        body_key, shortcut_key = split(key, 2)
        branch, body = training_call(self.body, x, key=body_key, axis_name=axis_name)
        model = eqx.tree_at(lambda model: model.body, self, body)
        if self.shortcut is None:
            return _add(x, branch), model
        around, shortcut = training_call(self.shortcut, x, key=shortcut_key, axis_name=axis_name)
        return _add(around, branch), eqx.tree_at(lambda model: model.shortcut, model, shortcut)


def call_in_order(layers: Sequence[Model], x: jax.Array, *, key: Key | None) -> jax.Array:
    """Puts x through the layers, each with a key of its own (None: inference)."""
    for layer, layer_key in zip(layers, split(key, len(layers)), strict=True):
        x = layer(x, key=layer_key)
    return x


def training_call_in_order(
    layers: Sequence[Model], x: jax.Array, *, key: Key | None, axis_name: Hashable
) -> tuple[jax.Array, tuple[Model, ...]]:
    """Puts x through the layers as in training, with the same keys as `call_in_order`; and the updated layers."""
    updated = []
    for layer, layer_key in zip(layers, split(key, len(layers)), strict=True):
        x, layer = training_call(layer, x, key=layer_key, axis_name=axis_name)
        updated.append(layer)
    return x, tuple(updated)


def split(key: Key | None, number: int) -> Sequence[Key | None]:
    """That many keys, or as many None."""
    return [None] * number if key is None else list(jax.random.split(key, number))


def check_module(layer: object, where: str) -> None:
    """Refuses what cannot be a layer: a plain function takes no key, and no file could name it.

    Raises:
        UserError: it is no callable Equinox module.
    """
    if not (isinstance(layer, eqx.Module) and callable(layer)):
        raise UserError(
            f"{layer!r} is no layer",
            where=where,
            remedy="Layers are Equinox modules; wrap a function as thalweg.nn.Activation(function).",
        )


def _add(around: jax.Array, branch: jax.Array) -> jax.Array:
    if around.shape != branch.shape:
        raise UserError(
            f"a body of output shape {branch.shape} beside a shortcut of {around.shape}",
            where="Residual",
            remedy="Give a shortcut that maps to the body's shape, such as a Linear layer or a convolution of size 1.",
        )
    return around + branch

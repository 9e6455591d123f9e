"""The multilayer perceptron."""

from collections.abc import Callable, Hashable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from thalweg.errors import UserError
from thalweg.nn.activations import Activation
from thalweg.nn.dropout import Dropout
from thalweg.nn.initializers import Initializer, for_activation, scaled
from thalweg.nn.linear import Linear
from thalweg.nn.sequential import call_in_order, training_call_in_order
from thalweg.types import Key, Model


class MLP(eqx.Module):
    """Linear layers with an activation after each but the last: one vector to one vector, or to a scalar.

    Args:
        in_size: number of features in; x has the shape (in_size,).
        out_size: number of outputs, or None for a scalar of shape ().
        width: of every hidden layer, or one width for each.
        depth: number of hidden layers; may be left out where `width` is a sequence. 0 is a linear model.
        key: for the initial weights.
        activation: a function, or a module such as `LeakyReLU(0.2)`.
        dropout: rate after every hidden activation, in [0, 1).
        init: of the hidden weights; None takes the one that suits the activation and the dropout before the weights,
            `for_activation`. The last layer, which no activation follows, has variance (1 - dropout)/fan_in: the
            signal keeps its size in training. Biases are zero.
        dtype: of the parameters; inputs must have it too.
    Raises:
        UserError: a size or width below 1, a depth that does not agree with the widths, a rate out of range, an
            activation without known initial weights; at the call, an input of another shape.

    >>> model = MLP(4, 2, width=16, depth=3, key=jax.random.key(0))
    >>> jax.vmap(model)(jnp.ones((5, 4))).shape
    (5, 2)
    >>> MLP(4, None, width=[16, 8], key=jax.random.key(0))(jnp.ones(4)).shape
    ()
    """

    layers: tuple[Model, ...]
    in_size: int = eqx.field(static=True)
    out_size: int | None = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out_size: int | None,
        *,
        width: int | Sequence[int],
        depth: int | None = None,
        key: Key,
        activation: Callable[..., jax.Array] = jax.nn.silu,
        dropout: float = 0.0,
        init: Initializer | None = None,
        dtype: DTypeLike = jnp.float32,
    ):
        widths = _widths(width, depth)
        sizes = (in_size, *widths, 1 if out_size is None else out_size)
        keys = jax.random.split(key, len(widths) + 1)
        after: list[Model] = [activation if issubclass(type(activation), eqx.Module) else Activation(activation)]
        if dropout != 0:
            after.append(Dropout(dropout))
        layers: list[Model] = []
        rate = 0.0  # of the dropout before a layer; the inputs go through none
        for fan_in, fan_out, layer_key in zip(sizes[:-2], sizes[1:-1], keys[:-1], strict=True):
            hidden = for_activation(activation, dropout=rate) if init is None else init
            layers += [Linear(fan_in, fan_out, key=layer_key, init=hidden, dtype=dtype), *after]
            rate = dropout
        layers.append(Linear(sizes[-2], sizes[-1], key=keys[-1], init=scaled(1.0, dropout=rate), dtype=dtype))
        self.layers = tuple(layers)
        self.in_size, self.out_size = int(in_size), None if out_size is None else int(out_size)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(in_size,) to (out_size,), or to () where out_size is None."""
        return self._shape_output(call_in_order(self.layers, self._check(x), key=key))

    def training_call(self, x: jax.Array, *, key: Key | None, axis_name: Hashable) -> tuple[jax.Array, "MLP"]:
        """The same, for a network into which layers with running statistics were put."""
        y, layers = training_call_in_order(self.layers, self._check(x), key=key, axis_name=axis_name)
        return self._shape_output(y), eqx.tree_at(lambda model: model.layers, self, layers)

    def _check(self, x: jax.Array) -> jax.Array:
        if x.shape != (self.in_size,):
            raise UserError(
                f"input of shape {x.shape} for a network of one example of shape ({self.in_size},)",
                where="MLP",
                remedy="Map it over a batch: jax.vmap(model)(x).",
            )
        return x

    def _shape_output(self, y: jax.Array) -> jax.Array:
        return y[0] if self.out_size is None else y


def _widths(width: int | Sequence[int], depth: int | None) -> tuple[int, ...]:
    if isinstance(width, Sequence):
        if depth is not None and depth != len(width):
            raise UserError(f"{len(width)} widths for a depth of {depth}", where="MLP", remedy="Leave out the depth.")
        return tuple(width)
    if depth is None or depth < 0:
        raise UserError(f"a depth of {depth}", where="MLP", remedy="Give the number of hidden layers, at least 0.")
    return (width,) * depth

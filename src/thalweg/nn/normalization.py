"""Layers that centre and scale: by the batch, by the example, by constants."""

from collections.abc import Callable, Hashable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from thalweg.errors import UserError
from thalweg.nn.statistics import FixedStatistics, RunningStatistics
from thalweg.types import Key, Untrained


class BatchNorm(eqx.Module):
    """Batch normalization over the last axis (Ioffe and Szegedy, 2015).

    In training (`training_call`) the statistics are those of the whole mapped batch and of all the axes of an example
    but the last, and gradients flow through them; at inference (a plain call), and in training too where they are
    fixed (`frozen_statistics`), the running ones. PyTorch's conventions:
    the biased variance normalizes, the unbiased one (n/(n - 1)) goes into the running average. Two differences: the
    average starts without bias (see `RunningStatistics.update`), and `momentum` is the weight of the past.

    Args:
        size: number of features.
        momentum: weight that the past keeps in the running average, in [0, 1].
        eps: added to the variance, ≥ 0, in squared units of the input.
        dtype: of the parameters and the statistics.
    Raises:
        UserError: an argument out of range; at the call, an input whose last axis has another size, or, in training,
            a batch with a single value for each feature, whose variance is 0.

    >>> layer = BatchNorm(2)
    >>> def step(x):
    ...     return layer.training_call(x, key=None, axis_name="batch")
    >>> y, layer = jax.vmap(step, axis_name="batch", out_axes=(0, None))(jnp.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> y.round(2).tolist(), layer.statistics.mean.tolist()
    ([[-1.0, -1.0], [1.0, 1.0]], [2.0, 20.0])
    """

    weight: jax.Array  # (size,)
    bias: jax.Array  # (size,)
    statistics: RunningStatistics | FixedStatistics
    size: int = eqx.field(static=True)
    momentum: float = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, size: int, *, momentum: float = 0.9, eps: float = 1e-5, dtype: DTypeLike = jnp.float32):
        if size < 1 or eps < 0 or not 0 <= momentum <= 1:
            raise UserError(
                f"BatchNorm of size {size}, momentum {momentum}, eps {eps}",
                remedy="The size must be at least 1, the momentum in [0, 1], eps at least 0.",
            )
        self.weight, self.bias = jnp.ones(size, dtype), jnp.zeros(size, dtype)
        self.statistics = RunningStatistics(size, dtype=dtype)
        self.size, self.momentum, self.eps = int(size), float(momentum), float(eps)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(..., size) to the same shape, by the running statistics."""
        _check_features(self, x, self.size)
        return self._normalize(x, self.statistics.mean, self.statistics.variance)

    def training_call(self, x: jax.Array, *, key: Key | None, axis_name: Hashable) -> tuple[jax.Array, "BatchNorm"]:
        """(..., size) to the same shape, by the statistics of the batch; and the layer that has taken note of them."""
        _check_features(self, x, self.size)
        if isinstance(self.statistics, FixedStatistics):
            return self(x), self
        values = jax.lax.psum(1, axis_name) * (x.size // self.size)  # a Python int: the axis has a static size
        if values < 2:
            raise UserError(
                "batch normalization of a batch with one value for each feature",
                where=f"example of shape {x.shape}, BatchNorm({self.size})",
                remedy="Use a batch of at least two examples.",
            )
        axes = tuple(range(x.ndim - 1))
        mean = jax.lax.pmean(jnp.mean(x, axes), axis_name)
        # Squares about the mean: E[x²] - E[x]² would lose all digits where the mean is large.
        variance = jax.lax.pmean(jnp.mean(jnp.square(x - mean), axes), axis_name)
        y = self._normalize(x, mean, variance)
        statistics = self.statistics.update(mean, variance * (values / (values - 1)), momentum=self.momentum)
        return y, eqx.tree_at(lambda layer: layer.statistics, self, statistics)

    def _normalize(self, x: jax.Array, mean: jax.Array, variance: jax.Array) -> jax.Array:
        scale = jax.lax.rsqrt(variance.astype(x.dtype) + self.eps) * self.weight
        return (x - mean.astype(x.dtype)) * scale + self.bias


class LayerNorm(eqx.Module):
    """Centres and scales the last axis of one example, then an affine map (Ba, Kiros and Hinton, 2016).

    Args:
        size: number of features.
        eps: added to the variance, ≥ 0, in squared units of the input.
        dtype: of the parameters.
    Raises:
        UserError: an argument out of range; at the call, an input whose last axis has another size.

    >>> LayerNorm(2)(jnp.array([1.0, 3.0])).round(2)
    Array([-1.,  1.], dtype=float32)
    """

    weight: jax.Array  # (size,)
    bias: jax.Array  # (size,)
    size: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, size: int, *, eps: float = 1e-5, dtype: DTypeLike = jnp.float32):
        if size < 1 or eps < 0:
            raise UserError(f"LayerNorm of size {size}, eps {eps}", remedy="At least 1, and at least 0.")
        self.weight, self.bias = jnp.ones(size, dtype), jnp.zeros(size, dtype)
        self.size, self.eps = int(size), float(eps)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(..., size) to the same shape."""
        _check_features(self, x, self.size)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.eps) * self.weight + self.bias


class GroupNorm(eqx.Module):
    """Centres and scales groups of channels over all pixels of one example, then an affine map (Wu and He, 2018).

    Unlike `BatchNorm` it looks at one example only, so that the cost of an example stays its own.

    Args:
        size: number of channels, the last axis.
        groups: of neighbouring channels; divides `size`. 1 normalizes the whole example at once.
        eps: added to the variance, ≥ 0, in squared units of the input.
        dtype: of the parameters.
    Raises:
        UserError: an argument out of range; at the call, an input whose last axis has another size.

    >>> GroupNorm(2, groups=1)(jnp.array([[1.0, 3.0], [3.0, 1.0]])).round(2)
    Array([[-1.,  1.],
           [ 1., -1.]], dtype=float32)
    """

    weight: jax.Array  # (size,)
    bias: jax.Array  # (size,)
    size: int = eqx.field(static=True)
    groups: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, size: int, *, groups: int, eps: float = 1e-5, dtype: DTypeLike = jnp.float32):
        if size < 1 or groups < 1 or size % groups or eps < 0:
            raise UserError(
                f"GroupNorm of size {size} in {groups} groups, eps {eps}",
                remedy="The number of groups divides the size; both are at least 1, eps at least 0.",
            )
        self.weight, self.bias = jnp.ones(size, dtype), jnp.zeros(size, dtype)
        self.size, self.groups, self.eps = int(size), int(groups), float(eps)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(..., size) to the same shape."""
        _check_features(self, x, self.size)
        pixels = tuple(range(x.ndim - 1))

        def of_groups(means: jax.Array) -> jax.Array:  # (size,) of each channel to (size,) of its group
            mean = jnp.mean(means.reshape(self.groups, -1), axis=-1, keepdims=True)
            return jnp.broadcast_to(mean, (self.groups, self.size // self.groups)).reshape(self.size)

        centred = x - of_groups(jnp.mean(x, pixels))
        variance = of_groups(jnp.mean(jnp.square(centred), pixels))
        return centred * (jax.lax.rsqrt(variance + self.eps) * self.weight) + self.bias


class Standardize(Untrained):
    """(x - mean) / scale by constants that training never touches: normalization that travels inside the model.

    Args:
        mean: of the data, in the units of x; shape () or that of the last axes of x.
        scale: of the same shape and units, finite and above 0.
        dtype: of both.
    Raises:
        UserError: shapes differ, a value is not finite, or a scale is not above 0; at the call, an input whose last
            axes have another shape.

    >>> units = Standardize([10.0, 20.0], [1.0, 2.0])
    >>> units(jnp.array([11.0, 24.0])), units.inverse(jnp.array([1.0, 2.0]))
    (Array([1., 2.], dtype=float32), Array([11., 24.], dtype=float32))
    """

    mean: jax.Array
    scale: jax.Array

    def __init__(
        self, mean: ArrayLike | Sequence[float], scale: ArrayLike | Sequence[float], *, dtype: DTypeLike = jnp.float32
    ):
        if np.shape(mean) != np.shape(scale):
            raise UserError(
                f"a mean of shape {np.shape(mean)} with a scale of shape {np.shape(scale)}", where="Standardize"
            )
        _refuse("mean", mean, lambda values: ~np.isfinite(values), "not finite")
        _refuse("scale", scale, lambda values: ~np.isfinite(values) | (values <= 0), "not above 0 and finite")
        self.mean, self.scale = jnp.asarray(mean, dtype), jnp.asarray(scale, dtype)

    def __call__(self, x: jax.Array, *, key: Key | None = None) -> jax.Array:
        """(..., *shape of mean) to the same shape, without units."""
        self._check(x)
        return (x - self.mean.astype(x.dtype)) / self.scale.astype(x.dtype)

    def inverse(self, y: jax.Array) -> jax.Array:
        """Back to the units of the data, y · scale + mean: (..., *shape of mean) to the same shape."""
        self._check(y)
        return y * self.scale.astype(y.dtype) + self.mean.astype(y.dtype)

    def _check(self, x: jax.Array) -> None:
        if x.shape[x.ndim - self.mean.ndim :] != self.mean.shape:
            raise UserError(f"input of shape {x.shape} for constants of shape {self.mean.shape}", where="Standardize")


def _check_features(layer: eqx.Module, x: jax.Array, size: int) -> None:
    if x.ndim == 0 or x.shape[-1] != size:
        raise UserError(
            f"input of shape {x.shape} for a layer of {size} features",
            where=type(layer).__name__,
            remedy=f"The last axis must have the size {size}.",
        )


def _refuse(
    name: str, values: ArrayLike | Sequence[float], is_bad: Callable[[np.ndarray], np.ndarray], fault: str
) -> None:
    if isinstance(values, Tracer):
        return  # inside a transformation values cannot be looked at
    values = np.asarray(values, np.float64)
    bad = is_bad(values)
    if bad.any():
        raise UserError(
            f"{name} {values[bad][0]} is {fault}",
            where=f"Standardize, {name} at index {tuple(int(i) for i in np.argwhere(bad)[0])}",
            remedy="Leave out or impute such a column; a constant one may take the scale 1.",
        )

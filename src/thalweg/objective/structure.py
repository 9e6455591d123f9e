"""Penalties on a layer as a whole: are its units at right angles, does it need them all, how far does it stretch?

A kernel is read as a matrix W of m units by n inputs. Thalweg's layers store it the other way round, with the units on
the last axis: `Linear` as (inputs, units), `Conv2d` as (height, width, channels, units). So W is the kernel with all
axes but the last made one, transposed: a unit's row is all that it multiplies, of a convolution its receptive field.
"""

import enum
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.objective.regularizers import AbstractPenalty, kernels
from thalweg.types import Scalar, Where


class Side(enum.Enum):
    """Of which vectors of a kernel one speaks."""

    UNITS = "units"
    """The rows of W: what each unit multiplies its inputs by."""

    INPUTS = "inputs"
    """The columns of W: what each input is multiplied by."""


class Orthogonality(AbstractPenalty):
    """λ·Σ‖WWᵀ − I‖²_F over kernels W (units × inputs): each is drawn towards orthonormal units.

    The gradient is 4λ(WWᵀ − I)W. Of m units with n inputs at most n can be orthonormal, so that the least value is
    max(0, m − n); and since ‖WWᵀ − I‖² = ‖WᵀW − I‖² + m − n, asking it of the inputs instead is the same gradient with
    the least value max(0, n − m). The smaller of the two matrices is computed. (Brock, Lim, Ritchie and Weston, 2017;
    Bansal, Chen and Wang, 2018.)

    Args:
        weight: λ, not below 0.
        side: what shall become orthonormal; None takes the side of fewer vectors of each kernel, which can always.
        where: model -> filter of the kernels that count: `kernels` (the default: all), `only(lambda m: m.layers[0])` …
    Raises:
        UserError: a weight below 0 or not finite, a side that is none; within an objective, more vectors than can be
            orthonormal, an array of one axis, a filter that selects nothing.

    >>> import equinox as eqx
    >>> from thalweg.nn import Linear
    >>> twice = eqx.tree_at(lambda m: m.weight, Linear(3, 2, key=jax.random.key(0)), 2 * jnp.eye(3, 2))
    >>> float(Orthogonality(0.1).batch_loss(twice, None, None)[0])  # WWᵀ − I = 3·I
    18.0
    """

    side: Side | None

    def __init__(self, weight: float | jax.Array, *, side: Side | None = None, where: Where = kernels):
        super().__init__(weight, where=where)
        if side is not None:
            _check_side(side, self)
        self.side = side

    def cost(self, array: jax.Array) -> Scalar:
        matrix = as_matrix(array, self)
        units, inputs = matrix.shape
        if self.side is not None:
            asked, others = (units, inputs) if self.side is Side.UNITS else (inputs, units)
            if asked > others:
                other = Side.INPUTS if self.side is Side.UNITS else Side.UNITS
                raise UserError(
                    f"{asked} {self.side.value} of {others} numbers each cannot be orthonormal: "
                    f"the penalty would never fall below {asked - others}",
                    where=f"Orthogonality(side={self.side}), a kernel of shape {array.shape}",
                    remedy=f"side={other} draws the same way to 0; side=None takes the side that can be.",
                )
        few = matrix if units <= inputs else matrix.T
        gap = few @ few.T - jnp.eye(few.shape[0], dtype=few.dtype)
        return jnp.sum(gap * gap)


class GroupLasso(AbstractPenalty):
    """λ·Σ √(size of g)·‖w_g‖ over groups g of weights, which fall to 0 together (Yuan and Lin, 2006).

    By units: what a unit multiplies, so that whole units fall away: the last axis of a kernel numbers them. By inputs:
    what an input feature (of a convolution, an input channel) is multiplied by, so that whole features do: the last
    axis but one. The subgradient at a group that is 0 is 0. As with `L1`, a first-order optimizer makes groups small,
    rarely exactly 0.

    Arrays are all that it sees, not layers. A convolution in groups (`Conv2d(…, groups=g)`) numbers its input channels
    within a group: an input there is the g channels of one number taken together, all of them if it is depthwise. The
    last axis of `UpConv2d` numbers its window's pixels and channels, (row, column, channel): a unit there is one
    channel at one of the pixels, not the whole channel.

    Args:
        weight: λ, not below 0.
        groups: what a group is.
        where: model -> filter of the kernels that count: `kernels` (the default: all), `only(lambda m: m.layers[0])` …
    Raises:
        UserError: a weight below 0 or not finite, groups that are none; within an objective, an array of one axis, a
            filter that selects nothing.

    >>> import equinox as eqx
    >>> from thalweg.nn import Linear
    >>> model = eqx.tree_at(lambda m: m.weight, Linear(2, 2, key=jax.random.key(0)), jnp.array([[3.0, 0], [4.0, 0]]))
    >>> float(GroupLasso(1.0, groups=Side.UNITS).batch_loss(model, None, None)[0] / 2**0.5)
    5.0
    """

    groups: Side

    def __init__(self, weight: float | jax.Array, *, groups: Side = Side.UNITS, where: Where = kernels):
        super().__init__(weight, where=where)
        _check_side(groups, self)
        self.groups = groups

    def cost(self, array: jax.Array) -> Scalar:
        _check_axes(array, self)
        kept = array.ndim - (1 if self.groups is Side.UNITS else 2)
        others = [axis for axis in range(array.ndim) if axis != kept]
        size = array.size // array.shape[kept]
        return size**0.5 * jnp.sum(length(array, others))


class SpectralNorm(AbstractPenalty):
    """λ·Σσ² over kernels, σ the largest singular value: how far a layer can stretch a difference of inputs.

    The gradient is 2λσuvᵀ (Yoshida and Miyato, 2017). σ is exact, by a singular value decomposition of every kernel at
    each step, so meant for small networks. Of a convolution σ belongs to the kernel as a matrix; the convolution
    itself stretches by at most √(height·width) times that.

    Args:
        weight: λ, not below 0.
        where: model -> filter of the kernels that count: `kernels` (the default: all), `only(lambda m: m.layers[0])` …
    Raises:
        UserError: a weight below 0 or not finite; within an objective, an array of one axis, a filter that selects
            nothing.

    >>> import equinox as eqx
    >>> from thalweg.nn import Linear
    >>> model = eqx.tree_at(lambda m: m.weight, Linear(2, 2, key=jax.random.key(0)), jnp.diag(jnp.array([3.0, 1.0])))
    >>> round(float(SpectralNorm(1.0).batch_loss(model, None, None)[0]), 4)
    9.0
    """

    def __init__(self, weight: float | jax.Array, *, where: Where = kernels):
        super().__init__(weight, where=where)

    def cost(self, array: jax.Array) -> Scalar:
        return jnp.square(jnp.linalg.svd(as_matrix(array, self), compute_uv=False)[0])


def as_matrix(kernel: jax.Array, penalty: AbstractPenalty) -> jax.Array:
    """A kernel (…, units) as W, (units, inputs)."""
    _check_axes(kernel, penalty)
    return kernel.reshape(-1, kernel.shape[-1]).T


def length(array: jax.Array, axes: Sequence[int], smoothing: float = 0.0) -> jax.Array:
    """√(‖·‖² + s²) − s along some axes, whose derivative at 0 is 0 also for s = 0.

    >>> jax.grad(lambda v: length(v, [0]))(jnp.zeros(2)).tolist(), float(length(jnp.array([3.0, 4.0]), [0]))
    ([0.0, 0.0], 5.0)
    """
    squares = jnp.sum(array * array, axis=tuple(axes)) + jnp.asarray(smoothing**2, array.dtype)
    root = jnp.sqrt(jnp.where(squares > 0, squares, 1))  # the branch not taken has a finite derivative too
    return jnp.where(squares > 0, root, 0) - jnp.asarray(smoothing, array.dtype)


def _check_side(side: Side, penalty: AbstractPenalty) -> None:
    if not isinstance(side, Side):
        raise UserError(
            f"{side!r} is no side of a kernel",
            where=type(penalty).__name__,
            remedy="Side.UNITS or Side.INPUTS.",
        )


def _check_axes(array: jax.Array, penalty: AbstractPenalty) -> None:
    if array.ndim < 2:
        raise UserError(
            f"an array of shape {array.shape} is no kernel: it has no units and inputs",
            where=f"{type(penalty).__name__}(where=…)",
            remedy="Select kernels, of two or more axes, as where=kernels does.",
        )

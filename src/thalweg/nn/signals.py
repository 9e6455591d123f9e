"""How signals travel through a model before it is trained: forward and backward, by depth; and what is wrong with them.

A network learns at all depths alike only if neither its signal nor its gradient grows or vanishes from layer to layer
(Glorot and Bengio, 2010; He, Zhang, Ren and Sun, 2015). That can be measured in seconds, before hours are spent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.errors import UserError
from thalweg.nn.activations import Activation, LeakyReLU
from thalweg.nn.dropout import Dropout
from thalweg.nn.sequential import Residual
from thalweg.nn.taps import Passes
from thalweg.types import Finding, Model, PyTree, Untrained

LARGEST_CHANGE = 1_000.0
"""Change of a mean square, between the first and the last hidden layer, above which a model is called badly scaled.

tanh with weights of variance 1/fan_in, whose signal falls as one over the depth, is well below it at 100 layers; ReLU
with such weights is above it from eleven hidden layers on.
"""

LARGEST_SIZE = 100.0
"""Mean square of the first layer's output, or one over it, above which the inputs are called badly scaled."""

LARGEST_MISMATCH = 10.0
"""Change of the last hidden layer's mean square, when dropout is switched off, that is worth saying."""

MOST_DEAD, MOST_SATURATED = 0.75, 0.5
"""Shares of a layer's units and values above which they are a finding. Half of the units of a deep ReLU network may be
zero for a whole batch by chance alone: there all examples look alike."""

FLAT = 0.05
"""Slope of tanh or of the logistic function, relative to its steepest, below which it counts as saturated."""

_STEEPEST = ((jnp.tanh, 1.0), (jax.nn.sigmoid, 0.25))


@dataclass(frozen=True, eq=False)
class SignalReport:
    """Signals by depth: arrays of one value for each layer, shape (layers,), in the order of the calls.

    Attributes:
        layers: where each layer lies in the model, and its class.
        has_weights: whether the layer multiplies by weights (a trainable array of two or more axes).
        mean_square: mean over examples and units of the squared output, as in training.
        variance: variance over examples of the output, mean over units; far below `mean_square` where all examples
            look alike.
        without_dropout: the mean square with dropout off, batch statistics still those of the batch.
        backward: mean square of the gradient with respect to the output, for a random gradient of variance one at the
            model's output.
        dead: of activation layers, the share of units that are 0 and have the slope 0 for every example; NaN elsewhere.
            A unit is a place on the last axis.
        saturated: of tanh and sigmoid, the share of values where the slope is below 5 % of the steepest; NaN elsewhere.
        forward_growth: factor by which each hidden layer with weights multiplies the mean square of the signal:
            the geometric mean between the first and the last such layer's outputs. The output layer, which is scaled
            for the target, is left out. NaN with fewer than two of them.
        backward_growth: the same of the gradient, from the last to the first.
        findings: what is wrong: `badly-scaled`, `dropout-mismatch`, `dead-units`, `saturated-units`.
    """

    layers: tuple[str, ...]
    has_weights: np.ndarray
    mean_square: np.ndarray
    variance: np.ndarray
    without_dropout: np.ndarray
    backward: np.ndarray
    dead: np.ndarray
    saturated: np.ndarray
    forward_growth: float
    backward_growth: float
    findings: tuple[Finding, ...] = ()

    @property
    def hidden(self) -> np.ndarray:
        """Positions of the layers with weights, without the last one where there are more."""
        rows = np.flatnonzero(self.has_weights)
        return rows[:-1] if len(rows) > 1 else rows


def signal_report(model: PyTree, batch: PyTree, *, seed: int = 0) -> SignalReport:
    """How signals and gradients travel through a model, by depth, on one batch; meant for before training.

    The model is looked at as in training: dropout on, batch statistics of this batch. Seen are the layers that are
    Equinox modules of their own, below any classes, thalweg's or the user's; functions are not (wrap them as
    `nn.Activation`).

    Args:
        model: for one example, called as `model(x, key=key)` or `model(x)`.
        batch: inputs, an array (n, ...) or a pytree of them, in the units that the model takes. Some hundred examples
            tell enough.
        seed: of the dropout masks and of the gradient at the output.
    Raises:
        UserError: no examples, values that are no finite numbers (the first is named), arrays of different lengths,
            examples of a shape that the model does not take, or a model in which no layers are to be seen.

    >>> from thalweg.nn import MLP
    >>> model = MLP(4, 1, width=64, depth=3, activation=jax.nn.relu, key=jax.random.key(0))
    >>> report = signal_report(model, np.random.default_rng(0).normal(size=(100, 4)))
    >>> report.layers[:2], report.findings
    (('layers[0] Linear', 'layers[1] Activation'), ())
    >>> 0.3 < report.forward_growth < 3
    True
    """
    if not callable(model):
        raise UserError(f"a model that cannot be called: {type(model).__name__}", where="signal_report")
    x = _checked(batch, model)
    mask_key, gradient_key = jax.random.split(jax.random.key(seed))
    passes = Passes(model, x, watched=(Activation, LeakyReLU))
    outputs, gradients, given = passes.there_and_back(mask_key, gradient_key)
    has_weights = np.array([_has_weights(layer) for layer in passes.layers])
    with np.errstate(all="ignore"):  # a signal that is not finite is found, not warned about
        square, backward = _mean_squares(outputs), _mean_squares(gradients)
        without = _mean_squares(passes.forward(None)) if _has_dropout(model) else square
        variance = np.array([np.mean(np.var(np.asarray(y, np.float64), axis=0)) for y in outputs])
        flat = [_flat(*one) for one in zip(passes.layers, given, outputs, strict=True)]
        inner = np.flatnonzero(has_weights)[:-1]
        report = SignalReport(
            layers=passes.names,
            has_weights=has_weights,
            mean_square=square,
            variance=variance,
            without_dropout=without,
            backward=backward,
            dead=np.array([dead for dead, _ in flat]),
            saturated=np.array([saturated for _, saturated in flat]),
            forward_growth=_growth(square[inner]),
            backward_growth=_growth(backward[inner][::-1]),
        )
        return replace(report, findings=tuple(_findings(report, _mean_squares(jax.tree.leaves(x)))))


# ------------------------------------------------------------------------------------------------------------- measures
def _mean_squares(arrays: Sequence[jax.Array]) -> np.ndarray:
    """One for each array, by float64: a signal may have grown beyond what float32 can square."""
    return np.array([np.mean(np.square(np.asarray(array, np.float64))) for array in arrays])


def _growth(squares: np.ndarray) -> float:
    """Geometric mean of the factors from one to the next, as far as they are finite and above 0."""
    bad = ~(np.isfinite(squares) & (squares > 0))
    count = int(np.argmax(bad)) if bad.any() else len(squares)
    return float((squares[count - 1] / squares[0]) ** (1 / (count - 1))) if count > 1 else float("nan")


def _flat(layer: Model, given: jax.Array | None, output: jax.Array) -> tuple[float, float]:
    """Shares of dead units and of saturated values of an activation layer; NaN for other layers."""
    if given is None:
        return float("nan"), float("nan")
    _, slopes = jax.jvp(lambda z: layer(z), (given,), (jnp.ones_like(given),))
    y, slopes = np.asarray(output), np.abs(np.asarray(slopes, np.float64))
    silent = (y == 0) & (slopes == 0)
    dead = np.all(silent.reshape(-1, y.shape[-1] if y.ndim > 1 else 1), axis=0)
    steepest = [slope for function, slope in _STEEPEST if function is getattr(layer, "function", None)]
    return float(np.mean(dead)), float(np.mean(slopes < FLAT * steepest[0])) if steepest else float("nan")


def _has_weights(layer: Model) -> bool:
    if isinstance(layer, Residual | Untrained):
        return False
    return any(leaf.ndim >= 2 for leaf in jax.tree.leaves(eqx.filter(layer, eqx.is_inexact_array)))


def _has_dropout(model: PyTree) -> bool:
    nodes = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Dropout))
    return any(isinstance(node, Dropout) and node.rate > 0 for node in nodes)


# ------------------------------------------------------------------------------------------------------------- findings
def _findings(report: SignalReport, inputs: np.ndarray) -> Iterator[Finding]:
    yield from _not_finite(report)
    yield from _growing(report)
    yield from _first_layer(report, inputs)
    yield from _mismatch(report)
    for name, shares, most, of in (
        ("dead-units", report.dead, MOST_DEAD, "units are 0 for every example"),
        ("saturated-units", report.saturated, MOST_SATURATED, "values lie where the activation is flat"),
    ):
        if len(worst := np.flatnonzero(shares > most)):
            row = worst[np.argmax(shares[worst])]
            yield Finding(
                name,
                f"{shares[row]:.0%} of {report.layers[row]}'s {of}; {len(worst)} such layers",
                "Standardize the inputs, and take initial weights for the activation and biases of 0.",
            )


def _not_finite(report: SignalReport) -> Iterator[Finding]:
    for kind, values in (("output", report.mean_square), ("gradient", report.backward)):
        if len(rows := np.flatnonzero(~np.isfinite(values))):
            row = rows[0] if kind == "output" else rows[-1]
            yield Finding("badly-scaled", f"the {kind} of {report.layers[row]} is not finite", _SMALLER)
            return


_SMALLER = "Standardize the inputs, and take smaller initial weights, such as those of nn.for_activation."


def _growing(report: SignalReport) -> Iterator[Finding]:
    rows, told = report.hidden, []
    ways = (
        ("the signal", report.mean_square, report.forward_growth, rows),
        ("the gradient on its way back", report.backward, report.backward_growth, rows[::-1]),
    )
    for what, squares, growth, way in ways if len(rows) > 1 else ():
        first, last = squares[way[0]], squares[way[-1]]
        if not np.isfinite(last) or first / LARGEST_CHANGE <= last <= first * LARGEST_CHANGE:
            continue
        # A signal that comes back to order one from unscaled inputs is the first layer's finding.
        if squares is report.backward or abs(np.log(last)) > abs(np.log(first)):
            factor = f" by {growth:.3g}" if np.isfinite(growth) else ""
            told.append(f"{what}{factor}, from {first:.3g} to {last:.3g}")
    if told:
        yield Finding(
            "badly-scaled",
            f"each of {len(rows)} hidden layers multiplies the mean square of {', and of '.join(told)}",
            "Take initial weights that suit the activation and the dropout (nn.for_activation), layers that normalize, "
            "residual ones, another activation, or fewer layers.",
        )


def _first_layer(report: SignalReport, inputs: np.ndarray) -> Iterator[Finding]:
    if not len(report.hidden):
        return
    first = report.hidden[0]
    square = report.mean_square[first]
    if np.isfinite(square) and not 1 / LARGEST_SIZE <= square <= LARGEST_SIZE:
        sizes = ", ".join(f"{size:.3g}" for size in inputs)
        yield Finding(
            "badly-scaled",
            f"the output of {report.layers[first]} has the mean square {square:.3g}, the inputs have {sizes}",
            "Standardize the inputs (nn.Standardize), or take other initial weights for this layer.",
        )


def _mismatch(report: SignalReport) -> Iterator[Finding]:
    if not len(report.hidden):
        return
    last = report.hidden[-1]
    on, off = report.mean_square[last], report.without_dropout[last]
    if np.isfinite(on) and np.isfinite(off) and not off / LARGEST_MISMATCH <= on <= off * LARGEST_MISMATCH:
        yield Finding(
            "dropout-mismatch",
            f"the mean square of {report.layers[last]}'s output is {on:.3g} in training and {off:.3g} with dropout off",
            "No initial weights serve both: take a lower rate, dropout after fewer layers, or layers that normalize.",
        )


# ------------------------------------------------------------------------------------------------------------ bad input
def _checked(batch: PyTree, model: PyTree) -> PyTree:
    """The batch in the model's precision."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(model) if eqx.is_inexact_array(leaf)]
    leaves, structure = jax.tree.flatten(batch)
    arrays = [np.asarray(leaf) for leaf in leaves]
    shapes = f"shapes {[array.shape for array in arrays]}"
    lengths = {array.shape[0] if array.ndim else -1 for array in arrays}
    if len(lengths) != 1 or -1 in lengths:
        raise UserError(
            "a batch is an array with a leading axis of examples, or several of the same length",
            where=shapes,
            remedy="Pass inputs of the shape (n, ...), as NumPy or JAX arrays.",
        )
    if 0 in lengths:
        raise UserError("a batch without examples", where=shapes, remedy="Some hundred examples tell enough.")
    return jax.tree.unflatten(structure, [_array(array, dtypes[0] if dtypes else jnp.float32) for array in arrays])


def _array(array: np.ndarray, dtype: np.dtype) -> jax.Array:
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise UserError(f"a batch of dtype {array.dtype}", where=f"shape {array.shape}", remedy="Pass numbers.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.asarray(array)
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if len(bad := np.argwhere(~np.isfinite(cast))):
        place = tuple(int(i) for i in bad[0])
        raise UserError(
            f"{array[place]} in a batch is no finite number in {np.dtype(dtype)}",
            where=f"index {place}",
            remedy="Leave out or impute such rows.",
        )
    return jnp.asarray(cast)

"""Instruments: what can be measured at a place of the walk while it goes on, at a known cost."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.errors import UserError
from thalweg.linalg import Loop, lanczos
from thalweg.nn.taps import Passes
from thalweg.objective import Problem, gradient_signal
from thalweg.tree import leaf_paths
from thalweg.types import Key, Params, PyTree, Scalar

SHARE = 0.05
"""Of a run's gradients that all instruments together may spend."""


class AbstractInstrument(eqx.Module):
    """A look at the walk's present place and batch, compiled, once in so many steps.

    What it measures stands in the row of `metrics.jsonl` at that step, under "instruments" and its name. It changes
    nothing in the walk: with and without, the trained bits are the same.
    """

    def cost(self, terms: int) -> float:
        """About how many gradients of the objective one look costs, for an objective of so many terms."""
        raise NotImplementedError

    def measure(self, problem: Problem, params: Params, key: Key) -> dict[str, Scalar]:
        """Figures by name, each of shape ()."""
        raise NotImplementedError


class GradientNorms(AbstractInstrument):
    """Norms of the gradient and of the params, by layer; a layer is whatever holds the arrays of a model's path.

    Figures: "gradient/PATH" and "params/PATH", where PATH is that of the array without its last part.

    >>> instrument = GradientNorms()
    """

    def cost(self, terms: int) -> float:
        return 1.0

    def measure(self, problem: Problem, params: Params, key: Key) -> dict[str, Scalar]:
        gradient = jax.grad(lambda p: problem.evaluate(p)[0])(params)
        norms = {}
        for kind, tree in (("gradient", gradient), ("params", params)):
            squares: dict[str, Scalar] = {}
            for path, leaf in leaf_paths(tree):
                layer = path.rpartition("/")[0] or path
                squares[layer] = squares.get(layer, jnp.zeros((), leaf.dtype)) + jnp.sum(jnp.square(leaf))
            norms |= {f"{kind}/{layer}": jnp.sqrt(square) for layer, square in squares.items()}
        return norms


class Activations(AbstractInstrument):
    """What the layers answer to the batch: mean square, and share of units that are 0 for every example (dead).

    Figures: "mean_square/LAYER" and "dead/LAYER", dropout switched off, batch statistics those of the batch. Looked at
    are the inputs of the first supervised term; points of an equation are no batch of the model's inputs.

    Raises:
        UserError: when the phase begins: no term that tells the model's inputs, or a model without layers to see.

    >>> instrument = Activations()
    """

    def cost(self, terms: int) -> float:
        return 0.5

    def measure(self, problem: Problem, params: Params, key: Key) -> dict[str, Scalar]:
        known = [(term.inputs(problem.batch[name].values)) for name, term in problem.terms.items()]
        inputs = [x for x in known if x is not None]
        if not inputs:
            raise UserError(
                "no term tells what the model is called with", where="Activations", remedy="It needs a Supervised term."
            )
        passes = Passes(problem.model(params), inputs[0])
        figures = {}
        for name, output in zip(passes.names, passes.forward(None), strict=True):
            figures[f"mean_square/{name}"] = jnp.mean(jnp.square(output))
            silent = jnp.all(output == 0, axis=tuple(range(output.ndim - 1)))  # a unit: a place on the last axis
            figures[f"dead/{name}"] = jnp.mean(silent.astype(output.dtype))
        return figures


class PartGradients(AbstractInstrument):
    """Norm of each term's weighted gradient, and its cosine with the gradient of all: which term pulls, and where to.

    Figures: "norm/TERM" and "cosine/TERM". A cosine below 0 is a term that a small step down the whole gradient makes
    worse; what another optimizer's step does to it may differ.

    >>> instrument = PartGradients()
    """

    def cost(self, terms: int) -> float:
        return float(terms)

    def measure(self, problem: Problem, params: Params, key: Key) -> dict[str, Scalar]:
        parts = problem.part_gradients(params)
        total = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts.values())
        size, figures = jnp.sqrt(_dot(total, total)), {}
        for name, gradient in parts.items():
            norm = jnp.sqrt(_dot(gradient, gradient))
            figures[f"norm/{name}"] = norm
            scale = norm * size
            figures[f"cosine/{name}"] = jnp.where(
                scale > 0, _dot(gradient, total) / jnp.where(scale > 0, scale, jnp.ones_like(scale)), 0.0
            )
        return figures


class NoiseRatio(AbstractInstrument):
    """Signal and noise of the batch's gradient (`thalweg.gradient_signal`), and their ratio √B·SNR.

    Figures: "ratio", "signal", "noise".

    >>> instrument = NoiseRatio()
    """

    def cost(self, terms: int) -> float:
        return 2.0 + terms

    def measure(self, problem: Problem, params: Params, key: Key) -> dict[str, Scalar]:
        found = gradient_signal(problem, params)
        return {"ratio": found.ratio(), "signal": found.signal, "noise": found.noise}


class Sharpness(AbstractInstrument):
    """The largest curvature of the objective, and the largest rate at which gradient descent is stable there.

    λ_max by Lanczos on Hessian-vector products; gradient descent at a rate above 2/λ_max moves away along its
    direction (Cohen et al., 2021). Figures: "curvature", its "bound" (within that distance there is an eigenvalue),
    and "stable_rate", ∞ where nothing curves upwards.

    Args:
        iterations: products with the Hessian, each about two gradients; 10 know λ_max of a network to a few per cent.
        loop: `Loop.UNROLLED` for convolutions on a CPU.

    >>> instrument = Sharpness(iterations=10)
    """

    iterations: int = eqx.field(static=True)
    loop: Loop = eqx.field(static=True)

    def __init__(self, iterations: int = 10, *, loop: Loop = Loop.COMPILED):
        if isinstance(iterations, bool) or not (isinstance(iterations, int) and iterations >= 1):
            raise UserError(f"Lanczos needs at least 1 iteration, not {iterations!r}", where="Sharpness")
        self.iterations, self.loop = iterations, loop

    def cost(self, terms: int) -> float:
        return 2.0 * (self.iterations + 1)  # one more product for the bound

    def measure(self, problem: Problem, params: Params, key: Key) -> dict[str, Scalar]:
        slope = jax.grad(lambda p: problem.evaluate(p)[0])
        product = lambda v: jax.jvp(slope, (params,), (v,))[1]
        start = jax.tree.map(jnp.zeros_like, params)
        found = lanczos(product, start, key=key, iterations=self.iterations, loop=self.loop)
        curvature = found.values[0]
        curved = curvature > 0
        rate = jnp.where(curved, 2 / jnp.where(curved, curvature, jnp.ones_like(curvature)), jnp.inf)
        return {"curvature": curvature, "bound": found.bounds[0], "stable_rate": rate}


def looks_every(instrument: AbstractInstrument, terms: int, instruments: int, log: int) -> int:
    """Steps between two looks: a multiple of `log`, and so many that all instruments together spend `SHARE` at most.

    >>> looks_every(GradientNorms(), terms=1, instruments=1, log=15)
    30
    """
    fewest = instrument.cost(terms) * instruments / SHARE
    return log * max(1, int(-(-fewest // log)))


def _dot(one: PyTree, other: PyTree) -> Any:
    first, *rest = [jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)]
    return sum(rest, first)

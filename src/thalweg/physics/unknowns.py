"""Unknown numbers of an equation, trained beside the network; bounds hold by a change of variable."""

import enum
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from thalweg.errors import UserError
from thalweg.types import Scalar


class Scale(enum.Enum):
    """What of an unknown number is trained, so that its bounds hold by themselves."""

    PLAIN = "plain"
    """(value - start)/unit: no bounds."""
    LOG = "log"
    """log(value - low): a lower bound."""
    LOGIT = "logit"
    """log((value - low)/(high - value)): both bounds."""


class Unknown(eqx.Module):
    """An unknown number: a coefficient, a rate, a source strength.

    What is trained is a free number on a `Scale` chosen by the bounds. Read it in the equation as `.value`.

    Args:
        start: where training begins, strictly within the bounds.
        low: lower bound, or None.
        high: upper bound, only together with a lower one, or None.
    Raises:
        UserError: numbers that are not finite, a start on or beyond a bound, an upper bound alone.

    >>> diffusion = Unknown(0.1, low=0.0)
    >>> round(float(diffusion.value), 6), diffusion.scale.value
    (0.1, 'log')
    >>> round(float(diffusion), 6)  # on the host
    0.1
    """

    raw: jax.Array
    start: float = eqx.field(static=True)
    low: float | None = eqx.field(static=True)
    high: float | None = eqx.field(static=True)

    def __init__(self, start: float, *, low: float | None = None, high: float | None = None):
        given = [one for one in (start, low, high) if one is not None]
        if not all(isinstance(one, int | float | np.number) and math.isfinite(one) for one in given):
            raise UserError(f"an unknown number that starts at {start!r} between {low!r} and {high!r}", where="Unknown")
        if high is not None and low is None:
            raise UserError("an upper bound alone", where="Unknown", remedy="Give a lower one too.")
        if (low is not None and not start > low) or (high is not None and not start < high):
            raise UserError(
                f"a start of {start} outside ({low}, {high})", where="Unknown", remedy="Start between them."
            )
        self.start, self.low, self.high = (None if one is None else float(one) for one in (start, low, high))  # pyright: ignore[reportAttributeAccessIssue]
        self.raw = jnp.asarray(self.raw_of(self.start), jnp.result_type(float))

    @property
    def scale(self) -> Scale:
        """What `raw` is of the value."""
        return Scale.PLAIN if self.low is None else Scale.LOG if self.high is None else Scale.LOGIT

    @property
    def value(self) -> Scalar:
        """The number itself, shape ()."""
        return self.value_of(self.raw)

    def value_of(self, raw: Any) -> Any:
        """The number that a trained one stands for; rising."""
        if self.low is None:
            return self.start + raw * self.unit
        if self.high is None:
            return self.low + jnp.exp(raw)
        return self.low + (self.high - self.low) * jax.nn.sigmoid(raw)

    def __float__(self) -> float:
        """The number on the host, in 64 bits whatever JAX is set to."""
        return self.number_of(float(self.raw))

    def number_of(self, raw: float) -> float:
        """As `value_of`, on the host."""
        if self.low is None:
            return self.start + raw * self.unit
        if self.high is None:
            return self.low + (math.exp(raw) if raw < 700 else math.inf)  # beyond which 64 bits end
        return self.low + (self.high - self.low) * float(expit(raw))

    def raw_of(self, value: float) -> float:
        """What is trained for a number."""
        if self.low is None:
            return (value - self.start) / self.unit
        if self.high is None:
            return math.log(value - self.low)
        return math.log((value - self.low) / (self.high - value))

    @property
    def unit(self) -> float:
        """What a free number is measured in: the size of its start."""
        return abs(self.start) or 1.0


def unknowns_of(model: Any) -> dict[str, Unknown]:
    """The unknown numbers of a model by their paths, in the order of its leaves.

    >>> list(unknowns_of({"a": Unknown(1.0), "b": jnp.ones(2)}))
    ['a']
    """
    is_unknown = lambda node: isinstance(node, Unknown)
    found = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_unknown)[0]
    return {_name(path): node for path, node in found if isinstance(node, Unknown)}


def _name(path: tuple[Any, ...]) -> str:
    parts = [str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))) for key in path]
    return ".".join(parts) or "unknown"

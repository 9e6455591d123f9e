"""Whether the numbers of a column can be told apart by those who compute with them.

Tables are computed in float64, and a model takes each column in units of its own mean and spread. So neither a large
nor a small number is a problem, but two things are: a spread that is no more than the rounding of the numbers
themselves (1e9 ± 1e-6), and numbers so large or small that a difference, a reciprocal or a square has no float64. Both
are refused by name instead of being lost without a word.
"""

import numpy as np
import pandas as pd
from pandas.api import types

from thalweg.errors import UserError

FEWEST_STEPS = 100
"""Rounding steps that a column's spread must have: with fewer, rounding is more than 0.3 % of it (1/√12 of a step)."""

FEW_STEPS = 100_000
"""Steps below which a user should know: fewer than five digits of the spread are left."""

FEATURE_RANGE = (1e-300, 1e300)
"""Smallest spread and largest size of a feature: differences and reciprocals must be float64 numbers."""

TARGET_RANGE = (1e-100, 1e100)
"""The same of a target, whose errors are squared and summed."""


def spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation of finite values, (n, …) -> (…), also where their squares have no float64.

    >>> spread(np.array([[1e300, 1e-200], [3e300, 3e-200]])).tolist()
    [1e+300, 1e-200]
    """
    size = _size(values)
    return (values / size).std(0) * size


def middle(values: np.ndarray) -> np.ndarray:
    """Mean of finite values, (n, …) -> (…), also where their sum has no float64.

    >>> middle(np.array([1e308, 1.5e308])).tolist()
    1.25e+308
    """
    size = _size(values)
    return (values / size).mean(0) * size


def _size(values: np.ndarray) -> np.ndarray:
    """The power of two at or below the largest absolute value, so that dividing by it rounds nothing."""
    return np.ldexp(1.0, np.frexp(np.abs(values).max(0))[1] - 1)


def check_resolution(
    values: np.ndarray,
    everywhere: np.ndarray,
    what: str,
    *,
    where: str,
    leave_out: str = "",
    step: type[np.floating] = np.float64,
    bounds: tuple[float, float] = FEATURE_RANGE,
) -> list[str]:
    """Refuse numbers whose spread cannot be computed with; a note where little of it, or of its middle half, is left.

    (A middle half without visible spread may be a code for "missing" among ordinary values, which is to be mended, or
    rounding noise about 0, which is not: so it is said and not refused.)

    Args:
        values: of the training rows, (n,), finite and not all equal.
        everywhere: of all rows, finite.
        what: the column, such as "column 'mass'".
        where: the file.
        leave_out: the option that leaves the column out; empty if it cannot be.
        step: type of the numbers in the file, whose rounding counts.
        bounds: smallest spread of the training rows, largest size of any.
    Raises:
        UserError: a spread below 100 rounding steps, or out of bounds.

    >>> check_resolution(np.array([1.0, 2.0]), np.array([1.0, 2.0]), "column 'a'", where="here")
    []
    """
    other = f", or leave the column out ({leave_out})" if leave_out else ""
    size, largest = float(np.abs(values).max()), float(np.abs(everywhere).max())
    whole = float(spread(values))
    if largest > bounds[1]:
        raise UserError(
            f"{what} holds {everywhere[np.argmax(np.abs(everywhere))]:g}: sizes above {bounds[1]:g} cannot be computed "
            "with",
            where=where,
            remedy=f"Change the unit; if it stands for a missing value, leave the cell empty{other}",
        )
    rounding = float(np.spacing(step(size)))
    if whole < FEWEST_STEPS * rounding:
        raise UserError(
            f"{what} varies by {whole:.2g} beside numbers of size {size:.6g}, which {np.dtype(step).name} rounds to "
            f"{rounding:.1g}: its variation is lost",
            where=where,
            remedy=f"Subtract an offset before the file is written, or change the unit{other}",
        )
    if whole < bounds[0]:
        raise UserError(
            f"{what} varies by {whole:.2g}: spreads below {bounds[0]:g} cannot be computed with",
            where=where,
            remedy=f"Change the unit{other}",
        )
    notes = []
    if whole < FEW_STEPS * rounding:
        notes.append(
            f"{what} varies by {whole:.2g} beside numbers of size {size:.6g}: about {np.log10(whole / rounding):.0f} "
            "digits of that are left after rounding; subtract an offset before the file is written to keep more"
        )
    low, high = np.quantile(values / size, [0.25, 0.75]) * size
    if 0 < high - low < FEWEST_STEPS * rounding:
        notes.append(
            f"half of the values of {what} lie between {low:g} and {high:g}, which cannot be told apart beside "
            f"{size:g}; if that stands for a missing value, leave the cell empty"
        )
    return notes


def step_of(series: pd.Series) -> type[np.floating]:
    """The float type that a column's numbers were rounded to before they became float64.

    >>> step_of(pd.Series([1.0], dtype="float32")).__name__, step_of(pd.Series([1])).__name__
    ('float32', 'float64')
    """
    if types.is_float_dtype(series.dtype):
        return {2: np.float16, 4: np.float32}.get(getattr(series.dtype, "itemsize", 8), np.float64)
    return np.float64

"""The median of a few runs, with what so few can say of it."""

import math
from collections.abc import Sequence

from thalweg.errors import UserError

Interval = tuple[float, float]


def median_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, Interval]:
    """The median, and an interval for the median of what the values are drawn from, whatever their distribution.

    The ends are two of the values themselves, the innermost pair x₍ₖ₎, x₍ₙ₊₁₋ₖ₎ whose coverage 1 − 2·P(Binomial(n, ½) <
    k) is at least the level (Thompson, 1936). Fewer than 6 values have no such pair at 95 %: the interval is then
    infinite, and what is claimed by it stays undecided.

    Args:
        values: one a seed, independent; a NaN makes everything NaN.
        level: coverage, between 0 and 1.
    Raises:
        UserError: no values, or a level out of range.

    >>> median_interval([5, 1, 4, 2, 3, 6, 7, 8, 9, 10])  # 97.9 %: the second and the ninth of ten
    (5.5, (2.0, 9.0))
    >>> median_interval([1.0, 2.0, 3.0])
    (2.0, (-inf, inf))
    """
    ordered = sorted(float(value) for value in values)
    n = len(ordered)
    if not n or not 0 < level < 1:
        raise UserError(f"{n} values have no interval at the level {level}", where="median_interval")
    if any(math.isnan(value) for value in ordered):
        return math.nan, (math.nan, math.nan)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    below, k = 0.5**n, 0  # P(Binomial(n, ½) ≤ k)
    while 2 * below <= 1 - level:
        k += 1
        below += math.comb(n, k) * 0.5**n
    return middle, (ordered[k - 1], ordered[n - k]) if k else (-math.inf, math.inf)

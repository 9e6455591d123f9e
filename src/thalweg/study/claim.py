"""Claims: what a study says, what was measured, and a verdict that may be "no"."""

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from thalweg.analysis.medians import Interval, median_interval
from thalweg.errors import UserError


class ClaimVerdict(enum.Enum):
    """What the measurement says of a claim."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Claim:
    """A statement that was put to a test that it could have failed.

    `at_most`, `at_least` and `near` derive the verdict by one rule: *supported* if the whole interval agrees with the
    statement, *not supported* if none of it does or the measurement is NaN, *undecided* otherwise.

    Args:
        statement: one sentence, with the conditions under which it was measured.
        value: what was measured.
        interval: its ends, over seeds or whatever the statement names.
        reference: what the value is compared with; finite, for else the verdict could never be "no".
        verdict: what follows.
        unit: of value, interval and reference.
        relation: how value and reference are compared, in words.
    Raises:
        UserError: an empty statement, an interval whose ends are in the wrong order, a reference that is not finite.

    >>> Claim.at_least("the median accuracy is at least 97 %", 98.1, (97.6, 98.4), 97.0, unit="%").verdict
    <ClaimVerdict.SUPPORTED: 'supported'>
    """

    statement: str
    value: float
    interval: Interval
    reference: float
    verdict: ClaimVerdict
    unit: str = ""
    relation: str = ""

    def __post_init__(self):
        # NumPy's and JAX's scalars become plain numbers, so that claims.json holds exactly what was compared
        object.__setattr__(self, "value", float(self.value))
        object.__setattr__(self, "interval", _plain(self.interval))
        object.__setattr__(self, "reference", float(self.reference))
        low, high = self.interval
        if not self.statement.strip():
            raise UserError("a claim has no statement", where="tw.Claim")
        if low > high:
            raise UserError(f"the interval's low end {low} is above its high end {high}", where=self.statement)
        if not math.isfinite(self.reference):
            remedy = "Compare with a finite reference: else the verdict could never be 'no'."
            raise UserError(f"the reference is {self.reference}", where=self.statement, remedy=remedy)

    @classmethod
    def at_most(cls, statement: str, value: float, interval: Interval, reference: float, *, unit: str = "") -> Self:
        """The value is at most the reference.

        >>> Claim.at_most("the error is at most 1 %", 0.8, (0.5, 1.2), 1.0, unit="%").verdict.value
        'undecided'
        """
        low, high = _plain(interval)
        verdict = _verdict(value, interval, agrees=high <= reference, disagrees=low > reference)
        return cls(statement, value, interval, reference, verdict, unit, "at most")

    @classmethod
    def at_least(cls, statement: str, value: float, interval: Interval, reference: float, *, unit: str = "") -> Self:
        """The value is at least the reference.

        >>> Claim.at_least("momentum saves steps", -40.0, (-55.0, -12.0), 0.0, unit="steps").verdict.value
        'not supported'
        """
        low, high = _plain(interval)
        verdict = _verdict(value, interval, agrees=low >= reference, disagrees=high < reference)
        return cls(statement, value, interval, reference, verdict, unit, "at least")

    @classmethod
    def near(
        cls, statement: str, value: float, interval: Interval, reference: float, *, tolerance: float, unit: str = ""
    ) -> Self:
        """The value is within `tolerance` of the reference.

        Raises:
            UserError: a tolerance that is negative or not finite; and as the class.

        >>> Claim.near("the rate is 1/2", 0.52, (0.49, 0.55), 0.5, tolerance=0.1).verdict.value
        'supported'
        """
        if not 0 <= tolerance < math.inf:
            raise UserError(f"a tolerance of {tolerance} decides nothing", where=statement)
        low, high = _plain(interval)
        agrees = reference - tolerance <= low and high <= reference + tolerance
        disagrees = low > reference + tolerance or high < reference - tolerance
        verdict = _verdict(value, interval, agrees=agrees, disagrees=disagrees)
        return cls(statement, value, interval, reference, verdict, unit, f"within {tolerance:g} of")

    @classmethod
    def median_at_most(
        cls, statement: str, values: Sequence[float] | np.ndarray, reference: float, *, unit: str = ""
    ) -> Self:
        """The median of values, one a seed, is at most the reference, by `median_interval`.

        >>> claim = Claim.median_at_most("The error is at most 1 %", [0.2, 0.3, 0.5, 0.4, 0.2, 0.3], 1.0, unit="%")
        >>> claim.statement, claim.verdict.value
        ('The error is at most 1 % (median over 6 seeds)', 'supported')
        """
        middle, interval = median_interval(list(values))
        named = f"{statement} (median over {len(values)} seeds)"
        return cls.at_most(named, middle, interval, reference, unit=unit)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `claims.json`."""
        return asdict(self) | {"verdict": self.verdict.value, "interval": list(self.interval)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The claim that `to_json` wrote; NaN and infinities may be texts.

        >>> claim = Claim.at_most("it is small", float("nan"), (0.0, 1.0), 1.0)
        >>> Claim.from_json(claim.to_json()).verdict.value
        'not supported'
        """
        low, high = data["interval"]
        known = dict(data) | {"interval": (low, high), "verdict": ClaimVerdict(data["verdict"])}
        return cls(**known)


def _plain(interval: Interval) -> Interval:
    low, high = interval
    return float(low), float(high)


def _verdict(value: float, interval: Interval, *, agrees: bool, disagrees: bool) -> ClaimVerdict:
    if any(math.isnan(one) for one in (value, *interval)) or disagrees:
        return ClaimVerdict.NOT_SUPPORTED
    return ClaimVerdict.SUPPORTED if agrees else ClaimVerdict.UNDECIDED

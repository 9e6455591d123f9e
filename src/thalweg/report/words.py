"""Numbers, dates and sizes as people read them."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

NONE = "–"


def figure(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, a true minus sign and a power of ten where it is very small or large.

    >>> [figure(value) for value in (0.123456, -12345.6, 3.2e-7, 2.0, math.nan)]
    ['0.1235', '−12,346', '3.2 × 10⁻⁷', '2', '–']
    """
    if not math.isfinite(value):
        return NONE if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa} × 10{raised}".replace("-", "−")
    return fixed(value, max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0, strip=True)


def fixed(value: float, decimals: int, *, strip: bool = False) -> str:
    """A number with so many decimals.

    >>> fixed(-0.5, 3), fixed(0.5, 3, strip=True), fixed(math.nan, 2)
    ('−0.500', '0.5', '–')
    """
    if not math.isfinite(value):
        return figure(value)
    text = f"{value:,.{decimals}f}"
    if strip and "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−") if float(text.replace(",", "")) else text.replace("-", "")


def shared_decimals(values: Iterable[float]) -> int:
    """Decimals that show three significant digits of a typical one of several numbers of one kind.

    >>> shared_decimals([0.52, 0.31, -12.0]), shared_decimals([54.3, 57.1])
    (3, 1)
    """
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value)
    return 3 if not sizes else min(max(2 - math.floor(math.log10(sizes[(len(sizes) - 1) // 2])), 0), 6)


def percent(share: float) -> str:
    """A share as a percentage, to one decimal where that tells something.

    >>> percent(0.954), percent(1.0), percent(0.04), percent(0.0412)
    ('95.4%', '100%', '4%', '4.1%')
    """
    return f"{fixed(100 * share, 1, strip=True)}%"


def count(n: int, one: str, many: str | None = None) -> str:
    """A number of things.

    >>> count(1, "row"), count(1200, "row"), count(2, "loss", "losses")
    ('1 row', '1,200 rows', '2 losses')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def size(length: int) -> str:
    """A file's length.

    >>> size(900), size(45_300), size(3_400_000)
    ('900 B', '45 kB', '3.4 MB')
    """
    if length < 1000:
        return f"{length} B"
    return f"{length / 1000:.0f} kB" if length < 1_000_000 else f"{length / 1e6:.1f} MB"


def date(time: datetime) -> str:
    """A time in UTC.

    >>> from datetime import UTC
    >>> date(datetime(2026, 3, 1, 17, 5, tzinfo=UTC))
    '1 March 2026, 17:05 UTC'
    """
    months = (
        "January February March April May June July August September October November December"
    ).split()  # not strftime, which speaks the machine's language
    return f"{time.day} {months[time.month - 1]} {time.year}, {time:%H:%M} UTC"


def joined(words: list[str]) -> str:
    """An enumeration.

    >>> joined(["a"]), joined(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def flattened(settings: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings by dotted names.

    >>> flattened({"seed": 0, "adam": {"rate": 1e-3}})
    {'seed': 0, 'adam.rate': 0.001}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flattened(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found

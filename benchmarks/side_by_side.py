"""What every benchmark needs: alternate two ways of doing a thing, take medians, write a table."""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def alternate(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, measured in turn so that a drifting machine treats all alike.

    Args:
        ways: name -> a call that does the work once and returns the seconds that count.
        rounds: times that each is called.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def summary(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratio(one: list[float], other: list[float]) -> dict[str, float]:
    """Median and range of the ratios pair by pair."""
    return summary([a / b for a, b in zip(one, other, strict=True)])


def machine() -> str:
    """The machine in a line."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def record(name: str, figures: dict) -> None:
    """Print the figures, and keep them as results/NAME.json, from which RESULTS.md is made."""
    RESULTS.mkdir(exist_ok=True)
    figures = {"machine": machine(), **figures}
    (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    sys.stdout.write(f"{name}: {json.dumps(figures, indent=1)}\n")

"""What every test runs under, and which of the slow ones run today."""

import os
import signal
import sys
from pathlib import Path

import pytest

# JAX reads its settings from the environment when it is first imported; set here they also reach the subprocesses that
# tests start, and a test that needs no JAX does not pay for loading it.
assert "jax" not in sys.modules, "JAX was imported before tests/conftest.py could say how"
# float32 and float64 never mix by accident: precision is explicit, so the engine must not lean on promotion.
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"
# Four simulated devices on one processor, for the tests of sharding (`jax.devices("cpu")`); the others use the first.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4".strip()
# Compiled programs are kept between tests, their subprocesses and runs: measured 12 s -> 5 s for eight small trainings,
# the same bits. Here rather than in the user's own cache; `make clean` empties it.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Figures are drawn to files, also where a screen is present.
os.environ["MPLBACKEND"] = "Agg"

# A shell hands SIGINT down ignored to what it runs in the background, and the tests of interruption send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

DAYS = 14  # a slow test runs once in this many days


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("slow tests (neither option: none of them)")
    group.addoption("--slow", choices=["all"], help="run every slow test")
    group.addoption(
        "--slow-sample", type=int, metavar="DAY", help=f"run the slow tests of this day of the year, one in {DAYS}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("slow") == "all":
        return
    slow = sorted((item for item in items if item.get_closest_marker("slow")), key=lambda item: item.nodeid)
    day = config.getoption("slow_sample")
    today = set() if day is None else {item for i, item in enumerate(slow) if i % DAYS == day % DAYS}
    left_out = set(slow) - today
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the slow tests that ran. (From the reports, so that it also holds where xdist's workers collect.)"""
    ran = sorted(
        report.nodeid
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call" and "slow" in report.keywords
    )
    day = config.getoption("slow_sample")
    if ran or day is not None:
        terminalreporter.section("slow tests that ran" + ("" if day is None else f" (day {day})"))
        for line in ran or ["none falls on this day"]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent

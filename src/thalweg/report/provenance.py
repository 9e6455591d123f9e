"""Where it came from: the data, the settings, the surroundings, the files, and how to run it again."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from thalweg.report.formats import Column, Data, Record
from thalweg.report.words import NONE, count, figure, flattened, percent, size


@dataclass(frozen=True)
class Part:
    """One part of the split: its name, what it is for, rows, and its share in per cent."""

    name: str
    purpose: str
    rows: str
    share: str
    width: float


@dataclass(frozen=True)
class DataSection:
    """What went in.

    Attributes:
        source, rows: the file and its length.
        target: (name, what it is).
        columns: (name, kind, values, missing) of each column used.
        dropped: columns left out.
        notes: sentences of those who read the table.
        split_kind, parts: how the rows were split.
    """

    source: str
    rows: str
    target: tuple[str, str] | None
    columns: list[tuple[str, str, str, str]]
    dropped: list[str]
    notes: list[str]
    split_kind: str
    parts: list[Part]


MOST_CATEGORIES = 8
PURPOSES = {"train": "learned from", "validation": "chose the best weights", "test": "held out for the scores"}


def data_section(data: Data) -> DataSection:
    """Columns, notes and split."""
    split = data.split
    sizes = {} if split is None else {name: getattr(split, name) for name in PURPOSES}
    whole = max(sum(sizes.values()), 1)
    target = data.target
    return DataSection(
        data.source,
        count(data.rows, "row"),
        None if target is None else (target.name, _values(target)),
        [(column.name, column.kind, _values(column), _missing(column)) for column in data.features],
        data.dropped,
        data.notes,
        "" if split is None else split.kind,
        [
            Part(name, PURPOSES[name], count(rows, "row"), percent(rows / whole), 100 * rows / whole)
            for name, rows in sizes.items()
        ],
    )


def _values(column: Column) -> str:
    names = column.categories or column.classes
    if names:
        more = f" and {len(names) - MOST_CATEGORIES:,} more" if len(names) > MOST_CATEGORIES else ""
        return f"{len(names)}: {', '.join(names[:MOST_CATEGORIES])}{more}"
    if column.low is not None and column.high is not None:
        return f"{figure(column.low)} to {figure(column.high)}"
    return NONE


def _missing(column: Column) -> str:
    if column.missing and column.fill is not None:
        return f"become {figure(column.fill)}, and are marked"
    return "a category" if "(missing)" in (column.categories or []) else "none seen"


# -------------------------------------------------------------------------------------------------------- to run again
@dataclass(frozen=True)
class Provenance:
    """Settings, surroundings, command and files.

    Attributes:
        command: to run it again; empty if the settings do not tell.
        settings, environment: (name, value) pairs.
        files: (name, link, size, what it holds).
    """

    command: str
    settings: list[tuple[str, str]]
    environment: list[tuple[str, str]]
    files: list[tuple[str, str, str, str]]


HOLDS = {
    "config.toml": "settings of the run",
    "environment.json": "versions, device, precision, seed",
    "metrics.jsonl": "a row a logged step: losses by term",
    "decisions.jsonl": "what the training loop decided, and why",
    "conduct.json": "how each phase was carried out: mode, layout, precision",
    "verdict.json": "how the run ended",
    "certificate.json": "how nearly constraints are met, and what they cost",
    "scores.json": "held-out scores beside baselines",
    "data.json": "columns, notes and split",
    "error.txt": "what the study raised, with every line it passed through",
    "claims.json": "what the study claims, and what was measured",
    "model": "the trained model: load or predict with it",
    "arrays": "what the figures show",
    "checkpoints": "from which the run can be resumed",
    "source": "the code of the study, as it was run",
}


def provenance(record: Record) -> Provenance:
    """How to come to the same result."""
    versions = record.environment.get("versions")
    environment = {
        name: value for name, value in record.environment.items() if name != "versions" and value is not None
    }
    if isinstance(versions, Mapping):
        environment["packages"] = [f"{name} {version}" for name, version in versions.items() if version]
    return Provenance(
        command(record.config),
        [(name.removeprefix("settings."), _text(value)) for name, value in flattened(record.config).items()],
        [(name.replace("_", " "), _text(value)) for name, value in flattened(environment).items()],
        _files(record.path),
    )


def command(config: Mapping[str, Any]) -> str:
    """The command that makes the same run; empty if the settings do not tell.

    Args:
        config: `command`, a list of words, is taken as it stands; else `table` (a path, and `target` beside it; or both
            and what else was asked in a table of settings), or `study` (or the `file`
            that it is in, if it is the user's own), with `seed` and a table of `settings`.

    >>> command({"table": "my data.csv", "target": "y", "seed": 3, "settings": {"steps": 200}})
    "thalweg fit 'my data.csv' --target y --seed 3 --set steps=200"
    """
    if isinstance(config.get("command"), list):
        return shlex.join(str(word) for word in config["command"])
    if (asked := asked_of_table(config)) is not None:
        words = ["thalweg", "fit", asked[0], "--target", asked[1], *asked[2]]
    elif "study" in config:
        words = ["thalweg", "run", str(config.get("file", config["study"]))]
    else:
        return ""
    if "seed" in config:
        words += ["--seed", str(config["seed"])]
    settings = config.get("settings", {})
    for name, value in flattened(settings if isinstance(settings, Mapping) else {}).items():
        words += ["--set", f"{name}={_text(value)}"]
    return shlex.join(words)


def asked_of_table(config: Mapping[str, Any]) -> tuple[str, str, list[str]] | None:
    """The table's path, its target, and further options of `thalweg fit`; None if the settings are of something else.

    >>> asked_of_table({"table": {"path": "data/rents.csv", "target": "rent", "group": "city", "ignore": ["id"]}})
    ('data/rents.csv', 'rent', ['--group', 'city', '--ignore', 'id'])
    """
    table = config.get("table")
    if not isinstance(table, Mapping):
        return (str(table), str(config["target"]), []) if table is not None and "target" in config else None
    if "path" not in table or "target" not in table:
        return None
    options = []
    for name in ("task", "group", "time", "ignore", "categorical"):
        values = table.get(name, [])
        for value in values if isinstance(values, list) else [values]:
            options += [f"--{name}", str(value)]
    return str(table["path"]), str(table["target"]), options


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return str(value)


def _files(folder: Path) -> list[tuple[str, str, str, str]]:
    """What lies in the run's folder, but for the lock, hidden files and the report itself."""
    found = []
    for entry in sorted(folder.iterdir(), key=lambda one: (one.is_dir(), one.name)):
        if entry.name in ("lock", "report.html") or entry.name.startswith(".") or entry.is_symlink():
            continue
        if not entry.is_dir():
            length = size(entry.stat().st_size)
        elif lengths := _lengths(entry):
            length = f"{count(len(lengths), 'file')}, {size(sum(lengths))}"
        else:
            continue
        found.append((entry.name, quote(entry.name), length, HOLDS.get(entry.name, "")))
    return found


def _lengths(folder: Path) -> list[int]:
    lengths = []
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                lengths.append((Path(place) / name).stat().st_size)
            except OSError:  # a checkpoint that the run has just let go
                continue
    return lengths

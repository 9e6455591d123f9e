"""docs/systems.md: a row for each system of the design, and nothing called done that cannot be shown."""

import re
from pathlib import Path

STATUSES = {"planned", "under way", "done"}


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| S")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def paths(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def unfounded(repository: Path, text: str) -> list[str]:
    """The rows that say more than the repository shows."""
    found = []
    for name, _system, status, where, test, figure in rows(text):
        shown = {
            "where": [(repository / "src/thalweg" / path).exists() for path in paths(where)],
            "test": [(repository / path.split("::")[0]).is_file() for path in paths(test)],
            "figure": [(repository / path).is_file() for path in paths(figure)],
        }
        owed = {"planned": [], "under way": ["where"], "done": ["where", "test"]}[status]
        found += [f"{name}: {column}" for column in owed if not shown[column]]
        if status != "planned":
            found += [f"{name}: {column} names a missing file" for column in shown if not all(shown[column])]
    return found


def test_one_row_for_each_system(repository: Path) -> None:
    table = rows((repository / "docs/systems.md").read_text())
    assert sorted(row[0] for row in table) == [f"S{i:02}" for i in range(1, 51)]
    assert {row[2] for row in table} <= STATUSES


def test_nothing_is_called_done_that_is_not_there(repository: Path) -> None:
    assert unfounded(repository, (repository / "docs/systems.md").read_text()) == []


def test_an_empty_claim_is_found(repository: Path) -> None:
    claims = "| S01 | a | done | `errors.py` | `tests/no_such_test.py` | — |\n| S02 | b | done | `errors.py` | — | — |"
    assert unfounded(repository, claims) == ["S01: test names a missing file", "S02: test"]

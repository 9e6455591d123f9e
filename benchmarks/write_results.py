"""benchmarks/RESULTS.md from benchmarks/results/*.json. Run: .venv/bin/python -m benchmarks.write_results"""

import importlib
import json
from pathlib import Path

from benchmarks.side_by_side import RESULTS


def cell(value: object) -> str:
    """A figure as a person reads it; a median with its range."""
    if isinstance(value, dict) and set(value) == {"median", "low", "high"}:
        return f"{value['median']:.3g} ({value['low']:.3g} … {value['high']:.3g})"
    if isinstance(value, list):
        return " … ".join(map(cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def lines(figures: dict, prefix: str = "") -> list[str]:
    """Table rows for nested figures; a list of rows of one shape becomes a table of its own."""
    found = []
    for name, value in figures.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            found += ["", "| " + " | ".join(value[0]) + " |", "|" + "---|" * len(value[0])]
            found += ["| " + " | ".join(map(cell, row.values())) + " |" for row in value]
        elif isinstance(value, dict) and set(value) != {"median", "low", "high"}:
            found += lines(value, f"{prefix}{name}: ")
        else:
            found.append(f"| {prefix}{name} | {cell(value)} |")
    return found


def main() -> None:
    """One section a benchmark: what it is (its docstring), the machine, the figures."""
    page = [
        "# Measured",
        "",
        "Medians, with the range in brackets. Machines are shared and noisy: trust ratios first.",
        "",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        figures = json.loads(file.read_text())
        doc = (importlib.import_module(f"benchmarks.{file.stem}").__doc__ or "").strip()
        page += [f"## {file.stem}", "", doc, "", f"Machine: {figures.pop('machine')}.", ""]
        body = lines(figures)
        plain = [line for line in body if line.startswith("| ") and len(line.split(" | ")) == 2]
        if plain and body[0] in plain:
            page += ["| what | figure |", "|---|---|"]
        page += [*body, ""]
    (Path(__file__).parent / "RESULTS.md").write_text("\n".join(page))


if __name__ == "__main__":
    main()

"""The rooms of the design: what import-linter's contracts cannot say of themselves."""

import re
import tomllib
from pathlib import Path


def listed(repository: Path) -> set[str]:
    contracts = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (floors,) = (contract for contract in contracts if contract["id"] == "floors")
    return {name.strip(" ()") for layer in floors["layers"] for name in re.split(r"[|:]", layer)}


def test_every_module_has_a_floor(repository: Path) -> None:
    package = repository / "src" / "thalweg"
    modules = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/*.py")}
    assert modules - {"__init__", "__main__"} <= listed(repository)


def test_every_folder_is_a_package(repository: Path) -> None:
    """A folder of Python files without `__init__.py` is invisible to import-linter, and so would escape the floors."""
    package = repository / "src" / "thalweg"
    folders = {path.parent for path in package.rglob("*.py")}
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").exists()) == []

"""Which studies there are: files are found by name and read as text; nothing in them is run."""

import ast
import difflib
from dataclasses import dataclass
from pathlib import Path

from thalweg.errors import UserError

BUILT_IN = Path(__file__).resolve().parent.parent / "studies"


@dataclass(frozen=True)
class Entry:
    """A study as its decorator's own words describe it.

    Attributes:
        name, question, systems: what `@tw.study` was given; empty where that is no plain text.
        line: of the decorator in its file, from 1.
    """

    name: str
    question: str
    systems: tuple[str, ...]
    line: int


def built_in() -> dict[str, Path]:
    """The studies that come with thalweg: name -> file, in the order of the names. A "-" in a name is a "_" there.

    >>> built_in()["digits"].name
    'digits.py'
    """
    files = sorted(path for path in BUILT_IN.glob("*.py") if not path.name.startswith("_"))
    return {path.stem.replace("_", "-"): path for path in files}


def find_study(asked: str | Path) -> tuple[Path, str | None]:
    """The file that is meant by the name of a study, by a file, or by FILE::NAME for one of several in a file.

    Returns:
        the file, and the name of the study in it; None if it is not given.
    Raises:
        UserError: there is no such study, with the nearest name; or no such file.
    """
    text = str(asked)
    file, _, name = text.partition("::")
    if not name and (path := built_in().get(file)):
        return path, file
    path = Path(file)
    if path.is_file():
        return path.resolve(), name or None
    if path.is_dir():
        raise UserError("this is a folder, not a study's file", where=file, remedy="Name the file: my_study.py.")
    if path.suffix == ".py" or path.name != file:
        raise UserError("there is no such file", where=file, remedy="Check the path of the study.")
    near = difflib.get_close_matches(text, built_in(), n=1)
    known = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(built_in())}, or name a file: my_study.py."
    raise UserError(f"there is no study '{text}'", remedy=known)


def parse(path: Path) -> ast.Module:
    """A file as Python reads it; nothing is run.

    Raises:
        UserError: the file cannot be read, or is no Python; the line is shown.
    """
    try:
        return ast.parse(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    except SyntaxError as error:
        where = f"{path}, line {error.lineno}" if error.lineno else str(path)
        text = f": {error.text.strip()}" if error.text and error.text.strip() else ""
        raise UserError(f"the file is no Python: {error.msg}", where=f"{where}{text}", remedy="Correct it.") from error
    except ValueError as error:  # a null byte
        raise UserError(f"the file is no Python: {error}", where=str(path), remedy="Correct it.") from error


def entries(tree: ast.Module) -> list[Entry]:
    """The studies in a file, wherever `@study(…)` or `@….study(…)` decorates a function, in their order."""
    found = []
    for node in ast.walk(tree):
        for one in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            called = one.func if isinstance(one, ast.Call) else None
            called = getattr(called, "attr", getattr(called, "id", ""))
            if isinstance(one, ast.Call) and called == "study":
                given = dict(zip(("name",), one.args, strict=False)) | {key.arg: key.value for key in one.keywords}
                name, question = (_text(given.get(key)) for key in ("name", "question"))
                systems = getattr(given.get("systems"), "elts", [])
                found.append(Entry(name, question, tuple(map(_text, systems)), one.lineno))
    return sorted(found, key=lambda entry: entry.line)


def _text(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def copy_study(asked: str, target: Path) -> Path:
    """Copy the file of a built-in study to a file of one's own, to be changed and run.

    Returns:
        the new file.
    Raises:
        UserError: there is no such study; the target exists, is not named .py, or cannot be written.
    """
    path, _ = find_study(asked)
    if path not in built_in().values():
        raise UserError("this is no study of thalweg's own", where=asked, remedy=f"There are {', '.join(built_in())}.")
    if target.suffix != ".py":
        raise UserError(
            "a study is a Python file", where=str(target), remedy=f"Name it {target.stem or 'my_study'}.py."
        )
    try:
        with open(target, "xb") as file:
            file.write(path.read_bytes())
    except FileExistsError:
        raise UserError("the file exists already", where=str(target), remedy="Choose another name.") from None
    except OSError as error:
        raise UserError(f"the file cannot be written: {error.strerror}", where=str(target)) from error
    return target

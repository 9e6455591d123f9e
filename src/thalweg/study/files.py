"""A study's file: which helper modules go with it, how it is loaded, and which of its lines an error came from."""

import ast
import contextlib
import importlib.util
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from thalweg.errors import RunError, UserError
from thalweg.study.catalogue import built_in, entries, find_study, parse
from thalweg.study.definition import Study


class StudyFailed(RunError):
    """A study's own code raised; the cause is attached (`__cause__`), and the message shows the user's line."""


@dataclass(frozen=True)
class StudyFile:
    """A loaded study.

    Attributes:
        study: the one that was asked for.
        asked: how to ask for it again: its name if it is thalweg's own, else the file, or FILE::NAME.
        sources: the file, then the helper modules from its folder.
    """

    study: Study
    asked: str
    sources: list[Path]


@contextlib.contextmanager
def open_study(asked: str | Path) -> Iterator[StudyFile]:
    """Run a study's file, as Python runs a script: modules in its folder can be imported, until the block is left.

    Args:
        asked: the name of a study, a file, or FILE::NAME for one of several in a file.
    Raises:
        UserError: no such study or file; a syntax error, in it or in a helper module; a file without a study, or with
            two of one name, or with several when none is named.
        StudyFailed: the file raised when it was run.

    >>> with open_study("digits") as file:
    ...     file.study.name, [path.name for path in file.sources]
    ('digits', ['digits.py'])
    """
    path, name = find_study(asked)
    _refuse_ambiguous(path)
    sources = source_files(path)
    before = set(sys.modules)
    sys.path.insert(0, str(path.parent))
    try:
        module = _executed(path, sources)
        study = _chosen(module, path, name)
        is_own = built_in().get(study.name) == path
        yield StudyFile(study, study.name if is_own else str(asked), sources)
    finally:
        sys.path.remove(str(path.parent))
        for key in set(sys.modules) - before:  # another file's helpers may have the same names
            if (file := getattr(sys.modules[key], "__file__", None)) and Path(file) in sources:
                del sys.modules[key]


def source_files(path: Path) -> list[Path]:
    """A study's file, then every module of its folder that it or one of these imports, anywhere in the text.

    Raises:
        UserError: one of them cannot be read, or is no Python.
    """
    found = [path]
    for file in found:  # grows as it is walked
        for name in _imported(parse(file)):
            found += [one for one in _local_files(path.parent, name) if one not in found]
    return found


def user_line(error: BaseException, sources: Sequence[Path]) -> str | None:
    """Where the innermost of the user's own lines is that an error passed through, with its text; None if none is."""
    files = set(map(str, sources))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            scope = "" if frame.name == "<module>" else f", in {frame.name}"
            return f"{frame.filename}, line {frame.lineno}{scope}: {frame.line}"
    return None


def _refuse_ambiguous(path: Path) -> None:
    names = [entry.name for entry in entries(parse(path))]
    if not names:
        remedy = "Decorate a function with @tw.study(…); `thalweg copy digits my_study.py` gives one to begin with."
        raise UserError("the file holds no study, and was not run", where=str(path), remedy=remedy)
    _refuse_twice([name for name in names if name], path)


def _refuse_twice(names: Sequence[str], path: Path) -> None:
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(f"{count} studies are named {name!r}", where=str(path), remedy="Rename all but one.")


def _imported(tree: ast.Module) -> list[str]:
    """Top-level names of the modules that are imported, absolutely."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def _local_files(folder: Path, name: str) -> list[Path]:
    if name == "thalweg":  # loaded already, whatever lies in the folder
        return []
    if (folder / f"{name}.py").is_file() and not (folder / name / "__init__.py").is_file():
        return [folder / f"{name}.py"]
    return sorted(one for one in (folder / name).rglob("*.py") if one.is_file())


def _executed(path: Path, sources: Sequence[Path]) -> ModuleType:
    name = f"study_{path.stem}"  # the same for the run's own copy of the file
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError("the file is not named .py", where=str(path), remedy="Rename it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pydantic and dataclasses look for the names of types
    try:
        spec.loader.exec_module(module)
    except UserError as error:
        if line := user_line(error, sources):
            error.add_note(f"your line: {line}")
        raise
    except (Exception, SystemExit) as error:
        where = user_line(error, sources) or str(path)
        raise StudyFailed(f"the file raised {type(error).__name__}: {error}", where=where) from error
    return module


def _chosen(module: ModuleType, path: Path, name: str | None) -> Study:
    found = [one for one in vars(module).values() if isinstance(one, Study)]
    own = list({id(one): one for one in found if one.function.__module__ == module.__name__}.values())
    _refuse_twice([one.name for one in own], path)
    names = ", ".join(one.name for one in own)
    if name is not None:
        own = [one for one in own if one.name == name]
    if len(own) == 1:
        return own[0]
    if name is not None or not own:
        remedy = f"There are {names}." if names else "Make it with @tw.study(…) at the top level of the file."
        raise UserError(f"the file holds no study {name or ''}".rstrip(), where=str(path), remedy=remedy)
    raise UserError(
        f"the file holds several studies: {names}", where=str(path), remedy=f"Name one: {path}::{own[0].name}"
    )

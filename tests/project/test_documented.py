"""Every public definition says what it is. ruff sees to modules, classes and functions; this, to methods."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import thalweg


class Documented:
    def act(self) -> None:
        """Says what it is."""


class Inherits(Documented):
    def act(self) -> None: ...


class Silent(Documented):
    def other(self) -> None: ...

    @property
    def shape(self) -> None: ...

    def _private(self) -> None: ...


def silent_methods(cls: type) -> list[str]:
    """The public methods and properties that `cls` itself defines and neither it nor a base of it documents."""
    members = [name for name, value in vars(cls).items() if inspect.isroutine(value) or isinstance(value, property)]
    return [
        f"{cls.__module__}.{cls.__qualname__}.{name}"
        for name in members
        if not name.startswith("_") and not inspect.getdoc(getattr(cls, name))
    ]


def classes() -> Iterator[type]:
    for info in pkgutil.walk_packages(thalweg.__path__, "thalweg."):
        for name, cls in vars(importlib.import_module(info.name)).items():
            if inspect.isclass(cls) and cls.__module__ == info.name and not name.startswith("_"):
                yield cls


def test_the_search_finds_the_silent_and_only_them() -> None:
    assert silent_methods(Inherits) == []
    assert [name.rpartition(".")[2] for name in silent_methods(Silent)] == ["other", "shape"]


def test_public_methods_are_documented() -> None:
    assert [name for cls in classes() for name in silent_methods(cls)] == []

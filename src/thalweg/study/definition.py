"""What a study is: a question, its settings, and the function that answers with claims."""

import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg.errors import UserError
from thalweg.settings import Settings
from thalweg.study.claim import Claim

Function = Callable[[Any, Any], list[Claim]]


@dataclass(frozen=True)
class Study:
    """A question that a function answers; made by `study`. Calling it calls the function.

    Attributes:
        name: of the study, and of the folder of its runs.
        question: in one sentence.
        systems: rows of docs/systems.md that it is about, such as "S34".
        function: (settings, run) -> claims.
        settings: the class of its settings.
    """

    name: str
    question: str
    systems: tuple[str, ...]
    function: Function
    settings: type[Settings]

    def __call__(self, settings: Settings, run: Any) -> list[Claim]:
        return self.function(settings, run)


def study(name: str, *, question: str, systems: Sequence[str] = ()) -> Callable[[Function], Study]:
    """Make a study of a function `(settings: Settings, run: tw.Run) -> list[tw.Claim]`.

    Give each fit its run, and a name if there are several: `tw.fit(…, run=run, name="plate")`. Then a run that was
    stopped goes on from where it was. What is random follows from `run.seed`. A resumed run executes its own copy of
    the file, so data are found by a setting or from the working directory, not beside the file.

    Args:
        name: of lower-case letters, digits and hyphens.
        question: one sentence that ends in a question mark, or any other.
        systems: rows of docs/systems.md that it is about.
    Raises:
        UserError: a name that cannot be a folder's; no question; a function of other arguments, or whose first has no
            class of settings for its type.

    >>> class Nothing(Settings):
    ...     throws: int = 100
    >>> @study("coin", question="Does a fair coin fall on heads half the time?")
    ... def coin(settings: Nothing, run) -> list[Claim]:
    ...     return [Claim.near("half are heads", 0.48, (0.38, 0.58), 0.5, tolerance=0.1)]
    >>> coin.settings.__name__, coin(Nothing(), None)[0].verdict.value
    ('Nothing', 'undecided')
    """
    where = f"@tw.study({name!r})"
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        remedy = "Use lower-case letters, digits and hyphens: heat-plate."
        raise UserError(f"{name!r} cannot be the name of a study", where=where, remedy=remedy)
    if not isinstance(question, str) or not question.strip():
        raise UserError("the study asks no question", where=where, remedy='Say it: question="Can …?".')
    systems = (systems,) if isinstance(systems, str) else tuple(systems)
    return lambda function: Study(name, question, systems, function, _settings_of(function, where))


def _settings_of(function: Function, where: str) -> type[Settings]:
    remedy = "Write it as `def f(settings: Settings, run: tw.Run) -> list[tw.Claim]`, Settings being your own class."
    if not inspect.isfunction(function):
        raise UserError("a study is made of a function", where=where, remedy=remedy)
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) != 2 or any(one.kind is not one.POSITIONAL_OR_KEYWORD for one in parameters):
        given = ", ".join(map(str, parameters))
        raise UserError(f"a study takes settings and a run, not ({given})", where=where, remedy=remedy)
    found = parameters[0].annotation
    if isinstance(found, str):  # from __future__ import annotations
        found = typing.get_type_hints(function).get(parameters[0].name)
    if not (isinstance(found, type) and issubclass(found, Settings)):
        raise UserError("the type of the study's settings is not said", where=where, remedy=remedy)
    return found

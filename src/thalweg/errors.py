"""What can go wrong, said the same way everywhere.

An error names what was wrong, where, and what to do about it. The command line turns `exit_status` into the
process's exit status and prints the message without a traceback.
"""

import operator


class ThalwegError(Exception):
    """Base of every error that thalweg raises on purpose.

    Args:
        what: what was wrong, one clause.
        where: the file, row, column, term or shape it was found in.
        remedy: what the user can do about it, one sentence.

    >>> print(UserError("there is no column 'prise'", where="houses.csv", remedy="Did you mean 'price'?"))
    there is no column 'prise' (houses.csv). Did you mean 'price'?
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None):
        self.what, self.where, self.remedy = what, where, remedy
        message = what if where is None else f"{what} ({where})"
        super().__init__(message if remedy is None else f"{message}. {remedy}")


class UserError(ThalwegError):
    """Input that the user must change: exit status 2."""

    exit_status = 2


class RunError(ThalwegError):
    """A run that failed after it had begun well: exit status 1."""

    exit_status = 1


class DamagedError(UserError):
    """A file that is not what its manifest says: refused, never partly read."""


def kind_of(value: object) -> str:
    """What a value is, in words that help somebody who forgot to call a class.

    >>> kind_of(3), kind_of(int)
    ('int', 'the class int itself')
    """
    return f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__


def whole_number(value: object, what: str, where: str) -> int:
    """An argument that counts or numbers something, as a Python integer.

    Args:
        value: what was given, of Python, NumPy or JAX; booleans are no numbers here.
        what: its name, in words.
        where: who asks for it.
    Raises:
        UserError: it is no whole number.

    >>> whole_number(3, "the width", "doctest")
    3
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        pass
    raise UserError(f"{what} {value!r} is no whole number"[:200], where=where) from None

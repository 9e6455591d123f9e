"""Files of a run read for the page: checked, refused by name where they are damaged, never executed."""

import io
import json
import zipfile
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from thalweg.errors import DamagedError

Model = TypeVar("Model", bound=BaseModel)


def read_model(path: Path, model: type[Model]) -> Model | None:
    """The file as the model describes it; None if there is no such file."""
    if not path.exists():
        return None
    try:
        return model.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(one) for one in first["loc"])
        found = "" if first["type"] == "missing" else f", and it is {first['input']!r:.60}"
        raise damaged(path, f"{place}: {first['msg']}{found}" if place else f"{first['msg']}{found}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, why: str) -> DamagedError:
    """The error that names a file which is not what it should be."""
    remedy = "Restore the file from a copy, or move it away: the report then leaves out what it held."
    return DamagedError(f"the file cannot be used: {why}", where=str(path), remedy=remedy)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a NumPy archive by name; one with objects in it is refused, as reading those would execute them.

    Raises:
        DamagedError: it is no whole archive of arrays.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise damaged(path, str(error)) from error

"""Real tables on disk, and one finished run of each kind, shared by the tests of this folder."""

from pathlib import Path

import pytest
from sklearn.datasets import load_diabetes, load_wine

from thalweg.tables import Request, TableSettings, fit_table

QUICK = TableSettings(members=2, epochs=4, width=16, depth=1)


@pytest.fixture(scope="session")
def diabetes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """442 patients, 10 numeric columns, a numeric target."""
    path = tmp_path_factory.mktemp("tables") / "diabetes.csv"
    load_diabetes(as_frame=True, scaled=False).frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """178 wines, 13 numeric columns, three cultivars by name."""
    path = tmp_path_factory.mktemp("tables") / "wine.csv"
    bunch = load_wine(as_frame=True)
    frame = bunch.frame.rename(columns={"target": "cultivar"})
    frame["cultivar"] = frame["cultivar"].map({0: "barolo", 1: "grignolino", 2: "barbera"})
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def number_run(diabetes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick finished run on a numeric target."""
    return fit_table(Request(diabetes, "target", settings=QUICK), tmp_path_factory.mktemp("runs") / "number").run


@pytest.fixture(scope="session")
def class_run(wine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick finished run on classes."""
    return fit_table(Request(wine, "cultivar", settings=QUICK), tmp_path_factory.mktemp("runs") / "classes").run

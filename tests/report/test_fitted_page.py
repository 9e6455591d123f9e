"""What `thalweg fit` leaves for the page beside its predictions: gradient norms, and a slice of the loss surface."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.metrics import log_loss

from thalweg.nn import load_model
from thalweg.tables import Request, TableSettings, fit_table
from thalweg.tables import fit as table_fit
from thalweg.tables.model import CLASSES
from thalweg.tables.prepare import prepare_table
from thalweg.train import RunDirectory

QUICK = TableSettings(members=2, epochs=4, width=16, depth=1)


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> Request:
    path = tmp_path_factory.mktemp("tables") / "wine.csv"
    frame = load_wine(as_frame=True).frame.rename(columns={"target": "cultivar"})
    frame["cultivar"] = frame["cultivar"].map({0: "barolo", 1: "grignolino", 2: "barbera"})
    frame.to_csv(path, index=False)
    return Request(path, "cultivar", settings=QUICK)


@pytest.fixture(scope="module")
def run(request_: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_table(request_, tmp_path_factory.mktemp("runs") / "wine").run


def sliced(run: Path) -> dict[str, Any]:
    return json.loads((run / "arrays" / "slice.json").read_text())


def test_the_slice_goes_through_the_start_and_the_weights_kept(run: Path, request_: Request) -> None:
    """Both costs against scikit-learn's log loss of the first network on the validation rows."""
    prepared = prepare_table(request_)
    rows = prepared.split.validation
    with jax.enable_x64(True):
        kept = load_model(run / "model", classes=CLASSES)[0].members[0]
        start = table_fit._model(prepared, QUICK, jax.random.key(table_fit._seeds(request_)[0]))
        outputs = {name: jax.vmap(model)(prepared.x[rows]) for name, model in (("kept", kept), ("start", start))}
        loss = {name: log_loss(prepared.y[rows], jax.nn.softmax(out)) for name, out in outputs.items()}
    found = sliced(run)["slice"]
    offsets, costs = np.array(found["offsets"]), np.array(found["costs"])
    assert costs.shape == (25, 25)
    assert costs[12, 12] == pytest.approx(loss["kept"], rel=1e-9)  # the same sums in float64
    # the start is no point of the grid, but lies between two of them, 0.1 apart, where the cost is nearly straight
    assert np.interp(-1.0, offsets, costs[:, 12]) == pytest.approx(loss["start"], rel=1e-2)
    assert f"on {len(rows)} rows" in found["what"]


def test_gradient_norms_and_the_surface_stand_on_the_page(run: Path) -> None:
    rows = RunDirectory.open(run).metrics.read()
    norms = rows[-1]["instruments"]["GradientNorms"]
    assert len([name for name in norms if name.startswith("gradient/")]) == 3  # linear path, hidden and last layer
    page = (run / "report.html").read_text()
    for title in ("Learning rate", "Gradient norm by layer", "From above", "As a surface"):
        assert f"<h3>{title}</h3>" in page


def test_a_slice_that_would_take_too_long_is_skipped_and_said(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_fit, "SLICE_SECONDS", 0.0)
    run = fit_table(request_, tmp_path / "run").run
    assert "longer than 0 s" in sliced(run)["skipped"]
    assert "There is no slice of the loss surface: it would have taken longer" in (run / "report.html").read_text()


def test_a_walk_that_came_to_nothing_has_no_slice(request_: Request) -> None:
    """No direction leads from a place to itself."""
    prepared = prepare_table(request_)
    with jax.enable_x64(True):
        start = table_fit._model(prepared, QUICK, jax.random.key(table_fit._seeds(request_)[0]))
    assert "began with" in table_fit._slice(request_, prepared, start)["skipped"]

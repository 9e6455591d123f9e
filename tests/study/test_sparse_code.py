"""The sparse code of digits: what it measures against NumPy, and the whole study at tiny settings."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from thalweg.errors import UserError
from thalweg.studies import sparse_code as study
from thalweg.study.runner import run_study

IMAGES = np.asarray(load_digits(return_X_y=True)[0])[:40] / 16


def code() -> study.Code:
    return study.Code(8, IMAGES.mean(axis=0), 1.0, key=jax.random.key(0))


def by_numpy(model: study.Code) -> np.ndarray:
    return np.maximum(IMAGES @ np.asarray(model.encoder, float).T + np.asarray(model.bias, float), 0) ** 2


def rebuilt(model: study.Code, codes: np.ndarray) -> float:
    atoms = np.asarray(model.atoms, float)
    atoms = 3 * atoms / np.linalg.norm(3 * atoms, axis=0)  # their length says nothing
    return float(np.mean(np.sum((IMAGES.mean(axis=0) + codes @ atoms.T - IMAGES) ** 2, axis=1)))


def test_what_is_measured_of_a_code():
    model, codes = code(), by_numpy(code())
    found = study.measured(model, IMAGES)
    assert found.activity == pytest.approx(codes.sum() / len(IMAGES), rel=1e-5)  # the model is of 32 bits
    assert found.error == pytest.approx(rebuilt(model, codes), rel=1e-5)
    assert found.zeros == 100 * np.mean(codes == 0)
    assert 10 < found.zeros < 90


def test_a_code_is_cut_off_where_its_activity_just_meets_the_bound():
    codes = by_numpy(code())
    bound = 0.4 * codes.sum() / len(IMAGES)
    found = study.cut(code(), IMAGES, bound)
    ordered = np.sort(codes.ravel())[::-1]
    most = np.cumsum(ordered) / len(IMAGES)
    kept = int(np.sum(most <= bound))
    assert found.activity == pytest.approx(most[kept - 1], rel=1e-5)
    assert found.zeros == pytest.approx(100 * (1 - kept / codes.size))
    assert found.activity <= bound < most[kept]
    assert study.cut(code(), IMAGES, 1e9) == study.measured(code(), IMAGES)  # nothing to cut


def test_an_error_between_two_prices():
    curve = [study.Found(4.0, 1.0, 0.0), study.Found(1.0, 4.0, 0.0), study.Found(9.0, 0.0, 100.0)]
    assert study.at_activity(curve, 2.0) == pytest.approx(2.0)  # error · activity = 4 between them
    assert np.isnan(study.at_activity(curve, 8.0))


@pytest.mark.slow
def test_the_study_at_tiny_settings(tmp_path: Path) -> None:
    settings = {"seeds": 2, "images": 40, "units": 6, "steps": 60, "refresh": 20}
    done = run_study("sparse-code", settings, out=tmp_path / "run")
    assert len(done.claims) == 9
    # two seeds have no interval at 95 %
    assert {claim.verdict.value for claim in done.claims} <= {"undecided", "not supported"}
    assert set(json.loads((tmp_path / "run/certificate.json").read_text())["fits"]) == {"bounded", "beside"}
    page = done.report.read_text(encoding="utf-8")
    assert "Fit “bounded”" in page
    assert "Of 8 members" in page


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="images"):
        run_study("sparse-code", {"images": 1}, out=tmp_path / "run")


def test_the_classical_codes_pay_their_price() -> None:
    images = load_digits().data[:60] / 16
    found = study.dictionaries(images, images.mean(axis=0), 8, seed=0)
    activity, error = np.array([(one.activity, one.error) for one in found]).T
    assert (np.diff(activity) < 0).all()  # a higher price, less activity, a larger error
    assert (np.diff(error) > 0).all()
    # between two optima of error + price · activity either is no better at the other's price (up to the tolerance 1e-6
    # of a descent that may end in another minimum: 5 %)
    for i, price in enumerate(study.FINER):
        costs = error + price * activity
        assert costs[i] <= 1.05 * costs.min()

"""Many minima: gradient descent against the pseudoinverse, and the study's own parts."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP, Linear
from thalweg.objective import JacobianNorm, Objective, Supervised
from thalweg.optim import SGD
from thalweg.studies import many_minima as study
from thalweg.study.runner import run_study
from thalweg.train import Phase, fit_many


def test_gradient_descent_on_fewer_rows_than_features_ends_where_the_pseudoinverse_says():
    x, y = (np.asarray(part[:6], np.float64) for part in (study.INPUTS, study.TARGET))
    rng = np.random.default_rng(0)
    inverse = np.linalg.pinv(x)
    with jax.enable_x64(True):
        empty = Linear(10, 1, key=jax.random.key(0), bias=False, dtype=float)
        starts = [np.zeros(10), rng.normal(size=10)]
        models = [eqx.tree_at(lambda m: m.weight, empty, jnp.asarray(start[:, None])) for start in starts]
        rate = len(x) / (2 * np.linalg.norm(x, 2) ** 2)  # one over the largest curvature
        objective = Objective(rows=Supervised(x, y[:, None], loss=squared_error))
        fitted = fit_many(models, objective, Phase(SGD(float(rate)), 40_000), precision=float, log_every=40_000)
        from_zero, from_else = (np.asarray(model.weight)[:, 0] for model in fitted.models)
    # the slowest direction shrinks by 1 − (σ₆/σ₁)² a step: after 40,000 of them far below rounding
    assert (1 - np.min(np.linalg.svd(x)[1] ** 2) / np.linalg.norm(x, 2) ** 2) ** 40_000 < 1e-13
    np.testing.assert_allclose(from_zero, inverse @ y, atol=1e-12)
    np.testing.assert_allclose(x @ from_zero, y, atol=1e-12)  # it fits
    outside = lambda w: w - inverse @ (x @ w)
    # nothing that gradient descent adds lies outside the rows' span; 40,000 roundings of 1e-16 may
    np.testing.assert_allclose(outside(from_else), outside(starts[1]), atol=1e-12)
    np.testing.assert_allclose(from_else, inverse @ y + outside(starts[1]), atol=1e-12)
    assert np.linalg.norm(from_else) > 1.5 * np.linalg.norm(from_zero)  # another minimum, and a longer one


def test_a_member_misses_what_its_network_misses_on_its_own_rows():
    network = MLP(10, None, width=4, depth=1, key=jax.random.key(1))
    member = study.member(3, network)
    order = np.random.default_rng(3).permutation(442)
    at = study.positions(2, 4)
    assert at.shape == (2, 11)
    found = [float(member(jnp.asarray(one))) for one in at]
    expected = [float(network(jnp.asarray(study.INPUTS[i]))) - float(study.TARGET[i]) for i in order[2:4]]
    assert found == pytest.approx(expected, abs=1e-6)  # 32 bits
    # its Jacobian by the shift is the network's by its inputs
    term = JacobianNorm(at, 1.0)
    slope = jax.grad(network)(jnp.asarray(study.INPUTS[order[2]]))
    assert float(term.example_cost(member, jnp.asarray(at[0]), None)) == pytest.approx(float(slope @ slope), rel=1e-5)


def test_the_data_and_the_classical_methods():
    assert study.INPUTS.shape == (442, 10)
    # R² of ordinary least squares on all rows is 0.5177 (Efron et al.; scikit-learn's page)
    assert LinearRegression().fit(study.INPUTS, study.TARGET).score(study.INPUTS, study.TARGET) == pytest.approx(
        0.5177, abs=1e-4
    )
    # on other rows both lie between noise (about 0.48) and the mean's error of about 1
    for name, rule in study.CLASSICAL.items():
        assert 0.45 < rule(study.INPUTS, study.TARGET) < 0.9, name
    assert len(study.PELTS) == 21


@pytest.mark.slow
def test_the_study_at_small_settings(tmp_path: Path) -> None:
    small = {"seeds": 6, "steps": 300, "curve": 300, "width": 8, "strengths": 1, "descent": 40_000}
    done = run_study("many-minima", small, out=tmp_path / "run")
    # these are theorems, whatever the rows
    assert [claim.verdict.value for claim in done.claims[:2]] == ["supported"] * 2
    assert len(done.claims) == 15
    assert {path.stem for path in (tmp_path / "run/arrays/figures").glob("*.svg")} == {"2-errors", "3-ranks"}
    assert len(list((tmp_path / "run/arrays/figures/1-curves").glob("*.svg"))) == 3


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seeds"):
        run_study("many-minima", {"seeds": 5}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

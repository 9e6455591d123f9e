"""A cost that is not finite names its point; what terms weigh at the start is said and kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import L2, FreshPoints, Objective, Residual, Rows, Supervised, trainable
from thalweg.optim import LBFGS, Adam
from thalweg.train import FitFailed, Phase, fit, fit_many

X = np.linspace(0, 1, 8)[:, None].astype(np.float32)


def network(seed=0):
    return MLP(1, 1, width=4, depth=1, activation=jnp.tanh, key=jax.random.key(seed))


def edge(weight=1.0):
    return Residual(lambda u, x: u(x) - 1, Rows(X[:1]), weight=weight)


def holed(u, x):
    return u(x) / jnp.where(jnp.abs(x - X[3]) < 1e-6, 0.0, 1.0)


@pytest.mark.parametrize("optimizer", [Adam(1e-3), LBFGS()])
def test_a_point_without_a_residual_is_named(optimizer):
    objective = Objective(law=Residual(holed, Rows(X)), edge=edge())
    with pytest.raises(FitFailed, match=r"cost of 'law'.*1 of 8 examples.*'law'.*number 3 at \(0\.4286\)"):
        fit(network(), objective, Phase(optimizer, 5))


def test_a_row_without_a_loss_is_named_with_its_target():
    y = np.ones((8, 1), np.float32)
    y[5] = -2.0
    loss = lambda output, target: jnp.sum(jnp.sqrt(target) * output**2)
    with pytest.raises(FitFailed, match=r"number 5 at \(0\.7143\), \(-2\)"):
        fit(network(), Objective(data=Supervised(X, y, loss=loss)), Phase(Adam(1e-3), 5))


def test_of_fresh_points_the_one_that_was_drawn_is_named():
    """One in a hundred has no residual: which one it is, only the batch of that step knows."""
    rare = lambda u, x: u(x) / jnp.where(x < 0.01, 0.0, 1.0)
    points = FreshPoints(lambda key, n: jax.random.uniform(key, (n, 1)), 4)
    with pytest.raises(FitFailed) as failure:
        fit(network(), Objective(law=Residual(rare, points), edge=edge()), Phase(Adam(1e-3), 500), log_every=7)
    evidence = str(failure.value)
    assert "of 4 examples of term 'law'" in evidence
    assert float(evidence.split("at (")[1].split(")")[0]) < 0.01


def test_a_walk_that_runs_away_blames_no_point():
    objective = Objective(data=Supervised(X, X, loss=squared_error))
    with pytest.raises(FitFailed, match="not finite at step") as failure:
        fit(network(), objective, Phase(Adam(1e30), 40))
    assert "example" not in str(failure.value)


def test_what_terms_weigh_at_the_start_is_on_the_record():
    objective = Objective(
        law=Residual(lambda u, x: 1e4 * u(x), Rows(X)), edge=edge(1e-3), small=L2(1e-9, where=trainable)
    )
    model = network()
    found = fit(model, objective, Phase(Adam(1e-3), 20))
    first = found.decisions[0]
    values = np.asarray(jax.vmap(model)(jnp.asarray(X)), np.float64)
    law, side = 1e8 * np.mean(values**2), (values[0, 0] - 1) ** 2
    assert first["step"] == 1
    assert first["weighs"] == pytest.approx({"law": law, "edge": 1e-3 * side}, rel=1e-5)
    assert first["rms"] == pytest.approx({"law": np.sqrt(law), "edge": np.sqrt(side)}, rel=1e-5)
    assert "badly scaled: law weighs" in first["what"]
    assert [finding.name for finding in found.verdict.findings] == ["badly-scaled"]


def test_members_each_have_their_sizes_and_one_term_has_nothing_to_be_compared_with():
    objective = Objective(law=Residual(lambda u, x: u(x), Rows(X)), edge=edge())
    found = fit_many([network(i) for i in range(3)], objective, Phase(Adam(1e-3), 5))
    assert len(found.decisions[0]["weighs"]["law"]) == 3
    assert "badly" not in found.decisions[0]["what"]
    assert fit(network(), Objective(edge=edge()), Phase(Adam(1e-3), 5)).decisions == []


@pytest.mark.parametrize(
    ("equation", "words"),
    [
        (lambda u, x: (u(x), u(x)), "is tuple"),
        (lambda u, x: None, "is NoneType"),
        (lambda u, x: u(x)[:0], r"float32 and shape \(0,\)"),
        (lambda u, x: u(x) > 0, "type bool"),
        (lambda u, x: jax.lax.complex(u(x), u(x)), "type complex64"),
    ],
)
def test_a_residual_of_another_shape_or_type_is_refused_by_name(equation, words):
    with pytest.raises(UserError, match=f"{words}.*term 'law'"):
        fit(network(), Objective(law=Residual(equation, Rows(X)), edge=edge()), Phase(Adam(1e-3), 5))

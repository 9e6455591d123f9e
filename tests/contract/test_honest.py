"""What a reviewer caught once: nothing that cannot work is begun, and a solved problem is not called a failure."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw


class Plane(eqx.Module):
    """w·z + b."""

    w: jax.Array
    b: jax.Array

    def __call__(self, z, *, key=None):
        return self.w @ z + self.b


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(32, 2)).astype(np.float32)
    return x, x @ np.array([1.0, 2.0], np.float32)


def plane() -> Plane:
    return Plane(jnp.array([1.0, 2.1]), jnp.array(0.0))


def squared(output, target):
    return (output - target) ** 2


def constrained(data, **options) -> tw.Objective:
    term = tw.Supervised(*data, loss=squared, weight=100.0)
    mean = tw.Equal(lambda model, example: model(example), 1.0, tw.Rows(data[0]), penalty=2.0)
    return tw.Objective(data=term, mean=mean, **options)


def test_a_solved_constraint_is_converged_although_its_multiplier_raised_the_objective(data):
    fitted = tw.fit(plane(), constrained(data, refresh_every=20), tw.Phase(tw.LBFGS(), 3_000), precision=jnp.float64)
    assert fitted.verdict.status is tw.Status.CONVERGED
    assert fitted.rows[-1]["last"] > fitted.rows[0]["total"]
    mean = float(np.mean(data[0].astype(float) @ np.asarray(fitted.model.w)) + np.asarray(fitted.model.b))
    assert mean == pytest.approx(1.0, abs=1e-6)  # measured 1e-12


def test_a_constraint_that_nothing_would_move_is_refused(data):
    with pytest.raises(tw.UserError, match="only a refresh can move") as caught:
        tw.fit(plane(), constrained(data), tw.Phase(tw.LBFGS(), 10))
    assert "'mean'" in str(caught.value)


def test_a_condition_on_validation_without_validation_is_refused(data):
    objective = tw.Objective(data=tw.Supervised(*data, loss=squared))
    with pytest.raises(tw.UserError, match="NoImprovement watches a validation score"):
        tw.fit(plane(), objective, tw.Phase(tw.Adam(1e-2), 10, until=tw.NoImprovement(steps=5)))


def test_validation_that_is_never_finite_is_a_finding(data):
    x, y = data
    objective = tw.Objective(data=tw.Supervised(x, y, loss=squared))
    lost = tw.Objective(data=tw.Supervised(x, np.full_like(y, np.nan), loss=squared))
    fitted = tw.fit(plane(), objective, tw.Phase(tw.Adam(1e-2), 20), validation=lost)
    assert "validation-not-finite" in {finding.name for finding in fitted.verdict.findings}


@pytest.mark.parametrize("seed", [2**32, -1, 1.5, "a", None, True])
def test_seeds_that_would_alias_or_fail_are_refused(data, seed):
    objective = tw.Objective(data=tw.Supervised(*data, loss=squared))
    with pytest.raises(tw.UserError, match="seed"):
        tw.fit(plane(), objective, tw.Phase(tw.Adam(1e-2), 1), seed=seed)


def test_every_validation_score_has_a_row_of_its_own_step(data):
    objective = tw.Objective(data=tw.Supervised(*data, loss=squared))
    fitted = tw.fit(
        plane(), objective, tw.Phase(tw.Adam(1e-2), 20), validation=objective, log_every=7, validate_every=3
    )
    scored = {row["step"]: row["validation"]["total"] for row in fitted.rows if "validation" in row}
    assert list(scored) == [3, 6, 9, 12, 15, 18, 20]
    best = float(np.mean([squared(fitted.model(z), t) for z, t in zip(*data, strict=True)]))
    assert best == pytest.approx(min(scored.values()), rel=1e-5)  # float32 means in two orders

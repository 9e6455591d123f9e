"""The networks of every family, and the mixtures that ensembles of them answer with."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import quad

from thalweg.nn import load_model, save_model
from thalweg.tables.family import Family
from thalweg.tables.mixture import Mixture
from thalweg.tables.model import CLASSES, Ensemble
from thalweg.tables.numbers import MODELS, LogitNormal
from thalweg.tree import tree_hash
from thalweg.trust import predict_numbers

ROWS = 40
RNG_SEED = 3


def target(family: Family) -> np.ndarray:
    rng = np.random.default_rng(RNG_SEED)
    match family:
        case Family.LOG_NORMAL:
            return rng.lognormal(2, 0.6, ROWS)
        case Family.LOGIT_NORMAL:
            return rng.beta(2, 5, ROWS)
        case Family.POISSON | Family.NEGATIVE_BINOMIAL:
            return rng.negative_binomial(2, 0.2, ROWS).astype(float)
        case _:
            return rng.normal(50, 7, ROWS)


def members(family: Family, count: int = 3):
    """Untrained networks, their weights moved so that every row and member answers differently."""
    rng = np.random.default_rng(RNG_SEED)
    x, y = rng.normal(size=(ROWS, 4)), target(family)
    found = []
    for key in jax.random.split(jax.random.key(0), count):
        model = MODELS[family](x, y, width=8, depth=1, dropout=0.0, key=key, dtype=jnp.float64)
        moved = jax.random.normal(key, model.network.linear.weight.shape, jnp.float64) * 0.3
        found.append(eqx.tree_at(lambda one: one.network.linear.weight, model, moved))
    return found, x, y


def distributions(models, x):
    """Each member's own, without the mixture's help."""
    outputs = [jax.vmap(lambda one, model=model: model(one))(jnp.asarray(x)) for model in models]
    parts = [[np.asarray(part) for part in (one if isinstance(one, tuple) else (one,))] for one in outputs]
    return [model.distribution(*each) for model, each in zip(models, parts, strict=True)]


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("family", Family)
def test_the_mean_cost_of_a_mixture_is_that_of_its_density(family: Family):
    models, x, y = members(family)
    density = "pmf" if models[0].is_discrete else "pdf"
    if family is Family.LOGIT_NORMAL:  # no density in SciPy: the slope of its distribution function
        step = 1e-6
        each = [(one.cdf(y + step) - one.cdf(y - step)) / (2 * step) for one in distributions(models, x)]
        tolerance = 1e-6
    else:
        each = [getattr(one, density)(y) for one in distributions(models, x)]
        tolerance = 1e-10  # a density's logarithm and back
    np.testing.assert_allclose(Mixture(models, x).costs(y), -np.log(np.mean(each, axis=0)), rtol=tolerance)


@pytest.mark.parametrize("family", Family)
def test_mean_and_deviation_are_those_of_the_distribution_in_the_targets_units(family: Family):
    models, x, _ = members(family)
    mixture = Mixture(models, x)
    found = mixture.prediction()
    levels = (np.arange(10_000) + 0.5) / 10_000  # the midpoint rule over every member's quantiles
    values = np.concatenate([[one.ppf(level) for level in levels] for one in distributions(models, x)])
    # What lies beyond the last midpoint, at 1 - 5e-5, is left out: of these, most for a log-normal of scale 1.2, where
    # it is 0.4 % of the mean and 7 % of the variance, and the rule is coarse just before it.
    np.testing.assert_allclose(values.mean(0), found.mean, rtol=0.01)
    np.testing.assert_allclose(values.std(0), found.total, rtol=0.15)
    assert (found.epistemic > 0).all()


@pytest.mark.parametrize("family", Family)
def test_quantiles_are_exact_for_the_mixture(family: Family):
    models, x, _ = members(family)
    mixture = Mixture(models, x)
    for level in (0.025, 0.5, 0.975):
        found = mixture.quantile(level)
        if models[0].is_discrete:
            assert (found == np.round(found)).all()
            assert (mixture.cdf(found) >= level).all()
            assert (mixture.cdf(found - 1) < level).all()
        else:
            np.testing.assert_allclose(mixture.cdf(found), level, rtol=1e-9)  # forty halvings
    assert (mixture.quantile(0.025) < mixture.quantile(0.975)).all()
    alone = Mixture(models[:1], x)
    np.testing.assert_allclose(alone.quantile(0.3), distributions(models[:1], x)[0].ppf(0.3), rtol=1e-13)


def test_the_gaussian_mixture_is_the_deep_ensemble():
    models, x, _ = members(Family.GAUSSIAN)
    mine, theirs = Mixture(models, x).prediction(), predict_numbers(models, x)
    for name in ("mean", "aleatoric", "epistemic"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-12)


@pytest.mark.parametrize(("median", "scale"), [(0.0, 0.3), (2.0, 1.0), (-3.0, 2.5)])
def test_moments_of_a_proportion_by_quadrature(median: float, scale: float):
    found = LogitNormal(np.array([median]), np.log(np.array([scale])))
    weigh = lambda power: quad(
        lambda z: (1 / (1 + np.exp(-median - scale * z))) ** power * scipy.stats.norm.pdf(z), -12, 12, epsabs=1e-13
    )[0]
    # 64 nodes: a logistic function 2.5 wide is integrated to 1e-5, one 1 wide to 1e-10.
    assert found.mean()[0] == pytest.approx(weigh(1), rel=2e-5)
    assert found.std()[0] == pytest.approx(np.sqrt(weigh(2) - weigh(1) ** 2), rel=2e-4)
    np.testing.assert_allclose(found.cdf(found.ppf(0.2)), 0.2, rtol=1e-12)
    assert found.cdf(np.array([0.0, 1.0])).tolist() == [0, 1]


@pytest.mark.parametrize("family", Family)
def test_every_family_is_saved_and_loaded(family: Family, tmp_path: Path):
    models, x, _ = members(family, count=2)
    save_model(tmp_path / "model", Ensemble(tuple(models)), {}, classes=CLASSES)
    again, _ = load_model(tmp_path / "model", classes=CLASSES)
    assert tree_hash(again) == tree_hash(Ensemble(tuple(models)))
    np.testing.assert_array_equal(Mixture(again.members, x).prediction().mean, Mixture(models, x).prediction().mean)


@pytest.mark.parametrize("family", Family)
def test_answers_and_gradients_stay_finite_far_from_the_training_rows(family: Family):
    (model, *_), x, y = members(family)
    far = jnp.asarray(1e6 * x[0])
    cost = lambda model, x: model.loss(model(x), jnp.asarray(y[0]))
    value, slope = eqx.filter_value_and_grad(cost)(model, far)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    found = Mixture([model], np.asarray(far)[None]).prediction()
    assert np.isfinite(found.mean).all()
    assert (found.aleatoric > 0).all()


def test_a_target_that_is_mostly_one_value_has_a_scale():
    y = np.array([5.0] * 30 + [6.0, 9.0, 1.0])
    model = MODELS[Family.STUDENT_T](
        np.arange(33.0)[:, None], y, width=4, depth=1, dropout=0.0, key=jax.random.key(0), dtype=jnp.float64
    )
    assert float(model.target.scale) == pytest.approx(np.std(y))

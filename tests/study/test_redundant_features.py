"""Redundant features: what the study measures, on networks whose answers are known, and the whole study."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.nn import MLP
from thalweg.studies import redundant_features as study
from thalweg.study.runner import run_study

X = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (40, 5)), jnp.float32)


def network(dropout=0.0):
    return MLP(5, 3, width=8, depth=2, activation=jax.nn.relu, dropout=dropout, key=jax.random.key(0))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_signals_are_those_of_the_network(dropout):
    model = network(dropout)
    first, second, out = study.signals(model, X, lambda _, found: found)
    np.testing.assert_allclose(out, jax.vmap(model)(X), rtol=1e-5)  # 32 bits
    by_hand = np.maximum(np.asarray(X) @ np.asarray(model.layers[0].weight), 0)
    np.testing.assert_allclose(first, by_hand, rtol=1e-5, atol=1e-6)
    assert second.shape == (40, 8)
    assert [weight.shape for weight in study.hidden(model)] == [(5, 8), (8, 8)]


def test_lost_units_are_lost_for_all_rows_and_the_others_count_for_more():
    model, key = network(), jax.random.key(2)
    masks = [np.asarray(jax.random.bernoulli(jax.random.fold_in(key, i), 0.6, (8,))) for i in (1, 2)]
    w = [np.asarray(layer.weight, np.float64) for layer in model.layers if hasattr(layer, "weight")]
    answers = np.maximum(np.asarray(X, np.float64) @ w[0], 0) * masks[0] / 0.6
    answers = np.maximum(answers @ w[1], 0) * masks[1] / 0.6
    logits = answers @ w[2]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(study.with_units_lost(model, X, 0.4, key), expected, rtol=1e-4)  # 32 bits
    assert not all(mask.all() for mask in masks)


def test_units_that_are_copies_are_told():
    settings = study.Settings(masks=5)
    model, labels = network(), np.zeros(40, int)
    copied = eqx.tree_at(
        lambda m: [m.layers[0].weight, m.layers[2].weight],
        model,
        [
            jnp.repeat(model.layers[0].weight[:, 2:3], 8, axis=1),
            jnp.repeat(jnp.abs(model.layers[2].weight[:, :1]), 8, 1),
        ],
    )
    plain, same = (study.measured(one, X, labels, settings, 0) for one in (model, copied))
    assert same["weights"] == pytest.approx(1, abs=1e-6)
    assert plain["weights"] < 0.6
    for what in ("accuracy", "average"):
        assert 0 <= plain[what] <= 100
    assert 0 < plain["apart"] < 1


@pytest.mark.slow
def test_the_study_at_small_settings(tmp_path: Path) -> None:
    done = run_study("redundant-features", {"seeds": 6, "steps": 100, "width": 16, "masks": 5}, out=tmp_path / "run")
    assert len(done.claims) == 16
    # what the penalty is made of falls
    assert done.claims[0].verdict.value == "supported"
    figures = sorted(path.stem for path in (tmp_path / "run/arrays/figures").glob("*.svg"))
    assert figures == ["1-weights", "2-answers", "3-rank", "4-drop", "5-accuracy"]


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dropout"):
        run_study("redundant-features", {"dropout": 1.0}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

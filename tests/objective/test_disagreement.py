"""Conditions that contradict each other end in the verdict; those that are only hard, or not yet met, do not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.types import Finding

ROD = np.linspace(0.0, 1.0, 30)[:, None]


def bend(u, at):
    return tw.derivative(u, at, 0, 0)


def ends(left: float, *, again: float | None = None) -> tw.Objective:
    """u'' = 0 with u(0) given, perhaps twice, and u(1) = 1."""
    value = lambda number: lambda u, at: u(at) - number
    twice = {} if again is None else {"again": tw.Residual(value(again), np.array([[0.0]]))}
    return tw.Objective(
        law=tw.Residual(bend, ROD),
        left=tw.Residual(value(left), np.array([[0.0]])),
        right=tw.Residual(value(1.0), np.array([[1.0]])),
        **twice,
    )


def found(objective: tw.Objective, phase: tw.Phase | None = None, seed: int = 0) -> list[Finding]:
    model = tw.nn.MLP(1, None, width=8, depth=1, activation=jnp.tanh, key=jax.random.key(seed))
    phase = phase or tw.Phase(tw.LevenbergMarquardt(), 60)
    done = tw.fit(model, objective, phase, precision=jnp.float64, raise_failures=False)
    return [finding for finding in done.verdict.findings if finding.name == "terms-disagree"]


@pytest.mark.parametrize("seed", [0, 1])
def test_two_values_at_one_place_disagree(seed: int) -> None:
    (finding,) = found(ends(0.0, again=2.0), seed=seed)
    for name in ("left", "again"):
        assert f"'{name}' has a root mean square of 1, worst at (0)" in finding.evidence  # half way
    assert "cosine of their gradients -1.00" in finding.evidence


def test_a_large_weight_decides_and_the_other_term_stays_unmet() -> None:
    objective = ends(0.0, again=2.0)
    heavy = eqx.tree_at(lambda o: o.terms["left"].weight, objective, 1e4)
    (finding,) = found(heavy)
    assert "'again' has a root mean square of 2," in finding.evidence


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("again", [None, 0.0])
def test_values_that_agree_are_no_finding(again: float | None, seed: int) -> None:
    assert found(ends(0.0, again=again), seed=seed) == []


@pytest.mark.parametrize(
    "phase",
    [
        tw.Phase(tw.Adam(1e-4), 40),  # still lowers the objective
        tw.Phase(tw.Adam(1e-9), 300),  # is stalled
        tw.Phase(tw.Adam(1e-2), 300, until=tw.LossBelow(1.5)),  # was told to stop
    ],
    ids=["improving", "stalled", "stopped"],
)
def test_a_walk_that_has_not_arrived_says_nothing(phase: tw.Phase) -> None:
    assert found(ends(-1.0), phase) == []
    if phase.until is None:
        assert found(ends(0.0, again=2.0), phase) == []


@pytest.mark.parametrize("steps", [60, 3_000])  # rows are a hundred times as rare
@pytest.mark.slow
def test_noisy_readings_do_not_disagree_with_the_law_or_with_each_other(steps: int) -> None:
    rng = np.random.default_rng(0)
    at = np.linspace(0.0, 1.0, 40)
    instrument = lambda: tw.Residual(
        lambda u, one: u(one[:1]) - one[1], np.stack([at, at + rng.normal(0.0, 0.3, 40)], axis=1)
    )
    objective = tw.Objective(law=tw.Residual(bend, ROD), one=instrument(), two=instrument())
    assert found(objective, tw.Phase(tw.LevenbergMarquardt(), steps)) == []


def test_noisy_readings_do_not_disagree_with_a_prior() -> None:
    rng = np.random.default_rng(1)
    at = np.linspace(0.0, 1.0, 40)
    readings = np.stack([at, np.sin(6 * at) + rng.normal(0.0, 0.4, 40)], axis=1)
    weights = lambda u: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(eqx.filter(u, eqx.is_array))])
    objective = tw.Objective(
        data=tw.Residual(lambda u, one: u(one[:1]) - one[1], readings),
        prior=tw.Residual(lambda u, _: 0.05 * weights(u), np.zeros((1, 1))),
    )
    assert found(objective) == []


def test_flux_that_has_nowhere_to_go_disagrees() -> None:
    """Insulated ends and a source: no field has both, wherever one looks."""
    slope = lambda u, at: tw.derivative(u, at, 0)
    objective = tw.Objective(
        law=tw.Residual(lambda u, at: bend(u, at) + 1.0, ROD),
        ends=tw.Residual(slope, np.array([[0.0], [1.0]]), weight=10.0),
    )
    (finding,) = found(objective)
    assert "'law'" in finding.evidence
    assert "'ends'" in finding.evidence


def test_members_are_told_apart() -> None:
    """One member's readings contradict its other condition, the next one's do not."""

    class Told(eqx.Module):
        network: tw.nn.MLP
        value: jax.Array

        def __call__(self, at):
            return self.network(at)

    models = [
        Told(tw.nn.MLP(1, None, width=8, depth=1, activation=jnp.tanh, key=jax.random.key(0)), jnp.asarray(value))
        for value in (0.0, 2.0)
    ]
    objective = tw.Objective(
        law=tw.Residual(bend, ROD),
        own=tw.Residual(lambda u, at: u(at) - u.value, np.array([[0.0]])),
        given=tw.Residual(lambda u, at: u(at), np.array([[0.0]])),
    )
    phase = tw.Phase(tw.LevenbergMarquardt(), 60, where=tw.frozen(lambda told: told.value))
    done = tw.fit_many(models, objective, phase, seeds=[0, 1], precision=jnp.float64, raise_failures=False)
    names = [[finding.name for finding in verdict.findings] for verdict in done.verdicts]
    assert ["terms-disagree" in one for one in names] == [False, True]


def test_what_only_reverse_mode_differentiates_is_examined_too() -> None:
    """A custom reverse rule, as solvers have one, refuses forward mode."""

    @jax.custom_vjp
    def doubled(x):
        return 2 * x

    doubled.defvjp(lambda x: (2 * x, None), lambda _, back: (2 * back,))
    value = lambda number: tw.Residual(lambda u, at: doubled(u(at)) - number, np.array([[0.0]]))
    (finding,) = found(tw.Objective(one=value(0.0), other=value(4.0)))
    assert "root mean square of 2," in finding.evidence

"""Orthogonality, group lasso and spectral norm: their gradients, what they lead to, and what they refuse."""

import equinox as eqx
import jax
import numpy as np
import pytest
from sklearn.datasets import load_linnerud
from sklearn.linear_model import MultiTaskLasso

from thalweg.errors import UserError
from thalweg.losses import squared_error
from thalweg.nn import MLP, Conv2d, Linear, UpConv2d
from thalweg.objective import GroupLasso, Objective, Orthogonality, Side, SpectralNorm, Supervised, only, trainable
from thalweg.optim import LBFGS, SGD, Cosine
from thalweg.train import Phase, fit

WEIGHT = 0.3
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def layer(units, inputs):
    return Linear(inputs, units, key=KEY, dtype=float)


def slope(penalty, model):
    """The gradient of its cost; the weight is the objective's to apply."""
    return eqx.filter_grad(lambda m: penalty.batch_loss(m, None, None)[0])(model)


# ------------------------------------------------------------------------------------------------------ orthogonality
@pytest.mark.parametrize(("units", "inputs"), [(3, 5), (5, 3), (4, 4)])
def test_the_gradient_of_orthogonality(units, inputs):
    model = layer(units, inputs)
    w = np.asarray(model.weight).T  # units × inputs
    found = slope(Orthogonality(WEIGHT), model)
    # a sum of some 25 products of order one: rounding of 1e-16 each
    np.testing.assert_allclose(found.weight.T, 4 * (w @ w.T - np.eye(units)) @ w, atol=1e-14)
    np.testing.assert_array_equal(found.bias, 0)


def test_a_convolution_counts_as_receptive_fields_by_units():
    model = Conv2d(2, 3, kernel_size=2, key=KEY, dtype=float)
    w = np.stack([np.asarray(model.weight)[..., unit].ravel() for unit in range(3)])  # (3, 2·2·2)
    cost, _ = Orthogonality(1.0, side=Side.UNITS).batch_loss(model, None, None)
    # some 70 products: as above
    assert cost == pytest.approx(np.sum((w @ w.T - np.eye(3)) ** 2), rel=1e-13)
    expected = 4 * (w @ w.T - np.eye(3)) @ w
    found = slope(Orthogonality(1.0), model).weight
    np.testing.assert_allclose(np.stack([found[..., unit].ravel() for unit in range(3)]), expected, atol=1e-14)


@pytest.mark.parametrize(("units", "inputs"), [(3, 5), (5, 3)])
def test_its_least_value_is_what_the_units_have_too_many_of(units, inputs):
    found = fit(layer(units, inputs), Objective(right=Orthogonality(1.0)), Phase(LBFGS(), 100), precision=float)
    w = np.asarray(found.model.weight).T
    gap = np.sum((w @ w.T - np.eye(units)) ** 2)
    # L-BFGS stops where no decrease can be told from rounding, 1e-16 of a value of order one; the slope is its root
    assert gap == pytest.approx(max(0, units - inputs), abs=1e-12)
    few = w if units <= inputs else w.T
    np.testing.assert_allclose(few @ few.T, np.eye(min(units, inputs)), atol=1e-6)


def test_asked_of_the_units_or_the_inputs_it_differs_by_a_constant():
    square, tall = layer(4, 4), layer(3, 5)
    for side in Side:
        cost, _ = Orthogonality(1.0, side=side).batch_loss(square, None, None)
        # for as many units as inputs ‖WWᵀ − I‖ = ‖WᵀW − I‖; sums of 16 squares
        w = np.asarray(square.weight)
        assert cost == pytest.approx(np.sum((w @ w.T - np.eye(4)) ** 2), rel=1e-13)
    few, _ = Orthogonality(1.0, side=Side.UNITS).batch_loss(tall, None, None)
    w = np.asarray(tall.weight).T
    assert np.sum((w.T @ w - np.eye(5)) ** 2) == pytest.approx(float(few) + 2, rel=1e-13)


def test_more_vectors_than_can_be_orthonormal_are_refused_with_the_remedy():
    with pytest.raises(UserError, match=r"5 units of 3 numbers .* never fall below 2") as refused:
        Orthogonality(1.0, side=Side.UNITS).batch_loss(layer(5, 3), None, None)
    assert "side=Side.INPUTS" in str(refused.value)
    with pytest.raises(UserError, match=r"5 inputs of 3 numbers") as refused:
        Orthogonality(1.0, side=Side.INPUTS).batch_loss(layer(3, 5), None, None)
    assert "side=Side.UNITS" in str(refused.value)


@pytest.mark.parametrize("penalty", [Orthogonality, GroupLasso, SpectralNorm])
def test_one_layer_of_a_network_can_be_chosen(penalty):
    model = MLP(4, 2, width=3, depth=2, key=KEY, dtype=float)
    found = slope(penalty(1.0, where=only(lambda m: m.layers[2].weight)), model)
    assert np.any(found.layers[2].weight != 0)
    for other in (0, 4):
        np.testing.assert_array_equal(found.layers[other].weight, 0)


# -------------------------------------------------------------------------------------------------------- group lasso
@pytest.mark.parametrize(
    ("make", "groups", "axes"),
    [
        (lambda: Conv2d(3, 5, kernel_size=2, key=KEY, dtype=float), Side.UNITS, (0, 1, 2)),
        (lambda: Conv2d(3, 5, kernel_size=2, key=KEY, dtype=float), Side.INPUTS, (0, 1, 3)),
        # of groups of channels the one array of all channels with a number; of windows one channel at one pixel
        (lambda: Conv2d(4, 4, kernel_size=3, groups=4, key=KEY, dtype=float), Side.UNITS, (0, 1, 2)),
        (lambda: Conv2d(4, 4, kernel_size=3, groups=4, key=KEY, dtype=float), Side.INPUTS, (0, 1, 2, 3)),
        (lambda: Conv2d(4, 6, kernel_size=1, groups=2, key=KEY, dtype=float), Side.INPUTS, (0, 1, 3)),
        (lambda: UpConv2d(3, 2, size=2, key=KEY, dtype=float), Side.UNITS, (0,)),
        (lambda: UpConv2d(3, 2, size=2, key=KEY, dtype=float), Side.INPUTS, (1,)),
    ],
)
def test_what_a_group_is_of_convolutions(make, groups, axes):
    model = make()
    squares = np.sum(np.asarray(model.weight) ** 2, axis=axes)
    found = GroupLasso(1.0, groups=groups).batch_loss(model, None, None)[0]
    size = model.weight.size / squares.size
    assert found == pytest.approx(size**0.5 * np.sum(np.sqrt(squares)), rel=1e-12)  # sums of a few dozen numbers


@pytest.fixture(scope="module")
def exercise():
    """20 men: three exercises, and three measures of the body (Linnerud); columns of mean 0 and deviation 1."""
    x, y = load_linnerud(return_X_y=True)
    return tuple((part - part.mean(axis=0)) / part.std(axis=0) for part in (x, y))


def lassoed(x, y, weight):
    objective = Objective(data=Supervised(x, y, loss=squared_error), sparse=GroupLasso(weight, groups=Side.INPUTS))
    # the last rates are 1e-5, and a group about 0 is passed by at most rate times weight
    program = Phase(SGD(Cosine(0.2, 3_000, last=1e-5)), 3_000)
    return np.asarray(fit(layer(3, 3), objective, program, precision=float).model.weight)  # inputs × outputs


def test_on_independent_columns_groups_are_thresholded_as_blocks(exercise):
    x, y = exercise
    x = np.linalg.qr(x)[0] * len(x) ** 0.5  # xᵀx = n·I
    plain = x.T @ y / len(x)  # least squares
    sizes = np.linalg.norm(plain, axis=1)
    weight = 2 * np.sort(sizes)[0] * 1.2 / 3**0.5  # between the smallest group and the next
    kept = np.maximum(0, 1 - weight * 3**0.5 / 2 / sizes)
    assert np.count_nonzero(kept) == 2
    # rate times weight where a group ends at 0
    np.testing.assert_allclose(lassoed(x, y, weight), kept[:, None] * plain, atol=2e-5)


def test_groups_by_input_are_the_multi_task_lasso(exercise):
    x, y = exercise
    weight = 0.35
    peer = MultiTaskLasso(alpha=weight * 3**0.5 / 2, tol=1e-10, max_iter=100_000).fit(x, y)
    assert 0 < np.sum(np.any(peer.coef_ != 0, axis=0)) < 3  # else it would be no test
    # the exercises correlate by up to 0.7, and the rates fall before the last of that has settled
    np.testing.assert_allclose(lassoed(x, y, weight), peer.coef_.T, atol=5e-4)


@pytest.mark.parametrize("groups", Side)
def test_the_gradient_of_the_group_lasso(groups):
    model = Conv2d(2, 3, kernel_size=2, key=KEY, dtype=float)
    model = eqx.tree_at(lambda m: m.weight, model, model.weight.at[..., 1].set(0).at[:, :, 0].set(0))
    w = np.asarray(model.weight)
    axes = (0, 1, 2) if groups is Side.UNITS else (0, 1, 3)
    lengths = np.sqrt(np.sum(w**2, axis=axes, keepdims=True))
    size = 8 if groups is Side.UNITS else 12
    expected = size**0.5 * np.divide(w, lengths, out=np.zeros_like(w), where=lengths > 0)  # 0 where the group is 0
    np.testing.assert_allclose(slope(GroupLasso(1.0, groups=groups), model).weight, expected, rtol=1e-13)


# ------------------------------------------------------------------------------------------------------ spectral norm
@pytest.mark.parametrize(("units", "inputs"), [(3, 5), (5, 3)])
def test_the_spectral_norm_and_its_gradient(units, inputs):
    model = layer(units, inputs)
    w = np.asarray(model.weight).T
    u, s, v = np.linalg.svd(w)
    cost, _ = SpectralNorm(WEIGHT).batch_loss(model, None, None)
    # two decompositions of the same matrix of order one agree to some rounding
    assert cost == pytest.approx(s[0] ** 2, rel=1e-13)
    np.testing.assert_allclose(
        slope(SpectralNorm(WEIGHT), model).weight.T, 2 * s[0] * np.outer(u[:, 0], v[0]), atol=1e-13
    )
    along = np.random.default_rng(0).normal(size=w.shape)
    ahead, behind = (np.linalg.norm(w + h * along, 2) ** 2 for h in (1e-5, -1e-5))
    # a central difference: its error is of the order of h², and rounding over h
    assert np.sum(slope(SpectralNorm(WEIGHT), model).weight.T * along) == pytest.approx(
        (ahead - behind) / 2e-5, rel=1e-8
    )


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("penalty", [Orthogonality, GroupLasso, SpectralNorm])
def test_what_is_no_penalty_is_refused(penalty):
    for weight in (-1e-9, float("nan")):
        with pytest.raises(UserError, match="not below 0") as refused:
            penalty(weight)
        assert penalty.__name__ in str(refused.value)
    with pytest.raises(UserError, match="no kernel"):
        penalty(1.0, where=trainable).batch_loss(layer(2, 2), None, None)


def test_a_side_is_no_word():
    with pytest.raises(UserError, match="no side"):
        Orthogonality(1.0, side="rows")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="no side"):
        GroupLasso(1.0, groups=None)  # pyright: ignore[reportArgumentType]

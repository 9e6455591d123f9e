"""Slices of a loss surface, against the closed form of a quadratic and a cost evaluated point by point."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from thalweg.analysis import filter_normalized, plane_slice, walked_direction, without_component
from thalweg.errors import UserError
from thalweg.linalg import lanczos
from thalweg.nn import MLP, Conv2d

KEY = jax.random.key(0)


def test_a_slice_of_a_quadratic_is_its_closed_form() -> None:
    """½(c + a·u + b·v)ᵀ H (c + a·u + b·v), evaluated by NumPy in float64."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6))
    hessian = root @ root.T
    center, first, second = rng.normal(size=(3, 6))
    with jax.enable_x64(True):
        h = jnp.asarray(hessian)
        cost = lambda p: 0.5 * jnp.concatenate([p["a"], p["b"]]) @ h @ jnp.concatenate([p["a"], p["b"]])
        cut = lambda x: {"a": jnp.asarray(x[:2]), "b": jnp.asarray(x[2:])}
        found = plane_slice(cost, cut(center), cut(first), cut(second), extent=2.0, resolution=5)
    assert found is not None
    assert found.offsets.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]
    for i, a in enumerate(found.offsets):
        for j, b in enumerate(found.offsets):
            x = center + a * first + b * second
            # float64 products of 36 terms: rounding of some 1e-15 relative, with room for another order of summation
            assert found.costs[i, j] == pytest.approx(0.5 * x @ hessian @ x, rel=1e-12)


def test_the_curvature_of_a_slice_is_that_of_lanczos() -> None:
    """Along the eigenvector of the largest eigenvalue, the second difference of the slice is that eigenvalue."""
    with jax.enable_x64(True):
        bunch: Any = load_diabetes()
        x, y = jnp.asarray(bunch.data), jnp.asarray(bunch.target / 100)
        weights, *_ = np.linalg.lstsq(bunch.data, bunch.target / 100, rcond=None)
        cost = lambda w: jnp.sum(jnp.square(x @ w - y))
        at = jnp.asarray(weights)
        product = lambda v: jax.jvp(jax.grad(cost), (at,), (v,))[1]
        largest = lanczos(product, jnp.zeros(10), key=KEY, iterations=10)
        sharp = jax.tree.map(lambda v: v[0], largest.vectors)
        other = without_component(jnp.ones(10), along=sharp)
        found = plane_slice(cost, at, sharp, other, extent=1.0, resolution=3)
    assert found is not None
    second_difference = found.costs[0, 1] - 2 * found.costs[1, 1] + found.costs[2, 1]
    # exact for a quadratic; costs of some 1e3 in float64 leave 1e-12 of that in a difference of some 10
    assert second_difference == pytest.approx(float(largest.values[0]), rel=1e-9)


def test_the_middle_is_the_center_to_the_last_bit() -> None:
    model = MLP(3, 1, width=8, depth=1, key=KEY)
    cost = lambda m: jnp.sum(jnp.square(m.layers[0].weight))
    params = jax.tree.map(lambda leaf: leaf, model)
    arrays, rest = _arrays(params)
    at = lambda p: cost(jax.tree.unflatten(rest, p))
    found = plane_slice(at, arrays, filter_normalized(KEY, arrays), filter_normalized(jax.random.key(1), arrays))
    assert found is not None
    assert found.costs.shape == (25, 25)
    assert found.costs[12, 12] == np.float64(jax.jit(at)(arrays))


def _arrays(model: Any) -> tuple[list[jax.Array], Any]:
    leaves, structure = jax.tree.flatten(model)
    return leaves, structure


def test_what_is_not_finite_stays_so() -> None:
    found = plane_slice(
        lambda p: jnp.log(p[0]), jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]), resolution=3
    )
    assert found is not None
    assert np.isnan(found.costs[0]).all()
    assert np.isneginf(found.costs[1]).all()
    assert found.costs[2].tolist() == [0.0, 0.0, 0.0]


def test_one_compilation_serves_all_rows() -> None:
    traced = 0

    def cost(p: jax.Array) -> jax.Array:
        nonlocal traced
        traced += 1
        return jnp.sum(p)

    plane_slice(cost, jnp.zeros(2), jnp.ones(2), jnp.array([1.0, -1.0]), resolution=9)
    assert traced == 1


def test_a_slice_that_takes_too_long_is_given_up() -> None:
    def slow(p: jax.Array) -> jax.Array:
        wait = lambda x: (time.sleep(0.2), x)[1]
        shape = jax.ShapeDtypeStruct((), p.dtype)
        return jax.pure_callback(wait, shape, jnp.sum(p), vmap_method="broadcast_all")

    began = time.monotonic()
    given = jnp.zeros(2), jnp.ones(2), jnp.array([1.0, -1.0])
    assert plane_slice(slow, *given, resolution=25, seconds=1.0) is None
    assert time.monotonic() - began < 4.0  # two rows of 0.2 s and the compilation; all 25 would take 5 s
    assert plane_slice(slow, *given, resolution=3, seconds=60.0) is not None


# ---------------------------------------------------------------------------------------------------------- directions
@pytest.mark.slow
def test_every_filter_of_a_direction_is_as_long_as_that_of_the_weights() -> None:
    convolution = Conv2d(3, 5, kernel_size=3, key=KEY)
    model = MLP(7, 2, width=16, depth=2, key=KEY)
    for weights in (
        [convolution.weight, convolution.bias],
        [one.weight for one in model.layers if hasattr(one, "weight")],
    ):
        found = filter_normalized(jax.random.key(3), weights)
        for drawn, weight in zip(found, weights, strict=True):
            if weight.ndim < 2:
                assert not np.any(drawn)
                continue
            flat = lambda w: np.asarray(w, float).reshape(-1, w.shape[-1])
            norms = [np.sqrt((flat(w) ** 2).sum(axis=0)) for w in (drawn, weight)]
            # float32: sums of up to some hundred squares
            np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)


def test_directions_follow_from_their_key() -> None:
    params = {"weight": jnp.ones((4, 3))}
    one, same, other = (np.asarray(filter_normalized(jax.random.key(i), params)["weight"]) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_filter_of_zeros_is_not_moved() -> None:
    """A layer that starts at zero, as the last of a table's network does: no division of 0 by 0."""
    found = filter_normalized(KEY, {"last": jnp.zeros((3, 1)), "first": jnp.ones((2, 2))})
    assert not np.any(found["last"])
    assert np.isfinite(found["first"]).all()


def test_the_start_of_a_walk_lies_at_minus_one() -> None:
    start, end = {"w": jnp.array([1.0, 5.0])}, {"w": jnp.array([3.0, 5.0])}
    along = walked_direction(start, end)
    aside = without_component({"w": jnp.array([1.0, 1.0])}, along=along)
    cost = lambda p: jnp.sum(jnp.square(p["w"] - start["w"]))
    found = plane_slice(cost, end, along, aside, extent=1.0, resolution=3)
    assert found is not None
    assert found.costs[0, 1] == 0.0
    assert found.costs[0, 0] == found.costs[0, 2] == 1.0  # the other direction is (0, 1)


# ------------------------------------------------------------------------------------------------------------ refusals
def test_what_cannot_be_sliced_is_refused() -> None:
    cost, at, u, v = (lambda p: jnp.sum(p)), jnp.zeros(2), jnp.ones(2), jnp.array([1.0, -1.0])
    with pytest.raises(UserError, match=r"shape \(3,\) where the place has \(2,\).*second"):
        plane_slice(cost, at, u, jnp.ones(3))
    with pytest.raises(UserError, match=r"structure.*first"):
        plane_slice(cost, at, {"w": u}, v)
    with pytest.raises(UserError, match="odd"):
        plane_slice(cost, at, u, v, resolution=10)
    with pytest.raises(UserError, match="extent"):
        plane_slice(cost, at, u, v, extent=0.0)
    with pytest.raises(UserError, match="floating-point"):
        plane_slice(cost, jnp.zeros(2, int), u, v)
    with pytest.raises(UserError, match="no filters"):
        filter_normalized(KEY, {"bias": jnp.ones(3)})
    with pytest.raises(UserError, match="where it began"):
        walked_direction(u, u)

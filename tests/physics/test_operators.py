"""Differential operators against closed forms, the dense Hessian, and the identities of vector calculus."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg import nn
from thalweg.errors import UserError
from thalweg.physics import (
    curl,
    derivative,
    directional_derivative,
    divergence,
    gradient,
    hessian_vector,
    laplacian,
    strain,
)

# Sums of a few products of numbers of size 1 to 10, each rounded at 1.1e-16: errors stay below 1e-13 with ample room.
ROUNDING = {"rtol": 1e-13, "atol": 1e-13}


@pytest.fixture(autouse=True)
def _wide():
    with jax.enable_x64(True):
        yield


def points(n, d, seed=0):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (n, d)))


def network(d, out_size=None, seed=0):
    """Not linear in any direction, and no closed form to hide in."""
    return nn.MLP(d, out_size, width=12, depth=2, key=jax.random.key(seed), activation=jnp.tanh, dtype=jnp.float64)


def wave(x):
    return jnp.sin(2 * x[0]) * jnp.cos(3 * x[1]) + x[0] * x[1] ** 2


def swirl(x):
    return jnp.stack([jnp.sin(x[1]) * x[2], x[0] ** 2 * x[1], jnp.exp(x[0]) * x[2] ** 2])


def test_closed_forms():
    for x, y in np.asarray(points(5, 2)):
        p = jnp.array([x, y])
        u_x = 2 * np.cos(2 * x) * np.cos(3 * y) + y**2
        u_y = -3 * np.sin(2 * x) * np.sin(3 * y) + 2 * x * y
        u_xx, u_yy = -4 * np.sin(2 * x) * np.cos(3 * y), -9 * np.sin(2 * x) * np.cos(3 * y) + 2 * x
        u_xy = -6 * np.cos(2 * x) * np.sin(3 * y) + 2 * y
        u_xxy = 12 * np.sin(2 * x) * np.sin(3 * y)
        np.testing.assert_allclose(gradient(wave, p), [u_x, u_y], **ROUNDING)
        np.testing.assert_allclose(laplacian(wave, p), u_xx + u_yy, **ROUNDING)
        np.testing.assert_allclose(laplacian(wave, p, axes=[1]), u_yy, **ROUNDING)
        for axes, expected in [((0,), u_x), ((1,), u_y), ((0, 1), u_xy), ((1, 0), u_xy), ((0, 0, 1), u_xxy)]:
            np.testing.assert_allclose(derivative(wave, p, *axes), expected, **ROUNDING)
        a, b = 0.6, -1.3
        second = a * a * u_xx + 2 * a * b * u_xy + b * b * u_yy
        np.testing.assert_allclose(directional_derivative(wave, p, jnp.array([a, b])), a * u_x + b * u_y, **ROUNDING)
        np.testing.assert_allclose(directional_derivative(wave, p, jnp.array([a, b]), order=2), second, **ROUNDING)
        expected = [a * u_xx + b * u_xy, a * u_xy + b * u_yy]
        np.testing.assert_allclose(hessian_vector(wave, p, jnp.array([a, b])), expected, **ROUNDING)


def test_closed_forms_of_vector_fields():
    for x, y, z in np.asarray(points(5, 3)):
        p = jnp.array([x, y, z])
        slopes = np.array(
            [[0, np.cos(y) * z, np.sin(y)], [2 * x * y, x**2, 0], [np.exp(x) * z**2, 0, 2 * np.exp(x) * z]]
        )
        np.testing.assert_allclose(gradient(swirl, p), slopes, **ROUNDING)
        np.testing.assert_allclose(divergence(swirl, p), np.trace(slopes), **ROUNDING)
        expected = [slopes[2, 1] - slopes[1, 2], slopes[0, 2] - slopes[2, 0], slopes[1, 0] - slopes[0, 1]]
        np.testing.assert_allclose(curl(swirl, p), expected, **ROUNDING)
        np.testing.assert_allclose(strain(swirl, p), (slopes + slopes.T) / 2, **ROUNDING)
        expected = [-np.sin(y) * z, 2 * y, np.exp(x) * z**2 + 2 * np.exp(x)]
        np.testing.assert_allclose(laplacian(swirl, p), expected, **ROUNDING)
        outer = lambda x: jnp.outer(swirl(x), x)  # ∇·(f ⊗ x) = (∇f)x + 3f
        np.testing.assert_allclose(divergence(outer, p), slopes @ p + 3 * swirl(p), **ROUNDING)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
@pytest.mark.slow
def test_a_network_against_the_dense_hessian(d):
    u, v = network(d), points(1, d, 7)[0]
    for x in points(3, d):
        dense = jax.hessian(u)(x)
        np.testing.assert_allclose(gradient(u, x), jax.grad(u)(x), **ROUNDING)
        np.testing.assert_allclose(laplacian(u, x), jnp.trace(dense), **ROUNDING)
        np.testing.assert_allclose(divergence(lambda z: gradient(u, z), x), jnp.trace(dense), **ROUNDING)
        np.testing.assert_allclose(hessian_vector(u, x, v), dense @ v, **ROUNDING)
        np.testing.assert_allclose(directional_derivative(u, x, v, order=2), v @ dense @ v, **ROUNDING)
        np.testing.assert_allclose(derivative(u, x, 0, d - 1), dense[0, d - 1], **ROUNDING)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.slow
def test_gradient_of_a_vector_is_its_jacobian(k):
    """Fewer components than coordinates, as many, and more: backward and forward passes give the same."""
    u = network(3, k)
    x = points(1, 3)[0]
    np.testing.assert_allclose(gradient(u, x), jax.jacfwd(u)(x), **ROUNDING)
    np.testing.assert_allclose(laplacian(u, x), jnp.trace(jax.hessian(u)(x), axis1=1, axis2=2), **ROUNDING)


def test_a_network_with_one_output_reads_like_one_with_none():
    one, none = network(2, 1), network(2, None)
    conductivity = lambda x: 1 + 0.5 * x[0]
    flux = lambda u: lambda x: conductivity(x) * gradient(u, x)
    x = points(1, 2)[0]
    assert divergence(flux(one), x).shape == (1,)
    np.testing.assert_allclose(divergence(flux(one), x)[0], divergence(flux(none), x), **ROUNDING)
    product_rule = conductivity(x) * laplacian(none, x) + 0.5 * gradient(none, x)[0]
    np.testing.assert_allclose(divergence(flux(none), x), product_rule, **ROUNDING)


def test_identities_of_vector_calculus():
    u, f = network(3), network(3, 3, seed=1)
    for x in points(3, 3):
        np.testing.assert_allclose(curl(lambda z: gradient(u, z), x), np.zeros(3), **ROUNDING)
        np.testing.assert_allclose(divergence(lambda z: curl(f, z), x), 0, **ROUNDING)
        double = gradient(lambda z: divergence(f, z), x) - laplacian(f, x)
        np.testing.assert_allclose(curl(lambda z: curl(f, z), x), double, **ROUNDING)
    x = points(1, 2)[0]
    stream = network(2)
    rotated = lambda z: jnp.stack([derivative(stream, z, 1), -derivative(stream, z, 0)])
    np.testing.assert_allclose(curl(rotated, x), -laplacian(stream, x), **ROUNDING)


def test_time_is_a_coordinate_left_out():
    """The heat kernel solves u_t = u_xx + u_yy."""
    kernel = lambda z: jnp.exp(-(z[0] ** 2 + z[1] ** 2) / (4 * z[2])) / z[2]
    x = jnp.array([0.3, -0.2, 0.7])
    u_t = derivative(kernel, x, 2)
    assert abs(u_t) > 0.1
    np.testing.assert_allclose(laplacian(kernel, x, axes=(0, 1)), u_t, **ROUNDING)
    flux = lambda z: gradient(kernel, z)[:2]
    np.testing.assert_allclose(divergence(flux, x, axes=(0, 1)), u_t, **ROUNDING)


def everything(u, x):
    a = gradient(u, x)
    b = divergence(lambda z: z[0] * gradient(u, z), x)
    c = jnp.stack([laplacian(u, x), derivative(u, x, 0, 1), directional_derivative(u, x, x, order=2)])
    return jnp.concatenate([a, b[None], c, hessian_vector(u, x, x)])


@pytest.mark.slow
def test_mapped_compiled_and_differentiated():
    u, x = network(2), points(6, 2)
    alone = jnp.stack([everything(u, one) for one in x])
    for mapped in (jax.vmap(lambda one: everything(u, one)), jax.jit(jax.vmap(lambda one: everything(u, one)))):
        np.testing.assert_allclose(mapped(x), alone, **ROUNDING)
    # The gradient in the parameters, as training needs it, against a difference quotient along a random direction.
    cost = lambda u: jnp.mean(jax.vmap(lambda one: everything(u, one))(x) ** 2)
    arrays, static = eqx.partition(u, eqx.is_array)
    along = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(2), leaf.shape, leaf.dtype), arrays)
    at = jax.jit(lambda s: cost(eqx.combine(jax.tree.map(lambda leaf, d: leaf + s * d, arrays, along), static)))
    h = 1e-5
    quotient = (at(h) - at(-h)) / (2 * h)
    slope = jax.grad(at)(0.0)
    # Central differences: truncation h² u‴ ~ 1e-10 · 1e3 and rounding eps/h ~ 1e-11, both relative to the cost.
    np.testing.assert_allclose(slope, quotient, rtol=1e-6)


def test_precision_is_that_of_the_point():
    u = nn.MLP(2, None, width=4, depth=1, key=jax.random.key(0))
    assert everything(u, jnp.ones(2, jnp.float32)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: laplacian(wave, jnp.ones((3, 2))), "one point .* not float64\\[3, 2\\]"),
        (lambda: laplacian(wave, jnp.ones(())), "one point"),
        (lambda: gradient(wave, jnp.ones(2, jnp.int32)), "not int32"),
        (lambda: gradient(lambda x: jnp.outer(x, x), jnp.ones(2)), "field of shape \\(2, 2\\)"),
        (lambda: gradient(lambda x: (x, x), jnp.ones(2)), "returns tuple"),
        (lambda: divergence(wave, jnp.ones(2)), "divergence of a field of shape \\(\\) over 2"),
        (lambda: divergence(swirl, jnp.ones(3), axes=(0, 1)), "shape \\(3,\\) over 2"),
        (lambda: divergence(swirl, jnp.ones(3), axes=(0, 1, 3)), "no coordinate 3"),
        (lambda: laplacian(wave, jnp.ones(2), axes=[-1]), "no coordinate -1"),
        (lambda: derivative(wave, jnp.ones(2), 2), "no coordinate 2"),
        (lambda: derivative(wave, jnp.ones(2)), "no axis"),
        (lambda: curl(wave, jnp.ones(2)), "curl of a field of shape \\(\\) in 2"),
        (lambda: curl(lambda x: x, jnp.ones(4)), "in 4 dimensions"),
        (lambda: strain(wave, jnp.ones(2)), "strain of a displacement of shape \\(\\)"),
        (lambda: hessian_vector(swirl, jnp.ones(3), jnp.ones(3)), "Hessian of a field of shape \\(3,\\)"),
        (lambda: hessian_vector(wave, jnp.ones(2), jnp.ones(3)), "direction of shape \\(3,\\)"),
        (lambda: directional_derivative(wave, jnp.ones(2), jnp.ones(())), "direction of shape \\(\\)"),
        (lambda: directional_derivative(wave, jnp.ones(2), jnp.ones(2), order=0), "order 0"),
    ],
)
def test_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()

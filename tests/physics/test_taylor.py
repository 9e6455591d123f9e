"""Taylor propagation against JAX's own nested derivatives, and equations evaluated with it against without."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.physics.jointly import jointly
from thalweg.physics.taylor import taylor

# Every rule, and operations without one, alone and through one another.
FUNCTIONS = {
    "tanh": lambda x: jnp.tanh(x[0] * x[1] + x[1]),
    "logistic": lambda x: jax.nn.sigmoid(x).sum() * x[0],
    "exponential": lambda x: jnp.exp(-jnp.sum(x * x)),
    "trigonometric": lambda x: jnp.sin(3 * x[0]) * jnp.cos(x[1] + 0.5),
    "quotient": lambda x: (1 + x[0]) / (2 + jnp.sin(x[1])),
    "reciprocal": lambda x: 2.0 / (3 + x[0] * x[1]),
    "powers": lambda x: x[0] ** 5 * x[1] ** 2 + (1.5 + x[0]) ** -3 + (2 + x[1]) ** 2.5,
    "square root and logarithm": lambda x: jnp.sqrt(2 + x[0]) * jnp.log(3 + x[1]),  # no rule: nested derivatives
    "error function": lambda x: jax.scipy.special.erf(x[0]) * x[1],
    "softplus": lambda x: jax.nn.softplus(x).prod(),
    "gelu": lambda x: jax.nn.gelu(x[0] + 2 * x[1]),
    "choice": lambda x: jnp.where(x[0] > 0, jnp.sin(x[1]) * x[0], x[1] ** 3),
    "vector": lambda x: jnp.stack([x[1] * x[0], jnp.exp(x[0]), jnp.float64(3.0)]),
    "matrix": lambda x: jnp.outer(jnp.tanh(x), x) @ jnp.array([1.0, -2.0]),
    "layout": lambda x: jnp.concatenate([x[::-1], 2 * x]).reshape(2, 2).T @ x,
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jnp.sin(y) + x[0], x[1]),
    "complex": lambda x: jnp.abs(jnp.exp(jax.lax.complex(x[0], x[1])) + jax.lax.complex(x[1], x[0])) ** 2,
    "whole numbers": lambda x: (5 * x[0]).astype(int).astype(float) * x[0] ** 2,
    "constant": lambda x: jnp.float64(2.0) * jnp.ones(2),
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.slow
def test_coefficients_are_the_nested_derivatives(name):
    f, x = FUNCTIONS[name], jnp.array([0.3, -0.7])
    directions = [(jnp.array([1.0, 0.0]), 4), (jnp.array([0.5, 2.0]), 2), (jnp.array([0.0, 1.0]), 1)]
    series = taylor(f, x, directions)
    np.testing.assert_allclose(series.value, f(x), rtol=1e-14)
    for (direction, order), tail in zip(directions, series.tails, strict=True):
        assert len(tail) == order
        function, factor = f, 1
        for k, coefficient in enumerate(tail, start=1):
            function = lambda z, g=function, v=direction: jax.jvp(g, (z,), (v,))[1]
            factor *= k
            # Fourth derivatives of these reach 1e3; both sides lose a few digits of 16 to cancellation.
            np.testing.assert_allclose(coefficient * factor, function(x), rtol=1e-11, atol=1e-11)


@pytest.mark.slow
def test_a_network_and_its_gradient_by_the_weights():
    net = tw.nn.MLP(3, 2, width=9, depth=2, activation=jnp.sin, key=jax.random.key(0), dtype=jnp.float64)
    x, v = jnp.array([0.1, 0.2, -0.3]), jnp.array([1.0, -1.0, 0.5])
    by_taylor = lambda net: jnp.sum(taylor(net, x, [(v, 3)]).tails[0][2] * 6)
    by_nesting = lambda net: jnp.sum(tw.directional_derivative(net, x, v, 3))
    found, expected = jax.grad(by_taylor)(net), jax.grad(by_nesting)(net)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)  # two orders of the same sums


def burgers(u, x):
    return tw.derivative(u, x, 1) + u(x) * tw.derivative(u, x, 0) - 0.01 * tw.derivative(u, x, 0, 0)


EQUATIONS = {
    "burgers": burgers,
    "poisson": lambda u, x: tw.laplacian(u, x) + jnp.sin(x[0]),
    "in space only": lambda u, x: tw.derivative(u, x, 1) - tw.laplacian(u, x, axes=[0]),
    "mixed": lambda u, x: tw.derivative(u, x, 0, 1) * tw.derivative(u, x, 1, 0) + tw.derivative(u, x, 1, 1),
    "third order": lambda u, x: u(x) * tw.derivative(u, x, 0) + tw.derivative(u, x, 0, 0, 0),
    "third order, mixed": lambda u, x: tw.derivative(u, x, 0, 0, 1) + tw.derivative(u, x, 0, 0),
    "variable coefficient": lambda u, x: tw.divergence(lambda z: z[0] * tw.gradient(u, z), x) + tw.laplacian(u, x),
    "another point": lambda u, x: u(x) - u(-x) + tw.laplacian(u, x) - tw.laplacian(u, 2 * x),
    "gradient": lambda u, x: jnp.vdot(tw.gradient(u, x), tw.gradient(u, x)) + tw.laplacian(u, x),
    "own attribute": lambda u, x: u.weight[0, 0] * tw.laplacian(u, x),
}  # fmt: skip


class Wave(eqx.Module):
    """A field with an attribute that an equation may use."""

    weight: jax.Array

    def __call__(self, x):
        return jnp.tanh(jnp.sin(x @ self.weight) @ jnp.arange(1.0, 6.0))


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.slow
def test_an_equation_is_the_same_either_way(name):
    equation = EQUATIONS[name]
    field = Wave(jax.random.normal(jax.random.key(1), (2, 5)))
    points = jax.random.normal(jax.random.key(2), (6, 2))
    both = jax.value_and_grad(lambda u, e: jnp.sum(jax.vmap(lambda x: e(u, x))(points) ** 2))
    found, slope = both(field, lambda u, x: jointly(equation, u, x))
    expected, wanted = both(field, equation)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    for a, b in zip(jax.tree.leaves(slope), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)  # mixed derivatives are differences of three


@pytest.mark.slow
def test_many_dimensions_go_the_general_way():
    """Thirty: a program of fixed size, and the same number."""
    net = tw.nn.MLP(30, None, width=6, depth=2, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
    x = jnp.linspace(-1.0, 1.0, 30)
    by_trace = jnp.trace(jax.hessian(net)(x))
    np.testing.assert_allclose(jointly(tw.laplacian, net, x), by_trace, rtol=1e-11)
    assert str(jax.make_jaxpr(lambda x: jointly(tw.laplacian, net, x))(x)).count("= tanh") < 12


@pytest.mark.slow
def test_a_vector_field():
    net = tw.nn.MLP(2, 3, width=7, depth=2, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)

    def stokes(u, x):  # velocity and pressure
        bend, slope = tw.laplacian(u, x), tw.gradient(u, x)
        flow = tw.divergence(lambda z: u(z)[:2], x)
        return jnp.stack([slope[2, 0] - bend[0], slope[2, 1] - bend[1], flow, slope[0, 0] + slope[1, 1] - flow])

    x = jnp.array([0.2, 0.4])
    found = jointly(stokes, net, x)
    np.testing.assert_allclose(found, stokes(net, x), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found[3], 0.0, atol=1e-14)


def test_one_pass_computes_the_activations_once():
    """The point of it: Burgers' equation takes one tanh a layer, where nested derivatives take several."""
    net = tw.nn.MLP(2, None, width=5, depth=3, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
    count = lambda f: str(jax.make_jaxpr(f)(jnp.ones(2))).count("= tanh")
    assert count(lambda x: jointly(burgers, net, x)) == 3
    assert count(lambda x: burgers(net, x)) > 6


def test_a_term_uses_it():
    net = tw.nn.MLP(2, None, width=5, depth=3, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64)
    term = tw.Residual(burgers, jnp.ones((4, 2)))
    made = str(jax.make_jaxpr(lambda x: term.residual(net, x, None))(jnp.ones(2)))
    assert made.count("= tanh") == 3


def test_a_mixed_derivative_keeps_its_digits():
    """As a difference of second derivatives, 1e4·e^10 large, it would be 0 in 32 bits."""
    u = lambda x: jnp.exp(100 * x[0]) + x[0] * x[1]
    both = lambda u, x: jnp.stack([tw.derivative(u, x, 0, 1), tw.derivative(u, x, 1, 1)])
    assert jointly(both, u, jnp.array([0.1, 1.0], jnp.float32)).tolist() == [1.0, 0.0]


def test_the_field_stays_the_model_to_the_equation():
    field = Wave(jax.random.normal(jax.random.key(1), (2, 5)))

    def equation(u, x):
        size = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(u, eqx.is_array)))
        slope = eqx.filter_grad(lambda model: model(x))(u).weight
        return tw.laplacian(u, x) + size + jnp.sum(slope)

    x = jnp.array([0.2, 0.4])
    np.testing.assert_allclose(jointly(equation, field, x), equation(field, x), rtol=1e-11)


def test_boundary_points_and_pairs():
    edge = tw.geometry.rectangle((0, 0), (1, 1)).sample_boundary(jax.random.key(0), 1)
    at = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float64), edge)
    u = lambda x: jnp.sin(x[0]) * x[1] ** 3
    stiff = lambda u, at: jnp.vdot(tw.gradient(u, at.x), at.normal) + tw.laplacian(u, at.x)
    np.testing.assert_allclose(jointly(stiff, u, at), stiff(u, at), rtol=1e-12)
    pair = (jnp.array([0.1, 0.2]), jnp.array([1.1, 0.2]))
    periodic = lambda u, ab: tw.derivative(u, ab[0], 0, 0) - tw.derivative(u, ab[1], 0, 0) + u(ab[0]) - u(ab[1])
    np.testing.assert_allclose(jointly(periodic, u, pair), periodic(u, pair), rtol=1e-12)

"""The proximal point: its equation, the minimum that it stands for, and stability at any step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from thalweg.errors import UserError
from thalweg.linalg import Loop
from thalweg.nn import MLP
from thalweg.objective import Objective, Residual, Rows, split
from thalweg.optim import Ended, ExplicitEuler, ProximalPoint

RNG = np.random.default_rng(0)
FRAME = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
STIFF = FRAME @ np.diag([1e-1, 1.0, 10.0, 100.0, 1e3, 1e4]) @ FRAME.T
START = RNG.normal(size=6)


def quadratic(x):
    return jnp.vdot(x, jnp.asarray(STIFF, x.dtype) @ x) / 2


def logistic(x):
    """Convex, with curvatures that change: Σ log(1 + exp(−aᵢx)) + small ‖x‖²."""
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(20, 3)) * [1.0, 5.0, 20.0], x.dtype)
    return jnp.sum(jax.nn.softplus(-rows @ x)) + 0.01 * jnp.vdot(x, x)


def wavy(x):
    """3/2-weakly convex: curvatures from 0.5 − 2 = −1.5 to 2.5."""
    return 0.25 * jnp.vdot(x, x) + 2 * jnp.sum(jnp.cos(x))


def accepted(x: np.ndarray, info) -> np.ndarray:
    """The params at the start and after each equation that was solved."""
    return np.concatenate([x[:1], x[1:][info.accepted]])


CASES = {"quadratic": (quadratic, START), "logistic": (logistic, [1.0, -2.0, 0.5]), "weakly convex": (wavy, [0.3, 3.5])}


@pytest.mark.parametrize("step", [1e-2, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_a_step_solves_the_implicit_equation(name, step, walk, of_cost):
    cost, start = CASES[name]
    tolerance = 1e-8
    x, _, info = walk(ProximalPoint(step, tolerance=tolerance), of_cost(cost), start, 40)
    places = accepted(x, info)
    assert len(places) > 4
    with jax.enable_x64(True):
        slopes = np.stack([jax.grad(cost)(jnp.asarray(place)) for place in places[1:]])
    gap = np.linalg.norm(places[1:] - places[:-1] + step * slopes, axis=1)
    length = np.linalg.norm(places[1:] - places[:-1], axis=1)
    # the tolerance, and what gradients computed in another program differ by: precision × η × λ × the place
    assert np.all(gap <= tolerance * length + 1e-15 * step * 1e4 * np.linalg.norm(places[1:], axis=1))
    assert np.array_equal(np.any(x[1:] != x[:-1], axis=1), info.accepted)


@pytest.mark.parametrize(("name", "step"), [("quadratic", 1e3), ("logistic", 1.0), ("weakly convex", 0.6)])
def test_a_step_is_the_proximal_minimum(name, step, walk, of_cost):
    """0.6 is below 1/ρ = 2/3, so that the weakly convex sum still has one minimum; SciPy's trust region finds it."""
    cost, start = CASES[name]
    start = np.asarray(start, float)
    x, _, info = walk(ProximalPoint(step, tolerance=1e-8), of_cost(cost), start, 40)
    with jax.enable_x64(True):
        prox = jax.jit(lambda z: cost(z) + jnp.vdot(z - start, z - start) / (2 * step))
        found = minimize(
            prox, start, jac=jax.jit(jax.grad(prox)), hess=jax.jit(jax.hessian(prox)), method="trust-exact",
            options={"gtol": 1e-9},
        )  # fmt: skip
    # the sum is strongly convex with 1/η − ρ ≥ 1e-3, so that a slope of 1e-9 is a place within 1e-6
    assert np.allclose(accepted(x, info)[1], found.x, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_on_a_quadratic_it_contracts_as_the_closed_form_says(walk, of_cost):
    """Each eigenvector's share is divided by 1 + ηλ, whatever η; explicit Euler multiplies it by 1 − ηλ."""
    for step in (1e-4, 1.0, 1e4):
        x, _, info = walk(ProximalPoint(step, tolerance=1e-6), of_cost(quadratic), START, 30)
        first = accepted(x, info)[1]
        expected = np.linalg.solve(np.eye(6) + step * STIFF, START)
        # tolerance of the step's length, as promised where the cost is convex
        assert np.linalg.norm(first - expected) <= 1e-6 * np.linalg.norm(expected - START) * 1.01
    explicit = walk(ExplicitEuler(1.0), of_cost(quadratic), START, 3)[0]
    grown = np.linalg.matrix_power(np.eye(6) - STIFF, 3) @ START
    assert np.allclose(explicit[3], grown, rtol=1e-9, atol=0)
    assert np.linalg.norm(explicit[3]) > 1e9 * np.linalg.norm(START)


@pytest.mark.parametrize("step", [1.0, 100.0, 1e6])
def test_it_descends_at_any_step_where_explicit_euler_diverges(step, walk, of_cost):
    x, _, info = walk(ProximalPoint(step), of_cost(quadratic), START, 40)
    places = accepted(x, info)
    heights = np.einsum("ni,ij,nj->n", places, STIFF, places)
    assert np.all(np.diff(heights) < 0)
    # by the slowest share, 1/(1 + 0.1 η) a step, and 1e-3 of inexactness
    assert heights[-1] < heights[0] * (1 / (1 + 0.1 * step) + 1e-3) ** (2 * min(len(places) - 1, 2)) + 1e-12


def test_its_time_and_figures_are_on_the_record(walk, of_cost):
    x, _, info = walk(ProximalPoint(0.5), of_cost(quadratic), START, 20)
    solved = np.cumsum(info.accepted)
    assert np.allclose(info.figures["time"], 0.5 * solved)
    assert np.all(info.figures["gap"] <= 1e-3)
    assert np.all(np.diff(info.figures["products"]) >= 0)
    with jax.enable_x64(True):
        heights = np.array([quadratic(jnp.asarray(place)) for place in x[1:]])
    assert np.allclose(info.total, heights, rtol=1e-12)


def test_few_iterations_cost_steps_but_not_the_answer(walk, of_cost):
    x, _, info = walk(ProximalPoint(0.01, iterations=2, tolerance=1e-6), of_cost(quadratic), START, 200)
    expected = np.linalg.solve(np.eye(6) + 0.01 * STIFF, START)
    assert np.linalg.norm(accepted(x, info)[1] - expected) <= 1.01e-6 * np.linalg.norm(expected - START)
    assert np.argmax(info.accepted) > 5  # it had to begin Newton's method again and again
    _, states, _ = walk(ProximalPoint(0.01, iterations=2), of_cost(quadratic), START, 20)
    assert np.diff(states.products).max() <= 3  # two in the iteration, one for the residual


@pytest.mark.slow
def test_written_out_it_makes_the_same_steps(walk, of_cost):
    compiled = walk(ProximalPoint(1.0, iterations=8), of_cost(logistic), [1.0, -2.0, 0.5], 10)[0]
    unrolled = walk(ProximalPoint(1.0, iterations=8, loop=Loop.UNROLLED), of_cost(logistic), [1.0, -2.0, 0.5], 10)[0]
    assert np.allclose(compiled, unrolled, rtol=1e-6)  # the same operations, fused differently, under a solve to 1e-3


def test_beyond_weak_convexity_it_still_solves_the_equation_downhill(walk, of_cost):
    """At 3.5 the curvature is about +2.4; near 0 it is −1.5, where η = 5 leaves I/η + H indefinite."""
    x, _, info = walk(ProximalPoint(5.0, tolerance=1e-6), of_cost(wavy), [0.3, -0.1], 60)
    places = accepted(x, info)
    with jax.enable_x64(True):
        heights = np.array([wavy(jnp.asarray(place)) for place in places])
        slopes = np.stack([jax.grad(wavy)(jnp.asarray(place)) for place in places[1:]])
    assert len(places) > 3
    assert np.all(np.diff(heights) <= 1e-12)
    length = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert np.all(np.linalg.norm(np.diff(places, axis=0) + 5 * slopes, axis=1) <= 1e-6 * length + 1e-13)


def test_it_ends_where_nothing_can_be_resolved_and_stays(walk, of_cost):
    x, _, info = walk(ProximalPoint(100.0), of_cost(logistic), [1.0, -2.0, 0.5], 200)
    assert info.ended[-1] == Ended.CONVERGED
    with jax.enable_x64(True):
        # what a slope g could still gain, g²/2λ with λ > 10 here, is then below 1e-19 of a cost near 14
        assert np.linalg.norm(jax.grad(logistic)(jnp.asarray(x[-1]))) < 1e-9
    assert np.array_equal(x[-1], x[-2])


def test_a_wrong_gradient_is_told_from_convergence(walk, of_cost):
    linear = lambda x: jnp.sum(jax.lax.stop_gradient(2 * x)) - jnp.sum(x)  # rises with x, and says that it falls
    assert walk(ProximalPoint(0.1), of_cost(linear), [1.0, 2.0], 60)[2].ended[-1] == Ended.FAILED


def test_a_cost_that_is_not_finite_beside_the_start_fails(walk, of_cost):
    cliff = lambda x: jnp.where(jnp.sum(x) < 3, jnp.nan, 1.0) * jnp.sum(x)
    assert walk(ProximalPoint(1.0), of_cost(cliff), [1.0, 2.0], 60)[2].ended[-1] == Ended.FAILED


@pytest.mark.slow
def test_it_trains_a_network_and_a_redraw_begins_the_equation_again():
    x = np.linspace(-1, 1, 40)[:, None]
    y = np.sin(3 * x)[:, 0]
    objective = Objective(data=Residual(lambda model, e: model(e[0]) - e[1], Rows((x, y))))
    with jax.enable_x64(True):
        network = MLP(1, None, width=8, depth=1, key=jax.random.key(0))
        objective, parts = objective.astype(np.float64), split(network)
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), parts.params)
        state = objective.init(jax.random.key(0))
        static = eqx.combine(parts.model_state, parts.frozen, parts.static)
        problem = objective.bind(static, objective.draw(state, jnp.int32(0)), state, jax.random.key(0))
        optimizer, key = ProximalPoint(10.0), jax.random.key(1)
        memory = optimizer.init(problem, params, key)
        start = memory.total
        step = eqx.filter_jit(optimizer.step)
        for _ in range(100):
            params, memory, _ = step(problem, params, memory, key)
        assert memory.total < 0.01 * start
        assert memory.time >= 50
        again = optimizer.redraw(problem, params, memory)
        assert np.allclose(again.total, memory.total, rtol=1e-12)
        assert np.allclose(again.time, memory.time)
        assert np.allclose(again.height, again.total)


@pytest.mark.parametrize(
    ("arguments", "named", "word"),
    [
        ((0.0,), {}, "flow time"),
        ((float("nan"),), {}, "flow time"),
        ((True,), {}, "flow time"),
        ((1.0,), {"tolerance": 1.0}, "tolerance"),
        ((1.0,), {"iterations": 0}, "iteration"),
        ((1.0,), {"loop": "unrolled"}, "loop"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, named, word):
    with pytest.raises(UserError, match=word):
        ProximalPoint(*arguments, **named)

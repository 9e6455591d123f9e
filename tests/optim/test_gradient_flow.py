"""Gradient flow: explicit Euler is gradient descent, and the adaptive methods have their order and their tolerance."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from thalweg.errors import UserError
from thalweg.nn import Dopri5, Kvaerno5, Tsit5
from thalweg.optim import SGD, Ended, ExplicitEuler, GradientFlow
from thalweg.optim.gradient_flow import LARGEST_IMPLICIT, explicit_step, implicit_step

SOLVERS = {"Tsit5": Tsit5, "Dopri5": Dopri5, "Kvaerno5": Kvaerno5}
START = np.array([-1.0, 1.5])


def valley(x):
    """Rosenbrock's, with a milder wall."""
    return 5 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def exact(times: np.ndarray) -> np.ndarray:
    """The flow in the valley by SciPy, (T, 2), to 1e-13."""
    a, b = lambda x: x[1] - x[0] ** 2, lambda x: 1 - x[0]
    field = lambda t, x: [20 * a(x) * x[0] + 2 * b(x), -10 * a(x)]
    found = solve_ivp(field, (0, max(times[-1], 1e-12)), START, "DOP853", times, rtol=1e-13, atol=1e-13)
    return found.y.T


def one_step(name: str, step: float) -> np.ndarray:
    """One step of a method on the valley's flow."""
    with jax.enable_x64(True):
        method, start = SOLVERS[name]().build(), jnp.asarray(START)
        if name == "Kvaerno5":
            place = implicit_step(method, lambda x: -jax.grad(valley)(x), start, jnp.asarray(step), 1e-14, 1e-14)[0]
        else:
            slope = lambda x: (valley(x), None, jax.grad(valley)(x))
            place = explicit_step(method, slope, start, jax.grad(valley)(start), jnp.asarray(step))[0]
        return np.asarray(place)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_step_has_the_methods_order(name):
    """All are of order 5: a step's error falls by 2⁶ as the step is halved."""
    steps = [2.5e-3, 1.25e-3]
    errors = [np.linalg.norm(one_step(name, h) - exact(np.array([0.0, h]))[-1]) for h in steps]
    assert min(errors) > 1e-14  # else it would be rounding that is measured
    assert np.log2(errors[0] / errors[1]) == pytest.approx(6, abs=0.35)  # higher terms: 5.7 to 6.0 were measured


@pytest.mark.parametrize("name", ["Tsit5", "Dopri5"])
def test_written_out_it_is_diffraxs_own_step(name):
    import diffrax

    with jax.enable_x64(True):
        method, start, step = SOLVERS[name]().build(), jnp.asarray(START), jnp.asarray(0.01)
        slope = lambda x: (valley(x), None, jax.grad(valley)(x))
        place, error, found = explicit_step(method, slope, start, jax.grad(valley)(start), step)
        term = diffrax.ODETerm(lambda t, y, args: -jax.grad(valley)(y))
        memory = method.init(term, 0 * step, step, start, None)
        theirs, their_error, *_ = method.step(term, 0 * step, step, start, None, memory, made_jump=False)
    assert np.allclose(place, theirs, rtol=1e-14)  # the same sums in another order
    assert np.allclose(np.abs(error), np.abs(their_error), rtol=1e-6, atol=1e-16)  # a sum in which much cancels
    assert np.allclose(found[0], valley(np.asarray(place)), rtol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.slow
def test_it_follows_the_flow_to_its_tolerance(name, walk, of_cost):
    errors, taken = [], []
    for rtol in (1e-4, 1e-6, 1e-8):
        x, _, info = walk(GradientFlow(SOLVERS[name](), rtol=rtol, atol=rtol), of_cost(valley), START, 400)
        before_two = info.figures["time"] <= 2.0
        times, places = info.figures["time"][before_two & info.accepted], x[1:][before_two & info.accepted]
        assert info.figures["time"][-1] > 2  # it went past the time that is looked at
        errors.append(np.abs(places - exact(np.concatenate([[0.0], times]))[1:]).max())
        taken.append(len(times))
    # errors of steps add up and the flow contracts: within 30 tolerances
    assert np.all(np.array(errors) < 30 * np.array([1e-4, 1e-6, 1e-8]))
    # order 5 controlled by its error estimate: 1e-4 of the tolerance is about 1e4^(1/5) = 6.3 times the steps
    assert 3 < taken[2] / taken[0] < 13


def test_the_flow_of_a_quadratic_is_the_matrix_exponential(walk, of_cost):
    matrix = np.array([[3.0, 1.0], [1.0, 0.5]])
    cost = lambda x: jnp.vdot(x, jnp.asarray(matrix) @ x) / 2
    x, _, info = walk(GradientFlow(rtol=1e-9, atol=1e-12), of_cost(cost), START, 100)
    for place, time in zip(x[1:], info.figures["time"], strict=True):
        assert np.allclose(place, expm(-time * matrix) @ START, rtol=0, atol=1e-7)
    assert info.figures["time"][-1] > 3
    assert np.all(np.diff(info.total) <= 0)


def test_explicit_euler_is_gradient_descent_with_a_clock(walk, of_cost):
    mine, _, info = walk(ExplicitEuler(0.01), of_cost(valley), START, 50)
    theirs, _, other = walk(SGD(0.01), of_cost(valley), START, 50)
    assert np.array_equal(mine, theirs)
    assert np.array_equal(info.total, other.total)
    assert np.allclose(info.figures["time"], 0.01 * np.arange(50))  # of the place that the total is of


def test_explicit_euler_comes_to_the_flow_as_its_step_falls(walk, of_cost):
    """First order: the error at a fixed time halves with the step."""
    truth = exact(np.array([0.0, 0.5]))[-1]
    errors = [
        np.linalg.norm(walk(ExplicitEuler(0.5 / n), of_cost(valley), START, n)[0][-1] - truth) for n in (200, 400, 800)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)
    assert np.log2(errors[1] / errors[2]) == pytest.approx(1, abs=0.08)


def test_on_a_stiff_valley_the_implicit_method_goes_further(walk, of_cost):
    """Curvatures 1 and 10⁶: stability holds the explicit one near 3.3e-6 a step."""
    cost = lambda x: 0.5 * (x[0] ** 2 + 1e6 * x[1] ** 2)
    times = {
        name: walk(GradientFlow(SOLVERS[name]()), of_cost(cost), [1.0, 1.0], 200)[2].figures["time"][-1]
        for name in ("Tsit5", "Kvaerno5")
    }
    assert times["Tsit5"] < 200 * 3.5e-6
    assert times["Kvaerno5"] > 5


def test_a_flow_that_runs_into_an_edge_fails_and_does_not_move_on(walk, of_cost):
    cliff = lambda x: jnp.where(jnp.sum(x) < 3, jnp.nan, 1.0) * jnp.sum(x)
    x, _, info = walk(GradientFlow(), of_cost(cliff), [2.0, 2.0], 300)
    assert info.ended[-1] == Ended.FAILED
    assert np.all(np.isfinite(x))
    assert np.sum(x[-1]) >= 3


def test_a_flow_at_rest_has_ended(walk, of_cost):
    cost = lambda x: jnp.vdot(x, x)
    assert walk(GradientFlow(), of_cost(cost), [0.0, 0.0], 2)[2].ended[-1] == Ended.CONVERGED


def test_a_redraw_keeps_the_clock_and_the_step(bound, of_cost):
    with jax.enable_x64(True):
        problem, params = bound(of_cost(valley).astype(np.float64), jnp.asarray(START))
        optimizer, key = GradientFlow(), jax.random.key(0)
        state = optimizer.init(problem, params, key)
        for _ in range(3):
            params, state, _ = optimizer.step(problem, params, state, key)
        other, _ = bound(of_cost(lambda x: jnp.vdot(x, x)).astype(np.float64), jnp.asarray(START))
        again = optimizer.redraw(other, params, state)
    assert np.allclose(again.gradient, 2 * np.asarray(params.x))
    assert again.time == state.time
    assert again.step == state.step


def test_bad_input_is_refused(walk, of_cost):
    for make, word in (
        (lambda: ExplicitEuler(-1.0), "flow time"),
        (lambda: GradientFlow(rtol=0.0), "tolerances"),
        (lambda: GradientFlow(atol=float("inf")), "tolerances"),
        (lambda: GradientFlow(first=0), "flow time"),
        (lambda: GradientFlow(cast(Any, Tsit5)), "solver"),
    ):
        with pytest.raises(UserError, match=word):
            make()
    large = np.ones(LARGEST_IMPLICIT + 1)
    with pytest.raises(UserError, match="ProximalPoint"):
        walk(GradientFlow(Kvaerno5()), of_cost(lambda x: jnp.vdot(x, x)), large, 1)

"""The reference solutions, against other methods and closed forms."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import thalweg as tw
from thalweg.errors import UserError
from thalweg.physics import references

NU = 0.01 / np.pi


def burgers_terms(v, k):
    u = np.fft.irfft(v)
    return -0.5j * k * np.fft.rfft(u * u)


def test_burgers_by_two_methods():
    """Cole-Hopf against a Fourier method: the sine is odd and periodic, so the boundary values stay 0 by themselves."""
    x = np.linspace(-1, 1, 2_048, endpoint=False)
    spectral = references.periodic_evolution(
        -np.sin(np.pi * x), [0.3, 1.0], length=2, linear=lambda k: -NU * k**2, nonlinear=burgers_terms, step=2e-3
    )
    for time, values in zip((0.3, 1.0), spectral, strict=True):
        # the step's fourth-order error at the front; 2e-3 gives 3e-8
        np.testing.assert_allclose(references.burgers(x, np.array(time), NU), values, rtol=0, atol=2e-7)


def test_burgers_quadrature_has_converged():
    x, t = np.meshgrid(np.linspace(-1, 1, 101), np.linspace(0, 1, 11))
    few, many = (references.burgers(x.ravel(), t.ravel(), NU, nodes) for nodes in (200, 320))
    np.testing.assert_allclose(few, many, rtol=0, atol=1e-9)
    np.testing.assert_allclose(few.reshape(x.shape)[0], -np.sin(np.pi * x[0]), atol=1e-14)


def test_exponential_integration_is_of_fourth_order():
    x = np.linspace(-1, 1, 256, endpoint=False)
    solve = lambda step: references.periodic_evolution(
        -np.sin(np.pi * x), [0.2], length=2, linear=lambda k: -0.05 * k**2, nonlinear=burgers_terms, step=step
    )[0]
    exact = solve(1e-3)
    errors = [np.abs(solve(step) - exact).max() for step in (0.02, 0.01)]
    assert 12 < errors[0] / errors[1] < 20  # 16


def test_a_reaction_against_scipy():
    """Allen-Cahn's equation by finite differences in space and SciPy's implicit integrator in time."""
    n = 256
    x = np.linspace(-1, 1, n, endpoint=False)
    start = x**2 * np.cos(np.pi * x)
    cubic = lambda v, k: np.fft.rfft(5 * np.fft.irfft(v) - 5 * np.fft.irfft(v) ** 3)
    found = references.periodic_evolution(
        start, [0.5], length=2, linear=lambda k: -1e-2 * k**2, nonlinear=cubic, step=1e-3
    )[0]
    bend = lambda u: (np.roll(u, 1) - 2 * u + np.roll(u, -1)) / (2 / n) ** 2
    slope = lambda t, u: 1e-2 * bend(u) + 5 * u - 5 * u**3
    expected = solve_ivp(slope, (0, 0.5), start, method="LSODA", rtol=1e-9, atol=1e-9).y[:, -1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)  # h²/12 u_xxxx of the differences


def test_a_soliton_keeps_its_shape():
    """Korteweg and de Vries: u_t + 6u·u_x + u_xxx = 0 has u = c/2 · sech²(√c/2 (x - ct))."""
    x, c = np.linspace(-20, 20, 512, endpoint=False), 2.0
    soliton = lambda t: c / 2 / np.cosh(np.sqrt(c) / 2 * (x - c * t)) ** 2
    found = references.periodic_evolution(
        soliton(0), [2.0], length=40, linear=lambda k: 1j * k**3,
        nonlinear=lambda v, k: -3j * k * np.fft.rfft(np.fft.irfft(v) ** 2), step=1e-3,
    )  # fmt: skip
    np.testing.assert_allclose(found[0], soliton(2.0), rtol=0, atol=1e-6)  # its tail at the ends is 1e-11


@pytest.mark.parametrize(
    ("start", "times", "step"),
    [(np.ones(3), [1.0], 0.1), (np.ones(4), [1.0, 0.5], 0.1), (np.ones(4), [1.0], 0.0), (np.ones(4), [1.0], 1e-9)],
)
def test_bad_requests_are_refused(start, times, step):
    with pytest.raises(tw.UserError):
        references.periodic_evolution(
            start, times, length=1, linear=lambda k: -(k**2), nonlinear=lambda v, k: v, step=step
        )


def test_inputs_that_jump_enter_when_they_jump():
    """A discharging and charging capacitor in closed form, with times that lie on a jump, and before the first one."""
    times = np.array([0.0, 0.5, 1.0, 1.5, 3.0])
    found = references.driven(
        lambda t, y, u: 2 * (u - y), np.array([1.0]), times, np.array([0.2, 1.0, 2.0]), np.array([[0.0], [1.0], [0.0]])
    )[:, 0]
    at_one = np.exp(-2.0)
    at_two = 1 - (1 - at_one) * np.exp(-2.0)
    expected = [1.0, np.exp(-1.0), at_one, 1 - (1 - at_one) * np.exp(-1.0), at_two * np.exp(-2.0)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)  # some hundred steps of 1e-9


def test_driven_systems_are_refused_early():
    rates = lambda t, y, u: u - y
    with pytest.raises(UserError, match="do not rise"):
        references.driven(rates, np.zeros(1), np.array([0.0, 2.0, 1.0]), np.zeros(1), np.zeros((1, 1)))
    with pytest.raises(UserError, match=r"jumps \(2,\)"):
        references.driven(rates, np.zeros(1), np.arange(3.0), np.arange(2.0), np.zeros((3, 1)))
    with pytest.raises(UserError, match="may blow up"):
        references.driven(lambda t, y, u: y**2, np.ones(1), np.array([0.0, 2.0]), np.zeros(1), np.ones((1, 1)))
    with pytest.raises(UserError, match="no \\(d,\\)"):
        references.driven(rates, np.array([np.nan]), np.arange(3.0), np.zeros(1), np.zeros((1, 1)))

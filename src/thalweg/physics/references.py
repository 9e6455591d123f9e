"""Independent solutions of known equations, by classical methods in NumPy: what a network is compared with."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy.integrate import solve_ivp

from thalweg.errors import UserError

MOST_STEPS = 1_000_000
"""Steps beyond which a time integration is refused rather than begun."""

MOST_EVALUATIONS = 500_000
"""Of the rates, in one integration: beyond, the solution blows up."""


def burgers(x: np.ndarray, t: np.ndarray, viscosity: float, nodes: int = 200) -> np.ndarray:
    """Burgers' equation u_t + u·u_x = ν·u_xx from u(x, 0) = -sin(πx), by the Cole-Hopf transform (Cole, 1951).

    u = -∫ sin(πy) f(y) g(x - y) dy / ∫ f(y) g(x - y) dy with f(y) = exp(-cos(πy)/2πν) and g the heat kernel of width
    √(4νt), both integrals by Gauss-Hermite quadrature (Basdevant et al., 1986).

    Args:
        x, t: places and times, shapes (n,) or (); t ≥ 0.
        viscosity: ν > 0.
        nodes: of the quadrature.
    Returns:
        u, shape (n,).
    Raises:
        UserError: a negative time, or a viscosity that is not above 0.

    >>> burgers(np.array([0.0, 0.5, 1.0]), np.array(0.5), 0.01 / np.pi).round(6) + 0.0
    array([ 0.     , -0.59277,  0.     ])
    """
    x, t = np.broadcast_arrays(np.asarray(x, float), np.asarray(t, float))
    if (t < 0).any() or not viscosity > 0:
        raise UserError("a time below 0, or a viscosity not above 0", where="references.burgers")
    z, w = np.polynomial.hermite.hermgauss(nodes)
    y = x[..., None] - 2 * np.sqrt(viscosity * t)[..., None] * z
    exponent = -np.cos(np.pi * y) / (2 * np.pi * viscosity)
    f = w * np.exp(exponent - exponent.max(axis=-1, keepdims=True))  # which the quotient does not see
    return -(f * np.sin(np.pi * y)).sum(axis=-1) / f.sum(axis=-1)


def periodic_evolution(
    start: np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    length: float,
    linear: Callable[[np.ndarray], np.ndarray],
    nonlinear: Callable[[np.ndarray, np.ndarray], np.ndarray],
    step: float,
) -> np.ndarray:
    """U_t = Lu + N(u) on a periodic interval, by Fourier modes and exponential time differencing of fourth order.

    Cox and Matthews (2002), with Kassam and Trefethen's contour means for the coefficients (2005), so that stiff
    linear parts cost no step size. With N a polynomial of u, take twice or thrice the modes that u needs.

    Args:
        start: u at n equidistant points of one period, n even, the end point left out.
        times: rising, the first at least 0.
        length: of the period.
        linear: wavenumbers k (n/2 + 1,) -> L's symbol; -ν·k² for ν·u_xx, i·k³ for -u_xxx.
        nonlinear: (Fourier coefficients of u as `numpy.fft.rfft` has them, k) -> those of N(u).
        step: the largest time step; the error falls with its fourth power.
    Returns:
        u at the times, shape (len(times), n).
    Raises:
        UserError: an odd number of points, times that do not rise, too many steps, a solution that is not finite.

    >>> x = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    >>> heat = periodic_evolution(
    ...     np.sin(x), [1.0], length=2 * np.pi, linear=lambda k: -(k**2), nonlinear=lambda v, k: 0 * v, step=0.5
    ... )
    >>> bool(abs(heat[0] - np.exp(-1) * np.sin(x)).max() < 1e-14)
    True
    """
    start, times = np.asarray(start, float), np.asarray(times, float)
    if start.ndim != 1 or len(start) % 2:
        raise UserError(f"start values of shape {start.shape}", where="periodic_evolution", remedy="An even number.")
    if times.ndim != 1 or not len(times) or times[0] < 0 or (np.diff(times) <= 0).any() or not np.isfinite(times).all():
        raise UserError("times that do not rise from 0 or more", where="periodic_evolution")
    if not (step > 0 and length > 0) or times[-1] / step > MOST_STEPS:
        raise UserError(f"a step of {step} over a time of {times[-1]}", where="periodic_evolution")
    k = 2 * np.pi / length * np.arange(len(start) // 2 + 1)
    values, now, found = np.fft.rfft(start), 0.0, []
    for time in times:
        steps = int(np.ceil((time - now) / step - 1e-9))
        if steps:
            values = _advanced(values, k, linear(k), nonlinear, (time - now) / steps, steps)
        now = time
        found.append(np.fft.irfft(values, len(start)))
    if not np.isfinite(found).all():
        raise UserError("the solution is not finite", where="periodic_evolution", remedy="Take a smaller step.")
    return np.array(found)


def driven(
    rates: Callable[[float, np.ndarray, np.ndarray], np.ndarray],
    start: np.ndarray,
    times: np.ndarray,
    jumps: np.ndarray,
    inputs: np.ndarray,
    rtol: float = 1e-9,
) -> np.ndarray:
    """A system of ordinary equations whose inputs jump, by SciPy's LSODA from one jump to the next.

    Args:
        rates: time, state (d,) and inputs (m,) to the state's rates of change (d,).
        start: the state (d,) at the first of the times.
        times: increasing, shape (T,).
        jumps: increasing, shape (J,): when the inputs take each of their values; the first holds before, too.
        inputs: shape (J, m).
        rtol: error allowed in a step, relative and absolute.
    Returns:
        states, shape (T, d).
    Raises:
        UserError: times or jumps that do not rise, shapes that do not belong together, rates that are not finite or
            not of the state's shape, a solution that blows up or takes more than 500,000 evaluations.

    >>> charge = lambda t, y, u: u - y
    >>> driven(charge, [0.0], [0.0, 1.0, 2.0], [0.0, 1.0], [[0.0], [1.0]]).round(6).ravel().tolist()
    [0.0, 0.0, 0.632121]
    """
    start, times = np.asarray(start, float), np.asarray(times, float)
    jumps, inputs = np.asarray(jumps, float), np.asarray(inputs, float)
    if inputs.ndim != 2 or jumps.shape != inputs.shape[:1] or not len(jumps) or times.ndim != 1 or len(times) < 2:
        raise UserError(f"times {times.shape}, jumps {jumps.shape}, inputs {inputs.shape}", where="references.driven")
    if start.ndim != 1 or not (np.isfinite(start).all() and np.isfinite(inputs).all() and rtol > 0):
        raise UserError("a start that is no (d,) of finite numbers, such inputs, or an rtol", where="references.driven")
    if not ((np.diff(times) > 0).all() and (np.diff(jumps) > 0).all() and np.isfinite(times).all()):
        raise UserError("times or jumps that do not rise", where="references.driven", remedy="Sort them.")
    count = itertools.count()

    def checked(t: float, y: np.ndarray, u: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # which are looked for in the next line
            slope = np.asarray(rates(t, y, u), float)
        if slope.shape != y.shape or not np.isfinite(slope).all() or next(count) > MOST_EVALUATIONS:
            what = f"rates {slope} at the state {y}, or too many of them"
            raise UserError(what, where=f"references.driven, at {t:g}", remedy="The solution may blow up there.")
        return slope

    states, state = np.empty((len(times), *start.shape)), start
    states[0] = start
    cuts = [times[0], *(one for one in jumps if times[0] < one < times[-1]), times[-1]]
    for begin, end in itertools.pairwise(cuts):
        u = inputs[max(np.searchsorted(jumps, begin, side="right") - 1, 0)]
        here = (times > begin) & (times <= end)
        asked = np.union1d(times[here], end)
        found = solve_ivp(lambda t, y, u=u: checked(t, y, u), (begin, end), state, "LSODA", asked, rtol=rtol, atol=rtol)
        if not found.success:
            raise UserError(found.message, where=f"references.driven, from {begin} to {end}")
        states[here], state = found.y.T[: here.sum()], found.y[:, -1]
    return states


def _advanced(
    v: np.ndarray, k: np.ndarray, symbol: np.ndarray, nonlinear: Callable, h: float, steps: int
) -> np.ndarray:
    """Fourier coefficients after so many steps h (Kassam and Trefethen, 2005, equations 2.5 and section 3)."""
    symbol = symbol.astype(complex)
    whole, half = np.exp(h * symbol), np.exp(h * symbol / 2)
    z = h * symbol[:, None] + np.exp(2j * np.pi * (np.arange(1, 65) - 0.5) / 64)  # a full circle: L may be imaginary
    mean = lambda values: h * values.mean(axis=1)
    q = mean((np.exp(z / 2) - 1) / z)
    f1 = mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3)
    f2 = mean((2 + z + np.exp(z) * (z - 2)) / z**3)
    f3 = mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3)
    for _ in range(steps):
        n = nonlinear(v, k)
        a = half * v + q * n
        na = nonlinear(a, k)
        b = half * v + q * na
        nb = nonlinear(b, k)
        c = half * a + q * (2 * nb - n)
        v = whole * v + f1 * n + 2 * f2 * (na + nb) + f3 * nonlinear(c, k)
    return v

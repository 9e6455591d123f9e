"""Korteweg and de Vries' equation: a cosine that breaks up into solitons.

u_t + u·u_x + 0.022²·u_xxx = 0 on a ring -1 ≤ x ≤ 1, 0 ≤ t ≤ 1, from u(x, 0) = cos(πx) (Zabusky and Kruskal, 1965). The
reference is by Fourier modes and exponential time differencing; the same method, with as few modes as do, is the one
to beat.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

DISPERSION = 0.022**2
RING = tw.geometry.rectangle((-1, 0), (1, 1))  # x to the right, t upwards


def law(u, at):
    """The equation at one point."""
    bend = DISPERSION * tw.derivative(u, at, 0, 0, 0)
    return tw.derivative(u, at, 1) + u(at) * tw.derivative(u, at, 0) + bend


class Field(eqx.Module):
    """A network of waves round the ring, so that it closes, which starts as the cosine."""

    network: tw.nn.MLP

    def __call__(self, at: jax.Array) -> jax.Array:
        """U at one point (x, t)."""
        x, t = at
        waves = [wave(k * jnp.pi * x) for k in (1, 2) for wave in (jnp.cos, jnp.sin)]
        return jnp.cos(jnp.pi * x) + t * self.network(jnp.stack([*waves, 2 * t - 1]))


def modes(points: int, times: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The ring's points, and the solution there at the times, by Fourier modes."""
    x = np.linspace(-1, 1, points, endpoint=False)
    product = lambda v, k: -0.5j * k * np.fft.rfft(np.fft.irfft(v) ** 2)
    found = tw.references.periodic_evolution(
        np.cos(np.pi * x), times, length=2, linear=lambda k: 1j * DISPERSION * k**3, nonlinear=product, step=step
    )
    return x, found


def modes_take(error: float) -> float:
    """Seconds of the fewest modes that err no more at t = 1."""
    end = lambda points, step: modes(points, np.array([1.0]), step)[1][0]
    return tw.least_seconds(lambda points: end(points, 0.1 / points), (64, 128, 256), end(512, 2e-4), error)


class Settings(tw.SolveSettings):
    """What can be set from the command line."""

    points: int = tw.setting(4_000, "points of the equation at a time", quick=1_000, ge=50, le=100_000)
    steps: int = tw.setting(40_000, "steps of self-scaled Broyden after them", quick=400, ge=1)
    refresh: int = tw.setting(1_000, "steps between two choices of points", quick=150, ge=1)


@tw.study("kdv", systems=["S04"], question="How exactly can a network follow solitons as they form?")
def kdv(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Train over seeds; compare with Fourier modes."""
    t = np.linspace(0, 1, 101)
    x, truth = modes(512, t, 2e-4)
    network = {"width": settings.width, "depth": 3, "activation": jnp.tanh}
    keys = map(jax.random.key, run.seeds(settings.seeds))
    points = tw.AdaptivePoints(RING.sample_interior, settings.points)
    others = tw.HeldPoints(RING.spread_interior, 3 * settings.points)
    _, claims = tw.solve(
        run,
        [Field(tw.nn.MLP(5, None, **network, key=key)) for key in keys],
        tw.Objective(law=tw.Residual(law, points), refresh_every=settings.refresh),
        settings.program(),
        tw.Reference(t, x, truth, classical=("Fourier modes", modes_take)),
        at_most=1e-4,
        validation=tw.Objective(law=tw.Residual(law, others)),
    )
    return claims

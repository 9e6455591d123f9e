"""Allen and Cahn's equation: a field that falls apart into two phases, with sharp walls between them.

u_t = 1e-4·u_xx + 5u - 5u³ on a ring -1 ≤ x ≤ 1, 0 ≤ t ≤ 1, from u(x, 0) = x²·cos(πx). The start has a kink at x = ±1,
which the equation smooths at once; no smooth network has it. How diffusion alone rounds a kink is known in closed form,
and is given to the network. The reference is by Fourier modes and exponential time differencing; the same method, with
as few modes as do, is the one to beat.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

DIFFUSION = 1e-4
RING = tw.geometry.rectangle((-1, 0), (1, 1))  # x to the right, t upwards


def start(x):
    """The field at t = 0."""
    return x * x * jnp.cos(jnp.pi * x)


def law(u, at):
    """The equation at one point."""
    value = u(at)
    return tw.derivative(u, at, 1) - DIFFUSION * tw.derivative(u, at, 0, 0) + 5 * value**3 - 5 * value


def rounded(x, t):
    """The kink |s| at x = ±1 after diffusion alone: s·erf(s/w) + w·exp(-s²/w²)/√π with w = √(4Dt) (the heat kernel).

    For the distance s stands (2/π)·cos(πx/2), which has the same kink and no other on the ring.
    """
    s, width = 2 / jnp.pi * jnp.cos(jnp.pi * x / 2), jnp.sqrt(4 * DIFFUSION * t)
    return s * jax.scipy.special.erf(s / width) + width * jnp.exp(-((s / width) ** 2)) / jnp.sqrt(jnp.pi)


class Field(eqx.Module):
    """Two networks of waves round the ring, one times the rounded kink, which start as they ought."""

    network: tw.nn.MLP

    def __call__(self, at: jax.Array) -> jax.Array:
        """U at one point (x, t)."""
        x, t = at
        waves = [wave(k * jnp.pi * x) for k in (1, 2, 3) for wave in (jnp.cos, jnp.sin)]
        smooth, sharp = self.network(jnp.stack([*waves, 2 * t - 1]))
        kink = rounded(x, t + 1e-15)  # w > 0
        begins = start(x) - 4 / jnp.pi * jnp.cos(jnp.pi * x / 2)
        return begins + 2 * kink + t * (smooth + kink * sharp)


def modes(points: int, times: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The ring's points, and the solution there at the times, by Fourier modes."""
    x = np.linspace(-1, 1, points, endpoint=False)
    reaction = lambda v, k: np.fft.rfft(5 * np.fft.irfft(v) - 5 * np.fft.irfft(v) ** 3)
    found = tw.references.periodic_evolution(
        x * x * np.cos(np.pi * x), times, length=2, linear=lambda k: -DIFFUSION * k**2, nonlinear=reaction, step=step
    )
    return x, found


def modes_take(error: float) -> float:
    """Seconds of the fewest modes that err no more at t = 1."""
    end = lambda points, step: modes(points, np.array([1.0]), step)[1][0]
    return tw.least_seconds(lambda points: end(points, 1e-2), (64, 128, 256, 512), end(1_024, 1e-3), error)


class Settings(tw.SolveSettings):
    """What can be set from the command line."""


@tw.study("allen-cahn", systems=["S04"], question="How exactly can a network follow a field into two phases?")
def allen_cahn(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Train over seeds; compare with Fourier modes."""
    t = np.linspace(0, 1, 101)
    x, truth = modes(1_024, t, 1e-3)
    network = {"width": settings.width, "depth": 3, "activation": jnp.tanh}
    keys = map(jax.random.key, run.seeds(settings.seeds))
    points = tw.AdaptivePoints(RING.sample_interior, settings.points)
    others = tw.HeldPoints(RING.spread_interior, 3 * settings.points)
    _, claims = tw.solve(
        run,
        [Field(tw.nn.MLP(7, 2, **network, key=key)) for key in keys],
        tw.Objective(law=tw.Residual(law, points), refresh_every=settings.refresh),
        settings.program(),
        tw.Reference(t, x, truth, classical=("Fourier modes", modes_take)),
        at_most=5e-5,
        validation=tw.Objective(law=tw.Residual(law, others)),
    )
    return claims

"""A string that swings in two ways at once.

u_tt = 4·u_xx on 0 ≤ x, t ≤ 1 with fixed ends, at rest in the shape u(x, 0) = sin(πx) + sin(4πx)/2. Its closed form is
the sum of both swings: sin(πx)·cos(2πt) + sin(4πx)·cos(8πt)/2.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

STRING = tw.geometry.rectangle((0, 0), (1, 1))  # x to the right, t upwards


def law(u, at):
    """The equation at one point, in units in which both swings are about 1."""
    return (tw.derivative(u, at, 1, 1) - 4 * tw.derivative(u, at, 0, 0)) / (8 * jnp.pi**2)


class Field(eqx.Module):
    """A network that starts at rest in the given shape, with fixed ends."""

    network: tw.nn.MLP

    def __call__(self, at: jax.Array) -> jax.Array:
        """U at one point (x, t)."""
        x, t = at
        shape = jnp.sin(jnp.pi * x) + jnp.sin(4 * jnp.pi * x) / 2
        return shape + 10 * t * t * x * (1 - x) * self.network(2 * at - 1)


class Settings(tw.SolveSettings):
    """What can be set from the command line."""

    steps: int = tw.setting(5_000, "steps of self-scaled Broyden after those of Adam", quick=500, ge=1)


@tw.study("wave", systems=["S04"], question="How exactly can a network solve the wave equation?")
def wave(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Train over seeds; compare with the closed form."""
    t, x = np.linspace(0, 1, 101), np.linspace(0, 1, 201)
    slow = np.cos(2 * np.pi * t)[:, None] * np.sin(np.pi * x)[None]
    truth = slow + np.cos(8 * np.pi * t)[:, None] * np.sin(4 * np.pi * x)[None] / 2
    network = {"width": settings.width, "depth": 3, "activation": jnp.sin}
    keys = map(jax.random.key, run.seeds(settings.seeds))
    points = tw.AdaptivePoints(STRING.sample_interior, settings.points)
    others = tw.HeldPoints(STRING.spread_interior, 3 * settings.points)
    _, claims = tw.solve(
        run,
        [Field(tw.nn.MLP(2, None, **network, key=key)) for key in keys],
        tw.Objective(law=tw.Residual(law, points), refresh_every=settings.refresh),
        settings.program(),
        tw.Reference(t, x, truth),
        at_most=1e-4,
        validation=tw.Objective(law=tw.Residual(law, others)),
    )
    return claims

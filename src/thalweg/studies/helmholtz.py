"""Helmholtz's equation with a wave of another length in each direction.

Δu + u = q on -1 ≤ x, y ≤ 1 with u = 0 on the boundary, and q such that u = sin(πx)·sin(4πy).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

SQUARE = tw.geometry.rectangle((-1, -1), (1, 1))


def exact(at):
    """The solution at one point (x, y)."""
    return jnp.sin(jnp.pi * at[0]) * jnp.sin(4 * jnp.pi * at[1])


def law(u, at):
    """The equation at one point, in units of its largest term."""
    return (tw.laplacian(u, at) + u(at) + (17 * jnp.pi**2 - 1) * exact(at)) / (17 * jnp.pi**2)


class Field(eqx.Module):
    """A network that is 0 on the boundary."""

    network: tw.nn.MLP

    def __call__(self, at: jax.Array) -> jax.Array:
        """U at one point (x, y)."""
        return (1 - at[0] ** 2) * (1 - at[1] ** 2) * self.network(at)


class Settings(tw.SolveSettings):
    """What can be set from the command line."""

    steps: int = tw.setting(4_000, "steps of self-scaled Broyden after those of Adam", quick=500, ge=1)


@tw.study("helmholtz", systems=["S04"], question="How exactly can a network solve Helmholtz's equation?")
def helmholtz(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Train over seeds; compare with the closed form."""
    axis = np.linspace(-1, 1, 101)
    truth = np.sin(np.pi * axis)[None] * np.sin(4 * np.pi * axis)[:, None]
    network = {"width": settings.width, "depth": 3, "activation": jnp.tanh}
    keys = map(jax.random.key, run.seeds(settings.seeds))
    points = tw.AdaptivePoints(SQUARE.sample_interior, settings.points)
    others = tw.HeldPoints(SQUARE.spread_interior, 3 * settings.points)
    _, claims = tw.solve(
        run,
        [Field(tw.nn.MLP(2, None, **network, key=key)) for key in keys],
        tw.Objective(law=tw.Residual(law, points), refresh_every=settings.refresh),
        settings.program(),
        tw.Reference(axis, axis, truth, ("y", "x")),
        at_most=1e-4,
        validation=tw.Objective(law=tw.Residual(law, others)),
    )
    return claims

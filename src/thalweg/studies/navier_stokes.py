"""Steady viscous flow: Kovasznay's behind a grid, and the lid-driven cavity against a published table.

u·∇u = -∇p + Δu/Re and ∇·u = 0 in the plane. Kovasznay's flow (1948) at Re = 40 has a closed form. In the cavity, a unit
square at Re = 100 whose upper wall moves at speed 1, the velocity jumps in two corners; within a twentieth of them law
and walls count for less, since no smooth network has a jump. Its references are the table of Ghia, Ghia and Shin
(1982) and finite differences, which themselves are up to 0.8 % of the lid's speed apart.
"""

import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline

import thalweg as tw

CHANNEL, CAVITY = tw.geometry.rectangle((-0.5, -0.5), (1.0, 1.5)), tw.geometry.rectangle((0, 0), (1, 1))
DECAY = 20 - np.sqrt(400 + 4 * np.pi**2)  # of Kovasznay's flow at Re = 40


class Flow(eqx.Module):
    """A network for velocity and pressure, (u, v, p), of the point scaled to [-1, 1]."""

    network: tw.nn.MLP
    middle: tuple[float, float] = eqx.field(static=True)
    half: tuple[float, float] = eqx.field(static=True)

    def __call__(self, at: jax.Array) -> jax.Array:
        """(u, v, p) at one point (x, y)."""
        scaled = [(at[i] - self.middle[i]) / self.half[i] for i in (0, 1)]
        return self.network(jnp.stack(scaled))


def law(reynolds: float, weight: Callable = lambda at: 1.0):
    """Both components of momentum, and the continuity, at one point."""

    def broken(flow, at):
        u, v, _ = flow(at)
        by_x, by_y = tw.derivative(flow, at, 0), tw.derivative(flow, at, 1)
        drag = tw.laplacian(flow, at) / reynolds
        along = u * by_x[0] + v * by_y[0] + by_x[2] - drag[0]
        across = u * by_x[1] + v * by_y[1] + by_y[2] - drag[1]
        return weight(at) * jnp.stack([along, across, by_x[0] + by_y[1]])

    return broken


def kovasznay(at):
    """Kovasznay's (u, v, p) at one point."""
    x, y = at
    fall = jnp.exp(DECAY * x)
    across = DECAY / (2 * jnp.pi) * fall * jnp.sin(2 * jnp.pi * y)
    return jnp.stack([1 - fall * jnp.cos(2 * jnp.pi * y), across, (1 - fall**2) / 2])


def at_edge(flow, at):
    """What the network misses Kovasznay's flow by on the edge of the channel."""
    return flow(at.x) - kovasznay(at.x)


def eased(at):
    """1, but rising from 0 within a twentieth of the two corners where the lid's speed jumps."""
    nearest = jnp.minimum(at[0] ** 2, (1 - at[0]) ** 2) + (1 - at[1]) ** 2
    return jnp.minimum(1.0, nearest / 0.05**2)


def at_wall(flow, at):
    """The velocity at a wall of the cavity, less the wall's own."""
    speed = jnp.where(at.normal[1] > 0.5, 1.0, 0.0)
    return eased(at.x) * (flow(at.x)[:2] - jnp.stack([speed, jnp.zeros_like(speed)]))


class Settings(tw.SolveSettings):
    """What can be set from the command line."""

    steps: int = tw.setting(6_000, "steps of self-scaled Broyden after those of Adam", quick=400, ge=1)


@tw.study("navier-stokes", systems=["S04"], question="How exactly can a network solve the equations of viscous flow?")
def navier_stokes(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Solve both flows over seeds; compare with the closed form, the table, and finite differences."""
    seeds, source, spread = run.seeds(settings.seeds), tw.AdaptivePoints, settings.points // 8

    def solved(name: str, middle: tuple, half: tuple, objective: tw.Objective) -> tuple[list, float]:
        network = {"width": settings.width, "depth": 3, "activation": jnp.tanh}
        flows = [Flow(tw.nn.MLP(2, 3, **network, key=jax.random.key(seed)), middle, half) for seed in seeds]
        began = time.monotonic()
        fitted = tw.fit_many(
            flows, objective, settings.program(), seeds=seeds, precision=jnp.float64, run=run, name=name,
            callbacks=run.callbacks, raise_failures=False,
        )  # fmt: skip
        return fitted.models, (time.monotonic() - began) / len(seeds)

    behind, _ = solved(
        "kovasznay", (0.25, 0.5), (0.75, 1.0),
        tw.Objective(
            law=tw.Residual(law(40.0), source(CHANNEL.sample_interior, settings.points)),
            edges=tw.Residual(at_edge, tw.HeldPoints(CHANNEL.spread_boundary, spread), weight=100.0),
            refresh_every=settings.refresh,
        ),
    )  # fmt: skip
    cavity, seconds = solved(
        "cavity", (0.5, 0.5), (0.5, 0.5),
        tw.Objective(
            law=tw.Residual(law(100.0, eased), source(CAVITY.sample_interior, settings.points)),
            walls=tw.Residual(at_wall, tw.HeldPoints(CAVITY.spread_boundary, 2 * spread), weight=100.0),
            pressure=tw.Residual(lambda flow, at: flow(at)[2], np.array([[0.5, 0.0]])),  # only differences of it count
            refresh_every=settings.refresh,
        ),
    )  # fmt: skip

    places = np.asarray(CHANNEL.spread_interior(jax.random.key(0), 4_000), float)
    right = tw.at_points(kovasznay, places)
    velocity = lambda found: float(np.linalg.norm((found - right)[:, :2]) / np.linalg.norm(right[:, :2]))
    kovasznay_errors = [velocity(tw.at_points(flow, places)) for flow in behind]

    table_u, table_v = tw.cavity.GHIA_U, tw.cavity.GHIA_V
    on_u = np.stack([np.full(len(table_u), 0.5), table_u[:, 0]], axis=1)
    on_v = np.stack([table_v[:, 0], np.full(len(table_v), 0.5)], axis=1)

    def off_table(flow) -> float:
        """Largest difference from the table, in % of the lid's speed."""
        u, v = tw.at_points(flow, on_u)[:, 0], tw.at_points(flow, on_v)[:, 1]
        return 100 * float(max(np.abs(u - table_u[:, 1]).max(), np.abs(v - table_v[:, 1]).max()))

    began = time.monotonic()
    x, u, v = tw.cavity.lid_driven_cavity(100.0)
    differences_take = time.monotonic() - began
    by_differences = [CubicSpline(x, u[len(x) // 2]), CubicSpline(x, v[:, len(x) // 2])]
    fine = np.linspace(0.02, 0.98, 97)
    lines = np.stack([np.full(97, 0.5), fine], axis=1), np.stack([fine, np.full(97, 0.5)], axis=1)
    exact = [spline(fine) for spline in by_differences]
    off_differences = [
        100 * float(max(np.abs(tw.at_points(flow, lines[i])[:, i] - exact[i]).max() for i in (0, 1))) for flow in cavity
    ]
    draw(run, cavity, off_differences, (x, u, v), lines, exact, kovasznay_errors, behind)
    return [
        tw.Claim.median_at_most("Kovasznay: the velocity's relative L2 error is at most 1e-4", kovasznay_errors, 1e-4),
        tw.Claim.median_at_most(
            "Cavity: every published velocity is met within 1 % of the lid's speed",
            [off_table(flow) for flow in cavity], 1.0, unit="%",
        ),
        tw.Claim.median_at_most(
            "Cavity: on both middle lines finite differences are met within 1 %", off_differences, 1.0, unit="%"
        ),
        tw.Claim.at_most(
            "One cavity takes no longer than finite differences on 128 by 128 cells", seconds, (seconds, seconds),
            differences_take, unit="s",
        ),
    ]  # fmt: skip


def draw(run, cavity, errors, reference, lines, exact, kovasznay_errors, behind) -> None:
    """The cavity's flow and its error, its middle lines, and Kovasznay's streamlines."""
    x, u, v = reference
    flow = cavity[int(np.argsort(errors)[(len(errors) - 1) // 2])]
    grid = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1)
    found = tw.at_points(flow, grid.reshape(-1, 2)).reshape(len(x), len(x), 3)
    wrong = np.hypot(found[..., 0] - u, found[..., 1] - v)
    np.savez(run.arrays / "cavity.npz", x=x, u=u, v=v, network=found)
    who = f"the network of median error among {len(errors)}"

    def speed(ax) -> None:
        tw.figures.fields.history(ax, x, x, np.hypot(found[..., 0], found[..., 1]), label="speed", limits=(0.0, 1.0))
        ax.streamplot(x, x, found[..., 0].T, found[..., 1].T, color="0.8", linewidth=0.6, density=0.9, arrowsize=0.6)
        ax.set_xlabel("x")
        ax.set_ylabel("y")
        ax.set_aspect("equal")

    run.save_figure("1-cavity", speed, title="The cavity", caption=f"Speed and streamlines by {who}.")

    def error(ax) -> None:
        limits = (0.0, float(np.quantile(wrong, 0.99)))
        tw.figures.fields.history(ax, x, x, wrong, label="difference of velocity", limits=limits)
        ax.set_xlabel("x")
        ax.set_ylabel("y")
        ax.set_aspect("equal")

    run.save_figure(
        "2-error", error, title="Error", caption=f"By {who}, against finite differences; worst at the jumps."
    )
    tables = (tw.cavity.GHIA_U, tw.cavity.GHIA_V)
    for i, (name, place) in enumerate((("u", "y at x = 1/2"), ("v", "x at y = 1/2"))):

        def line(ax, i: int = i, name: str = name, place: str = place) -> None:
            along = lines[i][:, 1 - i]
            ax.plot(along, exact[i], color="C1", linewidth=2.2, label="finite differences")
            ax.plot(along, tw.at_points(flow, lines[i])[:, i], ":", color="C0", linewidth=2.2, label="network")
            ax.plot(*tables[i].T, "o", color="C2", markersize=4, label="Ghia et al. (1982)")
            ax.set_xlabel(place)
            ax.set_ylabel(name)
            ax.legend()

        run.save_figure(f"{i + 3}-line", line, title=f"{name} on the middle line", caption=f"By {who}.")
    best = behind[int(np.argsort(kovasznay_errors)[(len(errors) - 1) // 2])]

    def wake(ax) -> None:
        a, b = np.linspace(-0.5, 1.0, 91), np.linspace(-0.5, 1.5, 121)
        at = np.stack(np.meshgrid(a, b, indexing="ij"), axis=-1)
        here = tw.at_points(best, at.reshape(-1, 2)).reshape(len(a), len(b), 3)
        tw.figures.fields.history(ax, a, b, here[..., 0], label="u")
        ax.streamplot(a, b, here[..., 0].T, here[..., 1].T, color="0.7", linewidth=0.6, density=0.9, arrowsize=0.6)
        ax.set_xlabel("x")
        ax.set_ylabel("y")

    run.save_figure(
        "5-kovasznay", wake, title="Behind a grid", caption="Kovasznay's flow, by the network of median error."
    )

"""A plate that is heated from within and cools at one edge: how fast does it lose heat, and what is its temperature?

u_t = ∇·(k∇u) + q on a rectangle, k and q known, from u = 0. At the right edge k·∂u/∂n = -h·u (Newton's law of cooling),
and nobody knows h; the other edges are insulated. Eight thermocouples are read at ten times and err a little. Lengths
are in units of the plate's height, times in those of the experiment, temperatures count from the surroundings'. Beside
the network stand finite elements in space and Crank and Nicolson's rule in time (1947), with least squares for h.
"""

import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import skfem
from scipy.optimize import minimize_scalar
from scipy.sparse.linalg import splu
from skfem.helpers import grad

import thalweg as tw

COOLING = 0.7  # h
PLATE = tw.geometry.rectangle((0, 0), (2, 1))
DURING = tw.geometry.time_cylinder(PLATE, 0, 1)  # points (x, y, t)
SENSORS = np.array([(x, y) for x in (0.5, 1.0, 1.5, 2.0) for y in (0.3, 0.8)])
TIMES = np.linspace(0.1, 1.0, 10)
READ = np.array([(*place, t) for place in SENSORS for t in TIMES])  # (80, 3)


def conductivity(x):
    """The conductivity k at one point."""
    return 0.4 + 0.1 * jnp.sin(jnp.pi * x[0]) * jnp.cos(jnp.pi * x[1])


def source(x):
    """The heat q that is made at one point."""
    return 6 * jnp.exp(-((x[0] - 1.3) ** 2 + (x[1] - 0.6) ** 2) / 0.1)


def law(u, at):
    """Heat that is kept, less what flows in and is made, at one point (x, y, t): 0 where u is right."""
    bends = tw.derivative(u, at, 0, 0) + tw.derivative(u, at, 1, 1)
    turns = tw.derivative(conductivity, at, 0) * tw.derivative(u, at, 0)
    turns += tw.derivative(conductivity, at, 1) * tw.derivative(u, at, 1)
    return tw.derivative(u, at, 2) - conductivity(at) * bends - turns - source(at)


def cooling(u, at):
    """What the right edge loses, against Newton's law."""
    return tw.conditions.flux(conductivity, u, at) - u.cooling.value * u(at.x)


class Plate(eqx.Module):
    """A network for the temperature, the unknown number, and the readings that it was given; these stay."""

    network: tw.nn.MLP
    cooling: tw.Unknown
    readings: jax.Array  # (80,)

    def __call__(self, at: jax.Array) -> jax.Array:
        """The temperature at one point (x, y, t): 0 at first; through x² and cos πy, three edges let nothing out."""
        x, y, t = at
        return t * self.network(jnp.stack([x * x / 2 - 1, jnp.cos(jnp.pi * y), 2 * t - 1]))


class Elements:
    """Quadratic finite elements on squares of side 1/n, and Crank and Nicolson's rule with as many steps as asked for.

    Args:
        n: squares along the plate's height.
        steps: in time, up to 1.
    """

    def __init__(self, n: int, steps: int):
        mesh = skfem.MeshQuad.init_tensor(np.linspace(0, 2, 2 * n + 1), np.linspace(0, 1, n + 1))
        self.basis, self.steps = skfem.Basis(mesh, skfem.ElementQuad2()), steps
        edge = self.basis.boundary(mesh.facets_satisfying(lambda x: x[0] == 2))
        product = lambda u, v: np.sum(np.asarray(grad(u)) * np.asarray(grad(v)), axis=0)
        self.stiffness = skfem.BilinearForm(lambda u, v, w: at64(conductivity, w.x) * product(u, v)).assemble(
            self.basis
        )
        self.mass = skfem.BilinearForm(lambda u, v, _: u * v).assemble(self.basis)
        self.edge = skfem.BilinearForm(lambda u, v, _: u * v).assemble(edge)
        self.load = skfem.LinearForm(lambda v, w: at64(source, w.x) * v).assemble(self.basis)

    def solution(self, cooling: float, start: np.ndarray | None = None) -> np.ndarray:
        """The unknowns at all times, (steps + 1, m), from 0 or another start (m,)."""
        step, flow = 1 / self.steps, self.stiffness + cooling * self.edge
        ahead, behind = splu((self.mass + step / 2 * flow).tocsc()), self.mass - step / 2 * flow
        found = [np.zeros(len(self.load)) if start is None else start]
        for _ in range(self.steps):
            found.append(ahead.solve(behind @ found[-1] + step * self.load))
        return np.array(found)

    def at(self, solution: np.ndarray, places: np.ndarray, times: np.ndarray) -> np.ndarray:
        """A solution at places (n, 2) and times (k,), which are among its steps: (n, k)."""
        return self.basis.probes(places.T) @ solution[np.rint(times * self.steps).astype(int)].T

    def estimate(self, readings: np.ndarray) -> float:
        """The h of least squares."""
        misfit = lambda h: np.sum((self.at(self.solution(h), SENSORS, TIMES).ravel() - readings) ** 2)
        found: Any = minimize_scalar(misfit, bounds=(0.0, 5.0), method="bounded", options={"xatol": 1e-4})
        return float(found.x)


def at64(function, x) -> np.ndarray:
    """A function of one point at points (2, …), in 64 bits."""
    x = np.asarray(x)
    return tw.at_points(function, x.reshape(2, -1).T).reshape(x.shape[1:])


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(10, "experiments, each with its own noise, network and points", quick=6, ge=1, le=100)
    points: int = tw.setting(1_500, "points of the law at a time", quick=1_000, ge=50, le=20_000)
    adam: int = tw.setting(300, "steps of Adam", ge=1)
    newton: int = tw.setting(600, "most steps of Levenberg-Marquardt after them", quick=400, ge=1)
    fresh: int = tw.setting(10, "of these steps share their points, the next ones have fresh ones", ge=1)
    width: int = tw.setting(16, "units in each of the two hidden layers", ge=1, le=60)
    noise: float = tw.setting(0.02, "standard deviation of a reading; the plate reaches 1.4", gt=0, le=1)
    belief: float = tw.setting(0.01, "by how much the law may fail at a point; the source reaches 6", gt=0)


@tw.study("heat-cooling", systems=["S34"], question="How fast does a plate lose heat, as eight thermocouples tell it?")
def heat_cooling(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Recover the temperature at all times and the number h from noisy readings, and compare with finite elements."""
    truth = Elements(16, 400)
    true = truth.solution(COOLING)
    exact, seeds = truth.at(true, SENSORS, TIMES).ravel(), run.seeds(settings.seeds)
    readings = [exact + settings.noise * np.random.default_rng(seed).normal(size=len(exact)) for seed in seeds]
    right = DURING.over(PLATE.right)
    # Minus twice the log posterior but for a factor: Gaussian errors of readings and of the law.
    sure = settings.points / len(READ) * (settings.noise / settings.belief) ** 2
    deviations = {"law": settings.belief, "cooling": settings.belief, "sensors": settings.noise}
    read = lambda plate, at: plate(at[0]) - plate.readings[at[1]]

    def landscape(points, n: int) -> tw.Objective:
        return tw.Objective(
            law=tw.Residual(law, points(DURING.spread_interior, n), weight=sure),
            cooling=tw.Residual(cooling, points(right.spread, n // 8), weight=sure / 8),
            sensors=tw.Residual(read, tw.Rows((READ, np.arange(len(READ))))),
        )

    held, began = tw.frozen(lambda plate: plate.readings), time.monotonic()
    network = {"width": settings.width, "depth": 2, "activation": jnp.tanh}
    keys, stop = map(jax.random.key, seeds), tw.Plateau(patience=5, improvement=0.003, every=settings.fresh)
    newton = tw.Phase(tw.LevenbergMarquardt(), settings.newton, until=stop, redraw=settings.fresh, where=held)
    fitted = tw.fit_many(
        [Plate(tw.nn.MLP(3, None, **network, key=key), tw.Unknown(1.5, low=0.0), jnp.asarray(one))
         for key, one in zip(keys, readings, strict=True)],
        landscape(tw.FreshPoints, settings.points),
        [tw.Phase(tw.Adam(1e-2), settings.adam, where=held), newton],
        validation=landscape(tw.HeldPoints, 2 * settings.points), validate_every=settings.fresh,
        seeds=seeds, precision=jnp.float64, run=run, callbacks=run.callbacks,
    )  # fmt: skip
    seconds = (time.monotonic() - began) / len(seeds)

    doubt = landscape(tw.HeldPoints, settings.points)
    posterior = lambda plate: tw.unknown_posterior(plate, doubt, deviations, where=held, seed=seeds[0])
    ends = np.array([posterior(plate).interval("cooling", 0.9) for plate in fitted.models])
    numbers = np.array([float(plate.cooling) for plate in fitted.models])
    places = np.stack(np.meshgrid(np.linspace(0, 2, 41), np.linspace(0, 1, 21)), axis=-1).reshape(-1, 2)
    moments = np.linspace(0.1, 1, 10)
    reference = truth.at(true, places, moments)  # (places, moments)
    grid = np.concatenate([np.repeat(places, 10, axis=0), np.tile(moments, len(places))[:, None]], axis=1)
    fields = [tw.at_points(plate, grid).reshape(reference.shape) for plate in fitted.models]
    errors = np.array([100 * np.linalg.norm(one - reference) / np.linalg.norm(reference) for one in fields])

    coarse, began = Elements(4, 40), time.monotonic()
    classical = np.array([coarse.estimate(one) for one in readings])
    coarse_takes = (time.monotonic() - began) / len(seeds)
    off = lambda found: 100 * np.abs(found / COOLING - 1)
    draw(run, places, moments, reference, fields[int(np.argsort(errors)[(len(errors) - 1) // 2])], numbers, ends)
    width = 100 * (ends[:, 1] - ends[:, 0]) / (2 * 1.645 * COOLING)  # the standard deviation that is told, in %
    return [
        tw.Claim.median_at_most("The temperature errs by at most 1 % (relative L2)", errors, 1.0, unit="%"),
        tw.Claim.median_at_most("h is recovered to within 5 %", off(numbers), 5.0, unit="%"),
        tw.Claim.median_at_most("The standard deviation that is told of h is at most 5 %", width, 5.0, unit="%"),
        tw.Claim.median_at_most("h is off by at most 1.645 times that", off(numbers) / width, 1.645),
        tw.Claim.median_at_most("h errs no more than by least squares on finite elements",
                                off(numbers) - off(classical), 0.0, unit="% points"),
        tw.Claim.at_most("One experiment takes at most 60 s", seconds, (seconds, seconds), 60.0, unit="s"),
        tw.Claim.at_most("It takes no longer than least squares", seconds, (seconds, seconds), coarse_takes, unit="s"),
    ]  # fmt: skip


def draw(run, places, moments, reference, found, numbers, ends) -> None:
    """The plate over time, the error at the end, and the recovered numbers."""
    x, y = np.unique(places[:, 0]), np.unique(places[:, 1])
    np.savez(run.arrays / "plate.npz", places=places, times=moments, network=found, reference=reference)
    most, worst = float(reference.max()), float(np.abs(found - reference).max())

    def plate(ax, values: np.ndarray, label: str, limits: tuple[float, float]) -> None:
        tw.figures.fields.history(ax, x, y, values.reshape(len(y), len(x)).T, label=label, limits=limits)
        ax.plot(SENSORS[:, 0], SENSORS[:, 1], "o", color="white", markersize=4, markeredgecolor="black", clip_on=False)
        ax.set_xlabel("x")
        ax.set_ylabel("y")
        ax.set_aspect("equal")

    for name, values, label, limits, title in (
        ("1-plate", found, "temperature", (0.0, most), "The plate, reconstructed"),
        ("2-error", found - reference, "difference", (-worst, worst), "Error"),
    ):
        frames = [
            (f"t = {t:.1f}", lambda ax, at=values[:, i], label=label, limits=limits: plate(ax, at, label, limits))
            for i, t in enumerate(moments)
            if i % 2
        ]
        caption = "By the network of median error. Circles: the thermocouples. The right edge cools."
        run.save_frames(name, frames, title=title, caption=caption, slider="time", size=(5.0, 2.5))

    low, high = ends.T
    recovered = lambda ax: tw.figures.parameters.recovered(ax, numbers, low, high, truth=COOLING, label="h")
    run.save_figure(
        "3-cooling", recovered, title="Recovered h", caption="90 % intervals by experiment; the line: truth."
    )

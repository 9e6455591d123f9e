"""Steady heat on an L-shaped plate, from 12 noisy sensors and the law, and from the law and the boundary alone.

−∇·(k∇u) = q with k and q known. The upper edge is held at 0, the others but one are insulated. The edge at x = 2 is
held at temperatures that are given in the second problem; in the first nobody knows them, and each sensor errs a
little. Lengths are in units of an arm's width, temperatures in those of the hot edge's mean. Beside it stand finite
elements, and a thin plate that is bent through the readings and knows no law.
"""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import skfem
from scipy.interpolate import RBFInterpolator
from scipy.sparse.linalg import splu
from skfem.helpers import grad

import thalweg as tw

CORNERS = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]  # edge i goes from corner i to the next
HOT, COLD, INSULATED = 1, 4, (0, 2, 3, 5)
SENSORS = np.array([(x, y) for x in (0.25, 0.75, 1.25, 1.75) for y in (0.25, 0.75, 1.25, 1.75) if min(x, y) < 1])
PLATE = tw.geometry.polygon(CORNERS)


def conductivity(x):
    """The conductivity k at one point (2,)."""
    return 1 + 0.5 * jnp.sin(jnp.pi * x[0]) * jnp.cos(jnp.pi / 2 * x[1])


def source(x):
    """The source q at one point (2,): something warm at (0.5, 0.6)."""
    return 6 * jnp.exp(-((x[0] - 0.5) ** 2 + (x[1] - 0.6) ** 2) / 0.08)


def hot(x):
    """The temperature of the hot edge at one point (2,)."""
    return 1 + 0.3 * jnp.cos(jnp.pi * x[1])


def eased(x):
    """What law and insulation count for, (r/0.3)^(4/3) within 0.3 of the corner that points inwards.

    The gradient is infinite there, like r^(-1/3), and no smooth network has it so.
    """
    return jnp.minimum(1.0, jnp.sum((x - 1.0) ** 2) / 0.3**2) ** (2 / 3)


def law(u, x):
    """∇·(k∇u) + q at one point: 0 where u is right."""
    return eased(x) * (tw.divergence(lambda z: conductivity(z) * tw.gradient(u, z), x) + source(x))


def outflow(u, at):
    """The heat that leaves through an edge at one of its points."""
    return eased(at.x) * jnp.vdot(conductivity(at.x) * tw.gradient(u, at.x), at.normal)


def bend(u, at):
    """∂²u/∂y² on the hot edge."""
    return tw.gradient(lambda z: tw.gradient(u, z)[1], at.x)[1]


class Plate(eqx.Module):
    """A network, and the readings that it was given; these stay."""

    temperature: tw.nn.MLP
    readings: jax.Array  # (12,)

    def __call__(self, x: jax.Array) -> jax.Array:
        """The temperature at one point (2,)."""
        return self.temperature(x)


class Elements:
    """Quadratic finite elements on a triangulation of the plate.

    Args:
        refinements: times that each of the 6 triangles is cut into 4.

    Attributes:
        basis: of scikit-fem.
        edge: points (2, m) of the unknowns on the hot edge, rising.
    """

    def __init__(self, refinements: int):
        corners = np.array([[0, 1, 2, 0, 1, 2, 0, 1], [0, 0, 0, 1, 1, 1, 2, 2]], float)
        triangles = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4], [3, 4, 7], [3, 7, 6]]).T
        self.basis = skfem.Basis(skfem.MeshTri(corners, triangles).refined(refinements), skfem.ElementTriP2())
        place = np.asarray(self.basis.doflocs)  # (2, n)
        on_hot = np.flatnonzero(place[0] == 2)
        self.hot = on_hot[np.argsort(place[1, on_hot])]
        self.edge = place[:, self.hot]
        self.free = np.flatnonzero((place[0] < 2) & (place[1] < 2))
        product = lambda u, v: np.sum(np.asarray(grad(u)) * np.asarray(grad(v)), axis=0)
        stiffness = skfem.BilinearForm(lambda u, v, w: at64(conductivity, w.x) * product(u, v))
        self.stiffness = stiffness.assemble(self.basis).tocsc()
        self.load = skfem.LinearForm(lambda v, w: at64(source, w.x) * v).assemble(self.basis)
        self.solve = splu(self.stiffness[self.free][:, self.free]).solve

    def solution(self, edge: np.ndarray, *, heated: bool = True) -> np.ndarray:
        """The unknowns (n,), or (n, k), for temperatures of the hot edge (m,), or (m, k); with or without a source."""
        found = np.zeros((len(self.load), *edge.shape[1:]))
        found[self.hot] = edge
        given = self.load.reshape(-1, *[1] * (edge.ndim - 1)) * heated - self.stiffness @ found
        found[self.free] = self.solve(given[self.free])
        return found

    def reconstruction(self, readings: np.ndarray, noise: float, curvature: float) -> np.ndarray:
        """The unknowns (n,) that are most probable after these readings, by linear least squares (Tikhonov, 1963)."""
        count = len(self.hot)
        step = 1 / (count - 1)
        see = self.basis.probes(SENSORS.T)
        rest = self.solution(np.zeros(count))
        each = self.solution(np.eye(count), heated=False)
        bends = np.diff(np.eye(count), n=2, axis=0) / step**2 * np.sqrt(step) / curvature
        matrix = np.vstack([see @ each / noise, bends])
        wanted = np.concatenate([(readings - see @ rest) / noise, np.zeros(count - 2)])
        return rest + each @ np.linalg.lstsq(matrix, wanted)[0]


def at64(function: Callable, x) -> np.ndarray:
    """A function of one point at points (2, …), in 64 bits."""
    x = np.asarray(x)
    return tw.at_points(function, x.reshape(2, -1).T).reshape(x.shape[1:])


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(
        10, "networks for each problem, with their own weights, points and noise", quick=6, ge=1, le=100
    )
    points: int = tw.setting(1_000, "points of the law at a time", ge=50, le=20_000)
    adam: int = tw.setting(500, "steps of Adam", quick=300, ge=1)
    newton: int = tw.setting(200, "most steps of Levenberg-Marquardt after them", quick=90, ge=1)
    fresh: int = tw.setting(10, "of these steps share their points, the next ones have fresh ones", ge=1)
    width: int = tw.setting(20, "units in each of the two hidden layers", quick=16, ge=1, le=60)
    noise: float = tw.setting(0.02, "standard deviation of a sensor's error; the plate's range is 1.8", gt=0, le=1)
    curvature: float = tw.setting(5.0, "how bent the unknown edge's profile may be (standard deviation of u_yy)", gt=0)


@tw.study("heat-plate", systems=["S34"], question="Can 12 noisy sensors and the heat law reconstruct the whole plate?")
def heat_plate(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Solve both problems, and compare with finite elements."""
    truth = Elements(5)
    true = truth.solution(at64(hot, truth.edge))
    exact = truth.basis.probes(SENSORS.T) @ true  # (12,)
    seeds = run.seeds(settings.seeds)
    readings = exact + settings.noise * np.stack([np.random.default_rng(seed).normal(size=12) for seed in seeds])

    def landscape(points: Callable, n: int, *, sensors: bool) -> tw.Objective:
        inner, edges = PLATE.spread_interior, PLATE.edges
        terms: dict[str, Any] = {
            "law": tw.Residual(law, points(inner, n)),
            "cold": tw.Residual(lambda u, at: u(at.x), points(edges(COLD).spread, n // 16), weight=100.0),
            "insulated": tw.Residual(outflow, points(edges(*INSULATED).spread, n // 4), weight=10.0),
        }
        on_hot = points(edges(HOT).spread, n // 16)
        if not sensors:
            return tw.Objective(**terms, hot=tw.Residual(lambda u, at: u(at.x) - hot(at.x), on_hot, weight=100.0))
        # Minus the logarithm of the posterior, but for a factor: Gaussian errors, and a Gaussian u_yy on the hot edge.
        # With a tenth of the boundary's weight, for at the same weight the law was bent to follow the noise.
        doubt = 10 / 12 * (settings.noise / settings.curvature) ** 2
        read = lambda plate, at: plate(at[0]) - plate.readings[at[1]]
        terms["sensors"] = tw.Residual(read, tw.Rows((SENSORS, np.arange(12))), weight=10.0)
        return tw.Objective(**terms, bend=tw.Residual(bend, on_hot, weight=doubt))

    def solved(name: str, *, sensors: bool) -> tuple[tw.FitMany, float]:
        """The fitted networks, and at most how many seconds one alone would have taken, with compiling."""
        began, network = time.monotonic(), {"width": settings.width, "depth": 2, "activation": jnp.tanh}
        keys, held = map(jax.random.key, seeds), tw.frozen(lambda plate: plate.readings)
        fitted = tw.fit_many(
            [
                Plate(tw.nn.MLP(2, None, **network, key=k), jnp.array(read))
                for k, read in zip(keys, readings, strict=True)
            ],
            landscape(tw.FreshPoints, settings.points, sensors=sensors),
            [
                tw.Phase(tw.Adam(1e-2), settings.adam, where=held),
                tw.Phase(
                    tw.LevenbergMarquardt(),
                    settings.newton,
                    until=tw.Plateau(patience=3, improvement=0.05, every=settings.fresh),
                    redraw=settings.fresh,
                    where=held,
                ),
            ],
            validation=landscape(tw.HeldPoints, 2 * settings.points, sensors=sensors),
            validate_every=settings.fresh,
            seeds=seeds,
            precision=jnp.float64,
            run=run,
            name=name,
            callbacks=run.callbacks,
            instruments=[tw.GradientNorms()],
        )
        seconds = time.monotonic() - began
        first = sum(phase["first_stretch_seconds"] for phase in fitted.conduct)
        return fitted, first + (seconds - first) / len(seeds)

    from_sensors, sensor_seconds = solved("sensors", sensors=True)
    from_boundary, boundary_seconds = solved("boundary", sensors=False)

    # Everything is compared at the quadrature points of the finest triangles, by their weights.
    at = np.asarray(truth.basis.global_coordinates()).reshape(2, -1).T  # (places, 2)
    weight = truth.basis.dx.ravel()  # (places,)
    reference = np.asarray(truth.basis.interpolate(true)).ravel()

    def error(values: np.ndarray) -> float:
        """Relative L2 error of a field given at the places, in %."""
        return 100 * float(np.sqrt(weight @ (values - reference) ** 2 / (weight @ reference**2)))

    coarse = Elements(3)  # the finite elements that reconstruct are not those that made the readings
    probe = coarse.basis.probes(at.T)
    guesses = [coarse.reconstruction(read, settings.noise, settings.curvature) for read in readings]
    errors = {
        "network, sensors": np.array([error(tw.at_points(model, at)) for model in from_sensors.models]),
        "elements, sensors": np.array([error(probe @ guess) for guess in guesses]),
        "thin plate, sensors": np.array([error(RBFInterpolator(SENSORS, read)(at)) for read in readings]),
        "network, boundary": np.array([error(tw.at_points(model, at)) for model in from_boundary.models]),
    }
    typical = int(np.argsort(errors["network, sensors"])[(len(seeds) - 1) // 2])
    draw(run, truth, true, coarse, guesses, from_sensors.models, typical, errors)

    def by_elements(refinements: int) -> tuple[float, float]:
        """The error of finite elements from the boundary data, in %, and the seconds that they take."""
        began, elements = time.monotonic(), Elements(refinements)
        found = elements.solution(at64(hot, elements.edge))
        seconds = time.monotonic() - began
        return error(elements.basis.probes(at.T) @ found), seconds

    def held_out(fitted: tw.FitMany) -> np.ndarray:
        """How much the law is broken at held-out points, against the last that were trained on; root mean square."""
        rows = [row for row in fitted.rows if "validation" in row]
        ratio = np.divide([row["validation"]["law"] for row in rows], [row["parts"]["law"] for row in rows])
        return np.array([np.sqrt(one[np.isfinite(one)][-1]) for one in ratio.T])  # a member that is done has NaN

    network, boundary = errors["network, sensors"], errors["network, boundary"]
    plate_gap, elements_gap = network - errors["thin plate, sensors"], network - errors["elements, sensors"]
    as_good = next(n for n in range(5) if by_elements(n)[0] <= np.median(boundary) or n == 4)  # the coarsest
    elements_take = by_elements(as_good)[1]  # the second time, for JAX compiled k and q at the first
    held = "the law is broken at held-out points at most twice as much as where it was trained"
    one = "one network takes at most 60 s with compiling"
    return [
        tw.Claim.median_at_most(
            "From 12 noisy sensors and the law, the relative L2 error is at most 2 %", network, 2.0, unit="%"
        ),
        tw.Claim.median_at_most(
            "From boundary data and the law, the relative L2 error is at most 1 %", boundary, 1.0, unit="%"
        ),
        tw.Claim.median_at_most(
            "With the law it is at most that of a thin plate through the readings", plate_gap, 0.0, unit="% points"
        ),
        tw.Claim.median_at_most(
            "It is at most that of finite elements with law, readings and prior", elements_gap, 0.0, unit="% points"
        ),
        tw.Claim.median_at_most(f"From sensors, {held}", held_out(from_sensors), 2.0, unit="times"),
        tw.Claim.median_at_most(f"From boundary data, {held}", held_out(from_boundary), 2.0, unit="times"),
        once(f"From sensors, {one}", sensor_seconds, 60.0),
        once(f"From boundary data, {one}", boundary_seconds, 60.0),
        once("It takes no longer than the coarsest finite elements that err no more", boundary_seconds, elements_take),
    ]


def once(statement: str, seconds: float, bar: float) -> tw.Claim:
    """A claim about a time that was taken once."""
    return tw.Claim.at_most(statement, seconds, (seconds, seconds), bar, unit="s")


def draw(run, truth, true, coarse, guesses, models, typical, errors) -> None:
    """The fields of the network of median error, the hot edge as every network has it, and all errors."""
    points, triangles = truth.basis.mesh.p.T, truth.basis.mesh.t.T
    exact = true[truth.basis.nodal_dofs[0]]
    found = tw.at_points(models[typical], points)
    broken = tw.at_points(eqx.Partial(law, models[typical]), points)
    np.savez(
        run.arrays / "plate.npz", points=points, triangles=triangles, elements=exact, network=found, residual=broken
    )

    def field(name: str, shown: np.ndarray, label: str, limits: tuple[float, float], title: str, caption: str) -> None:
        run.save_figure(
            name,
            lambda ax: tw.figures.fields.field(
                ax, points, triangles, shown, label=label, limits=limits, outline=np.array(CORNERS), marks=SENSORS
            ),
            title=title,
            caption=caption,
        )

    scale, most, worst = (0.0, 1.8), np.abs(found - exact).max(), np.quantile(np.abs(broken), 0.99)
    who = f"the network of median error among {len(models)}"
    field("1-network", found, "temperature", scale, "Reconstructed from 12 sensors", f"By {who}. Circles: the sensors.")
    field("2-elements", exact, "temperature", scale, "The truth", "By finite elements, from the law and the boundary.")
    field("3-error", found - exact, "difference", (-most, most), "Error", f"Temperature by {who} minus the truth.")
    caption = f"∇·(k∇u) + q by {who}, nowhere trained on; 0 would be right. The source is 6 at its middle."
    field("4-residual", broken, "imbalance of heat", (-worst, worst), "How the law is broken", caption)

    def edge(ax) -> None:
        y = np.linspace(0, 1, 101)
        on = np.stack([np.full_like(y, 2), y], axis=1)
        for i, model in enumerate(models):
            ax.plot(y, tw.at_points(model, on), color="C0", linewidth=0.8, label="" if i else "network, by seed")
        for i, guess in enumerate(guesses):
            ax.plot(coarse.edge[1], guess[coarse.hot], "--", color="C1", linewidth=0.8, label="" if i else "elements")
        ax.plot(y, at64(hot, on.T), color="C2", linewidth=2.2, label="truth")
        ax.set_xlabel("place along the hot edge")
        ax.set_ylabel("temperature")
        ax.legend()

    caption = "No sensor lies on it, and no method was told its temperatures; each seed has noise of its own."
    run.save_figure("5-edge", edge, title="The unknown edge", caption=caption)

    score = lambda ax: tw.figures.comparison.medians(ax, errors, metric="relative L2 error, %")
    caption = "Medians over seeds with 95 % intervals; both problems, and the classical methods with the same readings."
    run.save_figure("6-errors", score, title="Errors beside the classical methods", caption=caption)

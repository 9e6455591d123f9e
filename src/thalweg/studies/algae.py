"""An algae bloom in a channel: how fast it spreads and grows, from 20 noisy sensors and the law of both.

u_t = D·u_xx + r·u·(1 - u) for the density u, in shares of what the water carries, on a channel whose ends let nothing
through (Fisher, 1937; Kolmogorov, Petrovsky and Piskunov, 1937). Length is the channel's, time that of the survey. The
patch that it begins with is known, diffusion D and growth rate r are not. Beside the network stand the method of lines
with SciPy, for the solution, and least squares on it, for D and r.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

import thalweg as tw

DIFFUSION, GROWTH = 0.02, 6.0
SENSORS, TIMES = (np.arange(20) + 0.5) / 20, np.linspace(0.1, 1.0, 10)
PLACES = np.stack(np.meshgrid(SENSORS, TIMES, indexing="ij"), axis=-1).reshape(-1, 2)  # (200, 2)
CHANNEL = tw.geometry.rectangle((0, 0), (1, 1))  # x to the right, t upwards


def patch(x):
    """The density at the start."""
    return 0.6 * jnp.exp(-((x - 0.25) ** 2) / 0.01)


class Bloom(eqx.Module):
    """A network for the density, the two unknown numbers, and the readings that it was given; these stay."""

    network: tw.nn.MLP
    diffusion: tw.Unknown
    growth: tw.Unknown
    readings: jax.Array  # (200,)

    def __call__(self, at: jax.Array) -> jax.Array:
        """The density at one point (x, t): the patch at t = 0; as a function of cos πx without flux at the ends."""
        x, t = at
        return patch(x) + t * self.network(jnp.stack([jnp.cos(jnp.pi * x), 2 * t - 1]))


def early(key, n):
    """Points of the channel, denser at early times, when the patch has not yet spread and everything changes fast."""
    places = CHANNEL.spread_interior(key, n)
    return places * jnp.stack([jnp.ones(n, places.dtype), places[:, 1]], axis=1)  # t becomes t²


def law(u, at):
    """Spreading and growing at one point: 0 where u is right."""
    density = u(at)
    spread = u.diffusion.value * tw.derivative(u, at, 0, 0)
    return tw.derivative(u, at, 1) - spread - u.growth.value * density * (1 - density)


def read(u, at):
    """How far the density is from a sensor's reading."""
    return u(at[0]) - u.readings[at[1]]


def method_of_lines(
    diffusion: float, growth: float, times: np.ndarray, cells: int = 200
) -> tuple[np.ndarray, np.ndarray]:
    """Finite volumes, and SciPy's implicit integrator in time: middles (cells,) and densities (times, cells)."""
    x = (np.arange(cells) + 0.5) / cells

    def slope(t, u):
        flow = np.concatenate([[0.0], diffusion * np.diff(u) * cells, [0.0]])  # nothing through the ends
        return np.diff(flow) * cells + growth * u * (1 - u)

    start = 0.6 * np.exp(-((x - 0.25) ** 2) / 0.01)
    found = solve_ivp(slope, (0, 1), start, method="LSODA", t_eval=times, rtol=1e-7, atol=1e-9, lband=1, uband=1)
    return x, found.y.T


def at_places(solution: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """A solution at TIMES, at the sensors: (200,)."""
    x, u = solution
    return np.stack([np.interp(SENSORS, x, row) for row in u], axis=1).ravel()


def classical(readings: np.ndarray) -> np.ndarray:
    """D and r by least squares on the method of lines."""

    def misfit(logs: np.ndarray) -> np.ndarray:
        diffusion, growth = np.exp(logs)
        return at_places(method_of_lines(diffusion, growth, TIMES, 100)) - readings

    return np.exp(least_squares(misfit, np.log([0.05, 3.0]), diff_step=1e-4).x)


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(10, "surveys, each with its own noise, network and points", quick=6, ge=1, le=100)
    repeats: int = tw.setting(400, "simulated surveys for the coverage of the intervals", quick=10, ge=10, le=2_000)
    points: int = tw.setting(1_000, "points of the law", quick=600, ge=50, le=20_000)
    adam: int = tw.setting(300, "steps of Adam", ge=1)
    broyden: int = tw.setting(6_000, "steps of self-scaled Broyden after them", quick=2_000, ge=1)
    newton: int = tw.setting(12, "most steps of Levenberg-Marquardt for each simulated survey", ge=1)
    width: int = tw.setting(16, "units in each of the two hidden layers", ge=1, le=60)
    noise: float = tw.setting(0.05, "standard deviation of a reading; the water carries 1", gt=0, le=1)
    belief: float = tw.setting(0.01, "by how much the law may fail at a point; its terms reach 1.5", gt=0)


@tw.study("algae", systems=["S33"], question="How fast does a bloom spread and grow, and how sure is that?")
def algae(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Recover diffusion and growth from 20 sensors, solve with both known, and count how often the intervals hold."""
    exact = at_places(method_of_lines(DIFFUSION, GROWTH, TIMES, 400))
    noisy = lambda seed: exact + settings.noise * np.random.default_rng(seed).normal(size=len(exact))
    # Minus twice the log posterior but for a factor: Gaussian errors of readings and of the law.
    sure = settings.points / len(PLACES) * (settings.noise / settings.belief) ** 2
    deviations = {"law": settings.belief, "sensors": settings.noise}
    lawful = tw.HeldPoints(early, settings.points)
    at_sensors = lambda places: tw.Residual(read, tw.Rows((places, np.arange(len(places)))))
    landscape = tw.Objective(law=tw.Residual(law, lawful, weight=sure), sensors=at_sensors(PLACES))
    held = tw.frozen(lambda bloom: bloom.readings)

    def bloom(readings: np.ndarray, seed: int, diffusion: float = 0.05, growth: float = 3.0) -> Bloom:
        network = tw.nn.MLP(2, None, width=settings.width, depth=2, activation=jnp.tanh, key=jax.random.key(seed))
        return Bloom(network, tw.Unknown(diffusion, low=0.0), tw.Unknown(growth, low=0.0), jnp.asarray(readings))

    def fitted(name: str, models: list, objective: tw.Objective, seeds: list[int], program: list[tw.Phase]):
        return tw.fit_many(
            models, objective, program, seeds=seeds, precision=jnp.float64, run=run, name=name, callbacks=run.callbacks
        )

    def from_scratch(where) -> list[tw.Phase]:
        first = tw.Phase(tw.Adam(1e-2), settings.adam, where=where)
        return [first, tw.Phase(tw.SelfScaledBroyden(), settings.broyden, where=where)]

    seeds, began = run.seeds(settings.seeds), time.monotonic()
    inverse = fitted("inverse", [bloom(noisy(s), s) for s in seeds], landscape, seeds, from_scratch(held))
    seconds = (time.monotonic() - began) / len(seeds)
    numbers = np.array([[float(model.diffusion), float(model.growth)] for model in inverse.models])

    # With both numbers known and no sensor: the forward problem.
    known = tw.frozen(lambda bloom: [bloom.readings, bloom.diffusion, bloom.growth])
    alone = tw.Objective(law=tw.Residual(law, lawful))
    given = [bloom(exact, s, DIFFUSION, GROWTH) for s in seeds]
    forward = fitted("forward", given, alone, seeds, from_scratch(known))
    moments = np.linspace(0, 1, 51)
    x, truth = method_of_lines(DIFFUSION, GROWTH, moments, 400)
    grid = np.stack(np.broadcast_arrays(x[None], moments[:, None]), axis=-1).reshape(-1, 2)
    miss = lambda model: np.linalg.norm(tw.at_points(model, grid) - truth.ravel()) / np.linalg.norm(truth)
    forward_errors = np.array([100 * float(miss(model)) for model in forward.models])

    # Many surveys of the same water: each network starts as the first one ended.
    again, first = [seeds[0] + 1_000_000 + i for i in range(settings.repeats)], inverse.models[0]
    starts = [eqx.tree_at(lambda b: b.readings, first, jnp.asarray(noisy(s), jnp.float32)) for s in again]
    settled = tw.Plateau(patience=2, improvement=1e-4, every=1)
    near = [tw.Phase(tw.LevenbergMarquardt(damping=1e-8), settings.newton, until=settled, where=held)]
    repeats = fitted("repeats", starts, landscape, [seeds[0]] * len(again), near)
    doubt = lambda model, objective: tw.unknown_posterior(model, objective, deviations, where=held, seed=seeds[0])
    posteriors = [doubt(model, landscape) for model in repeats.models]
    ends = {name: np.array([p.interval(name, 0.9) for p in posteriors]) for name in ("diffusion", "growth")}
    within = lambda found, true: (found[:, 0] <= true) & (true <= found[:, 1])
    holds = {"diffusion": within(ends["diffusion"], DIFFUSION), "growth": within(ends["growth"], GROWTH)}

    # Readings at the end only, when the water carries all that it can: little tells how that came about.
    at_the_end = tw.Objective(law=landscape.terms["law"], sensors=at_sensors(PLACES[9::10]))
    told = doubt(eqx.tree_at(lambda b: b.readings, first, first.readings[9::10]), at_the_end)
    draw(run, inverse.models, numbers, ends, x, moments, truth, repeats.models)

    began = time.monotonic()
    by_lines = np.array([classical(noisy(seed)) for seed in seeds])
    lines_take = (time.monotonic() - began) / len(seeds)
    off = lambda found: 100 * np.abs(found / [DIFFUSION, GROWTH] - 1)

    def covered(name: str) -> tw.Claim:
        share = 100 * float(np.mean(holds[name]))
        statement = f"90 % intervals of the {name} hold it in 86.5 to 93.5 % of {settings.repeats} simulated surveys"
        return tw.Claim.near(statement, share, (share, share), 90.0, tolerance=3.5, unit="%")

    gap = off(numbers)[:, 0] - off(by_lines)[:, 0]
    worst = lambda posterior: float(np.sqrt(np.linalg.eigvalsh(posterior.covariance)[-1]))
    worse = worst(told) / worst(posteriors[0])
    return [
        tw.Claim.median_at_most("Diffusion is recovered to within 5 %", off(numbers)[:, 0], 5.0, unit="%"),
        tw.Claim.median_at_most("The growth rate is recovered to within 5 %", off(numbers)[:, 1], 5.0, unit="%"),
        tw.Claim.median_at_most("With both known, the density errs by at most 1 %", forward_errors, 1.0, unit="%"),
        covered("diffusion"),
        covered("growth"),
        tw.Claim.median_at_most("Diffusion errs no more than by least squares on lines", gap, 0.0, unit="% points"),
        tw.Claim.at_most("One survey takes no longer than that", seconds, (seconds, seconds), lines_take, unit="s"),
        tw.Claim.at_least("Readings at the end only leave the worst combination 5 times as uncertain",
                          worse, (worse, worse), 5.0, unit="times"),
    ]  # fmt: skip


def draw(run, models, numbers, ends, x, moments, truth, repeated) -> None:
    """The bloom, the error, and the recovered numbers."""
    typical = models[int(np.argsort(np.abs(numbers[:, 0] / DIFFUSION - 1))[(len(models) - 1) // 2])]
    grid = np.stack(np.broadcast_arrays(x[None], moments[:, None]), axis=-1).reshape(-1, 2)
    found = tw.at_points(typical, grid).reshape(truth.shape)
    np.savez(run.arrays / "algae.npz", x=x, t=moments, network=found, reference=truth, numbers=numbers)

    def picture(name: str, shown: np.ndarray, label: str, limits: tuple, title: str, caption: str) -> None:
        def history(ax) -> None:
            tw.figures.fields.history(ax, moments, x, shown, label=label, limits=limits)
            ax.plot(PLACES[:, 1], PLACES[:, 0], ".", color="0.6", markersize=2.5)
            ax.set_xlabel("time, in surveys")
            ax.set_ylabel("place along the channel")

        run.save_figure(name, history, title=title, caption=caption)

    worst = float(np.abs(found - truth).max())
    picture(
        "1-bloom", found, "density", (0.0, 1.0), "The bloom, reconstructed", "Dots: where and when it was measured."
    )
    picture("2-error", found - truth, "difference", (-worst, worst), "Error", "Reconstruction minus method of lines.")
    for place, (name, true) in enumerate((("diffusion", DIFFUSION), ("growth", GROWTH))):
        some = slice(0, 40)
        estimates = np.array([float(getattr(model, name)) for model in repeated])

        def numbers_of(ax, name=name, true=true, estimates=estimates, some=some) -> None:
            low, high = ends[name][some].T
            tw.figures.parameters.recovered(ax, estimates[some], low, high, truth=true, label=name)

        caption = "90 % intervals of the first 40 simulated surveys; the line is the truth. In red those that miss it."
        run.save_figure(f"{place + 3}-{name}", numbers_of, title=f"Recovered {name}", caption=caption)

"""Does a landscape that is deformed from an easy one lead to a lower place than the landscape itself?

Two heights with many minima are smoothed by a Gaussian, in closed form, so far that one minimum is left, and that is
followed while the smoothing goes (Mobahi and Fisher, 2015): Rastrigin's function, whose smoothed minimum is the lowest
place by its symmetry, and random hollows, where nothing says so. Beside it stand one cold start, random restarts and
SciPy's global searches at equal cost. Then an equation, εu″ + uu′ = u with u(0) = −7/6 and u(1) = 3/2 (Kevorkian and
Cole, 1981, section 2.5), whose layer at x = 1/3 is some ε wide, solved by a network while ε falls; beside SciPy's
collocation.
"""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_bvp
from scipy.optimize import basinhopping, dual_annealing, minimize

import thalweg as tw

LEFT, RIGHT, LAYER = -7 / 6, 3 / 2, 1 / 3  # u(0), u(1), and where the layer lies as ε → 0
BOX, HOLLOWS, SIZE = 5.0, 30, 4  # half the box of the starts, hollows in it, its dimensions
RIPPLES = 10  # dimensions of Rastrigin's function
NEAR = 1e-6  # above the lowest height that counts as having found it
WIDEST = 0.1  # ε at λ = 0


class Rastrigin(eqx.Module):
    """A bowl with ripples; its lowest place (0) is the centre.

    Attributes:
        x: the place, (n,).
        centre: (n,).
    """

    x: jax.Array
    centre: jax.Array

    def height(self, width):
        """After the convolution with a Gaussian of this standard deviation in each direction."""
        away = self.x - self.centre
        left = jnp.exp(-2 * (jnp.pi * width) ** 2)  # of a cosine of period 1
        return jnp.sum(away**2 + width**2 + 10 * (1 - left * jnp.cos(2 * jnp.pi * away)))


class Hollows(eqx.Module):
    """A shallow bowl with hollows of random places, depths and widths.

    Attributes:
        x: the place, (n,).
        centres: (k, n).
        depths, widths: (k,).
    """

    x: jax.Array
    centres: jax.Array
    depths: jax.Array
    widths: jax.Array

    def height(self, width):
        """After the convolution with a Gaussian of this standard deviation in each direction."""
        n, spread = self.x.size, self.widths**2 + width**2
        hollow = self.depths * (self.widths**2 / spread) ** (n / 2)
        away = jnp.sum((self.x - self.centres) ** 2, axis=1)
        return 0.01 * (jnp.sum(self.x**2) + n * width**2) - jnp.sum(hollow * jnp.exp(-away / (2 * spread)))


class Smoothed(tw.AbstractTerm):
    """The height where the model stands, smoothed by a Gaussian whose width falls along the path."""

    width: tw.Along
    source: tw.AbstractSource = tw.NoExamples()
    weight: float | jax.Array = 1.0

    def batch_loss(self, model, examples, key):
        return model.height(self.width.value), None


def rastrigin(seed: int) -> Rastrigin:
    """A random start, and a random centre within half the box."""
    random = np.random.default_rng(seed)
    centre = random.uniform(-BOX / 2, BOX / 2, RIPPLES)
    start = random.uniform(-BOX, BOX, RIPPLES)
    with jax.enable_x64(True):
        return Rastrigin(jnp.asarray(start), jnp.asarray(centre))


def hollows(seed: int) -> Hollows:
    """A random start among random hollows."""
    random = np.random.default_rng(seed)
    centres = random.uniform(-BOX, BOX, (HOLLOWS, SIZE))
    depths, widths = random.uniform(0.5, 1.0, HOLLOWS), random.uniform(0.5, 1.5, HOLLOWS)
    start = random.uniform(-BOX, BOX, SIZE)
    with jax.enable_x64(True):
        return Hollows(*map(jnp.asarray, (start, centres, depths, widths)))


def lowest(ground: Rastrigin | Hollows) -> float:
    """The lowest height: known, or by descents from every hollow's centre and from the bowl's."""
    if isinstance(ground, Rastrigin):
        return 0.0
    slope = sloped(ground)
    starts = [*np.asarray(ground.centres), np.zeros(SIZE)]
    return min(float(minimize(slope, one, jac=True, method="BFGS", options={"gtol": 1e-9}).fun) for one in starts)


def sloped(ground: Rastrigin | Hollows) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Height and gradient for SciPy, written out by hand: x (n,) -> (height, gradient (n,))."""
    if isinstance(ground, Rastrigin):
        centre = np.asarray(ground.centre)

        def rippled(x: np.ndarray) -> tuple[float, np.ndarray]:
            away = x - centre
            height = np.sum(away**2 + 10 * (1 - np.cos(2 * np.pi * away)))
            return float(height), 2 * away + 20 * np.pi * np.sin(2 * np.pi * away)

        return rippled
    centres, depths, squares = map(np.asarray, (ground.centres, ground.depths, ground.widths**2))

    def hollowed(x: np.ndarray) -> tuple[float, np.ndarray]:
        away = x - centres
        hollow = depths * np.exp(-np.sum(away**2, axis=1) / (2 * squares))
        return float(0.01 * x @ x - hollow.sum()), 0.02 * x + (hollow / squares) @ away

    return hollowed


class Spent(Exception):
    """The evaluations are spent."""


def searched(search: Callable[..., Any], ground: Rastrigin | Hollows, budget: int, seed: int) -> float:
    """The lowest height that one of SciPy's global searches sees within a budget of gradients.

    Args:
        search: (slope, start, bounds, seed) -> runs until it is stopped.
        ground: with the start.
        budget: of evaluations.
        seed: of the search.
    """
    slope, seen = sloped(ground), []

    def counted(x: np.ndarray) -> tuple[float, np.ndarray]:
        if len(seen) >= budget:
            raise Spent
        found = slope(x)
        seen.append(found[0])
        return found

    start = np.asarray(ground.x)
    try:
        search(counted, start, [(-BOX, BOX)] * len(start), seed)
    except Spent:
        pass
    return min(seen)


def hopping(slope, start, bounds, seed):
    """Basin hopping (Wales and Doye, 1997)."""
    basinhopping(slope, start, niter=10_000, minimizer_kwargs={"jac": True, "method": "L-BFGS-B"}, rng=seed)


def annealing(slope, start, bounds, seed):
    """Dual annealing (Xiang et al., 1997), whose local searches are given the gradient."""
    local = {"jac": lambda x: slope(x)[1], "method": "L-BFGS-B", "bounds": bounds}
    dual_annealing(lambda x: slope(x)[0], bounds, x0=start, maxiter=10_000, minimizer_kwargs=local, rng=seed)


def restarting(slope, start, bounds, seed):
    """L-BFGS-B (Byrd et al., 1995) from one random start after another, the given one first."""
    random, (low, high) = np.random.default_rng(seed), np.transpose(bounds)
    while True:
        minimize(slope, start, jac=True, method="L-BFGS-B")
        start = random.uniform(low, high)


SEARCHES = {"restarts": restarting, "basin hopping": hopping, "dual annealing": annealing}


def evaluations(found: tw.FitMany, member: int) -> int:
    """What a walk cost in gradients: one a step, one for each move along the path, and one or two to begin."""
    told = [row["figures"] for row in found.rows if "points" in row["figures"]]
    moves = sum(told[-1][name][member] for name in ("points", "returns")) if told else 0
    return int(found.rows[-1]["run_step"][member] + moves) + 1


def share_interval(found: int, trials: int) -> tuple[float, float]:
    """Wilson's interval (1927) at 95 % for a success rate."""
    z, rate = 1.96, found / trials
    middle, half = rate + z * z / (2 * trials), z * np.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    return float((middle - half) / (1 + z * z / trials)), float((middle + half) / (1 + z * z / trials))


def gain(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Difference of two success rates in % points, with Newcombe's interval (1998, method 10) at 95 %."""
    (a, b), n = (int(ours.sum()), int(theirs.sum())), len(ours)
    (low_a, high_a), (low_b, high_b), p, q = share_interval(a, n), share_interval(b, n), a / n, b / n
    low, high = np.hypot(p - low_a, high_b - q), np.hypot(high_a - p, q - low_b)
    return 100 * (p - q), (100 * (p - q - low), 100 * (p - q + high))


class Law(eqx.Module):
    """εu″ + uu′ − u at one point x (1,): 0 where u is right."""

    viscosity: tw.Along

    def __call__(self, u, at):
        slope, bend = tw.derivative(u, at, 0), tw.derivative(u, at, 0, 0)
        return self.viscosity.value * bend + u(at) * slope - u(at)


class Layered(eqx.Module):
    """A network whose ends are held."""

    network: tw.nn.MLP

    def __call__(self, at: jax.Array) -> jax.Array:
        """The solution u at one point x (1,)."""
        x = at[0]
        return LEFT * (1 - x) + RIGHT * x + x * (1 - x) * self.network(2 * at - 1)


def collocated(viscosity: float) -> Any:
    """SciPy's solution of the equation, a function x (n,) -> u (n,) to 1e-8."""
    x = np.linspace(0, 1, 50)
    found = solve_bvp(
        lambda _, y: np.stack([y[1], y[0] * (1 - y[1]) / viscosity]),
        lambda a, b: np.array([a[0] - LEFT, b[0] - RIGHT]),
        x, np.stack([LEFT + (RIGHT - LEFT) * x, np.full_like(x, RIGHT - LEFT)]), tol=1e-8, max_nodes=100_000,
    )  # fmt: skip
    if not found.success:
        raise tw.UserError(f"SciPy's collocation has not converged: {found.message}")
    return lambda x: found.sol(x)[0]


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(100, "landscapes of each kind, with a start each", quick=30, ge=6, le=300)
    steps: int = tw.setting(1_000, "most steps of a walk on them", ge=20, le=100_000)
    networks: int = tw.setting(8, "networks for the equation", quick=6, ge=2, le=100)
    newton: int = tw.setting(400, "most steps of Levenberg-Marquardt for one network", quick=120, ge=2)
    viscosity: float = tw.setting(0.005, "ε of the equation", quick=0.01, ge=1e-3, lt=WIDEST)
    points: int = tw.setting(400, "points of the equation, evenly spaced", quick=150, ge=20, le=10_000)
    width: int = tw.setting(12, "units in each of the two hidden layers", quick=8, ge=1, le=60)


@tw.study("homotopy", systems=["S07"], question="Does following a minimum find what a cold start does not?")
def homotopy(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Follow minima of smoothed landscapes and of a smoothed equation, and compare with what starts on them at once."""
    seeds, claims = run.seeds(settings.seeds), []
    for name, make, widest in (("rastrigin", rastrigin, 1.0), ("hollows", hollows, BOX)):
        claims += landscapes(name, [make(seed) for seed in seeds], widest, seeds, settings, run)
    return claims + equation(settings, run)


def landscapes(
    name: str, grounds: list[Any], widest: float, seeds: list[int], settings: Settings, run: tw.Run
) -> list[tw.Claim]:
    """Success rates at the lowest place, all at the cost of the path on the same landscape."""
    goals = np.array([lowest(ground) for ground in grounds])
    objective = tw.Objective(height=Smoothed(width=tw.Along(lambda t: widest * (1 - t))))
    place = tw.only(lambda ground: ground.x)

    def walk(models: list[Any], optimizer: Any, seeds: list[int], title: str) -> tw.FitMany:
        return tw.fit_many(
            models, objective, tw.Phase(optimizer, settings.steps, where=place), seeds=seeds, precision=jnp.float64,
            layout=tw.Layout.VMAPPED, log_every=1 if title == "path" else None, raise_failures=False, run=run,
            callbacks=run.callbacks, name=f"{name}-{title}",
        )  # fmt: skip

    def heights(found: tw.FitMany) -> np.ndarray:
        return np.array([sloped(model)(np.asarray(model.x))[0] for model in found.models])

    followed = walk(grounds, tw.Continuation(tw.LBFGS()), seeds, "path")
    budgets = np.array([evaluations(followed, i) for i in range(len(seeds))])
    cold = walk(grounds, tw.LBFGS(), seeds, "cold")
    reached = {"path": heights(followed), "one cold start": heights(cold)}
    for title, search in SEARCHES.items():
        tries = zip(grounds, budgets, seeds, strict=True)
        reached[title] = np.array([searched(search, ground, int(budget), seed) for ground, budget, seed in tries])
    goals = np.fmin.reduce([goals, *reached.values()])  # where a walk has come lower than the descents from hollows
    found = {title: values <= goals + NEAR for title, values in reached.items()}

    draw_rates(run, name, found, budgets)
    draw_path(run, name, tw.followed_path(followed.rows, 0), "height,\nsmoothed", "distance\nfrom 0")
    what = {"rastrigin": f"Rastrigin's function in {RIPPLES} dimensions", "hollows": f"{HOLLOWS} hollows in {SIZE}"}[
        name
    ]
    claims = []
    for title in ("one cold start", *SEARCHES):
        value, interval = gain(found["path"], found[title])
        cost = "" if title == "one cold start" else f" at its cost (median {np.median(budgets):.0f} gradients)"
        statement = (
            f"{what}: the path comes to the lowest place at least as often as {title}{cost}: "
            f"{found['path'].sum()} against {found[title].sum()} of {len(seeds)}"
        )
        claims.append(tw.Claim.at_least(statement, value, interval, 0.0, unit="% points"))
    return claims


def equation(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """The layer by networks: along the path, and cold at the same cost."""
    end = settings.viscosity
    path = tw.Along(lambda t: WIDEST * (end / WIDEST) ** t)
    points = np.linspace(0, 1, settings.points)[:, None]
    objective, seeds = tw.Objective(law=tw.Residual(Law(path), points)), run.seeds(settings.networks)
    network = {"width": settings.width, "depth": 2, "activation": jnp.tanh}
    models = [Layered(tw.nn.MLP(1, None, **network, key=jax.random.key(seed))) for seed in seeds]

    def walk(program: Any, title: str) -> tw.FitMany:
        return tw.fit_many(
            models, objective, program, seeds=seeds, precision=jnp.float64, log_every=1,
            raise_failures=False, run=run, callbacks=run.callbacks, name=f"layer-{title}",
        )  # fmt: skip

    corrector = tw.LevenbergMarquardt()
    # Points on the way need not be sharp; where the path ends it goes on as far as the steps go.
    follow = tw.Continuation(corrector, first=0.1, few=10, most=40, tolerance=1e-2)
    began = time.monotonic()
    followed = walk([tw.Phase(follow, settings.newton), tw.Phase(corrector, settings.newton // 2)], "path")
    seconds = (time.monotonic() - began) / len(seeds)
    cost = max(evaluations(followed, i) for i in range(len(seeds)))
    cold = walk(tw.Phase(corrector, cost), "cold")

    began = time.monotonic()
    reference = collocated(end)
    takes = time.monotonic() - began
    x = np.linspace(0, 1, 2_001)
    right = reference(x)
    fields = {title: [tw.at_points(one, x[:, None]) for one in found.models] for title, found in
              (("path", followed), ("cold", cold))}  # fmt: skip
    errors = {
        title: np.array([100 * np.linalg.norm(one - right) / np.linalg.norm(right) for one in found])
        for title, found in fields.items()
    }
    draw_layer(run, x, right, fields)
    draw_path(run, "layer", tw.followed_path(followed.rows, 0), "mean square\nresidual", "norm of\nthe weights")
    np.savez(run.arrays / "layer.npz", x=x, reference=right, path=fields["path"], cold=fields["cold"])
    named = f"εu″ + uu′ = u with ε = {end:g}"
    return [
        tw.Claim.median_at_most(f"{named}: along ε the network errs by at most 1 % (relative L2)", errors["path"], 1.0,
                                unit="%"),
        tw.Claim.median_at_most(f"{named}: it errs by at most a tenth of what a cold start does at its cost "
                                f"({cost} linearizations)", errors["path"] / errors["cold"], 0.1, unit="×"),
        tw.Claim.at_most(f"{named}: one network takes no longer than SciPy's collocation", seconds, (seconds, seconds),
                         takes, unit="s"),
    ]  # fmt: skip


def draw_rates(run: tw.Run, name: str, found: dict[str, np.ndarray], budgets: np.ndarray) -> None:
    """Success rates with their intervals."""
    counts = np.array([values.sum() for values in found.values()])
    ends = 100 * np.array([share_interval(int(count), len(budgets)) for count in counts])
    rates = 100 * counts / len(budgets)

    def draw(ax: Any) -> None:
        tw.figures.comparison.scores(ax, list(found), rates, ends[:, 0], ends[:, 1], metric="lowest place found, %")
        ax.set_xlim(-3, 103)

    caption = (
        f"Share of {len(budgets)} landscapes on which the lowest place was found, with Wilson's 95 % intervals. All "
        f"but the single cold start spent what the path did, {np.median(budgets):.0f} gradients (median)."
    )
    run.save_figure(f"{name}-rates", draw, title=f"Lowest places found: {name}", caption=caption, size=(5.0, 2.6))


def draw_path(run: tw.Run, name: str, path: Any, height: str, norm: str) -> None:
    """One path: loss, norm and corrector steps over λ."""
    caption = (
        "One path. Each mark is a minimum that was followed; the last panel shows how many corrector steps it took."
    )
    draw = lambda ax: tw.figures.continuation.path(ax, path, total=height, norm=norm)
    run.save_figure(f"{name}-path", draw, title=f"The path: {name}", caption=caption, size=(5.0, 4.2))


def draw_layer(run: tw.Run, x: np.ndarray, right: np.ndarray, fields: dict[str, list[np.ndarray]]) -> None:
    """Every network's solution beside SciPy's."""

    def draw(ax: Any) -> None:
        for i, (title, label) in enumerate((("cold", "cold start"), ("path", "along ε"))):
            for k, one in enumerate(fields[title]):
                ax.plot(x, one, color=f"C{1 - i}", linewidth=1.0, label=label if k == 0 else None)
        ax.plot(x, right, "--", color="black", linewidth=1.2, label="collocation")
        ax.set_xlabel("x")
        ax.set_ylabel("u")
        low, high = right.min(), right.max()
        ax.set_ylim(low - 0.5 * (high - low), high + 0.5 * (high - low))
        ax.legend()

    caption = f"All networks, cold and along ε, and SciPy's solution. As ε falls the layer goes to x = {LAYER:.3f}."
    run.save_figure("layer", draw, title="A layer within", caption=caption)

"""Every optimizer on landscapes that can be seen, and what is said of them, measured over random starts.

Rosenbrock's curved valley, Beale's plain with its steep walls, a ravine along the axes and the same one turned, and a
bowl full of small hollows. A walk's cost is counted in evaluations; each optimizer makes one a step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(25, "random starts (or landscapes) behind each claim", quick=20, ge=6, le=200)
    steps: int = tw.setting(2_000, "evaluations of a walk", quick=1_000, ge=200, le=100_000)


class Height(tw.AbstractTerm):
    """A landscape whose height depends on the model alone: `height(model)`, shape ()."""

    height: Callable[[Any], Any]
    source: tw.AbstractSource = tw.NoExamples()
    weight: float | jax.Array = 1.0

    def batch_loss(self, model, examples, key):
        return self.height(model), None


class Path(tw.AbstractInstrument):
    """Where the walk stands; it costs nothing, so it is read at every row."""

    def cost(self, terms):
        return 0.0

    def measure(self, problem, params, key):
        x = problem.model(params)["x"]
        return {f"x{i}": x[i] for i in range(2)}


def rosenbrock(x):
    """(2) -> the two residuals of a curved valley, lowest at (1, 1)."""
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def beale(x):
    """(2) -> three residuals, lowest at (3, 0.5)."""
    powers = jnp.stack([x[1], x[1] ** 2, x[1] ** 3])
    return jnp.asarray([1.5, 2.25, 2.625], x.dtype) - x[0] * (1 - powers)


def ravine(x):
    """(2) -> two residuals whose curvatures differ by 100, along the axes."""
    return jnp.stack([x[0], 10 * x[1]]) / np.sqrt(2)


def turned(x):
    """(2) -> the ravine, turned by 45°."""
    return ravine(jnp.stack([x[0] + x[1], x[1] - x[0]]) / np.sqrt(2))


def rugged(x):
    """(2) -> height of a bowl with a hollow about every two units, lowest at the origin."""
    return 0.05 * jnp.sum(x * x) + jnp.sum(1 - jnp.cos(3 * x))


SQUARES = {"Rosenbrock": rosenbrock, "Beale": beale, "ravine": ravine, "turned ravine": turned}
WALKERS: dict[str, Callable[[float], Any]] = {
    "gradient descent": tw.SGD,
    "momentum": lambda rate: tw.SGD(rate, momentum=0.9),
    "Nesterov": lambda rate: tw.SGD(rate, momentum=0.9, nesterov=True),
    "AdaGrad": tw.AdaGrad,
    "RMSprop": lambda rate: tw.RMSprop(rate, decay=0.9),
    "Adam": tw.Adam,
}
RATES = {"Rosenbrock": 5e-4, "Beale": 5e-3, "ravine": 0.015, "turned ravine": 0.015}
"""Of gradient descent, below what is stable on the way; with a momentum of 0.9 a tenth of it goes as far a step."""

ADAPTIVE_RATE = 0.1


def walk(objective: tw.Objective, models: list[Any], phase: tw.Phase, **named: Any) -> tw.FitMany:
    """All members at once, in 64 bits; a walk that climbs out of sight is a result, not a failure."""
    return tw.fit_many(
        models, objective, phase, precision=jnp.float64, layout=tw.Layout.VMAPPED, raise_failures=False, **named
    )


def points(seeds: list[int], low: tuple[float, float], high: tuple[float, float]) -> list[dict[str, jax.Array]]:
    """A random start within a box for each seed."""
    return [{"x": jnp.asarray(np.random.default_rng(seed).uniform(low, high))} for seed in seeds]


def totals(found: tw.FitMany) -> np.ndarray:
    """Heights by row and member; not finite counts as infinitely high."""
    heights = np.array([row["total"] for row in found.rows], float)
    return np.where(np.isfinite(heights), heights, np.inf)


def evaluations(found: tw.FitMany, goal: float, steps: int) -> np.ndarray:
    """By member, the evaluations until a height; twice `steps` for a walk that did not get there."""
    below = totals(found) <= goal
    return np.where(below.any(axis=0), below.argmax(axis=0) + 1.0, 2.0 * steps)


def squares(residual: Callable[[Any], Any]) -> tw.Objective:
    """‖r(x)‖² as an objective that Levenberg–Marquardt takes too."""
    return tw.Objective(height=tw.Residual(lambda model, _: residual(model["x"]), tw.Rows(np.zeros((1, 1)))))


@tw.study("valleys", systems=["S01", "S03", "S04", "S05"], question="Which walk suits which valley?")
def valleys(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Draw the paths, then put each saying to the test."""
    seeds, steps = run.seeds(settings.seeds), settings.steps
    draw_paths(run)
    return [
        *stable_rate(seeds),
        momentum(seeds, steps),
        *memories(seeds),
        *in_ravines(seeds, steps),
        *smooth_and_noisy(seeds, steps, run),
        *kicks(seeds, steps, run),
    ]


def draw_paths(run: tw.Run) -> None:
    """One walk of every optimizer on each landscape, from the same start."""
    starts = {"Rosenbrock": (-1.5, 2.0), "Beale": (0.5, -1.2), "ravine": (-3.0, 1.0), "turned ravine": (-3.0, 0.0)}
    goals = {"Rosenbrock": (1.0, 1.0), "Beale": (3.0, 0.5), "ravine": (0.0, 0.0), "turned ravine": (0.0, 0.0)}
    for name, residual in SQUARES.items():
        rates = [RATES[name], RATES[name] / 10, RATES[name] / 10, ADAPTIVE_RATE, ADAPTIVE_RATE, ADAPTIVE_RATE]
        walkers = {one: make(rate) for rate, (one, make) in zip(rates, WALKERS.items(), strict=True)}
        walkers |= {"L-BFGS": tw.LBFGS(), "BFGS": tw.BFGS(), "Levenberg–Marquardt": tw.LevenbergMarquardt()}
        paths = {}
        for one, optimizer in walkers.items():
            start = {"x": jnp.asarray(starts[name])}
            found = tw.fit(
                start, squares(residual), tw.Phase(optimizer, 200), precision=jnp.float64, log_every=1,
                instruments=[Path()], raise_failures=False,
            )  # fmt: skip
            seen = [row["instruments"]["Path"] for row in found.rows if "instruments" in row]
            paths[one] = np.array([starts[name], *((row["x0"], row["x1"]) for row in seen)])
        ends = {one: heights_at(summed(residual), path[-1:])[0] for one, path in paths.items()}
        run.save_figure(
            name.lower().replace(" ", "-"),
            lambda ax, residual=residual, paths=paths, name=name: contour(ax, residual, paths, goals[name]),
            title=f"{name}: 200 evaluations of each optimizer",
            caption="Paths from one start on the contours of the height; the cross is the lowest place. At the end the "
            f"heights are {', '.join(f'{one} {end:.0e}' for one, end in ends.items())}.",
            size=(6.4, 5.2),
        )


def heights_at(ground: Callable[[Any], Any], places: Any) -> np.ndarray:
    """A landscape's height at each of many places (n, 2), in 64 bits as the walks are; ∞ where it is not finite."""
    with jax.enable_x64(True):
        found = np.asarray(jax.vmap(ground)(jnp.asarray(np.asarray(places, np.float64))))
    return np.where(np.isfinite(found), found, np.inf)


def ends_of(found: tw.FitMany) -> np.ndarray:
    """Where each member's walk ended, (members, 2)."""
    return np.stack([np.asarray(model["x"]) for model in found.models])


def summed(residual: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The height that residuals make."""
    return lambda x: jnp.sum(residual(x) ** 2)


def contour(ax: Any, residual: Callable[[Any], Any], paths: dict[str, np.ndarray], goal: tuple[float, float]) -> None:
    """Contours at heights spaced evenly in their logarithm, and the paths."""
    everywhere = np.clip(np.concatenate([*paths.values(), [goal]]), -4, 4)
    (left, low), (right, high) = everywhere.min(axis=0) - 0.4, everywhere.max(axis=0) + 0.4
    x, y = np.meshgrid(np.linspace(left, right, 120), np.linspace(low, high, 120))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    z = heights_at(summed(residual), grid).reshape(x.shape)
    ax.contour(x, y, np.log10(z + 1e-6), levels=14, colors="0.6", linewidths=0.5, linestyles="solid")
    styles = ["-", "--", ":"]
    for i, (name, path) in enumerate(paths.items()):
        ax.plot(*path.T, styles[i // 6], color=f"C{i % 6}", linewidth=1.3, label=name)
    ax.plot(*paths[next(iter(paths))][0], "o", color="C0", markersize=4)
    ax.plot(*goal, "x", color="C1", markersize=9, markeredgewidth=2)
    ax.set(xlim=(left, right), ylim=(low, high), xlabel="x₁", ylabel="x₂")
    ax.legend(fontsize="x-small", ncol=2)


def quadratics(seeds: list[int]) -> list[dict[str, jax.Array]]:
    """By seed a quadratic of ten unknowns, curvatures between 1 and 100 in a random frame, and a random start."""
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        frame = np.linalg.qr(rng.normal(size=(10, 10)))[0]
        curvatures = np.concatenate([[1.0, 100.0], 10 ** rng.uniform(0, 2, size=8)])
        matrix = frame @ np.diag(curvatures) @ frame.T
        found.append({"x": jnp.asarray(rng.normal(size=10)), "matrix": jnp.asarray(matrix)})
    return found


def bowl(model: Any) -> Any:
    """½ xᵀ A x."""
    return jnp.vdot(model["x"], model["matrix"] @ model["x"]) / 2


def place(model: Any) -> Any:
    """The walk moves the place alone, not the landscape."""
    return model["x"]


def stable_rate(seeds: list[int]) -> list[tw.Claim]:
    """Is the largest stable rate 2/λ, with λ as Lanczos measures it?"""
    objective, models = tw.Objective(bowl=Height(height=bowl)), quadratics(seeds)
    look = walk(objective, models, tw.Phase(tw.SGD(1e-6), 1, where=tw.only(place)), instruments=[tw.Sharpness(10)])
    predicted = np.array(look.rows[-1]["instruments"]["Sharpness"]["stable_rate"])
    # a rate of η on A is a rate of 1 on ηA, so that all rates are walked by one compiled program
    shares = np.array([0.9, 0.95, 0.97, 0.98, 0.99, 1.01, 1.02, 1.03, 1.05, 1.1])
    scaled = [
        {"x": model["x"], "matrix": share * rate * model["matrix"]}
        for model, rate in zip(models, predicted, strict=True)
        for share in shares
    ]
    found = walk(objective, scaled, tw.Phase(tw.SGD(1.0), 1_500, where=tw.only(place)))
    ends = totals(found)[-1].reshape(len(seeds), len(shares))
    fell = ends < totals(found)[0].reshape(len(seeds), len(shares))
    largest = [max((share for share, ok in zip(shares, row, strict=True) if ok), default=0.0) for row in fell]
    least = [min((share for share, ok in zip(shares, row, strict=True) if not ok), default=2.0) for row in fell]
    middle, interval = tw.median_interval([(a + b) / 2 for a, b in zip(largest, least, strict=True)])
    statement = f"Gradient descent is stable up to 2/λ, λ from Lanczos, on {len(seeds)} quadratics of 10 unknowns"
    return [tw.Claim.near(statement, middle, interval, 1.0, tolerance=0.015, unit="× 2/λ")]


def momentum(seeds: list[int], steps: int) -> tw.Claim:
    """Does heavy-ball momentum save steps, each method at its best rate for curvatures from 1 to 100?"""
    objective, models = tw.Objective(bowl=Height(height=bowl)), quadratics(seeds)
    plain, root = tw.SGD(2 / 101), 10.0
    heavy = tw.SGD((2 / (root + 1)) ** 2, momentum=((root - 1) / (root + 1)) ** 2)
    needed = []
    for optimizer in (plain, heavy):
        found = walk(objective, models, tw.Phase(optimizer, steps, where=tw.only(place)), log_every=1)
        needed.append(evaluations(found, 1e-8, steps))
    middle, interval = tw.median_interval((needed[1] / needed[0]).tolist())
    statement = f"At their best rates heavy ball needs at most half the steps of gradient descent ({len(seeds)} starts)"
    return tw.Claim.at_most(statement, middle, interval, 0.5, unit="× steps")


def memories(seeds: list[int]) -> list[tw.Claim]:
    """After the gradient has become small, who takes full steps again?"""
    decay, rate = 0.95, 0.1
    ratios = [float(10 ** np.random.default_rng(seed).uniform(1, 2)) for seed in seeds]

    def slope(model: Any) -> Any:
        x, ratio = model["x"], model["ratio"]
        return jnp.where(x > -10, x, (x + 10) / ratio - 10)

    models = [{"x": jnp.asarray(0.0), "ratio": jnp.asarray(ratio)} for ratio in ratios]
    objective = tw.Objective(slope=Height(height=slope))
    lengths = {}
    for name, optimizer in (("RMSprop", tw.RMSprop(rate, decay=decay, eps=1e-12)), ("AdaGrad", tw.AdaGrad(rate))):
        phase = tw.Phase(optimizer, 6_000, where=tw.only(place))
        heights = totals(walk(objective, models, phase, log_every=1))
        x = np.where(heights > -10, heights, (heights + 10) * np.array(ratios) - 10)  # the slope, turned round
        lengths[name] = (-np.diff(x, axis=0), x[:-1] <= -10)
    waits, kept = [], []
    for i, ratio in enumerate(ratios):
        moved, past = (part[:, i] for part in lengths["RMSprop"])
        begun = int(past.argmax())
        back = int((np.abs(moved[begun:] - rate) <= 0.1 * rate).argmax())
        predicted = np.log(ratio**2 / 0.21) / (1 - decay)
        waits.append(back / predicted)
        moved, past = (part[:, i] for part in lengths["AdaGrad"])
        begun = int(past.argmax())
        kept.append(moved[begun + back] / moved[begun - 1])
    over = f"over {len(seeds)} falls of the gradient by 10 to 100"
    wait, wait_interval = tw.median_interval(waits)
    share, share_interval = tw.median_interval(kept)
    return [
        tw.Claim.near(
            f"RMSprop's step is back within 10 % after ln(G²/0.21g²)/(1−β) steps {over}",
            wait, wait_interval, 1.0, tolerance=0.1, unit="× steps predicted",
        ),
        tw.Claim.at_most(
            f"AdaGrad's step is then still less than half of what it was before the fall {over}",
            share, share_interval, 0.5, unit="× step before",
        ),
    ]  # fmt: skip


def in_ravines(seeds: list[int], steps: int) -> list[tw.Claim]:
    """Does a rate for each coordinate help where curvatures differ by 100?"""
    claims = []
    for name in ("ravine", "turned ravine"):
        objective, starts = squares(SQUARES[name]), points(seeds, (-3.0, -3.0), (3.0, 3.0))
        plain = evaluations(walk(objective, starts, tw.Phase(tw.SGD(2 / 101), steps), log_every=1), 1e-6, steps)
        trials = [
            evaluations(walk(objective, starts, tw.Phase(tw.Adam(rate), steps), log_every=1), 1e-6, steps)
            for rate in (0.03, 0.1, 0.3)
        ]
        best = min(trials, key=lambda trial: float(np.median(trial)))
        middle, interval = tw.median_interval((best / plain).tolist())
        statement = (
            f"In the {name} Adam, at the best of three rates, needs at most half the steps of gradient descent at its "
            f"best rate ({len(seeds)} starts)"
        )
        claims.append(tw.Claim.at_most(statement, middle, interval, 0.5, unit="× steps"))
    return claims


def smooth_and_noisy(seeds: list[int], steps: int, run: tw.Run) -> list[tw.Claim]:
    """Each on its own ground: exact slopes of Rosenbrock's valley, and slopes with noise."""
    starts = points(seeds, (-2.0, -1.0), (2.0, 3.0))
    exact = squares(rosenbrock)
    quick = evaluations(walk(exact, starts, tw.Phase(tw.LBFGS(), steps), log_every=1), 1e-8, steps)
    trials = [
        evaluations(walk(exact, starts, tw.Phase(tw.Adam(rate), steps), log_every=1), 1e-8, steps)
        for rate in (0.01, 0.03, 0.1)
    ]
    slow = min(trials, key=lambda trial: float(np.median(trial)))
    smooth, smooth_interval = tw.median_interval((quick / slow).tolist())

    # the slope of the noise z·x is z, drawn anew at each step; its mean is 0, so the valley is the same
    tilt = tw.FreshPoints(lambda key, n: jax.random.normal(key, (n, 2)), 1)
    noisy = tw.Objective(height=exact.terms["height"], noise=Tilt(source=tilt))
    ends = {}
    for name, optimizers in (
        ("Adam", [tw.Adam(tw.Cosine(rate, steps)) for rate in (0.01, 0.03, 0.1)]),
        ("L-BFGS", [tw.LBFGS()]),
    ):
        found = [walk(noisy, starts, tw.Phase(optimizer, steps)) for optimizer in optimizers]
        heights = [heights_at(summed(rosenbrock), ends_of(one)) for one in found]
        ends[name] = min(heights, key=lambda one: float(np.median(one)))
    gap, gap_interval = tw.median_interval(np.log10((ends["L-BFGS"] + 1e-12) / (ends["Adam"] + 1e-12)).tolist())

    def draw(ax: Any) -> None:
        ax.boxplot([np.log10(quick), np.log10(slow)], tick_labels=["L-BFGS", "Adam"])
        ax.set_ylabel("log₁₀ evaluations to 10⁻⁸, exact slopes")

    caption = f"Evaluations from {len(seeds)} random starts in Rosenbrock's valley; who did not arrive counts double."
    run.save_figure("exact", draw, title="Adam and L-BFGS on exact slopes", caption=caption)
    over = f"in Rosenbrock's valley from {len(seeds)} starts"
    return [
        tw.Claim.at_most(
            f"With exact slopes L-BFGS needs at most a third of the evaluations of Adam at its best of 3 rates {over}",
            smooth, smooth_interval, 1 / 3, unit="× evaluations",
        ),
        tw.Claim.at_least(
            f"With noisy slopes L-BFGS ends at least ten times higher than Adam {over}",
            gap, gap_interval, 1.0, unit="decades of height",
        ),
    ]  # fmt: skip


class Tilt(tw.AbstractTerm):
    """Noise of the slope: z·x of one drawn z."""

    source: tw.AbstractSource
    weight: float | jax.Array = 1.0

    def loss(self, model, example, key):
        return jnp.vdot(jax.lax.stop_gradient(example).astype(model["x"].dtype), model["x"])


def kicks(seeds: list[int], steps: int, run: tw.Run) -> list[tw.Claim]:
    """Does a rate that rises again and again find what one that only falls does not?"""
    grounds = {
        "leave the hollows of a rugged bowl": (rugged, points(seeds, (-8.0, -8.0), (8.0, 8.0))),
        "leave a saddle": (saddle, points(seeds, (-1.0, -1e-3), (1.0, 1e-3))),
        "cross a plateau": (plateau, points(seeds, (3.0, -0.5), (4.0, 0.5))),
    }
    claims, needed = [], {}
    for what, (ground, starts) in grounds.items():
        objective, best = tw.Objective(height=Height(height=lambda model, ground=ground: ground(model["x"]))), {}
        for name, make in (
            ("falling", lambda rate: tw.Cosine(rate, steps)),
            ("kicked", lambda rate: tw.CosineRestarts(rate, steps // 8)),
        ):
            phases = [tw.Phase(tw.SGD(make(rate)), steps) for rate in (0.03, 0.1, 0.3, 1.0)]
            trials = [evaluations(walk(objective, starts, phase, log_every=1), 0.05, steps) for phase in phases]
            best[name] = min(trials, key=lambda trial: float(np.median(trial)))
        needed[what] = best
        middle, interval = tw.median_interval((best["kicked"] / best["falling"]).tolist())
        statement = (
            f"Cosine restarts {what} sooner than one falling cosine, each at the best of four rates: to a height of "
            f"0.05 they need at most four fifths of the steps ({len(seeds)} starts)"
        )
        claims.append(tw.Claim.at_most(statement, middle, interval, 0.8, unit="× steps"))

    def draw(ax: Any) -> None:
        for i, best in enumerate(needed.values()):
            for j, (name, counts) in enumerate(best.items()):
                spread = np.linspace(-0.12, 0.12, len(counts))
                label = name if i == 0 else None
                ax.plot(i + 0.4 * j - 0.2 + spread, counts, ".", color=f"C{j}", label=label)
        ax.set_yscale("log")
        ax.set_xticks(range(len(needed)), ["hollows", "saddle", "plateau"])
        ax.set_ylabel("steps to a height of 0.05")
        ax.legend()

    caption = "Steps to a height of 0.05 above the lowest place; walks that never came there count double."
    run.save_figure("kicks", draw, title="A falling rate and a kicked one", caption=caption)
    return claims


def saddle(x: Any) -> Any:
    """Height of a saddle at the origin with a valley on either side, lowest (0) at (0, ±1)."""
    return 5 * x[0] ** 2 + (x[1] ** 2 - 1) ** 2 / 4


def plateau(x: Any) -> Any:
    """Height of a plain with one hollow, lowest (0) at the origin; three units away the slope is some 1e-3."""
    return 1 - jnp.exp(-jnp.sum(x * x) / 2)

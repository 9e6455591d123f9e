"""Gradient flow dθ/dt = −∇L(θ), followed by explicit Euler, by the proximal point, and by an adaptive method.

Where are they stable, do they follow the flow, and what does each pay to a given loss? On stiff quadratics; on a real
regression with nearly dependent columns (diabetes: Efron et al., 2004, with all squares and products); and on a small
network. A cost is counted in gradients: a product with the Hessian counts as two.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import PolynomialFeatures

import thalweg as tw


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(20, "random starts, quadratics or networks behind each claim", quick=6, ge=6, le=200)
    steps: int = tw.setting(100_000, "gradients that explicit Euler may make", quick=20_000, ge=1_000, le=10_000_000)


class Height(tw.AbstractTerm):
    """A landscape that depends on the model alone, times the model's own scale: `height(x, model)`, shape ()."""

    height: Callable[[Any, Any], Any]
    source: tw.AbstractSource = tw.NoExamples()
    weight: float | jax.Array = 1.0

    def batch_loss(self, model, examples, key):
        return model["scale"] * self.height(model["x"], model), None


def standardized() -> tuple[np.ndarray, np.ndarray]:
    """The diabetes data, (442, 10) and (442), each column with mean 0 and deviation 1."""
    x, y = (np.asarray(part) for part in load_diabetes(return_X_y=True))
    return (x - x.mean(axis=0)) / x.std(axis=0), (y - y.mean()) / y.std()


INPUTS, TARGET = standardized()
PRODUCTS = PolynomialFeatures(2, include_bias=False).fit_transform(INPUTS)
PRODUCTS = (PRODUCTS - PRODUCTS.mean(axis=0)) / PRODUCTS.std(axis=0)  # (442, 65)
HESSIAN = 2 * PRODUCTS.T @ PRODUCTS / len(PRODUCTS)
LARGEST = float(np.linalg.eigvalsh(HESSIAN)[-1])
STIFFEST = 1e4  # of the quadratics
LEAST = float(np.mean((PRODUCTS @ np.linalg.lstsq(PRODUCTS, TARGET, rcond=None)[0] - TARGET) ** 2))


def bowl(x, model):
    """½ xᵀ A x."""
    return jnp.vdot(x, model["matrix"] @ x) / 2


def regression(x, model):
    """Mean squared error of a linear model of all squares and products."""
    errors = jnp.asarray(PRODUCTS, x.dtype) @ x - jnp.asarray(TARGET, x.dtype)
    return jnp.mean(errors * errors)


def place(model):
    """What walks; the landscape itself stays."""
    return model["x"]


def walk(height: Callable, models: list, optimizer: Any, steps: int, log_every: int = 1) -> tw.FitMany:
    """All members at once, in 64 bits; a walk that climbs out of sight is a result, not a failure."""
    return tw.fit_many(
        models, tw.Objective(height=Height(height=height)), tw.Phase(optimizer, steps, where=tw.only(place)),
        precision=jnp.float64, layout=tw.Layout.VMAPPED, log_every=log_every, raise_failures=False,
    )  # fmt: skip


def column(found: tw.FitMany, *names: str) -> np.ndarray:
    """A figure by row and member; not finite counts as infinitely high."""
    values = found.rows
    for name in names:
        values = [row[name] for row in values]
    values = np.array(values, float)
    return np.where(np.isfinite(values), values, np.inf)


def quadratics(seeds: list[int]) -> list[dict]:
    """By seed a quadratic of twenty unknowns, curvatures from 1 to 10⁴ in a random frame, and a random start."""
    models = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        frame = np.linalg.qr(rng.normal(size=(20, 20)))[0]
        matrix = frame @ np.diag(np.logspace(0, np.log10(STIFFEST), 20)) @ frame.T
        models.append({"x": jnp.asarray(rng.normal(size=20)), "matrix": jnp.asarray(matrix), "scale": jnp.asarray(1.0)})
    return models


def starts(seeds: list[int]) -> list[dict]:
    """By seed a linear model of random small coefficients."""
    draw = lambda seed: jnp.asarray(0.1 * np.random.default_rng(seed).normal(size=PRODUCTS.shape[1]))
    return [{"x": draw(seed), "scale": jnp.asarray(1.0)} for seed in seeds]


@tw.study("flow", systems=["S06"], question="Does solving an implicit equation at each step of gradient flow pay?")
def flow(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Stability, then the path, then the price."""
    seeds = run.seeds(settings.seeds)
    stability_figure(run)
    return [
        *stability(seeds),
        *regression_prices(seeds, settings.steps, run),
        *network_prices(seeds, run),
    ]


def stability(seeds: list[int]) -> list[tw.Claim]:
    """Explicit Euler's largest stable step, and the proximal point's far beyond it."""
    claims, shares = [], np.array([0.9, 0.95, 0.98, 0.99, 1.01, 1.02, 1.05, 1.1])
    for what, height, models, largest in (
        (f"{len(seeds)} quadratics of curvatures from 1 to 10⁴", bowl, quadratics(seeds), STIFFEST),
        (f"the regression from {len(seeds)} starts", regression, starts(seeds), LARGEST),
    ):
        # a step η on L is a step 1 on ηL, so that all steps are walked by one compiled program
        steps = np.tile(shares * 2 / largest, len(models))
        pairs = zip([model for model in models for _ in shares], steps, strict=True)
        scaled = [model | {"scale": jnp.asarray(step)} for model, step in pairs]
        heights = column(walk(height, scaled, tw.ExplicitEuler(1.0), 1_000, 500), "last")  # 1.2²⁰⁰⁰ is still finite
        kept = (heights[-1] <= heights[0]).reshape(len(models), -1)
        edge = [(shares[ok].max(initial=0.0) + shares[~ok].min(initial=2.0)) / 2 for ok in kept]
        middle, interval = tw.median_interval(edge)
        statement = f"Explicit Euler is stable up to 2/λ, λ the largest curvature, on {what} (steps 1 % off tell)"
        claims.append(tw.Claim.near(statement, middle, interval, 1.0, tolerance=0.015, unit="× 2/λ"))
    for beyond in (10, 1_000):
        step = beyond * 2 / STIFFEST
        models = quadratics(seeds)
        found = walk(bowl, models, tw.ProximalPoint(step), 60)
        heights = np.vstack([[first_height(model) for model in models], column(found, "last")])
        times = np.concatenate([np.zeros((1, len(models))), column(found, "figures", "time")])
        # an exact step divides every direction's share by at least 1 + η·1, and the height by its square
        left = heights[1:] / heights[:-1] * (1 + step) ** 2
        moved = (np.diff(times, axis=0) > 0) & (heights[1:] > 1e-20 * heights[0])
        middle, interval = tw.median_interval(np.max(left, axis=0, where=moved, initial=0.0).tolist())
        statement = (
            f"At {beyond:,} times that step no step of the proximal point leaves more of the height than "
            f"exact backward Euler may leave, 0.2 % for its tolerance ({len(seeds)} quadratics)"
        )
        claims.append(tw.Claim.at_most(statement, middle, interval, 1.002, unit="× that share"))
    return claims


def first_height(model: dict) -> float:
    """Height of a quadratic at its start."""
    x = np.asarray(model["x"])
    return float(x @ np.asarray(model["matrix"]) @ x / 2)


def stability_figure(run: tw.Run) -> None:
    """By what each method multiplies a direction's share in one step, computed and measured."""
    z, marks = np.logspace(-2, 4, 400), np.logspace(-1.75, 3.75, 12)
    models = [{"x": jnp.ones(1), "matrix": jnp.full((1, 1), mark), "scale": jnp.asarray(1.0)} for mark in marks]
    any_error = {"first": 1.0, "rtol": 0.9, "atol": 1e30}
    methods = {
        "explicit Euler": (tw.ExplicitEuler(1.0), np.abs(1 - z)),
        "proximal point": (tw.ProximalPoint(1.0), 1 / (1 + z)),
        "Tsit5": (tw.GradientFlow(tw.nn.Tsit5(), **any_error), np.abs(growth_of(diffrax.Tsit5(), z))),
    }

    def draw(ax) -> None:
        for i, (name, (optimizer, line)) in enumerate(methods.items()):
            found = walk(bowl, models, optimizer, 1)
            shares = [abs(float(model["x"][0])) for model in found.models]
            ax.plot(z, line, color=f"C{i}", label=name)
            ax.plot(marks, shares, "o", color=f"C{i}", markersize=4)
        ax.plot(z, np.exp(-z), ":", color="C4", label="the flow itself")
        ax.axhline(1.0, color="C5", linewidth=0.8)
        ax.set(xscale="log", yscale="log", ylim=(1e-5, 1e3), xlabel="step × curvature, ηλ")
        ax.set_ylabel("share left after one step")
        ax.legend(fontsize="small")

    run.save_figure(
        "1-stability", draw, title="What one step leaves of a direction",
        caption="Lines: computed; marks: measured. Above the level line a step makes worse: explicit Euler from "
        "ηλ = 2 on, Tsit5 from about 3.3 on, the proximal point nowhere; fast directions it damps less than the flow.",
    )  # fmt: skip


def growth_of(method: Any, z: np.ndarray) -> np.ndarray:
    """What an explicit Runge-Kutta method makes of 1 in one step of length z on dx/dt = −x."""
    stages = [np.ones_like(z)]
    for row in method.tableau.a_lower:
        stages.append(1 - z * sum(weight * stage for weight, stage in zip(row, stages, strict=True)))
    return 1 - z * sum(weight * stage for weight, stage in zip(method.tableau.b_sol, stages, strict=True))


def cost_of(found: tw.FitMany, each: float) -> np.ndarray:
    """Gradients made until each row, by row and member: `each` a step, and two for each product with the Hessian."""
    steps = np.array([row["step"] for row in found.rows], float)[:, None]
    if "products" in found.rows[0]["figures"]:
        return steps + 2 * column(found, "figures", "products")
    return each * steps * np.ones(len(found.models))


def until(found: tw.FitMany, each: float, goal: float, most: float) -> np.ndarray:
    """By member, the gradients made until a height; twice the most that anybody may make where it was not reached."""
    below, cost = column(found, "last") <= goal, cost_of(found, each)
    reached = below.any(axis=0) & (cost[below.argmax(axis=0), range(cost.shape[1])] <= most)
    return np.where(reached, cost[below.argmax(axis=0), range(cost.shape[1])], 2.0 * most)


def regression_prices(seeds: list[int], most: int, run: tw.Run) -> list[tw.Claim]:
    """What a loss 1 % above the least costs on the regression, and whether the adaptive method follows the flow."""
    models, stable = starts(seeds), 2 / LARGEST
    loose = tw.ProximalPoint(1e5 * stable, tolerance=0.1, iterations=300)
    found = {
        "explicit Euler": (walk(regression, models, tw.ExplicitEuler(0.95 * stable), most, 20), 1),
        "proximal point, 10 ×": (walk(regression, models, tw.ProximalPoint(10 * stable, tolerance=0.1), 300), 0),
        "proximal point, 1,000 ×": (walk(regression, models, tw.ProximalPoint(1e3 * stable, tolerance=0.1), 60), 0),
        "proximal point, 100,000 ×": (walk(regression, models, loose, 60), 0),
        "Tsit5": (walk(regression, models, tw.GradientFlow(rtol=1e-4, atol=1e-6), 1_500, 3), 6),
        "L-BFGS": (walk(regression, models, tw.LBFGS(), 500), 1),
    }
    prices_figure(run, "2-regression", found, LEAST, "A regression with nearly dependent columns", [0.01, 0.001])
    path_figure(run, models, {name: one for name, (one, _) in found.items() if name != "L-BFGS"})

    adaptive = found["Tsit5"][0]
    times, heights = column(adaptive, "figures", "time"), column(adaptive, "last")
    exact = np.stack([flow_heights(model, time) for model, time in zip(models, times.T, strict=True)], axis=1)
    apart = np.max(np.abs(heights - exact) / exact, axis=0)
    middle, interval = tw.median_interval(apart.tolist())
    where = f"on the regression ({len(seeds)} starts)"
    costs = {name: until(one, each, 1.01 * LEAST, most) for name, (one, each) in found.items()}
    price, prices = tw.median_interval((costs["Tsit5"] / costs["explicit Euler"]).tolist())
    claims = [
        tw.Claim.at_most(
            f"To 1 % above the least loss Tsit5 makes no more gradients than explicit Euler {where}",
            price, prices, 1.0, unit="× gradients",
        ),
        tw.Claim.at_most(
            f"Tsit5 at a tolerance of 1e-4 keeps within 0.1 % of the exact flow's loss at all times {where}",
            100 * middle, (100 * interval[0], 100 * interval[1]), 0.1, unit="%",
        )
    ]  # fmt: skip
    for share in (1.0, 0.1):
        goal = (1 + share / 100) * LEAST
        costs = {name: until(one, each, goal, most) for name, (one, each) in found.items()}
        claims += price_claims(costs, f"to {share:g} % above the least loss", where, most)
    return claims


def price_claims(costs: dict[str, np.ndarray], goal: str, where: str, most: int) -> list[tw.Claim]:
    """The proximal point at its longest step beside explicit Euler and L-BFGS."""

    def compared(name: str, other: str, bar: float, words: str) -> tw.Claim:
        middle, interval = tw.median_interval((costs[name] / costs[other]).tolist())
        statement = f"The {name}{beyond}, makes {words} the gradients of {other} {goal} {where}"
        statement += never if other == euler else ""
        return tw.Claim.at_most(statement, middle, interval, bar, unit="× gradients")

    euler, never = "explicit Euler", f"; who does not arrive in {most:,} counts as twice that"
    longest = [name for name in costs if name.startswith("proximal")][-1]
    beyond = " the largest stable step of explicit Euler" if longest.endswith("×") else ""
    return [
        compared(longest, euler, 0.5, "at most half"),
        compared(longest, "L-BFGS", 1.0, "no more than"),
    ]


def flow_heights(model: dict, times: np.ndarray) -> np.ndarray:
    """The exact flow's loss on the regression from a model's start, at each time."""
    values, vectors = np.linalg.eigh(HESSIAN)
    least = np.linalg.lstsq(PRODUCTS, TARGET, rcond=None)[0]
    shares = vectors.T @ (np.asarray(model["x"]) - least)
    left = np.exp(-np.outer(times, values)) * shares
    return LEAST + left**2 @ values / 2


def path_figure(run: tw.Run, models: list[dict], found: dict[str, tw.FitMany]) -> None:
    """Loss against flow time, beside the exact flow's."""

    def draw(ax) -> None:
        times = np.logspace(-2, 6, 300)
        ax.plot(
            times, flow_heights(models[0], times) / LEAST - 1, color="C5", linewidth=3, alpha=0.4, label="exact flow"
        )
        for i, (name, one) in enumerate(found.items()):
            time, height = column(one, "figures", "time")[:, 0], column(one, "last")[:, 0] / LEAST - 1
            ax.plot(*first_of_each(time, height), ".-", color=f"C{i}", markersize=3, linewidth=0.8, label=name)
        ax.set(xscale="log", yscale="log", xlim=(1e-2, 1e6), ylim=(1e-5, None), xlabel="flow time")
        ax.set_ylabel("loss above the least, relative")
        ax.legend(fontsize="small")

    run.save_figure(
        "3-path", draw, title="Loss against flow time", size=(6.0, 4.0),
        caption="The regression from one start. Who follows the flow lies on the broad line; the first "
        "long steps of the proximal point lie above it: they damp fast directions less than the flow does.",
    )  # fmt: skip


def first_of_each(time: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Only the points where the walk had moved on, and later than its start."""
    moved = np.concatenate([[False], np.diff(time) > 0]) & (time > 0)
    return time[moved], height[moved]


def prices_figure(run: tw.Run, name: str, found: dict, least: float, title: str, goals: list[float]) -> None:
    """Loss against gradients made, from one start."""

    def draw(ax) -> None:
        for i, (label, (one, each)) in enumerate(found.items()):
            cost, height = cost_of(one, each)[:, 0], column(one, "last")[:, 0] / (least or 1) - bool(least)
            ax.plot(cost, height, color=f"C{i}", label=label)
        for goal in goals:
            ax.axhline(goal, color="0.5", linewidth=0.8)
        ax.set(xscale="log", yscale="log", xlim=(5, None), ylim=(min(goals) / 5, 5), xlabel="gradients made")
        ax.set_ylabel("loss above the least, relative" if least else "loss")
        ax.legend(fontsize="small")

    caption = "From one start; level lines: the losses that prices are compared at. A product with the Hessian "
    caption += "counts as two gradients."
    run.save_figure(name, draw, title=title, caption=caption, size=(6.0, 4.0))


def network_loss(x, model):
    """Mean squared error of the network on the diabetes data."""
    errors = jax.vmap(x)(jnp.asarray(INPUTS)) - jnp.asarray(TARGET)
    return jnp.mean(errors * errors)


def network_prices(seeds: list[int], run: tw.Run) -> list[tw.Claim]:
    """The same on a network of one hidden layer, whose curvature changes on the way."""
    most = 2_000  # gradients that each may make
    goal = 0.40  # of the data's variance; a linear model leaves 0.48
    make = lambda seed: tw.nn.MLP(10, None, width=16, depth=1, activation=jnp.tanh, key=jax.random.key(seed))
    models = [{"x": make(seed), "scale": jnp.asarray(1.0)} for seed in seeds]
    # the best of 0.1, 0.2, 0.4, 0.8, and of η = 1, 5, 20, 100 at 10 and 50 iterations, on three other seeds
    loose = tw.ProximalPoint(20.0, tolerance=0.1, iterations=10)
    found = {
        "explicit Euler": (walk(network_loss, models, tw.ExplicitEuler(0.4), most, 5), 1),
        "proximal point, η = 20": (walk(network_loss, models, loose, 80), 0),
        "Tsit5": (walk(network_loss, models, tw.GradientFlow(), 300), 6),
        "L-BFGS": (walk(network_loss, models, tw.LBFGS(), 100), 1),
    }
    costs = {name: until(one, each, goal, most) for name, (one, each) in found.items()}
    prices_figure(run, "4-network", found, 0.0, "A network of 193 params", [goal])
    return price_claims(costs, "to a loss of 0.40", f"on a network of 193 params ({len(seeds)} starts)", most)

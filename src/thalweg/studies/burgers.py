"""Burgers' equation with a front, to many digits; and what optimizer, conditions and points each contribute.

u_t + u·u_x = ν·u_xx on -1 ≤ x ≤ 1, 0 ≤ t ≤ 1 with ν = 0.01/π, u(x, 0) = -sin(πx) and u(±1, t) = 0: a wave that steepens
to a front of width 0.006 at x = 0. The reference is Cole and Hopf's closed form, by quadrature. Beside the networks
stands a classical method: Fourier modes with exponential time differencing.
"""

import time
from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

NU = 0.01 / np.pi
DOMAIN = tw.geometry.rectangle((-1, 0), (1, 1))  # x to the right, t upwards


class Bound(eqx.Module):
    """A network that keeps the initial and the boundary values whatever its weights are."""

    network: tw.nn.MLP

    def __call__(self, at: jax.Array) -> jax.Array:
        """U at one point (x, t)."""
        x, t = at
        return -jnp.sin(jnp.pi * x) + t * (1 - x * x) * self.network(jnp.stack([x, 2 * t - 1]))


class Free(eqx.Module):
    """A network that has to learn them."""

    network: tw.nn.MLP

    def __call__(self, at: jax.Array) -> jax.Array:
        """U at one point (x, t)."""
        return self.network(jnp.stack([at[0], 2 * at[1] - 1]))


def law(u, at):
    """Burgers' equation at one point: 0 where u is right."""
    return tw.derivative(u, at, 1) + u(at) * tw.derivative(u, at, 0) - NU * tw.derivative(u, at, 0, 0)


def beginning(u, at):
    """The initial values, missed by so much."""
    return u(at) + jnp.sin(jnp.pi * at[0])


def initial_points(key, n):
    """Points (x, 0)."""
    return jnp.stack([jax.random.uniform(key, (n,), minval=-1), jnp.zeros(n)], axis=1)


def wall_points(key, n):
    """Points (±1, t)."""
    side, moment = jax.random.split(key)
    return jnp.stack([2.0 * jax.random.bernoulli(side, shape=(n,)) - 1, jax.random.uniform(moment, (n,))], axis=1)


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(6, "networks, each with its own weights and points", ge=1, le=100)
    points: int = tw.setting(4_000, "points of the equation at a time", quick=1_500, ge=50, le=100_000)
    adam: int = tw.setting(500, "steps of Adam", quick=300, ge=1)
    steps: int = tw.setting(8_000, "steps of self-scaled Broyden after them", quick=900, ge=1)
    refresh: int = tw.setting(500, "steps between two choices of points", quick=150, ge=1)
    width: int = tw.setting(20, "units in each of the three hidden layers", ge=1, le=100)
    ablation: int = tw.setting(2_000, "steps of each variant of the ablation", quick=300, ge=1)
    repeats: int = tw.setting(3, "seeds of each variant of the ablation", quick=1, ge=1, le=100)


@dataclass
class Variant:
    """One row of the ablation."""

    name: str
    model: type
    source: type
    optimizer: tw.AbstractOptimizer
    times: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


@tw.study(
    "burgers", systems=["S04"], question="How exactly can a network solve Burgers' equation, and what is it due to?"
)
def burgers(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Train to many digits over seeds; then change one part of the set-up at a time."""
    x, t = np.meshgrid(np.linspace(-1, 1, 257), np.linspace(0, 1, 101))
    at = np.stack([x.ravel(), t.ravel()], axis=1)
    truth = tw.references.burgers(at[:, 0], at[:, 1], NU)
    error = lambda model: float(np.linalg.norm(tw.at_points(model, at) - truth) / np.linalg.norm(truth))
    seeds = run.seeds(settings.seeds)

    def landscape(model: type, source: type, points: int) -> tw.Objective:
        every = 0 if source is tw.HeldPoints else settings.refresh
        inside = tw.Residual(law, source(DOMAIN.sample_interior, points))
        if model is Bound:
            return tw.Objective(law=inside, refresh_every=every)
        first = tw.Residual(beginning, tw.HeldPoints(initial_points, 160), weight=100.0)
        walls = tw.Residual(lambda u, z: u(z), tw.HeldPoints(wall_points, 80), weight=100.0)
        return tw.Objective(law=inside, initial=first, walls=walls, refresh_every=every)

    def program(optimizer: tw.AbstractOptimizer, steps: int) -> list[tw.Phase]:
        return [tw.Phase(tw.Adam(5e-3), settings.adam), tw.Phase(optimizer, steps, redraw=settings.refresh)]

    def network(model: type, seed: int) -> eqx.Module:
        return model(tw.nn.MLP(2, None, width=settings.width, depth=3, activation=jnp.tanh, key=jax.random.key(seed)))

    began = time.monotonic()
    fitted = tw.fit_many(
        [network(Bound, seed) for seed in seeds],
        landscape(Bound, tw.AdaptivePoints, settings.points),
        program(tw.SelfScaledBroyden(), settings.steps),
        seeds=seeds,
        precision=jnp.float64,
        run=run,
        name="main",
        callbacks=run.callbacks,
    )
    seconds = (time.monotonic() - began) / len(seeds)
    errors = np.array([error(model) for model in fitted.models])
    overfitted = [v for v in fitted.verdicts if "points-overfitted" in [f.name for f in v.findings]]

    broyden = tw.SelfScaledBroyden()
    variants = [
        Variant("as above", Bound, tw.AdaptivePoints, broyden),
        Variant("fresh points", Bound, tw.FreshPoints, broyden),
        Variant("fixed points", Bound, tw.HeldPoints, broyden),
        Variant("soft, fixed points", Free, tw.HeldPoints, broyden),
        Variant("L-BFGS", Bound, tw.AdaptivePoints, tw.LBFGS()),
        Variant("Adam", Bound, tw.AdaptivePoints, tw.Adam(2e-3)),
        Variant("soft, fixed, L-BFGS", Free, tw.HeldPoints, tw.LBFGS()),
    ]
    for number, variant in enumerate(variants):
        done = tw.fit_many(
            [network(variant.model, seed) for seed in run.seeds(settings.repeats)],
            landscape(variant.model, variant.source, 2_540),
            program(variant.optimizer, settings.ablation),
            seeds=run.seeds(settings.repeats),
            precision=jnp.float64,
            run=run,
            name=f"ablation-{number}",
            callbacks=run.callbacks,
            raise_failures=False,
        )
        variant.errors = [error(model) for model in done.models]
        variant.findings = [f.name for verdict in done.verdicts for f in verdict.findings]
    draw(run, fitted.models, errors, x, t, truth, variants)

    def classical(points: int) -> tuple[float, float]:
        """Error and seconds of Fourier modes on so many points."""
        start = time.monotonic()
        grid = np.linspace(-1, 1, points, endpoint=False)
        found = tw.references.periodic_evolution(
            -np.sin(np.pi * grid), [1.0], length=2, linear=lambda k: -NU * k**2, nonlinear=advection, step=2.0 / points
        )[0]
        took = time.monotonic() - start
        right = tw.references.burgers(grid, np.array(1.0), NU)
        return float(np.linalg.norm(found - right) / np.linalg.norm(right)), took

    middle = float(np.median(errors))
    as_good = next(n for n in (512, 1_024, 2_048) if classical(n)[0] <= middle or n == 2_048)
    classical_seconds = classical(as_good)[1]
    share = len(overfitted) / len(seeds)
    by_heart = variants[2].findings.count("points-overfitted") / settings.repeats
    return [
        tw.Claim.median_at_most("The relative L2 error is at most 1e-3", errors.tolist(), 1e-3),
        tw.Claim.median_at_most("It is at most 1e-5", errors.tolist(), 1e-5),
        tw.Claim.at_most("The share of networks that learned their points by heart is 0", share, (share, share), 0.0),
        tw.Claim.at_least(
            "On 2,540 fixed points every network does, and its verdict says so", by_heart, (by_heart, by_heart), 1.0
        ),
        tw.Claim.at_most(
            f"One network takes no longer than {as_good} Fourier modes, which err no more",
            seconds, (seconds, seconds), classical_seconds, unit="s",
        ),
    ]  # fmt: skip


def advection(v: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Fourier coefficients of -u·u_x."""
    return -0.5j * k * np.fft.rfft(np.fft.irfft(v) ** 2)


def draw(run, models, errors, x, t, truth, variants) -> None:
    """The solution, its error, the front, and the ablation."""
    typical = models[int(np.argsort(errors)[(len(errors) - 1) // 2])]
    at = np.stack([x.ravel(), t.ravel()], axis=1)
    found = tw.at_points(typical, at).reshape(x.shape)
    wrong = found - truth.reshape(x.shape)
    np.savez(run.arrays / "burgers.npz", x=x, t=t, network=found, reference=truth.reshape(x.shape))
    who = f"the network of median error among {len(models)}"

    def picture(name: str, shown: np.ndarray, label: str, limit: float, title: str, caption: str) -> None:
        def history(ax) -> None:
            tw.figures.fields.history(ax, t[:, 0], x[0], shown, label=label, limits=(-limit, limit))
            ax.set_xlabel("t")
            ax.set_ylabel("x")

        run.save_figure(name, history, title=title, caption=caption)

    picture("1-solution", found, "u", 1.0, "A sine becomes a front", f"By {who}.")
    worst = float(np.abs(wrong).max())
    picture("2-error", wrong, "difference", worst, "Error", f"By {who}, minus the closed form.")

    def front(ax) -> None:
        fine = np.linspace(-0.05, 0.05, 201)
        for i, moment in enumerate((0.25, 0.5, 1.0)):
            line = np.stack([fine, np.full_like(fine, moment)], axis=1)
            ax.plot(fine, tw.references.burgers(fine, np.array(moment), NU), color=f"C{i}", label=f"t = {moment}")
            ax.plot(fine[::8], tw.at_points(typical, line)[::8], "o", color=f"C{i}", markersize=3.5)
        ax.set_xlabel("x")
        ax.set_ylabel("u")
        ax.legend()

    run.save_figure("3-front", front, title="The front, magnified", caption=f"Lines: closed form. Dots: {who}.")

    def ablation(ax) -> None:
        logs = [np.log10(variant.errors) for variant in variants]
        middle = np.array([np.median(found) for found in logs])
        low, high = (np.array([end(found) for found in logs]) for end in (np.min, np.max))
        names = [variant.name for variant in variants]
        tw.figures.comparison.scores(ax, names, middle, low, high, metric="log10 of the relative L2 error")

    caption = "Median and range over seeds, all with as many steps. Each row changes what it names, nothing else."
    run.save_figure("4-ablation", ablation, title="What it is due to", caption=caption)

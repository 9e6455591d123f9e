"""Burgers' equation (ν = 0.01/π) beside DeepXDE 1.15 on PyTorch: one Adam step, and time to an error.

One step: 2-20-20-20-1, tanh, soft conditions, the same 2,540 + 160 + 80 points, Adam at 1e-3, in 32 and in 64 bits;
thalweg's through `tw.fit`. The bar is a ratio of 0.4.

Time to an error: DeepXDE's documented example in float64 (Adam 15,000, then L-BFGS), one seed, against the set-up
of the study `burgers` for 10,000 steps (exact conditions, points where the residual is large, self-scaled Broyden),
five seeds; errors are relative L2 on 257 × 101 places, seconds include compiling. The bars are a tenth of DeepXDE's
time to 1e-3 and a quarter to 1e-5. Not like for like: the last table changes one part at a time, at DeepXDE's network
and points.
Run: .venv/bin/python -m benchmarks.burgers
"""

import os
import time

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch

import thalweg as tw
from benchmarks.side_by_side import ratio, record, summary
from thalweg.studies.burgers import DOMAIN, NU, Bound, Free, beginning, initial_points, law, wall_points

LEVELS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
STEPS, ROUNDS, SEEDS, REPEATS = 10_000, 5, 5, 3
GRID = np.stack(np.meshgrid(np.linspace(-1, 1, 257), np.linspace(0, 0.99, 101)), -1).reshape(-1, 2)
TRUTH = tw.references.burgers(GRID[:, 0], GRID[:, 1], NU)


def network(model: type, seed: int) -> eqx.Module:
    """The network of both."""
    return model(tw.nn.MLP(2, None, width=20, depth=3, activation=jnp.tanh, key=jax.random.key(seed)))


def soft(source: type, points: int = 2_540) -> tw.Objective:
    """The equation, the initial and the boundary values as three terms."""
    return tw.Objective(
        law=tw.Residual(law, source(DOMAIN.sample_interior, points)),
        initial=tw.Residual(beginning, tw.HeldPoints(initial_points, 160)),
        walls=tw.Residual(lambda u, z: u(z), tw.HeldPoints(wall_points, 80)),
        refresh_every=500 if source is tw.AdaptivePoints else 0,
    )


def exact(source: type, points: int) -> tw.Objective:
    """The equation alone."""
    term = tw.Residual(law, source(DOMAIN.sample_interior, points))
    return tw.Objective(law=term, refresh_every=500 if source is tw.AdaptivePoints else 0)


class Error(tw.AbstractInstrument):
    """The relative L2 error against the closed form."""

    def cost(self, terms: int) -> float:
        """About a gradient: ten times the points, without derivatives."""
        return 1.0

    def measure(self, problem, params, key):
        """One figure."""
        model = problem.model(params)
        found = jax.vmap(model)(jnp.asarray(GRID))
        return {"error": jnp.linalg.norm(found - jnp.asarray(TRUTH)) / np.linalg.norm(TRUTH)}


class Clock(tw.Callback):
    """Seconds at which each level was first reached, and the last error."""

    def __init__(self):
        self.began, self.reached, self.last = time.perf_counter(), {}, float("nan")
        self.finding = False

    def progress(self, phase, step, row):
        """Notes what the last row has."""
        if row and "instruments" in row:
            self.last = row["instruments"]["Error"]["error"]
            for level in LEVELS:
                if self.last <= level:
                    self.reached.setdefault(level, time.perf_counter() - self.began)


def solved(model: type, objective: tw.Objective, optimizer: tw.AbstractOptimizer, steps: int, seed: int) -> Clock:
    """One network to the end of its program; its finding, if its points were learned by heart."""
    jax.clear_caches()
    clock = Clock()
    program = [tw.Phase(tw.Adam(5e-3), 500), tw.Phase(optimizer, steps, redraw=500)]
    done = tw.fit(
        network(model, seed), objective, program, seed=seed, precision=jnp.float64, raise_failures=False,
        instruments=[Error()], callbacks=[clock], log_every=50,
    )  # fmt: skip
    clock.reached["end"] = time.perf_counter() - clock.began
    clock.finding = "points-overfitted" in [finding.name for finding in done.verdict.findings]
    return clock


def thalweg_step(precision, steps: int = 1_000) -> float:
    """Milliseconds of one Adam step within a fit, compiling left out."""
    marks = {}

    class Marks(tw.Callback):
        def progress(self, phase, step, row):
            marks[step] = time.perf_counter()

    tw.fit(
        network(Free, 0), soft(tw.HeldPoints), tw.Phase(tw.Adam(1e-3), steps), precision=precision,
        callbacks=[Marks()], log_every=steps // 4, raise_failures=False,
    )  # fmt: skip
    first, last = min(marks), max(marks)
    return 1e3 * (marks[last] - marks[first]) / (last - first)


def deepxde_model(precision: str) -> dde.Model:
    """DeepXDE's documented example."""
    dde.config.set_default_float(precision)
    dde.config.set_random_seed(0)

    def pde(x, y):
        dy_x, dy_t = dde.grad.jacobian(y, x, i=0, j=0), dde.grad.jacobian(y, x, i=0, j=1)
        return dy_t + y * dy_x - 0.01 / np.pi * dde.grad.hessian(y, x, i=0, j=0)

    domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 0.99))
    walls = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on_boundary: on_boundary)
    start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _, on_initial: on_initial)
    data = dde.data.TimePDE(domain, pde, [walls, start], num_domain=2540, num_boundary=80, num_initial=160)
    return dde.Model(data, dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal"))


def deepxde_step(model: dde.Model, steps: int = 300) -> float:
    """Milliseconds of one Adam step within `train`."""
    began = time.perf_counter()
    model.train(iterations=steps, display_every=10 * steps, verbose=0)
    return 1e3 * (time.perf_counter() - began) / steps


def choose_threads() -> int:
    """One thread or all for PyTorch: whichever makes 200 steps quicker (on a busy machine two wait for each other)."""
    peer = deepxde_model("float64")
    peer.compile("adam", lr=1e-3, verbose=0)
    found = {}
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        deepxde_step(peer, 20)
        found[threads] = deepxde_step(peer, 200)
    torch.set_num_threads(min(found, key=found.__getitem__))
    return torch.get_num_threads()


def deepxde_whole() -> dict[str, float]:
    """The documented program in float64: error and seconds at its end."""
    began = time.perf_counter()
    model = deepxde_model("float64")
    model.compile("adam", lr=1e-3, verbose=0)
    model.train(iterations=15_000, display_every=5_000, verbose=0)
    model.compile("L-BFGS", verbose=0)
    model.train(display_every=5_000, verbose=0)
    took = time.perf_counter() - began
    found = np.ravel(model.predict(GRID))
    return {"seconds": took, "error": float(np.linalg.norm(found - TRUTH) / np.linalg.norm(TRUTH))}


def main() -> None:
    """Steps side by side, then the races."""
    figures: dict = {"torch threads": choose_threads(), "load at the start": os.getloadavg()[0], "one Adam step": {}}
    for precision, dtype in (("float32", jnp.float32), ("float64", jnp.float64)):
        peer = deepxde_model(precision)
        peer.compile("adam", lr=1e-3, verbose=0)
        deepxde_step(peer, 20)
        times = {"thalweg": [], "DeepXDE": []}
        for _ in range(ROUNDS):
            times["thalweg"].append(thalweg_step(dtype))
            times["DeepXDE"].append(deepxde_step(peer))
        figures["one Adam step"][precision] = {f"{name}, ms": summary(found) for name, found in times.items()} | {
            "thalweg/DeepXDE (bar 0.4)": ratio(times["thalweg"], times["DeepXDE"])
        }
    record("burgers", figures)  # what there is so far, for what follows is long

    clocks = [solved(Bound, exact(tw.AdaptivePoints, 4_000), tw.SelfScaledBroyden(), STEPS, s) for s in range(SEEDS)]
    peer_figures = deepxde_whole()
    figures["DeepXDE, documented program, float64, one seed"] = peer_figures
    reached: dict = {}
    for level in LEVELS:
        seconds = [clock.reached[level] for clock in clocks if level in clock.reached]
        if seconds:
            reached[f"{level:g}: seeds of {SEEDS} that reach it"] = len(seconds)
            reached[f"{level:g}: seconds"] = summary(seconds)
            reached[f"{level:g}: share of DeepXDE's time"] = summary([s / peer_figures["seconds"] for s in seconds])
    figures["thalweg"] = reached | {
        "error at the end": summary([clock.last for clock in clocks]),
        "seconds at the end": summary([clock.reached["end"] for clock in clocks]),
    }
    record("burgers", figures)

    broyden = tw.SelfScaledBroyden()
    variants = {
        "soft, fixed points, L-BFGS": (Free, soft(tw.HeldPoints), tw.LBFGS()),
        "soft, fixed points, self-scaled Broyden": (Free, soft(tw.HeldPoints), broyden),
        "soft, adaptive points, self-scaled Broyden": (Free, soft(tw.AdaptivePoints), broyden),
        "exact, fixed points, self-scaled Broyden": (Bound, exact(tw.HeldPoints, 2_540), broyden),
        "exact, adaptive points, L-BFGS": (Bound, exact(tw.AdaptivePoints, 2_540), tw.LBFGS()),
        "exact, adaptive points, self-scaled Broyden": (Bound, exact(tw.AdaptivePoints, 2_540), broyden),
    }
    rows = []
    for name, (model, objective, optimizer) in variants.items():
        found = [solved(model, objective, optimizer, 3_000, seed) for seed in range(REPEATS)]
        rows.append({
            "3,500 steps, 3 seeds": name,
            "error": summary([clock.last for clock in found]),
            "seconds": summary([clock.reached["end"] for clock in found]),
            "points-overfitted": sum(clock.finding for clock in found),
        })  # fmt: skip
    figures["ablation"] = rows
    record("burgers", figures)


if __name__ == "__main__":
    main()

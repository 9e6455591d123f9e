"""Poisson's equation on the unit square beside jinns 1.10.2, and on the L-shape beside DeepXDE 1.15.

The square: −Δu = 2π² sin πx sin πy, exact boundary values, the same 1,000 points, 2-20-20-1, tanh, 64 bits, 200 steps
of Adam at 5e-3 and then a second-order optimizer; five seeds that were never used in tuning, three for jinns, in turn.
Seconds are of training to a relative L2 error on 60 × 60 places; compiling stands apart. jinns's optimizers are as
they come. Its network starts from its own weights. The bars are 3 s to 1e-6, 8 s to 1e-8, 20 s to 1e-9.

The L of three unit squares: −Δu = 1, u = 0 on the boundary, the corner that points inwards is the origin. With corner
features the network sees r^(2/3) cos(2φ/3) and r^(2/3) sin(2φ/3), and is multiplied by the first of them (φ is the
angle from the bisector of the L); without, it is multiplied by `SmoothDistance`. The bar is 1e-3 in 60 s with compiling
and against quadratic finite elements on a mesh refined towards the corner. DeepXDE: its documented example (4 × 50,
1,200 + 120 points, Adam at 1e-3, soft boundary), but 60 s of it instead of 50,000 steps and
L-BFGS, and in 64 bits, for in 32 its polygon's points do not fit its network with this NumPy; on one thread.
Run: .venv/bin/python -m benchmarks.poisson
"""

import json
import os
import sys
import time

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde
import equinox as eqx
import jax
import jax.numpy as jnp
import jinns
import numpy as np
import skfem
import torch
from jinns.parameters import Params
from scipy.sparse.linalg import splu
from skfem.models.poisson import laplace, unit_load

import thalweg as tw
from benchmarks import jinns_peer
from benchmarks.side_by_side import RESULTS, record, summary

BARS = {1e-6: 3.0, 1e-8: 8.0, 1e-9: 20.0}
SEEDS, PEER_SEEDS = range(10, 15), range(10, 13)
ADAM, STEPS, NATURAL, L_STEPS = 200, 4_000, 300, 800
PLACES = np.stack(np.meshgrid(*[np.linspace(0, 1, 60)] * 2), -1).reshape(-1, 2)
CORNERS = [(-1, -1), (1, -1), (1, 0), (0, 0), (0, 1), (-1, 1)]
L_SHAPE = tw.geometry.polygon(CORNERS)


def exact(x):
    """The solution on the square."""
    return jnp.sin(jnp.pi * x[0]) * jnp.sin(jnp.pi * x[1])


def bubble(x):
    """0 on the square's boundary."""
    return x[0] * (1 - x[0]) * x[1] * (1 - x[1])


class Square(eqx.Module):
    """A network that is 0 on the boundary of the unit square."""

    network: tw.nn.MLP

    def __call__(self, x):
        return bubble(x) * self.network(2 * x - 1)


class Error(tw.AbstractInstrument):
    """The relative L2 error at places with weights."""

    places: np.ndarray
    truth: np.ndarray
    weight: np.ndarray

    def cost(self, terms: int) -> float:
        """Little, beside a step."""
        return 0.0

    def measure(self, problem, params, key):
        """One figure."""
        found = jax.vmap(problem.model(params))(jnp.asarray(self.places))
        mean = lambda values: jnp.sqrt(jnp.sum(jnp.asarray(self.weight) * values**2))
        return {"error": mean(found - jnp.asarray(self.truth)) / mean(jnp.asarray(self.truth))}


class Clock(tw.Callback):
    """Every row's moment, step and error.

    In seconds of training the first stretch of a phase, where it compiles, counts as the mean of its later ones.
    """

    def __init__(self):
        self.began, self.rows = time.perf_counter(), []

    def progress(self, phase, step, row):
        """Notes the moment."""
        error = row["instruments"]["Error"]["error"] if row and "instruments" in row else float("nan")
        self.rows.append((phase, step, time.perf_counter(), error))

    def course(self) -> list[tuple[float, float, float]]:
        """(seconds of training, seconds with compiling, error) of every row."""
        before, found = 0.0, []
        for phase in sorted({row[0] for row in self.rows}):
            rows = [row for row in self.rows if row[0] == phase]
            a, b = rows[0], rows[-1]
            pace = (b[2] - a[2]) / max(1, b[1] - a[1])
            first = before + pace * a[1]
            found += [(first + row[2] - a[2], row[2] - self.began, row[3]) for row in rows]
            before = found[-1][0]
        return found


def on_square(points, optimizer: tw.AbstractOptimizer, steps: int, every: int, seed: int) -> tuple[dict, float]:
    """Seconds to each level, and of compiling."""
    jax.clear_caches()
    network = Square(tw.nn.MLP(2, None, width=20, depth=2, activation=jnp.tanh, key=jax.random.key(seed)))
    law = lambda u, x: tw.laplacian(u, x) + 2 * jnp.pi**2 * exact(x)
    truth = np.prod(np.sin(np.pi * PLACES), axis=1)
    clock = Clock()
    tw.fit(
        network, tw.Objective(law=tw.Residual(law, tw.Rows(points))),
        [tw.Phase(tw.Adam(5e-3), ADAM), tw.Phase(optimizer, steps)], seed=seed, precision=jnp.float64,
        raise_failures=False, instruments=[Error(PLACES, truth, np.ones(len(PLACES)))], callbacks=[clock],
        log_every=every,
    )  # fmt: skip
    course = clock.course()
    reached = {level: next((at for at, _, error in course if error <= level), None) for level in BARS}
    return reached | {"best": float(np.nanmin([error for *_, error in course]))}, course[-1][1] - course[-1][0]


class Law(jinns.loss.PDEStatio):
    """The law in jinns's terms, with jinns's Laplacian."""

    def equation(self, x, u, params):
        """Its residual at one point."""
        return (jinns.loss.laplacian_rev(x, u, params) + 2 * jnp.pi**2 * exact(x))[None]


def on_square_jinns(points, natural: bool, steps: int, seed: int) -> tuple[dict, float]:
    """The same with jinns."""
    jax.clear_caches()
    with jax.enable_x64(True):
        u = jinns_peer.mlp(seed, 20, 2, "PDEStatio", lambda x, _: 2 * x - 1, lambda x, out, _: bubble(x) * out)
        params = Params(nn_params=u.init_params, eq_params={})
        data = jinns.data.CubicMeshPDEStatio(
            key=jax.random.key(0), n=len(points), dim=2, min_pts=(0.0, 0.0), max_pts=(1.0, 1.0)
        )
        data = eqx.tree_at(lambda one: one.omega, data, jnp.asarray(points))
        weights = jinns.loss.LossWeightsPDEStatio(dyn_loss=jnp.ones(()))
        loss = jinns.loss.LossPDEStatio(u=u, dynamic_loss=Law(), params=params, loss_weights=weights)
        truth = np.prod(np.sin(np.pi * PLACES), axis=1)
        done = jinns_peer.trained(
            u, params, data, loss, steps, PLACES, truth, natural=natural, adam=ADAM, every=2 if natural else 20
        )
    return {level: done.reached(level) for level in BARS} | {"best": min(e for _, e in done.errors)}, done.compiling


def rows_of(name: str, found: list[tuple[dict, float]]) -> dict:
    """A row of the table: what reached a level, in which time."""
    row: dict = {"1,000 points": name, "seeds": len(found), "iterations": STEPS if "Broyden" in name else NATURAL}
    for level, bar in BARS.items():
        seconds = [one[level] for one, _ in found if one[level] is not None]
        row[f"s to {level:g} (bar {bar:g})"] = summary(seconds) if seconds else "never"
        row[f"reach {level:g}"] = len(seconds)
    row["best error"] = summary([one["best"] for one, _ in found])
    row["cores it had"] = summary([one["cores"] for one, _ in found])
    row["s of compiling"] = summary([compiling for _, compiling in found])
    return row


def corner(x):
    """r^(2/3) cos(2φ/3) and r^(2/3) sin(2φ/3): harmonic, and the first is 0 on the two edges that meet there."""
    away, across = -(x[0] + x[1]), x[0] - x[1]
    angle = 2 / 3 * jnp.arctan2(across, away)
    size = ((away**2 + across**2) / 2) ** (1 / 3)
    return size * jnp.cos(angle), size * jnp.sin(angle)


class Cornered(eqx.Module):
    """A network that sees the corner's functions, and is 0 on the boundary of the L."""

    network: tw.nn.MLP

    def __call__(self, x):
        even, odd = corner(x)
        return (1 - x[0] ** 2) * (1 - x[1] ** 2) * even * self.network(jnp.stack([x[0], x[1], even, odd]))


def plain(seed: int) -> eqx.Module:
    """A network without features, 0 on the boundary by a smooth distance."""
    network = tw.nn.MLP(2, None, width=20, depth=2, activation=jnp.tanh, key=jax.random.key(seed))
    return tw.conditions.Exact(network, lambda x: x, tw.conditions.SmoothDistance(L_SHAPE.edges(*range(6))))


def cornered(seed: int) -> eqx.Module:
    """A network with features."""
    return Cornered(tw.nn.MLP(4, None, width=20, depth=2, activation=jnp.tanh, key=jax.random.key(seed)))


def law(u, x):
    """−Δu = 1 on the L, counted less where second derivatives are unbounded, as r^(4/3) within 0.3 of the corner."""
    return jnp.minimum(1.0, jnp.sum(x**2) / 0.3**2) ** (2 / 3) * (tw.laplacian(u, x) + 1)


def elements(uniform: int, towards: int) -> tuple[skfem.Basis, np.ndarray]:
    """Quadratic finite elements, so often refined everywhere, and then so often around the corner."""
    corners = np.array([[-1, 0, 1, -1, 0, 1, -1, 0], [-1, -1, -1, 0, 0, 0, 1, 1]], float)
    triangles = np.array([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4], [3, 4, 7], [3, 7, 6]]).T
    mesh = skfem.MeshTri(corners, triangles).refined(uniform)
    for i in range(towards):
        near = np.abs(mesh.p[:, mesh.t]).max(axis=0).min(axis=0)  # of a triangle's nearest corner
        mesh = mesh.refined(np.flatnonzero(near <= 0.5 ** (i + 1)))
    basis = skfem.Basis(mesh, skfem.ElementTriP2())
    matrix, load = laplace.assemble(basis), unit_load.assemble(basis)
    inner = np.setdiff1d(np.arange(len(load)), basis.get_dofs().flatten())
    solution = np.zeros(len(load))
    solution[inner] = splu(matrix.tocsc()[inner][:, inner]).solve(load[inner])
    return basis, solution


def on_l_shape(network: eqx.Module, instrument: Error, seed: int) -> dict:
    """Seconds with compiling to 1e-3, to the end, and the last error."""
    jax.clear_caches()
    clock = Clock()
    program = [tw.Phase(tw.Adam(5e-3), 300), tw.Phase(tw.SelfScaledBroyden(), L_STEPS, redraw=250)]
    objective = tw.Objective(law=tw.Residual(law, tw.HeldPoints(L_SHAPE.spread_interior, 2_000)))
    tw.fit(
        network, objective, program, seed=seed, precision=jnp.float64, raise_failures=False, instruments=[instrument],
        callbacks=[clock], log_every=50,
    )  # fmt: skip
    course = clock.course()
    return {
        "to 1e-3": next((wall for _, wall, error in course if error <= 1e-3), None),
        "end": course[-1][1],
        "error": course[-1][2],
    }


def l_shape_deepxde(places, truth) -> dict[str, float]:
    """DeepXDE's documented example, for at most 60 s."""
    dde.config.set_default_float("float64")
    dde.config.set_random_seed(0)
    pde = lambda x, y: -dde.grad.hessian(y, x, i=0, j=0) - dde.grad.hessian(y, x, i=1, j=1) - 1
    domain = dde.geometry.Polygon([list(map(float, one)) for one in CORNERS])
    walls = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on_boundary: on_boundary)
    data = dde.data.PDE(domain, pde, walls, num_domain=1200, num_boundary=120)
    model = dde.Model(data, dde.nn.FNN([2] + [50] * 4 + [1], "tanh", "Glorot uniform"))
    model.compile("adam", lr=1e-3, verbose=0)
    torch.set_num_threads(1)  # on a busy machine two wait for each other
    began = time.perf_counter()
    model.train(iterations=50_000, display_every=100_000, verbose=0, callbacks=[dde.callbacks.Timer(1.0)])
    took = time.perf_counter() - began
    found = np.ravel(model.predict(places))
    error = float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
    return {"seconds": took, "steps": int(model.train_state.step), "relative L2 error": error}


def l_shape(figures: dict) -> None:
    """With and without corner features, then DeepXDE."""
    basis, solution = elements(4, 12)
    places = np.asarray(basis.global_coordinates()).reshape(2, -1).T
    weight, truth = basis.dx.ravel(), np.asarray(basis.interpolate(solution)).ravel()
    pick = np.random.default_rng(0).choice(len(places), 4_000, p=weight / weight.sum())  # evenly over the L
    places, truth = places[pick], truth[pick]
    watched = Error(places, truth, np.ones(len(pick)))
    coarse, coarser = elements(3, 10)
    doubt = np.linalg.norm(coarse.probes(places.T) @ coarser - truth) / np.linalg.norm(truth)
    figures["L-shape reference, against a coarser mesh"] = float(doubt)
    rows = []
    for name, make in (("corner features", cornered), ("none, smooth distance", plain)):
        runs = [on_l_shape(make(seed), watched, seed) for seed in PEER_SEEDS]
        reached = [run["to 1e-3"] for run in runs if run["to 1e-3"] is not None]
        rows.append({
            "L-shape, 3 seeds, s with compiling": name,
            "s to 1e-3 (bar 60)": summary(reached) if reached else "never",
            "reach 1e-3": len(reached),
            "error at the end": summary([run["error"] for run in runs]),
            "s at the end": summary([run["end"] for run in runs]),
        })  # fmt: skip
        figures["L-shape"] = rows
        record("poisson", figures)
    figures["L-shape, DeepXDE, 60 s of its documented example"] = l_shape_deepxde(places, truth)
    record("poisson", figures)


def square(figures: dict) -> None:
    """Both optimizers of both, in turn."""
    plate = tw.geometry.rectangle((0.0, 0.0), (1.0, 1.0))
    points = np.asarray(plate.spread_interior(jax.random.key(7), 1_000), np.float64)
    ways = {
        "thalweg, self-scaled Broyden": lambda s: on_square(points, tw.SelfScaledBroyden(), STEPS, 20, s),
        "jinns, self-scaled Broyden": lambda s: on_square_jinns(points, False, STEPS, s),
        "thalweg, natural gradient": lambda s: on_square(points, tw.NaturalGradient(), NATURAL, 10, s),
        "jinns, natural gradient": lambda s: on_square_jinns(points, True, NATURAL, s),
    }
    found: dict[str, list] = {name: [] for name in ways}
    for seed in SEEDS:
        for name, way in ways.items():
            if seed in PEER_SEEDS or name.startswith("thalweg"):
                began, work = time.perf_counter(), time.process_time()
                one, compiling = way(seed)
                cores = (time.process_time() - work) / (time.perf_counter() - began)
                found[name].append((one | {"cores": cores}, compiling))
                figures["square"] = [rows_of(one, runs) for one, runs in found.items() if runs]
        record("poisson", figures)


def main() -> None:
    """Both, or those that are named on the command line; what is there of the other stays."""
    file = RESULTS / "poisson.json"
    figures: dict = json.loads(file.read_text()) if file.exists() else {}
    parts = {"l_shape": l_shape, "square": square}
    for name in sys.argv[1:] or parts:
        figures[f"load at the start of {name}"] = os.getloadavg()[0]
        parts[name](figures)
        figures[f"load at the end of {name}"] = os.getloadavg()[0]
        record("poisson", figures)


if __name__ == "__main__":
    main()

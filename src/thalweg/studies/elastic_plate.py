"""Linear elasticity in plane stress: a plate with a hole under tension, and a cantilever.

∇·σ = 0 and σ = E/(1 − ν²)·((1 − ν)ε + ν tr(ε)I). A network gives displacement and stress together, so that both laws
have first derivatives only. Stresses are in units of the far tension (of the largest bending stress of beam theory),
lengths in units of the hole's radius (of the beam's height), displacements in these times stress / E; ν = 0.3.

The plate is a quarter, with symmetry, and the closed form's tractions on its outer edges (Kirsch, 1898). The beam is
clamped at x = 0 and sheared at its end; its reference is finite elements, refined at the clamped corners where the
stress is infinite.
"""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import skfem
from skfem.helpers import ddot, dot, eye, sym_grad, trace

import thalweg as tw

NU = 0.3
SIDE = 4.0
SQUARE = tw.geometry.rectangle((0, 0), (SIDE, SIDE))
PLATE = tw.geometry.difference(SQUARE, tw.geometry.disk((0, 0), 1.0))
NEAR = tw.geometry.intersection(SQUARE, tw.geometry.annulus((0, 0), 1.0, 2.0))
LENGTH, FORCE = 4.0, 1 / 24  # beam theory: the largest stress is force · length · 6 / height² = 1
BEAM = tw.geometry.rectangle((0, -0.5), (LENGTH, 0.5))


def hooke(strain):
    """The stress (2, 2) of a strain (2, 2)."""
    return ((1 - NU) * strain + NU * jnp.trace(strain) * jnp.eye(2, dtype=strain.dtype)) / (1 - NU**2)


def displacement(body) -> Callable:
    """The displacement (2,) that a body gives at one point."""
    return lambda x: body(x)[:2]


def stress(body) -> Callable:
    """The stress (2, 2) that a body gives at one point."""
    return lambda x: body(x)[jnp.array([[2, 4], [4, 3]])]


def law(body, x):
    """Forces that do not balance (2,), and stress that is not that of the strain (3,), at one point."""
    balance = tw.divergence(stress(body), x)
    gap = stress(body)(x) - hooke(tw.strain(displacement(body), x))
    return jnp.stack([*balance, gap[0, 0], gap[1, 1], gap[0, 1]])


def beam_law(body, x):
    """The laws for the beam: imbalance weighs (length/height)² as much, for the moments add it up over the length.

    Both count for (r/0.3)^(4/3) within 0.3 of a clamped corner, where the stress is infinite.
    """
    whole = law(body, x) * jnp.array([LENGTH**2, LENGTH**2, 1, 1, 1], x.dtype)
    return jnp.minimum(1.0, corner_distance(x) / 0.3) ** (4 / 3) * whole


def corner_distance(x):
    """How far one point (2,) is from the nearer clamped corner."""
    return jnp.sqrt(x[0] ** 2 + (jnp.abs(x[1]) - 0.5) ** 2)


def pull(body, at):
    """Traction at a point of the outer edges, minus the closed form's."""
    return (stress(body)(at.x) - stress(kirsch)(at.x)) @ at.normal


def kirsch(x):
    """Kirsch's displacement and stress (5,) at one point: u_x, u_y, σ_xx, σ_yy, σ_xy."""
    r, angle = jnp.sqrt(jnp.sum(x * x)), jnp.arctan2(x[1], x[0])
    cos, sin, kappa = jnp.cos, jnp.sin, (3 - NU) / (1 + NU)
    scale, q = (1 + NU) / 4, 1 / r**2
    along = r * (kappa + 1) * cos(angle) + 2 / r * ((1 + kappa) * cos(angle) + cos(3 * angle) * (1 - q))
    across = r * (kappa - 3) * sin(angle) + 2 / r * ((1 - kappa) * sin(angle) + sin(3 * angle) * (1 - q))
    radial = ((1 - q) + (1 - 4 * q + 3 * q**2) * cos(2 * angle)) / 2
    hoop = ((1 + q) - (1 + 3 * q**2) * cos(2 * angle)) / 2
    shear = -(1 + 2 * q - 3 * q**2) * sin(2 * angle) / 2
    return jnp.stack([scale * along, scale * across, *turned(jnp.stack([radial, hoop, shear]), x / r)])


def turned(polar, n):
    """σ_xx, σ_yy, σ_xy of the stresses (3,) along the direction n (2,), across it, and their shear."""
    radial, hoop, shear = polar
    c, s = n
    return (
        c * c * radial + s * s * hoop - 2 * s * c * shear,
        s * s * radial + c * c * hoop + 2 * s * c * shear,
        s * c * (radial - hoop) + (c * c - s * s) * shear,
    )


def plate_inputs(x):
    """What the plate's network sees: both coordinates, and 1/r, the scale of what a hole does; from -1 to 1."""
    return jnp.stack([x[0] / 2 - 1, x[1] / 2 - 1, 2 / jnp.sqrt(jnp.sum(x * x)) - 1])


def plate_distance(x):
    """0 where symmetry or the free hole wants u_x, u_y, σ_rr, σ_θθ or σ_rθ to be 0."""
    free = 1 - 1 / jnp.sum(x * x)
    return jnp.stack([x[0], x[1], free, jnp.ones_like(free), free * x[0] * x[1] / jnp.sum(x * x)])


class Plate(eqx.Module):
    """The plate: its conditions hold in polar coordinates whatever the weights are, but for the outer edges'."""

    polar: tw.conditions.Exact

    def __call__(self, x: jax.Array) -> jax.Array:
        """Displacement and stress (5,) at one point."""
        found = self.polar(x)
        return jnp.stack([found[0], found[1], *turned(found[2:], x / jnp.sqrt(jnp.sum(x * x)))])


def beam_distance(x):
    """0 where clamp, free edges or loaded end fix u_x, u_y, σ_xx, σ_yy or σ_xy."""
    edges, end = 1 - 4 * x[1] ** 2, 1 - x[0] / LENGTH
    return jnp.stack([4 * x[0], 4 * x[0], end, edges, edges * end])


def beam_lift(x):
    """The shear of the load, a parabola over the height; it is that of beam theory all along."""
    return jnp.zeros(5, x.dtype).at[4].set(-1.5 * FORCE * (1 - 4 * x[1] ** 2))


def plate_points(key, n):
    """Points of the plate, half of them within two radii, where the stress changes most."""
    there, near = jax.random.split(key)
    return jnp.concatenate([PLATE.spread_interior(there, n - n // 2), NEAR.spread_interior(near, n // 2)])


class Elements:
    """Quadratic finite elements in plane stress.

    Args:
        mesh: triangles.
        fixed: (condition on x (2, …), component 1 or 2), where a displacement is 0.
        loaded: condition on x, which edges carry the traction.
        traction: x (2, …), normal (2, …) -> (2, …).
    """

    def __init__(self, mesh: skfem.MeshTri, fixed: list, loaded: Callable, traction: Callable):
        element = skfem.ElementVector(skfem.ElementTriP2())
        self.basis = skfem.Basis(mesh, element)
        edges = skfem.FacetBasis(mesh, element, facets=mesh.facets_satisfying(loaded, boundaries_only=True))
        stiffness = skfem.BilinearForm(lambda u, v, w: ddot(self.hooke(sym_grad(u)), sym_grad(v)))
        load = skfem.LinearForm(lambda v, w: dot(traction(np.asarray(w.x), np.asarray(w.n)), v))
        held = [self.basis.get_dofs(where, skip=[f"u^{3 - axis}"]).flatten() for where, axis in fixed]
        system = skfem.condense(stiffness.assemble(self.basis), load.assemble(edges), D=np.concatenate(held))
        self.found = np.asarray(skfem.solve(*system))

    @staticmethod
    def hooke(strain):
        """The stress of a strain (2, 2, …)."""
        return ((1 - NU) * strain + NU * eye(trace(strain), 2)) / (1 - NU**2)

    def at_quadrature(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points (n, 2), weights (n,), displacement and stress there (n, 5)."""
        field: Any = self.basis.interpolate(self.found)
        u, s = np.asarray(field), np.asarray(self.hooke(sym_grad(field)))
        values = np.stack([u[0], u[1], s[0, 0], s[1, 1], s[0, 1]]).reshape(5, -1).T
        return np.asarray(self.basis.global_coordinates()).reshape(2, -1).T, self.basis.dx.ravel(), values

    def displaced(self, x: np.ndarray) -> np.ndarray:
        """The displacement (n, 2) at points (n, 2)."""
        return (self.basis.probes(x.T) @ self.found).reshape(2, -1).T


def quarter(n: int) -> skfem.MeshTri:
    """Triangles of the plate, n along each outer edge, finer at the hole."""
    grid = skfem.MeshTri.init_tensor(np.linspace(0, 1, 2 * n + 1) ** 1.7, np.linspace(0, 1, 2 * n + 1))
    share, turn = np.asarray(grid.p)
    rim = np.stack([np.cos(turn * np.pi / 2), np.sin(turn * np.pi / 2)])
    rim[0, turn == 1] = 0.0  # exactly on the axis of symmetry
    return skfem.MeshTri((1 - share) * rim + share * SIDE * rim / np.abs(rim).max(axis=0), grid.t)


def strip(n: int) -> skfem.MeshTri:
    """Triangles of the beam, n over half its height, finer at the clamp and at the edges."""
    half = 0.5 * (1 - np.linspace(1, 0, n + 1) ** 1.8)
    return skfem.MeshTri.init_tensor(
        LENGTH * np.linspace(0, 1, 6 * n + 1) ** 1.8, np.concatenate([-half[::-1], half[1:]])
    )


def plate_elements(n: int) -> Elements:
    """Finite elements of the plate, with the closed form's tractions."""

    def traction(x, normal):
        s = mapped(kirsch, x.reshape(2, -1).T).T.reshape(5, *x.shape[1:])[2:]
        return np.stack([s[0] * normal[0] + s[2] * normal[1], s[2] * normal[0] + s[1] * normal[1]])

    fixed = [(lambda x: x[0] < 1e-9, 1), (lambda x: x[1] < 1e-9, 2)]
    return Elements(quarter(n), fixed, lambda x: np.maximum(x[0], x[1]) > SIDE - 1e-9, traction)


def beam_elements(n: int) -> Elements:
    """Finite elements of the beam."""
    down = lambda x, normal: np.stack([0 * x[0], -1.5 * FORCE * (1 - 4 * x[1] ** 2)])
    clamp = lambda x: x[0] < 1e-9
    return Elements(strip(n), [(clamp, 1), (clamp, 2)], lambda x: x[0] > LENGTH - 1e-9, down)


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(10, "networks for each problem, with their own weights and points", quick=6, ge=1, le=100)
    points: int = tw.setting(600, "points of the laws at a time", quick=300, ge=50, le=20_000)
    adam: int = tw.setting(300, "steps of Adam", ge=1)
    plate: int = tw.setting(3_000, "steps of self-scaled Broyden after them, on the plate", quick=700, ge=1)
    beam: int = tw.setting(6_000, "the same on the beam", quick=1_500, ge=1)
    fresh: int = tw.setting(500, "of these steps share their points, the next ones have fresh ones", quick=350, ge=1)
    width: int = tw.setting(20, "units in each of the three hidden layers", quick=16, ge=1, le=40)


@tw.study(
    "elastic-plate",
    systems=["S35"],
    question="Can a network find the stress at a hole and the bending of a beam from the laws of elasticity alone?",
)
def elastic_plate(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Solve both problems, and compare with Kirsch's closed form and with finite elements."""
    seeds = run.seeds(settings.seeds)

    def network(inputs: int, seed: int) -> tw.nn.MLP:
        return tw.nn.MLP(inputs, 5, width=settings.width, depth=3, activation=jnp.tanh, key=jax.random.key(seed))

    def solved(name: str, bodies: list, steps: int, terms: dict[str, Any]) -> tuple[tw.FitMany, float]:
        """The fitted networks, and at most how many seconds one alone would have taken, with compiling."""
        began = time.monotonic()
        fitted = tw.fit_many(
            bodies,
            tw.Objective(**terms, refresh_every=settings.fresh),
            [tw.Phase(tw.Adam(5e-3), settings.adam), tw.Phase(tw.SelfScaledBroyden(), steps, redraw=settings.fresh)],
            seeds=seeds,
            precision=jnp.float64,
            run=run,
            name=name,
            callbacks=run.callbacks,
        )
        seconds = time.monotonic() - began
        first = sum(phase["first_stretch_seconds"] for phase in fitted.conduct)
        return fitted, first + (seconds - first) / len(seeds)

    edges = tw.geometry.joined(SQUARE.right, SQUARE.upper)
    plates, plate_seconds = solved(
        "plate",
        [Plate(tw.conditions.Exact(network(3, seed), plate_inputs, plate_distance)) for seed in seeds],
        settings.plate,
        {
            "law": tw.Residual(law, tw.FreshPoints(plate_points, settings.points)),
            "outer": tw.Residual(pull, tw.FreshPoints(edges.spread, settings.points // 8), weight=3.0),
        },
    )
    inputs = tw.conditions.Inputs(BEAM)
    beams, beam_seconds = solved(
        "beam",
        [tw.conditions.Exact(network(2, seed), inputs, beam_distance, beam_lift) for seed in seeds],
        settings.beam,
        {"law": tw.Residual(beam_law, tw.AdaptivePoints(BEAM.sample_interior, settings.points))},
    )

    with jax.enable_x64(True):
        at = np.asarray(PLATE.spread_interior(jax.random.key(1), 8_192))
    exact, truth = mapped(kirsch, at), beam_elements(12)
    places, weight, reference = truth.at_quadrature()
    tip = np.array([[LENGTH, 0.0]])
    sunk = truth.displaced(tip)[0, 1]
    on_plate = np.stack([mapped(body, at) for body in plates.models])  # (seeds, points, 5)
    on_beam = np.stack([mapped(body, places) for body in beams.models])
    top = np.stack([mapped(body, np.array([[0.0, 1.0]]))[0, 2] for body in plates.models])
    tips = np.array([mapped(body, tip)[0, 1] for body in beams.models])
    even, off_corners = np.ones(len(at)), mapped(corner_distance, places) > 0.3
    errors = {
        "plate, displacement": misfit(on_plate[..., :2], exact[:, :2], even),
        "plate, stress": misfit(tensors(on_plate), tensors(exact), even),
        "beam, displacement": misfit(on_beam[..., :2], reference[:, :2], weight),
        "beam, stress": misfit(tensors(on_beam), tensors(reference), weight),
        "beam, off the corners": misfit(tensors(on_beam), tensors(reference), weight * off_corners),
    }
    draw(run, plates.models, beams.models, truth, errors)

    def by_elements(n: int) -> tuple[float, float]:
        """The stress error of finite elements on the plate, in %, and the seconds that they take."""
        began = time.monotonic()
        elements = plate_elements(n)
        seconds = time.monotonic() - began
        x, dx, found = elements.at_quadrature()
        return float(misfit(tensors(found)[None], tensors(mapped(kirsch, x)), dx)[0]), seconds

    def median(statement: str, found: np.ndarray, most: float) -> tw.Claim:
        middle, interval = tw.median_interval(found.tolist())
        statement = f"{statement} (median over {len(seeds)} seeds)"
        return tw.Claim.at_most(statement, middle, interval, most, unit="%")

    sizes = (4, 8, 16, 32)
    as_good = next(n for n in sizes if by_elements(n)[0] <= np.median(errors["plate, stress"]) or n == sizes[-1])
    elements_err, elements_take = by_elements(as_good)
    elements = f"finite elements with {as_good} an edge, whose stress errs by {elements_err:.2g} %"
    return [
        median("The stress concentration at the hole differs from 3 by at most 1 %", 100 * np.abs(top / 3 - 1), 1.0),
        median("The plate's displacement errs by at most 1 %, relative L2", errors["plate, displacement"], 1.0),
        median("The plate's stress errs by at most 1 %, relative L2", errors["plate, stress"], 1.0),
        median("The beam's tip sinks as finite elements say, to 1 %", 100 * np.abs(tips / sunk - 1), 1.0),
        median("The beam's displacement errs by at most 1 %, relative L2", errors["beam, displacement"], 1.0),
        median("The beam's stress errs by at most 2 %, relative L2", errors["beam, stress"], 2.0),
        median("So it does further than 0.3 from the clamped corners", errors["beam, off the corners"], 2.0),
        once("One plate takes at most 60 s", plate_seconds, 60.0),
        once("One beam takes at most 60 s", beam_seconds, 60.0),
        once(f"One plate takes no longer than {elements}", plate_seconds, elements_take),
    ]


def once(statement: str, seconds: float, bar: float) -> tw.Claim:
    """A claim about a time that was taken once."""
    return tw.Claim.at_most(statement, seconds, (seconds, seconds), bar, unit="s")


def tensors(values: np.ndarray) -> np.ndarray:
    """Stresses (…, 4) of values (…, 5): the shear counts twice in the norm of a tensor."""
    return values[..., [2, 3, 4, 4]]


def misfit(found: np.ndarray, right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Relative L2 error in % of fields (seeds, n, k) against one (n, k), with weights (n,)."""
    size = lambda values: np.sqrt(np.sum(weight[:, None] * values**2, axis=(-2, -1)))
    return 100 * size(found - right) / size(right)


@eqx.filter_jit
def values(function: Callable, x: jax.Array) -> jax.Array:
    """A function of one point at points (n, 2)."""
    return jax.vmap(function)(x)


def mapped(function: Callable, x: np.ndarray) -> np.ndarray:
    """A function of one point, as a body is, at points (n, 2), in 64 bits."""
    with jax.enable_x64(True):
        return np.asarray(values(function, jnp.asarray(x)))


def draw(run, plates, beams, truth, errors) -> None:
    """Stress and its error on the plate, the hole's rim, stress in the beam, its deflection, and all errors."""
    middle = lambda name: int(np.argsort(errors[name])[(len(errors[name]) - 1) // 2])
    who = f"the network of median error among {len(plates)}"
    plate, beam = plates[middle("plate, stress")], beams[middle("beam, stress")]
    mesh, strips = quarter(32), strip(12)
    angle = np.linspace(0, np.pi / 2, 91)
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    outline = np.concatenate([rim[::-1], [(SIDE, 0), (SIDE, SIDE), (0, SIDE)]])
    found, right = mapped(plate, mesh.p.T)[:, 2], mapped(kirsch, mesh.p.T)[:, 2]
    bent = mapped(beam, strips.p.T)[:, 2]
    np.savez(run.arrays / "plate.npz", points=mesh.p.T, triangles=mesh.t.T, network=found, kirsch=right)
    np.savez(run.arrays / "beam.npz", points=strips.p.T, triangles=strips.t.T, network=bent)

    def field(name, on, shown, label, limits, edge, title, caption) -> None:
        def picture(ax) -> None:
            tw.figures.fields.field(ax, on.p.T, on.t.T, shown, label=label, limits=limits, outline=edge)

        run.save_figure(name, picture, title=title, caption=caption)

    caption = f"σ_xx in units of the far tension, which pulls to the right, by {who}. A quarter of the plate."
    field("1-plate", mesh, found, "σ_xx", (-0.5, 3.0), outline, "Stress around a hole", caption)
    worst = float(np.abs(found - right).max())
    caption = f"σ_xx by {who}, minus Kirsch's closed form."
    field("2-error", mesh, found - right, "difference", (-worst, worst), outline, "Error", caption)

    def by_seed(ax, x, lines) -> None:
        for i, line in enumerate(lines):
            ax.plot(x, line, color="C0", linewidth=0.8, label="" if i else "network, by seed")

    def around(ax) -> None:
        hoop_of = lambda s: rim[:, 1] ** 2 * s[:, 2] + rim[:, 0] ** 2 * s[:, 3] - 2 * rim[:, 0] * rim[:, 1] * s[:, 4]
        by_seed(ax, np.degrees(angle), [hoop_of(mapped(body, rim)) for body in plates])
        ax.plot(np.degrees(angle[::6]), 1 - 2 * np.cos(2 * angle[::6]), "o", color="C2", markersize=4, label="Kirsch")
        ax.set_xlabel("angle from the direction of tension, degrees")
        ax.set_ylabel("stress along the rim")
        ax.legend()

    caption = "At 90° the stress is three times the far tension, at 0° the rim is pressed."
    run.save_figure("3-rim", around, title="The rim of the hole", caption=caption)
    caption = f"σ_xx in units of the largest stress of beam theory, by {who}. Clamped at the left, loaded at the right."
    corners = np.array([(0, -0.5), (LENGTH, -0.5), (LENGTH, 0.5), (0, 0.5)])
    field("4-beam", strips, bent, "σ_xx", (-1.2, 1.2), corners, "Stress in a cantilever", caption)

    def deflection(ax) -> None:
        x = np.linspace(0, LENGTH, 81)
        line = np.stack([x, np.zeros_like(x)], axis=1)
        by_seed(ax, x, [mapped(body, line)[:, 1] for body in beams])
        ax.plot(x[::5], truth.displaced(line)[::5, 1], "o", color="C2", markersize=4, label="finite elements")
        ax.plot(x, -2 * FORCE * x**2 * (3 * LENGTH - x), "--", color="C1", label="beam theory, without shear")
        ax.set_xlabel("x")
        ax.set_ylabel("displacement u_y of the middle line")
        ax.legend()

    run.save_figure("5-deflection", deflection, title="How the beam bends", caption="In units of height · stress / E.")

    logs, metric = {name: np.log10(found) for name, found in errors.items()}, "log10 of the relative L2 error, %"
    score = lambda ax: tw.figures.comparison.medians(ax, logs, metric=metric)
    caption = "Medians over seeds with 95 % intervals: the plate against the closed form, the beam against elements."
    run.save_figure("6-errors", score, title="Errors", caption=caption)

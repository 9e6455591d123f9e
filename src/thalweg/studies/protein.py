"""Three genes that switch each other off in a ring: their law of motion from noisy readings, and what-ifs asked of it.

The repressilator (Elowitz and Leibler, 2000), reduced to its proteins: each is made at a rate that the one before it
in the ring holds down, and is diluted as cells grow. A drug binds the first protein. Nobody tells the network the rates
of production; that proteins decay at the rate 1, which growth sets and which is measured apart, is known. Without
that, no field could be asked for a knock-out: it would not know which part of a rate is production. Concentrations
are in units of that which halves a production, times in lifetimes of a protein.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.stats import t as student

import thalweg as tw

STRENGTH, STEEPNESS, LEAK = 10.0, 4.0, 0.05
HORIZON, HIGHEST, STRONGEST = 8.0, 8.0, 3.0  # time, first concentrations and doses go from 0 to these
GENES = ("A", "B", "C")
RTOL = 3e-5  # of a step; the states then err by some 0.005, and readings by 0.04
PIECES = 3  # of a trajectory
NINETY = 1.645  # standard deviations on either side of a Gaussian's middle 90 %


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(10, "laboratories: readings, and a network for each", quick=6, ge=1, le=100)
    cultures: int = tw.setting(20, "trajectories that a laboratory measures, every other one with a dose", ge=2, le=200)
    readings: int = tw.setting(40, "times at which a trajectory is read", ge=20, le=200)
    noise: float = tw.setting(0.02, "standard deviation of a reading, as a share of the protein's own", gt=0, le=0.5)
    missing: float = tw.setting(0.2, "share of the readings that are lost", ge=0, le=0.3)
    width: int = tw.setting(10, "units in the network's hidden layer", ge=1, le=256)
    steps: int = tw.setting(
        60, "most steps of Levenberg-Marquardt on whole trajectories, and half as many on pieces before", quick=18, ge=1
    )
    starts: int = tw.setting(
        3, "networks tried in each laboratory, of which the best fit is kept", quick=2, ge=1, le=10
    )
    prior: float = tw.setting(1.5, "standard deviation of each of the network's weights before the data", gt=0, le=100)


# ------------------------------------------------------------------------------------------------------------ the truth
def production(p, u, law=(STRENGTH, STEEPNESS, LEAK)):
    """Rates at which the proteins (3, …) are made under a dose: Hill's law of the protein before in the ring."""
    strength, steepness, leak = law
    repressor = np.stack([p[2], p[0] / (1 + u), p[1]])
    return leak + strength / (1 + np.abs(repressor) ** steepness)


def true_states(first, times, drive, on=(1, 1, 1), law=(STRENGTH, STEEPNESS, LEAK), rtol=1e-9) -> np.ndarray:
    """Proteins (T, 3), with some genes off."""
    rates = lambda t, p, u: np.array(on) * production(p, u[0], law) - p
    return tw.references.driven(rates, first, times, drive.times, drive.values, rtol)


def culture(rng: np.random.Generator, number: int) -> tuple[np.ndarray, tw.nn.StepInput]:
    """First concentrations (3,), anywhere in the box, and a dose that begins at some time in every other culture."""
    first, begins, level = rng.uniform(0, HIGHEST, 3), rng.uniform(2, 6), rng.uniform(0, STRONGEST)
    return first, tw.nn.StepInput(np.array([0.0, begins]), np.array([[0.0], [level * (number % 2)]]))


def measured(settings: Settings, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], list, np.ndarray]:
    """Times, readings (T, 3) with NaN where one was lost, doses, and the noise's standard deviations (3,)."""
    rng, count = np.random.default_rng([seed, 36]), settings.readings
    grid = np.arange(1, count) * HORIZON / (count - 1)
    times = [np.append(0, grid + rng.uniform(-0.4, 0.4, count - 1) * grid[0]) for _ in range(settings.cultures)]
    starts, doses = zip(*(culture(rng, i) for i in range(settings.cultures)), strict=True)
    states = [true_states(first, t, dose) for first, t, dose in zip(starts, times, doses, strict=True)]
    noise = settings.noise * np.concatenate(states).std(axis=0)
    values = [s + noise * rng.normal(size=s.shape) for s in states]
    return times, [np.where(rng.random(v.shape) < settings.missing, np.nan, v) for v in values], list(doses), noise


# ------------------------------------------------------------------------------------------------------------ the model
class Circuit(eqx.Module):
    """The field: what is made, of the genes that are on, minus the known decay."""

    made: Callable  # proteins (3,), dose (1,) -> rates (3,)
    on: jax.Array  # (3,), held

    def __call__(self, t, y, u):
        """Time, proteins (3,) and dose (1,), to the proteins' rates of change (3,)."""
        return self.on * self.made(y, u) - y

    def rates(self, at):
        """The same at a pair of proteins and dose."""
        return self(0, *at)


class Learned(eqx.Module):
    """A network's rates of production, never negative."""

    network: tw.nn.MLP

    def __call__(self, y, u):
        """Proteins (3,), dose (1,), to rates (3,)."""
        seen = jnp.concatenate([jnp.log(0.1 + jnp.maximum(y, 0)), jnp.log(1 + u)])  # binding goes by ratios
        return 3 * jax.nn.softplus(self.network(seen))


class Hill(eqx.Module):
    """The truth's own form, with its three constants unknown."""

    logs: jax.Array  # (3,)

    def __call__(self, y, u):
        """Proteins (3,), dose (1,), to rates (3,)."""
        strength, steepness, leak = jnp.exp(self.logs)
        repressor = jnp.stack([y[2], y[0] / (1 + u[0]), y[1]])
        return leak + strength / (1 + jnp.maximum(repressor, 1e-6) ** steepness)


class Fitted(eqx.Module):
    """A Neural ODE with what it is fitted to, held: each laboratory has readings, times and doses of its own."""

    ode: tw.nn.NeuralODE
    x: tw.nn.Trajectory  # n of them
    y: jax.Array  # readings (n, T, 3), in units of the noise
    mask: jax.Array  # which there are
    noise: jax.Array  # (3,)

    @property
    def circuit(self) -> Circuit:
        """The field."""
        field: Any = self.ode.field
        return field


class Matched(eqx.Module):
    """Rates of production with what they are fitted to without a solver, held."""

    made: Callable
    y: jax.Array  # proteins (n, 3), by splines
    u: jax.Array  # doses (n, 1)
    rates: jax.Array  # (n, 3), by splines


HELD = tw.frozen(lambda fit: (fit.ode.field.on, fit.x, fit.y, fit.noise))


def weights(made: Callable) -> jax.Array:
    """All numbers that are learned, (k,)."""
    return ravel_pytree(eqx.filter(made, eqx.is_inexact_array))[0]


def misfit(fit: Fitted, i):
    """Readings of the trajectory i against the model, in units of the noise."""
    x, y, mask = jax.tree.map(lambda leaf: leaf[i], (fit.x, fit.y, fit.mask))
    return jnp.ravel(jnp.where(mask, fit.ode(x) / fit.noise - y, 0))


class Laboratory:
    """What one laboratory measured, smoothed.

    Args:
        settings: how much was measured.
        seed: of everything random in it.
    """

    def __init__(self, settings: Settings, seed: int):
        self.times, self.values, self.doses, self.noise = measured(settings, seed)
        self.smooth = [
            [tw.nn.smooth(t, v[:, k], self.noise[k]) for k in range(3)]
            for t, v in zip(self.times, self.values, strict=True)
        ]

    def matched(self, made: Callable) -> Matched:
        """Production = slope + decay of the splines, at 100 times of each trajectory."""
        y, u, rates = [], [], []
        for t, splines, dose in zip(self.times, self.smooth, self.doses, strict=True):
            at = np.linspace(0, t[-1], 100)
            y.append(np.stack([one(at) for one in splines], axis=1))
            u.append(dose.values[np.searchsorted(dose.times, at, side="right") - 1])
            rates.append(y[-1] + np.stack([one.derivative()(at) for one in splines], axis=1))
        with jax.enable_x64(True):
            return Matched(made, *(jnp.asarray(np.concatenate(one)) for one in (y, u, rates)))

    def fitted(self, made: Callable, pieces: int) -> Fitted:
        """A Neural ODE on the trajectories, each cut into pieces with unknown first states of their own."""
        times, values, number = tw.nn.cut_trajectories(self.times, self.values, pieces)
        first = [[one(t[0]) for one in self.smooth[i]] for t, i in zip(times, number, strict=True)]
        x, (y, mask) = tw.nn.stack_trajectories(times, values, drives=[self.doses[i] for i in number])
        with jax.enable_x64(True):
            x, y, mask, noise = jax.tree.map(jnp.asarray, (x, y / self.noise, mask, self.noise))
            made = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, made)
            start = tw.nn.InitialStates(jnp.maximum(jnp.asarray(first), 0.01))
            return Fitted(dynamics(Circuit(made, jnp.ones(3)), start), x, y, mask, noise)


def dynamics(circuit: Circuit, start: tw.nn.InitialStates | None = None) -> tw.nn.NeuralODE:
    """The field's solver: few parameters and many readings, so that sensitivities are the cheapest gradient."""
    adjoint = tw.nn.ForwardSensitivities()
    return tw.nn.NeuralODE(circuit, initial=start, rtol=RTOL, atol=RTOL, max_steps=500, adjoint=adjoint)


# ------------------------------------------------------------------------------------------------------------- what-ifs
class WhatIfs:
    """Questions that were in no laboratory: first states, knock-outs and doses, with the truth.

    Args:
        seed: of the new first states.
    """

    def __init__(self, seed: int):
        rng, none = np.random.default_rng([seed, 37]), tw.nn.StepInput(np.array([0.0, 1.0, 2.0]), np.zeros((3, 1)))
        pulse = lambda level, *when: tw.nn.StepInput(np.array([0.0, *when]), np.array([[0.0], [level], [0.0]]))
        running = true_states([2.0, 1.0, 4.0], np.array([0.0, 20.0]), none)[-1]  # on the cycle
        asked: list[Any] = [("a new first state", rng.uniform(0, HIGHEST, 3), none, (1, 1, 1)) for _ in range(4)]
        for gene in range(3):
            asked.append(("a knock-out", running, none, tuple(int(k != gene) for k in range(3))))
        for level, begins, ends in ((2.0, 1.0, 4.0), (2.8, 3.0, 4.5), (1.0, 0.5, 6.0)):
            asked.append(("a pulse of the drug", running, pulse(level, begins, ends), (1, 1, 1)))
        self.kinds = [kind for kind, *_ in asked]
        self.times, self.on = np.linspace(0, HORIZON, 81), np.array([on for *_, on in asked], float)
        self.truth = np.stack([true_states(first, self.times, dose, on) for _, first, dose, on in asked])
        firsts, doses = np.stack([first for _, first, _, _ in asked]), [dose for _, _, dose, _ in asked]
        nothing = [np.zeros((81, 3))] * len(asked)
        self.x, _ = tw.nn.stack_trajectories([self.times] * len(asked), nothing, initial=firsts, drives=doses)

    def answers(self, circuit: Circuit) -> np.ndarray:
        """What a field says, (questions, T, 3)."""
        return tw.at_points(eqx.Partial(answer, circuit), (self.x, self.on))

    def error(self, answers: np.ndarray, kind: str) -> float:
        """Relative L2 error of the answers to questions of one kind, in %."""
        which = np.array(self.kinds) == kind
        return relative(answers[which], self.truth[which])


@eqx.filter_jit
def minus_log_posterior(fit: Fitted, prior: float) -> jax.Array:
    """Twice it, but for a constant: what training lowers."""
    misfits = jax.vmap(lambda i: misfit(fit, i))(jnp.arange(len(fit.y)))
    return jnp.sum(misfits**2) + jnp.sum((weights(fit.circuit.made) / prior) ** 2)


@eqx.filter_jit
def solutions(fit: Fitted) -> tw.nn.Solution:
    """The trajectories that were fitted, leading axis n."""
    return jax.vmap(lambda x: fit.ode.solve(x))(fit.x)


def answer(circuit: Circuit, asked: tuple[tw.nn.Trajectory, jax.Array]) -> jax.Array:
    """The field with some genes off, solved: (T, 3)."""
    x, on = asked
    return dynamics(Circuit(circuit.made, on))(x)


@eqx.filter_jit
def deviations(fit: Fitted, prior: float, asked: tuple[tw.nn.Trajectory, jax.Array]) -> jax.Array:
    """Standard deviations of the answers (questions, T, 3) by Gauss and Newton's posterior of the weights.

    Linearized in the weights both where they were fitted and where they are asked (MacKay, 1992); the unknown first
    states are integrated out.
    """
    params, static = eqx.partition((fit.circuit.made, fit.ode.initial), eqx.is_inexact_array)
    flat, rebuild = ravel_pytree(params)

    def residuals(flat: jax.Array, i: jax.Array) -> jax.Array:
        made, start = eqx.combine(rebuild(flat), static)
        ode = dynamics(Circuit(made, fit.circuit.on), start)
        return misfit(eqx.tree_at(lambda f: f.ode, fit, ode), i)

    slopes = jax.vmap(jax.jacrev(residuals), (None, 0))(flat, jnp.arange(len(fit.y))).reshape(-1, flat.size)
    known = jnp.where(jnp.arange(flat.size) < weights(fit.circuit.made).size, prior**-2, 1e-9)
    covariance = jnp.linalg.inv(slopes.T @ slopes + jnp.diag(known))
    answers = lambda flat, one: answer(Circuit(eqx.combine(rebuild(flat), static)[0], fit.circuit.on), one)
    reach = jax.vmap(jax.jacrev(answers), (None, 0))(flat, asked)  # (questions, T, 3, k)
    return jnp.sqrt(jnp.einsum("qtck,kl,qtcl->qtc", reach, covariance, reach))


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    """‖found − truth‖ / ‖truth‖ in %."""
    return 100 * float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


# ------------------------------------------------------------------------------------------------------------ the study
@tw.study("protein", systems=["S36"], question="Can a network learn how genes act from noisy readings, and be asked?")
def protein(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Fit each laboratory's readings by splines, through the solver, and by the true form; ask all of them."""
    every, n = run.seeds(settings.seeds * settings.starts), settings.cultures  # one for each start
    seeds = every[:: settings.starts]  # one for each laboratory
    laboratories = [Laboratory(settings, seed) for seed in seeds]
    tried = [lab for lab in laboratories for _ in range(settings.starts)]
    network = lambda seed: tw.nn.MLP(4, 3, width=settings.width, depth=1, activation=jnp.tanh, key=jax.random.key(seed))
    common = {"precision": jnp.float64, "run": run, "callbacks": run.callbacks}
    prior = tw.Residual(lambda fit, _: weights(fit.circuit.made) / settings.prior, np.zeros((1, 1)))

    def through_solver(fits: list[Fitted], name: str, steps: int, seeds: list[int], **terms: Any) -> list[Fitted]:
        """Minus twice the log posterior: Gaussian errors of the readings, and the prior."""
        count = len(fits[0].y)
        data = tw.Residual(misfit, np.arange(count), weight=float(count))
        until = tw.Plateau(patience=2, improvement=5e-3, every=3)
        phase = tw.Phase(tw.LevenbergMarquardt(), steps, until=until, where=HELD)
        return tw.fit_many(fits, tw.Objective(readings=data, **terms), phase, seeds=seeds, name=name, **common).models

    # 1. Without a solver: rates of production are what splines through the readings say.
    # Their slopes are far off at sharp turns; arsinh lets such places count little.
    slopes = lambda fit, i: jnp.arcsinh((fit.made(fit.y[i], fit.u[i]) - fit.rates[i]) / 0.1)
    small = tw.Residual(lambda fit, _: weights(fit.made) / (3 * settings.prior), np.zeros((1, 1)))
    held = tw.frozen(lambda fit: (fit.y, fit.u, fit.rates))
    matched = tw.fit_many(
        [lab.matched(Learned(network(seed))) for lab, seed in zip(tried, every, strict=True)],
        tw.Objective(match=tw.Residual(slopes, np.arange(100 * n)), prior=small),
        [tw.Phase(tw.Adam(1e-2), 1_000, where=held), tw.Phase(tw.LevenbergMarquardt(), 40, where=held)],
        seeds=every, name="1-splines", **common,
    ).models  # fmt: skip
    # 2. Through the solver, on pieces of trajectories whose first states are all unknown (Bock, 1983): short ones,
    # so that no field is yet asked to foretell far. Some starts end in poor minima: the best is kept. 3. On whole ones.
    pieces = [lab.fitted(fit.made, PIECES) for lab, fit in zip(tried, matched, strict=True)]
    pieces = through_solver(pieces, "2-pieces", -(-settings.steps // 2), every, prior=prior)
    with jax.enable_x64(True):
        cost = np.array([float(minus_log_posterior(fit, settings.prior)) for fit in pieces])
    best = cost.reshape(-1, settings.starts).argmin(axis=1) + np.arange(len(seeds)) * settings.starts
    whole = [lab.fitted(pieces[i].circuit.made, 1) for lab, i in zip(laboratories, best, strict=True)]
    whole = through_solver(whole, "3-whole", settings.steps, seeds, prior=prior)
    matched = [matched[i] for i in best]
    # The same with the true form in place of the network: three constants, which start 30 % off.
    start = Hill(jnp.log(1.3 * jnp.array([STRENGTH, STEEPNESS, LEAK])))
    mechanism = through_solver([lab.fitted(start, 1) for lab in laboratories], "4-mechanism", 30, seeds)
    return judged(run, settings, laboratories, matched, whole, mechanism)


def judged(run, settings: Settings, laboratories, matched, whole, mechanism) -> list[tw.Claim]:
    """Everything against the truth: fields where new trajectories pass, what-ifs, bands."""
    ask = WhatIfs(run.seed)
    y, u, true = sampled_region(run.seed)
    made = {
        "through the solver": [fit.circuit for fit in whole],
        "splines' slopes alone": [Circuit(fit.made, whole[0].circuit.on) for fit in matched],
        "the true form, fitted": [fit.circuit for fit in mechanism],
    }
    errors = {name: np.array([relative(tw.at_points(one.rates, (y, u)), true) for one in made[name]]) for name in made}
    answers = np.stack([ask.answers(fit.circuit) for fit in whole])  # (seeds, questions, T, 3)
    with jax.enable_x64(True):
        asked = jax.tree.map(jnp.asarray, (ask.x, ask.on))
        band = NINETY * np.stack([np.asarray(deviations(fit, settings.prior, asked)) for fit in whole])
        solved = [solutions(fit) for fit in whole]
    inside = np.abs(ask.truth - answers)[:, :, 1:] <= band[:, :, 1:]  # the first state is given
    coverage = 100 * inside.mean(axis=(1, 2, 3))
    typical = int(np.argsort(errors["through the solver"])[(len(whole) - 1) // 2])
    draw(run, ask, laboratories[typical], whole[typical], solved[typical], answers[typical], band[typical], errors)

    (network, alone, form), most = errors.values(), tw.Claim.median_at_most
    half = student.ppf(0.975, len(whole) - 1) * coverage.std(ddof=1) / math.sqrt(len(whole))
    covered = float(coverage.mean())
    stopped = float(sum(not np.asarray(one.reached).all() for one in solved))
    return [
        most("Where new trajectories pass, the learned field errs by at most 5 %", network, 5.0, unit="%"),
        most("Training through the solver at least halves the error of splines' slopes", network / alone, 0.5),
        most("It errs no more than the true form with its three constants fitted", network / form, 1.0),
        *(most(f"Asked about {kind}, it errs by at most 5 %", [ask.error(one, kind) for one in answers], 5.0, unit="%")
          for kind in dict.fromkeys(ask.kinds)),
        tw.Claim.near(
            f"Bands of 90 % about its answers cover the truth (mean over {len(whole)} seeds)",
            covered, (covered - half, covered + half), 90.0, tolerance=10.0, unit="%",
        ),
        tw.Claim.at_most("No laboratory's field exhausts the solver's steps", stopped, (stopped, stopped), 0.0,
                         unit="laboratories"),
    ]  # fmt: skip


def sampled_region(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Proteins (n, 3), doses (n, 1) and true rates (n, 3) along 20 trajectories like the measured ones, but new."""
    rng, at = np.random.default_rng([seed, 39]), np.linspace(0, HORIZON, 101)
    cultures = [culture(rng, i) for i in range(20)]
    y = np.concatenate([true_states(first, at, dose) for first, dose in cultures])
    u = np.concatenate([dose.values[np.searchsorted(dose.times, at, side="right") - 1] for _, dose in cultures])
    return y, u, production(y.T, u[:, 0]).T - y


def draw(run, ask: WhatIfs, lab: Laboratory, fit: Fitted, solved, middle, band, errors) -> None:
    """One laboratory: readings, both fields, a what-if of each kind with its band; and the errors of all."""
    states, who = np.asarray(solved.states), "the network of median error"
    begins = float(lab.doses[1].times[1])
    names, labels = [f"protein {gene}" for gene in GENES], ("time", "concentration")
    courses = tw.figures.courses
    read = lambda ax: courses.fitted(
        ax, lab.times[1], lab.values[1], states[1], names=names, event=begins, labels=labels
    )
    caption = f"Readings (dots; some are lost) and {who}. The dotted line: a dose of the drug begins."
    run.save_figure("1-readings", read, title="One trajectory of one laboratory", caption=caption, size=(6.5, 3.5))

    kept = 1.5  # protein C, in the plane that is drawn
    plane = lambda points: np.column_stack([points, np.full(len(points), kept)])

    none = lambda points: np.zeros((len(points), 1))
    true_plane = lambda points: (production(plane(points).T, none(points)[:, 0]).T - plane(points))[:, :2]
    learned_plane = lambda points: tw.at_points(fit.circuit.rates, (plane(points), none(points)))[:, :2]
    pair, box = (names[0], names[1]), ((0.0, HIGHEST), (0.0, HIGHEST))
    portrait = lambda field: lambda ax: tw.figures.phase.portrait(ax, field, box, names=pair)
    caption = f"With protein C at {kept} and no drug. Thick: where A or B rests."
    run.save_figure("2-true", portrait(true_plane), title="The true field", caption=caption)
    caption = f"By {who}, in the same plane as the true one."
    run.save_figure("3-learned", portrait(learned_plane), title="The learned field", caption=caption)

    for number, kind in enumerate(dict.fromkeys(ask.kinds)):
        which = ask.kinds.index(kind)

        shown = middle[which], band[which], ask.truth[which]
        what_if = lambda ax, shown=shown: courses.foretold(ax, ask.times, *shown, names=names, labels=labels)
        caption = f"By {who}, with its 90 % band, and the truth. It was given no reading of the kind."
        caption += " Without A, protein B rises above all that was ever read." * (kind == "a knock-out")
        run.save_figure(f"{4 + number}-what-if", what_if, title=f"What if: {kind}", caption=caption, size=(6.5, 3.5))

    score = lambda ax: tw.figures.comparison.medians(ax, errors, metric="relative L2 error of the field, %")
    caption = "Where new trajectories pass; medians over laboratories with 95 % intervals."
    run.save_figure("7-errors", score, title="Errors of the field", caption=caption)

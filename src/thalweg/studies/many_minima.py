"""More parameters than data: many models fit the rows exactly. Which one is found, and how good is it elsewhere?

First linear models, where the answer is known: gradient descent moves within the span of the rows, so that from 0 it
ends at the interpolant of least norm, and what a start has outside that span it keeps. Then networks of a few thousand
parameters: through half the years of the Hudson's Bay Company's hare pelts (thousands, 1900 to 1920; Elton and
Nicholson, 1942), and on 60 rows of the diabetes data (Efron et al., 2004), where penalties, dropout and early stopping
each choose another of the many minima. Their strength is chosen on 40 other rows; the rest, 342, measure.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import MultipleLocator
from sklearn.datasets import load_diabetes
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import Ridge

import thalweg as tw

YEARS = np.arange(1900, 1921)
HARE = [30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1, 40.3, 57.0, 76.6, 52.3, 19.5, 11.2, 7.6,
        14.6, 16.2, 24.7]  # fmt: skip
PELTS = (np.log(HARE) - np.mean(np.log(HARE))) / np.std(np.log(HARE))
TIMES = (YEARS - 1910) / 5.0  # from −2 to 2
GIVEN, BETWEEN, FINE = np.arange(0, 21, 2), np.arange(1, 21, 2), np.linspace(-2, 2, 401)
ROWS, CHOOSING = 60, 40  # of the diabetes data, for training and for choosing
FEW = 6  # rows of the linear models

STRENGTHS = {
    "L2": (0.1, 0.01, 1.0),
    "L1": (0.01, 0.001, 0.1),
    "Jacobian norm": (0.1, 1.0, 0.01),
    "dropout": (0.5, 0.2, 0.8),
}
"""λ, or the rate of dropout; each network takes the one of the first few that is best on its rows for choosing."""


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(12, "starts, networks and choices of rows", quick=6, ge=6, le=100)
    steps: int = tw.setting(3_000, "steps of Adam on the diabetes data", quick=1_000, ge=10)
    curve: int = tw.setting(6_000, "steps of Adam on the pelts", quick=2_000, ge=10)
    descent: int = tw.setting(200_000, "steps of gradient descent of the linear models", quick=50_000, ge=1)
    strengths: int = tw.setting(3, "strengths of each penalty that are tried", quick=2, ge=1, le=3)
    width: int = tw.setting(64, "units in each of the two hidden layers", ge=2, le=1_024)


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    """Inputs (442, 10) and disease progression (442,), each column of mean 0 and deviation 1, in 32 bits."""
    x, y = (np.asarray(part) for part in load_diabetes(return_X_y=True))
    return ((x - x.mean(axis=0)) / x.std(axis=0)).astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)


INPUTS, TARGET = diabetes()


@tw.study(
    "many-minima",
    systems=["S20", "S15", "S49"],
    question="Of the many models that fit the data exactly, which does training find, and which generalizes?",
)
def many_minima(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Linear models, a curve through a few points, and a table with few rows."""
    seeds = run.seeds(settings.seeds)
    return [*linear(settings, seeds), *curves(settings, seeds, run), *table(settings, seeds, run)]


# ---------------------------------------------------------------------------------------- networks with their own rows
class Member(eqx.Module):
    """A network with rows of its own, given as [position of a row, a shift of its inputs]: what it misses there.

    So networks that differ in their rows are trained in one program; and the Jacobian, by the shift, is the network's.
    """

    network: Any
    x: jax.Array  # (442, 10), in an order of its own
    y: jax.Array  # (442,)

    def __call__(self, at: jax.Array, *, key=None) -> jax.Array:
        row = at[0].astype(jnp.int32)
        return jnp.ravel(self.network(self.x[row] + at[1:], key=key))[0] - self.y[row]


def weights(member: Member) -> list:
    """The weights of its three layers."""
    return [layer.weight for layer in member.network.layers if isinstance(layer, tw.nn.Linear)]


def positions(first: int, last: int) -> np.ndarray:
    """What a member is given for its rows first … last − 1."""
    return np.concatenate([np.arange(first, last)[:, None], np.zeros((last - first, 10))], axis=1).astype(np.float32)


def rows(first: int, last: int) -> tw.Supervised:
    """The mean square of what a member misses on its rows first … last − 1."""
    return tw.Supervised(positions(first, last), np.zeros(last - first, np.float32), loss=tw.losses.squared_error)


def member(seed: int, network: Any) -> Member:
    """A network with the rows of its seed."""
    order = np.random.default_rng(seed).permutation(len(TARGET))
    return Member(network, jnp.asarray(INPUTS[order]), jnp.asarray(TARGET[order]))


HELD = tw.frozen(lambda member: (member.x, member.y))


# ----------------------------------------------------------------------------------------------------- linear models
def linear(settings: Settings, seeds: Sequence[int]) -> list[tw.Claim]:
    """Gradient descent on few rows of ten features, from 0 and from elsewhere, against the pseudoinverse."""
    starts = [np.zeros(10), *(np.random.default_rng(seed).normal(size=10) for seed in seeds)]
    starts = [start.astype(np.float32) for start in starts]
    pairs = [(seed, start) for seed, other in zip(seeds, starts[1:], strict=True) for start in (starts[0], other)]
    members = [member(seed, linear_model(start)) for seed, start in pairs]
    known = [(np.asarray(one.x[:FEW], float), np.asarray(one.y[:FEW], float)) for one in members]
    # the largest curvature of the mean square is 2σ²/n: a rate at which every member is stable, half the largest one
    rate = FEW / (2 * max(np.linalg.norm(x, 2) ** 2 for x, _ in known))
    fitted = tw.fit_many(
        members, tw.Objective(rows=rows(0, FEW)), tw.Phase(tw.SGD(float(rate)), settings.descent, where=HELD),
        precision=jnp.float64, layout=tw.Layout.VMAPPED, log_every=settings.descent,
    )  # fmt: skip
    off = []
    for (x, y), (_, start), found in zip(known, pairs, fitted.models, strict=True):
        inverse = np.linalg.pinv(x)
        least, outside = inverse @ y, start - inverse @ (x @ start)  # outside: what of the start no row sees
        off.append(np.linalg.norm(np.asarray(found.network.weight)[:, 0] - least - outside) / np.linalg.norm(least))
    return [
        tw.Claim.median_at_most("From 0 gradient descent finds the interpolant of least norm: relative distance from "
                                f"the pseudoinverse's on {FEW} rows of 10 features at most 1e-6", off[::2], 1e-6),
        tw.Claim.median_at_most("From elsewhere it finds that plus what the start had outside the rows' span, to 1e-6",
                                off[1::2], 1e-6),
    ]  # fmt: skip


def linear_model(start: np.ndarray) -> tw.nn.Linear:
    """Without a bias, from the given weights (features,)."""
    model = tw.nn.Linear(len(start), 1, key=jax.random.key(0), bias=False)
    return eqx.tree_at(lambda one: one.weight, model, jnp.asarray(start[:, None]))


# --------------------------------------------------------------------------------------------- a curve through years
def curves(settings: Settings, seeds: Sequence[int], run: tw.Run) -> list[tw.Claim]:
    """Networks through every second year: how far they are apart there, and in the years between."""
    given, between = GIVEN, BETWEEN
    x, y = TIMES[given, None].astype(np.float32), PELTS[given].astype(np.float32)
    pairs = [number for seed in seeds for number in (2 * seed, 2 * seed + 1)]  # each pair is one measurement

    def trained(name: str, **terms: Any) -> np.ndarray:
        keys = map(jax.random.key, pairs)
        shape = {"width": settings.width, "depth": 2, "activation": jnp.tanh}
        fitted = tw.fit_many(
            # larger first weights than usual, so that a curve can bend from year to year
            [tw.nn.MLP(1, None, **shape, init=tw.nn.scaled(4.0), key=key) for key in keys],
            tw.Objective(years=tw.Supervised(x, y, loss=tw.losses.squared_error), **terms),
            tw.Phase(tw.Adam(tw.Cosine(5e-3, settings.curve)), settings.curve),
            seeds=pairs, run=run, callbacks=run.callbacks, name=name,
        )  # fmt: skip
        return np.array([tw.at_points(model, FINE[:, None].astype(np.float32)) for model in fitted.models])

    kinds = {
        "no penalty": trained("curve"),
        "L2, λ = 0.001": trained("curve-l2", small=tw.L2(1e-3)),
        "Jacobian norm, λ = 0.001": trained(
            "curve-flat", flat=tw.JacobianNorm(FINE[::10, None].astype(np.float32), 1e-3)
        ),
    }
    kernel = ConstantKernel(1.0) * RBF(0.5)
    classical = process(kernel, x, y, FINE[:, None])
    year = lambda which: np.searchsorted(FINE, TIMES[which] - 1e-9)

    def misses(found: np.ndarray) -> np.ndarray:
        return np.sqrt(np.mean((found[..., year(between)] - PELTS[between]) ** 2, axis=-1))

    run.save_frames(
        "1-curves", [(kind, lambda ax, found=found: family(ax, found, classical)) for kind, found in kinds.items()],
        title="All of them fit", slider="penalty",
        caption=f"{len(pairs)} networks that differ in their first weights only, trained on every second year.",
    )  # fmt: skip
    np.savez(run.arrays / "curves.npz", classical=classical, networks=np.array(list(kinds.values())))
    plain = kinds["no penalty"]
    apart = lambda which: np.sqrt(np.mean((plain[::2, year(which)] - plain[1::2, year(which)]) ** 2, axis=1))
    worst = np.sqrt(np.mean((plain[:, year(given)] - PELTS[given]) ** 2, axis=1)).reshape(-1, 2).max(axis=1)
    gain = (misses(kinds["Jacobian norm, λ = 0.001"]) - misses(plain)).reshape(-1, 2).mean(axis=1)
    against = misses(plain).reshape(-1, 2).mean(axis=1) - misses(classical)
    return [
        tw.Claim.median_at_most("Both networks of a pair fit the years given, to 0.01 (root mean square)", worst, 0.01),
        tw.Claim.median_at_most("Apart in the years given by at most a tenth of what they are apart between",
                                apart(given) / apart(between), 0.1),
        tw.Claim.median_at_most("Penalizing the Jacobian's norm errs less in the years between", gain, 0.0),
        tw.Claim.median_at_most("Without penalty networks err no more there than a Gaussian process", against, 0.0),
    ]  # fmt: skip


def family(ax, found: np.ndarray, classical: np.ndarray) -> None:
    """Networks (n, 401) beside a Gaussian process (401,), in all years."""
    lines = ax.plot(1910 + 5 * FINE, found.T, color="C0", linewidth=0.8, alpha=0.6)
    lines[0].set_label("networks")
    ax.plot(1910 + 5 * FINE, classical, color="C1", linewidth=1.6, label="Gaussian process")
    ax.plot(YEARS[GIVEN], PELTS[GIVEN], "o", color="C2", label="years given")
    ax.plot(YEARS[BETWEEN], PELTS[BETWEEN], "o", color="C2", fillstyle="none", label="years between")
    ax.set_ylim(-3.2, 3.2)
    ax.xaxis.set_major_locator(MultipleLocator(5))
    ax.set_xlabel("year")
    ax.set_ylabel("log of pelts, standardized")
    ax.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


# ---------------------------------------------------------------------------------------------------- a table of rows
def table(settings: Settings, seeds: Sequence[int], run: tw.Run) -> list[tw.Claim]:
    """Networks on 60 rows, by what chooses among their minima."""
    validation = tw.Objective(rows=rows(ROWS, ROWS + CHOOSING))

    def trained(name: str, *, dropout: float = 0.0, stop: bool = False, **terms: Any) -> list[Member]:
        shape = {"width": settings.width, "depth": 2, "activation": jnp.tanh, "dropout": dropout}
        return tw.fit_many(
            [
                member(seed, tw.nn.MLP(10, None, **shape, key=jax.random.key(seed)))
                for seed in seeds
            ],
            tw.Objective(rows=rows(0, ROWS), **terms),
            tw.Phase(tw.Adam(tw.Cosine(3e-3, settings.steps)), settings.steps, where=HELD),
            validation=validation if stop else None, validate_every=10 if stop else None,
            layout=tw.Layout.VMAPPED, seeds=seeds, run=run, callbacks=run.callbacks, name=name,
        ).models  # fmt: skip

    network = tw.only(weights)
    make: dict[str, Callable[[str, float], list[Member]]] = {
        "L2": lambda name, λ: trained(name, small=tw.L2(λ, where=network)),
        "L1": lambda name, λ: trained(name, sparse=tw.L1(λ, where=network)),
        "Jacobian norm": lambda name, λ: trained(name, flat=tw.JacobianNorm(positions(0, ROWS), λ)),
        "dropout": lambda name, rate: trained(name, dropout=rate),
    }
    error = lambda members, first, last: np.array(
        [np.mean(np.square(tw.at_points(member, positions(first, last)))) for member in members]
    )
    choosing, measuring = (ROWS, ROWS + CHOOSING), (ROWS + CHOOSING, len(TARGET))
    found = {"none": trained("rows"), "early stopping": trained("rows-early-stopping", stop=True)}
    for kind, train in make.items():
        tried = [
            train(f"rows-{kind.lower().replace(' ', '-')}-{i}", s)
            for i, s in enumerate(STRENGTHS[kind][: settings.strengths])
        ]
        best = np.argmin([error(members, *choosing) for members in tried], axis=0)
        found[kind] = [tried[b][i] for i, b in enumerate(best)]
    errors = {kind: error(members, *measuring) for kind, members in found.items()}
    ranks = {kind: [tw.effective_rank(weights(one)[1]) for one in members] for kind, members in found.items()}
    tables = [(np.asarray(one.x), np.asarray(one.y)) for one in found["none"]]
    classical = {name: np.array([rule(x, y) for x, y in tables]) for name, rule in CLASSICAL.items()}
    draw(run, errors, classical, ranks)

    fitted = error(found["none"], 0, ROWS)
    chosen = min(
        (kind for kind in errors if kind != "none"), key=lambda kind: float(np.median(error(found[kind], *choosing)))
    )
    better = [
        tw.Claim.median_at_most(
            f"Error on other rows, {kind} against none: no larger", errors[kind] - errors["none"], 0.0
        )
        for kind in errors
        if kind != "none"
    ]
    return [
        tw.Claim.median_at_most("Without penalty a network fits its 60 rows: mean square at most 0.001", fitted, 1e-3),
        *better,
        tw.Claim.median_at_most("L2 leaves fewer directions between the hidden layers (effective rank)",
                                np.array(ranks["L2"]) - ranks["none"], 0.0),
        tw.Claim.median_at_most(f"The best on the rows for choosing, {chosen}, errs no more than ridge regression",
                                errors[chosen] - classical["ridge regression"], 0.0),
        tw.Claim.median_at_most(f"Nor more than a Gaussian process ({chosen})",
                                errors[chosen] - classical["Gaussian process"], 0.0),
    ]  # fmt: skip


def ridge(x: np.ndarray, y: np.ndarray) -> float:
    """Mean squared error of ridge regression on the measuring rows, its α chosen as the networks' strengths are."""
    fits = [Ridge(alpha=alpha).fit(x[:ROWS], y[:ROWS]) for alpha in np.logspace(-2, 4, 13)]
    wrong = lambda one, x, y: float(np.mean((one.predict(x) - y) ** 2))
    choice, rest = slice(ROWS, ROWS + CHOOSING), slice(ROWS + CHOOSING, None)
    best = min(fits, key=lambda one: wrong(one, x[choice], y[choice]))
    return wrong(best, x[rest], y[rest])


def gaussian(x: np.ndarray, y: np.ndarray) -> float:
    """The same of a Gaussian process."""
    kernel = ConstantKernel(1.0) * RBF(5.0, (0.1, 1e3)) + WhiteKernel(0.5)
    rest = slice(ROWS + CHOOSING, None)
    return float(np.mean((process(kernel, x[:ROWS], y[:ROWS], x[rest]) - y[rest]) ** 2))


def process(kernel: Any, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A Gaussian process's mean at other inputs; the kernel's numbers are those of the largest likelihood."""
    with warnings.catch_warnings():  # which may be at an end of their range: on few rows that is an answer
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianProcessRegressor(kernel, alpha=1e-6, random_state=0).fit(x, y)
    return np.asarray(fitted.predict(at))


CLASSICAL = {"ridge regression": ridge, "Gaussian process": gaussian}


def draw(run: tw.Run, errors: dict, classical: dict, ranks: dict) -> None:
    """Error on other rows and effective rank, by what chooses."""
    shown = {
        "2-errors": (errors | classical, "mean squared error on other rows", "Which minimum generalizes"),
        "3-ranks": (ranks, "effective rank between the hidden layers", "Directions that are left"),
    }
    for name, (found, metric, title) in shown.items():
        run.save_figure(
            name,
            lambda ax, found=found, metric=metric: tw.figures.comparison.medians(ax, found, metric=metric),
            title=title,
            caption=f"60 rows of the diabetes data: medians over {len(errors['none'])} networks, each with rows of its "
            "own, and 95 % intervals. The target's variance is 1.",
            size=(5.0, 3.2),
        )
    arrays: dict[str, Any] = {f"error-{kind}": values for kind, values in (errors | classical).items()}
    arrays |= {f"rank-{kind}": np.array(values) for kind, values in ranks.items()}
    np.savez(run.arrays / "found.npz", **arrays)

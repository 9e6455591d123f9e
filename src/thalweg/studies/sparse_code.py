"""A sparse code of handwritten digits: how active the code may be is a constraint, and its multiplier is a price.

1,797 real digits of 8 × 8 pixels (Alpaydin and Kaynak, 1998; they come with scikit-learn) are written as non-negative
sums of atoms of unit length, as in Olshausen and Field (1996). Usually a penalty λ·Σh with a λ found by trial makes the
code h sparse. Here its mean activity is bounded instead, and λ is what comes out: by Karush (1939), Kuhn and Tucker
(1951) the error falls by λ for each unit by which the bound is loosened.

The units are squared rectifiers: their zeros are exact, and as their slope has no jump, the optimum lies on no kink.
Were the atoms not of unit length the bound would mean nothing: half the activity and atoms of twice the length give the
same images.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import DictionaryLearning

import thalweg as tw

BOUNDS = (0.5, 1.0, 2.0, 4.0)  # on the mean over images of a code's sum
MIDDLE = 1.0  # where the curve's slope is measured
SIDES = (-0.03, 0.03)  # of this bound
PRICES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)  # fixed weights of the penalty, for comparison
FINER = tuple(np.geomspace(0.1, 1.6, 9))  # of dictionary learning: lines between PRICES flatter it by 0.6 % (measured)


class Code(eqx.Module):
    """An image (64,) as a sum of atoms, and a number that a member of `fit_many` has of its own: its bound or price."""

    encoder: jax.Array  # (units, 64)
    bias: jax.Array  # (units,)
    atoms: jax.Array  # (64, units)
    centre: jax.Array  # (64,)
    own: jax.Array  # ()

    def __init__(self, units: int, centre: np.ndarray, own: float, *, key: jax.Array):
        atoms = jax.random.normal(key, (64, units), dtype=jnp.float32)
        self.atoms = atoms / jnp.linalg.norm(atoms, axis=0)
        self.encoder, self.bias = self.atoms.T, jnp.zeros(units, jnp.float32)
        self.centre, self.own = jnp.asarray(centre, jnp.float32), jnp.asarray(own, jnp.float32)

    def activity(self, x: jax.Array) -> jax.Array:
        """The code, (units,)."""
        return jnp.maximum(self.encoder @ x + self.bias, 0) ** 2

    def decoded(self, h: jax.Array) -> jax.Array:
        """The image of a code."""
        return self.centre + self.atoms / jnp.linalg.norm(self.atoms, axis=0) @ h

    def __call__(self, x: jax.Array) -> jax.Array:
        """What is left of an image."""
        return self.decoded(self.activity(x))


class Price(tw.AbstractTerm):
    """A fixed price of activity: the usual penalty."""

    source: tw.AbstractSource
    weight: float | jax.Array = 1.0

    def loss(self, model: Any, example: jax.Array, key: Any) -> jax.Array:
        """The price of one code."""
        return model.own * jnp.sum(model.activity(example))


@dataclasses.dataclass(frozen=True)
class Found:
    """What codes do to images.

    Attributes:
        error: mean squared distance of an image and what is left of it.
        activity: mean sum of a code.
        zeros: share of the code that is exactly 0, in %.
    """

    error: float
    activity: float
    zeros: float


def measured(model: Code, images: np.ndarray, threshold: float = 0.0) -> Found:
    """Of a trained code, with what is not above a threshold set to zero."""
    with jax.enable_x64(True):
        codes = np.array(jax.vmap(model.activity)(jnp.asarray(images, model.atoms.dtype)))
        codes[codes <= threshold] = 0
        error = np.sum((np.asarray(jax.vmap(model.decoded)(jnp.asarray(codes))) - images) ** 2, axis=1)
    return Found(float(error.mean()), float(codes.sum(axis=1).mean()), 100 * float(np.mean(codes == 0)))


def cut(model: Code, images: np.ndarray, bound: float) -> Found:
    """A code trained without a bound, cut off where its mean activity meets one."""
    with jax.enable_x64(True):
        codes = jax.vmap(model.activity)(jnp.asarray(images, model.atoms.dtype))
    values = np.sort(np.asarray(codes), axis=None)
    kept = np.cumsum(values[::-1], dtype=float)[::-1] / len(images)  # mean activity with all from here on
    first = int(np.searchsorted(-kept, -bound))  # to keep
    return measured(model, images, threshold=float(values[first - 1]) if first else 0.0)


def dictionaries(images: np.ndarray, centre: np.ndarray, units: int, seed: int) -> list[Found]:
    """The classical way (Mairal et al., 2009) at each price: no encoder, but the best code of each image."""
    found = []
    rule: dict[str, Any] = {"positive_code": True, "fit_algorithm": "cd", "transform_algorithm": "lasso_cd"}
    for price in FINER:
        rule["alpha"] = price / 2  # scikit-learn halves the squares, and so the price
        learned = DictionaryLearning(units, **rule, max_iter=200, tol=1e-6, random_state=seed)
        codes = learned.fit_transform(images - centre)
        error = np.sum((codes @ learned.components_ - (images - centre)) ** 2, axis=1)
        found.append(Found(float(error.mean()), float(codes.sum(axis=1).mean()), 100 * float(np.mean(codes == 0))))
    return found


def at_activity(curve: Sequence[Found] | np.ndarray, activity: float) -> float:
    """The error where a curve of penalties has this activity, linear between logarithms; NaN beyond its ends."""
    alive = [one for one in curve if one.activity > 0]  # a price too high silences a code altogether
    x, y = (np.log([getattr(one, name) for one in alive]) for name in ("activity", "error"))
    order = np.argsort(x)
    return float(np.exp(np.interp(np.log(activity), x[order], y[order], left=np.nan, right=np.nan)))


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(6, "codes of each kind, each with its own start", ge=1, le=100)
    images: int = tw.setting(300, "that the codes are trained on", quick=150, ge=20, le=1_500)
    units: int = tw.setting(24, "atoms", quick=16, ge=2, le=512)
    steps: int = tw.setting(2_000, "of L-BFGS", quick=1_000, ge=10)
    refresh: int = tw.setting(100, "steps between two looks at the multipliers", ge=1)


@tw.study("sparse-code", systems=["S16"], question="What does it cost to allow a code only so much activity?")
def sparse_code(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Bound the activity of codes, look at the multipliers, and compare with a price, and with cutting off."""
    images, _ = map(np.asarray, load_digits(return_X_y=True))
    digits = np.random.default_rng(run.seed).permutation(images / 16)
    train, unseen = digits[: settings.images], digits[settings.images : settings.images + 250]
    seeds, centre = run.seeds(settings.seeds), train.mean(axis=0)
    begin = lambda seed, own: Code(settings.units, centre, own, key=jax.random.key(seed))
    phase = tw.Phase(tw.LBFGS(memory=20), settings.steps, where=tw.frozen(lambda model: (model.centre, model.own)))
    rebuilt = tw.Residual(lambda model, x: model(x) - x, tw.Rows(train))

    def solve(name: str, models: list[Code], objective: tw.Objective) -> tw.FitMany:
        """Codes one after another for each seed, in 64 bits."""
        each = [seed for seed in seeds for _ in range(len(models) // len(seeds))]
        return tw.fit_many(
            models, objective, phase, seeds=each, precision=jnp.float64,
            run=run, callbacks=run.callbacks, name=name, raise_failures=False,
        )  # fmt: skip

    def bounded(multiplier: float = 0.0) -> tw.Objective:
        """Mean activity over a member's own bound held to 1: the multiplier of that is the bound times the price."""
        ratio = lambda model, x: jnp.sum(model.activity(x)) / model.own
        sparse = tw.AtMost(ratio, 1.0, tw.Rows(train), multiplier=multiplier, tolerance=1e-3)
        return tw.Objective(refresh_every=settings.refresh, images=rebuilt, sparse=sparse)

    def certified(fitted: tw.FitMany, columns: int) -> np.ndarray:
        """The certificates, by seed and bound."""
        if None in fitted.certificates:
            raise tw.RunError("the cost of a code was not finite, so that it has no certificate")
        return np.array(fitted.certificates, object).reshape(len(seeds), columns)

    held = solve("bounded", [begin(seed, bound) for seed in seeds for bound in BOUNDS], bounded())
    certificates = certified(held, len(BOUNDS))
    price = np.array([[one["sparse"].multiplier for one in row] for row in certificates]) / BOUNDS

    at = BOUNDS.index(MIDDLE)  # there each code is solved for again from where it ended, with a little more and less
    again = [moved(held.models[i], MIDDLE * (1 + s)) for i in range(at, len(held.models), len(BOUNDS)) for s in SIDES]
    beside = solve("beside", again, bounded(float(price[:, at].mean() * MIDDLE)))
    losses = np.array([[one.loss for one in row] for row in certified(beside, len(SIDES))])
    slope = -(losses[:, 1] - losses[:, 0]) / (MIDDLE * (SIDES[1] - SIDES[0]))

    penalty = tw.Objective(images=rebuilt, price=Price(tw.Rows(train)))
    paid = solve("priced", [begin(seed, one) for seed in seeds for one in PRICES], penalty)

    shape = (len(seeds), -1)
    codes = np.array([measured(model, train) for model in held.models], object).reshape(*shape)
    others = np.array([measured(model, train) for model in paid.models], object).reshape(*shape)
    cuts = np.array([[cut(paid.models[i], train, bound) for bound in BOUNDS]
                     for i in range(0, len(paid.models), len(PRICES))], object)  # fmt: skip
    classical = dictionaries(train, centre, settings.units, run.seed)
    get = lambda found, name: np.array([[getattr(one, name) for one in row] for row in found])
    errors, tuned = get(codes, "error"), np.array([[at_activity(row, bound) for bound in BOUNDS] for row in others])
    missed = np.abs(get(others, "activity")[:, :, None] / np.array(BOUNDS) - 1).min(axis=1)  # by the nearest price
    fresh = [measured(model, unseen).activity for model in held.models[at :: len(BOUNDS)]]
    residual = np.array([[one.largest for one in row] for row in certificates])
    draw(run, codes, others, cuts, classical, price, slope, held.models[: len(BOUNDS)])

    more = lambda mine, other: 100 * (mine / other - 1)
    gaps = more(errors[:, at], tuned[:, at])
    zeros = get(codes, "zeros")
    return [
        tw.Claim.median_at_most("The largest residual of the optimum's conditions is at most 1e-3, at the worst bound",
                                residual.max(axis=1), 1e-3),
        tw.Claim.median_at_most("The bound is met to within 0.1 %, at the worst bound",
                                more(get(codes, "activity"), np.array(BOUNDS)).max(axis=1), 0.1, unit="%"),
        tw.Claim.median_at_most(f"The multiplier is the slope of the error in the bound to within 5 %, at {MIDDLE:g}",
                                np.abs(more(price[:, at], slope)), 5.0, unit="%"),
        tw.Claim.median_at_most(f"At {MIDDLE:g} the error is at most 2 % above that of the price that would lead there",
                                gaps, 2.0, unit="%"),
        tw.Claim.median_at_most(f"The nearest of {len(PRICES)} prices tried misses {MIDDLE:g} by at most 5 %",
                                100 * missed[:, at], 5.0, unit="%"),
        tw.Claim.median_at_most(f"The error is at most half that of a code cut off to activity {MIDDLE:g}",
                                100 * errors[:, at] / get(cuts, "error")[:, at], 50.0, unit="%"),
        tw.Claim.median_at_most("It is at most 2 % above dictionary learning's, where each image has its best code",
                                more(errors[:, at], at_activity(classical, MIDDLE)), 2.0, unit="%"),
        tw.Claim.median_at_most(f"At most a fifth of a code is not exactly 0, at {BOUNDS[0]:g}",
                                100 - zeros[:, 0], 20.0, unit="%"),
        tw.Claim.median_at_most(f"On digits not trained on the activity is within 5 % of {MIDDLE:g}",
                                np.abs(more(np.array(fresh), MIDDLE)), 5.0, unit="%"),
    ]  # fmt: skip


def moved(model: Code, own: float) -> Code:
    """A trained code with another bound."""
    with jax.enable_x64(True):
        return eqx.tree_at(lambda one: one.own, model, jnp.full_like(model.own, own))


def draw(run: tw.Run, codes, others, cuts, classical, price, slope, models: list[Code]) -> None:
    """The curve of error against activity, the multipliers against its slope, and the atoms of one seed."""
    get = lambda found, name: np.array([[getattr(one, name) for one in row] for row in found])
    at = BOUNDS.index(MIDDLE)

    def curve(ax) -> None:
        ax.plot(get(cuts, "activity").mean(axis=0), get(cuts, "error").mean(axis=0), "s--", label="cut off afterwards")
        priced = [get(others, name).mean(axis=0) for name in ("activity", "error")]
        ax.plot(*priced, "o-", fillstyle="none", label="at a fixed price")
        ax.plot(*get([classical], "activity"), *get([classical], "error"), "^:", label="dictionary learning")
        error = get(codes, "error")
        ax.plot(BOUNDS, error.mean(axis=0), "k.-", label="bounded")
        near = MIDDLE * np.linspace(0.6, 1.5, 30)
        tangent = error[:, at].mean() - price[:, at].mean() * (near - MIDDLE)
        ax.plot(near, tangent, color="tab:red", linewidth=2.5, alpha=0.6, label="slope told by the multiplier")
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlabel("mean activity of a code")
        ax.set_ylabel("mean squared error of an image")
        ax.set_ylim(top=20 * ax.get_ylim()[1])  # room for the legend
        ax.legend(loc="upper left")

    def prices(ax) -> None:
        ends = [0.97 * min(price[:, at].min(), slope.min()), 1.03 * max(price[:, at].max(), slope.max())]
        ax.plot(ends, ends, color="gray", linewidth=1)
        ax.plot(slope, price[:, at], "o")
        ax.set_xlabel("error saved for each unit of activity (solved again)")
        ax.set_ylabel("multiplier")

    def silent(ax) -> None:
        for found, name, mark in ((codes, "bounded", "k.-"), (others, "at a fixed price", "o")):
            ax.plot(get(found, "activity").mean(axis=0), get(found, "zeros").mean(axis=0), mark, label=name)
        ax.set_xscale("log")
        ax.set_ylim(0, 100)
        ax.set_xlabel("mean activity of a code")
        ax.set_ylabel("share of exact zeros in %")
        ax.legend()

    def atoms(ax, model: Code) -> None:
        with jax.enable_x64(True):
            found = np.asarray(model.atoms / jnp.linalg.norm(model.atoms, axis=0))
        columns = 8
        lines = -(-found.shape[1] // columns)
        page = np.full((lines * 9 + 1, columns * 9 + 1), np.nan)
        for k, atom in enumerate(found.T):
            i, j = divmod(k, columns)
            page[9 * i + 1 : 9 * i + 9, 9 * j + 1 : 9 * j + 9] = atom.reshape(8, 8)
        ax.pcolormesh(page[::-1], cmap="RdBu_r", vmin=-0.5, vmax=0.5)
        ax.set_aspect("equal")
        ax.axis("off")

    mean = f"Means over {len(codes)} seeds."
    run.save_figure("1-curve", curve, title="What activity buys", caption=f"{mean} The line: see the claims.")
    told = f"One point a seed, at a bound of {MIDDLE:g}; on the line multiplier and slope agree."
    run.save_figure("2-prices", prices, title="The multiplier is a price", caption=told)
    run.save_figure("3-zeros", silent, title="Exact zeros", caption=f"{mean} None is set to zero by hand.")
    frames = [(f"{bound:g}", lambda ax, m=model: atoms(ax, m)) for bound, model in zip(BOUNDS, models, strict=True)]
    caption = "The atoms of one seed: blue takes ink away, red adds it."
    run.save_frames("4-atoms", frames, title="Atoms", caption=caption, slider="bound", size=(5.0, 3.0))

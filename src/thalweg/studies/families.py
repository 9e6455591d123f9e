"""Families: how much of a score is kinship? Sequences on a tree, split at random and with whole families held out.

Sequences descend from common ancestors, so that a random split puts near relatives of every test row into training. A
heritable trait is then known from kin, and the score says little of a family that is new. Here the tree is generated
(Yule, 1925; mutations after Jukes and Cantor, 1969), so the truth is known: the trait is a general law of a sequence's
composition, an effect of the family that it came from (Brownian motion along the tree, Felsenstein, 1985), or both.
With `--set table=FILE --set family=COLUMN --set target=COLUMN` the same two splits are compared on a table of yours.
"""

from dataclasses import dataclass
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV

import thalweg as tw

LETTERS = np.array(list("ACGT"))
STEM, CROWN = 0.7, 0.08  # substitutions a site from the founders' tree to a family's root, and within the family
NOISE = 0.3  # of a reading, in standard deviations of the trait
FRACTIONS = (0.6, 0.2, 0.2)
SPLITS = ("random", "new families", "dealt families")  # the last: families that are none, a control
TRAITS = {"law and family": 0.5, "law alone": 0.0, "family alone": 1.0}  # share of the variance that is the family's


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(12, "trees, or splits of your table", quick=6, ge=1, le=100)
    families: int = tw.setting(60, "families on a tree", quick=30, ge=6, le=500)
    members: int = tw.setting(16, "sequences in a family", ge=2, le=500)
    sites: int = tw.setting(60, "letters in a sequence", ge=30, le=1_000)
    width: int = tw.setting(32, "units in each of the network's two hidden layers", ge=1, le=1_024)
    steps: int = tw.setting(1_500, "steps of AdamW", quick=600, ge=1)
    table: str = tw.setting("", "a table of yours instead, with numbers to predict from")
    family: str = tw.setting("", "its column of families")
    target: str = tw.setting("", "its column to predict, of numbers")


@dataclass(frozen=True)
class Posed:
    """Rows to predict, and how they are split: x (n, d), y (n,)."""

    x: np.ndarray
    y: np.ndarray
    split: tw.data.Split


# ------------------------------------------------------------------------------------------------------------- the tree
def yule(rng: np.random.Generator, tips: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A pure-birth tree of height 1: each node's parent (−1 at the root), its branch's length, and which are tips."""
    parent, length, alive = [-1], [0.0], [0]
    while len(alive) < tips:
        wait = rng.exponential(1 / len(alive))
        for one in alive:
            length[one] += wait
        split = alive.pop(rng.integers(len(alive)))
        for _ in range(2):
            parent.append(split)
            length.append(0.0)
            alive.append(len(parent) - 1)
    wait = rng.exponential(1 / len(alive))
    for one in alive:
        length[one] += wait
    lengths, depth, at = np.array(length), 0.0, alive[0]
    while at >= 0:
        depth, at = depth + lengths[at], parent[at]
    return np.array(parent), lengths / depth, np.array(alive)


def descend(rng: np.random.Generator, letters: np.ndarray, value: float, tips: int, height: float):
    """Sequences (tips, sites) and values (tips,) at the tips of a new tree, from those at its root."""
    parent, length, alive = yule(rng, tips)
    sequences, values = np.empty((len(parent), len(letters)), np.int64), np.empty(len(parent))
    for i, (before, branch) in enumerate(zip(parent, height * length, strict=True)):  # parents stand before children
        above, worth = (letters, value) if before < 0 else (sequences[before], values[before])
        replaced = rng.random(len(letters)) < 1 - np.exp(-4 / 3 * branch)  # by any letter, also its own
        sequences[i] = np.where(replaced, rng.integers(4, size=len(letters)), above)
        values[i] = worth + branch**0.5 * rng.normal()
    return sequences[alive], values[alive]


def grown(settings: Settings, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sequences (n, sites) of a whole tree, their families, the law of each (n,) and what it inherited (n,)."""
    rng = np.random.default_rng([seed, 19])
    roots, worths = descend(rng, rng.integers(4, size=settings.sites), 0.0, settings.families, 1.0)
    found = []
    for root, worth in zip(roots, worths, strict=True):
        moved = rng.random(settings.sites) < 1 - np.exp(-4 / 3 * STEM)
        founder = np.where(moved, rng.integers(4, size=settings.sites), root)
        found.append(descend(rng, founder, worth + STEM**0.5 * rng.normal(), settings.members, CROWN))
    sequences, inherited = (np.concatenate(one) for one in zip(*found, strict=True))
    family = np.repeat(np.arange(settings.families), settings.members)
    pairs = 4 * sequences[:, :-1] + sequences[:, 1:]
    strong = np.isin(sequences, (1, 2)).sum(axis=1)  # C and G
    law = strong / settings.sites**0.5 + 1.5 * np.tanh((pairs == 6).sum(axis=1) - settings.sites / 16)  # CG saturates
    return sequences, family, _unit(law), _unit(inherited)


def counts(sequences: np.ndarray) -> np.ndarray:
    """How often each letter and each pair of letters stands in a sequence, (n, 20); no place in it is told."""
    pairs = 4 * sequences[:, :-1] + sequences[:, 1:]
    singles = [(sequences == one).sum(axis=1) for one in range(4)]
    return np.stack([*singles, *((pairs == one).sum(axis=1) for one in range(16))], axis=1).astype(np.float64)


def _unit(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


# ----------------------------------------------------------------------------------------------------------- the models
class Network(eqx.Module):
    """A network with the rows that it is fitted to, held: every network has rows of its own."""

    net: tw.nn.MLP
    x: jax.Array
    y: jax.Array

    def error(self, i):
        """Of row i, in standard deviations."""
        return self.net(self.x[i])[0] - self.y[i]


def r_squared(posed: Posed, answers: np.ndarray) -> float:
    """Share of the variance that the answers explain on the test rows; below 0 they are worse than the mean of all.

    The variance is that of all rows, the same for both splits: that of a few families' rows would be a matter of luck.
    """
    return float(1 - np.mean((posed.y[posed.split.test] - answers) ** 2) / np.var(posed.y))


def networks(asked: list[Posed], settings: Settings, run: tw.Run) -> np.ndarray:
    """R² of a network for each: all of them are fitted at once, on equally many rows."""
    rng = np.random.default_rng([run.seed, 20])
    train, held = (min(len(getattr(one.split, part)) for one in asked) for part in ("train", "validation"))
    models, scales, seeds = [], [], run.seeds(len(asked))
    for seed, one in zip(seeds, asked, strict=True):
        rows = np.concatenate([rng.permutation(one.split.train)[:train], rng.permutation(one.split.validation)[:held]])
        fitted = one.x[rows[:train]]
        scales.append((fitted.mean(axis=0), np.maximum(fitted.std(axis=0), 1e-9), one.y[rows[:train]]))
        middle, spread, y = scales[-1]
        net = tw.nn.MLP(one.x.shape[1], 1, width=settings.width, depth=2, key=jax.random.key(seed))
        x32 = ((one.x[rows] - middle) / spread).astype(np.float32)
        y32 = ((one.y[rows] - y.mean()) / y.std()).astype(np.float32)
        models.append(Network(net, jnp.asarray(x32), jnp.asarray(y32)))
    batch = min(64, train)
    fitted = tw.fit_many(
        models,
        tw.Objective(rows=tw.Residual(Network.error, tw.Rows(np.arange(train), batch_size=batch))),
        tw.Phase(
            tw.AdamW(tw.Cosine(3e-3, settings.steps, last=3e-5), decay=0.1),
            settings.steps,
            where=tw.frozen(lambda model: (model.x, model.y)),
        ),
        seeds=seeds,
        validation=tw.Objective(rows=tw.Residual(Network.error, tw.Rows(np.arange(train, train + held)))),
        run=run,
        callbacks=run.callbacks,
    )
    answer = eqx.filter_jit(lambda net, x: jax.vmap(net)(x)[:, 0])
    found = []
    for one, model, (middle, spread, y) in zip(asked, fitted.models, scales, strict=True):
        x = jnp.asarray(((one.x[one.split.test] - middle) / spread).astype(np.float32))
        found.append(r_squared(one, y.mean() + y.std() * np.asarray(answer(model.net, x), np.float64)))
    return np.array(found)


def classical(posed: Posed) -> dict[str, float]:
    """R² of ridge regression and of gradient boosting, fitted to training and validation rows."""
    rows = np.concatenate([posed.split.train, posed.split.validation])
    x, y, middle = posed.x[rows], posed.y[rows], posed.x[rows].mean(axis=0)
    spread = np.maximum(posed.x[rows].std(axis=0), 1e-9)
    ridge = RidgeCV(np.logspace(-2, 4, 13)).fit((x - middle) / spread, y)
    trees = HistGradientBoostingRegressor(max_iter=100, random_state=0).fit(x, y)
    test = posed.x[posed.split.test]
    return {
        "ridge": r_squared(posed, ridge.predict((test - middle) / spread)),
        "boosting": r_squared(posed, trees.predict(test)),
    }


def scored(asked: list[Posed], settings: Settings, run: tw.Run) -> dict[str, np.ndarray]:
    """R² of each model for each question, by the model's name."""
    by_model = [classical(one) for one in asked]
    found = {"network": networks(asked, settings, run)}
    return found | {name: np.array([one[name] for one in by_model]) for name in by_model[0]}


# ------------------------------------------------------------------------------------------------------------ the study
@tw.study("families", systems=["S19"], question="How much of a score is kinship, and not understanding?")
def families(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Score each model on each split, for trees or for a table; audit the splits of the trees.

    Without a family's effect a gap may remain: new families also have compositions that were never trained on. The
    control is a split by families that are dealt at random.
    """
    seeds = run.seeds(settings.seeds)
    if settings.table or settings.family or settings.target:
        return own_table(settings, seeds, run)
    asked: list[Posed] = []  # by tree, trait, split
    kin: list[list[bool]] = []
    for seed in seeds:
        sequences, family, law, inherited = grown(settings, seed)
        noise = NOISE * np.random.default_rng([seed, 21]).normal(size=len(family))
        dealt = np.random.default_rng([seed, 22]).permutation(family)
        splits = (
            tw.data.random_split(len(family), seed, FRACTIONS),
            tw.data.group_split(family, seed, FRACTIONS),
            tw.data.group_split(dealt, seed, FRACTIONS),
        )
        for share in TRAITS.values():
            y = (1 - share) ** 0.5 * law + share**0.5 * inherited + noise
            asked += [Posed(counts(sequences), y, one) for one in splits]
        frame = pd.DataFrame(LETTERS[sequences], columns=[f"site {i}" for i in range(settings.sites)])
        frame["trait"] = law + noise
        kin.append([tw.data.LeakKind.NEAR_DUPLICATES in tw.data.audit(frame, "trait", one).kinds for one in splits[:2]])
    shape = (len(seeds), len(TRAITS), len(SPLITS))
    scores = {name: one.reshape(shape) for name, one in scored(asked, settings, run).items()}
    gaps = {name: one[:, :, 0] - one[:, :, 1] for name, one in scores.items()}  # (trees, traits)
    both, law_alone, family_alone = range(3)
    draw(run, scores)

    def median(values: np.ndarray) -> tuple[float, tuple[float, float]]:
        return tw.median_interval(values.tolist())

    claims = [
        tw.Claim.at_least(f"A random split flatters the {name}: R² is higher by at least 0.1 than on new families",
                          *median(gaps[name][:, both]), 0.1)
        for name in ("network", "boosting")
    ]  # fmt: skip
    control = scores["network"][:, both, 0] - scores["network"][:, both, 2]
    claims += [
        tw.Claim.near("For families that are dealt at random the gap of the network vanishes",
                      *median(control), 0.0, tolerance=0.05),
        tw.Claim.near("Without a family's effect the gap of the network vanishes",
                      *median(gaps["network"][:, law_alone]), 0.0, tolerance=0.05),
        tw.Claim.at_most("Without a family's effect the gap is less than with it, network",
                         *median(gaps["network"][:, law_alone] - gaps["network"][:, both]), 0.0),
    ]  # fmt: skip
    only = scores["network"][:, family_alone]
    told, missed = (np.array(kin)[:, i].astype(float) for i in range(2))
    return [
        *claims,
        tw.Claim.at_least("Of a family's signal alone the network learns from kin: R² at random is at least 0.3",
                          *median(only[:, 0]), 0.3),
        tw.Claim.at_most("Of a family's signal alone nothing is known of new families: R² is at most 0.1",
                         *median(only[:, 1]), 0.1),
        tw.Claim.at_least("The audit finds near copies across the random split, share of the trees",
                          told.mean(), (told.min(), told.max()), 1.0),
        tw.Claim.at_most("It finds none where whole families are held out, share of the trees",
                         missed.mean(), (missed.min(), missed.max()), 0.0),
    ]  # fmt: skip


def own_table(settings: Settings, seeds: list[int], run: tw.Run) -> list[tw.Claim]:
    """The gap on a user's table; nothing is known of the truth there, so the claim is that there is none."""
    for name in ("table", "family", "target"):
        if not getattr(settings, name):
            remedy = "Give all three: --set table=FILE --set family=COLUMN --set target=COLUMN."
            raise tw.UserError(f"the setting '{name}' is missing", where="families", remedy=remedy)
    source = Path(settings.table).name
    frame = tw.data.read_table(settings.table)
    tw.data.infer_task(frame, settings.target, task=tw.data.Task.NUMBER, source=source)
    frame, _ = tw.data.drop_missing_target(frame, settings.target, source)
    family = tw.data.group_values(frame, settings.family, source)
    asked = []
    for seed in seeds:
        for split in (
            tw.data.random_split(len(frame), seed, FRACTIONS), tw.data.group_split(family, seed, FRACTIONS)
        ):  # fmt: skip
            schema = tw.data.learn_schema(
                frame, settings.target, split.train, task=tw.data.Task.NUMBER, group=settings.family, source=source
            )
            asked.append(Posed(schema.encode(frame, source).features, schema.encode_target(frame, source), split))
    if len({one.x.shape[1] for one in asked}) > 1:
        remedy = "Leave out columns that are nearly constant or rarely missing."
        raise tw.UserError("the training rows of some splits have other features", where=source, remedy=remedy)
    scores = {name: one.reshape(len(seeds), 1, 2) for name, one in scored(asked, settings, run).items()}
    draw(run, scores)
    return [
        tw.Claim.near(f"On {source} a random split scores {name} as families of '{settings.family}' held out do (R²)",
                      *tw.median_interval((one[:, 0, 0] - one[:, 0, 1]).tolist()), 0.0, tolerance=0.05)
        for name, one in scores.items()
    ]  # fmt: skip


def draw(run: tw.Run, scores: dict[str, np.ndarray]) -> None:
    """R² of each model on each split, a figure a trait."""
    traits = list(TRAITS) if len(next(iter(scores.values()))[0]) > 1 else ["your table"]
    for i, trait in enumerate(traits):
        bars = {
            f"{name}, {split}": one[:, i, j]
            for name, one in scores.items()
            for j, split in enumerate(SPLITS[: one.shape[2]])
        }
        caption = (
            f"The trait: {trait}. Medians over trees or splits with their intervals; R² below 0 is worse than a mean."
        )
        run.save_figure(
            f"{i + 1}-scores",
            lambda ax, bars=bars: tw.figures.comparison.medians(ax, bars, metric="R² on test rows"),
            title=f"What a split says: {trait}",
            size=(5.0, 4.0),
            caption=caption,
        )

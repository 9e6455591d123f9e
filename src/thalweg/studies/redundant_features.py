"""Handwritten digits once more: do penalties for orthogonality, and dropout, make a network's features less alike?

1,797 real digits of 8 × 8 pixels (Alpaydin and Kaynak, 1998); half of the rows are kept for the measurements, which
are all made there. Two units are redundant where the weights that they multiply by are parallel, or where their
answers rise and fall together; a network leans on single units where it fails without some of them (Srivastava et al.,
2014, call it co-adaptation). Beside the networks stands logistic regression, which has no features at all.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import thalweg as tw

PLAIN, RIGHT, LESS, DROPOUT = "neither", "orthogonality", "weaker orthogonality", "dropout"


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(12, "networks of each kind, each with its own seed", quick=6, ge=6, le=100)
    steps: int = tw.setting(3_000, "steps of Adam", quick=800, ge=1)
    batch: int = tw.setting(32, "rows a step", ge=1, le=800)
    width: int = tw.setting(64, "units in each of the two hidden layers", ge=2, le=4_096)
    rate: float = tw.setting(3e-3, "learning rate of Adam at the start; it falls along a cosine", gt=0, le=1)
    penalty: float = tw.setting(0.01, "weight of ‖WWᵀ − I‖² of each hidden layer", gt=0)
    dropout: float = tw.setting(0.3, "rate of dropout after each hidden layer", gt=0, lt=1)
    lost: float = tw.setting(0.3, "share of the hidden units that are taken away from a trained network", gt=0, lt=1)
    masks: int = tw.setting(100, "masked networks whose answers are averaged; and losses of units", quick=50, ge=2)


def hidden(model: tw.nn.MLP) -> list[jax.Array]:
    """The weights of the hidden layers, each (inputs, units)."""
    return [layer.weight for layer in model.layers if isinstance(layer, tw.nn.Linear)][:-1]


def signals(model: tw.nn.MLP, x: jax.Array, change: Callable[[int, jax.Array], jax.Array]) -> list[jax.Array]:
    """The answers of each hidden layer to rows x, and the network's.

    Args:
        model: a network; its dropout is off.
        x: (rows, features).
        change: (number of the hidden layer, its answers (rows, units)) -> what the next layer gets.
    """
    found: list[jax.Array] = []
    for layer in model.layers:
        x = layer(x)
        if isinstance(layer, tw.nn.Activation):
            found.append(x)
            x = change(len(found), x)
    return [*found, x]


def with_units_lost(model: tw.nn.MLP, x: jax.Array, share: float, key: jax.Array) -> jax.Array:
    """The probabilities of rows x, (rows, 10), when each hidden unit is lost by chance, for all rows at once.

    The units that are left count for more, as in training with dropout: the next layer's sums keep their mean.
    """
    loss = tw.nn.Dropout(share)

    def change(number: int, answers: jax.Array) -> jax.Array:
        return answers * loss(jnp.ones_like(answers[0]), key=jax.random.fold_in(key, number))

    return jax.nn.softmax(signals(model, x, change)[-1])


@eqx.filter_jit
def answers_by_mask(model: tw.nn.MLP, x: jax.Array, share: float, keys: jax.Array) -> jax.Array:
    """`with_units_lost` for each key, (keys, rows, 10)."""
    return jax.lax.map(lambda key: with_units_lost(model, x, share, key), keys)


def measured(model: tw.nn.MLP, x: jax.Array, labels: np.ndarray, settings: Settings, seed: int) -> dict[str, float]:
    """What the claims are about, of one network on the rows for measuring; accuracies in %."""
    *answers, logits = map(np.asarray, signals(model, x, lambda _, found: found))
    keys = jax.random.split(jax.random.key(seed), settings.masks)
    guesses = np.asarray(answers_by_mask(model, x, settings.lost, keys).argmax(axis=2))  # (masks, rows)
    average = np.asarray(answers_by_mask(model, x, settings.dropout, keys).mean(axis=0))  # (rows, 10)
    right = 100 * np.mean(logits.argmax(axis=1) == labels)
    scaled = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
    return {
        "weights": float(np.mean([tw.mean_cosine(np.asarray(weight).T) for weight in hidden(model)])),
        "answers": float(np.mean([tw.mean_cosine((one - one.mean(axis=0)).T) for one in answers])),
        "rank": float(np.mean([tw.effective_rank(one - one.mean(axis=0)) for one in answers])),
        "accuracy": float(right),
        "drop": float(right - 100 * np.mean(guesses == labels)),
        "average": float(100 * np.mean(average.argmax(axis=1) == labels)),
        "apart": float(np.abs(average - scaled).sum(axis=1).mean() / 2),  # total variation distance
    }


@tw.study(
    "redundant-features",
    systems=["S15", "S49"],
    question="Do orthogonality and dropout make features less redundant, and what do they cost?",
)
def redundant_features(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Train with neither, with one, and compare what the hidden units have in common."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    x, y = (images / 16).astype(np.float32), labels.astype(np.int32)  # (1797, 64) within 0 … 1, (1797,)
    train, more, test = tw.data.random_split(len(y), seed=run.seed, fractions=(0.4, 0.1, 0.5), stratify=y)
    train = np.concatenate([train, more])  # nothing is chosen here, so no rows are kept back for choosing
    seeds, where = run.seeds(settings.seeds), jnp.asarray(x[test])

    def trained(name: str, *, dropout: float = 0.0, **terms: Any) -> list[dict[str, float]]:
        data = tw.Supervised(x[train], y[train], loss=tw.losses.CrossEntropy(), batch_size=settings.batch)
        fitted = tw.fit_many(
            [
                tw.nn.MLP(64, 10, width=settings.width, depth=2, activation=jax.nn.relu, dropout=dropout,
                          key=jax.random.key(seed))
                for seed in seeds
            ],
            tw.Objective(digits=data, **terms),
            tw.Phase(tw.Adam(tw.Cosine(settings.rate, settings.steps)), settings.steps),
            seeds=seeds, run=run, callbacks=run.callbacks, name=name,
        )  # fmt: skip
        return [
            measured(model, where, y[test], settings, seed) for model, seed in zip(fitted.models, seeds, strict=True)
        ]

    right_angles = lambda weight: tw.Orthogonality(weight, where=tw.only(hidden))
    kinds = {
        PLAIN: trained("plain"),
        RIGHT: trained("orthogonality", right=right_angles(settings.penalty)),
        LESS: trained("orthogonality-less", right=right_angles(settings.penalty / 10)),
        DROPOUT: trained("dropout", dropout=settings.dropout),
    }
    found = {kind: {what: np.array([one[what] for one in runs]) for what in runs[0]} for kind, runs in kinds.items()}
    logistic = LogisticRegression(max_iter=5_000).fit(x[train], y[train])
    classical = 100 * float(np.mean(logistic.predict(x[test]) == y[test]))
    figures(run, found, settings)

    def less(what: str, kind: str) -> np.ndarray:
        return found[kind][what] - found[PLAIN][what]

    plain, dropped = found[PLAIN], found[DROPOUT]
    claims = []
    named_kinds = {
        RIGHT: f"Orthogonality, λ = {settings.penalty:g},",
        LESS: f"Orthogonality, λ = {settings.penalty / 10:g},",
        DROPOUT: "Dropout",
    }
    for kind, named in named_kinds.items():
        claims += [
            tw.Claim.median_at_most(f"{named} lowers the mean |cosine| between units' weights",
                                    less("weights", kind), 0.0),
            tw.Claim.median_at_most(f"{named} lowers the mean |correlation| between units' answers",
                                    less("answers", kind), 0.0),
            tw.Claim.median_at_most(f"{named} lowers what is lost with {settings.lost:.0%} of the hidden units",
                                    less("drop", kind), 0.0, unit="% points"),
            tw.Claim.median_at_most(f"{named} costs at most 0.5 points of accuracy", -less("accuracy", kind), 0.5,
                                    unit="% points"),
        ]  # fmt: skip
    return [
        *claims,
        tw.Claim.median_at_most(
            f"With dropout, the average of {settings.masks} masked networks is within 0.05 of the weight-scaling rule "
            "(total variation between their probabilities)", dropped["apart"], 0.05,
        ),
        tw.Claim.median_at_most("That average is no more accurate than the rule by 0.5 points",
                                dropped["average"] - dropped["accuracy"], 0.5, unit="% points"),
        tw.Claim.median_at_most("The plain network is no less accurate than logistic regression",
                                classical - plain["accuracy"], 0.0, unit="% points"),
        tw.Claim.median_at_most(f"With orthogonality, λ = {settings.penalty:g}, it is no less accurate than that",
                                classical - found[RIGHT]["accuracy"], 0.0, unit="% points"),
    ]  # fmt: skip


def figures(run: tw.Run, found: dict[str, dict[str, np.ndarray]], settings: Settings) -> None:
    """Each measurement, by kind of network."""
    told = {
        "weights": ("mean |cosine| between two units' weights", "Alike by their weights"),
        "answers": ("mean |correlation| between two units' answers", "Alike by their answers"),
        "rank": ("effective rank of the hidden answers", "How many directions are used"),
        "drop": (f"accuracy lost with {settings.lost:.0%} of the units, % points", "How much depends on single units"),
        "accuracy": ("accuracy, %", "What it costs"),
    }
    for i, (what, (metric, title)) in enumerate(told.items(), 1):
        runs = {kind: values[what] for kind, values in found.items()}
        run.save_figure(
            f"{i}-{what}",
            lambda ax, runs=runs, metric=metric: tw.figures.comparison.medians(ax, runs, metric=metric),
            title=title,
            caption="Medians over networks with their 95 % intervals, on rows that no network was trained on.",
            size=(5.0, 2.3),
        )
    arrays: dict[str, Any] = {f"{kind}-{what}": one for kind, all_ in found.items() for what, one in all_.items()}
    np.savez(run.arrays / "found.npz", **arrays)

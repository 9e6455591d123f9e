"""Handwritten digits: a plain network, over seeds, beside logistic regression and a support vector machine.

1,797 real digits of 8 × 8 pixels (Alpaydin and Kaynak, 1998; they come with scikit-learn). Rows are split at random, so
each writer's hand may be in every part: that flatters all three models alike, and is not what a new writer would see.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import thalweg as tw


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(10, "networks, each with its own seed", quick=6, ge=1, le=100)
    steps: int = tw.setting(3_000, "steps of Adam", quick=500, ge=1)
    batch: int = tw.setting(32, "rows a step", ge=1, le=1_000)
    width: int = tw.setting(128, "units in each of the two hidden layers", ge=1, le=4_096)
    smoothing: float = tw.setting(0.1, "share of each target that goes to all digits alike", ge=0, lt=1)
    rate: float = tw.setting(5e-3, "learning rate of Adam at the start; it falls along a cosine", gt=0, le=1)


@tw.study("digits", question="Does a plain network read handwritten digits as well as the classical methods do?")
def digits(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Train, score on rows that no model was trained on, and compare."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    x, y = (images / 16).astype(np.float32), labels.astype(np.int32)  # (1797, 64) within 0 … 1, (1797,)
    train, more, test = tw.data.random_split(len(y), seed=run.seed, stratify=y)  # 70, 15 and 15 %
    train = np.concatenate([train, more])  # nothing is chosen here, so no rows are kept back for choosing

    # The networks: each starts from its own weights and meets the same rows in its own order.
    seeds = run.seeds(settings.seeds)
    fitted = tw.fit_many(
        [tw.nn.MLP(64, 10, width=settings.width, depth=2, key=jax.random.key(seed)) for seed in seeds],
        tw.Objective(
            digits=tw.Supervised(
                jnp.array(x[train]),  # (1527, 64)
                jnp.array(y[train]),  # (1527,)
                loss=tw.losses.CrossEntropy(smoothing=settings.smoothing),
                batch_size=settings.batch,
            )
        ),
        tw.Phase(tw.Adam(tw.Cosine(settings.rate, settings.steps, last=settings.rate / 100)), settings.steps),
        seeds=seeds,
        run=run,
        callbacks=run.callbacks,
        instruments=[tw.GradientNorms()],
    )
    answers = [jax.vmap(model)(jnp.array(x[test])).argmax(axis=1) for model in fitted.models]
    right = np.asarray(answers) == y[test]  # (seeds, 270)

    logistic = LogisticRegression(max_iter=5_000).fit(x[train], y[train]).predict(x[test]) == y[test]  # (270,)
    machine = SVC(C=10).fit(x[train], y[train]).predict(x[test]) == y[test]  # (270,), radial kernel

    def draw(ax) -> None:
        models = {"networks, mean": right.mean(axis=0), "logistic regression": logistic, "support vectors": machine}
        for i, (name, found) in enumerate(models.items()):
            wrong = [np.sum(1 - found[y[test] == digit]) for digit in range(10)]
            ax.bar(np.arange(10) + 0.27 * (i - 1), wrong, width=0.25, label=name)
        ax.set_xticks(range(10))
        ax.set_xlabel("digit")
        ax.set_ylabel(f"wrong answers on {len(test)} rows")
        ax.legend()

    caption = f"Wrong answers by true digit: the mean of {len(seeds)} networks, and the two classical methods."
    run.save_figure("errors", draw, title="Which digits are misread", caption=caption)

    accuracy = 100 * right.mean(axis=1)  # (seeds,), %
    over = f"over {len(seeds)} seeds on the same {len(test)} test rows"
    median, interval = tw.median_interval(accuracy.tolist())
    return [
        tw.Claim.at_least(f"The median test accuracy {over} is at least 97.5 %", median, interval, 97.5, unit="%"),
        compared(f"The network is at least as accurate as logistic regression {over}", right, logistic, run.seed),
        compared(f"The network is at least as accurate as a support vector machine {over}", right, machine, run.seed),
    ]


def compared(statement: str, right: np.ndarray, other: np.ndarray, seed: int) -> tw.Claim:
    """The claim that the mean network scores no lower than another; its interval also allows for the few test rows.

    Args:
        statement: of the claim.
        right, other: whether an answer is right, shapes (seeds, rows) and (rows,).
        seed: of the bootstrap over seeds and rows (Owen, 2007), 95 %.
    """
    rng, (seeds, rows) = np.random.default_rng(seed), right.shape
    gaps = []
    for _ in range(2_000):
        i, j = rng.integers(seeds, size=seeds), rng.integers(rows, size=rows)
        gaps.append(100 * (right[np.ix_(i, j)].mean() - other[j].mean()))
    low, high = np.quantile(gaps, [0.025, 0.975])
    return tw.Claim.at_least(statement, 100 * (right.mean() - other.mean()), (low, high), 0.0, unit="% points")

"""Honest held-out scores: intervals by bootstrap, and a recommendation that may be a baseline."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thalweg.data import Task

RESAMPLES = 2_000
SMALLEST_PROBABILITY = 1e-12
"""Floor of a probability in the log loss: a model that was sure and wrong pays 27.6, not infinity."""

LIKELIHOOD = "NLL"
"""Mean negative log-likelihood, nats a row: of a density in the target's units, or of a count's probability."""

Score = Callable[[np.ndarray, np.ndarray], float]
"""(truth, answers) -> score, on any resample of rows."""


def score_models(
    task: Task,
    truth: np.ndarray,
    answers: Mapping[str, np.ndarray],
    seed: int,
    costs: np.ndarray | None = None,
    clusters: np.ndarray | None = None,
) -> dict[str, Any]:
    """Scores of each model on the same test rows, with 95 % bootstrap intervals, and which one to use.

    The same resamples serve every model, so that the interval of a difference is that of paired rows (Efron and
    Tibshirani, 1993, chapter 16). The first of `answers` is the network.

    Args:
        task: number or classes.
        truth: (m,) numbers, or class codes.
        answers: by model, (m,) numbers or (m, k) probabilities.
        seed: of the resampling.
        costs: (m,) negative log-likelihood of each row under the network, where it has one; its mean is then a score.
        clusters: (m,) labels of rows that belong together (a group, a stretch of time) and are resampled together,
            since they are not independent; None: every row stands alone.
    Returns:
        what `scores.json` holds.
    """
    metrics = _NUMBER if task is Task.NUMBER else _CLASSES
    main, higher = ("R²", True) if task is Task.NUMBER else ("log loss", False)
    rng = np.random.default_rng(seed)
    alone = clusters is None
    rows = rng.integers(0, len(truth), (RESAMPLES, len(truth))) if alone else _resamples(rng, clusters)
    models, resampled = [], {}
    for name, answer in answers.items():
        values = {}
        for metric, score in metrics.items():
            draws = np.array([score(truth[r], answer[r]) for r in rows])
            values[metric] = [score(truth, answer), *_interval(draws)]
            if metric == main:
                resampled[name] = draws
        models.append({"name": name, "values": values})
    if costs is not None:
        models[0]["values"][LIKELIHOOD] = [float(costs.mean()), *_interval(np.array([costs[r].mean() for r in rows]))]
    network, *rivals = answers
    sign = 1 if higher else -1
    best = max(rivals, key=lambda name: sign * metrics[main](truth, answers[name]))
    value = metrics[main](truth, answers[network]) - metrics[main](truth, answers[best])
    low, high = _interval(resampled[network] - resampled[best])
    gain = (low, high) if higher else (-high, -low)
    return {
        "task": task.value,
        "metric": main,
        "higher_is_better": higher,
        "test_rows": len(truth),
        "models": models,
        "difference": {"against": best, "value": value, "low": low, "high": high},
        "recommendation": _recommend(network, best, *gain, len(truth)),
        "interval": f"95 % by bootstrap, {RESAMPLES:,} resamples of the test "
        + ("rows" if clusters is None else "rows, those of a group or a stretch of time together"),
    }


def _resamples(rng: np.random.Generator, clusters: np.ndarray) -> list[np.ndarray]:
    """Row numbers of each resample: whole clusters drawn with replacement."""
    order = np.argsort(clusters, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1)
    picks = rng.integers(0, len(members), (RESAMPLES, len(members)))
    return [np.concatenate([members[i] for i in pick]) for pick in picks]


def _recommend(network: str, best: str, low: float, high: float, rows: int) -> dict[str, str]:
    """Which to use, from the interval of what the network gains over the best baseline."""
    on = f"on {rows} test rows"
    if not np.isfinite(low + high):
        return {"use": network, "sentence": f"Too few test rows to score anything: {rows}. Hold out more of the table."}
    if high < 0:
        return {"use": best, "sentence": f"Use {best}: it beats the network {on}, and more than chance explains."}
    if low > 0:
        return {"use": network, "sentence": f"Use the network: it beats {best} {on}, and more than chance explains."}
    return {
        "use": network,
        "sentence": f"The network and {best} cannot be told apart {on}; the network also gives each row's doubt.",
    }


def _interval(draws: np.ndarray) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


def _r2(truth: np.ndarray, answer: np.ndarray) -> float:
    spread = np.sum((truth - truth.mean()) ** 2)
    return float(1 - np.sum((truth - answer) ** 2) / spread) if spread > 0 else float("nan")


def _rmse(truth: np.ndarray, answer: np.ndarray) -> float:
    return float(np.sqrt(np.mean((truth - answer) ** 2)))


def _mae(truth: np.ndarray, answer: np.ndarray) -> float:
    return float(np.mean(np.abs(truth - answer)))


def _log_loss(truth: np.ndarray, answer: np.ndarray) -> float:
    chosen = answer[np.arange(len(truth)), truth]
    return float(-np.mean(np.log(np.maximum(chosen, SMALLEST_PROBABILITY))))


def _accuracy(truth: np.ndarray, answer: np.ndarray) -> float:
    return float(np.mean(np.argmax(answer, axis=1) == truth))


_NUMBER: dict[str, Score] = {"R²": _r2, "RMSE": _rmse, "MAE": _mae}
_CLASSES: dict[str, Score] = {"log loss": _log_loss, "accuracy": _accuracy}

"""`thalweg fit` with the loss it chooses against the same fit with a Gaussian: held-out likelihood and R², paired rows.

Four generated tables (counts, proportions, positive and skewed, heavy tails) and diabetes, three seeds each, defaults
otherwise. Likelihoods of whole-number targets are probabilities of the whole numbers on both sides: a Gaussian's is the
mass of its unit bins, the lowest with all that lies below. Run: .venv/bin/python -m benchmarks.table_losses
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from sklearn import datasets

from benchmarks.side_by_side import record
from thalweg.tables import Request, TableSettings, fit_table, load_table_model
from thalweg.tables.family import is_count
from thalweg.tables.mixture import Mixture
from thalweg.tables.prepare import prepare_table
from thalweg.tables.request import LossChoice

ROWS = 1_000
RESAMPLES = 2_000


def _table(x: np.ndarray, target: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]).assign(target=target)


def counts(seed: int) -> pd.DataFrame:
    """Negative binomial counts, dispersion ½, means from 0.3 to 20."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 5))
    mean = np.exp(0.8 + 0.6 * x[:, 0] - 0.4 * x[:, 1] + 0.3 * np.sin(2 * x[:, 2]))
    return _table(x, rng.negative_binomial(2, 2 / (2 + mean)))


def proportions(seed: int) -> pd.DataFrame:
    """Beta distributed, which is not the logit-normal that is fitted, with an interaction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 5))
    mean = 1 / (1 + np.exp(1.5 - x[:, 0] - 0.8 * x[:, 1] * x[:, 2]))
    return _table(x, np.clip(rng.beta(12 * mean, 12 * (1 - mean)), 1e-4, 1 - 1e-4).round(4))


def positive(seed: int) -> pd.DataFrame:
    """Gamma distributed, which is not the log-normal that is fitted, with a kink."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 5))
    mean = np.exp(2 + 0.7 * x[:, 0] + 0.5 * np.abs(x[:, 1]) - 0.3 * x[:, 2])
    return _table(x, rng.gamma(2.0, mean / 2) + 1e-3)


def heavy(seed: int) -> pd.DataFrame:
    """Student's t noise of 2.5 degrees of freedom about a smooth function."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 5))
    mean = 2 * x[:, 0] + np.sin(2 * x[:, 1]) + x[:, 2] * x[:, 3]
    return _table(x, mean + 0.7 * rng.standard_t(2.5, size=ROWS))


def diabetes(seed: int) -> pd.DataFrame:
    """Real: 442 patients. The seed only splits."""
    return datasets.load_diabetes(as_frame=True, scaled=False).frame


def evaluated(request: Request, run: Path) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """The model's class, and on the test rows: truth, predicted means, negative log-likelihoods."""
    fit_table(request, run)
    prepared, (model, _) = prepare_table(request), load_table_model(run)
    x, y = prepared.x[prepared.split.test], prepared.y[prepared.split.test]
    with jax.enable_x64(True):
        mixture = Mixture(model.members, x)
        costs = mixture.costs(y)
    if is_count(prepared.y).all() and not model.members[0].is_discrete:
        below = np.where(y > 0, mixture.cdf(y - 0.5), 0)
        costs = -np.log(np.maximum(mixture.cdf(y + 0.5) - below, 1e-300))
    return type(model.members[0]).__name__, y, mixture.prediction().mean, costs


def interval(draws: np.ndarray) -> list[float]:
    """The middle 95 %."""
    return [round(float(end), 4) for end in np.quantile(draws, [0.025, 0.975])]


def main() -> None:
    """A row for each table and seed."""
    tables: list[Callable[[int], pd.DataFrame]] = [counts, proportions, positive, heavy, diabetes]
    found = []
    r2 = lambda y, mean: 1 - np.sum((y - mean) ** 2) / np.sum((y - y.mean()) ** 2)
    with tempfile.TemporaryDirectory() as folder:
        for make in tables:
            for seed in range(3):
                table = Path(folder) / f"{make.__name__}-{seed}.csv"
                make(seed).to_csv(table, index=False)
                ways = {}
                for choice in (LossChoice.AUTO, LossChoice.GAUSSIAN):
                    request = Request(table, "target", seed=seed, settings=TableSettings(loss=choice))
                    ways[choice] = evaluated(request, Path(folder) / f"{make.__name__}-{seed}-{choice}")
                name, y, mean, costs = ways[LossChoice.AUTO]
                _, _, plain_mean, plain_costs = ways[LossChoice.GAUSSIAN]
                rows = np.random.default_rng(0).integers(0, len(y), (RESAMPLES, len(y)))
                gains = np.array([r2(y[r], mean[r]) - r2(y[r], plain_mean[r]) for r in rows])
                found.append(
                    {
                        "table": make.__name__,
                        "seed": seed,
                        "chosen": name,
                        "NLL": round(float(costs.mean()), 4),
                        "NLL, Gaussian": round(float(plain_costs.mean()), 4),
                        "NLL saved": round(float((plain_costs - costs).mean()), 4),
                        "NLL saved, interval": interval((plain_costs - costs)[rows].mean(1)),
                        "R²": round(float(r2(y, mean)), 4),
                        "R², Gaussian": round(float(r2(y, plain_mean)), 4),
                        "R² gained, interval": interval(gains),
                    }
                )
    record("table_losses", {"runs": found})


if __name__ == "__main__":
    main()

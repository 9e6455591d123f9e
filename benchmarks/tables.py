"""`thalweg fit` with its defaults against linear models and gradient boosting on five tables, three seeds each.

For each run: the network's score, the best baseline's, the 95 % interval of their difference on paired test rows, and
which model the report tells the user to use. Run: .venv/bin/python -m benchmarks.tables
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import datasets

from benchmarks.side_by_side import record
from thalweg.tables import Request, fit_table


def california_like(rows: int = 2_000) -> pd.DataFrame:
    """Eight columns, smooth and not additive, with noise that differs from row to row (made, not measured)."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 8))
    smooth = np.exp(0.5 * x[:, 0]) + x[:, 1] * x[:, 2] - np.abs(x[:, 3]) + 0.3 * x[:, 4]
    y = smooth + 0.3 * rng.normal(size=rows) * (1 + 0.5 * (x[:, 5] > 0))
    return pd.DataFrame(x, columns=[f"x{i}" for i in range(8)]).assign(target=y)


TABLES = {
    "diabetes": lambda: datasets.load_diabetes(as_frame=True, scaled=False).frame,
    "wine": lambda: datasets.load_wine(as_frame=True).frame,
    "breast cancer": lambda: datasets.load_breast_cancer(as_frame=True).frame,
    "digits": lambda: datasets.load_digits(as_frame=True).frame,
    "California-like": california_like,
}


def main() -> None:
    """A row for each table and seed."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in TABLES.items():
            table = Path(folder) / f"{name}.csv"
            make().to_csv(table, index=False)
            for seed in range(3):
                scores = fit_table(Request(table, "target", seed=seed), Path(folder) / f"{name}-{seed}").scores
                metric, difference = scores["metric"], scores["difference"]
                values = {model["name"]: model["values"][metric][0] for model in scores["models"]}
                found.append(
                    {
                        "table": name,
                        "seed": seed,
                        "metric": metric,
                        "network": round(values["thalweg"], 4),
                        "best baseline": difference["against"],
                        "its score": round(values[difference["against"]], 4),
                        "gain": round(difference["value"], 4),
                        "interval": [round(difference["low"], 4), round(difference["high"], 4)],
                        "told to use": scores["recommendation"]["use"],
                    }
                )
    record("tables", {"runs": found})


if __name__ == "__main__":
    main()

"""`thalweg fit` on 10,000 rows and 20 columns with 5 members, from the command to the report, with every compile.

Run: .venv/bin/python -m benchmarks.table_fit
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.side_by_side import record, seconds, summary


def table(path: Path, rows: int = 10_000, columns: int = 20) -> None:
    """A smooth function of a few columns, with noise that depends on one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns))
    y = np.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 3] + rng.normal(size=rows) * np.exp(0.5 * x[:, 4] - 1)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(columns)])
    frame.assign(y=y).to_csv(path, index=False)


def main() -> None:
    """Three whole processes, each with an empty compilation cache."""
    times = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            table(Path(folder) / "table.csv")
            command = [sys.executable, "-m", "thalweg.cli", "fit", f"{folder}/table.csv", "--target", "y"]
            environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
            run = lambda c=command, f=folder, e=environment: subprocess.run(
                [*c, "--out", f"{f}/run"], check=True, env=e
            )
            times.append(seconds(run))
    record("table_fit", {"10,000 x 20, 5 members, s": summary(times)})


if __name__ == "__main__":
    main()

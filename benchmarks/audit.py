"""What the leakage audit costs: a table of 100,000 rows and 22 columns. Run: `python -m benchmarks.audit`.

The bar: under 20 s on 2 cores. Planted: 500 copies, 2,000 near copies, a column in other units.
"""

import numpy as np
import pandas as pd

from benchmarks.side_by_side import record, seconds, summary
from thalweg.data import audit, random_split

SIZES, COLUMNS, REPEATS = (1_000, 10_000, 100_000), 18, 3


def table(n: int) -> pd.DataFrame:
    """Numbers with some correlation, whole numbers, two columns of names, and the leaks."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, COLUMNS)) @ (np.eye(COLUMNS) + 0.3 * rng.normal(size=(COLUMNS, COLUMNS)))
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(COLUMNS)])
    frame["visits"], frame["kind"] = rng.poisson(9, n), rng.choice(list("abcde"), n)
    frame["y"] = x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=n)
    near = frame.iloc[rng.choice(n, n // 50)].copy()
    near[[f"x{i}" for i in range(COLUMNS)]] += 0.01 * rng.normal(size=(len(near), COLUMNS))
    copies = frame.iloc[rng.choice(n, n // 200)]
    whole = pd.concat([frame, near, copies]).iloc[rng.permutation(n + len(near) + len(copies))][:n]
    return whole.assign(y_in_feet=3.28084 * whole["y"]).reset_index(drop=True)


def main() -> None:
    """Seconds by number of rows, and what was found."""
    rows = []
    for n in SIZES:
        frame, split = table(n), random_split(n, 0)
        took = [seconds(lambda frame=frame, split=split: audit(frame, "y", split)) for _ in range(REPEATS)]
        kinds = ", ".join(sorted(one.value for one in audit(frame, "y", split).kinds))
        rows.append({"rows": n, "seconds": summary(took), "found": kinds})
    record("audit", {"audit of 22 columns": rows})


if __name__ == "__main__":
    main()

"""`fit_many` of 5 members against 5 single fits: the bar is 1.1 x their sum plus one compile.

Each way runs in turn in one process with the programs of the others already forgotten (`jax.clear_caches`), so every
figure includes its own compiling. Run: .venv/bin/python -m benchmarks.members
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.side_by_side import alternate, ratio, record, seconds, summary
from thalweg.losses import squared_error
from thalweg.nn import MLP
from thalweg.objective import Objective, Supervised
from thalweg.optim import Adam
from thalweg.train import Layout, Phase, fit, fit_many

STEPS = 5_000


def main() -> None:
    """Alternate single fits, members in turn, and members vmapped."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7_000, 20)).astype(np.float32)
    y = np.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    data = Objective(data=Supervised(jnp.asarray(x), jnp.asarray(y), loss=squared_error, batch_size=128))
    models = [MLP(20, 1, width=64, depth=2, key=jax.random.key(i)) for i in range(5)]
    phase = Phase(Adam(1e-3), STEPS)

    def singles() -> float:
        jax.clear_caches()
        first = seconds(lambda: fit(models[0], data, phase, seed=0))
        rest = []
        for i in range(1, 5):  # the compiled program is not shared between calls of fit, so take it off
            found = []
            total = seconds(lambda i=i, found=found: found.append(fit(models[i], data, phase, seed=i)))
            rest.append(total - found[0].conduct[0]["first_stretch_seconds"])
        return first + sum(rest)

    def many(layout: Layout) -> float:
        jax.clear_caches()
        return seconds(lambda: fit_many(models, data, phase, layout=layout))

    times = alternate(
        {
            "five single fits, one compile": singles,
            "in turn": lambda: many(Layout.IN_TURN),
            "vmapped": lambda: many(Layout.VMAPPED),
        },
        5,
    )
    single = times["five single fits, one compile"]
    record(
        "members",
        {
            "seconds": {name: summary(values) for name, values in times.items()},
            "in turn / singles": ratio(times["in turn"], single),
            "vmapped / singles": ratio(times["vmapped"], single),
        },
    )


if __name__ == "__main__":
    main()

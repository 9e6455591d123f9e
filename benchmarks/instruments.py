"""What instruments cost: the same training with and without them, alternately.

Digits (1,797 rows), 64-128-128-10, Adam, batch 32, float32. The seconds of 30,000 steps less those of 3,000 are the
walk alone; compiling the programs that look is given apart, as the 3,000 steps with them less those without. The rule
spends at most 5 % of a run's gradients on all instruments together; here is what that is in time.
Run: .venv/bin/python -m benchmarks.instruments
"""

from functools import partial

import jax
import numpy as np
from sklearn.datasets import load_digits

import thalweg as tw
from benchmarks.side_by_side import alternate, ratio, record, seconds, summary

SHORT, LONG = 3_000, 30_000
SETS = {
    "none": (),
    "GradientNorms": (tw.GradientNorms(),),
    "five": (tw.GradientNorms(), tw.PartGradients(), tw.NoiseRatio(), tw.Activations(), tw.Sharpness()),
}


def train(names: str, steps: int) -> float:
    """Seconds of one fit, compiling included."""
    x, y = load_digits(return_X_y=True)
    data = tw.Supervised((x / 16).astype(np.float32), y.astype(np.int32), loss=tw.losses.CrossEntropy(), batch_size=32)
    model = tw.nn.MLP(64, 10, width=128, depth=2, key=jax.random.key(0))
    phase = tw.Phase(tw.Adam(1e-3), steps)
    return seconds(lambda: tw.fit(model, tw.Objective(digits=data), phase, instruments=SETS[names]))


def main() -> None:
    """Alternate the sets and the lengths."""
    ways = {f"{name}, {steps:,} steps": partial(train, name, steps) for name in SETS for steps in (SHORT, LONG)}
    times = alternate(ways, 5)
    short = {name: times[f"{name}, {SHORT:,} steps"] for name in SETS}
    walk = {name: [a - b for a, b in zip(times[f"{name}, {LONG:,} steps"], short[name], strict=True)] for name in SETS}
    others = [name for name in SETS if name != "none"]
    record(
        "instruments",
        {
            "seconds of 27,000 steps": {name: summary(values) for name, values in walk.items()},
            "walk, ratio to none": {name: ratio(walk[name], walk["none"]) for name in others},
            "compiling and 3,000 steps, seconds more than none": {
                name: summary([a - b for a, b in zip(short[name], short["none"], strict=True)]) for name in others
            },
        },
    )


if __name__ == "__main__":
    main()

"""The CTC loss and its gradient with respect to logits: thalweg against PyTorch, in float32 on the same cores.

16 examples of 200 steps, 32 classes and 30 labels; then 2 examples of 5,000 steps. Beside the times, how far either
gradient is from PyTorch's own in float64. Run: .venv/bin/python -m benchmarks.ctc
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.side_by_side import alternate, ratio, record, seconds, summary
from thalweg.losses import ctc

SHAPES = {"200 steps": (16, 200, 32, 30), "5,000 steps": (2, 5_000, 32, 60)}  # examples, steps, classes, labels
REPEATS, ROUNDS = 20, 15
SCALES = (1, 3, 10, 30)  # of the logits, from flat to so peaked that a step's shares span e^±100


def data(shape: tuple[int, int, int, int], scale: float) -> tuple[np.ndarray, ...]:
    """Random logits and labels of full length."""
    examples, steps, classes, labels = shape
    rng = np.random.default_rng(0)
    logits = (scale * rng.normal(size=(examples, steps, classes))).astype(np.float32)
    full = (np.full(examples, steps, np.int32), np.full(examples, labels, np.int32))
    return logits, rng.integers(1, classes, (examples, labels)).astype(np.int32), *full


compiled = jax.jit(jax.value_and_grad(lambda *arrays: jax.vmap(ctc)(*arrays).sum()))


def by_thalweg(arrays: tuple[np.ndarray, ...]) -> Callable[[], Any]:
    """A call that returns value and gradient."""
    held = [jax.device_put(array) for array in arrays]
    return lambda: jax.block_until_ready(compiled(*held))


def by_torch(arrays: tuple[np.ndarray, ...], dtype: torch.dtype = torch.float32) -> Callable[[], Any]:
    """The same in PyTorch."""
    logits, labels, steps, counts = arrays
    x = torch.tensor(logits, dtype=dtype, requires_grad=True)
    held = [torch.tensor(array, dtype=torch.long) for array in (labels, steps, counts)]

    def work() -> tuple[float, np.ndarray]:
        x.grad = None
        log_probabilities = torch.log_softmax(x, -1).transpose(0, 1)
        value = torch.nn.functional.ctc_loss(log_probabilities, *held, reduction="sum")
        value.backward()
        assert x.grad is not None
        return value.item(), x.grad.numpy()

    return work


def repeated(call: Callable[[], Any], times: int) -> float:
    """Seconds of that many calls."""
    return seconds(lambda: [call() for _ in range(times)])


def errors(arrays: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Largest differences of the gradients, which lie within -1 … 1, from PyTorch's in float64."""
    _, exact = by_torch(arrays, torch.float64)()
    ways = {"thalweg": by_thalweg(arrays), "torch": by_torch(arrays)}
    return {name: float(np.abs(np.asarray(way()[1], np.float64) - exact).max()) for name, way in ways.items()}


def main() -> None:
    """Alternate both, report milliseconds, ratios and errors."""
    figures: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        arrays = data(shape, 1)
        repeats = REPEATS if shape[1] < 1_000 else 2
        calls = {"thalweg": by_thalweg(arrays), "torch": by_torch(arrays)}
        for call in calls.values():
            call()
        ways = {who: partial(repeated, call, repeats) for who, call in calls.items()}
        times = alternate(ways, ROUNDS)
        figures[name] = {
            "milliseconds": {who: {k: 1e3 * v / repeats for k, v in summary(t).items()} for who, t in times.items()},
            "ratio to torch": ratio(times["thalweg"], times["torch"]),
            "gradient's error by scale of the logits": {
                str(scale): errors(data(shape, scale)) for scale in (SCALES if shape[1] < 1_000 else (3,))
            },
        }
    record("ctc", figures)


if __name__ == "__main__":
    main()

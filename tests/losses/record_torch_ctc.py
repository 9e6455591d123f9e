"""Record torch's CTC loss and its gradient with respect to logits, for `test_ctc_loss.py` to compare ours with.

Run with torch installed: `python tests/losses/record_torch_ctc.py`. It writes torch_ctc.json beside itself. In 64 bits:
in 32 torch's own gradient is 4e-4 to 3e-3 off at 200 steps of 32 classes, and 3e-2 at 5,000 steps. The logits are whole
hundredths in closed form, so that nothing depends on a random generator or on the last bit of a sine.
"""

import json
import math
import platform
from pathlib import Path
from typing import Any

STEPS, CLASSES, WIDTH = 24, 6, 7
SCALES = (1, 3, 10, 30)
# labels, and how many steps count
EXAMPLES: list[tuple[list[int], int]] = [
    ([1, 2, 3, 4, 5, 1, 2], 24),
    ([3, 3, 3, 3, 1, 1], 17),
    ([2, 5, 5, 2], 5),  # one alignment only: four labels, and a blank between the two 5
    ([], 9),
    ([4], 1),
]
LONG_STEPS, LONG_LABELS = 5_000, [1 + (3 * i + i // 4) % 4 for i in range(40)]
LONG_KEPT = [*range(0, LONG_STEPS, 250), LONG_STEPS - 1]


def logits_of(example: int, steps: int, scale: float) -> list[list[float]]:
    """(steps, CLASSES), rough in both directions."""
    angle = lambda t, c: 1.3 * example + 2.1 * t + 3.7 * c + 0.9 * ((t * (c + 1)) % 11)
    return [[round(100 * scale * math.sin(angle(t, c))) / 100 for c in range(CLASSES)] for t in range(steps)]


def record() -> dict[str, Any]:
    """Values and gradients: by scale and example; and of the long one, at the steps kept."""
    import torch

    def both(logits: list[list[float]], labels: list[int], steps: int) -> tuple[float, list[list[float]]]:
        # as float32 holds them: both sides are then asked about the same numbers
        x = torch.tensor(logits, dtype=torch.float32).double().requires_grad_()
        log_probabilities = torch.log_softmax(x, -1)[:, None]
        target = torch.tensor([labels], dtype=torch.long)
        lengths = (torch.tensor([steps]), torch.tensor([len(labels)]))
        value = torch.nn.functional.ctc_loss(log_probabilities, target, *lengths, reduction="sum")
        value.backward()
        return value.item(), x.grad.tolist()

    def short(rows: list[list[float]]) -> list[list[float]]:
        return [[float(f"{number:.11g}") for number in row] for row in rows]

    found: dict[str, list[dict[str, Any]]] = {}
    for scale in SCALES:
        found[str(scale)] = []
        for i, (labels, steps) in enumerate(EXAMPLES):
            value, gradient = both(logits_of(i, STEPS, scale), labels, steps)
            found[str(scale)].append({"value": value, "gradient": short(gradient[:steps])})
    value, gradient = both(logits_of(0, LONG_STEPS, 3), LONG_LABELS, LONG_STEPS)
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    long = {"value": value, "gradient": short([gradient[t] for t in LONG_KEPT])}
    return {"versions": versions, "scales": found, "long": long}


if __name__ == "__main__":
    text = json.dumps(record(), separators=(",", ":"))
    Path(__file__).with_name("torch_ctc.json").write_text(text + "\n", encoding="utf-8")

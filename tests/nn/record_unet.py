"""Record what PyTorch's U-Net answers, for `test_unet.py` to compare ours with.

Run with torch installed: `python tests/nn/record_unet.py`. It writes torch_unet.json beside itself. All numbers are in
closed form and in thalweg's layout, so that nothing depends on a random generator.
"""

import json
from pathlib import Path

import numpy as np

WIDTHS, GROUPS, SIDES = (2, 4, 6), 2, (12, 8)


def double(before: int, after: int) -> list[tuple[int, ...]]:
    """Shapes of two convolutions, each with the weight and bias of its normalization."""
    return [(3, 3, before, after), (after,), (after,), (3, 3, after, after), (after,), (after,)]


def shapes() -> list[tuple[int, ...]]:
    """Of all parameters: the levels downwards; up-convolutions; the levels upwards; the head."""
    a, b, c = WIDTHS
    down = [*double(1, a), *double(a, b), *double(b, c)]
    up = [(c, 4 * b), (b,), (b, 4 * a), (a,)]
    return [*down, *up, *double(2 * b, b), *double(2 * a, a), (1, 1, a, 1), (1,)]


def pattern(k: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers between -1 and 1 that follow no simple order."""
    return np.sin(1.0 + k + 1.7 * np.arange(np.prod(shape, dtype=int)) ** 1.1).reshape(shape)


def parameters() -> list[np.ndarray]:
    """The network's, float64."""
    return [0.6 * pattern(k, shape) + (0.8 if len(shape) == 1 else 0.0) for k, shape in enumerate(shapes())]


def image_and_mask() -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 1) and (h, w)."""
    image = pattern(100, (*SIDES, 1))
    return image, (pattern(200, SIDES) > 0.3).astype(np.float64)


def main() -> None:
    """Run the network in PyTorch, float64."""
    import torch
    from torch.nn import functional

    torch.set_default_dtype(torch.float64)
    ours = [torch.tensor(value, requires_grad=True) for value in parameters()]
    given = iter(ours)
    as_kernel = lambda w: w.permute(3, 2, 0, 1)

    def two(x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = functional.conv2d(x, as_kernel(next(given)), padding=1)
            x = functional.relu(functional.group_norm(x, GROUPS, next(given), next(given), eps=1e-5))
        return x

    image, mask = map(torch.as_tensor, image_and_mask())
    x = image.permute(2, 0, 1)[None]
    seen = []
    for i in range(len(WIDTHS)):
        x = two(x if i == 0 else functional.max_pool2d(x, 2))
        seen.append(x)
    ups = [(next(given), next(given)) for _ in WIDTHS[1:]]
    for (weight, bias), bridge in zip(ups, seen[-2::-1], strict=True):
        kernel = weight.reshape(weight.shape[0], 2, 2, -1).permute(0, 3, 1, 2)
        larger = functional.conv_transpose2d(x, kernel, bias, stride=2)
        x = two(torch.cat([bridge, larger], dim=1))
    logits = functional.conv2d(x, as_kernel(next(given)), next(given))[0, 0]
    p = torch.sigmoid(logits)
    loss = 1 - (p * mask).sum() / (p + mask - p * mask).sum()
    loss.backward()
    gradients = [one.grad for one in ours]
    seen_along = [float((g * torch.as_tensor(pattern(300 + k, tuple(g.shape)))).sum()) for k, g in enumerate(gradients)]
    found = {
        "torch": torch.__version__,
        "logits": logits.tolist(),
        "loss": float(loss.detach()),
        "gradients": seen_along,
    }
    Path(__file__).with_name("torch_unet.json").write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

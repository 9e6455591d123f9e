"""One Adam step of a U-Net 16-32-64 on 8 images of 128 × 128 in float32: thalweg against PyTorch.

The same layers on both sides (3 × 3 convolutions with zeros around, group normalization by 4 channels or none, maxima
over 2 × 2, up-convolutions 2 × 2), soft IoU. `benchmarks.weight_gradient` times the products of
single convolutions.
Run: .venv/bin/python -m benchmarks.unet
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.side_by_side import alternate, ratio, record, seconds, summary
from thalweg.losses import soft_iou
from thalweg.nn import UNet
from thalweg.objective import Objective, Supervised
from thalweg.optim import Adam
from thalweg.train import Mode, Phase
from thalweg.train.members import Layout
from thalweg.train.phases import Choices, Traveller, prepare

IMAGES, SIDE, BATCH, STEPS = 64, 128, 8, 4
WIDTHS = (16, 32, 64)


def data() -> tuple[np.ndarray, np.ndarray]:
    """Random images: the time of a step does not depend on what they show."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(IMAGES, SIDE, SIDE, 1)).astype(np.float32), rng.integers(0, 2, (IMAGES, SIDE, SIDE))


def thalweg_steps(groups: int | None):
    """A call that takes STEPS steps of the engine's own compiled program, and returns seconds.

    One step is one program: the engine's rule for convolutions on a CPU.
    """
    x, y = data()
    rows = Supervised(jnp.asarray(x), jnp.asarray(y, jnp.int32), loss=soft_iou, batch_size=BATCH)
    model = UNet(1, None, widths=WIDTHS, groups=groups, key=jax.random.key(0))
    choices = Choices(None, None, None, Mode.STEP, Layout.IN_TURN, None, None)
    with jax.default_matmul_precision("highest"):
        prepared = prepare([Traveller(model, 0)], Objective(data=rows), Phase(Adam(1e-3), STEPS), choices)
        members = prepared.members
        members.compile(prepared.walk.start)([0], [{}], prepared.shared, None)
        call = members.compile(prepared.walk.step)

    def work() -> None:
        for _ in range(STEPS):
            call([0], [{}], prepared.shared, None)
        members.read(lambda state: state.step)

    with jax.default_matmul_precision("highest"):
        work()
    return lambda: seconds(work)


def double(channels: int, width: int, groups: int | None) -> list[torch.nn.Module]:
    """Two convolutions with their normalization and activation."""
    layers: list[torch.nn.Module] = []
    for before in (channels, width):
        layers.append(torch.nn.Conv2d(before, width, 3, padding=1, bias=groups is None))
        layers += [] if groups is None else [torch.nn.GroupNorm(groups, width)]
        layers.append(torch.nn.ReLU())
    return layers


class Net(torch.nn.Module):
    """The same network in PyTorch."""

    def __init__(self, groups: int | None):
        super().__init__()
        levels = list(pairwise(WIDTHS))[::-1]
        downs = zip((1, *WIDTHS), WIDTHS, strict=False)
        self.down = torch.nn.ModuleList(torch.nn.Sequential(*double(a, b, groups)) for a, b in downs)
        self.up = torch.nn.ModuleList(torch.nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in levels)
        self.joined = torch.nn.ModuleList(torch.nn.Sequential(*double(2 * fine, fine, groups)) for fine, _ in levels)
        self.head = torch.nn.Conv2d(WIDTHS[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, h, w) to logits (n, h, w)."""
        seen = []
        for i, level in enumerate(self.down):
            x = level(x if i == 0 else torch.nn.functional.max_pool2d(x, 2))
            seen.append(x)
        for larger, level, bridge in zip(self.up, self.joined, seen[-2::-1], strict=True):
            x = level(torch.cat([bridge, larger(x)], dim=1))
        return self.head(x)[:, 0]


def torch_steps(groups: int | None, memory: torch.memory_format):
    """The same in PyTorch, in either layout of images."""
    x, y = data()
    images = torch.as_tensor(x).permute(0, 3, 1, 2).contiguous(memory_format=memory)
    masks = torch.as_tensor(y, dtype=torch.float32)
    model = Net(groups).to(memory_format=memory)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def work() -> None:
        order = torch.randperm(IMAGES)
        for i in range(STEPS):
            rows = order[(i * BATCH) % IMAGES :][:BATCH]
            optimizer.zero_grad()
            p, target = torch.sigmoid(model(images[rows])), masks[rows]
            both = (p * target).sum((1, 2))
            (1 - both / ((p + target).sum((1, 2)) - both)).mean().backward()
            optimizer.step()

    work()
    return lambda: seconds(work)


def main() -> None:
    """Alternate all ways, report milliseconds a step and ratios."""
    figures: dict[str, object] = {}
    for named, groups in (("group normalization", 4), ("no normalization", None)):
        ways = {
            "thalweg": thalweg_steps(groups),
            "torch": torch_steps(groups, torch.contiguous_format),
            "torch, channels last": torch_steps(groups, torch.channels_last),
        }
        times = alternate(ways, 5)
        best = min(("torch", "torch, channels last"), key=lambda name: summary(times[name])["median"])
        figures[named] = {
            "milliseconds a step": {
                name: {k: 1e3 * v / STEPS for k, v in summary(values).items()} for name, values in times.items()
            },
            f"ratio to {best}": ratio(times["thalweg"], times[best]),
        }
    record("unet", figures)


if __name__ == "__main__":
    main()

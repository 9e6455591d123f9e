"""The study `digits`: its 10 networks by one call of `fit_many` against 4 trainings in PyTorch, one after the other.

The same network (64-128-128-10, SiLU), loss (cross-entropy, smoothing 0.1), batch (32 of 1,527 rows in
random order), rate (5e-3 along a cosine, Adam) and steps (3,000) in float32. thalweg's time includes compiling, with
all programs forgotten before; PyTorch has as many threads as make it quickest here. The bar is a ratio of 1 to 4
trainings. Run: .venv/bin/python -m benchmarks.digits_seeds
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from sklearn.datasets import load_digits

import thalweg as tw
from benchmarks.side_by_side import alternate, ratio, record, seconds, summary

STEPS, BATCH, WIDTH, SMOOTHING, RATE = 3_000, 32, 128, 0.1, 5e-3


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test rows as the study has them: (1527, 64), (1527,), (270, 64), (270,)."""
    images, labels = map(np.asarray, load_digits(return_X_y=True))
    x, y = (images / 16).astype(np.float32), labels.astype(np.int32)
    train, more, test = tw.data.random_split(len(y), seed=0, stratify=y)
    train = np.concatenate([train, more])
    return x[train], y[train], x[test], y[test]


def thalweg_seeds() -> list[float]:
    """Ten networks; their test accuracies."""
    jax.clear_caches()
    x, y, x_test, y_test = data()
    term = tw.Supervised(jnp.array(x), jnp.array(y), loss=tw.losses.CrossEntropy(smoothing=SMOOTHING), batch_size=BATCH)
    models = [tw.nn.MLP(64, 10, width=WIDTH, depth=2, key=jax.random.key(i)) for i in range(10)]
    rate = optax.cosine_decay_schedule(RATE, STEPS, alpha=0.01)
    found = tw.fit_many(models, tw.Objective(digits=term), tw.Phase(tw.Adam(rate), STEPS))
    answer = eqx.filter_jit(lambda model, x: jax.vmap(model)(x))
    return [float(np.mean(np.asarray(answer(m, jnp.array(x_test))).argmax(1) == y_test)) for m in found.models]


def torch_seeds(fused: bool, seeds: int = 4) -> list[float]:
    """So many networks one after the other; their test accuracies."""
    return [torch_seed(seed, fused) for seed in range(seeds)]


def choose_threads() -> int:
    """One thread or all for PyTorch: whichever makes 100 steps quicker (small products gain little from more)."""
    found = {}
    for threads in sorted({1, torch.get_num_threads()}):
        torch.set_num_threads(threads)
        torch_seed(0, True, 10)  # its first steps load libraries
        found[threads] = seconds(lambda: torch_seed(0, True, 100))
    torch.set_num_threads(min(found, key=found.__getitem__))
    return torch.get_num_threads()


def torch_seed(seed: int, fused: bool, steps: int = STEPS) -> float:
    """One network in PyTorch's usual way."""
    torch.manual_seed(seed)
    x, y, x_test, y_test = (torch.as_tensor(array) for array in data())
    y, y_test = y.long(), y_test.long()
    layers = []
    for fan_in in (64, WIDTH):
        layers += [torch.nn.Linear(fan_in, WIDTH), torch.nn.SiLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=fused)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    step = 0
    while step < steps:
        for rows in torch.randperm(len(x)).split(BATCH)[: steps - step]:
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = RATE * (0.99 * cosine + 0.01)
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
            step += 1
    model.eval()
    return float((model(x_test).argmax(1) == y_test).float().mean())


def main() -> None:
    """Alternate, and check that both sides learned the same thing."""
    accuracies: dict[str, list[float]] = {}

    def timed(name: str, work):
        return lambda: seconds(lambda: accuracies.update({name: work()}))

    ways = {
        "thalweg, 10 seeds in one call": timed("thalweg", thalweg_seeds),
        "torch eager Adam, 4 seeds": timed("torch eager", lambda: torch_seeds(False)),
        "torch fused Adam, 4 seeds": timed("torch fused", lambda: torch_seeds(True)),
    }
    threads = choose_threads()
    times = alternate(ways, 5)
    ours, eager, fused = times.values()
    record(
        "digits_seeds",
        {
            "seconds": {name: summary(values) for name, values in times.items()},
            "ratio to 4 trainings, eager": ratio(ours, eager),
            "ratio to 4 trainings, fused": ratio(ours, fused),
            "PyTorch's threads": threads,
            "median test accuracy, %": {name: 100 * float(np.median(found)) for name, found in accuracies.items()},
        },
    )


if __name__ == "__main__":
    main()

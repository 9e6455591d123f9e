"""Record torch.optim's trajectories on one small problem, for `test_first_order.py` to compare ours with.

Run with torch installed: `python tests/optim/record_torch.py`. It writes torch_trajectories.json beside itself.
The problem is a tanh network of 3-4-1 with all numbers in closed form, so that nothing depends on a random generator.
"""

import json
import math
import platform
from pathlib import Path
from typing import Any

STEPS, KEPT = 50, (1, 2, 5, 10, 20, 35, 50)
INPUTS = [[math.sin(3 * i + j + 1) for j in range(3)] for i in range(8)]
TARGETS = [math.cos(2 * i) + 0.3 * math.sin(5 * i) for i in range(8)]
START = {
    "w": [[math.sin(1 + 7 * i + 3 * j) for j in range(4)] for i in range(3)],
    "b": [0.1, -0.2, 0.3, -0.4],
    "v": [math.cos(2 * j) for j in range(4)],
}

# name -> (class of torch.optim, its arguments)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1}),
    "momentum": ("SGD", {"lr": 0.05, "momentum": 0.9}),
    "nesterov": ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.01}),
    "adam, other memories": ("Adam", {"lr": 0.02, "betas": [0.8, 0.95], "eps": 1e-4}),
    "adamw": ("AdamW", {"lr": 0.01, "weight_decay": 0.1}),
    "adagrad": ("Adagrad", {"lr": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01}),
    "rmsprop, momentum": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "eps": 1e-4, "momentum": 0.5}),
}
RATE, LENGTH = 0.1, 60
# name -> (class of torch.optim.lr_scheduler, its arguments), on an SGD of rate RATE, for LENGTH steps
SCHEDULES: dict[str, tuple[str, dict[str, Any]]] = {
    "step": ("StepLR", {"step_size": 7, "gamma": 0.5}),
    "cosine": ("CosineAnnealingLR", {"T_max": LENGTH, "eta_min": 0.001}),
    "restarts": ("CosineAnnealingWarmRestarts", {"T_0": 8, "T_mult": 1, "eta_min": 0.001}),
    "growing restarts": ("CosineAnnealingWarmRestarts", {"T_0": 8, "T_mult": 2, "eta_min": 0.001}),
    "one-cycle": ("OneCycleLR", {"max_lr": RATE, "total_steps": LENGTH, "cycle_momentum": False}),
    "triangular": ("CyclicLR", {"base_lr": 0.01, "max_lr": RATE, "step_size_up": 6, "cycle_momentum": False}),
    "triangular2": (
        "CyclicLR",
        {"base_lr": 0.01, "max_lr": RATE, "step_size_up": 6, "mode": "triangular2", "cycle_momentum": False},
    ),
    "exp_range": (
        "CyclicLR",
        {
            "base_lr": 0.01, "max_lr": RATE, "step_size_up": 6, "mode": "exp_range", "gamma": 0.97,
            "cycle_momentum": False,
        },
    ),
    "warm-up": ("LinearLR", {"start_factor": 0.1, "total_iters": 9}),
}  # fmt: skip
MINIMIZER = {
    "lr": 1.0,
    "max_iter": 2_000,
    "tolerance_grad": 1e-13,
    "tolerance_change": 0,
    "line_search_fn": "strong_wolfe",
}


def record() -> dict[str, Any]:
    """Params at the steps kept, by run; and the minimizer that torch's L-BFGS finds of the cost plus 0.001‖params‖²."""
    import torch

    x, y = torch.tensor(INPUTS, dtype=torch.float64), torch.tensor(TARGETS, dtype=torch.float64)

    def fresh() -> dict[str, Any]:
        return {name: torch.tensor(value, dtype=torch.float64, requires_grad=True) for name, value in START.items()}

    def cost(p: dict[str, Any]) -> Any:
        return torch.mean((torch.tanh(x @ p["w"] + p["b"]) @ p["v"] - y) ** 2)

    runs = {}
    for name, (kind, arguments) in RUNS.items():
        p = fresh()
        optimizer = getattr(torch.optim, kind)(list(p.values()), **arguments)
        path = {}
        for step in range(1, STEPS + 1):
            optimizer.zero_grad()
            cost(p).backward()
            optimizer.step()
            if step in KEPT:
                path[str(step)] = {key: value.detach().tolist() for key, value in p.items()}
        runs[name] = {"optimizer": kind, "arguments": arguments, "path": path}

    p = fresh()
    optimizer = torch.optim.LBFGS(list(p.values()), **MINIMIZER)

    def closure() -> Any:
        optimizer.zero_grad()
        value = cost(p) + 0.001 * sum(torch.sum(leaf**2) for leaf in p.values())
        value.backward()
        return value

    optimizer.step(closure)
    minimum = {"cost": closure().item(), "params": {key: value.detach().tolist() for key, value in p.items()}}
    rates = {}
    for name, (kind, arguments) in SCHEDULES.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
        scheduler = getattr(torch.optim.lr_scheduler, kind)(optimizer, **arguments)
        rates[name] = []
        for _ in range(LENGTH):
            rates[name].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"versions": versions, "runs": runs, "minimum": minimum, "rates": rates}


if __name__ == "__main__":
    text = json.dumps(record(), separators=(",", ":"))
    Path(__file__).with_name("torch_trajectories.json").write_text(text + "\n", encoding="utf-8")

"""What a step costs against the number of points, of parameters, and of dimensions: exponents over two decades.

Poisson's equation on a box, -Δu = f by `tw.laplacian` (Taylor propagation), float64, tanh, two hidden layers; one step
of Adam (a gradient) and one of Levenberg-Marquardt (Jacobian and a solve), compiled, best of several. The exponent is
the slope of log time against log size over the upper half of the sizes, where the fixed cost of a step no longer hides
it. Run: .venv/bin/python -m benchmarks.scaling
"""

import os
import time

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw
from benchmarks.side_by_side import record
from thalweg.objective import split

POINTS, WIDTHS, DIMENSIONS = (100, 300, 1_000, 3_000, 10_000), (5, 10, 20, 40, 60), (1, 3, 10, 30, 100)


def seconds(points: int, width: int, dimension: int, optimizer: tw.AbstractOptimizer) -> tuple[float, int]:
    """Seconds of one compiled step, and the number of parameters."""
    with jax.enable_x64(True):
        network = tw.nn.MLP(
            dimension, None, width=width, depth=2, activation=jnp.tanh, key=jax.random.key(0), dtype=jnp.float64
        )
        x = np.random.default_rng(0).uniform(-1, 1, (points, dimension))
        law = tw.Residual(lambda u, at: tw.laplacian(u, at) + jnp.sum(jnp.sin(at)), x)
        objective = tw.Objective(law=law).astype(jnp.float64)
        parts, state = split(network), objective.init(jax.random.key(1))
        problem = objective.bind(parts.static, objective.draw(state, jnp.int32(0)), state, None)
        memory = optimizer.init(problem, parts.params, jax.random.key(2))
        step = jax.jit(lambda params, memory: optimizer.step(problem, params, memory, jax.random.key(3))[:2])
        jax.block_until_ready(step(parts.params, memory))
        times = []
        began = time.perf_counter()
        while len(times) < 5 or (time.perf_counter() - began < 1.0 and len(times) < 200):
            start = time.perf_counter()
            jax.block_until_ready(step(parts.params, memory))
            times.append(time.perf_counter() - start)
    return min(times), sum(leaf.size for leaf in jax.tree.leaves(parts.params))


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope in the log-log plane over the upper half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def main() -> None:
    """Six rows: three sizes for two optimizers."""
    rows = []
    for name, optimizer in (("Adam", tw.Adam(1e-3)), ("Levenberg-Marquardt", tw.LevenbergMarquardt())):
        by_points = [seconds(n, 20, 2, optimizer) for n in POINTS]
        by_width = [seconds(1_000, width, 2, optimizer) for width in WIDTHS]
        by_dimension = [seconds(1_000, 20, d, optimizer) for d in DIMENSIONS]
        for what, sizes, found in (
            ("points, 2-20-20-1", list(POINTS), by_points),
            ("parameters, 1,000 points", [count for _, count in by_width], by_width),
            ("dimensions, 1,000 points", list(DIMENSIONS), by_dimension),
        ):
            times = [took for took, _ in found]
            rows.append({
                "a step of": name,
                "against": what,
                "from … to": [sizes[0], sizes[-1]],
                "ms": [1e3 * times[0], 1e3 * times[-1]],
                "exponent": exponent(sizes, times),
            })  # fmt: skip
    record("scaling", {"load": os.getloadavg()[0], "cost of a step": rows})


if __name__ == "__main__":
    main()

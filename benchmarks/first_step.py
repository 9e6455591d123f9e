"""Seconds from the start of Python to the first finished step of a small MLP, cold and with the on-disk cache.

Also the time of `import thalweg`. Run: .venv/bin/python -m benchmarks.first_step
"""

import subprocess
import sys
import tempfile
import time

from benchmarks.side_by_side import record, summary

PROGRAM = """
import jax, sys
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import jax.numpy as jnp
import thalweg as tw
x = jnp.linspace(-1.0, 1.0, 256)[:, None]
data = tw.Objective(data=tw.Supervised(x, jnp.sin(3 * x), loss=tw.losses.squared_error, batch_size=32))
model = tw.nn.MLP(1, 1, width=64, depth=2, key=jax.random.key(0))
tw.fit(model, data, tw.Phase(tw.Adam(1e-3), 1))
"""


def process(*arguments: str) -> float:
    """Seconds of a whole process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True)
    return time.perf_counter() - began


def main() -> None:
    """Five of each."""
    cold, warm = [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(process("-c", PROGRAM, cache))
            warm.append(process("-c", PROGRAM, cache))
    bare = [process("-c", "pass") for _ in range(5)]
    imported = [process("-c", "import thalweg") for _ in range(5)]
    helped = [process("-m", "thalweg.cli", "--help") for _ in range(5)]
    record(
        "first_step",
        {
            "first step, cold, s": summary(cold),
            "first step, cached, s": summary(warm),
            "python alone, s": summary(bare),
            "import thalweg, s": summary(imported),
            "thalweg --help, s": summary(helped),
        },
    )


if __name__ == "__main__":
    main()

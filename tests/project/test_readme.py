"""The README's Python runs as it stands, in the order in which a reader meets it."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.slow
def test_the_examples_run_and_say_the_truth(repository: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    names: dict = {}
    exec(blocks[0], names)  # noqa: S102  our own README
    with jax.enable_x64(True):
        t = jnp.linspace(0.0, 3.0, 31)
        error = np.abs(jax.vmap(names["fitted"].model)(t) - jnp.sin(t)).max()
    assert error < 1e-3  # the law and the start have one solution, sin t; measured 9e-6 after these 100 steps
    exec(blocks[1], names)  # noqa: S102  our own README
    assert names["low"] < 0.1 < names["high"] < 2 * names["low"]  # a 90 % interval of this one draw of noise
    exec(blocks[2], names)  # noqa: S102  our own README
    mean = float(jnp.mean(jax.vmap(names["fitted"].model)(names["x"])))
    assert abs(mean) < 1e-2  # the constraint of the example; measured 1e-4 and less

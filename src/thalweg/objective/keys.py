"""Random keys by name."""

import jax
import numpy as np

from thalweg.types import Key


def named_key(key: Key, name: str) -> Key:
    """A key for one purpose: `key` folded with the name's bytes (FNV-1a, which does not change between sessions).

    So a further term or purpose leaves the random numbers of all others as they were.
    """
    code = 0x811C9DC5
    for byte in name.encode():
        code = ((code ^ byte) * 0x01000193) & 0xFFFFFFFF
    return jax.random.fold_in(key, np.uint32(code))

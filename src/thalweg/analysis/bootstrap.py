"""How sure a number is that was computed from one stretch of time: the stationary bootstrap."""

import math

import numpy as np

from thalweg.errors import UserError


def stationary_indices(n: int, block: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Stretches of time drawn again: blocks that begin anywhere and go on for a geometric time, put end to end.

    Each of the n places goes on where the one before it stopped (the first follows the last), or, with probability
    1/block, begins anew anywhere; so what was drawn is stationary, and neighbours stay neighbours for `block` places in
    the mean (Politis and Romano, 1994).

    Args:
        n: length of the series.
        block: mean length of a block, ≥ 1; 1 draws each place by itself, as the plain bootstrap.
        count: how many such series.
        rng: NumPy's generator.
    Returns:
        positions, shape (count, n), int64.
    Raises:
        UserError: no series, or a block shorter than 1.

    >>> stationary_indices(6, 1e9, 1, np.random.default_rng(0)).tolist()  # one block: the series, from elsewhere
    [[3, 4, 5, 0, 1, 2]]
    """
    if n < 1 or count < 1 or not 1 <= block < math.inf:
        raise UserError(
            f"{count} series of {n} values in blocks of {block}",
            where="stationary_indices",
            remedy="A block has a mean length of 1 or more.",
        )
    begins = rng.random((count, n)) < 1 / block
    begins[:, 0] = True
    since = np.maximum.accumulate(np.where(begins, np.arange(n), 0), axis=1)  # the place at which the block began
    starts = rng.integers(n, size=(count, n))
    return (np.take_along_axis(starts, since, axis=1) + np.arange(n) - since) % n


def block_length(series: np.ndarray) -> float:
    """The mean length of a block with which the bootstrap of the mean errs least, as far as the series tells.

    (2 G²/D)^⅓ n^⅓ with G = Σ |k| R(k) and D = 2 (Σ R(k))² of the autocovariances R, cut off smoothly where they have
    become noise: Politis and White (2004), as corrected by Patton, Politis and White (2009).

    Args:
        series: shape (n,), finite, not constant.
    Returns:
        between 1 and min(3 √n, n/3), as the authors advise; 1 for a series like white noise.
    Raises:
        UserError: fewer than 9 values, a value that is not finite, or a constant series.

    >>> noise = np.random.default_rng(0).normal(size=1_000)
    >>> block_length(noise) < 4 < block_length(np.convolve(noise, np.ones(20), "valid"))
    True
    """
    series = np.asarray(series, np.float64)
    if series.size and np.isfinite(series).all():  # the unit does not matter: a power of 2, for squares within range
        series = np.ldexp(series, -int(np.frexp(np.abs(series).max())[1]))
    if series.ndim != 1 or len(series) < 9 or not np.isfinite(series).all() or np.ptp(series) == 0:
        raise UserError(
            f"a series of shape {series.shape} has no block length",
            where="block_length",
            remedy="Give at least 9 finite values that differ.",
        )
    n = len(series)
    centred = series - series.mean()
    run = max(5, math.ceil(math.sqrt(math.log10(n))))  # so many autocorrelations in a row must be noise
    most = min(math.ceil(math.sqrt(n)) + run, n - 1)
    covariances = np.array([centred[k:] @ centred[: n - k] for k in range(most + 1)]) / n
    large = np.abs(covariances[1:] / covariances[0]) > 2 * math.sqrt(math.log10(n) / n)
    quiet = [k for k in range(most - run + 1) if not large[k : k + run].any()]  # k + 1 … k + run are noise
    last = quiet[0] if quiet else int(np.flatnonzero(large)[-1]) + 1
    width = min(2 * max(last, 1), most)
    k = np.arange(1, width + 1)
    window = np.minimum(1, 2 * (1 - k / width))  # flat, and then straight down to 0
    curvature = 2 * np.sum(window * k * covariances[1 : width + 1])
    spectrum = covariances[0] + 2 * np.sum(window * covariances[1 : width + 1])
    longest = min(3 * math.sqrt(n), n / 3)
    if spectrum == 0:
        return longest
    return float(np.clip((curvature / spectrum) ** 2 * n, 1, longest**3) ** (1 / 3))

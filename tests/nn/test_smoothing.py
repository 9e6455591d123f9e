"""Where the training of dynamics begins: smooth curves through readings, trajectories in pieces."""

from itertools import pairwise

import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.nn import cut_trajectories, smooth

NAN = float("nan")


def test_the_misfit_is_the_share_of_the_noise_that_was_asked_for():
    rng, times = np.random.default_rng(4), np.sort(np.random.default_rng(5).uniform(0, 8, 200))
    truth = np.sin(times) * np.exp(-0.1 * times)
    values = truth + rng.normal(0, 0.1, 200)
    values[::7] = NAN
    for share in (0.3, 0.6, 0.9):
        found = smooth(times, values, 0.1, share)
        misfit = np.nanmean(((found(times) - values) / 0.1) ** 2)
        assert misfit == pytest.approx(share, abs=0.01)  # bisected to a thousandth of a decade of the penalty
    assert np.sqrt(np.mean((smooth(times, values, 0.1)(times) - truth) ** 2)) < 0.06  # the readings err by 0.1


@pytest.mark.parametrize("unit", [1e-6, 45.6, 1e4])
def test_the_unit_of_time_does_not_matter(unit: float) -> None:
    rng, times = np.random.default_rng(4), np.linspace(0, 8, 200)
    values = np.sin(times) + rng.normal(0, 0.1, 200)
    # rounding of the times, through a badly conditioned system
    np.testing.assert_allclose(
        smooth(unit * times, values, 0.1)(unit * times), smooth(times, values, 0.1)(times), atol=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.arange(6.0), np.arange(5.0), 1.0), "shape"),
        ((np.arange(6.0), np.array([1, 2, NAN, NAN, 3, 4]), 1.0), "4 readings"),
        ((np.arange(6.0), np.arange(6.0), 0.0), "noise 0"),
        ((np.arange(6.0)[::-1], np.arange(6.0), 1.0), "do not rise"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(arguments: tuple, said: str) -> None:
    with pytest.raises(UserError, match=said):
        smooth(*arguments)


def test_pieces_share_their_ends_and_lose_no_reading():
    times = [np.arange(7.0), np.arange(4.0) / 2]
    values = [np.arange(14.0).reshape(7, 2), np.arange(8.0).reshape(4, 2)]
    when, what, number = cut_trajectories(times, values, 3)
    assert number.tolist() == [0, 0, 0, 1, 1, 1]
    for i in range(2):
        mine = [k for k in range(6) if number[k] == i]
        for before, after in pairwise(mine):
            assert when[before][-1] == when[after][0]
            np.testing.assert_array_equal(what[before][-1], what[after][0])
        joined = np.concatenate([when[mine[0]], *(when[k][1:] for k in mine[1:])])
        np.testing.assert_array_equal(joined, times[i])
    whole = cut_trajectories(times, values, 1)
    np.testing.assert_array_equal(whole[1][1], values[1])
    with pytest.raises(UserError, match="4 pieces of 4 readings"):
        cut_trajectories(times, values, 4)
    with pytest.raises(UserError, match="7 times with 6 values"):
        cut_trajectories(times, [values[0][:6], values[1]], 2)

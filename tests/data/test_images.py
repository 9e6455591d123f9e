"""Pictures of one size and kind become one array; others are refused by their number."""

import numpy as np
import pytest

from thalweg.data import stack_images
from thalweg.errors import UserError


def test_grey_ones_are_repeated_and_values_stay():
    rng = np.random.default_rng(0)
    grey, colour = rng.integers(256, size=(3, 4)).astype(np.uint8), rng.random((3, 4, 3))
    found = stack_images([grey, colour, grey[..., None]])
    assert (found.shape, found.dtype) == ((3, 3, 4, 3), np.float32)
    for channel in range(3):
        np.testing.assert_array_equal(found[0, ..., channel], grey)
        np.testing.assert_array_equal(found[2, ..., channel], grey)
    np.testing.assert_array_equal(found[1], colour.astype(np.float32))
    assert stack_images([grey], channels=1).shape == (1, 3, 4, 1)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ([np.zeros((4, 4)), np.zeros((4, 5))], "several sizes: 4 × 5 after 4 × 4.*picture 1"),
        ([np.zeros((4, 4, 4))], "4 channels, not 3.*picture 0"),
        ([np.zeros((4, 4)), np.full((4, 4), np.nan)], "not finite.*picture 1"),
        ([np.zeros((4, 4)), np.full((4, 4), 1e300)], "too large for float32.*picture 1"),
        ([np.zeros(4)], "no picture"),
        ([np.zeros((0, 4))], "no picture"),
        ([np.array([["a"]])], "no picture of numbers"),
        ([], "no pictures"),
    ],
)
def test_others_are_refused_by_their_number(images, named):
    with pytest.raises(UserError, match=named):
        stack_images(images)

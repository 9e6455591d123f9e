"""Courses over time: every quantity in its colour, bands where they were said to be."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.errors import UserError
from thalweg.figures import courses

TIMES, STATES = np.arange(4.0), np.stack([np.arange(4.0), 5 - np.arange(4.0)], axis=1)
NAMES = ["hares", "lynx"]


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def test_readings_are_dots_and_courses_are_lines(ax: Axes) -> None:
    readings = np.where(TIMES[:, None] == 2, np.nan, STATES)
    courses.fitted(ax, TIMES, readings, STATES, names=NAMES, event=1.5, labels=("year", "pelts"))
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [line.get_label() for line in dots] == ["hares, read", "lynx, read"]
    np.testing.assert_array_equal(dots[1].get_ydata(), readings[:, 1])
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [1.5]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("year", "pelts")


def test_bands_lie_about_the_course(ax: Axes) -> None:
    half = np.full((4, 2), 0.5)
    courses.foretold(ax, TIMES, STATES, half, STATES + 0.1, names=NAMES)
    (first, second) = (band.get_paths()[0].get_extents() for band in ax.collections)
    assert (first.ymin, first.ymax, second.ymin, second.ymax) == (-0.5, 3.5, 1.5, 5.5)
    truths = [line for line in ax.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose([line.get_ydata() for line in truths], (STATES + 0.1).T)


def test_shapes_that_do_not_belong_together_are_refused(ax: Axes) -> None:
    with pytest.raises(UserError, match="4 times and 2 names"):
        courses.foretold(ax, TIMES, STATES, np.ones((4, 1)), names=NAMES)

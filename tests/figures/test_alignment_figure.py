"""The alignment over the input: each label's share, its name, its bar."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from thalweg.errors import UserError
from thalweg.figures.alignment import alignment

SHARES = np.array([[0.9, 0.0], [0.6, 0.1], [0.0, 0.7], [0.0, 0.4]])


def test_shares_names_and_bars_stand_where_they_are() -> None:
    ax = Figure().add_subplot()
    image = np.arange(16.0).reshape(2, 8)
    alignment(ax, SHARES, ["3", "$"], path=np.array([1, 1, 3, 4]), background=image, labels=("column", "share"))
    first, second = ax.lines[0], ax.lines[1]
    np.testing.assert_allclose(first.get_xdata(), [1, 3, 5, 7])  # middles of steps, in columns of the image
    np.testing.assert_array_equal(second.get_ydata(), SHARES[:, 1])
    assert [text.get_text() for text in ax.texts] == ["3", r"\$"]
    assert [text.get_position()[0] for text in ax.texts] == [1, 5]
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 4), (4, 2)]
    assert ax.get_xlim() == (0, 8)
    # the image's first row is on top
    mesh = ax.collections[-1]
    heights = mesh.get_coordinates()[:, 0, 1]
    assert heights[0] == heights.max()
    np.testing.assert_array_equal(np.ravel(mesh.get_array()), image.ravel())


def test_a_label_without_a_step_has_no_bar() -> None:
    ax = Figure().add_subplot()
    alignment(ax, SHARES, ["a", "b"], path=np.full(4, -1))
    assert not ax.patches


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    ax = Figure().add_subplot()
    with pytest.raises(UserError, match="with 1 names"):
        alignment(ax, SHARES, ["a"])
    with pytest.raises(UserError, match="a path"):
        alignment(ax, SHARES, ["a", "b"], path=np.zeros(3, int))

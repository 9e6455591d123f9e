"""Outlines of masks on their image."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.errors import UserError
from thalweg.figures.masks import outlines


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def test_the_outline_runs_between_the_pixels_of_mask_and_background(ax: Axes) -> None:
    image, mask = np.random.default_rng(0).uniform(size=(6, 8)), np.zeros((6, 8), bool)
    mask[2:4, 3:6] = True
    outlines(ax, image, {"truth": mask, "answer": ~mask})
    edges = [
        np.concatenate([path.vertices for path in one.get_paths() if len(path)])
        for one in ax.collections
        if len(one.get_linewidth()) and float(one.get_linewidth()[0]) > 1
    ]
    first = edges[0]
    # half way to the next pixel on each side, x to the right and y downwards
    assert (first.min(0).tolist(), first.max(0).tolist()) == ([2.5, 1.5], [5.5, 3.5])
    # the other mask reaches the border of the image, and its outline closes there
    assert (edges[1].min(0).tolist(), edges[1].max(0).tolist()) == ([-0.5, -0.5], [7.5, 5.5])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["truth", "answer"]
    assert not ax.images


def test_a_constant_image_and_an_empty_mask_are_drawn(ax: Axes) -> None:
    outlines(ax, np.full((4, 4), 7), {"none": np.zeros((4, 4), bool)}, spacing=2)
    assert ax.get_xlim() == (-0.5, 3.5)


def test_mistakes_are_refused(ax: Axes) -> None:
    with pytest.raises(UserError, match=r"\(4,\)"):
        outlines(ax, np.ones(4), {})
    with pytest.raises(UserError, match=r"'truth'.*|\(3, 4\) on an image of \(4, 4\)"):
        outlines(ax, np.ones((4, 4)), {"truth": np.ones((3, 4))})

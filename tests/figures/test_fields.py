"""Contours of a field, against the numbers they were given."""

import io

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from thalweg.errors import UserError
from thalweg.figures import fields, parameters

GRID = np.stack(np.meshgrid(np.linspace(0, 2, 9), np.linspace(0, 1, 5)), axis=-1).reshape(-1, 2)
TRIANGLES = Triangulation(*GRID.T).triangles


@pytest.fixture
def ax() -> Axes:
    return Figure(figsize=(5.0, 3.5), layout="constrained").add_subplot()


def contours(ax: Axes) -> list[np.ndarray]:
    """The vertices of each level's area, from the lowest to the highest."""
    (drawn,) = ax.collections
    return [path.vertices for path in drawn.get_paths()]


def test_a_level_lies_where_the_field_has_its_values(ax: Axes) -> None:
    fields.field(ax, GRID, TRIANGLES, GRID[:, 0], label="x", limits=(0.0, 2.0))
    areas = contours(ax)
    levels = np.linspace(0, 2, 15)
    assert len(areas) == 14
    for low, high, area in zip(levels[:-1], levels[1:], areas, strict=True):
        # of a field that is x itself, the area between two levels is a strip; linear interpolation is exact,
        # but for the millionth by which values are kept inside the scale
        assert area[:, 0].min() == pytest.approx(low, abs=1e-5)
        assert area[:, 0].max() == pytest.approx(high, abs=1e-5)


def test_signs_have_two_colours_and_zero_is_white(ax: Axes) -> None:
    fields.field(ax, GRID, TRIANGLES, GRID[:, 0] - 1, label="difference", limits=(-1.0, 1.0))
    colours = ax.collections[0].get_facecolor()
    red, blue = colours[:, 0], colours[:, 2]
    assert blue[0] > red[0]
    assert red[-1] > blue[-1]
    assert colours[len(colours) // 2][:3].min() > 0.95


def test_values_beyond_the_limits_have_the_colour_of_the_end(ax: Axes) -> None:
    fields.field(ax, GRID, TRIANGLES, 10 * GRID[:, 0], label="x", limits=(0.0, 10.0))
    last = contours(ax)[-1]
    # the whole right half, a plateau at the end of the scale, is filled and not left bare
    assert last[:, 0].max() == 2.0
    assert 0.9 < last[:, 0].min() < 1.0
    inner = ax.collections[0].get_paths()[-1]
    assert inner.contains_point((1.5, 0.5))


def test_outline_and_marks(ax: Axes) -> None:
    corners, marks = np.array([[0, 0], [2, 0], [2, 1], [0, 1]]), np.array([[0.5, 0.5], [1.5, 0.5]])
    fields.field(ax, GRID, TRIANGLES, GRID[:, 1], label="y", outline=corners, marks=marks)
    around, dots = (np.asarray(line.get_xydata()) for line in ax.lines)
    assert around.tolist() == [*corners.tolist(), [0, 0]]
    assert dots.tolist() == marks.tolist()


def test_no_raster_image_and_a_constant_field_is_drawn(ax: Axes) -> None:
    fields.field(ax, GRID, TRIANGLES, np.full(len(GRID), 3.0), label="price in $ or $/m$")
    file = io.StringIO()
    ax.figure.savefig(file, format="svg")
    assert "<image" not in file.getvalue()


@pytest.mark.parametrize(
    ("values", "what"),
    [(np.zeros(3), "shapes"), (np.full(len(GRID), np.nan), "finite"), (np.zeros((len(GRID), 1)), "shapes")],
)
def test_what_cannot_be_drawn_is_refused(ax: Axes, values: np.ndarray, what: str) -> None:
    with pytest.raises(UserError, match=what):
        fields.field(ax, GRID, TRIANGLES, values, label="x")


def test_a_history_draws_what_it_is_given() -> None:
    ax = Figure().add_subplot()
    t, x = np.linspace(0, 2, 5), np.linspace(-1, 1, 9)
    fields.history(ax, t, x, np.outer(t, x), label="u", limits=(-2.0, 2.0))
    assert [*ax.get_xlim(), *ax.get_ylim()] == [0.0, 2.0, -1.0, 1.0]
    for bad in (np.outer(x, t), np.full((5, 9), np.nan)):
        with pytest.raises(UserError):
            fields.history(ax, t, x, bad, label="u")


def test_intervals_that_miss_the_truth_stand_out() -> None:
    ax = Figure().add_subplot()
    values = np.array([1.0, 2.0])
    parameters.recovered(ax, values, values - 0.2, values + 0.2, truth=1.1, label="rate")
    colours = [line.get_color() for line in ax.get_lines()]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    with pytest.raises(UserError):
        parameters.recovered(ax, values, values[:1], values, truth=None, label="rate")

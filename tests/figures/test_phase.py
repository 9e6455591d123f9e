"""Phase portraits: streamlines follow the field, nullclines lie where a component vanishes."""

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from thalweg.errors import UserError
from thalweg.figures.phase import on_grid, portrait

BOX = ((-2.0, 2.0), (-1.0, 1.0))
NAMES = ("x", "y")


@pytest.fixture
def ax() -> Axes:
    return Figure().add_subplot()


def turn(points: np.ndarray) -> np.ndarray:
    """A rotation: streamlines are circles."""
    return np.stack([-points[:, 1], points[:, 0]], axis=1)


def test_streamlines_of_a_rotation_are_circles(ax: Axes) -> None:
    portrait(ax, turn, BOX, names=NAMES, nullclines=False)
    lines = next(child for child in ax.get_children() if isinstance(child, LineCollection))
    radii = [np.linalg.norm(segment, axis=1) for segment in lines.get_segments()]
    # Every line keeps its radius: the integrator's error is below a hundredth of the box.
    assert max(map(np.ptp, radii)) < 0.02
    assert sum(map(len, radii)) > 100


def test_nullclines_lie_where_a_component_vanishes(ax: Axes) -> None:
    """x' = y − x³ and y' = x: a cubic, and the axis."""
    field = lambda p: np.stack([p[:, 1] - p[:, 0] ** 3, p[:, 0]], axis=1)
    portrait(ax, field, BOX, names=NAMES, points=81)
    cubic, axis = [child for child in ax.get_children() if isinstance(child, QuadContourSet)]
    x, y = np.concatenate([path.vertices for path in cubic.get_paths()]).T
    # linear interpolation on cells of 0.05 × 0.025: errs by the cubic's curvature, 6x/8·0.05²
    np.testing.assert_allclose(y, x**3, rtol=0, atol=4e-3)
    assert np.ptp(x) > 1.9
    np.testing.assert_allclose(np.concatenate([path.vertices for path in axis.get_paths()])[:, 0], 0, atol=1e-12)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["x rests", "y rests"]
    colours = [matplotlib.colors.to_hex(one.get_edgecolor()[0]) for one in (cubic, axis)]
    assert colours == [matplotlib.colors.to_hex(name) for name in ("C0", "C1")]


def test_a_component_that_never_vanishes_has_no_nullcline(ax: Axes) -> None:
    portrait(ax, lambda p: np.ones_like(p), BOX, names=NAMES)
    assert not any(isinstance(child, QuadContourSet) for child in ax.get_children())
    assert ax.get_legend() is None


def test_rows_of_the_grid_go_along_the_second_coordinate() -> None:
    (x, y), (u, v) = on_grid(lambda p: p * [1.0, 10.0], BOX, 5)
    assert np.array_equal(u, x)
    assert np.array_equal(v, 10 * y)
    assert y[0, 0] == y[0, -1] == -1.0


@pytest.mark.parametrize(
    ("field", "limits", "points", "named"),
    [
        (turn, ((1.0, 0.0), (0.0, 1.0)), 5, "from 1.0 to 0.0"),
        (turn, ((0.0, np.inf), (0.0, 1.0)), 5, "to inf"),
        (turn, BOX, 2, "2 points"),
        (lambda p: p[:, 0], BOX, 5, "shape (25,)"),
        (lambda p: np.where(p > 0.9, np.nan, p), BOX, 5, "not finite at (1, -1)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(ax: Axes, field, limits, points, named) -> None:
    with pytest.raises(UserError) as refused:
        portrait(ax, field, limits, names=NAMES, points=points)
    assert named in str(refused.value)

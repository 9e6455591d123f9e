"""Figures of the rate and the instruments, and contours of a slice, against the numbers they were given."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from thalweg.figures import instruments, surface
from thalweg.figures.training import Rows


@pytest.fixture
def ax() -> Axes:
    return Figure(figsize=(5.0, 3.5), layout="constrained").add_subplot()


def labelled(ax: Axes, label: str) -> np.ndarray:
    (line,) = (line for line in ax.lines if line.get_label() == label)
    return np.asarray(line.get_xydata())


def looks(instrument: str, **figures: np.ndarray) -> Rows:
    """A row every ten steps, with one instrument's figures; each of shape (rows,) or (rows, members)."""
    n = len(next(iter(figures.values())))
    return [
        {
            "phase": 0,
            "run_step": 10 * (i + 1),
            "instruments": {instrument: {k: v[i].tolist() for k, v in figures.items()}},
        }
        for i in range(n)
    ]


def drawn(ax: Axes) -> None:
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()


# --------------------------------------------------------------------------------------------------------------- rate
def test_the_rate_is_that_of_the_member_that_went_furthest(ax: Axes) -> None:
    """A member that has ended keeps the rate it had."""
    rows = [
        {"phase": 0, "run_step": [10, 10], "figures": {"rate": [0.1, 0.1]}},
        {"phase": 0, "run_step": [10, 20], "figures": {"rate": [0.1, 0.01]}},
        {"phase": 0, "run_step": [10, 30], "figures": {"rate": [0.1, 0.001]}},
        {"phase": 0, "run_step": [10, 40], "figures": {"rate": [0.1, 0.001]}},
    ]
    instruments.learning_rate(ax, rows)
    assert np.asarray(ax.lines[0].get_xydata()).tolist() == [[10, 0.1], [20, 0.01], [30, 0.001], [40, 0.001]]
    assert ax.get_yscale() == "log"


def test_a_cosine_has_a_linear_axis(ax: Axes) -> None:
    rates = 0.005 * (1 + np.cos(np.linspace(0, np.pi, 50))) + 1e-9
    instruments.learning_rate(ax, [{"phase": 0, "run_step": i, "figures": {"rate": r}} for i, r in enumerate(rates, 1)])
    assert ax.get_yscale() == "linear"


def test_phases_without_a_rate_are_a_gap(ax: Axes) -> None:
    rows = [
        {"phase": i, "run_step": 10 * (i + 1)} | ({"figures": {"rate": 0.1 + i}} if i != 1 else {}) for i in range(3)
    ]
    instruments.learning_rate(ax, rows)
    assert np.isnan(np.asarray(ax.lines[0].get_ydata(), float)).tolist() == [False, True, False]
    assert [text.get_text() for text in ax.texts] == ["phase 1", "phase 2", "phase 3"]


# -------------------------------------------------------------------------------------------------------------- layers
def test_a_line_a_layer_at_the_median_of_the_members(ax: Axes) -> None:
    one = np.array([[1.0, 3.0, 2.0], [4.0, 6.0, 5.0]])
    rows = looks("GradientNorms", **{"gradient/net/0": one, "gradient/net/1": 10 * one, "params/net/0": one})
    instruments.gradient_norms(ax, rows)
    assert labelled(ax, "net/0").tolist() == [[10, 2], [20, 5]]
    assert labelled(ax, "net/1").tolist() == [[10, 20], [20, 50]]
    assert ax.get_yscale() == "log"
    assert len(ax.lines) == 2  # params are no gradient


def test_lines_are_told_apart_without_colour(ax: Axes) -> None:
    names = {f"gradient/layers/{i}": np.array([1.0 + i, 2.0 + i]) for i in range(instruments.MOST_LINES)}
    instruments.gradient_norms(ax, looks("GradientNorms", **names))
    looks_of_lines = {
        (line.get_color(), str(line.get_linestyle()), str(line._unscaled_dash_pattern)) for line in ax.lines
    }
    assert len(looks_of_lines) == instruments.MOST_LINES
    neighbours = [str(line._unscaled_dash_pattern) for line in ax.lines]
    assert all(a != b for a, b in pairwise(neighbours))


def test_thirty_layers_are_a_map_that_is_read(ax: Axes) -> None:
    """Layer i has the norm 2·10^(i mod 6), so each power of ten is a shade and has five layers."""
    figure = Figure(figsize=(5.0, 6.4), layout="constrained")
    ax = figure.add_subplot()
    names = {f"gradient/block/{i}/weight": np.full(4, 2 * 10.0 ** (i % 6)) for i in range(30)}
    instruments.gradient_norms(ax, looks("GradientNorms", **names))
    patches = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    assert len(patches) == 6
    for shade, patch in enumerate(patches):
        corners = np.asarray(patch.get_path().vertices).reshape(-1, 5, 2)
        middles = corners[:, :4, 1].mean(axis=1)
        assert sorted(middles.tolist()) == list(range(shade, 30, 6))
        assert (
            corners[:, :, 0].min(axis=1) == 0
        ).all()  # all looks alike: one rectangle from the first step to the last
        assert (corners[:, :, 0].max(axis=1) == 40).all()
    opacities = [patch.get_alpha() for patch in patches]
    assert opacities == sorted(opacities)  # pyright: ignore[reportArgumentType]
    figure.draw_without_rendering()
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["< 10", "≥ 10", "≥ 100", "≥ 1000", "≥ 10⁴", "≥ 10⁵"]
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert len(boxes) == 30
    assert all(above.y0 >= below.y1 for above, below in pairwise(boxes))


def test_a_map_tells_zero_from_missing(ax: Axes) -> None:
    names = {f"gradient/{i}": np.array([1.0, 10.0]) for i in range(9)}
    names["gradient/0"] = np.array([0.0, np.nan])
    instruments.gradient_norms(ax, looks("GradientNorms", **names))
    cells = np.zeros((9, 2), int)
    for patch in ax.patches:
        for corners in np.asarray(patch.get_path().vertices).reshape(-1, 5, 2):
            left, right, row = corners[:, 0].min(), corners[:, 0].max(), round(corners[:4, 1].mean())
            cells[row, [left < 15, right > 15]] += 1
    assert cells[0].tolist() == [1, 0]  # the cell of the zero, and no other
    assert (cells[1:] == 1).all()


def test_a_map_of_many_looks_is_thinned(ax: Axes) -> None:
    rng = np.random.default_rng(0)
    names = {f"gradient/{i}": rng.lognormal(size=2_000) for i in range(12)}
    instruments.gradient_norms(ax, looks("GradientNorms", **names))
    rectangles = sum(len(np.asarray(patch.get_path().vertices)) // 5 for patch in ax.patches)
    assert rectangles <= 12 * instruments.MOST_COLUMNS
    assert ax.get_xlim() == (0, 20_000)


def test_names_without_what_all_share() -> None:
    assert instruments.short_names(["a/b/0", "a/b/1", "a/c"]) == ["b/0", "b/1", "c"]
    assert instruments.short_names(["a/b", "a/b"]) == ["b", "b"]
    assert instruments.short_names(["a/b/c"]) == ["a/b/c"]
    assert instruments.short_names(["a", "a/b"]) == ["a", "a/b"]
    assert instruments.short_names(["net/layers/0", "net/layers/1/2"]) == ["layers/0", "layers/1/2"]


# ------------------------------------------------------------------------------------------------- sharpness and noise
def test_the_stable_rate_beside_the_rate_used(ax: Axes) -> None:
    rows = [dict(row) for row in looks("Sharpness", stable_rate=np.array([0.5, np.inf, 0.2]))]
    for row, rate in zip(rows, (0.1, 0.1, 0.3), strict=True):
        row["figures"] = {"rate": rate}
    instruments.sharpness(ax, rows)
    assert labelled(ax, "largest stable rate 2/λ").tolist() == [[10, 0.5], [30, 0.2]]
    assert labelled(ax, "rate used").tolist() == [[10, 0.1], [20, 0.1], [30, 0.3]]


def test_signal_to_noise_has_its_line_at_one(ax: Axes) -> None:
    instruments.signal_to_noise(ax, looks("NoiseRatio", ratio=np.array([30.0, 3.0, 0.3])))
    assert labelled(ax, "signal / noise")[:, 1].tolist() == [30, 3, 0.3]
    assert labelled(ax, "as much noise as signal")[:, 1].tolist() == [1, 1]
    assert ax.get_ylim()[0] < 0.3
    assert ax.get_yscale() == "log"


def test_an_estimate_below_zero_keeps_a_linear_axis(ax: Axes) -> None:
    """The unbiased estimate of a signal may be negative."""
    instruments.signal_to_noise(ax, looks("NoiseRatio", ratio=np.array([2.0, -0.1])))
    assert ax.get_yscale() == "linear"
    drawn(ax)


# ------------------------------------------------------------------------------------------------------------- surface
def test_contours_lie_where_the_cost_is_theirs(ax: Axes) -> None:
    """Of a bowl with another width either way: (2a)² + b² is the level on every point of its contour."""
    offsets = np.linspace(-1.0, 1.0, 81)
    costs = np.add.outer((2 * offsets) ** 2, offsets**2)
    surface.contours(ax, offsets, costs, axes=("walked", "random"), start=-0.5)
    scale = surface.scale_of(costs, 1.0)
    assert scale == surface.Scale(0.0, 3.0, False, True)
    (lines,) = (one for one in ax.collections if isinstance(one, QuadContourSet) and not one.filled)
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        x, y = np.asarray(path.vertices).T
        # linear interpolation on cells of 0.025: off by curvature × h²/8, at most (8 + 2) × 0.025²/8 = 7.8e-4
        np.testing.assert_allclose((2 * x) ** 2 + y**2, scale.cost(level), atol=7.9e-4)
    assert labels_of(lines) == {f"{scale.cost(level):.3g}" for level in lines.levels[::3]}
    marks = {line.get_marker(): np.asarray(line.get_xydata()).tolist() for line in ax.lines}
    assert marks == {"s": [[-0.5, 0.0]], "o": [[0.0, 0.0]]}


def labels_of(lines: QuadContourSet) -> set[str]:
    return {text.get_text() for text in lines.labelTexts}


def test_a_slice_with_holes_is_drawn(ax: Axes) -> None:
    offsets = np.linspace(-1.0, 1.0, 9)
    costs = np.add.outer(offsets**2, offsets**2)
    costs[0], costs[1], costs[2, 2] = np.nan, np.inf, 1e300
    surface.contours(ax, offsets, costs, axes=("$\\frac$", "random"), start=None)
    drawn(ax)


@pytest.mark.parametrize("cost", [0.0, 5.0, -2.0])
def test_a_plain_has_a_scale(ax: Axes, cost: float) -> None:
    offsets, costs = np.linspace(-1.0, 1.0, 5), np.full((5, 5), cost)
    scale = surface.scale_of(costs, cost)
    assert (scale.heights(costs) == 0).all()
    surface.contours(ax, offsets, costs, axes=("a", "b"), start=-1.0)
    drawn(ax)


def test_heights_and_costs_are_each_others_inverse() -> None:
    for scale in (surface.Scale(2.0, 9.0, False, False), surface.Scale(1e-4, 9.0, True, False)):
        for height in (0.0, 0.3, 1.0):
            # a logarithm and an exponential in float64
            assert scale.heights(np.array([scale.cost(height)]))[0] == pytest.approx(height, abs=1e-12)


def test_a_start_that_is_no_number_is_none() -> None:
    offsets, costs = np.array([-1.0, 0.0, 1.0]), np.array([[1.0, np.inf, 1.0]] * 3)
    assert surface.cost_at_start(offsets, costs, -1.0) is None
    assert surface.cost_at_start(offsets, costs, None) is None

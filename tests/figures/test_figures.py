"""What the figures draw, against the numbers they were given and against SciPy and scikit-learn."""

import io
import subprocess
import sys
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from thalweg.figures import classification, comparison, predictions, style, training

RNG = np.random.default_rng(0)


@pytest.fixture
def ax() -> Axes:
    return Figure(figsize=(5.0, 3.5), layout="constrained").add_subplot()


def labelled(ax: Axes, label: str) -> np.ndarray:
    """The points of the line with this label, shape (n, 2)."""
    (line,) = (line for line in ax.lines if line.get_label() == label)
    return np.asarray(line.get_xydata())


def rows(totals: np.ndarray, **more: object) -> list[dict]:
    """Rows of one phase, a step each; totals of shape (rows,) or (rows, members)."""
    steps = range(1, len(totals) + 1)
    return [
        {"fit": "fit", "phase": 0, "step": i, "run_step": np.full(total.shape, i).tolist(), "total": total.tolist()}
        | {"parts": {"data": total.tolist()}} | more
        for i, total in zip(steps, totals, strict=True)
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- training
def test_losses_draws_the_rows(ax: Axes) -> None:
    totals = np.array([8.0, 4.0, 2.0, 1.0])
    training.losses(ax, rows(totals))
    assert labelled(ax, "training").tolist() == [[1, 8], [2, 4], [3, 2], [4, 1]]
    assert ax.get_yscale() == "log"
    assert ax.get_xlim() == (0, 4)


def test_members_are_thin_and_their_median_bold(ax: Axes) -> None:
    totals = np.array([[8.0, 2.0, 3.0], [4.0, 1.0, 2.0]])
    training.losses(ax, rows(totals))
    assert labelled(ax, "training").tolist() == [[1, 3], [2, 2]]
    thin = [line for line in ax.lines if line.get_linewidth() < 1]
    assert [np.asarray(line.get_ydata()).tolist() for line in thin] == [[8, 4], [2, 1], [3, 2]]


def test_a_negative_objective_keeps_a_readable_axis(ax: Axes) -> None:
    near = rows(np.linspace(1.0, -0.5, 10))
    training.losses(ax, near)
    assert ax.get_yscale() == "linear"
    far = Figure().add_subplot()
    training.losses(far, [row | {"validation": {"total": 500.0}} for row in near])
    assert far.get_yscale() == "symlog"


def test_parts_validation_and_the_best_step(ax: Axes) -> None:
    # a part named as the curves that are always there, and one that matplotlib would leave out of a legend
    given = rows(np.array([3.0, 2.0, 1.0]))
    for row, score in zip(given, (5.0, 4.0, 6.0), strict=True):
        row["parts"] = {"validation": 2 * row["total"], "_law": 3 * row["total"], "a$b$c": 1.0}
        row["validation"] = {"total": score}
    training.losses(ax, given)
    legend = ax.get_legend()
    assert legend is not None
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["total", "validation", " _law", "a\\$b\\$c", "validation", "best"]
    assert labelled(ax, " _law")[:, 1].tolist() == [9, 6, 3]
    assert labelled(ax, "best").tolist() == [[2, 4]]


def test_each_member_has_its_own_best(ax: Axes) -> None:
    scores = np.array([[3.0, 1.0], [2.0, 5.0], [4.0, 6.0]])
    given = [row | {"validation": {"total": one.tolist()}} for row, one in zip(rows(scores), scores, strict=True)]
    assert training.best_rows(given) == [1, 0]
    training.losses(ax, given)
    assert labelled(ax, "best of each").tolist() == [[2, 2], [1, 1]]


def test_rows_without_validation_leave_no_gap(ax: Axes) -> None:
    given = rows(np.array([4.0, 3.0, 2.0, 1.0]))
    given[1]["validation"], given[3]["validation"] = {"total": 7.0}, {"total": 6.0}
    training.losses(ax, given)
    assert labelled(ax, "validation").tolist() == [[2, 7], [4, 6]]


def test_phases_are_shaded_where_they_were(ax: Axes) -> None:
    given = rows(np.linspace(2.0, 1.0, 9))
    for row, phase in zip(given, (0, 0, 0, 1, 1, 1, 1, 2, 2), strict=True):
        row["phase"] = phase
    training.losses(ax, given)
    (shade,) = (patch for patch in ax.patches if isinstance(patch, Rectangle))
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (3, 7)
    assert [text.get_text() for text in ax.texts] == ["phase 1", "phase 2", "phase 3"]


def test_a_loss_that_is_not_finite_is_marked(ax: Axes) -> None:
    training.losses(ax, rows(np.array([1.0, 2.0, np.inf, np.nan])))
    assert labelled(ax, "not finite")[:, 0].tolist() == [3, 3]
    assert labelled(ax, "training").tolist() == [[1, 1], [2, 2]]


def test_nothing_finite_at_all_is_still_drawn(ax: Axes) -> None:
    training.losses(ax, rows(np.array([np.nan])))
    assert labelled(ax, "not finite")[:, 0].tolist() == [1, 1]


# -------------------------------------------------------------------------------------------------------- predictions
def test_against_truth_draws_points_and_whole_intervals(ax: Axes) -> None:
    truth, mean, deviation = np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.0, 2.0]), np.array([0.1, 0.2, 0.3])
    predictions.against_truth(ax, truth, mean, deviation, np.array([False, True, False]))
    assert labelled(ax, "test rows").tolist() == [[1.0, 1.5], [3.0, 2.0]]
    assert labelled(ax, "outside training").tolist() == [[2.0, 2.0]]
    bars = labelled(ax, "95% interval").reshape(3, 3, 2)
    # 1.96 is the two-sided 95 % point of the standard normal distribution, to the three digits it is known by
    np.testing.assert_allclose(bars[:, 1, 1] - bars[:, 0, 1], 2 * 1.96 * deviation, rtol=1e-3)
    assert np.isnan(bars[:, 2]).all()


def test_many_rows_are_thinned_the_same_way_each_time(ax: Axes) -> None:
    truth = RNG.normal(size=5000)
    predictions.residuals(ax, truth, np.zeros(5000))
    again = Figure().add_subplot()
    predictions.residuals(again, truth, np.zeros(5000))
    assert len(np.asarray(ax.lines[-1].get_xydata())) == predictions.MOST_POINTS
    np.testing.assert_array_equal(ax.lines[-1].get_ydata(), again.lines[-1].get_ydata())


def test_coverage_against_scipy() -> None:
    truth, mean, deviation = RNG.normal(size=300), RNG.normal(size=300), RNG.gamma(2.0, size=300)
    for level in (0.1, 0.5, 0.95):
        low, high = stats.norm.interval(level, mean, deviation)
        assert predictions.coverage(truth, mean, deviation, level) == np.mean((low <= truth) & (truth <= high))


def test_chance_against_the_binomial_distribution() -> None:
    for level, n in ((0.5, 60), (0.9, 200), (0.95, 66)):
        low, high = predictions.chance(level, n)
        exact = np.array(stats.binom.interval(0.95, n, level)) / n
        # the exact quantiles are whole rows and the normal approximation is not: they differ by at most a row or two
        assert abs(low - exact[0]) < 2 / n
        assert abs(high - exact[1]) < 2 / n


def test_calibration_finds_doubt_that_is_too_small(ax: Axes) -> None:
    truth = RNG.normal(size=2000)
    predictions.interval_coverage(ax, truth, np.zeros(2000), np.full(2000, 0.5))
    levels, shares = labelled(ax, "measured").T
    expected = 2 * stats.norm.cdf(0.5 * stats.norm.ppf((1 + levels) / 2)) - 1
    # four standard errors of a share of 2000 rows
    assert np.abs(shares - expected).max() < 4 * 0.5 / np.sqrt(2000)
    assert (shares[5:] < levels[5:]).all()


def test_doubt_wedge_is_the_95_interval(ax: Axes) -> None:
    predictions.residuals_against_doubt(ax, np.array([1.0, 2.0]), np.array([1.5, 1.5]), np.array([1.0, 3.0]))
    assert labelled(ax, "_child2").tolist() == [[1.0, -0.5], [3.0, 0.5]]
    edge = np.asarray(ax.collections[0].get_paths()[0].vertices)
    np.testing.assert_allclose(np.abs(edge[:, 1]), 1.96 * edge[:, 0], rtol=1e-3)


def test_one_row_without_doubt_can_be_drawn(ax: Axes) -> None:
    one = np.ones(1)
    for draw in (predictions.against_truth, predictions.residuals_against_doubt):
        draw(Figure().add_subplot(), one, one, np.zeros(1))
    predictions.residuals(ax, one, one)
    predictions.interval_coverage(Figure().add_subplot(), one, one, np.zeros(1))


# ----------------------------------------------------------------------------------------------------- classification
def test_confusion_against_sklearn(ax: Axes) -> None:
    truth, given = RNG.integers(4, size=200), RNG.integers(4, size=200)
    np.testing.assert_array_equal(
        classification.confusion_counts(truth, given, 4), confusion_matrix(truth, given, labels=range(4))
    )
    classification.confusion(ax, truth, given, ["a", "b", "c", "d"])
    assert [int(text.get_text()) for text in ax.texts] == confusion_matrix(truth, given).ravel().tolist()
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first true class on top


def test_rare_classes_are_put_together(ax: Axes) -> None:
    truth = np.concatenate([np.arange(40), np.tile(np.arange(20, 35), 3)])
    classification.confusion(ax, truth, truth, [f"c{i}" for i in range(40)])
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == [*(f"c{i}" for i in range(20, 35)), "other (25)"]
    assert sum(int(text.get_text()) for text in ax.texts) == len(truth)


def test_reliability_against_sklearn(ax: Axes) -> None:
    probability = RNG.dirichlet([1.0, 1.0], size=500)
    truth = RNG.integers(2, size=500)
    found = classification.confidence_bins(truth, probability, bins=10)
    right = probability.argmax(axis=1) == truth
    # of two classes the larger has a probability of at least ½: the same bins are the upper half of 20 from 0 to 1
    accuracy, confidence = calibration_curve(right, probability.max(axis=1), n_bins=20)
    np.testing.assert_allclose(found.accuracy, accuracy, rtol=1e-12)
    np.testing.assert_allclose(found.confidence, confidence, rtol=1e-12)
    assert found.rows.sum() == 500
    by_hand = np.average(np.abs(accuracy - confidence), weights=found.rows)
    assert found.error == pytest.approx(by_hand, rel=1e-12)

    classification.reliability(ax, truth, probability)
    bars = [np.asarray(line.get_ydata()) for line in ax.lines if line.get_alpha() is not None]
    for bar, share, n in zip(bars, accuracy, found.rows, strict=True):
        interval = stats.binomtest(round(share * n), n).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(bar, [interval.low, interval.high], rtol=1e-9)


# -------------------------------------------------------------------------------------------------------------- style
def test_scores_stand_in_the_order_given(ax: Axes) -> None:
    values = np.array([0.8, 0.7, np.inf])
    comparison.scores(ax, ["net", "$ridge$", "none"], values, values - 0.1, values + 0.1, metric="R²", first=1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["net", "\\$ridge\\$", "none"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert [line.get_color() for line in ax.lines[::2]] == [style.MUTED, style.SERIES[0], style.MUTED]


def test_names_are_drawn_as_they_stand() -> None:
    """A name of mathematics would else be set as a formula, or fail: `$\\frac$` is none."""
    figure, file = Figure(), io.StringIO()
    figure.text(0.5, 0.5, style.plain("$\\frac$ and $x$"))
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    assert ">$\\frac$ and $x$</text>" in file.getvalue()


@pytest.mark.parametrize(
    "names",
    [
        [f"a term with a long name {i}"[:24] for i in range(12)],
        ["total", "law", "sensors", "validation", "cooling", "best"],  # do not come out even in five or four columns
    ],
)
def test_a_legend_is_no_wider_than_the_figure(ax: Axes, names: list[str]) -> None:
    for i, name in enumerate(names):
        ax.plot([1, 2], [i, i], label=name)
    style.legend(ax)
    figure, legend = ax.get_figure(root=True), ax.get_legend()
    assert figure is not None
    figure.draw_without_rendering()
    assert legend is not None
    assert legend.get_window_extent().x1 <= figure.bbox.x1
    assert ax.get_window_extent().width > 0.5 * figure.bbox.width  # and did not press the axes flat


@pytest.mark.parametrize("ends", [(1e-6, 1e3), (0.5, 80.0), (1.3, 11.0), (2.0, 3.0), (1.0001, 1.0002)])
def test_a_logarithmic_axis_has_labels_that_do_not_touch(ax: Axes, ends: tuple[float, float]) -> None:
    ax.set_yscale("log")
    ax.set_ylim(*ends)
    style.logarithmic(ax.yaxis)
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels() if label.get_text()]
    inside = sorted((box for box in boxes if ax.bbox.y0 <= box.y0 + box.height / 2 <= ax.bbox.y1), key=lambda b: b.y0)
    assert len(inside) >= 2
    assert all(lower.y1 < upper.y0 for lower, upper in pairwise(inside))


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2.2 defines it."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_colours_are_read_on_white() -> None:
    for colour in (style.INK, style.MUTED, *style.SERIES):
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5, colour  # AA for text of any size


def test_importing_draws_nothing_and_loads_nothing_heavy() -> None:
    program = (
        "import sys, thalweg.figures, thalweg.report\n"
        "sys.stdout.write(' '.join(m for m in ('jax', 'matplotlib', 'jinja2', 'pandas') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == ""

"""The figure of a signal report, against the report's own numbers."""

import io

import jax
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thalweg.errors import UserError
from thalweg.figures.signals import signal_by_depth
from thalweg.nn import MLP, Activation, Sequential, SignalReport, he_normal, signal_report

X = np.random.default_rng(0).normal(size=(32, 4))


@pytest.fixture
def ax() -> Axes:
    return Figure(figsize=(5.0, 3.5), layout="constrained").add_subplot()


def report(**options: object) -> SignalReport:
    model = MLP(4, 1, width=16, depth=4, activation=jax.nn.relu, key=jax.random.key(0), **options)  # pyright: ignore[reportArgumentType]
    return signal_report(model, X)


def drawn(ax: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in ax.lines}


@pytest.mark.slow
def test_the_lines_are_the_reports_at_layers_with_weights(ax: Axes) -> None:
    found = report()
    signal_by_depth(ax, found)
    rows, lines = [0, 2, 4, 6, 8], drawn(ax)
    assert set(lines) == {"signal", "gradient"}
    np.testing.assert_array_equal(lines["signal"], np.column_stack([range(1, 6), found.mean_square[rows]]))
    np.testing.assert_array_equal(lines["gradient"][:, 1], found.backward[rows])
    ax.figure.savefig(io.BytesIO(), format="svg")


def test_dropout_has_a_line_of_its_own(ax: Axes) -> None:
    found = report(dropout=0.5)
    signal_by_depth(ax, found)
    off = drawn(ax)["signal, dropout off"]
    np.testing.assert_array_equal(off[:, 1], found.without_dropout[found.has_weights])
    assert np.all(off[2:, 1] < drawn(ax)["signal"][2:, 1])


def test_level_lines_look_level(ax: Axes) -> None:
    signal_by_depth(ax, report(init=he_normal))
    low, high = ax.get_ylim()
    assert high / low >= 99.9  # two decades, but for the rounding of powers of ten


def test_what_has_no_logarithm_leaves_a_gap(ax: Axes) -> None:
    model = MLP(4, 1, width=8, depth=2, activation=jax.nn.relu, key=jax.random.key(0))
    silent = jax.tree.map(lambda leaf: leaf * 0, model)
    signal_by_depth(ax, signal_report(silent, X))
    assert np.isnan(drawn(ax)["signal"][:, 1]).all()
    ax.figure.savefig(io.BytesIO(), format="svg")


def test_a_report_without_weights_is_refused(ax: Axes) -> None:
    with pytest.raises(UserError, match="weights"):
        signal_by_depth(ax, signal_report(Sequential([Activation(jax.nn.relu)]), X))

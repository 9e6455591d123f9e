"""The figure of a range test shows what was tried and what was read off it."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from thalweg.figures.rates import range_test
from thalweg.train.range_test import judged


@pytest.mark.parametrize("offset", [0.0, -2.0])
def test_the_rate_suggested_and_the_bounds_are_drawn(offset: float) -> None:
    rates = np.logspace(-6, 1, 120)
    seen = 1 / (1 + rates / 1e-3) + 50 * rates**2 + offset
    seen[-5:] = np.nan  # diverged
    found = judged(rates, seen, 0.5)
    ax = Figure().add_subplot()
    range_test(ax, found)
    lines = {line.get_label(): line for line in ax.get_lines()}
    suggested = next(line for label, line in lines.items() if label.startswith("suggested"))
    assert suggested.get_xdata()[0] == pytest.approx(found.suggested)
    assert np.array_equal(lines["smoothed"].get_xdata(), rates)
    box = next(patch for patch in ax.patches if patch.get_label() == "bounds for a cycle")
    left, right = box.get_extents().transformed(ax.transData.inverted()).intervalx
    assert (left, right) == (pytest.approx(found.low, rel=1e-6), pytest.approx(found.high, rel=1e-6))
    assert ax.get_yscale() == ("log" if offset == 0 else "linear")
    assert len(ax.get_legend().get_texts()) == 4

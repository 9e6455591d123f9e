"""The cavity's solver against the published table, and for its order."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

import thalweg as tw
from thalweg.physics.cavity import GHIA_U, GHIA_V, lid_driven_cavity


def test_the_published_table_is_met():
    """Ghia et al. give five digits, but on grids of second order they are up to 0.9 % of the lid's speed off."""
    x, u, v = lid_driven_cavity(100.0, 64)
    middle = len(x) // 2
    assert np.abs(CubicSpline(x, u[middle])(GHIA_U[:, 0]) - GHIA_U[:, 1]).max() < 0.01
    assert np.abs(CubicSpline(x, v[:, middle])(GHIA_V[:, 0]) - GHIA_V[:, 1]).max() < 0.01


def test_the_order_is_the_second():
    """At the centre, which the jumps at the lid's ends do not reach: u on 16, 32 and 64 cells."""
    found = [lid_driven_cavity(100.0, n)[1][n // 2, n // 2] for n in (16, 32, 64)]
    assert 3 < (found[1] - found[0]) / (found[2] - found[1]) < 6  # 4


def test_mass_is_kept():
    x, u, v = lid_driven_cavity(100.0, 32)
    out = np.trapezoid(u[16], x)  # through the middle as much goes right as left
    assert abs(out) < 4e-3  # the trapezium's error, (1/32)²/12 times u_yy, which is 30 at the lid
    assert abs(np.trapezoid(v[:, 16], x)) < 4e-3


@pytest.mark.parametrize(("reynolds", "cells"), [(0.0, 32), (100.0, 4), (100.0, 1_000), (float("nan"), 32)])
def test_bad_requests_are_refused(reynolds, cells):
    with pytest.raises(tw.UserError):
        lid_driven_cavity(reynolds, cells)

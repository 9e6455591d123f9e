"""Effective rank and mean cosine against closed forms, and their refusals."""

import numpy as np
import pytest

from thalweg.analysis import effective_rank, mean_cosine
from thalweg.errors import UserError

RNG = np.random.default_rng(0)


def rotated(values, n, m):
    left, right = (np.linalg.qr(RNG.normal(size=(size, size)))[0] for size in (n, m))
    return left[:, : len(values)] * values @ right[: len(values)]


def test_equal_singular_values_count_fully_and_others_by_their_entropy():
    # decompositions in 64 bits: rounding of 1e-15, times a logarithm
    assert effective_rank(rotated(np.full(4, 7.0), 9, 6)) == pytest.approx(4, rel=1e-12)
    assert effective_rank(np.outer(RNG.normal(size=5), RNG.normal(size=3))) == pytest.approx(1, rel=1e-12)
    assert effective_rank(np.zeros((3, 2))) == 0
    # p and 1 − p: exp of the binary entropy, p⁻ᵖ(1 − p)⁻⁽¹⁻ᵖ⁾
    assert effective_rank(rotated(np.array([3.0, 1.0]), 4, 5)) == pytest.approx(0.75**-0.75 * 0.25**-0.25, rel=1e-12)
    # a geometric spectrum qᵏ: H = −ln(1 − q) − q ln q/(1 − q), to what 60 terms of ½ leave out
    shares = 0.5 ** np.arange(60)
    assert effective_rank(np.diag(shares)) == pytest.approx(4, rel=1e-12)


def test_it_is_the_same_for_a_multiple_and_the_transpose():
    matrix = RNG.normal(size=(7, 4))
    assert effective_rank(3 * matrix.T) == pytest.approx(effective_rank(matrix), rel=1e-12)


def test_cosines_of_rows():
    assert mean_cosine(np.diag([1.0, -2.0, 3.0])) == 0
    assert mean_cosine([[1.0, 2.0], [-2.0, -4.0], [0.0, 0.0]]) == pytest.approx(1, rel=1e-15)  # of zeros: none
    assert np.isnan(mean_cosine([[1.0, 2.0], [0.0, 0.0]]))
    angle = 0.3
    assert mean_cosine([[1.0, 0.0], [np.cos(angle), np.sin(angle)]]) == pytest.approx(np.cos(angle), rel=1e-15)
    # of random directions E|cos| = Γ(d/2)/(√π Γ((d + 1)/2)), in three dimensions ½; 124,750 pairs of 500 rows
    assert mean_cosine(RNG.normal(size=(500, 3))) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("measure", [effective_rank, mean_cosine])
def test_what_is_no_matrix_is_refused(measure):
    for wrong in (np.ones(3), np.ones((0, 2)), 1.0):
        with pytest.raises(UserError, match="no matrix"):
            measure(wrong)
    with pytest.raises(UserError, match="not finite"):
        measure([[1.0, np.nan]])

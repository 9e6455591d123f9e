"""Lines of digits: how they are made and cut, and the whole study."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from thalweg.errors import UserError
from thalweg.studies import unaligned as study
from thalweg.study.runner import run_study

PIXELS, DIGITS = map(np.asarray, load_digits(return_X_y=True))
GLYPHS = PIXELS.reshape(-1, 8, 8) / 16


def test_a_line_holds_its_glyphs_in_their_order():
    images, texts, middles = study.made_lines(GLYPHS, DIGITS, 300, np.random.default_rng(0))
    assert images.shape == (300, 8, study.COLUMNS)
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert {len(text) for text in texts} == set(range(3, 9))
    repeats = 0
    for text, middle in zip(texts, middles, strict=True):
        runs = np.flatnonzero(np.diff(middle, prepend=0) * (middle > 0))
        assert (middle[runs] - 1).tolist() == text.tolist()  # each has a middle of its own, apart from the next
        assert len(runs) == len(text)
        repeats += np.sum(text[1:] == text[:-1])
    assert repeats > 50  # so that blanks between like digits matter
    ink = images.max(axis=1) > 0
    assert np.all(ink[middles > 0].mean() > 0.98)  # a middle column is hardly ever empty
    # all fit in: no line runs over its end, and the frames are enough for CTC
    assert study.FRAMES >= 2 * study.MOST


def test_a_glyph_of_its_own_width_is_itself():
    class Still:
        def uniform(self, low, high, shape):
            return np.zeros(shape)

    np.testing.assert_allclose(
        study.drawn(GLYPHS[:5], 8, Still(), 1.0), GLYPHS[:5], atol=1e-12
    )  # interpolation at pixels
    wide = study.drawn(GLYPHS[:50], 11, Still(), 1.0)
    # linear interpolation keeps the mean level of what does not touch the sides, to a few percent
    np.testing.assert_allclose(wide.mean(), GLYPHS[:50].mean(), rtol=0.05)


def test_cutting_reads_glyphs_that_stand_apart():
    machine = SVC(C=10).fit(study.cropped(GLYPHS[:1200]), DIGITS[:1200])
    images, answers = np.zeros((40, 8, study.COLUMNS), np.float32), []
    for i, image in enumerate(images):
        rows = np.arange(1200 + 4 * i, 1204 + 4 * i)
        for k, row in enumerate(rows):
            image[:, 2 + 12 * k : 10 + 12 * k] = GLYPHS[row]
        answers.append(tuple(DIGITS[rows].tolist()))
    right = study.exact([study.cut_lines(images, machine)], answers)
    assert right.shape == (1, 40)
    # glyphs of later writers are read at 95 %, four of them at 0.95⁴ = 0.81; a few have a gap within
    assert right.mean() > 0.6


def test_the_rival_learns_from_glyphs_as_they_stand_in_lines():
    rng = np.random.default_rng(0)
    x, y = study.distorted(GLYPHS[:400], DIGITS[:400], rng)
    assert (x.shape, y.shape) == ((2_400, 64), (2_400,))
    images, texts, _ = study.made_lines(GLYPHS[1200:], DIGITS[1200:], 100, rng)
    answers = [tuple(text.tolist()) for text in texts]
    read = lambda machine: study.exact([study.cut_lines(images, machine)], answers).mean()
    # learned from upright glyphs alone it reads half as many lines: no rival at all
    assert read(SVC(C=10).fit(x, y)) > 1.5 * read(SVC(C=10).fit(study.cropped(GLYPHS[:400]), DIGITS[:400])) > 0


@pytest.mark.slow
def test_the_study_at_small_settings(tmp_path: Path) -> None:
    done = run_study("unaligned", {"seeds": 6, "steps": 40, "lines": 300, "tests": 60}, out=tmp_path / "run")
    assert done.claims[0].verdict.value == "not supported"  # 40 steps teach nothing
    assert len(done.claims) == 3
    figures = sorted(path.stem for path in (tmp_path / "run/arrays/figures").glob("*.svg"))
    assert figures == ["alignment", "lengths"]
    assert json.loads((tmp_path / "run/claims.json").read_text())["systems"] == ["S13"]


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tests"):
        run_study("unaligned", {"tests": 2}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""Spoken digits: who speaks, how time warping reads, and the whole study."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from thalweg.errors import UserError
from thalweg.studies import spoken_digits as study
from thalweg.study.runner import run_study


def test_no_voice_of_the_test_was_heard_before() -> None:
    assert not set(study.TESTED) & {*study.TRAINED, *study.CHOSEN}
    assert not set(study.TRAINED) & set(study.CHOSEN)


def test_strings_fit_into_their_frames_and_the_noise_is_as_loud_as_said() -> None:
    slow = [(0, 7, 7, 0, 7, 7)] * 6  # six of the longest digits
    quiet, loud = (study.spoken(slow, study.TRAINED, noise, seed=1) for noise in (60.0, 10.0))
    assert quiet.features.shape == (6, study.FRAMES, study.BANDS)
    assert quiet.lengths.max() < study.FRAMES  # nothing is cut off
    assert (study.answers_until(quiet.lengths) >= 2 * study.MOST).all()  # room for each digit and a blank
    assert not quiet.features[0, quiet.lengths[0] :].any()
    # pauses rise with the noise, so a string's frames lie closer together
    assert loud.features.std() < 0.8 * quiet.features.std()
    np.testing.assert_array_equal(loud.features, study.spoken(slow, study.TRAINED, 10.0, seed=1).features)


def brute_force(frames: np.ndarray, templates: study.Templates, penalty: float) -> float:
    """The least cost of all ways through all strings of templates, one by one."""
    words = [range(a, b + 1) for a, b in zip(templates.first, templates.last, strict=True)]
    best = np.inf
    for path in itertools.product(range(len(templates.frames)), repeat=len(frames)):
        cost = sum(((frame - templates.frames[state]) ** 2).sum() for frame, state in zip(frames, path, strict=True))
        at, allowed = next(word for word in words if path[0] in word), True
        allowed &= path[0] == at[0]
        cost += penalty
        for before, now in itertools.pairwise(path):
            if now in at and 0 <= now - before <= 2:
                continue
            entered = next((word for word in words if word[0] == now), None)
            allowed &= before == at[-1] and entered is not None
            at, cost = entered or at, cost + penalty
        if allowed and path[-1] == at[-1]:
            best = min(best, cost)
    return best


def test_time_warping_finds_the_nearest_of_all_strings() -> None:
    rng = np.random.default_rng(0)
    templates = study.Templates(rng.normal(size=(6, 2)), np.array([0, 3, 5]), np.array([2, 4, 5]), np.array([4, 7, -1]))
    for trial in range(6):
        frames = rng.normal(size=(5, 2))
        penalty = float(trial) / 4
        read = study.warped(frames, templates, penalty)
        # what it reads costs what the cheapest of all paths does: templates of those words alone reach the same cost
        least = brute_force(frames, templates, penalty)
        kept = [i for i, digit in enumerate(templates.digits) if digit in read or digit == -1]
        sizes = (templates.last - templates.first + 1)[kept]
        states = np.concatenate([np.arange(templates.first[i], templates.last[i] + 1) for i in kept])
        last = np.cumsum(sizes) - 1
        fewer = study.Templates(templates.frames[states], last - sizes + 1, last, templates.digits[kept])
        assert brute_force(frames, fewer, penalty) == pytest.approx(least, rel=1e-12)


def test_time_warping_reads_its_own_templates_stretched() -> None:
    rng = np.random.default_rng(1)
    words = rng.normal(size=(4, 5, 3))
    first = 5 * np.arange(4)
    templates = study.Templates(words.reshape(20, 3), first, first + 4, np.arange(4))
    said = (2, 0, 0, 3)
    frames = np.concatenate([np.repeat(words[digit], rng.integers(1, 3, 5), axis=0) for digit in said])
    assert study.warped(frames, templates, penalty=0.1) == said


@pytest.mark.slow
def test_the_study_at_small_settings(tmp_path: Path) -> None:
    done = run_study(
        "spoken-digits", {"steps": 30, "strings": 60, "tests": 20, "width": 8}, out=tmp_path / "run"
    )  # thirty steps teach nothing
    assert [claim.verdict.value for claim in done.claims] == ["not supported"] * 2
    assert sorted(path.stem for path in (tmp_path / "run/arrays/figures").glob("*.svg")) == ["alignment", "lengths"]
    assert json.loads((tmp_path / "run/claims.json").read_text())["systems"] == ["S13"]


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="noise"):
        run_study("spoken-digits", {"noise": -5}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

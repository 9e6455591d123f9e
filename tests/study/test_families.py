"""Families: the tree against what is known of pure births and of mutations, the law, a user's table, and the study."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thalweg.errors import UserError
from thalweg.studies import families as study
from thalweg.studies.families import Settings, counts, descend, grown, yule
from thalweg.study.runner import run_study

TINY = {"seeds": 2, "families": 8, "members": 8, "steps": 20, "width": 8}


def test_every_tip_of_a_tree_is_as_old():
    parent, length, alive = yule(np.random.default_rng(0), 40)
    assert len(alive) == 40
    assert len(parent) == 2 * 40 - 1  # a binary tree
    for tip in alive:
        depth, at = 0.0, int(tip)
        while at >= 0:
            depth, at = depth + length[at], int(parent[at])
        assert depth == pytest.approx(1, abs=1e-12)  # rounding of some ten sums


def test_mutations_follow_jukes_and_cantor():
    """Each tip is as far from the root as the tree is high: it differs at ¾(1 − exp(−4/3 · height)) of the sites."""
    rng, height = np.random.default_rng(1), 0.3
    roots = rng.integers(4, size=(200, 500))
    sequences, values = zip(*(descend(rng, root, 0.0, 2, height) for root in roots), strict=True)
    differ = np.mean([one[0] != root for one, root in zip(sequences, roots, strict=True)])
    assert differ == pytest.approx(0.75 * (1 - np.exp(-4 / 3 * height)), abs=0.006)  # 100,000 sites: 4 × 0.0014
    assert np.std([one[0] for one in values]) == pytest.approx(height**0.5, rel=0.2)  # 200 values: 5 % a deviation


def test_kin_are_nearer_than_strangers_and_share_what_they_inherit():
    sequences, family, law, inherited = grown(Settings(families=12, members=10), seed=0)
    differ = (sequences[:, None] != sequences[None]).mean(axis=2)
    same = family[:, None] == family[None]
    assert differ[same].max() < differ[~same].min()
    within = np.mean([inherited[family == one].std() for one in range(12)])
    assert within < 0.4  # of the whole, which is 1
    assert law.std() == pytest.approx(1)


def test_counts_know_no_places():
    sequences = np.array([[0, 1, 2, 3, 1, 2], [1, 2, 0, 1, 2, 3]])
    found = counts(sequences)
    assert found[0, :4].tolist() == [1, 2, 2, 1]
    assert found[:, 4:].sum(axis=1).tolist() == [5, 5]
    assert found[0, 4 + 6] == 2  # CG, twice


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("'family' is missing", {"table": "t.csv"}),
        ("'table' is missing", {"family": "clade", "target": "y"}),
        ("'clad' is not in the table", {"table": "t.csv", "family": "clad", "target": "y"}),
        ("'z' is not in the table", {"table": "t.csv", "family": "clade", "target": "z"}),
        ("2 groups", {"table": "t.csv", "family": "two", "target": "y"}),
        ("group column 'gap' has no value", {"table": "t.csv", "family": "gap", "target": "y"}),
        ("no such file", {"table": "nowhere.csv", "family": "clade", "target": "y"}),
        ("must hold numbers", {"table": "t.csv", "family": "clade", "target": "name"}),
        ("families", {"families": 2}),
    ],
)
def test_what_cannot_be_studied_is_refused(words, settings, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"clade": np.repeat(list("abcdefgh"), 5), "two": ["x", "y"] * 20, "y": rng.normal(size=40)})
    frame["gap"] = frame["clade"].mask(frame.index == 7)
    frame["name"] = ["low", "high"] * 20
    frame.to_csv("t.csv", index=False)
    with pytest.raises(UserError, match=words):
        run_study("families", settings, out=tmp_path / "run")


@pytest.mark.slow
def test_the_study_at_tiny_settings(tmp_path: Path) -> None:
    done = run_study("families", TINY, out=tmp_path / "run")
    assert len(done.claims) == 9
    # two seeds have no interval at 95 %
    assert {claim.verdict.value for claim in done.claims[:5]} <= {"undecided", "not supported"}
    assert len(list((tmp_path / "run/arrays/figures").glob("*.svg"))) == len(study.TRAITS)


@pytest.mark.slow
def test_the_same_on_a_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    family = np.repeat(np.arange(12), 20)
    frame = pd.DataFrame(rng.normal(size=(12, 4))[family] + 0.1 * rng.normal(size=(240, 4)), columns=list("abcd"))
    frame["clade"], frame["y"] = family, rng.normal(size=12)[family] + 0.1 * rng.normal(size=240)
    frame.to_csv(tmp_path / "t.csv", index=False)
    asked = {"table": str(tmp_path / "t.csv"), "family": "clade", "target": "y"}
    done = run_study("families", {**TINY, **asked, "seeds": 6, "steps": 100}, out=tmp_path / "run")
    # the family is all there is: at random it is known from kin, and of a new one nothing is
    assert {claim.verdict.value for claim in done.claims} == {"not supported"}
    assert min(claim.value for claim in done.claims) > 0.3

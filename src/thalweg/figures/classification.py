"""Predicted classes beside true ones, and whether the probabilities that were told are kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from thalweg.figures.predictions import WIDTH_95, percentages
from thalweg.figures.style import DASHES, INK, MUTED, SERIES, dress, legend, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 16
"""Classes that a confusion matrix shows on their own; the rarer ones are put together."""


def confusion_counts(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """How many rows of each true class were given each class, shape (classes, classes), true class first.

    >>> confusion_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (truth, predicted), 1)
    return counts


def confusion(ax: "Axes", truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> None:
    """The confusion matrix: rows of each true class by the class they were given, shaded by share of the true class.

    Args:
        ax: where to draw.
        truth, predicted: classes as integers 0 … k − 1, shape (n,).
        classes: their k names. Beyond `MOST_CLASSES` the rarer are put together as "other".

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> confusion(ax, np.array([0, 0, 1]), np.array([0, 1, 1]), ["no", "yes"])
    >>> [text.get_text() for text in ax.texts]
    ['1', '1', '0', '1']
    """
    from matplotlib.patches import Rectangle

    truth, predicted, names = _fewer(truth, predicted, classes)
    counts = confusion_counts(truth, predicted, len(names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    dress(ax)
    ax.grid(visible=False)
    digits = len(str(counts.max())) * len(names)
    size = "medium" if digits <= 20 else "x-small" if digits <= 48 else "xx-small"
    for i, j in np.ndindex(counts.shape):
        share = float(shares[i, j])
        colour = SERIES[0] if i == j else SERIES[1]
        # never darker than half: dark text is then read on it, and light text on a dark page (contrast above 4.5)
        ax.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, color=colour, alpha=0.04 + 0.46 * share, linewidth=0))
        ax.text(j, i, f"{counts[i, j]}", ha="center", va="center", color=INK, fontsize=size)
    longest = max(len(name) for name in names)
    upright = len(names) * longest > 40
    ax.set_xticks(range(len(names)), names, rotation=90 if upright else 0, color=INK)
    ax.set_yticks(range(len(names)), names, color=INK)
    ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), xlabel="predicted class", ylabel="true class")
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)


class ConfidenceBins(NamedTuple):
    """Rows gathered by the probability of the class they were given; empty bins are left out.

    Attributes:
        confidence: mean probability told, shape (b,).
        accuracy: share of rows that were right, shape (b,).
        rows: how many, shape (b,).
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    rows: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of accuracy and confidence over the rows (Guo et al., 2017)."""
        return float(np.sum(self.rows * np.abs(self.accuracy - self.confidence)) / np.sum(self.rows))


def confidence_bins(truth: np.ndarray, probability: np.ndarray, bins: int = 10) -> ConfidenceBins:
    """Bins of equal width between 1/k, the least that the largest of k probabilities can be, and 1.

    Args:
        truth: classes as integers, shape (n,).
        probability: of each class, shape (n, k).
        bins: how many.

    >>> found = confidence_bins(np.array([0, 1]), np.array([[0.9, 0.1], [0.9, 0.1]]))
    >>> found.accuracy.tolist(), found.rows.tolist(), round(found.error, 3)
    ([0.5], [2], 0.4)
    """
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == truth
    least = 1.0 / probability.shape[1]
    place = np.clip(((confidence - least) / (1.0 - least) * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    mean = lambda values: np.bincount(place, values, minlength=bins)[used] / count[used]
    return ConfidenceBins(mean(confidence), mean(right), count[used])


def reliability(ax: "Axes", truth: np.ndarray, probability: np.ndarray, bins: int = 10) -> None:
    """The reliability diagram: share of right answers against the probability told, in bins.

    Each bar is the 95 % interval of the share, by Wilson's score (1927). Above the line the model is too modest, below
    it too sure of itself.

    Args:
        ax: where to draw.
        truth, probability, bins: as for `confidence_bins`.

    >>> from matplotlib.figure import Figure
    >>> ax = Figure().add_subplot()
    >>> reliability(ax, np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]]))
    >>> ax.get_ylabel()
    'share of right answers'
    """
    found = confidence_bins(truth, probability, bins)
    low, high = _wilson(found.accuracy, found.rows)
    dress(ax)
    ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0, linestyle=DASHES[1], label="exact")
    for x, bottom, top in zip(found.confidence, low, high, strict=True):
        ax.plot([x, x], [bottom, top], color=SERIES[0], linewidth=1.6, alpha=0.45, solid_capstyle="round")
    ax.plot(found.confidence, found.accuracy, "o", color=SERIES[0], markersize=6, label="measured, 95% interval")
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="probability told", ylabel="share of right answers")
    percentages(ax)
    legend(ax)


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = WIDTH_95
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return np.clip(centre - reach, 0, 1), np.clip(centre + reach, 0, 1)


def _fewer(
    truth: np.ndarray, predicted: np.ndarray, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    names = [plain(name, 14) for name in classes]
    if len(names) <= MOST_CLASSES:
        return truth, predicted, names
    often = np.argsort(-np.bincount(truth, minlength=len(names)), kind="stable")[: MOST_CLASSES - 1]
    kept = np.sort(often)
    place = np.full(len(names), len(kept))
    place[kept] = np.arange(len(kept))
    other = f"other ({len(names) - len(kept)})"
    return place[truth], place[predicted], [*(names[i] for i in kept), other]

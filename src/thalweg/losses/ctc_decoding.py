"""What an output of CTC reads as: the best path, and the best sequence that a beam finds.

On the host, in NumPy: a beam is a set of sequences that grows and merges, nothing that a compiled program is good at.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax

from thalweg.errors import UserError, whole_number


class Reading(NamedTuple):
    """A sequence of labels, and the natural logarithm of what is known of its probability: a lower bound."""

    labels: tuple[int, ...]
    log_probability: float


def ctc_greedy(logits: Any, input_length: int | None = None, *, blank: int = 0) -> Reading:
    """The reading of the most probable path: the best class of each step, without repeats, then without blanks.

    Fast, but not always the most probable sequence, for that is a sum over paths; see `ctc_beam`.

    Args:
        logits: of one example, shape (T, C).
        input_length: steps that count; None for all.
        blank: the class that stands for no label.
    Returns:
        the labels, and the log probability of that one path.
    Raises:
        UserError: logits that are no real numbers (steps, classes); a step with NaN or +∞, or with -∞ alone; a blank
            or a length that is no whole number in its range.

    >>> ctc_greedy(np.log([[0.2, 0.8], [0.1, 0.9], [0.9, 0.1], [0.4, 0.6]])).labels
    (1, 1)
    """
    each, blank = _log_probabilities(logits, input_length, blank)
    path = each.argmax(axis=1)
    is_new = np.append(True, path[1:] != path[:-1])[: len(path)] & (path != blank)
    return Reading(tuple(path[is_new].tolist()), float(each.max(axis=1).sum()))


def ctc_beam(
    logits: Any, input_length: int | None = None, *, width: int = 16, keep: int = 1, blank: int = 0
) -> list[Reading]:
    """The most probable sequences that a prefix beam search finds (Graves, 2012; Hannun and others, 2014).

    Args:
        logits: of one example, shape (T, C).
        input_length: steps that count; None for all.
        width: prefixes kept after each step. With all that are possible the search is exhaustive, and exact.
        keep: readings returned, at most `width`.
        blank: the class that stands for no label.
    Returns:
        the best first. Their log probabilities are sums over the paths that stayed in the beam.
    Raises:
        UserError: as `ctc_greedy`; a width or number that is no whole number in its range.

    >>> logits = np.log([[0.6, 0.4], [0.6, 0.4]])  # the best path is two blanks: 0.36; but 1·, ·1 and 11 add up to 0.64
    >>> found = ctc_beam(logits)[0]
    >>> ctc_greedy(logits).labels, found.labels, round(float(np.exp(found.log_probability)), 3)
    ((), (1,), 0.64)
    """
    each, blank = _log_probabilities(logits, input_length, blank)
    width, keep = whole_number(width, "the width", "ctc_beam"), whole_number(keep, "keep", "ctc_beam")
    if not 1 <= keep <= width:
        raise UserError(f"{keep} readings of a beam of {width}", where="ctc_beam", remedy="1 ≤ keep ≤ width.")
    prefixes: list[tuple[int, ...]] = [()]
    after_blank, after_label = np.zeros(1), np.full(1, -np.inf)  # log of the sums over the paths that end so
    for now in each:
        total = np.logaddexp(after_blank, after_label)
        last = np.array([prefix[-1] if prefix else blank for prefix in prefixes])
        grown = total[:, None] + now  # (prefixes, C)
        rows = np.arange(len(prefixes))
        grown[rows, last] = after_blank + now[last]  # a label follows itself only over a blank
        grown[:, blank] = -np.inf
        still = np.where(last == blank, -np.inf, after_label + now[last])
        place = {prefix: i for i, prefix in enumerate(prefixes)}
        for i, prefix in enumerate(prefixes):  # one that grows into another of the beam is added to that
            parent = place.get(prefix[:-1]) if prefix else None
            if parent is not None:
                still[i] = np.logaddexp(still[i], grown[parent, prefix[-1]])
                grown[parent, prefix[-1]] = -np.inf
        stay_blank = total + now[blank]
        score = np.concatenate([np.logaddexp(stay_blank, still), grown.ravel()])
        best = np.argsort(-score, kind="stable")[:width]
        best = best[score[best] > -np.inf]
        stays, parents = best < len(prefixes), (best - len(prefixes)) // each.shape[1]
        classes = (best - len(prefixes)) % each.shape[1]
        after_blank = np.where(stays, stay_blank[np.where(stays, best, 0)], -np.inf)
        after_label = np.where(stays, still[np.where(stays, best, 0)], score[best])
        prefixes = [
            prefixes[i] if stay else (*prefixes[parent], int(label))
            for i, stay, parent, label in zip(best, stays, parents, classes, strict=True)
        ]
    order = np.argsort(-np.logaddexp(after_blank, after_label), kind="stable")[:keep]
    return [Reading(prefixes[i], float(np.logaddexp(after_blank[i], after_label[i]))) for i in order]


def _log_probabilities(logits: Any, input_length: int | None, blank: int) -> tuple[np.ndarray, int]:
    """(input_length, C), in 64 bits; and the blank, checked."""
    given, blank = np.asarray(logits), whole_number(blank, "the blank", "decoding")
    if given.ndim != 2 or not 0 <= blank < given.shape[1]:
        raise UserError(
            f"logits of shape {given.shape}, with the blank {blank}",
            where="decoding",
            remedy="Those of one example have the shape (steps, classes), and the blank is one of the classes.",
        )
    if given.dtype.kind in "USOcmM":  # what is left are numbers: bfloat16 and its like are of kind V
        raise UserError(f"logits of dtype {given.dtype}", where="decoding", remedy="They are real numbers.")
    steps = len(given) if input_length is None else whole_number(input_length, "the input length", "decoding")
    if not 0 <= steps <= len(given):
        raise UserError(f"an input length of {steps}, where there are {len(given)} steps", where="decoding")
    each = given[:steps].astype(np.float64)
    faults = (
        (np.isnan(each), "a logit is NaN"),
        (each == np.inf, "a logit is +∞"),
        (np.all(each == -np.inf, axis=1, keepdims=True), "all logits are -∞"),
    )
    for wrong, what in faults:
        if len(bad := np.argwhere(wrong)):
            raise UserError(f"{what} in step {bad[0][0]}", where="decoding", remedy="Steps are counted from 0.")
    return log_softmax(each, axis=1), blank

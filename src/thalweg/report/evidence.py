"""The figures that the scores rest on: predictions and their doubt."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from thalweg.figures import classification, predictions
from thalweg.report.arrays import ClassTest, NumberTest
from thalweg.report.drawing import Drawing, drawing
from thalweg.report.words import count, figure, fixed, percent


@dataclass(frozen=True)
class Predictions:
    """Predictions on the held-out rows: statements, and figures."""

    statements: list[str]
    drawings: list[Drawing]


def predicted(test: NumberTest | ClassTest) -> Predictions:
    """Predictions beside the truth, and whether the doubt told is right."""
    found = _numbers(test) if isinstance(test, NumberTest) else _classes(test)
    if test.left_out:
        found.statements.append(
            f"{count(test.left_out, 'row has', 'rows have')} no finite prediction and are not shown here."
        )
    return found


def _numbers(test: NumberTest) -> Predictions:
    truth, mean, deviation = test.truth, test.mean, test.deviation
    n, shown = len(truth), min(len(truth), predictions.MOST_POINTS)
    sample = "" if shown == n else f" {shown:,} of {n:,} rows are drawn, chosen at random."
    covered = predictions.coverage(truth, mean, deviation, 0.95)
    low, high = predictions.chance(0.95, n)
    verdict = (
        "the doubt told is too small" if covered < low else "the doubt told is too large" if covered > high else
        "that is what chance explains"
    )  # fmt: skip
    statements = [
        f"{percent(covered)} of {count(n, 'row')} lie within their 95% interval ({percent(low)} to {percent(high)} "
        f"is what chance explains): {verdict}." if not low <= covered <= high else
        f"{percent(covered)} of {count(n, 'row')} lie within their 95% interval, as they should "
        f"(chance explains {percent(low)} to {percent(high)}).",
        _sources_of_doubt(test),
    ]  # fmt: skip
    if test.outside.any():
        error = np.abs(truth - mean)
        inside = f", that of the others {figure(np.median(error[~test.outside]), 3)}" if not test.outside.all() else ""
        statements.append(
            f"{count(int(test.outside.sum()), 'row lies', 'rows lie')} outside the training range in some column "
            f"(triangles); their median error is {figure(np.median(error[test.outside]), 3)}{inside}."
        )
    error = truth - mean
    correlation = f", correlation {fixed(np.corrcoef(truth, mean)[0, 1], 2)}" if np.ptp(truth) and np.ptp(mean) else ""
    bias = f"Mean residual {figure(error.mean(), 3)}, standard deviation {figure(error.std(), 3)}"
    arrays = {"truth": truth, "mean": mean, "outside": test.outside}
    return Predictions(
        statements,
        [
            drawing(
                partial(predictions.against_truth, deviation=deviation, **arrays),
                name="truth",
                title="Predicted against true",
                alt=f"Scatter of {count(n, 'held-out row')}: predicted against true values{correlation}.",
                caption=f"On the dashed line the two agree; bars are 95% intervals.{sample}",
            ),
            drawing(
                partial(predictions.residuals, **arrays),
                name="residuals",
                title="Residuals",
                alt=f"Residuals, true minus predicted, against the prediction. {bias}.",
                caption=f"{bias}. A trend here would be something left to learn.",
            ),
            drawing(
                partial(predictions.interval_coverage, truth=truth, mean=mean, deviation=deviation),
                name="coverage",
                title="Are the intervals right?",
                alt=f"Share of rows within an interval against the share promised; at 95% it is {percent(covered)}.",
                caption="Below the dashed line the model is too sure of itself, above it too modest.",
            ),
            drawing(
                partial(predictions.residuals_against_doubt, deviation=deviation, **arrays),
                name="doubt",
                title="Is the doubt where the errors are?",
                alt="Residuals against the standard deviation told with each prediction, with the 95% wedge.",
                caption="Errors should grow with the doubt told: 95 of 100 points within the wedge.",
            ),
        ],
    )


def _sources_of_doubt(test: NumberTest) -> str:
    noise, ignorance = float(np.median(test.aleatoric)), float(np.median(test.epistemic))
    told = (
        f"Median doubt (standard deviation): {figure(noise, 3)} noise that more data will not remove (aleatoric), "
        f"{figure(ignorance, 3)} disagreement that more data would (epistemic)"
    )
    if ignorance > noise:
        return f"{told}. More rows would help most."
    return f"{told}."


def _classes(test: ClassTest) -> Predictions:
    truth, probability = test.truth, test.probability
    given = probability.argmax(axis=1)
    right = given == truth
    n = len(truth)
    bins = classification.confidence_bins(truth, probability)
    statements = [
        f"{int(right.sum()):,} of {count(n, 'row')} get their true class ({percent(right.mean())}). The probability "
        f"told for the class chosen is {percent(probability.max(axis=1).mean())} in the mean, and "
        f"{percent(bins.error)} off in the mean (expected calibration error).",
    ]
    if (~right).any():
        statements.append(_most_confused(test, given))
    if np.ptp(test.epistemic) and right.any() and (~right).any():
        of_right, of_wrong = (float(np.median(test.epistemic[rows])) for rows in (right, ~right))
        statements.append(
            f"Median epistemic doubt: {figure(of_right, 3)} where the answer is right, {figure(of_wrong, 3)} where it "
            "is wrong."
        )
    k = len(test.classes)
    merged = k > classification.MOST_CLASSES
    return Predictions(
        statements,
        [
            drawing(
                partial(classification.confusion, truth=truth, predicted=given, classes=test.classes),
                name="confusion",
                title="Confusion matrix",
                alt=f"Confusion matrix of {count(k, 'class', 'classes')}: {percent(right.mean())} on the diagonal.",
                caption="Rows are true classes, shaded by their share."
                + (" Rare classes are merged." if merged else ""),
                size=(5.0, 3.5 if k <= 6 else 4.6),
            ),
            drawing(
                partial(classification.reliability, truth=truth, probability=probability),
                name="reliability",
                title="Are the probabilities right?",
                alt=f"Reliability diagram; expected calibration error {percent(bins.error)}.",
                caption="Below the dashed line the model is too sure of itself, above it too modest.",
            ),
        ],
    )


def _most_confused(test: ClassTest, given: np.ndarray) -> str:
    wrong = given != test.truth
    pairs, counts = np.unique(np.stack([test.truth[wrong], given[wrong]]), axis=1, return_counts=True)
    true, taken = pairs[:, counts.argmax()]
    return (
        f"Most often confused: {test.classes[true]} taken for {test.classes[taken]} "
        f"({count(int(counts.max()), 'row')})."
    )

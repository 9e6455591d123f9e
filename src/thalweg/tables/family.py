"""Which distribution a numeric target is given: proposed by its values, confirmed on the training rows, and said."""

import enum
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.data.resolution import spread
from thalweg.tables.units import column_units, standardized

FOLDS = 5
MOST_ROWS = 5_000
"""Rows of the trial: more would take long, and tell no more of a distribution's shape."""

SMALLEST_GAIN = 0.01
"""Nats a row: a smaller gain changes no decision."""

ERRORS = 2.0
"""Standard errors that a gain must have; one is enough for Student's t, which has the Gaussian for its limit, and so
costs next to nothing where it was not needed, but saves much at the first outlier where it was."""

MOST_GAIN = 3.0
"""Nats that a single row can speak for a family; what it speaks against one is not bounded."""

MOST_OF_ONE_VALUE = 0.1
"""Share of rows with one and the same value from which a sharp-peaked density could win by a spike alone."""


SMALLEST_VARIATION = 1e-6
"""Standard deviation over mean below which a log-normal is a Gaussian, and the logarithm loses its digits."""


class Family(enum.Enum):
    """A distribution of a numeric target; its parameters depend on the row."""

    GAUSSIAN = "gaussian"
    STUDENT_T = "student_t"
    LOG_NORMAL = "log_normal"
    LOGIT_NORMAL = "logit_normal"
    POISSON = "poisson"
    NEGATIVE_BINOMIAL = "negative_binomial"

    @property
    def domain(self) -> str:
        """What it takes, in words."""
        return {
            Family.LOG_NORMAL: "numbers > 0",
            Family.LOGIT_NORMAL: "numbers between 0 and 1, both excluded",
            Family.POISSON: "counts (0, 1, 2, …)",
            Family.NEGATIVE_BINOMIAL: "counts (0, 1, 2, …)",
        }.get(self, "numbers")

    def takes(self, values: np.ndarray) -> np.ndarray:
        """Which of the values, shape (n,), it gives a probability or density."""
        match self:
            case Family.LOG_NORMAL:
                return values > 0
            case Family.LOGIT_NORMAL:
                return (values > 0) & (values < 1)
            case Family.POISSON | Family.NEGATIVE_BINOMIAL:
                return is_count(values)
            case _:
                return np.isfinite(values)


WORDS = {
    Family.GAUSSIAN: "Gaussian",
    Family.STUDENT_T: "Student's t",
    Family.LOG_NORMAL: "log-normal",
    Family.LOGIT_NORMAL: "logit-normal",
    Family.POISSON: "Poisson",
    Family.NEGATIVE_BINOMIAL: "negative binomial",
}


@dataclass(frozen=True)
class FamilyChoice:
    """What was chosen (None: classes have no family), and a sentence that says why."""

    family: Family | None
    reason: str


def is_count(values: np.ndarray) -> np.ndarray:
    """Which values are whole numbers ≥ 0, up to 2⁵³: above, every float64 is whole."""
    return (values >= 0) & (values == np.round(values)) & (values <= 2.0**53)


def propose(train: np.ndarray, everywhere: np.ndarray) -> list[tuple[Family, str]]:
    """The families that a target could have beside the Gaussian, each with what speaks for it.

    Whole numbers ≥ 0 are counts: negative binomial if their variance exceeds their mean, else Poisson. Numbers strictly
    between 0 and 1 are proportions: logit-normal (exact 0 or 1 has no logit; a cross-entropy with soft targets would
    take it, but tells no scatter of the target). Other positive numbers: log-normal. Any that are not mostly one value:
    Student's t.

    Args:
        train: target of the training rows, whose shape decides.
        everywhere: of all rows: what a single one of them rules out is not proposed.
    """
    found = []
    positive = bool((everywhere > 0).all())
    if is_count(everywhere).all():
        ratio = train.var() / train.mean() if train.mean() > 0 else math.nan
        family = Family.NEGATIVE_BINOMIAL if ratio > 1 else Family.POISSON
        found.append((family, f"whole numbers ≥ 0 whose variance is {ratio:.3g} times their mean"))
    if positive and (everywhere < 1).all():
        found.append((Family.LOGIT_NORMAL, "numbers between 0 and 1"))
    elif positive and spread(train) > SMALLEST_VARIATION * train.mean():
        found.append((Family.LOG_NORMAL, f"positive numbers of skewness {_skewness(train):.2g}, their logarithm's "
                      f"{_skewness(np.log(train)):.2g}"))  # fmt: skip
    if np.unique(train, return_counts=True)[1].max() <= max(MOST_OF_ONE_VALUE * len(train), 2):
        found.append((Family.STUDENT_T, f"numbers of excess kurtosis {_kurtosis(train):.2g}"))
    return found


def choose_family(
    x: np.ndarray, train: np.ndarray, everywhere: np.ndarray, *, name: str, asked: Family | None, seed: int
) -> FamilyChoice:
    """The family of a numeric target.

    What its values propose is tried on the training rows before it is taken: by cross-validation, linear models whose
    noise is Gaussian, with a scale that depends on the row, against the same with the proposed noise. Only a gain in
    negative log-likelihood of at least 0.01 nats a row and two standard errors is taken (one for Student's t, whose
    limit the Gaussian is); else it stays Gaussian.
    Whole-number targets are compared as probabilities of the whole numbers, so that densities have no advantage.

    Args:
        x: encoded training rows (n, d).
        train: their target (n,).
        everywhere: the target of all rows.
        name: the target's, for the sentence.
        asked: the user's own choice, which `Family.takes` has been asked about; None lets the target decide.
        seed: of the folds.
    """
    if asked is not None:
        return FamilyChoice(asked, f"target '{name}' is taken as {WORDS[asked]}: as asked")
    proposed = propose(train, everywhere)
    if len(train) < 10 * FOLDS or not proposed:
        return FamilyChoice(Family.GAUSSIAN, f"target '{name}' is taken as Gaussian: too few rows to tell otherwise")
    most = min(MOST_ROWS, max(500, 1_000_000 // x.shape[1]))
    rows = np.random.default_rng(seed).permutation(len(train))[:most]
    x, train = _features(x[rows]), train[rows]
    costs = _costs(x, train, [Family.GAUSSIAN, *(family for family, _ in proposed)])
    best, why, gain, error = Family.GAUSSIAN, "", 0.0, 0.0
    tried = []
    for family, evidence in proposed:
        gains = np.minimum(costs[Family.GAUSSIAN] - costs[family], MOST_GAIN)
        mean, deviation = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))
        tried.append(f"{WORDS[family]} {mean:+.3f} ± {deviation:.3f}")
        errors = 1.0 if family is Family.STUDENT_T else ERRORS
        if mean > max(errors * deviation, SMALLEST_GAIN, gain):
            best, why, gain, error = family, evidence, mean, deviation
    trial = "in a trial with linear models on the training rows"
    if best is Family.GAUSSIAN:
        return FamilyChoice(
            best,
            f"target '{name}' is taken as Gaussian: {trial}, nothing else was surely better (nats a row gained: "
            f"{', '.join(tried)})",
        )
    return FamilyChoice(
        best,
        f"target '{name}' is taken as {WORDS[best]}: it holds {why}, and {trial} this gained {gain:.3f} ± {error:.3f} "
        "nats a row over a Gaussian (to have that, --set loss=gaussian)",
    )


# ------------------------------------------------------------------------------------------------------------ the trial
def _costs(x: np.ndarray, y: np.ndarray, families: list[Family]) -> dict[Family, np.ndarray]:
    """Each row's negative log-likelihood under linear models that have not seen it."""
    found = {family: np.empty(len(y)) for family in families}
    whole = bool(is_count(y).all())
    for seen, held in _folds(len(y)):
        for family in families:
            found[family][held] = _trial(family, x[seen], y[seen], x[held], y[held], whole)
    return found


def _features(x: np.ndarray) -> np.ndarray:
    """Standardized columns, bent as the network bends them, so that one outlier cannot rule a row."""
    z = standardized(x, column_units(x))
    return z / np.sqrt(1 + (z / 3) ** 2)


def _folds(n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    fold = np.arange(n) % FOLDS  # the rows have been shuffled
    return ((np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(FOLDS))


def _trial(family: Family, x: np.ndarray, y: np.ndarray, x_held: np.ndarray, y_held: np.ndarray, whole: bool):
    import scipy.stats as st

    noise: Any  # scipy's frozen distributions have no common type
    match family:
        case Family.POISSON | Family.NEGATIVE_BINOMIAL:
            mean, rate = _counts(x, y, x_held)
            if family is Family.POISSON:
                return -st.poisson.logpmf(y_held, rate)
            alpha = max(float(((y - mean) ** 2 - mean).sum() / (mean**2).sum()), 1e-6)
            return -st.nbinom.logpmf(y_held, 1 / alpha, 1 / (1 + alpha * rate))
        case Family.LOG_NORMAL:
            center, scale, _ = _linear(x, np.log(y), x_held)
            noise, slope = st.norm(center, scale), lambda v: 1 / v
            move = np.log
        case Family.LOGIT_NORMAL:
            move = lambda v: np.log(v) - np.log1p(-v)
            center, scale, _ = _linear(x, move(y), x_held)
            noise, slope = st.norm(center, scale), lambda v: 1 / (v * (1 - v))
        case Family.STUDENT_T:
            center, scale, residuals = _linear(x, y, x_held)
            df, factor = _tails(residuals)
            noise, slope, move = st.t(df, center, factor * scale), np.ones_like, lambda v: v
        case _:
            center, scale, _ = _linear(x, y, x_held)
            noise, slope, move = st.norm(center, scale), np.ones_like, lambda v: v
    log_density = noise.logpdf(move(y_held)) + np.log(slope(y_held))
    if not whole:
        return -log_density
    below = np.where(y_held > 0, noise.cdf(move(np.maximum(y_held - 0.5, 0.25))), 0.0)
    share = noise.cdf(move(y_held + 0.5)) - below
    return -np.where(share > 1e-9, np.log(np.maximum(share, 1e-9)), np.minimum(log_density, math.log(1e-9)))


def _linear(x: np.ndarray, y: np.ndarray, x_held: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and scale of held rows, both linear models (of y, and of its log squared residual: Harvey, 1976).

    The third is the training rows' residuals over their own scale.
    """
    mean = _ridge(x, y)
    half = np.arange(len(y)) % 2 == 0  # residuals of rows that were not fitted: no smaller than they will be
    residuals = np.empty(len(y))
    for one in (half, ~half):
        residuals[one] = y[one] - _ridge(x[~one], y[~one]).predict(x[one])
    square = residuals**2
    wide = lambda rows: np.column_stack([rows, mean.predict(rows)])
    floor = 1e-3 * square.mean() + 1e-300
    spread = _ridge(wide(x), np.log(square + floor))
    log_variance = lambda rows: np.clip(spread.predict(wide(rows)), *np.quantile(np.log(square + floor), [0.05, 1]))
    inside = np.exp(log_variance(x))
    factor = max(float(np.mean(square / inside)), 1e-12)
    scale = np.sqrt(factor * np.exp(log_variance(x_held)))
    return mean.predict(x_held), scale, residuals / np.sqrt(factor * inside)


def _tails(residuals: np.ndarray) -> tuple[float, float]:
    """Degrees of freedom and scale of Student's t, by likelihood over a few of the former."""
    import scipy.stats as st

    def fitted(df: float) -> float:
        square = 1.0
        for _ in range(30):  # expectation–maximization
            square = float(np.mean((df + 1) * residuals**2 / (df + residuals**2 / square)))
        return math.sqrt(max(square, 1e-12))

    candidates = [(df, fitted(df)) for df in (2.2, 3.0, 4.0, 6.0, 10.0, 30.0)]
    return max(candidates, key=lambda pair: st.t.logpdf(residuals, pair[0], 0, pair[1]).sum())


def _counts(x: np.ndarray, y: np.ndarray, x_held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected counts of training and held rows: log-linear, by Poisson's likelihood."""
    from sklearn.linear_model import PoissonRegressor
    from sklearn.model_selection import GridSearchCV

    settings = {"alpha": [1e-3, 1e-2, 1e-1, 1.0]}
    model: Any = GridSearchCV(PoissonRegressor(solver="newton-cholesky"), settings, cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not quite converged is near enough for a trial
        model.fit(x, y)
    most = 10 * y.max()
    return np.minimum(model.predict(x), most), np.clip(model.predict(x_held), 1e-9, most)


def _ridge(x: np.ndarray, y: np.ndarray) -> Any:
    from sklearn.linear_model import RidgeCV

    return RidgeCV(np.logspace(-3, 4, 8)).fit(x, y)


def _skewness(values: np.ndarray) -> float:
    z = (values - values.mean()) / values.std()
    return float(np.mean(z**3))


def _kurtosis(values: np.ndarray) -> float:
    z = (values - values.mean()) / values.std()
    return float(np.mean(z**4) - 3)

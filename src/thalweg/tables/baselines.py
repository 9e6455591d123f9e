"""What a network must beat on a table: a constant, a linear model, gradient boosting."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from thalweg.data import Task
from thalweg.data.resolution import middle, spread
from thalweg.tables.units import column_units, standardized


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline's answers on the test rows: (m,) numbers, or (m, k) probabilities."""

    name: str
    answers: np.ndarray


def fit_baselines(
    task: Task, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, classes: int, seed: int
) -> list[Baseline]:
    """Fit each on all rows but the test rows: they choose their own settings by cross-validation within.

    Columns and target are given to them in units of their own mean and spread: that changes none of these models, but
    boosting keeps its gradients in float32, and sums of squares of large or small numbers have no float64.

    Args:
        task: number or classes.
        x, y: rows that are not test rows, encoded.
        x_test: test rows.
        classes: number of classes; 0 for a number.
        seed: for what is random in them.
    """
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    units = column_units(x)
    x, x_test = standardized(x, units), standardized(x_test, units)
    if task is Task.NUMBER:
        center, scale = middle(y), spread(y)
        y = (y - center) / scale
        models: dict[str, Any] = {
            "mean": DummyRegressor(),
            "ridge": make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 4, 22))),
            "gradient boosting": HistGradientBoostingRegressor(random_state=seed),
        }
        return [Baseline(name, model.fit(x, y).predict(x_test) * scale + center) for name, model in models.items()]
    smallest = int(np.bincount(y)[np.unique(y)].min())
    logistic: Any = LogisticRegression(max_iter=2_000)
    if smallest >= 3:  # else cross-validation would meet folds without one of the classes
        folds = StratifiedKFold(min(5, smallest), shuffle=True, random_state=seed)
        logistic = GridSearchCV(logistic, {"C": np.logspace(-3, 2, 11)}, cv=folds, scoring="neg_log_loss")
    models = {
        "class frequencies": DummyClassifier(),
        "logistic regression": make_pipeline(StandardScaler(), logistic),
        "gradient boosting": HistGradientBoostingClassifier(random_state=seed),
    }
    return [Baseline(name, _probabilities(model.fit(x, y), x_test, classes)) for name, model in models.items()]


def _probabilities(model: Any, x: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities of all classes, also of those that the model has not seen."""
    found = np.zeros((len(x), classes))
    found[:, np.asarray(model.classes_, int)] = model.predict_proba(x)
    return found

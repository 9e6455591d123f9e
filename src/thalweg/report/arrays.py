"""What the figures of a page show, as it lies in a run's `arrays/`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thalweg.report.files import damaged, read_npz


@dataclass(frozen=True)
class NumberTest:
    """`arrays/test.npz` of a numeric target, each shape (n,) with n ≥ 1, in the target's units, finite.

    Attributes:
        truth, mean: true and predicted.
        aleatoric, epistemic: standard deviations: noise that no model removes, and what more data would.
        outside: bool; the row lies outside the training range.
        left_out: rows that had no finite prediction and are not here.
    """

    truth: np.ndarray
    mean: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray
    outside: np.ndarray
    left_out: int

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation of the whole doubt, shape (n,)."""
        return np.hypot(self.aleatoric, self.epistemic)


@dataclass(frozen=True)
class ClassTest:
    """`arrays/test.npz` of a target of k classes.

    Attributes:
        truth: shape (n,), integers 0 … k − 1.
        probability: shape (n, k).
        epistemic: shape (n,).
        classes: k names.
        left_out: rows that had no finite prediction and are not here.
    """

    truth: np.ndarray
    probability: np.ndarray
    epistemic: np.ndarray
    classes: list[str]
    left_out: int


def read_test(path: Path, classes: list[str] | None) -> NumberTest | ClassTest | None:
    """The predictions on the test rows; None if there is no such file.

    Args:
        path: the file.
        classes: names of the classes, where they are known.
    Raises:
        DamagedError: the file or an array in it is not what it should be; both are named.
    """
    if not path.exists():
        return None
    arrays = read_npz(path)
    try:
        return _class_test(arrays, classes) if "probability" in arrays else _number_test(arrays)
    except ValueError as error:
        raise damaged(path, str(error)) from error


def _number_test(arrays: Mapping[str, np.ndarray]) -> NumberTest:
    n = len(_array(arrays, "truth", ndim=1))
    names = ("truth", "mean", "aleatoric", "epistemic")
    columns = {name: _array(arrays, name, ndim=1, rows=n) for name in names}
    outside = _array(arrays, "outside", ndim=1, rows=n).astype(bool)
    usable = np.isfinite(np.stack([*columns.values()])).all(axis=0)
    if any((columns[name][usable] < 0).any() for name in names[2:]):
        raise ValueError("a standard deviation is negative")
    if not usable.any():
        raise ValueError("no row has a finite prediction")
    return NumberTest(
        **{name: column[usable] for name, column in columns.items()},
        outside=outside[usable],
        left_out=int((~usable).sum()),
    )


def _class_test(arrays: Mapping[str, np.ndarray], names: list[str] | None) -> ClassTest:
    truth = _array(arrays, "truth", ndim=1)
    probability = _array(arrays, "probability", ndim=2, rows=len(truth))
    epistemic = _array(arrays, "epistemic", ndim=1, rows=len(truth))
    k = probability.shape[1]
    names = names or [f"class {i}" for i in range(k)]
    if len(names) != k or k < 2:
        raise ValueError(f"'probability' has {k} columns for {len(names)} classes")
    if not np.isin(truth, np.arange(k)).all():
        raise ValueError(f"'truth' holds a class outside 0 … {k - 1}")
    usable = np.isfinite(probability).all(axis=1)
    if not usable.any():
        raise ValueError("no row has a finite prediction")
    left_out = int((~usable).sum())
    return ClassTest(truth[usable].astype(int), probability[usable], epistemic[usable], names, left_out)


def _array(arrays: Mapping[str, np.ndarray], name: str, *, ndim: int, rows: int | None = None) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"it has no array {name!r}")
    array = arrays[name]
    if array.dtype.kind not in "biuf" or array.ndim != ndim or not len(array) or len(array) != (rows or len(array)):
        raise ValueError(f"the array {name!r} has the shape {array.shape} and the type {array.dtype}")
    return array.astype(float)

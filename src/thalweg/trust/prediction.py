"""The fourth abstraction: a predictor, anything that answers with doubt."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """An answer for n rows, with the two kinds of doubt as standard deviations.

    Attributes:
        mean: (n,) in the target's units; for classes the probabilities (n, k).
        aleatoric: doubt that lies in the data and stays however much there is of them, same shape as `mean`.
        epistemic: doubt for want of data, which more of them would lower, same shape as `mean`.
    """

    mean: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Standard deviation of the whole: variances add (law of total variance)."""
        return np.hypot(self.aleatoric, self.epistemic)


class Predictor(Protocol):
    """Anything that answers with doubt: network, ensemble, dropout, Laplace, samples."""

    def predict(self, x: np.ndarray) -> Prediction:
        """Answer for inputs (n, d)."""
        ...

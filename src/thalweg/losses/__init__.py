"""What one example's output costs against its target."""

from thalweg.losses.classification import CrossEntropy as CrossEntropy
from thalweg.losses.classification import cross_entropy as cross_entropy
from thalweg.losses.loss import AbstractLeastSquares as AbstractLeastSquares
from thalweg.losses.loss import AbstractLoss as AbstractLoss
from thalweg.losses.regression import GaussianNLL as GaussianNLL
from thalweg.losses.regression import SquaredError as SquaredError
from thalweg.losses.regression import gaussian_nll as gaussian_nll
from thalweg.losses.regression import squared_error as squared_error

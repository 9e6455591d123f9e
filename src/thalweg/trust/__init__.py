"""Can the result be trusted: predictors that answer with doubt."""

from thalweg.trust.ensemble import predict_classes as predict_classes
from thalweg.trust.ensemble import predict_numbers as predict_numbers
from thalweg.trust.prediction import Prediction as Prediction
from thalweg.trust.prediction import Predictor as Predictor

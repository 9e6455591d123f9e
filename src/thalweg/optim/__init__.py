"""The walk: optimizers, each one pure step on a Problem."""

from thalweg.optim.first_order import SGD as SGD
from thalweg.optim.first_order import Adam as Adam
from thalweg.optim.first_order import AdamW as AdamW
from thalweg.optim.first_order import Averaged as Averaged
from thalweg.optim.first_order import FirstOrder as FirstOrder
from thalweg.optim.least_squares import LevenbergMarquardt as LevenbergMarquardt
from thalweg.optim.optimizer import AbstractOptimizer as AbstractOptimizer
from thalweg.optim.optimizer import Ended as Ended
from thalweg.optim.optimizer import StepInfo as StepInfo
from thalweg.optim.players import Player as Player
from thalweg.optim.players import Players as Players
from thalweg.optim.quasi_newton import LBFGS as LBFGS

"""The landscape: terms, where their examples come from, and the objective that adds them up."""

from thalweg.objective.constraints import AtMost as AtMost
from thalweg.objective.constraints import Equal as Equal
from thalweg.objective.keys import named_key as named_key
from thalweg.objective.objective import Objective as Objective
from thalweg.objective.objective import ObjectiveState as ObjectiveState
from thalweg.objective.partition import Parts as Parts
from thalweg.objective.partition import frozen as frozen
from thalweg.objective.partition import only as only
from thalweg.objective.partition import running_statistics as running_statistics
from thalweg.objective.partition import split as split
from thalweg.objective.partition import trainable as trainable
from thalweg.objective.precision import cast as cast
from thalweg.objective.problem import Batch as Batch
from thalweg.objective.problem import Evaluation as Evaluation
from thalweg.objective.problem import Problem as Problem
from thalweg.objective.residual import Residual as Residual
from thalweg.objective.sources import AbstractSource as AbstractSource
from thalweg.objective.sources import Examples as Examples
from thalweg.objective.sources import FreshPoints as FreshPoints
from thalweg.objective.sources import HeldPoints as HeldPoints
from thalweg.objective.sources import HostRows as HostRows
from thalweg.objective.sources import NoExamples as NoExamples
from thalweg.objective.sources import Rows as Rows
from thalweg.objective.supervised import Supervised as Supervised
from thalweg.objective.term import AbstractTerm as AbstractTerm
from thalweg.objective.term import Slope as Slope

"""Training: phases, the loop, the record of a run, and the verdict on it."""

from thalweg.train.callbacks import Callback as Callback
from thalweg.train.callbacks import progress_callback as progress_callback
from thalweg.train.checkpoint import CheckpointStore as CheckpointStore
from thalweg.train.fit import Fit as Fit
from thalweg.train.fit import FitFailed as FitFailed
from thalweg.train.fit import FitInterrupted as FitInterrupted
from thalweg.train.fit import FitMany as FitMany
from thalweg.train.fit import fit as fit
from thalweg.train.fit import fit_many as fit_many
from thalweg.train.log import MetricsLog as MetricsLog
from thalweg.train.members import Layout as Layout
from thalweg.train.members import Mode as Mode
from thalweg.train.program import AbstractCondition as AbstractCondition
from thalweg.train.program import LossBelow as LossBelow
from thalweg.train.program import Monitor as Monitor
from thalweg.train.program import NoImprovement as NoImprovement
from thalweg.train.program import Phase as Phase
from thalweg.train.program import Plateau as Plateau
from thalweg.train.program import When as When
from thalweg.train.reading import RunRecord as RunRecord
from thalweg.train.reading import load as load
from thalweg.train.reading import load_run as load_run
from thalweg.train.record import RunDirectory as RunDirectory
from thalweg.train.verdict import Finding as Finding
from thalweg.train.verdict import Status as Status
from thalweg.train.verdict import Verdict as Verdict

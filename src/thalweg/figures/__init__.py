"""Figures by subject: functions that draw on a matplotlib `ax` they are given, and never open a window."""

from thalweg.figures import alignment as alignment
from thalweg.figures import classification as classification
from thalweg.figures import comparison as comparison
from thalweg.figures import continuation as continuation
from thalweg.figures import courses as courses
from thalweg.figures import fields as fields
from thalweg.figures import masks as masks
from thalweg.figures import parameters as parameters
from thalweg.figures import phase as phase
from thalweg.figures import predictions as predictions
from thalweg.figures import rates as rates
from thalweg.figures import signals as signals
from thalweg.figures import style as style
from thalweg.figures import training as training

"""Rows of a thalweg run in MLflow. Use: `tw.fit(…, callbacks=[MLflowLogger("my run")])`, then `mlflow ui`."""

import math

import mlflow

import thalweg as tw
from thalweg.train.loggers import scalars, step_of


class MLflowLogger(tw.Callback):
    """One MLflow run a fit."""

    def __init__(self, name: str):
        mlflow.start_run(run_name=name)
        self.last = None

    def progress(self, phase, step, row):
        if row is not None and row is not self.last:  # MLflow's stores refuse numbers that are not finite
            self.last, figures = row, {k: v for k, v in scalars(row).items() if math.isfinite(v)}
            mlflow.log_metrics(figures, step=step_of(row))

    def decision(self, row):
        mlflow.set_tag(f"decision at step {row['step']}", row["what"])

    def end(self):
        mlflow.end_run()

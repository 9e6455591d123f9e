"""`thalweg fit`: a table to an ensemble that is measured against baselines, in a run folder that can be resumed."""

import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from thalweg.analysis import filter_normalized, plane_slice, walked_direction, without_component
from thalweg.data import Task
from thalweg.errors import DamagedError, RunError, UserError
from thalweg.losses import AbstractLoss, cross_entropy
from thalweg.nn import save_model
from thalweg.objective import Objective, Supervised, named_key, trainable
from thalweg.optim import AdamW
from thalweg.report import write_report
from thalweg.tables.baselines import fit_baselines
from thalweg.tables.mixture import Mixture
from thalweg.tables.model import CLASSES, ClassModel, Ensemble
from thalweg.tables.numbers import MODELS, AbstractNumberModel
from thalweg.tables.prepare import Prepared, prepare_table
from thalweg.tables.request import Plan, Request, TableSettings
from thalweg.tables.scores import score_models
from thalweg.train import (
    Callback,
    CheckpointStore,
    Finding,
    FitFailed,
    FitInterrupted,
    FitMany,
    GradientNorms,
    NoImprovement,
    Phase,
    RunDirectory,
    Verdict,
)
from thalweg.train.files import read_json, write_bytes_atomic, write_json_atomic
from thalweg.train.reading import read_verdicts
from thalweg.trust import predict_classes

PRECISION = jnp.float64
"""Raw columns go into the model, which normalizes them itself: a column like 1e9 ± 1 needs more than float32."""

SLICE_ROWS = 1_000
"""Validation rows that the slice of the loss surface is taken on: enough for its shape."""

SLICE_SECONDS = 2.0
"""For all of that slice: the report can do without it."""


@dataclass(frozen=True)
class TableFit:
    """What `fit_table` leaves.

    Attributes:
        run: the run folder.
        verdicts: of the members.
        scores: what `scores.json` holds.
        report: the page.
        findings: what a user should know of the table, beside what the verdicts say of the members.
    """

    run: Path
    verdicts: list[Verdict]
    scores: dict[str, Any]
    report: Path
    findings: tuple[Finding, ...] = ()


def fit_table(request: Request, out: Path, *, callbacks: Sequence[Callback] = ()) -> TableFit:
    """Fit a table in a new run folder.

    Args:
        request: what is asked.
        out: the run folder; must not exist, or be empty.
        callbacks: listeners.
    Raises:
        UserError: the table or the request cannot be used; nothing has been written.
        FitFailed, FitInterrupted: see `fit_many`; the record and a report are there.
    """
    prepared = prepare_table(request)
    Plan.of(request.settings, len(prepared.split.train))  # refuses what is too long, before there is a folder
    config = request.to_config()
    with RunDirectory.create(out, config, seed=request.seed, precision=jnp.dtype(PRECISION).name) as run:
        return _carry_out(request, prepared, run, callbacks)


def resume_table(
    path: Path, *, table: Path | None = None, epochs: int = 0, callbacks: Sequence[Callback] = ()
) -> TableFit:
    """Go on with a run from its latest checkpoint, bit for bit as if it had not stopped.

    Args:
        path: the run folder.
        table: where the table is now; None: where it was.
        epochs: more passes than were asked for before, at the schedule's last rate.
        callbacks: listeners.
    Raises:
        UserError: no run of a table, a changed table, a damaged record or checkpoint, or a second writer.
    """
    run = RunDirectory.open(path)
    request = Request.from_config(run.config(), table=table, where=str(path / "config.toml"))
    if epochs < 0:
        raise UserError(f"the number of further epochs must not be negative, but is {epochs}")
    read_verdicts(run)  # refuses a damaged file before anything is trained or written
    extension = run.path / EXTENSION
    before = _extension(extension)
    prepared = prepare_table(request)
    Plan.of(request.settings, len(prepared.split.train), before + epochs)
    with run:
        if not epochs:
            return _carry_out(request, prepared, run, callbacks)
        latest = CheckpointStore(run.checkpoints / "fit").latest()
        if latest is not None:
            latest.verify()
        rows = len(run.metrics.read())
        write_json_atomic(extension, {"epochs": before + epochs})
        found = _carry_out(request, prepared, run, callbacks)
        if len(run.metrics.read()) == rows:
            write_json_atomic(extension, {"epochs": before})
            raise UserError(
                "every network had stopped early, so no further step was made",
                where=str(path),
                remedy="Begin a new run with --set patience=1 to train for all its epochs.",
            )
        return found


EXTENSION = "extension.json"


def _extension(path: Path) -> int:
    """Epochs that the run was extended by so far."""
    found = read_json(path) if path.exists() else {"epochs": 0}
    if not isinstance(found, dict) or type(found.get("epochs")) is not int or found["epochs"] < 0:
        raise DamagedError("the file does not say how many epochs", where=str(path), remedy="Remove it.")
    return found["epochs"]


def _carry_out(request: Request, prepared: Prepared, run: RunDirectory, callbacks: Sequence[Callback]) -> TableFit:
    """Everything that follows from the request alone: the same whether begun or resumed."""
    write_json_atomic(run.path / "data.json", prepared.data)
    failure: FitFailed | FitInterrupted | None = None
    try:
        found = _train(request, prepared, run, callbacks)
    except (FitFailed, FitInterrupted) as error:
        failure, found = error, cast(FitMany, error.fit)
    findings = [asdict(finding) for finding in prepared.findings]
    write_json_atomic(run.path / "verdict.json", read_json(run.path / "verdict.json") | {"findings": findings})
    write_json_atomic(run.path / "conduct.json", found.conduct)
    if failure is not None:
        write_report(run.path)
        raise failure
    scores = _examine(request, prepared, found, run)
    write_json_atomic(run.arrays / "slice.json", _slice(request, prepared, found.models[0]))
    _save(Ensemble(tuple(found.models)), prepared, run)
    return TableFit(run.path, found.verdicts, scores, write_report(run.path), prepared.findings)


def _train(request: Request, prepared: Prepared, run: RunDirectory, callbacks: Sequence[Callback]) -> FitMany:
    settings, split = request.settings, prepared.split
    plan = Plan.of(settings, len(split.train), _extension(run.path / EXTENSION))
    steps = plan.steps
    # one cycle of the cosine after a short warm-up; it ends at a hundredth, so that a resumed run still moves
    warm = max(1, steps // 20)
    rate = optax.warmup_cosine_decay_schedule(
        settings.rate / 20, settings.rate, warm, max(steps, warm + 1), settings.rate / 100
    )
    look = max(1, steps // 150)
    stop = NoImprovement(steps=max(look, int(settings.patience * steps)), every=look)
    with jax.enable_x64(True):
        term = lambda rows, size: Supervised(*_arrays(prepared, rows), loss=_loss(prepared), batch_size=size)
        objective = Objective(data=term(split.train, plan.batch))
        validation = Objective(data=term(split.validation, None))
        models = [_model(prepared, settings, jax.random.key(seed)) for seed in _seeds(request)]
        optimizer = AdamW(rate, decay=settings.decay, clip=10.0)
        phase = Phase(optimizer, steps + plan.more, until=stop)
        return _fit(models, objective, validation, phase, request, run, look, callbacks)


def _fit(models, objective, validation, phase, request: Request, run: RunDirectory, look: int, callbacks) -> FitMany:
    from thalweg.train import fit_many

    return fit_many(
        models, objective, phase, seeds=_seeds(request), validation=validation, log_every=look, run=run,
        checkpoint_seconds=10.0, callbacks=callbacks, instruments=[GradientNorms()],
    )  # fmt: skip


def _seeds(request: Request) -> list[int]:
    return [request.seed * 1_000 % 2**31 + i for i in range(request.settings.members)]


def _arrays(prepared: Prepared, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
    x, y = jnp.asarray(prepared.x[rows], PRECISION), prepared.y[rows]
    return x, jnp.asarray(y, PRECISION if prepared.task is Task.NUMBER else jnp.int32)


def _loss(prepared: Prepared) -> AbstractLoss:
    return cross_entropy if prepared.family is None else MODELS[prepared.family].loss


def _model(prepared: Prepared, settings: TableSettings, key: jax.Array) -> AbstractNumberModel | ClassModel:
    shape: dict[str, Any] = {"width": settings.width, "depth": settings.depth, "dropout": settings.dropout}
    x, y = prepared.x[prepared.split.train], prepared.y[prepared.split.train]
    if prepared.family is not None:
        return MODELS[prepared.family](x, y, key=key, dtype=PRECISION, **shape)
    return ClassModel(x, prepared.classes, key=key, dtype=PRECISION, **shape)


def _examine(request: Request, prepared: Prepared, found: FitMany, run: RunDirectory) -> dict[str, Any]:
    """Scores on the test rows beside the baselines', and what the report shows."""
    x, y, test = prepared.x, prepared.y, prepared.split.test
    seen = np.setdiff1d(np.arange(len(y)), test)
    number = prepared.task is Task.NUMBER
    costs = None
    with jax.enable_x64(True):
        if number:
            mixture = Mixture(found.models, x[test])
            prediction, costs = mixture.prediction(), mixture.costs(y[test])
        else:
            prediction = predict_classes(found.models, x[test])
    baselines = fit_baselines(prepared.task, x[seen], y[seen], x[test], prepared.classes, request.seed)
    clusters = None if prepared.clusters is None else prepared.clusters[test]
    answers = {"thalweg": prediction.mean} | {baseline.name: baseline.answers for baseline in baselines}
    scores = score_models(prepared.task, y[test], answers, request.seed, costs, clusters)
    arrays = {"truth": y[test], "outside": prepared.outside[test], "epistemic": prediction.epistemic}
    if number:
        arrays |= {"mean": prediction.mean, "aleatoric": prediction.aleatoric}
    else:
        scores["classes"] = list(prepared.schema.target.classes)  # pyright: ignore[reportAttributeAccessIssue]
        chosen = prediction.mean.argmax(1)
        doubt = np.take_along_axis(prediction.epistemic, chosen[:, None], axis=1)[:, 0]
        arrays |= {"probability": prediction.mean, "epistemic": doubt}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    run.arrays.mkdir(exist_ok=True)
    write_bytes_atomic(run.arrays / "test.npz", content.getvalue())
    write_json_atomic(run.path / "scores.json", scores)
    return scores


def _slice(request: Request, prepared: Prepared, model: AbstractNumberModel | ClassModel) -> dict[str, Any]:
    """The validation score of the first member on a plane through its weights; or "skipped", and why.

    One direction leads to the weights from where they began, the other is random (Li et al., 2018).
    """
    seed = _seeds(request)[0]
    with jax.enable_x64(True):
        rows = prepared.split.validation[:: -(-len(prepared.split.validation) // SLICE_ROWS)]
        score = Objective(data=Supervised(*_arrays(prepared, rows), loss=_loss(prepared)))
        state = score.init(jax.random.key(0))
        batch = score.draw(state, jnp.zeros((), jnp.int32))
        end, rest = eqx.partition(model, trainable(model))
        start = eqx.filter(_model(prepared, request.settings, jax.random.key(seed)), trainable(model))
        if eqx.tree_equal(start, end):
            return {"skipped": "the weights that scored best are those that the network began with"}
        walked = walked_direction(start, end)
        aside = without_component(filter_normalized(named_key(jax.random.key(seed), "slice"), end), along=walked)
        cost = lambda params: score.bind(rest, batch, state, None).evaluate(params)[0]
        found = plane_slice(cost, end, walked, aside, extent=1.25, seconds=SLICE_SECONDS)
    if found is None:
        return {"skipped": f"it would have taken longer than {SLICE_SECONDS:g} s"}
    return {
        "slice": {
            "what": f"validation score of the first network on {len(rows):,} rows",
            "offsets": found.offsets.tolist(),
            "costs": found.costs.tolist(),
            "axes": ["from the start to the weights kept", "a random direction"],
            "start": -1.0,
        }
    }


def _save(ensemble: Ensemble, prepared: Prepared, run: RunDirectory) -> None:
    """Write the model beside the old one, then take its place."""
    fresh = run.path / "model.new"
    shutil.rmtree(fresh, ignore_errors=True)
    metadata = {"kind": "table", "schema": prepared.schema.to_json(), "task": prepared.task.value}
    save_model(fresh, ensemble, metadata, classes=CLASSES)
    try:
        if run.model.exists():
            shutil.rmtree(run.model)
        fresh.rename(run.model)
    except OSError as error:
        raise RunError(f"the model could not be put in place: {error.strerror}", where=str(run.model)) from error

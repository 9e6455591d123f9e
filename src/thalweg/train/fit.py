"""`fit` and `fit_many`: one landscape, one program, one or many members, and what became of them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import equinox as eqx
import jax
import numpy as np

from thalweg.errors import RunError, ThalwegError, UserError, kind_of
from thalweg.objective import Certificate, Objective, refuse_level
from thalweg.train.callbacks import Callback
from thalweg.train.course import walk_program
from thalweg.train.instruments import AbstractInstrument
from thalweg.train.interrupts import Interrupts
from thalweg.train.journal import Journal, checked_name
from thalweg.train.members import Layout, Mode, automatic_layout
from thalweg.train.phases import Choices, phase_dtype
from thalweg.train.program import Phase, floating_dtype
from thalweg.train.record import RunDirectory
from thalweg.train.verdict import Status, Verdict
from thalweg.types import PyTree


class FitFailed(RunError):
    """A run whose verdict is a failure; the exception carries what there is.

    Attributes:
        fit: the `Fit` or `FitMany`, with the best or last usable weights.
    """

    fit: "Fit | FitMany"


class FitInterrupted(ThalwegError):
    """A signal arrived; a run with a folder was saved and can be resumed. Exit status 130.

    Attributes:
        fit: the `Fit` or `FitMany` as far as it came.
    """

    exit_status = 130
    fit: "Fit | FitMany"


@dataclass(frozen=True)
class FitMany:
    """What became of the members of `fit_many`.

    Attributes:
        models: the trained models, best weights where there was a validation objective.
        verdicts: one each.
        rows: logged steps; figures are lists by member.
        decisions: what the loop decided and why.
        conduct: by phase: mode with the reason, layout, precision, seconds of the first stretch (it compiles).
        certificates: one each, of the models that are returned; None without constraints.
    """

    models: list[PyTree]
    verdicts: list[Verdict]
    rows: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    conduct: list[dict[str, Any]] = field(default_factory=list)
    certificates: list[Certificate | None] = field(default_factory=list)


@dataclass(frozen=True)
class Fit:
    """What became of a run.

    Attributes:
        model: the trained model, best weights where there was a validation objective.
        verdict: how it ended.
        rows: logged steps; figures are numbers.
        decisions, conduct: as `FitMany`.
        certificate: how nearly the model meets the conditions of a constrained optimum; None without constraints.
    """

    model: PyTree
    verdict: Verdict
    rows: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    conduct: list[dict[str, Any]] = field(default_factory=list)
    certificate: Certificate | None = None


def fit(
    model: PyTree,
    objective: Objective,
    program: Sequence[Phase] | Phase,
    *,
    seed: int = 0,
    validation: Objective | None = None,
    validate_every: int | None = None,
    precision: Any = None,
    mode: Mode | None = None,
    devices: Sequence[Any] | None = None,
    run: RunDirectory | None = None,
    name: str = "fit",
    log_every: int | None = None,
    checkpoint_seconds: float = 30.0,
    callbacks: Sequence[Callback] = (),
    instruments: Sequence[AbstractInstrument] = (),
    raise_failures: bool = True,
) -> Fit:
    """Walk a program over a landscape.

    Args:
        model: any pytree; what each phase's `where` selects is trained.
        objective: the landscape.
        program: a phase or several.
        seed: everything random in the run follows from it.
        validation: scored in inference mode every `validate_every` steps; the model of the lowest score is returned.
        validate_every: steps; by default as often as rows are logged.
        precision: dtype of params and data; None keeps the model's own. 64-bit is switched on within the call only:
            call a float64 model that comes back within `with jax.enable_x64(True):`.
        mode: how many steps go into one compiled program; None chooses by `automatic_mode`.
        devices: spread each batch over these; None uses one.
        run: a run folder, locked (within `with run:`); rows, decisions, checkpoints and the verdict go there. A
            checkpoint found there is resumed, bit for bit: call `fit` as it was called before.
        name: of this fit within its run, if it has several.
        log_every: steps between rows; by default a hundredth of the phase, at most 100.
        checkpoint_seconds: least time between checkpoints; a signal is answered by one at once, within a run.
        callbacks: listeners, such as `progress_callback()`.
        instruments: what to measure on the way, such as `GradientNorms()`; each so often that all together cost about
            5 % of the run's gradients, and once at the end of each phase.
        raise_failures: raise `FitFailed` when the verdict is a failure, instead of returning it.
    Returns:
        the model, its verdict, and what was logged.
    Raises:
        UserError: arguments that cannot work, named; or a checkpoint of another fit.
        DamagedError: the latest checkpoint is not what was written; an older one that is whole is named.
        RunError: the disk is full; the earlier checkpoints are as they were.
        FitFailed: diverged, line search failed, infeasible, or a trivial solution; the fit is attached.
        FitInterrupted: SIGINT or SIGTERM came, and a checkpoint was made. (Without a run, or in another thread than
            the main one, signals act as always.)

    A finished run is extended by calling `fit` with a longer last phase. It goes on as if it had been that long from
    the start: with the same bits if the old length is a multiple of `log_every` and `validate_every`, which keep the
    values they had (else there was one look more, at the old end), and if nothing else, such as the rate's schedule,
    depends on the length. A condition that was met stays met.

    A run that diverged keeps its last checkpoint from before. Called as before it diverges again; with a lower rate it
    goes on from there.

    >>> import jax, jax.numpy as jnp
    >>> from thalweg.losses import squared_error
    >>> from thalweg.nn import MLP
    >>> from thalweg.objective import Supervised
    >>> from thalweg.optim import Adam
    >>> x = jnp.linspace(-1.0, 1.0, 64)[:, None]
    >>> line = Objective(data=Supervised(x, 2 * x, loss=squared_error))
    >>> fitted = fit(MLP(1, 1, width=8, depth=1, key=jax.random.key(0)), line, Phase(Adam(1e-2), 300))
    >>> bool(abs(fitted.model(jnp.array([0.5]))[0] - 1.0) < 0.1)
    True
    """
    choices = Choices(
        validation, validate_every, precision, mode, Layout.IN_TURN, devices, log_every, _named(instruments)
    )
    journal = Journal(checked_name(name), run, callbacks, seconds=checkpoint_seconds, single=True)
    many = _fit([model], [seed], objective, program, choices, journal)
    found = Fit(many.models[0], many.verdicts[0], many.rows, many.decisions, many.conduct, many.certificates[0])
    _raise_failure(found, many.verdicts, raise_failures)
    return found


def fit_many(
    models: Sequence[PyTree],
    objective: Objective,
    program: Sequence[Phase] | Phase,
    *,
    seeds: Sequence[int] | None = None,
    validation: Objective | None = None,
    validate_every: int | None = None,
    precision: Any = None,
    mode: Mode | None = None,
    layout: Layout | None = None,
    devices: Sequence[Any] | None = None,
    run: RunDirectory | None = None,
    name: str = "fit",
    log_every: int | None = None,
    checkpoint_seconds: float = 30.0,
    callbacks: Sequence[Callback] = (),
    instruments: Sequence[AbstractInstrument] = (),
    raise_failures: bool = True,
) -> FitMany:
    """Walk the same program from several models at once: an ensemble, or the seeds of a study.

    Args:
        models: of one structure, one a member.
        seeds: one a member; by default 0, 1, ….
        layout: how members share the machine; None chooses by `automatic_layout`.
        devices: with `Layout.SHARDED` what the members spread over, else what each batch spreads over.
        raise_failures: raise `FitFailed` when any member's verdict is a failure.
        objective, program, validation, validate_every, precision, mode, run, name, log_every, checkpoint_seconds,
            callbacks, instruments: as `fit`.
    Raises:
        UserError, FitFailed, FitInterrupted: as `fit`.

    >>> import jax, jax.numpy as jnp
    >>> from thalweg.losses import squared_error
    >>> from thalweg.nn import MLP
    >>> from thalweg.objective import Supervised
    >>> from thalweg.optim import Adam
    >>> x = jnp.linspace(-1.0, 1.0, 64)[:, None]
    >>> line = Objective(data=Supervised(x, 2 * x, loss=squared_error))
    >>> models = [MLP(1, 1, width=8, depth=1, key=jax.random.key(i)) for i in range(2)]
    >>> len(fit_many(models, line, Phase(Adam(1e-2), 300)).models)
    2
    """
    if not models:
        raise UserError("fit_many needs at least one model")
    seeds = list(range(len(models))) if seeds is None else list(seeds)
    if len(seeds) != len(models):
        raise UserError(f"{len(models)} models but {len(seeds)} seeds", where="fit_many", remedy="Give one seed each.")
    layout = layout or automatic_layout(len(models))
    choices = Choices(validation, validate_every, precision, mode, layout, devices, log_every, _named(instruments))
    journal = Journal(checked_name(name), run, callbacks, seconds=checkpoint_seconds, single=False)
    found = _fit(list(models), seeds, objective, program, choices, journal)
    _raise_failure(found, found.verdicts, raise_failures)
    return found


def _fit(
    models: list[PyTree],
    seeds: list[int],
    objective: Objective,
    program: Sequence[Phase] | Phase,
    choices: Choices,
    journal: Journal,
) -> FitMany:
    phases = [program] if isinstance(program, Phase) else list(program)
    if not phases or not all(isinstance(phase, Phase) for phase in phases):
        raise UserError("a program is one phase or a list of phases", remedy="Phase(Adam(1e-3), 1_000).")
    if not isinstance(objective, Objective):
        raise UserError(
            f"an objective is needed, not {type(objective).__name__}", remedy="Objective(data=Supervised(…))."
        )
    for name, term in objective.terms.items():
        if objective.refresh_every == 0 and term.needs_refresh:
            raise UserError(
                "the term has multipliers, weights or points that only a refresh can move, and there is none",
                where=f"term '{name}'",
                remedy="Objective(…, refresh_every=100), or another number of steps.",
            )
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed < 2**31:
            raise UserError(f"a seed is a whole number from 0 to 2**31 - 1, not {seed!r}")
    for callback in journal.callbacks:
        if not isinstance(callback, Callback):
            raise UserError(f"a callback is a thalweg.Callback, not {type(callback).__name__}")
    for index, phase in enumerate(phases):
        if phase.until is not None and phase.until.needs_validation and choices.validation is None:
            raise UserError(
                f"{type(phase.until).__name__} watches a validation score, and there is none",
                where=f"phase {index + 1}",
                remedy="Pass validation=Objective(…) to fit.",
            )
    if choices.validation is not None and choices.validation.host_terms:
        raise UserError(
            "a validation score needs its rows on the device, and these stay on the host",
            where=f"validation term '{choices.validation.host_terms[0]}'",
            remedy="Validate on Rows(…), a part of the rows if all are too many.",
        )
    if choices.precision is not None:
        floating_dtype(choices.precision)
    for count, what in ((choices.log_every, "log_every"), (choices.validate_every, "validate_every")):
        if count is not None and (type(count) is not int or count < 1):
            raise UserError(f"{what} must be a whole number, at least 1, not {count}")
    for model in models[1:]:
        if jax.tree.structure(model) != jax.tree.structure(models[0]):
            raise UserError("the models of fit_many differ in structure", remedy="Build them by one constructor.")
    with ExitStack() as stack:
        stack.callback(journal.close)
        if _is_wide(models[0], phases, choices.precision):
            stack.enter_context(jax.enable_x64(True))
        # float32 products on a GPU would else be rounded to 10 bits of mantissa
        stack.enter_context(jax.default_matmul_precision("highest"))
        interrupts = stack.enter_context(Interrupts(listen=journal.store is not None))
        dtype = phase_dtype(models[0], phases[0], choices.precision)
        refuse_level(models[0], objective, [phase.where for phase in phases], dtype)
        for callback in journal.callbacks:
            callback.begin([phase.steps for phase in phases])
            stack.callback(callback.end)
        kept, verdicts = walk_program(models, seeds, objective, phases, choices, journal, interrupts)
        journal.finish(verdicts)
    return FitMany(kept, verdicts, journal.rows, journal.decisions, journal.conduct, journal.certificates)


def _named(instruments: Sequence[AbstractInstrument]) -> dict[str, AbstractInstrument]:
    """Instruments by the name that their figures stand under."""
    named: dict[str, AbstractInstrument] = {}
    for one in instruments:
        if not isinstance(one, AbstractInstrument):
            remedy = "GradientNorms(), for instance."
            raise UserError(f"an instrument is an AbstractInstrument, not {kind_of(one)}", remedy=remedy)
        if type(one).__name__ in named:
            raise UserError(f"two instruments {type(one).__name__}: their figures would be one")
        named[type(one).__name__] = one
    return named


def _is_wide(model: PyTree, phases: Sequence[Phase], precision: Any) -> bool:
    """Whether any params will be of 64 bits."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))]
    dtypes += [np.dtype(p) for p in (precision, *(phase.precision for phase in phases)) if p is not None]
    return any(np.dtype(dtype) == np.float64 for dtype in dtypes)


def _raise_failure(found: Fit | FitMany, verdicts: Sequence[Verdict], raise_failures: bool) -> None:
    for i, verdict in enumerate(verdicts):
        where = None if len(verdicts) == 1 else f"member {i}"
        if verdict.status is Status.INTERRUPTED:
            error = FitInterrupted(verdict.evidence, remedy=verdict.remedy)
        elif verdict.status.exit_status and raise_failures:
            error = FitFailed(f"{verdict.status.value}: {verdict.evidence}", where=where, remedy=verdict.remedy)
        else:
            continue
        error.fit = found
        raise error

"""Carrying out a study in its run folder: begun, resumed, or ended by an error."""

import contextlib
import shutil
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.errors import DamagedError, RunError, ThalwegError, UserError
from thalweg.report import write_report
from thalweg.report.summary import WORST_FIRST
from thalweg.settings import Settings
from thalweg.study.claim import Claim
from thalweg.study.files import StudyFailed, StudyFile, open_study, user_line
from thalweg.study.run import Run
from thalweg.train import Callback, Verdict, load_run
from thalweg.train.files import write_json_atomic, write_text_atomic
from thalweg.train.reading import read_verdicts
from thalweg.train.record import new_run_path

MOST_SEED = 2_000_000
"""Seeds of a study's fits are a thousand times its own and more, and 32 bits must hold them."""


@dataclass(frozen=True)
class StudyRun:
    """What a study left.

    Attributes:
        path: the run folder.
        study, question: which study it was.
        claims: what it returned.
        verdicts: fit -> the verdicts on its members in their order; the worst fit first.
        report: the page.
    """

    path: Path
    study: str
    question: str
    claims: list[Claim]
    verdicts: dict[str, list[Verdict]]
    report: Path


def run_study(
    asked: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    quick: bool = False,
    seed: int = 0,
    out: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> StudyRun:
    """Run a study in a new run folder.

    Args:
        asked: the name of one of thalweg's studies, a file, or FILE::NAME.
        settings: by name; what is not named keeps the value of its preset.
        quick: take the preset "quick" instead of "full".
        seed: everything random follows from it; 0 … 2,000,000.
        out: the run folder; must not exist, or be empty. None makes runs/<study>/<time>-<id>.
        callbacks: handed to the study as `run.callbacks`.
    Raises:
        UserError: no such study, wrong settings, an `out` that holds something; nothing has been written.
        StudyFailed: the study's own code raised; the record, a report and `error.txt` are there.
        FitFailed, FitInterrupted: see `fit`; the record and a report are there, and the run can be resumed.
    """
    if not 0 <= seed <= MOST_SEED:
        raise UserError(f"the seed of a study is between 0 and {MOST_SEED:,}, not {seed}")
    with open_study(asked) as file:
        where = f"settings of {file.study.name}"
        chosen = file.study.settings.checked(settings or {}, where=where, quick=quick)
        config: dict[str, Any] = {"kind": "study", "study": file.study.name}
        config |= {} if file.asked == file.study.name else {"file": file.asked}
        config |= {"seed": seed, "settings": chosen.to_config()}
        folder = out or new_run_path("runs", file.study.name)
        with Run.create(folder, config, sources=file.sources, seed=seed) as run:
            return _carry_out(file, chosen, run, callbacks)


def resume_study(path: Path, *, callbacks: Sequence[Callback] = ()) -> StudyRun:
    """Execute a run's own copy of its study once more; each fit goes on from its latest checkpoint, bit for bit.

    Args:
        path: the run folder.
        callbacks: handed to the study as `run.callbacks`.
    Raises:
        UserError: no run of a study; a source in it was changed since the run began; a second writer.
        DamagedError: a checkpoint is not what was written.
        StudyFailed, FitFailed, FitInterrupted: as `run_study`.
    """
    run = Run.open(path)
    config, where = run.config(), str(path / "config.toml")
    if config.get("kind") != "study":
        raise UserError(f"this run is not of a study, but of kind {config.get('kind')!r}", where=where)
    name, settings = config.get("study"), config.get("settings")
    if not isinstance(name, str) or not isinstance(settings, dict) or type(config.get("seed")) is not int:
        what = "the run's settings are damaged: 'study', 'seed' and 'settings' must be a text, a number and a table"
        raise DamagedError(what, where=where, remedy="Restore the file from a copy, or begin a new run.")
    read_verdicts(run)  # refuses a damaged file before anything is executed
    with run:
        if not (copies := run.verify_sources()):
            raise DamagedError(
                "the run has no copy of its study", where=str(path / "source"), remedy="Begin a new run."
            )
        copy = copies[0]
        for compiled in list((run.path / "source").rglob("__pycache__")):
            shutil.rmtree(compiled)  # only what the hashes vouch for is executed
        with open_study(f"{copy}::{name}") as file:
            return _carry_out(file, file.study.settings.checked(settings, where=where), run, callbacks)


def _carry_out(file: StudyFile, settings: Settings, run: Run, callbacks: Sequence[Callback]) -> StudyRun:
    """Everything that follows from the settings and the seed alone: the same whether begun or resumed."""
    run.callbacks = callbacks
    study = file.study
    try:
        claims = _checked(study.function(settings, run), file)
    except (Exception, SystemExit) as error:
        line = user_line(error, file.sources)
        write_text_atomic(run.path / "error.txt", "".join(traceback.format_exception(error)))
        with contextlib.suppress(ThalwegError, OSError):  # the study's own error matters more
            _conclude(run)
        if isinstance(error, ThalwegError):
            if line:
                error.add_note(f"your line: {line}")
            raise
        remedy = f"Every line that it passed through is in {run.path / 'error.txt'}."
        raise StudyFailed(f"the study raised {type(error).__name__}: {error}", where=line, remedy=remedy) from error
    (run.path / "error.txt").unlink(missing_ok=True)
    content = {"study": study.name, "question": study.question, "systems": study.systems}
    write_json_atomic(run.path / "claims.json", content | {"claims": [claim.to_json() for claim in claims]})
    verdicts, report = _conclude(run)
    return StudyRun(run.path, study.name, study.question, claims, verdicts, report)


def _checked(claims: Any, file: StudyFile) -> list[Claim]:
    if isinstance(claims, (list, tuple)) and all(isinstance(claim, Claim) for claim in claims):
        return list(claims)
    remedy = "End it with `return [tw.Claim.at_most(…), …]`."
    raise RunError(f"the study returned no list of claims: {claims!r:.60}", where=str(file.sources[0]), remedy=remedy)


def _conclude(run: Run) -> tuple[dict[str, list[Verdict]], Path]:
    """The verdicts of all fits into `verdict.json`, worst first, and the report."""
    found = load_run(run.path).verdicts
    fits = dict(sorted(found.items(), key=lambda fit: min(map(_badness, fit[1]))))
    if fits:
        members = sorted((verdict for one in fits.values() for verdict in one), key=_badness)
        by_fit = {name: [verdict.to_json() for verdict in one] for name, one in fits.items()}
        write_json_atomic(
            run.path / "verdict.json", {"members": [verdict.to_json() for verdict in members], "fits": by_fit}
        )
    return fits, write_report(run.path)


def _badness(verdict: Verdict) -> int:
    return WORST_FIRST.index(verdict.status)

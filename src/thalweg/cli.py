"""The command line: one thin function per command. Everything heavy is imported inside the function that needs it."""

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from thalweg.errors import ThalwegError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thalweg.study.runner import StudyRun
    from thalweg.tables import TableFit
    from thalweg.train import Verdict

app = typer.Typer(
    name="thalweg",
    help="Train networks for science, and know whether to trust them.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: half the time to start
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class TaskOption(enum.StrEnum):
    """What a target is."""

    number = "number"
    classes = "classes"


class SplitOption(enum.StrEnum):
    """How rows are split."""

    random = "random"
    group = "group"
    time = "time"
    cluster = "cluster"


class PresetOption(enum.StrEnum):
    """Which values the settings have that are not set."""

    quick = "quick"
    full = "full"


def _complete_study(incomplete: str) -> list[str]:
    """For the shell: thalweg's own studies, and Python files."""
    from thalweg.study.catalogue import built_in

    files = sorted(str(path) for path in Path().glob(f"{incomplete}*.py")) if not Path(incomplete).is_absolute() else []
    return [name for name in built_in() if name.startswith(incomplete)] + files


StudyName = Annotated[
    str, typer.Argument(metavar="STUDY", help="See `thalweg list`.", autocompletion=_complete_study, show_default=False)
]
StudyOrFile = Annotated[
    str,
    typer.Argument(
        metavar="STUDY-or-FILE",
        help="A study, a file with one, or FILE::NAME.",
        autocompletion=_complete_study,
        show_default=False,
    ),
]
Table = Annotated[Path, typer.Argument(help="The table: .csv, .tsv, .parquet, .npz or .h5.", show_default=False)]
Run = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Columns = list[str] | None


@app.command()
def fit(
    table: Table,
    target: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Run folder to make; by default runs/TABLE/TIME-ID.")] = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    task: Annotated[TaskOption | None, typer.Option(help="What the target is; by default it says itself.")] = None,
    group: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Never split rows that share this column's value.")
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Test on the rows that are latest by this column.")
    ] = None,
    ignore: Annotated[Columns, typer.Option(metavar="COLUMN", help="Leave this column out (repeatable).")] = None,
    categorical: Annotated[
        Columns, typer.Option(metavar="COLUMN", help="Take this column as categories (repeatable).")
    ] = None,
    set_: Annotated[Columns, typer.Option("--set", metavar="KEY=VALUE", help="A setting (repeatable).")] = None,
) -> None:
    """Fit an ensemble to a table, measure it against baselines, and write a report.

    Example: thalweg fit houses.csv --target price
    """
    from thalweg.data import Task
    from thalweg.tables import Request, TableSettings, fit_table
    from thalweg.train import progress_callback
    from thalweg.train.record import new_run_path

    request = Request(
        table,
        target,
        None if task is None else Task(task.value),
        group,
        time,
        tuple(ignore or ()),
        tuple(categorical or ()),
        seed,
        TableSettings.from_pairs(set_ or ()),
    )
    _keep_compiled_programs()
    folder = out or new_run_path("runs", table.stem or "table")
    _tell(fit_table(request, folder, callbacks=[progress_callback()]))


@app.command()
def audit(
    table: Table,
    target: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.", show_default=False)],
    split: Annotated[
        SplitOption | None, typer.Option(help="How rows are split; by default by what is named below, else at random.")
    ] = None,
    group: Annotated[str | None, typer.Option(metavar="COLUMN", help="No two parts may share its values.")] = None,
    time: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="By it, training rows are to be earlier than test rows.")
    ] = None,
    parts: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="It names each row's part: train, validation or test.")
    ] = None,
    task: Annotated[TaskOption | None, typer.Option(help="What the target is; by default it says itself.")] = None,
    ignore: Annotated[Columns, typer.Option(metavar="COLUMN", help="Leave this column out (repeatable).")] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
) -> None:
    """Look for leaks from the test rows of a table into its training rows. Exit status 1 if there are any.

    Example: thalweg audit visits.csv --target pressure --split random --group patient
    """
    from thalweg.data import Task
    from thalweg.tables import AuditRequest, SplitChoice, audit_table

    request = AuditRequest(
        table,
        target,
        None if split is None else SplitChoice(split.value),
        group,
        time,
        parts,
        None if task is None else Task(task.value),
        tuple(ignore or ()),
        seed,
    )
    found, rows = audit_table(request)
    lines = [f"{len(rows.train):,} training, {len(rows.validation):,} validation and {len(rows.test):,} test rows"]
    for one in found.findings:
        certainty = "sure" if one.sure else "likely"
        lines += [f"  {one.kind.value} ({certainty}): {one.evidence}.", f"    {one.remedy}."]
    lines += [f"  note: {note}" for note in found.notes]
    count = len(found.findings)
    lines.append(f"{count} leak{'' if count == 1 else 's'} found" if count else "no leak found")
    typer.echo("\n".join(lines))
    raise typer.Exit(int(count > 0))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A run folder, or its model folder.", show_default=False)],
    table: Table,
    out: Annotated[Path | None, typer.Option(help="CSV file to write; by default standard output.")] = None,
) -> None:
    """Predict the rows of a table, with doubt, and mark rows unlike the training rows.

    Example: thalweg predict runs/houses/… new_houses.csv --out prices.csv
    """
    from thalweg.tables import predict_table
    from thalweg.train.files import write_text_atomic

    if out is not None and out.exists():
        raise UserError("the output file exists already", where=str(out), remedy="Choose another name.")
    if out is not None and not out.absolute().parent.is_dir():
        raise UserError("there is no such folder", where=str(out.parent), remedy="Make it first, or write elsewhere.")
    _keep_compiled_programs()
    found = predict_table(model, table)
    for note in found.attrs["notes"]:
        typer.echo(f"note: {note}", err=True)
    text = found.to_csv(index=False)
    if out is None:
        typer.echo(text, nl=False)
        return
    write_text_atomic(out, text)
    outside = sum(names != "" for names in found["outside_training_range"])
    typer.echo(f"{len(found)} rows written to {out}; {outside} lie outside the training range", err=True)


@app.command()
def resume(
    run: Run,
    epochs: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Train this many epochs more than was asked for before.")
    ] = 0,
    table: Annotated[Path | None, typer.Option(help="Where the table is now, if it has moved.")] = None,
) -> None:
    """Go on with an interrupted run, bit for bit, or extend a finished fit of a table."""
    from thalweg.study.runner import resume_study
    from thalweg.tables import resume_table
    from thalweg.train import RunDirectory, progress_callback

    _keep_compiled_programs()
    if RunDirectory.open(run).config().get("kind") == "study":
        if epochs or table is not None:
            raise UserError("--epochs and --table are for fits of tables; this run is of a study", where=str(run))
        typer.echo(f"executing the run's own copy of the study, in {run / 'source'}", err=True)
        _tell_study(resume_study(run, callbacks=[progress_callback()]))
        return
    _tell(resume_table(run, table=table, epochs=epochs, callbacks=[progress_callback()]))


@app.command()
def report(run: Run) -> None:
    """Write the report page of a run anew; no training, nothing from the run is executed."""
    from thalweg.report import write_report

    typer.echo(write_report(run))


@app.command("list")
def list_() -> None:
    """Name the studies that come with thalweg, and the question of each."""
    from thalweg.study.catalogue import built_in, entries, parse

    for name, path in built_in().items():
        for entry in entries(parse(path)):
            systems = f" ({', '.join(entry.systems)})" if entry.systems else ""
            typer.echo(f"{name:<14} {entry.question}{systems}")


@app.command()
def show(study: StudyOrFile) -> None:
    """Show what a study asks, and what can be set in it."""
    from thalweg.study.files import open_study

    with open_study(study) as file:
        found = file.study
    lines = [found.name, f"  {found.question}"]
    lines += [f"  systems: {', '.join(found.systems)}"] if found.systems else []
    lines += ["", "settings (--set NAME=VALUE):"]
    for one in found.settings.described():
        unit = f" {one.unit}" if one.unit else ""
        quick = f", quick {one.quick}{unit}" if one.quick != one.default else ""
        bounds = f"; {one.bounds}" if one.bounds else ""
        lines.append(f"  {one.name:<12} {one.description} ({one.kind}, default {one.default}{unit}{quick}{bounds})")
    lines += ["", f"run it:  thalweg run {file.asked}"]
    typer.echo("\n".join(lines))


@app.command("run")
def run_(
    study: StudyOrFile,
    set_: Annotated[
        Columns, typer.Option("--set", metavar="KEY=VALUE", help="A setting, see `thalweg show` (repeatable).")
    ] = None,
    preset: Annotated[PresetOption, typer.Option(help="What the settings are that are not set.")] = PresetOption.full,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="The same as --set seeds=N.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make; by default runs/STUDY/TIME-ID.")] = None,
) -> None:
    """Run a study: measure its claims, and write a report.

    Example: thalweg run digits --preset quick
    """
    from thalweg.settings import parse_pairs
    from thalweg.study.runner import run_study
    from thalweg.train import progress_callback

    settings = parse_pairs([*(set_ or ()), *([] if seeds is None else [f"seeds={seeds}"])])
    _keep_compiled_programs()
    quick = preset is PresetOption.quick
    _tell_study(run_study(study, settings, quick=quick, seed=seed, out=out, callbacks=[progress_callback()]))


@app.command()
def copy(
    study: StudyName,
    file: Annotated[Path, typer.Argument(help="The new file, such as my_study.py.", show_default=False)],
) -> None:
    """Copy a study to a file of your own, to be changed and run.

    Example: thalweg copy digits my_digits.py
    """
    from thalweg.study.catalogue import copy_study

    copy_study(study, file)
    typer.echo(f"{file} is yours; run it with: thalweg run {file}")


def _tell_study(found: "StudyRun") -> None:
    """The claims and the verdict, as a person reads them."""
    lines = [found.question]
    for claim in found.claims:
        unit = f" {claim.unit}" if claim.unit else ""
        low, high = claim.interval
        measured = f"{claim.value:.4g} [{low:.4g}, {high:.4g}]{unit}"
        against = f"{claim.relation} {claim.reference:.4g}{unit}".strip()
        lines += [f"  {claim.verdict.value:<14} {claim.statement}", f"{'':17}measured {measured}; reference {against}"]
    members = [verdict for one in found.verdicts.values() for verdict in one]
    lines += [*_verdict_lines(members), f"run:    {found.path}", f"report: {found.report}"]
    typer.echo("\n".join(lines))


def _tell(found: "TableFit") -> None:
    """The verdict and the scores, as a person reads them."""
    lines = _verdict_lines(found.verdicts)
    lines += [f"  {one.name}: {one.evidence}. {one.remedy}" for one in found.findings]
    metric = found.scores["metric"]
    for model in found.scores["models"]:
        value, low, high = model["values"][metric]
        lines.append(f"  {model['name']:<22} {metric} {value:8.4g}  [{low:.4g}, {high:.4g}]")
    lines += [found.scores["recommendation"]["sentence"], f"run:    {found.run}", f"report: {found.report}"]
    typer.echo("\n".join(lines))


def _verdict_lines(verdicts: "list[Verdict]") -> list[str]:
    """How many members ended how, and what each status and finding means, once."""
    from collections import Counter

    counts = Counter(verdict.status.value for verdict in verdicts)
    lines = ["verdict: " + ", ".join(f"{status} ({n} of {len(verdicts)})" for status, n in counts.items())]
    seen: set[str] = set()
    for verdict in verdicts:
        if verdict.remedy and verdict.status.value not in seen:
            lines.append(f"  {verdict.status.value}: {verdict.evidence}. {verdict.remedy}")
        seen.add(verdict.status.value)
        for finding in verdict.findings:
            if finding.name not in seen:
                lines.append(f"  {finding.name}: {finding.evidence}. {finding.remedy}")
            seen.add(finding.name)
    return lines if verdicts else []


def _keep_compiled_programs() -> None:
    """Compiled programs are kept between runs, so that the second run of a kind starts at once."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    jax.config.update("jax_compilation_cache_dir", str(home / "thalweg" / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _user_lines(error: ThalwegError) -> "Iterable[str]":
    """The user's own line that an error came from; other libraries leave notes too."""
    return (note for note in getattr(error, "__notes__", ()) if note.startswith("your line: "))


def main() -> NoReturn:
    """Run the command line; a user's error is one message and status 2, never a traceback."""
    try:
        app(prog_name="thalweg")
    except ThalwegError as error:
        typer.echo(f"error: {error}", err=True)
        for line in _user_lines(error):
            typer.echo(f"  {line}", err=True)
        sys.exit(error.exit_status)
    except SystemExit as ended:
        if ended.code == 130:  # Typer turns Ctrl-C into this status without a word
            typer.echo("interrupted", err=True)
        raise
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()

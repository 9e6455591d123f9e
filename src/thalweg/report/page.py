"""The page: read the record, draw, fill in the template, write it whole."""

from pathlib import Path


def write_report(run: str | Path) -> Path:
    """Write `<run>/report.html`: one page that needs no network, in light or dark, for screen, phone and paper.

    Where the run has a slice of its loss surface, a small script turns it; without scripts and on paper its contours
    stand there. (Not Plotly, as first designed: it has 4.5 MB, and a page is to open in under a second.) Figures that
    were saved as frames get a slider; without scripts and on paper they stand side by side.

    Nothing is trained, nothing in the folder is executed, and no other file in it is touched. A run that is still going
    or was killed gets a page of what there is. The same folder gives the same page.

    Args:
        run: the folder of a run.
    Returns:
        the page's path.
    Raises:
        UserError: the folder does not exist or is no run's, or a file in it is damaged; the file is named.
        RunError: the page cannot be written; an older one is still there.

    >>> import tempfile
    >>> from thalweg.train import RunDirectory
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     RunDirectory.create(Path(folder) / "run", {"study": "heat-plate"}, seed=0).close()
    ...     page = write_report(Path(folder) / "run")
    ...     page.name, "no verdict yet" in page.read_text(encoding="utf-8")
    ('report.html', True)
    """
    from thalweg.report.claims import Frames, claims_section
    from thalweg.report.constraints import constraints_section
    from thalweg.report.course import trained
    from thalweg.report.evidence import predicted  # these bring pydantic, Jinja2, NumPy and JAX
    from thalweg.report.formats import read_record
    from thalweg.report.landscape import landscape
    from thalweg.report.provenance import data_section, provenance
    from thalweg.report.scripts import page_script
    from thalweg.report.summary import heading, trust
    from thalweg.train.record import write_text_atomic

    record = read_record(run)
    surface = None if record.surface is None else landscape(record.surface)
    claims = claims_section(record.claims, record.path)
    needed = {
        "surface": surface is not None and surface.drawing is not None,
        "frames": claims is not None and any(isinstance(one, Frames) for one in claims.drawings),
    }
    page = _rendered(
        head=heading(record),
        claims=claims,
        constraints=constraints_section(record.path),
        trust=None if record.scores is None else trust(record.scores),
        predictions=None if record.test is None else predicted(record.test),
        training=trained(record) if record.rows else None,
        surface=surface,
        script=page_script([name for name, is_needed in needed.items() if is_needed]),
        data=None if record.data is None else data_section(record.data),
        provenance=provenance(record),
        version=(record.environment.get("versions") or {}).get("thalweg") or "",
    )
    path = record.path / "report.html"
    write_text_atomic(path, page)
    return path


def _rendered(**sections: object) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(sections)

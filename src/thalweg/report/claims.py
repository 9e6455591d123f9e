"""What a study claims, and the figures that it saved."""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import UserError
from thalweg.figures.style import GRID, INK, MUTED, SERIES
from thalweg.report.drawing import SVG, Drawing, rendered, themed
from thalweg.report.files import damaged
from thalweg.report.formats import ClaimRow, Claims
from thalweg.report.words import count, figure, joined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES = "arrays/figures"
"""Where in a run's folder its study saves figures."""

TONE = {"supported": "good", "not supported": "bad", "undecided": "fair"}
MOST_BYTES = 1_500_000


@dataclass(frozen=True)
class ClaimLine:
    """One claim as texts: what is said, what was measured with its interval, the reference, and the verdict."""

    statement: str
    value: str
    interval: str
    reference: str
    verdict: str
    tone: str


@dataclass(frozen=True)
class ClaimsSection:
    """What was asked and claimed.

    Attributes:
        question: of the study; empty if it is not known.
        summary: how many claims are supported.
        rows: the claims.
        drawings: figures that the study saved.
    """

    question: str
    summary: str
    rows: list[ClaimLine]
    drawings: list[Drawing]


def claims_section(claims: Claims | None, run: Path) -> ClaimsSection | None:
    """The claims of a run, and the figures saved in its folder; None where there is neither.

    Raises:
        DamagedError: a figure is no SVG that thalweg would have saved.
    """
    drawings = [_saved(path) for path in sorted((run / FIGURES).glob("*.svg"))]
    if claims is None and not drawings:
        return None
    rows = [] if claims is None else claims.claims
    tally: Mapping[str, int] = Counter(row.verdict for row in rows)
    counts = joined([f"{tally[verdict]} {verdict}" for verdict in TONE if tally[verdict]]) if rows else ""
    summary = f"{count(len(rows), 'claim')}: {counts}." if rows else "The study made no claim."
    question = "" if claims is None else claims.question
    return ClaimsSection(question, summary if claims is not None else "", [_line(row) for row in rows], drawings)


def _line(row: ClaimRow) -> ClaimLine:
    unit = f"\N{NO-BREAK SPACE}{row.unit}" if row.unit else ""
    low, high = row.interval
    interval = "" if low == high else f"{figure(low)} to {figure(high)}{unit}"
    reference = f"{row.relation} {figure(row.reference)}{unit}".strip()
    return ClaimLine(row.statement, figure(row.value) + unit, interval, reference, row.verdict, TONE[row.verdict])


# ------------------------------------------------------------------------------------------------------ saved figures
def save_figure(
    folder: Path, name: str, draw: Callable[["Axes"], None], *, title: str, caption: str, size: tuple[float, float]
) -> Path:
    """Draw a figure into `folder/name.svg`, with its title and caption in it.

    Raises:
        UserError: a name that is none; no title or caption; a raster image in it; or it is too large for the page.
    """
    from thalweg.train.files import write_text_atomic

    where = f"figure {name!r}"
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError("a figure's name is of letters, digits, '-' and '_'", where=where)
    if not title.strip() or not caption.strip():
        raise UserError(
            "a figure needs a title and a caption", where=where, remedy="Say what it shows, and how to read it."
        )
    text = rendered(draw, name=name, size=size, texts={"Title": title, "Description": caption}, style=_style())
    if "<image" in text:
        remedy = "Draw contours (contourf) or cells (pcolormesh) instead of an image."
        raise UserError("the figure holds a raster image", where=where, remedy=remedy)
    if len(text.encode()) > MOST_BYTES:
        raise UserError(f"the figure has {len(text):,} bytes", where=where, remedy="Draw fewer points or cells.")
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / f"{name}.svg", text)
    return folder / f"{name}.svg"


def _style() -> dict[str, Any]:
    """What a plain figure looks like here, so that a study need not say it; every colour is one of the page's."""
    from matplotlib.rcsetup import cycler

    quiet = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED)
    inked = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK)
    bare = dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    return {**quiet, **inked, **bare, "axes.prop_cycle": cycler(color=SERIES), "grid.color": GRID, "axes.grid": True,
            "axes.axisbelow": True, "axes.titlesize": 11.5}  # fmt: skip


ELEMENTS = {f"{SVG}{name}" for name in ("svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect")}
"""What matplotlib draws with; anything else in a file was not put there by `save_figure`."""


def _saved(path: Path) -> Drawing:
    try:
        text = path.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        title, caption = (_text(root, name) for name in ("title", "description"))
        svg = themed(text, f"saved-{path.stem}", f"{title}: {caption}")
        _refuse_foreign(ElementTree.fromstring(svg))
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as error:
        raise damaged(path, f"it is no figure of thalweg's: {error}") from error
    return Drawing(svg, f"{title}: {caption}", title, caption)


def _text(root: ElementTree.Element, name: str) -> str:
    found = root.find(f".//{{http://purl.org/dc/elements/1.1/}}{name}")
    return "" if found is None else found.text or ""


def _refuse_foreign(root: ElementTree.Element) -> None:
    for element in root.iter():
        if element.tag not in ELEMENTS:
            raise ValueError(f"it holds <{str(element.tag).removeprefix(SVG)}>")
        for name, value in element.attrib.items():
            is_link = name.rpartition("}")[2] == "href"
            if name.startswith("on") or (is_link and not value.startswith("#")) or re.search(r"url\((?!#)", value):
                raise ValueError(f"it holds {name}={value!r}")

"""What a study claims, and the figures that it saved."""

import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
MOST_FRAMES = 60


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
        drawings: figures that the study saved, and those that it saved as frames.
    """

    question: str
    summary: str
    rows: list[ClaimLine]
    drawings: "list[Drawing | Frames]"


@dataclass(frozen=True)
class Frames:
    """One figure at several times, or whatever else the slider goes through.

    Attributes:
        title, caption: of the whole.
        slider: what it goes through, such as "time".
        frames: the pictures; their titles are what the slider shows.
    """

    title: str
    caption: str
    slider: str
    frames: list[Drawing]


def claims_section(claims: Claims | None, run: Path) -> ClaimsSection | None:
    """The claims of a run, and the figures saved in its folder; None where there is neither.

    Raises:
        DamagedError: a figure is no SVG that thalweg would have saved.
    """
    drawings: list[Drawing | Frames] = []
    for path in sorted((run / FIGURES).glob("*")):  # by name, whether one picture or a folder of frames
        if path.is_dir() and any(path.glob("*.svg")):
            drawings.append(_frames(path))
        elif path.suffix == ".svg":
            drawings.append(_saved(path))
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

    _refuse_words(name, title, caption)
    text = _picture(draw, name, size, {"Title": title, "Description": caption})
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / f"{name}.svg", text)
    shutil.rmtree(folder / name, ignore_errors=True)  # frames of that name, of an earlier version of the study
    return folder / f"{name}.svg"


def save_frames(
    folder: Path,
    name: str,
    frames: Sequence[tuple[str, Callable[["Axes"], None]]],
    *,
    title: str,
    caption: str,
    slider: str,
    size: tuple[float, float],
) -> Path:
    """Draw frames into `folder/name/000.svg` and on; all are drawn before any is written.

    Raises:
        UserError: as `save_figure`; fewer than 2 frames or more than 60, or a frame or slider without a label.
    """
    from thalweg.train.files import write_text_atomic

    _refuse_words(name, title, caption)
    where = f"figure {name!r}"
    if not 2 <= len(frames) <= MOST_FRAMES:
        raise UserError(f"{len(frames)} frames", where=where, remedy=f"Between 2 and {MOST_FRAMES}.")
    if not slider.strip() or not all(label.strip() for label, _ in frames):
        raise UserError("the slider and every frame need a label", where=where, remedy='Such as "time", "t = 0.5".')
    texts = {"Title": title, "Description": caption, "Source": slider}
    pictures = [
        _picture(draw, f"{name}-{i}", size, {**texts, "Coverage": label}) for i, (label, draw) in enumerate(frames)
    ]
    if (whole := sum(len(text.encode()) for text in pictures)) > 2 * MOST_BYTES:
        remedy = "Draw fewer points or cells, or take fewer frames."
        raise UserError(f"the frames have {whole:,} bytes together", where=where, remedy=remedy)
    path = folder / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    for i, text in enumerate(pictures):
        write_text_atomic(path / f"{i:03}.svg", text)
    (folder / f"{name}.svg").unlink(missing_ok=True)
    return path


def _refuse_words(name: str, title: str, caption: str) -> None:
    where = f"figure {name!r}"
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError("a figure's name is of letters, digits, '-' and '_'", where=where)
    if not title.strip() or not caption.strip():
        raise UserError(
            "a figure needs a title and a caption", where=where, remedy="Say what it shows, and how to read it."
        )


def _picture(draw: Callable[["Axes"], None], name: str, size: tuple[float, float], texts: Mapping[str, str]) -> str:
    text = rendered(draw, name=name, size=size, texts=texts, style=_style())
    where = f"figure {name!r}"
    if "<image" in text:
        remedy = "Draw contours (contourf) or cells (pcolormesh) instead of an image."
        raise UserError("the figure holds a raster image", where=where, remedy=remedy)
    if len(text.encode()) > MOST_BYTES:
        raise UserError(f"the figure has {len(text):,} bytes", where=where, remedy="Draw fewer points or cells.")
    return text


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
    return _read(path, f"saved-{path.stem}")[0]


def _frames(path: Path) -> Frames:
    found = [_read(file, f"saved-{path.name}-{file.stem}") for file in sorted(path.glob("*.svg"))]
    first, about = found[0]
    frames = [Drawing(one.svg, one.alt, texts["coverage"], one.caption) for one, texts in found]
    return Frames(first.title, first.caption, about["source"], frames)


def _read(path: Path, name: str) -> tuple[Drawing, dict[str, str]]:
    """A picture that was saved, safe for the page, and what else its file says."""
    try:
        text = path.read_text(encoding="utf-8")
        root = ElementTree.fromstring(text)
        texts = {key: _text(root, key) for key in ("title", "description", "coverage", "source")}
        title, caption = texts["title"], texts["description"]
        at = f" ({texts['coverage']})" if texts["coverage"] else ""
        svg = themed(text, name, f"{title}{at}: {caption}")
        _refuse_foreign(ElementTree.fromstring(svg))
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as error:
        raise damaged(path, f"it is no figure of thalweg's: {error}") from error
    return Drawing(svg, f"{title}{at}: {caption}", title, caption), texts


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

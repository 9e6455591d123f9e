"""A matplotlib figure as a piece of SVG for the page: its colours are the page's, in light and in dark."""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from thalweg.figures.style import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
SIZE = (5.0, 3.5)
"""Inches. Narrow on purpose: on a phone the figure is shown at its own size, and its texts stay readable."""

SETTINGS = {
    "svg.fonttype": "none",  # texts stay texts: small, searchable, in the page's own font
    "font.size": 11.0,
    "axes.labelsize": 11.5,
    "legend.fontsize": 10.5,
    "path.simplify": True,
    "path.simplify_threshold": 0.25,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Drawing:
    """One figure of the page.

    Attributes:
        svg: the element, which is safe to put into a page: texts in it are escaped.
        alt: what the figure shows, for those who cannot see it.
        title: a short heading.
        caption: how to read it.
    """

    svg: str
    alt: str
    title: str
    caption: str


def drawing(
    draw: Callable[["Axes"], None],
    *,
    name: str,
    title: str,
    alt: str,
    caption: str,
    size: tuple[float, float] = SIZE,
) -> Drawing:
    """Draw one figure.

    Args:
        draw: draws on the axes it is given.
        name: of the figure, another for each figure of a page: what is referred to within it is named after it.
        title, alt, caption: see `Drawing`.
        size: width and height in inches.
    """
    return Drawing(themed(rendered(draw, name=name, size=size), name, alt), alt, title, caption)


def rendered(
    draw: Callable[["Axes"], None],
    *,
    name: str,
    size: tuple[float, float],
    texts: Mapping[str, str] | None = None,
    style: Mapping[str, Any] | None = None,
) -> str:
    """Matplotlib's own SVG file of a figure, the same at every call.

    Args:
        draw, name, size: as `drawing`.
        texts: the file's "Title" and "Description".
        style: matplotlib's settings by name.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {**SETTINGS, **(style or {}), "svg.hashsalt": name}
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) | dict(texts or {})
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The browser draws the texts, in fonts that it has; matplotlib only measures them.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return file.getvalue()


def themed(text: str, name: str, alt: str) -> str:
    """Matplotlib's file as an element of the page: page colours, page fonts, no ids but those referred to."""
    root = ElementTree.fromstring(text)
    ids = {one: f"{name}-{i}" for i, one in enumerate(_referred(root))}
    for parent in root.iter():
        for child in [*parent]:
            if child.tag in (f"{SVG}metadata", f"{SVG}style", f"{SVG}title"):
                parent.remove(child)
    for element in root.iter():
        _clean(element, ids)
    for element in root.iter():
        _share_style(element)
    _drop_empty(root)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    ElementTree.register_namespace("", SVG[1:-1])
    found = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r">\s+<", "><", found).strip()


def _referred(root: ElementTree.Element) -> list[str]:
    found: dict[str, None] = {}
    for element in root.iter():
        if LINK in element.attrib:
            found[element.attrib[LINK][1:]] = None
        for value in element.attrib.values():
            found |= dict.fromkeys(re.findall(r"url\(#([^)]+)\)", value))
    return list(found)


def _clean(element: ElementTree.Element, ids: dict[str, str]) -> None:
    attributes = element.attrib
    identity = attributes.pop("id", None)
    if identity in ids:
        attributes["id"] = ids[identity]
    if LINK in attributes:
        attributes["href"] = f"#{ids[attributes.pop(LINK)[1:]]}"
    if "clip-path" in attributes:
        attributes["clip-path"] = re.sub(r"#([^)]+)", lambda match: f"#{ids[match[1]]}", attributes["clip-path"])
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    for key in ("d", "x", "y", "points", "transform"):
        if key in attributes:
            attributes[key] = _rounded(attributes[key])
    if "style" in attributes:
        attributes["style"] = _restyled(attributes["style"])


def _rounded(numbers: str) -> str:
    short = re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), numbers)
    return " ".join(short.split())


def _restyled(style: str) -> str:
    kept = [part.strip() for part in style.split(";") if part.strip() and "font-family" not in part]
    style = "; ".join(kept)
    for name, colour in COLOURS.items():
        style = style.replace(colour, f"var(--{name})")
    return style


def _share_style(element: ElementTree.Element) -> None:
    """Hundreds of points that look alike say so once."""
    children = [*element]
    if len(children) > 2 and all(child.tag == f"{SVG}use" for child in children):
        styles = {child.get("style") for child in children}
        style = styles.pop()
        if not styles and style is not None and "style" not in element.attrib:
            element.set("style", style)
            for child in children:
                del child.attrib["style"]


def _drop_empty(element: ElementTree.Element) -> None:
    for child in [*element]:
        _drop_empty(child)
        if child.tag in (f"{SVG}g", f"{SVG}defs") and not len(child):
            element.remove(child)

"""A figure of matplotlib as an SVG element of an HTML page: no style attributes, no colours of its own, unique ids.

A page whose content security policy allows no inline styles shows it, and its colours follow the page's.
"""

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

logging.getLogger("matplotlib").setLevel(
    logging.ERROR
)  # where it keeps its list of fonts is nobody's concern

import matplotlib  # noqa: E402
from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

INK, GRID, LINE = "#010101", "#020202", "#020203"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305")
PAPER = "#040404"
COLOURS = {
    INK: "currentColor",
    GRID: "var(--grid)",
    LINE: "var(--line)",
    PAPER: "var(--card)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, 1)},
}
"""Colours to draw with, and what they become in the page."""
SETTINGS: Any = {
    "svg.fonttype": "none",  # text, so that it can be searched, selected and read aloud
    "text.parse_math": False,  # a $ in a name is a dollar
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "path.simplify": False,
    "lines.solid_capstyle": "round",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
NOT_IN_PAGE = ("metadata", "style")
FONTS = ("font", "font-family", "font-style", "font-variant", "font-weight", "font-stretch")  # the page's own
URL = re.compile(r"#([\w-]+)")


@contextmanager
def drawing() -> Iterator[Figure]:
    """A figure with the settings above, whatever a user's own are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        yield Figure(figsize=(5.8, 3.4), layout="constrained")


def inline_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an ``svg`` element with a title and a description for those who do not see it.

    Args:
        figure: drawn within ``drawing``.
        name: a word that no other figure of the page has, for its ids.
        title: what it shows.
        description: what is to be seen in it.
    """
    stream = io.StringIO()
    matplotlib.rcParams["svg.hashsalt"] = name  # else ids are drawn at random
    FigureCanvasSVG(figure).print_figure(stream, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(stream.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _plain(child.tag) in NOT_IN_PAGE:
                parent.remove(child)
    used = {
        match for element in root.iter() for value in element.attrib.values() for match in URL.findall(value)
    }
    for element in root.iter():
        _adapt(element, name, used)
    size = {key: value for key, value in root.attrib.items() if key == "viewBox"}
    root.attrib.clear()
    root.attrib.update(
        size,
        role="img",
        **{"aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-description"},
        **{"stroke-linejoin": "round", "stroke-linecap": "butt"},
    )
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        words = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'description'}"})
        words.text = text
        root.insert(place, words)
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element, name: str, used: set[str]) -> None:
    """Take away what an HTML page does not need of an element, and make its ids the figure's own."""
    element.tag = _plain(element.tag)
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        if key == "style":
            element.attrib.update(_presentation(value))
        elif key == "id":
            if value in used:
                element.set("id", f"{name}-{value}")
        elif key != "gid":
            element.set(_plain(key), URL.sub(lambda match: f"#{name}-{match[1]}", value))


def _presentation(style: str) -> dict[str, str]:
    """The attributes that say the same as a style, in the page's colours and fonts."""
    pairs = (pair.partition(":") for pair in style.split(";") if pair.strip())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    if "font" in found:  # such as "11px 'DejaVu Sans', sans-serif"
        found["font-size"] = found["font"].split()[0].removesuffix("px")
    return {key: COLOURS.get(value, value) for key, value in found.items() if key not in FONTS}


def _plain(tag: str) -> str:
    """A name without its namespace, which the HTML parser knows."""
    return tag.rpartition("}")[2]

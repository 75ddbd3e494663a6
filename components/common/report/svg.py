"""A matplotlib figure as inline SVG: no font and no date inside, colours that follow the page's scheme, the same bytes each time."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, SOFT, GRID, GROUND = "#2b3442", "#66707f", "#e4e8ed", "#ffffff"
SERIES = ("#3567a8", "#c96f21", "#2b8a7a", "#7d57ab", "#b8434e", "#7b8494")

# Matplotlib writes these exact colours; the page replaces each by the word that style.css gives for both schemes.
_WORDS = {INK: "ink", "#000000": "ink", SOFT: "soft", GRID: "grid", GROUND: "ground"} | {colour: str(i) for i, colour in enumerate(SERIES, 1)}
_COLOUR = re.compile("|".join(_WORDS))
_TAG = re.compile(r"<[^>]+>")
_FONT = re.compile(r"font-family: [^;\"]+")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_NAME = re.compile(r' id="[A-Za-z]+[\w.]*_\d+"')  # names of groups, which would stand twice on a page of several figures
_EMPTY = re.compile(r"<g[^>]*/>\s*")
_WHOLE_PAGE = re.compile(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", re.DOTALL)  # its rules would hold for the page; style.css has them


@contextmanager
def house_style() -> Iterator[None]:
    """The style in which figures are made and drawn; matplotlib's own settings stay as they were."""
    import matplotlib as mpl

    series = mpl.cycler(color=SERIES)  # type: ignore[attr-defined]
    words: dict[str, object] = {
        "axes.axisbelow": True,
        "axes.edgecolor": SOFT,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.labelcolor": SOFT,
        "axes.labelsize": 9.5,
        "axes.linewidth": 0.8,
        "axes.prop_cycle": series,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titlesize": 10.5,
        "figure.facecolor": "none",
        "font.family": "sans-serif",
        "font.size": 9.5,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "lines.linewidth": 1.8,
        "savefig.facecolor": "none",
        "svg.fonttype": "none",
        "svg.hashsalt": "kfp-foundry",
        "text.color": INK,
        "text.parse_math": False,  # a column may be called a$b$
        "xtick.color": SOFT,
        "xtick.labelsize": 9,
        "xtick.major.size": 0,
        "ytick.color": SOFT,
        "ytick.labelsize": 9,
        "ytick.major.size": 0,
    }
    with mpl.rc_context(words):  # type: ignore[arg-type]
        yield


def inline(figure: "Figure", alt: str) -> str:
    """The figure as an `<svg>` element for an HTML page.

    Args:
        figure: Any matplotlib figure; the house colours follow the light and dark scheme, other colours stay.
        alt: What the figure shows, for those who cannot see it.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    file = io.StringIO()
    with house_style():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    head, body = _WHOLE_PAGE.sub("", file.getvalue()).split("<svg", 1)[1].split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    size = f' viewBox="{box.group(1)}"' if box else ""
    body = _EMPTY.sub("", _TAG.sub(lambda tag: _clean(tag.group()), body))
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"{size} role="img" aria-label="{escape(alt)}">{body}'


def _clean(tag: str) -> str:
    tag = _NUMBER.sub(lambda number: f"{float(number.group()):.2f}", _NAME.sub("", tag))
    tag = _FONT.sub("font-family: inherit", tag)
    return _COLOUR.sub(lambda colour: f"var(--fig-{_WORDS[colour.group()]})", tag)

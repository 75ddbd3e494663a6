"""Report: one calm, self-contained HTML page, the same for every step."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kfp_foundry.components.common.errors import IntegrityError
from kfp_foundry.components.common.files import write_text
from kfp_foundry.components.common.images import VERSION
from kfp_foundry.components.common.report.format import human
from kfp_foundry.components.common.report.table import MAX_ROWS, Table, make_table

if TYPE_CHECKING:
    import jinja2
    import polars as pl
    from markupsafe import Markup
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
TONES = {
    "pass": "pass", "passed": "pass", "ok": "pass", "done": "pass", "succeeded": "pass", "better": "pass",
    "warn": "warn", "warning": "warn", "skipped": "plain", "same": "plain", "none": "plain",
    "fail": "fail", "failed": "fail", "error": "fail", "refused": "fail", "worse": "fail",
}  # fmt: skip
_SAVED = re.compile(r"<h1>(?P<title>.*?)</h1>(?:<p class=\"subtitle\">(?P<subtitle>.*?)</p>)?.*?<!--body-->(?P<body>.*)<!--/body-->", re.DOTALL)
_ANCHOR = re.compile(r'<section id="[^"]*"')
_VERDICT = re.compile(r'<div class="verdict (\w+)"')


@dataclass(frozen=True)
class Block:
    """One thing on a page: `kind` says which part of the template shows it, `value` is what that part needs."""

    kind: str
    value: Any


@dataclass
class Section:
    """A heading with what stands below it."""

    title: str
    note: str
    anchor: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn."""

    svg: "Markup"
    caption: str
    note: str


class Report:
    """A page that grows from top to bottom; each method adds to the section begun last, and returns the report.

    All text is escaped: a column may be called `<script>`. The same calls give the same bytes. Light and dark schemes follow
    the viewer's setting, the page prints well, and it loads nothing from the network.

    Args:
        title: The heading.
        subtitle: What it is about, such as `flights, 327,346 rows`.

    Example:
        >>> report = Report("Validation", "flights, 327,346 rows")
        >>> report.verdict("pass", "All 12 checks hold.").facts({"Rows": 327346, "Columns": 17})
        >>> report.section("Checks").table([{"check": "rows", "outcome": "pass", "found": 327346}])
        >>> report.save("report.html")
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.lead: list[Block] = []
        self.sections: list[Section] = []
        self.outcome = ""

    def section(self, title: str, note: str = "") -> Self:
        """Begins a section; `note` is a sentence below its heading."""
        self.sections.append(Section(title, note, f"section-{len(self.sections) + 1}"))
        return self

    def verdict(self, outcome: str, reason: str = "") -> Self:
        """A band with `pass`, `warn` or `fail` and the reason in one sentence."""
        self.outcome = self.outcome or outcome
        return self._add("verdict", {"outcome": outcome, "reason": reason})

    def facts(self, values: Mapping[str, object]) -> Self:
        """Tiles: name and value, for the few numbers that matter."""
        return self._add("facts", [(name, human(value)) for name, value in values.items()])

    def text(self, text: str) -> Self:
        """A paragraph."""
        return self._add("text", text)

    def code(self, text: str, caption: str = "") -> Self:
        """A command or a file's text, to be copied."""
        return self._add("code", {"text": text, "caption": caption})

    def links(self, links: Mapping[str, str]) -> Self:
        """A row of links: name and address. An address that is neither a web address, nor a file's, nor on this page is shown as text."""
        return self._add("links", [(name, address if _safe(address) else "", address) for name, address in links.items()])

    def table(
        self,
        rows: "Iterable[Mapping[str, object]] | pl.DataFrame",
        caption: str = "",
        status: str = "outcome",
        bars: Sequence[str] = (),
        limit: int = MAX_ROWS,
    ) -> Self:
        """A table.

        Args:
            rows: Rows as mappings (a column missing in some is shown as a dash), or a frame.
            caption: What it shows.
            status: The column whose words (`pass`, `warn`, `fail` ...) are shown as coloured badges.
            bars: Columns of numbers >= 0 that get a bar in proportion to the column's largest.
            limit: Rows shown; the number of those left out is said below the table.
        """
        return self._add("table", make_table(rows, caption, status, bars, limit))

    def figure(self, fig: "Figure", caption: str = "", alt: str = "", note: str = "") -> Self:
        """A matplotlib figure as inline SVG; figures added one after another stand side by side where there is room.

        Args:
            fig: The figure, best made by `plots`.
            caption: Its heading.
            alt: What it shows, for those who cannot see it; the caption when empty.
            note: How to read it, in a sentence.
        """
        from markupsafe import Markup

        from kfp_foundry.components.common.report.svg import inline

        # What matplotlib writes is escaped already; its colours and fonts are rewritten in svg.py.
        drawing = Drawing(Markup(inline(fig, alt or caption)), caption, note)
        blocks = self._blocks()
        if blocks and blocks[-1].kind == "figures":
            blocks[-1].value.append(drawing)
            return self
        return self._add("figures", [drawing])

    def page(self, page: "Report | str | Path", title: str = "") -> Self:
        """Another report, folded: made just now, or the file of one that `save` wrote.

        Args:
            page: The report or its file.
            title: Its heading here; its own when empty.

        Raises:
            IntegrityError: The file is missing or is not a report of ours.
        """
        from markupsafe import Markup, escape

        text = page.html() if isinstance(page, Report) else _read(Path(page))
        found = _SAVED.search(text)
        if found is None:
            raise IntegrityError("not a report that kfp-foundry wrote", where=str(page), remedy="give the HTML artifact of a step")
        outcome = _VERDICT.search(found["body"])
        # The body was escaped when it was written.
        return self._add(
            "page",
            {
                "title": escape(title) if title else Markup(found["title"]),
                "subtitle": Markup(found["subtitle"] or ""),
                "outcome": outcome.group(1) if outcome else "",
                "body": Markup(_ANCHOR.sub("<section", found["body"])),
            },
        )

    def html(self) -> str:
        """The whole page."""
        return _template().render(report=self, version=VERSION, style=_style())

    def save(self, path: str | Path) -> None:
        """Writes the page.

        Raises:
            PlatformError: The place cannot be written, or is full.
        """
        write_text(path, self.html())

    def _blocks(self) -> list[Block]:
        return self.sections[-1].blocks if self.sections else self.lead

    def _add(self, kind: str, value: "Table | Any") -> Self:
        self._blocks().append(Block(kind, value))
        return self


def _safe(address: str) -> bool:
    return address.startswith(("https://", "http://", "file://", "#", "./", "../", "/"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(path), remedy="give the HTML artifact of a step") from error


@functools.cache
def _style() -> "Markup":
    from markupsafe import Markup

    return Markup((HERE / "style.css").read_text(encoding="utf-8"))


@functools.cache
def _template() -> "jinja2.Template":
    import jinja2

    loader = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["tone"] = lambda word: TONES.get(str(word).strip().lower(), "plain")
    return environment.get_template("page.html.j2")

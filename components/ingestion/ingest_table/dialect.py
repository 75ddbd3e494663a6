"""How a CSV file is written: its delimiter and its header."""

import csv
import io
import re
from codecs import BOM_UTF8
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kfp_foundry.components.common.errors import DataError, UserError

DELIMITERS = (",", ";", "\t", "|")
WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
HEAD = 1 << 18  # bytes looked at
LINES = 200  # records looked at
ROW_LABELS = "index"  # what pandas and R write as a first column without a name: row labels, which are identifiers
SEPARATOR_LINE = re.compile(r"sep=([,;\t|])\r?\n")  # written by and for Excel
NUMBER = re.compile(r"-?\d+([.,]\d+)?")


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written.

    Args:
        delimiter: One character.
        names: The columns, in order.
        body: Byte at which the first row starts.
        line: Line number of the first row.
        notes: What was decided about the header, for the report.
    """

    delimiter: str
    names: list[str]
    body: int
    line: int
    notes: tuple[str, ...] = ()


def dialect(path: Path, name: str, delimiter: str = "") -> Dialect:
    """Reads the header of a CSV file in UTF-8; finds the delimiter if none is given.

    Args:
        path: The file.
        name: What the user calls it, for messages.
        delimiter: One character, or a word such as `tab`; empty: found.

    Raises:
        DataError: Empty file, no row after the header, a delimiter that does not fit, or two columns of one name.
        UserError: The delimiter is not one character.
    """
    given = WORDS.get(delimiter, delimiter)
    if len(given) > 1 or given in ('"', "\n", "\r") or not given.isascii():
        raise UserError(f"delimiter is {delimiter!r}", where="ingest_table", remedy='give one character, such as ";" or "\\t", or leave it empty')
    head, complete, mark = _head(path, name)
    said = SEPARATOR_LINE.match(head)
    if said:
        head, mark, given = head[said.end() :], mark + said.end(), given or said[1]
    found = _sniff(head)
    if given and found and found != given and _widths(head, given)[0] == 1:
        raise DataError(
            f"delimiter {given!r} gives a single column {_first(head, given)[0]!r}",
            where=name,
            remedy=f"{found!r} looks right: set delimiter={found!r}",
        )
    chosen = given or found or ","
    cells, lines = _header(head, chosen)
    start = _offset(head, lines)
    if complete and not head[start:].strip():
        raise DataError("has a header and no rows", where=name, remedy="check how the file was written")
    names, notes = _names(cells, name)
    return Dialect(chosen, names, mark + len(head[:start].encode("utf-8", "surrogateescape")), lines + (2 if said else 1), notes)


def _head(path: Path, name: str) -> tuple[str, bool, int]:
    """The file's first records, whether they are all of it, and the length of a byte order mark before them."""
    with path.open("rb") as file:
        data = file.read(HEAD)
    if not data.strip(b"\r\n\t \xef\xbb\xbf"):
        raise DataError("the file is empty", where=name, remedy="check how the file was written")
    mark = len(BOM_UTF8) if data.startswith(BOM_UTF8) else 0
    complete = len(data) < HEAD
    if not complete and b"\n" in data:
        data = data[: data.rindex(b"\n") + 1]
    # What is not UTF-8 is named with its line by the scan; here it must only not get in the way.
    return data[mark:].decode("utf-8", "surrogateescape"), complete, mark


def _sniff(head: str) -> str:
    """The delimiter with which most records have as many fields as the header; empty when there is only one column."""
    best, best_score = "", (0.0, 0)
    for candidate in DELIMITERS:
        widths = _widths(head, candidate)
        if widths[0] > 1:
            score = (Counter(widths)[widths[0]] / len(widths), widths[0])
            if score > best_score:
                best, best_score = candidate, score
    return best


def _widths(head: str, delimiter: str) -> list[int]:
    rows = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
    widths = []
    try:
        for row in rows:
            if row:
                widths.append(len(row))
            if len(widths) == LINES:
                break
    except csv.Error:  # a field of more than 128 kB: it cannot help to decide
        pass
    return widths or [0]


def _first(head: str, delimiter: str) -> list[str]:
    return _header(head, delimiter)[0]


def _header(head: str, delimiter: str) -> tuple[list[str], int]:
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter)
    cells = next((row for row in reader if any(cell.strip() for cell in row)), [])
    return cells, reader.line_num


def _offset(head: str, lines: int) -> int:
    at = 0
    for _ in range(lines):
        newline = head.find("\n", at)
        if newline < 0:
            return len(head)
        at = newline + 1
    return at


def _names(cells: list[str], file: str) -> tuple[list[str], tuple[str, ...]]:
    stripped = [cell.strip() for cell in cells]
    names = [name or f"column_{number}" for number, name in enumerate(stripped, start=1)]
    if names and not stripped[0] and ROW_LABELS not in names:
        names[0] = ROW_LABELS
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        places = "; ".join(f"{name!r} at positions {', '.join(str(i) for i, n in enumerate(names, 1) if n == name)}" for name in twice[:5])
        raise DataError(f"columns with the same name: {places}", where=file, remedy="give every column its own name")
    check_names(names, file)
    notes = []
    unnamed = [name for name, cell in zip(names, stripped, strict=True) if not cell]
    if unnamed:
        notes.append(f"columns without a name in the header are called {', '.join(unnamed[:10])}")
    if sum(NUMBER.fullmatch(name) is not None for name in stripped) * 2 > len(stripped):
        notes.append("most names in the header are numbers: does the file have a header at all?")
    return names, tuple(notes)


def check_names(names: list[str], file: str) -> None:
    """Refuses names that Polars takes for patterns, in this step and in every later one.

    Raises:
        DataError: Such a name is there.
    """
    for name in names:
        if name == "*" or (name.startswith("^") and name.endswith("$")):
            raise DataError(f"a column is called {name!r}, which stands for a pattern of names", where=file, remedy="rename the column")

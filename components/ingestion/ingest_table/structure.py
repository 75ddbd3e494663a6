"""The exact structure of a CSV file, in one pass over its bytes: every line is a row of the right width, or is named.

Measured on Polars 2.1: `scan_csv` fills a short line with nulls, makes a row of nulls from a blank line, drops the zeros of
`01234`, and fails without a line number on a quote inside a field (`5" disc`). So the bytes are checked first, by NumPy, a few
megabytes at a time: the positions of delimiters and line ends outside quotes must form a grid. On a regular file this costs
about a third of a bare scan. Blocks that are not regular are read record by record; what had to be changed in them goes into
a clean copy, from which Polars then reads.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from kfp_foundry.components.common.errors import DataError
from kfp_foundry.components.ingestion.ingest_table.bad_rows import BadRow, Quarantine, readable
from kfp_foundry.components.ingestion.ingest_table.dialect import Dialect

BLOCK = 1 << 18  # bytes read at once; what is made of them fits into a core's cache, which is worth a third of the time
LONGEST = 1 << 24  # bytes; a record beyond this is a quote that was never closed
JOINED = 1_000  # lines that one quoted field may span in an irregular block
SAMPLE_FIRST, SAMPLE_LATER, SAMPLE_BYTES = 2_000, 4, 1 << 24
NEWLINE, RETURN, QUOTE, ZERO, PLUS, MINUS, SPACE, TAB = b'\n\r"0+- \t'

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]
Marks = npt.NDArray[np.bool_]

# The first byte of a value that needs a second look: a zero, a sign, a space.
_TELLING = np.zeros(256, dtype=bool)
_TELLING[[ZERO, PLUS, MINUS, SPACE, TAB]] = True
_BLANK = np.zeros(256, dtype=bool)
_BLANK[[SPACE, TAB]] = True
# The last byte of a value that needs a second look.
_CLOSING = np.zeros(256, dtype=bool)
_CLOSING[[RETURN, QUOTE, SPACE, TAB]] = True


@dataclass
class Structure:
    """What the pass found.

    Args:
        path: The file to read: the source itself, or its clean copy.
        skip: Lines before the first row in `path`.
        rows: Number of rows.
        zero_led: By column, an example of a value such as `01234`; None if there is none.
        plus_led: By column, whether a value starts with a plus sign.
        padded: By column, whether a value has a space or tab at an end.
        sample: Rows from the whole length of the file, as CSV without header.
        blank: Blank lines left out.
        repaired: Records with quotes inside unquoted fields that were quoted properly in the copy.
    """

    path: Path
    skip: int
    zero_led: list[str | None]
    plus_led: Marks
    padded: Marks
    rows: int = 0
    sample: list[bytes] = field(default_factory=list)
    blank: int = 0
    repaired: int = 0


def check(path: Path, name: str, dialect: Dialect, bad: Quarantine, copy_to: Path, share: int = 1) -> Structure:
    """Reads every byte of a CSV file in UTF-8 and finds out whether each record is a row.

    Args:
        path: The file.
        name: What the user calls it, for messages.
        dialect: Its delimiter and header.
        bad: Receives lines that are not rows.
        copy_to: Where a clean copy may be written, if one is needed.
        share: Number of files that share the room for the sample.

    Returns:
        Rows, marks by column, and the file to read from.

    Raises:
        DataError: A line is not a row and `bad` stops there.
    """
    return _Pass(path, name, dialect, bad, copy_to, SAMPLE_BYTES // share).run()


class _Pass:
    def __init__(self, path: Path, name: str, dialect: Dialect, bad: Quarantine, copy_to: Path, room: int) -> None:
        self.name = name
        self.bad = bad
        self.dialect = dialect
        self.width = len(dialect.names)
        self.delimiter = ord(dialect.delimiter)
        self.line = dialect.line
        self.offset = dialect.body
        self.room = room
        self.copy = _Copy(path, copy_to, dialect.body)
        none: list[str | None] = [None] * self.width
        self.found = Structure(path, dialect.line - 1, none, np.zeros(self.width, bool), np.zeros(self.width, bool))

    def run(self) -> Structure:
        with self.copy, self.copy.source.open("rb") as file:
            file.seek(self.dialect.body)
            carry, last = b"", False
            while not last or carry:
                wanted = max(BLOCK, len(carry))  # a long record is looked at again and again, so the block must grow by doubling
                block = b"" if last else file.read(wanted)
                last = last or len(block) < wanted
                block = carry + block
                if last and block and not block.endswith(b"\n"):
                    block += b"\n"
                used = self._take(block, last) if block else 0
                carry = block[used:]
                self.offset += used
        if self.copy.path is not None:
            self.found.path, self.found.skip = self.copy.path, 0
        return self.found

    def _take(self, block: bytes, last: bool) -> int:
        """Handles the whole records of a block; returns how many bytes these are."""
        data = np.frombuffer(block, np.uint8)
        places = self._separators(data, block)
        if places is None:
            return self._patiently(block, last)
        ends = np.flatnonzero(data[places] == NEWLINE)
        if len(ends) == 0:
            return self._patiently(block, last) if last or len(block) > LONGEST else 0
        used = int(places[ends[-1]]) + 1
        places = places[: ends[-1] + 1]
        regular = len(places) == len(ends) * self.width and bool((ends == np.arange(1, len(ends) + 1) * self.width - 1).all())
        if regular and self.width == 1:  # a blank line is a grid of one column too
            first = data[np.concatenate([[0], places[:-1] + 1])]
            regular = not (_BLANK[first] | (first == NEWLINE) | (first == RETURN)).any()
        if regular and _is_text(block, used):
            self._measure(block, data, places)
        else:
            starts = np.concatenate([[0], places[ends] + 1])
            widths = np.diff(ends, prepend=-1)
            self._sift(block, [(int(a), int(b), int(w)) for a, b, w in zip(starts[:-1], starts[1:], widths, strict=True)])
        self.line += block.count(b"\n", 0, used) if b'"' in block else len(ends)
        return used

    def _separators(self, data: Bytes, block: bytes) -> Places | None:
        """Delimiters and line ends outside quotes; None if a quote stands where none may."""
        if b'"' not in block:
            return np.flatnonzero((data == self.delimiter) | (data == NEWLINE))
        places = np.flatnonzero((data == self.delimiter) | (data == NEWLINE) | (data == QUOTE))
        quotes = data[places] == QUOTE
        inside = np.cumsum(quotes) & 1 == 1
        opening, closing = places[quotes & inside], places[quotes & ~inside]
        before = data[opening - 1]
        before[opening == 0] = NEWLINE
        after = data[np.minimum(closing + 1, len(data) - 1)]
        proper = (before == self.delimiter) | (before == NEWLINE) | (before == QUOTE)
        ended = (after == self.delimiter) | (after == NEWLINE) | (after == RETURN) | (after == QUOTE) | (closing == len(data) - 1)
        if not (proper.all() and ended.all()):
            return None
        outside: Places = places[~quotes & ~inside]
        return outside

    def _measure(self, block: bytes, data: Bytes, places: Places) -> None:
        """Counts the rows of a regular block, and looks at the first and last byte of every value."""
        self.found.rows += len(places) // self.width
        starts = np.empty_like(places)
        starts[0] = 0
        starts[1:] = places[:-1] + 1
        if b'"' in block:
            starts = starts + (data[starts] == QUOTE)
        telling = np.flatnonzero(_TELLING[data[starts]])
        if len(telling):
            self._look(data, starts[telling], telling % self.width)
        closing = np.flatnonzero(_CLOSING[data[places - 1]])  # the very first value, if empty, sees the block's last byte: a newline
        if len(closing):
            self._look_back(data, places[closing] - 1, closing % self.width)
        self._keep(block, places)

    def _look_back(self, data: Bytes, ends: Places, columns: Places) -> None:
        last = data[ends]
        for mark in (RETURN, QUOTE):  # the space of `"a "` and a carriage return stands before them
            ends = ends - (last == mark)
            last = data[ends]
        self.found.padded[columns[_BLANK[last] & (last != self.delimiter)]] = True

    def _look(self, data: Bytes, starts: Places, columns: Places) -> None:
        first = data[starts]
        self.found.padded[columns[_BLANK[first] & (first != self.delimiter)]] = True
        self.found.plus_led[columns[first == PLUS]] = True
        digits = starts + ((first == MINUS) | (first == PLUS))
        room = digits + 1 < len(data)
        digits, columns = digits[room], columns[room]
        following = data[digits + 1]
        led = (data[digits] == ZERO) & (following >= ZERO) & (following <= ZERO + 9)
        for column in np.flatnonzero(np.bincount(columns[led], minlength=self.width)):
            if self.found.zero_led[column] is None:
                at = int(starts[room][led & (columns == column)][0])
                self.found.zero_led[column] = _value(data, at, self.delimiter)

    def _keep(self, block: bytes, places: Places) -> None:
        """Keeps some rows of this block for the sample."""
        wanted = SAMPLE_LATER if self.found.sample else SAMPLE_FIRST
        if self.room > 0:
            stop = int(places[min(wanted * self.width, len(places)) - 1]) + 1
            self.found.sample.append(block[:stop])
            self.room -= stop

    def _sift(self, block: bytes, records: list[tuple[int, int, int]]) -> None:
        """Takes the rows of an irregular block, names the lines that are none, leaves out blank ones."""
        good: list[bytes] = []
        line = self.line
        kept = 0
        for start, stop, width in records:
            text = block[start:stop]
            reason, remedy = self._reason(text, width, self.offset + start)
            if reason or not text.strip():
                if reason:
                    self.bad.add(BadRow(self.name, line, reason, readable(text), remedy))
                else:
                    self.found.blank += 1
                good.append(block[kept:start])
                kept = stop
                self.copy.replace(self.offset + start, self.offset + stop)
            line += text.count(b"\n")
        good.append(block[kept : records[-1][1]])
        self._again(b"".join(good))

    def _reason(self, text: bytes, width: int, offset: int) -> tuple[str, str]:
        if not text.strip():
            return "", ""
        if width != self.width:
            return self._miscounted(width)
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return _not_text(error, offset)
        return "", ""

    def _miscounted(self, found: int) -> tuple[str, str]:
        reason = f"expected {self.width} field{'s' if self.width > 1 else ''}, found {found}"
        if self.width == 1:
            return reason, "remove lines that stand before the header"
        if found == self.width + 1 and self.found.rows == 0 and self.line == self.dialect.line:
            return reason, "check whether the header lacks a name"
        return reason, ""

    def _patiently(self, block: bytes, last: bool) -> int:
        """Reads a block with quotes in odd places record by record, and quotes its fields anew."""
        good = io.StringIO(newline="")
        writer = csv.writer(good, delimiter=self.dialect.delimiter, lineterminator="\n")
        used = 0
        for text, fields, reason, remedy in self._records(block, last):
            if fields is not None and len(fields) == self.width:
                writer.writerow(fields)
                self.found.repaired += 1
            elif reason:
                self.bad.add(BadRow(self.name, self.line, reason, readable(text), remedy))
            else:
                self.found.blank += 1
            used += len(text)
            self.line += text.count(b"\n")
        if used:
            clean = good.getvalue().encode()
            self.copy.replace(self.offset, self.offset + used, clean)
            self._again(clean)
        return used

    def _records(self, block: bytes, last: bool) -> Iterator[tuple[bytes, list[str] | None, str, str]]:
        """The records of a block: text, fields, and, if there are none, why."""
        lines = [part + b"\n" for part in block.split(b"\n")[:-1]]
        at, offset = 0, self.offset
        while at < len(lines):
            count, fields = self._join(lines, at)
            if fields is None and at + JOINED >= len(lines) and not last and len(block) <= LONGEST:
                return  # the record may go on in the next block
            text = b"".join(lines[at : at + count])
            yield (text, fields, *self._blame(text, fields, offset))
            at += count
            offset += len(text)

    def _join(self, lines: list[bytes], at: int) -> tuple[int, list[str] | None]:
        """How many lines make the record that starts here, and its fields; one line and None if no number of lines does."""
        text = ""
        for count, line in enumerate(lines[at : at + JOINED], start=1):
            try:
                text += line.decode()
                rows = list(csv.reader([text], delimiter=self.dialect.delimiter, strict=True, skipinitialspace=True))
            except UnicodeDecodeError:
                return 1, None
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    continue
                return 1, None
            fields = rows[0] if len(rows) == 1 else []
            return count, fields
        return 1, None

    def _blame(self, text: bytes, fields: list[str] | None, offset: int) -> tuple[str, str]:
        if not text.strip():
            return "", ""
        if fields is not None:
            return ("", "") if len(fields) == self.width else self._miscounted(len(fields))
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return _not_text(error, offset)
        return "a quoted field that does not end properly", 'close the quote, and write a quote inside a quoted field twice ("")'

    def _again(self, clean: bytes) -> None:
        """Measures the rows that are left of an irregular block."""
        if clean:
            data = np.frombuffer(clean, np.uint8)
            places = self._separators(data, clean)
            if places is None:
                raise DataError(
                    f"the quotes near line {self.line} cannot be understood", where=self.name, remedy="write the file anew with proper quotes"
                )
            self._measure(clean, data, places)


class _Copy:
    """A copy of a file's body that comes into being with the first change."""

    def __init__(self, source: Path, target: Path, start: int) -> None:
        self.source = source
        self.path: Path | None = None
        self._target = target
        self._done = start
        self._file: BinaryIO | None = None

    def replace(self, start: int, stop: int, text: bytes = b"") -> None:
        if self._file is None:
            self._file = self._target.open("wb")
            self.path = self._target
        self._through(start)
        self._file.write(text)
        self._done = stop

    def _through(self, stop: int) -> None:
        assert self._file is not None
        with self.source.open("rb") as source:
            source.seek(self._done)
            while self._done < stop and (part := source.read(min(BLOCK, stop - self._done))):
                self._file.write(part)
                self._done += len(part)

    def __enter__(self) -> "_Copy":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file is not None:
            if kind is None:
                self._through(self.source.stat().st_size)
            self._file.close()


def _is_text(block: bytes, used: int) -> bool:
    if block.isascii():
        return True
    try:
        block[:used].decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_text(error: UnicodeDecodeError, offset: int) -> tuple[str, str]:
    byte = error.object[error.start]
    reason = f"not UTF-8: byte 0x{byte:02x} at offset {offset + error.start:,} of the file"
    return reason, 'if the file is written in a Western code page, set encoding="cp1252"'


def _value(data: Bytes, at: int, delimiter: int) -> str:
    text = data[at : at + 64].tobytes()
    for mark in (bytes([delimiter]), b"\n", b"\r", b'"'):
        text = text.split(mark)[0]
    return text.decode("utf-8", "replace")

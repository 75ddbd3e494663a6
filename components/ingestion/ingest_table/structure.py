"""The exact structure of a CSV file, in one pass over its bytes: every line is a row of the right width, or is named.

Measured on Polars 2.1: `scan_csv` fills a short line with nulls, makes a row of nulls from a blank line, drops the zeros of
`01234`, and fails without a line number on a quote inside a field (`5" disc`). So the bytes are checked first, by NumPy, a few
megabytes at a time: the positions of delimiters and line ends outside quotes must form a grid. On a regular file this costs
about a third of a bare scan. Blocks that are not regular are read record by record; what had to be changed in them goes into
a clean copy, from which Polars then reads.
"""

import csv
import io
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kfp_foundry.components.common.errors import DataError
from kfp_foundry.components.ingestion.ingest_table.bad_rows import BadRow, Quarantine, readable
from kfp_foundry.components.ingestion.ingest_table.dialect import Dialect
from kfp_foundry.components.ingestion.ingest_table.grid import NEWLINE, Columns, Grid, is_regular, is_text, look, measure, separators

BLOCK = 1 << 18  # bytes read at once; what is made of them fits into a core's cache, which is worth a third of the time
AHEAD = 4  # blocks that wait for their turn
LONGEST = 1 << 24  # bytes; a record beyond this is a quote that was never closed
JOINED = 1_000  # lines that one quoted field may span in an irregular block
SAMPLE_FIRST, SAMPLE_LATER, SAMPLE_BYTES = 2_000, 4, 1 << 24


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
    plus_led: Columns
    padded: Columns
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
        self.waiting: deque[tuple[bytes, Future[Grid | None]]] = deque()
        self.copy = _Copy(path, copy_to, dialect.body)
        none: list[str | None] = [None] * self.width
        self.found = Structure(path, dialect.line - 1, none, np.zeros(self.width, bool), np.zeros(self.width, bool))

    def run(self) -> Structure:
        with self.copy, self.copy.source.open("rb") as file, ThreadPoolExecutor(2) as pool:
            file.seek(self.dialect.body)
            carry, last = b"", False
            while not last or carry:
                wanted = max(BLOCK, len(carry))  # a long record is looked at again and again, so the block must grow by doubling
                block = b"" if last else file.read(wanted)
                last = last or len(block) < wanted
                block = carry + block
                if last and block and not block.endswith(b"\n"):
                    block += b"\n"
                used = 0 if b'"' in block else block.rfind(b"\n") + 1
                if used:  # without quotes lines are records, and blocks can be looked at side by side
                    lines = block[:used]
                    self.waiting.append((lines, pool.submit(look, lines, self.width, self.delimiter)))
                    self._settle(AHEAD)
                elif block:
                    self._settle(0)
                    used = self._take(block, last)
                carry = block[used:]
            self._settle(0)
        if self.copy.path is not None:
            self.found.path, self.found.skip = self.copy.path, 0
        return self.found

    def _settle(self, left: int) -> None:
        """Takes over what was seen in blocks, in their order, until only so many are left."""
        while len(self.waiting) > left:
            lines, future = self.waiting.popleft()
            grid = future.result()
            if grid is None:
                self._take(lines, False)
                continue
            self._add(lines, grid)
            self.line += grid.rows
            self.offset += len(lines)

    def _take(self, block: bytes, last: bool) -> int:
        """Handles the whole records of a block; returns how many bytes these are."""
        data = np.frombuffer(block, np.uint8)
        quoted = b'"' in block
        places = separators(data, quoted, self.delimiter)
        ends = np.flatnonzero(data[places] == NEWLINE) if places is not None else None
        if places is None or ends is None or (len(ends) == 0 and (last or len(block) > LONGEST)):
            used = self._patiently(block, last)
            self.offset += used
            return used
        if len(ends) == 0:
            return 0
        used = int(places[ends[-1]]) + 1
        places = places[: ends[-1] + 1]
        if is_regular(data, places, ends, self.width) and is_text(block[:used]):
            self._add(block, measure(data[:used], places, quoted, self.width, self.delimiter))
        else:
            starts = np.concatenate([[0], places[ends] + 1])
            widths = np.diff(ends, prepend=-1)
            self._sift(block, [(int(a), int(b), int(w)) for a, b, w in zip(starts[:-1], starts[1:], widths, strict=True)])
        self.line += block.count(b"\n", 0, used)
        self.offset += used
        return used

    def _add(self, block: bytes, grid: Grid) -> None:
        """Adds what was seen in a block, and keeps some of its rows for the sample."""
        self.found.rows += grid.rows
        self.found.plus_led |= grid.plus_led
        self.found.padded |= grid.padded
        for column, example in grid.zero_led.items():
            self.found.zero_led[column] = self.found.zero_led[column] or example
        wanted = SAMPLE_LATER if self.found.sample else SAMPLE_FIRST
        if self.room > 0:
            stop = int(grid.places[min(wanted * self.width, len(grid.places)) - 1]) + 1
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
        """Adds the rows that are left of an irregular block."""
        if clean:
            data = np.frombuffer(clean, np.uint8)
            quoted = b'"' in clean
            places = separators(data, quoted, self.delimiter)
            if places is None:
                raise DataError(
                    f"the quotes near line {self.line} cannot be understood", where=self.name, remedy="write the file anew with proper quotes"
                )
            self._add(clean, measure(data, places, quoted, self.width, self.delimiter))


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


def _not_text(error: UnicodeDecodeError, offset: int) -> tuple[str, str]:
    byte = error.object[error.start]
    reason = f"not UTF-8: byte 0x{byte:02x} at offset {offset + error.start:,} of the file"
    return reason, 'if the file is written in a Western code page, set encoding="cp1252"'

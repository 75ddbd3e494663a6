"""What happens to a line that is not a row: it stops the step, or it is written down; it never vanishes."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from kfp_foundry.components.common.errors import DataError, UserError, close_names
from kfp_foundry.components.common.files import unwritable

OnBadRows = Literal["stop", "quarantine"]
SHOWN = 10  # bad rows kept for the report
TEXT = 2_000  # characters of a bad line that are kept


@dataclass(frozen=True)
class BadRow:
    """A line that is not a row of the table.

    Args:
        file: The file, as the user knows it.
        line: Line number in that file; the first line is 1.
        reason: What is wrong with it.
        text: The line; bytes that are not text stand as `\\xNN`.
        remedy: What to do, for the error.
    """

    file: str
    line: int
    reason: str
    text: str
    remedy: str = ""

    def error(self) -> DataError:
        """The error that stops the step at this line."""
        shown = self.text if len(self.text) <= 200 else self.text[:200] + "..."
        repair = self.remedy or "repair the line"
        return DataError(
            f"{self.reason}: {shown!r}",
            where=f"{self.file}, line {self.line}",
            remedy=f'{repair}, or set on_bad_rows="quarantine" to put such lines aside',
        )


class Quarantine:
    """Receives bad rows; a context, so that the file appears under its name only when the block ends well.

    Example:
        >>> with Quarantine(path, "quarantine") as bad:
        ...     bad.add(BadRow("t.csv", 7, "expected 3 fields, found 2", "a,b"))
    """

    def __init__(self, path: str | Path, on_bad_rows: str) -> None:
        if on_bad_rows not in get_args(OnBadRows):
            raise UserError(f"on_bad_rows is {on_bad_rows!r}", where="ingest_table", remedy=close_names(on_bad_rows, list(get_args(OnBadRows))))
        self.path = Path(path)
        self.stops = on_bad_rows == "stop"
        self.count = 0
        self.shown: list[BadRow] = []
        self._draft = self.path.with_name(f".{self.path.name}.tmp")

    def add(self, row: BadRow) -> None:
        """Stops, or writes the row down.

        Raises:
            DataError: on_bad_rows is `stop`.
        """
        if self.stops:
            raise row.error()
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(row)
        record = {"file": row.file, "line": row.line, "reason": row.reason, "text": row.text[:TEXT]}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def __enter__(self) -> Self:
        try:
            self._draft.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._draft.open("w", encoding="utf-8")
        except OSError as error:
            raise unwritable(self.path, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._file.close()
            if kind is None:
                self._draft.replace(self.path)
        except OSError as problem:
            raise unwritable(self.path, problem) from problem
        finally:
            self._draft.unlink(missing_ok=True)


def readable(line: bytes) -> str:
    """A line's text; bytes that are not UTF-8 stand as `\\xNN`."""
    return line.rstrip(b"\r\n").decode("utf-8", errors="backslashreplace")

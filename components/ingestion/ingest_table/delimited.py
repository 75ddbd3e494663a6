"""CSV files as a table.

The structure of every byte is checked first (`structure.py`). Types are then guessed from rows of the whole file, and proved by
reading all of them strictly while they are written: a value that does not fit fails the reading, and the types are decided anew
over every row. So the common case costs one pass, and the result is always that of a look at every value.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from kfp_foundry.components.common.errors import DataError
from kfp_foundry.components.ingestion.ingest_table.dialect import Dialect, dialect
from kfp_foundry.components.ingestion.ingest_table.kinds import Kind, Marks, Rules, decide, texts, values
from kfp_foundry.components.ingestion.ingest_table.request import Column, Request, Table, Workplace
from kfp_foundry.components.ingestion.ingest_table.sources import Piece
from kfp_foundry.components.ingestion.ingest_table.structure import Structure, check

# Polars reads these by itself while it parses the line, which is faster than through a text.
NATIVE = {"integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean()}


@dataclass(frozen=True)
class _Source:
    """The checked files of one table."""

    dialect: Dialect
    parts: list[Structure]
    marks: dict[str, Marks]
    rules: Rules

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    def texts(self, columns: Sequence[str]) -> pl.LazyFrame:
        """Columns as cleaned texts, from every file."""
        plain = self._scan(dict.fromkeys(self.dialect.names, pl.String()), [])
        return plain.select(texts(column, self.rules.missing, self.marks[column].padded) for column in columns)

    def sample(self) -> pl.DataFrame:
        """Rows from the whole length of the files, as texts."""
        rows = b"".join(piece for part in self.parts for piece in part.sample)
        schema = dict.fromkeys(self.dialect.names, pl.String())
        return pl.read_csv(io.BytesIO(rows), has_header=False, separator=self.dialect.delimiter, schema=schema)

    def typed(self, kinds: dict[str, Kind], missing: Sequence[str]) -> pl.LazyFrame:
        """Columns with their types; reading fails where a value does not fit."""
        native = {name: self.native(name, kind) for name, kind in kinds.items()}
        schema = {name: native.get(name) or pl.String() for name in self.dialect.names}
        rows = self._scan(schema, missing)
        return rows.select(_cleaned(name, kind) if native[name] is not None else self._values(name, kind, missing) for name, kind in kinds.items())

    def _values(self, name: str, kind: Kind, missing: Sequence[str]) -> pl.Expr:
        padded = self.marks[name].padded
        needed = self.rules.missing if padded or kind.name == "text" else missing
        return values(name, kind, needed, padded)

    def native(self, name: str, kind: Kind) -> pl.DataType | None:
        """The type with which Polars can read the column directly; None if it must be read as text first."""
        return None if self.marks[name].padded or kind.decimal == "," or kind.grouping else NATIVE.get(kind.name)

    def _scan(self, schema: dict[str, pl.DataType], missing: Sequence[str]) -> pl.LazyFrame:
        return pl.concat(
            pl.scan_csv(
                part.path,
                has_header=False,
                skip_lines=part.skip,
                separator=self.dialect.delimiter,
                schema=schema,
                null_values=[marker for marker in missing if marker] or None,
                glob=False,
            )
            for part in self.parts
        )


def read(pieces: list[Piece], request: Request, place: Workplace) -> Table:
    """Reads CSV files in UTF-8 as one table.

    Raises:
        DataError: A file is empty or has no row, files do not have the same columns, or a line is not a row.
    """
    source = _checked(pieces, request, place)
    needed = request.needed(source.dialect.names)
    sample = source.sample()
    guessed = decide(sample.lazy().select(texts(name, source.rules.missing) for name in needed), needed, source.marks, source.rules)
    # Rows that a condition or a limit leaves out are not read strictly, so their types must be looked at.
    doubtful = [name for name in needed if not guessed[name].settled or (not request.whole and guessed[name].name != "text")]
    kinds = guessed | decide(source.texts(doubtful), doubtful, source.marks, source.rules) if doubtful else guessed
    table = _table(source, kinds, _markers(source, sample, kinds))

    def exact() -> Table:
        left = [name for name in needed if name not in doubtful and kinds[name].name != "text"]
        found = kinds | decide(source.texts(left), left, source.marks, source.rules)
        return _table(source, found, source.rules.missing)

    return replace(table, exact=exact)


def _table(source: _Source, kinds: dict[str, Kind], markers: Sequence[str]) -> Table:
    return Table(
        rows=source.typed(kinds, markers),
        columns={name: Column(_words(kind), kind.why, kind.warning) for name, kind in kinds.items()},
        format=f"CSV, delimiter {source.dialect.delimiter!r}",
        files=len(source.parts),
        read=source.rows,
        notes=_notes(source),
    )


def _words(kind: Kind) -> str:
    return f"{kind.name}, {kind.format}" if kind.format else kind.name


def _markers(source: _Source, sample: pl.DataFrame, kinds: dict[str, Kind]) -> list[str]:
    """The markers for "missing" seen in values that are not text: each costs time, and an unseen one makes the strict reading fail."""
    seen: set[str] = set()
    for name, kind in kinds.items():
        if kind.name != "text":
            seen.update(sample[name].filter(sample[name].is_in(list(source.rules.missing))).unique())
    return sorted(seen)


def _cleaned(name: str, kind: Kind) -> pl.Expr:
    return pl.col(name).fill_nan(None) if kind.name == "number" else pl.col(name)


def _checked(pieces: list[Piece], request: Request, place: Workplace) -> _Source:
    first = dialect(pieces[0].path, pieces[0].name, request.delimiter)
    parts = []
    for number, piece in enumerate(pieces):
        own = first if number == 0 else dialect(piece.path, piece.name, first.delimiter)
        if own.names != first.names:
            raise DataError(_difference(own.names, first.names), where=piece.name, remedy=f"give files with the same columns as {pieces[0].name}")
        parts.append(check(piece.path, piece.name, own, place.bad, place.scratch / f"clean-{number:05d}.csv", len(pieces)))
    if sum(part.rows for part in parts) == 0:
        raise DataError("no row is left: every line is bad", where=pieces[0].name, remedy="check the delimiter and the lines in the quarantine file")
    return _Source(first, parts, _marks(first.names, parts), request.rules)


def _difference(names: list[str], first: list[str]) -> str:
    if sorted(names) == sorted(first):
        return "the same columns in another order"
    more = [name for name in names if name not in first]
    less = [name for name in first if name not in names]
    return "; ".join(
        part
        for part in (f"unexpected columns {', '.join(more[:5])}" if more else "", f"missing columns {', '.join(less[:5])}" if less else "")
        if part
    )


def _marks(names: list[str], parts: list[Structure]) -> dict[str, Marks]:
    return {
        name: Marks(
            zero_led=next((part.zero_led[i] for part in parts if part.zero_led[i] is not None), None),
            plus_led=any(bool(part.plus_led[i]) for part in parts),
            padded=any(bool(part.padded[i]) for part in parts),
        )
        for i, name in enumerate(names)
    }


def _notes(source: _Source) -> list[str]:
    notes = list(source.dialect.notes)
    padded = [name for name, mark in source.marks.items() if mark.padded]
    if padded:
        notes.append(f"spaces around values were removed in: {', '.join(padded[:10])}")
    if blank := sum(part.blank for part in source.parts):
        notes.append(f"{blank:,} blank lines are no rows")
    if repaired := sum(part.repaired for part in source.parts):
        notes.append(f"{repaired:,} rows stand in blocks with quotes inside unquoted values, which were read as part of the value")
    return notes

"""What the user asked for, and what a reader answers: the words that the readers of this step share."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import polars as pl

from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.ingestion.ingest_table.bad_rows import Quarantine
from kfp_foundry.components.ingestion.ingest_table.kinds import MISSING, Rules


@dataclass(frozen=True)
class Request:
    """The step's parameters; see `component.py` for each of them."""

    source: str
    format: str = "auto"
    query: str = ""
    columns: tuple[str, ...] = ()
    where: str = ""
    max_rows: int = 0
    delimiter: str = ""
    encoding: str = ""
    null_values: tuple[str, ...] = ()
    decimal: str = ""

    @property
    def rules(self) -> Rules:
        """How texts are read."""
        return Rules(missing=(*self.null_values, "") if self.null_values else MISSING, decimal=self.decimal)

    @property
    def whole(self) -> bool:
        """Whether every row of the source is wanted."""
        return not self.where and not self.max_rows

    def check(self) -> None:
        """Refuses parameters that cannot be right, before anything is read.

        Raises:
            UserError: The message names the parameter.
        """
        if self.max_rows < 0:
            raise UserError(f"max_rows is {self.max_rows}", where="ingest_table", remedy="give a positive number, or 0 for all rows")
        if self.decimal not in ("", ".", ","):
            raise UserError(f"decimal is {self.decimal!r}", where="ingest_table", remedy='give "." or ",", or leave it empty')
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise UserError(f"columns names {', '.join(map(repr, twice))} twice", where="ingest_table", remedy="name each column once")
        if self.where:
            self.condition()

    def condition(self) -> pl.Expr:
        """The `where` as an expression.

        Raises:
            UserError: It does not parse.
        """
        try:
            return pl.sql_expr(self.where)
        except pl.exceptions.PolarsError as error:
            said = str(error).splitlines()[0]
            remedy = "write a SQL condition such as \"month <= 6 AND carrier = 'UA'\""
            raise UserError(f"where {self.where!r} is not a condition: {said}", where="ingest_table", remedy=remedy) from error

    def needed(self, names: list[str]) -> list[str]:
        """Which of the table's columns have to be read: those asked for and those of the condition.

        Raises:
            UserError: A column is not there; the message says the close names.
        """
        there = set(names)
        wanted = list(self.columns) or names
        asked = self.condition().meta.root_names() if self.where else []
        for parameter, group in (("columns", wanted), ("where", asked)):
            for name in group:
                if name not in there:
                    raise UserError(f"{parameter} names {name!r}, which is not a column", where="ingest_table", remedy=close_names(name, names))
        kept = {*wanted, *asked}
        return [name for name in names if name in kept]


@dataclass(frozen=True)
class Workplace:
    """What a reader works with.

    Args:
        scratch: Folder for copies; it is removed afterwards.
        bad: Receives lines that are not rows.
    """

    scratch: Path
    bad: Quarantine


@dataclass(frozen=True)
class Column:
    """What was found out about a column, for the report."""

    type: str
    why: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Table:
    """A source, ready to be written.

    Args:
        rows: All rows with their final types, lazily.
        columns: What was found out about each column.
        format: What the source is.
        files: How many files it has.
        read: Number of rows in the source, where that is known before reading.
        notes: What a person should know about the whole table.
        exact: Makes the table anew with types decided over every row, where `rows` rests on a sample that the reading proves;
            None if there is nothing left to prove.
    """

    rows: pl.LazyFrame
    columns: dict[str, Column]
    format: str
    files: int = 1
    read: int | None = None
    notes: list[str] = field(default_factory=list)
    exact: Callable[[], "Table"] | None = None

    def chosen(self, request: Request) -> Self:
        """The rows and columns that were asked for.

        Raises:
            UserError: A column is not there, or the condition does not fit the types.
        """
        schema = self.rows.collect_schema()
        request.needed(schema.names())
        rows = self.rows
        if request.where:
            condition = request.condition()
            try:
                schema.to_frame().filter(condition)
            except pl.exceptions.PolarsError as error:
                said = str(error).splitlines()[0]
                types = ", ".join(f"{name} is {schema[name]}" for name in condition.meta.root_names())
                if any(schema[name].is_temporal() for name in condition.meta.root_names()):
                    types += "; a date is written DATE '2013-12-31', a time TIMESTAMP '2013-12-31 10:00:00'"
                raise UserError(
                    f"where {request.where!r} does not fit the columns: {said}", where="ingest_table", remedy=f"{types}; repair it"
                ) from error
            rows = rows.filter(condition)
        wanted = set(request.columns or schema.names())
        rows = rows.select(name for name in schema.names() if name in wanted)
        if request.max_rows:
            rows = rows.head(request.max_rows)
        return replace(self, rows=rows, columns={name: self.columns[name] for name in rows.collect_schema().names()})

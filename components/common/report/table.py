"""A table as the report's template shows it: which columns are numbers, which cells are badges, missing or bars."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kfp_foundry.components.common.report.format import MISSING, human

if TYPE_CHECKING:
    import polars as pl

MAX_ROWS = 200


@dataclass(frozen=True)
class Column:
    """A column's heading."""

    name: str
    number: bool


@dataclass(frozen=True)
class Cell:
    """One value: its text, the classes that style it, and the length of its bar (such as `40%`)."""

    text: str
    css: str = ""
    badge: bool = False
    share: str = ""


@dataclass(frozen=True)
class Table:
    """What the template shows."""

    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    more: str


def make_table(
    rows: "Iterable[Mapping[str, object]] | pl.DataFrame", caption: str = "", status: str = "", bars: Sequence[str] = (), limit: int = MAX_ROWS
) -> Table:
    """Turns rows into cells; the arguments are those of `Report.table`."""
    records: list[Mapping[str, object]] = rows.rows(named=True) if hasattr(rows, "rows") else list(rows)  # type: ignore[assignment]
    shown = records[:limit]
    names = list(dict.fromkeys(name for record in records for name in record))
    values = {name: [record.get(name) for record in shown] for name in names}
    numbers = {name: _is_number(column) for name, column in values.items()}
    largest = {name: max((_length(value) for value in values.get(name, [])), default=0.0) for name in bars}
    cells = [[_cell(record.get(name), name == status, numbers[name], largest.get(name, 0.0)) for name in names] for record in shown]
    more = f"The first {limit:,} of {len(records):,} rows." if len(records) > limit else ""
    return Table(caption, [Column(name, numbers[name]) for name in names], cells, more)


def _cell(value: object, badge: bool, number: bool, largest: float) -> Cell:
    text = human(value)
    if text == MISSING:
        return Cell(text, "missing number" if number else "missing")
    if badge:
        return Cell(text, badge=True)
    if largest > 0:
        return Cell(text, "number bar", share=f"{100 * _length(value) / largest:.1f}%")
    return Cell(text, "number" if number else "")


def _is_number(values: Sequence[object]) -> bool:
    there = [value for value in values if value is not None]
    return bool(there) and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there)


def _length(value: object) -> float:
    return max(0.0, float(value)) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0

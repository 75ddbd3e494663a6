"""What a table's columns hold, found in two streamed passes: statistics of all, then values of those that have few."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from kfp_foundry.components.common.contract import Type, type_of

FEW = 1000  # distinct values up to which they are counted one by one
_ALMOST = 0.8  # the estimate of distinct values is a few percent off, and 11 % too low for some running numbers


@dataclass
class Profile:
    """One column.

    Args:
        name: The column's name.
        dtype: Its Polars type.
        kind: Its type in the contract's words.
        rows: Rows of the table.
        missing: Missing values, NaN included.
        distinct: Different values; exact where `counts` is given or `is_unique` is true, else estimated to a few percent.
        least: Smallest finite value of a number, a date or a time.
        most: Largest one.
        mean: Mean of the finite numbers.
        deviation: Their standard deviation.
        trend: Correlation of a number with the row number.
        length: Mean length of a text, in characters.
        numbers: Texts that are numbers.
        other: The first text, in order, that is none.
        counts: Value to its number of rows, when there are at most `FEW` values.
        is_unique: Whether no value is missing and none stands twice.
    """

    name: str
    dtype: pl.DataType
    kind: Type
    rows: int
    missing: int
    distinct: int
    least: Any = None
    most: Any = None
    mean: float | None = None
    deviation: float | None = None
    trend: float | None = None
    length: float | None = None
    numbers: int = 0
    other: str | None = None
    counts: dict[Any, int] = field(default_factory=dict)
    is_unique: bool = False

    @property
    def present(self) -> int:
        """Values that are not missing."""
        return self.rows - self.missing

    @property
    def missing_share(self) -> float:
        """Share of missing values, 0 to 1."""
        return self.missing / self.rows if self.rows else 0.0

    @property
    def distinct_share(self) -> float:
        """Different values per value, 0 to 1."""
        return min(self.distinct / self.present, 1.0) if self.present else 0.0

    @property
    def is_number(self) -> bool:
        """Whether it can be calculated with."""
        return self.kind in (Type.INTEGER, Type.NUMBER)


def profile(table: pl.LazyFrame, count_values_of: Iterable[str] = ()) -> dict[str, Profile]:
    """Describes every column.

    Distinct values are estimated first (HyperLogLog, which bounds the memory and which Narwhals cannot say, so this pass is
    written for Polars), and then counted exactly where they are few, or where almost every value seems to be different.

    Args:
        table: All rows.
        count_values_of: Columns whose values are counted whatever their type; numbers with a fraction are not, otherwise.
    """
    schema = table.collect_schema()
    wanted = {
        name: pl.col(name) if not isinstance(dtype, (pl.Categorical, pl.Enum)) else pl.col(name).cast(pl.String) for name, dtype in schema.items()
    }
    measures = [pl.len().alias("rows")]
    for number, (name, dtype) in enumerate(schema.items()):
        measures += [measure.alias(f"{number} {what}") for what, measure in _measures(wanted[name], dtype).items()]
    facts = table.with_row_index("__row__").select(measures).collect(engine="streaming").row(0, named=True) if measures else {}
    columns = {name: _first(number, name, schema[name], facts) for number, name in enumerate(schema)}
    _count(table, wanted, columns, set(count_values_of))
    return columns


def _measures(column: pl.Expr, dtype: pl.DataType) -> dict[str, pl.Expr]:
    kind = type_of(dtype)
    if dtype.is_decimal():
        column = column.cast(pl.Float64)
    if dtype.is_float() or dtype.is_decimal():
        measures = {"missing": (column.is_null() | column.is_nan()).sum()}
        column = pl.when(column.is_finite()).then(column)
    else:
        measures = {"missing": column.null_count()}
    if kind is None or dtype == pl.Null:
        return measures
    measures["distinct"] = column.approx_n_unique()
    if kind in (Type.INTEGER, Type.NUMBER):
        number = column.cast(pl.Float64)
        place = pl.col("__row__").cast(pl.Float64)
        measures |= {"least": column.min(), "most": column.max(), "mean": number.mean(), "deviation": number.std()}
        measures |= {"together": (number * place).mean(), "place": pl.when(number.is_not_null()).then(place).mean()}
    elif kind in (Type.DATE, Type.DATETIME, Type.TIME):
        measures |= {"least": column.min(), "most": column.max()}
    elif kind is Type.STRING:
        is_number = column.str.strip_chars().cast(pl.Float64, strict=False).is_not_null()
        measures |= {"length": column.str.len_chars().mean(), "numbers": is_number.sum(), "other": column.filter(~is_number).min()}
    return measures


def _first(number: int, name: str, dtype: pl.DataType, facts: Mapping[str, Any]) -> Profile:
    def get(what: str) -> Any:
        return facts.get(f"{number} {what}")

    rows, missing = int(facts["rows"]), int(get("missing"))
    # The estimate counts a missing value as one more.
    distinct = max(int(get("distinct") or 0) - (1 if missing else 0), 0)
    spread, trend = get("deviation"), None
    if spread and rows > 2 and get("together") is not None:
        trend = (get("together") - get("mean") * get("place")) / (spread * rows / 12**0.5)
    return Profile(
        name=name,
        dtype=dtype,
        kind=type_of(dtype) or Type.ANY,
        rows=rows,
        missing=missing,
        distinct=min(distinct, rows - missing),
        least=get("least"),
        most=get("most"),
        mean=get("mean"),
        deviation=spread,
        trend=trend,
        length=get("length"),
        numbers=int(get("numbers") or 0),
        other=get("other"),
    )


def _count(table: pl.LazyFrame, wanted: Mapping[str, pl.Expr], columns: Mapping[str, Profile], asked: set[str]) -> None:
    """The second pass: values of columns that have few of them, and whether others repeat any."""
    few = [
        c
        for c in columns.values()
        if c.present and c.distinct <= 1.1 * FEW and c.kind is not Type.ANY and (c.kind is not Type.NUMBER or c.name in asked)
    ]
    names = {c.name for c in few}
    alone = [c for c in columns.values() if c.name not in names and (c.name in asked or _may_be_unique(c)) and c.kind is not Type.ANY]
    by_value = [table.select(value=_plain(wanted[c.name], c.dtype)).drop_nulls().group_by("value").len() for c in few]
    counted = pl.collect_all(
        [*by_value, *(table.select(_plain(wanted[c.name], c.dtype).drop_nulls().n_unique().alias("distinct")) for c in alone)], engine="streaming"
    )
    for column, found in zip(few, counted, strict=False):
        if found.height <= FEW or column.name in asked:
            column.counts = dict(found.sort("len", "value", descending=[True, False]).iter_rows())
        column.distinct = found.height
        column.is_unique = not column.missing and found.height == column.rows
    for column, found in zip(alone, counted[len(few) :], strict=True):
        column.distinct = int(found.item())
        column.is_unique = column.distinct == column.rows


def _may_be_unique(column: Profile) -> bool:
    return not column.missing and column.kind in (Type.STRING, Type.INTEGER) and column.distinct > _ALMOST * column.rows


def _plain(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    return column.fill_nan(None) if dtype.is_float() else column

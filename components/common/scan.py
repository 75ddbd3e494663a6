"""Passes over a table, whatever engine runs them: the expressions are Narwhals', the engine is Polars or DuckDB.

A pass is one `select` of aggregates; Polars runs it in its streaming engine, DuckDB as one query. Neither holds the table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import narwhals as nw
import polars as pl

from kfp_foundry.components.common.contract import Type
from kfp_foundry.components.common.errors import PlatformError, UserError, close_names

Engine = Literal["polars", "duckdb"]
ROW = "__row__"  # the column of row numbers that `numbered` adds; the first row is 1


def open_scan(parts: Sequence[Path], engine: str = "polars") -> nw.LazyFrame[Any]:
    """A lazy table over Parquet files.

    Args:
        parts: The files, in order.
        engine: `polars` or `duckdb`.

    Raises:
        UserError: Another engine.
        PlatformError: DuckDB is not installed.
    """
    if engine == "polars":
        return nw.from_native(pl.scan_parquet(list(parts)))
    if engine != "duckdb":
        raise UserError(f"engine is {engine!r}", where="engine", remedy=close_names(engine, list(get_args(Engine))))
    try:
        import duckdb
    except ImportError as error:
        raise PlatformError("duckdb is not installed", where="engine", remedy="pip install 'kfp-foundry[duckdb]', or engine=polars") from error
    return nw.from_native(duckdb.read_parquet([str(part) for part in parts]))


def aggregate(table: nw.LazyFrame[Any], measures: Mapping[str, nw.Expr]) -> dict[str, Any]:
    """Runs one pass.

    Args:
        table: The rows.
        measures: Name to aggregate; any text may be a name.

    Returns:
        Name to value.
    """
    if not measures:
        return {}
    short = {f"m{number}": name for number, name in enumerate(measures)}
    row = _rows([table.select(**{alias: measures[name] for alias, name in short.items()})])[0][0]
    return {name: row[alias] for alias, name in short.items()}


def numbered(table: nw.LazyFrame[Any]) -> nw.LazyFrame[Any]:
    """The table with its row numbers, from 1, in a column `ROW`."""
    native = table.to_native()
    if isinstance(native, pl.LazyFrame):
        return nw.from_native(native.with_row_index(ROW, offset=1))
    ordered: nw.LazyFrame[Any] = nw.from_native(native.project(f"row_number() over () as {ROW}, *"))
    return ordered


def first_rows(selections: Sequence[nw.LazyFrame[Any]], limit: int) -> list[list[dict[str, Any]]]:
    """The first rows of each of several selections from one table, read together where the engine can."""
    return _rows([selection.head(limit) for selection in selections])


def _rows(selections: Sequence[nw.LazyFrame[Any]]) -> list[list[dict[str, Any]]]:
    natives = [selection.to_native() for selection in selections]
    if all(isinstance(native, pl.LazyFrame) for native in natives):
        return [frame.to_dicts() for frame in pl.collect_all(natives, engine="streaming")]
    return [selection.collect("polars").to_native().to_dicts() for selection in selections]


def value(name: str, dtype: nw.dtypes.DType) -> nw.Expr:
    """A column's values in their plain form: NaN is missing, decimals are numbers, categories are their texts."""
    column = nw.col(name)
    if dtype.is_float():
        return column.fill_nan(None)
    if dtype == nw.Decimal:
        return column.cast(nw.Float64)
    if dtype in (nw.Categorical, nw.Enum):
        return column.cast(nw.String)
    return column


def type_of(dtype: nw.dtypes.DType) -> Type:
    """The contract's word for a column's type; `any` for nested and binary ones."""
    if dtype == nw.Boolean:
        return Type.BOOLEAN
    if dtype.is_integer():
        return Type.INTEGER
    if dtype.is_numeric():
        return Type.NUMBER
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        return Type.STRING
    if dtype == nw.Date:
        return Type.DATE
    if dtype == nw.Datetime:
        return Type.DATETIME
    return Type.TIME if dtype == nw.Time else Type.ANY

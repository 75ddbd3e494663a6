"""From a table's rows to a model's inputs, and nowhere else: batch scoring, the model server and training all pass here.

Rules that hold for every model:
- A missing text is fed as the empty text, so an empty text counts as missing.
- NaN counts as missing. An infinity in a table counts as missing too (the graph itself says so); in a served row it is refused.
- Dates and times are fed as seconds since 1970-01-01 UTC, a time of day as seconds since midnight.
"""

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
from polars.series.string import StringNameSpace

from kfp_foundry.components.common.contract import POLARS_TYPES, Contract, FieldSpec, Type
from kfp_foundry.components.common.errors import DataError, close_names

SECONDS_OF_DAY = 86_400
_INT64 = 2**63


class RowError(DataError):
    """A row that cannot be scored.

    Args:
        what: The reason, with the value.
        where: What the rows are called, such as `row` or `instances`.
        row: Position of the row, from 0.
        column: The column at fault.
        remedy: What to do.
    """

    def __init__(self, what: str, *, where: str, row: int, column: str, remedy: str) -> None:
        super().__init__(what, where=f"{where} {row}, column {column!r}", remedy=remedy)
        self.row = row
        self.column = column


def to_frame(rows: Sequence[Mapping[str, object]], contract: Contract, where: str = "row") -> pl.DataFrame:
    """Turns JSON-like rows into a frame with the contract's features, in its order and types.

    Args:
        rows: One mapping per row, column name to value; columns that are no features are ignored.
        contract: Says the features, their types and which of them are required.
        where: What the rows are called in an error.

    Returns:
        One column per feature; an optional column that a row does not have is null.

    Raises:
        RowError: A required value is missing, or a value is not of its column's type.

    Example:
        >>> to_frame([{"age": 41, "city": "Ulm"}], contract).schema
        Schema({'age': Int64, 'city': String})
    """
    columns = {field.name: _column(rows, field, where) for field in contract.feature_fields}
    return pl.DataFrame(columns, schema={field.name: POLARS_TYPES[field.type] for field in contract.feature_fields})


def conform(frame: pl.DataFrame, contract: Contract, columns: Sequence[str], where: str = "table") -> pl.DataFrame:
    """Selects columns of a table and gives them the contract's types.

    Args:
        frame: Any table.
        contract: Says the types, and how dates are written where the table holds them as text.
        columns: The columns wanted.
        where: What the table is called in an error.

    Raises:
        DataError: A column is absent, or holds a value that is not of its type.
    """
    absent = [name for name in columns if name not in frame.columns]
    if absent:
        raise DataError(f"no column {absent[0]!r}", where=where, remedy=close_names(absent[0], frame.columns))
    return frame.select(_typed(frame[name], contract.field(name), where) for name in columns)


def feed(frame: pl.DataFrame, contract: Contract) -> dict[str, np.ndarray]:
    """The inputs of a model's graph: one rank-1 array per feature.

    Args:
        frame: Rows with at least the contract's features, as `to_frame` or `conform` makes them.
        contract: Says the features and their types.

    Returns:
        Feature name to array [rows]: object (str, "" for missing) for texts, float64 (NaN for missing) for all else.

    Raises:
        DataError: A feature is absent or of another type.
    """
    typed = conform(frame, contract, contract.features)
    return {field.name: _array(typed[field.name], field.type) for field in contract.feature_fields}


def _array(values: pl.Series, kind: Type) -> np.ndarray:
    if kind is Type.STRING:
        return (values.fill_null("") if values.null_count() else values).to_numpy().astype(object, copy=False)
    if kind is Type.DATE:
        values = values.cast(pl.Int32).cast(pl.Float64) * SECONDS_OF_DAY
    elif kind is Type.DATETIME:
        values = values.dt.epoch("us").cast(pl.Float64) / 1e6
    elif kind is Type.TIME:
        values = values.cast(pl.Int64).cast(pl.Float64) / 1e9
    return values.cast(pl.Float64).to_numpy()  # a missing value becomes NaN


def _typed(values: pl.Series, field: FieldSpec, where: str) -> pl.Series:
    wanted = POLARS_TYPES[field.type]
    if values.dtype == wanted or (field.type is Type.DATETIME and isinstance(values.dtype, pl.Datetime)):
        return values
    try:
        if values.dtype == pl.String and field.type in (Type.DATE, Type.DATETIME, Type.TIME):
            return _parsed(values.str, field)
        if field.type is Type.INTEGER and values.dtype.is_float():
            values = values.fill_nan(None)
            if (values != values.floor()).any():
                raise pl.exceptions.InvalidOperationError("some values are not whole numbers")
        return values.cast(wanted, strict=True)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"column {field.name!r} is {values.dtype}, not {field.type}: {reason}", where=where, remedy="correct the table or the contract"
        ) from error


def _parsed(texts: StringNameSpace, field: FieldSpec) -> pl.Series:
    if field.type is Type.DATE:
        return texts.to_date(field.format, strict=True)
    return texts.to_time(field.format, strict=True) if field.type is Type.TIME else texts.to_datetime(field.format, time_unit="us", strict=True)


def _column(rows: Sequence[Mapping[str, object]], field: FieldSpec, where: str) -> list[Any]:
    convert, required = _CONVERT[field.type], field.constraints.required
    column: list[Any] = []
    for number, row in enumerate(rows):
        value = row.get(field.name)
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or (isinstance(value, float) and math.isnan(value)):
            if required:
                raise RowError("is missing, and the contract requires it", where=where, row=number, column=field.name, remedy="give a value")
            column.append(None)
            continue
        try:
            column.append(convert(value, field))
        except ValueError as error:
            remedy = f"give {_WANTED[field.type]}{'' if required else ' or null'}"
            raise RowError(str(error), where=where, row=number, column=field.name, remedy=remedy) from error
    return column


def _to_text(value: Any, field: FieldSpec) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):  # a code such as a postcode, written as a JSON number
        return str(value)
    raise ValueError(f"{_shown(value)} is not a text")


def _to_integer(value: Any, field: FieldSpec) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):  # by way of a float a long one would lose digits
        value = int(value)
    number = _to_number(value, field) if not isinstance(value, int) or isinstance(value, bool) else value
    if number != int(number) or not -_INT64 <= number < _INT64:
        raise ValueError(f"{_shown(value)} is not a 64-bit whole number")
    return int(number)


def _to_number(value: Any, field: FieldSpec) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)) or "_" in str(value):
        raise ValueError(f"{_shown(value)} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{_shown(value)} is not a number") from error
    if not math.isfinite(number):
        raise ValueError(f"{_shown(value)} is not a finite number")
    return number


def _to_boolean(value: Any, field: FieldSpec) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"{_shown(value)} is not a truth value")


def _to_datetime(value: Any, field: FieldSpec) -> dt.datetime:
    if isinstance(value, str):
        value = _parse(value, field, dt.datetime.fromisoformat)
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, dt.date):
        return dt.datetime(value.year, value.month, value.day)
    raise ValueError(f"{_shown(value)} is not a date and time")


def _to_date(value: Any, field: FieldSpec) -> dt.date:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    moment = _to_datetime(value, field)
    if moment.time() != dt.time():
        raise ValueError(f"{_shown(value)} is a date with a time of day")
    return moment.date()


def _to_time(value: Any, field: FieldSpec) -> dt.time:
    if isinstance(value, str):
        value = _parse(value, field, lambda text: dt.datetime.combine(dt.date.min, dt.time.fromisoformat(text))).time()
    if isinstance(value, dt.time):
        return value
    raise ValueError(f"{_shown(value)} is not a time of day")


def _parse(text: str, field: FieldSpec, from_iso: Callable[[str], dt.datetime]) -> dt.datetime:
    if field.format:
        try:
            return dt.datetime.strptime(text, field.format)
        except ValueError:
            pass  # a caller may write ISO whatever the source's format is
    try:
        return from_iso(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not an ISO {field.type}" + (f" and not written as {field.format}" if field.format else "")) from error


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_CONVERT: dict[Type, Callable[[Any, FieldSpec], Any]] = {
    Type.STRING: _to_text,
    Type.INTEGER: _to_integer,
    Type.NUMBER: _to_number,
    Type.BOOLEAN: _to_boolean,
    Type.DATE: _to_date,
    Type.DATETIME: _to_datetime,
    Type.TIME: _to_time,
}
_WANTED: dict[Type, str] = {
    Type.STRING: "a text",
    Type.INTEGER: "a whole number",
    Type.NUMBER: "a number",
    Type.BOOLEAN: "true or false",
    Type.DATE: "a date such as 2024-05-31",
    Type.DATETIME: "a date and time such as 2024-05-31T14:05:00Z",
    Type.TIME: "a time such as 14:05:00",
}

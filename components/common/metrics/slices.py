"""Cutting rows into slices: by the values of a category, by the quantiles of a number or a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from kfp_foundry.components.common.contract import Contract, FieldSpec, Role
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.report.format import human

AUTOMATIC = 10  # columns taken by themselves
MIN_ROWS = 30  # rows of a slice that is judged
CATEGORIES = 50  # distinct values up to which a text column is taken by itself
FEW = 12  # distinct values up to which a whole number is a category
VALUES = 20  # values shown of one column, by support
QUANTILES = 4


@dataclass(frozen=True)
class Cut:
    """One column's slices.

    Args:
        column: The column.
        names: Names of its slices, such as `carrier = EV`.
        codes: Each row's slice, shape (rows,).
    """

    column: str
    names: list[str]
    codes: NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One slice.

    Args:
        column: The column by which it was cut.
        name: Its name; other columns whose slices hold the very same rows are named behind it.
        rows: Positions of its rows.
    """

    column: str
    name: str
    rows: NDArray[np.int64]


def parts_of(cuts: Sequence[Cut]) -> tuple[list[Part], int]:
    """The slices with at least `MIN_ROWS` rows, each set of rows once, and how many slices were smaller."""
    found: dict[bytes, Part] = {}
    twins: dict[bytes, list[str]] = {}
    small = 0
    for cut in cuts:
        for number, name in enumerate(cut.names):
            rows = np.flatnonzero(cut.codes == number)
            if len(rows) < MIN_ROWS:
                small += len(rows) > 0
                continue
            key = rows.tobytes()
            if key in found:
                twins.setdefault(key, []).append(cut.column)
            else:
                found[key] = Part(cut.column, name, rows)
    return [replace(part, name=f"{part.name} (same rows: {', '.join(twins[key])})") if key in twins else part for key, part in found.items()], small


def columns_wanted(contract: Contract, asked: Sequence[str], importance: Mapping[str, float], known: Sequence[str]) -> list[str]:
    """The columns over which a model is judged: those asked for, sensitive ones, the time, then features by importance.

    Raises:
        UserError: A column that was asked for is not there; the message says the close names.
    """
    for name in asked:
        if name not in known:
            raise UserError(f"no column {name!r}", where="slice_columns", remedy=close_names(name, list(known)))
    sensitive = [field.name for field in contract.fields if field.role is Role.SENSITIVE]
    time = [contract.time] if contract.time else []
    ranked = sorted(contract.features, key=lambda name: -importance.get(name, 0.0))
    return [name for name in dict.fromkeys([*asked, *sensitive, *time, *ranked]) if name in known and name != contract.target]


def make_cuts(frame: pl.DataFrame, contract: Contract, asked: Sequence[str], importance: Mapping[str, float]) -> list[Cut]:
    """Cuts the rows by each column in turn.

    Args:
        frame: The rows.
        contract: Says which columns are features, sensitive, or the time.
        asked: Columns to cut by whatever they are.
        importance: Feature name to importance; the most important low-cardinality and numeric features are cut by themselves.

    Raises:
        UserError: A column that was asked for is not there.
    """
    cuts: list[Cut] = []
    automatic = 0
    fields = {field.name: field for field in contract.fields}
    for name in columns_wanted(contract, asked, importance, frame.columns):
        by_itself = name not in asked and not _sensitive(fields.get(name))
        if by_itself and automatic >= AUTOMATIC:
            break
        cut = _cut(frame[name], by_itself)
        if cut is not None and len(cut.names) > 1:
            cuts.append(cut)
            automatic += by_itself
    return cuts


def _sensitive(field: FieldSpec | None) -> bool:
    return field is not None and field.role is Role.SENSITIVE


def _cut(values: pl.Series, by_itself: bool) -> Cut | None:
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        return None
    if values.dtype.is_float():
        values = values.fill_nan(None)
    if values.dtype.is_temporal() or values.dtype.is_float() or values.dtype.is_decimal():
        return _by_quantile(values)
    distinct = values.n_unique()
    if values.dtype.is_integer() and distinct > FEW:
        return _by_quantile(values)
    return None if by_itself and distinct > CATEGORIES else _by_value(values)


def _by_value(values: pl.Series) -> Cut:
    name = values.name
    keys = values.cast(pl.String) if values.dtype != pl.Boolean else values.replace_strict([True, False], ["true", "false"], return_dtype=pl.String)
    counted = keys.drop_nulls().value_counts(sort=True).sort(["count", name], descending=[True, False])
    shown = counted[name].head(VALUES).to_list()
    names = [f"{name} = {value}" for value in shown]
    others = counted.height - len(shown)
    if others:
        names.append(f"{name}: {others:,} other value{'s' if others > 1 else ''}")
    codes = keys.replace_strict(shown, list(range(len(shown))), default=len(shown), return_dtype=pl.Int64)
    return _with_missing(name, names, codes, values.is_null())


def _by_quantile(values: pl.Series) -> Cut | None:
    name = values.name
    numbers = values.to_physical().cast(pl.Float64).drop_nulls()
    numbers = numbers.filter(numbers.is_finite())
    if numbers.n_unique() < 2:
        return None
    inner = np.unique(np.quantile(numbers.to_numpy(), np.arange(1, QUANTILES) / QUANTILES, method="lower"))
    physical = values.to_physical().cast(pl.Float64).fill_null(0.0).to_numpy()
    codes = np.searchsorted(inner, physical, side="left")  # a quantile belongs to the slice below it
    used, codes = np.unique(codes, return_inverse=True)
    names = [f"{name}: {_range(values.filter(pl.Series(codes == k) & values.is_not_null()))}" for k in range(len(used))]
    return _with_missing(name, names, pl.Series(codes), values.is_null())


def _range(values: pl.Series) -> str:
    low: object = values.min()
    high: object = values.max()
    if isinstance(values.dtype, pl.Datetime):
        low, high = values.dt.date().min(), values.dt.date().max()
    return human(low) if low == high else f"{human(low)} to {human(high)}"


def _with_missing(name: str, names: list[str], codes: pl.Series, missing: pl.Series) -> Cut:
    numbers = codes.to_numpy().astype(np.int64)
    if missing.any():
        numbers = np.where(missing.to_numpy(), len(names), numbers)
        names = [*names, f"{name}: missing"]
    return Cut(name, names, numbers)

"""What values a contract allows, from those seen: the same table passes, and so does a later one that is alike.

Hard bounds (`constraints`, and limits on missing values, means and distinct counts) are wide: they catch sentinels such as
-999, changed units, texts in a column of categories and columns that ran empty, not a new record. What is merely new, an
unseen category or a value outside the usual range, is a warning.
"""

import datetime as dt
import math
from typing import Any

from kfp_foundry.components.common.contract import Constraints, Limits, Role, Scalar, Task, Type
from kfp_foundry.components.validation.infer_contract.profile import FEW, Profile
from kfp_foundry.components.validation.infer_contract.target import Target

ENOUGH = 1000  # rows without a missing value, from which a column is taken to be always there
LISTED = 50  # categories that a contract names one by one
HARD, USUAL = 2.0, 0.25  # slack beyond the values seen, as multiples of their span
DEVIATIONS = 3.0  # standard deviations that a mean may move
CALENDAR = 31  # different whole numbers up to which a column may be a month, a day or a grade, whose mean says nothing


def constraints(column: Profile, role: Role, target: Target | None) -> Constraints:
    """What every single value must satisfy."""
    found = Constraints()
    if role is Role.IGNORE:
        return found
    found.required = not column.missing and role is not Role.TARGET and (column.rows >= ENOUGH or role is not Role.FEATURE)
    found.unique = role is Role.ID and column.is_unique
    if role is Role.TARGET and target is not None and target.task is Task.BINARY:
        found.enum = sorted(column.counts, key=str)
    if role is Role.WEIGHT:
        found.minimum = 0.0
    elif column.is_number and column.least is not None and role in (Role.FEATURE, Role.SENSITIVE):
        low, high = _widened(column, HARD)
        # What was never negative, counts, prices, ages, turns negative by a fault more often than by nature.
        never_negative = column.least == 0 or (column.least > 0 and column.rows >= ENOUGH)
        found.minimum = max(low, 0) if never_negative else low
        found.maximum = None if _grows(column) else high
    return found


def limits(column: Profile, role: Role, target: Target | None) -> Limits:
    """What the column as a whole must satisfy."""
    found = Limits()
    if role is Role.IGNORE:
        return found
    if not constraints(column, role, target).required:
        share = column.missing_share
        found.max_missing = None if share > 0.6 else _rounded(max(share + 0.1, 1.5 * share), up=True)
    if role is Role.TARGET and target is not None and target.task is not Task.REGRESSION:
        found.min_distinct = 2
        found.known_values = _listed(column) if target.task is Task.MULTICLASS else None
    if role in (Role.FEATURE, Role.SENSITIVE):
        _of_values(column, found)
    return found


def _of_values(column: Profile, found: Limits) -> None:
    if column.kind is Type.STRING and column.counts:
        found.known_values = _listed(column)
        found.max_distinct = 10 * column.distinct + 100 if column.distinct <= FEW else None
    elif column.is_number and column.least is not None:
        low, high = _widened(column, USUAL)
        found.usual_range = (max(low, 0) if column.least >= 0 else low, high)
        found.mean = _mean(column)
    elif column.kind in (Type.DATE, Type.DATETIME) and column.least is not None:
        found.usual_range = _dates(column)


def _listed(column: Profile) -> list[Scalar] | None:
    return sorted(column.counts, key=str) if 0 < len(column.counts) <= LISTED else None


def _mean(column: Profile) -> tuple[float, float] | None:
    if column.mean is None or not column.deviation or not math.isfinite(column.deviation) or column.present < 100 or _grows(column):
        return None
    if column.kind is Type.INTEGER and column.distinct <= CALENDAR:
        return None
    slack = DEVIATIONS * column.deviation
    low, high = _rounded(column.mean - slack, up=False), _rounded(column.mean + slack, up=True)
    return (max(low, 0.0) if column.least >= 0 else low), high


def _grows(column: Profile) -> bool:
    """Whether the values rise or fall with the rows, as counters and times do: later rows then leave any range."""
    return column.trend is not None and abs(column.trend) > 0.9


def _widened(column: Profile, slack: float) -> tuple[float, float]:
    low, high = float(column.least), float(column.most)
    span = (high - low) or abs(high) or 1.0
    low, high = _rounded(low - slack * span, up=False), _rounded(high + slack * span, up=True)
    return (math.floor(low), math.ceil(high)) if column.kind is Type.INTEGER else (low, high)


def _dates(column: Profile) -> tuple[str, str] | None:
    span = column.most - column.least
    try:
        return _iso(column.least - span), _iso(column.most + span)
    except OverflowError:  # a date near the end of the calendar, such as 9999-12-31
        return None


def _iso(moment: Any) -> str:
    return moment.replace(microsecond=0).isoformat() if isinstance(moment, dt.datetime) else str(moment.isoformat())


def _rounded(value: float, up: bool) -> float:
    """Three significant digits, rounded outwards, so that people can read a contract."""
    if value == 0 or not math.isfinite(value):
        return value
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    return float(f"{(math.ceil(value / step) if up else math.floor(value / step)) * step:.6g}")

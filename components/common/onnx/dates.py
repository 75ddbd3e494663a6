"""Year, month, day, weekday and hour out of seconds since 1970: one formula, for numpy arrays and for graphs.

All arithmetic is on whole numbers held as float64. A quotient of whole numbers below 2**53 never rounds up to the next whole
number, so `floor` of it is exact, and both forms agree bit for bit for every date that a float64 of seconds can tell apart.
The calendar is the proleptic Gregorian one, in UTC. Method: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms",
`civil_from_days` (https://howardhinnant.github.io/date_algorithms.html).
"""

from typing import Any, TypeVar

import numpy as np

from kfp_foundry.components.common.onnx.graph import Value

PARTS = ("year", "month", "day", "weekday", "hour")
# The parts that come round again, and the values they take.
CYCLES = {"month": tuple(range(1, 13)), "weekday": tuple(range(1, 8)), "hour": tuple(range(24))}

_DAY = 86_400.0
_CYCLE = 146_097.0  # days in 400 years, after which the calendar repeats
_FROM_MARCH_0000 = 719_468.0  # days from 1 March of the year 0 to 1 January 1970; years are counted from March, so that a leap day is the last one

T = TypeVar("T", np.ndarray, Value)


def parts(seconds: T) -> dict[str, T]:
    """The calendar parts of moments.

    Args:
        seconds: Seconds since 1970-01-01 UTC; NaN gives NaN.

    Returns:
        `year`, `month` (1 to 12), `day` (1 to 31), `weekday` (1 is Monday, 7 is Sunday) and `hour` (0 to 23), as float64.

    Example:
        >>> {name: float(value[0]) for name, value in parts(np.array([1_709_208_000.0])).items()}
        {'year': 2024.0, 'month': 2.0, 'day': 29.0, 'weekday': 4.0, 'hour': 12.0}
    """
    days = _floor(seconds / _DAY)
    hour = _floor((seconds - days * _DAY) / 3600.0)
    weekday = _remainder(days + 3.0, 7.0) + 1.0

    since = days + _FROM_MARCH_0000
    cycle = _floor(since / _CYCLE)
    day_of_cycle = since - cycle * _CYCLE
    without_leap_days = day_of_cycle - _floor(day_of_cycle / 1460.0) + _floor(day_of_cycle / 36_524.0) - _floor(day_of_cycle / 146_096.0)
    year_of_cycle = _floor(without_leap_days / 365.0)
    day_of_year = day_of_cycle - (year_of_cycle * 365.0 + _floor(year_of_cycle / 4.0) - _floor(year_of_cycle / 100.0))
    month_from_march = _floor((day_of_year * 5.0 + 2.0) / 153.0)
    next_year = _floor(month_from_march / 10.0)  # 1 in January and February

    return {
        "year": cycle * 400.0 + year_of_cycle + next_year,
        "month": month_from_march + 3.0 - next_year * 12.0,
        "day": day_of_year - _floor((month_from_march * 153.0 + 2.0) / 5.0) + 1.0,
        "weekday": weekday,
        "hour": hour,
    }


def _floor(value: T) -> T:
    result: Any = value.floor() if isinstance(value, Value) else np.floor(value)
    return result  # type: ignore[no-any-return]


def _remainder(value: T, divisor: float) -> T:
    return value - _floor(value / divisor) * divisor

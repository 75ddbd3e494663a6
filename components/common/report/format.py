"""Values as a person reads them: thousands separators, four significant digits, a dash for what is missing."""

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta

MISSING = "–"
NUMBER = (int, float)


def human(value: object) -> str:
    """A value as text for a report.

    Args:
        value: A number, text, date, truth value, list or mapping; Polars and NumPy scalars are fine.

    Returns:
        Whole numbers with thousands separators, others with four significant digits; None and NaN as a dash.

    Example:
        >>> human(327346), human(0.73456789), human(1234567.8), human(True), human(None)
        ('327,346', '0.7346', '1,234,568', 'yes', '–')
    """
    item = getattr(value, "item", None)
    if callable(item) and not isinstance(value, (str, bytes)) and getattr(value, "ndim", None) == 0:
        value = item()
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (datetime, time)):
        return value.isoformat(sep=" ") if isinstance(value, datetime) else value.isoformat()
    if isinstance(value, (date, timedelta)):
        return str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{human(key)}: {human(item)}" for key, item in value.items()) or MISSING
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(human(item) for item in value) or MISSING
    return str(value)


def percent(share: float, digits: int = 1) -> str:
    """A share (0 to 1) in percent.

    Example:
        >>> percent(0.2345)
        '23.5 %'
    """
    return f"{100 * share:,.{digits}f} %" if math.isfinite(share) else MISSING


def between(value: float | None, low: float | None, high: float | None) -> str:
    """A value with its interval.

    Example:
        >>> between(0.7345, 0.7291, 0.7402)
        '0.7345 (0.7291 to 0.7402)'
    """
    if value is None:
        return MISSING
    return human(value) if low is None or high is None else f"{human(value)} ({human(low)} to {human(high)})"


def _number(value: float) -> str:
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:
        return f"{value:.3g}"
    if size >= 1000 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"

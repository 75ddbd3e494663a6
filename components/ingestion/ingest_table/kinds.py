"""What the texts of a column are: decided over all of its values, by rules that are written down here.

1. A value that is one of the markers for "missing" is missing. Spaces at the ends of a value do not count.
2. boolean: every value is `true` or `false`, in any case. `yes`/`no` and `0`/`1` stay what they are.
3. integer: every value is a whole number of at most 64 bits without leading zeros (`01234` is a label) or a leading plus.
4. number: every value is a decimal number; `inf` is one, `nan` is missing, and what is too large for 64 bits makes the column text.
   Numbers may have a decimal comma (`2,5`) or separated thousands (`1,234.50` or `1.234,50`) if at least one value can be read in
   one way only; `1,234` alone is ambiguous and stays text.
5. date, datetime, time: one of the formats in `FORMATS` fits every value. If day and month can be exchanged in all of them, the
   column stays text. A time with an offset becomes UTC.
6. Everything else is text, a column without any value too.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import polars as pl

Name = Literal["text", "integer", "number", "boolean", "date", "datetime", "time"]

MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "null", "None", "?", r"\N")

INTEGER = r"^[+-]?[0-9]+$"
NUMBER = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))$"
COMMA = r"^[+-]?(?:[0-9]+(?:,[0-9]*)?|,[0-9]+)(?:[eE][+-]?[0-9]+)?$"
COMMA_OR_THOUSANDS = r"^[+-]?[1-9][0-9]{0,2},[0-9]{3}$"
# By the mark that separates thousands: the shape of every value, and what only such a number can be.
GROUPED = {
    ",": r"^[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?$",
    ".": r"^[+-]?(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+)(?:,[0-9]*)?$",
}
PROOF = {",": r",[0-9]{3}[,.][0-9]", ".": r"\.[0-9]{3},[0-9]|,[0-9]{1,2}$|,[0-9]{4,}$"}
DATED = r"^[0-9]{1,4}[-/. ]|^[A-Z][a-z]{2,8} [0-9]|^[0-9]{1,2}:[0-9]{2}"

_DATES = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y",
    "%d %B %Y", "%d-%B-%Y", "%B %d, %Y", "%B %d %Y",
)  # fmt: skip
_CLOCKS = ("%H:%M:%S", "%H:%M", "%H:%M:%S%.f", "%I:%M %p", "%I:%M:%S %p")
_ZONES = ("", "Z", "%z")
TIMES = ("%H:%M:%S", "%H:%M", "%H:%M:%S%.f")
DATETIMES = tuple(f"{d}{s}{c}{z}" for d, s, c, z in product(_DATES, (" ", "T"), _CLOCKS, _ZONES) if not (z and "%p" in c))
FORMATS: dict[str, Literal["date", "datetime", "time"]] = (
    dict.fromkeys(_DATES, "date") | dict.fromkeys(DATETIMES, "datetime") | dict.fromkeys(TIMES, "time")  # type: ignore[assignment]
)
EARLIEST_YEAR = 1000  # `%Y` also takes 13: a year of two digits must not become the first century
TRIED = 300  # distinct values that are tried against every format


@dataclass(frozen=True)
class Kind:
    """What a column's texts are.

    Args:
        name: The type.
        format: For dates and times: strftime words.
        decimal: For numbers: the decimal mark.
        grouping: For numbers: the mark between thousands; empty for none.
        why: The reason, for the report.
        warning: What a person should look at; empty if nothing.
        settled: Whether no other value of the column could change it (only then a sample suffices).
    """

    name: Name
    format: str = ""
    decimal: str = "."
    grouping: str = ""
    why: str = ""
    warning: str = ""
    settled: bool = True


@dataclass(frozen=True)
class Marks:
    """What the bytes of a column's values say, over the whole file.

    Args:
        zero_led: A value with a leading zero, such as `01234`; None if there is none.
        plus_led: Whether a value starts with a plus sign.
        padded: Whether a value has spaces at an end.
    """

    zero_led: str | None = None
    plus_led: bool = False
    padded: bool = False


@dataclass(frozen=True)
class Rules:
    """What the user decided.

    Args:
        missing: Texts that mean "no value".
        decimal: `.` or `,`; empty: found for each column.
    """

    missing: tuple[str, ...] = MISSING
    decimal: str = ""


def texts(column: str, missing: Sequence[str], padded: bool = True) -> pl.Expr:
    """A text column without spaces around its values and with null for what is missing."""
    text = pl.col(column).str.strip_chars() if padded else pl.col(column)
    return pl.when(text.is_in(list(missing))).then(None).otherwise(text).alias(column) if missing else text


def values(column: str, kind: Kind, missing: Sequence[str], padded: bool = True) -> pl.Expr:
    """The values of a text column; reading them fails, rather than loses one, where `kind` does not fit."""
    return typed(texts(column, missing, padded), kind).alias(column)


def typed(text: pl.Expr, kind: Kind, strict: bool = True) -> pl.Expr:
    """Texts as values of that kind; `strict=False` makes null of what does not fit."""
    match kind.name:
        case "integer":
            return text.cast(pl.Int64, strict=strict)
        case "number":
            return _with_points(text, kind).cast(pl.Float64, strict=strict).fill_nan(None)
        case "boolean":
            # Through a number, since Polars has no cast from text: what is neither word fails as "x...".
            word = text.str.to_lowercase()
            digit = pl.when(word == "true").then(pl.lit("1")).when(word == "false").then(pl.lit("0")).otherwise(pl.lit("x") + word)
            return digit.cast(pl.UInt8, strict=strict).cast(pl.Boolean)
        case "date":
            return text.str.to_date(kind.format, strict=strict)
        case "datetime":
            moment = text.str.to_datetime(kind.format, time_unit="us", strict=strict)
            return moment.dt.replace_time_zone(None) if kind.format.endswith("%z") else moment
        case "time":
            return text.str.to_time(kind.format, strict=strict)
    return text


def _with_points(text: pl.Expr, kind: Kind) -> pl.Expr:
    """Numbers as Polars reads them; a value that is not written in the column's way becomes one that fails."""
    if kind.grouping:
        fits = text.str.contains(GROUPED[kind.grouping])
        plain = text.str.replace_all(kind.grouping, "", literal=True).str.replace(",", ".", literal=True)
        return pl.when(fits).then(plain).otherwise(pl.lit("x") + text)
    return text.str.replace(".", "_", literal=True).str.replace(",", ".", literal=True) if kind.decimal == "," else text


def decide(table: pl.LazyFrame, columns: Sequence[str], marks: dict[str, Marks], rules: Rules) -> dict[str, Kind]:
    """Decides the kind of each text column over all rows, streaming.

    Args:
        table: The columns as texts, already passed through `texts`.
        columns: The columns to decide.
        marks: By column; they hold for the whole file even when `table` is a sample of it.
        rules: Decimal mark.

    Returns:
        By column, its kind with the reason.
    """
    if not columns:
        return {}
    counts = table.select(expr for column in columns for expr in _counts(column)).collect(engine="streaming").row(0, named=True)
    of: dict[str, dict[str, int]] = {column: {} for column in columns}
    for name, count in counts.items():
        column, _, asked = name.rpartition("\0")
        of[column][asked] = count
    kinds = {column: _plain(of[column], marks[column], rules) for column in columns}
    dated = [column for column, kind in kinds.items() if kind.name == "text" and counts[f"{column}\0dated"]]
    for column, kind in _dates(table, dated, {c: counts[f"{c}\0all"] for c in dated}).items():
        if kind is not None:
            kinds[column] = kind
    return kinds


def decide_dates(table: pl.LazyFrame, columns: Sequence[str]) -> dict[str, Kind]:
    """As `decide`, for sources whose texts are texts (JSON, SQLite): only dates and times are looked for."""
    if not columns:
        return {}
    asked = [e for c in columns for e in (pl.col(c).count().alias(f"{c}\0all"), _share(c, DATED).alias(f"{c}\0dated"))]
    counts = table.select(asked).collect(engine="streaming").row(0, named=True)
    dated = [column for column in columns if counts[f"{column}\0dated"]]
    return {c: k for c, k in _dates(table, dated, {c: counts[f"{c}\0all"] for c in dated}).items() if k is not None}


def _share(column: str, pattern: str) -> pl.Expr:
    return pl.col(column).str.contains(pattern).sum()


def _counts(column: str) -> Iterator[pl.Expr]:
    text = pl.col(column)
    yield text.count().alias(f"{column}\0all")
    yield _share(column, INTEGER).alias(f"{column}\0integers")
    yield text.str.contains(INTEGER).and_(text.cast(pl.Int64, strict=False).is_not_null()).sum().alias(f"{column}\0fitting")
    yield _share(column, NUMBER).alias(f"{column}\0numbers")
    yield _share(column, COMMA).alias(f"{column}\0commas")
    yield _share(column, COMMA_OR_THOUSANDS).alias(f"{column}\0ambiguous")
    yield text.str.contains(",", literal=True).sum().alias(f"{column}\0with_comma")
    for mark in GROUPED:
        yield _share(column, GROUPED[mark]).alias(f"{column}\0grouped{mark}")
        yield _share(column, PROOF[mark]).alias(f"{column}\0proved{mark}")
    vast = text.cast(pl.Float64, strict=False).is_infinite() & ~text.str.contains("(?i)inf")
    yield vast.sum().alias(f"{column}\0vast")
    yield text.str.to_lowercase().is_in(["true", "false"]).sum().alias(f"{column}\0booleans")
    yield _share(column, DATED).alias(f"{column}\0dated")
    yield text.filter(~text.str.contains(NUMBER)).first().alias(f"{column}\0other")


def _plain(n: dict[str, int], marks: Marks, rules: Rules) -> Kind:
    """The kind of a column, dates aside."""
    total = n["all"]
    if total == 0:
        return Kind("text", why="no value at all", warning="every value is missing", settled=False)
    if n["booleans"] == total:
        return Kind("boolean", why="every value is true or false")
    if n["numbers"] == total and marks.zero_led is not None:
        return Kind("text", why=f"numbers with leading zeros, such as {marks.zero_led!r}, are labels")
    if n["integers"] == total:
        if marks.plus_led:
            return Kind("text", why="whole numbers with a leading plus are labels")
        if n["fitting"] < total:
            return Kind("text", why="whole numbers of more than 64 bits are labels")
        return Kind("integer", why="every value is a whole number")
    if n["numbers"] == total and n["vast"]:
        return Kind("text", why="numbers too large for 64 bits are labels")
    if n["numbers"] == total and rules.decimal != ",":
        return Kind("number", why="every value is a number")
    return _with_commas(n, rules) if n["with_comma"] and marks.zero_led is None else _mixed(n)


def _with_commas(n: dict[str, int], rules: Rules) -> Kind:
    """The kind of a column in which commas stand."""
    total = n["all"]
    if n["commas"] == total and rules.decimal != ".":
        if n["ambiguous"] < n["with_comma"] or rules.decimal == ",":
            return Kind("number", decimal=",", why="every value is a number with a decimal comma")
        warning = 'decimal comma or thousands separator? Set decimal="," or decimal="."'
        return Kind("text", why="numbers such as 1,234 are ambiguous", warning=warning, settled=False)
    for mark, decimal in ((",", "."), (".", ",")):
        if n[f"grouped{mark}"] == total and rules.decimal in ("", decimal) and (n[f"proved{mark}"] or rules.decimal):
            return Kind("number", decimal=decimal, grouping=mark, why=f"every value is a number with {mark!r} between thousands")
    return _mixed(n)


def _mixed(n: dict[str, int]) -> Kind:
    total, numbers = n["all"], n["numbers"]
    if not numbers:
        return Kind("text", why="texts")
    example = str(n["other"])[:60]
    why = f"{numbers:,} of {total:,} values are numbers, {total - numbers:,} are not, such as {example!r}"
    return Kind("text", why=why, warning=f"numbers and texts are mixed: {why}", settled=False)


def _dates(table: pl.LazyFrame, columns: Sequence[str], totals: dict[str, int]) -> dict[str, Kind | None]:
    """For each column the date or time kind that fits all values, a text kind with a warning, or None: no dates."""
    if not columns:
        return {}
    heads = (
        table.select(pl.col(c).drop_nulls().unique(maintain_order=True).head(TRIED).implode() for c in columns)
        .collect(engine="streaming")
        .row(0, named=True)
    )
    candidates = {column: formats_of(heads[column]) for column in columns}
    found: dict[str, Kind | None] = {}
    for column in columns:
        found[column] = _fit(table, column, candidates[column], totals[column])
    return found


def _fit(table: pl.LazyFrame, column: str, candidates: list[str], total: int) -> Kind | None:
    """Counts, over all values, those that each candidate reads; a value that none reads brings new candidates, a few times."""
    text = pl.col(column)
    for _ in range(4):
        reads = {format_: _reads(text, format_) for format_ in candidates}
        unread = text.filter(text.is_not_null() & ~pl.any_horizontal(list(reads.values()) or [pl.lit(False)])).first()
        asked = [expr.sum().alias(format_) for format_, expr in reads.items()]
        counts = table.select(*asked, unread.alias("\0unread")).collect(engine="streaming").row(0, named=True)
        left = counts.pop("\0unread")
        fresh = [f for f in formats_of([left]) if f not in candidates] if left is not None else []
        if not fresh:
            return _judge({f: counts[f] for f in candidates}, total, left)
        candidates = candidates + fresh
    return _judge(counts, total, left)


def _reads(text: pl.Expr, format_: str) -> pl.Expr:
    value = typed(text, Kind(FORMATS[format_], format_), strict=False)
    read = value.is_not_null() if FORMATS[format_] == "time" else value.dt.year() >= EARLIEST_YEAR
    return read.fill_null(False)


def _judge(counts: dict[str, int], total: int, unread: str | None) -> Kind | None:
    whole = [format_ for format_, count in counts.items() if count == total]
    bases = {_base(format_) for format_ in whole}
    if len(bases) > 1:
        words = " or ".join(sorted(bases))
        return Kind("text", why=f"dates that may be {words}", warning=f"day and month cannot be told apart in any value ({words})", settled=False)
    if whole:
        return Kind(FORMATS[whole[0]], whole[0], why=f"every value is written as {whole[0]}")
    if not counts:
        return None
    shown = ", ".join(f"{format_} ({count:,})" for format_, count in sorted(counts.items(), key=lambda item: -item[1])[:4] if count)
    rest = f"; not a date: {unread[:60]!r}" if unread is not None else ""
    return Kind("text", why=f"dates in several formats: {shown}{rest}", warning=f"dates in several formats: {shown}{rest}", settled=False)


def _base(format_: str) -> str:
    """The date part: formats that differ only in how they write the time do not contradict one another."""
    return format_[:8] if format_[1] in "Ymd" and format_[3:5] != "%B" else format_


def formats_of(examples: Iterable[str]) -> list[str]:
    """The formats that read at least one of these texts, in the order of `FORMATS`."""
    given = pl.Series("text", list(examples), dtype=pl.String).to_frame()
    column = pl.col("text")
    fits = given.select(_reads(column, format_).any().alias(format_) for format_ in FORMATS).row(0)
    return [format_ for format_, fit in zip(FORMATS, fits, strict=True) if fit]

"""What a contract asks of a table: each question with the aggregates that answer it in the one pass.

A question that a cheap aggregate decides (a smallest value, a count of missing ones) asks for no more than that; the rows that
break it are looked for afterwards, and only when there are some.
"""

import datetime as dt
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import polars as pl

from kfp_foundry.components.common import scan
from kfp_foundry.components.common.artifacts.verdict import Check, Outcome
from kfp_foundry.components.common.contract import Contract, FieldSpec, Role, Type, bound
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.report.format import human, percent
from kfp_foundry.components.common.row_rules import read_rule

ROWS = "rows"
Facts = Mapping[str, Any]

_LOSSLESS = {
    (Type.INTEGER, Type.NUMBER),
    (Type.NUMBER, Type.INTEGER),  # where every value is whole, which a question of its own asks
    (Type.DATE, Type.DATETIME),
}
_STRFTIME = {
    "Y": r"\d{4}", "m": r"\d{1,2}", "d": r"\d{1,2}", "H": r"\d{1,2}", "M": r"\d{1,2}", "S": r"\d{1,2}", "y": r"\d{2}", "j": r"\d{1,3}",
    "I": r"\d{1,2}", "p": r"[AaPp][Mm]", "f": r"\d{1,9}", "b": r"\w{3,4}", "B": r"\w+", "z": r"[+-]\d{2}:?\d{2}", "%": "%",
    "F": r"\d{4}-\d{2}-\d{2}", "T": r"\d{2}:\d{2}:\d{2}",
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What the pass says to a question."""

    outcome: Outcome
    value: str | float | int | None = None
    message: str = ""


@dataclass(frozen=True)
class Question:
    """One check of a contract.

    Args:
        name: Such as `carrier: enum`.
        limit: What is allowed, in words.
        answer: From the measured facts to the answer.
        measures: The aggregates that the answer needs, by name; questions may share them.
        broken: True in the rows that break it; None where no single row does.
        columns: The columns to show of such a row.
        repeated: Columns whose repeated values break it.
    """

    name: str
    limit: str
    answer: Callable[[Facts], Answer]
    measures: Mapping[str, nw.Expr] = field(default_factory=dict)
    broken: nw.Expr | None = None
    columns: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ()

    def check(self, facts: Facts) -> Check:
        """The question with its answer."""
        found = self.answer(facts)
        return Check(name=self.name, outcome=found.outcome, limit=self.limit, value=found.value, message=found.message)


@dataclass(frozen=True)
class Column:
    """A column of the contract that is in the table, of a fitting type."""

    spec: FieldSpec
    dtype: nw.dtypes.DType

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def values(self) -> nw.Expr:
        """Its values, NaN as missing."""
        return scan.value(self.name, self.dtype)

    @property
    def is_number(self) -> bool:
        """Whether it can be calculated with."""
        return self.dtype.is_numeric()

    @property
    def is_dated_text(self) -> bool:
        """Whether it holds dates as text, in the contract's format."""
        return self.spec.type is not Type.STRING and scan.type_of(self.dtype) is Type.STRING

    def key(self, measure: str) -> str:
        """The name of one of its measures."""
        return f"{self.name}|{measure}"

    def get(self, facts: Facts, measure: str) -> Any:
        """One of its measured facts; None when it was not asked for."""
        return facts.get(self.key(measure))

    def count_missing(self) -> dict[str, nw.Expr]:
        """The measure of its missing values."""
        # Where there is no NaN, the count of nulls is known without a look at the values.
        missing = self.values.is_null().cast(nw.Int64).sum() if self.dtype.is_float() else nw.col(self.name).null_count()
        return {self.key("missing"): missing}

    def present(self, facts: Facts) -> int:
        """Number of values that are not missing."""
        return int(facts[ROWS]) - int(self.get(facts, "missing"))


def questions(contract: Contract, schema: Mapping[str, nw.dtypes.DType], now: dt.datetime) -> tuple[list[Question], list[Column]]:
    """Everything a contract asks.

    Args:
        contract: The contract.
        schema: The table's columns and types.
        now: The time against which freshness is measured, UTC.

    Returns:
        The questions, and the columns that are there and of a fitting type.

    Raises:
        UserError: A pattern is no regular expression.
    """
    asked, columns = [], []
    for spec in contract.fields:
        if spec.role is Role.IGNORE:
            continue
        question = _typed(spec, schema)
        asked.append(question)
        if question.answer({}).outcome == "pass":
            columns.append(Column(spec, schema[spec.name]))
    asked += [_extra(contract, schema), _size(contract)]
    for column in columns:
        asked += _of_column(column)
    asked += _of_rows(contract, columns)
    return asked + list(_of_table(contract, {column.name: column for column in columns}, now)), columns


def overview(columns: list[Column]) -> dict[str, nw.Expr]:
    """The measures of every column that the report shows."""
    measures = {ROWS: nw.len()}
    for column in columns:
        measures[column.key("missing")] = (
            column.values.is_null().cast(nw.Int64).sum() if column.dtype.is_float() else nw.col(column.name).null_count()
        )
        if column.is_number or column.dtype.is_temporal():
            measures[column.key("min")] = column.values.min()
            measures[column.key("max")] = column.values.max()
        if column.is_number:
            measures[column.key("mean")] = column.values.mean()
    return measures


def _settled(name: str, limit: str, answer: Answer) -> Question:
    """A question that the table's columns and types answer already."""
    return Question(name, limit, lambda facts: answer)


def _typed(spec: FieldSpec, schema: Mapping[str, nw.dtypes.DType]) -> Question:
    name = f"{spec.name}: type"
    if spec.name not in schema:
        absent = f"there is no column {spec.name!r}; {close_names(spec.name, list(schema))}"
        return _settled(name, str(spec.type), Answer("fail", "absent", absent))
    dtype = schema[spec.name]
    found = scan.type_of(dtype)
    as_text = found is Type.STRING and spec.format is not None and spec.type in (Type.DATE, Type.DATETIME, Type.TIME)
    if found is spec.type or (found, spec.type) in _LOSSLESS or as_text or dtype == nw.Unknown:
        return _settled(name, str(spec.type), Answer("pass", str(found)))
    return _settled(name, str(spec.type), Answer("fail", str(found), f"the column holds {found} values ({dtype}), the contract says {spec.type}"))


def _extra(contract: Contract, schema: Mapping[str, nw.dtypes.DType]) -> Question:
    extra = [name for name in schema if name not in contract.names]
    allowed = contract.dataset.allow_extra_columns
    message = f"not in the contract: {', '.join(extra[:20])}{', ...' if len(extra) > 20 else ''}" if extra else ""
    outcome: Outcome = "pass" if allowed or not extra else "fail"
    return _settled("extra columns", "allowed" if allowed else "none", Answer(outcome, len(extra), message))


def _size(contract: Contract) -> Question:
    low, high = contract.dataset.min_rows, contract.dataset.max_rows

    def answer(facts: Facts) -> Answer:
        rows = int(facts[ROWS])
        if rows < low:
            return Answer("fail", rows, f"the table has {rows:,} rows, at least {low:,} are wanted")
        if high is not None and rows > high:
            return Answer("fail", rows, f"the table has {rows:,} rows, at most {high:,} are allowed")
        return Answer("pass", rows)

    return Question("rows", f"{low:,} to {high:,}" if high is not None else f"at least {low:,}", answer, {ROWS: nw.len()})


def _of_column(column: Column) -> Iterator[Question]:
    spec, limits = column.spec, column.spec.limits
    if spec.constraints.required or limits.max_missing is not None:
        yield _missing(column)
    if column.dtype == nw.Unknown:
        return  # a column of nothing but missing values
    if spec.constraints.unique:
        yield _unique(column)
    if column.is_dated_text:
        yield _each(column, "format", str(spec.format), ~column.values.str.contains(_whole(_from_strftime(str(spec.format)))))
        return
    if spec.type is Type.INTEGER and not column.dtype.is_integer():
        yield _each(column, "whole numbers", "no fraction", column.values != column.values.floor())
    if column.dtype.is_float():
        yield _finite(column)
    if spec.constraints.minimum is not None or spec.constraints.maximum is not None:
        yield _range(column, "range", (spec.constraints.minimum, spec.constraints.maximum), "fail")
    if limits.usual_range is not None:
        yield _range(column, "usual range", limits.usual_range, "warn")
    if spec.constraints.enum is not None:
        yield _each(column, "enum", _listed(spec.constraints.enum), ~column.values.is_in(_alike(spec.constraints.enum, column)))
    if limits.known_values is not None:
        yield _each(column, "known values", _listed(limits.known_values), ~column.values.is_in(_alike(limits.known_values, column)), "warn")
    if spec.constraints.pattern is not None:
        yield _pattern(column, spec.constraints.pattern)
    if limits.min_distinct is not None or limits.max_distinct is not None:
        yield _distinct(column)
    if limits.mean is not None:
        yield _mean(column, limits.mean)
    if limits.median is not None:
        yield _median(column, limits.median)


def _missing(column: Column) -> Question:
    most = 0.0 if column.spec.constraints.required else column.spec.limits.max_missing or 0.0
    name = "required" if column.spec.constraints.required else "missing"
    severity = _severity(column.spec.severity) if name == "missing" else "fail"
    allowed = f"at most {percent(most)}" if most else "none"

    def answer(facts: Facts) -> Answer:
        missing, rows = int(column.get(facts, "missing")), int(facts[ROWS])
        share = missing / rows if rows else 0.0
        if share <= most:
            return Answer("pass", share)
        return Answer(severity, share, f"{missing:,} values are missing ({percent(share)}), {allowed} may be")

    return Question(f"{column.name}: {name}", f"{allowed} missing", answer, column.count_missing(), column.values.is_null(), (column.name,))


def _unique(column: Column) -> Question:
    def answer(facts: Facts) -> Answer:
        distinct = int(column.get(facts, "distinct")) - (column.get(facts, "missing") > 0)
        again = column.present(facts) - distinct
        return Answer("fail", again, f"{again:,} rows repeat a value of another row") if again else Answer("pass", 0)

    measures = {column.key("distinct"): column.values.n_unique()}
    return Question(f"{column.name}: unique", "no value twice", answer, measures, columns=(column.name,), repeated=(column.name,))


def _each(column: Column, what: str, limit: str, broken: nw.Expr, severity: Outcome = "fail") -> Question:
    """A question to every single value, counted in the pass."""
    key = column.key(what)

    def answer(facts: Facts) -> Answer:
        count = int(facts[key] or 0)
        return (
            Answer(severity, count, f"{_values(count)} outside what is {'allowed' if severity == 'fail' else 'known'}: {limit}")
            if count
            else Answer("pass", 0)
        )

    return Question(f"{column.name}: {what}", limit, answer, {key: broken.cast(nw.Int64).sum()}, broken, (column.name,))


def _finite(column: Column) -> Question:
    infinite = (float("inf"), float("-inf"))

    def answer(facts: Facts) -> Answer:
        if column.get(facts, "max") == infinite[0] or column.get(facts, "min") == infinite[1]:
            return Answer("fail", "infinite", "there are infinite values")
        return Answer("pass", "finite")

    return Question(f"{column.name}: finite", "no infinite value", answer, broken=column.values.is_in(infinite), columns=(column.name,))


def _range(column: Column, what: str, limits: tuple[float | str | None, float | str | None], severity: Outcome) -> Question:
    low, high = (_bound(value, column) if value is not None else None for value in limits)
    words = f"{human(low)} to {human(high)}" if None not in (low, high) else f"at least {human(low)}" if high is None else f"at most {human(high)}"

    def answer(facts: Facts) -> Answer:
        least, most = column.get(facts, "min"), column.get(facts, "max")
        said = []
        if least is not None and low is not None and least < low:
            said.append(f"the smallest value is {human(least)}")
        if most is not None and high is not None and most > high:
            said.append(f"the largest value is {human(most)}")
        found = f"{human(least)} to {human(most)}" if least is not None else None
        return (
            Answer(severity, found, f"{' and '.join(said)}; {'allowed' if severity == 'fail' else 'usual'} is {words}")
            if said
            else Answer("pass", found)
        )

    sides = [column.values < low] if low is not None else []
    sides += [column.values > high] if high is not None else []
    broken = sides[0] | sides[1] if len(sides) > 1 else sides[0]
    return Question(f"{column.name}: {what}", words, answer, broken=broken, columns=(column.name,))


def _pattern(column: Column, pattern: str) -> Question:
    try:
        pl.Series([""]).str.contains(_whole(pattern))
    except pl.exceptions.ComputeError as error:
        reason = str(error).split("error: ")[-1].splitlines()[0]
        remedy = "correct constraints.pattern in the contract (look-around and back-references do not exist in it)"
        raise UserError(f"pattern {pattern!r} is no regular expression: {reason}", where=f"field {column.name!r}", remedy=remedy) from error
    return _each(column, "pattern", pattern, ~column.values.str.contains(_whole(pattern)))


def _distinct(column: Column) -> Question:
    low, high = column.spec.limits.min_distinct, column.spec.limits.max_distinct

    def answer(facts: Facts) -> Answer:
        distinct = int(column.get(facts, "distinct")) - (column.get(facts, "missing") > 0)
        if (low is None or distinct >= low) and (high is None or distinct <= high):
            return Answer("pass", distinct)
        return Answer(_severity(column.spec.severity), distinct, f"there are {distinct:,} different values; allowed is {words}")

    words = f"at least {low:,}" if high is None else f"at most {high:,}" if low is None else f"{low:,} to {high:,}"
    return Question(f"{column.name}: distinct", words, answer, {column.key("distinct"): column.values.n_unique()})


def _mean(column: Column, limits: tuple[float, float]) -> Question:
    low, high = limits
    words = f"{human(low)} to {human(high)}"
    key = column.key("mean")

    def answer(facts: Facts) -> Answer:
        mean = facts[key]
        if mean is None or low <= mean <= high:
            return Answer("pass", mean)
        return Answer(_severity(column.spec.severity), mean, f"the mean is {'undefined' if math.isnan(mean) else human(mean)}; allowed is {words}")

    values = column.values if column.is_number else column.values.cast(nw.Int64)
    return Question(f"{column.name}: mean", words, answer, {key: values.mean()})


def _median(column: Column, limits: tuple[float, float]) -> Question:
    """Whether the median is in a range, exactly and without computing it: at most half of the values lie on either side."""
    low, high = limits
    below, above = column.key(f"below {low}"), column.key(f"above {high}")
    values = column.values if column.is_number else column.values.cast(nw.Int64)

    def answer(facts: Facts) -> Answer:
        present = column.present(facts)
        for count, words in ((int(facts[below] or 0), f"below {human(low)}"), (int(facts[above] or 0), f"above {human(high)}")):
            if count > present / 2:
                return Answer(_severity(column.spec.severity), words, f"the median is {words}: {percent(count / present)} of the values are")
        return Answer("pass", "inside")

    measures = {below: (values < low).cast(nw.Int64).sum(), above: (values > high).cast(nw.Int64).sum()}
    return Question(f"{column.name}: median", f"{human(low)} to {human(high)}", answer, measures)


def _of_rows(contract: Contract, columns: list[Column]) -> Iterator[Question]:
    # Dates that the table holds as text have no order of their own.
    types = {column.name: str(Type.ANY if column.is_dated_text else column.spec.type) for column in columns}
    values = {column.name: column.values for column in columns}
    for row_rule in contract.rows:
        name = f"rule: {row_rule.name}"
        try:
            rule = read_rule(row_rule.rule, types, values)
        except UserError as error:
            # The contract itself was read, so a column is absent or of another type here; that has a check of its own.
            said = f"not asked, since its columns are not as the contract says: {error.what}"
            yield _settled(name, row_rule.rule, Answer("fail", None, said))
            continue
        yield _rule(name, rule.text, rule.columns, ~rule.condition, row_rule.max_failing)


def _rule(name: str, text: str, columns: tuple[str, ...], broken: nw.Expr, most: float) -> Question:
    def answer(facts: Facts) -> Answer:
        count, rows = int(facts[name] or 0), int(facts[ROWS])
        if count <= most * rows:
            return Answer("pass", count)
        return Answer("fail", count, f"{count:,} rows break it" + (f", at most {percent(most)} of them may" if most else ""))

    return Question(name, text, answer, {name: broken.cast(nw.Int64).sum()}, broken, columns)


def _of_table(contract: Contract, columns: Mapping[str, Column], now: dt.datetime) -> Iterator[Question]:
    key = contract.dataset.key or []
    if key and all(name in columns for name in key):
        yield _key(tuple(key))
    time = columns.get(contract.time or "")
    if contract.dataset.max_age_days is not None and time is not None:
        yield _fresh(time, contract.dataset.max_age_days, now)


def _key(names: tuple[str, ...]) -> Question:
    def answer(facts: Facts) -> Answer:
        again = int(facts[ROWS]) - int(facts["key|distinct"])
        return Answer("fail", again, f"{again:,} rows repeat the key of another row") if again else Answer("pass", 0)

    distinct = nw.col(names[0]).n_unique() if len(names) == 1 else nw.struct(*names).n_unique()
    return Question("key", ", ".join(names) + " together, no value twice", answer, {"key|distinct": distinct}, columns=names, repeated=names)


def _fresh(column: Column, most: float, now: dt.datetime) -> Question:
    def answer(facts: Facts) -> Answer:
        newest = column.get(facts, "max")
        if newest is None:
            return Answer("fail", None, "there is no time to judge by")
        moment = newest if isinstance(newest, dt.datetime) else dt.datetime.combine(newest, dt.time())
        age = (now - (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))).total_seconds() / 86_400
        return Answer("pass", age) if age <= most else Answer("fail", age, f"the newest row is {age:,.1f} days old, at most {most:g} are allowed")

    return Question("freshness", f"at most {most:g} days", answer)


def _severity(word: str) -> Outcome:
    return "warn" if word == "warn" else "fail"


def _bound(value: float | str, column: Column) -> Any:
    limit = bound(value, column.spec.type, f"field {column.name!r}")
    if isinstance(limit, dt.datetime):
        zone = getattr(column.dtype, "time_zone", None)
        limit = limit.astimezone(dt.UTC).replace(tzinfo=None) if limit.tzinfo else limit  # as everywhere, no zone means UTC
        return limit.replace(tzinfo=dt.UTC) if zone else limit
    return limit


def _alike(values: list[Any], column: Column) -> list[Any]:
    """Listed values in the column's own type, so that 1 and 1.0 are one value; those it can never hold are left out."""
    if column.dtype == nw.Boolean:
        return [value for value in values if isinstance(value, bool)]
    if column.is_number:
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        return [float(n) for n in numbers] if not column.dtype.is_integer() else [int(n) for n in numbers if n == int(n)]
    return [str(value) for value in values]


def _listed(values: list[Any]) -> str:
    return ", ".join(map(str, values[:12])) + (f", ... ({len(values)} values)" if len(values) > 12 else "")


def _values(count: int) -> str:
    return "1 value is" if count == 1 else f"{count:,} values are"


def _whole(pattern: str) -> str:
    return rf"\A(?:{pattern})\z"


def _from_strftime(words: str) -> str:
    return re.sub(r"%-?([A-Za-z%])|([^%]+)", lambda m: _STRFTIME.get(m.group(1), ".+") if m.group(1) else re.escape(m.group(2)), words)

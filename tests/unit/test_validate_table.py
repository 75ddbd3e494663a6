"""validate_table: every check of a contract, the same answers from both engines, failing rows by number."""

import datetime as dt
import json
from pathlib import Path

import duckdb
import polars as pl
import pytest
import yaml
from kfp import dsl

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.verdict import Verdict
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.validation.validate_table import core
from kfp_foundry.components.validation.validate_table.core import validate

NOW = dt.datetime(2024, 1, 11, tzinfo=dt.UTC)
TABLE = pl.DataFrame(
    {
        "id": [1, 2, 3, 4, 5, 6],
        "n": [10, 20, 30, 40, None, 60],
        "x": [0.5, 1.5, float("nan"), 3.5, None, 5.5],
        "s": ["a", "b", "a", None, "c", "bb"],
        "b": [True, False, None, True, True, True],
        "d": [dt.date(2024, 1, day) for day in range(1, 7)],
        "t": [dt.datetime(2024, 1, day, 12) for day in range(1, 7)],
    }
)
TYPES = {"id": "integer", "n": "integer", "x": "number", "s": "string", "b": "boolean", "d": "date", "t": "datetime"}


def contract(fields: dict[str, dict] | None = None, **rest) -> Contract:
    """A contract of TABLE with more words for some fields."""
    described = [{"name": name, "type": kind} | (fields or {}).get(name, {}) for name, kind in TYPES.items()]
    return Contract.parse(yaml.safe_dump({"fields": described} | rest))


def through(engine: str, table: pl.DataFrame):
    return table.lazy() if engine == "polars" else duckdb.from_arrow(table.to_arrow())


@pytest.fixture(params=["polars", "duckdb"])
def check(request):
    """Validates TABLE (or another table) and returns the one check of that name."""

    def one(name: str, agreed: Contract, table: pl.DataFrame = TABLE):
        verdict = validate(through(request.param, table), agreed, now=NOW).verdict
        return next(found for found in verdict.checks if found.name == name)

    return one


def constraint(**words):
    return {"constraints": words}


def limit(**words):
    return {"limits": words}


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("id: required", "id", constraint(required=True)),
        ("id: unique", "id", constraint(unique=True)),
        ("n: range", "n", constraint(minimum=10, maximum=60)),
        ("x: range", "x", constraint(minimum=0.5, maximum=5.5)),
        ("d: range", "d", constraint(minimum="2024-01-01", maximum="2024-01-06")),
        ("t: range", "t", constraint(maximum="2024-01-06T12:00:00Z")),
        ("s: enum", "s", constraint(enum=["a", "b", "bb", "c"])),
        ("n: enum", "n", constraint(enum=[10.0, 20, 30, 40, 60])),
        ("b: enum", "b", constraint(enum=[True, False])),
        ("s: pattern", "s", constraint(pattern="a|b+|c")),
        ("x: finite", "x", {}),
        ("x: missing", "x", limit(max_missing=0.34)),
        ("s: distinct", "s", limit(min_distinct=4, max_distinct=4)),
        ("n: mean", "n", limit(mean=[32, 32])),
        ("x: mean", "x", limit(mean=[2.75, 2.75])),
        ("b: mean", "b", limit(mean=[0.8, 0.8])),
        ("n: median", "n", limit(median=[30, 30])),
        ("x: median", "x", limit(median=[1.5, 3.5])),
        ("s: known values", "s", limit(known_values=["a", "b", "bb", "c"])),
        ("n: usual range", "n", limit(usual_range=[10, 60])),
    ],
)
def test_a_check_at_its_limit_passes(check, name, column, words):
    assert check(name, contract({column: words})).outcome == "pass"


@pytest.mark.parametrize(
    ("name", "column", "words", "value", "message", "rows"),
    [
        ("n: required", "n", constraint(required=True), 1 / 6, r"1 values are missing \(16\.7 %\), none may be", [5]),
        ("x: required", "x", constraint(required=True), 2 / 6, r"2 values are missing", [3, 5]),
        ("b: unique", "b", constraint(unique=True), 3, r"3 rows repeat a value", [1]),
        ("n: range", "n", constraint(minimum=15, maximum=50), "10 to 60", r"smallest value is 10 and the largest value is 60.*\(2 rows\)", [1, 6]),
        ("x: range", "x", constraint(maximum=3), "0.5 to 5.5", r"largest value is 5.5; allowed is at most 3 \(2 rows\)", [4, 6]),
        ("d: range", "d", constraint(minimum="2024-01-02"), "2024-01-01 to 2024-01-06", r"smallest value is 2024-01-01", [1]),
        ("t: range", "t", constraint(maximum="2024-01-05T13:00:00+01:00"), None, r"largest value is 2024-01-06 12:00:00", [6]),
        ("s: enum", "s", constraint(enum=["a", "b"]), 2, r"2 values are outside what is allowed: a, b", [5, 6]),
        ("s: pattern", "s", constraint(pattern="b"), 4, r"4 values are outside", [1, 3, 5, 6]),
        ("x: missing", "x", limit(max_missing=0.3), 2 / 6, r"2 values are missing \(33\.3 %\), at most 30\.0 % may be", [3, 5]),
        ("s: distinct", "s", limit(max_distinct=3), 4, r"there are 4 different values; allowed is at most 3", []),
        ("b: distinct", "b", limit(min_distinct=3), 2, r"there are 2 different values", []),
        ("n: mean", "n", limit(mean=[33, 40]), 32, r"the mean is 32; allowed is 33 to 40", []),
        ("n: median", "n", limit(median=[31, 40]), "below 31", r"the median is below 31: 60\.0 % of the values are", []),
        ("x: median", "x", limit(median=[0, 1.4]), "above 1.4", r"the median is above 1.4: 75\.0 %", []),
    ],
)
def test_a_broken_limit_fails_with_value_and_rows(check, name, column, words, value, message, rows):
    found = check(name, contract({column: words}))
    assert found.outcome == "fail"
    assert value is None or found.value == pytest.approx(value)
    assert pl.Series([found.message]).str.contains(message).item(), found.message
    assert [example["row"] for example in found.examples] == rows


@pytest.mark.parametrize(
    ("name", "column", "words"), [("s: known values", "s", limit(known_values=["a"])), ("n: usual range", "n", limit(usual_range=[0, 50]))]
)
def test_what_is_unusual_warns(check, name, column, words):
    assert check(name, contract({column: words})).outcome == "warn"


def test_a_field_may_warn_instead_of_fail(check):
    softly = contract({"n": limit(mean=[0, 1], max_missing=0, max_distinct=1) | {"severity": "warn"}})
    assert {check(f"n: {what}", softly).outcome for what in ("mean", "missing", "distinct")} == {"warn"}


@pytest.mark.parametrize(
    ("name", "rule", "outcome", "value", "rows"),
    [
        ("ordered", "n > x and n < 60", "fail", 1, [6]),
        ("missing satisfies", "n >= 0", "pass", 0, []),
        ("dates", "t >= '2024-01-02'", "fail", 1, [1]),
        ("texts", "s in ['a', 'b', 'c'] or n == 60", "pass", 0, []),
        ("present", "s is not None", "fail", 1, [4]),
        ("truth", "b or n == 20", "pass", 0, []),
    ],
)
def test_row_rules(check, name, rule, outcome, value, rows):
    found = check(f"rule: {name}", contract(rows=[{"name": name, "rule": rule}]))
    assert (found.outcome, found.value) == (outcome, value)
    assert [example["row"] for example in found.examples] == rows


def test_a_row_rule_may_be_broken_by_a_share(check):
    rules = [{"name": "most", "rule": "n <= 20", "max_failing": 0.5}, {"name": "few", "rule": "n <= 20", "max_failing": 0.4}]
    assert check("rule: most", contract(rows=rules)).outcome == "pass"
    few = check("rule: few", contract(rows=rules))
    assert (few.outcome, few.message) == ("fail", "3 rows break it, at most 40.0 % of them may")


@pytest.mark.parametrize(
    ("name", "rules", "outcome", "message"),
    [
        ("rows", {"min_rows": 6, "max_rows": 6}, "pass", ""),
        ("rows", {"min_rows": 7}, "fail", "the table has 6 rows, at least 7 are wanted"),
        ("rows", {"max_rows": 5}, "fail", "the table has 6 rows, at most 5 are allowed"),
        ("key", {"key": ["id"]}, "pass", ""),
        ("key", {"key": ["s", "b"]}, "pass", ""),
        ("key", {"key": ["b"]}, "fail", "3 rows repeat the key of another row"),
        ("extra columns", {}, "pass", ""),
        ("extra columns", {"allow_extra_columns": False}, "pass", ""),
    ],
)
def test_rules_of_the_whole_table(check, name, rules, outcome, message):
    found = check(name, contract(dataset=rules))
    assert (found.outcome, found.message) == (outcome, message)


@pytest.mark.parametrize(("column", "days", "outcome"), [("t", 5, "pass"), ("t", 4, "fail"), ("d", 5, "pass"), ("d", 4.9, "fail")])
def test_freshness_is_the_age_of_the_newest_row(check, column, days, outcome):
    assert check("freshness", contract({column: {"role": "time"}}, dataset={"max_age_days": days})).outcome == outcome


def test_a_repeated_key_shows_where_and_how_often(check):
    twice = pl.concat([TABLE, TABLE[1:3]])
    found = check("key", contract(dataset={"key": ["id", "d"]}), twice)
    assert found.examples == [{"row": 2, "id": 2, "d": "2024-01-02", "times": 2}, {"row": 3, "id": 3, "d": "2024-01-03", "times": 2}]


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (pl.col("n").cast(pl.String), "n: type", "the column holds string values (String), the contract says integer"),
        (pl.col("s").is_null(), "s: type", "the column holds boolean values (Boolean), the contract says string"),
        (pl.col("t").dt.date(), "t: type", ""),
        (pl.col("n").cast(pl.Float64), "n: type", ""),
        (pl.col("n").cast(pl.Float64), "n: whole numbers", ""),
        (pl.col("n") / 20, "n: whole numbers", "2 values are outside what is allowed: no fraction"),
        (pl.col("x").cast(pl.Decimal(5, 1)), "x: type", ""),
    ],
)
def test_types_may_differ_where_nothing_is_lost(check, change, name, message):
    # Decimals cannot hold NaN.
    table = TABLE.with_columns(pl.col("x").fill_nan(None)).with_columns(change)
    found = check(name, contract(), table)
    assert (found.outcome, found.message) == ("fail" if message else "pass", message)


def test_absent_and_new_columns_are_named(check):
    table = TABLE.rename({"n": "nn"})
    assert check("n: type", contract(), table).message == "there is no column 'n'; did you mean 'nn'?"
    extra = check("extra columns", contract(dataset={"allow_extra_columns": False}), table)
    assert (extra.outcome, extra.value, extra.message) == ("fail", 1, "not in the contract: nn")


def test_the_mean_of_infinities_of_both_signs_is_undefined(check):
    table = TABLE.with_columns(pl.when(pl.col("id") < 3).then(float("inf") * (pl.col("id") - 1.5)).otherwise("x").alias("x"))
    found = check("x: mean", contract({"x": {"limits": {"mean": [0, 9]}}}), table)
    assert (found.outcome, found.message) == ("fail", "the mean is undefined; allowed is 0 to 9")


def test_an_ignored_column_may_be_absent(check):
    assert check("rows", contract({"n": {"role": "ignore"}}), TABLE.drop("n")).outcome == "pass"


def test_a_rule_over_an_absent_column_is_not_asked(check):
    found = check("rule: r", contract(rows=[{"name": "r", "rule": "n > 3"}]), TABLE.drop("n"))
    assert found.outcome == "fail"
    assert found.message == "not asked, since its columns are not as the contract says: no column 'n'"


def test_infinities_are_found_and_shown(check):
    table = TABLE.with_columns(pl.when(pl.col("id") == 2).then(float("-inf")).otherwise("x").alias("x"))
    found = check("x: finite", contract(), table)
    assert (found.outcome, found.message, found.examples) == ("fail", "there are infinite values (1 row)", [{"row": 2, "x": "-inf"}])


def test_dates_held_as_text_are_checked_by_their_format(check):
    table = TABLE.with_columns(d=pl.Series(["01.02.2024", "1.2.2024", None, "2024-02-01", "soon", "03.02.2024"]))
    found = check("d: format", contract({"d": {"format": "%d.%m.%Y"}}), table)
    assert (found.outcome, [example["row"] for example in found.examples]) == ("fail", [4, 5])


def test_a_column_of_nothing_but_missing_values(check):
    table = TABLE.with_columns(n=pl.lit(None, dtype=pl.Int64))
    assert check("n: required", contract({"n": constraint(required=True, minimum=0)}), table).outcome == "fail"
    assert check("n: range", contract({"n": constraint(minimum=0)}), table).outcome == "pass"
    assert check("n: mean", contract({"n": limit(mean=[0, 1])}), table).outcome == "pass"


def test_a_table_without_rows_says_so(check):
    assert check("rows", contract(), TABLE.clear()).message == "the table has 0 rows, at least 1 are wanted"


def test_category_columns_are_texts():
    table = TABLE.with_columns(pl.col("s").cast(pl.Categorical))
    verdict = validate(table.lazy(), contract({"s": constraint(enum=["a", "b"], pattern="[abc]+")})).verdict
    assert [found.name for found in verdict.failed()] == ["s: enum"]


def test_the_identifier_stands_beside_a_failing_value(check):
    found = check("n: range", contract({"id": {"role": "id"}, "n": constraint(minimum=15)}))
    assert found.examples == [{"row": 1, "id": 1, "n": 10}]


def test_a_column_called_row_is_told_from_the_row_number(check):
    agreed = Contract.parse("fields: [{name: row, type: integer, constraints: {maximum: 3, unique: true}}]")
    table = pl.DataFrame({"row": [3, 4, 3]})
    assert check("row: range", agreed, table).examples == [{"row": 2, "row (column)": 4}]
    assert check("row: unique", agreed, table).examples == [{"row": 1, "row (column)": 3, "times": 2}]


def test_examples_are_bounded(flights, flights_contract):
    broken = yaml.safe_load(flights_contract.dump())
    broken["fields"][3]["constraints"] = {"enum": ["UA"]}
    verdict = validate(flights.lazy(), Contract.parse(yaml.safe_dump(broken)), examples=3).verdict
    assert [len(found.examples) for found in verdict.failed()] == [3]
    assert validate(flights.lazy(), Contract.parse(yaml.safe_dump(broken)), examples=0).verdict.failed()[0].examples == []


def test_both_engines_say_the_same_of_a_year_of_flights(all_flights, flights_contract):
    words = yaml.safe_load(flights_contract.dump())
    fields = {field["name"]: field for field in words["fields"]}
    fields["temp"] |= {"constraints": {"minimum": 20, "required": True}, "limits": {"mean": [0, 50], "median": [60, 70]}}
    fields["carrier"] |= {"constraints": {"enum": ["UA", "DL"], "pattern": "[A-Z]{2}"}, "limits": {"max_distinct": 5}}
    fields["pressure"] |= {"limits": {"max_missing": 0.05, "usual_range": [990, 1030]}}
    words |= {"rows": [{"name": "dew", "rule": "temp > dewp"}], "dataset": {"key": ["tailnum", "time_hour"]}}
    verdicts = [validate(through(engine, all_flights), Contract.parse(yaml.safe_dump(words)), now=NOW).verdict for engine in ("polars", "duckdb")]
    for one, other in zip(verdicts[0].checks, verdicts[1].checks, strict=True):
        assert (one.name, one.outcome, one.message, one.examples) == (other.name, other.outcome, other.message, other.examples)
        assert one.value == (pytest.approx(other.value, rel=1e-12) if isinstance(one.value, float) else other.value)
    assert len(verdicts[0].failed()) == 9


@pytest.mark.parametrize(
    ("fields", "rest", "message"),
    [
        ({"s": constraint(pattern="[a")}, {}, r"field 's': pattern '\[a' is no regular expression"),
        ({"s": constraint(pattern="(?=a)b")}, {}, r"field 's': pattern .* look-around"),
    ],
)
def test_a_pattern_that_no_engine_takes_is_refused(fields, rest, message):
    with pytest.raises(UserError, match=message):
        validate(TABLE.lazy(), contract(fields, **rest))


@pytest.fixture
def written(artifact, flights, flights_contract):
    dataset, agreed = artifact("dataset", dsl.Dataset), artifact("contract")
    DatasetFolder.write(dataset, flights.lazy(), source="sample://flights")
    flights_contract.save(agreed.path)
    return dataset, agreed


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_run_writes_verdict_and_report(artifact, written, engine):
    verdict, report = artifact("verdict"), artifact("report", dsl.HTML)
    assert core.run(*written, verdict, report, engine, 5) == ("pass",)
    assert Verdict.read(verdict.path).outcome == "pass"
    assert verdict.metadata["outcome"] == "pass"
    assert "sample://flights, 6,547 rows" in Path(report.path).read_text()


def test_the_report_shows_failing_rows_and_the_distribution(artifact, written, flights_contract):
    words = yaml.safe_load(flights_contract.dump())
    words["fields"][8]["constraints"] = {"maximum": 80}
    Path(written[1].path).write_text(yaml.safe_dump(words))
    verdict, report = artifact("verdict"), artifact("report", dsl.HTML)
    assert core.run(*written, verdict, report, "polars", 2) == ("fail",)
    page = Path(report.path).read_text()
    assert "temp: range" in page
    assert "<svg" in page
    first = page.encode()
    core.run(*written, verdict, report, "polars", 2)
    assert Path(report.path).read_bytes() == first
    assert json.loads(Path(verdict.path).read_text())["outcome"] == "fail"


def test_an_unknown_engine_is_refused(artifact, written):
    with pytest.raises(UserError, match="engine is 'dukdb'; did you mean 'duckdb'"):
        core.run(*written, artifact("verdict"), artifact("report", dsl.HTML), "dukdb", 5)

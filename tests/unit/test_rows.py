"""rows: JSON-like rows and tables become a model's inputs, or are refused with the column's name."""

import datetime as dt
import math
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import DataError
from kfp_foundry.components.common.rows import RowError, conform, feed, to_frame

CONTRACT = Contract.parse(
    """
fields:
  - {name: city, type: string}
  - {name: age, type: integer, constraints: {required: true}}
  - {name: income, type: number}
  - {name: member, type: boolean}
  - {name: born, type: date, format: "%d.%m.%Y"}
  - {name: seen, type: datetime}
  - {name: at, type: time}
  - {name: customer, type: string, role: id}
"""
)
ROW = {"age": 41}


def value(name, given):
    return to_frame([{**ROW, name: given}], CONTRACT)[name][0]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("city", "Ulm", "Ulm"),
        ("city", 89073, "89073"),
        ("city", None, None),
        ("age", 41.0, 41),
        ("age", "41", 41),
        ("age", np.int64(41), 41),
        ("age", "9007199254740993", 9007199254740993),
        ("income", 3, 3.0),
        ("income", "2.5", 2.5),
        ("income", Decimal("0.1"), 0.1),
        ("income", math.nan, None),
        ("member", 1, True),
        ("member", "False", False),
        ("born", "31.05.2024", dt.date(2024, 5, 31)),
        ("born", "2024-05-31", dt.date(2024, 5, 31)),
        ("seen", "2024-05-31T14:05:00+02:00", dt.datetime(2024, 5, 31, 12, 5)),
        ("seen", "2024-05-31T14:05:00Z", dt.datetime(2024, 5, 31, 14, 5)),
        ("seen", "2024-05-31", dt.datetime(2024, 5, 31)),
        ("at", "14:05:30", dt.time(14, 5, 30)),
    ],
)
def test_a_value_gets_its_columns_type(name, given, expected):
    assert value(name, given) == expected


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("city", True, r"row 0, column 'city': True is not a text; give a text or null"),
        ("city", 1.5, r"1.5 is not a text"),
        ("age", 41.5, r"41.5 is not a 64-bit whole number; give a whole number$"),
        ("age", 2**63, r"is not a 64-bit whole number"),
        ("age", "old", r"'old' is not a number"),
        ("age", True, r"True is not a number"),
        ("age", "1_000", r"'1_000' is not a number"),
        ("age", None, r"is missing, and the contract requires it; give a value"),
        ("income", math.inf, r"inf is not a finite number; give a number or null$"),
        ("income", [1], r"\[1\] is not a number"),
        ("member", 2, r"2 is not a truth value; give true or false or null"),
        ("born", "2024-13-01", r"'2024-13-01' is not an ISO date and not written as %d.%m.%Y"),
        ("born", "2024-05-31T10:00:00", r"a date with a time of day"),
        ("seen", 1_700_000_000, r"1700000000 is not a date and time"),
        ("at", "25:00", r"'25:00' is not an ISO time"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(name, given, message):
    with pytest.raises(RowError, match=message) as caught:
        value(name, given)
    assert (caught.value.row, caught.value.column) == (0, name)


def test_the_row_at_fault_is_named_in_the_callers_words():
    with pytest.raises(RowError, match=r"^instances 1, column 'age': is missing"):
        to_frame([ROW, {}], CONTRACT, where="instances")


def test_absent_optional_columns_are_null_and_extra_ones_ignored():
    frame = to_frame([{"age": 41, "shoe": "left", "customer": "c1"}], CONTRACT)
    assert frame.columns == CONTRACT.features
    assert frame.row(0, named=True) == {"city": None, "age": 41, "income": None, "member": None, "born": None, "seen": None, "at": None}


def test_no_rows_give_a_frame_with_all_columns():
    assert to_frame([], CONTRACT).schema == to_frame([ROW], CONTRACT).schema


def test_a_feed_holds_texts_and_seconds_and_numbers():
    row = {"city": None, "age": 41, "income": None, "member": True, "born": "1969-12-31", "seen": "1970-01-01T00:00:01.5Z", "at": "01:00:00"}
    arrays = feed(to_frame([row], CONTRACT), CONTRACT)
    assert list(arrays) == CONTRACT.features
    assert arrays["city"].tolist() == [""]
    assert arrays["city"].dtype == object
    numbers = [arrays[name][0] for name in ("age", "income", "member", "born", "seen", "at")]
    np.testing.assert_array_equal(numbers, [41.0, np.nan, 1.0, -86_400.0, 1.5, 3_600.0])
    assert all(arrays[name].dtype == np.float64 for name in CONTRACT.features if name != "city")


@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_a_moment_with_a_zone_is_fed_in_utc(zone):
    contract = Contract.parse("fields: [{name: seen, type: datetime}]")
    frame = pl.DataFrame({"seen": [dt.datetime(2024, 1, 1, 12)]}).select(pl.col("seen").dt.replace_time_zone("UTC").dt.convert_time_zone(zone))
    assert feed(frame, contract)["seen"][0] == dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC).timestamp()


def test_a_table_gets_the_contracts_types():
    table = pl.DataFrame({"age": [1.0, None], "born": ["31.05.2024", None], "city": pl.Series(["Ulm", None], dtype=pl.Categorical)})
    typed = conform(table, CONTRACT, ["age", "born", "city"])
    assert typed.schema == {"age": pl.Int64, "born": pl.Date, "city": pl.String}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"agee": [1]}, r"customers.csv: no column 'age'; did you mean 'agee'\?"),
        ({"age": ["old"]}, r"customers.csv: column 'age' is String, not integer.*correct the table or the contract"),
        ({"age": [1.5]}, r"column 'age' is Float64, not integer: some values are not whole numbers"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table, message):
    with pytest.raises(DataError, match=message):
        conform(pl.DataFrame(table), CONTRACT, ["age"], where="customers.csv")

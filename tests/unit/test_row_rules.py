"""Row rules: a small safe language, true to Kleene's logic, with errors that point at the character."""

import contextlib

import narwhals as nw
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.row_rules import check_rule, read_rule

TYPES = {"a": "integer", "b c": "number", "s": "string", "t": "datetime", "d": "date", "f": "boolean", "größe": "number", "tags": "any"}
TABLE = pl.DataFrame(
    {
        "a": [1, None, 3],
        "b c": [2.0, 2.0, 2.0],
        "s": ["x", "y", None],
        "t": ["2013-01-01T05:00:00", "2013-06-01T00:00:00", None],
        "d": ["2013-01-01", "2013-01-02", None],
        "f": [True, False, None],
        "größe": [1.0, 2.0, 3.0],
    }
).with_columns(pl.col("t").str.to_datetime(), pl.col("d").str.to_date())


def holds(rule: str) -> list[bool | None]:
    return (
        nw.from_native(TABLE)
        .select(nw.all_horizontal(read_rule(rule, TYPES).condition, ignore_nulls=False).alias("holds"))
        .to_native()["holds"]
        .to_list()
    )


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("a < 2", [True, None, False]),
        ("0 <= a <= 2", [True, None, False]),
        ("a <= `b c` * 2 - 1 / 2", [True, None, True]),
        ("`b c` == a + 1", [True, None, False]),
        ("-a < -2", [False, None, True]),
        ("a > 5 or s == 'y'", [False, True, None]),
        ("a < 5 and f", [True, False, None]),
        ("not f", [False, True, None]),
        ("f == True", [True, False, None]),
        ("s in ['x', \"z\"]", [True, False, None]),
        ("a not in (1, 2)", [False, None, True]),
        ("a is None or f is not None", [True, True, False]),
        ("t >= '2013-02-01'", [False, True, None]),
        ("d < '2013-01-02'", [True, False, None]),
        ("d <= t", [True, True, None]),
        ("größe > 1.5\n  and größe < 3", [False, True, False]),
        ("s != '`b c`'", [True, True, None]),
    ],
)
def test_a_rule_says_for_each_row_whether_it_holds(rule, expected):
    assert holds(rule) == expected


def test_a_rule_knows_its_columns():
    assert read_rule("`b c` < a or a > 3", TYPES).columns == ("b c", "a")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("a < 3 and bb > 2", r"character 11: no column 'bb'"),
        ("größe > 0 and x > 1", r"character 15: no column 'x'"),
        ("`b d` < 1", r"character 1: no column 'b d'; did you mean 'b c'"),
        ("a", r"character 1: a number is no condition"),
        ("a < 'x'", r"character 5: a number cannot be compared with a text"),
        ("s + a > 2", r"character 1: a text cannot be calculated with"),
        ("a < (3", r"character 5: cannot be read: '\(' was never closed"),
        ("a = 3", r"character 3: cannot be read.*== for equal"),
        ("t > 'soon'", r"character 5: 'soon' is not a date and time; write it in ISO form"),
        ("f < True", r"truth values have no order"),
        ("a in s", r"`in` needs a list of values"),
        ("a in [a, 2]", r"a list holds values, not columns"),
        ("a is 3", r"`is` asks only for None"),
        ("tags == 1", r"column 'tags' is of type any"),
        ("1 < 2", r"names no column"),
        ("", r"cannot be read"),
        ("a < 1" + " or a < 1" * 300, r"2,705 characters long"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_place(rule, message):
    with pytest.raises(UserError, match=message):
        check_rule(rule, TYPES)


@pytest.mark.parametrize(
    "rule", ["__import__('os').system('true')", "a.real > 1", "(lambda: a)() > 1", "[a for a in 'x']", "a if f else 3", "a[0] > 1", "f'{a}' == s"]
)
def test_nothing_but_the_language_is_taken(rule):
    with pytest.raises(UserError, match=r"is not part of the language|cannot be read"):
        check_rule(rule, TYPES)


@given(st.text(alphabet="ab `'\"()<>=!+-*/.,[]0123456789notandri\n\té", max_size=40))
def test_any_text_is_a_rule_or_a_clear_error(text):
    with contextlib.suppress(UserError):
        check_rule(text, TYPES)


@given(st.integers(-3, 3), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), st.integers(-3, 3), st.sampled_from(["and", "or"]))
def test_comparisons_agree_with_python(left, operator, right, joined):
    rule = f"größe {operator} {left} {joined} not größe * 2 {operator} {right}"
    assert holds(rule) == [eval(rule, {"größe": value}) for value in (1.0, 2.0, 3.0)]

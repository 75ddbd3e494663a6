"""Parameters are read by the types that the pipeline declares, and refused before anything starts."""

import datetime

import pytest

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.run.conditions import holds
from kfp_foundry.run.parameters import check, read_file, read_settings

DEFINITIONS = {
    "source": {"parameterType": "STRING"},
    "max_rows": {"parameterType": "NUMBER_INTEGER", "defaultValue": 0.0, "isOptional": True},
    "share": {"parameterType": "NUMBER_DOUBLE", "defaultValue": 0.2, "isOptional": True},
    "balanced": {"parameterType": "BOOLEAN", "defaultValue": False, "isOptional": True},
    "columns": {"parameterType": "LIST", "defaultValue": [], "isOptional": True},
    "params": {"parameterType": "STRUCT", "defaultValue": {}, "isOptional": True},
    "note": {"parameterType": "STRING", "isOptional": True},
}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("source=a=b.csv", "a=b.csv"),
        ("source=5", "5"),
        ("source=", ""),
        ("source=true", "true"),
        ("max_rows=12", 12),
        ("max_rows=1e3", 1000),
        ("max_rows=-1", -1),
        ("share=.25", 0.25),
        ("share=1", 1.0),
        ("balanced=yes", True),
        ("balanced=TRUE", True),
        ("balanced=0", False),
        ('columns=["a", "b"]', ["a", "b"]),
        ("columns=[a, b]", ["a", "b"]),
        ("columns=a, b", ["a", "b"]),
        ("columns=a", ["a"]),
        ("columns=", []),
        ('params={"a": 1}', {"a": 1}),
        ("params={a: 1.5, b: [x]}", {"a": 1.5, "b": ["x"]}),
        ("params=", {}),
    ],
)
def test_a_setting_is_read_by_its_declared_type(setting, value):
    (found,) = read_settings([setting], DEFINITIONS).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("max_rows=abc", "parameter max_rows: 'abc' is not a whole number; give a whole number, such as --set max_rows=100"),
        ("max_rows=1.5", "parameter max_rows: 1.5 is not a whole number"),
        ("max_rows=", "parameter max_rows: '' is not a whole number"),
        ("share=x", "parameter share: 'x' is not a number"),
        ("share=nan", "parameter share: nan is not a number"),
        ("balanced=2", "parameter balanced: '2' is not true or false"),
        ("columns={a: 1}", "parameter columns: {'a': 1} is not a list"),
        ("params=5", "parameter params: 5 is not a mapping"),
        ("params={a: ", "parameter params: '{a: ' is not a mapping"),
        ("params={a: .nan}", "parameter params: {'a': nan} is not a mapping"),
        ("max_row=5", "parameters: unknown parameter 'max_row'; did you mean 'max_rows'?"),
        ("source", "--set: 'source' is not name=value; write --set source=VALUE"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_to_write(setting, message):
    with pytest.raises(UserError) as refused:
        read_settings([setting], DEFINITIONS)
    assert str(refused.value).startswith(message)


def test_defaults_complete_what_is_given_and_optional_ones_without_default_stay_absent():
    assert check({"source": "a.csv", "max_rows": 5.0}, DEFINITIONS) == {
        "source": "a.csv",
        "max_rows": 5,
        "share": 0.2,
        "balanced": False,
        "columns": [],
        "params": {},
    }


@pytest.mark.parametrize(("value", "text"), [(0.5, "0.5"), (7, "7"), (True, "true"), (datetime.date(2013, 9, 1), "2013-09-01"), ("a", "a")], ids=str)
def test_a_scalar_of_a_parameter_file_may_stand_for_a_text(value, text):
    assert check({"source": value}, DEFINITIONS)["source"] == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"required, but not given: source; add --set source="),
        ({"source": "a", "balanced": 1}, r"parameter balanced: 1 is not true or false"),
        ({"source": ["a"]}, r"parameter source: \['a'\] is not a text"),
        ({"source": "a", "max_rows": True}, r"parameter max_rows: True is not a whole number"),
        ({"source": "a", "share": float("inf")}, r"parameter share: inf is not a number"),
        ({"source": "a", "Columns": []}, r"unknown parameter 'Columns'; did you mean 'columns'\?"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        check(arguments, DEFINITIONS)


def test_a_parameter_file_is_yaml_or_json(tmp_path):
    (tmp_path / "a.yaml").write_text("source: a.csv\ncolumns: [x]\n")
    (tmp_path / "b.json").write_text('{"source": "a.csv"}')
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_file(tmp_path / "a.yaml") == {"source": "a.csv", "columns": ["x"]}
    assert read_file(tmp_path / "b.json") == {"source": "a.csv"}
    assert read_file(tmp_path / "empty.yaml") == {}


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n", "holds list, not names with values"), ("a: [", "is not YAML"), (None, "cannot be read: No such file")]
)
def test_a_wrong_parameter_file_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=f"parameters .*p.yaml: {message}"):
        read_file(tmp_path / "p.yaml")


VALUES = {"text": "it's", "n": 3, "x": 2.5, "yes": True}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("inputs.parameter_values['yes'] == true", True),
        ("!(inputs.parameter_values['yes'] == true)", False),
        ("int(inputs.parameter_values['n']) >= 3 && inputs.parameter_values['x'] < 2.5", False),
        ("double(int(inputs.parameter_values['n'])) > 2.5", True),
        ("'a' == 'b' || inputs.parameter_values['x'] > -1e3", True),
        ("true || false && false", True),
        ("(true || false) && false", False),
        ("'a && b' != 'a'", True),
        (r"inputs.parameter_values['text'] == 'it\'s'", True),
        ("string(3) == '3'", True),
    ],
)
def test_conditions_mean_what_they_mean_on_a_cluster(condition, expected):
    assert holds(condition, VALUES) is expected


@pytest.mark.parametrize(
    "condition", ["inputs.parameter_values['absent'] == 1", "'a' < 1", "1 ==", "(true", "true true", "import('os')", "1 + 1 == 2", "'it's' == 'x'"]
)
def test_a_condition_that_cannot_be_evaluated_is_an_error(condition):
    with pytest.raises(UserError, match="condition cannot be evaluated"):
        holds(condition, VALUES)

"""Contract: one YAML file that is read strictly, written briefly, and answers which column is what."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kfp_foundry.components.common.contract import POLARS_TYPES, Contract, FieldSpec, Type, json_schema, type_of
from kfp_foundry.components.common.errors import UserError

AGE = "{name: age, type: integer}"


def parse(*fields: str, **rest: str) -> Contract:
    more = "".join(f", {name}: {text}" for name, text in rest.items())
    return Contract.parse(f"{{fields: [{', '.join(fields)}]{more}}}")


def test_roles_are_answered_by_name(flights_contract):
    contract = flights_contract.with_role("origin", "group").with_role("dest", "sensitive")
    assert (contract.target, contract.time, contract.group, contract.weight) == ("late", "time_hour", "origin", None)
    assert "dest" not in contract.features
    assert contract.features[:2] == ["sched_dep_minute", "sched_arr_minute"]


def test_what_is_written_is_read_back(flights_contract):
    assert Contract.parse(flights_contract.dump()) == flights_contract


def test_defaults_are_not_written():
    assert parse(AGE).dump() == "version: 1\nfields:\n- {name: age, type: integer}\n"


@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.sampled_from([t for t in Type if t is not Type.ANY]), st.booleans(), st.none() | st.text()),
        unique_by=lambda f: f[0],
    )
)
def test_any_contract_survives_its_file(fields):
    contract = Contract(
        fields=[FieldSpec(name=n, type=t, description=d, constraints={"required": r}) for n, t, r, d in fields],
    )
    assert Contract.parse(contract.dump()) == contract


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fields: [", "contract: not valid YAML"),
        ("just text", "contract: .*valid dictionary"),
        ("", "contract: .*valid dictionary"),
        ("{fields: [{name: age}]}", r"fields\.0\.type: Field required"),
        ("{fields: [{name: age, type: int}]}", r"fields\.0\.type: Input should be 'string', 'integer'"),
        ("{version: 2, fields: [{name: age, type: integer}]}", r"version: Input should be 1"),
        ("{fields: [{name: age, type: integer, rolle: id}]}", r"fields\.0\.rolle: Extra inputs are not permitted"),
        (f"{{fields: [{AGE}, {AGE}]}}", "fields named twice: age"),
        ("{fields: [{name: a, type: date, role: time}, {name: b, type: date, role: time}]}", "only one field can have the role time.*a, b"),
        (f"{{task: binary, fields: [{AGE}]}}", "task and a field with the role target go together"),
        ("{fields: [{name: age, type: integer, constraints: {pattern: x}}]}", "field 'age': pattern is for type string"),
        ("{fields: [{name: name, type: string, constraints: {minimum: 1}}]}", "field 'name': minimum is for numbers and dates, not string"),
        ("{fields: [{name: day, type: date, constraints: {minimum: yesterday}}]}", "minimum 'yesterday' is not an ISO date"),
        ("{fields: [{name: day, type: date, limits: {mean: [1, 2]}}]}", "field 'day': mean is for numbers"),
        ("{fields: [{name: tags, type: any}]}", "field 'tags': type any cannot be used as feature; give it the role ignore"),
        (f"{{fields: [{AGE}], dataset: {{key: [agee]}}}}", "dataset.key names 'agee', which is no field; did you mean 'age'"),
        (f"{{fields: [{AGE}], rows: [{{name: old, rule: agee > 3}}]}}", "no column 'agee'; did you mean 'age'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(text, message):
    with pytest.raises(UserError, match=message):
        Contract.parse(text)


def test_the_example_of_the_documentation_is_a_contract():
    page = (Path(__file__).parents[2] / "docs" / "contract.md").read_text(encoding="utf-8")
    assert Contract.parse(page.split("```yaml\n")[1].split("```")[0]).target == "Churn"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read: No such file"):
        Contract.load(tmp_path / "none.yaml")


def test_an_unknown_field_says_the_close_names(flights_contract):
    with pytest.raises(UserError, match="no field 'carier'; did you mean 'carrier'"):
        flights_contract.field("carier")


@pytest.mark.parametrize("kind", list(POLARS_TYPES))
def test_every_type_has_a_column_type_of_its_own(kind):
    assert type_of(POLARS_TYPES[kind]) is kind


@pytest.mark.parametrize("dtype", [pl.List(pl.Int64), pl.Struct({"a": pl.Int64}), pl.Binary, pl.Duration("us")])
def test_nested_columns_have_no_plain_type(dtype):
    assert type_of(dtype() if isinstance(dtype, type) else dtype) is None


def test_the_schema_for_editors_describes_every_word():
    schema = json_schema()
    fields = schema["$defs"]["FieldSpec"]["properties"]
    assert set(fields) >= {"name", "type", "role", "constraints", "limits"}
    for part in ("FieldSpec", "Constraints", "Limits", "RowRule"):
        assert schema["$defs"][part]["additionalProperties"] is False
    assert json.loads(json.dumps(schema)) == schema

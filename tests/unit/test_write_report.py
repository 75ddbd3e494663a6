"""write_report: the example request works when pasted, whatever the values are."""

import datetime as dt
import json
import shlex

import polars as pl

from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.contract import Contract, FieldSpec
from kfp_foundry.components.evaluation.write_report.core import curl, example_row

ENDPOINT = Endpoint(name="m", url="http://127.0.0.1:8090", revision="sha256:ab")


def test_the_request_survives_a_shell_whatever_the_texts_hold():
    row = {"it's": 'a "b" $HOME `ls` \\', "n": None, "unicode": "Zoë"}
    words = shlex.split(curl(ENDPOINT, row))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:8090/v1/models/m:predict"]
    assert json.loads(words[-1]) == {"instances": [row]}


def test_an_example_row_has_the_features_only_and_dates_as_iso_texts():
    fields = [FieldSpec(name="day", type="date"), FieldSpec(name="age", type="integer"), FieldSpec(name="churn", type="boolean", role="target")]
    table = pl.LazyFrame({"day": [dt.date(2026, 2, 28)], "age": [None], "churn": [True]})
    assert example_row(table, Contract(task="binary", fields=fields)) == {"day": "2026-02-28", "age": None}

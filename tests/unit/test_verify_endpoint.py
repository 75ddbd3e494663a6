"""verify_endpoint: what the server answers is what the batch path predicts, or the verdict says where it is not."""

import datetime as dt
import json
import math
import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import polars as pl
import pytest
from kfp import dsl

from kfp_foundry.components.common import local_server
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.artifacts.verdict import Verdict
from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.inference import Client, curl, json_rows
from kfp_foundry.components.deployment.verify_endpoint import core, sample
from kfp_foundry.components.deployment.verify_endpoint.core import run, verify


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for name in {row.name for row in local_server.list_all()}:
        local_server.stop(name)


@pytest.fixture
def model(make_model, tmp_path, home):
    return make_model(tmp_path / "model")


@pytest.fixture
def endpoint(model):
    return local_server.start(model.path, "flights", threshold=0.3)


@pytest.fixture
def test_rows(flights):
    return flights.tail(500).lazy()


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {check.name: check.outcome for check in verdict.checks}


def test_an_endpoint_that_serves_the_model_passes(endpoint, model, test_rows, artifact, flights):
    DatasetFolder.write(artifact("test", dsl.Dataset), test_rows, source="test")
    endpoint.write(artifact("endpoint"))
    verdict, report = artifact("verdict"), artifact("report", dsl.HTML)
    assert run(artifact("endpoint"), artifact("model", dsl.Model), artifact("test", dsl.Dataset), verdict, report, 50, 1e-9, 0.0) == ("pass",)
    written = Verdict.read(verdict.path)
    assert set(outcomes(written).values()) == {"pass"}
    assert {"model", "V1, one by one", "V1, in batches", "V2, in batches", "99th percentile, ms"} <= set(outcomes(written))
    assert verdict.metadata["p99_ms"] >= verdict.metadata["p50_ms"] > 0
    page = Path(report.path).read_text()
    assert "rows over HTTP have the predictions of the batch path" in page
    assert "curl -s" in page


def test_its_requests_stay_out_of_the_payload_log(endpoint, model, test_rows):
    verify(endpoint, model, test_rows, rows=20)
    local_server.stop("flights")
    assert list(local_server.payloads("flights").glob("date=*/*")) == []


def test_an_endpoint_that_serves_another_model_fails_with_the_rows_that_differ(endpoint, make_model, test_rows, tmp_path):
    other = make_model(tmp_path / "other", bias=0.1)
    found = verify(endpoint, other, test_rows, rows=20)
    assert found.verdict.outcome == "fail"
    assert outcomes(found.verdict)["model"] == "fail"
    differing = next(check for check in found.verdict.checks if check.name == "V2, in batches")
    assert differing.outcome == "fail"
    assert differing.value > 1e-3
    assert set(differing.examples[0]) == {"row", "expected", "served"}
    assert re.match(r"\d of \d checks failed: model, V1, one by one", found.verdict.reason)


def test_an_endpoint_with_another_threshold_fails_by_its_labels(endpoint, model, test_rows):
    found = verify(endpoint.model_copy(update={"threshold": 0.6}), model, test_rows, rows=100)
    check = next(check for check in found.verdict.checks if check.name == "V1, in batches")
    assert check.outcome == "fail"
    assert check.value == 0.0
    assert re.search(r"[1-9]\d* of them in their label", check.message)


def test_a_server_that_died_fails_and_is_no_error(endpoint, model, test_rows, monkeypatch):
    os.kill(endpoint.pid, signal.SIGKILL)
    os.waitpid(endpoint.pid, 0)
    monkeypatch.setattr(core, "CONNECT_SECONDS", 0.3)
    found = verify(endpoint, model, test_rows, rows=5)
    assert outcomes(found.verdict) == {"answers": "fail"}
    assert "Connection refused" in found.verdict.checks[0].message


def test_a_slow_endpoint_fails_when_a_limit_is_given(endpoint, model, test_rows):
    found = verify(endpoint, model, test_rows, rows=10, max_p99_ms=1e-6)
    assert [check.name for check in found.verdict.failed()] == ["99th percentile, ms"]


def test_an_endpoint_without_traffic_passes_with_its_note(artifact, model, flights):
    Endpoint(name="flights", url="", revision=model.digest, traffic=0, note="nothing was deployed: the gate before said fail").write(
        artifact("endpoint")
    )
    verdict = artifact("verdict")
    arguments = [artifact("endpoint"), artifact("model", dsl.Model), artifact("test", dsl.Dataset), verdict, artifact("report", dsl.HTML)]
    assert run(*arguments, 200, 1e-9, 0.0) == ("pass",)
    assert json.loads(Path(verdict.path).read_text())["reason"] == "nothing was deployed: the gate before said fail"


@pytest.mark.parametrize(
    ("rows", "tolerance", "limit", "message"),
    [
        (0, 1e-9, 0.0, r"verify_endpoint: rows is 0; give 1 to 10000"),
        (10, -1.0, 0.0, r"tolerance is -1.0; give 0 or more"),
        (10, 0.0, -5.0, r"max_p99_ms is -5.0"),
    ],
)
def test_wrong_parameters_are_refused(artifact, rows, tolerance, limit, message):
    artifacts = [artifact(name) for name in ("endpoint", "model", "test", "verdict", "report")]
    with pytest.raises(UserError, match=message):
        run(*artifacts, rows, tolerance, limit)


def test_rows_are_real_with_gaps_and_with_unseen_categories(test_rows, flights_contract):
    frame, kinds = sample.choose(test_rows, flights_contract, 30)
    assert frame.columns == flights_contract.features
    assert {"test", "missing", "unseen"} == set(kinds)
    missing, unseen = frame.filter(kinds == "missing"), frame.filter(kinds == "unseen")
    assert all(missing[name].null_count() >= 2 for name in flights_contract.features)
    assert [(unseen[name] == sample.UNSEEN).sum() for name in ("carrier", "origin", "dest")] == [1, 1, 1]
    assert frame.equals(sample.choose(test_rows, flights_contract, 30)[0])


def test_a_required_column_is_never_sent_empty(test_rows, flights_contract):
    fields = [f.model_copy(update={"constraints": f.constraints.model_copy(update={"required": f.name == "temp"})}) for f in flights_contract.fields]
    strict = flights_contract.model_copy(update={"fields": fields})
    holes = test_rows.with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("temp").alias("temp"))
    frame, _ = sample.choose(holes, strict, 30)
    assert frame["temp"].null_count() == 0
    with pytest.raises(DataError, match="no column 'temp'"):
        sample.choose(test_rows.drop("temp"), strict, 30)


def test_the_command_survives_a_shell_whatever_the_values_are():
    table = pl.DataFrame({"it's": ['a "b" $HOME `ls` \\'], "unicode": ["Zoë"], "none": [None], "nan": [math.nan], "day": [dt.date(2026, 2, 28)]})
    words = shlex.split(curl("http://127.0.0.1:8090/v1/models/m:predict", json_rows(table)))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:8090/v1/models/m:predict"]
    row = {"it's": 'a "b" $HOME `ls` \\', "unicode": "Zoë", "none": None, "nan": None, "day": "2026-02-28"}
    assert json.loads(words[-1]) == {"instances": [row]}


def test_the_command_of_the_report_works_in_a_shell(endpoint, flights):
    row = json_rows(flights.head(1).with_columns(carrier=pl.lit("it's")))
    answer = subprocess.run(["bash", "-c", curl(endpoint.predict_url, row)], capture_output=True, text=True, check=True)
    with Client(endpoint.url, "flights") as client:
        assert json.loads(answer.stdout) == client.v1(row).body

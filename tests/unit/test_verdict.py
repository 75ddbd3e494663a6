"""Verdict and Endpoint: what gates and deployments leave behind."""

import json
from pathlib import Path

import pytest
from kfp import dsl

from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.artifacts.verdict import Check, Verdict
from kfp_foundry.components.common.errors import IntegrityError


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [([], "pass"), (["pass", "pass"], "pass"), (["pass", "warn"], "warn"), (["fail", "warn", "pass"], "fail")],
)
def test_the_worst_check_decides(outcomes, expected):
    checks = [Check(name=str(number), outcome=outcome) for number, outcome in enumerate(outcomes)]
    assert Verdict(gate="g", checks=checks).outcome == expected


def test_a_verdict_is_read_as_it_was_written(artifact):
    made = artifact("verdict")
    verdict = Verdict(gate="validate_table", reason="one column", checks=[Check(name="age: minimum", outcome="fail", limit=">= 0", value=-1)])
    verdict.write(made)
    assert Verdict.read(made.path) == verdict
    assert made.metadata == {"gate": "validate_table", "outcome": "fail", "checks": 1, "failed": 1}


def test_values_that_json_cannot_hold_become_null(artifact):
    made = artifact("verdict")
    Verdict(gate="g", checks=[Check(name="mean", outcome="fail", value=float("nan"), examples=[{"x": float("inf")}])]).write(made)
    check = json.loads(Path(made.path).read_text())["checks"][0]
    assert (check["value"], check["examples"]) == (None, [{"x": None}])


def test_an_endpoint_is_read_as_it_was_written(artifact):
    made = artifact("endpoint", dsl.Artifact)
    endpoint = Endpoint(name="m", url="http://127.0.0.1:8090", revision="sha256:ab", threshold=0.4)
    endpoint.write(made)
    assert Endpoint.read(made) == endpoint
    assert made.metadata["url"] == "http://127.0.0.1:8090"


def test_a_file_that_is_no_endpoint_is_refused(tmp_path):
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(IntegrityError, match="not a readable endpoint; deploy the model again"):
        Endpoint.read(tmp_path / "e.json")

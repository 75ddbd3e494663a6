"""deploy_model: serves what the gate let pass, and says plainly what it did not do."""

import pytest
import requests
from kfp import dsl

from kfp_foundry.components.common import local_server
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.deployment.deploy_model.core import KServe, deploy, run


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    yield tmp_path / "home"
    for name in {row.name for row in local_server.list_all()}:
        local_server.stop(name)


@pytest.fixture
def model(make_model, tmp_path, home):
    return make_model(tmp_path / "model").path


def test_a_model_that_passed_is_served_and_the_artifact_says_where(model, artifact):
    endpoint = artifact("endpoint")
    deployed, url = run(artifact("model", dsl.Model), endpoint, "flights", "warn", "auto", 0.25, KServe())
    assert deployed
    assert requests.get(f"{url}/v2/models/flights/ready", timeout=5).status_code == 200
    written = Endpoint.read(endpoint)
    assert (written.url, written.threshold, written.traffic) == (url, 0.25, 100)
    assert endpoint.metadata["revision"] == written.revision
    assert all(isinstance(value, (str, int, float)) for value in endpoint.metadata.values())


def test_nothing_is_deployed_after_a_gate_said_fail(model, artifact, home):
    endpoint = artifact("endpoint")
    assert run(artifact("model", dsl.Model), endpoint, "flights", "fail", "local", 0.5, KServe()) == (False, "")
    assert Endpoint.read(endpoint).note == "nothing was deployed: the gate before said fail"
    assert Endpoint.read(endpoint).traffic == 0
    assert not home.exists()


def test_on_a_cluster_nothing_is_deployed_yet_and_the_endpoint_says_so(model, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    endpoint = deploy(model, "flights", "pass", "auto", 0.5, KServe(namespace="models", cpu="500m", memory="2Gi", max_replicas=3, strategy="canary"))
    assert (endpoint.traffic, endpoint.url, endpoint.target) == (0, "", "kserve")
    assert "this release does not serve on KServe yet (platform kubeflow: target=auto, and this step runs inside a Kubernetes pod)" in endpoint.note


@pytest.mark.parametrize(
    ("changed", "settings", "message"),
    [
        ({"outcome": "passed"}, {}, r"outcome is 'passed'; did you mean 'pass'\?"),
        ({"target": "kubernetes"}, {}, r"target is 'kubernetes'; choose one of: auto, kubeflow, local"),
        ({"threshold": -0.1}, {}, r"threshold is -0.1; give a probability"),
        ({"name": "a/b"}, {}, r"name is 'a/b'; use letters"),
        ({"name": "Flights", "target": "kubeflow"}, {}, r"name is 'Flights'; KServe takes small letters"),
        ({"name": "f" * 60, "target": "kubeflow"}, {}, r"at most 53 characters"),
        ({}, {"namespace": "My Space"}, r"namespace is 'My Space'"),
        ({}, {"runtime": ""}, r"runtime is ''; give the name of a serving runtime"),
        ({}, {"service_account": "a_b"}, r"service_account is 'a_b'"),
        ({}, {"cpu": "two"}, r"cpu is 'two'; give processors such as '2' or '500m'"),
        ({}, {"memory": "1 GB"}, r"memory is '1 GB'; give an amount"),
        ({}, {"min_replicas": -1}, r"min_replicas is -1"),
        ({}, {"min_replicas": 3}, r"max_replicas is 1; give 3 or more"),
        ({}, {"max_replicas": 0}, r"max_replicas is 0; give 1 or more"),
        ({}, {"strategy": "blue_green"}, r"strategy is 'blue_green'; choose one of: all_at_once, canary"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_starts(model, home, changed, settings, message):
    given = {"name": "flights", "outcome": "pass", "target": "local", "threshold": 0.5} | changed
    with pytest.raises(UserError, match=message):
        deploy(model, settings=KServe(**settings), **given)
    assert not home.exists()

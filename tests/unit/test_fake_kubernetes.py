"""The fake API server answers as the real one does: its refusals are held against what was recorded."""

import json
import time

import pytest
from fake_kubernetes import FakeCluster
from kubernetes import client, config

GROUP = ("trainer.kubeflow.org", "v1alpha1")


def train_job(name="job", runtime="torch-distributed", **trainer):
    spec = {"runtimeRef": {"name": runtime}, "trainer": {"image": "local/examples:1", "numNodes": 2, "numProcPerNode": 1, **trainer}}
    return {"apiVersion": "/".join(GROUP), "kind": "TrainJob", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def api(fake_cluster):
    configuration = client.Configuration()
    config.load_kube_config(config_file=fake_cluster.kubeconfig, client_configuration=configuration)
    configuration.retries = False
    with client.ApiClient(configuration) as connection:
        yield client.CustomObjectsApi(connection), client.CoreV1Api(connection)


def create(api, body, **options):
    return api[0].create_namespaced_custom_object(*GROUP, "team", "trainjobs", body, **options)


def until(reached, seconds=10):
    end = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.02)
    return found


def test_an_object_is_created_read_listed_and_deleted(fake_cluster, api):
    made = create(api, train_job())
    assert made["metadata"]["uid"]
    assert api[0].get_namespaced_custom_object(*GROUP, "team", "trainjobs", "job")["spec"]["trainer"]["numNodes"] == 2
    assert len(api[0].list_namespaced_custom_object(*GROUP, "team", "trainjobs")["items"]) == 1
    api[0].delete_namespaced_custom_object(*GROUP, "team", "trainjobs", "job")
    assert fake_cluster.objects("trainjobs") == []
    assert [r.verb for r in fake_cluster.requests] == ["create", "get", "list", "delete"]


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda body: body["spec"]["runtimeRef"].update(name="none"), {}),
        (lambda body: body["spec"].update(podSpecOverrides=[]), {"field_validation": "Strict"}),
        (lambda body: body["spec"]["trainer"].update(env=[{"name": "PET_NNODES", "value": "3"}]), {}),
    ],
    ids=["no such runtime", "unknown field", "reserved environment variable"],
)
@pytest.mark.parametrize(("trainer", "recording"), [("2.3", "trainjob-refused"), ("2.1", "trainjob-refused-trainer21")])
def test_a_refusal_is_worded_as_recorded(change, options, trainer, recording, recorded):
    body = train_job(command=["python3", "/app/rendezvous.py"])
    change(body)
    with FakeCluster(trainer=trainer) as cluster:
        answer = refusal(cluster, body, **options)
    said = [line["body"] for line in recorded(recording) if line["type"] == "RESPONSE"]
    assert answer in said


@pytest.fixture
def recorded():
    from fake_kubernetes_replay import recording

    return recording


def refusal(cluster, body, **options):
    configuration = client.Configuration()
    config.load_kube_config(config_file=cluster.kubeconfig, client_configuration=configuration)
    with pytest.raises(client.ApiException) as caught:
        client.CustomObjectsApi(client.ApiClient(configuration)).create_namespaced_custom_object(*GROUP, "team", "trainjobs", body, **options)
    return json.loads(caught.value.body)

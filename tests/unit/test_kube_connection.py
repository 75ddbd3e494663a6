"""Calls to an API server: what is tried again, what is final, and what is said about it."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.kube import connection, credentials
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, JOB, POD, PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.task import Task


@pytest.fixture
def cluster(fake_cluster, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.02)
    return Cluster.connect(outage_seconds=1.0)


def trainjob(name: str = "train", **spec: object) -> dict:
    return {"metadata": {"name": name}, "spec": {"runtimeRef": {"name": "torch-distributed"}, **spec}}


def verbs(fake_cluster) -> list[str]:
    return [request.verb for request in fake_cluster.requests if request.plural == "trainjobs"]


def test_an_object_is_created_read_changed_listed_and_deleted(cluster):
    made = cluster.create(TRAINJOB, {**trainjob(), "metadata": {"name": "train", "labels": {"a": "b"}}})
    assert cluster.get(TRAINJOB, "train")["metadata"]["uid"] == made["metadata"]["uid"]
    assert cluster.patch(TRAINJOB, "train", {"metadata": {"labels": {"c": "d"}}})["metadata"]["labels"] == {"a": "b", "c": "d"}
    assert [found["metadata"]["name"] for found in cluster.list(TRAINJOB, {"a": "b"})] == ["train"]
    assert cluster.list(TRAINJOB, {"a": "x"}) == []
    assert cluster.delete(TRAINJOB, "train")
    assert not cluster.delete(TRAINJOB, "train")
    assert cluster.get(TRAINJOB, "train") is None


def test_a_name_that_is_taken_is_told_and_no_error(cluster):
    cluster.create(TRAINJOB, trainjob())
    assert cluster.create(TRAINJOB, trainjob()) is None


def test_only_the_object_with_that_uid_is_deleted(cluster):
    cluster.create(TRAINJOB, trainjob())
    assert not cluster.delete(TRAINJOB, "train", uid="another")
    assert cluster.get(TRAINJOB, "train")


def test_a_deletion_that_meets_a_change_is_tried_again(cluster, fake_cluster):
    made = cluster.create(TRAINJOB, trainjob())
    fake_cluster.fail("delete", 409, reason="Conflict", message="the object has been modified; please apply your changes to the latest version")
    assert cluster.delete(TRAINJOB, "train", uid=made["metadata"]["uid"])
    assert cluster.get(TRAINJOB, "train") is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_refusal_is_tried_again(cluster, fake_cluster, status):
    fake_cluster.fail("create", status, times=2)
    assert cluster.create(TRAINJOB, trainjob())
    assert verbs(fake_cluster) == ["create"] * 3


def test_a_dropped_connection_is_tried_again(cluster, fake_cluster):
    fake_cluster.drop("get", times=2)
    assert cluster.get(TRAINJOB, "train") is None
    assert verbs(fake_cluster) == ["get"] * 3


def test_a_conflict_over_a_quota_is_no_taken_name(cluster, fake_cluster):
    fake_cluster.fail("create", 409, reason="Conflict", message='Operation cannot be fulfilled on resourcequotas "team"')
    assert cluster.create(TRAINJOB, trainjob())


def test_the_server_says_how_long_to_wait(cluster, fake_cluster):
    fake_cluster.fail("get", 429, retry_after=0.5)
    began = time.monotonic()
    cluster.get(TRAINJOB, "train")
    assert time.monotonic() - began >= 0.5


def test_a_server_that_stays_away_ends_the_call_in_words(cluster, fake_cluster):
    fake_cluster.fail("get", 503, times=1000)
    with pytest.raises(PlatformError, match=r"namespace team: could not get TrainJob train for 1 s: HTTP 503 .*run again"):
        cluster.get(TRAINJOB, "train")


def test_an_impatient_call_is_made_twice_at_most(cluster, fake_cluster):
    fake_cluster.fail("get", 503, times=1000)
    with pytest.raises(PlatformError):
        cluster.impatient().get(TRAINJOB, "train")
    assert verbs(fake_cluster) == ["get", "get"]


@pytest.mark.parametrize("status", [401, 403, 422])
def test_a_final_refusal_is_not_tried_again(cluster, fake_cluster, status):
    fake_cluster.fail("create", status, times=1000)
    with pytest.raises((PlatformError, UserError)):
        cluster.create(TRAINJOB, trainjob())
    assert len(verbs(fake_cluster)) == (2 if status == 401 else 1)  # once more with credentials read anew


def test_a_rotated_token_is_read_anew(cluster, fake_cluster):
    cluster.create(TRAINJOB, trainjob())
    fake_cluster.rotate_token()
    assert cluster.get(TRAINJOB, "train")


def test_a_token_that_stays_wrong_is_told(cluster, fake_cluster):
    fake_cluster.rotate_token(publish=False)
    with pytest.raises(PlatformError, match=r"does not accept the credentials"):
        cluster.get(TRAINJOB, "train")


def test_a_missing_right_is_named_with_what_gives_it(cluster, fake_cluster):
    fake_cluster.deny("create", "trainjobs")
    message = r'lacks verb "create" on trainjobs of API group "trainer.kubeflow.org"; give it by `kubectl apply -k manifests/base -n team`'
    with pytest.raises(PlatformError, match=message):
        cluster.create(TRAINJOB, trainjob())


def test_a_webhooks_refusal_is_no_missing_right(cluster):
    body = trainjob()
    body["spec"]["runtimeRef"] = {"name": "none"}
    with pytest.raises(UserError, match=r"refuses to create TrainJob train: .*must be created before.* \(says validator.trainjob"):
        cluster.create(TRAINJOB, body)


def test_a_field_that_the_cluster_does_not_know_is_refused_and_not_dropped(cluster):
    with pytest.raises(PlatformError, match=r'unknown field "spec.podSpecOverrides"'):
        cluster.create(TRAINJOB, trainjob(podSpecOverrides=[]))


def test_a_log_that_is_not_there_yet_is_no_mistake_of_the_user(cluster, fake_cluster):
    fake_cluster.fail("get", 400, plural="pods/log", message='container "node" in pod "train-0" is waiting to start: ContainerCreating')
    with pytest.raises(PlatformError, match=r"cannot get the log of Pod train-0: .*waiting to start: ContainerCreating"):
        cluster.pod_log("train-0")


def test_a_field_that_cannot_change_is_told(cluster):
    cluster.create(TRAINJOB, trainjob(trainer={"numNodes": 1}))
    with pytest.raises(UserError, match=r"field is immutable"):
        cluster.patch(TRAINJOB, "train", {"spec": {"trainer": {"numNodes": 2}}})


@pytest.mark.parametrize("call", ["get", "create", "list", "fields"])
def test_a_kind_that_is_not_served_names_what_to_install(cluster, fake_cluster, call):
    fake_cluster.unserve("trainjobs", "trainingruntimes", "clustertrainingruntimes")
    calls = {
        "get": lambda: cluster.get(TRAINJOB, "train"),
        "create": lambda: cluster.create(TRAINJOB, trainjob()),
        "list": lambda: cluster.list(TRAINJOB),
        "fields": lambda: cluster.fields(TRAINJOB),
    }
    with pytest.raises(PlatformError, match=r"serves no trainjobs.trainer.kubeflow.org of version v1alpha1; install Kubeflow Trainer"):
        calls[call]()


def test_what_is_served_is_known(cluster, fake_cluster):
    fake_cluster.unserve("pytorchjobs")
    assert [cluster.served(kind) for kind in (TRAINJOB, PYTORCHJOB, EXPERIMENT, JOB, POD)] == [True, False, True, True, True]


@pytest.mark.parametrize(
    ("trainer", "there", "absent"),
    [
        ("2.1", "spec.podTemplateOverrides", "spec.activeDeadlineSeconds"),
        ("2.3", "spec.runtimePatches.manager", "spec.podTemplateOverrides"),
    ],
)
def test_the_fields_of_a_version_are_known(monkeypatch, trainer, there, absent):
    from fake_kubernetes import FakeCluster

    with FakeCluster(trainer=trainer) as fake:
        fields = Cluster.connect(kubeconfig=fake.kubeconfig).fields(TRAINJOB)
    assert there in fields
    assert absent not in fields


def test_without_a_cluster_the_remedy_names_all_ways(monkeypatch, tmp_path):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(PlatformError, match=r"no Kubernetes cluster to talk to; .*KUBECONFIG.*target=local"):
        Cluster.connect()


@pytest.mark.parametrize("text", ["kind: Config\n", "", "users: [{name: x\n", "just words\n", "- a\n- b\n"])
def test_a_kubeconfig_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "config").write_text(text)
    with pytest.raises(PlatformError, match=r"kubeconfig .*/config: cannot be used"):
        Cluster.connect(kubeconfig=str(tmp_path / "config"))


@pytest.fixture
def changed_kubeconfig(fake_cluster, tmp_path):
    """The kubeconfig of the fake cluster with other values: `changed_kubeconfig("users", "user", token="x")`."""

    def change(part: str, inner: str, **values: str) -> str:
        known = json.loads(Path(fake_cluster.kubeconfig).read_text())
        known[part][0][inner] |= values
        (tmp_path / "config").write_text(json.dumps(known))
        return str(tmp_path / "config")

    return change


@pytest.mark.parametrize("token", ["hidden\n", "hid\nden", "hidd\u4e2den"])
def test_a_token_that_cannot_be_sent_is_told_and_not_shown(changed_kubeconfig, token):
    cluster = Cluster.connect(kubeconfig=changed_kubeconfig("users", "user", token=token))
    with pytest.raises(PlatformError, match=r"kubeconfig .*: its token has a line break") as caught:
        cluster.get(TRAINJOB, "train")
    assert "hid" not in str(caught.value)


def test_a_certificate_that_cannot_be_read_is_told_at_once(fake_cluster, changed_kubeconfig):
    address = fake_cluster.address.replace("http:", "https:")
    broken = changed_kubeconfig("clusters", "cluster", **{"server": address, "certificate-authority-data": "aGVsbG8="})
    with pytest.raises(PlatformError, match=r"certificates .* cannot be read: .*; check certificate-authority-data of kubeconfig"):
        Cluster.connect(kubeconfig=broken).get(TRAINJOB, "train")


def test_a_login_page_is_no_api_server(tmp_path):
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Log in</html>")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    known = {"clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}], "users": [{"name": "u", "user": {}}]}
    contexts = {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
    (tmp_path / "config").write_text(json.dumps({"kind": "Config", **known, **contexts}))
    with pytest.raises(PlatformError, match=r"cannot get TrainJob train: the answer is no JSON: '<html>Log in</html>'; check that kubeconfig"):
        Cluster.connect(kubeconfig=str(tmp_path / "config")).get(TRAINJOB, "train")
    server.shutdown()
    server.server_close()


def test_a_step_in_a_cluster_belongs_to_its_workflow(cluster, fake_cluster, monkeypatch):
    workflow = fake_cluster.add_workflow(run="run-1")
    monkeypatch.setenv("KFP_POD_NAME", fake_cluster.add_step_pod(workflow)["metadata"]["name"])
    made = Task.of("minio://bucket/run-1/model", cluster).metadata("train", {"queue": "gpus"})
    name = workflow["metadata"]["name"]
    assert made["labels"] == {
        "kfp-foundry.io/managed-by": "kfp-foundry",
        "kfp-foundry.io/run": "run-1",
        "kfp-foundry.io/workflow": name,
        "queue": "gpus",
    }
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": name, "uid": workflow["metadata"]["uid"]}
    assert made["ownerReferences"] == [owner | {"controller": False, "blockOwnerDeletion": False}]


def test_a_step_outside_a_cluster_owns_its_objects_itself(cluster, monkeypatch):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    made = Task.of("/tmp/run/model", cluster).metadata("train")
    assert made["labels"] == {"kfp-foundry.io/managed-by": "kfp-foundry"}
    assert "ownerReferences" not in made


def test_a_step_that_may_not_read_its_own_pod_is_told_what_it_lacks(cluster, fake_cluster, monkeypatch):
    monkeypatch.setenv("KFP_POD_NAME", "step")
    fake_cluster.deny("get", "pods")
    with pytest.raises(PlatformError, match=r'lacks verb "get" on pods of API group ""'):
        Task.of("minio://bucket/run-1/model", cluster)


@pytest.fixture
def service_account(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(credentials, "SERVICE_ACCOUNT", tmp_path)
    for name, text in {"namespace": "team\n", "token": "first", "ca.crt": "certificate"}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_in_a_cluster_the_service_account_is_used_and_its_token_read_anew(service_account):
    found = credentials.find()
    assert found.namespace == "team"
    assert found.configure().host == "https://10.0.0.1:443"
    assert found.configure().get_api_key_with_prefix("authorization") == "bearer first"
    (service_account / "token").write_text("second")
    assert found.configure().get_api_key_with_prefix("authorization") == "bearer second"


def test_a_pod_without_a_token_is_told_what_to_set(service_account):
    (service_account / "token").unlink()
    with pytest.raises(PlatformError, match=r"no usable service account: .*automountServiceAccountToken"):
        credentials.find().configure()

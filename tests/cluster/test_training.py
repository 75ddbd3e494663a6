"""train_distributed on a real cluster: real controllers, real ranks in two pods, a real object store, no GPU.

KFP_FOUNDRY_TEST_KUBECONFIG   a kubeconfig that may create namespaces and what is in them
KFP_FOUNDRY_TEST_STORE        an S3 store that pods and this machine reach, with a bucket: http://10.0.0.1:9000/bucket
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY   its keys
KFP_FOUNDRY_TEST_TORCH_IMAGE  an image with this project; without it the node is taken to be this machine, and pods of
                              KFP_FOUNDRY_TEST_PYTHON_IMAGE (python:3.11) mount this project and its virtual environment
"""

import logging
import os
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from kubernetes import client, config

from kfp_foundry.components.common import images, store
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.distributed.cluster import kubeflow
from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import PYTORCHJOB, TRAINJOB
from kfp_foundry.components.training.train_distributed import core

KUBECONFIG = os.environ.get("KFP_FOUNDRY_TEST_KUBECONFIG", "")
STORE = os.environ.get("KFP_FOUNDRY_TEST_STORE", "")
IMAGE = os.environ.get("KFP_FOUNDRY_TEST_TORCH_IMAGE", "")
PYTHON_IMAGE = os.environ.get("KFP_FOUNDRY_TEST_PYTHON_IMAGE", "local/python:3.11")
ROOT = Path(__file__).parents[2]
FEW = {"epochs": 2, "width": 32, "blocks": 1}

pytestmark = [
    pytest.mark.skipif(not (KUBECONFIG and STORE), reason="set KFP_FOUNDRY_TEST_KUBECONFIG and KFP_FOUNDRY_TEST_STORE for a real cluster"),
    pytest.mark.timeout(900),
]


@dataclass
class Remote:
    """An artifact as a step on a cluster has it: here is a copy, and the address is the store's."""

    path: str
    uri: str
    name: str = "artifact"
    metadata: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def namespace():
    """A namespace with our manifests, the store's keys, and ranks that find this project."""
    config.load_kube_config(KUBECONFIG)
    name = f"kfp-foundry-{uuid.uuid4().hex[:8]}"
    api = client.CoreV1Api()
    api.create_namespace({"metadata": {"name": name}})
    endpoint, _, bucket = STORE.rpartition("/")
    try:
        _prepare(api, name, endpoint)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", KUBECONFIG)
            patch.setenv("AWS_ENDPOINT_URL", endpoint)
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            patch.setattr(images, "TORCH", IMAGE or PYTHON_IMAGE)
            yield name, f"s3://{bucket}/{name}"
            store.remove(f"s3://{bucket}/{name}")
    finally:
        api.delete_namespace(name)


def _prepare(api: client.CoreV1Api, name: str, endpoint: str) -> None:
    keys = {key: os.environ[key] for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    api.create_namespaced_config_map(name, {"metadata": {"name": "kfp-foundry"}, "data": settings})
    api.create_namespaced_secret(name, {"metadata": {"name": "kfp-foundry"}, "stringData": keys})
    group = ("trainer.kubeflow.org", "v1alpha1", name, "trainingruntimes")
    client.CustomObjectsApi().create_namespaced_custom_object(*group, _runtime(), field_validation="Strict")


def _runtime() -> dict[str, Any]:
    runtime = yaml.safe_load((ROOT / "manifests" / "base" / "runtime-torch.yaml").read_text())
    if not IMAGE:
        pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        _mount_this_project(pod)
    return runtime


def _mount_this_project(pod: dict[str, Any]) -> None:
    container = pod["containers"][0]
    for number, folder in enumerate((ROOT, Path(sys.prefix))):
        pod.setdefault("volumes", []).append({"name": f"here-{number}", "hostPath": {"path": str(folder)}})
        container.setdefault("volumeMounts", []).append({"name": f"here-{number}", "mountPath": str(folder), "readOnly": True})
    container.setdefault("env", []).append({"name": "PYTHONUSERBASE", "value": sys.prefix})


@pytest.fixture
def cluster(namespace):
    return Cluster.connect(namespace=namespace[0], kubeconfig=KUBECONFIG)


@pytest.fixture
def here(monkeypatch, namespace, cluster):
    """Steps run in the test's namespace."""
    monkeypatch.setattr(Cluster, "connect", classmethod(lambda *args, **kwargs: cluster))


@pytest.fixture
def tables(namespace, flights, flights_contract, tmp_path):
    """Train, validation and contract of a slice of the flights, here and in the store."""
    base = store.join(namespace[1], tmp_path.name)
    DatasetFolder.write(tmp_path / "train", flights.head(5_000).lazy(), source="flights")
    DatasetFolder.write(tmp_path / "validation", flights.tail(1_000).lazy(), source="flights")
    flights_contract.save(tmp_path / "contract")
    for name in ("train", "validation", "contract"):
        store.send(tmp_path / name, store.join(base, name))
    return {
        name: Remote(str(tmp_path / name), store.join(base, name), name) for name in ("train", "validation", "contract", "model", "metrics", "report")
    }


def train(tables, *, params=FEW, placement=None, **more):
    outputs = (tables[name] for name in ("train", "validation", "contract", "model", "metrics", "report"))
    core.run(*outputs, {"target": "kubeflow", "nodes": 2, "ranks_per_node": 1, **(placement or {})}, params=params, **more)


def require_model(tables, flights: pl.DataFrame) -> None:
    model = ModelFolder.open(tables["model"].path)
    assert model.predict(flights.tail(50)).height == 50
    assert tables["metrics"].metadata["auc"] > 0.5
    assert "Learning curve" in Path(tables["report"].path).read_text()


def test_a_trainjob_of_two_nodes_gives_the_model(here, cluster, tables, flights, caplog):
    caplog.set_level(logging.INFO)
    train(tables)
    require_model(tables, flights)
    made = {job["metadata"]["uid"] for job in cluster.list(TRAINJOB)}
    assert "validation_loss=" in caplog.text  # rank 0 was heard while it ran
    assert not store.exists(store.join(store.parent(tables["model"].uri), "ranks", "checkpoints"))
    train(tables)  # the step again: the job is done, and its result is taken
    assert {job["metadata"]["uid"] for job in cluster.list(TRAINJOB)} == made


def test_a_trainjob_gives_the_same_model_as_this_machine(here, tables, tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    train(tables)
    far = tables["model"].metadata["digest"]
    train({**tables, "model": Remote(str(tmp_path / "local"), str(tmp_path / "local"))}, placement={"target": "local"})
    assert ModelFolder.open(tmp_path / "local").digest == far


def test_a_mistake_in_a_rank_ends_it_in_seconds_with_its_own_words(here, cluster, tables):
    started = time.monotonic()
    with pytest.raises(FoundryError, match="no_such_module_of_mine"):
        train(tables, params={}, module="no_such_module_of_mine")
    assert time.monotonic() - started < 60


def test_a_deleted_training_goes_on_from_its_checkpoint(here, cluster, tables, flights, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    long = {**FEW, "epochs": 12}
    resources = replace_env(KFP_FOUNDRY_CHECKPOINT_STEPS="5")
    checkpoints = store.join(store.parent(tables["model"].uri), "ranks", "checkpoints")
    failure: list[Exception] = []

    def first():
        try:
            train(tables, params=long, placement={"resources": resources})
        except FoundryError as error:
            failure.append(error)

    watched = threading.Thread(target=first)
    watched.start()
    name = wait_for(lambda: active(cluster))
    wait_for(lambda: any(store.is_complete(store.join(checkpoints, step)) for step in store.names(checkpoints)))
    cluster.delete(TRAINJOB, name, foreground=True)
    watched.join(60)
    assert "was deleted by somebody else while this step waited for it" in str(failure[0])
    caplog.clear()
    train(tables, params=long, placement={"resources": resources})
    require_model(tables, flights)
    assert "taken up after epoch" in caplog.text


def test_a_pod_that_is_lost_is_made_anew_and_the_training_goes_on(here, cluster, tables, flights, caplog):
    caplog.set_level(logging.INFO)
    long = {**FEW, "epochs": 12}
    checkpoints = store.join(store.parent(tables["model"].uri), "ranks", "checkpoints")
    lost: list[str] = []

    def lose() -> None:
        wait_for(lambda: store.names(checkpoints))
        pods = cluster.pods(TRAINJOB.pods_of(active(cluster)))
        lost.append(next(pod["metadata"]["name"] for pod in pods if "-node-0-1-" in pod["metadata"]["name"]))
        client.CoreV1Api().delete_namespaced_pod(lost[0], cluster.namespace, grace_period_seconds=0)

    watched = threading.Thread(target=lose)
    watched.start()
    train(tables, params=long, placement={"resources": replace_env(KFP_FOUNDRY_CHECKPOINT_STEPS="5")})
    watched.join()
    assert lost
    require_model(tables, flights)
    assert "taken up after epoch" in caplog.text


def test_a_pytorchjob_of_two_nodes_gives_the_model(here, cluster, tables, flights, monkeypatch):
    monkeypatch.setattr(Cluster, "served", lambda self, kind: kind is PYTORCHJOB)
    if not IMAGE:
        plain = kubeflow.pytorchjob.render
        monkeypatch.setattr(kubeflow.pytorchjob, "render", lambda work: _with_this_project(plain(work)))
    train(tables)
    require_model(tables, flights)


def _with_this_project(body: dict[str, Any]) -> dict[str, Any]:
    for replica in body["spec"]["pytorchReplicaSpecs"].values():
        _mount_this_project(replica["template"]["spec"])
    return body


def active(cluster: Cluster) -> str:
    """The name of the job that has not ended."""
    return next((job["metadata"]["name"] for job in cluster.list(TRAINJOB) if not TRAINJOB.state(job).ended), "")


def replace_env(**variables):
    from kfp import dsl

    return replace(dsl.TaskConfig(), env=[{"name": name, "value": value} for name, value in variables.items()])


def wait_for(found, seconds=300.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = found()
        if value:
            return value
        time.sleep(0.5)
    raise AssertionError("it did not come")

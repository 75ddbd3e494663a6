"""The manifests are valid, and the Roles hold exactly the rights that our code uses, as the server saw it use them."""

from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api import models

from kfp_foundry.components.common import images
from kfp_foundry.components.common.distributed.cluster.kubeflow import trainjob_body
from kfp_foundry.components.common.distributed.cluster.workload import Workload
from kfp_foundry.components.common.distributed.placement import Placement
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.kube import connection, janitor
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.failure import RemoteFailure
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, JOB, PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.launcher import Limits, Pace, launch
from kfp_foundry.components.common.kube.logs import LogSource
from kfp_foundry.components.common.kube.task import Task
from kfp_foundry.components.common.learning.fit import Options
from kfp_foundry.components.tuning.tune_model.katib import engine as katib
from kfp_foundry.components.tuning.tune_model.katib.experiment import TrialTemplate
from kfp_foundry.components.tuning.tune_model.katib.given import Given
from kfp_foundry.components.tuning.tune_model.search import Search

BASE = Path(__file__).parents[2] / "manifests" / "base"
PACE = Pace(first=0.05, longest=0.05)


def documents():
    return [document for file in sorted(BASE.glob("*.yaml")) for document in yaml.safe_load_all(file.read_text()) if document]


def document(kind, name):
    return next(d for d in documents() if (d["kind"], d.get("metadata", {}).get("name")) == (kind, name))


def rights(rules):
    return {(verb, group, resource) for r in rules for verb in r["verbs"] for group in r["apiGroups"] for resource in r["resources"]}


def used(fake_cluster):
    return {(r.verb, r.group, r.resource) for r in fake_cluster.requests if r.verb != "discover"}


@pytest.fixture
def cluster(fake_cluster, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.02)
    monkeypatch.setattr("kfp_foundry.components.common.kube.logs.LIST_SECONDS", 0.02)
    return Cluster.connect(outage_seconds=2)


@pytest.fixture
def task(fake_cluster, cluster, monkeypatch):
    pod = fake_cluster.add_step_pod(fake_cluster.add_workflow())
    monkeypatch.setenv("KFP_POD_NAME", pod["metadata"]["name"])
    return Task.of("minio://bucket/run/model", cluster)


def test_everything_in_the_folder_is_listed_in_the_kustomization():
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert listed == sorted(file.name for file in BASE.glob("*.yaml") if file.name != "kustomization.yaml")


@pytest.mark.parametrize("found", [d for d in documents() if d["kind"] != "Kustomization"], ids=lambda d: f"{d['kind']} {d['metadata']['name']}")
def test_each_object_names_itself_and_no_namespace(found):
    assert found["apiVersion"]
    assert "namespace" not in found["metadata"], "`kubectl apply -n` says where it goes"


def test_the_janitor_runs_each_minute_once_and_never_for_long():
    spec = document("CronJob", "kfp-foundry-janitor")["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("* * * * *", "Forbid")
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 60


def test_the_janitors_pod_is_one_that_the_server_knows_and_has_no_more_than_it_needs():
    spec = document("CronJob", "kfp-foundry-janitor")["spec"]["jobTemplate"]["spec"]
    job = models.IoK8sApiBatchV1JobSpec.from_dict(spec)
    assert set(job.to_dict()["template"]["spec"]) == set(spec["template"]["spec"]), "a field is misspelt"
    pod, container = spec["template"]["spec"], spec["template"]["spec"]["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert isinstance(pod["securityContext"]["runAsUser"], int)
    assert pod["securityContext"]["runAsUser"] > 0
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_the_janitors_command_is_one_that_runs(fake_cluster, monkeypatch):
    container = document("CronJob", "kfp-foundry-janitor")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    monkeypatch.setattr(janitor.time, "sleep", lambda seconds: None)
    assert container["command"][1:] == ["-m", janitor.__name__]
    assert janitor.main(container["args"]) == 0
    assert container["image"] == f"ghcr.io/kfp-foundry/kfp-foundry:{images.VERSION}"


@pytest.mark.parametrize("name", ["kfp-foundry-janitor", "kfp-foundry-launcher"])
def test_a_binding_gives_the_role_of_its_name_to_accounts_of_its_own_namespace(name):
    binding = document("RoleBinding", name)
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    assert all(set(subject) == {"kind", "name"} for subject in binding["subjects"])


def test_the_launchers_role_holds_what_launching_uses_and_no_more(fake_cluster, cluster, task):
    role = document("Role", "kfp-foundry-launcher")["rules"]
    fake_cluster.allow_only(role)
    _train(fake_cluster, cluster, task)
    _train_on_an_old_platform(fake_cluster, cluster, task)
    _search(fake_cluster, cluster, task)
    assert [r for r in fake_cluster.requests if r.status == 403] == []
    assert used(fake_cluster) == rights(role)


def _train(fake_cluster, cluster, task):
    fake_cluster.replay("trainjob-failed", speed=10, logs={"node-0-0": ["ValueError: bad column"]})
    request = Request("s3://b/t", "s3://b/v", "s3://b/c", checkpoints="s3://b/k", output="s3://b/o", options=Options(algorithm="residual_mlp"))
    body = trainjob_body(Workload.of(request, Placement(nodes=2), task.metadata("train")), "kfp-foundry-torch", cluster)
    with pytest.raises(RemoteFailure, match="ValueError: bad column"):
        launch(cluster, TRAINJOB, body, limits=Limits(), pace=PACE, keep_failed=False)


def _train_on_an_old_platform(fake_cluster, cluster, task):
    fake_cluster.replay("pytorchjob-failed", speed=10)
    pod = {"spec": {"containers": [{"name": "pytorch", "image": "local/train:1"}]}}
    replicas = {"Master": {"replicas": 1, "restartPolicy": "Never", "template": pod}}
    body = {"metadata": task.metadata("old"), "spec": {"pytorchReplicaSpecs": replicas}}
    with pytest.raises(RemoteFailure):
        launch(cluster, PYTORCHJOB, body, limits=Limits(), pace=PACE, keep_failed=False)


def _search(fake_cluster, cluster, task):
    fake_cluster.run_experiments(lambda values: {"loss": 0.5}, seconds=0.2)
    space = {"learning_rate": {"type": "float", "min": 0.01, "max": 0.1}}
    search = Search.read({"parameters": space, "metric": "loss", "direction": "minimize", "goal": 0.9, "max_trials": 4}, "search")
    given = Given("s3://b/t", "s3://b/v", "s3://b/c", {"algorithm": "lightgbm"}, search)
    fake_cluster.create("trials", {"metadata": {"name": "left", "labels": {katib.OF_EXPERIMENT: task.name("tune")}}, "spec": {}})
    study = katib.tune(cluster, task, TrialTemplate("local/train:1", given), pace=PACE)
    assert study.best is not None
    fake_cluster.stand_still()
    body = {"metadata": {"name": "late"}, "spec": fake_cluster.get("experiments", task.name("tune"))["spec"]}
    with pytest.raises(RemoteFailure, match="not run within"):  # which deletes it
        launch(cluster, EXPERIMENT, body, limits=Limits(queue_seconds=0.1), pace=PACE, logs=LogSource({"a": "b"}))


def test_the_janitors_role_holds_what_the_janitor_uses_and_no_more(fake_cluster, cluster):
    role = document("Role", "kfp-foundry-janitor")["rules"]
    fake_cluster.allow_only(role)
    workflow = fake_cluster.add_workflow()
    fake_cluster.end_workflow(workflow["metadata"]["name"])
    labels = {"kfp-foundry.io/managed-by": "kfp-foundry", "kfp-foundry.io/workflow": workflow["metadata"]["name"]}
    for kind in (TRAINJOB, PYTORCHJOB, EXPERIMENT, JOB):
        fake_cluster.hold_deletion(kind, "left")
        left = fake_cluster.create(kind, {"metadata": {"name": "left", "labels": labels}, "spec": {}})
        for plural in ("trials", "jobsets"):
            owner = {"apiVersion": left["apiVersion"], "kind": left["kind"], "name": "left", "uid": left["metadata"]["uid"]}
            fake_cluster.create(plural, {"metadata": {"name": f"{kind.plural}-s", "ownerReferences": [owner]}, "spec": {}})
    swept = janitor.sweep(cluster)
    assert swept.problems == []
    assert fake_cluster.objects("jobsets") == fake_cluster.objects("trials") == []
    assert used(fake_cluster) == rights(role)

"""The janitor stops what ended runs left, and nothing else."""

import logging

import pytest

from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.kube import janitor
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, JOB, PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.task import Task

OURS = {"kfp-foundry.io/managed-by": "kfp-foundry", "kfp-foundry.io/run": "r-1"}
ACTIVE = {
    "trainjobs": {"jobsStatus": [{"name": "node", "active": 1, "ready": 1}]},
    "pytorchjobs": {"conditions": [{"type": "Running", "status": "True"}]},
    "experiments": {"conditions": [{"type": "Running", "status": "True"}], "trialsRunning": 1},
    "jobs": {"active": 1},
}
FINISHED = {
    "trainjobs": {"conditions": [{"type": "Complete", "status": "True"}]},
    "pytorchjobs": {"conditions": [{"type": "Failed", "status": "True"}]},
    "experiments": {"conditions": [{"type": "Succeeded", "status": "True"}]},
    "jobs": {"conditions": [{"type": "Complete", "status": "True"}]},
}


@pytest.fixture
def cluster(fake_cluster):
    return Cluster.connect(outage_seconds=1)


@pytest.fixture
def leave(fake_cluster):
    """Leaves an object of a Workflow in the cluster: `leave("trainjobs", workflow)`."""

    def make(plural, workflow=None, name="left", labels=OURS, status=None, owner=None):
        meta = {"name": name, "labels": dict(labels)}
        if workflow:
            meta["labels"]["kfp-foundry.io/workflow"] = workflow["metadata"]["name"]
            owner = owner or workflow
        if owner:
            reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
            meta["ownerReferences"] = [reference]
        return fake_cluster.create(plural, {"metadata": meta, "spec": {}, "status": ACTIVE[plural] if status is None else status})

    return make


def ended(cluster, phase="Failed"):
    workflow = cluster.add_workflow()
    cluster.end_workflow(workflow["metadata"]["name"], phase)
    return workflow


@pytest.mark.parametrize("phase", ["Failed", "Error", "Succeeded"])
@pytest.mark.parametrize("plural", ["trainjobs", "pytorchjobs", "experiments", "jobs"])
def test_an_active_object_of_an_ended_run_is_deleted(fake_cluster, cluster, leave, plural, phase):
    leave(plural, ended(fake_cluster, phase))
    assert len(janitor.sweep(cluster).stopped) == 1
    assert fake_cluster.objects(plural) == []


def test_an_object_whose_workflow_is_gone_is_deleted(fake_cluster, cluster, leave):
    workflow = fake_cluster.add_workflow()
    leave("trainjobs", workflow, owner={"apiVersion": "v1", "kind": "Other", "metadata": {"name": "n", "uid": "u"}})
    fake_cluster.delete("workflows", workflow["metadata"]["name"])
    assert janitor.sweep(cluster).stopped == ["TrainJob left"]


def test_a_workflow_of_the_same_name_is_another_one(fake_cluster, cluster, leave):
    workflow = fake_cluster.add_workflow("again")
    leave("trainjobs", {**workflow, "metadata": {**workflow["metadata"], "uid": "the-first-ones"}})
    assert janitor.sweep(cluster).stopped == ["TrainJob left"]


@pytest.mark.parametrize("spec", [{"activeDeadlineSeconds": 0}, {"shutdown": "Terminate"}], ids=["by Kubeflow Pipelines", "by Argo"])
def test_a_run_that_is_being_terminated_is_over(fake_cluster, cluster, leave, spec):
    workflow = fake_cluster.add_workflow()
    fake_cluster.store.replace(fake_cluster.resource("workflows"), {**workflow, "spec": spec})
    leave("trainjobs", workflow)
    assert janitor.sweep(cluster).stopped == ["TrainJob left"]


@pytest.mark.parametrize("phase", ["Running", "Pending", ""])
def test_an_object_of_a_run_that_goes_on_is_left(fake_cluster, cluster, leave, phase):
    leave("trainjobs", fake_cluster.add_workflow(phase=phase))
    swept = janitor.sweep(cluster)
    assert (swept.stopped, swept.left) == ([], ["TrainJob left"])
    assert len(fake_cluster.objects("trainjobs")) == 1


@pytest.mark.parametrize("plural", ["trainjobs", "pytorchjobs", "experiments", "jobs"])
def test_a_finished_object_is_left(fake_cluster, cluster, leave, plural):
    leave(plural, ended(fake_cluster), status=FINISHED[plural])
    assert janitor.sweep(cluster).stopped == []
    assert len(fake_cluster.objects(plural)) == 1


@pytest.mark.parametrize(
    "labels",
    [{}, {"kfp-foundry.io/run": "r-1"}, {"kfp-foundry.io/managed-by": "somebody-else"}],
    ids=["no labels", "no manager", "another manager"],
)
def test_what_is_not_ours_is_left(fake_cluster, cluster, leave, labels):
    leave("trainjobs", ended(fake_cluster), labels=labels)
    assert janitor.sweep(cluster).stopped == []
    assert len(fake_cluster.objects("trainjobs")) == 1


def test_what_a_laptop_launched_is_left(fake_cluster, cluster, leave):
    leave("trainjobs")
    swept = janitor.sweep(cluster)
    assert (swept.stopped, swept.left, swept.problems) == ([], [], [])
    assert len(fake_cluster.objects("trainjobs")) == 1


def test_an_object_whose_label_and_owner_disagree_is_left(fake_cluster, cluster, leave):
    workflow = ended(fake_cluster)
    leave("trainjobs", workflow, owner=fake_cluster.add_workflow("other"))
    assert janitor.sweep(cluster).left == ["TrainJob left"]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_workflow_that_cannot_be_read_is_not_gone(fake_cluster, cluster, leave, status):
    leave("trainjobs", ended(fake_cluster))
    fake_cluster.fail("get", status, times=99, plural="workflows")
    swept = janitor.sweep(cluster)
    assert (swept.stopped, swept.problems) == ([], ["TrainJob left"])
    assert len(fake_cluster.objects("trainjobs")) == 1


def test_without_workflows_in_the_cluster_nothing_is_gone(fake_cluster, cluster, leave):
    leave("trainjobs", fake_cluster.add_workflow())
    fake_cluster.unserve("workflows")
    assert janitor.sweep(cluster).problems == ["TrainJob left"]


def test_a_kind_that_is_not_installed_is_passed_over(fake_cluster, cluster, leave):
    fake_cluster.unserve("experiments", "trials", "pytorchjobs")
    leave("trainjobs", ended(fake_cluster))
    swept = janitor.sweep(cluster)
    assert (swept.stopped, swept.problems) == (["TrainJob left"], [])


def test_one_kind_that_may_not_be_listed_does_not_keep_the_others(fake_cluster, cluster, leave):
    fake_cluster.deny("list", "experiments")
    leave("trainjobs", ended(fake_cluster))
    swept = janitor.sweep(cluster)
    assert (swept.stopped, swept.problems) == (["TrainJob left"], ["experiments"])


def test_a_second_sweep_has_nothing_to_do(fake_cluster, cluster, leave):
    leave("trainjobs", ended(fake_cluster))
    janitor.sweep(cluster)
    assert janitor.sweep(cluster) == janitor.Swept()


def test_a_dry_run_says_what_it_would_do_and_does_nothing(fake_cluster, cluster, leave, caplog):
    leave("trainjobs", ended(fake_cluster))
    with caplog.at_level(logging.INFO):
        assert janitor.sweep(cluster, dry_run=True).stopped == ["TrainJob left"]
    assert "TrainJob left would be deleted: its Workflow flights-x7k2p ended as Failed" in caplog.text
    assert {request.verb for request in fake_cluster.requests} <= {"get", "list", "discover"}


def test_an_object_that_took_the_name_meanwhile_is_left(fake_cluster, cluster, leave):
    left = leave("trainjobs", ended(fake_cluster))
    fake_cluster.replace_object("trainjobs", "left")
    assert janitor.delete(cluster, TRAINJOB, left) == "found gone already"
    assert len(fake_cluster.objects("trainjobs")) == 1


def test_trials_end_although_the_deletion_of_their_experiment_is_held_up(fake_cluster, cluster, leave):
    experiment = leave("experiments", ended(fake_cluster))
    fake_cluster.hold_deletion("experiments", "left")
    trial = fake_cluster.create("trials", owned(experiment, "left-trial"))
    fake_cluster.create("jobs", owned(trial, "left-trial"))
    fake_cluster.create("jobs", {"metadata": {"name": "of-another"}, "status": {"active": 1}})
    swept = janitor.sweep(cluster)
    assert set(swept.stopped) >= {"Experiment left", "Trial left-trial"}
    assert [job["metadata"]["name"] for job in fake_cluster.objects("jobs")] == ["of-another"]
    assert fake_cluster.objects("trials") == []


def test_trials_that_outlive_their_finished_experiment_end(fake_cluster, cluster, leave):
    experiment = leave("experiments", ended(fake_cluster), status=FINISHED["experiments"])
    fake_cluster.create("trials", owned(experiment, "last-trial"))
    assert janitor.sweep(cluster).stopped == ["Trial last-trial"]
    assert len(fake_cluster.objects("experiments")) == 1


def test_a_busy_server_is_asked_again(fake_cluster, cluster, leave):
    leave("trainjobs", ended(fake_cluster))
    fake_cluster.fail("delete", 429, times=1, retry_after=0.1)
    fake_cluster.drop("list", times=1)
    assert janitor.sweep(cluster).stopped == ["TrainJob left"]


def test_issue_rules_can_undo_instead_of_delete(fake_cluster, cluster, leave):
    undone = []

    def undo(cluster, kind, obj):
        undone.append(obj["metadata"]["name"])
        return "rolled back"

    leave("trainjobs", ended(fake_cluster))
    janitor.sweep(cluster, rules=[janitor.Rule(TRAINJOB, janitor.is_active(TRAINJOB), undo)])
    assert undone == ["left"]


@pytest.mark.parametrize("kind", [TRAINJOB, PYTORCHJOB, EXPERIMENT, JOB], ids=lambda kind: kind.plural)
def test_what_a_step_launches_is_found_by_its_own_labels(fake_cluster, cluster, monkeypatch, kind):
    workflow = fake_cluster.add_workflow()
    pod = fake_cluster.add_step_pod(workflow)
    monkeypatch.setenv("KFP_POD_NAME", pod["metadata"]["name"])
    metadata = Task.of("minio://bucket/run/model", cluster).metadata("train")
    fake_cluster.create(kind, {"metadata": metadata, "spec": {}, "status": ACTIVE[kind.plural]})
    assert janitor.sweep(cluster).stopped == []
    fake_cluster.end_workflow(workflow["metadata"]["name"])
    assert janitor.sweep(cluster).stopped == [f"{kind.kind} {metadata['name']}"]


def test_the_command_ends_with_0_when_all_is_in_order(fake_cluster, leave):
    leave("trainjobs", ended(fake_cluster))
    assert janitor.main([]) == 0
    assert fake_cluster.objects("trainjobs") == []


def test_the_command_ends_with_1_when_something_could_not_be_decided(fake_cluster, leave):
    leave("trainjobs", ended(fake_cluster))
    fake_cluster.deny("get", "workflows")
    assert janitor.main(["--namespace", "team"]) == 1


def test_the_command_looks_into_every_namespace_that_is_named(fake_cluster):
    assert janitor.main(["--namespace", "team", "--namespace", "other", "--dry-run"]) == 0
    assert {request.namespace for request in fake_cluster.requests if request.verb == "list"} == {"team", "other"}


def test_a_later_round_puts_right_what_an_earlier_one_could_not(fake_cluster, leave):
    leave("trainjobs", ended(fake_cluster))
    fake_cluster.fail("get", 403, times=1, plural="workflows")
    assert janitor.main(["--rounds", "2", "--pause", "0.01"]) == 0
    assert fake_cluster.objects("trainjobs") == []


def test_a_cluster_that_is_not_there_is_a_message(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert janitor.main([]) == 1
    assert "there is no Kubernetes cluster" in caplog.text
    with pytest.raises(PlatformError):
        Cluster.connect()


def owned(owner, name):
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    return {"metadata": {"name": name, "ownerReferences": [reference]}, "spec": {}, "status": {"active": 1}}

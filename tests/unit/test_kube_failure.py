"""A remote failure is told so that a person can act: conditions, exit codes, last lines, Events, and what to do."""

import pytest

from kfp_foundry.components.common.kube import launcher, logs
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.failure import Evidence, RemoteFailure, collect, failed, telling_lines, what_to_do
from kfp_foundry.components.common.kube.kinds import PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.launcher import Limits, Pace, launch

TRACEBACK = ["Traceback (most recent call last):", '  File "train.py", line 3, in <module>', "ValueError: bad column"]
JOB = {"metadata": {"name": "train"}, "status": {"conditions": [{"type": "Failed", "status": "True", "reason": "FailedJobs", "message": "m"}]}}


@pytest.fixture
def cluster(fake_cluster, monkeypatch):
    monkeypatch.setattr(logs, "LIST_SECONDS", 0.05)
    monkeypatch.setattr(launcher, "FAILURE_GRACE_SECONDS", 0.5)
    return Cluster.connect(outage_seconds=2.0)


def failure(cluster, kind=TRAINJOB, spec=None) -> RemoteFailure:
    body = {"metadata": {"name": "train"}, "spec": spec or {"runtimeRef": {"name": "torch-distributed"}}}
    with pytest.raises(RemoteFailure) as caught:
        launch(cluster, kind, body, limits=Limits(), pace=Pace(first=0.05, longest=0.1))
    return caught.value


def ended(name: str, code: int, reason: str = "Error", at: str = "2026-11-21T12:00:05Z") -> dict:
    terminated = {"exitCode": code, "reason": reason, "finishedAt": at}
    status = {"phase": "Failed", "containerStatuses": [{"name": "node", "restartCount": 0, "state": {"terminated": terminated}}]}
    return {"metadata": {"name": name, "uid": name}, "status": status}


def test_a_failed_trainjob_is_told_with_its_last_lines(cluster, fake_cluster):
    fake_cluster.replay("trainjob-failed", speed=5, logs={"node-0-": TRACEBACK})
    error = failure(cluster)
    told = str(error)
    assert told.startswith("TrainJob train in namespace team: failed; it says Failed (FailedJobs: jobset failed")
    assert "container node: exit code 1, last lines: Traceback" in told
    assert "/ ValueError: bad column" in told
    assert "Event BackoffLimitExceeded of Job train-node-0: Job has reached the specified backoff limit" in told
    assert "    ValueError: bad column" in error.details


def test_pods_that_are_deleted_before_the_job_has_failed_are_told_all_the_same(cluster, fake_cluster):
    replica = {"replicas": 1, "template": {"spec": {"containers": [{"name": "pytorch", "image": "local/train:1"}]}}}
    fake_cluster.replay("pytorchjob-failed", speed=2, logs={"master": TRACEBACK})
    told = str(failure(cluster, PYTORCHJOB, {"pytorchReplicaSpecs": {"Master": replica}}))
    assert fake_cluster.get("pods", "train-master-0") is None
    assert "pod train-master-0, container pytorch: exit code 1, last lines: " in told
    assert "ValueError: bad column" in told


def test_a_deadline_is_told_although_the_counters_say_active(cluster, fake_cluster):
    fake_cluster.replay("trainjob-deadline", speed=20)
    error = failure(cluster)
    assert "Failed (DeadlineExceeded: TrainJob exceeded its active deadline)" in str(error)
    assert error.remedy.startswith("give it more time")


def test_a_failed_job_stays_for_a_look_at_it(cluster, fake_cluster):
    fake_cluster.replay("trainjob-failed", speed=20)
    failure(cluster)
    assert fake_cluster.get("trainjobs", "train")


def test_a_failed_job_can_be_taken_away(cluster, fake_cluster):
    fake_cluster.replay("trainjob-failed", speed=20)
    body = {"metadata": {"name": "train"}, "spec": {"runtimeRef": {"name": "torch-distributed"}}}
    with pytest.raises(RemoteFailure):
        launch(cluster, TRAINJOB, body, limits=Limits(), pace=Pace(first=0.05, longest=0.1), keep_failed=False)
    assert fake_cluster.get("trainjobs", "train") is None


def test_what_may_not_be_read_is_told_and_hides_nothing_else(cluster, fake_cluster):
    fake_cluster.replay("trainjob-failed", speed=20)
    fake_cluster.deny("list", "events")
    told = str(failure(cluster))
    assert "jobset failed" in told
    assert 'Events could not be read (namespace team: this account may not list events: it lacks verb "list" on events' in told


def test_events_of_an_earlier_object_of_that_name_are_left_out(cluster, fake_cluster):
    job = {**JOB, "metadata": {"name": "train", "creationTimestamp": "2026-11-21T12:00:00Z"}}
    for name, at in {"old": "2026-11-21T11:00:00Z", "new": "2026-11-21T12:00:01Z"}.items():
        about = {"kind": "Pod", "name": "train-0"}
        event = {"type": "Warning", "reason": name, "message": "m", "involvedObject": about, "lastTimestamp": at}
        fake_cluster.create("events", {"metadata": {"name": name}, **event})
    assert [event["reason"] for event in collect(cluster, TRAINJOB, job).warnings] == ["new"]


def test_the_first_to_end_is_the_cause_and_not_those_that_were_told_to_stop(cluster):
    pods = [
        ended("b", 1, at="2026-11-21T12:00:09Z"),
        ended("a", 143, at="2026-11-21T12:00:01Z"),
        ended("c", 137, "OOMKilled", "2026-11-21T12:00:05Z"),
    ]
    assert [ending.pod for ending in Evidence(JOB, pods=pods).endings] == ["c", "b", "a"]


def test_pods_that_ended_in_the_same_way_are_told_once(cluster):
    pods = [ended("a", 1), ended("b", 1), ended("c", 2)]
    told = str(failed(cluster, TRAINJOB, Evidence(JOB, pods=pods, tails={"a": TRACEBACK, "b": TRACEBACK, "c": ["other"]}), "failed"))
    assert "pod a, " in told
    assert "pod b, " not in told
    assert "pod c, container node: exit code 2, last lines: other" in told


def unschedulable() -> dict:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}
    return {"metadata": {"name": "a", "uid": "a"}, "status": {"phase": "Pending", "conditions": [condition]}}


def waiting(reason: str) -> dict:
    status = {"phase": "Pending", "containerStatuses": [{"name": "node", "state": {"waiting": {"reason": reason}}}]}
    return {"metadata": {"name": "a", "uid": "a"}, "status": status}


@pytest.mark.parametrize(
    ("evidence", "remedy"),
    [
        (Evidence(JOB, pods=[ended("a", 137, "OOMKilled")]), "give it more memory"),
        (Evidence(JOB, pods=[{"metadata": {"name": "a"}, "status": {"phase": "Failed", "reason": "Evicted"}}]), "ask for the memory and"),
        (Evidence(JOB, pods=[waiting("ImagePullBackOff")]), "check the image's name"),
        (Evidence(JOB, pods=[waiting("CreateContainerConfigError")]), "make the Secret, ConfigMap or command right"),
        (Evidence(JOB, pods=[unschedulable()]), "ask for less"),
        (Evidence(JOB, warnings=[{"reason": "TrainJobResourcesCreationFailed"}]), "the controller could not make its pods"),
        (Evidence(JOB, pods=[ended("a", 143)]), "it was killed from outside"),
        (Evidence(JOB, pods=[ended("a", 1)]), "change what its last lines name"),
        (Evidence(JOB), "see what its controller says about it"),
    ],
)
def test_the_remedy_follows_from_what_happened(evidence, remedy):
    assert what_to_do(evidence).startswith(remedy)


def test_the_exception_is_told_even_when_much_is_written_after_it():
    noise = ["torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ", *(f"---- {i}" for i in range(8))]
    assert telling_lines(["[rank1]: ValueError: bad column", *noise])[0] == "[rank1]: ValueError: bad column"


def test_a_job_that_ran_too_long_is_told_by_what_it_wrote_last(cluster):
    evidence = Evidence(JOB, pods=[{"metadata": {"name": "a", "uid": "a"}, "status": {}}], tails={"a": ["epoch 7", "waits for rank 3"]})
    assert "pod a wrote last: epoch 7 / waits for rank 3" in str(failed(cluster, TRAINJOB, evidence, "has run for 9 s"))

"""The launcher against a real HTTP server that behaves as the recorded controllers did."""

import itertools
import os
import signal
import threading
import time

import pytest

from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.kube import connection, launcher, logs
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.failure import RemoteFailure
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.launcher import SPEC, Limits, Pace, launch
from kfp_foundry.components.common.kube.names import digest

PACE = Pace(first=0.05, longest=0.1, report=0.2, stuck=0.6, deletion=0.6)
NO_LIMITS = Limits()


@pytest.fixture
def cluster(fake_cluster, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(logs, "LIST_SECONDS", 0.05)
    monkeypatch.setattr(launcher, "FAILURE_GRACE_SECONDS", 0.5)
    return Cluster.connect(outage_seconds=1.0)


def trainjob(**spec: object) -> dict:
    return {"metadata": {"name": "train"}, "spec": {"runtimeRef": {"name": "torch-distributed"}, **spec}}


def experiment() -> dict:
    container = {"name": "training", "image": "local/train:1", "command": ["train", "--x=${trialParameters.x}"]}
    trial = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": {"containers": [container], "restartPolicy": "Never"}}}}
    spec = {
        "objective": {"type": "minimize", "objectiveMetricName": "loss"},
        "algorithm": {"algorithmName": "random"},
        "parameters": [{"name": "x", "parameterType": "double", "feasibleSpace": {"min": "0", "max": "1"}}],
        "trialTemplate": {"primaryContainerName": "training", "trialParameters": [{"name": "x", "reference": "x"}], "trialSpec": trial},
    }
    return {"metadata": {"name": "search"}, "spec": spec}


def start(cluster, body=None, limits=NO_LIMITS, kind=TRAINJOB, **more):
    return launch(cluster, kind, body or trainjob(), limits=limits, pace=PACE, **more)


def created(fake_cluster, plural: str = "trainjobs") -> int:
    return [(request.verb, request.plural) for request in fake_cluster.requests].count(("create", plural))


@pytest.fixture
def later():
    """Does something after some seconds, beside the test."""
    timers = []

    def schedule(seconds, work, *args):
        timers.append(threading.Timer(seconds, work, args))
        timers[-1].start()

    yield schedule
    for timer in timers:
        timer.join()


def make(fake_cluster, **status):
    """An object as an earlier attempt of this step left it."""
    body = trainjob()
    body["metadata"] |= {"uid": "earlier", "annotations": {SPEC: digest(body["spec"])}}
    return fake_cluster.create("trainjobs", body | {"status": status})


DONE = {"conditions": [{"type": "Complete", "status": "True", "reason": "AllJobsCompleted", "message": "done"}]}
FAILED = {"conditions": [{"type": "Failed", "status": "True", "reason": "FailedJobs", "message": "a job failed"}]}
ACTIVE = {"jobsStatus": [{"name": "node", "active": 1, "ready": 1, "succeeded": 0, "failed": 0, "suspended": 0}]}


def test_a_trainjob_is_watched_to_its_end(cluster, fake_cluster):
    fake_cluster.replay("trainjob-complete", speed=20)
    finished = start(cluster)
    assert finished.how == "created"
    assert TRAINJOB.state(finished.object).phase == "done"
    assert finished.queued_seconds + finished.run_seconds > 0


def test_a_pytorchjob_is_watched_to_its_end(cluster, fake_cluster):
    fake_cluster.replay("pytorchjob-complete", speed=20)
    replica = {"replicas": 1, "template": {"spec": {"containers": [{"name": "pytorch", "image": "local/train:1"}]}}}
    body = {"metadata": {"name": "train"}, "spec": {"pytorchReplicaSpecs": {"Master": replica}}}
    assert start(cluster, body, kind=PYTORCHJOB).how == "created"


def test_every_change_of_status_is_told_once(cluster, fake_cluster):
    fake_cluster.replay("trainjob-complete", speed=10)
    seen = []
    start(cluster, on_status=lambda obj: seen.append(obj.get("status") or {}))
    assert seen[-1]["conditions"][0]["type"] == "Complete"
    assert all(before != after for before, after in itertools.pairwise(seen))


def test_the_body_is_sent_strictly_and_left_as_it_is(cluster, fake_cluster):
    fake_cluster.replay("trainjob-complete", speed=50)
    body = trainjob()
    start(cluster, body)
    assert body == trainjob()
    request = next(request for request in fake_cluster.requests if request.verb == "create")
    assert request.query["fieldValidation"] == "Strict"
    assert request.body["metadata"]["annotations"]["kfp-foundry.io/spec"]


def test_an_active_object_of_an_earlier_attempt_is_adopted(cluster, fake_cluster, later):
    make(fake_cluster, **ACTIVE)
    later(0.3, fake_cluster.set_condition, "trainjobs", "train", "Complete")
    finished = start(cluster)
    assert (finished.how, finished.object["metadata"]["uid"]) == ("adopted", "earlier")
    assert created(fake_cluster) == 0


def test_a_finished_object_of_an_earlier_attempt_is_reused(cluster, fake_cluster):
    make(fake_cluster, **DONE)
    finished = start(cluster)
    assert (finished.how, finished.object["metadata"]["uid"]) == ("reused", "earlier")


def test_a_failed_object_of_an_earlier_attempt_is_made_anew(cluster, fake_cluster):
    make(fake_cluster, **FAILED)
    fake_cluster.replay("trainjob-complete", speed=50)
    finished = start(cluster)
    assert finished.how == "recreated"
    assert finished.object["metadata"]["uid"] != "earlier"
    delete = next(request for request in fake_cluster.requests if request.verb == "delete")
    assert delete.body["propagationPolicy"] == "Foreground"
    assert delete.body["preconditions"] == {"uid": "earlier"}


@pytest.mark.parametrize(
    ("annotations", "message"),
    [({"kfp-foundry.io/spec": "another"}, "was made from another spec"), ({}, "was not made by this project")],
)
def test_an_object_from_another_spec_is_refused_and_left_alone(cluster, fake_cluster, annotations, message):
    fake_cluster.create("trainjobs", {"metadata": {"name": "train", "annotations": annotations}, "spec": {}, "status": FAILED})
    with pytest.raises(UserError, match=rf"TrainJob train in namespace team: exists and {message}; it is left alone"):
        start(cluster)
    assert fake_cluster.get("trainjobs", "train")
    assert {request.verb for request in fake_cluster.requests if request.plural == "trainjobs"} == {"get"}


def test_an_object_in_deletion_is_waited_for(cluster, fake_cluster, later):
    fake_cluster.create("trainjobs", {"metadata": {"name": "train"}, "spec": {}})
    fake_cluster.hold_deletion("trainjobs", "train")
    fake_cluster.delete("trainjobs", "train")
    fake_cluster.replay("trainjob-complete", speed=50)
    later(0.3, fake_cluster.release_deletion, "trainjobs", "train")
    assert start(cluster).how == "created"


def test_an_object_that_stays_in_deletion_is_told(cluster, fake_cluster):
    fake_cluster.create("trainjobs", {"metadata": {"name": "train", "finalizers": ["example.org/keep"]}, "spec": {}})
    fake_cluster.delete("trainjobs", "train")
    with pytest.raises(PlatformError, match=r"is being deleted for more than 1 s \(finalizers: example.org/keep\)"):
        start(cluster)


def test_an_object_that_is_deleted_behind_our_back_ends_the_wait(cluster, fake_cluster, later):
    later(0.3, fake_cluster.delete, "trainjobs", "train")
    with pytest.raises(RemoteFailure, match=r"was deleted by somebody else while this step waited"):
        start(cluster)


def test_an_object_that_is_replaced_behind_our_back_ends_the_wait(cluster, fake_cluster, later):
    later(0.3, fake_cluster.replace_object, "trainjobs", "train")
    with pytest.raises(RemoteFailure, match=r"was replaced by another object"):
        start(cluster)
    assert fake_cluster.get("trainjobs", "train")


def test_a_run_that_takes_too_long_is_deleted(cluster, fake_cluster):
    make(fake_cluster, **ACTIVE)
    with pytest.raises(RemoteFailure, match=r"has run for \d+ s, longer than 0 s; it was deleted.*timeout_minutes"):
        start(cluster, limits=Limits(run_seconds=0.3, queue_seconds=60))
    assert fake_cluster.get("trainjobs", "train") is None


def test_time_in_kueue_counts_for_the_queue_and_not_for_the_run(cluster, fake_cluster):
    fake_cluster.replay("trainjob-suspended", speed=4)
    body = trainjob(suspend=True)
    body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    finished = start(cluster, body, limits=Limits(run_seconds=30))
    assert finished.queued_seconds > 0.45
    assert 0 < finished.run_seconds < 3


def test_a_suspended_object_meets_the_queue_limit_only(cluster, fake_cluster):
    make(fake_cluster, conditions=[{"type": "Suspended", "status": "True", "reason": "Suspended", "message": "TrainJob is suspended"}])
    with pytest.raises(RemoteFailure, match=r"has not run within 1 s and was deleted: is suspended \(TrainJob is suspended\)"):
        start(cluster, limits=Limits(run_seconds=0.1, queue_seconds=0.6))


def test_what_no_node_takes_is_told_from_its_pods_and_events(cluster, fake_cluster):
    fake_cluster.replay("trainjob-unschedulable", speed=20)
    with pytest.raises(RemoteFailure) as caught:
        start(cluster, limits=Limits(run_seconds=0.2, queue_seconds=1))
    assert "no node takes pod train-node-0-0-" in str(caught.value)
    assert "1 Insufficient cpu" in str(caught.value)
    assert any("Event FailedScheduling of Pod train-node-0-0-" in line for line in caught.value.details)


def test_what_waits_is_reported_meanwhile(cluster, fake_cluster, caplog):
    fake_cluster.replay("trainjob-unschedulable", speed=20)
    with pytest.raises(RemoteFailure):
        start(cluster, limits=Limits(queue_seconds=1))
    assert "nothing runs after 0 s: 2 pods made, none running: no node takes pod" in caplog.text


def add_pod(fake_cluster, rank: int, state: dict) -> None:
    labels = {**TRAINJOB.pods_of("train"), **dict(TRAINJOB.first_pod), "batch.kubernetes.io/job-completion-index": str(rank)}
    status = {"containerStatuses": [{"name": "node", "restartCount": 0, "state": state}]}
    fake_cluster.create("pods", {"metadata": {"name": f"train-node-0-{rank}", "labels": labels}, "status": status})


def test_a_rank_that_cannot_start_beside_one_that_runs_is_told(cluster, fake_cluster, caplog):
    make(fake_cluster)
    add_pod(fake_cluster, 0, {"running": {}})
    add_pod(fake_cluster, 1, {"waiting": {"reason": "ImagePullBackOff", "message": "there is no such image"}})
    with pytest.raises(RemoteFailure, match=r"has run for .*ImagePullBackOff: there is no such image; check the image's name"):
        start(cluster, limits=Limits(run_seconds=0.8))
    assert "runs, but not all of it: 2 pods made, 1 running: ImagePullBackOff: there is no such image" in caplog.text


def test_what_could_not_be_deleted_is_not_said_to_be_gone(cluster, fake_cluster):
    fake_cluster.deny("delete", "trainjobs")
    with pytest.raises(RemoteFailure, match=r'has not run within 0 s and is still there, since it could not be deleted \(.* lacks verb "delete"'):
        start(cluster, limits=Limits(queue_seconds=0.2))


def test_an_image_that_cannot_be_had_is_not_waited_for_for_ever(cluster, fake_cluster):
    fake_cluster.replay("trainjob-no-image", speed=10)
    with pytest.raises(RemoteFailure, match=r"could not start for 1 s \((ErrImagePull|ImagePullBackOff)\) and was deleted.*check the image's name"):
        start(cluster)


def test_an_error_of_the_caller_deletes_what_was_started(cluster, fake_cluster):
    def broken(obj):
        raise UserError("no", where="here", remedy="change it")

    with pytest.raises(UserError):
        start(cluster, on_status=broken)
    assert fake_cluster.get("trainjobs", "train") is None


def test_an_api_server_that_stays_away_leaves_what_runs(cluster, fake_cluster, later):
    later(0.3, lambda: fake_cluster.fail("get", 503, times=10_000))
    with pytest.raises(PlatformError, match=r"what is running is found again"):
        start(cluster)
    assert fake_cluster.get("trainjobs", "train")


def test_an_experiment_that_fails_is_a_failure(cluster, fake_cluster):
    fake_cluster.replay("experiment-failed-trials", speed=50)
    with pytest.raises(RemoteFailure, match=r"Experiment search in namespace team: failed; .*max failed count has reached"):
        start(cluster, experiment(), kind=EXPERIMENT)


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_deletes_first(cluster, fake_cluster, later, number, raised):
    before = signal.getsignal(number)
    later(0.5, os.kill, os.getpid(), number)
    with pytest.raises(raised):
        start(cluster)
    assert fake_cluster.get("trainjobs", "train") is None
    assert signal.getsignal(number) is before


def test_a_signal_while_the_object_is_being_made_deletes_it_too(cluster, fake_cluster, monkeypatch):
    monkeypatch.setattr(connection, "COURTESY_SECONDS", 2.0)
    cluster.create(TRAINJOB, {**trainjob(), "metadata": {"name": "other"}})  # the first one costs the server some seconds of imports
    fake_cluster.slow("create", 0.4)

    def stop():
        while created(fake_cluster) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(SystemExit):
        start(cluster)
    thread.join()
    time.sleep(0.5)
    assert fake_cluster.get("trainjobs", "train") is None


def test_a_signal_never_deletes_what_is_not_ours(cluster, fake_cluster, later):
    fake_cluster.create("trainjobs", {"metadata": {"name": "train"}, "spec": {}})
    fake_cluster.hold_deletion("trainjobs", "train")
    fake_cluster.delete("trainjobs", "train")
    later(0.3, os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(SystemExit):
        start(cluster)
    assert "delete" not in {request.verb for request in fake_cluster.requests}


def test_a_deaf_api_server_does_not_hold_a_signal_up(cluster, fake_cluster, later):
    fake_cluster.slow("delete", 5)
    later(0.5, os.kill, os.getpid(), signal.SIGTERM)
    began = time.monotonic()
    with pytest.raises(SystemExit):
        start(cluster)
    assert time.monotonic() - began < 2.5


def test_a_launch_outside_the_main_thread_leaves_signals_alone(cluster, fake_cluster):
    fake_cluster.replay("trainjob-complete", speed=50)
    before = signal.getsignal(signal.SIGTERM)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(start(cluster).how))
    thread.start()
    assert signal.getsignal(signal.SIGTERM) is before
    thread.join()
    assert ended == ["created"]

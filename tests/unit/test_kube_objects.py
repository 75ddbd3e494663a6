"""What remote objects, pods and names say, read without a cluster."""

import pytest

from kfp_foundry.components.common.kube.kinds import EXPERIMENT, JOB, PYTORCHJOB, TRAINJOB, in_words
from kfp_foundry.components.common.kube.names import digest, object_name
from kfp_foundry.components.common.kube.pod_status import endings, has_started, stuck_at, trouble
from kfp_foundry.components.common.kube.pods import PodOptions, merged_env, settings_env
from kfp_foundry.components.common.kube.queueing import Clock, Limits, waiting_pods, why_waiting


def condition(kind: str, status: str = "True", reason: str = "Because", message: str = "so it is") -> dict:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def with_status(*conditions: dict, metadata: dict | None = None, **status: object) -> dict:
    return {"metadata": {"name": "job", **(metadata or {})}, "status": {"conditions": list(conditions), **status}}


def pod(name: str = "job-node-0-0", phase: str = "Pending", conditions: list | None = None, **container: object) -> dict:
    status = {"phase": phase, "conditions": conditions or [], "containerStatuses": [{"name": "node", "restartCount": 0, **container}]}
    return {"metadata": {"name": name}, "status": status}


def node(**counters: int) -> list[dict]:
    return [{"name": "node", "active": 0, "ready": 0, "succeeded": 0, "failed": 0, "suspended": 0, **counters}]


@pytest.mark.parametrize(
    ("kind", "obj", "phase"),
    [
        (TRAINJOB, {"metadata": {}}, "starting"),
        (TRAINJOB, with_status(jobsStatus=node(active=1)), "starting"),  # pods that no node takes
        (TRAINJOB, with_status(jobsStatus=node(active=1, ready=1)), "running"),
        (TRAINJOB, with_status(condition("Suspended"), jobsStatus=node(suspended=1)), "queued"),
        (TRAINJOB, with_status(condition("Suspended", "False"), jobsStatus=node(active=1, ready=1)), "running"),
        (TRAINJOB, with_status(condition("Suspended", "False"), condition("Complete")), "done"),
        (TRAINJOB, with_status(condition("Complete", "False"), jobsStatus=node(active=1, ready=1)), "running"),
        (TRAINJOB, with_status(condition("Failed", reason="DeadlineExceeded"), jobsStatus=node(active=1, ready=1)), "failed"),
        (TRAINJOB, with_status(condition("Complete"), condition("Failed")), "failed"),
        (PYTORCHJOB, with_status(condition("Created"), replicaStatuses={"Master": {}, "Worker": {}}), "starting"),
        (PYTORCHJOB, with_status(condition("Created"), condition("Running"), replicaStatuses={"Master": {"active": 1}}), "running"),
        (PYTORCHJOB, with_status(condition("Running", "False"), condition("Succeeded")), "done"),
        (EXPERIMENT, with_status(condition("Running"), trials=2, trialsPending=2), "starting"),
        (EXPERIMENT, with_status(condition("Running"), trials=2, trialsRunning=1), "running"),
        (EXPERIMENT, with_status(condition("Running", "False"), condition("Failed"), trialsRunning=1), "failed"),
        (JOB, with_status(condition("Complete"), succeeded=1), "done"),
    ],
)
def test_a_status_is_read_by_conditions_that_hold_before_counters(kind, obj, phase):
    assert kind.state(obj).phase == phase


def test_an_object_in_deletion_says_so_beside_its_phase():
    state = TRAINJOB.state(with_status(condition("Complete"), metadata={"deletionTimestamp": "2026-11-21T12:00:00Z"}))
    assert (state.phase, state.deleting) == ("done", True)


def test_conditions_in_words_leave_out_those_that_do_not_hold():
    assert in_words(with_status(condition("Suspended", "False"), condition("Failed"))) == "Failed (Because: so it is)"


@pytest.mark.parametrize("prefix", ["Train model", "9 lives", "", "a" * 90, "end-in-dash------------------------"])
def test_a_name_is_one_that_every_controller_takes(prefix):
    import re

    name = object_name(prefix, "minio://bucket/run/model")
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 40


def test_names_differ_by_what_they_stand_for_and_agree_otherwise():
    assert object_name("train", "run-1") == object_name("train", "run-1") != object_name("train", "run-2")
    assert object_name("train", "ab", "c") != object_name("train", "a", "bc")


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert digest({"a": [1, 2], "b": {"c": None}}) == digest({"b": {"c": None}, "a": [1, 2]}) != digest({"a": [2, 1], "b": {"c": None}})


def test_a_container_that_was_killed_for_memory_is_told_with_its_code():
    killed = pod(phase="Failed", state={"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-21T12:00:05Z"}})
    assert str(endings(killed)[0]) == "pod job-node-0-0, container node: exit code 137, OOMKilled"


def test_a_crash_before_a_restart_counts_as_an_ending():
    restarted = pod(restartCount=2, state={"running": {}}, lastState={"terminated": {"exitCode": 1, "reason": "Error"}})
    assert [ending.exit_code for ending in endings(restarted)] == [1]
    assert has_started(restarted)


def test_an_evicted_pod_is_told_by_the_pods_own_reason():
    evicted = {"metadata": {"name": "p"}, "status": {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}}
    assert str(endings(evicted)[0]) == "pod p was ended: Evicted (The node was low on resource: memory.)"


def test_a_pod_that_ended_well_has_no_bad_ending():
    assert endings(pod(phase="Succeeded", state={"terminated": {"exitCode": 0, "reason": "Completed"}})) == []


def test_a_pod_that_no_node_takes_says_why():
    message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    waiting = pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}])
    assert trouble(waiting) == f"no node takes pod job-node-0-0: {message}"
    assert not has_started(waiting)
    assert stuck_at(waiting) == ""  # a node may come


@pytest.mark.parametrize("reason", ["ImagePullBackOff", "CreateContainerConfigError"])
def test_a_pod_that_cannot_start_is_stuck(reason):
    waiting = pod(state={"waiting": {"reason": reason, "message": "there is none"}})
    assert stuck_at(waiting) == reason
    assert trouble(waiting) == f"{reason}: there is none"


def test_an_init_container_that_crashes_again_and_again_is_told_and_may_come_right():
    said = "back-off 40s restarting failed container=init-pytorch"
    crashing = pod(state={"waiting": {"reason": "PodInitializing"}})
    crashing["status"]["initContainerStatuses"] = [{"name": "init-pytorch", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": said}}}]
    assert waiting_pods([crashing]) == f"1 pods made, none running: CrashLoopBackOff: {said}"
    assert stuck_at(crashing) == ""


def test_time_in_the_queue_is_no_time_at_work():
    clock = Clock(0)
    for now, phase in [(0, "queued"), (100, "starting"), (110, "running"), (150, "running")]:
        clock.tick(phase, False, now)
    assert (clock.queued_seconds, clock.run_seconds) == (110, 40)


def test_a_job_that_is_suspended_again_queues_again():
    clock = Clock(0)
    for now, phase in [(0, "running"), (10, "queued"), (40, "starting"), (50, "running"), (60, "running")]:
        clock.tick(phase, False, now)
    assert (clock.queued_seconds, clock.run_seconds) == (40, 20)


def test_pods_that_crash_before_they_are_ready_count_as_run():
    clock = Clock(0)
    for now in (0, 10, 20):
        clock.tick("starting", True, now)
    assert (clock.queued_seconds, clock.run_seconds) == (0, 20)


def test_each_limit_counts_only_its_own_time():
    clock = Clock(0)
    clock.tick("queued", False, 0)
    clock.tick("queued", False, 100)
    assert clock.exceeded(Limits(run_seconds=10)) == ""
    assert clock.exceeded(Limits(run_seconds=10, queue_seconds=60)) == "queue"
    clock.tick("running", False, 100)
    clock.tick("running", False, 111)
    assert clock.exceeded(Limits(run_seconds=10, queue_seconds=60)) == "run"


def test_a_suspended_job_names_the_queue_it_waits_in():
    suspended = with_status(condition("Suspended"), metadata={"labels": {"kueue.x-k8s.io/queue-name": "gpus"}})
    assert why_waiting(suspended, TRAINJOB.state(suspended), [], []) == "waits to be admitted by queue 'gpus'"


def test_a_job_without_pods_is_explained_by_its_events():
    warnings = [{"reason": "TrainJobResourcesCreationFailed", "message": "exceeded quota"}]
    job = with_status()
    assert why_waiting(job, TRAINJOB.state(job), [], warnings) == "TrainJobResourcesCreationFailed: exceeded quota"


def test_a_task_config_gives_its_fields_without_the_reserved_variables():
    from kfp import dsl

    config = dsl.TaskConfig(
        resources={"limits": {"nvidia.com/gpu": "2"}},
        node_selector={"pool": "gpu"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        env=[{"name": "PET_NNODES", "value": "9"}, {"name": "NCCL_DEBUG", "value": "INFO"}],
    )
    options = PodOptions.from_task_config(config)
    assert options.resources == {"limits": {"nvidia.com/gpu": "2"}}
    assert options.node_selector == {"pool": "gpu"}
    assert options.tolerations == [{"key": "gpu", "operator": "Exists"}]
    assert options.env == [{"name": "NCCL_DEBUG", "value": "INFO"}]
    assert options.affinity == {}


def test_a_remote_pod_has_the_keys_that_a_step_has():
    entries = {entry["name"]: entry["valueFrom"] for entry in settings_env()}
    assert entries["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "kfp-foundry", "key": "AWS_ACCESS_KEY_ID", "optional": True}}
    pipelines = {"secretKeyRef": {"name": "mlpipeline-minio-artifact", "key": "accesskey", "optional": True}}
    assert entries["PIPELINE_STORE_ACCESS_KEY_ID"] == pipelines


def test_settings_are_references_and_no_name_stands_twice(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hidden")
    entries = settings_env()
    assert "hidden" not in str(entries)
    assert len({entry["name"] for entry in entries}) == len(entries)
    assert [entry["value"] for entry in merged_env(entries, [{"name": "PGHOST", "value": "db"}]) if entry["name"] == "PGHOST"] == ["db"]

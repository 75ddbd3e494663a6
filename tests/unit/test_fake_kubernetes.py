"""The fake API server answers as the real one does: its refusals are held against what was recorded."""

import json
import threading
import time

import pytest
from fake_kubernetes import FakeCluster
from fake_kubernetes_katib import TrialFailed
from fake_kubernetes_replay import main_kind, recording
from kubernetes import client, config, watch

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
@pytest.mark.parametrize(("trainer", "name"), [("2.3", "trainjob-refused"), ("2.1", "trainjob-refused-trainer21")])
def test_a_refusal_is_worded_as_recorded(change, options, trainer, name):
    body = train_job(command=["python3", "/app/rendezvous.py"])
    change(body)
    with FakeCluster(trainer=trainer) as cluster:
        answer = refusal(cluster, body, **options)
    said = [line["body"] for line in recording(name) if line["type"] == "RESPONSE"]
    assert answer in said


def refusal(cluster, body, **options):
    configuration = client.Configuration()
    config.load_kube_config(config_file=cluster.kubeconfig, client_configuration=configuration)
    with pytest.raises(client.ApiException) as caught:
        client.CustomObjectsApi(client.ApiClient(configuration)).create_namespaced_custom_object(*GROUP, "team", "trainjobs", body, **options)
    return json.loads(caught.value.body)


ENDED = ["trainjob-complete", "trainjob-failed", "trainjob-deadline", "trainjob-suspended", "pytorchjob-complete", "pytorchjob-failed"]


@pytest.mark.parametrize("name", [*ENDED, "experiment-failed-trials", "experiment-no-metric"])
def test_a_replayed_object_comes_to_the_recorded_end(fake_cluster, name):
    fake_cluster.add_runtime("once")
    fake_cluster.replay(name, speed=60)
    kind = fake_cluster.resource(main_kind(name))
    body = next(line["body"] for line in recording(name) if line["type"] == "ACTION")
    made = fake_cluster.admit(kind, {**body, "metadata": {"name": "mine"}}, "team", strict=True)
    last = [line["status"] for line in recording(name) if line.get("kind") == kind.kind and line["type"] == "MODIFIED"][-1]
    until(lambda: conditions(fake_cluster.get(kind, "mine").get("status") or {}) == conditions(last))
    assert fake_cluster.get(kind, "mine")["metadata"]["uid"] == made["metadata"]["uid"]
    dependents = [pod["metadata"] for pod in fake_cluster.objects("pods")]
    assert all(meta["name"].startswith("mine-") and meta["ownerReferences"] for meta in dependents)
    fake_cluster.delete(kind, "mine")
    assert [fake_cluster.objects(plural) for plural in ("pods", "jobs", "jobsets", "trials")] == [[], [], [], []]


def conditions(status):
    return [(c["type"], c["status"], c["reason"].replace("hpo", "mine")) for c in status.get("conditions") or []]


def test_a_field_of_another_version_is_dropped_where_nothing_is_said_about_strictness(api, fake_cluster):
    body = train_job()
    body["spec"]["podTemplateOverrides"] = [{"targetJobs": [{"name": "node"}]}]
    assert "podTemplateOverrides" not in create(api, body)["spec"]


def test_an_immutable_field_is_refused_as_recorded(api, fake_cluster):
    create(api, train_job())
    with pytest.raises(client.ApiException) as caught:
        api[0].patch_namespaced_custom_object(*GROUP, "team", "trainjobs", "job", {"spec": {"trainer": {"image": "other"}}})
    said = [line["body"] for line in recording("trainjob-refused") if line["type"] == "RESPONSE"]
    assert json.loads(caught.value.body) == said[-1]


def test_a_wrong_type_is_refused_by_the_webhook_that_reads_it_first(fake_cluster):
    why = "json: cannot unmarshal string into Go struct field Trainer.spec.trainer.numNodes of type int32"
    assert refusal(fake_cluster, train_job(numNodes="two"))["message"].endswith(f"denied the request: {why}")


def test_a_wrong_type_is_refused_by_the_schema_where_there_is_no_such_webhook():
    with FakeCluster(trainer="2.1") as cluster:
        answer = refusal(cluster, train_job(numNodes="two"))
    assert (answer["code"], answer["details"]["causes"][0]["field"]) == (422, "spec.trainer.numNodes")


def test_a_watch_sees_every_change_and_goes_on_from_a_version(api, fake_cluster):
    seen = []

    def look():
        for event in watch.Watch().stream(api[0].list_namespaced_custom_object, *GROUP, "team", "trainjobs", timeout_seconds=3):
            seen.append(event["type"])
            if event["type"] == "DELETED":
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    create(api, train_job())
    until(lambda: seen)
    fake_cluster.set_condition("trainjobs", "job", "Complete")
    fake_cluster.delete("trainjobs", "job")
    watcher.join()
    assert seen == ["ADDED", "MODIFIED", "DELETED"]


def test_a_followed_log_ends_with_its_pod(api, fake_cluster):
    running = [{"name": "node", "state": {"running": {}}}]
    fake_cluster.create("pods", {"metadata": {"name": "p"}, "status": {"phase": "Running", "containerStatuses": running}})
    fake_cluster.log("p", "one")
    threading.Timer(0.2, fake_cluster.log, ("p", "two")).start()
    threading.Timer(0.4, lambda: fake_cluster.set_status("pods", "p", phase="Succeeded", containerStatuses=running)).start()
    assert api[1].read_namespaced_pod_log("p", "team", follow=True) == "one\ntwo\n"


def test_a_container_that_waits_has_no_log(api, fake_cluster):
    waiting = [{"name": "node", "state": {"waiting": {"reason": "ContainerCreating"}}}]
    fake_cluster.create("pods", {"metadata": {"name": "p"}, "status": {"phase": "Pending", "containerStatuses": waiting}})
    with pytest.raises(client.ApiException, match="is waiting to start: ContainerCreating"):
        api[1].read_namespaced_pod_log("p", "team")


def test_a_deletion_that_is_held_leaves_the_object_marked(api, fake_cluster):
    create(api, train_job())
    fake_cluster.hold_deletion("trainjobs", "job")
    api[0].delete_namespaced_custom_object(*GROUP, "team", "trainjobs", "job")
    assert fake_cluster.get("trainjobs", "job")["metadata"]["deletionTimestamp"]
    fake_cluster.release_deletion("trainjobs", "job")
    assert fake_cluster.objects("trainjobs") == []


def test_a_role_allows_what_it_says_and_nothing_else(api, fake_cluster):
    fake_cluster.allow_only([{"apiGroups": ["trainer.kubeflow.org"], "resources": ["trainjobs"], "verbs": ["create"]}])
    create(api, train_job())
    told = 'trainjobs.trainer.kubeflow.org "job" is forbidden: User "system:serviceaccount:team:pipeline-runner" cannot get resource "trainjobs"'
    with pytest.raises(client.ApiException) as caught:
        api[0].get_namespaced_custom_object(*GROUP, "team", "trainjobs", "job")
    assert json.loads(caught.value.body)["message"].startswith(told)


def test_a_lost_answer_is_not_a_lost_request(api, fake_cluster):
    fake_cluster.drop("create", after=True)
    with pytest.raises(Exception, match=r"Connection|Remote"):
        create(api, train_job())
    assert len(fake_cluster.objects("trainjobs")) == 1


def test_a_katib_counts_failed_trials_and_names_the_best(fake_cluster):
    def outcome(values):
        if float(values["x"]) > 0.9:
            raise TrialFailed("ValueError: too big")
        return {"loss": (float(values["x"]) - 0.25) ** 2}

    fake_cluster.run_experiments(outcome, seconds=0.02)
    body = next(line["body"] for line in recording("experiment-failed-trials") if line["type"] == "ACTION")
    body = {**body, "spec": {**body["spec"], "maxTrialCount": 5, "maxFailedTrialCount": 2}}
    fake_cluster.admit(fake_cluster.resource("experiments"), body, "team", strict=True)
    status = until(lambda: ended(fake_cluster.get("experiments", "hpo").get("status") or {}))
    assert (status["trialsSucceeded"], status["trialsFailed"]) == (4, 1)
    assert status["currentOptimalTrial"]["parameterAssignments"] == [{"name": "x", "value": "0.25"}]


def ended(status):
    return status if any(c["type"] in ("Succeeded", "Failed") and c["status"] == "True" for c in status.get("conditions", [])) else None

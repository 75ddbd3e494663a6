"""The launcher against real controllers; needs KFP_FOUNDRY_TEST_KUBECONFIG, and an image with python3 on its nodes."""

import logging
import threading
import time

import launching
import pytest
import real_cluster
from real_cluster import WHY_SKIPPED, old_training, training

from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.failure import RemoteFailure
from kfp_foundry.components.common.kube.kinds import PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.launcher import Limits, Pace, launch
from kfp_foundry.components.common.kube.task import Task

pytestmark = [pytest.mark.skipif(not real_cluster.KUBECONFIG, reason=WHY_SKIPPED), pytest.mark.timeout(300)]

NO_LIMITS = Limits()
PACE = Pace(first=0.5, longest=1.0, report=2.0, stuck=5.0)
WELL = "import time\nfor i in range(5):\n    print(f'epoch={i} loss=0.5')\n    time.sleep(0.2)\n"
WRONG = "import sys\nprint('epoch=0')\nraise SystemExit(64) if print('ValueError: bad column', file=sys.stderr) is None else 0"
LONG = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\ntime.sleep(600)"


@pytest.fixture(scope="module")
def real():
    with real_cluster.real_cluster() as cluster:
        yield cluster


class Step:
    """A step of a run, played by this process: its cluster, and who it is."""

    def __init__(self, real, folder):
        self.real, self.folder = real, folder
        self.workflow = real.add_workflow()
        self.pod = real.add_step_pod(self.workflow)
        self.uri = f"minio://bucket/{self.workflow['metadata']['name']}/model"
        self.kubeconfig = real.kubeconfig_of("pipeline-runner", folder)
        self.cluster = Cluster.connect(kubeconfig=self.kubeconfig)

    def identify(self):
        self.task = Task.of(self.uri, self.cluster)

    def body(self, spec):
        return {"metadata": self.task.metadata("train"), "spec": spec}

    def launch(self, spec, kind=TRAINJOB, limits=NO_LIMITS, **more):
        return launch(self.cluster, kind, self.body(spec), limits=limits, pace=PACE, **more)

    def start(self, spec, plural="trainjobs"):
        """The same as a process of its own."""
        return launching.start(self.kubeconfig, plural, self.pod, self.folder / "log", spec, self.uri)

    def current(self, kind=TRAINJOB):
        return self.cluster.get(kind, self.task.name("train"))

    def pods(self):
        return self.real.pods(f"jobset.sigs.k8s.io/jobset-name={self.task.name('train')}")

    def runs(self):
        return any(pod.status.phase == "Running" for pod in self.pods())


@pytest.fixture
def step(real, tmp_path, monkeypatch):
    found = Step(real, tmp_path)
    monkeypatch.setenv("KFP_POD_NAME", found.pod)
    found.identify()
    return found


def until(reached, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.2)
    return found


def test_a_trainjob_is_followed_to_its_end_with_the_rights_of_our_role(step, caplog):
    caplog.set_level(logging.INFO)
    finished = step.launch(training(WELL, nodes=2))
    assert (finished.how, TRAINJOB.state(finished.object).phase) == ("created", "done")
    assert [f"epoch={i} loss=0.5" in caplog.text for i in range(5)] == [True] * 5
    again = step.launch(training(WELL, nodes=2))
    assert (again.how, again.object["metadata"]["uid"]) == ("reused", finished.object["metadata"]["uid"])


def test_a_pytorchjob_is_followed_to_its_end(step, caplog):
    caplog.set_level(logging.INFO)
    finished = step.launch(old_training(WELL), PYTORCHJOB)
    assert PYTORCHJOB.state(finished.object).phase == "done"
    assert "epoch=4 loss=0.5" in caplog.text


@pytest.mark.parametrize("kind", [TRAINJOB, PYTORCHJOB], ids=lambda kind: kind.kind)
def test_a_failure_tells_exit_code_and_last_lines(step, kind):
    spec = training(WRONG) if kind is TRAINJOB else old_training(WRONG)
    with pytest.raises(RemoteFailure, match=r"(?s)64.*ValueError: bad column|ValueError: bad column.*64"):
        step.launch(spec, kind)


def test_a_failed_training_is_made_anew_by_the_next_attempt(step):
    with pytest.raises(RemoteFailure):
        step.launch(training(WRONG))
    before = step.current()["metadata"]["uid"]
    with pytest.raises(RemoteFailure):
        step.launch(training(WRONG))
    assert step.current()["metadata"]["uid"] != before


def test_what_no_node_takes_is_told_and_deleted(step):
    spec = training(WELL)
    spec["trainer"]["resourcesPerNode"] = {"requests": {"nvidia.com/gpu": "64"}, "limits": {"nvidia.com/gpu": "64"}}
    with pytest.raises(RemoteFailure, match=r"(?s)has not run within 8 s.*nvidia.com/gpu"):
        step.launch(spec, limits=Limits(queue_seconds=8))
    until(lambda: step.current() is None)


def test_an_image_that_is_not_there_is_given_up(step):
    spec = training(WELL)
    spec["trainer"]["image"] = "example.invalid/none:1"
    with pytest.raises(RemoteFailure, match=r"(?s)could not start.*example.invalid/none:1"):
        step.launch(spec)


def test_a_training_that_takes_too_long_is_deleted(step):
    with pytest.raises(RemoteFailure, match="has run for"):
        step.launch(training(LONG), limits=Limits(run_seconds=3))
    until(lambda: step.current() is None)


def test_time_in_a_queue_counts_apart(step):
    spec = training(WELL, suspend=True)
    resume = threading.Timer(6, lambda: step.cluster.patch(TRAINJOB, step.task.name("train"), {"spec": {"suspend": False}}))
    # a queue has rights of its own
    step.cluster = Cluster.connect(namespace=step.cluster.namespace, kubeconfig=real_cluster.KUBECONFIG)
    resume.start()
    finished = step.launch(spec, limits=Limits(run_seconds=30, queue_seconds=60))
    assert finished.queued_seconds > 4
    assert finished.run_seconds < finished.queued_seconds + 10


def test_another_spec_is_refused_and_the_object_left(step):
    step.cluster.create(TRAINJOB, step.body(training(LONG)))
    with pytest.raises(UserError, match="it is left alone"):
        step.launch(training(WELL))
    assert step.current() is not None


def test_a_field_that_the_version_would_drop_is_refused(step):
    with pytest.raises(PlatformError, match="unknown field"):
        step.launch(training(WELL, noSuchField=[]))


def test_a_webhooks_refusal_is_told_as_one(step):
    spec = training(WELL)
    spec["trainer"]["env"] = [{"name": "PET_NNODES", "value": "3"}]
    with pytest.raises(UserError, match=r"(?s)refuses to create TrainJob.*PET_NNODES"):
        step.launch(spec)


def test_a_runtime_that_is_not_there_is_told(step):
    spec = training(WELL)
    spec["runtimeRef"] = {"name": "none", "kind": "TrainingRuntime"}
    with pytest.raises(UserError, match='"none" not found'):
        step.launch(spec)


def test_a_missing_right_is_named(real, step, tmp_path):
    cluster = Cluster.connect(kubeconfig=real.kubeconfig_of("without-rights", tmp_path))
    with pytest.raises(PlatformError, match=r'lacks verb "get" on trainjobs of API group "trainer.kubeflow.org"'):
        launch(cluster, TRAINJOB, step.body(training(WELL)), limits=Limits())
    with pytest.raises(PlatformError, match=r'lacks verb "get" on pods'):
        Task.of("minio://bucket/run/model", cluster)


def test_a_field_of_each_version_is_known(step):
    fields = step.cluster.fields(TRAINJOB)
    assert "spec.runtimeRef.name" in fields
    assert {"spec.podSpecOverrides", "spec.podTemplateOverrides", "spec.runtimePatches"} & fields


def test_after_kill_9_the_next_attempt_adopts_the_training(step):
    slow = training(WELL.replace("range(5)", "range(40)"))
    first = step.start(slow)
    uid = until(step.current)["metadata"]["uid"]
    first.kill()
    first.join()
    second = step.start(slow)
    second.join(120)
    said = (step.folder / "log").read_text()
    assert second.exitcode == 0, said
    assert step.current()["metadata"]["uid"] == uid
    assert "adopted TrainJob" in said
    assert "epoch=39" in said


def test_sigterm_takes_the_training_away_within_seconds(step):
    process = step.start(training(LONG))
    until(step.runs)
    began = time.monotonic()
    process.terminate()
    process.join(10)
    assert process.exitcode == 143
    assert time.monotonic() - began < 3
    until(lambda: step.current() is None and not step.pods())
    print(f"from SIGTERM to no pod: {time.monotonic() - began:.1f} s")


def test_a_workflow_that_is_deleted_takes_the_training_with_it(real, step):
    step.cluster.create(TRAINJOB, step.body(training(LONG)))
    real.delete_workflow(step.workflow)
    until(lambda: step.current() is None)

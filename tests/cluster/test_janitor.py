"""The janitor on a real cluster: with the rights of its Role, and as the CronJob of our manifests; see KFP_FOUNDRY_TEST_KUBECONFIG."""

import time

import launching
import pytest
import real_cluster
from real_cluster import WHY_SKIPPED, old_training, training

from kfp_foundry.components.common.kube import janitor
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.names import object_name
from kfp_foundry.components.common.kube.task import Task

pytestmark = [pytest.mark.skipif(not real_cluster.KUBECONFIG, reason=WHY_SKIPPED), pytest.mark.timeout(600)]

LONG = "import time\ntime.sleep(600)"  # as process 1 it does not even heed SIGTERM


@pytest.fixture(scope="module")
def real():
    with real_cluster.real_cluster() as cluster:
        yield cluster


@pytest.fixture
def left(real, tmp_path, monkeypatch):
    """A launcher killed with -9 while its training ran: `left("trainjobs")` gives its Workflow and the training's name."""

    def leave(plural="trainjobs"):
        workflow = real.add_workflow()
        pod = real.add_step_pod(workflow)
        spec = training(LONG) if plural == "trainjobs" else old_training(LONG)
        uri = f"minio://bucket/{workflow['metadata']['name']}/model"
        process = launching.start(real.kubeconfig_of("pipeline-runner", tmp_path), plural, pod, tmp_path / "log", spec, uri)
        name = object_name("train", uri)
        until(lambda: running(real, name))
        process.kill()
        process.join()
        return workflow, name

    return leave


def until(reached, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.2)
    return found


def running(real, name):
    """Pods of a training that a node has taken: what would hold a GPU."""
    found = [*real.pods(f"jobset.sigs.k8s.io/jobset-name={name}"), *real.pods(f"training.kubeflow.org/job-name={name}")]
    return [pod for pod in found if pod.spec.node_name]


@pytest.mark.parametrize("kind", [TRAINJOB, PYTORCHJOB], ids=lambda kind: kind.kind)
def test_what_a_killed_launcher_left_goes_with_its_run_and_not_before(real, left, tmp_path, kind):
    workflow, name = left(kind.plural)
    cluster = Cluster.connect(kubeconfig=real.kubeconfig_of("kfp-foundry-janitor", tmp_path))
    swept = janitor.sweep(cluster)
    assert (swept.stopped, len(swept.left), swept.problems) == ([], 1, [])
    real.end_workflow(workflow)
    assert janitor.sweep(cluster).stopped[0] == f"{kind.kind} {name}"
    until(lambda: not running(real, name))
    assert janitor.sweep(cluster) == janitor.Swept()


def test_what_a_laptop_launched_stays(real, tmp_path, monkeypatch):
    monkeypatch.delenv("KFP_POD_NAME", raising=False)
    cluster = Cluster.connect(namespace=real.namespace, kubeconfig=real_cluster.KUBECONFIG)
    metadata = Task.of(str(tmp_path), cluster).metadata("laptop")
    cluster.create(TRAINJOB, {"metadata": metadata, "spec": training(LONG)})
    assert janitor.sweep(Cluster.connect(kubeconfig=real.kubeconfig_of("kfp-foundry-janitor", tmp_path))).stopped == []
    assert cluster.delete(TRAINJOB, metadata["name"])


def test_the_cron_job_leaves_no_gpu_in_use_two_minutes_after_a_run_ended(real, left):
    real.install_janitor()
    workflow, name = left()
    began = time.monotonic()
    real.end_workflow(workflow)
    until(lambda: not running(real, name), 180)
    took = time.monotonic() - began
    print(f"from the end of the run to no pod: {took:.0f} s")
    assert took < 120

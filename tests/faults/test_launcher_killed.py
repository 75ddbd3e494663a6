"""A launcher killed at any moment: the next attempt finds what it started, nothing is started twice, the janitor leaves no orphan.

`KFP_FOUNDRY_FAULT_ROUNDS` says how many moments are tried of each sort; 50 takes some minutes.
"""

import os
import random
import signal
import time

import launching
import pytest

from kfp_foundry.components.common.kube import janitor
from kfp_foundry.components.common.kube.connection import Cluster

ROUNDS = int(os.environ.get("KFP_FOUNDRY_FAULT_ROUNDS", "2"))
LATEST = 0.8  # seconds; a launch takes about that long
LINES = [f"epoch={i} loss={1 / (i + 1):.3f}" for i in range(20)]


@pytest.fixture
def step(fake_cluster, tmp_path):
    """Starts this step's launcher anew: `step()`; `step.workflow` is its run."""

    class Step:
        workflow = fake_cluster.add_workflow()
        pod = fake_cluster.add_step_pod(workflow)["metadata"]["name"]
        said = tmp_path / "log"

        def __call__(self, plural="trainjobs", spec=None):
            return launching.start(fake_cluster.kubeconfig, plural, self.pod, self.said, spec)

    return Step()


def develop(fake_cluster, plural):
    if plural == "experiments":
        fake_cluster.run_experiments(lambda values: {"loss": float(values["x"])}, seconds=0.3)
    else:
        recording = {"trainjobs": "trainjob-complete", "pytorchjobs": "pytorchjob-complete"}[plural]
        fake_cluster.replay(recording, speed=12, logs={"": LINES})


def finished(process, seconds=20):
    process.join(seconds)
    assert process.exitcode is not None, "the launcher hangs"
    return process.exitcode


def made(fake_cluster, plural):
    """How often an object was made, and how often one was deleted."""
    events = [change.type for change in fake_cluster.store.history if change.resource.plural == plural]
    return events.count("ADDED"), events.count("DELETED")


def until(reached, seconds=10):
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "not reached in time"
        time.sleep(0.005)


def moments():
    """Moments from the start of a launcher to beyond its end, the same ones each time."""
    return [pytest.param(random.Random(seed).uniform(0, LATEST), id=f"moment {seed}") for seed in range(ROUNDS)]


@pytest.mark.parametrize("moment", moments())
@pytest.mark.parametrize("plural", ["trainjobs", "pytorchjobs", "experiments"])
def test_after_kill_9_the_next_attempt_adopts_what_runs(fake_cluster, step, plural, moment):
    develop(fake_cluster, plural)
    first = step(plural)
    time.sleep(moment)
    first.kill()
    first.join()
    assert finished(step(plural)) == 0, step.said.read_text()
    assert made(fake_cluster, plural) == (1, 0)


@pytest.mark.parametrize("moment", moments())
def test_after_sigterm_nothing_runs_on_once_the_run_is_over(fake_cluster, step, moment):
    develop(fake_cluster, "trainjobs")
    first = step()
    time.sleep(moment)
    first.terminate()
    first.join()
    fake_cluster.end_workflow(step.workflow["metadata"]["name"])
    time.sleep(0.05)  # a create may still be on its way
    janitor.sweep(Cluster.connect())
    left = [job for job in fake_cluster.objects("trainjobs") if janitor.is_active(janitor.TRAINJOB)(job)]
    assert left == []


@pytest.mark.parametrize("moment", moments())
def test_after_sigterm_the_next_attempt_succeeds_with_one_object_at_a_time(fake_cluster, step, moment):
    develop(fake_cluster, "trainjobs")
    first = step()
    time.sleep(moment)
    first.terminate()
    first.join()
    assert finished(step()) == 0, step.said.read_text()
    added, deleted = made(fake_cluster, "trainjobs")
    assert added - deleted == 1
    assert added <= 2


def test_killed_again_and_again_there_is_still_one_object(fake_cluster, step):
    fake_cluster.replay("trainjob-complete", speed=2, logs={"": LINES})
    dice = random.Random(3)
    for _ in range(max(4, ROUNDS // 2)):
        process = step()
        time.sleep(dice.uniform(0.05, 0.4))
        process.kill()
        process.join()
    assert finished(step()) == 0
    assert made(fake_cluster, "trainjobs") == (1, 0)


def test_a_launcher_that_runs_gives_sigterm_on_within_a_second(fake_cluster, step):
    process = step()
    until(lambda: fake_cluster.objects("trainjobs"))
    began = time.monotonic()
    process.terminate()
    assert finished(process) == 128 + signal.SIGTERM
    assert fake_cluster.objects("trainjobs") == []
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("plural", ["trainjobs", "pytorchjobs", "experiments"])
def test_what_a_launcher_left_after_kill_9_goes_with_its_run(fake_cluster, step, plural):
    process = step(plural)
    until(lambda: fake_cluster.objects(plural))
    process.kill()
    process.join()
    cluster = Cluster.connect()
    assert janitor.sweep(cluster).stopped == [], "the run goes on: a retry may adopt it"
    assert len(fake_cluster.objects(plural)) == 1
    fake_cluster.end_workflow(step.workflow["metadata"]["name"])
    assert len(janitor.sweep(cluster).stopped) == 1
    assert fake_cluster.objects(plural) == []


def test_what_a_launcher_left_goes_with_a_workflow_that_is_deleted(fake_cluster, step):
    process = step()
    until(lambda: fake_cluster.objects("trainjobs"))
    process.kill()
    process.join()
    fake_cluster.delete("workflows", step.workflow["metadata"]["name"])
    until(lambda: not fake_cluster.objects("trainjobs"))  # the Workflow owns it: Kubernetes' own garbage collector does this


def test_two_launchers_of_one_step_share_one_object(fake_cluster, step):
    """As when a node is lost and its pod, not yet known to be dead, is replaced."""
    fake_cluster.replay("trainjob-complete", speed=10)
    first, second = step(), step()
    assert (finished(first), finished(second)) == (0, 0)
    assert made(fake_cluster, "trainjobs") == (1, 0)


def test_a_step_whose_parameters_changed_leaves_the_other_object_alone(fake_cluster, step):
    process = step()
    until(lambda: fake_cluster.objects("trainjobs"))
    process.kill()
    process.join()
    [before] = fake_cluster.objects("trainjobs")
    other = {**launching.KINDS["trainjobs"], "trainer": {"image": "local/train:2"}}
    assert finished(step(spec=other)) == 1
    assert "made from another spec" in step.said.read_text()
    assert fake_cluster.objects("trainjobs") == [before]

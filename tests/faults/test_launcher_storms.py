"""A launch while the API server is overloaded, restarted or upgraded: one object, its end, and every line of its log once.

`KFP_FOUNDRY_FAULT_ROUNDS` says how many storms of each sort there are.
"""

import os
import time

import pytest
from launching import KINDS

from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.kube import connection, janitor
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.failure import RemoteFailure
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.launcher import Limits, Pace, launch
from kfp_foundry.components.common.kube.logs import Follower, LogSource

ROUNDS = int(os.environ.get("KFP_FOUNDRY_FAULT_ROUNDS", "1"))
PACE = Pace(first=0.05, longest=0.05)
LINES = [f"epoch={i} loss={1 / (i + 1):.3f}" for i in range(40)]


@pytest.fixture
def cluster(fake_cluster, monkeypatch):
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.02)
    monkeypatch.setattr("kfp_foundry.components.common.kube.logs.LIST_SECONDS", 0.05)
    monkeypatch.setattr("kfp_foundry.components.common.kube.logs.GRACE_SECONDS", 4.0)
    return Cluster.connect(outage_seconds=10)


def body(kind):
    return {"metadata": {"name": "train"}, "spec": KINDS[kind.plural]}


def additions(fake_cluster, kind):
    return sum(change.type == "ADDED" and change.resource.plural == kind.plural for change in fake_cluster.store.history)


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("kind", [TRAINJOB, PYTORCHJOB, EXPERIMENT], ids=lambda kind: kind.kind)
def test_a_third_of_all_calls_fails_and_the_launch_does_not(fake_cluster, cluster, kind, seed):
    fake_cluster.run_experiments(lambda values: {"loss": float(values["x"])})
    fake_cluster.replay("trainjob-complete", speed=20)
    fake_cluster.replay("pytorchjob-complete", speed=20)
    fake_cluster.storm(0.35, seed)
    finished = launch(cluster, kind, body(kind), limits=Limits(), pace=PACE)
    assert kind.state(finished.object).phase == "done"
    assert additions(fake_cluster, kind) == 1


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_failure_is_told_in_full_in_a_storm(fake_cluster, cluster, seed):
    fake_cluster.replay("trainjob-failed", speed=10, logs={"": ["Traceback (most recent call last):", "ValueError: bad column"]})
    fake_cluster.storm(0.3, seed)
    with pytest.raises(RemoteFailure, match="ValueError: bad column"):
        launch(cluster, TRAINJOB, body(TRAINJOB), limits=Limits(), pace=PACE)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_line_of_the_log_is_lost_or_doubled_in_a_storm(fake_cluster, cluster, seed):
    shown = []
    fake_cluster.replay("trainjob-complete", speed=5, logs={"node-0-0": LINES})
    fake_cluster.storm(0.3, seed)
    source = LogSource.of(TRAINJOB, "train")
    with Follower(cluster, source, show=lambda pod, line: shown.append(line)) as follower:
        launch(cluster, TRAINJOB, body(TRAINJOB), limits=Limits(), pace=PACE, logs=follower)
    assert shown == LINES


def test_an_api_server_that_restarts_is_waited_for(fake_cluster, cluster):
    fake_cluster.replay("trainjob-complete", speed=5)

    def restart(obj):
        if not fake_cluster.away_until:
            fake_cluster.away(1.0)

    launch(cluster, TRAINJOB, body(TRAINJOB), limits=Limits(), pace=PACE, on_status=restart)
    assert additions(fake_cluster, TRAINJOB) == 1


def test_a_token_that_is_rotated_again_and_again_is_read_anew(fake_cluster, cluster):
    fake_cluster.replay("trainjob-complete", speed=10)
    launch(cluster, TRAINJOB, body(TRAINJOB), limits=Limits(), pace=PACE, on_status=lambda obj: fake_cluster.rotate_token())
    assert any(request.status == 401 for request in fake_cluster.requests)


def test_a_right_that_is_taken_away_meanwhile_is_named(fake_cluster, cluster):
    with pytest.raises(PlatformError, match=r'lacks verb "get" on trainjobs of API group "trainer.kubeflow.org"'):
        launch(cluster, TRAINJOB, body(TRAINJOB), limits=Limits(), pace=PACE, on_status=lambda obj: fake_cluster.deny("get", "trainjobs"))


def test_a_kind_that_is_uninstalled_meanwhile_is_named(fake_cluster, cluster):
    with pytest.raises(PlatformError, match=r"serves no trainjobs.trainer.kubeflow.org"):
        launch(cluster, TRAINJOB, body(TRAINJOB), limits=Limits(), pace=PACE, on_status=lambda obj: fake_cluster.unserve("trainjobs"))


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_the_janitor_comes_to_the_same_end_in_a_storm(fake_cluster, cluster, seed):
    over, alive = fake_cluster.add_workflow("over"), fake_cluster.add_workflow("alive")
    fake_cluster.end_workflow("over")
    for workflow in (over, alive):
        name = workflow["metadata"]["name"]
        labels = {"kfp-foundry.io/managed-by": "kfp-foundry", "kfp-foundry.io/workflow": name}
        for kind in (TRAINJOB, PYTORCHJOB, EXPERIMENT):
            fake_cluster.create(kind, {"metadata": {"name": f"of-{name}", "labels": labels}, "spec": {}})
    fake_cluster.storm(0.35, seed)
    deadline = time.monotonic() + 20
    while janitor.sweep(cluster).stopped:
        assert time.monotonic() < deadline
    for kind in (TRAINJOB, PYTORCHJOB, EXPERIMENT):
        assert [obj["metadata"]["name"] for obj in fake_cluster.objects(kind)] == ["of-alive"]

"""Logs of remote pods: every line once, whatever happens to the connection, and kept when the pod is gone."""

import time

import pytest

from kfp_foundry.components.common.kube import logs
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.kube.logs import Follower, LogSource, Place

LABELS = {"job": "train"}


@pytest.fixture
def cluster(fake_cluster, monkeypatch):
    monkeypatch.setattr(logs, "LIST_SECONDS", 0.05)
    monkeypatch.setattr(logs, "FIRST_PAUSE", 0.05)
    return Cluster.connect()


@pytest.fixture
def shown():
    return []


@pytest.fixture
def follow(cluster, shown):
    def start(**source):
        return Follower(cluster, LogSource(**{"labels": LABELS, **source}), show=lambda pod, line: shown.append(line))

    return start


def add_pod(fake_cluster, name: str = "train-0", labels: dict | None = None, phase: str = "Running", container: str = "node"):
    state = {"running": {"startedAt": "2026-11-21T12:00:00Z"}} if phase == "Running" else {"waiting": {"reason": "ContainerCreating"}}
    status = {"phase": phase, "containerStatuses": [{"name": container, "restartCount": 0, "state": state}]}
    return fake_cluster.create("pods", {"metadata": {"name": name, "labels": {**LABELS, **(labels or {})}}, "status": status})


def finish(fake_cluster, name: str = "train-0", code: int = 0):
    ended = {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "finishedAt": "2026-11-21T12:00:09Z"}}
    statuses = [{"name": "node", "restartCount": 0, "state": ended}]
    fake_cluster.set_status("pods", name, phase="Succeeded" if code == 0 else "Failed", containerStatuses=statuses)


def until(holds, seconds: float = 5.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def test_lines_are_shown_as_they_come_and_to_the_last(fake_cluster, follow, shown):
    add_pod(fake_cluster)
    with follow() as follower:
        fake_cluster.log("train-0", "epoch 1")
        until(lambda: shown == ["epoch 1"])
        fake_cluster.log("train-0", "epoch 2", "done")
        finish(fake_cluster)
    assert shown == ["epoch 1", "epoch 2", "done"]
    assert follower.tail("train-0") == shown


def test_a_broken_connection_costs_no_line_and_doubles_none(fake_cluster, follow, shown):
    add_pod(fake_cluster)
    expected = []
    with follow():
        for number in range(40):
            fake_cluster.log("train-0", f"line {number}", "the same")
            expected += [f"line {number}", "the same"]
            if number % 5 == 0:
                until(lambda: len(shown) > number)  # noqa: B023
                fake_cluster.cut_streams()
            time.sleep(0.01)
        finish(fake_cluster)
    assert shown == expected


def test_an_api_server_that_refuses_for_a_while_costs_no_line(fake_cluster, follow, shown):
    add_pod(fake_cluster)
    with follow():
        fake_cluster.log("train-0", "before")
        until(lambda: shown)
        fake_cluster.fail("*", 503, times=6)
        fake_cluster.cut_streams()
        fake_cluster.log("train-0", "meanwhile")
        until(lambda: len(shown) == 2)
        finish(fake_cluster)
    assert shown == ["before", "meanwhile"]


def test_a_silent_connection_is_made_anew(fake_cluster, follow, shown, monkeypatch):
    monkeypatch.setattr(logs, "SILENCE_SECONDS", 0.2)
    add_pod(fake_cluster)
    with follow():
        fake_cluster.log("train-0", "one")
        until(lambda: shown)
        time.sleep(0.6)
        fake_cluster.log("train-0", "two")
        finish(fake_cluster)
    assert shown == ["one", "two"]
    assert sum(request.resource == "pods/log" for request in fake_cluster.requests) > 2


def test_a_pod_is_followed_from_its_start_on(fake_cluster, follow, shown):
    add_pod(fake_cluster, phase="Pending")
    with follow():
        time.sleep(0.2)
        assert not any(request.resource == "pods/log" for request in fake_cluster.requests)
        fake_cluster.log("train-0", "hello")
        finish(fake_cluster)
    assert shown == ["hello"]


def test_a_pod_that_takes_the_place_of_another_is_followed_too(fake_cluster, follow, shown):
    add_pod(fake_cluster, "train-0-abc")
    with follow():
        fake_cluster.log("train-0-abc", "first attempt")
        until(lambda: shown)
        fake_cluster.delete("pods", "train-0-abc")
        add_pod(fake_cluster, "train-0-def")
        fake_cluster.log("train-0-def", "second attempt")
        until(lambda: len(shown) == 2)
        finish(fake_cluster, "train-0-def")
    assert shown == ["first attempt", "second attempt"]


def test_what_a_deleted_pod_said_and_how_it_ended_stay_known(fake_cluster, follow):
    add_pod(fake_cluster)
    with follow() as follower:
        fake_cluster.log("train-0", "ValueError: bad column")
        until(lambda: follower.tail("train-0"))
        finish(fake_cluster, code=1)
        until(lambda: follower.pods()[0]["status"]["phase"] == "Failed")
        fake_cluster.delete("pods", "train-0")
    assert follower.tail("train-0") == ["ValueError: bad column"]
    assert follower.pods()[0]["status"]["phase"] == "Failed"


def test_only_the_first_rank_is_shown_and_the_others_are_kept(fake_cluster, follow, shown):
    for rank in range(3):
        add_pod(fake_cluster, f"train-{rank}", {"rank": str(rank)})
        fake_cluster.log(f"train-{rank}", f"I am {rank}")
    with follow(shown={"rank": "0"}) as follower:
        until(lambda: all(follower.tail(f"train-{rank}") for rank in range(3)))
        for rank in range(3):
            finish(fake_cluster, f"train-{rank}")
    assert shown == ["I am 0"]
    assert follower.tail("train-2") == ["I am 2"]


def test_the_first_rank_is_followed_however_many_there_are(fake_cluster, follow, shown):
    for rank in (3, 2, 1, 0):
        add_pod(fake_cluster, f"train-{rank}", {"rank": str(rank)})
        fake_cluster.log(f"train-{rank}", f"I am {rank}")
    with follow(shown={"rank": "0"}, at_most=2) as follower:
        until(lambda: shown)
        time.sleep(0.2)
        assert sum(bool(follower.tail(f"train-{rank}")) for rank in range(4)) == 2
        for rank in range(4):
            finish(fake_cluster, f"train-{rank}")


def test_nothing_is_shown_when_nothing_is_to_be_shown(fake_cluster, follow, shown):
    add_pod(fake_cluster)
    with follow(shown=None) as follower:
        fake_cluster.log("train-0", "kept")
        until(lambda: follower.tail("train-0"))
        finish(fake_cluster)
    assert shown == []


def test_pods_without_the_container_are_left_out(fake_cluster, follow):
    add_pod(fake_cluster, container="suggestion")
    with follow(container="training"):
        time.sleep(0.2)
    assert not any(request.resource == "pods/log" for request in fake_cluster.requests)


def test_a_missing_right_is_told_once_and_ends_nothing(fake_cluster, follow, caplog):
    add_pod(fake_cluster)
    fake_cluster.deny("get", "pods/log")
    with follow():
        time.sleep(0.5)
        finish(fake_cluster)
    assert caplog.text.count('lacks verb "get" on pods/log') == 1


def test_closing_does_not_wait_for_a_pod_that_runs_on(fake_cluster, follow, shown):
    add_pod(fake_cluster)
    follower = follow()
    with follower:
        fake_cluster.log("train-0", "one")
        until(lambda: shown)
        began = time.monotonic()
        follower.close(grace_seconds=0.2)
    assert time.monotonic() - began < 1
    fake_cluster.log("train-0", "after the end")
    time.sleep(0.2)
    assert shown == ["one"]


def test_a_place_knows_lines_of_the_second_that_comes_again():
    place = Place()
    lines = ["2026-11-21T12:00:00.100000000+02:00 a", "2026-11-21T12:00:00.200000000+02:00 b"]
    assert [place.accept(line) for line in lines] == ["a", "b"]
    assert place.since == "2026-11-21T12:00:00+02:00"
    place.resume()
    assert [place.accept(line) for line in [*lines, "2026-11-21T12:00:00.300000000+02:00 c"]] == [None, None, "c"]


def test_equal_lines_of_one_moment_are_all_shown():
    place = Place()
    line = "2026-11-21T12:00:00.100000000Z same"
    assert [place.accept(line), place.accept(line)] == ["same", "same"]
    place.resume()
    assert [place.accept(line), place.accept(line), place.accept(line)] == [None, None, "same"]


def test_of_a_progress_bar_the_last_state_is_shown():
    assert Place().accept("2026-11-21T12:00:00.100000000Z 10%\r 50%\r100%\r") == "100%"


def test_a_line_without_end_costs_no_memory(fake_cluster, follow, shown):
    add_pod(fake_cluster)
    with follow():
        fake_cluster.log("train-0", "\r".join(f"{n:06} of 100000" for n in range(100000)), "done")
        finish(fake_cluster)
    assert shown == ["099999 of 100000", "done"]


def test_a_line_without_a_time_is_shown_as_it_is():
    assert Place().accept("unable to retrieve container logs") == "unable to retrieve container logs"


@pytest.mark.parametrize(("kind", "container"), [(TRAINJOB, "node"), (PYTORCHJOB, "pytorch")])
def test_a_kind_knows_its_first_rank(kind, container):
    source = LogSource.of(kind, "train")
    assert (source.container, list(source.labels.values())) == (container, ["train"])
    assert source.shows({"metadata": {"labels": dict(kind.first_pod)}})
    assert not source.shows({"metadata": {"labels": dict(source.labels)}})


def test_a_kind_without_pods_of_its_own_has_no_source():
    assert LogSource.of(EXPERIMENT, "search") is None

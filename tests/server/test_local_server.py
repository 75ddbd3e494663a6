"""Endpoints on this machine: they outlive their run, change hands without a lost request, and nothing is left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from kfp_foundry.components.common import local_server, ports, processes
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.errors import IntegrityError, PlatformError, UserError

GOOD = {"city": "Ulm", "age": 30}


@pytest.fixture
def model(trained, home) -> Path:
    return trained("binary")


def label(url: str, name: str = "people") -> str:
    return requests.post(f"{url}/v1/models/{name}:predict", json={"instances": [GOOD]}, timeout=10).json()["predictions"][0]["prediction"]


def record(home: Path, name: str = "people") -> dict:
    return json.loads((home / "endpoints" / name / "endpoint.json").read_text())


def gone(pid: int) -> bool:
    return not processes.started_at(pid)


def test_a_deployed_model_answers(model):
    endpoint = local_server.start(model, "people", threshold=0.0)
    assert label(endpoint.url) == "yes"
    assert (endpoint.traffic, endpoint.threshold, endpoint.target) == (100, 0.0, "local")


def test_an_endpoint_outlives_the_process_and_the_folder_that_deployed_it(model_copy, home):
    words = f"from kfp_foundry.components.common import local_server; print(local_server.start({str(model_copy)!r}, 'people').url)"
    url = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    shutil.rmtree(model_copy)
    assert label(url) in ("yes", "no")
    assert local_server.find("people").url == url


def test_the_same_model_is_not_deployed_twice(model):
    first = local_server.start(model, "people", threshold=0.3)
    assert local_server.start(model, "people", threshold=0.3) == first
    local_server.promote("people")
    assert local_server.start(model, "people", threshold=0.3) == first
    assert [row.state for row in local_server.list_all()] == ["serving"]


def test_a_relaxed_contract_is_another_model_and_is_served(model, table, tmp_path):
    old = local_server.start(model, "people")
    local_server.promote("people")
    before = ModelFolder.open(model)
    relaxed = before.contract.model_copy(deep=True)
    relaxed.field("age").constraints.required = False
    again = ModelFolder.write(tmp_path / "again", (model / "model.onnx").read_bytes(), relaxed, before.record, {}, table)
    new = local_server.start(again.path, "people")
    assert new.revision != old.revision
    statuses = [
        requests.post(f"{url}/v1/models/people:predict", json={"instances": [{"city": "Ulm"}]}, timeout=10).status_code for url in (old.url, new.url)
    ]
    assert statuses == [400, 200]


def test_a_new_model_serves_beside_the_old_one_until_it_is_promoted(model):
    old = local_server.start(model, "people", threshold=0.0)
    local_server.promote("people")
    new = local_server.start(model, "people", threshold=1.0)
    assert (label(old.url), label(new.url)) == ("yes", "no")
    assert [row.state for row in local_server.list_all()] == ["serving", "candidate"]
    assert local_server.find("people").pid == old.pid

    promoted = local_server.promote("people", new.revision)
    assert promoted.url == old.url
    assert (label(old.url), label(new.url)) == ("no", "no")
    assert gone(old.pid)
    assert local_server.promote("people") == promoted


def test_a_discarded_candidate_leaves_the_old_one_serving(model, home):
    old = local_server.start(model, "people", threshold=0.0)
    local_server.promote("people")
    new = local_server.start(model, "people", threshold=1.0)
    assert not local_server.discard("people", "sha256:another")
    assert local_server.discard("people", new.revision)
    assert not local_server.discard("people")
    assert gone(new.pid)
    assert label(old.url) == "yes"
    with pytest.raises(PlatformError, match=r"endpoint people: no candidate, so sha256:00 cannot be promoted"):
        local_server.promote("people", "sha256:00")


def test_a_first_candidate_that_is_discarded_leaves_nothing_serving(model):
    endpoint = local_server.start(model, "people")
    assert local_server.discard("people")
    assert gone(endpoint.pid)
    assert local_server.find("people") is None


def test_a_third_model_takes_the_place_of_the_candidate(model):
    local_server.start(model, "people", threshold=0.0)
    local_server.promote("people")
    second = local_server.start(model, "people", threshold=0.5)
    third = local_server.start(model, "people", threshold=1.0)
    assert gone(second.pid)
    assert local_server.promote("people").pid == third.pid


def test_no_request_is_lost_when_the_traffic_changes_hands(model):
    url = local_server.start(model, "people", threshold=0.0).url
    local_server.promote("people")
    local_server.start(model, "people", threshold=1.0)
    answers: list[str] = []
    lost: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                answers.append(label(url))  # each on a connection of its own
            except Exception as error:
                lost.append(error)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    time.sleep(0.2)
    local_server.promote("people")
    local_server.start(model, "people", threshold=0.0)
    local_server.promote("people")
    time.sleep(0.2)
    done.set()
    for asker in askers:
        asker.join()
    assert lost == []
    assert set(answers[:10]) == {"yes"}
    assert "no" in answers
    assert set(answers[-10:]) == {"yes"}


def test_a_killed_server_is_shown_dead_and_replaced_at_its_old_address(model):
    endpoint = local_server.start(model, "people")
    local_server.promote("people")
    os.kill(endpoint.pid, signal.SIGKILL)
    os.waitpid(endpoint.pid, 0)
    assert [row.state for row in local_server.list_all()] == ["dead"]
    assert local_server.find("people") is None
    again = local_server.start(model, "people")
    assert again.url == endpoint.url
    assert again.pid != endpoint.pid


def test_a_candidate_gets_the_address_of_a_server_that_died_meanwhile(model):
    old = local_server.start(model, "people", threshold=0.0)
    local_server.promote("people")
    local_server.start(model, "people", threshold=1.0)
    os.kill(old.pid, signal.SIGKILL)
    os.waitpid(old.pid, 0)
    assert local_server.promote("people").url == old.url
    assert label(old.url) == "no"


def test_a_server_that_hangs_is_replaced(model, monkeypatch):
    monkeypatch.setattr(local_server, "REUSE_SECONDS", 0.3)
    monkeypatch.setattr(local_server, "STOP_SECONDS", 0.3)
    hung = local_server.start(model, "people", threshold=0.0)
    local_server.promote("people")
    os.kill(hung.pid, signal.SIGSTOP)
    new = local_server.start(model, "people", threshold=0.0)
    assert new.pid != hung.pid
    assert local_server.promote("people").url == hung.url
    assert gone(hung.pid)
    assert label(hung.url) == "yes"


def test_two_endpoints_serve_side_by_side(model):
    first, second = local_server.start(model, "people"), local_server.start(model, "others")
    assert first.url != second.url
    assert {label(first.url), label(second.url, "others")} <= {"yes", "no"}
    local_server.stop("people")
    assert label(second.url, "others") in ("yes", "no")


def test_two_deployments_at_once_give_one_server(model, home):
    words = f"from kfp_foundry.components.common import local_server; print(local_server.start({str(model)!r}, 'people').pid)"
    both = [subprocess.Popen([sys.executable, "-c", words], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    pids = {process.communicate(timeout=60)[0].strip() for process in both}
    assert len(pids) == 1
    assert record(home)["last"] == 1


def test_a_port_that_is_asked_for_is_used_or_refused(model):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PlatformError, match=rf"port {port}: the port is in use on 127.0.0.1 by process {os.getpid()} .*choose another port"):
            local_server.start(model, "people", port=port)
    assert local_server.start(model, "people", port=port).url == f"http://127.0.0.1:{port}"


def test_an_endpoint_moves_to_another_port_when_asked_to(model):
    local_server.start(model, "people")
    local_server.promote("people")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    local_server.start(model, "people", port=port)
    assert local_server.promote("people").url == f"http://127.0.0.1:{port}"


def test_an_endpoint_whose_port_was_taken_gets_another_and_says_so(model, caplog):
    before = local_server.start(model, "people")
    local_server.stop("people")
    port = int(before.url.rsplit(":", 1)[1])
    with socket.create_server(("127.0.0.1", port)):
        after = local_server.start(model, "people")
    assert after.url != before.url
    assert "endpoint people gets another address: port" in caplog.text
    assert local_server.find("people").url == after.url


def test_a_spoiled_model_is_not_deployed_and_the_old_one_serves_on(model, model_copy):
    old = local_server.start(model, "people", threshold=0.0)
    local_server.promote("people")
    content = bytearray((model_copy / "model.onnx").read_bytes())
    content[100] ^= 1
    (model_copy / "model.onnx").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.onnx: digest mismatch"):
        local_server.start(model_copy, "people")
    assert label(old.url) == "yes"
    assert [row.state for row in local_server.list_all()] == ["serving"]


def test_a_server_that_does_not_start_is_an_error_with_its_reason(model, home):
    (home / "endpoints" / "people").mkdir(parents=True)
    (home / "endpoints" / "people" / "payloads").write_text("in the way")
    message = r"endpoint people: the model server ended before it was ready: error: .*payloads: cannot be written: .*; read .*server\.log"
    with pytest.raises(PlatformError, match=message):
        local_server.start(model, "people")
    assert local_server.find("people") is None


def test_a_full_disk_is_an_error_that_leaves_no_server(model, home):
    folder = home / "endpoints"
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        with pytest.raises(PlatformError, match=r"r1: cannot be written: No space left on device; free some space"):
            local_server.start(model, "people")
        assert local_server.list_all() == []
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_deployment_killed_in_the_middle_leaves_no_unknown_server(model, home):
    words = f"""
import os
from kfp_foundry.components.common import local_server
local_server.save = lambda folder, record: os.kill(os.getpid(), 9)
local_server.start({str(model)!r}, 'people')
"""
    subprocess.run([sys.executable, "-c", words], check=False, timeout=60)
    log = home / "endpoints" / "people" / "revisions" / "r1" / "server.log"
    until = time.monotonic() + 20
    while "ended before it could be put on record" not in log.read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert "ended before it could be put on record" in log.read_text()
    assert local_server.start(model, "people").pid


def test_a_process_that_only_has_the_number_of_ours_is_left_alone(model, home):
    endpoint = local_server.start(model, "people")
    local_server.stop("people")
    with subprocess.Popen(["sleep", "60"]) as innocent:
        stolen = record(home) | {
            "current": {"number": 1, "digest": endpoint.revision, "pid": innocent.pid, "token": "0-0", "port": 1, "address": 1, "since": ""}
        }
        (home / "endpoints" / "people" / "endpoint.json").write_text(json.dumps(stolen))
        assert [row.state for row in local_server.list_all()] == ["dead"]
        local_server.stop("people")
        assert innocent.poll() is None
        innocent.kill()


def test_stopping_keeps_the_payload_log(model, home):
    endpoint = local_server.start(model, "people")
    label(endpoint.url)
    assert local_server.stop("people")
    assert not local_server.stop("people")
    assert len(list((home / "endpoints" / "people" / "payloads").glob("date=*/*.parquet"))) == 1
    assert not (home / "endpoints" / "people" / "revisions" / "r1").exists()


def test_the_server_gets_no_credentials(model, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    endpoint = local_server.start(model, "people")
    assert b"secret" not in Path(f"/proc/{endpoint.pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "../people"}, r"endpoint: name is '../people'; use letters"),
        ({"name": ""}, r"name is ''"),
        ({"threshold": 2.0}, r"threshold is 2.0; give a probability"),
        ({"port": 70000}, r"port is 70000"),
    ],
)
def test_what_cannot_be_deployed(model, options, message):
    with pytest.raises(UserError, match=message):
        local_server.start(model, **({"name": "people"} | options))


def test_an_unknown_endpoint_is_refused_with_the_close_names(model):
    local_server.start(model, "people")
    with pytest.raises(UserError, match=r"no endpoint 'peple'; did you mean 'people'\?"):
        local_server.stop("peple")


def reached(port: int, *listeners: socket.socket) -> list[int]:
    """How many of 40 new connections each listener gets."""
    counts = [0] * len(listeners)
    for listener in listeners:
        listener.setblocking(False)
    for _ in range(40):
        with socket.create_connection((ports.LOOPBACK, port), timeout=5):
            for i, listener in enumerate(listeners):
                try:
                    listener.accept()[0].close()
                    counts[i] += 1
                except BlockingIOError:
                    continue
    return counts


def test_a_claimed_port_is_refused_to_others_and_handed_on_to_heirs():
    first = ports.claim(ports.LOOPBACK, 0)
    port = first.getsockname()[1]
    for _ in range(3):
        with pytest.raises(PlatformError, match=rf"in use on 127.0.0.1 by process {os.getpid()} "):
            ports.claim(ports.LOOPBACK, port)
        assert reached(port, first) == [40]
        second = ports.join(ports.LOOPBACK, port)
        assert reached(port, first, second) == [0, 40]
        first.close()
        first = second
    first.close()

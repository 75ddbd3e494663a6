"""The server process: what it refuses to start with, what it counts, and how it stops."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

GOOD = {"city": "Ulm", "age": 30}


def run(*words: str) -> tuple[int, str]:
    """Runs a server that is expected to end at once; returns its exit code and what it said."""
    ended = subprocess.run([sys.executable, "-m", "kfp_foundry.server", *words], capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("file", ["model.onnx", "contract.yaml", "model.json"])
def test_a_model_with_one_byte_changed_is_not_served(model_copy, file):
    content = bytearray((model_copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (model_copy / file).write_bytes(content)
    code, said = run("--model", str(model_copy), "--port", "0")
    assert code == 1
    assert re.fullmatch(rf"error: model .*, {file}: digest mismatch: .*\n", said)


def test_another_model_than_the_expected_one_is_not_served(model_copy):
    code, said = run("--model", str(model_copy), "--port", "0", "--digest", "sha256:00")
    assert (code, said.count("\n")) == (1, 1)
    assert re.search(r"the model is sha256:\w{64}, not sha256:00; deploy the model again", said)


def test_a_port_in_use_is_named_with_its_holder(model_copy):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = run("--model", str(model_copy), "--port", str(port))
    assert code == 1
    assert re.fullmatch(
        rf"error: port {port}: the port is in use on 127.0.0.1 by process \d+ \(.*\); stop that process or choose another port.*\n", said
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere"], r"model nowhere: no such folder; give the folder of a Model artifact"),
        (["--model", "{model}", "--threshold", "1.5"], r"--threshold is 1.5; give a probability"),
        (["--model", "{model}", "--name", "a b/c"], r"--name is 'a b/c'; it stands in addresses"),
        (["--model", "{model}", "--threads", "0"], r"--threads is 0; give 1 or more"),
        (["--model", "{model}", "--port", "99999"], r"port is 99999; give a number between 1 and 65535"),
        (["--model", "{model}", "--host", "203.0.113.1"], r"host '203.0.113.1' cannot be listened on"),
        (["--model", "{model}", "--payload-log", "{model}/MLmodel/x"], r"MLmodel/x: cannot be written"),
    ],
)
def test_options_that_cannot_be_used(model_copy, options, message):
    code, said = run("--port", "0", *(option.format(model=model_copy) for option in options))
    assert code == 1
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert re.search(message, said), said


def test_only_loopback_is_listened_on(binary):
    port = int(binary.url.rsplit(":", 1)[1])
    with Path("/proc/net/tcp").open() as table:
        addresses = {line.split()[1] for line in table if f":{port:04X} " in line and line.split()[3] == "0A"}
    assert addresses == {f"0100007F:{port:04X}"}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_finishes_the_request_under_way(start, trained, how):
    running = start(trained("binary"))
    rows = [{"city": "Ulm", "age": i % 90} for i in range(60_000)]
    answers: list[requests.Response] = []
    asking = threading.Thread(target=lambda: answers.append(running.v1(rows)))
    asking.start()
    until = time.monotonic() + 10
    while "kfp_foundry_requests_in_flight 1.0" not in running.get("/metrics").text and time.monotonic() < until:
        time.sleep(0.002)
    assert running.stop(how) == 0
    asking.join()
    assert answers[0].status_code == 200
    assert len(answers[0].json()["predictions"]) == 60_000
    with pytest.raises(requests.ConnectionError):
        running.get("/v2/health/live")


def test_small_requests_are_answered_while_a_big_one_is_worked_on(binary):
    rows = [{"city": "Ulm", "age": i % 90} for i in range(25_000)]
    big = threading.Thread(target=lambda: binary.v1(rows))
    big.start()
    answered = 0
    while big.is_alive():
        assert binary.v1([GOOD]).status_code == 200
        answered += 1
    assert answered >= 2


def test_metrics_count_requests_rows_and_time(start, trained):
    running = start(trained("binary"))
    for rows in ([GOOD], [GOOD, GOOD], [{}]):
        running.v1(rows)
    running.v2(
        inputs=[{"name": "city", "shape": [1], "datatype": "BYTES", "data": ["Ulm"]}, {"name": "age", "shape": [1], "datatype": "INT64", "data": [3]}]
    )
    text = running.get("/metrics").text
    for line in (
        'kfp_foundry_requests_total{code="200",protocol="v1"} 2.0',
        'kfp_foundry_requests_total{code="400",protocol="v1"} 1.0',
        'kfp_foundry_requests_total{code="200",protocol="v2"} 1.0',
        'kfp_foundry_rows_total{protocol="v1"} 3.0',
        'kfp_foundry_request_seconds_count{protocol="v1"} 3.0',
        "kfp_foundry_requests_in_flight 0.0",
        "kfp_foundry_payload_log_waiting_rows 0.0",
    ):
        assert f"\n{line}\n" in text
    assert re.search(r'kfp_foundry_model_info\{digest="sha256:\w{64}",model="people",task="binary",version="\w{12}"\} 1.0', text)


def test_a_request_is_logged_when_asked_for(start, trained):
    running = start(trained("binary"), "--access-log")
    running.v1([GOOD], headers={"x-request-id": "abc"})
    assert re.search(r"POST /v1/models/people:predict 200 1 rows [\d.]+ ms abc", running.log.read_text())

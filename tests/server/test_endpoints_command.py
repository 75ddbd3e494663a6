"""kfp-foundry endpoints: what serves, as people and programs read it."""

import json
import os
import re
import signal

import pytest
import requests

from kfp_foundry.cli.main import main
from kfp_foundry.components.common import local_server


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    yield tmp_path / "home"
    for name in {row.name for row in local_server.list_all()}:
        local_server.stop(name)


@pytest.fixture
def endpoint(home, make_model, tmp_path):
    local_server.start(make_model(tmp_path / "model").path, "flights", threshold=0.25)
    return local_server.promote("flights")


def call(capsys, *words: str) -> tuple[int, str, str]:
    code = main(["endpoints", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_none_says_how_to_get_one(home, capsys):
    code, out, _ = call(capsys)
    assert code == 0
    assert "No endpoint on this machine" in out


def test_the_list_says_who_serves_and_where(endpoint, capsys):
    code, out, _ = call(capsys)
    assert code == 0
    assert re.search(rf"flights\s+serving\s+{endpoint.url}\s+\w{{12}}\s+0.25\s+\d+ s", out)


def test_a_narrow_terminal_cuts_no_name_and_no_address(endpoint, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    assert re.search(rf"flights\s+serving\s+{endpoint.url}\s+\w{{12}}\s+0.25\s+\d+ s", call(capsys)[1])


def test_a_killed_server_is_listed_as_dead_with_what_to_do(endpoint, capsys):
    os.kill(endpoint.pid, signal.SIGKILL)
    os.waitpid(endpoint.pid, 0)
    out = call(capsys)[1]
    assert re.search(r"flights\s+dead", out)
    assert "kfp-foundry endpoints logs NAME" in out


def test_programs_get_json(endpoint, capsys):
    (row,) = json.loads(call(capsys, "--json")[1])
    assert (row["name"], row["state"], row["url"], row["revision"]) == ("flights", "serving", endpoint.url, endpoint.revision)
    shown = json.loads(call(capsys, "show", "flights", "--json")[1])
    assert shown["model"]["parameters"]["digest"] == endpoint.revision


def test_show_gives_columns_and_a_request_that_works(endpoint, capsys):
    out = call(capsys, "show", "flights")[1]
    assert "sched_dep_minute (integer)" in " ".join(out.split())
    url, body = re.search(r"Try curl -s (\S+) -H .* -d '(.*)'", out).groups()
    assert requests.post(url, data=body, timeout=5).status_code == 200


def test_logs_are_the_server_s(endpoint, capsys):
    assert f"is ready at {endpoint.url}" in call(capsys, "logs", "flights", "-n", "5")[1]


def test_stop_ends_the_server(endpoint, capsys):
    assert call(capsys, "stop", "flights")[1] == "flights: stopped\n"
    assert call(capsys, "stop", "--all")[1] == "flights: was not running\n"
    with pytest.raises(requests.ConnectionError):
        requests.get(endpoint.url, timeout=5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "fligths"], r"error: .*no endpoint 'fligths'; did you mean 'flights'\?"),
        (["stop"], r"error: endpoints stop: no endpoint named; give a name, or --all"),
    ],
)
def test_mistakes_are_one_line(endpoint, capsys, words, message):
    code, _, err = call(capsys, *words)
    assert code == 1
    assert re.fullmatch(message + "\n", err)

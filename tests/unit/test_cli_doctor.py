"""doctor: what is well is ok, what is missing has a remedy, and the exit code tells the two apart."""

import http.server
import json
import threading

import pytest

from kfp_foundry import doctor
from kfp_foundry.cli.main import main
from kfp_foundry.doctor import State


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """An environment in which nothing is set."""
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "_KFP_RUNTIME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    """A server that answers every request with the status that is set."""
    state = {"status": 200}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(state["status"])
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://user:secret@127.0.0.1:{server.server_port}", state
        server.shutdown()


def only(look):
    found = list(look())
    assert len(found) == 1
    return found[0]


def test_this_machine_is_well(capsys):
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("All is well.\n")


def test_findings_are_json_for_programs(capsys):
    assert main(["doctor", "--json"]) == 0
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["kfp"] == {"name": "kfp", "state": "ok", "found": "2.17.0", "remedy": ""}


def test_every_problem_has_a_remedy(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:2")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setenv("_KFP_RUNTIME", "true")
    problems = [finding for finding in doctor.examine() if finding.state is State.PROBLEM]
    assert {"home", "tracking", "proxy", "_KFP_RUNTIME"} <= {finding.name for finding in problems}
    assert all(finding.remedy for finding in problems)
    assert main(["doctor"]) == 1
    assert "problems: home, tracking, proxy, _KFP_RUNTIME" in capsys.readouterr().out


def test_another_kfp_is_a_problem(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "2.16.0")
    found = only(doctor.kfp)
    assert found.state is State.PROBLEM
    assert found.remedy == "pip install 'kfp==2.17.0'"


def test_a_package_out_of_its_range_is_named_with_the_range(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name == "mlflow" else real(name))
    found = only(doctor.packages)
    assert (found.name, found.state) == ("mlflow", State.PROBLEM)
    assert found.found.startswith("1.0, and ")
    assert found.remedy.startswith("pip install 'mlflow")


def test_what_is_optional_is_absent_and_no_problem(monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "optuna" else real(name))
    found = {finding.name: finding for finding in doctor.extras()}["extra tune"]
    assert found.state is State.ABSENT
    assert "kfp-foundry[tune]" in found.remedy


@pytest.mark.parametrize(
    ("status", "state", "words"), [(200, State.OK, "answers"), (403, State.PROBLEM, "refuses: HTTP 403"), (500, State.PROBLEM, "answers HTTP 500")]
)
def test_a_tracking_server_is_asked_and_its_password_is_not_shown(server, monkeypatch, status, state, words):
    address, answer = server
    answer["status"] = status
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    found = only(doctor.tracking)
    assert found.state is state
    assert words in found.found
    assert "secret" not in found.found


def test_without_a_server_the_embedded_store_is_named(tmp_path):
    assert str(tmp_path / "home" / "mlflow.db") in only(doctor.tracking).found


def test_a_small_disk_is_a_problem(monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(2**40, 2**40, 2**29))
    found = only(doctor.disk)
    assert (found.state, found.found) == (State.PROBLEM, "0.5 GiB")
    assert "KFP_FOUNDRY_HOME" in found.remedy


def test_a_machine_without_git_is_told_why_git_is_good(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = next(finding for finding in doctor.programs() if finding.name == "git")
    assert found.state is State.ABSENT
    assert "commit" in found.remedy


def test_doctor_writes_nothing(tmp_path):
    list(doctor.examine())
    assert list(tmp_path.iterdir()) == []

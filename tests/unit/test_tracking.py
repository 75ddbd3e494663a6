"""Tracking: the environment decides, asking costs nothing where nothing can be, and no password is told."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from kfp_foundry.components.common import tracking as module
from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.tracking import Tracking, champion, resolve, tracking


@pytest.fixture(autouse=True)
def nothing_set(tmp_path, monkeypatch):
    for name in list(os.environ):
        if name.startswith("MLFLOW_"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick_retries(monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 3)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)


def in_new_process(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=dict(os.environ))


def test_a_laptop_gets_sqlite_under_the_home_of_local_state(tmp_path):
    store = tracking()
    assert store.uri == f"sqlite:///{tmp_path}/home/mlflow.db"
    assert store.available
    assert store.how_to_open == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/home/mlflow.db"


def test_the_environment_comes_first(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    store = tracking()
    assert (store.uri, store.experiment, store.run_id) == ("http://mlflow:5000", "mine", "abc")


def test_a_cluster_without_a_server_says_what_to_set_and_has_no_champion(monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    store = tracking()
    assert not store.available
    assert "ConfigMap kfp-foundry" in store.why
    assert champion("flights") is None
    with pytest.raises(PlatformError, match=r"there is no MLflow.*ConfigMap kfp-foundry"):
        resolve("models:/flights@champion")


def test_asking_for_a_champion_where_nothing_was_registered_neither_imports_mlflow_nor_makes_a_file(tmp_path):
    code = "import sys; from kfp_foundry.components.common.tracking import champion; assert champion('m') is None; assert 'mlflow' not in sys.modules"
    done = in_new_process(code)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "home").exists()


def test_two_processes_may_make_the_embedded_store_at_once(tmp_path):
    code = "from kfp_foundry.components.common.tracking import tracking; print(tracking().client.search_registered_models())"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert [err for _, err in told] == ["", ""]  # MLflow's own noise is off
    assert sorted(file.name for file in tmp_path.iterdir()) == ["home"]  # and nothing lies in the working directory


def test_an_unknown_model_is_told_with_the_close_names(tmp_path, empty_registry):
    empty_registry(tmp_path / "home")
    tracking().client.create_registered_model("flights")
    with pytest.raises(UserError, match=r"there is no models:/fligths@champion; did you mean 'flights'\?"):
        resolve("models:/fligths@champion")
    with pytest.raises(UserError, match="flights has no version yet: register a model first"):
        resolve("models:/flights/3")


def test_an_unknown_version_is_told_with_those_that_are_there(tmp_path, empty_registry):
    empty_registry(tmp_path / "home")
    client = tracking().client
    client.create_registered_model("flights")
    client.create_model_version("flights", str(tmp_path))
    client.set_registered_model_alias("flights", "challenger", "1")
    with pytest.raises(UserError, match=r"there is no models:/flights@champion; choose one of: @challenger, /1"):
        resolve("models:/flights@champion")


@pytest.mark.parametrize("uri", ["flights", "models:/flights", "models:/flights/latest/x", "models:/fli'ghts@champion"])
def test_another_form_of_address_is_refused(uri):
    with pytest.raises(UserError, match="write models:/NAME@ALIAS or models:/NAME/VERSION"):
        resolve(uri)


def test_a_deleted_experiment_is_told(tmp_path, empty_registry):
    empty_registry(tmp_path / "home")
    store = tracking()
    store.client.delete_experiment(store.experiment_id())
    with pytest.raises(PlatformError, match="experiment 'kfp-foundry' was deleted; restore it, or set MLFLOW_EXPERIMENT_NAME"):
        store.experiment_id()


def test_a_damaged_database_is_told_in_one_line(tmp_path, quick_retries):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mlflow.db").write_bytes(b"no database" * 1000)
    with pytest.raises(PlatformError, match=r"cannot open the store: .*file is not a database.*may be written and is not damaged"):
        champion("flights")


def test_a_server_that_is_not_there_is_told_after_a_few_attempts(monkeypatch, quick_retries):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:geheim@127.0.0.1:9")
    with pytest.raises(
        PlatformError, match=r"MLflow http://\*\*\*@127.0.0.1:9: cannot look up flights@champion: .*MLFLOW_TRACKING_URI is right"
    ) as told:
        champion("flights")
    assert "geheim" not in str(told.value)


@pytest.fixture
def answers():
    """A server on loopback that answers with the given statuses, one after the other, and `{}`, or what it is told."""
    plan: list[tuple[int, dict]] = []
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            status, body = plan.pop(0) if len(plan) > 1 else plan[0]
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", plan, seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_with_a_bad_moment_is_asked_again(answers, monkeypatch, quick_retries):
    url, plan, seen = answers
    plan += [(503, {}), (500, {}), (200, {"experiment": {"experiment_id": "7", "name": "kfp-foundry", "lifecycle_stage": "active"}})]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    assert tracking().experiment_id() == "7"
    assert len(seen) >= 3


def test_a_server_that_refuses_is_not_asked_again(answers, monkeypatch, quick_retries):
    url, plan, seen = answers
    plan += [(403, {"error_code": "PERMISSION_DENIED", "message": "not you"})]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    with pytest.raises(PlatformError, match=r"not you; check MLFLOW_TRACKING_USERNAME"):
        tracking().experiment_id()
    assert len(seen) == 1


def test_a_lock_is_free_again_when_its_holder_is_killed(tmp_path):
    code = (
        "import time; from pathlib import Path; from kfp_foundry.components.common.tracking import lock\n"
        f"with lock(Path({str(tmp_path / 'lock')!r})): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with module.lock(tmp_path / "lock"):
        assert time.monotonic() - started < 5


def test_a_store_of_ones_own_keeps_artifacts_beside_its_database(tmp_path, registry_template):
    import shutil

    place = tmp_path / "a place with blanks"
    place.mkdir()
    shutil.copy(registry_template, place / "runs.db")
    store = Tracking(f"sqlite:///{place}/runs.db", "for the test")
    experiment = store.client.get_experiment(store.experiment_id())
    assert experiment.artifact_location == (place / "mlartifacts").as_uri()
    run = store.client.create_run(experiment.experiment_id)
    store.client.log_text(run.info.run_id, "x", "evidence/note.txt")
    assert len(list((place / "mlartifacts").rglob("note.txt"))) == 1

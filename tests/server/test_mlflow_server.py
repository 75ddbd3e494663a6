"""Registering, promoting and reading back against a real MLflow server on loopback."""

import os
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.artifacts.evaluation import Evaluation
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.errors import IntegrityError, PlatformError
from kfp_foundry.components.common.tracking import champion, resolve, tracking
from kfp_foundry.components.registry.promote_model import core as promote_core
from kfp_foundry.components.registry.register_model import core
from kfp_foundry.components.registry.register_model.core import Submission, register


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory, registry_template):
    """The URL of an MLflow server that keeps artifacts itself, as one in a cluster does."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    shutil.copy(registry_template, folder / "mlflow.db")
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    words += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while not answers(url):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < until, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=2).ok
    except requests.RequestException:
        return False


@pytest.fixture(autouse=True)
def cluster(server, tmp_path, monkeypatch):
    """A pod whose environment names the server, with credentials that must not be shown anywhere."""
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.replace("http://", "http://ann:geheim@"))


@pytest.fixture
def submission(make_model, tmp_path, flights):
    """A model with everything that is recorded with it: `submission("name", bias=0.1)`."""

    def make(name: str, bias: float = 0.0) -> Submission:
        model = make_model(tmp_path / f"model{bias}", bias)
        dataset = DatasetFolder.write(tmp_path / f"dataset{bias}", flights.head(50).lazy(), source="flights.csv")
        evaluation = Evaluation(
            task="binary",
            target="late",
            algorithm="linear",
            model=model.digest,
            test="cc",
            rows={"judged": 50},
            primary="auc",
            metrics={"auc": {"value": 0.6}},
            confidence=0.95,
        )
        return Submission(
            name=name,
            alias="challenger",
            run_name="run-1",
            model=model,
            evaluation=evaluation,
            evidence={"contract.txt": model.path / "contract.yaml"},
            content_tags=core.content_tags(model, dataset),
            event_tags=core.event_tags({"comparison": "pass"}, "run-1", "0.4"),
        )

    return make


def promote(name: str, version: str, digest: str) -> tuple[bool, str]:
    endpoint = Endpoint(name=name, url="http://127.0.0.1:1", revision=digest, traffic=0)
    return promote_core.promote(tracking(), name, version, promote_core.Gates("pass", "pass"), endpoint)


def test_a_model_is_registered_promoted_and_comes_back_whole(submission, flights):
    given = submission("whole")
    done = register(tracking(), given)
    assert (done.registered, done.version, done.uri) == (True, "1", "models:/whole/1")
    assert "geheim" not in str(done)
    assert promote("whole", "1", done.digest) == (True, "1")
    found = champion("whole")
    assert (found.version, found.digest, found.threshold) == ("1", given.model.digest, 0.4)
    back = ModelFolder.open(found.path)
    assert back.predict(flights).equals(given.model.predict(flights))
    assert back.digest == given.model.digest


def test_the_same_model_twice_and_two_at_once_are_one_version(submission):
    given = submission("once", 0.2)
    register(tracking(), given)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: register(tracking(), given), range(2)))
    assert [done.version for done in both] == ["1", "1"]
    assert len(tracking().client.search_model_versions("name='once'")) == 1


def test_a_race_on_a_server_leaves_one_version(submission):
    given = submission("race", 0.3)
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: register(tracking(), given), range(3)))
    left = [str(version.version) for version in tracking().client.search_model_versions("name='race'")]
    assert len(left) == 1
    assert {each.version for each in done} == set(left)


def test_a_download_is_kept_by_digest_and_fetched_again_when_it_is_damaged(submission):
    given = submission("kept", 0.4)
    register(tracking(), given)
    first = resolve("models:/kept/1").path
    assert first.is_relative_to(platform.home() / "cache")
    assert sorted(file.name for file in first.iterdir()) == sorted(file.name for file in given.model.path.iterdir())
    stamp = (first / "model.onnx").stat().st_mtime_ns
    assert (resolve("models:/kept@challenger").path / "model.onnx").stat().st_mtime_ns == stamp
    (first / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        ModelFolder.open(first)
    assert ModelFolder.open(resolve("models:/kept/1").path).digest == given.model.digest


def test_a_home_that_cannot_be_made_gives_way_to_a_temporary_folder(submission, tmp_path, monkeypatch):
    register(tracking(), submission("elsewhere", 0.5))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert resolve("models:/elsewhere/1").path.is_relative_to(tmp_path / "kfp-foundry")


def test_a_model_without_files_on_the_server_is_told(submission, server):
    client = tracking().client
    client.create_registered_model("hollow")
    run = client.create_run(tracking().experiment_id())
    client.create_model_version("hollow", f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    with pytest.raises(PlatformError, match=r"cannot download the model: .*404.*see what the server says") as told:
        resolve("models:/hollow/1")
    assert "geheim" not in str(told.value)

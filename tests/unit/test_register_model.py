"""register_model: one version per model, found again, never half made, with where it comes from."""

import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kfp import dsl
from mlflow.tracking import MlflowClient

from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.evaluation import Evaluation
from kfp_foundry.components.common.artifacts.verdict import Check, Verdict
from kfp_foundry.components.common.errors import IntegrityError, UserError
from kfp_foundry.components.common.tracking import champion, tracking
from kfp_foundry.components.registry.register_model import core


@pytest.fixture(autouse=True)
def laptop(tmp_path, monkeypatch, empty_registry):
    """A laptop with an empty registry of its own; the working directory is another one."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "KUBERNETES_SERVICE_HOST", "GIT_COMMIT", "KFP_FOUNDRY_RUN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KFP_FOUNDRY_HOME", str(empty_registry(tmp_path / "home of mine")))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def inputs(artifact, make_model, flights):
    """The five input artifacts, real ones: `inputs(bias=0.1)`."""

    def make(bias: float = 0.0, source: str = "s3://user:geheim@store/flights.csv") -> dict:
        made = {"model": artifact(f"model{bias}", dsl.Model), "dataset": artifact(f"dataset{bias}", dsl.Dataset)}
        model = make_model(made["model"].path, bias)
        DatasetFolder.write(made["dataset"], flights.head(50).lazy(), source=source)
        for name in ("evaluation", "comparison", "validation"):
            made[name] = artifact(f"{name}{bias}")
        Evaluation(
            task="binary",
            target="late",
            positive="true",
            algorithm="linear",
            model=model.digest,
            test="cc",
            rows={"all": 50, "judged": 50},
            primary="auc",
            metrics={"auc": {"value": 0.61, "low": 0.5, "high": 0.7}, "recall@10": {"value": 0.3}, "undefined": {"value": None}},
            confidence=0.95,
        ).write(made["evaluation"])
        Verdict(gate="compare_models", checks=[Check(name="auc", outcome="warn")]).write(made["comparison"])
        Verdict(gate="validate_table", checks=[Check(name="rows", outcome="pass")]).write(made["validation"])
        return made

    return make


def register(inputs: dict, artifact, **changes) -> dict:
    registration = artifact("registration")
    given = {"model_name": "flights", "run_name": "run-1", "threshold": 0.4, "alias": "challenger"} | changes
    version, uri = core.run(**inputs, registration=registration, **given)
    record = json.loads(Path(registration.path).read_text())
    assert (record["version"], record["uri"]) == (version, uri)
    assert registration.metadata["version"] == version
    return record


def test_a_model_becomes_version_one_with_alias_stage_and_lineage(inputs, artifact):
    record = register(inputs(), artifact)
    version = tracking().client.get_model_version_by_alias("flights", "challenger")
    assert (record["registered"], record["version"], record["uri"]) == (True, "1", "models:/flights/1")
    assert version.tags["stage"] == "challenger"
    assert version.tags["threshold"] == "0.4"
    assert version.tags["model_digest"] == record["digest"]
    assert version.tags["verdict.comparison"] == "warn"
    assert version.tags["pipeline_run"] == "run-1"
    assert version.tags["package.numpy"] == "2.0.0"
    assert len(version.tags["sha256.model.onnx"]) == len(version.tags["contract_sha256"]) == len(version.tags["data_fingerprint"]) == 64


def test_the_run_holds_metrics_parameters_and_evidence(inputs, artifact):
    record = register(inputs(), artifact)
    client = tracking().client
    run = client.get_run(record["run_id"])
    assert run.data.metrics == {"auc": 0.61, "recall_10": 0.3, "validation_auc": 0.6, "validation_log_loss": 0.5}
    assert run.data.params["C"] == "1.0"
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run-1"
    evidence = {file.path for file in client.list_artifacts(record["run_id"], "evidence")}
    assert evidence == {"evidence/evaluation.json", "evidence/comparison.json", "evidence/validation.json", "evidence/contract.yaml"}


def test_the_registered_model_loads_with_plain_mlflow(inputs, artifact, flights, monkeypatch):
    given = inputs()
    record = register(given, artifact)
    import mlflow

    from kfp_foundry.components.common.artifacts.model import ModelFolder

    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None)
    mlflow.set_tracking_uri(tracking().uri)
    loaded = mlflow.pyfunc.load_model(record["uri"])
    rows = flights.head(5)
    names = ModelFolder.open(given["model"]).contract.features
    frame = rows.select(names).to_pandas()
    numbers = frame.select_dtypes("number").columns
    frame[numbers] = frame[numbers].astype("float64")
    assert loaded.predict(frame)["probability"].tolist() == ModelFolder.open(given["model"]).predict(rows)["probability"].to_list()


def test_no_password_of_a_source_reaches_the_registry(inputs, artifact):
    register(inputs(), artifact)
    assert tracking().client.get_model_version("flights", "1").tags["data_source"] == "s3://***@store/flights.csv"


def test_the_same_model_is_one_version_that_tells_of_the_run_that_made_it(inputs, artifact):
    given = inputs()
    first = register(given, artifact)
    client = tracking().client
    before = client.get_model_version("flights", "1").tags
    assert before["last_seen_run"] == "run-1"
    Verdict(gate="compare_models", checks=[Check(name="auc", outcome="fail")]).write(given["comparison"])
    again = register(given, artifact, run_name="run-2")
    versions = client.search_model_versions("name='flights'")
    assert [str(v.version) for v in versions] == ["1"]
    assert again["reason"] == "already registered as version 1"
    assert versions[0].tags == again["tags"] == before | {"last_seen_run": "run-2"}
    evidence = json.loads(mlflow_text(first["run_id"], "evidence/comparison.json"))
    assert evidence["outcome"] == before["verdict.comparison"] == "warn"
    experiment = client.get_experiment_by_name("kfp-foundry").experiment_id
    assert len(client.search_runs([experiment])) == 1


def mlflow_text(run_id: str, name: str) -> str:
    from mlflow.artifacts import load_text

    return load_text(f"{tracking().client.get_run(run_id).info.artifact_uri}/{name}")


def test_the_threshold_of_a_champion_stays_when_no_gate_has_decided_yet(inputs, artifact):
    given = inputs()
    register(given, artifact, threshold=0.4)
    tracking().client.set_registered_model_alias("flights", "champion", "1")
    register(given, artifact, threshold=0.7)
    assert champion("flights").threshold == 0.4


def test_a_registration_right_as_champion_moves_its_threshold(inputs, artifact):
    given = inputs()
    for threshold in (0.4, 0.7):
        register(given, artifact, threshold=threshold, alias="champion")
    assert champion("flights").threshold == 0.7


def test_the_run_is_the_local_runs_when_no_name_is_given(inputs, artifact, monkeypatch):
    monkeypatch.setenv("KFP_FOUNDRY_RUN", "20261121-flights")
    tags = register(inputs(), artifact, run_name="")["tags"]
    assert tags["pipeline_run"] == tags["last_seen_run"] == "20261121-flights"


@pytest.mark.parametrize(("pod", "image"), [(True, "registry.example/foundry:1"), (False, None)])
def test_the_image_is_on_record_only_where_the_pod_says_it(monkeypatch, pod, image):
    monkeypatch.setenv("KFP_FOUNDRY_IMAGE", "registry.example/foundry:1")
    if pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    tags = core.event_tags({}, "run-1", "")
    assert tags.get("image") == image
    assert re.fullmatch(r"kfp-foundry \S+", tags["library"])


def test_another_model_is_another_version_and_takes_the_alias(inputs, artifact):
    register(inputs(0.0), artifact)
    assert register(inputs(0.5), artifact)["version"] == "2"
    assert str(tracking().client.get_model_version_by_alias("flights", "challenger").version) == "2"


def test_a_champion_registered_again_keeps_its_stage(inputs, artifact):
    given = inputs()
    register(given, artifact)
    tracking().client.set_model_version_tag("flights", "1", "stage", "champion")
    tracking().client.set_registered_model_alias("flights", "champion", "1")
    register(given, artifact)
    assert tracking().client.get_model_version("flights", "1").tags["stage"] == "champion"


def test_files_that_vanished_from_the_store_are_written_again(inputs, artifact):
    given = inputs()
    register(given, artifact, alias="champion")
    (champion("flights").path / "model.onnx").unlink()
    Verdict(gate="compare_models", checks=[Check(name="auc", outcome="pass")]).write(given["comparison"])
    again = register(given, artifact, run_name="run-2", alias="champion")
    assert (champion("flights").path / "model.onnx").is_file()
    evidence = json.loads(mlflow_text(again["run_id"], "evidence/comparison.json"))
    assert evidence["outcome"] == again["tags"]["verdict.comparison"] == "pass"
    assert again["tags"]["pipeline_run"] == "run-2"


def test_what_the_champion_is_comes_back_with_its_threshold(inputs, artifact):
    record = register(inputs(), artifact, alias="champion")
    found = champion("flights")
    assert (found.version, found.digest, found.threshold) == ("1", record["digest"], 0.4)


def in_child(work) -> int:
    """Runs `work` in a forked process (MLflow is imported already, so that costs nothing) and returns its wait status."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ends(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize(
    ("method", "after", "versions_left"),
    [
        ("create_registered_model", False, 0),
        ("create_run", True, 0),
        ("log_artifacts", True, 0),
        ("create_model_version", False, 0),
        ("create_model_version", True, 1),
        ("set_registered_model_alias", False, 1),
    ],
)
def test_a_killed_step_leaves_no_half_version_and_goes_on_when_it_runs_again(inputs, artifact, monkeypatch, method, after, versions_left):
    given = inputs()
    real = getattr(MlflowClient, method)

    def die(*words, **more):
        if after:
            real(*words, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, method, die)
        assert ends(in_child(lambda: register(given, artifact))) == -signal.SIGKILL
    assert not Path(artifact("registration").path).exists()
    client = tracking().client
    left = client.search_model_versions("name='flights'")
    assert [version.tags["stage"] for version in left] == ["challenger"] * versions_left  # whole: its tags came with it
    assert register(given, artifact)["version"] == "1"
    runs = client.search_runs([client.get_experiment_by_name("kfp-foundry").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert [str(version.version) for version in client.search_model_versions("name='flights'")] == ["1"]
    assert str(client.get_model_version_by_alias("flights", "challenger").version) == "1"


def test_two_runs_at_once_on_the_embedded_store_both_succeed(inputs, artifact, tmp_path):
    def three(first: int):
        for number in range(first, first + 3):
            core.run(**made[number], registration=registrations[number], model_name=f"m{number}", run_name="", threshold=0.5, alias="challenger")

    made = {number: inputs(number / 10) for number in range(6)}
    registrations = {number: artifact(f"registration{number}") for number in range(6)}
    children = [in_child(lambda first=first: three(first)) for first in (0, 3)]
    assert [ends(child) for child in children] == [0, 0]
    assert sorted(model.name for model in tracking().client.search_registered_models()) == [f"m{number}" for number in range(6)]


def test_two_at_once_register_one_version(inputs, artifact):
    given = inputs()
    with ThreadPoolExecutor(2) as pool:
        records = list(pool.map(lambda run: register(given, artifact, run_name=run), ["run-1", "run-2"]))
    assert [record["version"] for record in records] == ["1", "1"]
    assert len(tracking().client.search_model_versions("name='flights'")) == 1


def test_a_run_that_the_platform_started_is_used_and_left_open(inputs, artifact, monkeypatch):
    client = tracking().client
    run = client.create_run(client.create_experiment("theirs"))
    client.log_param(run.info.run_id, "C", "of the launcher")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    record = register(inputs(), artifact)
    found = client.get_run(run.info.run_id)
    assert record["run_id"] == run.info.run_id
    assert found.info.status == "RUNNING"
    assert found.data.params["C"] == "of the launcher"
    assert client.get_experiment_by_name("kfp-foundry") is None


def test_a_cluster_without_mlflow_is_told_and_nothing_fails(inputs, artifact, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    record = register(inputs(), artifact)
    assert (record["registered"], record["version"], record["uri"]) == (False, "", "")
    assert "MLFLOW_TRACKING_URI is not set; put it into the ConfigMap kfp-foundry" in record["reason"]


def test_a_model_with_one_byte_changed_is_not_registered(inputs, artifact):
    given = inputs()
    onnx = Path(given["model"].path) / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1] + b"\xff")
    with pytest.raises(IntegrityError, match="digest mismatch"):
        register(given, artifact)
    assert champion("flights") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name": "a/b"}, "model_name is 'a/b'"),
        ({"model_name": ""}, "model_name is ''"),
        ({"model_name": "it's"}, "model_name is"),
        ({"alias": "v1"}, "alias is 'v1'"),
        ({"alias": "latest"}, "alias is 'latest'"),
    ],
)
def test_names_that_the_registry_does_not_take_are_refused(inputs, artifact, changes, message):
    with pytest.raises(UserError, match=message):
        register(inputs(), artifact, **changes)


def test_the_commit_says_when_the_work_is_not_committed(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", *words], check=True, capture_output=True)

    assert core.git_commit(tmp_path) == ""
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = core.git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("2")
    assert core.git_commit(tmp_path) == f"{clean}-dirty"
    monkeypatch.setenv("GIT_COMMIT", "abc")
    assert core.git_commit(tmp_path) == "abc"

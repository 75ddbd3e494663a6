"""train_distributed on a cluster: launched, found again, judged by its result, and refused in words before anything is asked for."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from kfp import dsl

from kfp_foundry.components.common import images, store
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.distributed import outcome, train
from kfp_foundry.components.common.distributed.cluster import kubeflow
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.errors import FoundryError, PlatformError, UserError
from kfp_foundry.components.common.files import write_json
from kfp_foundry.components.common.kube.launcher import Pace, launch
from kfp_foundry.components.training.train_distributed import core

ROOT = "pvc://runs/flights/run-1"  # shared with the pods, and here a folder


@pytest.fixture
def volume(tmp_path, monkeypatch):
    """A volume that this step and all pods mount."""
    monkeypatch.setenv("KFP_FOUNDRY_PVC_ROOT", str(tmp_path / "mnt"))
    (tmp_path / "mnt" / "runs").mkdir(parents=True)
    return tmp_path / "mnt" / "runs" / "flights" / "run-1"


@pytest.fixture
def step(volume, fake_cluster, flights, flights_contract, tmp_path, monkeypatch):
    """One step with its artifacts: `step(**parameters)`; `step.artifacts` are its inputs and outputs."""
    monkeypatch.setattr(kubeflow, "launch", partial(launch, pace=Pace(first=0.02, longest=0.1)))
    DatasetFolder.write(volume / "split" / "train", flights.head(300).lazy(), source="flights")
    DatasetFolder.write(volume / "split" / "validation", flights.tail(100).lazy(), source="flights")
    flights_contract.save(volume / "contract")
    return Step(volume, tmp_path / "outputs")


class Step:
    def __init__(self, inputs: Path, outputs: Path) -> None:
        kinds = {"train": dsl.Dataset, "validation": dsl.Dataset, "contract": dsl.Artifact}
        places = {"train": "split/train", "validation": "split/validation", "contract": "contract"}
        self.artifacts = {name: Artifact(str(inputs / places[name]), f"{ROOT}/{places[name]}") for name in kinds}
        self.artifacts |= {name: Artifact(str(outputs / name), f"{ROOT}/train/{name}") for name in ("model", "metrics", "report")}

    def __call__(self, **parameters):
        own = {name: parameters.pop(name) for name in ("strategy", "module", "module_args") if name in parameters}
        options = {name: parameters.pop(name) for name in ("params", "calibration") if name in parameters}
        core.run(*self.artifacts.values(), {"target": "kubeflow", **parameters}, **own, **options)


class Artifact:
    def __init__(self, path: str, uri: str) -> None:
        self.name, self.path, self.uri, self.metadata = Path(path).name, path, uri, {}


@pytest.fixture
def trained(make_model, volume, tmp_path):
    """What rank 0 leaves, put where it will be looked for."""

    def put() -> ModelFolder:
        folder = tmp_path / "left"
        model = make_model(folder / outcome.MODEL)
        (folder / outcome.REPORT).write_text("<html>Learning curve</html>")
        write_json(folder / outcome.SUMMARY, {"metadata": {"digest": model.digest, "algorithm": "residual_mlp"}, "metrics": {"auc": 0.7}})
        store.send(folder, f"{ROOT}/train/ranks/output")
        return model

    return put


def argv(job) -> Request:
    command = job["spec"]["trainer"]["command"]
    return Request.parse(command[3:])


def test_the_model_of_a_trainjob_becomes_the_steps_model(step, trained, fake_cluster):
    fake_cluster.replay("trainjob-complete", speed=100)
    model = trained()
    step()
    assert ModelFolder.open(step.artifacts["model"].path).digest == model.digest
    assert step.artifacts["model"].metadata == {"digest": model.digest, "algorithm": "residual_mlp"}
    assert step.artifacts["metrics"].metadata == {"auc": 0.7}
    assert "Learning curve" in Path(step.artifacts["report"].path).read_text()


def test_the_ranks_are_led_to_the_steps_inputs(step, trained, fake_cluster):
    fake_cluster.replay("trainjob-complete", speed=100)
    trained()
    step(nodes=2, ranks_per_node=1, params={"width": 32}, queue="team")
    (job,) = fake_cluster.objects("trainjobs")
    request = argv(job)
    assert (request.train, request.validation, request.contract) == tuple(step.artifacts[name].uri for name in ("train", "validation", "contract"))
    assert request.options.params == {"width": 32}
    assert request.checkpoints == f"{ROOT}/train/ranks/checkpoints"
    assert (job["spec"]["trainer"]["numNodes"], job["spec"]["trainer"]["image"]) == (2, images.TORCH)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"


def test_a_step_that_is_tried_again_takes_the_result_of_its_finished_job(step, trained, fake_cluster):
    fake_cluster.replay("trainjob-complete", speed=100)
    trained()
    step()
    step()
    assert len([request for request in fake_cluster.requests if (request.verb, request.plural) == ("create", "trainjobs")]) == 1


def test_a_job_that_had_failed_is_made_anew_with_the_same_checkpoints(step, trained, fake_cluster):
    fake_cluster.replay("trainjob-failed", speed=100)
    with pytest.raises(FoundryError, match="failed"):
        step()
    (before,) = fake_cluster.objects("trainjobs")
    store.write(store.join(argv(before).checkpoints, "step-5", "facts.json"), b"{}")
    fake_cluster.stand_still()
    fake_cluster.replay("trainjob-complete", speed=100)
    trained()
    step()
    (after,) = fake_cluster.objects("trainjobs")
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert argv(after) == argv(before)
    assert not store.exists(argv(after).checkpoints)  # done: nobody needs them


def test_checkpoints_in_a_named_folder_are_the_same_trainings_in_every_run(step, trained, fake_cluster, volume):
    fake_cluster.replay("trainjob-complete", speed=100)
    trained()
    places = []
    for run, params in (("run-1", {"width": 32}), ("run-2", {"width": 32}), ("run-3", {"width": 64})):
        store.send(store.address_of(f"{ROOT}/train/ranks/output").path, f"{ROOT}/{run}/ranks/output")
        step.artifacts["model"].uri = f"{ROOT}/{run}/model"
        step(params=params, checkpoint_uri="pvc://runs/checkpoints")
    jobs = fake_cluster.objects("trainjobs")
    places = [argv(job).checkpoints for job in sorted(jobs, key=lambda job: argv(job).output)]
    assert len(jobs) == 3
    assert places[0] == places[1] != places[2]
    assert places[0].startswith("pvc://runs/checkpoints/training-")


def test_a_job_that_is_complete_without_a_model_is_no_success(step, fake_cluster):
    fake_cluster.replay("trainjob-complete", speed=100)
    with pytest.raises(FoundryError, match=r"TrainJob train-\w+ is complete, but there is no model at pvc://runs/.*; read its logs, then delete it"):
        step()


def test_an_older_platform_gets_a_pytorchjob(step, trained, fake_cluster):
    fake_cluster.unserve("trainjobs", "trainingruntimes", "clustertrainingruntimes")
    fake_cluster.replay("pytorchjob-complete", speed=100)
    trained()
    step(nodes=3)
    (job,) = fake_cluster.objects("pytorchjobs")
    assert job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] == 2


def test_the_failing_ranks_words_are_the_message(step, fake_cluster):
    said = ["error: module: there is no Python module 'mine'; give its dotted name"]
    fake_cluster.replay("trainjob-failed", speed=20, logs={"node-0": said})
    with pytest.raises(FoundryError, match="there is no Python module 'mine'"):
        step(module="mine")


def test_rank_0_is_heard_while_it_trains(step, trained, fake_cluster, caplog):
    caplog.set_level(logging.INFO)
    fake_cluster.replay("trainjob-complete", speed=4, logs={"node-0-0": ["validation_loss=0.5"], "node-0-1": ["not this"]})
    trained()
    step(nodes=2)
    assert "validation_loss=0.5" in caplog.text
    assert "not this" not in caplog.text


def test_a_training_that_is_too_long_is_deleted(step, fake_cluster, monkeypatch):
    limits = []
    monkeypatch.setattr(kubeflow, "launch", lambda *args, **options: limits.append(options["limits"]) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        step(timeout_minutes=90, queue_timeout_minutes=10)
    assert (limits[0].run_seconds, limits[0].queue_seconds) == (5400, 600)


def refused(fake, parameters, error, message):
    return pytest.param(fake, parameters, error, message, id=message[:40])


@pytest.mark.parametrize(
    ("prepare", "parameters", "error", "message"),
    [
        refused(
            lambda f: f.deny("create", "trainjobs"),
            {},
            PlatformError,
            r'lacks verb "create" on trainjobs of API group "trainer.kubeflow.org"; give it by `kubectl apply -k manifests/base -n team`',
        ),
        refused(
            lambda f: f.deny("get", "trainingruntimes"),
            {},
            PlatformError,
            r'lacks verb "get" on trainingruntimes of API group "trainer.kubeflow.org"',
        ),
        refused(
            lambda f: f.unserve("trainjobs", "pytorchjobs"),
            {},
            PlatformError,
            r"knows neither TrainJob nor PyTorchJob; install Kubeflow Trainer 2.0 or later, or give target=local",
        ),
        refused(lambda f: None, {"runtime": "of-nobody"}, UserError, r"of-nobody"),
        refused(lambda f: None, {"accelerators": 1, "ranks_per_node": 2}, UserError, r"2 ranks for 1 accelerators per node; give ranks_per_node=1"),
        refused(lambda f: None, {"nodes": 0}, UserError, r"nodes is 0; give 1 or more"),
        refused(lambda f: None, {"params": {"widht": 3}}, UserError, r"widht.*did you mean 'width'"),
        refused(lambda f: None, {"module": "mine", "params": {"width": 3}}, UserError, r"params are those of our network, and a module is given"),
        refused(lambda f: None, {"calibration": "plat"}, UserError, r"plat"),
        refused(lambda f: None, {"strategy": "dpp"}, UserError, r"strategy is 'dpp'; did you mean 'ddp'\?"),
        refused(lambda f: None, {"target": "kubflow"}, UserError, r"target is 'kubflow'; did you mean 'kubeflow'\?"),
        refused(
            lambda f: None, {"checkpoint_uri": "/tmp/here"}, UserError, r"checkpoints at /tmp/here/.*: a path that pods of the cluster cannot reach"
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy_and_nothing_is_left(step, fake_cluster, prepare, parameters, error, message):
    prepare(fake_cluster)
    with pytest.raises(error, match=message):
        step(**parameters)
    fake_cluster.resources = list(type(fake_cluster)().resources)
    assert fake_cluster.objects("trainjobs") == []
    assert not Path(step.artifacts["model"].path).exists()


def test_a_pipeline_root_on_a_disk_is_refused_with_the_way_out(step):
    for artifact in step.artifacts.values():
        artifact.uri = artifact.path
    with pytest.raises(
        UserError, match=r"train, validation, contract.* a path that pods of the cluster cannot reach; run the pipeline with a root in an object"
    ):
        step()


def test_a_store_that_the_step_cannot_read_is_told_before_machines_are_asked_for(step, fake_cluster, volume):
    (volume / "contract").rename(volume / "moved")
    step.artifacts["contract"].path = str(volume / "moved")
    with pytest.raises(FoundryError, match=r"contract: there is no such file"):
        step()
    assert fake_cluster.requests == []


def test_checkpoints_that_cannot_be_removed_fail_no_training(step, trained, fake_cluster, monkeypatch, caplog):
    def refuse(uri):
        raise PlatformError("the store refuses", where=uri, remedy="ask its owner")

    fake_cluster.replay("trainjob-complete", speed=100)
    trained()
    monkeypatch.setattr(store, "remove", refuse)
    step()
    assert "the checkpoints stay: pvc://runs/flights/run-1/train/ranks/checkpoints: the store refuses" in caplog.text


def test_a_table_that_is_no_dataset_is_told_before_machines_are_asked_for(step, fake_cluster):
    (Path(step.artifacts["train"].path) / "dataset.json").unlink()
    with pytest.raises(FoundryError, match=r"no readable dataset\.json"):
        step()
    assert fake_cluster.requests == []


def test_no_gpu_where_one_is_asked_for_is_told_by_the_pods_events(step, fake_cluster, monkeypatch):
    fake_cluster.replay("trainjob-unschedulable", speed=20)
    limited = partial(launch, pace=Pace(first=0.02, longest=0.1))
    monkeypatch.setattr(
        kubeflow, "launch", lambda *args, **options: limited(*args, **{**options, "limits": replace(options["limits"], queue_seconds=2)})
    )
    with pytest.raises(FoundryError, match=r"has not run within 2 s and was deleted: .*(Insufficient|nodes are available)"):
        step(accelerators=1)


@pytest.mark.parametrize("given", [None, dsl.TaskConfig()])
def test_the_component_takes_what_each_platform_passes_through(step, monkeypatch, given):
    """On a laptop nothing is passed through, or an empty TaskConfig."""
    from kfp_foundry.components.training.train_distributed.component import train_distributed

    found = []
    monkeypatch.setattr(train, "_train_here", lambda request, placement, *rest: found.append((request, placement)) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_distributed.python_func(*step.artifacts.values(), nodes=2, target="local", resources=given)
    request, placement = found[0]
    assert (placement.nodes, placement.resources) == (2, given)
    assert request.train == step.artifacts["train"].path


def test_the_steps_own_pod_asks_for_none_of_what_its_ranks_get(compiled):
    import yaml

    from kfp_foundry.components import train_distributed

    @dsl.pipeline(name="p")
    def pipeline(data: str):
        table = dsl.importer(artifact_uri=data, artifact_class=dsl.Dataset)
        contract = dsl.importer(artifact_uri=data, artifact_class=dsl.Artifact)
        task = train_distributed(train=table.output, validation=table.output, contract=contract.output)
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(8).set_memory_limit("64Gi")

    component = next(yaml.safe_load_all(compiled(pipeline).read_text()))["components"]["comp-train-distributed"]
    applied = {entry["field"]: entry.get("applyToTask", False) for entry in component["taskConfigPassthroughs"]}
    assert applied == {
        "RESOURCES": False,
        "KUBERNETES_TOLERATIONS": False,
        "KUBERNETES_NODE_SELECTOR": False,
        "KUBERNETES_AFFINITY": False,
        "ENV": True,
        "KUBERNETES_VOLUMES": True,
    }
    assert json.dumps(component["inputDefinitions"]["parameters"]["resources"]).count("TASK_CONFIG") == 1

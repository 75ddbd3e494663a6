"""TrainJob and PyTorchJob: what is rendered for each version, held against the versions' own schemas by a server that checks them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fake_kubernetes import FakeCluster
from kfp import dsl

from kfp_foundry.components.common import images
from kfp_foundry.components.common.distributed.cluster import kubeflow, pytorchjob, trainjob
from kfp_foundry.components.common.distributed.cluster.workload import Workload
from kfp_foundry.components.common.distributed.placement import Placement
from kfp_foundry.components.common.distributed.ranks import node
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.errors import PlatformError, UserError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import PYTORCHJOB, TRAINJOB
from kfp_foundry.components.common.learning.fit import Options

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFESTS = Path(__file__).parents[2] / "manifests" / "base"
ROOT = "minio://mlpipeline/v2/artifacts/flights/run-1"
REQUEST = Request(
    train=f"{ROOT}/split/train",
    validation=f"{ROOT}/split/validation",
    contract=f"{ROOT}/contract/contract",
    checkpoints=f"{ROOT}/train/ranks/checkpoints",
    output=f"{ROOT}/train/ranks/output",
    options=Options(algorithm="residual_mlp", params={"width": 64}),
)
METADATA = {"name": "train-47b54c66b8", "labels": {"kfp-foundry.io/managed-by": "kfp-foundry"}}
GIVEN = dsl.TaskConfig(
    resources={"limits": {"cpu": "8", "memory": "32Gi"}, "requests": {"cpu": "4"}},
    node_selector={"pool": "gpu"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    env=[
        {"name": "NCCL_DEBUG", "value": "WARN"},
        {"name": "PET_NNODES", "value": "9"},
        {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "kfp-foundry", "key": "AWS_ACCESS_KEY_ID", "optional": True}}},
        {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "kfp-foundry", "key": "PGPASSWORD", "optional": True}}},
    ],
    volumes=[{"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}],
    volume_mounts=[{"name": "cache", "mountPath": "/cache"}],
)
AFFINITY = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname"}]}}
PLACED = Placement(
    nodes=2, accelerators=4, queue="team-queue", timeout_minutes=90, queue_timeout_minutes=30, service_account="trainer", resources=GIVEN
)


@pytest.fixture(autouse=True)
def image(monkeypatch):
    """Goldens name no version of ours."""
    monkeypatch.setattr(images, "TORCH", "ghcr.io/kfp-foundry/kfp-foundry-torch:1")


def work(placement=PLACED, request=REQUEST):
    return Workload.of(request, placement, METADATA)


@pytest.fixture(params=["2.0", "2.1", "2.2", "2.3"])
def versioned(request):
    with FakeCluster(trainer=request.param) as cluster:
        yield cluster, Cluster.connect(kubeconfig=cluster.kubeconfig)


def same_as_golden(name, body):
    """`KFP_FOUNDRY_WRITE_GOLDEN=1 pytest` writes the files anew."""
    file = GOLDEN / f"{name}.yaml"
    text = yaml.safe_dump(body, sort_keys=False, width=150)
    if os.environ.get("KFP_FOUNDRY_WRITE_GOLDEN"):
        file.write_text(text)
    assert file.read_text() == text


def test_a_trainjob_is_in_the_words_of_the_clusters_version(versioned):
    fake, cluster = versioned
    body = trainjob.render(work(), "kfp-foundry-torch", cluster.fields(TRAINJOB))
    same_as_golden(f"trainjob-{fake.trainer}", body)
    stored = cluster.create(TRAINJOB, body)
    for patch in stored["spec"].get("runtimePatches", []):
        patch.pop("time")  # the webhook's
    assert stored["spec"] == body["spec"]  # nothing was dropped


def test_a_trainjob_asks_for_its_pods_in_the_fields_of_its_version(versioned):
    fake, cluster = versioned
    spec = trainjob.render(work(), "kfp-foundry-torch", cluster.fields(TRAINJOB))["spec"]
    pods = {
        "2.0": lambda: spec["podSpecOverrides"][0],
        "2.1": lambda: spec["podTemplateOverrides"][0]["spec"],
        "2.2": lambda: spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"][
            "spec"
        ],
    }
    pod = pods["2.2" if fake.trainer == "2.3" else fake.trainer]()
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["serviceAccountName"] == "trainer"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["containers"] == [{"name": "node", "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}]
    assert ("activeDeadlineSeconds" in spec) == (fake.trainer >= "2.2")


def test_the_ranks_are_always_counted_and_the_operators_names_never_set(versioned):
    _, cluster = versioned
    trainer = trainjob.render(work(), "kfp-foundry-torch", cluster.fields(TRAINJOB))["spec"]["trainer"]
    names = [entry["name"] for entry in trainer["env"]]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 4)
    assert len(set(names)) == len(names)
    assert {"PET_MAX_RESTARTS", "NCCL_DEBUG", "OMP_NUM_THREADS"} <= set(names)
    assert not {"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"} & set(names)
    assert trainer["resourcesPerNode"] == {
        "requests": {"cpu": "4", "nvidia.com/gpu": "4"},
        "limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "4"},
    }


def test_the_ranks_get_the_stores_keys_by_reference_and_no_other_secret():
    made = {entry["name"]: entry for entry in work().env}
    pipelines = {"name": "mlpipeline-minio-artifact", "key": "accesskey", "optional": True}
    assert made["PIPELINE_STORE_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"] == pipelines
    assert made["AWS_ACCESS_KEY_ID"]["valueFrom"]["secretKeyRef"]["name"] == "kfp-foundry"
    assert "PGPASSWORD" not in made


def test_affinity_is_refused_where_the_version_would_lose_it(versioned):
    fake, cluster = versioned
    asked = work(replace(PLACED, resources=replace(GIVEN, affinity=AFFINITY)))
    if fake.trainer == "2.0":
        with pytest.raises(
            PlatformError, match=r"Kubeflow Trainer 2\.0 takes no affinity from a TrainJob; update Trainer, or take affinity off the step"
        ):
            trainjob.render(asked, "kfp-foundry-torch", cluster.fields(TRAINJOB))
    else:
        assert cluster.create(TRAINJOB, trainjob.render(asked, "kfp-foundry-torch", cluster.fields(TRAINJOB)))


def test_a_trainjob_without_wishes_changes_nothing_of_its_runtime(versioned):
    _, cluster = versioned
    body = trainjob.render(work(Placement()), "kfp-foundry-torch", cluster.fields(TRAINJOB))
    assert set(body["spec"]) == {"runtimeRef", "trainer"}
    assert "resourcesPerNode" not in body["spec"]["trainer"]
    assert cluster.create(TRAINJOB, body)


def test_a_runtime_without_shared_memory_gets_it(versioned):
    fake, cluster = versioned
    fake.delete("trainingruntimes", "kfp-foundry-torch")
    fake.create("trainingruntimes", yaml.safe_load((MANIFESTS / "runtime-torch.yaml").read_text()))
    ours = kubeflow.trainjob_body(work(Placement()), "kfp-foundry-torch", cluster)
    stock = kubeflow.trainjob_body(work(Placement()), "torch-distributed", cluster)
    assert "/dev/shm" not in json.dumps(ours)
    assert ours["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
    assert '{"name": "dshm", "mountPath": "/dev/shm"}' in json.dumps(stock)
    assert stock["spec"]["runtimeRef"]["kind"] == "ClusterTrainingRuntime"
    assert cluster.create(TRAINJOB, stock)


def test_our_runtime_says_what_trainer_2_1_wants_said():
    runtime = yaml.safe_load((MANIFESTS / "runtime-torch.yaml").read_text())
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert [condition["status"] for rule in job["podFailurePolicy"]["rules"] for condition in rule.get("onPodConditions", [])] == ["True"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # a pod failure policy wants it
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [node.FINAL]


def test_a_runtime_that_is_not_there_is_told_with_its_manifest(fake_cluster):
    cluster = Cluster.connect()
    fake_cluster.delete("trainingruntimes", "kfp-foundry-torch")
    with pytest.raises(PlatformError, match=r"there is no TrainingRuntime 'kfp-foundry-torch'; kubectl apply -n team -k manifests/base"):
        kubeflow.trainjob_body(work(), "kfp-foundry-torch", cluster)


def test_a_pytorchjob_carries_what_a_runtime_would(fake_cluster):
    body = pytorchjob.render(work())
    same_as_golden("pytorchjob-1.9", body)
    assert Cluster.connect().create(PYTORCHJOB, body)
    spec = body["spec"]
    pod = spec["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    assert (spec["nprocPerNode"], spec["pytorchReplicaSpecs"]["Worker"]["replicas"]) == ("4", 1)
    assert spec["pytorchReplicaSpecs"]["Master"]["restartPolicy"] == "ExitCode"
    assert {"name": "dshm", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_a_pytorchjob_of_one_node_has_a_master_only():
    assert set(pytorchjob.render(work(Placement()))["spec"]["pytorchReplicaSpecs"]) == {"Master"}


def test_a_volume_claim_in_an_address_is_mounted_where_the_store_looks_for_it():
    made = work(Placement(), replace(REQUEST, checkpoints="pvc://weights/flights"))
    assert made.pod.volumes == [{"name": "pvc-weights", "persistentVolumeClaim": {"claimName": "weights"}}]
    assert made.pod.volume_mounts == [{"name": "pvc-weights", "mountPath": "/mnt/pvc/weights"}]


@pytest.mark.parametrize(
    ("limits", "ranks", "device"),
    [({}, 1, "cpu"), ({"nvidia.com/gpu": "4"}, 4, "cuda"), ({"nvidia.com/mig-1g.5gb": 2}, 2, "cuda"), ({"cpu": "8"}, 1, "cpu")],
)
def test_the_number_of_ranks_follows_from_the_accelerators(limits, ranks, device):
    made = work(Placement(resources=dsl.TaskConfig(resources={"limits": limits})))
    assert made.ranks_per_node == ranks
    assert made.command[made.command.index("--device") + 1] == device


@pytest.mark.parametrize(
    ("minutes", "waiting", "queue", "seconds"),
    [(0, 30, "", 0), (90, 30, "q", 90 * 60 + 120), (90, 30, "", 120 * 60 + 120), (90, 0, "", (90 + 24 * 60) * 60 + 120)],
)
def test_the_clusters_own_deadline_comes_after_ours(minutes, waiting, queue, seconds):
    assert work(Placement(timeout_minutes=minutes, queue_timeout_minutes=waiting, queue=queue)).deadline_seconds == seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "nodes is 0; give 1 or more"),
        ({"ranks_per_node": -1}, "ranks_per_node is -1; give 0 or more"),
        ({"accelerators": 2, "ranks_per_node": 4}, "4 ranks for 2 accelerators per node; give ranks_per_node=2 or 0"),
        (
            {"accelerators": 2, "resources": dsl.TaskConfig(resources={"limits": {"nvidia.com/gpu": "1"}})},
            "the step asks for 1 nvidia.com/gpu; give it",
        ),
        ({"timeout_minutes": -5}, "timeout_minutes is -5; give 0 or more"),
    ],
)
def test_a_placement_that_contradicts_itself_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        work(Placement(**options))

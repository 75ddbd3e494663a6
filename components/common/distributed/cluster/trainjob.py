"""TrainJob of Kubeflow Trainer 2, in the words of the version that the cluster has.

| Trainer | how a job changes its runtime's pods | deadline |
|---|---|---|
| 2.0 | `podSpecOverrides`, no affinity | none |
| 2.1 | `podTemplateOverrides` | none |
| 2.2 and later | `runtimePatches` | `activeDeadlineSeconds` |

Which one it is says the API server's own schema. A field of another version would be dropped without a word by a server that
is not asked to be strict, and with it the job's volumes or its deadline.
"""

from collections.abc import Collection
from typing import Any

from kfp_foundry.components.common.distributed.cluster.workload import Workload
from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.kube.kinds import TRAINJOB, Kind, Object
from kfp_foundry.components.common.kube.task import PREFIX

NODE = "node"  # how Trainer's runtimes call the job, and its container, that trains
PATCH_MANAGER = f"{PREFIX}/launcher"
RUNTIME = Kind(TRAINJOB.group, TRAINJOB.version, "trainingruntimes", "TrainingRuntime", comes_with=TRAINJOB.comes_with)
CLUSTER_RUNTIME = "ClusterTrainingRuntime"


def render(work: Workload, runtime: str, fields: Collection[str], runtime_kind: str = RUNTIME.kind) -> Object:
    """The TrainJob of a training.

    Args:
        work: What runs.
        runtime: Name of the runtime that it is based on.
        fields: Paths that the cluster's TrainJob has, as `Cluster.fields` gives them.
        runtime_kind: `TrainingRuntime` (of this namespace) or `ClusterTrainingRuntime`.

    Raises:
        PlatformError: The cluster's version cannot do what is asked for.
    """
    trainer: Object = {
        "image": work.image,
        "command": work.command,
        "env": work.env,
        "numNodes": work.nodes,
        "numProcPerNode": work.ranks_per_node,  # never left out: without a GPU the operator would take the number of CPUs
    }
    if work.pod.resources:
        trainer["resourcesPerNode"] = work.pod.resources
    spec: Object = {"runtimeRef": {"apiGroup": RUNTIME.group, "kind": runtime_kind, "name": runtime}, "trainer": trainer}
    pod = _pod(work)
    if pod:
        spec |= _changes(pod, fields)
    if work.deadline_seconds and "spec.activeDeadlineSeconds" in fields:
        spec["activeDeadlineSeconds"] = work.deadline_seconds
    return {"apiVersion": TRAINJOB.api_version, "kind": TRAINJOB.kind, "metadata": work.metadata, "spec": spec}


def version(fields: Collection[str]) -> str:
    """The Trainer's version, as far as its fields tell it: `2.2 or later`, `2.1` or `2.0`; empty when they are of none of them."""
    for field, name in (("runtimePatches", "2.2 or later"), ("podTemplateOverrides", "2.1"), ("podSpecOverrides", "2.0")):
        if f"spec.{field}" in fields:
            return name
    return ""


def _pod(work: Workload) -> Object:
    """What of the runtime's pods this job changes."""
    container = {"name": NODE, "volumeMounts": work.pod.volume_mounts}
    wanted: Object = {
        "serviceAccountName": work.service_account,
        "nodeSelector": work.pod.node_selector,
        "affinity": work.pod.affinity,
        "tolerations": work.pod.tolerations,
        "volumes": work.pod.volumes,
        "containers": [container] if work.pod.volume_mounts else [],
    }
    return {name: value for name, value in wanted.items() if value}


def _changes(pod: Object, fields: Collection[str]) -> Object:
    if "spec.runtimePatches" in fields:
        _require(pod, "spec.runtimePatches.trainingRuntimeSpec.template.spec.replicatedJobs.template.spec.template.spec", fields)
        job = {"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}
        return {"runtimePatches": [{"manager": PATCH_MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}]}
    target: list[dict[str, Any]] = [{"name": NODE}]
    if "spec.podTemplateOverrides" in fields:
        _require(pod, "spec.podTemplateOverrides.spec", fields)
        return {"podTemplateOverrides": [{"targetJobs": target, "spec": pod}]}
    _require(pod, "spec.podSpecOverrides", fields)
    return {"podSpecOverrides": [{"targetJobs": target, **pod}]}


def _require(pod: Object, place: str, fields: Collection[str]) -> None:
    """Refuses what this version has no field for, before it is lost."""
    missing = sorted(name for name in pod if f"{place}.{name}" not in fields)
    if missing:
        raise PlatformError(
            f"Kubeflow Trainer {version(fields) or 'of this cluster'} takes no {', '.join(missing)} from a TrainJob",
            where="train_distributed",
            remedy=f"update Trainer, or take {', '.join(missing)} off the step and put it into a runtime of your own (runtime=)",
        )

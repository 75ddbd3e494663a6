"""The cluster engine: a TrainJob, or a PyTorchJob on an older platform, launched, followed to its end and judged by its result."""

import logging
from dataclasses import replace

from kfp_foundry.components.common import store
from kfp_foundry.components.common.distributed.cluster import pytorchjob, trainjob
from kfp_foundry.components.common.distributed.cluster.workload import SHARED_MEMORY_PATH, Workload, unreachable
from kfp_foundry.components.common.distributed.placement import WHERE, Placement
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.errors import FoundryError, PlatformError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import PYTORCHJOB, TRAINJOB, Kind, Object
from kfp_foundry.components.common.kube.launcher import Finished, launch
from kfp_foundry.components.common.kube.queueing import Limits
from kfp_foundry.components.common.kube.task import Task

PREFIX = "train"
BESIDE = "ranks"  # the folder next to the model in which ranks leave their result and their checkpoints
OURS = "kfp-foundry-torch"

log = logging.getLogger(__name__)


def run(request: Request, placement: Placement, model_uri: str, cluster: Cluster | None = None) -> Request:
    """Trains on the cluster and returns when the result is at the returned request's `output`.

    The names of the remote object and of the folders follow from `model_uri` alone: a step that is tried again finds the job that
    it has started, adopts it while it runs, takes its result when it is done, and otherwise starts it anew from its last checkpoint.

    Args:
        request: The training. Its `output` is set here; its `checkpoints` too, when empty.
        placement: Where it runs.
        model_uri: Where the step's model goes; the ranks' folders lie beside it.
        cluster: Empty: the one that this process belongs to, or that a kubeconfig names.

    Raises:
        UserError: Something that was asked for contradicts itself, or cannot be reached from pods.
        DataError: The contract is not in the store.
        PlatformError: The cluster lacks a kind, a runtime or a right, or the store refuses.
        RemoteFailure: The training failed; the message has its last lines.
    """
    placement.check()
    beside = store.join(store.parent(model_uri), BESIDE) if model_uri else ""
    placed = replace(request, output=store.join(beside, "output"), checkpoints=request.checkpoints or store.join(beside, "checkpoints"))
    problem = unreachable(placed)
    if problem:
        raise problem
    store.read(placed.contract)  # a step that cannot read the store would learn that when the training is over
    there = cluster or Cluster.connect()
    kind = _kind(there)
    task = Task.of(model_uri, there)
    work = Workload.of(placed, placement, task.metadata(PREFIX))
    body = trainjob_body(work, placement.runtime, there) if kind is TRAINJOB else pytorchjob.render(work)
    limits = Limits(run_seconds=placement.timeout_minutes * 60, queue_seconds=placement.queue_timeout_minutes * 60)
    name = body["metadata"]["name"]
    log.info("%s %s: %d nodes with %d ranks each in namespace %s", kind.kind, name, work.nodes, work.ranks_per_node, there.namespace)
    finished = launch(there, kind, body, limits=limits)
    _require_result(finished, kind, name, placed)
    if not request.checkpoints:  # a training that is done needs none; a folder that the user named is the user's
        _remove(placed.checkpoints)
    return placed


def _remove(checkpoints: str) -> None:
    try:
        store.remove(checkpoints)
    except PlatformError as error:
        log.warning("the checkpoints stay: %s", error)


def trainjob_body(work: Workload, runtime: str, cluster: Cluster) -> Object:
    """The TrainJob in the words of the cluster's version, on the runtime of that name.

    Raises:
        PlatformError: There is no such runtime, or the version cannot do what is asked for.
    """
    fields = cluster.fields(TRAINJOB)
    if not trainjob.version(fields):
        raise PlatformError(
            "the cluster's TrainJob has none of the fields that we know", where=WHERE, remedy="use Kubeflow Trainer 2.0 to 2.3, or PyTorchJob"
        )
    found = cluster.get(trainjob.RUNTIME, runtime)
    if found is not None:
        fits = work if _mounts_shared_memory(found) else work.with_shared_memory()
        return trainjob.render(fits, runtime, fields)
    if runtime == OURS:
        remedy = f"kubectl apply -n {cluster.namespace} -k manifests/base, or name a runtime of the cluster, such as runtime=torch-distributed"
        raise PlatformError(f"there is no TrainingRuntime {runtime!r}", where=f"namespace {cluster.namespace}", remedy=remedy)
    # The cluster's own runtimes belong to no namespace, and an account of a namespace may not read them: the webhook tells if it is not there.
    return trainjob.render(work.with_shared_memory(), runtime, fields, trainjob.CLUSTER_RUNTIME)


def _kind(cluster: Cluster) -> Kind:
    for kind in (TRAINJOB, PYTORCHJOB):
        if cluster.served(kind):
            return kind
    raise PlatformError(
        "the cluster knows neither TrainJob nor PyTorchJob",
        where=WHERE,
        remedy=f"install {TRAINJOB.comes_with}, or give target=local",
    )


def _mounts_shared_memory(runtime: Object) -> bool:
    jobs = runtime.get("spec", {}).get("template", {}).get("spec", {}).get("replicatedJobs") or []
    pods = [job["template"]["spec"]["template"]["spec"] for job in jobs if job.get("name") == trainjob.NODE]
    containers = [container for pod in pods for container in pod.get("containers") or [] if container["name"] == trainjob.NODE]
    return any(mount["mountPath"] == SHARED_MEMORY_PATH for container in containers for mount in container.get("volumeMounts") or [])


def _require_result(finished: Finished, kind: Kind, name: str, request: Request) -> None:
    """A job that is complete has done nothing when it left no result, as one whose command was another one."""
    if not store.is_complete(request.output):
        raise FoundryError(
            f"{kind.kind} {name} is complete, but there is no model at {request.output}",
            where=WHERE,
            remedy=f"read its logs, then delete it (kubectl delete {kind.resource} {name}) and run the step again",
        )
    log.info("%s %s: %.0f s in the queue, %.0f s at work", kind.kind, name, finished.queued_seconds, finished.run_seconds)

"""A training on ranks as a cluster is asked for it: what a TrainJob and a PyTorchJob have in common."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from kfp_foundry.components.common import images, store
from kfp_foundry.components.common.distributed.placement import Placement
from kfp_foundry.components.common.distributed.request import ADDRESSES, Request
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.kube.kinds import Object, Objects
from kfp_foundry.components.common.kube.pods import PodOptions, settings_env
from kfp_foundry.components.common.wiring import SETTINGS, STORE_SECRET

NODE_COMMAND = "kfp_foundry.components.common.distributed.ranks.node"  # torchrun with an exit code that says more
RESTARTS = 3  # of the ranks within their pods, from the last checkpoint, before a pod is given up
SHARED_MEMORY = "dshm"
SHARED_MEMORY_PATH = "/dev/shm"  # NCCL and data loaders want more than the 64 MiB that a pod has there
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
DEADLINE_MARGIN = 120  # seconds by which the cluster's own deadline comes after ours, which has more to say
UNKNOWN_WAIT_MINUTES = 24 * 60  # for a free node, where nobody limits it
CPU_UNITS = {"m": 1e-3, "": 1.0}


@dataclass(frozen=True)
class Workload:
    """What runs on every node, and under what limits.

    Args:
        metadata: Name, labels and owner of the remote object.
        command: What a node runs; it reads the rest from the environment that the operator sets, as torchrun does.
        env: Environment of the node's container, each name once.
        nodes: Machines, one pod each.
        ranks_per_node: Processes in each pod.
        pod: Where pods may run and what they get.
        service_account: Of the pods; empty for the default.
        deadline_seconds: After which the cluster itself ends it; 0 for never.
        image: Of the node's container.
    """

    metadata: Object
    command: list[str]
    env: Objects
    nodes: int
    ranks_per_node: int
    pod: PodOptions
    service_account: str = ""
    deadline_seconds: int = 0
    image: str = ""

    @classmethod
    def of(cls, request: Request, placement: Placement, metadata: Object) -> "Workload":
        """What a cluster is asked for.

        Args:
            request: The training; its addresses lead the ranks to their data.
            placement: Where it runs.
            metadata: Name, labels and owner of the remote object.

        Raises:
            UserError: The placement contradicts itself.
        """
        placement.check()
        given = PodOptions.from_task_config(placement.resources)
        devices = placement.devices(given.resources.get("limits") or {})
        ranks = placement.ranks(sum(devices.values()))
        placed = replace(request, device="cuda" if devices else "cpu")
        claims = _claims([getattr(request, name) for name in ADDRESSES])
        pod = replace(
            given,
            resources=_resources(given.resources, devices),
            volumes=[*given.volumes, *({"name": f"pvc-{claim}", "persistentVolumeClaim": {"claimName": claim}} for claim in claims)],
            volume_mounts=[*given.volume_mounts, *({"name": f"pvc-{claim}", "mountPath": f"{store.PVC_ROOT}/{claim}"} for claim in claims)],
        )
        labels = {QUEUE_LABEL: placement.queue} if placement.queue else {}
        return cls(
            metadata={**metadata, "labels": {**metadata.get("labels", {}), **labels}},
            command=["python3", "-m", NODE_COMMAND, *placed.argv()],
            env=_merged(_store_env(), _own_env(pod.resources, ranks), _own_wishes(given.env)),
            nodes=placement.nodes,
            ranks_per_node=ranks,
            pod=pod,
            service_account=placement.service_account,
            deadline_seconds=_deadline(placement),
            image=images.TORCH,
        )

    def with_shared_memory(self) -> "Workload":
        """The same with `/dev/shm` in memory, unless the step mounts something there."""
        if any(mount["mountPath"] == SHARED_MEMORY_PATH for mount in self.pod.volume_mounts):
            return self
        volume = {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory"}}
        mount = {"name": SHARED_MEMORY, "mountPath": SHARED_MEMORY_PATH}
        return replace(self, pod=replace(self.pod, volumes=[*self.pod.volumes, volume], volume_mounts=[*self.pod.volume_mounts, mount]))


def _deadline(placement: Placement) -> int:
    """The cluster counts from the creation, waiting included; Kueue lets it count anew when it admits the job."""
    if not placement.timeout_minutes:
        return 0
    waiting = 0 if placement.queue else placement.queue_timeout_minutes or UNKNOWN_WAIT_MINUTES
    return (placement.timeout_minutes + waiting) * 60 + DEADLINE_MARGIN


def _claims(uris: Iterable[str]) -> list[str]:
    """The volume claims that the addresses lead to."""
    found = {match[1] for uri in uris if (match := re.match(r"pvc://([^/?]+)", uri))}
    return sorted(found)


def _resources(given: Object, devices: dict[str, int]) -> Object:
    """Requests and limits; devices stand in both, as the API server wants them."""
    made = {part: dict(given.get(part) or {}) for part in ("requests", "limits")}
    for part in made.values():
        part.update({name: str(count) for name, count in devices.items()})
    return {part: amounts for part, amounts in made.items() if amounts}


def _store_env() -> Objects:
    """What a rank needs to reach the object store, and no other secret."""
    return [entry for entry in settings_env() if entry["name"].startswith(("AWS_", "PIPELINE_STORE_"))]


def _own_wishes(env: Objects) -> Objects:
    """What the user set on the step; what every step is wired with (see `wiring`) is not his, and may be absent."""

    def is_wiring(entry: Object) -> bool:
        return any(source.get("name") in (SETTINGS, STORE_SECRET) for source in (entry.get("valueFrom") or {}).values())

    return [entry for entry in env if not is_wiring(entry)]


def _own_env(resources: Object, ranks: int) -> Objects:
    own = {"PET_MAX_RESTARTS": str(RESTARTS), "PYTHONUNBUFFERED": "1", "HOME": "/tmp"}
    cpus = _cpus(resources)
    if cpus:  # otherwise a rank would start a thread per CPU of the machine, whatever the pod may use
        own["OMP_NUM_THREADS"] = str(max(1, int(cpus / ranks)))
    return [{"name": name, "value": value} for name, value in own.items()]


def _cpus(resources: Object) -> float:
    amount = str((resources.get("limits") or {}).get("cpu") or (resources.get("requests") or {}).get("cpu") or "")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(m?)", amount)
    return float(found[1]) * CPU_UNITS[found[2]] if found else 0.0


def _merged(*groups: Objects) -> Objects:
    """Each name once, the last one of that name."""
    entries: dict[str, Any] = {entry["name"]: entry for group in groups for entry in group}
    return list(entries.values())


def unreachable(request: Request) -> UserError | None:
    """The error for a training whose data no other machine can read; None when all can be reached."""
    here = [name for name in ADDRESSES if not store.is_shared(getattr(request, name))]
    if not here:
        return None
    return UserError(
        f"{', '.join(here)} at {getattr(request, here[0])}: a path that pods of the cluster cannot reach",
        where="train_distributed, target=kubeflow",
        remedy="run the pipeline with a root in an object store (s3://, gs://, minio://), or give target=local",
    )

"""PyTorchJob of the training operator v1, for platforms up to Kubeflow 1.10.

There is no runtime to stand on: shared memory, the security context and the restart rules stand in the job itself.
"""

import copy

from kfp_foundry.components.common.distributed.cluster.workload import Workload
from kfp_foundry.components.common.kube.kinds import PYTORCHJOB, Object

ATTEMPTS = 3  # of pods that a node took away or that ran out of memory
GRACE_SECONDS = 60  # for ranks to write a checkpoint when they are asked to end
USER = 1000


def render(work: Workload) -> Object:
    """The PyTorchJob of a training: the first node is the master, all others are workers.

    With the restart policy ExitCode the operator starts a pod anew when it ended with 128 or more (killed, or `node.PASSING`),
    and fails the job for a smaller code.
    """
    replicas = {"Master": _replica(work, 1)}
    if work.nodes > 1:
        replicas["Worker"] = _replica(work, work.nodes - 1)
    policy: Object = {"backoffLimit": ATTEMPTS, "cleanPodPolicy": "None"}
    if work.deadline_seconds:
        policy["activeDeadlineSeconds"] = work.deadline_seconds
    spec = {"nprocPerNode": str(work.ranks_per_node), "runPolicy": policy, "pytorchReplicaSpecs": replicas}
    return {"apiVersion": PYTORCHJOB.api_version, "kind": PYTORCHJOB.kind, "metadata": work.metadata, "spec": spec}


def _replica(work: Workload, count: int) -> Object:
    return {"replicas": count, "restartPolicy": "ExitCode", "template": {"spec": _pod(work)}}


def _pod(work: Workload) -> Object:
    shared = work.with_shared_memory().pod
    container: Object = {
        "name": PYTORCHJOB.container,
        "image": work.image,
        "command": work.command,
        "env": work.env,
        "resources": shared.resources,
        "volumeMounts": shared.volume_mounts,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    wanted: Object = {
        "containers": [{name: value for name, value in container.items() if value}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": USER, "fsGroup": USER, "seccompProfile": {"type": "RuntimeDefault"}},
        "serviceAccountName": work.service_account,
        "nodeSelector": shared.node_selector,
        "affinity": shared.affinity,
        "tolerations": shared.tolerations,
        "volumes": shared.volumes,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
    }
    return copy.deepcopy({name: value for name, value in wanted.items() if value})  # master and workers share no list

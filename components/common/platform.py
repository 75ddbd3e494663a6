"""Where a step runs and what is there: inside a cluster or on a laptop, and where local state lives."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kfp_foundry.components.common.errors import UserError, close_names

Target = Literal["auto", "kubeflow", "local"]
Where = Literal["kubeflow", "local"]


@dataclass(frozen=True)
class Choice:
    """Which platform was chosen, and why: both are logged and reported."""

    where: Where
    why: str


def choose(target: str) -> Choice:
    """Resolves a component's `target` parameter.

    Args:
        target: `auto`, `kubeflow` or `local`.

    Raises:
        UserError: Another word.
    """
    if target not in get_args(Target):
        raise UserError(f"target is {target!r}", where="target", remedy=close_names(target, list(get_args(Target))))
    if target == "local":
        return Choice("local", "asked for by target=local")
    if target == "kubeflow":
        return Choice("kubeflow", "asked for by target=kubeflow")
    if in_cluster():
        return Choice("kubeflow", "target=auto, and this step runs inside a Kubernetes pod")
    return Choice("local", "target=auto, and this step does not run inside a Kubernetes pod")


def in_cluster() -> bool:
    """Whether this process runs in a Kubernetes pod."""
    return "KUBERNETES_SERVICE_HOST" in os.environ


def home() -> Path:
    """The folder of local state (runs, registry, endpoints): `$KFP_FOUNDRY_HOME`, else `.kfp-foundry` in this folder."""
    return Path(os.environ.get("KFP_FOUNDRY_HOME", ".kfp-foundry")).absolute()


def cpus() -> int:
    """How many CPUs this process may use: its affinity, and the quota of its container if there is one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota_file = Path("/sys/fs/cgroup/cpu.max")
    quota, _, period = quota_file.read_text().partition(" ") if quota_file.exists() else ("max", "", "")
    return allowed if quota == "max" else max(1, min(allowed, -(-int(quota) // int(period))))

"""What a pod's status says: whether it has started, how it ended, and what it is stuck at."""

from dataclasses import dataclass

from kfp_foundry.components.common.kube.kinds import Object, Objects

# What a container waits for in vain until somebody changes something; the kubelet goes on trying all the same.
HOPELESS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
CRASHES = "CrashLoopBackOff"  # of an init container: the main one never starts; it may come right by itself, as one that waits for a service
PULLS = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})


@dataclass(frozen=True)
class Ending:
    """How a container ended, badly.

    Args:
        pod: The pod's name.
        container: The container's name; empty when the pod as a whole was ended.
        exit_code: None when the pod as a whole was ended.
        reason: Such as `Error`, `OOMKilled`, `Evicted`.
        message: What the kubelet says.
        at: When, RFC 3339; empty when not told.
    """

    pod: str
    container: str
    exit_code: int | None
    reason: str
    message: str
    at: str

    def __str__(self) -> str:
        """For a person to read."""
        if self.exit_code is None:
            return f"pod {self.pod} was ended: {self.reason}" + (f" ({self.message})" if self.message else "")
        code = f"exit code {self.exit_code}"
        return f"pod {self.pod}, container {self.container}: {code}" + (f", {self.reason}" if self.reason not in ("", "Error") else "")


def containers(pod: Object) -> Objects:
    """The statuses of all containers, those that initialise first."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def has_started(pod: Object) -> bool:
    """Whether a container of it has run, even if it ended at once."""
    main = (pod.get("status") or {}).get("containerStatuses") or []
    return any(c.get("restartCount") or {"running", "terminated"} & set(c.get("state") or {}) for c in main)


def endings(pod: Object) -> list[Ending]:
    """The containers of a pod that ended badly, those that will be started again included, earliest first."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    found = []
    for container in containers(pod):
        ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
        if ended and ended.get("exitCode"):
            code, reason, at = ended["exitCode"], ended.get("reason") or "", ended.get("finishedAt") or ""
            found.append(Ending(name, container["name"], code, reason, ended.get("message") or "", at))
    if not found and status.get("phase") == "Failed":
        found.append(Ending(name, "", None, status.get("reason") or "Failed", status.get("message") or "", ""))
    return sorted(found, key=lambda ending: ending.at)


def trouble(pod: Object) -> str:
    """What a pod is stuck at, for a person to read; empty when it is not."""
    for condition in (pod.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"no node takes pod {pod['metadata']['name']}: {condition.get('message') or condition.get('reason')}"
    for container in containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in HOPELESS or waiting.get("reason") == CRASHES:
            return f"{waiting['reason']}: {waiting.get('message') or container.get('image') or container['name']}"
    return ""


def stuck_at(pod: Object) -> str:
    """The reason of `HOPELESS` that a container of it waits with; empty when none does."""
    for container in containers(pod):
        reason = ((container.get("state") or {}).get("waiting") or {}).get("reason")
        if reason in HOPELESS:
            return str(reason)
    return ""

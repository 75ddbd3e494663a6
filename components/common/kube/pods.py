"""What a remote pod gets: the placement that the user set on the step, and the settings that the step itself has."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from kfp_foundry.components.common.kube.kinds import Object, Objects
from kfp_foundry.components.common.wiring import CONFIG_KEYS, SECRET_KEYS, SETTINGS, STORE_KEYS, STORE_SECRET

RESERVED = frozenset({"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"})


class TaskConfig(Protocol):
    """What a platform passes through of a step's own settings: KFP's `dsl.TaskConfig`, each field as Kubernetes writes it."""

    @property
    def resources(self) -> dict[str, Any] | None:
        """`requests` and `limits`."""


@dataclass(frozen=True)
class PodOptions:
    """Where a remote pod may run and what it gets, in the words of a pod's spec.

    Args:
        resources: `requests` and `limits`.
        node_selector: Labels of the nodes it may run on.
        tolerations: Taints it tolerates.
        affinity: Its affinity.
        env: Environment, without the five variables that the training operator sets.
        volumes: Volumes of the pod.
        volume_mounts: Where the container mounts them.
    """

    resources: Object = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: Objects = field(default_factory=list)
    affinity: Object = field(default_factory=dict)
    env: Objects = field(default_factory=list)
    volumes: Objects = field(default_factory=list)
    volume_mounts: Objects = field(default_factory=list)

    @classmethod
    def from_task_config(cls, config: TaskConfig | None) -> "PodOptions":
        """What the user set on the step and the platform passed through; nothing of it where there is no platform.

        Args:
            config: The component's `dsl.TaskConfig` parameter.

        Example:
            >>> PodOptions.from_task_config(None).resources
            {}
        """

        def given(name: str) -> Any:
            return getattr(config, name, None)

        return cls(
            resources=dict(given("resources") or {}),
            node_selector=dict(given("node_selector") or {}),
            tolerations=list(given("tolerations") or []),
            affinity=dict(given("affinity") or {}),
            env=[entry for entry in given("env") or [] if entry["name"] not in RESERVED],
            volumes=list(given("volumes") or []),
            volume_mounts=list(given("volume_mounts") or []),
        )


def settings_env() -> Objects:
    """The environment that gives a remote pod the settings and secrets that a step has; see `common/wiring.py`.

    All of it by reference, so that no secret is written into an object, and optional, so that a pod starts without. No name
    stands twice, which a TrainJob refuses.

    Returns:
        Entries for a container's `env`.
    """
    entries = [_reference(key, "configMapKeyRef", SETTINGS, key) for key in CONFIG_KEYS]
    entries += [_reference(key, "secretKeyRef", SETTINGS, key) for key in SECRET_KEYS]
    return entries + [_reference(variable, "secretKeyRef", STORE_SECRET, key) for key, variable in STORE_KEYS.items()]


def merged_env(*groups: Objects) -> Objects:
    """Environments put together; a later group's variable takes the place of an earlier one's, so that no name stands twice.

    Example:
        >>> merged_env([{"name": "A", "value": "1"}], [{"name": "A", "value": "2"}])
        [{'name': 'A', 'value': '2'}]
    """
    return list({entry["name"]: entry for group in groups for entry in group}.values())


def _reference(variable: str, source: str, name: str, key: str) -> Object:
    return {"name": variable, "valueFrom": {source: {"name": name, "key": key, "optional": True}}}

"""The kinds of remote objects, and how each says what it is doing.

A condition counts by its type *and* by `status == "True"`: `Suspended=False` stays after a resume, `Running=False` after the
end. Conditions come before counters: after `DeadlineExceeded` a TrainJob goes on saying `active: 1`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

Object = dict[str, Any]  # a Kubernetes object as the API server's JSON gives it
Objects = list[Object]
Phase = Literal["queued", "starting", "running", "done", "failed"]


@dataclass(frozen=True)
class State:
    """What an object says it is doing.

    Args:
        phase: `queued` (suspended, as Kueue does), `starting` (admitted, no pod has run yet), `running`, `done` or `failed`.
        reason: The deciding condition's reason; empty where none decided.
        message: The deciding condition's message.
        deleting: Whether somebody has asked for its deletion.
    """

    phase: Phase
    reason: str = ""
    message: str = ""
    deleting: bool = False

    @property
    def ended(self) -> bool:
        """Whether it will do nothing more."""
        return self.phase in ("done", "failed")


@dataclass(frozen=True)
class Kind:
    """One kind of remote object: where it is served, and how its status is read.

    Args:
        group: API group; empty for the core group.
        version: API version.
        plural: Resource name in URLs and roles.
        kind: Name in manifests.
        done: Condition types that mean success.
        failed: Condition types that mean failure.
        has_run: Whether the status says that a pod of it has run by now.
        pod_label: Label by which its pods carry its name; empty when it has none.
        first_pod: Further labels of the pod that speaks for all: rank 0.
        container: Name of the container that does the work.
        comes_with: What to install where the cluster does not serve it.
        namespaced: Whether its objects are in a namespace.
    """

    group: str
    version: str
    plural: str
    kind: str
    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    has_run: Callable[[Object], bool] = lambda status: False
    pod_label: str = ""
    first_pod: tuple[tuple[str, str], ...] = ()
    container: str = ""
    comes_with: str = ""
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As in manifests.

        Example:
            >>> TRAINJOB.api_version
            'trainer.kubeflow.org/v1alpha1'
        """
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As in roles and kubectl.

        Example:
            >>> TRAINJOB.resource
            'trainjobs.trainer.kubeflow.org'
        """
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def pods_of(self, name: str) -> dict[str, str]:
        """The labels of all pods of the object of that name; empty for a kind without pods of its own."""
        return {self.pod_label: name} if self.pod_label else {}

    def state(self, obj: Object) -> State:
        """What the object says it is doing; a failure goes before everything else.

        Example:
            >>> TRAINJOB.state({"metadata": {}, "status": {"jobsStatus": [{"name": "node", "active": 1, "ready": 1}]}}).phase
            'running'
        """
        status = obj.get("status") or {}
        deleting = "deletionTimestamp" in obj["metadata"]
        true = {condition["type"]: condition for condition in conditions(obj) if condition.get("status") == "True"}
        endings: tuple[tuple[Phase, tuple[str, ...]], ...] = (("failed", self.failed), ("done", self.done))
        for phase, types in endings:
            for condition in (true[name] for name in types if name in true):
                return State(phase, condition.get("reason") or "", condition.get("message") or "", deleting)
        if "Suspended" in true:
            return State("queued", true["Suspended"].get("reason") or "", true["Suspended"].get("message") or "", deleting)
        return State("running" if self.has_run(status) else "starting", deleting=deleting)


def conditions(obj: Object) -> list[Object]:
    """The conditions of an object, as it wrote them."""
    return list((obj.get("status") or {}).get("conditions") or [])


def in_words(obj: Object) -> str:
    """The conditions that hold and say more than that it was made and runs, for a person to read.

    Example:
        >>> in_words({"status": {"conditions": [{"type": "Failed", "status": "True", "reason": "FailedJobs", "message": "job 0 failed"}]}})
        'Failed (FailedJobs: job 0 failed)'
    """
    told = []
    for condition in conditions(obj):
        if condition.get("status") == "True" and condition["type"] not in ("Created", "Running"):
            why = ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)
            told.append(f"{condition['type']} ({why})" if why else condition["type"])
    return ", ".join(told)


def _any(counters: Iterable[Object], *names: str) -> bool:
    return any(counter.get(name) for counter in counters for name in names)


def _trainjob_has_run(status: Object) -> bool:
    # `active` also counts pods that no node has taken yet
    return _any(status.get("jobsStatus") or [], "ready", "succeeded", "failed")


def _pytorchjob_has_run(status: Object) -> bool:
    return _any((status.get("replicaStatuses") or {}).values(), "active", "succeeded", "failed")


def _experiment_has_run(status: Object) -> bool:
    return _any([status], "trialsRunning", "trialsSucceeded", "trialsFailed", "trialsKilled", "trialsEarlyStopped", "trialMetricsUnavailable")


def _job_has_run(status: Object) -> bool:
    return _any([status], "ready", "succeeded", "failed")


TRAINJOB = Kind(
    "trainer.kubeflow.org",
    "v1alpha1",
    "trainjobs",
    "TrainJob",
    done=("Complete",),
    failed=("Failed",),
    has_run=_trainjob_has_run,
    pod_label="jobset.sigs.k8s.io/jobset-name",
    first_pod=(("jobset.sigs.k8s.io/replicatedjob-name", "node"), ("batch.kubernetes.io/job-completion-index", "0")),
    container="node",
    comes_with="Kubeflow Trainer 2.0 or later",
)
PYTORCHJOB = Kind(
    "kubeflow.org",
    "v1",
    "pytorchjobs",
    "PyTorchJob",
    done=("Succeeded",),
    failed=("Failed",),
    has_run=_pytorchjob_has_run,
    pod_label="training.kubeflow.org/job-name",
    first_pod=(("training.kubeflow.org/replica-type", "master"), ("training.kubeflow.org/replica-index", "0")),
    container="pytorch",
    comes_with="the Kubeflow training operator 1.7 or later (or Kubeflow Trainer 2, for TrainJobs)",
)
EXPERIMENT = Kind(
    "kubeflow.org",
    "v1beta1",
    "experiments",
    "Experiment",
    done=("Succeeded",),
    failed=("Failed",),
    has_run=_experiment_has_run,
    comes_with="Katib 0.18 or later",
)
JOB = Kind(
    "batch",
    "v1",
    "jobs",
    "Job",
    done=("Complete",),
    failed=("Failed",),
    has_run=_job_has_run,
    pod_label="batch.kubernetes.io/job-name",
)
TRIAL = Kind(
    "kubeflow.org",
    "v1beta1",
    "trials",
    "Trial",
    done=("Succeeded", "EarlyStopped"),
    failed=("Failed", "Killed", "MetricsUnavailable"),
    pod_label="katib.kubeflow.org/trial",
    comes_with=EXPERIMENT.comes_with,
)
POD = Kind("", "v1", "pods", "Pod")
EVENT = Kind("", "v1", "events", "Event")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
WORKFLOW = Kind("argoproj.io", "v1alpha1", "workflows", "Workflow", done=("Completed",), comes_with="Kubeflow Pipelines with Argo Workflows")

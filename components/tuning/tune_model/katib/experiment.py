"""A search as an Experiment of Katib: plain dicts, ready to be created or written as YAML.

Reference: Katib 0.19.0, `pkg/apis/controller/experiments/v1beta1`, its validating webhook, and its pod webhook
(`pkg/webhook/v1beta1/pod`), which adds a metrics collector to each trial's pod and gives the trial's words to `sh -c`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, JOB, TRAINJOB, Kind, Object, Objects
from kfp_foundry.components.common.kube.names import LIMIT
from kfp_foundry.components.common.kube.pods import PodOptions
from kfp_foundry.components.tuning.tune_model.katib.given import MODULE, Given
from kfp_foundry.components.tuning.tune_model.search import MEDIAN_STOP, PARALLEL_ON_KATIB, SEEDED, SETTINGS, Search
from kfp_foundry.components.tuning.tune_model.space import Parameter, text
from kfp_foundry.components.tuning.tune_model.study import STRATEGY

CONTAINER = "trial"
GRACE_SECONDS = 5  # a shell stands between the kubelet and Python, and passes no signal on
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
QUANTITY = re.compile(r"(\d+(\.\d*)?|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
TYPES = {"int": "int", "float": "double", "categorical": "categorical"}


@dataclass(frozen=True)
class TrialTemplate:
    """What each trial runs, and where.

    Args:
        image: Its image.
        given: What all trials have in common.
        pod: Resources, placement, environment and volumes of its pod.
        settings: Entries of its environment that refer to the cluster's settings, see `pods.settings_env`.
        nodes: Pods of one trial; more than one makes each trial a TrainJob.
        ranks_per_node: Processes of one pod; more than one makes each trial a TrainJob too.
        runtime: The TrainingRuntime of such TrainJobs.
    """

    image: str
    given: Given
    pod: PodOptions = field(default_factory=PodOptions)
    settings: Objects = field(default_factory=list)
    nodes: int = 1
    ranks_per_node: int = 1
    runtime: str = "kfp-foundry-torch"

    @property
    def distributed(self) -> bool:
        """Whether one trial is several processes."""
        return self.nodes * self.ranks_per_node > 1


def render(trial: TrialTemplate, metadata: Mapping[str, Any]) -> Object:
    """The Experiment.

    Args:
        trial: What each trial runs; its `given` holds the search.
        metadata: Of the Experiment: `name`, `labels`, `ownerReferences`; its labels are the trials' pods' too.

    Raises:
        UserError: Katib cannot run this search, see `refuse_what_katib_cannot`, or Kubernetes takes no such name or amount.

    Example:
        >>> body = render(TrialTemplate(images.FOUNDRY, given, settings=settings_env()), task.metadata("tune"))
    """
    search = trial.given.search
    refuse_what_katib_cannot(search)
    if len(str(metadata["name"])) > LIMIT:
        raise UserError(f"{metadata['name']!r} is longer than {LIMIT} characters", where="Experiment", remedy="choose a shorter name")
    if not NAME.fullmatch(str(metadata["name"])):
        remedy = "use small letters, digits and -, a letter first and no - last"
        raise UserError(f"name is {metadata['name']!r}, which Katib does not take", where="Experiment", remedy=remedy)
    _check_amounts(trial.pod.resources)
    labels = dict(metadata.get("labels") or {})
    spec: Object = {
        "objective": _objective(search),
        "algorithm": _algorithm(search),
        "parallelTrialCount": parallel(search),
        "maxTrialCount": search.max_trials,
        # Katib ends a search when so many trials have failed, so 0 would end it before it began.
        "maxFailedTrialCount": min(max(1, search.max_failed_trials), search.max_trials),
        "resumePolicy": "Never",
        "metricsCollectorSpec": {"collector": {"kind": "StdOut"}},
        "parameters": [_parameter(name, parameter) for name, parameter in search.parameters.items()],
        "trialTemplate": {
            "primaryContainerName": TRAINJOB.container if trial.distributed else CONTAINER,
            # A finished trial's pod goes at once: kept, each would hold its copy of the data on a node's disk.
            "retain": False,
            "trialParameters": [{"name": name, "reference": name} for name in search.parameters],
            "trialSpec": _trainjob(trial, labels) if trial.distributed else _job(trial, labels),
        },
    }
    if search.early_stopping:
        settings = [{"name": name, "value": str(value)} for name, value in MEDIAN_STOP.items()]
        spec["earlyStopping"] = {"algorithmName": "medianstop", "algorithmSettings": settings}
    return {"apiVersion": EXPERIMENT.api_version, "kind": EXPERIMENT.kind, "metadata": dict(metadata), "spec": spec}


def _check_amounts(resources: Mapping[str, Any]) -> None:
    for part, amounts in resources.items():
        place = f"resources: {part}"
        if part == "claims":
            continue
        if part not in ("requests", "limits") or not isinstance(amounts, Mapping):
            raise UserError(f"it is {amounts!r}", where=place, remedy="give requests or limits, each as amounts by name")
        for name, amount in amounts.items():
            if isinstance(amount, bool) or not QUANTITY.fullmatch(str(amount)):
                raise UserError(f"{name} is {amount!r}, which is no amount of Kubernetes'", where=place, remedy="write it like 500m, 2 or 2Gi")


def refuse_what_katib_cannot(search: Search) -> None:
    """Refuses what Katib would refuse, or fail at after it has started.

    Raises:
        UserError: A float range that reaches 0 with bayesianoptimization; fewer parallel trials than hyperband's first bracket.
    """
    for name, parameter in search.parameters.items():
        if search.algorithm == "bayesianoptimization" and parameter.type == "float" and parameter.range[0] <= 0:
            raise UserError(
                f"min is {parameter.min}, and Katib's bayesianoptimization samples every float logarithmically",
                where=f"search: parameter {name!r}",
                remedy="give a min above 0, or choose tpe",
            )
    needed = _bracket(search)
    if parallel(search) < needed:
        raise UserError(
            f"Katib's hyperband starts {needed} trials at once, {parallel(search)} are allowed",
            where="search",
            remedy=f"give parallel_trials and max_trials of at least {needed}, a smaller r_l or a greater eta",
        )


def parallel(search: Search) -> int:
    """How many trials Katib runs at once."""
    return min(search.parallel_trials or max(PARALLEL_ON_KATIB, _bracket(search)), search.max_trials)


def _bracket(search: Search) -> int:
    """Trials of hyperband's first bracket, by Katib's `ValidateAlgorithmSettings`; 0 for another algorithm."""
    if search.algorithm != "hyperband":
        return 0
    most, eta = float(search.settings["r_l"]), float(search.settings["eta"])
    return math.ceil(eta ** int(math.log(most) / math.log(eta)))


def _objective(search: Search) -> Object:
    objective: Object = {
        "type": search.direction,
        "objectiveMetricName": search.metric,
        # The last value that a trial reports is that of the finished model; Katib's own default is the best.
        "metricStrategies": [{"name": name, "value": STRATEGY} for name in (search.metric, *search.additional_metrics)],
    }
    if search.goal is not None:
        objective["goal"] = search.goal
    if search.additional_metrics:
        objective["additionalMetricNames"] = list(search.additional_metrics)
    return objective


def _algorithm(search: Search) -> Object:
    words = {SETTINGS[search.algorithm][name].katib: value for name, value in search.settings.items() if SETTINGS[search.algorithm][name].katib}
    if search.algorithm in SEEDED:
        words["random_state"] = search.seed
    algorithm: Object = {"algorithmName": search.algorithm}
    if words:
        algorithm["algorithmSettings"] = [{"name": name, "value": text(words[name])} for name in sorted(words)]
    return algorithm


def _parameter(name: str, parameter: Parameter) -> Object:
    if not parameter.numeric:
        feasible: Object = {"list": [text(value) for value in parameter.values]}
    else:
        low, high = parameter.range
        feasible = {"min": text(low), "max": text(high)}
        if parameter.step is not None:
            feasible["step"] = text(parameter.step)
        if parameter.log:
            feasible["distribution"] = "logUniform"
    return {"name": name, "parameterType": TYPES[parameter.type], "feasibleSpace": feasible}


def _command(search: Search) -> list[str]:
    return ["python3", "-m", MODULE, *(f"--{name}=${{trialParameters.{name}}}" for name in search.parameters)]


def _environment(trial: TrialTemplate) -> Objects:
    own = {**trial.given.environment(), "HOME": "/tmp"}  # the only place that a trial can write to
    # Kubernetes expands $(NAME) in a value, and takes $$ for one $.
    entries = [{"name": name, "value": value.replace("$", "$$")} for name, value in own.items()]
    taken = {entry["name"] for entry in entries} | {entry["name"] for entry in trial.pod.env}
    return entries + list(trial.pod.env) + [entry for entry in trial.settings if entry["name"] not in taken]


def _job(trial: TrialTemplate, labels: Mapping[str, str]) -> Object:
    """A Job of one pod."""
    search = trial.given.search
    container: Object = {
        "name": CONTAINER,
        "image": trial.image,
        "command": _command(search),
        "env": _environment(trial),
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}, *trial.pod.volume_mounts],
        # Of this container alone: the metrics collector that Katib adds runs as root.
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if trial.pod.resources:
        container["resources"] = trial.pod.resources
    pod: Object = {"restartPolicy": "Never", "automountServiceAccountToken": False, "terminationGracePeriodSeconds": GRACE_SECONDS}
    if search.trial_seconds:
        pod["activeDeadlineSeconds"] = search.trial_seconds  # of the pod, so that waiting for a node does not count
    placement = {"nodeSelector": trial.pod.node_selector, "tolerations": trial.pod.tolerations, "affinity": trial.pod.affinity}
    pod |= {name: value for name, value in placement.items() if value}
    pod |= {"containers": [container], "volumes": [{"name": "scratch", "emptyDir": {}}, *trial.pod.volumes]}
    # An Istio proxy in the pod would never end.
    template = {"metadata": {"labels": {**labels, "sidecar.istio.io/inject": "false"}}, "spec": pod}
    # A failure of the training is final; a pod that its node took away is replaced.
    lost = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    spec = {"backoffLimit": 0, "podFailurePolicy": {"rules": [lost]}, "template": template}
    return _object(JOB, labels, spec)


def _trainjob(trial: TrialTemplate, labels: Mapping[str, str]) -> Object:
    """A TrainJob, which Katib takes since 0.19, of the fields that all versions of Trainer share; the rest stands in its runtime."""
    pod, search = trial.pod, trial.given.search
    if search.early_stopping:
        raise UserError(
            f"early_stopping is {search.early_stopping!r}, and a trial of several processes reports at its end only",
            where="search",
            remedy="leave it empty, or use one node and one rank",
        )
    for word, value in (("node_selector", pod.node_selector), ("tolerations", pod.tolerations), ("affinity", pod.affinity), ("volumes", pod.volumes)):
        if value:
            raise UserError(
                f"{word} is set on the step, and the versions of Trainer disagree on where a trial would say that",
                where="search",
                remedy=f"put it into the TrainingRuntime {trial.runtime!r}",
            )
    trainer: Object = {
        "image": trial.image,
        "command": _command(search),
        "env": _environment(trial),
        "numNodes": trial.nodes,
        "numProcPerNode": trial.ranks_per_node,
    }
    if pod.resources:
        trainer["resourcesPerNode"] = pod.resources
    runtime = {"apiGroup": TRAINJOB.group, "kind": "TrainingRuntime", "name": trial.runtime}
    spec: Object = {"runtimeRef": runtime, "trainer": trainer}
    if search.trial_seconds:
        spec["activeDeadlineSeconds"] = search.trial_seconds
    return _object(TRAINJOB, labels, spec)


def _object(kind: Kind, labels: Mapping[str, str], spec: Object) -> Object:
    """A trial's object; Katib names it."""
    metadata = {"metadata": {"labels": dict(labels)}} if labels else {}
    return {"apiVersion": kind.api_version, "kind": kind.kind, **metadata, "spec": spec}

"""A search on a cluster: launches the Experiment, follows it, and reads its trials into a study.

Seen with Katib 0.19.0: a trial's Job is deleted the moment it has ended, and its pod and log with it; an Experiment whose trials
all fail says no more than "max failed count has reached"; one whose trials give no metric succeeds; and trials that still run when
it ends run on. So the pods are watched while they run, success needs a best trial with a finite value, and what still runs at the
end is stopped.
"""

import logging
import math
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from kfp_foundry.components.common.errors import FoundryError, PlatformError, UserError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.failure import RemoteFailure, telling_lines
from kfp_foundry.components.common.kube.kinds import EXPERIMENT, NAMESPACE, TRAINJOB, TRIAL, Object, Objects, conditions
from kfp_foundry.components.common.kube.launcher import Pace, launch
from kfp_foundry.components.common.kube.logs import Follower, LogSource
from kfp_foundry.components.common.kube.queueing import Limits
from kfp_foundry.components.common.kube.task import Task
from kfp_foundry.components.tuning.tune_model.katib.experiment import TrialTemplate, parallel, render
from kfp_foundry.components.tuning.tune_model.katib.given import SAMPLE, Given
from kfp_foundry.components.tuning.tune_model.search import Search, portability
from kfp_foundry.components.tuning.tune_model.study import STRATEGY, Reason, State, Study, Trial, conclude

INJECTION = "katib.kubeflow.org/metrics-collector-injection"
OF_EXPERIMENT = "katib.kubeflow.org/experiment"
OF_TRIAL = "katib.kubeflow.org/trial"
# Katib sends what a trial writes to a file, which this container of the pod copies to its own log; the trial's own log is empty.
COLLECTOR = "metrics-logger-and-collector"
STAMP = re.compile(r"^[IWEF]\d{4} [\d:.]+\s+\d+ \S+:\d+\] ")  # of klog, before each copied line
REPLACED = re.compile(r"unable to find main pid|training container is failed", re.IGNORECASE)

log = logging.getLogger(__name__)


def tune(cluster: Cluster, task: Task, trial: TrialTemplate, *, limits: Limits | None = None, pace: Pace | None = None) -> Study:
    """Runs a search as an Experiment.

    Args:
        cluster: The cluster and namespace.
        task: This step; names the Experiment and says to which run it belongs.
        trial: What each trial runs; its `given` holds the search.
        limits: Seconds that the search may run and wait; none by default, since each trial has its own limit.
        pace: How often the Experiment is looked at.

    Returns:
        The study; one that failed says why by `Study.winner`.

    Raises:
        UserError: Katib cannot run this search, or refuses it.
        PlatformError: Katib is not installed, does not look after this namespace, or a right is missing.
        RemoteFailure: The Experiment failed before a trial did, or was taken away.

    Example:
        >>> study = tune(Cluster.connect(), Task.of(trials.uri, cluster), TrialTemplate(images.FOUNDRY, given, settings=settings_env()))
        >>> study.winner().params
    """
    search, body = trial.given.search, render(trial, task.metadata("tune"))
    check(cluster, trial)
    for note in portability(search):
        log.warning("on Katib: %s", note)
    name = str(body["metadata"]["name"])
    labels = {OF_EXPERIMENT: name, OF_TRIAL: ""}
    kind = replace(EXPERIMENT, has_run=_has_finished, pod_label=OF_EXPERIMENT, container=COLLECTOR)
    source = LogSource(labels, COLLECTOR, shown=None, at_most=parallel(search))
    failure: RemoteFailure | None = None
    experiment: Object | None = None
    with Follower(cluster, source) as follower:
        try:
            ended = launch(cluster, kind, body, limits=limits or Limits(), logs=follower, on_status=_progress(search), pace=pace)
            experiment = ended.object
        except RemoteFailure as error:
            failure = error
    found = cluster.list(TRIAL, {OF_EXPERIMENT: name})
    _stop(cluster, found)
    study = conclude(trials(found, search, follower), search)
    if failure is not None:
        if study.state == "failed" and study.trials:
            log.error("%s", failure)
            return study
        raise failure
    return study if _has_best(experiment) else replace(study, state="failed", reason=Reason.NO_METRIC)


def check(cluster: Cluster, trial: TrialTemplate) -> None:
    """Refuses what would hang or fail later: a namespace that Katib does not look after, TrainJobs without a Trainer, data on this machine.

    Raises:
        UserError: The data cannot be read by a pod.
        PlatformError: Something is missing on the cluster.
    """
    check_reachable(trial.given)
    if not cluster.served(EXPERIMENT):
        remedy = f"install {EXPERIMENT.comes_with}, or use target=local"
        raise PlatformError(
            f"the cluster serves no {EXPERIMENT.resource}: Katib is not installed", where=f"namespace {cluster.namespace}", remedy=remedy
        )
    if trial.distributed:
        _check_trainer(cluster, trial)
    try:
        namespace = cluster.get(NAMESPACE, cluster.namespace) or {"metadata": {}}
    except PlatformError as error:
        log.warning("whether Katib looks after this namespace cannot be seen: %s", error)
        return
    if (namespace["metadata"].get("labels") or {}).get(INJECTION) != "enabled":
        raise PlatformError(
            f"its label {INJECTION} is not 'enabled', so Katib would collect no metric",
            where=f"namespace {cluster.namespace}",
            remedy=f"run: kubectl label namespace {cluster.namespace} {INJECTION}=enabled --overwrite",
        )


def _check_trainer(cluster: Cluster, trial: TrialTemplate) -> None:
    place = f"namespace {cluster.namespace}"
    if not cluster.served(TRAINJOB):
        remedy = f"install {TRAINJOB.comes_with}, or use one node and one rank for each trial"
        raise PlatformError(f"the cluster serves no {TRAINJOB.resource}", where=place, remedy=remedy)
    if trial.given.search.trial_seconds and "spec.activeDeadlineSeconds" not in cluster.fields(TRAINJOB):
        raise PlatformError(
            "the cluster's Trainer knows no deadline, and trial_seconds is given", where=place, remedy="leave it 0, or use Trainer 2.2"
        )


def check_reachable(given: Given) -> None:
    """Refuses data that only this machine has.

    Raises:
        UserError: An address that no pod can read.
    """
    from kfp_foundry.components.common import store

    for address in (given.train, given.validation, given.contract):
        if address and "\n" not in address and not address.startswith(SAMPLE) and not store.is_shared(address):
            remedy = "keep the pipeline's artifacts in an object store (a pipeline root such as s3:// or minio://), or use target=local"
            raise UserError(f"{address} is on this machine, and trials run on others", where="tuning", remedy=remedy)


def trials(found: Objects, search: Search, follower: Follower) -> list[Trial]:
    """The trials that have ended, numbered in the order in which they were made.

    Args:
        found: Katib's Trial objects.
        search: The search.
        follower: Who has watched their pods.
    """
    pods = {(pod["metadata"].get("labels") or {}).get(OF_TRIAL): pod for pod in follower.pods()}
    ordered = sorted(found, key=lambda obj: (obj["metadata"].get("creationTimestamp") or "", obj["metadata"]["name"]))
    read = []
    for number, obj in enumerate(ordered):
        state = state_of(obj)
        if state is None:
            continue
        pod, message = pods.get(obj["metadata"]["name"]), ""
        if state is State.FAILED:
            message = words_of(obj, pod, follower.tail(pod["metadata"]["name"]) if pod else [])
        elif state is State.METRICS_UNAVAILABLE:
            message = f"it ended well and reported no {search.metric}"
        read.append(_trial(number, state, obj, search, message))
    return read


def state_of(obj: Object) -> State | None:
    """How a Trial ended; None while it runs.

    Example:
        >>> state_of({"metadata": {}, "status": {"conditions": [{"type": "EarlyStopped", "status": "True"}]}})
        <State.EARLY_STOPPED: 'early_stopped'>
    """
    held = {(condition["type"], condition.get("status")): condition for condition in conditions(obj)}
    if ("Failed", "True") in held or ("Killed", "True") in held:
        return State.FAILED
    lacks = held.get(("Succeeded", "False"), {})  # how Katib before 0.13 says it
    if ("MetricsUnavailable", "True") in held or "MetricsUnavailable" in (lacks.get("reason") or ""):
        return State.METRICS_UNAVAILABLE
    if ("EarlyStopped", "True") in held:
        return State.EARLY_STOPPED
    return State.SUCCEEDED if ("Succeeded", "True") in held else None


def words_of(obj: Object, pod: Object | None, tail: list[str]) -> str:
    """What a failed trial said, best source first.

    Args:
        obj: The Trial.
        pod: Its pod as it was seen last; None when it never was.
        tail: The last lines of the metrics collector, which copies what the trial writes.
    """
    ended = {
        status["name"]: (status.get("state") or {}).get("terminated") or {}
        for status in ((pod or {}).get("status") or {}).get("containerStatuses") or []
    }
    own = next((end for name, end in ended.items() if name != COLLECTOR), {})
    if own.get("exitCode") and own.get("message"):
        return str(own["message"]).strip().removeprefix("error: ")
    if own.get("reason") == "OOMKilled":
        return "it was killed for want of memory (OOMKilled): give the trials more with set_memory_limit on the step"
    if ((pod or {}).get("status") or {}).get("reason") == "DeadlineExceeded":
        return "it ran for longer than trial_seconds"
    lines = [STAMP.sub("", line) for line in tail]
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1].removeprefix("error: ")
    said = [line.strip() for line in telling_lines([line for line in lines if not REPLACED.search(line)])]
    if ended.get(COLLECTOR, {}).get("exitCode") and own.get("exitCode") == 0:
        said.insert(0, "the training ended well, but Katib's metrics collector failed")
    elif own.get("exitCode"):
        said.insert(0, f"exit code {own['exitCode']}")
    told = next((c.get("message") or "" for c in reversed(conditions(obj)) if c.get("status") == "True"), "")
    return " / ".join(said) or told or "it gave no reason"


def _trial(number: int, state: State, obj: Object, search: Search, message: str) -> Trial:
    status = obj.get("status") or {}
    metrics = {metric["name"]: metric for metric in (status.get("observation") or {}).get("metrics") or []}
    assigned = {entry["name"]: entry["value"] for entry in (obj.get("spec") or {}).get("parameterAssignments") or []}
    try:
        params = dict(search.typed(assigned)) if assigned else {}
    except UserError as error:  # such as a value that Katib drew outside the range
        log.warning("trial %s: %s", obj["metadata"]["name"], error)
        params = assigned
    started, ended = _seconds(status.get("startTime")), _seconds(status.get("completionTime"))
    others = {name: _number(metric.get(STRATEGY)) for name, metric in metrics.items() if name != search.metric}
    return Trial(
        number=number,
        state=state,
        params=params,
        value=_number(metrics.get(search.metric, {}).get(STRATEGY)),
        metrics={name: known for name, known in sorted(others.items()) if known is not None},
        started=started,
        seconds=max(0.0, ended - started) if ended else 0.0,
        message=message,
    )


def _number(text: object) -> float | None:
    """A finite number; Katib writes `unavailable` for none, and an empty text for `nan`."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _seconds(time: str | None) -> float:
    return datetime.fromisoformat(time).timestamp() if time else 0.0


def _has_finished(status: Object) -> bool:
    """Whether a trial has ended. Katib counts one as running from the moment its Job is made, whatever its pod does."""
    return any(status.get(f"trials{state}") for state in ("Succeeded", "Failed", "Killed", "EarlyStopped")) or bool(
        status.get("trialMetricsUnavailable")
    )


def _has_best(experiment: Object | None) -> bool:
    best = ((experiment or {}).get("status") or {}).get("currentOptimalTrial") or {}
    return bool(best.get("bestTrialName"))


def _stop(cluster: Cluster, found: Objects) -> None:
    """Stops trials that still run although the search has ended, such as because its goal was reached: Katib lets them run on."""
    for obj in found:
        if state_of(obj) is None:
            name = obj["metadata"]["name"]
            try:
                cluster.delete(TRIAL, name, uid=obj["metadata"]["uid"])
            except FoundryError as error:
                log.warning("trial %s runs on: %s", name, error)
            else:
                log.info("trial %s was stopped: the search has ended", name)


def _progress(search: Search) -> Callable[[Object], None]:
    """Logs how far an Experiment is, whenever that has changed."""
    last = ""

    def tell(obj: Object) -> None:
        nonlocal last
        now = progress(obj, search)
        if now != last:
            last = now
            log.info("%s", now)

    return tell


def progress(obj: Object, search: Search) -> str:
    """How far an Experiment is, in one line.

    Example:
        >>> progress({"status": {"trials": 3, "trialsRunning": 2, "trialsSucceeded": 1}}, search)
        'trials: 1 of 24 done, 2 running'
    """
    status = obj.get("status") or {}
    failed = (status.get("trialsFailed") or 0) + (status.get("trialsKilled") or 0) + (status.get("trialMetricsUnavailable") or 0)
    early = status.get("trialsEarlyStopped") or 0
    done = (status.get("trialsSucceeded") or 0) + failed + early
    of_these = [f"{count} {how}" for count, how in ((failed, "failed"), (early, "stopped early")) if count]
    words = [f"trials: {done} of {search.max_trials} done" + (f" ({', '.join(of_these)})" if of_these else "")]
    words += [f"{status[f'trials{state}']} {state.lower()}" for state in ("Running", "Pending") if status.get(f"trials{state}")]
    line = ", ".join(words)
    best = status.get("currentOptimalTrial") or {}
    metrics = {metric["name"]: metric for metric in (best.get("observation") or {}).get("metrics") or []}
    value = _number(metrics.get(search.metric, {}).get(STRATEGY))
    return line if value is None else f"{line}; best {search.metric} {value:.6g} ({best.get('bestTrialName')})"

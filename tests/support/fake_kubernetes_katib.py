"""A Katib for the fake API server: suggests, makes trials and their Jobs, counts, and ends the Experiment by Katib's rules.

The shape and order of what it writes are those of `tests/recordings/experiment-failed-trials.jsonl`; the rules are those of
Katib 0.19 (`pkg/controller.v1beta1/experiment/util/status_util.go`): the best value so far is the optimal trial, failed and
metric-less trials count against `maxFailedTrialCount`, a goal ends it, and reaching `maxTrialCount` is a success even when no
trial gave a metric. It runs no pod: the outcome of each trial is what the test's function says.
"""

import math
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fake_kubernetes_objects import Object, now
from fake_kubernetes_replay import reference

if TYPE_CHECKING:
    from fake_kubernetes import FakeCluster

Outcome = Callable[[dict[str, str]], Mapping[str, float] | None]


class TrialFailed(Exception):
    """Raised by an outcome function: the trial's pod writes this message and ends with 1."""


def suggestion(parameter: Object, number: int, most: int) -> str:
    """The number-th value of a parameter: spread evenly, so that a test knows it."""
    space = parameter["feasibleSpace"]
    if space.get("list"):
        return str(space["list"][number % len(space["list"])])
    low, high = float(space["min"]), float(space["max"])
    share = (number % most) / max(1, most - 1)
    if space.get("distribution") == "logUniform":
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    return str(round(value)) if parameter["parameterType"] == "int" else repr(value)


class Katib:
    """Runs one Experiment.

    Args:
        cluster: Where it is.
        experiment: As created.
        outcome: Says what a trial with these assignments reports; None is no metric, `TrialFailed` a failed pod.
        tick: Seconds that a trial takes.
    """

    def __init__(self, cluster: "FakeCluster", experiment: Object, outcome: Outcome, tick: float) -> None:
        self.cluster, self.experiment, self.outcome, self.tick = cluster, experiment, outcome, tick
        self.name, self.spec = experiment["metadata"]["name"], experiment["spec"]
        self.most = self.spec.get("maxTrialCount") or 3
        self.ended: dict[str, list[str]] = {"succeeded": [], "failed": [], "metricsUnavailable": []}
        self.best: Object | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name=f"katib {self.name}").start()

    def _run(self) -> None:
        self._tell("Created", "ExperimentCreated", "Experiment is created", {"startTime": now()})
        parallel = self.spec.get("parallelTrialCount") or 3
        number = 0
        while number < self.most:
            batch = range(number, min(number + parallel, self.most))
            names = [self._begin(i) for i in batch]
            self._count(running=names)
            if self.cluster.closed.wait(self.tick) or not self._alive():
                return
            for i, name in zip(batch, names, strict=True):
                self._end(i, name)
            number = batch.stop
            if self._over(number):
                return
            self._count(running=[])

    def _alive(self) -> bool:
        found = self.cluster.get("experiments", self.name)
        return found is not None and found["metadata"]["uid"] == self.experiment["metadata"]["uid"]

    def _assignments(self, number: int) -> list[Object]:
        return [{"name": p["name"], "value": suggestion(p, number, self.most)} for p in self.spec["parameters"]]

    def _begin(self, number: int) -> str:
        name = f"{self.name}-{number:04d}t"
        labels = {"katib.kubeflow.org/experiment": self.name}
        meta = {"name": name, "labels": labels, "ownerReferences": [reference(self.experiment)]}
        spec = {"objective": self.spec["objective"], "parameterAssignments": self._assignments(number)}
        trial = self.cluster.create("trials", {"metadata": meta, "spec": spec})
        self.cluster.set_status("trials", name, startTime=now())
        self.cluster.set_condition("trials", name, "Created", "TrialCreated", "Trial is created")
        job = {"metadata": {"name": name, "labels": labels, "ownerReferences": [reference(trial)]}, "status": {"active": 1, "ready": 1}}
        made = self.cluster.create("jobs", job)
        on_pod = {**labels, "katib.kubeflow.org/trial": name, "batch.kubernetes.io/job-name": name}
        containers = ("metrics-logger-and-collector", self.spec["trialTemplate"].get("primaryContainerName", "training"))
        states = [{"name": c, "ready": True, "restartCount": 0, "state": {"running": {"startedAt": now()}}} for c in containers]
        running = {"phase": "Running", "containerStatuses": states}
        pod = {"metadata": {"name": f"{name}-pod", "labels": on_pod, "ownerReferences": [reference(made)]}, "status": running}
        self.cluster.create("pods", pod)
        self.cluster.set_condition("trials", name, "Running", "TrialRunning", "Trial is running")
        return name

    def _end(self, number: int, name: str) -> None:
        assignments = self._assignments(number)
        try:
            metrics = self.outcome({a["name"]: a["value"] for a in assignments})
        except TrialFailed as failure:
            self.cluster.log(f"{name}-pod", str(failure))
            self._pod_failed(f"{name}-pod")
            self.cluster.closed.wait(self.tick)
            self._close(name, "Failed", "TrialFailed. Job reason: BackoffLimitExceeded", "failed")
            return
        for metric, value in (metrics or {}).items():
            self.cluster.log(f"{name}-pod", f"{metric}={value!r}")
        if metrics is None or self.spec["objective"]["objectiveMetricName"] not in metrics:
            self._close(name, "MetricsUnavailable", "MetricsUnavailable", "metricsUnavailable")
            return
        told = [{"name": n, "latest": repr(v), "min": repr(v), "max": repr(v)} for n, v in metrics.items()]
        found = self.cluster.get("trials", name)
        assert found is not None
        self.cluster.set_status("trials", name, **{**found["status"], "observation": {"metrics": told}})
        self._close(name, "Succeeded", "TrialSucceeded", "succeeded")
        self._weigh(name, told, assignments)

    def _pod_failed(self, pod: str) -> None:
        found = self.cluster.get("pods", pod)
        assert found is not None
        codes = (255, 1)  # the collector's, the trial's
        states = zip(found["status"]["containerStatuses"], codes, strict=True)
        ended = [{**c, "ready": False, "state": {"terminated": {"exitCode": code, "reason": "Error"}}} for c, code in states]
        self.cluster.set_status("pods", pod, phase="Failed", containerStatuses=ended)

    def _close(self, name: str, condition: str, reason: str, group: str) -> None:
        self.cluster.set_condition("trials", name, "Running", "TrialRunning", "Trial is running", "False")
        self.cluster.set_condition("trials", name, condition, reason, f"Trial has {condition.lower()}")
        self.ended[group].append(name)
        if not self.spec["trialTemplate"].get("retain"):
            self.cluster.delete("jobs", name)

    def _weigh(self, name: str, metrics: list[Object], assignments: list[Object]) -> None:
        sign = -1 if self.spec["objective"]["type"] == "maximize" else 1
        value = self._value(metrics)
        if self.best is None or sign * value < sign * self._value(self.best["observation"]["metrics"]):
            self.best = {"bestTrialName": name, "observation": {"metrics": metrics}, "parameterAssignments": assignments}

    def _value(self, metrics: list[Object]) -> float:
        wanted = self.spec["objective"]["objectiveMetricName"]
        return next(float(m["latest"]) for m in metrics if m["name"] == wanted)

    def _over(self, number: int) -> bool:
        goal, bad = self.spec["objective"].get("goal"), len(self.ended["failed"]) + len(self.ended["metricsUnavailable"])
        sign = -1 if self.spec["objective"]["type"] == "maximize" else 1
        if goal is not None and self.best and sign * self._value(self.best["observation"]["metrics"]) <= sign * float(goal):
            self._finish("Succeeded", "ExperimentGoalReached", "Experiment has succeeded because Objective goal has reached")
        elif bad and bad >= (self.spec.get("maxFailedTrialCount") or self.most):
            self._finish("Failed", "ExperimentFailed", "Experiment has failed because max failed count has reached")
        elif number >= self.most:
            self._finish("Succeeded", "ExperimentMaxTrialsReached", "Experiment has succeeded because max trial count has reached")
        else:
            return False
        return True

    def _finish(self, condition: str, reason: str, message: str) -> None:
        self._count(running=[])
        self.cluster.set_condition("experiments", self.name, "Running", "ExperimentRunning", "Experiment is running", "False")
        self._tell(condition, reason, message, {"completionTime": now()})

    def _count(self, running: list[str]) -> None:
        lists = {f"{group}TrialList": list(names) for group, names in self.ended.items() if names}
        counts: dict[str, Any] = {f"trials{group[0].upper()}{group[1:]}": len(names) for group, names in self.ended.items() if names}
        if "trialsMetricsUnavailable" in counts:
            counts["trialMetricsUnavailable"] = counts.pop("trialsMetricsUnavailable")
        if running:
            lists["runningTrialList"], counts["trialsRunning"] = running, len(running)
        total = sum(map(len, self.ended.values())) + len(running)
        self._tell("Running", "ExperimentRunning", "Experiment is running", {**lists, **counts, "trials": total})

    def _tell(self, condition: str, reason: str, message: str, status: Object) -> None:
        found = self.cluster.get("experiments", self.name)
        if found is None:
            return
        kept = {key: value for key, value in (found.get("status") or {}).items() if key in ("conditions", "startTime")}
        if condition in ("Succeeded", "Failed"):
            kept = found["status"]
        best = self.best or {"observation": {}}
        self.cluster.set_status("experiments", self.name, **{**kept, **status, "currentOptimalTrial": best})
        self.cluster.set_condition("experiments", self.name, condition, reason, message)

"""What Katib does with an Experiment, in miniature: its trials are real processes, started as its webhook would start them.

    with Katib(fake_cluster, [{"num_leaves": "15"}, {"num_leaves": "31"}]):
        ...  # anything that creates an Experiment in the fake cluster

What it takes from Katib 0.19.0: the substitution of `${trialParameters.x}`, the words of the command joined by spaces for `sh -c`
with all output sent to a file, the collector's regular expression and the prefix of its log, the statuses of Trials and of the
Experiment, and that a trial's pod is deleted right after its end.
"""

import json
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from fake_kubernetes import FakeCluster

FILTER = re.compile(r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)")
COLLECTOR = "metrics-logger-and-collector"


def substituted(experiment: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """The trial's object for some values, as Katib's manifest generator makes it: replaced in its JSON text."""
    template = experiment["spec"]["trialTemplate"]
    text = json.dumps(template["trialSpec"])
    for parameter in template["trialParameters"]:
        text = text.replace("${trialParameters." + parameter["name"] + "}", values[parameter["reference"]])
    return json.loads(text)


def container_of(trial: dict[str, Any]) -> dict[str, Any]:
    """The container of a trial that is a Job."""
    return trial["spec"]["template"]["spec"]["containers"][0]


def environment_of(container: dict[str, Any]) -> dict[str, str]:
    """The variables that the kubelet would give it; those from absent objects are absent."""
    return {entry["name"]: entry["value"].replace("$$", "$") for entry in container["env"] if "value" in entry}


def run_container(container: dict[str, Any], file: Path, **more: str) -> int:
    """Runs a container's command here, as Katib's webhook wraps it; what it writes is in the file."""
    words = " ".join([*container["command"], *container.get("args", []), f"1>{file} 2>&1"])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    mounted = {name: os.environ[name] for name in ("KFP_FOUNDRY_PVC_ROOT",) if name in os.environ}
    environment = {**environment_of(container), **mounted, "HOME": os.environ.get("HOME", "/tmp"), "PATH": path, "OMP_NUM_THREADS": "2", **more}
    return subprocess.run(["sh", "-c", f"{words} && echo completed > {file.with_suffix('.pid')}"], env=environment, check=False).returncode


def collected(text: str, names: list[str]) -> list[dict[str, str]]:
    """The observation of a trial that wrote this text."""
    found: dict[str, list[str]] = {name: [] for name in names}
    for line in text.splitlines():
        for match in FILTER.finditer(line):
            if match[1] in found:
                found[match[1]].append(match[2])
    if not found[names[0]]:
        return [{"name": names[0], "min": "unavailable", "max": "unavailable", "latest": "unavailable"}]
    return [
        {"name": name, "min": min(values, key=float), "max": max(values, key=float), "latest": values[-1]} for name, values in found.items() if values
    ]


class Katib:
    """Works off the first Experiment that appears.

    Args:
        cluster: Where.
        values: The values of each trial, in order.
        folder: For what trials write.
    """

    def __init__(self, cluster: FakeCluster, values: list[dict[str, str]], folder: Path) -> None:
        self.cluster, self.values, self.folder = cluster, values, folder
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self.thread.join(60)

    def _work(self) -> None:
        while not self.cluster.objects("experiments"):
            if self.closing.wait(0.02):
                return
        experiment = self.cluster.objects("experiments")[0]
        name, spec = experiment["metadata"]["name"], experiment["spec"]
        counts = {"trialsSucceeded": 0, "trialsFailed": 0, "trialMetricsUnavailable": 0}
        best: dict[str, Any] = {}
        for number, values in enumerate(self.values[: spec["maxTrialCount"]]):
            self._tell(name, counts, best, trialsRunning=1)
            trial, how = self._trial(experiment, f"{name}-{number:08d}", values)
            counts[how] += 1
            if how == "trialsSucceeded":
                best = self._better(best, trial, spec["objective"])
            if counts["trialsFailed"] + counts["trialMetricsUnavailable"] >= spec["maxFailedTrialCount"]:
                self._tell(name, counts, best, condition=("Failed", "ExperimentFailed", "Experiment has failed because max failed count has reached"))
                return
        self._tell(name, counts, best, condition=("Succeeded", "ExperimentMaxTrialsReached", "Experiment has succeeded"))

    def _tell(self, name: str, counts: dict[str, int], best: dict[str, Any], condition: tuple[str, str, str] | None = None, **more: int) -> None:
        conditions = [{"type": "Created", "status": "True", "reason": "ExperimentCreated", "message": "Experiment is created"}]
        if condition:
            conditions.append({"type": condition[0], "status": "True", "reason": condition[1], "message": condition[2]})
        told = {key: value for key, value in {**counts, **more}.items() if value}
        total = sum(told.values())
        self.cluster.set_status("experiments", name, conditions=conditions, currentOptimalTrial=best or {"observation": {}}, trials=total, **told)

    def _trial(self, experiment: dict[str, Any], name: str, values: dict[str, str]) -> tuple[dict[str, Any], str]:
        labels = {"katib.kubeflow.org/experiment": experiment["metadata"]["name"]}
        job = substituted(experiment, values)
        assigned = [{"name": key, "value": value} for key, value in values.items()]
        began = now()
        self.cluster.create("trials", {"metadata": {"name": name, "labels": labels}, "spec": {"parameterAssignments": assigned}})
        pod = f"{name}-x7k2p"
        pod_labels = {**job["spec"]["template"]["metadata"]["labels"], **labels, "katib.kubeflow.org/trial": name}
        running = [{"name": each, "state": {"running": {"startedAt": began}}} for each in ("trial", COLLECTOR)]
        self.cluster.create("pods", {"metadata": {"name": pod, "labels": pod_labels}, "status": {"phase": "Running", "containerStatuses": running}})
        file = self.folder / f"{name}.log"
        code = run_container(container_of(job), file)
        text = file.read_text()
        self.cluster.log(pod, *(f"I1121 17:00:00.000000      15 main.go:143] {line}" for line in text.splitlines()))
        codes = {"trial": code, COLLECTOR: 255 if code else 0}
        ended = [{"name": each, "state": {"terminated": {"exitCode": its, "reason": "Error" if its else "Completed"}}} for each, its in codes.items()]
        self.cluster.set_status("pods", pod, phase="Failed" if code else "Succeeded", containerStatuses=ended)
        objective = experiment["spec"]["objective"]
        metrics = collected(text, [objective["objectiveMetricName"], *objective.get("additionalMetricNames", [])])
        how, condition = self._outcome(code, metrics[0])
        observation = {} if code else {"observation": {"metrics": metrics}}
        status = {"startTime": began, "completionTime": now(), "conditions": [condition], **observation}
        made = self.cluster.set_status("trials", name, **status)
        self.closing.wait(0.6)  # the seconds in which a real pod can still be seen
        self.cluster.delete("pods", pod)
        return made, how

    def _outcome(self, code: int, objective: dict[str, str]) -> tuple[str, dict[str, str]]:
        if code:
            told = {
                "type": "Failed",
                "reason": "TrialFailed",
                "message": "Trial has failed. Job message: Job has reached the specified backoff limit",
            }
            return "trialsFailed", {**told, "status": "True"}
        if objective["latest"] == "unavailable":
            lost = {"type": "MetricsUnavailable", "status": "True", "reason": "MetricsUnavailable", "message": "Metrics are not available"}
            return "trialMetricsUnavailable", lost
        return "trialsSucceeded", {"type": "Succeeded", "status": "True", "reason": "TrialSucceeded", "message": "Trial has succeeded"}

    def _better(self, best: dict[str, Any], trial: dict[str, Any], objective: dict[str, Any]) -> dict[str, Any]:
        strategies = {each["name"]: each["value"] for each in objective["metricStrategies"]}
        chosen, sign = strategies[objective["objectiveMetricName"]], -1 if objective["type"] == "maximize" else 1

        def value(observation: dict[str, Any]) -> float:
            return sign * float(next(m[chosen] for m in observation["metrics"] if m["name"] == objective["objectiveMetricName"]))

        observation = trial["status"]["observation"]
        if best and value(best["observation"]) <= value(observation):
            return best
        return {
            "bestTrialName": trial["metadata"]["name"],
            "observation": observation,
            "parameterAssignments": trial["spec"]["parameterAssignments"],
        }


def now() -> str:
    """The present as Kubernetes writes it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"

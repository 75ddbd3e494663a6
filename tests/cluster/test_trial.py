"""A trial's pod on a real cluster: the Job that Katib would make of our Experiment, wrapped as its webhook wraps it.

KFP_FOUNDRY_TEST_KUBECONFIG   a kubeconfig that may create namespaces and what is in them
KFP_FOUNDRY_TEST_IMAGE        an image with this project; without it the node is taken to be this machine, and pods of
                              KFP_FOUNDRY_TEST_PYTHON_IMAGE (python:3.11) mount this project and its virtual environment
"""

import os
import sys
import time
import uuid
from pathlib import Path

import pytest
import yaml
from katib_stand_in import COLLECTOR, collected, container_of, substituted
from kubernetes import client, config
from searches import search_of

from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import JOB
from kfp_foundry.components.common.kube.pods import PodOptions, settings_env
from kfp_foundry.components.tuning.tune_model.katib.experiment import TrialTemplate, render
from kfp_foundry.components.tuning.tune_model.katib.given import Given

KUBECONFIG = os.environ.get("KFP_FOUNDRY_TEST_KUBECONFIG", "")
IMAGE = os.environ.get("KFP_FOUNDRY_TEST_IMAGE", "")
PYTHON_IMAGE = os.environ.get("KFP_FOUNDRY_TEST_PYTHON_IMAGE", "local/python:3.11")
SPACE = {"max_leaf_nodes": {"type": "int", "min": 1, "max": 63}}
ROOT = Path(__file__).parents[2]
LOG = "/var/log/katib/metrics.log"
# What Katib's collector looks like to a trial: a program of that name that shows the file's lines.
COPIES = f"import os; open('{LOG}', 'a').close(); os.execvp('tail', ['./file-metricscollector', '-n', '+1', '-f', '{LOG}'])"

pytestmark = [
    pytest.mark.skipif(not KUBECONFIG, reason="set KFP_FOUNDRY_TEST_KUBECONFIG for a real cluster"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def cluster():
    config.load_kube_config(KUBECONFIG)
    name = f"kfp-foundry-{uuid.uuid4().hex[:8]}"
    client.CoreV1Api().create_namespace({"metadata": {"name": name}})
    yield Cluster.connect(namespace=name, kubeconfig=KUBECONFIG)
    client.CoreV1Api().delete_namespace(name)


@pytest.fixture(scope="module")
def contract() -> str:
    return str(yaml.safe_load((ROOT / "katib" / "flights.search.yaml").read_text())["contract"])


def wrapped(values: dict[str, str], contract: str) -> dict:
    """The Job of a trial, with what Katib's webhook adds to its pod."""
    pod = PodOptions()
    if not IMAGE:
        folders = enumerate((ROOT, Path(sys.prefix)))
        volumes = {f"here-{number}": str(folder) for number, folder in folders}
        pod = PodOptions(
            env=[{"name": "PYTHONUSERBASE", "value": sys.prefix}],
            volumes=[{"name": name, "hostPath": {"path": path}} for name, path in volumes.items()],
            volume_mounts=[{"name": name, "mountPath": path, "readOnly": True} for name, path in volumes.items()],
        )
    options = {"algorithm": "hist_gradient_boosting", "params": {"max_iter": 5}}  # scikit-learn brings all libraries that it needs
    given = Given("sample://flights", "", contract, options, search_of(parameters=SPACE, trial_seconds=300))
    job = substituted(render(TrialTemplate(IMAGE or PYTHON_IMAGE, given, pod, settings_env()), {"name": "tune"}), values)
    container, spec = container_of(job), job["spec"]["template"]["spec"]
    words = " ".join(container["command"])
    container["command"], container["args"] = ["sh", "-c"], [f"{words} 1>{LOG} 2>&1 && echo completed > /var/log/katib/$$$$.pid"]
    mount = {"name": "metrics-volume", "mountPath": "/var/log/katib"}
    container["volumeMounts"].append(mount)
    collector = {"name": COLLECTOR, "image": IMAGE or PYTHON_IMAGE, "command": ["python3", "-c", COPIES], "volumeMounts": [mount]}
    spec["containers"].append(collector)
    spec["volumes"].append({"name": "metrics-volume", "emptyDir": {}})
    spec["shareProcessNamespace"] = True
    return job


def run(cluster: Cluster, job: dict) -> tuple[dict, str]:
    """Runs it; gives how the trial's container ended and what the collector has shown."""
    name = f"trial-{uuid.uuid4().hex[:6]}"
    cluster.create(JOB, {"metadata": {"name": name}, "spec": job["spec"]})
    until = time.monotonic() + 300
    while time.monotonic() < until:
        for pod in cluster.pods({"batch.kubernetes.io/job-name": name}):
            states = {status["name"]: status["state"] for status in (pod.get("status") or {}).get("containerStatuses") or []}
            if "terminated" in states.get("trial", {}):
                time.sleep(1)
                text = cluster.pod_log(pod["metadata"]["name"], COLLECTOR)
                cluster.delete(JOB, name)
                return states["trial"]["terminated"], text
        time.sleep(1)
    raise AssertionError(f"the trial has not ended: {cluster.pods({'batch.kubernetes.io/job-name': name})}")


def test_a_trial_runs_without_rights_on_a_read_only_disk_and_its_metrics_are_seen(cluster, contract):
    ended, text = run(cluster, wrapped({"max_leaf_nodes": "15"}, contract))
    assert ended["exitCode"] == 0, text
    found = {metric["name"]: float(metric["latest"]) for metric in collected(text, ["log_loss", "auc"])}
    assert 0.3 < found["log_loss"] < 0.7
    assert found["auc"] > 0.5


def test_why_a_trial_failed_stands_in_its_pods_status(cluster, contract):
    ended, _ = run(cluster, wrapped({"max_leaf_nodes": "1"}, contract))
    assert ended["exitCode"] == 1
    assert ended["message"].startswith("error: training: scikit-learn refuses: The 'max_leaf_nodes' parameter")

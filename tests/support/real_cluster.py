"""A namespace of our own on a real cluster, with what a pipeline's run has there: accounts, Roles, a Workflow, a step's pod."""

import base64
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

KUBECONFIG = os.environ.get("KFP_FOUNDRY_TEST_KUBECONFIG", "")
IMAGE = os.environ.get("KFP_FOUNDRY_TEST_PYTHON_IMAGE", "python:3.11")  # any image with python3, for toy trainings
WHY_SKIPPED = "KFP_FOUNDRY_TEST_KUBECONFIG names no cluster to test against"
ROOT = Path(__file__).parents[2]
BASE = ROOT / "manifests" / "base"
WORKFLOW = ("argoproj.io", "v1alpha1", "workflows")

Object = dict[str, Any]


def manifests(file: str) -> list[Object]:
    """The objects of one of our manifests."""
    return [document for document in yaml.safe_load_all((BASE / file).read_text()) if document]


class RealCluster:
    """A namespace on the cluster that `KFP_FOUNDRY_TEST_KUBECONFIG` names."""

    def __init__(self, namespace: str) -> None:
        config.load_kube_config(KUBECONFIG)
        self.namespace = namespace
        self.core, self.custom, self.rbac = client.CoreV1Api(), client.CustomObjectsApi(), client.RbacAuthorizationV1Api()
        self.batch, self.extensions = client.BatchV1Api(), client.ApiextensionsV1Api()

    def prepare(self) -> None:
        """Makes the namespace with our Roles, our runtime, and steps' accounts."""
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        self._serve_workflows()
        for account in ("pipeline-runner", "without-rights"):
            self.core.create_namespaced_service_account(self.namespace, {"metadata": {"name": account}})
        for body in [*manifests("launcher-role.yaml"), *manifests("janitor.yaml")]:
            self._apply(body)
        runtime = ("trainer.kubeflow.org", "v1alpha1", self.namespace, "trainingruntimes")
        self.custom.create_namespaced_custom_object(*runtime, manifests("runtime-torch.yaml")[0], field_validation="Strict")

    def _apply(self, body: Object) -> None:
        create = {
            "ServiceAccount": self.core.create_namespaced_service_account,
            "Role": self.rbac.create_namespaced_role,
            "RoleBinding": self.rbac.create_namespaced_role_binding,
        }.get(body["kind"])
        if create:
            create(self.namespace, body)

    def _serve_workflows(self) -> None:
        """Argo's Workflow as a kind without a controller, where Argo is not installed."""
        group, version, plural = WORKFLOW
        schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
        spec = {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": "workflow", "kind": "Workflow", "listKind": "WorkflowList"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        }
        try:
            self.extensions.create_custom_resource_definition({"metadata": {"name": f"{plural}.{group}"}, "spec": spec})
        except client.ApiException as error:
            if error.status != 409:
                raise

    def kubeconfig_of(self, account: str, folder: Path) -> str:
        """A kubeconfig of a service account."""
        token = self.core.create_namespaced_service_account_token(account, self.namespace, {"spec": {"expirationSeconds": 3600}}).status.token
        given = yaml.safe_load(Path(KUBECONFIG).read_text())
        given["users"] = [{"name": "account", "user": {"token": token}}]
        name = given["clusters"][0]["name"]
        given["contexts"] = [{"name": "test", "context": {"cluster": name, "user": "account", "namespace": self.namespace}}]
        given["current-context"] = "test"
        file = folder / f"kubeconfig-{account}"
        file.write_text(yaml.safe_dump(given))
        return str(file)

    def add_workflow(self) -> Object:
        """A Workflow that runs."""
        name = f"flights-{uuid.uuid4().hex[:5]}"
        labels = {"pipeline/runid": str(uuid.uuid4())}
        body = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name, "labels": labels}, "spec": {}}
        return self._custom("create", {**body, "status": {"phase": "Running"}})

    def end_workflow(self, workflow: Object, phase: str = "Failed") -> None:
        """Ends a Workflow, as Argo writes it."""
        ended = {"phase": phase, "finishedAt": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        self._custom("patch", {"status": ended}, workflow["metadata"]["name"])

    def delete_workflow(self, workflow: Object) -> None:
        """Deletes a Workflow, as its time to live does."""
        self._custom("delete", None, workflow["metadata"]["name"])

    def _custom(self, verb: str, body: Object | None, *name: str) -> Object:
        group, version, plural = WORKFLOW
        call = getattr(self.custom, f"{verb}_namespaced_custom_object")
        made: Object = call(group, version, self.namespace, plural, *name, *([body] if body else []))
        return made

    def add_step_pod(self, workflow: Object) -> str:
        """The pod of a step, which no node ever takes; its name."""
        meta = workflow["metadata"]
        labels = {"pipeline/runid": meta["labels"]["pipeline/runid"], "workflows.argoproj.io/workflow": meta["name"]}
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": meta["name"], "uid": meta["uid"], "controller": True}
        spec = {"nodeSelector": {"kfp-foundry.io/none": "here"}, "containers": [{"name": "main", "image": IMAGE}]}
        name = f"{meta['name']}-step"
        self.core.create_namespaced_pod(self.namespace, {"metadata": {"name": name, "labels": labels, "ownerReferences": [owner]}, "spec": spec})
        return name

    def pods(self, labels: str) -> list[Any]:
        """Pods that still hold a node's resources."""
        found = self.core.list_namespaced_pod(self.namespace, label_selector=labels).items
        return [pod for pod in found if pod.status.phase in ("Pending", "Running")]

    def install_janitor(self) -> None:
        """The CronJob of our manifests; its pods find this project on the node, which is taken to be this machine."""
        body = next(document for document in manifests("janitor.yaml") if document["kind"] == "CronJob")
        pod = body["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        container = pod["containers"][0]
        container |= {"image": IMAGE, "command": ["python3", *container["command"][1:]]}
        for number, folder in enumerate((ROOT, Path(sys.prefix))):
            pod.setdefault("volumes", []).append({"name": f"here-{number}", "hostPath": {"path": str(folder)}})
            container.setdefault("volumeMounts", []).append({"name": f"here-{number}", "mountPath": str(folder), "readOnly": True})
        container["env"].append({"name": "PYTHONUSERBASE", "value": sys.prefix})
        self.batch.create_namespaced_cron_job(self.namespace, body)


@contextmanager
def real_cluster() -> Iterator[RealCluster]:
    """A namespace that is gone afterwards."""
    cluster = RealCluster(f"kfp-foundry-{uuid.uuid4().hex[:8]}")
    cluster.prepare()
    try:
        yield cluster
    finally:
        cluster.core.delete_namespace(cluster.namespace)


def training(script: str, nodes: int = 1, **spec: Any) -> Object:
    """The spec of a TrainJob whose ranks run a script; as base64, since nothing of it may be lost on the way."""
    text = base64.b64encode(script.encode()).decode()
    trainer = {"image": IMAGE, "numNodes": nodes, "numProcPerNode": 1, "command": ["python3", "-uc"]}
    trainer["args"] = [f"import base64; exec(base64.b64decode('{text}'))"]
    return {"runtimeRef": {"name": "kfp-foundry-torch", "kind": "TrainingRuntime"}, "trainer": trainer, **spec}


def old_training(script: str) -> Object:
    """The spec of a PyTorchJob with one replica that runs a script."""
    container = {"name": "pytorch", "image": IMAGE, "command": ["python3", "-uc", script]}
    pod = {"spec": {"containers": [container]}}
    replicas = {"Master": {"replicas": 1, "restartPolicy": "Never", "template": pod}}
    return {"runPolicy": {"backoffLimit": 0, "cleanPodPolicy": "None"}, "pytorchReplicaSpecs": replicas}

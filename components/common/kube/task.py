"""Who this step is to the cluster: the identity that its remote objects are named after, and the run that owns them."""

import logging
import os
from dataclasses import dataclass

from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.components.common.kube.connection import Cluster
from kfp_foundry.components.common.kube.kinds import POD, WORKFLOW, Object
from kfp_foundry.components.common.kube.names import object_name

PREFIX = "kfp-foundry.io"
MANAGED_BY = f"{PREFIX}/managed-by"
RUN = f"{PREFIX}/run"
WORKFLOW_NAME = f"{PREFIX}/workflow"
MANAGER = "kfp-foundry"

POD_NAME = "KFP_POD_NAME"  # set by Kubeflow Pipelines in every step
POD_RUN_LABEL = "pipeline/runid"
POD_WORKFLOW_LABEL = "workflows.argoproj.io/workflow"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """The identity of a step.

    Args:
        key: The same for every attempt of one step, another for every other step and run.
        run: The pipeline run's id; empty outside a cluster.
        workflow: Name of the Argo Workflow that the step belongs to; empty outside a cluster.
        workflow_uid: Its uid.
    """

    key: str
    run: str = ""
    workflow: str = ""
    workflow_uid: str = ""

    @classmethod
    def of(cls, output_uri: str, cluster: Cluster) -> "Task":
        """The identity of the step that this process runs.

        Args:
            output_uri: The URI of one of the step's output artifacts. It holds the run and the task, and stays the same when the
                step is tried again, since only its executor is started anew.
            cluster: Asked for the step's own pod, which says to what run it belongs.

        Raises:
            PlatformError: The pod may not be read; without knowing the run, nothing could stop what a terminated run leaves.

        Example:
            >>> task = Task.of(model.uri, cluster)
            >>> body = {"metadata": task.metadata("train"), "spec": spec}
        """
        pod_name = os.environ.get(POD_NAME, "")
        if not pod_name:
            return cls(output_uri)
        pod = cluster.get(POD, pod_name)
        if pod is None:
            remedy = f"launch into the namespace that the step runs in, or unset {POD_NAME}"
            raise PlatformError(f"there is no pod {pod_name}, this step's own", where=f"namespace {cluster.namespace}", remedy=remedy)
        labels = pod["metadata"].get("labels") or {}
        owners = {owner["kind"]: owner for owner in pod["metadata"].get("ownerReferences") or []}
        workflow = owners.get(WORKFLOW.kind, {})
        name = labels.get(POD_WORKFLOW_LABEL) or workflow.get("name") or ""
        if not name:
            log.warning("pod %s belongs to no Workflow: nothing but this step stops what it starts", pod_name)
        return cls(output_uri, labels.get(POD_RUN_LABEL) or "", name, workflow.get("uid") or "")

    def name(self, prefix: str) -> str:
        """The name of this step's object of that sort."""
        return object_name(prefix, self.key)

    def metadata(self, prefix: str, labels: dict[str, str] | None = None) -> Object:
        """Metadata of an object that this step creates: name, labels, and the Workflow as its owner.

        Kubernetes deletes what a deleted Workflow owns; the owner is the Workflow and not the pod, which a retry replaces. It is
        no controller and blocks no deletion: OpenShift refuses both to accounts that may not change the Workflow.

        Args:
            prefix: First part of the name.
            labels: Further labels.
        """
        made: Object = {"name": self.name(prefix), "labels": {**self.labels(), **(labels or {})}}
        if self.workflow and self.workflow_uid:
            owner = {"apiVersion": WORKFLOW.api_version, "kind": WORKFLOW.kind, "name": self.workflow, "uid": self.workflow_uid}
            made["ownerReferences"] = [owner | {"controller": False, "blockOwnerDeletion": False}]
        return made

    def labels(self) -> dict[str, str]:
        """What tells the janitor that an object is ours, and to which run it belongs; it leaves one without a Workflow alone."""
        known = {MANAGED_BY: MANAGER, RUN: self.run, WORKFLOW_NAME: self.workflow}
        return {key: value for key, value in known.items() if value}

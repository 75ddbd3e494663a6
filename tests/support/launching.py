"""Launchers as processes of their own, to be killed: forked from a server that has imported everything once."""

import multiprocessing
import os
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

KINDS = {
    "trainjobs": {"runtimeRef": {"name": "torch-distributed"}, "trainer": {"image": "local/train:1", "numNodes": 2}},
    "pytorchjobs": {
        "pytorchReplicaSpecs": {
            "Master": {"replicas": 1, "restartPolicy": "Never", "template": {"spec": {"containers": [{"name": "pytorch", "image": "local/train:1"}]}}}
        }
    },
    "experiments": {
        "objective": {"type": "minimize", "objectiveMetricName": "loss"},
        "algorithm": {"algorithmName": "random"},
        "maxTrialCount": 2,
        "parameters": [{"name": "x", "parameterType": "double", "feasibleSpace": {"min": "0", "max": "1"}}],
        "trialTemplate": {
            "primaryContainerName": "trial",
            "trialParameters": [{"name": "x", "reference": "x"}],
            "trialSpec": {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "spec": {
                    "template": {
                        "spec": {
                            "restartPolicy": "Never",
                            "containers": [{"name": "trial", "image": "local/train:1", "command": ["train", "--x=${trialParameters.x}"]}],
                        }
                    }
                },
            },
        },
    },
}


PRELOADED = ["kfp_foundry.components.common.kube.launcher", "kubernetes.client", "kubernetes.config", "tenacity", "urllib3"]


def launch_step(kubeconfig: str, plural: str, step_pod: str, said: str, spec: dict[str, Any] | None, uri: str) -> None:
    """What a step does: finds out who it is, launches, and ends with 0; what it logs goes to the file `said`."""
    import logging

    from kfp_foundry.components.common.errors import FoundryError
    from kfp_foundry.components.common.kube import connection, kinds, logs
    from kfp_foundry.components.common.kube.launcher import Limits, Pace, launch
    from kfp_foundry.components.common.kube.task import Task

    connection.FIRST_WAIT, logs.LIST_SECONDS = 0.02, 0.1
    logging.basicConfig(filename=said, level=logging.INFO, force=True)
    os.environ["KFP_POD_NAME"] = step_pod
    kind = {k.plural: k for k in (kinds.TRAINJOB, kinds.PYTORCHJOB, kinds.EXPERIMENT)}[plural]
    cluster = connection.Cluster.connect(kubeconfig=kubeconfig, outage_seconds=10)
    try:
        task = Task.of(uri, cluster)
        body = {"metadata": task.metadata("train"), "spec": spec or KINDS[plural]}
        launch(cluster, kind, body, limits=Limits(), pace=Pace(first=0.05, longest=0.05))
    except FoundryError as error:
        logging.error("%s", error)
        sys.exit(1)


def start(
    kubeconfig: str, plural: str, step_pod: str, said: Path, spec: dict[str, Any] | None = None, uri: str = "minio://bucket/run-1/train/model"
) -> BaseProcess:
    """Starts a launcher; its pid may be killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=launch_step, args=(kubeconfig, plural, step_pod, str(said), spec, uri))
    process.start()
    return process

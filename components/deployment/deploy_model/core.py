"""Deploying a model: a supervised server on this machine; on a cluster, for now, a plain word that nothing serves."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kfp_foundry.components.common import local_server, platform
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.endpoint import Endpoint
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.artifacts.verdict import Outcome
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.step import step

Strategy = Literal["all_at_once", "canary"]
MAX_SERVICE_NAME = 53  # KServe appends `-predictor`, and a Kubernetes Service has 63 characters at most

_SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_CPU = re.compile(r"[0-9]+(\.[0-9]+)?|[0-9]+m")
_MEMORY = re.compile(r"[0-9]+(\.[0-9]+)?([kMGTPE]|[KMGTPE]i)?")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KServe:
    """How KServe should serve; checked wherever the step runs, so that a mistake shows on the laptop."""

    namespace: str = ""
    runtime: str = "kfp-foundry"
    service_account: str = ""
    min_replicas: int = 1
    max_replicas: int = 1
    cpu: str = "1"
    memory: str = "1Gi"
    strategy: str = "all_at_once"

    def check(self) -> None:
        """Raises `UserError` for the first setting that Kubernetes would not take."""
        for name, pattern, remedy in (
            ("namespace", _OBJECT, "give the name of a namespace, or leave it empty"),
            ("runtime", _OBJECT, "give the name of a serving runtime"),
            ("service_account", _OBJECT, "give the name of a service account, or leave it empty"),
            ("cpu", _CPU, "give processors such as '2' or '500m'"),
            ("memory", _MEMORY, "give an amount such as '512Mi' or '2Gi'"),
        ):
            value = getattr(self, name)
            if not (value or name in ("cpu", "memory", "runtime")):
                continue
            if not pattern.fullmatch(value):
                raise UserError(f"{name} is {value!r}", where="deploy_model", remedy=remedy)
        if self.min_replicas < 0:
            raise UserError(f"min_replicas is {self.min_replicas}", where="deploy_model", remedy="give 0 or more")
        if self.max_replicas < max(1, self.min_replicas):
            low = max(1, self.min_replicas)
            raise UserError(f"max_replicas is {self.max_replicas}", where="deploy_model", remedy=f"give {low} or more")
        _one_of("strategy", self.strategy, list(get_args(Strategy)))


@step
def run(model: Artifact, endpoint: Artifact, name: str, outcome: str, target: str, threshold: float, settings: KServe) -> tuple[bool, str]:
    """Deploys, writes the endpoint, and returns whether the model answers and where."""
    deployed = deploy(Path(model.path), name, outcome, target, threshold, settings)
    deployed.write(endpoint)
    if deployed.note:
        log.info("%s", deployed.note)
    return deployed.traffic > 0, deployed.url


def deploy(model: Path, name: str, outcome: str, target: str, threshold: float, settings: KServe) -> Endpoint:
    """Serves a model, if the gate before allows it.

    Args:
        model: The Model folder.
        name: Name of the endpoint.
        outcome: What the gate before said.
        target: `auto`, `kubeflow` or `local`.
        threshold: Binary models: probability from which the positive class is predicted.
        settings: How KServe should serve.

    Returns:
        Where the model answers; with traffic 0 and a note when nothing was deployed.

    Raises:
        UserError: A parameter is wrong.
        IntegrityError: The model is not what its digests say.
        PlatformError: The server does not get ready.
    """
    _one_of("outcome", outcome, list(get_args(Outcome)))
    settings.check()
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold is {threshold}", where="deploy_model", remedy="give a probability between 0 and 1")
    choice = platform.choose(target)
    opened = ModelFolder.open(model)
    cut = threshold if opened.task is Task.BINARY else None
    kind: Literal["kserve", "local"] = "kserve" if choice.where == "kubeflow" else "local"
    if kind == "kserve":
        _check_service_name(name)
    if outcome == "fail":
        note = "nothing was deployed: the gate before said fail"
    elif kind == "kserve":
        note = f"nothing was deployed: this release does not serve on KServe yet (platform kubeflow: {choice.why})"
    else:
        log.info("serving on this machine: %s", choice.why)
        return local_server.start(model, name, cut)
    return Endpoint(name=name, url="", revision=opened.digest, traffic=0, target=kind, threshold=cut, note=note)


def _check_service_name(name: str) -> None:
    if len(name) > MAX_SERVICE_NAME or not _SERVICE.fullmatch(name):
        raise UserError(
            f"name is {name!r}",
            where="deploy_model",
            remedy=f"KServe takes small letters, digits and '-', a letter first, at most {MAX_SERVICE_NAME} characters",
        )


def _one_of(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise UserError(f"{name} is {value!r}", where="deploy_model", remedy=close_names(value, known))

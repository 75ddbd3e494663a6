"""Where the API server is and who we are: the service account of a pod, or a kubeconfig."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.errors import PlatformError

if TYPE_CHECKING:
    from kubernetes.client import Configuration

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
REMEDY = "run this step in a cluster, or set KUBECONFIG to a file that names one, or use target=local"


@dataclass(frozen=True)
class Access:
    """How a cluster is reached.

    Args:
        configure: Reads address and credentials anew: tokens are rotated about every hour.
        namespace: The namespace that the credentials belong to.
        source: Where all this was found, for messages.
    """

    configure: "Callable[[], Configuration]"
    namespace: str
    source: str


def find(kubeconfig: str = "") -> Access:
    """The given kubeconfig; else the pod's service account; else `$KUBECONFIG` or `~/.kube/config`.

    Raises:
        PlatformError: There is none of these, or it cannot be read.
    """
    if kubeconfig:
        return _from_file(kubeconfig)
    if platform.in_cluster():
        return Access(_in_cluster, _own_namespace(), "the pod's service account")
    file = os.environ.get("KUBECONFIG", "") or str(Path("~/.kube/config").expanduser())
    if not any(Path(part).is_file() for part in file.split(os.pathsep) if part):
        raise PlatformError("there is no Kubernetes cluster to talk to", where=f"kubeconfig {file}", remedy=REMEDY)
    return _from_file(file)


def _own_namespace() -> str:
    file = SERVICE_ACCOUNT / "namespace"
    return file.read_text().strip() if file.is_file() else "default"


def _in_cluster() -> "Configuration":
    from kubernetes import client, config
    from kubernetes.config.incluster_config import InClusterConfigLoader

    made = client.Configuration()
    loader = InClusterConfigLoader(token_filename=str(SERVICE_ACCOUNT / "token"), cert_filename=str(SERVICE_ACCOUNT / "ca.crt"))
    try:
        loader.load_and_set(made)  # it reads the token's file again every minute
    except config.ConfigException as error:
        remedy = "set automountServiceAccountToken: true on the step's service account or pod"
        raise PlatformError(f"the pod has no usable service account: {error}", where=str(SERVICE_ACCOUNT), remedy=remedy) from error
    return made


def _from_file(file: str) -> Access:
    def configure() -> "Configuration":
        from kubernetes import client, config

        made = client.Configuration()
        with _reading(file):
            config.load_kube_config(config_file=file, client_configuration=made)
        return made

    return Access(configure, _namespace_of(file), f"kubeconfig {file}")


def _namespace_of(file: str) -> str:
    """The namespace of the current context; `default` where it names none."""
    from kubernetes import config

    with _reading(file):
        _, active = config.list_kube_config_contexts(config_file=file)
        return str(active["context"].get("namespace") or "default")


@contextmanager
def _reading(file: str) -> Iterator[None]:
    """Says in words what is wrong with a kubeconfig."""
    from kubernetes import config
    from yaml import YAMLError

    try:
        yield
    except (config.ConfigException, YAMLError, OSError, ValueError) as error:
        raise PlatformError(f"cannot be used: {' '.join(str(error).split())}", where=f"kubeconfig {file}", remedy=REMEDY) from error
    except (TypeError, AttributeError, KeyError) as error:  # what the client says to a file of another shape
        raise PlatformError("cannot be used: it is YAML, but no kubeconfig", where=f"kubeconfig {file}", remedy=REMEDY) from error

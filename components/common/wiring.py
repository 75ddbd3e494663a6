"""Wiring that every task of a pipeline gets: the cluster's settings, from optional objects of the run's namespace.

Nothing site-specific is compiled into a pipeline. An optional ConfigMap and an optional Secret, both named `kfp-foundry`, say
where things are, and the Secret of Kubeflow Pipelines opens its own store; without them a step starts all the same and uses its
defaults. On a laptop the same variables come from the caller's environment.
"""

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from kfp.dsl import PipelineTask

SETTINGS = "kfp-foundry"

CONFIG_KEYS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_NAME",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "PGHOST",
    "PGUSER",
)
SECRET_KEYS = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
)
# Kubeflow Pipelines keeps the keys of its own object store in every namespace of runs. They get variables of their own: as
# AWS_* they would stand before a service account's role for other buckets.
STORE_SECRET = "mlpipeline-minio-artifact"
STORE_KEYS = {"accesskey": "PIPELINE_STORE_ACCESS_KEY_ID", "secretkey": "PIPELINE_STORE_SECRET_ACCESS_KEY"}

Task = TypeVar("Task", bound="PipelineTask")


def with_settings(task: Task, *, cached: bool = True, attempts: int = 1) -> Task:
    """Gives a task the cluster's settings, and says whether its result may be taken from the cache.

    Args:
        task: The task.
        cached: False for a step that reads or changes the world outside the run (a table's source, the registry, an endpoint).
        attempts: How often the platform may start it anew; KFP 2.17 as shipped honours this for lost pods only.

    Returns:
        The same task.

    Example:
        >>> table = with_settings(ingest_table(source=source), cached=False)
    """
    from kfp import kubernetes  # only where pipelines are compiled: a step's image has no kfp dependencies

    kubernetes.use_config_map_as_env(task, SETTINGS, {key: key for key in CONFIG_KEYS}, optional=True)
    kubernetes.use_secret_as_env(task, SETTINGS, {key: key for key in SECRET_KEYS}, optional=True)
    kubernetes.use_secret_as_env(task, STORE_SECRET, STORE_KEYS, optional=True)
    task.set_caching_options(cached)
    if attempts > 1:
        task.set_retry(attempts - 1)
    return task


def passthroughs() -> list[Any]:
    """What a step that starts remote objects takes from its own task for them (`task_config_passthroughs`).

    Resources and placement are for the remote pods alone, so that the step's own pod stays small; environment and volumes are
    for both.

    Example:
        >>> @dsl.component(base_image=images.FOUNDRY, install_kfp_package=False, task_config_passthroughs=passthroughs())
        ... def train_distributed(..., resources: dsl.TaskConfig = None): ...
    """
    from kfp import dsl

    remote = ("RESOURCES", "KUBERNETES_TOLERATIONS", "KUBERNETES_NODE_SELECTOR", "KUBERNETES_AFFINITY")
    both = ("ENV", "KUBERNETES_VOLUMES")
    taken = [dsl.TaskConfigPassthrough(field=dsl.TaskConfigField[name], apply_to_task=False) for name in remote]
    return taken + [dsl.TaskConfigPassthrough(field=dsl.TaskConfigField[name], apply_to_task=True) for name in both]

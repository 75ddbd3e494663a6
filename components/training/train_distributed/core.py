"""Training on ranks, as a step."""

from collections.abc import Mapping
from typing import Any

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.distributed.placement import Placement
from kfp_foundry.components.common.distributed.train import train
from kfp_foundry.components.common.learning.fit import Options
from kfp_foundry.components.common.learning.parameters import resolve
from kfp_foundry.components.common.step import step


@step
def run(
    train_rows: Artifact,
    validation: Artifact,
    contract: Artifact,
    model: Artifact,
    metrics: Artifact,
    report: Artifact,
    placement: Mapping[str, Any],
    strategy: str = "auto",
    module: str = "",
    module_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Trains on ranks and writes the Model, its metrics on the validation rows and the report.

    Raises:
        UserError: A parameter is wrong, or contradicts another one.
        DataError: The rows cannot be learned from.
        PlatformError: A GPU, a right, a runtime or a service is not there; or the data cannot be reached from the ranks.
        RemoteFailure: The remote training failed; the message has its last lines.
        FoundryError: A rank failed on this machine, or the graph differs from the model.
    """
    chosen = Options(algorithm=resolve("torch"), **options)
    where = Placement(**placement)
    train(train_rows, validation, contract, model, metrics, report, chosen, where, strategy=strategy, module=module, module_args=module_args or {})

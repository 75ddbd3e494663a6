"""Training: fit, export, compare with the export, and only then write."""

import logging
from collections.abc import Mapping
from typing import Any

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.learning.fit import Options, fit
from kfp_foundry.components.common.learning.page import page
from kfp_foundry.components.common.learning.parameters import resolve
from kfp_foundry.components.common.learning.publish import describe, publish
from kfp_foundry.components.common.step import step

log = logging.getLogger(__name__)


@step
def run(
    train: Artifact,
    validation: Artifact,
    contract: Artifact,
    model: Artifact,
    metrics: Artifact,
    report: Artifact,
    trainer: str = "lightgbm",
    algorithm: str = "",
    placement: Mapping[str, Any] | None = None,
    **options: Any,
) -> None:
    """Reads the artifacts, trains, and writes the Model, its metrics on the validation rows and the report.

    Raises:
        UserError: A parameter is wrong.
        DataError: The rows cannot be learned from.
        FoundryError: The graph differs from the model.
        PlatformError: torch: what the training needs is not there.
    """
    chosen = Options(algorithm=resolve(trainer, algorithm), **options)
    if trainer == "torch":  # by ranks of its own, here or on the cluster: this step's image has no torch
        from kfp_foundry.components.common.distributed.placement import Placement
        from kfp_foundry.components.common.distributed.train import train as train_on_ranks

        train_on_ranks(train, validation, contract, model, metrics, report, chosen, Placement(**(placement or {})))
        return
    words = Contract.load(contract.path)
    tables = {"train": DatasetFolder.open(train), "validation": DatasetFolder.open(validation)}
    result = fit(tables["train"], tables["validation"], words, chosen)
    record = describe(result, words, chosen, tables)
    page(record, result.trained, words).save(report.path)
    publish(model, result, record, words)
    metrics.metadata.update(result.metrics)
    log.info("trained %s on %s rows: %s", chosen.algorithm, f"{len(result.train):,}", result.metrics)

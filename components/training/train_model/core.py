"""Training: fit, export, compare with the export, and only then write."""

import logging
from typing import Any

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.learning.fit import Options, fit
from kfp_foundry.components.common.learning.page import page
from kfp_foundry.components.common.learning.publish import describe, publish
from kfp_foundry.components.common.step import step

log = logging.getLogger(__name__)


@step
def run(train: Artifact, validation: Artifact, contract: Artifact, model: Artifact, metrics: Artifact, report: Artifact, **options: Any) -> None:
    """Reads the artifacts, trains, and writes the Model, its metrics on the validation rows and the report.

    Raises:
        UserError: A parameter is wrong.
        DataError: The rows cannot be learned from.
        FoundryError: The graph differs from the model.
    """
    chosen = Options(**options)
    words = Contract.load(contract.path)
    tables = {"train": DatasetFolder.open(train), "validation": DatasetFolder.open(validation)}
    result = fit(tables["train"], tables["validation"], words, chosen)
    record = describe(result, words, chosen, tables)
    page(record, result.trained, words).save(report.path)
    publish(model, result, record, words)
    metrics.metadata.update(result.metrics)
    log.info("trained %s on %s rows: %s", chosen.algorithm, f"{len(result.train):,}", result.metrics)

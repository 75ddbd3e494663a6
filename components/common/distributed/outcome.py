"""What rank 0 leaves at `--output`: the Model folder, its metrics and its page; whole, or not there."""

import json
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_foundry.components.common import store
from kfp_foundry.components.common.artifacts.dataset import DatasetFacts, DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelRecord
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.errors import IntegrityError
from kfp_foundry.components.common.files import write_json

MODEL = "model"
REPORT = "report.html"
SUMMARY = "outcome.json"

log = logging.getLogger(__name__)


@dataclass
class _Folder:
    """An output that looks like a step's artifact."""

    path: str
    uri: str = ""
    name: str = "model"
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A finished training, brought to this machine.

    Args:
        folder: Holds `model/` and `report.html`.
        metadata: Of the Model artifact.
        metrics: On the validation rows.
    """

    folder: Path
    metadata: dict[str, Any]
    metrics: dict[str, float]


def tables(request: Request) -> dict[str, DatasetFolder]:
    """The two tables, as they say of themselves."""
    addresses = {"train": request.train, "validation": request.validation}
    return {name: DatasetFolder(Path(uri), DatasetFacts(**store.facts(uri))) for name, uri in addresses.items()}


def say(name: str, value: float) -> None:
    """Writes a metric as Katib's collector reads it."""
    print(f"{name}={float(value)!r}", flush=True)  # noqa: T201


def write(request: Request, result: Any, record: ModelRecord, contract: Contract) -> None:
    """Publishes a result at `request.output`.

    Raises:
        PlatformError: The place cannot be written, or is full.
    """
    from kfp_foundry.components.common.learning.page import page
    from kfp_foundry.components.common.learning.publish import publish

    with tempfile.TemporaryDirectory(prefix="kfp-foundry-") as scratch:
        place = Path(scratch)
        model = _Folder(str(place / MODEL))
        publish(model, result, record, contract)
        page(record, result.trained, contract).save(place / REPORT)
        write_json(place / SUMMARY, {"metadata": model.metadata, "metrics": record.metrics})
        store.send(place, request.output)
    for name, value in record.metrics.items():
        say(name, value)
    log.info("the model is at %s: %s", request.output, record.metrics)


def read(uri: str, folder: Path) -> Outcome:
    """Brings a finished training from `uri` into a folder of this machine.

    Raises:
        IntegrityError: It is not whole.
        PlatformError: The store does not answer or refuses.
    """
    store.fetch(uri, folder, whole=True)
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return Outcome(folder, dict(summary["metadata"]), dict(summary["metrics"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"no readable {SUMMARY}", where=f"training result {uri}", remedy="run the training again") from error

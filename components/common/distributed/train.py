"""Training on ranks, here or on a cluster: the same command line, and in the end the same Model artifact."""

import fcntl
import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from kfp_foundry.components.common import platform, store
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.distributed import outcome
from kfp_foundry.components.common.distributed.placement import WHERE, Placement
from kfp_foundry.components.common.distributed.ranks import module as own_module
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.errors import PlatformError, UserError, close_names
from kfp_foundry.components.common.files import sha256, unwritable
from kfp_foundry.components.common.kube.names import digest
from kfp_foundry.components.common.learning import calibrate, data, parameters
from kfp_foundry.components.common.learning.fit import Options

STRATEGIES = ("auto", "ddp", "fsdp")
SAME_AT_ONCE = 16  # trainings that are alike in all that decides them, on one machine

log = logging.getLogger(__name__)


def train(
    train_rows: Artifact,
    validation: Artifact,
    contract: Artifact,
    model: Artifact,
    metrics: Artifact,
    report: Artifact,
    options: Options,
    placement: Placement,
    *,
    strategy: str = "auto",
    module: str = "",
    module_args: Mapping[str, Any] | None = None,
) -> None:
    """Trains on ranks and writes the Model, its metrics on the validation rows and the report.

    Args:
        train_rows: Dataset to fit on.
        validation: Dataset for early stopping, calibration and the metrics.
        contract: Data contract.
        model: Becomes the Model.
        metrics: Gets the metrics on the validation rows.
        report: Becomes the page.
        options: The training's parameters.
        placement: Where it runs.
        strategy: `auto`, `ddp` or `fsdp`.
        module: The user's own training module; empty for our network.
        module_args: What it finds in `context.args`.

    Raises:
        UserError: A parameter is wrong, or contradicts another one.
        DataError: The rows cannot be learned from.
        PlatformError: A GPU, a right, a runtime or a service is not there; or the data cannot be reached from the ranks.
        RemoteFailure: The remote training failed; the message has its last lines.
        FoundryError: A rank failed on this machine, or the graph differs from the model.
    """
    placement.check()
    _check(options, Contract.load(contract.path), strategy, module)
    choice = platform.choose(placement.target)
    log.info("training where: %s (%s)", choice.where, choice.why)
    identity = _identity(train_rows, validation, contract, options, strategy, module, module_args or {})
    checkpoints = store.join(placement.checkpoint_uri, f"training-{identity}") if placement.checkpoint_uri else ""
    addresses = (train_rows.uri, validation.uri, contract.uri, checkpoints, "")
    request = Request(*addresses, options, strategy, module=module, module_args=module_args or {})
    with tempfile.TemporaryDirectory(prefix="kfp-foundry-result-") as scratch:
        if choice.where == "kubeflow":
            from kfp_foundry.components.common.distributed.cluster import kubeflow

            request = kubeflow.run(request, placement, model.uri)
            found = outcome.read(request.output, Path(scratch) / "result")
        else:
            here = replace(request, train=train_rows.path, validation=validation.path, contract=contract.path)
            found = _train_here(here, placement, identity, Path(scratch) / "result")
        _deliver(found, model, metrics, report)


def _check(options: Options, contract: Contract, strategy: str, module: str) -> None:
    """Refuses before any machine is asked for what the ranks would refuse after it."""
    if strategy not in STRATEGIES:
        raise UserError(f"strategy is {strategy!r}", where=WHERE, remedy=close_names(strategy, list(STRATEGIES)))
    if module:
        own_module.check(options, contract)
        return
    task = contract.task or Task.REGRESSION
    data.target_of(contract)
    parameters.complete(options.algorithm, options.params, task)
    calibrate.check(options.calibration, task)


def _identity(
    train_rows: Artifact, validation: Artifact, contract: Artifact, options: Options, strategy: str, module: str, module_args: Mapping[str, Any]
) -> str:
    """What decides a training, whatever run it belongs to: an interrupted one goes on where another of that identity stopped."""
    tables = [DatasetFolder.open(table).facts.fingerprint for table in (train_rows, validation)]
    return digest([tables, sha256(Path(contract.path)), asdict(options), strategy, module, dict(module_args)])


def _train_here(request: Request, placement: Placement, identity: str, result: Path) -> outcome.Outcome:
    from kfp_foundry.components.common.distributed.local import supervise

    if importlib.util.find_spec("torch") is None:
        remedy = (
            "pip install 'kfp-foundry[torch]', or target=kubeflow (training_target=kubeflow in train_and_deploy), whose ranks have an image with it"
        )
        raise PlatformError("PyTorch is not installed here", where=WHERE, remedy=remedy)
    per_node = placement.ranks(placement.accelerators) if placement.ranks_per_node or placement.accelerators else 0
    with _workplace(identity) as folder:
        placed = replace(request, checkpoints=request.checkpoints or str(folder / "checkpoints"), output=str(folder / "output"))
        finished = supervise.run(
            placed,
            per_node * placement.nodes,
            folder=folder / "ranks",
            seconds=placement.timeout_minutes * 60,
            accelerators=placement.accelerators * placement.nodes,
        )
        log.info("%d ranks by %s, %.1f s", finished.ranks, finished.engine, finished.seconds)
        return outcome.read(placed.output, result)


@contextmanager
def _workplace(identity: str) -> Iterator[Path]:
    """A folder for the training of that identity, with the checkpoints of an attempt that was killed; gone when the block ends well.

    Two that run at the same time have one each.
    """
    base = (Path(tempfile.gettempdir()) / "kfp-foundry" if platform.in_cluster() else platform.home()) / "training"
    for number in range(SAME_AT_ONCE):
        folder = base / (identity if not number else f"{identity}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / "lock").open("w")
        except OSError as error:
            raise unwritable(folder, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
            return
    raise PlatformError(f"{SAME_AT_ONCE} trainings of this kind run already", where=str(base / identity), remedy="wait for one of them")


def _deliver(found: outcome.Outcome, model: Artifact, metrics: Artifact, report: Artifact) -> None:
    """Makes the step's outputs of what rank 0 left; the model is held against its digests."""
    for name, target in ((outcome.MODEL, Path(model.path)), (outcome.REPORT, Path(report.path))):
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        try:
            shutil.move(found.folder / name, target)
        except OSError as error:
            raise unwritable(target, error) from error
    ModelFolder.open(model.path)
    model.metadata.update(found.metadata)
    metrics.metadata.update(found.metrics)
    log.info("trained: %s", found.metrics)

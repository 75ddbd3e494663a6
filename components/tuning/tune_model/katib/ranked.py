"""One trial by several processes: a TrainJob's node starts its ranks, the ranks train together, and rank 0 measures and reports."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.tuning.tune_model.katib.given import SAMPLE, Given

# The TrainingRuntime ends a job at this exit code, where it would start its pod anew at others: a trial that failed is not tried again.
FINAL = 64


def is_node() -> bool:
    """Whether this process is what the operator has started on a node, and the ranks are still to be started."""
    return "PET_NNODES" in os.environ and "RANK" not in os.environ


def is_rank() -> bool:
    """Whether this process is one of several ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def start(module: str, argv: Sequence[str]) -> int:
    """Runs the ranks of this node with torchrun, which the operator's PET_ variables configure; returns the exit code.

    torchrun runs in this process: Katib stops a trial early by ending the one child of its shell.
    """
    torchrun: Any = import_module("torch.distributed.run")
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        torchrun.run(torchrun.parse_args(["-m", module, *argv]))
    except ChildFailedError:  # the rank has said in its own words what was wrong
        return FINAL
    except SignalException as error:
        print(f"the trial was asked to end ({error})", file=sys.stderr, flush=True)
        return FINAL
    return 0


def value(given: Given, params: Mapping[str, Any]) -> dict[str, float] | None:
    """Trains as one of the ranks that the environment names.

    Returns:
        The metrics of the trained model on the validation rows; None on all ranks but the first.

    Raises:
        UserError: A parameter is wrong, the algorithm trains in one process, or the data are a sample.
        DataError: The rows cannot be learned from.
    """
    algorithm = given.options.get("algorithm", "")
    if algorithm != "residual_mlp":
        raise UserError(f"{algorithm} trains in one process, and this trial has several", where="trial", remedy="give it one node and one rank")
    if given.train.startswith(SAMPLE) or given.folds:
        raise UserError("a sample or folds are for trials of one process", where="trial", remedy="give Datasets and folds: 0, or one rank")
    from kfp_foundry.components.common import store
    from kfp_foundry.components.common.contract import Contract
    from kfp_foundry.components.common.learning import fit
    from kfp_foundry.components.common.learning.network import loop, prepare
    from kfp_foundry.components.common.learning.network.ranks import Ranks

    contract = Contract.parse(given.contract_text(store.read), "the trial's contract")
    fixed = dict(given.options.get("params") or {})
    options = fit.Options(**{**given.options, "params": {**fixed, **params}})
    with Ranks.joined() as ranks:
        prepared = prepare.prepare(store.scan(given.train), store.scan(given.validation), contract, options, ranks)
        fitted = loop.train(prepared.network, ranks)
        return fit.score(prepared, fitted) if ranks.first else None

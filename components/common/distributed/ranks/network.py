"""Our network on ranks: each learns from its share of the rows, rank 0 finishes."""

from typing import TYPE_CHECKING

from kfp_foundry.components.common import store
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.distributed import outcome
from kfp_foundry.components.common.distributed.ranks.mirror import checkpoints_at
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.learning import fit
from kfp_foundry.components.common.learning.publish import describe

if TYPE_CHECKING:
    from kfp_foundry.components.common.learning.network.job import Epoch
    from kfp_foundry.components.common.learning.network.ranks import Ranks


def train(request: Request, ranks: "Ranks") -> None:
    """Trains as one of the ranks; returns when this rank has nothing left to do.

    Raises:
        UserError: A parameter is wrong, or the loss is no longer a number.
        DataError: The rows cannot be learned from.
        FoundryError: The graph differs from the model.
    """
    from kfp_foundry.components.common.learning.network import loop, prepare

    contract = Contract.parse(store.read(request.contract).decode())
    tables = outcome.tables(request)
    about = {name: table.facts.fingerprint for name, table in tables.items()}
    rows = store.scan(request.train), store.scan(request.validation)
    prepared = prepare.prepare(*rows, contract, request.options, ranks, request.strategy, about)
    fitted = loop.train(prepared.network, ranks, checkpoints_at(request.checkpoints), _report)
    if not ranks.first:
        return
    result = fit.finish(prepared, fitted)
    outcome.write(request, result, describe(result, contract, request.options, tables), contract)


def _report(epoch: "Epoch") -> None:
    for name, loss in epoch.losses.items():
        outcome.say(f"{name}_loss", loss)

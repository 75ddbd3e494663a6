"""The user's own training on ranks: a Python module with `train(context)`, under the contract that our network has.

The least that it gives is a `torch.nn.Module` from encoded rows to scores. Encoding, calibration, graph, parity gate and the Model
folder are ours, so evaluation, registry and serving do not know the difference.
"""

import importlib
import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from kfp_foundry.components.common import store
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.distributed import outcome
from kfp_foundry.components.common.distributed.request import Request
from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.learning import calibrate, data, fit
from kfp_foundry.components.common.learning.data import Part
from kfp_foundry.components.common.learning.encode import fit_plan
from kfp_foundry.components.common.learning.learner import Examples, Job
from kfp_foundry.components.common.learning.publish import describe
from kfp_foundry.components.common.onnx.encoding import Plan

if TYPE_CHECKING:
    from kfp_foundry.components.common.distributed.ranks.context import Context
    from kfp_foundry.components.common.learning.network.ranks import Ranks

ENTRY = "train"


def check(options: fit.Options, contract: Contract) -> None:
    """Refuses options that a module of the user's own cannot have.

    Raises:
        UserError: Parameters of our network, or an unfit calibration.
    """
    if options.params:
        raise UserError("params are those of our network, and a module is given", where="module", remedy="give the module its own in module_args")
    calibrate.check(options.calibration, contract.task or Task.REGRESSION)


class Agreed(NamedTuple):
    """What rank 0 finds in all training rows, for every rank.

    Args:
        labels: The classes; empty for a regression.
        plan: From raw columns to the matrix.
        factors: Weight of each class, for `class_weight`; empty for none.
        share: Rows per rank.
    """

    labels: list[Any]
    plan: Plan
    factors: list[float]
    share: int


def train(request: Request, ranks: "Ranks") -> None:
    """Has the user's module train as one of the ranks; rank 0 makes the Model of what it returns.

    Raises:
        UserError: There is no such module or entry point, or what it returns is no model.
        DataError: The rows cannot be learned from.
        FoundryError: The graph differs from the model.
    """
    from kfp_foundry.components.common.distributed.ranks import returned
    from kfp_foundry.components.common.distributed.ranks.context import Context

    entry = _entry(request.module)
    contract = Contract.parse(store.read(request.contract).decode())
    check(request.options, contract)
    agreed = _agree(request, contract, ranks)
    context = Context(request, contract, ranks, agreed.labels, agreed.plan, agreed.factors, _shard(request, contract, ranks, agreed.share))
    _seed(request.options.seed)
    module = returned.plain(entry(context), context)
    context.close()
    if ranks.first:
        _finish(request, contract, context, module)


def _entry(name: str) -> "Callable[[Context], Any]":
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # it is there, but something that it imports is not
        dotted = f"leave `.py` out: module={name.removesuffix('.py')!r}" if name.endswith(".py") else "give its dotted name"
        remedy = f"{dotted}, and install it in the image or put its folder on PYTHONPATH"
        raise UserError(f"there is no Python module {name!r}", where="module", remedy=remedy) from error
    entry = getattr(found, ENTRY, None)
    if not callable(entry):
        own = [word for word, value in vars(found).items() if inspect.isfunction(value) and value.__module__ == found.__name__]
        close = get_close_matches(ENTRY, own, n=1)
        remedy = f"define `def {ENTRY}(context)`, which returns a torch.nn.Module" + (f"; is it {close[0]!r}?" if close else "")
        raise UserError(f"module {name!r} has no function `{ENTRY}(context)`", where=str(found.__file__), remedy=remedy)
    return entry  # type: ignore[no-any-return]


def _agree(request: Request, contract: Contract, ranks: "Ranks") -> Agreed:
    said: list[Any] = []
    if ranks.first:
        frame, target = data.read(store.scan(request.train), contract, "train rows")
        labels = data.find_labels(target, contract)
        whole = data.part(frame, target, contract, labels, "train rows")
        plan = fit_plan(whole, contract, "linear")
        factors: list[float] = []
        if request.options.class_weight:
            weights = data.balance(whole, request.options.class_weight, len(labels))
            own = np.ones(len(whole)) if whole.weights is None else whole.weights
            totals = np.bincount(whole.target, weights=own, minlength=len(labels))
            factors = (np.bincount(whole.target, weights=weights, minlength=len(labels)) / totals).tolist()
        said = [labels, plan.model_dump_json(), factors, len(whole) // ranks.world]
    labels, plan_text, factors, share = ranks.broadcast(said)
    if not share:
        raise DataError(f"fewer training rows than the {ranks.world} ranks", where="train rows", remedy="give more rows, or fewer ranks")
    return Agreed(labels, Plan.model_validate_json(plan_text), factors, share)


def _shard(request: Request, contract: Contract, ranks: "Ranks", share: int) -> pl.LazyFrame:
    """A share of the rows that have a target: as many for this rank as for every other."""
    rows = store.scan(request.train)
    target = data.target_of(contract)
    known = pl.col(target).is_not_null()
    if rows.collect_schema()[target].is_float():
        known &= pl.col(target).is_not_nan()
    return rows.filter(known).slice(ranks.rank * share, share)


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _finish(request: Request, contract: Contract, context: "Context", module: Any) -> None:
    from kfp_foundry.components.common.distributed.ranks import returned

    held, learned = context.part("validation"), context.part("train")
    options = replace(request.options, algorithm="module", params={"module": request.module, **request.module_args})
    job = Job(
        task=context.task,
        classes=len(context.labels),
        train=_examples(learned, context.plan),
        validation=_examples(held, context.plan),
        categorical=[],
        monotone=[],
        params=dict(options.params),
        early_stopping_rounds=0,
        seed=options.seed,
        threads=1,
    )
    prepared = fit.Prepared(contract, options, context.labels, learned, held, context.plan, job)
    result = fit.finish(prepared, returned.fitted(module, job, context.curve))
    record = describe(result, contract, options, outcome.tables(request))
    rows = {**record.rows, "train": len(learned) * context.world}
    outcome.write(request, result, record.model_copy(update={"rows": rows}), contract)


def _examples(part: Part, plan: Plan) -> Examples:
    return Examples(plan.matrix(part.feed), part.target, part.weights)

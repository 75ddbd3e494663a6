"""The KServe V1 protocol: `{"instances": [...]}` in, `{"predictions": [...]}` out.

Specification: https://kserve.github.io/website/latest/modelserving/data_plane/v1_protocol/. An instance is a raw row, column
name to value; a list of values in the order of the model's columns is taken too.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from kfp_foundry.components.common.artifacts.model import Label
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.server.request import RequestError, check_columns

SHAPE = 'send {"instances": [{"column": value, ...}, ...]}'


def read(body: Mapping[str, Any], contract: Contract) -> list[Mapping[str, object]]:
    """The rows of a predict call.

    Args:
        body: The parsed request.
        contract: Says the model's columns.

    Raises:
        RequestError: There are no instances, or one of them is no row of this model.
    """
    instances = body.get("instances")
    if not isinstance(instances, list):
        raise RequestError("no array 'instances'", where="request body", remedy=SHAPE)
    if not instances:
        raise RequestError("'instances' is empty", where="request body", remedy="give at least one row")
    return [_row(instance, number, contract) for number, instance in enumerate(instances)]


def _row(instance: object, number: int, contract: Contract) -> Mapping[str, object]:
    where, features = f"instance {number}", contract.features
    if isinstance(instance, dict):
        check_columns(set(instance), contract, where)
        return instance
    if not isinstance(instance, list):
        raise RequestError(f"{instance!r} is no row", where=where, remedy=SHAPE)
    if len(instance) != len(features):
        raise RequestError(
            f"{len(instance)} values for {len(features)} columns",
            where=where,
            remedy=f"give one value each for {', '.join(features[:20])}, or an object",
        )
    return dict(zip(features, instance, strict=True))


def write(scored: pl.DataFrame, task: Task, labels: list[Label]) -> dict[str, Any]:
    """The answer to a predict call: one object per row.

    Args:
        scored: What `ModelFolder.predict` returned.
        task: What is predicted.
        labels: The classes.

    Returns:
        Binary: `prediction` and `probability` (of the positive class); multiclass: `prediction` and `probabilities` by class;
        regression: `prediction`.
    """
    if task is not Task.MULTICLASS:
        return {"predictions": scored.select(sorted(scored.columns)).to_dicts()}
    names = [str(label) for label in labels]
    chances = scored.select(pl.exclude("prediction")).rows()
    pairs = zip(scored["prediction"].to_list(), chances, strict=True)
    return {"predictions": [{"prediction": label, "probabilities": dict(zip(names, row, strict=True))} for label, row in pairs]}

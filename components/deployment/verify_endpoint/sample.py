"""The rows that are sent to an endpoint: real ones, ones with a missing value, and ones with categories that no one has seen."""

import polars as pl

from kfp_foundry.components.common import rows
from kfp_foundry.components.common.contract import Contract, Type
from kfp_foundry.components.common.errors import DataError, close_names

KIND = "kind"
WITH_MISSING = 50  # test rows with a missing value that are taken beside the evenly spread ones
UNSEEN = "never seen before"


def choose(test: pl.LazyFrame, contract: Contract, count: int) -> tuple[pl.DataFrame, pl.Series]:
    """Picks and makes rows; the same table gives the same rows.

    Args:
        test: The test set.
        contract: Says the features, and which of them a row must have.
        count: Rows of the test set, evenly spread over it.

    Returns:
        The rows with the model's columns, and what each of them is: `test`, `missing` or `unseen`.

    Raises:
        DataError: The table lacks a column.
    """
    features = contract.features
    required = [field.name for field in contract.feature_fields if field.constraints.required]
    there = test.collect_schema().names()
    absent = [name for name in features if name not in there]
    if absent:
        raise DataError(f"no column {absent[0]!r}", where="test rows", remedy=close_names(absent[0], there))
    present = test.select(features)
    known = present.drop_nulls(required) if required else present
    height = int(known.select(pl.len()).collect().item())
    spread = known.gather_every(max(1, height // count)).head(count).collect()
    holes = known.filter(pl.any_horizontal(pl.all().is_null())).head(WITH_MISSING).collect()
    real = rows.conform(pl.concat([spread, holes]).unique(maintain_order=True), contract, features, where="test rows")
    missing = _blanked(real, [name for name in features if name not in required])
    unseen = _unseen(real, contract)
    kinds = [("test", real), ("missing", missing), ("unseen", unseen)]
    return pl.concat([frame for _, frame in kinds]), pl.Series(KIND, [kind for kind, frame in kinds for _ in range(frame.height)], dtype=pl.String)


def _blanked(real: pl.DataFrame, optional: list[str]) -> pl.DataFrame:
    """Per optional column one row without its value, and one without any optional value."""
    parts = [_with(real, number, {name: None}) for number, name in enumerate(optional)]
    if optional:
        parts.append(_with(real, 0, dict.fromkeys(optional)))
    return pl.concat(parts) if parts else real.clear()


def _unseen(real: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    texts = [field.name for field in contract.feature_fields if field.type is Type.STRING]
    parts = [_with(real, number, {name: UNSEEN}) for number, name in enumerate(texts)]
    return pl.concat(parts) if parts else real.clear()


def _with(real: pl.DataFrame, number: int, changed: dict[str, str | None]) -> pl.DataFrame:
    row = real.slice(number % max(1, real.height), 1)
    return row.with_columns(pl.lit(value, dtype=row.schema[name]).alias(name) for name, value in changed.items())

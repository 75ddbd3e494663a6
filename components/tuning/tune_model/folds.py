"""Cutting training rows into folds for cross-validation, by the rules of the split that made them.

By time a fold is validated on the rows that follow those it learns from. By group, stratified and at random each row is in the
validation part of one fold; rows of one group, or of equal identifiers or content, are in the same one.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import DataError, UserError

METHODS = ("time", "group", "stratified", "random")
LEAST = 2


def masks(table: pl.LazyFrame, contract: Contract, count: int, method: str, seed: int) -> Iterator[tuple[pl.Series, pl.Series]]:
    """The folds, each as the rows to learn from and the rows to validate on: truth values [rows].

    Args:
        table: The training rows.
        contract: Gives the time, group, id and target columns by role.
        count: How many folds.
        method: One of `METHODS`; another word, such as `auto`, for the first that the contract has a column for.
        seed: Changes which rows fall where; not used by `time`.

    Raises:
        UserError: Fewer than two folds.
        DataError: There are too few different rows, times or groups.
    """
    if count < LEAST:
        raise UserError(f"folds is {count}", where="tuning", remedy="give 0 for none, or 2 or more")
    chosen = choose(method, contract)
    if chosen == "time":
        blocks = _blocks(table.select(pl.col(str(contract.time)).to_physical().alias("key")).collect()["key"], count + 1)
        missing = blocks.is_null()  # a row without a time has no place in the order: it is learned from, as in the split
        for fold in range(1, count + 1):
            yield (blocks < fold).fill_null(value=True) | missing, (blocks == fold).fill_null(value=False)
        return
    keys = _keys(table, contract, chosen, seed)
    assigned = pl.Series("fold", np.full(len(keys), -1))
    labels = table.select(pl.col(str(contract.target)).alias("label")).collect()["label"] if chosen == "stratified" else None
    for rows in [np.arange(len(keys))] if labels is None else _by_label(labels):
        assigned[rows] = _blocks(keys[rows], count, least=1 if labels is None else 0)
    for fold in range(count):
        yield assigned != fold, assigned == fold


def choose(method: str, contract: Contract) -> str:
    """The method itself when it is one of ours and the contract has its column, else the first that fits."""
    possible = {"time": contract.time, "group": contract.group, "stratified": contract.is_classification, "random": True}
    return method if possible.get(method) else next(name for name, there in possible.items() if there)


def _keys(table: pl.LazyFrame, contract: Contract, method: str, seed: int) -> pl.Series:
    schema = table.collect_schema()
    names = [str(contract.group)] if method == "group" else contract.ids or schema.names()
    texts = (pl.Categorical, pl.Enum)  # their codes depend on how the table was written
    words = [pl.col(name).cast(pl.String) if isinstance(schema[name], texts) else pl.col(name) for name in names]
    keys = table.select(pl.struct(words).hash(seed).alias("key")).collect()["key"]
    if method != "group" and not contract.ids and keys.n_unique() < len(keys) / 2:
        # Most rows equal another one, as in a table of a few categories: they are different observations.
        return pl.select(pl.int_range(len(keys)).hash(seed).alias("key")).to_series()
    return keys


def _by_label(labels: pl.Series) -> list[np.ndarray]:
    codes = labels.rank("dense").fill_null(0).to_numpy()
    return [np.flatnonzero(codes == code) for code in np.unique(codes)]


def _blocks(keys: pl.Series, count: int, least: int = 1) -> pl.Series:
    """The block of each row, from 0: rows in order of their keys in `count` blocks of about the same size, equal keys together."""
    known = keys.drop_nulls()
    distinct, counts = np.unique(known.to_numpy(), return_counts=True)
    if least and len(distinct) < count:
        remedy = "give fewer folds, or more rows"
        raise DataError(f"{len(distinct)} different times, groups or rows do not make {count} blocks", where="tuning folds", remedy=remedy)
    middle = np.cumsum(counts) - counts / 2
    places = np.minimum((middle * count / max(len(known), 1)).astype(np.int64), count - 1)
    if least and len(np.unique(places)) < count:  # a few keys hold most rows: then by their number
        places = np.arange(len(distinct)) * count // len(distinct)
    return keys.replace_strict(pl.Series(distinct, dtype=keys.dtype), pl.Series(places), default=None, return_dtype=pl.Int64)

"""Splitting a table into train, validation and test rows.

Every row has a key: its time, or a hash of its group, of its identifiers or of its content. Two cuts in the sorted keys
make the three parts, so rows of equal key stay together, and neither the order of the rows nor the way they are read
changes anything. Where most rows equal another one, as in a table of a few categories, equal rows are taken for different
observations, and each gets a key of its own.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import DataError, UserError, close_names
from kfp_foundry.components.common.gate import require_artifact
from kfp_foundry.components.common.step import step

log = logging.getLogger(__name__)

Method = Literal["auto", "time", "group", "stratified", "random"]
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """A table cut into parts.

    Args:
        parts: The rows of each part, lazily, in the table's order.
        method: How it was cut: `time`, `group`, `stratified` or `random`.
        sizes: Rows of each part.
        without_target: Rows left out because their target is missing.
        without_time: Rows put into train because their time is missing.
        times: When split by time: part to its first and last time.
        torn_groups: When split by time: groups that have rows in more than one part.
    """

    parts: dict[str, pl.LazyFrame]
    method: str
    sizes: dict[str, int]
    without_target: int
    without_time: int
    times: dict[str, tuple[Any, Any]]
    torn_groups: int


@step
def run(
    dataset: Artifact,
    contract: Artifact,
    parts: Mapping[str, Artifact],
    method: str,
    validation_share: float,
    test_share: float,
    seed: int,
    verdict: Artifact | None = None,
    allow_warn: bool = True,
) -> None:
    """Reads the artifacts, splits, and writes one Dataset artifact per part.

    Raises:
        GateRefused: The verdict on the table lets nothing through.
        UserError: Unknown method, a share out of range, or a method whose column the contract does not name.
        DataError: A part would be empty, or an identifier would stand in two parts.
    """
    if verdict is not None:
        require_artifact(verdict, allow_warn)
    shares = {"validation": validation_share, "test": test_share}
    folder = DatasetFolder.open(dataset)
    done = split_table(folder.scan(), Contract.load(contract.path), method, shares, seed)
    if done.without_target:
        log.info("%s rows have no target value and are in no part", f"{done.without_target:,}")
    if done.without_time:
        log.info("%s rows have no time and are in train", f"{done.without_time:,}")
    if done.torn_groups:
        log.warning("split by time: %s groups have rows in more than one part; method=group keeps them together", f"{done.torn_groups:,}")
    for name, rows in done.parts.items():
        DatasetFolder.write(parts[name], rows, source=folder.facts.source)
        parts[name].metadata.update(torn_groups=done.torn_groups, part=name, method=done.method, share=done.sizes[name] / sum(done.sizes.values()))
        if name in done.times:
            first, last = (str(time) for time in done.times[name])
            parts[name].metadata.update(first_time=first, last_time=last)
        log.info("%s: %s rows, split by %s", name, f"{done.sizes[name]:,}", done.method)


def split(table: pl.LazyFrame, contract: Contract, method: str, shares: Mapping[str, float], seed: int) -> dict[str, pl.LazyFrame]:
    """Returns the rows of each part, lazily; `split_table` without its numbers.

    Example:
        >>> parts = split(table, contract, "auto", {"validation": 0.1, "test": 0.2}, seed=7)
        >>> parts["test"].collect()
    """
    return split_table(table, contract, method, shares, seed).parts


def split_table(table: pl.LazyFrame, contract: Contract, method: str, shares: Mapping[str, float], seed: int) -> Split:
    """Cuts a table into train, validation and test rows.

    Memory: 8 to 24 bytes per row for the keys; the rows themselves are streamed.

    Args:
        table: All rows.
        contract: Gives the time, group, id and target columns by role.
        method: One of `Method`; `auto` prefers time, then group, then stratified, then random.
        shares: Share of rows, above 0 and at most 0.5, for `validation` and `test`; train gets the rest.
        seed: Changes which rows fall where; not used by `time`.

    Raises:
        UserError: Unknown method, a share out of range, or a method whose column the contract does not name.
        DataError: A part would be empty, or an identifier would stand in two parts.
    """
    _check_shares(shares)
    chosen = _choose(method, contract)
    _check_columns(table, contract)
    labelled = table.filter(_known(table, contract.target)) if contract.target else table
    part = _parts(labelled, contract, chosen, shares, seed)
    counted = labelled.select(part.alias("part")).group_by("part").len().collect(engine="streaming")
    sizes = dict.fromkeys(PARTS, 0) | dict(counted.iter_rows())
    for name, rows in sizes.items():
        if rows == 0:
            raise DataError(
                f"part {name} has no row: {sum(sizes.values()):,} rows with a target in all, split by {_column(chosen, contract)}",
                where="split_table",
                remedy="give more rows, change the shares, or choose another method",
            )
    _check_leaks(labelled, contract, part)
    every = table.select(pl.len()).collect(engine="streaming").item()
    return Split(
        parts={name: labelled.filter(part == name) for name in PARTS},
        method=chosen,
        sizes=sizes,
        without_target=every - sum(sizes.values()),
        without_time=labelled.select(pl.col(str(contract.time)).null_count()).collect().item() if chosen == "time" else 0,
        times=_times(labelled, str(contract.time), part) if chosen == "time" else {},
        torn_groups=_torn(labelled, contract.group, part).height if chosen == "time" and contract.group else 0,
    )


def _times(table: pl.LazyFrame, time: str, part: pl.Expr) -> dict[str, tuple[Any, Any]]:
    ends = table.select(part.alias("part"), pl.col(time).alias("time")).group_by("part").agg(first=pl.col("time").min(), last=pl.col("time").max())
    return {name: (first, last) for name, first, last in ends.collect(engine="streaming").iter_rows()}


def _check_shares(shares: Mapping[str, float]) -> None:
    for name, share in shares.items():
        if not 0 < share <= 0.5:
            raise UserError(f"{name}_share is {share}", where="split_table", remedy="give a share between 0 and 0.5, above 0")
    if sum(shares.values()) > 0.9:
        raise UserError(f"the shares sum to {sum(shares.values()):g}", where="split_table", remedy="leave at least 0.1 for train")


def _choose(method: str, contract: Contract) -> str:
    if method not in get_args(Method):
        raise UserError(f"method is {method!r}", where="split_table", remedy=f"choose one of {', '.join(get_args(Method))}")
    possible = {"time": contract.time, "group": contract.group, "stratified": contract.is_classification, "random": True}
    if method == "auto":
        return next(name for name, there in possible.items() if there)
    if not possible[method]:
        needs = "and the target is not a class" if method == "stratified" else "but the contract names no column for it"
        remedy = "choose method random" if method == "stratified" else f"give a column the role {method}"
        raise UserError(f"method is {method!r}, {needs}", where="split_table", remedy=remedy)
    return method


def _check_columns(table: pl.LazyFrame, contract: Contract) -> None:
    known = table.collect_schema().names()
    for name in [contract.target, contract.time, contract.group, *contract.ids]:
        if name is not None and name not in known:
            raise DataError(f"the contract's column {name!r} is not in the table", where="split_table", remedy=close_names(name, known))


def _known(table: pl.LazyFrame, name: str) -> pl.Expr:
    column = pl.col(name)
    return column.is_not_null() & column.is_not_nan() if table.collect_schema()[name].is_float() else column.is_not_null()


def _column(method: str, contract: Contract) -> str:
    return {"time": f"time {contract.time!r}", "group": f"group {contract.group!r}"}.get(method, f"a hash ({method})")


def _parts(table: pl.LazyFrame, contract: Contract, method: str, shares: Mapping[str, float], seed: int) -> pl.Expr:
    """The name of the part that a row belongs to, as an expression over the table."""
    key = pl.col(str(contract.time)).to_physical() if method == "time" else _hash(table, method, contract, seed)
    if method in ("stratified", "random") and not contract.ids and _mostly_equal(table, key):
        key = pl.struct(key.alias("content"), pl.int_range(pl.len()).over(key).alias("occurrence")).hash(seed)
    if method != "stratified":
        keys = table.select(key.alias("key")).drop_nulls().collect(engine="streaming")["key"]
        validation_from, test_from = (pl.lit(cut, dtype=keys.dtype) for cut in _cuts(keys.to_numpy(), shares, least=1))
    else:
        validation_from, test_from = _cuts_by_class(
            table.select(pl.col(str(contract.target)).alias("label"), key.alias("key")), contract.target, shares, seed
        )
    # A missing time compares as missing, and falls through to train.
    return pl.when(key >= test_from).then(pl.lit("test")).when(key >= validation_from).then(pl.lit("validation")).otherwise(pl.lit("train"))


def _mostly_equal(table: pl.LazyFrame, key: pl.Expr) -> bool:
    rows, different = table.select(pl.len(), key.n_unique().alias("different")).collect(engine="streaming").row(0)
    return bool(different < rows / 2)


def _cuts_by_class(keys: pl.LazyFrame, target: str | None, shares: Mapping[str, float], seed: int) -> tuple[pl.Expr, pl.Expr]:
    classes = keys.collect(engine="streaming").partition_by("label", as_dict=True)
    # Each class rounds at a place of its own, else many small classes would all leave the same part empty.
    rounding = np.random.default_rng(seed)
    cuts = {
        label: _cuts(classes[(label,)]["key"].to_numpy(), shares, least=0, offset=rounding.uniform(-0.5, 0.5))
        for label in sorted((label for (label,) in classes), key=str)
    }
    first, second = (pl.Series([pair[i] for pair in cuts.values()], dtype=pl.UInt64) for i in (0, 1))
    labels = list(cuts)
    return tuple(pl.col(str(target)).replace_strict(labels, cut, return_dtype=pl.UInt64) for cut in (first, second))  # type: ignore[return-value]


def _cuts(keys: npt.NDArray[Any], shares: Mapping[str, float], least: int, offset: float = 0.0) -> tuple[Any, Any]:
    """The first key of validation and the first key of test; None where that part gets no key.

    Each cut is the edge between two different keys that comes closest to the wished share. Train gets one key at least,
    the other parts `least`, as far as there are so many different keys.
    """
    distinct, counts = np.unique(keys, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])  # before[i]: rows whose key is smaller than distinct[i]
    last = len(distinct)
    test_at = len(keys) * (1 - shares["test"]) + offset
    validation_at = test_at - len(keys) * shares["validation"]
    test = max(min(int(np.abs(before - test_at).argmin()), last - least), min(1 + least, last))
    validation = max(min(int(np.abs(before - validation_at).argmin()), test - least), min(1, last))
    return tuple(distinct[cut].item() if cut < last else None for cut in (validation, test))  # type: ignore[return-value]


def _hash(table: pl.LazyFrame, method: str, contract: Contract, seed: int) -> pl.Expr:
    """A 64-bit number that depends only on the key's value, the seed and the Polars version (recorded with every run)."""
    schema = table.collect_schema()
    names = [contract.group] if method == "group" else contract.ids or schema.names()
    # A category's code depends on how the table was written, its text does not.
    coded = (pl.Categorical, pl.Enum)
    return pl.struct([pl.col(n).cast(pl.String) if isinstance(schema[n], coded) else pl.col(n) for n in names if n]).hash(seed)


def _check_leaks(table: pl.LazyFrame, contract: Contract, part: pl.Expr) -> None:
    """Refuses a split that puts rows of the same identifier on two sides."""
    key = contract.dataset.key or []
    # The columns of a key of several columns identify a row only together; on their own they may repeat.
    for name in [name for name in contract.ids if len(key) < 2 or name not in key]:
        torn = _torn(table, name, part)
        if torn.height:
            example = torn["value"].sort()[0]
            raise DataError(
                f"the same value of the id column {name!r} stands in two parts, such as {example!r} ({torn.height:,} values in all)",
                where="split_table",
                remedy=f"give {name!r} the role group and split by group, or the role ignore if its rows are independent",
            )


def _torn(table: pl.LazyFrame, column: str, part: pl.Expr) -> pl.DataFrame:
    """The values of a column that stand in more than one part."""
    sides = table.select(pl.col(column).alias("value"), part.alias("part")).drop_nulls("value").group_by("value")
    return sides.agg(pl.col("part").n_unique().alias("parts")).filter(pl.col("parts") > 1).collect(engine="streaming")

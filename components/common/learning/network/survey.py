"""What must be known of all rows before any is encoded: found once, by rank 0, a stretch of rows at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from kfp_foundry.components.common import rows
from kfp_foundry.components.common.artifacts.model import Label, as_labels
from kfp_foundry.components.common.contract import Contract, Type
from kfp_foundry.components.common.learning import data
from kfp_foundry.components.common.learning.encode import LIMITS, fit_category, make_plan
from kfp_foundry.components.common.learning.network.numbers import spread
from kfp_foundry.components.common.onnx.encoding import Plan

STRETCH = 262_144  # rows read at once: as many as a row group of our Datasets has
SHOWN = 10_000  # rows kept as they are, for the parity gate and the model's example


@dataclass(frozen=True)
class Outline:
    """Which rows of a table can be learned from, and what they predict.

    Args:
        known: Values of the target as the table writes them; empty for a regression.
        positions: The label of each, as a position; None for one that the training rows do not have.
        rows: Rows of the table.
        usable: Those that can be learned from.
        ranges: For each rank the stretch of the table's rows that holds its share of them.
        totals: Weight of the usable rows, per label; of all together for a regression.
    """

    known: list[Any]
    positions: list[int | None]
    rows: int
    usable: int
    ranges: list[list[int]]
    totals: list[float]


@dataclass(frozen=True)
class Survey:
    """All that ranks must agree on.

    Args:
        labels: The classes; empty for a regression.
        train: Of the training rows.
        validation: Of the validation rows.
        plan: From raw columns to the matrix, as JSON.
        gaps: For each column of numbers in the matrix, whether some training row lacks it.
    """

    labels: list[Label]
    train: Outline
    validation: Outline
    plan: dict[str, Any]
    gaps: list[bool]


@dataclass(frozen=True)
class Sampled:
    """Evenly spread training rows.

    Args:
        numbers: The matrix's columns of numbers [rows, numbers].
        target: Target [rows].
        shown: Fewer of them, as they are.
        shown_target: Their target.
    """

    numbers: np.ndarray
    target: np.ndarray
    shown: pl.DataFrame
    shown_target: np.ndarray


def outline(table: pl.LazyFrame, contract: Contract, labels: list[Label] | None, world: int, where: str) -> tuple[Outline, list[Label]]:
    """Reads target and weights alone.

    Args:
        table: All rows.
        contract: Says the roles.
        labels: The classes of the training rows; None to find them here.
        world: How many ranks share the rows, see `share`.
        where: What the table is called in an error.

    Raises:
        DataError: The target or the weights cannot be learned from.
    """
    target = data.target_of(contract)
    known: list[Any] = []
    positions: list[int | None] = []
    if contract.is_classification:
        counts = table.group_by(_plain(target, table)).agg(pl.len()).collect(engine="streaming").drop_nulls(target).sort(target)
        named = as_labels(counts[target], contract)
        labels = _labels(named, counts["len"], contract) if labels is None else labels
        known, positions = counts[target].to_list(), [labels.index(label) if label in labels else None for label in named.to_list()]
    drafted = Outline(known, positions, 0, 0, [], [])
    usable, totals, low, high = [np.zeros(0, dtype=np.bool_)], np.zeros(max(1, len(labels or []))), np.inf, -np.inf
    for _, frame in stretches(table, [target, *([contract.weight] if contract.weight else [])], 0, None):
        there, found = targets(frame, contract, drafted)
        weights = data.weights_of(frame[contract.weight].filter(pl.Series(there)), where) if contract.weight else np.ones(len(found))
        totals += np.bincount(found, weights, len(totals)) if contract.is_classification else weights.sum()
        values = found.astype(np.float64)
        low, high = min(low, values.min(initial=np.inf)), max(high, values.max(initial=-np.inf))
        usable.append(there)
    mask = np.concatenate(usable)
    count = int(mask.sum())
    if labels is None:
        data.check_spread(target, count, float(low), float(high))
        data.check_finite(target, bool(np.isfinite([low, high]).all()))
    if contract.weight and count:
        data.refuse_nothing(float(totals.sum()), contract.weight, where)
    shares = [share(count, rank, world) for rank in range(world)]
    ranges = [_raw(mask, start, stop) for start, stop in shares]
    return Outline(known, positions, len(mask), count, ranges, totals.tolist()), labels or []


def share(rows: int, rank: int, world: int) -> tuple[int, int]:
    """A rank's stretch of rows: as long as every other's, and together all rows; the last ones overlap where they must.

    Example:
        >>> [share(10, rank, 4) for rank in range(4)]
        [(0, 3), (3, 6), (6, 9), (7, 10)]
    """
    size = -(-rows // world)
    start = max(0, min(rank * size, rows - size))
    return start, start + size


def survey(train: pl.LazyFrame, validation: pl.LazyFrame, contract: Contract, world: int) -> tuple[Survey, Sampled]:
    """Goes through the training rows once for their target, and once for their columns.

    Raises:
        DataError: The rows cannot be learned from.
    """
    data.columns_of(train, contract, "train rows")
    data.columns_of(validation, contract, "validation rows")
    learned, labels = outline(train, contract, None, world, "train rows")
    held, _ = outline(validation, contract, labels, world, "validation rows")
    columns = _Columns(contract, learned.usable)
    for _, frame in stretches(train, [data.target_of(contract), *contract.features], 0, None):
        there, found = targets(frame, contract, learned)
        columns.add(rows.conform(frame.filter(pl.Series(there)), contract, contract.features, "train rows"), found)
    plan = columns.plan()
    gaps, sampled = columns.numbers(plan)
    return Survey(labels, learned, held, plan.model_dump(mode="json"), gaps), sampled


def stretches(table: pl.LazyFrame, columns: list[str], start: int, stop: int | None) -> Iterator[tuple[int, pl.DataFrame]]:
    """Rows `start` to `stop` (None: to the end), a stretch at a time, each with the number of its first row."""
    chosen = table.select(columns)
    while stop is None or start < stop:
        frame = chosen.slice(start, STRETCH if stop is None else min(STRETCH, stop - start)).collect()
        if frame.is_empty():
            return
        yield start, frame
        start += frame.height


def targets(frame: pl.DataFrame, contract: Contract, outline: Outline) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a table's stretch can be learned from [rows], and the target of those that can [usable]."""
    target = data.target_of(contract)
    if contract.is_classification:
        raw = frame.lazy().select(_plain(target, frame.lazy())).collect()[target]
        found = raw.replace_strict(outline.known, outline.positions, default=None, return_dtype=pl.Int64) if outline.known else raw.cast(pl.Int64)
    else:
        found = as_labels(frame[target], contract)
    there = found.is_not_null()
    return there.to_numpy(), found.filter(there).to_numpy()


class _Columns:
    """Gathers, stretch by stretch, what is to be known of the features."""

    def __init__(self, contract: Contract, usable: int) -> None:
        fields = contract.feature_fields
        self.contract = contract
        self.texts = {field.name: pl.DataFrame(schema={"text": pl.String, "count": pl.UInt64}) for field in fields if field.type is Type.STRING}
        self.others = [field.name for field in fields if field.type is not Type.STRING]
        self.filled = dict.fromkeys(self.others, False)
        self.every = make_plan(contract, [], self.others) if self.others else None  # as if each of them had a value
        self.gaps = np.zeros(len(self.every.numeric) if self.every else 0, dtype=np.bool_)
        self.wanted, self.shown_rows = spread(usable), spread(usable, SHOWN)
        self.kept: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.shown: list[pl.DataFrame] = []
        self.shown_targets: list[np.ndarray] = []
        self.done = 0

    def add(self, frame: pl.DataFrame, target: np.ndarray) -> None:
        feed = rows.feed(frame, self.contract)
        for name, counts in self.texts.items():
            more = pl.Series("text", feed[name], dtype=pl.String).value_counts().cast({"count": pl.UInt64})
            self.texts[name] = pl.concat([counts, more]).group_by("text").agg(pl.col("count").sum())
        for name in self.others:
            self.filled[name] = self.filled[name] or bool(np.isfinite(feed[name]).any())
        numbers = self.every.matrix(feed) if self.every else np.zeros((frame.height, 0))
        self.gaps |= np.isnan(numbers).any(axis=0)
        taken, seen = self._here(self.wanted, frame.height), self._here(self.shown_rows, frame.height)
        self.kept.append(numbers[taken])
        self.targets.append(target[taken])
        self.shown.append(frame[seen])
        self.shown_targets.append(target[seen])
        self.done += frame.height

    def _here(self, wanted: np.ndarray, count: int) -> np.ndarray:
        first, last = np.searchsorted(wanted, [self.done, self.done + count])
        return np.asarray(wanted[first:last] - self.done)

    def plan(self) -> Plan:
        categories = [fit_category(name, counts, LIMITS["residual_mlp"]) for name, counts in self.texts.items()]
        return make_plan(self.contract, categories, [name for name in self.others if self.filled[name]])

    def numbers(self, plan: Plan) -> tuple[list[bool], Sampled]:
        """Gaps and sampled rows of the columns that the plan has."""
        all_names = self.every.numeric if self.every else []
        chosen = [all_names.index(name) for name in plan.numeric]
        kept = np.concatenate(self.kept)[:, chosen]
        sampled = Sampled(kept, np.concatenate(self.targets), pl.concat(self.shown), np.concatenate(self.shown_targets))
        return self.gaps[chosen].tolist(), sampled


def _labels(named: pl.Series, counts: pl.Series, contract: Contract) -> list[Label]:
    table = pl.DataFrame({"label": named, "count": counts}).group_by("label").agg(pl.col("count").sum()).sort("label")
    return data.labels_of(data.target_of(contract), {row[0]: row[1] for row in table.iter_rows()}, contract)


def _plain(name: str, table: pl.LazyFrame) -> pl.Expr:
    """A class's column in a form that JSON can hold, NaN as null."""
    kind, column = table.collect_schema()[name], pl.col(name)
    if kind.is_float():
        return column.fill_nan(None)
    if kind.is_decimal():
        return column.cast(pl.Float64)
    return column.cast(pl.String) if kind in (pl.Categorical, pl.Enum) else column


def _raw(mask: np.ndarray, start: int, stop: int) -> list[int]:
    """The stretch of all rows from the usable row `start` to before the usable row `stop`."""
    if stop <= start:
        return [0, 0]
    counts = np.add.reduceat(mask, np.arange(0, len(mask), STRETCH), dtype=np.int64)
    ends = np.cumsum(counts)

    def row(number: int) -> int:
        stretch = int(np.searchsorted(ends, number, side="right"))
        before = int(ends[stretch] - counts[stretch])
        return stretch * STRETCH + int(np.flatnonzero(mask[stretch * STRETCH : (stretch + 1) * STRETCH])[number - before])

    return [row(start), row(stop - 1) + 1]

"""Rows for a network that trains on ranks: each rank reads and encodes its own stretch of the table, and none holds it whole.

A column of the training rows costs four bytes per row and rank, however it is written in the table; beside that only a stretch of rows
is in memory at a time. The validation rows are different: rank 0 reads them whole when the training is over, to measure and to
calibrate.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from kfp_foundry.components.common import platform, rows
from kfp_foundry.components.common.artifacts.model import Label
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.learning import data, fit
from kfp_foundry.components.common.learning.data import Part
from kfp_foundry.components.common.learning.fit_network import scale
from kfp_foundry.components.common.learning.learner import Examples, Job
from kfp_foundry.components.common.learning.network import survey
from kfp_foundry.components.common.learning.network.job import NetworkJob
from kfp_foundry.components.common.learning.network.numbers import Numbers
from kfp_foundry.components.common.learning.network.ranks import Ranks
from kfp_foundry.components.common.learning.network.settings import Settings
from kfp_foundry.components.common.learning.network.survey import Outline, Sampled, Survey
from kfp_foundry.components.common.learning.network.table import Layout, Table
from kfp_foundry.components.common.onnx.encoding import Plan


@dataclass(frozen=True)
class SampledPart(Part):
    """A few rows that stand for many.

    Args:
        rows: How many they stand for.
    """

    rows: int

    def __len__(self) -> int:
        return self.rows


@dataclass(frozen=True)
class NetworkPrepared(fit.Prepared):
    """What `fit.finish` takes, and beside it what `loop.train` takes.

    Args:
        network: This rank's rows, encoded.
    """

    network: NetworkJob


def prepare(
    train: pl.LazyFrame,
    validation: pl.LazyFrame,
    contract: Contract,
    options: fit.Options,
    ranks: Ranks | None = None,
    strategy: str = "auto",
    about: Mapping[str, Any] | None = None,
) -> NetworkPrepared:
    """Reads and encodes this rank's rows; what is learned from the training rows alone, rank 0 learns for all.

    Args:
        train: Rows to fit on.
        validation: Rows for early stopping, calibration and metrics.
        contract: Says the task and the roles.
        options: The training's parameters.
        ranks: The processes that train together; None for this one alone.
        strategy: How they share the parameters, see `Ranks.wrap`.
        about: What tells these rows from others, such as the tables' fingerprints; a checkpoint of other rows is refused.

    Returns:
        On rank 0 what `fit.finish` needs; on the others its validation rows are left out.

    Raises:
        UserError: A parameter is wrong.
        DataError: The rows cannot be learned from.

    Example:
        >>> prepared = prepare(train, validation, contract, options, ranks)
        >>> fitted = loop.train(prepared.network, ranks)
        >>> result = fit.finish(prepared, fitted)
    """
    here = ranks or Ranks.single()
    params = fit.check(contract, options)
    fit.monotone_directions(options, contract, [])
    settings = Settings.read(params)
    told, sampled = _agreed(train, validation, contract, settings, here)
    plan = Plan.model_validate(told.plan)
    encoder = _Encoder(contract, options, plan, told)
    job = NetworkJob(
        task=contract.task or Task.REGRESSION,
        classes=len(told.survey.labels),
        layout=encoder.layout,
        train=encoder.table(train, told.survey.train, here, "train rows"),
        validation=encoder.table(validation, told.survey.validation, here, "validation rows"),
        settings=settings,
        centre=told.centre,
        unit=told.unit,
        stops_early=settings.patience > 0 and told.survey.validation.usable > 0,
        seed=options.seed,
        threads=platform.cpus() if here.world == 1 else 0,
        strategy=strategy,
        data={"rows": [told.survey.train.usable, told.survey.validation.usable], **(about or {})},
    )
    part, (held, examples) = _shown(sampled, contract, told.survey.train), _held(validation, contract, options, plan, told.survey.labels, here)
    none = Examples(np.zeros((0, len(plan.columns))), np.zeros(0), None)
    base = Job(job.task, job.classes, none, examples, [], [], params, options.early_stopping_rounds, options.seed, job.threads)
    return NetworkPrepared(contract, options, told.survey.labels, part, held, plan, base, job)


@dataclass(frozen=True)
class _Told:
    """What rank 0 tells the others."""

    survey: Survey
    plan: dict[str, Any]
    numbers: Numbers
    centre: float
    unit: float


def _agreed(train: pl.LazyFrame, validation: pl.LazyFrame, contract: Contract, settings: Settings, ranks: Ranks) -> tuple[_Told, Sampled | None]:
    words: dict[str, Any] = {}
    sampled = None
    if ranks.first:
        found, sampled = survey.survey(train, validation, contract, ranks.world)
        centre, unit = scale(sampled.target.astype(np.float64) if contract.task is Task.REGRESSION else None)
        columns = [sampled.numbers[:, column] for column in range(sampled.numbers.shape[1])]
        numbers = Numbers.fit(columns, found.gaps, settings.bins).model_dump(mode="json")
        words = {"survey": asdict(found), "numbers": numbers, "centre": centre, "unit": unit}
    words = ranks.broadcast(words)
    found = Survey(**{**words["survey"], **{name: Outline(**words["survey"][name]) for name in ("train", "validation")}})
    return _Told(found, found.plan, Numbers.model_validate(words["numbers"]), words["centre"], words["unit"]), sampled


def _shown(sampled: Sampled | None, contract: Contract, outline: Outline) -> Part:
    dropped = outline.rows - outline.usable
    if sampled is None:
        return SampledPart(pl.DataFrame(), {}, np.zeros(0), None, dropped, outline.usable)
    return SampledPart(sampled.shown, rows.feed(sampled.shown, contract), sampled.shown_target, None, dropped, outline.usable)


def _held(validation: pl.LazyFrame, contract: Contract, options: fit.Options, plan: Plan, labels: list[Label], ranks: Ranks) -> tuple[Part, Examples]:
    if not ranks.first:
        return Part(pl.DataFrame(), {}, np.zeros(0), None, 0), Examples(np.zeros((0, len(plan.columns))), np.zeros(0), None)
    held = data.part(*data.read(validation, contract, "validation rows"), contract, labels, "validation rows")
    weights = data.balance(held, options.class_weight, len(labels)) if len(held) else None
    return held, Examples(plan.matrix(held.feed), held.target, weights)


@dataclass(frozen=True)
class _Encoder:
    contract: Contract
    options: fit.Options
    plan: Plan
    told: _Told

    @property
    def layout(self) -> Layout:
        return Layout(tuple(category.width for category in self.plan.categories), self.told.numbers)

    def table(self, source: pl.LazyFrame, outline: Outline, ranks: Ranks, where: str) -> Table:
        """The rank's rows, encoded a stretch at a time; a row that another rank has too weighs nothing in the validation rows."""
        is_class = self.contract.is_classification
        start, stop = survey.share(outline.usable, ranks.rank, ranks.world)
        layout = self.layout
        table = Table.empty(stop - start, layout, is_class)
        columns, done = [data.target_of(self.contract), *self.contract.features], 0
        columns += [self.contract.weight] if self.contract.weight else []
        for _, frame in survey.stretches(source, columns, *outline.ranges[ranks.rank]):
            there, target = survey.targets(frame, self.contract, outline)
            kept = frame.filter(pl.Series(there))
            feed = rows.feed(rows.conform(kept, self.contract, self.contract.features, where), self.contract)
            weights = self.weights(kept, target, outline, where)
            table.fill(done, layout, self.plan.matrix(feed), target if is_class else (target - self.told.centre) / self.told.unit, weights)
            done += kept.height
        if where.startswith("validation"):
            table.weigh(0.0, 0, ranks.rank * (stop - start) - start)
        return table

    def weights(self, kept: pl.DataFrame, target: np.ndarray, outline: Outline, where: str) -> np.ndarray | None:
        """Weights [rows] with mean 1 over all rows of the table: the contract's, times the class's if classes are balanced."""
        balanced = bool(self.options.class_weight)
        if not balanced and not self.contract.weight:
            return None
        own = data.weights_of(kept[self.contract.weight], where) if self.contract.weight else np.ones(len(target))
        totals = np.array(outline.totals)
        if balanced:
            with np.errstate(divide="ignore"):
                own = own * (totals.sum() / (len(totals) * totals))[target]
        return np.asarray(own * (outline.usable / totals.sum()))

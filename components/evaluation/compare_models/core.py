"""Challenger against champion: both predict the same rows, and a rule given as data decides."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from pydantic import ValidationError

from kfp_foundry.components.common import tracking
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.comparison import Comparison, Rule, SliceDifference, Thresholds
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import Label, ModelFolder
from kfp_foundry.components.common.artifacts.verdict import Check
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.metrics import bootstrap, catalogue
from kfp_foundry.components.common.metrics.labelled import GROUPED, Labelled, judge, score
from kfp_foundry.components.common.metrics.scores import Scores
from kfp_foundry.components.common.metrics.slices import columns_wanted, make_cuts, parts_of
from kfp_foundry.components.common.report.format import human
from kfp_foundry.components.common.step import step
from kfp_foundry.components.evaluation.compare_models.differences import differences, slice_differences
from kfp_foundry.components.evaluation.compare_models.page import make_page
from kfp_foundry.components.evaluation.compare_models.verdict import decide, summary

log = logging.getLogger(__name__)

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Contender:
    """A model, and the probability from which it predicts the positive class."""

    model: ModelFolder
    threshold: float


@step
def make_rule(
    metric: str, min_gain: float, max_loss: Mapping[str, float], slice_columns: Sequence[str], max_slice_loss: float, on_incomparable: str
) -> Rule:
    """The rule from the component's parameters.

    Raises:
        UserError: A number is out of range, or a word unknown.
    """
    given: dict[str, Any] = {
        "metric": metric,
        "min_gain": min_gain,
        "max_loss": dict(max_loss),
        "slice_columns": list(slice_columns),
        "max_slice_loss": max_slice_loss,
        "on_incomparable": on_incomparable,
    }
    try:
        return Rule.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"{place}: {message}" if place else message, where="compare_models", remedy="correct the rule") from error


@step
def run(
    challenger: Artifact,
    test: Artifact,
    verdict: Artifact,
    report: Artifact,
    model_name: str,
    rule: Rule,
    threshold: float = 0.5,
    champion_alias: str = "champion",
    seed: int = 7,
) -> tuple[str, str]:
    """Fetches the champion, compares, and writes verdict and report.

    Returns:
        The outcome, and the champion's version; empty when there is none.

    Raises:
        UserError: The rule names a metric or column that is not there.
        DataError: No test row can be judged.
        IntegrityError: A model or the dataset is not whole.
        PlatformError: The registry cannot be asked.
    """
    new = Contender(ModelFolder.open(challenger), threshold)
    for name in (rule.metric, *rule.max_loss):
        catalogue.metric(new.model.task, name, "compare_models")
    registered = tracking.champion(model_name, champion_alias)
    found = Comparison(gate="compare_models", model_name=model_name, challenger=new.model.digest, rule=rule, confidence=CONFIDENCE)
    found.metric = catalogue.metric(new.model.task, rule.metric).name
    if registered is None:
        found.checks, found.reason = (
            [no_champion(model_name, champion_alias)],
            f"{model_name} has no champion yet, so there is nothing to compare with.",
        )
        scored = None
    else:
        old = Contender(ModelFolder.open(registered.path), 0.5 if registered.threshold is None else registered.threshold)
        found.champion, found.champion_version = old.model.digest, registered.version
        scored = compare(found, new, old, DatasetFolder.open(test), seed)
    found.write(verdict)
    make_page(found, scored).save(report.path)
    log.info("%s: %s", found.outcome, found.reason)
    return found.outcome, found.champion_version


def no_champion(model_name: str, alias: str) -> Check:
    """The check of a first model; it says why there is no champion."""
    store = tracking.tracking()
    why = f"no version of {model_name} carries the alias {alias}" if store.available else f"there is no registry to ask: {store.why}"
    return Check(name="champion", outcome="pass", value="none", message=f"Nothing to compare with: {why}.")


def compare(found: Comparison, new: Contender, old: Contender, test: DatasetFolder, seed: int = 7) -> tuple[Scores, Scores] | None:
    """Compares two models and fills the comparison.

    Args:
        found: What to fill: checks, reason, differences.
        new: The challenger.
        old: The champion.
        test: Rows on which both are judged.
        seed: Seed of the bootstrap.

    Returns:
        Predictions of challenger and champion beside the truth; None when there was nothing to compare.

    Raises:
        UserError: A slice column is not there.
        DataError: No row can be judged.
    """
    found.same_model = new.model.digest == old.model.digest
    if new.model.task is Task.BINARY:
        found.thresholds = Thresholds(challenger=new.threshold, champion=old.threshold)
    if found.same_model and (found.thresholds is None or new.threshold == old.threshold):
        message = f"The challenger is the champion, version {found.champion_version}: equal models have equal digests."
        found.checks, found.reason = [Check(name="champion", outcome="pass", value=found.champion_version, message=message)], message
        return None
    known = test.scan().collect_schema().names()
    obstacle = incomparable(new.model, old.model, known)
    if obstacle:
        _give_up(found, obstacle)
        return None
    labels = _union(new.model, old.model)
    frame = _read(test, new.model, old.model, found.rule)
    rows = judge(frame, new.model, labels, "test rows")
    challenger = score(new.model, rows, new.threshold, labels)
    try:
        champion = score(old.model, rows, old.threshold, labels)
    except DataError as error:
        _give_up(found, f"the champion cannot read the rows: {error}")
        return None
    replicates = bootstrap.replicate([challenger, champion], seed, rows.groups)
    found.rows, found.notes = len(challenger), _notes(found, rows)
    found.differences = differences(new.model.task, replicates, found.confidence)
    if found.rule.max_slice_loss or found.rule.slice_columns:
        found.slices, found.slices_left_out = _sliced(found, new.model, rows, challenger, champion, seed)
    found.checks = decide(found, new.model.task)
    found.reason = summary(found, new.model.task)
    return challenger, champion


def incomparable(new: ModelFolder, old: ModelFolder, columns: Sequence[str]) -> str:
    """Why two models cannot be compared on a table with these columns; empty when they can."""
    if new.task is not old.task:
        return f"the champion's task is {old.task}, the challenger's {new.task}"
    if new.record.target != old.record.target:
        return f"the champion predicts {old.record.target!r}, the challenger {new.record.target!r}"
    if new.task is Task.BINARY and new.labels != old.labels:
        return f"the champion's labels are {old.labels}, the challenger's {new.labels}"
    if {type(label) for label in new.labels} != {type(label) for label in old.labels}:
        return "the labels of champion and challenger are of different types"
    absent = [name for name in old.contract.features if name not in columns]
    if absent:
        return f"the champion needs {'columns' if len(absent) > 1 else 'a column'} that this table lacks: {', '.join(absent[:10])}"
    return ""


def _give_up(found: Comparison, obstacle: str) -> None:
    remedy = "Give another model_name, or on_incomparable=warn to let the challenger replace it."
    message = f"Champion and challenger cannot be compared: {obstacle}."
    found.checks = [Check(name="comparable", outcome=found.rule.on_incomparable, value="no", message=f"{message} {remedy}")]
    found.reason = message


def _union(new: ModelFolder, old: ModelFolder) -> list[Label]:
    """All labels that either model knows, the challenger's first."""
    return list(dict.fromkeys([*new.labels, *old.labels]))


def _read(test: DatasetFolder, new: ModelFolder, old: ModelFolder, rule: Rule) -> pl.DataFrame:
    """The columns that are needed, in memory."""
    scan = test.scan()
    known = scan.collect_schema().names()
    wanted = {new.record.target, new.contract.weight, new.contract.group, *new.contract.features, *old.contract.features}
    wanted.update(columns_wanted(new.contract, rule.slice_columns, {}, known))
    return scan.select([name for name in known if name in wanted]).collect()


def _notes(found: Comparison, rows: Labelled) -> list[str]:
    notes = rows.left_out
    if found.same_model and found.thresholds:
        new, old = human(found.thresholds.challenger), human(found.thresholds.champion)
        notes.append(f"Both are the same model; what changes is its threshold, from {old} to {new}.")
    if rows.groups is not None:
        notes.append(GROUPED)
    return notes


def _sliced(
    found: Comparison, model: ModelFolder, rows: Labelled, challenger: Scores, champion: Scores, seed: int
) -> tuple[list[SliceDifference], int]:
    parts, small = parts_of(make_cuts(rows.frame, model.contract, found.rule.slice_columns, model.record.importance))
    metric = catalogue.metric(model.task, found.metric)
    pair, most = (challenger, champion), found.rule.max_slice_loss
    return slice_differences(metric, pair, parts, rows.groups, most, found.confidence, seed), small

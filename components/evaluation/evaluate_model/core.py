"""Judging a model: metrics with intervals on test rows, a threshold from validation rows, and the slices where it is worst."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
import polars as pl

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.evaluation import Confusion, Evaluation, Points, Threshold, Value
from kfp_foundry.components.common.artifacts.model import Label, ModelFolder
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import DataError, UserError
from kfp_foundry.components.common.metrics import bootstrap, catalogue, curves
from kfp_foundry.components.common.metrics.labelled import GROUPED, Labelled, judge, score
from kfp_foundry.components.common.metrics.scores import BinaryScores, MulticlassScores, Scores
from kfp_foundry.components.common.metrics.slices import columns_wanted, make_cuts
from kfp_foundry.components.common.step import step
from kfp_foundry.components.evaluation.evaluate_model.page import make_page
from kfp_foundry.components.evaluation.evaluate_model.sliced import judge_slices
from kfp_foundry.components.evaluation.evaluate_model.thresholds import DEFAULT, Rule, choose

log = logging.getLogger(__name__)

__all__ = ["Outputs", "Rule", "evaluate", "make_rule", "run"]

CLASSES = 30  # of a confusion matrix; the rest is one class "other"
FEW_ROWS = 100


class MetricsArtifact(Artifact, Protocol):
    """The part of `kfp.dsl.Metrics` that is used."""

    def log_metric(self, metric: str, value: float) -> None:
        """Notes one number."""


class ClassificationArtifact(Artifact, Protocol):
    """The part of `kfp.dsl.ClassificationMetrics` that is used."""

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Notes counts; rows are the truth."""

    def log_roc_curve(self, fpr: list[float], tpr: list[float], threshold: list[float]) -> None:
        """Notes the points of a curve."""


@dataclass(frozen=True)
class Outputs:
    """Where the results go."""

    evaluation: Artifact
    metrics: MetricsArtifact
    classification_metrics: ClassificationArtifact
    report: Artifact


@step
def make_rule(method: str, cost_false_positive: float, cost_false_negative: float, min_precision: float, min_recall: float) -> Rule:
    """The rule from the component's parameters.

    Raises:
        UserError: A number is out of range, or a word unknown.
    """
    return Rule(method, cost_false_positive, cost_false_negative, min_precision, min_recall)


@step
def run(
    model: Artifact,
    test: Artifact,
    validation: Artifact,
    outputs: Outputs,
    rule: Rule,
    slice_columns: Sequence[str] = (),
    confidence: float = 0.95,
    seed: int = 7,
) -> tuple[float]:
    """Reads the artifacts, judges the model, and writes evaluation, metrics and report.

    Returns:
        The threshold; 0.5 where there is none to choose.

    Raises:
        UserError: A parameter is out of range, a slice column is not there, or no threshold is as asked for.
        DataError: No test row can be judged.
        IntegrityError: The model or a dataset is not whole.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence}", where="evaluate_model", remedy="give a number between 0 and 1, such as 0.95")
    opened = ModelFolder.open(model)
    rows = DatasetFolder.open(test)
    held_back = DatasetFolder.open(validation)
    found, scores = evaluate(opened, _read(rows, opened, slice_columns), _read(held_back, opened, ()), rule, slice_columns, confidence, seed)
    found.test = rows.facts.fingerprint
    found.write(outputs.evaluation)
    _note(found, outputs)
    make_page(found, scores, opened.record.importance).save(outputs.report.path)
    return (found.threshold.value if found.threshold else DEFAULT,)


def evaluate(
    model: ModelFolder,
    test: pl.DataFrame,
    validation: pl.DataFrame,
    rule: Rule,
    slice_columns: Sequence[str] = (),
    confidence: float = 0.95,
    seed: int = 7,
) -> tuple[Evaluation, Scores]:
    """Judges a model.

    Args:
        model: The model.
        test: Rows to judge it on.
        validation: Rows on which the threshold is chosen.
        rule: How the threshold is chosen.
        slice_columns: Columns to cut the rows by.
        confidence: Of the intervals.
        seed: Seed of the bootstrap.

    Returns:
        The evaluation, and the predictions beside the truth.

    Raises:
        UserError: A slice column is not there, or no threshold is as asked for.
        DataError: No test row can be judged.
    """
    rows = judge(test, model, model.labels, "test rows")
    threshold = _threshold(model, validation, rule) if model.task is Task.BINARY else None
    scores = score(model, rows, threshold.value if threshold else None)
    measured = bootstrap.estimates(bootstrap.replicate([scores], seed, rows.groups), confidence)
    primary = catalogue.PRIMARY[model.task]
    cuts = make_cuts(rows.frame, model.contract, slice_columns, model.record.importance)
    slices, small = judge_slices(scores, cuts, measured[primary].value, confidence, rows.groups)
    found = Evaluation(
        task=model.task,
        target=model.record.target,
        positive=_text(model.labels[1]) if model.task is Task.BINARY else None,
        algorithm=model.record.algorithm,
        model=model.digest,
        test="",
        rows=_counts(test, rows, validation),
        primary=primary,
        metrics={name: Value(**asdict(estimate)) for name, estimate in measured.items()},
        confidence=confidence,
        threshold=threshold,
        confusion=_confusion(scores, model.labels),
        curves=_curves(scores),
        slices=slices,
        slices_left_out=small,
        notes=_notes(rows, scores),
    )
    return found, scores


def _read(dataset: DatasetFolder, model: ModelFolder, slice_columns: Sequence[str]) -> pl.DataFrame:
    """The columns that are needed, in memory."""
    scan = dataset.scan()
    known = scan.collect_schema().names()
    contract = model.contract
    wanted = {model.record.target, contract.weight, contract.group, *contract.features, *columns_wanted(contract, slice_columns, {}, known)}
    return scan.select([name for name in known if name in wanted]).collect()


def _threshold(model: ModelFolder, validation: pl.DataFrame, rule: Rule) -> Threshold:
    scores: Scores | None
    try:
        scores = score(model, judge(validation, model, model.labels, "validation rows"))
    except DataError:
        if validation.height and model.record.target in validation.columns and validation[model.record.target].null_count() < validation.height:
            raise
        scores = None  # no validation row has a target: `choose` says so
    return choose(rule, scores if isinstance(scores, BinaryScores) else None)


def _counts(test: pl.DataFrame, rows: Labelled, validation: pl.DataFrame) -> dict[str, int]:
    return {
        "all": test.height,
        "judged": rows.frame.height,
        "without_target": rows.missing,
        "unknown_label": sum(rows.unknown.values()),
        "validation": validation.height,
    }


def _notes(rows: Labelled, scores: Scores) -> list[str]:
    notes = rows.left_out
    if len(scores) < FEW_ROWS:
        notes.append(f"Only {len(scores):,} rows could be judged: the numbers say little, see their intervals.")
    if isinstance(scores, BinaryScores) and (scores.truth.all() or not scores.truth.any()):
        only = "positive" if scores.truth.any() else "negative"
        notes.append(f"All judged rows are {only}: the AUC and whatever compares two classes are not defined.")
    if isinstance(scores, MulticlassScores) and (absent := scores.classes - len(np.unique(scores.truth))):
        notes.append(f"{absent} of {scores.classes} classes have no judged row and do not count in means over classes.")
    for doubt in notes:
        log.warning("%s", doubt)
    if rows.weights is not None:
        notes.append("Metrics count rows by their weights; the confusion matrix counts rows.")
    if rows.groups is not None:
        notes.append(GROUPED)
    return notes


def _confusion(scores: Scores, labels: list[Label]) -> Confusion | None:
    """Counts of rows; of many classes the most frequent ones, and `other`."""
    if isinstance(scores, BinaryScores):
        truth, predicted = scores.truth.astype(np.int64), scores.predicted.astype(np.int64)
    elif isinstance(scores, MulticlassScores):
        truth, predicted = scores.truth, scores.predicted
    else:
        return None
    names = [_text(label) for label in labels]
    if len(names) > CLASSES:
        support = np.bincount(truth, minlength=len(names))
        kept = np.sort(np.argsort(-support, kind="stable")[: CLASSES - 1])
        place = np.full(len(names), CLASSES - 1)
        place[kept] = np.arange(CLASSES - 1)
        truth, predicted, names = place[truth], place[predicted], [*(names[k] for k in kept), "other"]
    cells = np.bincount(truth * len(names) + predicted, minlength=len(names) ** 2).reshape(len(names), len(names))
    return Confusion(labels=names, matrix=cells.tolist())


def _curves(scores: Scores) -> dict[str, Points]:
    if not isinstance(scores, BinaryScores):
        return {}
    made = {
        "roc": curves.roc(scores),
        "precision_recall": curves.precision_recall(scores),
        "calibration": curves.calibration(scores),
        "gain": curves.gain(scores),
        "lift": curves.lift(scores),
    }
    return {name: Points(**asdict(curve)) for name, curve in made.items() if curve.x}


def _note(found: Evaluation, outputs: Outputs) -> None:
    """Writes the KFP metrics: finite numbers only, since a backend takes no other."""
    for name, metric in found.metrics.items():
        if metric.value is not None and math.isfinite(metric.value):
            outputs.metrics.log_metric(name, metric.value)
    if found.threshold:
        outputs.metrics.log_metric("threshold", found.threshold.value)
    outputs.metrics.log_metric("rows", float(found.rows["judged"]))
    if found.confusion:
        counts = [[int(count) for count in row] for row in found.confusion.matrix]
        outputs.classification_metrics.log_confusion_matrix(_different(found.confusion.labels), counts)
    if roc := found.curves.get("roc"):
        outputs.classification_metrics.log_roc_curve(roc.x, roc.y, roc.at)


def _different(names: list[str]) -> list[str]:
    """KFP finds a row by its name, so equal names get a number."""
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names, 1)]


def _text(label: Label) -> str:
    return str(label).lower() if isinstance(label, bool) else str(label)

"""The model on each slice of the rows, the worst first."""

from collections.abc import Sequence

import numpy as np

from kfp_foundry.components.common.artifacts.evaluation import SliceResult
from kfp_foundry.components.common.metrics import analytic, catalogue
from kfp_foundry.components.common.metrics.bootstrap import Estimate, finite
from kfp_foundry.components.common.metrics.scores import BinaryScores, MulticlassScores, RegressionScores, Scores
from kfp_foundry.components.common.metrics.slices import Cut, Part, parts_of

ASIDE = {"auc": ["f1", "log_loss"], "log_loss": ["accuracy", "f1_macro"], "rmse": ["mae", "bias"]}


def judge_slices(
    scores: Scores, cuts: Sequence[Cut], whole: float | None, confidence: float, groups: analytic.Groups = None
) -> tuple[list[SliceResult], int]:
    """Judges every slice with enough rows by the task's primary metric.

    Args:
        scores: Predictions beside the truth.
        cuts: How the rows are cut, one per column.
        whole: The primary metric on all rows.
        confidence: Of the intervals.
        groups: Number of each row's group, shape (rows,); None: each row for itself.

    Returns:
        The slices, and how many were left out for having fewer than `MIN_ROWS` rows. Sorted by the better end of the
        interval, so that small slices with wide intervals do not stand first by chance.
    """
    parts, small = parts_of(cuts)
    results = []
    for part in parts:
        own = scores.take(part.rows)
        estimate = analytic.primary(own, confidence, None if groups is None else groups[part.rows])
        results.append(_judge(own, part, len(scores), whole, estimate))
    return sorted(results, key=_rank), small


def _judge(scores: Scores, part: Part, all_rows: int, whole: float | None, found: Estimate) -> SliceResult:
    metric = catalogue.metric(scores.task, "auto")
    values = scores.metrics(ranking=False)
    aside = {**_levels(scores), **{other: finite(float(values[other][0])) for other in ASIDE[metric.name]}}
    return SliceResult(
        column=part.column,
        name=part.name,
        rows=len(scores),
        share=len(scores) / all_rows,
        metric=metric.name,
        value=found.value,
        low=found.low,
        high=found.high,
        standing=_standing(found, whole, metric.better == "higher"),
        others=aside,
    )


def _levels(scores: Scores) -> dict[str, float | None]:
    """What was there and what was predicted, on average."""
    if scores.weights.sum() <= 0 or isinstance(scores, MulticlassScores):
        return {}
    if isinstance(scores, BinaryScores):
        pair = {"positives": scores.truth.astype(np.float64), "mean_probability": scores.probability}
    elif isinstance(scores, RegressionScores):
        pair = {"mean_true": scores.truth, "mean_predicted": scores.predicted}
    else:
        return {}
    return {name: finite(float(np.average(values, weights=scores.weights))) for name, values in pair.items()}


def _standing(found: Estimate, whole: float | None, higher: bool) -> str:
    if whole is None or found.low is None or found.high is None:
        return "same"
    if found.high < whole:
        return "worse" if higher else "better"
    if found.low > whole:
        return "better" if higher else "worse"
    return "same"


def _rank(result: SliceResult) -> tuple[bool, float, str]:
    higher = result.metric == "auc"
    end = result.high if higher else result.low
    return end is None, (end or 0.0) if higher else -(end or 0.0), result.name

"""By how much one model is better than another on the same rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kfp_foundry.components.common.artifacts.comparison import Difference, SliceDifference
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.metrics.bootstrap import Replicates, finite, interval, replicate
from kfp_foundry.components.common.metrics.catalogue import METRICS, Metric
from kfp_foundry.components.common.metrics.scores import Scores
from kfp_foundry.components.common.metrics.slices import Part

CHALLENGER, CHAMPION = 0, 1


def differences(task: Task, replicates: Replicates, confidence: float) -> dict[str, Difference]:
    """Every metric of both models with the gain's interval.

    Args:
        task: Says the metrics.
        replicates: Challenger first, champion second; each replicate draws the same rows for both.
        confidence: Of the intervals.
    """
    new = replicates.points[CHALLENGER]
    return {metric.name: difference(metric, replicates, confidence) for metric in METRICS[task] if metric.name in new}


def difference(metric: Metric, replicates: Replicates, confidence: float) -> Difference:
    """One metric of both models, with the gain's interval and the share of replicates in which the challenger is better."""
    name = metric.name
    new, old = (replicates.points[model].get(name, np.nan) for model in (CHALLENGER, CHAMPION))
    gain = float(metric.gain(new, old))
    if not np.isfinite(gain):
        return Difference(challenger=finite(new), champion=finite(old), gain=None)
    draws = metric.gain(replicates.around(name, CHALLENGER), replicates.around(name, CHAMPION))
    low, high = interval(draws, confidence)
    there = draws[np.isfinite(draws)]
    better = float((there > 0).mean() + (there == 0).mean() / 2) if low is not None else None
    return Difference(challenger=finite(new), champion=finite(old), gain=gain, low=low, high=high, probability_better=better)


def slice_differences(
    metric: Metric,
    pair: tuple[Scores, Scores],
    parts: Sequence[Part],
    groups: NDArray[np.int64] | None,
    max_loss: float,
    confidence: float,
    seed: int,
) -> list[SliceDifference]:
    """The metric on every slice, the largest loss first; slices beyond `max_loss` get an interval.

    Args:
        metric: The rule's metric.
        pair: The predictions of challenger and champion for the same rows in the same order.
        parts: The slices.
        groups: Number of each row's group, shape (rows,); None: each row for itself.
        max_loss: Loss beyond which a slice is looked at closely; 0: none is.
        confidence: Of the intervals.
        seed: Seed of the bootstrap.
    """
    found = []
    for part in parts:
        both = [scores.take(part.rows) for scores in pair]
        new, old = (float(scores.metrics()[metric.name][0]) for scores in both)
        gain = float(metric.gain(new, old))
        if max_loss and -gain > max_loss:
            close = difference(metric, replicate(both, seed, None if groups is None else groups[part.rows]), confidence)
        else:
            close = Difference(challenger=finite(new), champion=finite(old), gain=finite(gain))
        found.append(SliceDifference(column=part.column, name=part.name, rows=len(part.rows), **close.model_dump()))
    return sorted(found, key=lambda each: (each.gain is None, each.gain or 0.0, each.name))

"""Intervals in closed form, for many slices at once: each is the value with the spread of its rows' influence on it.

The AUC's is DeLong's (DeLong, DeLong and Clarke-Pearson 1988, "Comparing the Areas under Two or More Correlated Receiver
Operating Characteristic Curves"), on the logit scale so that it stays within 0 and 1. Means of losses are taken as normal on the log
scale, so that they stay above 0. Rows of one group (a customer, a patient) are not independent: their influences are summed before
they are squared (Obuchowski 1997, "Nonparametric Analysis of Clustered ROC Curve Data").
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from kfp_foundry.components.common.metrics.bootstrap import Estimate
from kfp_foundry.components.common.metrics.scores import BinaryScores, Floats, MulticlassScores, RegressionScores, Scores

LEAST = 3  # rows (of each class, for an AUC) and groups below which no interval is given

Groups = NDArray[np.int64] | None


def primary(scores: Scores, confidence: float = 0.95, groups: Groups = None) -> Estimate:
    """The task's primary metric (AUC, log loss or RMSE) with its interval.

    Args:
        scores: Predictions beside the truth.
        confidence: Of the interval.
        groups: Number of each row's group, shape (rows,); None: each row for itself.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if isinstance(scores, BinaryScores):
        return auc(scores, z, groups)
    if isinstance(scores, MulticlassScores):
        return _mean(scores.losses, scores.weights, z, groups)
    if not isinstance(scores, RegressionScores):
        raise TypeError(f"no interval for {type(scores).__name__}")
    squares = _mean(scores.errors**2, scores.weights, z, groups)
    return Estimate(*(None if end is None else end**0.5 for end in (squares.value, squares.low, squares.high)))


def auc(scores: BinaryScores, z: float, groups: Groups = None) -> Estimate:
    """The area under the ROC curve; `z` is the normal quantile of the interval."""
    truth = scores.truth[scores.order]
    weights = scores.weights[scores.order]
    positives, negatives = float(weights[truth].sum()), float(weights[~truth].sum())
    if positives <= 0 or negatives <= 0:
        return Estimate(None)
    run = np.repeat(np.arange(len(scores.ends)), np.diff(scores.ends, prepend=-1))  # rows of equal probability share a number
    positive, negative = _sums(run, weights * truth), _sums(run, weights * ~truth)
    below = (negatives - np.cumsum(negative) + negative / 2) / negatives  # share of negatives that a row of the run beats
    above = (np.cumsum(positive) - positive / 2) / positives
    area = float((positive * below).sum() / positives)
    count = (int(truth.sum()), int((~truth).sum()))
    if min(count) < LEAST or _few(groups):
        return Estimate(area)
    ahead, behind = below[run][truth] - area, above[run][~truth] - area
    if groups is None:
        spread = _variance(ahead, weights[truth]) + _variance(behind, weights[~truth])
    else:
        moved = weights / np.where(truth, positives, negatives)
        moved[truth] *= ahead
        moved[~truth] *= behind
        spread = _together(moved, groups[scores.order])
    if not 0 < area < 1 or spread == 0:
        return Estimate(area, area, area)
    centre, step = float(np.log(area / (1 - area))), z * spread**0.5 / (area * (1 - area))
    return Estimate(area, 1 / (1 + float(np.exp(step - centre))), 1 / (1 + float(np.exp(-step - centre))))


def _mean(values: Floats, weights: Floats, z: float, groups: Groups) -> Estimate:
    """The mean of losses, none of them below 0."""
    total = float(weights.sum())
    if total <= 0:
        return Estimate(None)
    mean = float(values @ weights / total)
    if len(values) < LEAST or _few(groups):
        return Estimate(mean)
    if mean <= 0:
        return Estimate(mean, mean, mean)
    spread = _variance(values - mean, weights) if groups is None else _together(weights * (values - mean) / total, groups)
    factor = float(np.exp(z * spread**0.5 / mean))
    return Estimate(mean, mean / factor, mean * factor)


def _variance(influence: Floats, weights: Floats) -> float:
    rows = len(influence)
    return float(((weights * influence) ** 2).sum() / weights.sum() ** 2 * rows / max(rows - 1, 1))


def _together(moved: Floats, groups: NDArray[np.int64]) -> float:
    """The variance of a sum of what each row moves a value by, rows of a group being one."""
    sums = _sums(np.unique(groups, return_inverse=True)[1], moved)
    return float((sums**2).sum() * len(sums) / (len(sums) - 1))


def _few(groups: Groups) -> bool:
    return groups is not None and len(np.unique(groups)) < LEAST


def _sums(run: np.ndarray, weights: Floats) -> Floats:
    return np.bincount(run, weights=weights).astype(np.float64)

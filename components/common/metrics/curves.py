"""The points of the usual curves, thinned so that a page or an artifact stays small."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kfp_foundry.components.common.metrics.scores import BinaryScores, Floats

POINTS = 100


@dataclass(frozen=True)
class Curve:
    """Points of a curve; `at` is the threshold of each point where there is one."""

    x: list[float]
    y: list[float]
    at: list[float]


def roc(scores: BinaryScores, points: int = POINTS) -> Curve:
    """False positive rate, true positive rate and threshold, from (0, 0) to (1, 1); thresholds are finite.

    At most `points` of them, evenly spread along the curve.
    """
    tp, fp, at = _cumulative(scores)
    if not len(tp) or tp[-1] <= 0 or fp[-1] <= 0:
        return Curve([], [], [])
    x, y = np.concatenate([[0.0], fp / fp[-1]]), np.concatenate([[0.0], tp / tp[-1]])
    # Nothing is predicted positive above 1, so the first threshold needs no infinity (a KFP backend cannot take one).
    kept = _thin(x + y, points)
    return _curve(x[kept], y[kept], np.concatenate([[max(1.0, float(at[0]))], at])[kept])


def precision_recall(scores: BinaryScores, points: int = POINTS) -> Curve:
    """Recall, precision and threshold."""
    tp, fp, at = _cumulative(scores)
    if not len(tp) or tp[-1] <= 0:
        return Curve([], [], [])
    precision = np.divide(tp, tp + fp, out=np.ones_like(tp), where=tp + fp > 0)
    kept = _thin(tp / tp[-1], points)
    return _curve((tp / tp[-1])[kept], precision[kept], at[kept])


def gain(scores: BinaryScores, points: int = POINTS) -> Curve:
    """Share of rows taken from the highest probability down, and share of all positives among them."""
    tp, fp, at = _cumulative(scores)
    if not len(tp) or tp[-1] <= 0:
        return Curve([], [], [])
    x, y = np.concatenate([[0.0], (tp + fp) / (tp + fp)[-1]]), np.concatenate([[0.0], tp / tp[-1]])
    kept = _thin(x, points)
    return _curve(x[kept], y[kept], np.concatenate([[max(1.0, float(at[0]))], at])[kept])


def lift(scores: BinaryScores, points: int = POINTS) -> Curve:
    """Share of rows taken from the highest probability down, and how many times more positives than by chance are among them."""
    gained = gain(scores, points)
    there = [i for i, x in enumerate(gained.x) if x >= 0.005]  # below, a handful of rows decides
    return Curve([gained.x[i] for i in there], [gained.y[i] / gained.x[i] for i in there], [gained.at[i] for i in there])


def calibration(scores: BinaryScores, bins: int = 10) -> Curve:
    """Mean probability and frequency of positives in bins of (about) equally many rows."""
    order = scores.order[::-1]
    parts = [part for part in np.array_split(order, min(bins, len(order)) or 1) if len(part) and scores.weights[part].sum() > 0]
    x = [float(np.average(scores.probability[part], weights=scores.weights[part])) for part in parts]
    y = [float(np.average(scores.truth[part], weights=scores.weights[part])) for part in parts]
    return Curve(x, y, [])


def _cumulative(scores: BinaryScores) -> tuple[Floats, Floats, Floats]:
    """Weight of true and false positives at each threshold, from the highest threshold down."""
    order, ends = scores.order, scores.ends
    weights = scores.weights[order]
    positive = np.cumsum(weights * scores.truth[order])[ends]
    every = np.cumsum(weights)[ends]
    return positive, np.maximum(every - positive, 0.0), scores.probability[order][ends]


def _thin(along: Floats, points: int) -> NDArray[np.int64]:
    """Positions of at most `points` values, evenly spread along a rising coordinate, both ends kept."""
    if len(along) <= points:
        return np.arange(len(along))
    wanted = np.linspace(along[0], along[-1], points)
    return np.unique(np.minimum(np.searchsorted(along, wanted), len(along) - 1))


def _curve(x: Floats, y: Floats, at: Floats) -> Curve:
    return Curve([float(v) for v in x], [float(v) for v in y], [float(v) for v in at])

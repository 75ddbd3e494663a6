"""Predictions beside the truth, and every metric of them under any weights of the rows.

A bootstrap replicate is nothing but another set of row weights, so each class computes its metrics for many sets at once:
what depends on the predictions alone (sort order, losses, bins) is done once. Undefined metrics (an AUC of one class) are NaN.
"""

from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kfp_foundry.components.common.contract import Task

Floats = NDArray[np.float64]
BINS = 15  # of the calibration error, as in Guo et al. 2017, "On Calibration of Modern Neural Networks"
AUC_WORK = 20_000_000  # rows times classes up to which the AUC of each class is computed, once
AUC_WORK_EACH = 200_000  # the same for every one of many sets of weights
TINY = float(np.finfo(np.float64).eps)  # probabilities are kept this far from 0 and 1, as scikit-learn does


class Scores(Protocol):
    """Predictions of one model beside the truth."""

    task: Task
    weights: Floats

    def __len__(self) -> int: ...

    def metrics(self, counts: Floats | None = None, ranking: bool = True) -> dict[str, Floats]:
        """Every metric of the task.

        Args:
            counts: How often each row counts, shape (sets, rows); None: once each.
            ranking: Whether metrics that need the rows in order are among them; they cost the most.

        Returns:
            Metric name to values, shape (sets,); NaN where undefined.
        """
        ...

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """The same for some of the rows."""
        ...


class BinaryScores:
    """Probabilities of the positive class.

    Args:
        truth: Whether each row is positive, shape (rows,).
        probability: Of the positive class, shape (rows,), 0 to 1.
        threshold: Probability from which positive is predicted.
        weights: Weight of each row, shape (rows,); None: all 1.
    """

    task = Task.BINARY

    def __init__(self, truth: NDArray[np.bool_], probability: Floats, threshold: float = 0.5, weights: Floats | None = None) -> None:
        self.truth = np.asarray(truth, dtype=bool)
        self.probability = np.asarray(probability, dtype=np.float64)
        self.threshold = threshold
        self.weights = np.ones(len(self.truth)) if weights is None else np.asarray(weights, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """The same for some of the rows."""
        return type(self)(self.truth[rows], self.probability[rows], self.threshold, self.weights[rows])

    @property
    def predicted(self) -> NDArray[np.bool_]:
        """Whether positive is predicted."""
        return self.probability >= self.threshold

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Rows from the highest probability to the lowest."""
        return np.argsort(-self.probability, kind="stable")

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Positions in `order` at which a run of equal probabilities ends."""
        ordered = self.probability[self.order]
        return np.flatnonzero(np.append(np.diff(ordered) != 0, True)) if len(ordered) else np.zeros(0, dtype=np.int64)

    @cached_property
    def _parts(self) -> Floats:
        """Columns whose weighted sums give all metrics that are means: shape (rows, 6)."""
        truth, predicted, p = self.truth, self.predicted, np.clip(self.probability, TINY, 1 - TINY)
        losses = -np.where(truth, np.log(p), np.log1p(-p))
        parts = (truth & predicted, ~truth & predicted, truth & ~predicted, ~truth & ~predicted, losses, (self.probability - truth) ** 2)
        return np.stack([part.astype(np.float64) for part in parts], axis=1)

    def metrics(self, counts: Floats | None = None, ranking: bool = True) -> dict[str, Floats]:
        """Every metric of a binary model; see `Scores.metrics`."""
        weights = _weights(self.weights, counts)
        tp, fp, fn, tn, loss, squares = (weights @ self._parts).T
        total = weights.sum(axis=1)
        recall, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
        ranked = dict(zip(("auc", "average_precision"), self._ranking(weights), strict=True)) if ranking else {}
        return ranked | {
            "log_loss": _ratio(loss, total),
            "brier": _ratio(squares, total),
            "ece": self._ece(weights, total),
            "accuracy": _ratio(tp + tn, total),
            "balanced_accuracy": (recall + specificity) / 2,
            "f1": _ratio(2 * tp, 2 * tp + fp + fn),
            "precision": _ratio(tp, tp + fp),
            "recall": recall,
            "mcc": _correlation(tp, fp, fn, tn),
        }

    def _ranking(self, weights: Floats) -> tuple[Floats, Floats]:
        """Area under the ROC curve (trapezoids) and average precision (steps), ties counted as one point."""
        if not len(self):
            return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
        positive, every = self._summed(weights)
        precision = np.divide(positive, every, out=np.zeros_like(every), where=every > 0)
        gained = np.diff(positive, axis=1, prepend=0.0)
        return _area(positive, every), _ratio((gained * precision).sum(axis=1), positive[:, -1])

    def area(self, weights: Floats) -> Floats:
        """Area under the ROC curve for each set of weights."""
        return _area(*self._summed(weights)) if len(self) else np.full(len(weights), np.nan)

    def _summed(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weight of the positives, and of all rows, down to each level of probability; shape (sets, levels)."""
        ordered = weights[:, self.order]
        return np.cumsum(ordered * self.truth[self.order], axis=1)[:, self.ends], np.cumsum(ordered, axis=1)[:, self.ends]

    @cached_property
    def _bin_starts(self) -> NDArray[np.int64]:
        """Positions in `order` (reversed: rising) at which the bins of the calibration error begin."""
        rising = self.probability[self.order[::-1]]
        return np.unique(np.searchsorted(rising, np.linspace(0, 1, BINS + 1)[:-1], side="left")[:BINS])

    def _ece(self, weights: Floats, total: Floats) -> Floats:
        starts = self._bin_starts[self._bin_starts < len(self)]
        if not len(starts):
            return np.full(len(weights), np.nan)
        rising = self.order[::-1]
        signed = weights * (self.probability - self.truth)
        return _ratio(np.abs(np.add.reduceat(signed[:, rising], starts, axis=1)).sum(axis=1), total)


class MulticlassScores:
    """Probabilities of three or more classes.

    Args:
        truth: Number of each row's class, shape (rows,).
        probability: Of each class, shape (rows, classes); rows sum to 1.
        predicted: Number of each row's predicted class; None: the most probable.
        weights: Weight of each row, shape (rows,); None: all 1.
    """

    task = Task.MULTICLASS

    def __init__(
        self, truth: NDArray[np.int64], probability: Floats, predicted: NDArray[np.int64] | None = None, weights: Floats | None = None
    ) -> None:
        self.truth = np.asarray(truth, dtype=np.int64)
        self.probability = np.asarray(probability, dtype=np.float64)
        self.predicted = np.asarray(self.probability.argmax(axis=1) if predicted is None else predicted, dtype=np.int64)
        self.weights = np.ones(len(self.truth)) if weights is None else np.asarray(weights, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.probability.shape[1])

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """The same for some of the rows."""
        return type(self)(self.truth[rows], self.probability[rows], self.predicted[rows], self.weights[rows])

    @cached_property
    def _parts(self) -> Floats:
        """Losses, and whether the class is among the two and the three most probable: shape (rows, 3)."""
        own = self.probability[np.arange(len(self)), self.truth]
        before = (self.probability > own[:, None]).sum(axis=1)
        before += ((self.probability == own[:, None]) & (np.arange(self.classes) < self.truth[:, None])).sum(axis=1)
        return np.stack([-np.log(np.clip(own, TINY, 1.0)), before < 2, before < 3], axis=1).astype(np.float64)

    @property
    def losses(self) -> Floats:
        """Each row's log loss."""
        return self._parts[:, 0]

    @cached_property
    def _versus_rest(self) -> list[BinaryScores]:
        return [BinaryScores(self.truth == k, self.probability[:, k], weights=self.weights) for k in range(self.classes)]

    def metrics(self, counts: Floats | None = None, ranking: bool = True) -> dict[str, Floats]:
        """Every metric of a multiclass model; see `Scores.metrics`. Classes without a row do not count in means over classes."""
        weights = _weights(self.weights, counts)
        total = weights.sum(axis=1)
        hit = self.predicted == self.truth
        right, support, chosen = (
            self._per_class(weights * hit, self.truth),
            self._per_class(weights, self.truth),
            self._per_class(weights, self.predicted),
        )
        f1 = np.divide(2 * right, support + chosen, out=np.full_like(right, np.nan), where=support + chosen > 0)
        recall = np.divide(right, support, out=np.full_like(right, np.nan), where=support > 0)
        loss, top_2, top_3 = (weights @ self._parts).T
        found = {
            "accuracy": _ratio(right.sum(axis=1), total),
            "balanced_accuracy": _mean(recall),
            "f1_macro": _mean(f1),
            "f1_weighted": _ratio(np.nansum(f1 * support, axis=1), total),
            "log_loss": _ratio(loss, total),
            "top_2": _ratio(top_2, total),
        }
        ranked = {"auc_ovr": self._auc(weights, AUC_WORK if counts is None else AUC_WORK_EACH)} if ranking else {}
        return found | ranked | ({"top_3": _ratio(top_3, total)} if self.classes > 3 else {})

    def _per_class(self, weights: Floats, classes: NDArray[np.int64]) -> Floats:
        """Sums of weights by class, shape (sets, classes)."""
        return np.stack([np.bincount(classes, weights=each, minlength=self.classes) for each in weights]).astype(np.float64)

    def _auc(self, weights: Floats, work: int) -> Floats:
        if len(self) * self.classes > work:
            return np.full(len(weights), np.nan)
        return _mean(np.stack([each.area(weights) for each in self._versus_rest], axis=1))


class RegressionScores:
    """Predicted numbers.

    Args:
        truth: The true values, shape (rows,).
        predicted: The predicted ones, shape (rows,).
        weights: Weight of each row, shape (rows,); None: all 1.
    """

    task = Task.REGRESSION

    def __init__(self, truth: Floats, predicted: Floats, weights: Floats | None = None) -> None:
        self.truth = np.asarray(truth, dtype=np.float64)
        self.predicted = np.asarray(predicted, dtype=np.float64)
        self.weights = np.ones(len(self.truth)) if weights is None else np.asarray(weights, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Self:
        """The same for some of the rows."""
        return type(self)(self.truth[rows], self.predicted[rows], self.weights[rows])

    @property
    def errors(self) -> Floats:
        """Predicted minus true."""
        return self.predicted - self.truth

    @cached_property
    def _parts(self) -> Floats:
        """Columns whose weighted sums give the metrics that are means: shape (rows, 6)."""
        error, centred = self.errors, self.truth - (self.truth.mean() if len(self) else 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = np.abs(error) / np.abs(self.truth) if len(self) and (self.truth != 0).all() else np.full(len(self), np.nan)
        return np.stack([error**2, np.abs(error), error, centred, centred**2, relative], axis=1)

    @cached_property
    def _by_size(self) -> NDArray[np.int64]:
        return np.argsort(np.abs(self.errors), kind="stable")

    def metrics(self, counts: Floats | None = None, ranking: bool = True) -> dict[str, Floats]:
        """Every metric of a regression; see `Scores.metrics`."""
        weights = _weights(self.weights, counts)
        total = weights.sum(axis=1)
        squares, sizes, signed, level, spread, relative = (weights @ self._parts).T
        found = {
            "rmse": np.sqrt(_ratio(squares, total)),
            "mae": _ratio(sizes, total),
            "medae": self._median(weights, total),
            "r2": 1 - _ratio(squares, spread - _ratio(level**2, total)),
            "bias": _ratio(signed, total),
        }
        return found if np.isnan(relative).all() else found | {"mape": _ratio(relative, total)}

    def _median(self, weights: Floats, total: Floats) -> Floats:
        """Weighted median of the absolute errors; the mean of the two middle ones where exactly half the weight lies below."""
        if not len(self):
            return np.full(len(weights), np.nan)
        sizes = np.abs(self.errors)[self._by_size]
        summed = np.cumsum(weights[:, self._by_size], axis=1)
        half = total[:, None] / 2
        at, after = (summed >= half * (1 - 1e-12)).argmax(axis=1), (summed > half * (1 + 1e-12)).argmax(axis=1)
        return np.where(total > 0, (sizes[at] + sizes[after]) / 2, np.nan)


def of(task: Task, truth: NDArray[np.generic], values: Floats, weights: Floats | None = None) -> Scores:
    """Predictions of a task beside the truth.

    Args:
        task: What was predicted.
        truth: Numbers of the true labels (binary: 1 is the positive one), or true values, shape (rows,).
        values: Probabilities of the positive class (rows,) or of all classes (rows, classes), or predicted values (rows,).
        weights: Weight of each row, shape (rows,); None: all 1.
    """
    if task is Task.REGRESSION:
        return RegressionScores(truth.astype(np.float64), values, weights)
    if task is Task.BINARY:
        return BinaryScores(truth.astype(bool), values, weights=weights)
    return MulticlassScores(truth.astype(np.int64), values, weights=weights)


def _weights(weights: Floats, counts: Floats | None) -> Floats:
    if counts is None:
        return weights[None, :]
    return counts if (weights == 1).all() else counts * weights


def _area(positive: Floats, every: Floats) -> Floats:
    """Trapezoids: a row is worth the positives above it and half of those beside it."""
    negative = np.diff(every - positive, axis=1, prepend=0.0)
    above = positive - np.diff(positive, axis=1, prepend=0.0) / 2
    return _ratio((negative * above).sum(axis=1), positive[:, -1] * (every - positive)[:, -1])


def _correlation(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    """Matthews correlation; 0, its limit, where all rows are predicted alike, and NaN where all are of one class."""
    size = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    alike = ((tp + fp == 0) | (tn + fn == 0)) & (tp + fn > 0) & (tn + fp > 0)
    return np.where(alike, 0.0, _ratio(tp * tn - fp * fn, size))


def _ratio(above: Floats, below: Floats) -> Floats:
    quotient: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=np.asarray(below) > 0)
    return quotient


def _mean(values: Floats) -> Floats:
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=1), there.sum(axis=1).astype(np.float64))

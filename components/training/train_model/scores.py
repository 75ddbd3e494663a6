"""A few metrics on the validation rows, to compare trainings by; the evaluation step measures on test rows, with intervals."""

import numpy as np

from kfp_foundry.components.common.contract import Task


def measure(task: Task, target: np.ndarray, values: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
    """Metrics by name; one that the rows do not define (an AUC of a single class) is left out.

    Args:
        task: What was predicted.
        target: Positions of the true labels [rows], or true values.
        values: Probabilities of the positive class [rows] or of all classes [rows, classes], or predicted values [rows].
        weights: Sample weights [rows] or None.
    """
    from sklearn import metrics

    if weights is not None and not weights.any():
        return {}
    found: dict[str, float] = {}
    if task is Task.REGRESSION:
        found["rmse"] = float(metrics.root_mean_squared_error(target, values, sample_weight=weights))
        found["mae"] = float(metrics.mean_absolute_error(target, values, sample_weight=weights))
        if len(np.unique(target)) > 1:
            found["r2"] = float(metrics.r2_score(target, values, sample_weight=weights))
    elif task is Task.BINARY:
        found["log_loss"] = float(metrics.log_loss(target, values, sample_weight=weights, labels=[0, 1]))
        found["accuracy"] = float(metrics.accuracy_score(target, values >= 0.5, sample_weight=weights))
        found["brier"] = float(np.average((values - target) ** 2, weights=weights))
        if len(np.unique(target)) == 2:
            found["auc"] = float(metrics.roc_auc_score(target, values, sample_weight=weights))
            found["average_precision"] = float(metrics.average_precision_score(target, values, sample_weight=weights))
    else:
        found["log_loss"] = float(metrics.log_loss(target, values, sample_weight=weights, labels=range(values.shape[1])))
        found["accuracy"] = float(metrics.accuracy_score(target, values.argmax(axis=1), sample_weight=weights))
        found["f1_macro"] = float(metrics.f1_score(target, values.argmax(axis=1), average="macro", sample_weight=weights, zero_division=0))
    return {name: value for name, value in found.items() if np.isfinite(value)}

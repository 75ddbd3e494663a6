"""Fits a calibrator on validation rows."""

import numpy as np

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import DataError, UserError, close_names
from kfp_foundry.components.common.onnx.calibration import Calibrator, Isotonic, Sigmoid

METHODS = ("sigmoid", "isotonic")


def check(method: str, task: Task) -> None:
    """Refuses what cannot be done before anything is fitted.

    Raises:
        UserError: Unknown method, or a task that is not binary.
    """
    if method and method not in METHODS:
        raise UserError(f"calibration is {method!r}", where="training", remedy=close_names(method, list(METHODS)))
    if method and task is not Task.BINARY:
        raise UserError(
            f"calibration is {method!r}, but the task is {task}", where="training", remedy="leave it empty: only binary models are calibrated"
        )


def fit(method: str, scores: np.ndarray, target: np.ndarray, weights: np.ndarray | None) -> Calibrator:
    """Fits on raw scores [rows] and the target [rows] of 0 and 1.

    Raises:
        DataError: The validation rows do not hold both classes.
    """
    if len(np.unique(target)) < 2:
        raise DataError(
            "the validation rows do not hold both classes", where="calibration", remedy="raise validation_share, or leave calibration empty"
        )
    own = np.ones(len(target)) if weights is None else weights
    return _sigmoid(scores, target, own) if method == "sigmoid" else _isotonic(scores, target, own)


def _sigmoid(scores: np.ndarray, target: np.ndarray, weights: np.ndarray) -> Sigmoid:
    from sklearn.linear_model import LogisticRegression

    # Platt's targets, a little inside 0 and 1 so that separable rows give no infinite slope: each row counts for both classes.
    positive, negative = weights[target == 1].sum(), weights[target == 0].sum()
    soft = np.where(target == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    centre, unit = float(scores.mean()), float(scores.std()) or 1.0
    standard = np.tile((scores - centre) / unit, 2)[:, np.newaxis]
    classes = np.repeat([1, 0], len(scores))
    model = LogisticRegression(C=1e6, tol=1e-10, max_iter=1000).fit(standard, classes, np.concatenate([weights * soft, weights * (1 - soft)]))
    slope = float(model.coef_[0, 0]) / unit
    return Sigmoid(slope=slope, intercept=float(model.intercept_[0]) - slope * centre)


def _isotonic(scores: np.ndarray, target: np.ndarray, weights: np.ndarray) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, target.astype(np.float64), sample_weight=weights)
    knots, heights = np.asarray(model.X_thresholds_, dtype=np.float64), np.asarray(model.y_thresholds_, dtype=np.float64)
    return Isotonic(scores=knots.tolist(), probabilities=heights.tolist())

"""Fits scikit-learn's histogram gradient boosting (https://scikit-learn.org/stable/modules/ensemble.html#histogram-based-gradient-boosting)."""

import io
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning.learner import Fitted, Job
from kfp_foundry.components.common.onnx import hist_gradient_trees
from kfp_foundry.components.common.onnx.heads import Link

NOTHING = "No round of boosting made the validation loss smaller, so every row gets the same prediction: the features tell nothing."
EXPONENTIAL = ("poisson", "gamma")  # losses whose scores are logarithms


def fit(job: Job) -> Fitted:
    """Fits boosted trees, with native categories; with early stopping the rounds up to the best one are kept.

    Raises:
        UserError: scikit-learn refuses a parameter's value.
    """
    make = HistGradientBoostingRegressor if job.task is Task.REGRESSION else HistGradientBoostingClassifier
    held: dict[str, Any] = {"early_stopping": False}
    rows: dict[str, Any] = {}
    if job.stops_early:
        held = {"early_stopping": True, "n_iter_no_change": job.early_stopping_rounds, "scoring": "loss"}
        rows = {"X_val": job.validation.matrix, "y_val": job.validation.target, "sample_weight_val": job.validation.weights}
    categorical = np.isin(np.arange(job.train.matrix.shape[1]), job.categorical)
    fixed = {"categorical_features": categorical if categorical.any() else None, "monotonic_cst": job.monotone or None, "random_state": job.seed}
    try:
        model = make(**job.params, **fixed, **held).fit(job.train.matrix, job.train.target, sample_weight=job.train.weights, **rows)
    except (ValueError, TypeError) as error:
        raise UserError(f"scikit-learn refuses: {str(error).splitlines()[0]}", where="training", remedy="correct `params` or `monotone`") from error
    if job.stops_early:
        model._predictors = model._predictors[: int(np.argmax(model.validation_score_))]  # score 0 is before the first round
    trees, baseline = model._predictors, np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    return Fitted(
        scores=lambda matrix: _scores(model, matrix),
        emit=lambda graph, matrix: hist_gradient_trees.emit(graph, matrix, trees, baseline),
        link=_link(job),
        native={"trees.npz": _arrays(trees, baseline)},
        importance=_gains(trees, job.train.matrix.shape[1]),
        curve={"train": _losses(model.train_score_), "validation": _losses(model.validation_score_)} if job.stops_early else {},
        loss=str(model.loss),
        rounds=len(trees),
        notes=() if trees else (NOTHING,),
    )


def _scores(model: Any, matrix: np.ndarray) -> np.ndarray:
    scores = np.asarray(model._raw_predict(matrix))
    return scores[:, 0] if scores.shape[1] == 1 else scores


def _link(job: Job) -> Link:
    if job.task is Task.REGRESSION:
        return "exp" if job.params.get("loss") in EXPONENTIAL else "identity"
    return "sigmoid" if job.task is Task.BINARY else "softmax"


def _losses(scores: np.ndarray) -> list[float]:
    return [float(-score) for score in scores[1:]]


def _gains(rounds: list[list[Any]], columns: int) -> np.ndarray:
    gains = np.zeros(columns)
    for trees in rounds:
        for tree in trees:
            inner = tree.nodes[tree.nodes["is_leaf"] == 0]
            np.add.at(gains, inner["feature_idx"], np.maximum(inner["gain"], 0.0))
    return gains


def _arrays(rounds: list[list[Any]], baseline: np.ndarray) -> bytes:
    """The trees as plain arrays: `nodes_<round>_<class>`, the sets of their categorical splits, and the baseline."""
    arrays = {"baseline": baseline}
    for number, trees in enumerate(rounds):
        for target, tree in enumerate(trees):
            arrays[f"nodes_{number}_{target}"] = tree.nodes
            arrays[f"sets_{number}_{target}"] = tree.raw_left_cat_bitsets
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()

"""Fits logistic and ridge regression."""

import json
import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning.learner import Fitted, Job
from kfp_foundry.components.common.onnx.graph import Graph
from kfp_foundry.components.common.onnx.heads import Link

LINKS: dict[Task, Link] = {Task.BINARY: "sigmoid", Task.MULTICLASS: "softmax", Task.REGRESSION: "identity"}


def fit(job: Job) -> Fitted:
    """Fits coefficients on standardised columns.

    Raises:
        UserError: scikit-learn refuses a parameter's value.
    """
    make = Ridge if job.task is Task.REGRESSION else LogisticRegression
    train = job.train
    try:
        # One BLAS thread: with more the sums, and so the coefficients' last bits, depend on how many there are.
        with threadpool_limits(1, user_api="blas"), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model = make(**job.params, random_state=job.seed).fit(train.matrix, train.target, sample_weight=train.weights)
    except (ValueError, TypeError) as error:
        raise UserError(f"scikit-learn refuses: {str(error).splitlines()[0]}", where="training", remedy="correct `params`") from error
    coefficients, intercepts = np.atleast_2d(model.coef_), np.atleast_1d(np.asarray(model.intercept_, dtype=np.float64))
    if len(intercepts) != len(coefficients):
        intercepts = np.repeat(intercepts, len(coefficients))
    stopped = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    note = f"The solver stopped after {job.params.get('max_iter')} iterations before it converged: raise max_iter."
    return Fitted(
        scores=lambda matrix: _scores(matrix, coefficients, intercepts),
        emit=lambda graph, matrix: _emit(graph, matrix, coefficients, intercepts),
        link=LINKS[job.task],
        native={"linear.json": _json({"coefficients": coefficients.tolist(), "intercepts": intercepts.tolist()})},
        importance=np.abs(coefficients).mean(axis=0) * train.matrix.std(axis=0),
        notes=(note,) if stopped else (),
    )


def _scores(matrix: np.ndarray, coefficients: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
    scores = matrix @ coefficients.T + intercepts
    return np.asarray(scores[:, 0] if len(coefficients) == 1 else scores)


def _emit(graph: Graph, matrix: str, coefficients: np.ndarray, intercepts: np.ndarray) -> str:
    return graph.op("Add", graph.op("MatMul", matrix, graph.doubles(coefficients.T)), graph.doubles([intercepts]))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()

"""Fits LightGBM. Reference: Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree (NeurIPS 2017)."""

import re
from typing import Any

import lightgbm as lgb
import numpy as np

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning.learner import Examples, Fitted, Job
from kfp_foundry.components.common.onnx import lightgbm_trees
from kfp_foundry.components.common.onnx.heads import Link

LOSSES = {Task.BINARY: ("binary", "binary_logloss"), Task.MULTICLASS: ("multiclass", "multi_logloss"), Task.REGRESSION: ("regression", "l2")}
# The loss is summed by threads, so its last bits depend on how many there are: neither the round that is kept nor the page may.
NO_GAIN = 1e-12
EXPONENTIAL = ("poisson", "gamma", "tweedie")  # objectives whose scores are logarithms


def fit(job: Job) -> Fitted:
    """Fits boosted trees, with native categories.

    Raises:
        UserError: LightGBM refuses a parameter's value.
    """
    objective, metric = LOSSES[job.task]
    objective = job.params.get("objective", objective)
    metric = objective if job.task is Task.REGRESSION else metric
    curve: dict[str, dict[str, list[float]]] = {}
    callbacks = [lgb.record_evaluation(curve)]
    if job.stops_early and job.params.get("boosting") != "dart":  # dart changes earlier trees, so no earlier round can be kept
        callbacks.append(lgb.early_stopping(job.early_stopping_rounds, verbose=False, min_delta=NO_GAIN))
    train = _dataset(job.train, job)
    sets, names = [train], ["train"]
    if len(job.validation):
        sets, names = [_dataset(job.validation, job, train)], ["validation"]
    try:
        booster = lgb.train(
            _settings(job, objective, metric), train, job.params["num_iterations"], valid_sets=sets, valid_names=names, callbacks=callbacks
        )
    except (lgb.basic.LightGBMError, ValueError, TypeError) as error:
        reason = re.sub(r" at \S+, line \d+ \.", "", str(error)).strip()  # without the place in the library's source
        raise UserError(f"LightGBM refuses: {reason}", where="training", remedy="correct `params`") from error
    rounds = booster.best_iteration if booster.best_iteration > 0 else booster.current_iteration()
    text = _text(booster, rounds)
    kept = lgb.Booster(model_str=text)
    return Fitted(
        scores=lambda matrix: np.asarray(kept.predict(matrix, raw_score=True, num_threads=job.threads)),
        emit=lambda graph, matrix: lightgbm_trees.forest(kept.dump_model()).emit(graph, matrix, targets=kept.num_model_per_iteration()),
        link=_link(job.task, objective),
        native={"model.txt": text.encode()},
        importance=np.asarray(kept.feature_importance("gain"), dtype=np.float64),
        curve={name: [float(f"{value:.12g}") for value in values[metric]] for name, values in curve.items() if metric in values},
        loss=metric,
        rounds=int(rounds),
    )


def _dataset(examples: Examples, job: Job, reference: lgb.Dataset | None = None) -> lgb.Dataset:
    return lgb.Dataset(
        examples.matrix, examples.target, weight=examples.weights, reference=reference, categorical_feature=job.categorical, free_raw_data=False
    )


def _settings(job: Job, objective: str, metric: str) -> dict[str, Any]:
    settings = {name: value for name, value in job.params.items() if name not in ("num_iterations", "objective")}
    # force_row_wise with deterministic: the same trees whatever the number of threads.
    settings |= {"objective": objective, "metric": metric, "seed": job.seed, "deterministic": True, "force_row_wise": True}
    settings |= {"num_threads": job.threads, "verbosity": -1, "feature_pre_filter": False}
    if job.task is Task.MULTICLASS:
        settings["num_class"] = job.classes
    if any(job.monotone):
        settings["monotone_constraints"] = job.monotone
    return settings


def _text(booster: lgb.Booster, rounds: int) -> str:
    lines = booster.model_to_string(num_iteration=rounds).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("[num_threads:"))  # the one line that depends on the machine


def _link(task: Task, objective: str) -> Link:
    if task is Task.REGRESSION:
        return "exp" if objective in EXPONENTIAL else "identity"
    return "sigmoid" if task is Task.BINARY else "softmax"

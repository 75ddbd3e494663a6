"""Fits LightGBM. Reference: Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree (NeurIPS 2017)."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np

from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.learning.learner import Examples, Fitted, Job, Watch
from kfp_foundry.components.common.onnx import lightgbm_trees
from kfp_foundry.components.common.onnx.heads import Link

LOSSES = {Task.BINARY: ("binary", "binary_logloss"), Task.MULTICLASS: ("multiclass", "multi_logloss"), Task.REGRESSION: ("regression", "l2")}
# The loss is summed by threads, so its last bits depend on how many there are: neither the round that is kept nor the page may.
NO_GAIN = 1e-12
EVALUATED = {"regression": "l2", "regression_l1": "l1"}  # objectives whose loss has another name
# What decides how columns are binned, of the parameters that may be set. Everything else that the library bins by (rows, categories,
# seed, the handling of missing values) is the same for all fits of one preparation.
BINNING = ("bin_construct_sample_cnt", "enable_bundle", "max_bin", "min_data_in_bin")
KEPT = 4  # binned tables, an eighth of the matrix each, where a search changes how columns are binned
EXPONENTIAL = ("poisson", "gamma", "tweedie")  # objectives whose scores are logarithms


def fit(job: Job) -> Fitted:
    """Fits boosted trees, with native categories.

    Raises:
        UserError: LightGBM refuses a parameter's value.
    """
    objective, metric = LOSSES[job.task]
    objective = job.params.get("objective", objective)
    metric = EVALUATED.get(objective, objective) if job.task is Task.REGRESSION else metric
    curve: dict[str, dict[str, list[float]]] = {}
    callbacks = [lgb.record_evaluation(curve)]
    if job.stops_early and job.params.get("boosting") != "dart":  # dart changes earlier trees, so no earlier round can be kept
        callbacks.append(lgb.early_stopping(job.early_stopping_rounds, verbose=False, min_delta=NO_GAIN))
    train, validation = _tables(job)
    sets, names = ([train], ["train"]) if validation is None else ([validation], ["validation"])
    looking = _looker(job.watch) if job.watch is not None and validation is not None else None
    settings, rounds = _settings(job, objective, metric), job.params["num_iterations"]
    try:
        booster = lgb.train(settings, train, rounds, valid_sets=sets, valid_names=names, feval=looking, callbacks=callbacks)
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


def _tables(job: Job) -> tuple[lgb.Dataset, lgb.Dataset | None]:
    """The binned training and validation rows; those of an earlier fit where that binned the same rows by the same words."""
    key = ("lightgbm", job.seed, *((name, job.params.get(name)) for name in BINNING))
    if job.shared is not None and key in job.shared:
        kept: tuple[lgb.Dataset, lgb.Dataset | None] = job.shared[key]
        return kept
    train = _dataset(job.train, job)
    made = train, _dataset(job.validation, job, train) if len(job.validation) else None
    if job.shared is not None:
        if len(job.shared) >= KEPT:
            del job.shared[next(iter(job.shared))]
        job.shared[key] = made
    return made


def _looker(watch: Watch) -> Callable[[np.ndarray, lgb.Dataset], list[tuple[str, float, bool]]]:
    """Shows each round's predictions to `watch`, as an evaluation that adds no metric and so cannot end the boosting."""
    rounds = itertools.count(1)

    def look(values: np.ndarray, _: lgb.Dataset) -> list[tuple[str, float, bool]]:
        watch(next(rounds), lambda: values)
        return []

    return look


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

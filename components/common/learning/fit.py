"""From two tables to a model that passed the parity gate, in three parts: prepare the rows, learn, finish.

A search prepares once and learns many times; a training does each once. So a tuned model equals a trained one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import Label, Parity
from kfp_foundry.components.common.contract import Contract, Role, Task, Type
from kfp_foundry.components.common.errors import PlatformError, UserError, close_names
from kfp_foundry.components.common.learning import calibrate, data, parameters
from kfp_foundry.components.common.learning.data import Part
from kfp_foundry.components.common.learning.encode import fit_plan
from kfp_foundry.components.common.learning.export import Trained, gate, to_onnx
from kfp_foundry.components.common.learning.learner import Examples, Fitted, Job
from kfp_foundry.components.common.metrics import scores
from kfp_foundry.components.common.onnx import heads
from kfp_foundry.components.common.onnx.encoding import Plan

Rows = tuple[pl.DataFrame, pl.Series]  # features and weight, target: what `data.read` gives

MEASURED = {
    Task.BINARY: ("log_loss", "accuracy", "brier", "auc", "average_precision"),
    Task.MULTICLASS: ("log_loss", "accuracy", "f1_macro"),
    Task.REGRESSION: ("rmse", "mae", "r2"),
}

FREE = {"linear": "a linear model", "residual_mlp": "a network"}  # algorithms that take no monotone constraints


@dataclass(frozen=True)
class Options:
    """What decides a training besides its rows; `train_model`'s parameters of the same names say what they mean."""

    algorithm: str = "lightgbm"
    params: Mapping[str, Any] = field(default_factory=dict)
    class_weight: str = ""
    calibration: str = ""
    monotone: Mapping[str, int] = field(default_factory=dict)
    early_stopping_rounds: int = 50
    seed: int = 7


@dataclass(frozen=True)
class Prepared:
    """Rows in the form that a learner takes, and what is needed to make a model of what it learned.

    Args:
        contract: Says the task and the roles.
        options: The training's.
        labels: The classes; empty for a regression.
        train: The training rows.
        validation: Rows for early stopping, calibration and metrics; may be empty.
        plan: From raw columns to the matrix.
        job: What the learner is given; its `params` are checked and completed.
    """

    contract: Contract
    options: Options
    labels: list[Label]
    train: Part
    validation: Part
    plan: Plan
    job: Job

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.job.task


@dataclass(frozen=True)
class Result:
    """A trained model that passed the parity gate."""

    trained: Trained
    onnx: bytes
    outputs: list[str]
    params: dict[str, Any]
    parity: Parity
    metrics: dict[str, float]
    importance: dict[str, float]
    train: Part
    validation: Part


def fit(train: DatasetFolder, validation: DatasetFolder, contract: Contract, options: Options) -> Result:
    """Trains a model and holds its graph against it.

    Args:
        train: Rows to fit on.
        validation: Rows for early stopping, calibration, metrics and the parity gate.
        contract: Says the task and the roles.
        options: The training's parameters.

    Raises:
        UserError: A parameter is wrong.
        DataError: The rows cannot be learned from.
        FoundryError: The graph differs from the model.
    """
    prepared = prepare(train, validation, contract, options)
    return finish(prepared, learn(options.algorithm, prepared.job))


def prepare(train: DatasetFolder, validation: DatasetFolder, contract: Contract, options: Options) -> Prepared:
    """Reads and encodes the rows; what is learned from the training rows alone (labels, codes, scaling) is learned here.

    Raises:
        UserError: A parameter is wrong.
        DataError: The rows cannot be learned from.
    """
    params = check(contract, options)
    rows = data.read(train.scan(), contract, f"train rows {train.path.name}")
    labels = data.find_labels(rows[1], contract)
    held = data.read(validation.scan(), contract, f"validation rows {validation.path.name}")
    return replace(assemble(rows, held, labels, contract, replace(options, params=params)), options=options)


def check(contract: Contract, options: Options) -> dict[str, Any]:
    """The options' params, completed, once it is clear without a row that the options suit the contract.

    Raises:
        UserError: They do not.
    """
    task = contract.task or Task.REGRESSION
    data.target_of(contract)
    params = parameters.complete(options.algorithm, options.params, task, options.early_stopping_rounds)
    calibrate.check(options.calibration, task)
    data.check_balance(options.class_weight, contract.is_classification)
    if options.early_stopping_rounds < 0:
        raise UserError(f"early_stopping_rounds is {options.early_stopping_rounds}", where="training", remedy="give 0 for never, or more")
    return params


def assemble(rows: Rows, held_rows: Rows, labels: list[Label], contract: Contract, options: Options) -> Prepared:
    """Encodes rows that have been read.

    Args:
        rows: The rows to fit on, as `data.read` gives them.
        held_rows: The validation rows.
        labels: The classes; empty for a regression.
        contract: Says the task and the roles.
        options: The training's, with params that are checked and completed.

    Raises:
        UserError: A parameter is wrong.
        DataError: The rows cannot be learned from.
    """
    params = dict(options.params)
    learned = data.part(*rows, contract, labels, "train rows")
    held = data.part(*held_rows, contract, labels, "validation rows")
    plan = fit_plan(learned, contract, options.algorithm, params.get("max_bins", 255))
    train_weights = data.balance(learned, options.class_weight, len(labels))
    held_weights = data.balance(held, options.class_weight, len(labels)) if len(held) else None
    job = Job(
        task=contract.task or Task.REGRESSION,
        classes=len(labels),
        train=Examples(plan.matrix(learned.feed), learned.target, train_weights),
        validation=Examples(plan.matrix(held.feed), held.target, held_weights),
        categorical=[] if plan.one_hot else list(range(len(plan.categories))),
        monotone=monotone_directions(options, contract, plan.sources),
        params=params,
        early_stopping_rounds=options.early_stopping_rounds,
        seed=options.seed,
        threads=platform.cpus(),
    )
    return Prepared(contract, options, labels, learned, held, plan, job)


def with_params(prepared: Prepared, params: Mapping[str, Any]) -> Prepared:
    """The same rows with other parameters of the algorithm, checked and completed.

    Raises:
        UserError: A parameter is unknown, or one that decides how rows are encoded.
    """
    if "max_bins" in params and params["max_bins"] != prepared.job.params.get("max_bins"):
        raise UserError("max_bins decides how the rows are encoded", where="training", remedy="give it in `params`, it cannot be searched over")
    complete = parameters.complete(prepared.options.algorithm, params, prepared.task, prepared.options.early_stopping_rounds)
    return replace(prepared, job=replace(prepared.job, params=complete))


def learn(algorithm: str, job: Job) -> Fitted:
    """Fits with the library that has the algorithm."""
    # Imported where needed: each library costs up to a second, and a run needs one of them.
    if algorithm == "lightgbm":
        from kfp_foundry.components.common.learning import fit_lightgbm

        return fit_lightgbm.fit(job)
    if algorithm == "hist_gradient_boosting":
        from kfp_foundry.components.common.learning import fit_hist_gradient_boosting

        return fit_hist_gradient_boosting.fit(job)
    if algorithm == "residual_mlp":
        try:
            import torch  # noqa: F401
        except ImportError as error:
            remedy = "pip install 'kfp-foundry[torch]', or use the image with torch"
            raise PlatformError("PyTorch is not installed", where="training residual_mlp", remedy=remedy) from error
        from kfp_foundry.components.common.learning import fit_network

        return fit_network.fit(job)
    from kfp_foundry.components.common.learning import fit_linear

    return fit_linear.fit(job)


def finish(prepared: Prepared, fitted: Fitted) -> Result:
    """Calibrates, makes the graph, holds it against the model and measures it.

    Raises:
        DataError: The rows cannot be calibrated on.
        FoundryError: The graph differs from the model.
    """
    held, job = prepared.validation, prepared.job
    calibrator = None
    if prepared.options.calibration:
        calibrator = calibrate.fit(prepared.options.calibration, fitted.scores(job.validation.matrix), held.target, held.weights)
    contract, plan = prepared.contract, prepared.plan
    trained = Trained(prepared.task, prepared.labels, contract.features, plan, fitted, calibrator)
    onnx, outputs = to_onnx(trained)
    spread = float(np.std(prepared.train.target)) if prepared.task is Task.REGRESSION else 1.0
    parity = gate(trained, onnx, outputs, (held if len(held) else prepared.train).feed, spread)
    measured = measure(prepared.task, held.target, trained.values(job.validation.matrix), held.weights) if len(held) else {}
    importance = _importance(fitted, plan.sources, contract.features)
    return Result(trained, onnx, outputs, job.params, parity, measured, importance, prepared.train, held)


def score(prepared: Prepared, fitted: Fitted) -> dict[str, float]:
    """The metrics on the validation rows that `finish` gives for the same model without calibration, to the last bit."""
    held = prepared.validation
    values = heads.apply_link(fitted.scores(prepared.job.validation.matrix), fitted.link)
    return measure(prepared.task, held.target, values, held.weights)


def measure(task: Task, target: np.ndarray, values: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
    """A few metrics on the validation rows, to compare trainings by; see `scores.of`. One that the rows do not define is left out."""
    found = scores.of(task, target, values, weights).metrics()
    return {name: float(found[name][0]) for name in MEASURED[task] if np.isfinite(found[name][0])}


def monotone_directions(options: Options, contract: Contract, sources: list[str]) -> list[int]:
    """One direction per column of the matrix; empty without constraints."""
    numeric = [f.name for f in contract.fields if f.role is Role.FEATURE and f.type in (Type.INTEGER, Type.NUMBER, Type.BOOLEAN, Type.TIME)]
    for name, direction in options.monotone.items():
        if name not in numeric:
            raise UserError(f"monotone names {name!r}, which is no numeric feature", where="training", remedy=close_names(name, numeric))
        if direction not in (-1, 0, 1):
            raise UserError(f"monotone gives {name!r} the direction {direction}", where="training", remedy="give 1 (rising), -1 (falling) or 0")
    if options.monotone and options.algorithm in FREE:
        raise UserError(
            f"{FREE[options.algorithm]} takes no monotone constraints", where="training", remedy="choose lightgbm or hist_gradient_boosting"
        )
    return [int(options.monotone.get(source, 0)) for source in sources] if any(options.monotone.values()) else []


def _importance(fitted: Fitted, sources: list[str], features: list[str]) -> dict[str, float]:
    total = float(fitted.importance.sum()) or 1.0
    sums = dict.fromkeys(features, 0.0)
    for source, weight in zip(sources, fitted.importance, strict=True):
        sums[source] += float(weight) / total
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

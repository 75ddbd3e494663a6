"""Training: fit, export, compare with the export, and only then write."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder, ModelRecord, Parity
from kfp_foundry.components.common.contract import Contract, Role, Task, Type
from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.components.common.metrics import scores
from kfp_foundry.components.common.step import step
from kfp_foundry.components.training.train_model import calibrate, data, parameters
from kfp_foundry.components.training.train_model.data import Part
from kfp_foundry.components.training.train_model.encode import fit_plan
from kfp_foundry.components.training.train_model.export import Trained, gate, to_onnx
from kfp_foundry.components.training.train_model.learner import Examples, Fitted, Job
from kfp_foundry.components.training.train_model.page import page

log = logging.getLogger(__name__)

MEASURED = {
    Task.BINARY: ("log_loss", "accuracy", "brier", "auc", "average_precision"),
    Task.MULTICLASS: ("log_loss", "accuracy", "f1_macro"),
    Task.REGRESSION: ("rmse", "mae", "r2"),
}

LIBRARIES = {
    "lightgbm": ("lightgbm", "numpy", "onnx", "onnxruntime", "polars"),
    "hist_gradient_boosting": ("scikit-learn", "numpy", "onnx", "onnxruntime", "polars"),
    "linear": ("scikit-learn", "numpy", "scipy", "onnx", "onnxruntime", "polars"),
}


@dataclass(frozen=True)
class Options:
    """The step's parameters; see `component.py` for what they mean."""

    algorithm: str = "lightgbm"
    params: Mapping[str, Any] = field(default_factory=dict)
    class_weight: str = ""
    calibration: str = ""
    monotone: Mapping[str, int] = field(default_factory=dict)
    early_stopping_rounds: int = 50
    seed: int = 7


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


@step
def run(train: Artifact, validation: Artifact, contract: Artifact, model: Artifact, metrics: Artifact, report: Artifact, **options: Any) -> None:
    """Reads the artifacts, trains, and writes the Model, its metrics on the validation rows and the report."""
    chosen = Options(**options)
    words = Contract.load(contract.path)
    tables = {"train": DatasetFolder.open(train), "validation": DatasetFolder.open(validation)}
    result = fit(tables["train"], tables["validation"], words, chosen)
    record = describe(result, words, chosen, tables)
    page(record, result.trained, words).save(report.path)
    publish(model, result, record, words)
    metrics.metadata.update(result.metrics)
    log.info("trained %s on %s rows: %s", chosen.algorithm, f"{len(result.train):,}", result.metrics)


def describe(result: Result, contract: Contract, options: Options, tables: Mapping[str, DatasetFolder]) -> ModelRecord:
    """The record of a training: what it was made of, how, and how good it is."""
    return ModelRecord(
        algorithm=options.algorithm,
        task=result.trained.task,
        target=data.target_of(contract),
        labels=result.trained.labels,
        outputs=result.outputs,
        params=result.params,
        options={name: value for name, value in asdict(options).items() if name not in ("algorithm", "params", "seed")},
        seed=options.seed,
        rounds=result.trained.fitted.rounds,
        rows={"train": len(result.train), "validation": len(result.validation), "dropped": result.train.dropped + result.validation.dropped},
        fingerprints={name: table.facts.fingerprint for name, table in tables.items()},
        metrics=result.metrics,
        importance=result.importance,
        parity=result.parity,
        versions={name: version(name) for name in LIBRARIES[options.algorithm]},
    )


def publish(model: Artifact, result: Result, record: ModelRecord, contract: Contract) -> None:
    """Writes the Model; its contract names the positive label even if the given one left it open."""
    trained = result.trained
    served = contract.model_copy(update={"positive": trained.labels[1]}) if trained.task is Task.BINARY else contract
    ModelFolder.write(model, result.onnx, served, record, native_files(trained), result.train.frame)


def fit(train: DatasetFolder, validation: DatasetFolder, contract: Contract, options: Options) -> Result:
    """Trains a model and holds its graph against it.

    Args:
        train: Rows to fit on.
        validation: Rows for early stopping, calibration, metrics and the parity gate.
        contract: Says the task and the roles.
        options: The step's parameters.

    Raises:
        UserError: A parameter is wrong.
        DataError: The rows cannot be learned from.
        FoundryError: The graph differs from the model.
    """
    task = contract.task or Task.REGRESSION
    data.target_of(contract)
    params = parameters.complete(options.algorithm, options.params, task)
    calibrate.check(options.calibration, task)
    if options.early_stopping_rounds < 0:
        raise UserError(f"early_stopping_rounds is {options.early_stopping_rounds}", where="train_model", remedy="give 0 for never, or more")
    frame, target = data.read(train.scan(), contract, f"train rows {train.path.name}")
    labels = data.find_labels(target, contract)
    learned = data.part(frame, target, contract, labels, "train rows")
    held = data.part(*data.read(validation.scan(), contract, f"validation rows {validation.path.name}"), contract, labels, "validation rows")
    plan = fit_plan(learned, contract, options.algorithm, params.get("max_bins", 255))
    train_weights = data.balance(learned, options.class_weight, len(labels))
    held_weights = data.balance(held, options.class_weight, len(labels)) if len(held) else None
    job = Job(
        task=task,
        classes=len(labels),
        train=Examples(plan.matrix(learned.feed), learned.target, train_weights),
        validation=Examples(plan.matrix(held.feed), held.target, held_weights),
        categorical=[] if plan.one_hot else list(range(len(plan.categories))),
        monotone=_monotone(options, contract, plan.sources),
        params=params,
        early_stopping_rounds=options.early_stopping_rounds,
        seed=options.seed,
        threads=platform.cpus(),
    )
    fitted = _learn(options.algorithm, job)
    calibrator = None
    if options.calibration:
        calibrator = calibrate.fit(options.calibration, fitted.scores(job.validation.matrix), held.target, held.weights)
    trained = Trained(task, labels, contract.features, plan, fitted, calibrator)
    onnx, outputs = to_onnx(trained)
    spread = float(np.std(learned.target)) if task is Task.REGRESSION else 1.0
    parity = gate(trained, onnx, outputs, (held if len(held) else learned).feed, spread)
    measured = measure(task, held.target, trained.values(job.validation.matrix), held.weights) if len(held) else {}
    return Result(trained, onnx, outputs, params, parity, measured, _importance(fitted, plan.sources, contract.features), learned, held)


def measure(task: Task, target: np.ndarray, values: np.ndarray, weights: np.ndarray | None) -> dict[str, float]:
    """A few metrics on the validation rows, to compare trainings by; see `scores.of`. One that the rows do not define is left out."""
    found = scores.of(task, target, values, weights).metrics()
    return {name: float(found[name][0]) for name in MEASURED[task] if np.isfinite(found[name][0])}


def native_files(trained: Trained) -> dict[str, bytes]:
    """The model without ONNX: the library's form, and as JSON what stands before and behind it."""
    calibrator = trained.calibrator.model_dump(mode="json") if trained.calibrator else None
    around = {"plan": trained.plan.model_dump(mode="json"), "columns": trained.plan.columns, "link": trained.fitted.link, "calibration": calibrator}
    return {**trained.fitted.native, "encoding.json": (json.dumps(around, ensure_ascii=False, indent=1) + "\n").encode()}


def _learn(algorithm: str, job: Job) -> Fitted:
    # Imported where needed: each library costs up to a second, and a run needs one of them.
    if algorithm == "lightgbm":
        from kfp_foundry.components.training.train_model import fit_lightgbm

        return fit_lightgbm.fit(job)
    if algorithm == "hist_gradient_boosting":
        from kfp_foundry.components.training.train_model import fit_hist_gradient_boosting

        return fit_hist_gradient_boosting.fit(job)
    from kfp_foundry.components.training.train_model import fit_linear

    return fit_linear.fit(job)


def _monotone(options: Options, contract: Contract, sources: list[str]) -> list[int]:
    """One direction per column of the matrix; empty without constraints."""
    numeric = [f.name for f in contract.fields if f.role is Role.FEATURE and f.type in (Type.INTEGER, Type.NUMBER, Type.BOOLEAN, Type.TIME)]
    for name, direction in options.monotone.items():
        if name not in numeric:
            raise UserError(f"monotone names {name!r}, which is no numeric feature", where="train_model", remedy=close_names(name, numeric))
        if direction not in (-1, 0, 1):
            raise UserError(f"monotone gives {name!r} the direction {direction}", where="train_model", remedy="give 1 (rising), -1 (falling) or 0")
    if options.monotone and options.algorithm == "linear":
        raise UserError("a linear model takes no monotone constraints", where="train_model", remedy="choose lightgbm or hist_gradient_boosting")
    return [int(options.monotone.get(source, 0)) for source in sources] if any(options.monotone.values()) else []


def _importance(fitted: Fitted, sources: list[str], features: list[str]) -> dict[str, float]:
    total = float(fitted.importance.sum()) or 1.0
    sums = dict.fromkeys(features, 0.0)
    for source, weight in zip(sources, fitted.importance, strict=True):
        sums[source] += float(weight) / total
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))

"""Writes what a training found as a Model artifact with its record, page and metrics."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.dataset import DatasetFolder
from kfp_foundry.components.common.artifacts.model import ModelFolder, ModelRecord
from kfp_foundry.components.common.contract import Contract, Task
from kfp_foundry.components.common.learning import data
from kfp_foundry.components.common.learning.export import Trained
from kfp_foundry.components.common.learning.fit import Options, Result

LIBRARIES = {
    "lightgbm": ("lightgbm", "numpy", "onnx", "onnxruntime", "polars"),
    "hist_gradient_boosting": ("scikit-learn", "numpy", "onnx", "onnxruntime", "polars"),
    "linear": ("scikit-learn", "numpy", "scipy", "onnx", "onnxruntime", "polars"),
    "residual_mlp": ("torch", "safetensors", "numpy", "onnx", "onnxruntime", "polars"),
    "module": ("torch", "safetensors", "numpy", "onnx", "onnxruntime", "polars"),
}


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


def native_files(trained: Trained) -> dict[str, bytes]:
    """The model without ONNX: the library's form, and as JSON what stands before and behind it."""
    calibrator = trained.calibrator.model_dump(mode="json") if trained.calibrator else None
    around = {"plan": trained.plan.model_dump(mode="json"), "columns": trained.plan.columns, "link": trained.fitted.link, "calibration": calibrator}
    return {**trained.fitted.native, "encoding.json": (json.dumps(around, ensure_ascii=False, indent=1) + "\n").encode()}

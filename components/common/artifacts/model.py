"""Model: one folder whose served form is `model.onnx`, raw rows in and predictions out, the same wherever it runs.

The folder is an MLflow model as well. What opening it needs is small on purpose (ONNX Runtime, Polars, pydantic): the model
server opens it too. Nothing in it is ever unpickled.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kfp_foundry.components.common import rows
from kfp_foundry.components.common.artifacts import mlflow_format
from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.contract import Contract, FieldSpec, Task, Type
from kfp_foundry.components.common.errors import DataError, IntegrityError
from kfp_foundry.components.common.files import new_folder, sha256, write_json

RECORD = "model.json"
DIGESTS = "digests.json"
CONTRACT = "contract.yaml"
ONNX = mlflow_format.MODEL
BATCH = 65_536  # rows scored at once, so that memory stays bounded

SHARED = 10  # rows that have a text in common, so that it may stand in the example
FEW_DIGITS = 1000  # whole numbers below it stand in the example as they are

Label = bool | int | str
_NAMES = TypeAdapter(dict[str, str])


class Parity(BaseModel):
    """How far the served graph is from the model as its library computes it."""

    model_config = ConfigDict(extra="forbid")

    rows: int = Field(description="Rows compared: held-out ones, and ones made from them.")
    max_difference: float = Field(description="Largest absolute difference; for a regression in units of the target's spread, if that is above 1.")
    changed_labels: int = Field(description="Rows whose label differs.")
    wrong_labels: int = Field(0, description="Those of them whose value is not within the tolerance of the cut, or of a tie of classes.")
    tolerance: float
    kinds: dict[str, int] = Field(description="Rows per kind: held out, missing, unseen, extreme.")


class ModelRecord(BaseModel):
    """What a model says of itself: enough to train it again, bit for bit, from the same rows."""

    model_config = ConfigDict(extra="forbid")

    algorithm: str
    task: Task
    target: str
    labels: list[Label] = Field(default_factory=list, description="Binary: the negative and the positive one. Multiclass: sorted.")
    outputs: list[str] = Field(description="Names of the graph's outputs, in order.")
    params: dict[str, Any] = Field(description="What the library was given, defaults of this project included.")
    options: dict[str, Any] = Field(default_factory=dict, description="The step's other parameters: calibration, class weights and so on.")
    seed: int
    rounds: int = Field(0, description="Boosting rounds kept.")
    rows: dict[str, int] = Field(description="Rows used: train, validation, and those without a target.")
    fingerprints: dict[str, str] = Field(description="Of the train and validation Dataset.")
    metrics: dict[str, float] = Field(description="On the validation rows.")
    importance: dict[str, float] = Field(description="Share of each feature; they sum to 1.")
    parity: Parity
    versions: dict[str, str]


class ModelFolder:
    """A Model artifact's folder.

    Example:
        >>> model = ModelFolder.open(artifact)
        >>> model.predict(frame)["prediction"]
    """

    def __init__(self, path: Path, contract: Contract, record: ModelRecord, digests: Mapping[str, str]) -> None:
        self.path = path
        self.contract = contract
        self.record = record
        self._digests = digests
        self._sessions: dict[int, ort.InferenceSession] = {}

    @classmethod
    def open(cls, artifact: Artifact | str | Path, check: bool = True) -> "ModelFolder":
        """Opens a model for reading.

        Args:
            artifact: The artifact, or the folder's path.
            check: Whether to compare every file with its digest.

        Raises:
            IntegrityError: A file is missing, or is not what its digest says, or the whole folder is not the one that the artifact
                names; the message names the file.
        """
        path = Path(artifact if isinstance(artifact, (str, Path)) else artifact.path)
        try:
            digests = _NAMES.validate_json((path / DIGESTS).read_text(encoding="utf-8"))
            if check:
                _check(path, digests)
            record = ModelRecord.model_validate_json((path / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise IntegrityError(
                f"not a model: it has no {missing}", where=f"model {path}", remedy="give a Model folder, as train_model wrote it"
            ) from error
        except (OSError, ValidationError, ValueError) as error:
            raise IntegrityError(
                f"not a whole model: {str(error).splitlines()[0]}", where=f"model {path}", remedy="run the training step again"
            ) from error
        model = cls(path, Contract.load(path / CONTRACT), record, digests)
        promised = "" if isinstance(artifact, (str, Path)) else artifact.metadata.get("digest", "")
        if check and promised and promised != model.digest:
            raise IntegrityError("digest mismatch: the folder is another model's", where=f"model {path}", remedy="run the training step again")
        return model

    @cached_property
    def digest(self) -> str:
        """The model's identity, see `identity`: equal models have equal ones."""
        return identity(self._digests[ONNX], self.contract, self.record)

    @property
    def task(self) -> Task:
        """What is predicted."""
        return self.record.task

    @property
    def labels(self) -> list[Label]:
        """The classes, as the data write them; binary: the negative one, then the positive one."""
        return self.record.labels

    def session(self, threads: int = 1) -> ort.InferenceSession:
        """The graph, loaded once per number of threads."""
        if threads not in self._sessions:
            self._sessions[threads] = open_session((self.path / ONNX).read_bytes(), threads)
        return self._sessions[threads]

    def predict(self, frame: pl.DataFrame, threshold: float | None = None, threads: int = 1) -> pl.DataFrame:
        """Scores rows, in batches.

        Args:
            frame: Rows with the contract's features; other columns are ignored.
            threshold: Binary models: probability from which the positive label is predicted; 0.5 if not given.
            threads: Threads of ONNX Runtime; the result does not depend on it beyond the last bits of the sums.

        Returns:
            Binary: `probability` of the positive label and `prediction`; multiclass: `prediction` and `probability_<label>` for
            each label; regression: `prediction`. Rows in the order of `frame`.

        Raises:
            DataError: A feature is absent or of another type.
        """
        parts = [self._score(batch, threads) for batch in _batches(rows.conform(frame, self.contract, self.contract.features))]
        scored = pl.concat(parts)
        if threshold is not None and self.task is Task.BINARY:
            positive = pl.Series(self.labels).gather((scored["probability"] >= threshold).cast(pl.Int64))
            scored = scored.with_columns(positive.alias("prediction"))
        return scored

    def truth(self, frame: pl.DataFrame) -> pl.Series:
        """The target column in the form of `prediction`: the same type, null where it is missing."""
        return as_labels(frame[self.record.target], self.contract)

    def _score(self, batch: pl.DataFrame, threads: int) -> pl.DataFrame:
        values = self.session(threads).run(self.record.outputs, rows.feed(batch, self.contract))
        return pl.DataFrame({name: _series(array) for name, array in zip(column_names(self.task, self.labels), values, strict=True)})

    @classmethod
    def write(
        cls, artifact: Artifact | str | Path, onnx: bytes, contract: Contract, record: ModelRecord, native: Mapping[str, bytes], example: pl.DataFrame
    ) -> "ModelFolder":
        """Writes a model, whole or not at all, and fills the artifact's metadata.

        Args:
            artifact: The output artifact, or a path.
            onnx: The serialized graph.
            contract: The contract of the training rows.
            record: What the model says of itself.
            native: The library's own form, file name to content, for the folder `native`.
            example: Rows with the contract's features. Of them a typical one is made up for the folder's example; none is copied.

        Raises:
            PlatformError: The place cannot be written, or is full; nothing is left behind.
        """
        path = Path(artifact if isinstance(artifact, (str, Path)) else artifact.path)
        with new_folder(path) as draft:
            (draft / ONNX).write_bytes(onnx)
            (draft / "native").mkdir()
            for name, content in native.items():
                (draft / "native" / name).write_bytes(content)
            contract.save(draft / CONTRACT)
            write_json(draft / RECORD, record.model_dump(mode="json"))
            digest = identity(sha256(draft / ONNX), contract, record)
            for name, text in mlflow_format.files(digest, *_signature(contract, record), _example(example, contract)).items():
                (draft / name).write_text(text, encoding="utf-8")
            files = sorted(file for file in draft.rglob("*") if file.is_file())
            write_json(draft / DIGESTS, {file.relative_to(draft).as_posix(): sha256(file) for file in files})
        folder = cls.open(path, check=False)
        if not isinstance(artifact, (str, Path)):
            artifact.metadata.update(
                algorithm=record.algorithm, task=str(record.task), target=record.target, digest=folder.digest, features=len(contract.features)
            )
        return folder


def identity(graph: str, contract: Contract, record: ModelRecord) -> str:
    """What makes two models the same one: they take the same rows and answer them alike.

    That is the graph, the task, the target, the labels in their order (of two the positive one is the last), and of each feature
    its name, its type, how its dates are written and whether it is required. What a contract says of a table as a whole (limits,
    ranges, row rules, the other columns), its descriptions and the order of its fields decide no answer: they change no identity.

    Args:
        graph: SHA-256 of the ONNX file, as hex.
        contract: The contract of the training rows.
        record: What the model says of itself.

    Returns:
        `sha256:<hex>`.
    """
    features = sorted((f.name, str(f.type), f.format or "", f.constraints.required) for f in contract.feature_fields)
    decides = {"graph": graph, "task": str(record.task), "target": record.target, "labels": record.labels, "features": features}
    return f"sha256:{hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()}"


def open_session(onnx: bytes, threads: int = 1) -> ort.InferenceSession:
    """Loads a serialized graph for the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def column_names(task: Task, labels: list[Label]) -> list[str]:
    """The columns of a prediction, in the order of the graph's outputs."""
    if task is Task.BINARY:
        return ["probability", "prediction"]
    return ["prediction", *(f"probability_{label}" for label in labels if task is Task.MULTICLASS)]


def as_labels(values: pl.Series, contract: Contract) -> pl.Series:
    """A target column in the form in which predictions stand.

    Classes are Boolean, Int64 (numbers that are all whole) or String, by the contract's type of the target; a regression's
    target is Float64. Missing values (and NaN) are null.

    Raises:
        DataError: The column holds what the contract's type does not allow.
    """
    if contract.target is None:
        raise DataError("the contract names no target", where="contract", remedy="give one field the role target")
    kind = contract.field(contract.target).type
    named = values.rename(contract.target)
    if named.dtype.is_float():
        named = named.fill_nan(None)
    if not contract.is_classification:
        return rows.conform(named.to_frame(), contract, [contract.target])[contract.target].cast(pl.Float64)
    if kind is Type.NUMBER:
        numbers = named.cast(pl.Float64)
        return numbers.cast(pl.Int64) if bool((numbers == numbers.floor()).all()) else numbers.cast(pl.String)
    return rows.conform(named.to_frame(), contract, [contract.target])[contract.target]


def _check(path: Path, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        if not (path / name).is_file():
            raise IntegrityError("the file is missing", where=f"model {path}, {name}", remedy="run the training step again")
        if sha256(path / name) != expected:
            raise IntegrityError(
                "digest mismatch: the file is not what the training step wrote", where=f"model {path}, {name}", remedy="take a clean copy"
            )
    if ONNX not in digests:
        raise IntegrityError(f"{DIGESTS} does not name {ONNX}", where=f"model {path}", remedy="run the training step again")


def _batches(frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
    yield from (frame.iter_slices(BATCH) if frame.height else [frame])


def _series(values: np.ndarray) -> pl.Series:
    return pl.Series(values.tolist(), dtype=pl.String) if values.dtype == object else pl.Series(values)


def _signature(contract: Contract, record: ModelRecord) -> tuple[list[mlflow_format.Column], list[mlflow_format.Column]]:
    inputs = [(f.name, "string" if f.type is Type.STRING else "double", False) for f in contract.feature_fields]
    outputs = [(name, "double" if name.startswith("probability") else _label_type(record), True) for name in record.outputs]
    return inputs, outputs


def _label_type(record: ModelRecord) -> str:
    if not record.labels:
        return "double"
    return {bool: "boolean", int: "long", str: "string"}[type(record.labels[0])]


def _example(frame: pl.DataFrame, contract: Contract) -> dict[str, Any]:
    """A typical row, made up column by column, since the folder goes where no customer's row may go."""
    return {field.name: _typical(frame, field, contract) for field in contract.feature_fields}


def _typical(frame: pl.DataFrame, field: FieldSpec, contract: Contract) -> str | float | None:
    """A column's most frequent text, or its median in few digits; a text that few rows share could say who they are, so it is left empty."""
    if field.type is Type.STRING:
        texts = rows.conform(frame, contract, [field.name])[field.name].rename("text").drop_nulls()
        counted = texts.value_counts(name="rows").filter(pl.col("rows") >= SHARED).sort("rows", "text", descending=[True, False])
        return str(counted["text"][0]) if counted.height else ""
    numbers = rows.feed(frame.select(field.name), contract.model_copy(update={"fields": [field]}))[field.name]
    known = numbers[np.isfinite(numbers)]
    if not len(known):
        return None
    middle = float(np.quantile(known, 0.5, method="lower"))
    if field.type in (Type.DATE, Type.DATETIME):
        return middle - middle % rows.SECONDS_OF_DAY
    return float(round(middle)) if field.type is not Type.NUMBER and abs(middle) < FEW_DIGITS else float(f"{middle:.2g}")

"""Evaluation: how good a model is on rows that it has not seen."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kfp_foundry.components.common.artifacts.base import Artifact
from kfp_foundry.components.common.artifacts.verdict import finite
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.errors import IntegrityError
from kfp_foundry.components.common.files import write_json


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Value(_Part):
    """A metric with its interval; null where it is not defined on these rows."""

    value: float | None
    low: float | None = None
    high: float | None = None


class SliceResult(_Part):
    """The model on some of the rows."""

    column: str = Field(description="The column that the rows were cut by.")
    name: str = Field(description="Which rows, such as `carrier = EV`.")
    rows: int
    share: float = Field(description="Of all judged rows, 0 to 1.")
    metric: str = Field(description="Which metric `value` is.")
    value: float | None
    low: float | None = None
    high: float | None = None
    standing: str = Field("same", description="`worse` or `better` than on all rows beyond the interval, else `same`.")
    others: dict[str, float | None] = Field(default_factory=dict, description="Further numbers, by name.")


class Threshold(_Part):
    """From which probability the positive class is predicted."""

    value: float
    method: str
    reason: str = Field(description="How it was chosen, in a sentence.")


class Points(_Part):
    """A curve's points; `at` holds the threshold of each point where there is one."""

    x: list[float]
    y: list[float]
    at: list[float] = Field(default_factory=list)


class Confusion(_Part):
    """Counts of rows: `matrix[i][j]` are rows of class i (by the truth) that were predicted as class j."""

    labels: list[str]
    matrix: list[list[float]]


class Evaluation(_Part):
    """How good a model is.

    Example:
        >>> Evaluation.read(path).metrics["auc"].value
        0.7345
    """

    task: Task
    target: str
    positive: str | None = Field(None, description="Binary: the label whose probability is predicted.")
    algorithm: str
    model: str = Field(description="Digest of the model.")
    test: str = Field(description="Fingerprint of the test rows.")
    rows: dict[str, int] = Field(description="Test rows: `all`, `judged`, `without_target`, `unknown_label`; and `validation`.")
    primary: str = Field(description="The metric that stands for the model.")
    metrics: dict[str, Value]
    confidence: float = Field(description="Of the intervals, such as 0.95.")
    threshold: Threshold | None = None
    confusion: Confusion | None = None
    curves: dict[str, Points] = Field(default_factory=dict, description="`roc`, `precision_recall`, `calibration`, `gain`, `lift`.")
    slices: list[SliceResult] = Field(default_factory=list, description="The worst first.")
    slices_left_out: int = Field(0, description="Slices with too few rows to be judged.")
    notes: list[str] = Field(default_factory=list, description="What a reader should know, in sentences.")

    def write(self, artifact: Artifact) -> None:
        """Writes the evaluation as JSON, without NaN, and puts the primary metric into the artifact's metadata."""
        write_json(artifact.path, finite(self.model_dump(mode="json")))
        best = self.metrics[self.primary].value
        artifact.metadata.update(task=str(self.task), target=self.target, model=self.model, rows=self.rows["judged"], primary=self.primary)
        artifact.metadata.update({} if best is None else {"value": best})

    @classmethod
    def read(cls, path: str | Path) -> "Evaluation":
        """Reads an evaluation that `write` wrote.

        Raises:
            IntegrityError: The file is missing or is no evaluation.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise IntegrityError("not a readable evaluation", where=str(path), remedy="run evaluate_model again") from error

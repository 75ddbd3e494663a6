"""Comparison: a verdict on challenger against champion, with the rule and every number it rests on."""

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kfp_foundry.components.common.artifacts.verdict import Verdict


class Rule(BaseModel):
    """When a challenger may replace the champion, as data.

    Gains and losses are "better by" and "worse by", whichever direction the metric has. They are judged by their values on the
    rows, not by the ends of their intervals; the report shows those. So the rule's default, `min_gain` 0, says: at least as good.

    Example:
        >>> Rule(metric="auc", min_gain=0.02, max_loss={"f1": 0.05})  # better by 0.02 AUC, and at most 0.05 F1 worse
    """

    model_config = ConfigDict(extra="forbid")

    metric: str = Field("auto", description="What must gain; auto: AUC, log loss or RMSE by the task.")
    min_gain: float = Field(0.0, description="The challenger must be better by at least this much; a number below 0 allows a loss.")
    max_loss: dict[str, float] = Field(default_factory=dict, description="Per guard metric, by how much the challenger may be worse.")
    max_slice_loss: float = Field(0.0, description="By how much the challenger may be worse on any slice; 0: slices are not guarded.")
    slice_columns: list[str] = Field(default_factory=list, description="Columns to cut the rows by.")
    on_incomparable: Literal["fail", "warn"] = Field("fail", description="The outcome when the two cannot be compared.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        losses = {f"max_loss of {name}": loss for name, loss in self.max_loss.items()} | {"max_slice_loss": self.max_slice_loss}
        for name, loss in losses.items():
            if not (math.isfinite(loss) and loss >= 0):
                raise ValueError(f"{name} is {loss}, give a number of 0 or more")
        if not math.isfinite(self.min_gain):
            raise ValueError(f"min_gain is {self.min_gain}, give a finite number")
        return self


class Difference(BaseModel):
    """One metric of both models on the same rows; null where it is not defined."""

    model_config = ConfigDict(extra="forbid")

    challenger: float | None
    champion: float | None
    gain: float | None = Field(description="By how much the challenger is better; below 0 it is worse.")
    low: float | None = Field(None, description="Lower end of the gain's interval (paired bootstrap).")
    high: float | None = None
    probability_better: float | None = Field(None, description="Share of the bootstrap's replicates in which the challenger is better.")


class SliceDifference(Difference):
    """The same on some of the rows."""

    column: str
    name: str
    rows: int


class Thresholds(BaseModel):
    """Probabilities from which each of two binary models predicts the positive class."""

    model_config = ConfigDict(extra="forbid")

    challenger: float
    champion: float


class Comparison(Verdict):
    """A verdict on challenger against champion; `Verdict.read` reads it too.

    Example:
        >>> Comparison.read(path).differences["auc"].gain
        0.0213
    """

    model_name: str
    metric: str = Field("", description="What the rule asks a gain of.")
    challenger: str = Field(description="Digest of the model.")
    champion: str = Field("", description="Digest of the champion; empty: there is none.")
    champion_version: str = Field("", description="Its version in the registry; empty: there is none.")
    same_model: bool = Field(False, description="Whether challenger and champion are one model; their thresholds may differ.")
    thresholds: Thresholds | None = Field(None, description="Binary models: what each was judged with.")
    rows: int = Field(0, description="Test rows on which both were judged.")
    confidence: float = 0.95
    rule: Rule
    differences: dict[str, Difference] = Field(default_factory=dict, description="By metric.")
    slices: list[SliceDifference] = Field(default_factory=list, description="The largest loss first.")
    slices_left_out: int = Field(0, description="Slices with too few rows to be compared.")
    notes: list[str] = Field(default_factory=list)

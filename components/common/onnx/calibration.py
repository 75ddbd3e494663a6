"""Calibration: from a binary model's raw score to a probability that holds as a frequency, in numpy and in a graph."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from kfp_foundry.components.common.onnx.graph import INT64, Graph
from kfp_foundry.components.common.onnx.heads import apply_link
from kfp_foundry.components.common.onnx.trees import steps


class Sigmoid(BaseModel):
    """A logistic curve over the score. Method: Platt, Probabilistic Outputs for Support Vector Machines (1999)."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["sigmoid"] = "sigmoid"
    slope: float
    intercept: float

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [rows] of raw scores [rows]."""
        return apply_link(scores * self.slope + self.intercept, "sigmoid")

    def emit(self, graph: Graph, scores: str) -> str:
        """The same in a graph."""
        return graph.op("Sigmoid", (graph.value(scores) * self.slope + self.intercept).name)


class Isotonic(BaseModel):
    """A rising line through knots. Method: Zadrozny and Elkan, Transforming Classifier Scores into Accurate Probabilities (2002)."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["isotonic"] = "isotonic"
    scores: list[float] = Field(description="Knots, rising.", min_length=1)
    probabilities: list[float] = Field(description="Probability at each knot; between two of them it is interpolated, beyond the last ones it stays.")

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities [rows] of raw scores [rows]."""
        left, weight = self._segments()
        knots, heights = np.array(self.scores), np.array(self.probabilities)
        inside = np.clip(scores, knots[0], knots[-1])
        segment = left[np.searchsorted(knots, inside, side="left")]
        return np.asarray(heights[segment] + (inside - knots[segment]) * weight[segment])

    def emit(self, graph: Graph, scores: str) -> str:
        """The same in a graph; a tree finds the segment, so that thousands of knots cost no more than a dozen comparisons."""
        left, weight = self._segments()
        inside = graph.op("Clip", scores, graph.doubles(self.scores[0]), graph.doubles(self.scores[-1]))
        below = graph.op("Cast", graph.vector(steps(self.scores).emit(graph, graph.column(inside), targets=1)), to=INT64)
        segment = graph.op("Gather", graph.integers(left), below)
        knot, height, slope = (graph.op("Gather", graph.doubles(values), segment) for values in (self.scores, self.probabilities, weight))
        return (graph.value(height) + (graph.value(inside) - graph.value(knot)) * graph.value(slope)).name

    def _segments(self) -> tuple[np.ndarray, np.ndarray]:
        """For 0, 1, 2 ... knots below a score its segment's left knot; and the slope behind each knot, 0 behind the last."""
        count = len(self.scores)
        left = np.maximum(np.arange(count + 1) - 1, 0)
        rise, run = np.diff(self.probabilities), np.diff(self.scores)
        return left, np.append(rise / run, 0.0)


Calibrator = Sigmoid | Isotonic

"""A fitted model as one graph from raw columns to predictions, and the same computed by the library, to be compared."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kfp_foundry.components.common.artifacts.model import Label, Parity
from kfp_foundry.components.common.contract import Task
from kfp_foundry.components.common.learning.learner import Fitted
from kfp_foundry.components.common.onnx import heads, parity
from kfp_foundry.components.common.onnx.calibration import Calibrator
from kfp_foundry.components.common.onnx.encoding import Plan
from kfp_foundry.components.common.onnx.graph import Graph


@dataclass(frozen=True)
class Trained:
    """All that makes a prediction.

    Args:
        task: What is predicted.
        labels: The classes; empty for a regression.
        features: Raw columns, in the contract's order.
        plan: From raw columns to the matrix.
        fitted: From the matrix to scores.
        calibrator: From scores to probabilities, or None for the model's own link.
    """

    task: Task
    labels: list[Label]
    features: list[str]
    plan: Plan
    fitted: Fitted
    calibrator: Calibrator | None

    def values(self, matrix: np.ndarray) -> np.ndarray:
        """Probabilities of the positive class [rows] or of all classes [rows, classes], or a regression's values [rows]."""
        scores = self.fitted.scores(matrix)
        return self.calibrator.apply(scores) if self.calibrator else heads.apply_link(scores, self.fitted.link)

    def positions(self, values: np.ndarray) -> np.ndarray | None:
        """Positions of the predicted labels [rows]; None for a regression."""
        if self.task is Task.REGRESSION:
            return None
        return np.asarray(values.argmax(axis=1) if values.ndim == 2 else (values >= heads.THRESHOLD).astype(np.int64))

    def native(self, feed: parity.Feed) -> parity.Answer:
        """Values and labels as the library computes them."""
        values = self.values(self.plan.matrix(dict(feed)))
        return values, self.positions(values)


def to_onnx(trained: Trained) -> tuple[bytes, list[str]]:
    """The serialized graph and the names of its outputs; the same model gives the same bytes."""
    graph = Graph(trained.features)
    scores = trained.fitted.emit(graph, trained.plan.emit(graph, trained.features))
    values = trained.calibrator.emit(graph, graph.vector(scores)) if trained.calibrator else heads.emit_link(graph, scores, trained.fitted.link)
    emit: dict[Task, Callable[[], list[str]]] = {
        Task.BINARY: lambda: heads.emit_binary(graph, values, trained.labels),
        Task.MULTICLASS: lambda: heads.emit_multiclass(graph, values, trained.labels),
        Task.REGRESSION: lambda: heads.emit_regression(graph, values),
    }
    outputs = emit[trained.task]()
    return graph.model().SerializeToString(deterministic=True), outputs


def gate(trained: Trained, onnx: bytes, outputs: list[str], held_out: parity.Feed, spread: float) -> Parity:
    """Compares both forms on held-out rows and on broken ones.

    Raises:
        FoundryError: They differ by more than the tolerance.
    """
    positions: dict[object, int] = {label: position for position, label in enumerate(trained.labels)}
    measured = parity.check(trained.native, parity.session_answers(onnx, outputs, positions), held_out, spread)
    parity.refuse(measured)
    return measured

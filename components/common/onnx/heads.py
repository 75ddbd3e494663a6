"""From a model's raw scores to what a caller gets: probabilities and labels, in numpy and in a graph.

The outputs are of rank 1, since MLflow makes one column of each.
"""

from typing import Literal

import numpy as np

from kfp_foundry.components.common.artifacts.model import Label
from kfp_foundry.components.common.onnx.graph import BOOL, DOUBLE, INT64, STRING, Graph

Link = Literal["identity", "exp", "sigmoid", "softmax"]

THRESHOLD = 0.5  # a probability of exactly this much is the positive class


def emit_binary(graph: Graph, probability: str, labels: list[Label]) -> list[str]:
    """Adds the outputs `probability` and `prediction`.

    Args:
        graph: Takes the nodes.
        probability: Probability of the positive class [rows].
        labels: The negative and the positive label.

    Returns:
        The names that the outputs got.
    """
    positive = graph.op("Cast", graph.op("GreaterOrEqual", probability, graph.doubles(THRESHOLD)), to=INT64)
    return [graph.output(probability, "probability", DOUBLE), _emit_label(graph, positive, labels)]


def emit_multiclass(graph: Graph, probabilities: str, labels: list[Label]) -> list[str]:
    """Adds the output `prediction` and one `probability_<label>` per class, from probabilities [rows, classes]."""
    best = graph.op("ArgMax", probabilities, axis=1, keepdims=0)
    names = [_emit_label(graph, best, labels)]
    for position, label in enumerate(labels):
        names.append(graph.output(graph.op("Gather", probabilities, graph.integers(position), axis=1), f"probability_{label}", DOUBLE))
    return names


def emit_regression(graph: Graph, values: str) -> list[str]:
    """Adds the output `prediction`, from values [rows]."""
    return [graph.output(values, "prediction", DOUBLE)]


def emit_link(graph: Graph, scores: str, link: Link) -> str:
    """Scores [rows, outputs] to probabilities [rows, classes] (softmax) or to probabilities or values [rows]."""
    if link == "softmax":
        return graph.op("Softmax", scores, axis=1)
    vector = graph.vector(scores)
    if link == "identity":
        return vector
    return graph.op("Sigmoid" if link == "sigmoid" else "Exp", vector)


def apply_link(scores: np.ndarray, link: Link) -> np.ndarray:
    """The same in numpy: scores [rows] or [rows, classes] to probabilities or values of the same shape."""
    if link == "identity":
        return scores
    if link == "exp":
        return np.asarray(np.exp(scores))
    if link == "softmax":
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    small = np.exp(-np.abs(scores))  # never of a positive number, so that nothing overflows
    return np.asarray(np.where(scores >= 0, 1.0, small) / (1.0 + small))


def _emit_label(graph: Graph, position: str, labels: list[Label]) -> str:
    kind, constant = _constant(graph, labels)
    return graph.output(graph.op("Gather", constant, position, axis=0), "prediction", kind)


def _constant(graph: Graph, labels: list[Label]) -> tuple[int, str]:
    if all(isinstance(label, bool) for label in labels):
        return BOOL, graph.booleans([bool(label) for label in labels])
    if all(isinstance(label, int) for label in labels):
        return INT64, graph.integers(labels)
    return STRING, graph.strings([str(label) for label in labels])

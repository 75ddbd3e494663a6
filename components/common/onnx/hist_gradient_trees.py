"""scikit-learn's HistGradientBoosting trees as a forest.

The estimators publish no form of their trees, so their private one is read; the parity gate of every training says whether it
still means what it meant.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kfp_foundry.components.common.onnx.graph import Graph
from kfp_foundry.components.common.onnx.trees import Forest, Leaf, Split


def forest(rounds: Sequence[Sequence[Any]]) -> Forest:
    """Reads the trees.

    Args:
        rounds: The estimator's `_predictors`: per round one tree per class. Its categorical columns must stand first in the
            matrix and hold the codes 0, 1, 2 ... without gaps, so that the estimator's own encoder changes nothing.
    """
    result = Forest()
    for trees in rounds:
        for target, tree in enumerate(trees):
            result.add(0, _Reader(tree.nodes, tree.raw_left_cat_bitsets).look, target)
    return result


def emit(graph: Graph, matrix: str, rounds: Sequence[Sequence[Any]], baseline: np.ndarray) -> str:
    """Adds the trees and the baseline [targets] to a graph; returns the raw scores [rows, targets]."""
    targets = len(baseline)
    if not rounds:  # nothing was learned: every row gets the baseline
        rows = graph.op("Slice", graph.op("Shape", matrix), graph.integers([0]), graph.integers([1]))
        return graph.op("Expand", graph.doubles([baseline]), graph.op("Concat", rows, graph.integers([targets]), axis=0))
    return graph.op("Add", forest(rounds).emit(graph, matrix, targets), graph.doubles([baseline]))


class _Reader:
    """Looks nodes of one tree up by their number."""

    def __init__(self, nodes: np.ndarray, sets: np.ndarray) -> None:
        self._nodes = nodes.tolist()  # a row of a structured array is slow to read, a tuple is not
        self._place = {name: position for position, name in enumerate(nodes.dtype.names or ())}
        self._sets = sets

    def look(self, number: int) -> Leaf | tuple[Split, int, int]:
        node, place = self._nodes[number], self._place
        if node[place["is_leaf"]]:
            return Leaf(node[place["value"]])
        split = Split(
            feature=node[place["feature_idx"]],
            missing=bool(node[place["missing_go_to_left"]]),
            threshold=node[place["num_threshold"]],
            members=_members(self._sets[node[place["bitset_idx"]]]) if node[place["is_categorical"]] else None,
        )
        return split, node[place["left"]], node[place["right"]]


def _members(words: np.ndarray) -> tuple[int, ...]:
    """The numbers in a set held as eight words of 32 bits, the lowest first."""
    return tuple(code for code in range(32 * len(words)) if int(words[code // 32]) >> (code % 32) & 1)

"""A forest of decision trees as one TreeEnsemble operator of ai.onnx.ml 5, with float64 thresholds and leaves.

Operator: https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from onnx import numpy_helper

from kfp_foundry.components.common.onnx.graph import ML, Graph

LEQ, MEMBER = 0, 6  # the operator's numbers for "is at most" and "is one of"

N = TypeVar("N")


@dataclass(frozen=True)
class Leaf:
    """A leaf's contribution to the sum."""

    value: float


@dataclass(frozen=True)
class Split:
    """A node that sends a row to its yes or no side.

    Args:
        feature: Column of the matrix.
        threshold: Yes if the value is at most this; not used when `members` is given.
        members: Yes if the value is one of these.
        missing: Whether NaN goes to the yes side.
    """

    feature: int
    missing: bool
    threshold: float = 0.0
    members: tuple[int, ...] | None = None


class Forest:
    """Trees to be summed; each adds to one target.

    Example:
        >>> forest = Forest()
        >>> forest.add("root", lambda node: (Split(0, missing=False, threshold=3.5), "small", "large") if node == "root" else Leaf(len(node)))
        >>> scores = forest.emit(graph, matrix, targets=1)
    """

    def __init__(self) -> None:
        self._roots: list[int] = []
        self._nodes: list[Split] = []
        self._sides: dict[bool, list[tuple[int, bool]]] = {True: [], False: []}  # per node: index of the child, and whether it is a leaf
        self._leaves: list[float] = []
        self._targets: list[int] = []

    def add(self, root: N, look: Callable[[N], Leaf | tuple[Split, N, N]], target: int = 0) -> None:
        """Adds a tree.

        Args:
            root: The library's own root node.
            look: Says what a node of the library is: a leaf, or a split with its yes and no child.
            target: Which output the leaves add to.
        """
        self._roots.append(len(self._nodes))
        first = look(root)
        if isinstance(first, Leaf):  # the operator has no tree of a single leaf: a split with that leaf on both sides
            leaf = self._leaf(first, target)
            self._node(Split(0, missing=True))
            self._sides[True][-1] = self._sides[False][-1] = (leaf, True)
            return
        # Preorder, by a stack of own: a tree of thousands of leaves may be one long chain, deeper than Python's recursion.
        waiting: list[tuple[N, int, bool]] = []
        self._open(first, waiting)
        while waiting:
            node, parent, side = waiting.pop()
            found = look(node)
            if isinstance(found, Leaf):
                self._sides[side][parent] = (self._leaf(found, target), True)
            else:
                self._sides[side][parent] = (len(self._nodes), False)
                self._open(found, waiting)

    def emit(self, graph: Graph, matrix: str, targets: int) -> str:
        """Adds the operator; returns the sums [rows, targets]."""
        yes, no = self._sides[True], self._sides[False]
        attributes: dict[str, Any] = {
            "aggregate_function": 1,  # sum
            "leaf_targetids": self._targets,
            "leaf_weights": numpy_helper.from_array(np.array(self._leaves), "leaf_weights"),
            "n_targets": targets,
            "nodes_falseleafs": [int(is_leaf) for _, is_leaf in no],
            "nodes_falsenodeids": [index for index, _ in no],
            "nodes_featureids": [node.feature for node in self._nodes],
            "nodes_missing_value_tracks_true": [int(node.missing) for node in self._nodes],
            "nodes_modes": numpy_helper.from_array(np.array([_mode(node) for node in self._nodes], dtype=np.uint8), "modes"),
            "nodes_splits": numpy_helper.from_array(np.array([node.threshold for node in self._nodes]), "splits"),
            "nodes_trueleafs": [int(is_leaf) for _, is_leaf in yes],
            "nodes_truenodeids": [index for index, _ in yes],
            "post_transform": 0,
            "tree_roots": self._roots,
        }
        members = [value for node in self._nodes if node.members is not None for value in (*node.members, np.nan)]
        if members:  # the sets of all nodes in their order, each ended by NaN
            attributes["membership_values"] = numpy_helper.from_array(np.array(members, dtype=np.float64), "members")
        return graph.op("TreeEnsemble", matrix, domain=ML, **attributes)

    def _open(self, found: tuple[Split, N, N], waiting: list[tuple[N, int, bool]]) -> None:
        split, yes, no = found
        place = self._node(split)
        waiting.append((no, place, False))
        waiting.append((yes, place, True))

    def _node(self, split: Split) -> int:
        self._nodes.append(split)
        self._sides[True].append((0, False))
        self._sides[False].append((0, False))
        return len(self._nodes) - 1

    def _leaf(self, leaf: Leaf, target: int) -> int:
        self._leaves.append(float(leaf.value))
        self._targets.append(target)
        return len(self._leaves) - 1


def steps(knots: Sequence[float]) -> Forest:
    """A tree that says how many of the sorted knots lie below a value: a binary search, whatever the number of knots."""

    def look(span: tuple[int, int]) -> Leaf | tuple[Split, tuple[int, int], tuple[int, int]]:
        low, high = span
        if low == high:
            return Leaf(float(low))
        middle = (low + high) // 2
        return Split(0, missing=True, threshold=float(knots[middle])), (low, middle), (middle + 1, high)

    forest = Forest()
    forest.add((0, len(knots)), look)
    return forest


def _mode(node: Split) -> int:
    return LEQ if node.members is None else MEMBER

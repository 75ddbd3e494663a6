"""LightGBM's trees as a forest."""

import math
from typing import Any

from kfp_foundry.components.common.errors import UserError
from kfp_foundry.components.common.onnx.trees import Forest, Leaf, Split


def forest(dump: dict[str, Any]) -> Forest:
    """Reads the trees of a LightGBM model.

    Args:
        dump: What `Booster.dump_model()` returns; tree number i adds to class i modulo the number of classes.

    Raises:
        UserError: The trees use what the graph has no form for (`zero_as_missing`, `linear_tree`).
    """
    result = Forest()
    for number, tree in enumerate(dump["tree_info"]):
        result.add(tree["tree_structure"], _look, target=number % dump["num_tree_per_iteration"])
    return result


def _look(node: dict[str, Any]) -> Leaf | tuple[Split, dict[str, Any], dict[str, Any]]:
    if "split_index" not in node:
        if node.get("leaf_coeff"):
            raise _refused("linear_tree")
        return Leaf(float(node["leaf_value"]))
    return _split(node), node["left_child"], node["right_child"]


def _split(node: dict[str, Any]) -> Split:
    feature = int(node["split_feature"])
    if node["decision_type"] == "==":  # NaN and unknown categories always go to the no side
        return Split(feature, missing=False, members=tuple(int(value) for value in str(node["threshold"]).split("||")))
    threshold = _unclipped(float(node["threshold"]))
    if node["missing_type"] == "Zero":
        raise _refused("zero_as_missing")
    # A column without missing values in training has missing_type None: LightGBM then reads NaN as 0.0.
    missing = threshold >= 0.0 if node["missing_type"] == "None" else bool(node["default_left"])
    return Split(feature, missing=missing, threshold=threshold)


def _unclipped(threshold: float) -> float:
    """The dump writes infinity, the threshold between numbers and NaN, as 1e300, for JSON has none."""
    return math.copysign(math.inf, threshold) if abs(threshold) >= 1e300 else threshold


def _refused(name: str) -> UserError:
    return UserError(f"{name} has no exact form in ONNX", where="params", remedy=f"leave {name} out")

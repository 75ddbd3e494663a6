"""A small builder of ONNX graphs: float64 throughout, and the same steps give the same bytes.

The stock converters are not used: they round thresholds to float32, which moved rows of a LightGBM model by up to 0.24, and are
wrong for native categories and isotonic calibration (`benchmarks/onnx_parity.py`). The one model for which they are exact, a
logistic regression in float64, they convert only without the preprocessing of texts, gaps and dates that stands before it here.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Pinned, not newest: IR 10 and these operator sets are what every ONNX Runtime from 1.22 reads; ai.onnx.ml 5 is the first
# whose TreeEnsemble holds doubles and sets of categories.
IR_VERSION = 10
OPSETS = {"": 21, "ai.onnx.ml": 5}
ML = "ai.onnx.ml"

STRING: int = TensorProto.STRING
DOUBLE: int = TensorProto.DOUBLE
INT64: int = TensorProto.INT64
BOOL: int = TensorProto.BOOL


class Graph:
    """Nodes, constants, inputs and outputs of one graph; tensors are named by the builder.

    Args:
        names: The names of inputs to come, which no inner tensor may bear.

    Example:
        >>> graph = Graph(["age"])
        >>> age = graph.input("age", DOUBLE)
        >>> graph.output(graph.op("Neg", age), "minus", DOUBLE)
        >>> model = graph.model()
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._taken = set(names)
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def free(self, name: str) -> str:
        """That name, with underscores behind it until no other tensor bears it; taken from now on."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def input(self, name: str, kind: int) -> str:
        """An input of rows: float64 or string, of rank 1."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, ["rows"]))
        return self.op("Reshape", name, self.integers([-1]))

    def output(self, source: str, name: str, kind: int) -> str:
        """An output of rank 1; returns the name it got, which differs from the one asked for only when an input has that."""
        given = self.free(name)
        self._nodes.append(helper.make_node("Identity", [source], [given], name=f"node{len(self._nodes)}"))
        self._outputs.append(helper.make_tensor_value_info(given, kind, ["rows"]))
        return given

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Adds a node of one output and returns that tensor's name."""
        result = self.free(f"tensor{self._count}")
        self._count += 1
        self._nodes.append(helper.make_node(kind, list(inputs), [result], name=f"node{len(self._nodes)}", domain=domain, **attributes))
        return result

    def doubles(self, values: object) -> str:
        """A float64 constant."""
        return self._constant(np.asarray(values, dtype=np.float64))

    def integers(self, values: object) -> str:
        """An int64 constant."""
        return self._constant(np.asarray(values, dtype=np.int64))

    def strings(self, values: list[str]) -> str:
        """A constant of texts, of rank 1."""
        return self._add(string_tensor(self.free(f"constant{len(self._initializers)}"), values))

    def booleans(self, values: list[bool]) -> str:
        """A constant of truth values, of rank 1."""
        return self._constant(np.asarray(values, dtype=np.bool_))

    def column(self, vector: str) -> str:
        """[rows] as [rows, 1]."""
        return self.op("Unsqueeze", vector, self.integers([1]))

    def vector(self, column: str) -> str:
        """[rows, 1] as [rows]."""
        return self.op("Squeeze", column, self.integers([1]))

    def value(self, name: str) -> "Value":
        """A tensor to calculate with."""
        return Value(self, name)

    def beside(self, matrices: list[str]) -> str:
        """Matrices of the same rows, one beside the other."""
        return matrices[0] if len(matrices) == 1 else self.op("Concat", *matrices, axis=1)

    def graft(self, model: onnx.ModelProto, sources: list[str]) -> list[str]:
        """Adds another model's nodes, without branches or loops, behind tensors of this graph.

        Args:
            model: Of an operator set that means the same in ours.
            sources: A tensor for each of its inputs.

        Returns:
            The tensors that are its outputs.
        """
        names = {"": "", **{given.name: source for given, source in zip(model.graph.input, sources, strict=True)}}
        for tensor in model.graph.initializer:
            names[tensor.name] = self.free(f"constant{len(self._initializers)}")
            copied = onnx.TensorProto.FromString(tensor.SerializeToString())
            copied.name = names[tensor.name]
            self._initializers.append(copied)
        for node in model.graph.node:
            copied = onnx.NodeProto.FromString(node.SerializeToString())
            for output in node.output:
                names[output] = self.free(f"tensor{self._count}") if output else ""
                self._count += 1
            copied.name = f"node{len(self._nodes)}"
            copied.input[:] = [names[name] for name in node.input]
            copied.output[:] = [names[name] for name in node.output]
            self._nodes.append(copied)
        return [names[output.name] for output in model.graph.output]

    def model(self) -> onnx.ModelProto:
        """The checked model."""
        graph = helper.make_graph(self._nodes, "model", self._inputs, self._outputs, self._initializers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="kfp-foundry")
        onnx.checker.check_model(model)
        if len(self._inputs) == 1:  # MLflow feeds the only column of a model as [rows, 1], so that one gets no declared rank
            model.graph.input[0].type.tensor_type.ClearField("shape")
        return model

    def _constant(self, array: np.ndarray) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._add(numpy_helper.from_array(array, self.free(f"constant{len(self._initializers)}")))
        return self._constants[key]

    def _add(self, tensor: onnx.TensorProto) -> str:
        self._initializers.append(tensor)
        return str(tensor.name)


class Value:
    """A float64 tensor with the arithmetic of a numpy array, so that one formula serves both.

    Example:
        >>> def celsius(fahrenheit):  # takes an array or a Value
        ...     return (fahrenheit - 32.0) / 1.8
    """

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.name = name

    def __add__(self, other: "Value | float") -> "Value":
        return self._with("Add", other)

    def __sub__(self, other: "Value | float") -> "Value":
        return self._with("Sub", other)

    def __mul__(self, other: "Value | float") -> "Value":
        return self._with("Mul", other)

    def __truediv__(self, other: "Value | float") -> "Value":
        return self._with("Div", other)

    def floor(self) -> "Value":
        """The largest whole number that is not larger."""
        return Value(self.graph, self.graph.op("Floor", self.name))

    def _with(self, kind: str, other: "Value | float") -> "Value":
        operand = other.name if isinstance(other, Value) else self.graph.doubles(other)
        return Value(self.graph, self.graph.op(kind, self.name, operand))


def string_tensor(name: str, values: list[str]) -> onnx.TensorProto:
    """A tensor of texts, as UTF-8."""
    return numpy_helper.from_array(np.array(values, dtype=object), name)

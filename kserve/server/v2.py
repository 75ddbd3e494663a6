"""The V2 (Open Inference) protocol over REST: one tensor per column in, one per output column out.

Specification: https://github.com/open-inference/open-inference-protocol. The name of an input tensor is the column's name, its
shape [rows] or [rows, 1]. A missing value is written as null in the data; a column that is left out is missing in every row.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from kfp_foundry.components.common.contract import Contract, FieldSpec, Type
from kfp_foundry.components.common.errors import close_names
from kfp_foundry.server.request import RequestError, check_columns

PLATFORM = "onnxruntime_onnx"

_WHOLE = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
_REAL = ("FP64", "FP32", "FP16")
# The first one is what the metadata announces.
_TAKEN: dict[Type, tuple[str, ...]] = {
    Type.STRING: ("BYTES",),
    Type.INTEGER: (*_WHOLE, *_REAL),
    Type.NUMBER: (*_REAL, *_WHOLE),
    Type.BOOLEAN: ("BOOL",),
    Type.DATE: ("BYTES",),
    Type.DATETIME: ("BYTES",),
    Type.TIME: ("BYTES",),
}
_OF_DTYPE: dict[pl.DataType, str] = {pl.Boolean(): "BOOL", pl.Int64(): "INT64", pl.String(): "BYTES", pl.Float64(): "FP64"}


def metadata(name: str, version: str, contract: Contract, outputs: pl.Schema) -> dict[str, Any]:
    """What the model takes and gives, in the words of the protocol."""
    return {
        "name": name,
        "versions": [version],
        "platform": PLATFORM,
        "inputs": [_describe(field) for field in contract.feature_fields],
        "outputs": [{"name": output, "datatype": _OF_DTYPE[dtype], "shape": [-1]} for output, dtype in outputs.items()],
    }


def _describe(field: FieldSpec) -> dict[str, Any]:
    return {
        "name": field.name,
        "datatype": _TAKEN[field.type][0],
        "shape": [-1],
        "parameters": {"type": str(field.type), "required": field.constraints.required},
    }


def read(body: Mapping[str, Any], contract: Contract) -> list[dict[str, object]]:
    """The rows of an infer call.

    Args:
        body: The parsed request.
        contract: Says the model's columns.

    Raises:
        RequestError: A tensor is unknown, given twice, of a wrong datatype or shape, or the tensors differ in their rows.
    """
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise RequestError(
            "no array 'inputs' with a tensor", where="request body", remedy='send {"inputs": [{"name", "shape", "datatype", "data"}, ...]}'
        )
    columns: dict[str, list[object]] = {}
    for number, tensor in enumerate(inputs):
        name, values = _tensor(tensor, number, contract)
        if name in columns:
            raise RequestError("given twice", where=f"input {name!r}", remedy="give each tensor once")
        columns[name] = values
    check_columns(set(columns), contract, "request body")
    first, height = next((name, len(values)) for name, values in columns.items())
    for name, values in columns.items():
        if len(values) != height:
            raise RequestError(
                f"{len(values)} rows, but input {first!r} has {height}", where=f"input {name!r}", remedy="give every tensor the same rows"
            )
    if height == 0:
        raise RequestError("no row", where="request body", remedy="give at least one row")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _tensor(tensor: object, number: int, contract: Contract) -> tuple[str, list[object]]:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        raise RequestError("no tensor with a name", where=f"input {number}", remedy='send {"name", "shape", "datatype", "data"}')
    name = tensor["name"]
    where = f"input {name!r}"
    if name not in contract.names:
        raise RequestError("the model has no such input", where=where, remedy=close_names(name, contract.features))
    if "binary_data_size" in (tensor.get("parameters") or {}):
        raise RequestError("the binary data extension is not served", where=where, remedy="send the data as a JSON array")
    data = tensor.get("data")
    if not isinstance(data, list):
        raise RequestError("no array 'data'", where=where, remedy="send the values as a JSON array")
    values = _flat(data)
    _check_shape(tensor.get("shape"), len(values), where)
    _check_datatype(tensor.get("datatype"), values, contract.field(name), where)
    return name, values


def _flat(data: list[object]) -> list[object]:
    if not any(isinstance(item, list) for item in data):
        return data
    return [value for item in data for value in (item if isinstance(item, list) else [item])]


def _check_shape(shape: object, count: int, where: str) -> None:
    if not isinstance(shape, list) or not all(isinstance(size, int) and not isinstance(size, bool) for size in shape):
        raise RequestError(f"shape is {shape!r}", where=where, remedy="give [rows] or [rows, 1]")
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise RequestError(f"shape is {shape}, and a column has one value per row", where=where, remedy=f"give [{count}] or [{count}, 1]")
    if shape[0] != count:
        raise RequestError(f"shape is {shape}, but there are {count} values", where=where, remedy=f"give the shape [{count}]")


def _check_datatype(datatype: object, values: list[object], field: FieldSpec, where: str) -> None:
    taken = _TAKEN[field.type]
    if datatype not in taken:
        raise RequestError(f"datatype is {datatype!r}, and the column is {field.type}", where=where, remedy=f"send it as {taken[0]}")
    for row, value in enumerate(values):
        if value is not None and not _is_of(value, str(datatype)):
            raise RequestError(f"value {value!r} of row {row} is no {datatype}", where=where, remedy=f"send {datatype} values or null")


def _is_of(value: object, datatype: str) -> bool:
    if datatype == "BYTES":
        return isinstance(value, str)
    if datatype == "BOOL":
        return isinstance(value, bool)
    return isinstance(value, int if datatype in _WHOLE else (int, float)) and not isinstance(value, bool)


def wanted_outputs(body: Mapping[str, Any], known: list[str]) -> list[str]:
    """The outputs that a call asks for: all, when it names none.

    Raises:
        RequestError: It asks for one that the model does not have.
    """
    asked = body.get("outputs")
    if not asked:
        return known
    if not isinstance(asked, list):
        raise RequestError("'outputs' is no array", where="request body", remedy='send [{"name": ...}] or leave it out')
    names = [item.get("name") if isinstance(item, dict) else item for item in asked]
    for name in names:
        if name not in known:
            raise RequestError("the model has no such output", where=f"output {name!r}", remedy=close_names(str(name), known))
    return [str(name) for name in names]


def write(scored: pl.DataFrame, name: str, version: str, request_id: str) -> dict[str, Any]:
    """The answer to an infer call: one tensor per column of the prediction."""
    outputs = [
        {"name": column.name, "datatype": _OF_DTYPE[column.dtype], "shape": [scored.height], "data": column.to_list()}
        for column in scored.get_columns()
    ]
    return {"model_name": name, "model_version": version, "id": request_id, "outputs": outputs}

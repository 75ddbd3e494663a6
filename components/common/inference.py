"""Asking a model server: rows in, predictions out, over KServe V1 or V2 (Open Inference) REST."""

import http.client
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import polars as pl

from kfp_foundry.components.common.contract import Contract, Type
from kfp_foundry.components.common.errors import PlatformError

PROBE = "x-kfp-foundry-probe"
"""Header of a request that is a check: it is answered as any other, and kept out of the payload log."""

_EMPTIEST: dict[Type, object] = {
    Type.STRING: "",
    Type.INTEGER: 0,
    Type.NUMBER: 0.0,
    Type.BOOLEAN: False,
    Type.DATE: "1970-01-01",
    Type.DATETIME: "1970-01-01T00:00:00",
    Type.TIME: "00:00:00",
}
_DATATYPES: dict[Type, str] = {Type.INTEGER: "INT64", Type.NUMBER: "FP64", Type.BOOLEAN: "BOOL"}


@dataclass(frozen=True)
class Reply:
    """What a server answered, and how long it took."""

    status: int
    body: dict[str, Any]
    seconds: float

    @property
    def error(self) -> str:
        """The server's reason for a refusal; empty for an answer."""
        return str(self.body.get("error", ""))


class Client:
    """One kept connection to a model.

    Args:
        url: The server's base address.
        name: The model's name.
        timeout: Seconds to wait for an answer.
        probe: Whether the requests are checks, which stay out of the payload log.

    Example:
        >>> with Client("http://127.0.0.1:8090", "flights") as client:
        ...     client.v1([{"carrier": "UA"}]).body
        {'predictions': [{'prediction': False, 'probability': 0.21}]}
    """

    def __init__(self, url: str, name: str, timeout: float = 30.0, probe: bool = False) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.url = url
        self.name = name
        self._connection = kind(parts.hostname or "", parts.port, timeout=timeout)
        self._headers = {"content-type": "application/json"} | ({PROBE: "true"} if probe else {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()

    def get(self, path: str) -> Reply:
        """Reads a path.

        Raises:
            PlatformError: The server does not answer.
        """
        return self._ask("GET", path, None)

    def is_ready(self) -> bool:
        """Whether the model answers; also false when nothing listens."""
        try:
            return self.get(f"/v2/models/{self.name}/ready").status == 200
        except PlatformError:
            return False

    def v1(self, rows: Sequence[Mapping[str, object]]) -> Reply:
        """Sends raw rows to V1 predict; raises `PlatformError` when the server does not answer."""
        return self._ask("POST", f"/v1/models/{self.name}:predict", {"instances": list(rows)})

    def v2(self, inputs: Sequence[Mapping[str, object]]) -> Reply:
        """Sends tensors (see `tensors`) to V2 infer; raises `PlatformError` when the server does not answer."""
        return self._ask("POST", f"/v2/models/{self.name}/infer", {"inputs": list(inputs)})

    def _ask(self, method: str, path: str, body: object | None) -> Reply:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        started = time.perf_counter()
        try:
            self._connection.request(method, path, data, self._headers)
            response = self._connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            reason = str(error) or type(error).__name__
            raise PlatformError(f"no answer to {method} {path}: {reason}", where=self.url, remedy="see `kfp-foundry endpoints`") from error
        seconds = time.perf_counter() - started
        return Reply(response.status, _parsed(raw), seconds)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except ValueError:
        value = raw[:200].decode(errors="replace")
    return value if isinstance(value, dict) else {"error": f"not a JSON object: {value}"}


def emptiest_row(contract: Contract) -> dict[str, object]:
    """The row with as few values as the contract allows, as JSON takes it: it proves that a model answers.

    A model without a required column gets its first column as null, since a row must name one.
    """
    row = {field.name: _EMPTIEST[field.type] for field in contract.feature_fields if field.constraints.required}
    return row or dict.fromkeys(contract.features[:1])


def json_rows(frame: pl.DataFrame) -> list[dict[str, object]]:
    """A frame's rows as JSON takes them: dates and times as ISO texts, NaN and infinities as null."""
    return frame.select(_jsonable(frame)).to_dicts()


def tensors(frame: pl.DataFrame, contract: Contract) -> list[dict[str, object]]:
    """A frame as V2 inputs: one tensor per feature of the contract that the frame has."""
    ready = frame.select(_jsonable(frame))
    return [
        {"name": field.name, "shape": [frame.height], "datatype": _DATATYPES.get(field.type, "BYTES"), "data": ready[field.name].to_list()}
        for field in contract.feature_fields
        if field.name in frame.columns
    ]


def _jsonable(frame: pl.DataFrame) -> list[pl.Expr]:
    return [_column(name, dtype) for name, dtype in frame.schema.items()]


def _column(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if dtype.is_float():
        return pl.when(column.is_finite()).then(column)
    if isinstance(dtype, pl.Datetime):
        return column.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    if dtype.is_temporal():
        return column.dt.to_string("iso:strict")
    return column


def curl(url: str, rows: Sequence[Mapping[str, object]]) -> str:
    """A command line that sends raw rows to V1 predict and works when pasted into a shell.

    Example:
        >>> curl("http://127.0.0.1:8090/v1/models/flights:predict", [{"carrier": "UA"}])
        'curl -s http://127.0.0.1:8090/v1/models/flights:predict -H \\'Content-Type: application/json\\' -d \\'{"instances": [{"carrier": "UA"}]}\\''
    """
    body = json.dumps({"instances": list(rows)}, ensure_ascii=False, allow_nan=False)
    return f"curl -s {shlex.quote(url)} -H 'Content-Type: application/json' -d {shlex.quote(body)}"

"""What the two protocols share: the body as JSON, and the one kind of refusal."""

import json
from typing import Any, NoReturn

from kfp_foundry.components.common.contract import Contract
from kfp_foundry.components.common.errors import DataError, close_names

SHAPES = 'send {"instances": [...]} to V1 or {"inputs": [...]} to V2'


class RequestError(DataError):
    """A request that cannot be answered.

    Args:
        what: What was wrong, with the value.
        where: The part of the request.
        remedy: What to send instead.
        status: The HTTP status.
    """

    def __init__(self, what: str, *, where: str, remedy: str, status: int = 400) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.status = status


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RequestError: It is not valid JSON (NaN and infinities are not), holds half of a surrogate pair, or is no object.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
        if b"\\ud" in body or b"\\uD" in body:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise RequestError(f"not valid JSON: {reason}", where="request body", remedy=SHAPES) from error
    if not isinstance(value, dict):
        raise RequestError(f"a JSON {_kind(value)}, not an object", where="request body", remedy=SHAPES)
    return value


def check_columns(names: set[str], contract: Contract, where: str) -> None:
    """Refuses a row without a single column of the model: a misspelt optional column would else pass as missing.

    Raises:
        RequestError: No name is a feature; the message names the close ones.
    """
    features = contract.features
    if features and names.isdisjoint(features):
        shown = ", ".join(sorted(names)[:5])
        remedy = close_names(sorted(names)[0], features) if names else f"give the columns {', '.join(features[:20])}"
        raise RequestError(f"holds none of the model's columns (it holds: {shown or 'nothing'})", where=where, remedy=remedy)


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON value, write null for a missing number")


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")

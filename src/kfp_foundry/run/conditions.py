"""The conditions of `dsl.If` and `dsl.Elif`: the part of the Common Expression Language that KFP's compiler writes.

Source: https://github.com/google/cel-spec, langdef.md; KFP writes comparisons of parameters and constants, joined by `&&`.
"""

import operator
import re
from collections.abc import Callable
from typing import Any

from kfp_foundry.components.common.errors import UserError

_TOKEN = re.compile(
    r"""\s*(?:
        inputs\.parameter_values\['(?P<input>[^']*)'\]
      | (?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")
      | (?P<number>-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>&&|\|\||==|!=|<=|>=|[<>!()])
    )""",
    re.VERBOSE,
)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CASTS: dict[str, Callable[[Any], Any]] = {"int": int, "double": float, "string": str}
_WORDS = {"true": True, "false": False, "null": None}

Token = tuple[str, str]


def holds(condition: str, parameters: dict[str, Any]) -> bool:
    """Whether a condition is true.

    Args:
        condition: As in the compiled pipeline, such as `inputs.parameter_values['x'] == 'pass'`.
        parameters: The values of the task's inputs.

    Raises:
        UserError: It cannot be read, names no input, or compares what cannot be compared.

    Example:
        >>> holds("int(inputs.parameter_values['n']) >= 2 && !('a' == 'b')", {"n": 3})
        True
    """
    reader = _Reader(condition, parameters)
    try:
        value = reader.either()
    except (TypeError, ValueError) as error:
        raise reader.wrong(str(error)) from error
    if reader.tokens:
        raise reader.wrong(f"{reader.tokens[0][1]!r} is out of place")
    return bool(value)


class _Reader:
    """Reads and evaluates in one pass, by recursive descent."""

    def __init__(self, condition: str, parameters: dict[str, Any]) -> None:
        self.condition = condition
        self.parameters = parameters
        self.tokens = self._tokens()

    def wrong(self, why: str) -> UserError:
        return UserError(f"condition cannot be evaluated: {why}", where=self.condition, remedy="compare parameters and constants of one type")

    def _tokens(self) -> list[Token]:
        found: list[Token] = []
        position, text = 0, self.condition.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self.wrong(f"{text[position:].strip()[:20]!r} is not understood")
            found.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()
        return found

    def _take(self, *signs: str) -> str:
        if self.tokens and self.tokens[0][0] == "sign" and self.tokens[0][1] in signs:
            return self.tokens.pop(0)[1]
        return ""

    def either(self) -> Any:
        value = self.both()
        while self._take("||"):
            right = self.both()  # read in any case: it must leave the queue
            value = value or right
        return value

    def both(self) -> Any:
        value = self.comparison()
        while self._take("&&"):
            right = self.comparison()
            value = value and right
        return value

    def comparison(self) -> Any:
        value = self.operand()
        sign = self._take(*_COMPARE)
        return _COMPARE[sign](value, self.operand()) if sign else value

    def operand(self) -> Any:
        if self._take("!"):
            return not self.operand()
        if self._take("("):
            return self._closed()
        if not self.tokens:
            raise self.wrong("it ends too early")
        kind, text = self.tokens.pop(0)
        if kind == "input":
            if text not in self.parameters:
                raise self.wrong(f"input {text!r} has no value")
            return self.parameters[text]
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if kind == "number":
            return float(text) if any(sign in text for sign in ".eE") else int(text)
        if text in _WORDS:
            return _WORDS[text]
        if text in _CASTS and self._take("("):
            return _CASTS[text](self._closed())
        raise self.wrong(f"{text!r} is not understood")

    def _closed(self) -> Any:
        value = self.either()
        if not self._take(")"):
            raise self.wrong("a bracket is not closed")
        return value

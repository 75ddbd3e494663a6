"""The language of row rules: conditions over columns, such as `` dep_time <= arr_time and `seats sold` <= seats * 1.1 ``.

A rule is read with Python's own parser and only what is listed here is taken from it; nothing is ever executed. Names are
columns (backticks for names that are no words), texts stand in quotes, dates are texts in ISO form. Allowed: `< <= > >= == !=`,
chained as in `0 <= a <= b`; `in [..]` and `not in [..]`; `is None` and `is not None`; `and`, `or`, `not`; `+ - * /`; brackets.

A missing value makes a comparison unknown, and a rule fails only where it is known to be false (Kleene's logic, as in SQL).
"""

import ast
import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfp_foundry.components.common.errors import UserError, close_names

if TYPE_CHECKING:
    import narwhals as nw

MAX_LENGTH = 2000  # characters; keeps Python's parser well within its stack
_TEXT_OR_BACKTICKS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`([^`]*)`""")
_KINDS = {
    "integer": "number",
    "number": "number",
    "string": "text",
    "boolean": "truth value",
    "date": "date",
    "datetime": "date and time",
    "time": "time of day",
}
_MOMENTS = {"date": dt.date.fromisoformat, "date and time": dt.datetime.fromisoformat, "time of day": dt.time.fromisoformat}
_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Div: "__truediv__"}
_ORDER: dict[type[ast.cmpop], str] = {ast.Lt: "__lt__", ast.LtE: "__le__", ast.Gt: "__gt__", ast.GtE: "__ge__", ast.Eq: "__eq__", ast.NotEq: "__ne__"}
_ALLOWED = "use comparisons (== for equal), and, or, not, in, is None, + - * / and brackets over column names"


@dataclass(frozen=True)
class Rule:
    """A rule that was read and fits its table.

    Args:
        text: As written.
        columns: The columns it names, in order of appearance.
        condition: True where the rule holds, false where it is broken, null where a missing value leaves it open.
    """

    text: str
    columns: tuple[str, ...]
    condition: "nw.Expr"


def check_rule(text: str, types: Mapping[str, str]) -> None:
    """Raises what `read_rule` would raise; imports no engine."""
    _Reader(text, types).read(build=False)


def read_rule(text: str, types: Mapping[str, str], values: "Mapping[str, nw.Expr] | None" = None) -> Rule:
    """Reads a rule.

    Args:
        text: The rule.
        types: Column name to its type, in the words of a contract.
        values: Column name to its values, where they are not simply the column's, as when NaN is to count as missing.

    Raises:
        UserError: The rule cannot be read, names an unknown column, or compares what cannot be compared; the message says
            at which character.

    Example:
        >>> rule = read_rule("0 <= distance <= 5000 or carrier == 'HA'", {"distance": "integer", "carrier": "string"})
        >>> rule.columns
        ('distance', 'carrier')
    """
    reader = _Reader(text, types, values)
    condition = reader.read(build=True)
    return Rule(text, tuple(reader.columns), condition)


@dataclass(frozen=True)
class _Value:
    """A part of a rule: its kind, and how to compute it."""

    kind: str
    expression: Any
    literal: Any = None


class _Reader:
    def __init__(self, text: str, types: Mapping[str, str], values: "Mapping[str, nw.Expr] | None" = None) -> None:
        self.text = text
        self.types = types
        self.values = values or {}
        self.columns: list[str] = []
        self.quoted: dict[int, str] = {}
        self.build = False
        # A name in backticks becomes a word of the same length, so that positions stay true; its place tells which it is.
        one_line = text.replace("\n", " ").replace("\t", " ")
        whole = _TEXT_OR_BACKTICKS.sub(self._hide, one_line)
        self.source = whole.strip()
        self.start = len(whole) - len(whole.lstrip())

    def read(self, build: bool) -> Any:
        self.build = build
        if len(self.text) > MAX_LENGTH:
            raise UserError(
                f"it is {len(self.text):,} characters long", where=f"row rule {self.text[:40]!r}...", remedy=f"keep it within {MAX_LENGTH:,}"
            )
        try:
            tree = ast.parse(self.source, mode="eval").body
            condition = self._truth(tree).expression
        except SyntaxError as error:
            raise UserError(f"cannot be read: {error.msg}", where=self._where((error.offset or 1) + self.start), remedy=_ALLOWED) from error
        except (ValueError, MemoryError, RecursionError) as error:
            raise UserError(f"cannot be read: {error}", where=self._where(), remedy=_ALLOWED) from error
        if not self.columns:
            raise UserError("names no column", where=self._where(), remedy=_ALLOWED)
        return condition

    def _hide(self, match: re.Match[str]) -> str:
        if match.group(1) is None:
            return match.group(0)
        self.quoted[match.start()] = match.group(1)
        return "_" * len(match.group(0))

    def _at(self, node: ast.expr) -> int:
        """Where a node begins in the text, counted from 0 in characters (Python counts bytes)."""
        return self.start + len(self.source.encode()[: node.col_offset].decode(errors="ignore"))

    def _where(self, at: int | None = None) -> str:
        return f"row rule {self.text!r}" + (f", character {at}" if at is not None else "")

    def _refuse(self, node: ast.expr, what: str, remedy: str = _ALLOWED) -> UserError:
        return UserError(what, where=self._where(self._at(node) + 1), remedy=remedy)

    def _truth(self, node: ast.expr) -> _Value:
        value = self._value(node)
        if value.kind != "truth value":
            raise self._refuse(node, f"a {value.kind} is no condition", "compare it with something")
        return value

    def _value(self, node: ast.expr) -> _Value:
        match node:
            case ast.Compare():
                return self._compare(node)
            case ast.BoolOp():
                parts = [self._truth(part).expression for part in node.values]
                return _Value("truth value", self._fold("__and__" if isinstance(node.op, ast.And) else "__or__", parts))
            case ast.UnaryOp(op=ast.Not()):
                return _Value("truth value", self._apply("__invert__", self._truth(node.operand).expression))
            case ast.UnaryOp(op=ast.USub()):
                operand = self._number(node.operand)
                return (
                    self._constant(-operand.literal) if operand.literal is not None else _Value("number", self._apply("__neg__", operand.expression))
                )
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                left, right = self._number(node.left), self._number(node.right)
                return _Value("number", self._apply(_ARITHMETIC[type(node.op)], left.expression, right.expression))
            case ast.Name():
                return self._column(node)
            case ast.Constant(value=bool() | int() | float() | str()):
                return self._constant(node.value)
        raise self._refuse(node, f"{ast.unparse(node)!r} is not part of the language")

    def _number(self, node: ast.expr) -> _Value:
        value = self._value(node)
        if value.kind != "number":
            raise self._refuse(node, f"a {value.kind} cannot be calculated with", "use + - * / with numbers only")
        return value

    def _column(self, node: ast.Name) -> _Value:
        name = self.quoted.get(self._at(node), node.id)
        if name not in self.types:
            raise self._refuse(node, f"no column {name!r}", close_names(name, list(self.types)))
        if self.types[name] not in _KINDS:
            raise self._refuse(node, f"column {name!r} is of type {self.types[name]}, which cannot be compared", "leave it out of the rule")
        if name not in self.columns:
            self.columns.append(name)
        values = self.values.get(name) if name in self.values or not self.build else self._engine().col(name)
        return _Value(_KINDS[self.types[name]], values)

    def _constant(self, value: Any) -> _Value:
        kind = "truth value" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        if kind == "number" and isinstance(value, int) and abs(value) >= 2**63:
            value = float(value)
        return _Value(kind, self._engine().lit(value) if self.build else None, value)

    def _compare(self, node: ast.Compare) -> _Value:
        parts, left = [], node.left
        for operator, right in zip(node.ops, node.comparators, strict=True):
            parts.append(self._pair(left, operator, right))
            left = right
        return _Value("truth value", self._fold("__and__", parts))

    def _pair(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Any:
        if isinstance(operator, (ast.Is, ast.IsNot)):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._refuse(right, "`is` asks only for None", "write == to compare values")
            missing = self._apply("is_null", self._value(left).expression)
            return missing if isinstance(operator, ast.Is) else self._apply("__invert__", missing)
        if isinstance(operator, (ast.In, ast.NotIn)):
            return self._among(left, operator, right)
        first, second = self._alike(self._value(left), self._value(right), left, right)
        if first.kind == "truth value" and not isinstance(operator, (ast.Eq, ast.NotEq)):
            raise self._refuse(left, "truth values have no order", "compare them with == or !=")
        return self._apply(_ORDER[type(operator)], first.expression, second.expression)

    def _among(self, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Any:
        if not isinstance(right, (ast.List, ast.Tuple)) or not right.elts:
            raise self._refuse(right, "`in` needs a list of values", "write it as x in [1, 2, 3]")
        value = self._value(left)
        literals = []
        for element in right.elts:
            member = self._alike(value, self._value(element), left, element)[1]
            if member.literal is None:
                raise self._refuse(element, "a list holds values, not columns or calculations", "write them out, joined by or")
            literals.append(member.literal)
        inside = self._apply("is_in", value.expression, literals)
        return inside if isinstance(operator, ast.In) else self._apply("__invert__", inside)

    def _alike(self, first: _Value, second: _Value, left: ast.expr, right: ast.expr) -> tuple[_Value, _Value]:
        """Both sides, a text beside a date read as one."""
        if second.kind in _MOMENTS and first.literal is not None and first.kind == "text":
            first = self._moment(first, second.kind, left)
        if first.kind in _MOMENTS and second.literal is not None and second.kind == "text":
            second = self._moment(second, first.kind, right)
        if first.kind != second.kind and {first.kind, second.kind} != {"date", "date and time"}:
            raise self._refuse(right, f"a {first.kind} cannot be compared with a {second.kind}", "compare values of one kind")
        return first, second

    def _moment(self, value: _Value, kind: str, node: ast.expr) -> _Value:
        try:
            moment = _MOMENTS[kind](value.literal)
        except ValueError as error:
            raise self._refuse(node, f"{value.literal!r} is not a {kind}", "write it in ISO form, such as 2024-05-31") from error
        return _Value(kind, self._engine().lit(moment) if self.build else None, moment)

    def _engine(self) -> Any:
        import narwhals

        return narwhals

    def _apply(self, operation: str, operand: Any, *others: Any) -> Any:
        return getattr(operand, operation)(*others) if self.build else None

    def _fold(self, operation: str, parts: list[Any]) -> Any:
        whole = parts[0]
        for part in parts[1:]:
            whole = self._apply(operation, whole, part)
        return whole

"""One parameter that is searched over: its range or its values, and how a value is written and read."""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from kfp_foundry.components.common.errors import UserError, close_names

Scalar = bool | int | float | str
Kind = Literal["int", "float", "categorical"]

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Katib's webhook joins the words of a trial's command with spaces and gives them to a shell, so a value holds nothing that a
# shell would take for more than a letter (katib pkg/webhook/v1beta1/pod/inject_webhook.go).
WORD = re.compile(r"[A-Za-z0-9_.+,:/@%=-]+")
RANGE_WORDS = ("min", "max", "step", "log")


class Parameter(BaseModel):
    """A range or a list of values.

    Args:
        type: `int`, `float` or `categorical`.
        min: Least value of a range.
        max: Greatest value of a range; it can be reached.
        step: Distance of a range's values, counted from `min`; None for every value (float) or 1 (int).
        log: Whether a value is as likely between 1 and 10 as between 10 and 100.
        values: What a categorical one chooses from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Kind
    min: int | float | None = None
    max: int | float | None = None
    step: int | float | None = None
    log: bool = False
    values: tuple[Scalar, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether it is a range."""
        return self.type != "categorical"

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value; of a categorical one there is none."""
        if self.min is None or self.max is None:
            raise AttributeError("a categorical parameter has no range")
        return self.min, self.max

    def grid(self) -> list[Scalar] | None:
        """Its values in order; None when there are infinitely many."""
        if not self.numeric:
            return list(self.values)
        low, high = self.range
        step = self.step if self.step is not None else (1 if self.type == "int" else None)
        if step is None:
            return [low] if low == high else None
        count = math.floor((high - low) / step + 1e-9) + 1
        # Rounded as people write them: 0.1 + 2 * 0.1 is 0.3.
        return [int(low + i * step) if self.type == "int" else float(f"{low + i * step:.12g}") for i in range(count)]

    def convert(self, value: Any, where: str) -> Scalar:
        """A proposed value in the type that the library takes.

        Args:
            value: A number, or any value as text, as an argument of a trial is.
            where: Names the parameter in an error.

        Raises:
            UserError: It is no value of this parameter.

        Example:
            >>> Parameter(type="int", min=1, max=9).convert("4.0", "depth"), Parameter(type="categorical", values=(63, 127)).convert("63", "max_bin")
            (4, 63)
        """
        if not self.numeric:
            for known in self.values:
                if text(known) == (value if isinstance(value, str) else text(value)):
                    return known
            raise UserError(f"{value!r} is none of its values", where=where, remedy=close_names(str(value), [text(v) for v in self.values]))
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or (self.type == "int" and not number.is_integer()):
            raise UserError(f"{value!r} is no {'whole' if self.type == 'int' else 'finite'} number", where=where, remedy="give a number of its range")
        return int(number) if self.type == "int" else number


def text(value: Scalar) -> str:
    """A value as it stands in an argument or an Experiment.

    Example:
        >>> text(True), text(63), text(0.1), text("gbdt")
        ('true', '63', '0.1', 'gbdt')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def read(name: str, given: Any, where: str) -> Parameter:
    """A parameter from what a person wrote: a mapping, or a list of values.

    Whole floats become ints: a number that came through a pipeline's parameters may have become one.

    Raises:
        UserError: It cannot be searched over as it is written.
    """
    place = f"{where}: parameter {name!r}"
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no parameter name", where=where, remedy="use letters, digits and _, and no digit first")
    words: Mapping[str, Any] = {"type": "categorical", "values": given} if isinstance(given, (list, tuple)) else given
    if not isinstance(words, Mapping):
        raise UserError(f"{given!r} is no range", where=place, remedy='write it like {"type": "int", "min": 7, "max": 255}, or as a list of values')
    for word in words:
        if word not in Parameter.model_fields:
            raise UserError(f"unknown word {word!r}", where=place, remedy=close_names(str(word), list(Parameter.model_fields)))
    kind = words.get("type", "categorical" if "values" in words else None)
    if kind not in get_args(Kind):
        raise UserError(f"type is {kind!r}", where=place, remedy=close_names(str(kind), list(get_args(Kind))))
    if kind == "categorical":
        return _categorical(words, place)
    return _range(kind, words, place)


def _categorical(words: Mapping[str, Any], place: str) -> Parameter:
    for word in RANGE_WORDS:
        if words.get(word) not in (None, False):
            raise UserError(f"{word} is given beside values", where=place, remedy="give values alone, or type int or float")
    values = words.get("values")
    if not isinstance(values, (list, tuple)) or not values:
        raise UserError(f"values is {values!r}", where=place, remedy="give a list of values to choose from")
    read_values: list[Scalar] = []
    for value in values:
        if not isinstance(value, (bool, int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
            raise UserError(f"value {value!r} is no text, number or boolean", where=place, remedy="give plain values")
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if not WORD.fullmatch(text(whole)):
            raise UserError(f"value {value!r} cannot be an argument of a trial", where=place, remedy="use letters, digits and any of _.+,:/@%=-")
        if text(whole) in map(text, read_values):
            raise UserError(f"value {value!r} is given twice", where=place, remedy="give each value once")
        read_values.append(whole)
    return Parameter(type="categorical", values=tuple(read_values))


def _range(kind: Literal["int", "float"], words: Mapping[str, Any], place: str) -> Parameter:
    if words.get("values"):
        raise UserError(f"values is given beside type {kind}", where=place, remedy="give min and max, or type categorical")
    low, high = (_number(word, words, kind, place) for word in ("min", "max"))
    step = _number("step", words, kind, place) if words.get("step") is not None else None
    log = words.get("log", False)
    if not isinstance(log, bool):
        raise UserError(f"log is {log!r}", where=place, remedy="give true or false")
    if low > high:
        raise UserError(f"min {low} is above max {high}", where=place, remedy="exchange them")
    if step is not None and not 0 < step <= max(high - low, 0):
        raise UserError(f"step is {step}, the range is {high - low} wide", where=place, remedy="give a positive step that fits into the range")
    if log and low <= 0:
        raise UserError(f"log is true and min is {low}, which has no logarithm", where=place, remedy="give a min above 0, or log: false")
    if log and step is not None:
        raise UserError(f"log is true and step is {step}", where=place, remedy="give one of them; or list the values with type categorical")
    return Parameter(type=kind, min=low, max=high, step=step, log=log)


def _number(word: str, words: Mapping[str, Any], kind: str, place: str) -> int | float:
    value = words.get(word)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        said = f"{word} is missing" if value is None else f"{word} is {value!r}"
        raise UserError(said, where=place, remedy="give a number")
    if kind == "int" and not float(value).is_integer():
        raise UserError(f"{word} is {value!r}, the type is int", where=place, remedy="give a whole number, or type float")
    return int(value) if kind == "int" else float(value)

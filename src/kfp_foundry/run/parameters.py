"""A run's parameters: read from `--set` and `--params`, and held to the pipeline's definitions before anything starts."""

import datetime
import json
import math
from pathlib import Path
from typing import Any

import yaml

from kfp_foundry.components.common.errors import UserError, close_names
from kfp_foundry.run.values import as_on_cluster

Definitions = dict[str, dict[str, Any]]

_WORDS = {
    "STRING": "a text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a list",
    "STRUCT": "a mapping",
}
_EXAMPLES = {
    "NUMBER_INTEGER": "100",
    "NUMBER_DOUBLE": "0.5",
    "BOOLEAN": "true",
    "LIST": '\'["a", "b"]\'',
    "STRUCT": "'{\"a\": 1}'",
}
_TRUTH = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


def read_file(path: Path) -> dict[str, Any]:
    """Reads a file of parameters, YAML or JSON: a mapping from name to value.

    Raises:
        UserError: The file cannot be read or holds something else.
    """
    where = f"parameters {path}"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=where, remedy="check the path") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"is not YAML: {' '.join(str(error).split())}", where=where, remedy="repair the file") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"holds {type(values).__name__}, not names with values", where=where, remedy="write lines such as `max_rows: 1000`")
    return {str(name): value for name, value in values.items()}


def read_settings(settings: list[str], definitions: Definitions) -> dict[str, Any]:
    """Reads `name=value` texts by the types that the pipeline declares.

    Args:
        settings: As given with `--set`; of two for one name the last one counts. A list may be written as JSON, YAML or `a,b`.
        definitions: The pipeline's parameters.

    Raises:
        UserError: One is not `name=value`, names no parameter, or its value is not of the declared type.

    Example:
        >>> read_settings(["max_rows=5", "columns=a,b"], {"max_rows": {"parameterType": "NUMBER_INTEGER"}, "columns": {"parameterType": "LIST"}})
        {'max_rows': 5, 'columns': ['a', 'b']}
    """
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"{setting!r} is not name=value", where="--set", remedy=f"write --set {name}=VALUE")
        _known(name, definitions)
        values[name] = _parse(name, text, definitions[name]["parameterType"])
    return values


def check(arguments: dict[str, Any], definitions: Definitions) -> dict[str, Any]:
    """The values with which a pipeline runs: those given, of the declared types, and the defaults of the others.

    An optional parameter without a default that is not given stays absent, as on a cluster.

    Raises:
        UserError: A name is unknown, a value has the wrong type, or a required parameter is missing.
    """
    for name in arguments:
        _known(name, definitions)
    values = {}
    missing = []
    for name, definition in definitions.items():
        if arguments.get(name) is not None:
            values[name] = _typed(name, arguments[name], definition["parameterType"])
        elif "defaultValue" in definition:
            values[name] = _typed(name, definition["defaultValue"], definition["parameterType"])
        elif not definition.get("isOptional"):
            missing.append(name)
    if missing:
        settings = " ".join(f"--set {name}=..." for name in missing)
        raise UserError(f"required, but not given: {', '.join(missing)}", where="parameters", remedy=f"add {settings}")
    return values


def _known(name: str, definitions: Definitions) -> None:
    if name not in definitions:
        remedy = close_names(name, sorted(definitions)) if definitions else "this pipeline takes none"
        raise UserError(f"unknown parameter {name!r}", where="parameters", remedy=remedy)


def _wrong(name: str, value: Any, kind: str) -> UserError:
    shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
    example = f", such as --set {name}={_EXAMPLES[kind]}" if kind in _EXAMPLES else ""
    return UserError(f"{shown} is not {_WORDS[kind]}", where=f"parameter {name}", remedy=f"give {_WORDS[kind]}{example}")


def _parse(name: str, text: str, kind: str) -> Any:
    try:
        if kind == "STRING":
            return text
        if kind == "NUMBER_INTEGER":
            return _typed(name, float(text) if any(sign in text for sign in ".eE") else int(text), kind)
        if kind == "NUMBER_DOUBLE":
            return _typed(name, float(text), kind)
        if kind == "BOOLEAN":
            return _TRUTH[text.strip().lower()]
        value = yaml.safe_load(text)
        if kind == "LIST" and not isinstance(value, (list, dict)):
            return [part.strip() for part in text.split(",") if part.strip()]
        return _typed(name, value if value is not None else {}, kind)
    except (KeyError, ValueError, yaml.YAMLError) as error:
        raise _wrong(name, text, kind) from error


def _typed(name: str, value: Any, kind: str) -> Any:
    """The value as the declared type, where that changes nothing; refused otherwise."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "NUMBER_INTEGER" and number and math.isfinite(value) and value == int(value):
        return int(value)
    if kind == "NUMBER_DOUBLE" and number and math.isfinite(value):
        return float(value)
    if kind == "BOOLEAN" and isinstance(value, bool):
        return value
    if kind == "STRING" and isinstance(value, (str, int, float, datetime.date)):
        return _text(value)
    if (kind == "LIST" and isinstance(value, (list, tuple))) or (kind == "STRUCT" and isinstance(value, dict)):
        try:
            return as_on_cluster(json.loads(json.dumps(value, allow_nan=False, default=_text)))
        except (TypeError, ValueError) as error:
            raise _wrong(name, value, kind) from error
    if kind not in _WORDS:  # a task configuration and the like, which only a backend gives
        return value
    raise _wrong(name, value, kind)


def _text(value: object) -> str:
    """A scalar as text, as one would write it in YAML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, datetime.date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not a JSON value")

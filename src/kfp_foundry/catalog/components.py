"""The components: their interface from `component.py`, their errors from `core.py`, the rest from `metadata.yaml`."""

import ast
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kfp_foundry import components as package
from kfp_foundry.catalog import docstrings
from kfp_foundry.components.common.errors import IntegrityError, UserError, close_names

INTERFACE = "component.py"
CORE = "core.py"
METADATA = "metadata.yaml"
AREAS = ("ingestion", "validation", "features", "tuning", "training", "evaluation", "registry", "deployment", "monitoring")
_TYPING = ("dsl.", "typing.")
_OPTIONAL = re.compile(r"^Optional\[(.*)\]$")
_PORT = re.compile(r"(Input|Output)\[(.*)\]")
ERRORS = ("UserError", "DataError", "IntegrityError", "PlatformError", "RemoteFailure", "GateRefused", "RowError")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a component or a pipeline.

    Args:
        name: Its name.
        type: Its type as written, such as `List[str]`.
        doc: What it means.
        default: Its default as Python source; None when it must be given.
    """

    name: str
    type: str
    doc: str
    default: str | None = None

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is None


@dataclass(frozen=True)
class ArtifactPort:
    """An artifact that goes in or comes out; `type` is a KFP class such as `Dataset`."""

    name: str
    type: str
    doc: str
    optional: bool = False


@dataclass(frozen=True)
class Component:
    """One component, as its files describe it."""

    name: str
    area: str
    summary: str
    description: str
    parameters: list[Parameter]
    inputs: list[ArtifactPort]
    outputs: list[ArtifactPort]
    results: list[Parameter]
    raises: list[tuple[str, str]]
    stability: str
    tags: list[str]
    needs: dict[str, Any]
    runs_on: list[str]
    folder: Path = field(compare=False)

    @property
    def module(self) -> str:
        """The module that defines it."""
        return f"{package.__name__}.{self.area}.{self.name}.component"

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name."""
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def root() -> Path:
    """The folder of the installed components."""
    return Path(package.__path__[0])


@functools.cache
def every(folder: Path | None = None) -> tuple[Component, ...]:
    """All components under a folder, by area (in the order of a model's life) and name; those of this package by default.

    Raises:
        IntegrityError: A component's files are missing or cannot be read.
    """
    found = [read(file.parent) for file in sorted((folder or root()).glob(f"*/*/{INTERFACE}"))]
    return tuple(sorted(found, key=lambda each: (AREAS.index(each.area) if each.area in AREAS else len(AREAS), each.area, each.name)))


def area_summary(area: str) -> str:
    """What an area's package says of itself."""
    file = root() / area / "__init__.py"
    return docstrings.parse(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))).summary


def find(name: str) -> Component:
    """The component of that name.

    Raises:
        UserError: There is none; the message says the close names.
    """
    known = {component.name: component for component in every()}
    if name not in known:
        raise UserError(f"no component {name!r}", where="catalogue", remedy=close_names(name, list(known)))
    return known[name]


def read(folder: Path) -> Component:
    """Reads one component's folder.

    Raises:
        IntegrityError: A file is missing or is not what it should be.
    """
    function = interface(folder)
    doc = docstrings.parse(ast.get_docstring(function))
    metadata = _metadata(folder)
    parameters, inputs, outputs = _ports(function, doc)
    return Component(
        name=function.name,
        area=str(metadata.get("area", folder.parent.name)),
        summary=doc.summary,
        description=doc.description,
        parameters=parameters,
        inputs=inputs,
        outputs=outputs,
        results=_results(function, doc),
        raises=_raises(folder),
        stability=str(metadata.get("stability", "")),
        tags=[str(tag) for tag in metadata.get("tags") or []],
        needs=dict(metadata.get("needs") or {}),
        runs_on=[str(place) for place in metadata.get("runs_on") or []],
        folder=folder,
    )


def interface(folder: Path) -> ast.FunctionDef:
    """The decorated function of a component's `component.py`.

    Raises:
        IntegrityError: The file is missing, does not parse, or decorates no function of the folder's name.
    """
    file = folder / INTERFACE
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(file), remedy="repair the file") from error
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == folder.name and node.decorator_list:
            return node
    raise IntegrityError(f"no decorated function {folder.name!r}", where=str(file), remedy="name the component like its folder")


def parameters_of(function: ast.FunctionDef) -> list[tuple[ast.arg, ast.expr | None]]:
    """A function's parameters, each with its default's expression or None."""
    spec = function.args
    positional = [*spec.posonlyargs, *spec.args]
    defaults: list[ast.expr | None] = [*[None] * (len(positional) - len(spec.defaults)), *spec.defaults]
    return [*zip(positional, defaults, strict=True), *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]


def type_text(annotation: ast.expr | None) -> str:
    """An annotation as people read it: `dsl.Input[dsl.Dataset]` is `Input[Dataset]`."""
    text = ast.unparse(annotation) if annotation is not None else ""
    for prefix in _TYPING:
        text = text.replace(prefix, "")
    return text


def _ports(function: ast.FunctionDef, doc: docstrings.Docstring) -> tuple[list[Parameter], list[ArtifactPort], list[ArtifactPort]]:
    parameters, inputs, outputs = list[Parameter](), list[ArtifactPort](), list[ArtifactPort]()
    for argument, default in parameters_of(function):
        kind, text, name = type_text(argument.annotation), doc.args.get(argument.arg, ""), argument.arg
        port = _PORT.fullmatch(_OPTIONAL.sub(r"\1", kind))
        if port and port[1] == "Input":
            inputs.append(ArtifactPort(name, port[2], text, optional=default is not None))
        elif port:
            outputs.append(ArtifactPort(name, port[2], text))
        else:
            parameters.append(Parameter(name, kind, text, None if default is None else source(default)))
    return parameters, inputs, outputs


def _results(function: ast.FunctionDef, doc: docstrings.Docstring) -> list[Parameter]:
    returned = function.returns
    if returned is None or (isinstance(returned, ast.Constant) and returned.value is None):
        return []
    if isinstance(returned, ast.Call):  # NamedTuple("Outputs", [("rows", int), ...])
        fields = returned.args[1].elts if len(returned.args) > 1 and isinstance(returned.args[1], ast.List) else []
        pairs = [pair.elts for pair in fields if isinstance(pair, ast.Tuple)]
        named = [(str(name.value), kind) for name, kind in pairs if isinstance(name, ast.Constant)]
        return [Parameter(name, type_text(kind), doc.returns.get(name, "")) for name, kind in named]
    return [Parameter("Output", type_text(returned), doc.returns.get("Output") or " ".join(doc.returns.values()))]


def _metadata(folder: Path) -> dict[str, Any]:
    file = folder / METADATA
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(file), remedy="repair the file") from error
    if not isinstance(content, dict):
        raise IntegrityError("holds no mapping", where=str(file), remedy="write name, area, stability, tags, needs and runs_on")
    return content


def _raises(folder: Path) -> list[tuple[str, str]]:
    """What the public functions of `core.py` say under `Raises:`, without repeats."""
    file = folder / CORE
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(file), remedy="repair the file") from error
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    said = [entry for function in public for entry in docstrings.parse(ast.get_docstring(function)).raises if entry[0] in ERRORS]
    return sorted(dict.fromkeys(said), key=lambda entry: ERRORS.index(entry[0]))


def source(default: ast.expr) -> str:
    """A default as source, texts in double quotes."""
    if isinstance(default, ast.Constant) and isinstance(default.value, str):
        return quoted(default.value)
    return ast.unparse(default)


def quoted(text: str) -> str:
    """A text as source, in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

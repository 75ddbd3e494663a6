"""The pipelines: their parameters from `pipeline.py`, their steps from the compiled `pipeline.yaml`."""

import ast
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kfp_foundry import pipelines as package
from kfp_foundry.catalog import docstrings
from kfp_foundry.catalog.components import Parameter, parameters_of, source, type_text
from kfp_foundry.components.common.errors import IntegrityError, UserError, close_names
from kfp_foundry.ir import Compiled

SOURCE = "pipeline.py"
COMPILED = "pipeline.yaml"


@dataclass(frozen=True)
class Step:
    """One task of a pipeline, and the tasks of the same pipeline that it waits for."""

    name: str
    component: str
    after: list[str]
    inputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """One pipeline, as its files describe it."""

    name: str
    title: str
    summary: str
    description: str
    parameters: list[Parameter]
    folder: Path = field(compare=False)

    @property
    def module(self) -> str:
        """The module that defines it."""
        return f"{package.__name__}.{self.name}.pipeline"

    @property
    def yaml(self) -> Path:
        """Its compiled form, beside its source."""
        return self.folder / COMPILED

    def steps(self) -> list[Step]:
        """Its tasks, each after those that it waits for.

        Raises:
            DataError: It has never been compiled.
        """
        changed = self.yaml.stat().st_mtime_ns if self.yaml.exists() else 0
        return list(_steps_of(self.yaml, changed))


def root() -> Path:
    """The folder of the installed pipelines."""
    return Path(package.__path__[0])


def every(folder: Path | None = None) -> tuple[Pipeline, ...]:
    """All pipelines under a folder, by name; those of this package by default.

    Raises:
        IntegrityError: A pipeline's source cannot be read.
    """
    return tuple(read(file.parent) for file in sorted((folder or root()).glob(f"*/{SOURCE}")))


def find(name: str) -> Pipeline:
    """The pipeline of that name, written with `_` or `-`.

    Raises:
        UserError: There is none; the message says the close names.
    """
    known = {pipeline.name: pipeline for pipeline in every()}
    found = known.get(name.replace("-", "_"))
    if found is None:
        raise UserError(f"no pipeline {name!r}", where="catalogue", remedy=close_names(name, list(known)))
    return found


def read(folder: Path) -> Pipeline:
    """Reads one pipeline's folder.

    Raises:
        IntegrityError: The source is missing, does not parse, or decorates no function of the folder's name.
    """
    file = folder / SOURCE
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(file), remedy="repair the file") from error
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == folder.name and node.decorator_list]
    if not functions:
        raise IntegrityError(f"no decorated function {folder.name!r}", where=str(file), remedy="name the pipeline like its folder")
    doc = docstrings.parse(ast.get_docstring(functions[0]))
    words = _decorator(functions[0])
    return Pipeline(
        name=folder.name,
        title=words.get("name", folder.name.replace("_", "-")),
        summary=words.get("description", doc.summary),
        description=doc.description,
        parameters=[
            Parameter(argument.arg, type_text(argument.annotation), doc.args.get(argument.arg, ""), None if default is None else source(default))
            for argument, default in parameters_of(functions[0])
        ],
        folder=folder,
    )


def _decorator(function: ast.FunctionDef) -> dict[str, str]:
    calls = [decorator for decorator in function.decorator_list if isinstance(decorator, ast.Call)]
    return {
        str(word.arg): str(word.value.value)
        for call in calls
        for word in call.keywords
        if isinstance(word.value, ast.Constant) and isinstance(word.value.value, str)
    }


def steps(compiled: Compiled) -> list[Step]:
    """The tasks of a compiled pipeline's outermost graph, each after those that it waits for."""
    tasks = next(compiled.graphs()).tasks
    placed: dict[str, Step] = {}

    def place(name: str) -> None:
        if name in placed:
            return
        task = tasks[name]
        after = upstream(task)
        for other in after:
            place(other)
        inputs = {**task.get("inputs", {}).get("artifacts", {}), **task.get("inputs", {}).get("parameters", {})}
        component = str(task["componentRef"]["name"]).removeprefix("comp-").replace("-", "_")
        placed[name] = Step(name, component, after, inputs)

    for name in tasks:
        place(name)
    return list(placed.values())


@functools.lru_cache(maxsize=32)
def _steps_of(file: Path, changed: int) -> tuple[Step, ...]:
    """The steps of a compiled pipeline as it was at a time; examples ask for the same ones again and again."""
    return tuple(steps(Compiled.load(file)))


def upstream(task: dict[str, Any]) -> list[str]:
    """The tasks of the same graph that a task waits for, by data or by `after`."""
    ports = [*task.get("inputs", {}).get("parameters", {}).values(), *task.get("inputs", {}).get("artifacts", {}).values()]
    producers = {source["producerTask"] for port in ports for source in port.values() if isinstance(source, dict) and "producerTask" in source}
    return sorted(producers | set(task.get("dependentTasks", [])))

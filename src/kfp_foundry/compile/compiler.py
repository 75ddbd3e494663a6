"""Compiles a pipeline's source to YAML."""

import importlib
import importlib.util
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from kfp_foundry.components.common.errors import UserError, close_names

# What kfp's compiler says, in its own words, and what an author can do about it.
REMEDIES = {
    "schema_title": "type parameters as str, int, float, bool, dict, List[...] or Optional[...]; no Literal, no `X | None`, no dataclass",
    "from __future__": "remove `from __future__ import annotations` from modules that define components",
    "Task is missing": "call at least one component in the pipeline",
    "must be a type": "give every parameter a type",
}


def compile_file(file: Path, function: str = "") -> str:
    """Compiles the pipeline that a Python file defines.

    Args:
        file: The file; its folder can be imported from while it is compiled.
        function: Name of the pipeline's function, when the file defines several.

    Returns:
        The YAML; the same source gives the same bytes.

    Raises:
        UserError: The file cannot be imported, or defines no pipeline, or several.
    """
    return _compile(choose(_import(file), function, str(file)))


def compile_module(module: str) -> str:
    """Compiles the pipeline that an importable module defines; raises as `compile_file` does."""
    return _compile(choose(importlib.import_module(module), "", module))


def choose(module: ModuleType, function: str, where: str) -> Any:
    """The pipeline that a module defines itself.

    Raises:
        UserError: There is none, or several and none was named.
    """
    from kfp.dsl.graph_component import GraphComponent

    found = {
        name: value for name, value in vars(module).items() if isinstance(value, GraphComponent) and value.pipeline_func.__module__ == module.__name__
    }
    if function:
        if function not in found:
            raise UserError(f"no pipeline {function!r}", where=where, remedy=close_names(function, list(found)))
        return found[function]
    if not found:
        raise UserError("defines no pipeline", where=where, remedy="decorate a function with @dsl.pipeline")
    if len(found) > 1:
        raise UserError(f"defines {len(found)} pipelines: {', '.join(found)}", where=where, remedy=f"choose one, such as {where}:{next(iter(found))}")
    return next(iter(found.values()))


def _compile(pipeline: Any) -> str:
    from kfp import compiler

    with tempfile.TemporaryDirectory(prefix="kfp-foundry-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # kfp announces base images that our components do not use
        target = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(target))
        return target.read_text(encoding="utf-8")


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise UserError("no such file", where=str(file), remedy="check the path")
    name = file.stem if file.stem.isidentifier() else "pipeline"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError("not a Python file", where=str(file), remedy="give a file whose name ends with .py")
    module = importlib.util.module_from_spec(spec)
    with _importable(file.parent.absolute(), name, module):
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise _blame(error, file) from error
    return module


@contextmanager
def _importable(folder: Path, name: str, module: ModuleType) -> Iterator[None]:
    """While it lasts, the folder's modules can be imported, and the module is known under its name."""
    before = sys.modules.get(name)
    sys.path.insert(0, os.fspath(folder))
    sys.modules[name] = module
    try:
        yield
    finally:
        sys.path.remove(os.fspath(folder))
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before


def _blame(error: BaseException, file: Path) -> UserError:
    """The author's own line, what kfp or Python said about it, and what to do."""
    own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file.absolute()]
    line = error.lineno if isinstance(error, SyntaxError) else (own[-1] if own else None)
    said = " ".join(str(error).split())
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in said), "repair the file")
    return UserError(f"{type(error).__name__}: {said}", where=f"{file}:{line}" if line else str(file), remedy=remedy)

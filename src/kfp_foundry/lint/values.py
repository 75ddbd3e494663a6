"""Rules over constants: what a platform expands, replaces, cuts or refuses."""

import json
import math
from collections.abc import Iterator
from typing import Any

from kfp_foundry.ir import ROOT, Compiled
from kfp_foundry.lint.finding import Finding, Level

LONGEST_ARGUMENT = 131_071  # bytes of one argument of a Linux process
LONGEST_CONSTANT = 100_000  # leaves room for the step's other inputs in the same argument
LONG_CONSTANT = 10_000
LONGEST_WORKFLOW = 700_000

# Placeholders that kfp.local 2.17 does not know (IndexError).
UNKNOWN_LOCALLY = ("pipeline_job_resource_name", "pipeline_job_create_time_utc", "pipeline_job_schedule_time_utc")


def texts(compiled: Compiled) -> Iterator[Finding]:
    """Texts that are not taken as they are."""
    for place, value in constants(compiled):
        for text in _strings(value):
            if "python3" in text:
                yield Finding(
                    "python3-text",
                    Level.ERROR,
                    place,
                    "the text contains 'python3': kfp.local silently replaces the word by the interpreter's path (kfp-foundry run does not)",
                    "write 'python', or put the text together inside the component",
                )
            if "{{$}}" in text:
                yield Finding(
                    "expanded-text",
                    Level.ERROR,
                    place,
                    "the text contains '{{$}}', which is replaced by the step's whole input before the component sees it",
                    "put the text together inside the component",
                )
            for name in [name for name in UNKNOWN_LOCALLY if f"{{{{$.{name}" in text]:
                yield Finding(
                    "unknown-placeholder",
                    Level.WARNING,
                    place,
                    f"placeholder {name}: kfp.local fails",
                    "use PIPELINE_JOB_ID_PLACEHOLDER or PIPELINE_JOB_NAME_PLACEHOLDER, or take the time inside the component",
                )


def sizes(compiled: Compiled) -> Iterator[Finding]:
    """Values that do not fit where they have to pass."""
    for place, value in constants(compiled):
        size = len(json.dumps(value).encode())
        if size > LONGEST_CONSTANT:
            yield Finding(
                "big-constant",
                Level.ERROR,
                place,
                f"the value has {size:,} bytes, and all inputs of a step pass through one argument of at most {LONGEST_ARGUMENT:,}",
                "put it into a file, and pass the path",
            )
        elif size > LONG_CONSTANT:
            yield Finding(
                "big-constant",
                Level.WARNING,
                place,
                f"the value has {size:,} bytes; the KFP v1 API takes {LONG_CONSTANT:,} a parameter, and Argo about {LONGEST_WORKFLOW:,} a workflow",
                "put it into a file, and pass the path",
            )
    size = len(json.dumps(compiled.documents, default=str).encode())
    if size > LONGEST_WORKFLOW:
        yield Finding(
            "big-pipeline",
            Level.WARNING,
            ROOT,
            f"the pipeline has {size:,} bytes, and Argo takes about {LONGEST_WORKFLOW:,} a workflow",
            "keep code in the image (thin components) and data in files",
        )


def numbers(compiled: Compiled) -> Iterator[Finding]:
    """Numbers that JSON does not have."""
    for place, value in constants(compiled):
        if any(not math.isfinite(number) for number in _floats(value)):
            yield Finding(
                "not-finite",
                Level.ERROR,
                place,
                "the value is NaN or infinite: the backend cannot read it, and the run fails",
                "use a finite number, or a text that the component understands",
            )


def constants(compiled: Compiled) -> Iterator[tuple[str, Any]]:
    """All constants, each with its place: defaults of pipelines and components, arguments of tasks, items of loops."""
    for graph in compiled.graphs():
        for name, spec in graph.parameters.items():
            if "defaultValue" in spec:
                yield f"{graph.place}: {name}", spec["defaultValue"]
        for name, task in graph.tasks.items():
            for key, source in task.get("inputs", {}).get("parameters", {}).items():
                if "constant" in source.get("runtimeValue", {}):
                    yield f"{graph.place}/{name}: {key}", source["runtimeValue"]["constant"]
            raw = task.get("parameterIterator", {}).get("items", {}).get("raw")
            if raw is not None:
                yield f"{graph.place}/{name}: items", json.loads(raw)
    for label, component in compiled.components.items():
        for name, spec in component.get("inputDefinitions", {}).get("parameters", {}).items() if "executorLabel" in component else ():
            if "defaultValue" in spec:
                yield f"step {label.removeprefix('comp-')}: {name}", spec["defaultValue"]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for item in _items(value):
        yield from _strings(item)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    for item in _items(value):
        yield from _floats(item)


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list) else []

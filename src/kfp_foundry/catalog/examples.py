"""A small pipeline around a component, ready to copy: as the shipped pipelines wire it, or with importers."""

import ast
from dataclasses import dataclass
from typing import Any

from kfp_foundry.catalog.components import ArtifactPort, Component, Parameter, quoted, source
from kfp_foundry.catalog.pipelines import Pipeline, Step

INDENT = " " * 4
WIDTH = 100
LONGEST = 6  # tasks of an example; beyond that importers stand for what comes before
UNTOLD = ("HTML", "Markdown", "Metrics", "ClassificationMetrics")
TEXTS = {"outcome": "pass", "version": "1", "name": "my-model"}


@dataclass(frozen=True)
class _Task:
    step: Step
    component: Component


def example(component: Component, components: tuple[Component, ...], pipelines: tuple[Pipeline, ...]) -> str:
    """Source of a pipeline that uses a component; it compiles as it stands.

    Args:
        component: The component.
        components: All components, by which the steps of a pipeline are known.
        pipelines: The pipelines to take the wiring from: the first in which the component is a step.
    """
    for pipeline in pipelines:
        chain = _chain(component, components, pipeline)
        if 0 < len(chain) <= LONGEST:
            return _wired(component, chain, pipeline)
    return _imported(component)


def _chain(component: Component, components: tuple[Component, ...], pipeline: Pipeline) -> list[_Task]:
    """The component's step and all steps that its inputs come from, in order; empty when the pipeline has no such step."""
    if not pipeline.yaml.exists():
        return []
    known = {each.name: each for each in components}
    steps = {step.name: step for step in pipeline.steps()}
    target = next((step for step in steps.values() if step.component == component.name), None)
    if target is None:
        return []
    wanted: list[str] = []

    def want(step: Step) -> None:
        if step.component not in known:
            return
        for name in _sources(step, known[step.component]):
            want(steps[name])
        if step.name not in wanted:
            wanted.append(step.name)

    want(target)
    return [_Task(steps[name], known[steps[name].component]) for name in wanted]


def _sources(step: Step, component: Component) -> list[str]:
    """The steps that an example cannot do without: those of artifacts, and of parameters without a default."""
    needed = {port.name for port in component.inputs} | {parameter.name for parameter in component.parameters if parameter.required}
    origins = [_origin(port) for name, port in step.inputs.items() if name in needed]
    return [origin["producerTask"] for origin in origins if "producerTask" in origin]


def _origin(port: dict[str, Any]) -> dict[str, Any]:
    return next((value for value in port.values() if isinstance(value, dict)), {})


def _wired(component: Component, chain: list[_Task], pipeline: Pipeline) -> str:
    defaults = {parameter.name: parameter.default for parameter in pipeline.parameters}
    variables = _variables(chain)
    lines = []
    for task in chain:
        used = any(task.step.name in _sources(other.step, other.component) for other in chain)
        start = f"{variables[task.step.name]} = {task.component.name}" if used else task.component.name
        lines.append(_call(start, _arguments(task, variables, defaults, component)))
    return _source_text(component, sorted({task.component.name for task in chain}), lines)


def _variables(chain: list[_Task]) -> dict[str, str]:
    """A telling name for each task: its only artifact, such as `model`, or its verb."""
    found: dict[str, str] = {}
    for task in chain:
        artifacts = [port.name for port in task.component.outputs if port.type not in UNTOLD]
        names = [artifacts[0]] if len(artifacts) == 1 else []
        names += [f"{task.component.name.partition('_')[0]}_task", f"{task.component.name}_task", task.step.name.replace("-", "_")]
        found[task.step.name] = next(name for name in names if name not in found.values() and name != task.component.name)
    return found


def _arguments(task: _Task, variables: dict[str, str], defaults: dict[str, str | None], shown: Component) -> list[str]:
    found = []
    sources = _sources(task.step, task.component)
    ports: list[ArtifactPort | Parameter] = [*task.component.inputs, *task.component.parameters]
    for port in ports:
        given = task.step.inputs.get(port.name)
        origin = _origin(given) if given else {}
        if origin.get("producerTask") in sources and origin.get("producerTask") in variables:
            key = origin.get("outputArtifactKey") or origin.get("outputParameterKey")
            found.append(f"{port.name}={variables[origin['producerTask']]}.outputs[{quoted(str(key))}]")
            continue
        own = task.component.parameter(port.name)
        value = _value(given, origin, defaults)
        if own is not None and (own.required or (value not in (None, own.default) and task.component.name != shown.name)):
            found.append(f"{port.name}={value if value is not None else _placeholder(own)}")
    return found


def _value(given: dict[str, Any] | None, origin: dict[str, Any], defaults: dict[str, str | None]) -> str | None:
    """A parameter's value in the pipeline, as source; None when it is known only in a run."""
    if given is None:
        return None
    if "componentInputParameter" in given:
        return defaults.get(given["componentInputParameter"])
    constant = origin.get("constant")
    return None if constant is None or "{{$" in str(constant) else source(ast.parse(repr(constant), mode="eval").body)


def _placeholder(parameter: Parameter) -> str:
    """A value for a parameter that must be given."""
    if parameter.type == "str":
        return quoted(next((text for word, text in TEXTS.items() if word in parameter.name), f"my-{parameter.name.replace('_', '-')}"))
    return {"int": "1", "float": "0.5", "bool": "True"}.get(parameter.type, "[]" if parameter.type.casefold().startswith("list") else "{}")


def _imported(component: Component) -> str:
    lines, arguments = [], []
    for port in component.inputs:
        if port.optional:
            continue
        lines.append(_call(f"{port.name} = dsl.importer", [f'artifact_uri="/data/{port.name}"', f"artifact_class=dsl.{_plain(port.type)}"]))
        arguments.append(f"{port.name}={port.name}.output")
    arguments += [f"{parameter.name}={_placeholder(parameter)}" for parameter in component.parameters if parameter.required]
    return _source_text(component, [component.name], [*lines, _call(component.name, arguments)])


def _plain(kind: str) -> str:
    return kind.removeprefix("List[").rstrip("]")


def _source_text(component: Component, names: list[str], lines: list[str]) -> str:
    function = f"{component.name}_example"
    body = "\n".join(lines)
    listed = ", ".join(names)
    if len(listed) > WIDTH:
        listed = "(\n" + "".join(f"{INDENT}{name},\n" for name in names) + ")"
    return (
        f"from kfp import dsl\n\nfrom kfp_foundry.components import {listed}\n\n\n"
        f'@dsl.pipeline(name="{component.name.replace("_", "-")}-example")\ndef {function}():\n{body}\n'
    )


def _call(start: str, arguments: list[str]) -> str:
    """A call as a line of the pipeline's body; a long one has one argument per line."""
    line = f"{INDENT}{start}({', '.join(arguments)})"
    if len(line) <= WIDTH:
        return line
    return f"{INDENT}{start}(\n" + "".join(f"{INDENT * 2}{argument},\n" for argument in arguments) + f"{INDENT})"

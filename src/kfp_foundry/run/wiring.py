"""What a task gets: outputs of other tasks, inputs of the graph around it, constants, and defaults."""

import json
from typing import Any

from kfp_foundry.components.common.errors import DataError
from kfp_foundry.run.placeholders import Place
from kfp_foundry.run.values import Artifact, Values, as_on_cluster

Record = dict[str, Any]


def resolve_inputs(task: Record, component: Record, place: Place, outer: Values, finished: dict[str, Values], statuses: Record) -> Values:
    """The inputs of a task: outputs of others, inputs of the graph around it, constants, and the component's defaults.

    Args:
        task: The task's spec.
        component: Its component.
        place: For placeholders in constants; its executor input is filled here.
        outer: The inputs of the graph around it.
        finished: The outputs of the tasks of that graph that are done.
        statuses: What an exit task is told of the tasks that it waits for.
    """
    given = task.get("inputs", {})
    parameters: Record = {}
    constants: Record = {}
    for name, source in given.get("parameters", {}).items():
        found, value = _parameter(source, outer, finished, statuses)
        if "runtimeValue" in source:
            constants[name] = value
        elif found:
            parameters[name] = _selected(value, source.get("parameterExpressionSelector", ""))
    artifacts = {name: many for name, source in given.get("artifacts", {}).items() if (many := _artifacts(source, outer, finished)) is not None}
    visible = {name: {"artifacts": [a.to_dict() for a in many]} for name, many in artifacts.items()}
    place.executor_input["inputs"] = {"parameterValues": parameters, "artifacts": visible}
    parameters |= {name: place.resolve_all(value) for name, value in constants.items()}
    for name, definition in component.get("inputDefinitions", {}).get("parameters", {}).items():
        if name not in parameters and "defaultValue" in definition:
            parameters[name] = definition["defaultValue"]
        if name in parameters and definition.get("parameterType") == "NUMBER_INTEGER":
            parameters[name] = as_on_cluster(parameters[name])
    return Values(as_on_cluster(parameters), artifacts)


def missing_inputs(component: Record, inputs: Values) -> list[str]:
    """The required inputs that have no value, since the step that makes them was skipped."""
    declared = component.get("inputDefinitions", {})
    absent = [name for name, d in declared.get("parameters", {}).items() if name not in inputs.parameters and not d.get("isOptional")]
    return absent + [name for name, d in declared.get("artifacts", {}).items() if name not in inputs.artifacts and not d.get("isOptional")]


def _parameter(source: Record, outer: Values, finished: dict[str, Values], statuses: Record) -> tuple[bool, Any]:
    if "runtimeValue" in source:
        return True, source["runtimeValue"]["constant"]
    if "componentInputParameter" in source:
        name = source["componentInputParameter"]
        return name in outer.parameters, outer.parameters.get(name)
    if "taskOutputParameter" in source:
        reference = source["taskOutputParameter"]
        produced = finished[reference["producerTask"]].parameters
        return reference["outputParameterKey"] in produced, produced.get(reference["outputParameterKey"])
    if "taskFinalStatus" in source:
        return True, statuses[source["taskFinalStatus"]["producerTask"]]
    raise DataError(f"input of an unknown kind: {', '.join(source)}", where="compiled pipeline", remedy="compile it with kfp 2.17.0")


def _selected(value: Any, selector: str) -> Any:
    """The part of a loop item that `item.a` means; compiled as `parseJson(string_value)["a"]`."""
    if not selector:
        return value
    key = selector[selector.index('["') + 2 : selector.rindex('"]')]
    try:
        item = json.loads(value) if isinstance(value, str) else value
        return item[key]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"loop item {value!r} has no {key!r}", where="loop over items", remedy=f"give mappings with the key {key!r}") from error


def _artifacts(source: Record, outer: Values, finished: dict[str, Values]) -> list[Artifact] | None:
    if "componentInputArtifact" in source:
        return outer.artifacts.get(source["componentInputArtifact"])
    reference = source["taskOutputArtifact"]
    return finished[reference["producerTask"]].artifacts.get(reference["outputArtifactKey"])

"""Rules over the wiring: branches, loops, nested pipelines and exit handlers."""

import re
from collections.abc import Iterator
from typing import Any

from kfp_foundry.ir import ROOT, Compiled, Graph
from kfp_foundry.lint.finding import Finding, Level

CHANNEL = "pipelinechannel--"
EXIT_HANDLER = re.compile(r"comp-exit-handler-\d+")
ALL_DONE = "ALL_UPSTREAM_TASKS_COMPLETED"
MANY_STEPS = 14
SECONDS_A_STEP = 13

# A condition of kfp, its texts replaced by ", is made of these words only.
_TEXT = re.compile(r"'(?:[^'\\])*'")
_CONDITION = re.compile(r'(?:inputs\.parameter_values\["\]|[\w.]+\(|["()\s]|-?\d+(?:\.\d+)?|true|false|==|!=|<=|>=|<|>|&&|\|\||!)*')


def one_of(compiled: Compiled) -> Iterator[Finding]:
    """`dsl.OneOf`: its consumer fails when the branch's task is a cache hit; of artifacts it is not known everywhere."""
    for graph in compiled.graphs():
        chosen = {
            name: wiring.get("valueFromOneof", {}).get("parameterSelectors", []) for name, wiring in graph.outputs.get("parameters", {}).items()
        }
        artifacts = {name: wiring.get("artifactSelectors", []) for name, wiring in graph.outputs.get("artifacts", {}).items()}
        for name, selectors in {**chosen, **{name: found for name, found in artifacts.items() if len(found) > 1}}.items():
            if any(_cacheable(compiled, graph.tasks, selector) for selector in selectors):
                yield Finding(
                    "oneof-cached",
                    Level.ERROR,
                    f"{graph.place}: {_plain(name)}",
                    "dsl.OneOf over tasks that can be cached: on KFP 2.17 the second run fails, since a cached task does not count as successful",
                    "make the choice inside a component (an `enabled` parameter), or switch caching off for the tasks of the branches",
                )
        for name in [name for name, found in artifacts.items() if len(found) > 1]:
            yield Finding(
                "oneof-artifacts",
                Level.WARNING,
                f"{graph.place}: {_plain(name)}",
                "dsl.OneOf of artifacts: kfp.local fails, and a cluster needs a backend of 2.17 or later",
                "make the choice inside a component that takes both artifacts",
            )


def _cacheable(compiled: Compiled, tasks: dict[str, Any], selector: dict[str, Any]) -> bool:
    """Whether the task that makes a selected output can be a cache hit, looked up through nested graphs."""
    task = tasks.get(selector.get("producerSubtask", ""), {})
    if "componentRef" not in task:
        return False
    dag = compiled.component(task).get("dag")
    if dag is None:
        return bool(task.get("cachingOptions", {}).get("enableCache", False))
    key = selector.get("outputParameterKey") or selector.get("outputArtifactKey", "")
    outputs = dag.get("outputs", {})
    inner = outputs.get("parameters", {}).get(key, {})
    nested = [inner["valueFromParameter"]] if "valueFromParameter" in inner else inner.get("valueFromOneof", {}).get("parameterSelectors", [])
    nested = [*nested, *outputs.get("artifacts", {}).get(key, {}).get("artifactSelectors", [])]
    return any(_cacheable(compiled, dag.get("tasks", {}), each) for each in nested)


def loops(compiled: Compiled) -> Iterator[Finding]:
    """`dsl.ParallelFor`: outputs of outer tasks, named outputs as items, artifacts as items."""
    for graph, name, task in _tasks(compiled):
        place = f"{graph.place}/{name}"
        if "artifactIterator" in task:
            yield Finding(
                "loop-artifacts",
                Level.ERROR,
                place,
                "loop over artifacts: the driver of KFP 2.17 does not run it, nor does kfp.local",
                "loop over parameters, such as paths",
            )
        iterator = task.get("parameterIterator")
        if not iterator:
            continue
        items = iterator.get("items", {}).get("inputParameter")
        parameters = task.get("inputs", {}).get("parameters", {})
        for parameter in [key for key, source in parameters.items() if key != items and "taskOutputParameter" in source]:
            yield Finding(
                "loop-outer-output",
                Level.ERROR,
                f"{place}: {_plain(parameter)}",
                "the loop's body uses an output of an outer task: kfp.local silently puts the loop's item in its place (kfp-foundry run does not)",
                "wrap the loop in a pipeline that takes the value as a parameter",
            )
        producer = parameters.get(items, {}).get("taskOutputParameter", {})
        if producer and producer.get("outputParameterKey") != "Output" and not str(producer.get("outputParameterKey")).startswith(CHANNEL):
            yield Finding(
                "loop-named-output",
                Level.WARNING,
                f"{place}: {producer['outputParameterKey']}",
                "loop over a named output: kfp.local fails",
                "return the list as the component's only, unnamed output",
            )


def nested(compiled: Compiled) -> Iterator[Finding]:
    """Nested pipelines and exit handlers: what they get, and what they are left to find themselves."""
    for graph, name, task in _tasks(compiled):
        component = compiled.component(task)
        if "dag" not in component:
            continue
        place = f"{graph.place}/{name}"
        given = task.get("inputs", {})
        parameters, artifacts = given.get("parameters", {}), given.get("artifacts", {})
        definitions = component.get("inputDefinitions", {})
        if artifacts and EXIT_HANDLER.fullmatch(task["componentRef"]["name"]):
            yield Finding(
                "exit-handler-artifact",
                Level.WARNING,
                place,
                "the body of an exit handler uses an artifact from outside of it: kfp.local fails",
                "make the artifact inside the handler's body",
            )
        elif artifacts and not parameters and "parameterIterator" not in task:
            yield Finding(
                "nested-artifacts-only",
                Level.WARNING,
                place,
                "a nested graph gets artifacts and no parameter: kfp.local loses the artifacts and fails",
                "pass it one parameter too",
            )
        for artifact in [key for key, spec in definitions.get("artifacts", {}).items() if spec.get("isOptional") and key not in artifacts]:
            yield Finding(
                "nested-optional-artifact",
                Level.WARNING,
                f"{place}: {artifact}",
                "an optional artifact of a nested pipeline is left out: kfp.local fails",
                "pass the artifact, or give the nested pipeline a variant without it",
            )


def shadowed_defaults(compiled: Compiled) -> Iterator[Finding]:
    """A nested pipeline's default beside a parameter of that name further out."""
    root = compiled.spec["root"]
    yield from _shadowed(compiled, ROOT, root.get("dag", {}), set(compiled.parameters))


def _shadowed(compiled: Compiled, place: str, dag: dict[str, Any], outer: set[str]) -> Iterator[Finding]:
    for name, task in dag.get("tasks", {}).items():
        component = compiled.component(task)
        if "dag" not in component:
            continue
        own = {key for key in component.get("inputDefinitions", {}).get("parameters", {}) if not key.startswith(CHANNEL)}
        given = task.get("inputs", {}).get("parameters", {})
        for parameter in sorted((own - set(given)) & outer) if given else []:
            yield Finding(
                "shadowed-default",
                Level.ERROR,
                f"{place}/{name}: {parameter}",
                "a nested pipeline leaves this parameter to its default, and a pipeline around it has one of the same name: "
                "kfp.local silently takes the outer value (kfp-foundry run and a cluster do not)",
                "pass the parameter, or rename one of the two",
            )
        yield from _shadowed(compiled, f"{place}/{name}", component["dag"], outer | own)


def inputs(compiled: Compiled) -> Iterator[Finding]:
    """Inputs that the platforms read differently: artifacts of the pipeline itself, and options without a default."""
    root = compiled.spec["root"].get("inputDefinitions", {})
    for name in root.get("artifacts", {}):
        yield Finding(
            "pipeline-artifact-input",
            Level.ERROR,
            f"{ROOT}: {name}",
            "the pipeline takes an artifact: it can be nested, but neither a cluster nor a laptop can start it",
            "take a path as a parameter, and use dsl.importer",
        )
    for graph in compiled.graphs():
        for name, spec in graph.parameters.items():
            if spec.get("isOptional") and "defaultValue" not in spec:
                yield Finding(
                    "optional-without-default",
                    Level.WARNING,
                    f"{graph.place}: {name}",
                    "an optional parameter of a pipeline has no default: kfp.local fails when it is left out",
                    "give it a default value, such as an empty text",
                )
    for label, component in compiled.components.items():
        for name, spec in component.get("inputDefinitions", {}).get("parameters", {}).items() if "executorLabel" in component else ():
            if spec.get("isOptional") and "defaultValue" not in spec and spec.get("parameterType") == "NUMBER_INTEGER":
                yield Finding(
                    "optional-without-default",
                    Level.WARNING,
                    f"step {label.removeprefix('comp-')}: {name}",
                    "an optional integer has no default: kfp.local fails when it is left out",
                    "give it a default value, such as 0",
                )


def dangling(compiled: Compiled) -> Iterator[Finding]:
    """Inputs that read what the graph around them does not have; kfp compiles two parts of a loop item in one text so."""
    for graph, name, task in _tasks(compiled):
        given = task.get("inputs", {})
        known = set(graph.inputs.get("parameters", {})) | set(graph.inputs.get("artifacts", {}))
        for key, source in {**given.get("parameters", {}), **given.get("artifacts", {})}.items():
            outer = source.get("componentInputParameter") or source.get("componentInputArtifact") or ""
            producer = (source.get("taskOutputParameter") or source.get("taskOutputArtifact") or {}).get("producerTask", "")
            if (outer and outer not in known) or (producer and producer not in graph.tasks):
                yield Finding(
                    "dangling-input",
                    Level.ERROR,
                    f"{graph.place}/{name}: {_plain(key)}",
                    f"reads {_plain(outer or producer)!r}, which the graph around it does not have: the run fails everywhere",
                    "pass the values one by one, and put them together inside the component",
                )


def conditions(compiled: Compiled) -> Iterator[Finding]:
    """Conditions whose texts break out of their quotes."""
    for graph, name, task in _tasks(compiled):
        condition = task.get("triggerPolicy", {}).get("condition", "")
        if condition and not _CONDITION.fullmatch(_TEXT.sub('"', condition)):
            yield Finding(
                "condition-quote",
                Level.ERROR,
                f"{graph.place}/{name}",
                f"a text in the condition holds a quote or a backslash, which kfp does not escape: {condition}",
                "compare inside a component, and branch on its answer",
            )


def after_failures(compiled: Compiled) -> Iterator[Finding]:
    """Tasks that run after failures and yet want the output of what may have failed."""
    for graph, name, task in _tasks(compiled):
        given = task.get("inputs", {})
        sources = {**given.get("parameters", {}), **given.get("artifacts", {})}
        wanted = [key for key, source in sources.items() if "taskOutputParameter" in source or "taskOutputArtifact" in source]
        if wanted and task.get("triggerPolicy", {}).get("strategy") == ALL_DONE:
            yield Finding(
                "ignored-failure-output",
                Level.WARNING,
                f"{graph.place}/{name}: {', '.join(map(_plain, wanted))}",
                "the task ignores failures of the tasks before it, but takes an output of them: kfp.local fails when they fail",
                "order it with .after(...) and take nothing from them",
            )


def cost(compiled: Compiled) -> Iterator[Finding]:
    """How many pods the default path starts, and what a client's `enable_caching=False` does not reach."""
    graphs = list(compiled.graphs())
    steps = sum("container" in (compiled.executor(task) or {}) for graph in graphs for task in graph.tasks.values())
    if steps > MANY_STEPS:
        yield Finding(
            "many-steps",
            Level.NOTE,
            ROOT,
            f"{steps} steps start pods; one after the other that is about {steps * SECONDS_A_STEP} s of starting on a small node",
            "join steps that are never cached, retried or skipped apart",
        )
    deep = [
        f"{graph.place}/{name}" for graph in graphs[1:] for name, task in graph.tasks.items() if task.get("cachingOptions", {}).get("enableCache")
    ]
    if deep:
        yield Finding(
            "nested-cache",
            Level.NOTE,
            deep[0] + (f" and {len(deep) - 1} more" if len(deep) > 1 else ""),
            "enable_caching=False of a client reaches the outermost tasks only; these stay cached",
            "compile with caching switched off where it must be",
        )


def _tasks(compiled: Compiled) -> Iterator[tuple[Graph, str, dict[str, Any]]]:
    for graph in compiled.graphs():
        for name, task in graph.tasks.items():
            yield graph, name, task


def _plain(name: str) -> str:
    return name.removeprefix(CHANNEL)

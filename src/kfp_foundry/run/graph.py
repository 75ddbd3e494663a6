"""Walks a compiled pipeline's graph as a cluster does: dependencies, conditions, loops, nested pipelines, exit handlers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kfp_foundry.components.common.errors import DataError, FoundryError
from kfp_foundry.run.conditions import holds
from kfp_foundry.run.placeholders import Job, Place
from kfp_foundry.run.spec import Pipeline, in_order, upstream_of
from kfp_foundry.run.values import Values
from kfp_foundry.run.wiring import missing_inputs, resolve_inputs

Record = dict[str, Any]
EVEN_AFTER_FAILURE = "ALL_UPSTREAM_TASKS_COMPLETED"

# Runs a leaf: step name, task, component, inputs.
RunLeaf = Callable[[str, Record, Record, Values], Awaitable[Values]]
Skip = Callable[[str, str], None]


@dataclass
class Fuse:
    """Blown by the first failure under it: after that no further step starts, except what runs even after a failure."""

    blown: bool = False


@dataclass
class Done:
    """How a task ended: with outputs, with an error, or skipped since something before it failed."""

    values: Values = field(default_factory=Values)
    error: Exception | None = None
    skipped: bool = False

    @property
    def well(self) -> bool:
        """Whether those that wait for it may start; a condition that does not hold counts as well."""
        return self.error is None and not self.skipped

    def status(self, task: str, job: Job) -> Record:
        """What an exit task is told, in the words of a cluster."""
        status: Record = {"state": "COMPLETE" if self.well else "FAILED", "pipelineTaskName": task, "pipelineJobResourceName": job.resource}
        return status if self.error is None else status | {"error": {"code": 1, "message": str(self.error)}}


class Graph:
    """The walk over one pipeline.

    Args:
        pipeline: What to run.
        job: The run, for placeholders.
        leaf: Runs one leaf task.
        skip: Is told the name of each leaf that will not run, and why.
    """

    def __init__(self, pipeline: Pipeline, job: Job, leaf: RunLeaf, skip: Skip) -> None:
        self._pipeline = pipeline
        self._job = job
        self._leaf = leaf
        self._skip = skip

    async def run(self, arguments: Record) -> Done:
        """Runs everything; a failure ends the walk when what runs beside it is done, and exit handlers have run."""
        return await self._dag(self._pipeline.root, Values(arguments), "", Fuse())

    async def _dag(self, component: Record, inputs: Values, parent: str, fuse: Fuse) -> Done:
        running: dict[str, asyncio.Task[Done]] = {}
        for name, task in in_order(component["dag"]["tasks"]):
            before = {upstream: running[upstream] for upstream in upstream_of(task)}
            running[name] = asyncio.create_task(self._after(name, task, inputs, before, parent, fuse))
        try:
            done = {name: await waiting for name, waiting in running.items()}
        except BaseException:
            for waiting in running.values():
                waiting.cancel()
            raise
        error = next((one.error for one in done.values() if one.error), None)
        if error is not None:
            return Done(error=error)
        if any(one.skipped for one in done.values()):
            return Done(skipped=True)
        return Done(_outputs(component, {name: one.values for name, one in done.items()}))

    async def _after(self, name: str, task: Record, inputs: Values, before: dict[str, asyncio.Task[Done]], parent: str, fuse: Fuse) -> Done:
        upstream = {other: await waiting for other, waiting in before.items()}
        component = self._pipeline.component(task)
        step = self._pipeline.step_name(parent, name)
        policy = task.get("triggerPolicy", {})
        if policy.get("strategy") == EVEN_AFTER_FAILURE:
            fuse = Fuse()
        elif fuse.blown or not all(one.well for one in upstream.values()):
            return self._skipped(step, component, "not run: a step before it failed", Done(skipped=True))
        try:
            values = self._inputs(step, task, component, inputs, upstream)
            if set(missing_inputs(component, values)) - {task.get("parameterIterator", {}).get("itemInput")}:
                return self._skipped(step, component, "not needed: what it works on was not made", Done())
            if "condition" in policy and not holds(policy["condition"], values.parameters):
                return self._skipped(step, component, "not needed: its condition does not hold", Done())
            done = await self._task(step, task, component, values, fuse)
        except FoundryError as error:
            done = Done(error=error)
        if done.error is not None:
            fuse.blown = True
        return done

    def _inputs(self, step: str, task: Record, component: Record, outer: Values, upstream: dict[str, Done]) -> Values:
        place = Place(self._job, step, {"outputs": {"parameters": {}, "artifacts": {}, "outputFile": ""}})
        statuses = {name: one.status(name, self._job) for name, one in upstream.items()}
        return resolve_inputs(task, component, place, outer, {name: one.values for name, one in upstream.items()}, statuses)

    async def _task(self, step: str, task: Record, component: Record, inputs: Values, fuse: Fuse) -> Done:
        if "parameterIterator" in task:
            return await self._loop(step, task, component, inputs, fuse)
        if "dag" in component:
            return await self._dag(component, inputs, step, fuse)
        return Done(await self._leaf(step, task, component, inputs))

    async def _loop(self, step: str, task: Record, component: Record, inputs: Values, fuse: Fuse) -> Done:
        iterator = task["parameterIterator"]
        source = iterator["items"]
        items = json.loads(source["raw"]) if "raw" in source else inputs.parameters[source["inputParameter"]]
        items = json.loads(items) if isinstance(items, str) else items
        if not isinstance(items, list):
            raise DataError(f"{items!r} is not a list to loop over", where=f"step {step}", remedy="give a list")
        limit = asyncio.Semaphore(task.get("iteratorPolicy", {}).get("parallelismLimit") or max(1, len(items)))

        async def one(index: int, item: Any) -> Done:
            async with limit:
                if fuse.blown:
                    return Done(skipped=True)
                values = Values(inputs.parameters | {iterator["itemInput"]: item}, inputs.artifacts)
                done = await self._dag(component, values, f"{step}-{index}", fuse)
                fuse.blown = fuse.blown or done.error is not None
                return done

        rounds = await asyncio.gather(*(one(index, item) for index, item in enumerate(items)))
        bad = next((done for done in rounds if not done.well), None)
        return bad or Done(_collected(component, [done.values for done in rounds]))

    def _skipped(self, step: str, component: Record, why: str, done: Done) -> Done:
        if "dag" not in component:
            self._skip(step, why)
            return done
        for name, task in component["dag"]["tasks"].items():
            self._skipped(self._pipeline.step_name(step, name), self._pipeline.component(task), why, done)
        return done


def _collected(component: Record, rounds: list[Values]) -> Values:
    """The outputs of a loop: a list per parameter, and the artifacts of all rounds in order."""
    declared = component.get("outputDefinitions", {})
    parameters = {name: [one.parameters[name] for one in rounds if name in one.parameters] for name in declared.get("parameters", {})}
    artifacts = {name: [artifact for one in rounds for artifact in one.artifacts.get(name, [])] for name in declared.get("artifacts", {})}
    return Values(parameters, artifacts)


def _outputs(component: Record, finished: dict[str, Values]) -> Values:
    """The outputs of a graph, taken from the tasks that its spec names; of several choices (`dsl.OneOf`), the one that ran."""
    declared = component["dag"].get("outputs", {})
    parameters: Record = {}
    for name, source in declared.get("parameters", {}).items():
        choices = [source["valueFromParameter"]] if "valueFromParameter" in source else source["valueFromOneof"]["parameterSelectors"]
        for choice in choices:
            made = finished[choice["producerSubtask"]].parameters
            if choice["outputParameterKey"] in made:
                parameters[name] = made[choice["outputParameterKey"]]
                break
    artifacts = {}
    for name, source in declared.get("artifacts", {}).items():
        for choice in source["artifactSelectors"]:
            found = finished[choice["producerSubtask"]].artifacts.get(choice["outputArtifactKey"])
            if found is not None:
                artifacts[name] = found
                break
    return Values(parameters, artifacts)

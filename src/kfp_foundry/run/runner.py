"""One run of a pipeline: which steps are taken over, which are executed, and what is written down of them."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kfp_foundry.components.common.errors import FoundryError
from kfp_foundry.run import fingerprint
from kfp_foundry.run.cache import Cache, describe, untouched
from kfp_foundry.run.graph import Done, Graph
from kfp_foundry.run.placeholders import Job
from kfp_foundry.run.process import ProcessGroup, environment
from kfp_foundry.run.record import FINISHED, RunFolder, now
from kfp_foundry.run.spec import Pipeline
from kfp_foundry.run.steps import LOG, Step, StepFailed
from kfp_foundry.run.values import Values

Record = dict[str, Any]
Listener = Callable[[str, Record], None]


class Interrupted(FoundryError):
    """The run was told to stop."""


class Runner:
    """Executes the steps of one run.

    Args:
        pipeline: What to run.
        folder: Where.
        home: State shared with other runs: the cache.
        group: The process group of the steps.
        workers: Steps that may run at a time.
        fresh: Whether to take nothing from earlier runs.
        listener: Is called with a step's name and record at each change.
    """

    def __init__(
        self, pipeline: Pipeline, folder: RunFolder, home: Path, group: ProcessGroup, *, workers: int, fresh: bool, listener: Listener
    ) -> None:
        self._pipeline = pipeline
        self._folder = folder
        self._group = group
        self._cache = Cache(home)
        self._fresh = fresh
        self._listener = listener
        self._slots = asyncio.Semaphore(workers)
        folder.scratch.mkdir(exist_ok=True)
        self._env = environment(home, folder.path, folder.scratch)
        record = folder.record
        self._code = record["code"]
        self._job = Job(record["id"], record["pipeline"], record["run"], str(folder.path), record["started"])
        self._earlier: Record = {name: step for name, step in record["steps"].items() if step["state"] in FINISHED}
        for name in list(record["steps"]):
            if name not in self._earlier:
                record["steps"][name] = {"state": "waiting"}
        self.stopped = False
        self.failures: dict[str, FoundryError] = {}

    async def run(self, arguments: Record) -> Done:
        """Runs the pipeline."""
        return await Graph(self._pipeline, self._job, self._leaf, self._skip).run(arguments)

    def stop(self) -> None:
        """Starts no further step and ends those that run; may be called from any thread."""
        grace = 0.0 if self.stopped else 2.0
        self.stopped = True
        self._group.stop(grace)

    def _update(self, name: str, **changes: Any) -> None:
        self._folder.update(name, **changes)
        self._listener(name, self._folder.record["steps"][name])

    def _skip(self, name: str, why: str) -> None:
        self._update(name, state="skipped", why=why)

    async def _leaf(self, name: str, task: Record, component: Record, inputs: Values) -> Values:
        async with self._slots:
            if self.stopped:
                raise Interrupted("not started", where=f"step {name}", remedy="run again to go on from here")
            try:
                return await self._step(name, task, component, inputs)
            except FoundryError as error:
                self.failures.setdefault(name, error)
                self._update(name, state="interrupted" if self.stopped else "failed", error=str(error), ended=now())
                raise

    async def _step(self, name: str, task: Record, component: Record, inputs: Values) -> Values:
        executor = self._pipeline.executor(component)
        step = Step(name, component, executor, inputs, self._folder.step(name), self._job)
        options = task.get("cachingOptions", {})
        key = await asyncio.to_thread(fingerprint.of_step, self._code, executor, component, inputs, [options.get("cacheKey", "")])
        cached = bool(options.get("enableCache")) and "container" in executor
        taken = await asyncio.to_thread(self._take, step, key, cached)
        if taken is not None:
            outputs, changes = taken
            self._update(name, **changes)
            return outputs
        self._folder.record["steps"][name] = {}  # nothing of an earlier attempt stays
        started = time.monotonic()
        self._update(name, state="running", started=now(), key=key, log=str((step.folder / LOG).relative_to(self._folder.path)))
        outputs = await self._execute(step, task.get("retryPolicy", {}))
        described = await asyncio.to_thread(describe, outputs, step.folder)
        if cached:
            self._cache.store(key, described)
        self._update(name, state="done", ended=now(), seconds=round(time.monotonic() - started, 3), outputs=described)
        return outputs

    def _take(self, step: Step, key: str, cached: bool) -> tuple[Values, Record] | None:
        """A step's outputs from an interrupted part of this run, or from the cache, and what is to be recorded of it."""
        earlier = self._earlier.get(step.name)
        if earlier is not None and earlier["key"] == key and (outputs := untouched(earlier["outputs"])) is not None:
            return outputs, {"state": "resumed"}
        if not cached or self._fresh:
            return None
        outputs = self._cache.take(key, step.folder)
        if outputs is None:
            return None
        described = describe(outputs, step.folder)
        self._cache.store(key, described)  # from now on the newest run holds the files
        (step.folder / LOG).write_text("taken from the cache: the step ran before with the same code and inputs\n")
        return outputs, {"state": "cached", "key": key, "outputs": described, "seconds": 0.0, "ended": now()}

    async def _execute(self, step: Step, retry: Record) -> Values:
        if "importer" in step.executor:
            step.folder.mkdir(parents=True, exist_ok=True)
            (step.folder / LOG).write_text(f"importer: {step.executor['importer']['artifactUri']}\n")
            return step.imported()
        pause = _seconds(retry.get("backoffDuration", "0s"))
        longest = _seconds(retry.get("backoffMaxDuration", "3600s"))
        last = 1 + int(retry.get("maxRetryCount", 0))
        for attempt in range(1, last + 1):
            try:
                return await step.execute_in(self._group, self._env, attempt).outputs()
            except StepFailed as failure:
                if attempt == last or failure.refused or failure.explained or self.stopped:
                    raise
                self._update(step.name, attempts=attempt + 1, error=str(failure))
            await asyncio.sleep(min(pause, longest))
            pause *= float(retry.get("backoffFactor", 2.0))
        raise AssertionError("a range that starts at 1 has a last attempt")


def _seconds(duration: str) -> float:
    """A protobuf duration, such as `1.5s`."""
    return float(duration.removesuffix("s"))

"""Running a compiled pipeline from Python: what the command `kfp-foundry run`, the demo and the tests call."""

import asyncio
import importlib.util
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kfp_foundry.components.common import platform
from kfp_foundry.components.common.errors import PlatformError
from kfp_foundry.run import fingerprint, parameters
from kfp_foundry.run.graph import Done
from kfp_foundry.run.process import ProcessGroup
from kfp_foundry.run.record import RunFolder, now
from kfp_foundry.run.runner import Interrupted, Runner
from kfp_foundry.run.spec import Pipeline
from kfp_foundry.run.steps import StepFailed
from kfp_foundry.run.values import Values

Record = dict[str, Any]
REFUSED = 3


class Screen(Protocol):
    """What is told of a run while it goes on; all calls come from one thread at a time."""

    def start(self, folder: RunFolder) -> None:
        """The run begins, or goes on."""

    def changed(self, name: str, step: Record) -> None:
        """A step's state changed."""

    def tick(self) -> None:
        """Some time has passed."""

    def end(self) -> None:
        """The run is over."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Args:
        folder: The run's folder.
        record: What its `run.json` holds.
        exit_code: 0 ok, 1 a step failed, 3 a gate said no, 130 or 143 interrupted.

    Example:
        >>> result = run_pipeline(Path("pipeline.yaml"), {"source": "customers.csv"})
        >>> result.exit_code, result.output("train-model", "model")
        (0, PosixPath('.kfp-foundry/runs/train-and-deploy-20261121-140024-5f1c/steps/train-model/model'))
    """

    folder: Path
    record: Record
    exit_code: int

    @property
    def state(self) -> str:
        """`succeeded`, `refused`, `failed` or `interrupted`."""
        return str(self.record["state"])

    @property
    def error(self) -> str | None:
        """What went wrong, in one line."""
        return self.record.get("error")

    @property
    def outputs(self) -> Record:
        """The pipeline's own outputs: parameters by name, artifacts as paths."""
        found: Record = self.record["outputs"]
        return found

    def states(self) -> dict[str, str]:
        """Each step's state: `done`, `cached`, `resumed`, `skipped`, `failed`, `interrupted` or `waiting`."""
        return {name: step["state"] for name, step in self.record["steps"].items()}

    def values(self, step: str) -> Values:
        """The outputs of a step; empty when it has none."""
        described = self.record["steps"].get(step, {}).get("outputs")
        return Values.from_dict(described) if described else Values()

    def output(self, step: str, name: str) -> Any:
        """One output of a step: a parameter's value or an artifact's path; None when there is none."""
        values = self.values(step)
        if name in values.parameters:
            return values.parameters[name]
        artifacts = values.artifacts.get(name)
        return artifacts[0].path if artifacts else None


def run_pipeline(
    yaml: Path,
    arguments: Record | None = None,
    home: Path | None = None,
    *,
    fresh: bool = False,
    workers: int | None = None,
    screen: Screen | None = None,
) -> RunResult:
    """Runs a compiled pipeline on this machine, with the semantics of a cluster.

    Every step is a process of its own, and all of them die with this process. What the steps declare as cacheable is taken
    from earlier runs when code and inputs (the content of artifacts, not their place) are the same. A run of the same pipeline
    and arguments that was interrupted is taken up where it stopped.

    Args:
        yaml: The compiled pipeline.
        arguments: Values of its parameters; the others get their defaults.
        home: Folder of local state; `.kfp-foundry` by default.
        fresh: Take nothing from earlier runs.
        workers: Steps that may run at a time; by default as many as there are CPUs, 4 at most.
        screen: Is told what happens.

    Returns:
        How it ended. A failed step is a result, not an exception.

    Raises:
        UserError: The pipeline cannot run here, or an argument is wrong; nothing was started.
        PlatformError: The home folder cannot be written, or kfp is not installed.
    """
    pipeline = Pipeline.load(Path(yaml))
    values = parameters.check(arguments or {}, pipeline.inputs)
    if importlib.util.find_spec("kfp") is None:
        raise PlatformError("kfp is not installed, and every step needs it", where="kfp-foundry run", remedy="pip install 'kfp-foundry[kfp]'")
    place = (home or platform.home()).absolute()
    code = fingerprint.code()
    folder = None if fresh else RunFolder.resumable(place, pipeline, values, code)
    folder = folder or RunFolder.create(place, pipeline, values, code)
    try:
        folder.begin()
        return _run(pipeline, values, place, folder, fresh, workers or min(4, platform.cpus()), screen)
    finally:
        folder.close()


def _run(pipeline: Pipeline, arguments: Record, home: Path, folder: RunFolder, fresh: bool, workers: int, screen: Screen | None) -> RunResult:
    received: list[int] = []
    with ProcessGroup() as group:

        async def everything() -> tuple[Runner, Done]:
            listener = screen.changed if screen else lambda name, step: None
            runner = Runner(pipeline, folder, home, group, workers=workers, fresh=fresh, listener=listener)
            with _signals(runner.stop, received):
                ticking = asyncio.create_task(_tick(screen)) if screen else None
                try:
                    return runner, await runner.run(arguments)
                finally:
                    if ticking:
                        ticking.cancel()

        if screen:
            screen.start(folder)
        try:
            runner, done = _drive(everything())
        finally:
            if screen:
                screen.end()
    return _finish(folder, runner, done, received)


def _finish(folder: RunFolder, runner: Runner, done: Done, received: list[int]) -> RunResult:
    record = folder.record
    error, name = done.error, ""
    state, code = "succeeded", 0
    if runner.stopped:
        state, code = "interrupted", 128 + (received[0] if received else signal.SIGINT)
        error = Interrupted("interrupted", where=f"run {folder.path.name}", remedy="run again to go on from here")
    elif error is not None:
        name = next((step for step, one in runner.failures.items() if one is error), "")
        state, code = "failed", 1
        if isinstance(error, StepFailed) and error.killed:
            state = "interrupted"
        elif isinstance(error, StepFailed) and error.refused:
            state, code = "refused", REFUSED
    elif said_no(record):
        state, code = "refused", REFUSED
    record |= {"state": state, "exit_code": code, "ended": now(), "outputs": _plain(done.values)}
    if error is not None:
        record |= {"error": str(error), "failed_step": name}
    folder.save()
    return RunResult(folder.path, record, code)


def said_no(record: Record) -> list[str]:
    """The steps of a run that returned the outcome `fail`."""
    return [name for name, step in record["steps"].items() if step.get("outputs", {}).get("parameters", {}).get("outcome") == "fail"]


def _plain(values: Values) -> Record:
    artifacts = {name: [artifact.uri for artifact in many] for name, many in values.artifacts.items()}
    return values.parameters | {name: uris[0] if len(uris) == 1 else uris for name, uris in artifacts.items()}


async def _tick(screen: Screen) -> None:
    while True:
        await asyncio.sleep(0.25)
        screen.tick()


@contextmanager
def _signals(stop: Callable[[], None], received: list[int]) -> Iterator[None]:
    """Turns SIGINT and SIGTERM into a stop of the run; elsewhere than in the main thread they stay what they were."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on(number: int) -> None:
        received.append(number)
        stop()

    for number in before:
        loop.add_signal_handler(number, on, number)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _drive(work: Coroutine[Any, Any, tuple[Runner, Done]]) -> tuple[Runner, Done]:
    """Runs the coroutine, also from a notebook, where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()

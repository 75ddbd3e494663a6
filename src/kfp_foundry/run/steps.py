"""One step: its command, its inputs as KFP's executor reads them, and the outputs that it wrote."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_foundry.components.common.errors import FoundryError, UserError
from kfp_foundry.run.placeholders import Job, Place
from kfp_foundry.run.process import ProcessGroup, clean_log, signal_of
from kfp_foundry.run.spec import LARGEST_ARGUMENT
from kfp_foundry.run.values import Artifact, Values, as_on_cluster, not_json

LOG = "log.txt"
OUTPUT = "executor_output.json"
PARAMETERS = ".parameters"
WITHOUT_FILE = ("system.Metrics", "system.ClassificationMetrics", "system.SlicedClassificationMetrics")
ENDINGS = {"system.HTML": ".html", "system.Markdown": ".md"}
NEARLY_FULL = 1_000_000  # bytes free, below which a failure is put down to the disk
ERROR = "error: "  # how a step's one clear line begins
TAIL = 64_000  # bytes of a log that are searched for its last line

Record = dict[str, Any]


class StepFailed(FoundryError):
    """A step ended badly.

    Args:
        exit_code: Of its process; 0 when the process ended well, but what it wrote cannot be used.
        explained: Whether the step itself said what is wrong, in a line `error: ...`. To try such a one again gives the same
            line: what may pass by itself, such as a network that is down for a moment, is tried again inside the step.
    """

    def __init__(self, what: str, *, where: str, remedy: str, exit_code: int = 1, explained: bool = False) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.code = exit_code
        self.explained = explained

    @property
    def refused(self) -> bool:
        """Whether a gate said no."""
        return self.code == 3

    @property
    def killed(self) -> bool:
        """Whether a signal ended it."""
        return signal_of(self.code) is not None


@dataclass(frozen=True)
class Step:
    """A leaf task with its inputs, ready to run.

    Args:
        name: As in the run's folder, such as `rollout/deploy`.
        component: Its declared inputs and outputs.
        executor: What it executes.
        inputs: Its inputs, defaults included.
        folder: Its folder in the run's.
        job: The run, for placeholders.
    """

    name: str
    component: Record
    executor: Record
    inputs: Values
    folder: Path
    job: Job

    def execute_in(self, group: ProcessGroup, env: dict[str, str], attempt: int = 1) -> "Execution":
        """One attempt at running it in a process."""
        return Execution(self, group, env, attempt)

    def executor_input(self) -> Record:
        """The inputs and the places for outputs (KFP's `ExecutorInput`)."""
        declared = self.component.get("outputDefinitions", {})
        artifacts = {
            name: {"artifacts": [Artifact(name, self.place(name, definition), definition["artifactType"]).to_dict()]}
            for name, definition in declared.get("artifacts", {}).items()
        }
        return {
            "inputs": {
                "parameterValues": as_on_cluster(self.inputs.parameters),
                "artifacts": {name: {"artifacts": [a.to_dict() for a in many]} for name, many in self.inputs.artifacts.items()},
            },
            "outputs": {
                "parameters": {name: {"outputFile": str(self.folder / PARAMETERS / name)} for name in declared.get("parameters", {})},
                "artifacts": artifacts,
                "outputFile": str(self.folder / OUTPUT),
            },
        }

    def place(self, name: str, definition: Record) -> str:
        """Where an output artifact is written; a page gets the ending that browsers go by."""
        return str(self.folder / name) + ENDINGS.get(definition["artifactType"].get("schemaTitle", ""), "")

    def imported(self) -> Values:
        """The output of an importer: the artifact at an address, taken as it is.

        Raises:
            UserError: A local address leads nowhere.
        """
        importer = self.executor["importer"]
        address = importer["artifactUri"]
        uri = self.inputs.parameters[address["runtimeParameter"]] if "runtimeParameter" in address else address["constant"]
        metadata = Place(self.job, self.name, self.executor_input()).resolve_all(importer.get("metadata", {}))
        artifact = Artifact("artifact", uri, importer["typeSchema"], as_on_cluster(metadata))
        if artifact.path is not None:
            if not artifact.path.exists():
                raise UserError(f"nothing at {uri}", where=f"step {self.name}", remedy="check the path of the importer")
            artifact = Artifact("artifact", str(artifact.path.absolute()), artifact.type, artifact.metadata)
        return Values({}, {"artifact": [artifact]})


@dataclass(frozen=True)
class Execution:
    """One attempt at a step."""

    step: Step
    group: ProcessGroup
    env: dict[str, str]
    attempt: int

    async def outputs(self) -> Values:
        """Runs the step and returns what it wrote.

        Raises:
            StepFailed: It ended badly, or what it wrote cannot be used.
        """
        command, env = self._command()
        log = self._clear()
        with log.open("ab") as opened:
            if self.attempt > 1:
                opened.write(f"\nattempt {self.attempt}\n".encode())
                opened.flush()
            code = await self.group.run(command, opened, env)
        clean_log(log)
        if code != 0:
            raise self._failure(code, log)
        return read_outputs(self.step)

    def _command(self) -> tuple[list[str], dict[str, str]]:
        container = self.step.executor["container"]
        place = Place(self.step.job, self.step.name, self.step.executor_input())
        command = [*container["command"], *(place.resolve(word) for word in container.get("args", []))]
        for word in command:
            if len(word.encode()) > LARGEST_ARGUMENT:
                what = f"its inputs take {len(word.encode()):,} bytes, and one argument of a process holds {LARGEST_ARGUMENT:,}"
                raise UserError(what, where=f"step {self.step.name}", remedy="pass big values as artifacts")
        return command, self.env | {entry["name"]: place.resolve(str(entry.get("value", ""))) for entry in container.get("env", [])}

    def _clear(self) -> Path:
        """An empty folder for the attempt; the log of the attempts before it stays."""
        folder = self.step.folder
        log = folder / LOG
        kept = log.read_bytes() if self.attempt > 1 and log.exists() else b""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log.write_bytes(kept)
        return log

    def _failure(self, code: int, log: Path) -> StepFailed:
        where = f"step {self.step.name}"
        if shutil.disk_usage(log.parent).free < NEARLY_FULL:
            what = f"cannot write to {log.parent}: no space left on device"
            return StepFailed(what, where=where, remedy="free some space or choose another disk", exit_code=code)
        if ended_by := signal_of(code):
            remedy = "perhaps for lack of memory; run again to go on from here" if ended_by.name == "SIGKILL" else "run again to go on from here"
            return StepFailed(f"killed by {ended_by.name}", where=where, remedy=remedy, exit_code=code)
        line = last_line(log)
        what = line.removeprefix(ERROR) or f"ended with exit code {code} and said nothing"
        lost = [name for name, many in self.step.inputs.artifacts.items() for artifact in many if _lacks_file(artifact)]
        hint = f"its input {', '.join(lost)} was never written by the step before; " if lost else ""
        return StepFailed(what, where=where, remedy=f"{hint}log: {log}", exit_code=code, explained=line.startswith(ERROR))


def _lacks_file(artifact: Artifact) -> bool:
    return artifact.type.get("schemaTitle") not in WITHOUT_FILE and artifact.path is not None and not artifact.path.exists()


def last_line(log: Path) -> str:
    """What a log says of the failure: the last line that starts with `error: `, else the last line at all."""
    with log.open("rb") as opened:
        opened.seek(max(0, log.stat().st_size - TAIL))
        lines = [line.strip() for line in opened.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(ERROR)]
    return (errors or lines or [""])[-1]


def read_outputs(step: Step) -> Values:
    """Reads what a step wrote, and holds it to what it declares, as the launcher on a cluster does.

    Raises:
        StepFailed: A declared parameter is missing, a value has the wrong type or is NaN, or metadata holds nothing.
    """
    declared = step.component.get("outputDefinitions", {})
    written = _executor_output(step)
    values = dict(written.get("parameterValues", {}))
    parameters = {}
    for name, definition in declared.get("parameters", {}).items():
        if name not in values and (file := step.folder / PARAMETERS / name).is_file():
            values[name] = _from_file(step, name, file, definition["parameterType"])
        if name not in values:
            raise _unusable(step, f"declares the output parameter {name!r} and did not write it", "return a value in every case")
        _finite(step, values[name], f"output parameter {name!r}")
        parameters[name] = _whole(step, name, values[name]) if definition["parameterType"] == "NUMBER_INTEGER" else as_on_cluster(values[name])
    artifacts = {}
    for name, definition in declared.get("artifacts", {}).items():
        found = written.get("artifacts", {}).get(name, {}).get("artifacts") or [{}]
        artifacts[name] = [_artifact(step, name, definition, record) for record in found]
    return Values(parameters, artifacts)


def _unusable(step: Step, what: str, remedy: str) -> StepFailed:
    return StepFailed(what, where=f"step {step.name}", remedy=remedy, exit_code=0)


def _executor_output(step: Step) -> Record:
    file = step.folder / OUTPUT
    if not file.exists():
        return {}
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unusable(step, f"wrote an unreadable {OUTPUT}: {error}", "see the log") from error
    return written if isinstance(written, dict) else {}


def _from_file(step: Step, name: str, file: Path, kind: str) -> Any:
    """A parameter that was written to an `OutputPath`: texts as they are, everything else as JSON."""
    text = file.read_text(encoding="utf-8")
    if kind == "STRING":
        return text
    try:
        return json.loads(text.lower() if kind == "BOOLEAN" else text)
    except ValueError as error:
        raise _unusable(step, f"output parameter {name!r} is {text[:80]!r}, not {kind}", "write JSON") from error


def _whole(step: Step, name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise _unusable(step, f"output parameter {name!r} is {value!r}, not a whole number", "return an int") from error


def _finite(step: Step, value: Any, what: str) -> None:
    if bad := not_json(value):
        raise _unusable(step, f"{what} is {bad}, which no cluster takes", "write finite numbers only")


def _artifact(step: Step, name: str, definition: Record, record: Record) -> Artifact:
    metadata = record.get("metadata", {})
    for key, value in metadata.items():
        _finite(step, value, f"metadata {key!r} of output {name!r}")
        if value is None:
            raise _unusable(step, f"metadata {key!r} of output {name!r} is None, which no cluster takes", "leave it out")
    uri = record.get("custom_path") or record.get("uri") or step.place(name, definition)
    return Artifact(name, uri, definition["artifactType"], as_on_cluster(metadata))

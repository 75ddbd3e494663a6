"""Placeholders of KFP in commands and constants, such as `{{$.inputs.parameters['x']}}` and `{{$.pipeline_job_name}}`."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kfp_foundry.components.common.errors import UserError

_PLACEHOLDER = re.compile(r"\{\{\$((?:\.[^{}]+)?)\}\}")
_KEYED = re.compile(r"\.(inputs|outputs)\.(parameters|artifacts)\['([^']*)'\](?:\.(\w+)|\['([^']*)'\])?")


@dataclass(frozen=True)
class Job:
    """What a step may know of its run."""

    id: str
    name: str
    resource: str
    root: str
    created: str


@dataclass(frozen=True)
class Place:
    """Where a placeholder stands: the run, the task, and the task's executor input."""

    job: Job
    task: str
    executor_input: dict[str, Any]

    def resolve(self, text: str) -> str:
        """The text with every placeholder replaced, once: a replaced value is not read again.

        Raises:
            UserError: A placeholder names what is not there.
        """
        return _PLACEHOLDER.sub(lambda match: self._value(match[0], match[1]), text)

    def resolve_all(self, value: Any) -> Any:
        """The same in every text inside a JSON value."""
        if isinstance(value, str):
            return self.resolve(value)
        if isinstance(value, list):
            return [self.resolve_all(item) for item in value]
        if isinstance(value, dict):
            return {self.resolve(key): self.resolve_all(item) for key, item in value.items()}
        return value

    def _value(self, whole: str, what: str) -> str:
        known: dict[str, Callable[[], str]] = {
            "": lambda: json.dumps(self.executor_input, ensure_ascii=False),
            ".pipeline_job_uuid": lambda: self.job.id,
            ".pipeline_job_name": lambda: self.job.name,
            ".pipeline_job_resource_name": lambda: self.job.resource,
            ".pipeline_job_create_time_utc": lambda: self.job.created,
            ".pipeline_job_schedule_time_utc": lambda: self.job.created,
            ".pipeline_task_name": lambda: self.task.rsplit("/", 1)[-1],
            ".pipeline_task_uuid": lambda: self.task,
            ".pipeline_root": lambda: self.job.root,
            ".workspace_path": lambda: f"{self.job.root}/workspace",
            ".outputs.output_file": lambda: str(self.executor_input["outputs"]["outputFile"]),
            ".outputMetadataUri": lambda: str(self.executor_input["outputs"]["outputFile"]),
        }
        if what in known:
            return known[what]()
        match = _KEYED.fullmatch(what)
        found = self._keyed(*match.groups()) if match else None
        if found is None:
            raise UserError(f"placeholder {whole} has no value", where=f"step {self.task}", remedy="check the pipeline's wiring")
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    def _keyed(self, side: str, kind: str, name: str, field: str | None, key: str | None) -> Any:
        values = self.executor_input[side]
        if kind == "parameters":
            if side == "outputs":
                return values["parameters"].get(name, {}).get("outputFile")
            value = values["parameterValues"].get(name)
            return value.get(key) if key is not None and isinstance(value, dict) else value
        artifacts = values["artifacts"].get(name, {}).get("artifacts")
        if not artifacts:
            return None
        if key is not None:
            return artifacts[0]["metadata"].get(key)
        return artifacts[0]["uri"] if field in ("uri", "path") else artifacts[0].get(field or "uri")
